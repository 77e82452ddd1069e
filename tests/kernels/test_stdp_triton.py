"""The Triton kernels of STDP: right in the interpreter, tensor cores on sm_80 and sm_90.

The interpreter is chosen when triton is imported, so this module runs itself in a second process
with TRITON_INTERPRET=1, where only the interpreted tests exist. The interpreter computes in float32
whatever precision is asked for, so those other than "ieee" are checked by what they compile to.
"""

import os
import re
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from interpreted import assert_passes_interpreted

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from rsafast_kernels.errors import (  # noqa: E402
    BackendUnavailableError,
    InvalidInputError,
    UnsupportedCaseError,
)
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

    @pytest.mark.parametrize("precision", ["ieee", "exact", "tf32x3"])
    def test_interpreted_precisions_match_float64(precision):
        """"exact" but for its last step: parts of 8 bits, multiplied as float32 here."""
        pre, post = spikes(5, 3, 3, 6, 6).byte() * 255, spikes(5, 3, 5, 6, 6, seed=6).byte() * 3
        weight, rule = weights(5, 3, 3, 3), replace(RULE, bounds="soft", a_plus=1e-4)
        options = dict(padding=1, backend="triton", precision=precision)
        expected = stdp_conv2d(pre, post, weight.double(), rule, padding=1, backend="folded")
        assert_near(stdp_conv2d(pre, post, weight, rule, **options), expected)

    def test_interpreted_dense_stacks_and_graded_spikes():
        pre, post = spikes(4, 3, 5, 7) * 0.7 - 0.2, spikes(4, 3, 5, 6) * weights(4, 3, 5, 6)
        weight = weights(3, 6, 7)
        expected = stdp_linear(pre, post, weight.double(), RULE, backend="folded")
        assert_near(stdp_linear(pre, post, weight, RULE, backend="triton"), expected)

    def test_any_share_of_the_positions_gives_the_same(monkeypatch):
        pre, post, weight = spikes(2, 3, 2, 8, 8), spikes(2, 3, 4, 8, 8), weights(4, 2, 3, 3)
        expected = stdp_conv2d(pre, post, weight.double(), RULE, padding=1, backend="folded")
        for programs in (1, 4, 6):
            monkeypatch.setattr(triton_, "PROGRAMS", programs)
            assert_near(stdp_conv2d(pre, post, weight, RULE, padding=1, backend="triton"), expected)

else:

    def test_in_the_interpreter():
        assert_passes_interpreted(__file__, 16)

    SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}  # largest of a block, CUDA programming guide
    BATCH = 128
    # What networks of this project meet: convolutions of cnn3 on 32 and 224 pixels, and the dense
    # layers of patches that its STDP rule makes of them, for five seeds.
    SHAPES = {
        f"conv {c_in}-{c_out}, {side} px": Geometry(
            (c_out, c_in, 3, 3), (side, side), (side, side), (1, 1), (1, 1)
        )
        for first in (32, 224)
        for c_in, c_out, side in ((3, 32, first), (32, 64, first // 2), (64, 128, first // 4))
    } | {
        f"5 x dense {inputs}-{outputs}": Geometry(
            (5 * outputs, inputs, 1, 1), (1, 1), (1, 1), groups=5
        )
        for inputs, outputs in ((27, 32), (288, 64), (576, 128))
    }

    def compiled(geometry, architecture, precision, rule=RULE):
        dense = geometry.is_dense
        launch = triton_.Launch.of(geometry, 4 * BATCH if dense else BATCH, precision)
        kernel = triton_.pair_sums_kernel
        constants = triton_.constants(rule, geometry, precision, launch)
        train = "*u8" if precision == "exact" else "*fp32"
        types = {"steps": "i32", "samples": "i32", "blocks_per_split": "i32",
                 "pre_ptr": train, "post_ptr": train, "partial_ptr": "*fp32"}  # fmt: skip
        signature = {name: types.get(name, "fp32") for name in kernel.arg_names}
        source = triton.compiler.ASTSource(
            kernel, signature | dict.fromkeys(constants, "constexpr"), constexprs=constants
        )
        target = triton.backends.compiler.GPUTarget("cuda", architecture, 32)
        options = {
            "num_warps": launch.warps, "num_stages": launch.stages, "enable_fp_fusion": True
        }  # fmt: skip
        return launch, triton.compile(source, target=target, options=options)

    def resources(binary, folder):
        """Registers a thread, and bytes of local memory, which is where they spill to."""
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        (folder / "kernel.cubin").write_bytes(binary)
        command = [tool, "-res-usage", folder / "kernel.cubin"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        reg, stack, local = (
            int(re.search(rf"{key}:(\d+)", said)[1]) for key in ("REG", "STACK", "LOCAL")
        )
        return reg, stack + local

    TENSOR_CORES = {80: "mma.sync", 90: "(mma.sync|wgmma.mma_async)"}

    def table(shapes=SHAPES, precisions=("exact", "tf32x3", "ieee"), architectures=(80, 90)):
        """Rows for docs: python tests/kernels/test_stdp_triton.py."""
        with tempfile.TemporaryDirectory() as folder:
            for name, geometry in shapes.items():
                for precision in precisions:
                    for architecture in architectures:
                        launch, found = compiled(geometry, architecture, precision)
                        registers, spilled = resources(found.asm["cubin"], Path(folder))
                        ptx = found.asm["ptx"]
                        yield {
                            "shape": name, "precision": precision, "sm": architecture,
                            "tile": f"{launch.bm}x{launch.bn}x{launch.bk}", "warps": launch.warps,
                            "splits": launch.splits, "registers": registers,
                            "shared": found.metadata.shared, "spilled": spilled,
                            "tensor": len(re.findall(TENSOR_CORES[architecture], ptx)),
                            "wgmma": ptx.count("wgmma.mma_async"),
                        }  # fmt: skip

    # The kernel depends on the size of maps through constants of its addresses alone, so that one
    # size stands for the others here; the table has them all.
    @pytest.mark.parametrize("architecture", [80, 90])
    @pytest.mark.parametrize("precision", ["exact", "tf32x3", "ieee"])
    def test_real_shapes_fit_their_registers(precision, architecture):
        some = {name: SHAPES[name] for name in ("conv 3-32, 32 px", "5 x dense 576-128")}
        for row in table(some, (precision,), (architecture,)):
            assert row["spilled"] <= 32, f"registers spill: {row}"
            assert row["shared"] <= SHARED_MEMORY[architecture] / 2, row  # two programs at once
            assert (row["tensor"] > 0) == (precision != "ieee"), row
            if row["tile"].startswith("64x64") and architecture == 90:
                assert (row["wgmma"] > 0) == (precision != "ieee"), row

    def test_real_shapes_fill_a_large_gpu_in_an_order_of_their_own():
        for name, geometry in SHAPES.items():
            for precision in triton_.BK:
                samples = 4 * BATCH if geometry.is_dense else BATCH
                launch = triton_.Launch.of(geometry, samples, precision)
                rows, synapses = triton_.rows_and_synapses(geometry)
                tiles = -(-rows // launch.bm) * -(-synapses // launch.bn) * geometry.groups
                parts = samples * geometry.out_size[0] * geometry.out_size[1] / launch.bk
                assert parts <= launch.blocks * launch.splits < parts + launch.blocks
                assert tiles * launch.splits >= min(132, tiles * parts), name
                order = {(v.bm, v.bn, v.bk, v.blocks, v.splits) for v in launch.variants()}
                assert order == {(launch.bm, launch.bn, launch.bk, launch.blocks, launch.splits)}

    def test_the_fastest_variant_is_measured_once(monkeypatch):
        first, *others = triton_.Launch.of(SHAPES["conv 3-32, 32 px"], 2, "ieee").variants()
        ran, seconds = [], {first: 3.0} | dict.fromkeys(others, 2.0) | {others[1]: 1.0}

        def do_bench(work, **_):
            work()
            return seconds[ran[-1]]

        monkeypatch.setattr(triton.testing, "do_bench", do_bench)
        monkeypatch.setattr(triton_, "_fastest", {})
        for _ in range(2):
            assert triton_.fastest("key", [first, *others], ran.append) == others[1]
        assert ran == [first, *others]

    def test_exact_takes_bytes(monkeypatch):
        monkeypatch.setattr(triton_, "runs_on", lambda _: True)
        for pre, post in ((spikes(2, 1, 3).float(), spikes(2, 1, 4)),
                          (spikes(2, 1, 3), spikes(2, 1, 4).double())):  # fmt: skip
            with pytest.raises(InvalidInputError, match="takes spikes as bool or uint8, got torch"):
                stdp_linear(
                    pre, post, weights(4, 3), RULE, backend="triton", precision="exact"
                )  # fmt: skip

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
    @pytest.mark.parametrize("precision", ["ieee", "tf32x3", "bf16x3", "exact"])
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


if __name__ == "__main__":
    for number, row in enumerate(table()):
        if number == 0:
            print("|", " | ".join(row), "|")
            print("|", " | ".join("---" for _ in row), "|")
        print("|", " | ".join(map(str, row.values())), "|", flush=True)
