"""The Triton passes of predictive coding: right in the interpreter, compiled for sm_80 and sm_90.

The interpreter is chosen when triton is imported, so this module runs itself in a second process
with TRITON_INTERPRET=1, where only the interpreted tests exist.
"""

import os
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from interpreted import assert_passes_interpreted

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from rsafast_kernels.errors import BackendUnavailableError, InvalidInputError  # noqa: E402
from rsafast_kernels.predictive import ACTIVATIONS, Layer, relax, torch_, triton_  # noqa: E402

pytestmark = pytest.mark.slow

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SIZES = [(2, 3, 5, 7), (2, 40, 8, 6)]


def like_map(rng, shape):
    array = torch.tensor(rng.normal(size=shape) * 2, dtype=torch.float32)
    return array.contiguous(memory_format=torch.channels_last)


def assert_near(actual, expected, tolerance):
    assert actual.shape == expected.shape
    difference = (actual.double() - expected.double()).abs().max()
    assert difference <= tolerance * max(float(expected.abs().max()), 0.01)


def small_chain(rng, activation):
    def tensor(*shape):
        return torch.tensor(rng.normal(size=shape) * 0.4, dtype=torch.float32)

    layers = [
        Layer(tensor(2, 4, 3, 3, 3), tensor(2, 4), activation, pool=2, padding=1),
        Layer(tensor(2, 5, 4, 3, 3), tensor(2, 5), activation, padding=1),
        Layer(tensor(2, 6, 5 * 3 * 2), tensor(2, 6), activation),
        Layer(tensor(2, 3, 6), tensor(2, 3)),
    ]
    return layers, like_map(rng, (3, 6, 7, 5)), torch.tensor(rng.integers(0, 3, (2, 3)))


if INTERPRETED:

    @pytest.mark.parametrize("pool", [None, 2])
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_interpreted_passes_equal_torch(activation, pool):
        rng = np.random.default_rng(3)
        for shape, momentum in zip(SIZES, [0.0, 0.4], strict=True):
            n, c, height, width = shape
            small = (n, c, height // (pool or 1), width // (pool or 1))
            a = like_map(rng, shape)
            value, error, back, velocity = (like_map(rng, small) for _ in range(4))
            state = [value, error, back, velocity if momentum else None]
            results = []
            for passes, dtype in ((triton_, torch.float32), (torch_, torch.float64)):
                own = [t if t is None else t.to(dtype, copy=True) for t in state]
                mu = passes.predict(0.9 * a.to(dtype), activation, pool)
                moving = (mu, *own, 0.1, momentum)
                gated = passes.step(a.to(dtype, copy=True), *moving, activation, pool)
                gate = passes.gate(a.to(dtype, copy=True), own[1], activation, pool)
                passes.advance(mu, *own, 0.1, momentum)
                results.append([mu, gated, gate, *(t for t in own if t is not None)])
            for ours, theirs in zip(*results, strict=True):
                assert_near(ours, theirs, 2e-6)

    @pytest.mark.parametrize(
        "options",
        [{"momentum": 0.3}, {"schedule": "fixed-pred", "rate": 1.0}, {"solver": "error"}],
        ids=["standard", "fixed prediction", "error-based"],
    )
    def test_interpreted_relaxation_equals_torch(options):
        layers, x, labels = small_chain(np.random.default_rng(4), "gelu")
        options = {"steps": 4, "rate": 0.1, "record_energy": True} | options
        found = relax(layers, x, labels, backend="triton", **options)
        wide = [Layer(layer.weight.double(), layer.bias.double(), layer.activation, layer.pool,
                      layer.stride, layer.padding) for layer in layers]  # fmt: skip
        expected = relax(wide, x.double(), labels, backend="torch", **options)
        assert_near(found.energy, expected.energy, 1e-6)
        for a, b in zip(found.gradients(), expected.gradients(), strict=True):
            assert_near(a.weight, b.weight, 1e-3)
            assert_near(a.bias, b.bias, 1e-3)

    def test_too_many_values_are_refused(monkeypatch):
        monkeypatch.setattr(triton_, "LARGEST", 3)
        with pytest.raises(NotImplementedError, match="a layer of 4 values exceeds the 3"):
            triton_.predict(torch.zeros(1, 1, 4), "relu", None)

else:
    from rsafast_kernels.predictive.graph import GraphedRelaxation

    def test_in_the_interpreter():
        assert_passes_interpreted(__file__, 14)

    def compiled(kernel, architecture, constants):
        pointers = {name: "*fp32" for name in kernel.arg_names if name.startswith("p_")}
        numbers = {"rate": "fp32", "momentum": "fp32"}
        names = [name for name in kernel.arg_names if name not in constants]
        signature = {name: pointers.get(name, numbers.get(name, "i32")) for name in names}
        # What the launcher finds at the channels of real networks, and compiles for.
        whole = [*pointers, "size", "channels", "line", "image"]
        known = {
            (kernel.arg_names.index(name),): [["tt.divisibility", 16]]
            for name in whole
            if name in kernel.arg_names
        }
        source = triton.compiler.ASTSource(
            kernel, signature | dict.fromkeys(constants, "constexpr"), constants, known
        )  # fmt: skip
        target = triton.backends.compiler.GPUTarget("cuda", architecture, 32)
        return triton.compile(source, target=target)

    @pytest.mark.parametrize("architecture", [80, 90])
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_step_takes_few_registers_and_wide_loads(activation, architecture, tmp_path):
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        for pool, block in ((True, triton_.POOLED_BLOCK), (False, triton_.BLOCK)):
            constants = {"ACTIVATION": activation, "POOL": pool, "MODE": "step", "MOMENTUM": True,
                         "BLOCK": block}  # fmt: skip
            found = compiled(triton_.pass_kernel, architecture, constants)
            assert f".target sm_{architecture}" in found.asm["ptx"]
            loads = re.findall(r"ld\.global[.\w:]*", found.asm["ptx"])
            assert loads
            assert all(".v4" in load for load in loads)
            (tmp_path / "kernel.cubin").write_bytes(found.asm["cubin"])
            command = [tool, "-res-usage", tmp_path / "kernel.cubin"]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            assert int(re.search(r"REG:(\d+)", said)[1]) <= 64
            assert re.search(r"STACK:0 .*LOCAL:0 ", said), said

    @pytest.mark.parametrize("architecture", [80, 90])
    def test_the_other_passes_compile(architecture):
        for mode, pool in (("predict", True), ("gate", True), ("step", False)):
            constants = {"ACTIVATION": "gelu", "POOL": pool, "MODE": mode, "MOMENTUM": False,
                         "BLOCK": triton_.BLOCK}  # fmt: skip
            assert compiled(triton_.pass_kernel, architecture, constants).asm["cubin"]
        constants = {"MOMENTUM": True, "BLOCK": triton_.BLOCK}
        assert compiled(triton_.advance_kernel, architecture, constants).asm["cubin"]

    def test_triton_on_the_cpu_is_refused():
        layers, x, labels = small_chain(np.random.default_rng(4), "relu")
        with pytest.raises(BackendUnavailableError, match="CUDA device, got"):
            relax(layers, x, labels, backend="triton")

    def test_a_graph_needs_a_gpu():
        layers, x, labels = small_chain(np.random.default_rng(4), "relu")
        with pytest.raises(BackendUnavailableError, match="a CUDA graph needs"):
            GraphedRelaxation(layers, x, labels)

    @pytest.mark.gpu
    def test_a_graph_replays_what_relax_computes():
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        rng = np.random.default_rng(4)
        layers, x, labels = small_chain(rng, "gelu")
        layers = [Layer(layer.weight.cuda(), layer.bias.cuda(), layer.activation, layer.pool,
                        layer.stride, layer.padding) for layer in layers]  # fmt: skip
        graph = GraphedRelaxation(layers, x.cuda(), labels.cuda())
        other = like_map(rng, x.shape).cuda()
        with torch.no_grad():
            layers[0].weight.mul_(1.1)
        _, replayed = graph(other, labels.cuda())
        expected = relax(layers, other, labels.cuda(), backend="torch").gradients()
        for a, b in zip(replayed, expected, strict=True):
            assert_near(a.weight, b.weight, 1e-3)
        with pytest.raises(InvalidInputError, match="the graph was recorded for"):
            graph(other[:1], labels.cuda())
