"""The Triton kernel of LIF layers: the reference's bits in the interpreter, no fused multiply-adds.

The interpreter is chosen when triton is imported, so this module runs itself in a second process
with TRITON_INTERPRET=1, where only the interpreted tests exist.
"""

import math
import os

import pytest
from interpreted import assert_passes_interpreted

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from rsafast_kernels.lif import LIF, lif, triton_  # noqa: E402

pytestmark = pytest.mark.slow

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
NEURONS = {
    "plain": LIF(tau=3.3),
    "subtract": LIF(tau=math.inf, reset="subtract", refractory=2),
    "winner": LIF(decay="euler", winner_take_all="channels"),
    "homeostasis": LIF(theta_plus=0.1, tau_theta=10.0),
    "all": LIF(3.3, 0.9, "exp", "subtract", 1, "channels", 0.1, 10.0),
}


def random_current(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(3)) * 1.2 - 0.1


if INTERPRETED:

    @pytest.mark.parametrize("name", NEURONS)
    def test_interpreted_equals_the_reference_bit_for_bit(name, monkeypatch):
        monkeypatch.setattr(triton_, "TILE", 8)  # several tiles, even of these small maps
        for shape, groups in (((4, 1, 4, 1, 3), 2), ((4, 2, 9), 1), ((3, 2, 1, 3), 1)):
            current = random_current(*shape)
            got, expected = (
                lif(current, NEURONS[name], groups=groups, backend=backend)
                for backend in ("triton", "reference")
            )
            assert expected[0].any()
            assert torch.equal(got[0], expected[0])
            for field in ("potential", "refractory", "theta"):
                assert torch.equal(getattr(got[1], field), getattr(expected[1], field)), field

    def test_interpreted_takes_empty_layers():
        assert lif(torch.zeros(4, 0, 3), LIF(), backend="triton")[0].shape == (4, 0, 3)

else:

    def test_in_the_interpreter():
        assert_passes_interpreted(__file__, 6)

    @pytest.mark.parametrize("architecture", [80, 90])
    @pytest.mark.parametrize("name", ["plain", "all"])
    def test_compiles_without_fused_multiply_adds(name, architecture):
        neuron = NEURONS[name]
        bc, bp = triton_.tiles(neuron, 64, 256)
        constants = {
            "GROUPS": 1, "SIZE": 64, "SUBTRACT": neuron.reset == "subtract",
            "COMPETE": neuron.winner_take_all is not None, "BC": bc, "BP": bp,
        }  # fmt: skip
        types = {
            "left_ptr": "*i32", "winner_ptr": "*i32", "leak": "fp32", "threshold": "fp32",
            "steps": "i32", "samples": "i32", "positions": "i32", "refractory": "i32",
        }  # fmt: skip
        kernel = triton_.lif_kernel
        signature = {n: types.get(n, "*fp32") for n in kernel.arg_names}
        source = triton.compiler.ASTSource(
            kernel, signature | dict.fromkeys(constants, "constexpr"), constexprs=constants
        )
        target = triton.backends.compiler.GPUTarget("cuda", architecture, 32)
        ptx = triton.compile(source, target=target, options={"enable_fp_fusion": False}).asm["ptx"]
        assert f".target sm_{architecture}" in ptx
        assert "mul.rn.f32" in ptx or "mul.f32" in ptx
        assert "fma" not in ptx

    @pytest.mark.gpu
    @pytest.mark.parametrize("name", NEURONS)
    def test_a_gpu_gives_the_same_spikes(name):
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        current = random_current(10, 8, 64, 16, 16)
        expected, state = lif(current, NEURONS[name])
        got, after = lif(current.cuda(), NEURONS[name])
        assert torch.equal(got.cpu(), expected)
        assert torch.equal(after.theta.cpu(), state.theta)
