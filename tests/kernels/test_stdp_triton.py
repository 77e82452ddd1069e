"""The Triton kernels of STDP: right in the interpreter, tensor cores on sm_80 and sm_90.

The interpreter is chosen when triton is imported, so this module runs itself in a second process
with TRITON_INTERPRET=1, where only the interpreted tests exist. The interpreter computes in float32
whatever precision is asked for, so those other than "ieee" are checked by what they compile to.
"""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from rsafast_kernels.errors import BackendUnavailableError, UnsupportedCaseError  # noqa: E402
from rsafast_kernels.stdp import STDP, reference, stdp_conv2d, stdp_linear, triton_  # noqa: E402
from rsafast_kernels.stdp.geometry import Geometry  # noqa: E402

pytestmark = pytest.mark.slow

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
RULE = STDP(0.02, 0.03, 3.0, 2.0)


def spikes(*shape, rate=0.4, seed=5):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) < rate


def weights(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def assert_near(got, expected, tolerance=2e-6):
    assert got.dtype == torch.float32
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= tolerance * expected.abs().max() + 1e-12


if INTERPRETED:

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"pairing": "nearest", "ties": "both"},
            {"ties": "none", "decay": "euler", "bounds": "hard"},
            {"ties": "ltd", "bounds": "soft"},
            {"pairing": "nearest", "bounds": "soft", "mu": 0.6},
            {"bounds": "soft", "mu": 0.0},
            {"ties": "both", "bounds": "product"},
        ],
        ids=lambda options: ", ".join(map(str, options.values())) or "default",
    )
    def test_interpreted_rules_match_the_pairs(options):
        rule = replace(RULE, **options)
        pre, post, weight = spikes(4, 2, 4, 5, 4), spikes(4, 2, 6, 3, 2), weights(6, 2, 3, 3)
        weight[0, 0] = torch.tensor([[0.0, 1.0, 0.5]])  # on the bounds
        got = stdp_conv2d(pre, post, weight, rule, stride=2, padding=1, groups=2, backend="triton")
        expected = reference.stdp_conv2d(
            pre, post, weight, rule, stride=(2, 2), padding=(1, 1), groups=2
        )
        assert_near(got, torch.from_numpy(expected), 1e-5)

    # More synapses and more positions than a tile, and shares of the positions.
    @pytest.mark.parametrize(
        ("pre", "post", "weight", "given"),
        [
            ((2, 2, 8, 5, 7), (2, 2, 70, 5, 7), (70, 8, 3, 3), dict(padding=1)),
            ((2, 3, 3, 11, 4), (2, 3, 2, 5, 4), (2, 3, 3, 5), dict(padding=(0, 2), stride=(2, 1))),
            ((1, 1, 1, 1, 1), (1, 1, 1, 1, 1), (1, 1, 1, 1), {}),
        ],
    )
    def test_interpreted_shapes_match_float64(pre, post, weight, given):
        pre, post, weight = spikes(*pre), spikes(*post, seed=6), weights(*weight)
        rule = replace(RULE, ties="both")
        expected = stdp_conv2d(pre, post, weight.double(), rule, backend="folded", **given)
        assert_near(stdp_conv2d(pre, post, weight, rule, backend="triton", **given), expected)

    def test_interpreted_time_steps_beyond_the_address_range_are_refused(monkeypatch):
        monkeypatch.setattr(triton_, "LARGEST", 11)
        with pytest.raises(UnsupportedCaseError, match="of 12 values exceeds the 11"):
            stdp_linear(spikes(2, 1, 3), spikes(2, 1, 4), weights(4, 3), RULE, backend="triton")

    def test_interpreted_dense_stacks_and_graded_spikes():
        pre, post = spikes(4, 3, 5, 7) * 0.7 - 0.2, spikes(4, 3, 5, 6) * weights(4, 3, 5, 6)
        weight = weights(3, 6, 7)
        expected = stdp_linear(pre, post, weight.double(), RULE, backend="folded")
        assert_near(stdp_linear(pre, post, weight, RULE, backend="triton"), expected)

    def test_any_share_of_the_positions_gives_the_same(monkeypatch):
        pre, post, weight = spikes(2, 3, 2, 8, 8), spikes(2, 3, 4, 8, 8), weights(4, 2, 3, 3)
        expected = stdp_conv2d(pre, post, weight.double(), RULE, padding=1, backend="folded")
        for shares in (1, 4, 6):
            monkeypatch.setattr(triton_, "_splits", lambda *_, shares=shares: shares)
            assert_near(stdp_conv2d(pre, post, weight, RULE, padding=1, backend="triton"), expected)

else:

    def test_in_the_interpreter():
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
        done = subprocess.run(
            command, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
        assert "13 passed" in done.stdout

    SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}  # largest of a block, CUDA programming guide
    LAYER = Geometry((64, 16, 3, 3), (8, 8), (8, 8), (1, 1), (1, 1))

    def compiled(rule, architecture, precision):
        launch = triton_.Launch.of(LAYER)
        kernel = triton_.pair_sums_kernel
        constants = triton_.constants(rule, LAYER, precision, launch)
        types = {"steps": "i32", "samples": "i32", "blocks_per_split": "i32"}
        signature = {
            name: types.get(name, "*fp32" if name.endswith("_ptr") else "fp32")
            for name in kernel.arg_names
        }
        source = triton.compiler.ASTSource(
            kernel, signature | dict.fromkeys(constants, "constexpr"), constexprs=constants
        )
        target = triton.backends.compiler.GPUTarget("cuda", architecture, 32)
        options = {"num_warps": launch.warps, "enable_fp_fusion": True}
        return triton.compile(source, target=target, options=options)

    def local_bytes(binary, folder):
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        (folder / "kernel.cubin").write_bytes(binary)
        command = [tool, "-res-usage", folder / "kernel.cubin"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return int(re.search(r"STACK:(\d+)", said)[1]) + int(re.search(r"LOCAL:(\d+)", said)[1])

    # A step of time multiplies two tiles of 64 x 64 x 16, each in three parts. On sm_80 each of the
    # eight warps does so in pieces of 16 x 8 x 8 (tf32) or x 16 (bf16); sm_90 has larger pieces.
    @pytest.mark.parametrize(
        ("precision", "architecture", "instruction", "least"),
        [
            ("tf32x3", 80, "mma.sync", 2 * 3 * 16),
            ("bf16x3", 80, "mma.sync", 2 * 3 * 8),
            ("tf32x3", 90, "wgmma.mma_async", 2 * 3),
            ("bf16x3", 90, "wgmma.mma_async", 2 * 3),
        ],
    )
    def test_uses_tensor_cores(precision, architecture, instruction, least, tmp_path):
        found = compiled(replace(RULE, bounds="soft"), architecture, precision)
        ptx = found.asm["ptx"]
        assert f".target sm_{architecture}" in ptx
        assert len(re.findall(rf"\b{re.escape(instruction)}\b", ptx)) >= least
        assert found.metadata.shared <= SHARED_MEMORY[architecture]
        assert local_bytes(found.asm["cubin"], tmp_path) <= 32, "registers spill"

    @pytest.mark.parametrize("architecture", [80, 90])
    def test_the_default_precision_is_float32(architecture, tmp_path):
        found = compiled(replace(RULE, bounds="soft"), architecture, "ieee")
        assert "mma" not in found.asm["ptx"]
        assert len(re.findall(r"fma\.rn\.f32", found.asm["ptx"])) >= 2 * 64 * 64 * 16 // 256
        assert local_bytes(found.asm["cubin"], tmp_path) <= 32, "registers spill"

    @pytest.mark.parametrize("bounds", ["none", "soft"])
    def test_the_second_pass_compiles(bounds):
        names = triton_.finish_kernel.arg_names
        constants = {"SIZE": 999, "BOUNDS": bounds, "MU": 0.5, "BLOCK": 256}
        signature = {n: "*fp32" if n.endswith("_ptr") else "fp32" for n in names} | {
            "splits": "i32"
        }
        source = triton.compiler.ASTSource(
            triton_.finish_kernel, signature | dict.fromkeys(constants, "constexpr"),
            constexprs=constants,
        )  # fmt: skip
        target = triton.backends.compiler.GPUTarget("cuda", 90, 32)
        options = {"enable_fp_fusion": True}
        assert triton.compile(source, target=target, options=options).asm["cubin"]

    def test_triton_on_the_cpu_is_refused():
        with pytest.raises(BackendUnavailableError, match="runs on CUDA tensors, got"):
            stdp_linear(spikes(2, 1, 3), spikes(2, 1, 4), weights(4, 3), RULE, backend="triton")

    @pytest.mark.gpu
    @pytest.mark.parametrize("precision", ["ieee", "tf32x3", "bf16x3"])
    def test_matches_float64_on_a_gpu(precision):
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        pre, post = spikes(10, 16, 32, 16, 16, rate=0.1), spikes(10, 16, 64, 16, 16, rate=0.1)
        weight = weights(64, 32, 3, 3)
        expected = stdp_conv2d(pre, post, weight.double(), RULE, padding=1, backend="folded")
        got = stdp_conv2d(
            pre.cuda(), post.cuda(), weight.cuda(), RULE, padding=1, precision=precision
        )
        assert_near(got.cpu(), expected, 1e-3 if precision == "bf16x3" else 1e-4)
