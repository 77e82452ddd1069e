"""Tiles of distances in Triton: the interpreter here, and code for real GPUs without one.

The interpreter and the compiler cannot share a process, so that interpreted tests run in a process
of their own. The interpreter multiplies float32 whole: what the parts of float32 cost is emulated
(run this file to print the table of docs/methods.md).
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

from rsafast_kernels import device, pairwise  # noqa: E402
from rsafast_kernels.errors import (  # noqa: E402
    BackendUnavailableError,
    InvalidInputError,
)
from rsafast_kernels.pairwise import (  # noqa: E402
    METRICS,
    gpu,
    pairwise_distances,
    reference,
    triton_,
)

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
F32 = np.float32


def make(metric, n, p, dtype=F32, seed=3):
    """Input and precision that suit the metric."""
    rng = np.random.default_rng(seed)
    shape = (3, n, p) if metric == "crossnobis" else (n, p)
    x = rng.poisson(4, shape) if metric == "poisson" else rng.normal(size=shape)
    if metric not in ("mahalanobis", "crossnobis"):
        return x.astype(dtype), None
    root = rng.normal(size=(p, p)) / np.sqrt(p) + np.eye(p)
    return x.astype(dtype), root @ root.T + 0.1 * np.eye(p)


def bf16(x):
    """The nearest numbers of 8 significant bits."""
    bits = x.view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) & np.uint32(0xFFFF0000)).view(F32)


def tf32(x):
    """The nearest numbers of 11 significant bits."""
    return (x.view(np.uint32) + 0x1000 & np.uint32(0xFFFFE000)).view(F32)


def cut(x):
    """float32 rounded towards zero, as Hopper's tensor cores keep sums."""
    near = x.astype(F32)
    return np.where(np.abs(near.astype(np.float64)) > np.abs(x), np.nextafter(near, F32(0)), near)


# Rounding of a part, number of parts, pairs of parts in the order of their products (small ones
# first), features an instruction.
PARTS = {
    "bf16x3": (bf16, 2, [(1, 0), (0, 1), (0, 0)], 16),
    "bf16x6": (bf16, 3, [(1, 1), (2, 0), (0, 2), (1, 0), (0, 1), (0, 0)], 16),
    "tf32x3": (tf32, 2, [(1, 0), (0, 1), (0, 0)], 8),
}


def emulated(z, products, step=32):
    """z @ z.T as `products_kernel` makes it: exact inside an instruction, cut inside a step."""
    g = np.zeros((len(z), len(z)), F32)
    if products == "ieee":
        for column in z.T.astype(np.float64):
            g = (g + np.multiply.outer(column, column)).astype(F32)
        return g
    rounded, count, pairs, depth = PARTS[products]
    parts, rest = [], z
    for _ in range(count):
        parts.append(rounded(rest))
        rest = rest - parts[-1]
    parts = np.array(parts, np.float64)
    for start in range(0, z.shape[1], step):
        inner = np.zeros_like(g)
        for a, b in pairs:
            for k in range(start, start + step, depth):
                inner = cut(inner + parts[a, :, k : k + depth] @ parts[b, :, k : k + depth].T)
        g = g + inner
    return g


def features(kind, n, p):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n, p))
    if kind == "rectified":
        return np.maximum(x + rng.normal(size=p), 0).astype(F32)
    if kind == "near-duplicates":
        x[1::2] = x[::2] + np.logspace(-3, 0.3, n // 2)[:, None] * x[1::2]
    return x.astype(F32)


def errors(x, products):
    """Relative errors of emulated correlation distances of the pairs that are not made again."""
    z = x.astype(np.float64)
    z -= z.mean(axis=1, keepdims=True)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    z = (z - z.mean(axis=0)).astype(F32)
    wide = z.astype(np.float64)
    half = (wide * wide).sum(axis=1) / 2
    exact = ((wide[:, None] - wide[None]) ** 2).sum(axis=-1) / 2
    g = F32(0.5) * emulated(z, products)
    offset = half.astype(F32)
    got = (offset[:, None] - g) + (offset[None] - g)
    kept = np.triu(exact >= gpu.TAU[products] * (half[:, None] + half[None]), 1)
    return (np.abs(got - exact) / np.where(kept, exact, 1))[kept]


if INTERPRETED:

    @pytest.fixture(autouse=True)
    def _small_and_poisoned(monkeypatch):
        """No GPU is asked for; small tiles, two rows of them a band; outputs start as NaN."""
        monkeypatch.setattr(pairwise, "resolve", lambda *_: "cuda")
        new_empty = torch.Tensor.new_empty

        def poisoned(*arguments, **options):
            made = new_empty(*arguments, **options)
            return made.fill_(float("nan")) if made.is_floating_point() else made

        monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
        monkeypatch.setattr(gpu, "np", Poisoned())
        with_tiles(monkeypatch, 64)

    class Poisoned:
        """NumPy, for one module."""

        def __getattr__(self, name):
            return getattr(np, name)

        def empty(self, shape, dtype):
            return np.full(shape, np.nan, dtype)

    def with_tiles(monkeypatch, block, band=2, splits=1):
        launch = gpu.Launch(block, 32, band, 4)
        monkeypatch.setattr(gpu.Launch, "of", classmethod(lambda *_: launch))
        if splits > 1:
            share = lambda _, n, p, k: (splits, 32 * -(-p // (32 * splits)))  # noqa: E731
            monkeypatch.setattr(gpu.Launch, "splits", share)

    def on_gpu(x, metric, precision=None, **options):
        return pairwise_distances(x, metric, precision=precision, device="cuda", **options)

    def assert_near(got, want, tolerance=2e-6):
        assert got.shape == want.shape
        assert np.abs(got - want).max() <= tolerance * max(np.abs(want).max(), 1e-300)

    @pytest.mark.parametrize(("n", "p"), [(2, 7), (19, 65)])
    @pytest.mark.parametrize("metric", METRICS)
    def test_interpreted_metrics_match_reference(metric, n, p):
        x, precision = make(metric, n, p)
        got = on_gpu(x, metric, precision)
        assert got.dtype == F32
        assert_near(got, reference.pairwise_distances(x, metric, precision=precision))

    @pytest.mark.parametrize(("n", "p"), [(3, 1), (64, 65), (129, 30)])
    def test_interpreted_shapes_match_reference(n, p, monkeypatch):
        with_tiles(monkeypatch, 64 if n > 100 else 32, 1 if n == 63 else 2)
        x, _ = make("euclidean", n, p)
        assert_near(on_gpu(x, "euclidean"), reference.pairwise_distances(x, "euclidean"))
        assert_near(on_gpu(x, "cityblock"), reference.pairwise_distances(x, "cityblock"))

    @pytest.mark.parametrize("metric", ["correlation", "cityblock", "crossnobis"])
    def test_interpreted_float64_stays_float64(metric):
        x, precision = make(metric, 11, 37, np.float64)
        got = on_gpu(x, metric, precision)
        assert got.dtype == np.float64
        want = reference.pairwise_distances(x, metric, precision=precision)
        assert_near(got, want, 1e-14)

    def test_interpreted_shares_of_features_add_up(monkeypatch):
        x, _ = make("correlation", 20, 200)
        with_tiles(monkeypatch, 16, splits=3)
        got = on_gpu(x, "correlation")
        assert_near(got, reference.pairwise_distances(x, "correlation"), 1e-6)

    # One metric of each form; the others differ in what is done before.
    @pytest.mark.parametrize(
        "metric", ["correlation", "euclidean", "mahalanobis", "crossnobis", "poisson"]
    )
    def test_interpreted_near_duplicates_are_accurate(metric):
        x, precision = make(metric, 18, 40, np.float64)
        x[..., 1::2, :] = x[..., ::2, :]
        x[..., 1::2, 0] += 1.0 if metric == "poisson" else 1e-3
        x[..., 5, :] = x[..., 4, :]  # equal
        x = x.astype(F32)
        got = on_gpu(x, metric, precision)
        want = reference.pairwise_distances(x, metric, precision=precision)
        np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-17)
        i, j = np.triu_indices(18, 1)
        assert got[(i == 4) & (j == 5)] == 0 or metric == "crossnobis"

    def test_interpreted_stacks_equal_their_sets():
        for metric in ("cosine", "mahalanobis", "cityblock"):
            sets = [make(metric, 7, 9, seed=s)[0] for s in range(2)]
            precision = make(metric, 7, 9)[1]
            sets[1] *= F32(1e6)  # the scale of one set is not another's
            for got, x in zip(on_gpu(np.stack(sets), metric, precision), sets, strict=True):
                np.testing.assert_array_equal(got, on_gpu(x, metric, precision))

    @pytest.mark.parametrize("offset", [1e4, 1e6])
    def test_interpreted_large_offsets_cost_no_accuracy(offset):
        x = (make("correlation", 20, 50)[0] + offset).astype(F32)
        for metric in ("correlation", "euclidean"):
            want = reference.pairwise_distances(x, metric)
            np.testing.assert_allclose(on_gpu(x, metric), want, rtol=2e-4)

    def test_interpreted_magnitudes_neither_overflow_nor_vanish():
        x = make("euclidean", 10, 40)[0]
        scales = np.logspace(-37, 37, 10)[:, None].astype(F32)
        np.testing.assert_allclose(
            on_gpu(x * scales, "correlation"), on_gpu(x, "correlation"), rtol=1e-5, atol=1e-6
        )
        for power in (-30, 30):
            got = on_gpu(x * F32(10.0**power), "euclidean") / F32(10.0**power)
            np.testing.assert_allclose(got, on_gpu(x, "euclidean"), rtol=1e-5)
        x[:4] *= F32(1e-25)
        x[8], x[9] = 1e8, -1e8
        want = reference.pairwise_distances(x, "euclidean")
        np.testing.assert_allclose(on_gpu(x, "euclidean"), want, rtol=1e-4)

    def test_interpreted_rows_that_point_one_way_do_not_cancel():
        rng = np.random.default_rng(1)
        x = (rng.random((30, 60)) * 1e-2 + 5 * rng.random(60)).astype(F32)
        for metric in ("correlation", "cosine"):
            want = reference.pairwise_distances(x, metric)
            np.testing.assert_allclose(on_gpu(x, metric), want, rtol=2e-5)

    def test_interpreted_tensors_come_back_as_tensors_and_any_layout_goes_in():
        x = make("cosine", 9, 20)[0]
        expected = on_gpu(x, "cosine")
        got = on_gpu(torch.from_numpy(x), "cosine")
        assert isinstance(got, torch.Tensor)
        np.testing.assert_array_equal(got.numpy(), expected)
        wide = torch.from_numpy(np.repeat(x, 2, axis=1))[:, ::2]
        np.testing.assert_array_equal(on_gpu(wide, "cosine").numpy(), expected)
        x.flags.writeable = False
        for view in (np.asfortranarray(x), x):
            np.testing.assert_array_equal(on_gpu(view, "cosine"), expected)
        assert on_gpu(torch.ones(4, 3, dtype=torch.int32), "euclidean").dtype == torch.float64

    def test_interpreted_memory_that_runs_out_halves_sets_then_rows(monkeypatch):
        sets = np.stack([make("euclidean", 40, 9, seed=s)[0] for s in range(2)])
        with_tiles(monkeypatch, 16, band=1)
        expected = on_gpu(sets, "euclidean")
        panel, seen = gpu._panel, []

        def small(form, out, top, bottom, *rest):
            if len(out) * (bottom - top) > 32:
                raise torch.OutOfMemoryError
            seen.append((len(out), top, bottom))
            panel(form, out, top, bottom, *rest)

        monkeypatch.setattr(gpu, "_panel", small)
        gpu._say_once.cache_clear()
        with pytest.warns(UserWarning, match="in smaller pieces") as said:
            got = on_gpu(sets, "euclidean")
        np.testing.assert_array_equal(got, expected)
        assert len(said) == 1
        assert seen == 2 * [(1, 0, 16), (1, 16, 32), (1, 32, 40)]
        monkeypatch.setattr(gpu, "_panel", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError))
        with pytest.raises(BackendUnavailableError, match="do not fit the memory"):
            on_gpu(sets, "euclidean")

    def test_interpreted_bad_values_are_named():
        x = make("cosine", 6, 5)[0].astype(np.float64) ** 2
        cases = [("correlation", 2, 0.1, "row 2 of x is constant"), ("cosine", 3, 0.0, "row 3 of")]
        cases += [
            ("poisson", 4, -1.0, r"x\[4, 0\] is -1.0"),
            ("euclidean", 5, np.inf, r"x\[5, 0\]"),
        ]
        for metric, row, value, message in cases:
            bad = x.copy()
            bad[row] = value
            with pytest.raises(InvalidInputError, match=message):
                on_gpu(bad, metric)
            with pytest.raises(InvalidInputError, match=message.replace(r"x\[", r"x\[1, ")
                               .replace("of x", r"of x\[1\]")):  # fmt: skip
                on_gpu(np.stack([x, bad]), metric)
        with pytest.raises(InvalidInputError, match="real numbers"):
            on_gpu(torch.ones(4, 3, dtype=torch.complex64), "euclidean")
        with pytest.raises(InvalidInputError, match="needs a precision"):
            on_gpu(x, "mahalanobis")

    def test_cells_cover_every_upper_tile_once():
        @triton.jit
        def places(to_ptr, tiles, top, bottom, BAND: triton.language.constexpr):
            cell = triton.language.program_id(0)
            row, column = triton_._tile_of(cell, tiles, top, bottom, BAND)
            triton.language.store(to_ptr + 2 * cell, row)
            triton.language.store(to_ptr + 2 * cell + 1, column)

        for tiles, band, top, bottom in [(1, 1, 0, 1), (5, 1, 1, 4), (7, 3, 0, 3), (9, 2, 1, 4)]:
            cells = band * sum(tiles - b * band for b in range(top, bottom))
            to = torch.full((cells, 2), -1, dtype=torch.int32)
            places[(cells,)](to, tiles, top, bottom, BAND=band)
            found = [tuple(c) for c in to.tolist() if c[0] <= c[1]]
            rows = range(top * band, min(bottom * band, tiles))
            wanted = [(r, c) for r in rows for c in range(r, tiles)]
            assert sorted(f for f in found if f[0] < tiles) == wanted

else:

    @pytest.mark.slow
    def test_in_the_interpreter():
        assert_passes_interpreted(__file__, 37)

    SHARED_MEMORY = {80: 163 * 1024, 90: 227 * 1024}  # largest of a block, CUDA programming guide

    def compiled(kernel, constants, launch, architecture, dtype="fp32", fusion=True):
        integers = {"near_ptr": "*i32", "first_pair": "i64", "pairs": "i64"}
        signature = {
            name: integers.get(name, f"*{dtype}" if name.endswith("_ptr") else "i32")
            for name in kernel.arg_names
        }
        # Aligned arrays with aligned rows: the usual case, and the one with most registers.
        aligned = [
            (at,)
            for at, name in enumerate(kernel.arg_names)
            if name.endswith("_ptr") or name in ("n", "p", "share")
        ]
        source = triton.compiler.ASTSource(
            kernel, signature | dict.fromkeys(constants, "constexpr"), constexprs=constants,
            attrs={at: [["tt.divisibility", 16]] for at in aligned},
        )  # fmt: skip
        target = triton.backends.compiler.GPUTarget("cuda", architecture, 32)
        options = {
            "num_warps": launch.warps,
            "num_stages": launch.stages,
            "enable_fp_fusion": fusion,
        }
        return triton.compile(source, target=target, options=options)

    def compiled_products(products, launch, architecture, split):
        constants = gpu.finish_options("root", 1.0, 1.0, torch.float32, products) | {
            "AFFINE": True, "SPLIT": split, "PRECISION": products, "BOUNDED": False,
            "BLOCK": launch.block, "BK": launch.step, "BAND": launch.band,
        }  # fmt: skip
        return compiled(triton_.products_kernel, constants, launch, architecture)

    def local_bytes(found, folder):
        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        (folder / "kernel.cubin").write_bytes(found.asm["cubin"])
        command = [tool, "-res-usage", folder / "kernel.cubin"]
        said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return int(re.search(r"STACK:(\d+)", said)[1]) + int(re.search(r"LOCAL:(\d+)", said)[1])

    # A step of 32 features takes two pieces of 16 (bf16) or four of 8 (tf32) a product of parts. On
    # sm_90 a warp group does 64 rows at once; on sm_80 a warp of four does 16 x 8 of 64 x 64.
    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("products", "architecture", "instruction", "count"),
        [
            ("bf16x3", 90, "wgmma.mma_async", 3 * 2),
            ("bf16x6", 90, "wgmma.mma_async", 6 * 2),
            ("tf32x3", 90, "wgmma.mma_async", 3 * 4),
            ("ieee", 90, "fma.rn.f32", 32 * 64),
            ("bf16x3", 80, "mma.sync", 3 * 2 * 8),
            ("bf16x6", 80, "mma.sync", 6 * 2 * 8),
            ("tf32x3", 80, "mma.sync", 3 * 4 * 8),
            ("ieee", 80, "fma.rn.f32", 32 * 32),
        ],
    )
    def test_products_use_the_units_they_name(products, architecture, instruction, count, tmp_path):
        launch = gpu.Launch.of(73_000, 1, torch.float32, architecture // 10)
        assert launch.block == (128 if architecture == 90 else 64)
        # The end of a tile is the same for all; without it they compile in half the time.
        split = (products, architecture) != ("bf16x3", 90)
        found = compiled_products(products, launch, architecture, split)
        ptx = found.asm["ptx"]
        assert f".target sm_{architecture}" in ptx
        seen = len(re.findall(rf"\b{re.escape(instruction)}\b", ptx))
        # What is left over is the normalisation of rows, in float32.
        assert count <= seen <= count * (1.5 if products == "ieee" else 1)
        assert ("mma" in ptx) == (products != "ieee")
        assert found.metadata.shared <= SHARED_MEMORY[architecture]
        assert local_bytes(found, tmp_path) <= 32, "registers spill"
        if products != "ieee":
            # Each thread adds its 64 or 32 sums of a step, rounding to nearest: the sums inside
            # Hopper's tensor cores are cut off, and their errors would add up over many features.
            assert len(re.findall(r"\badd(\.rn)?\.f32\b", ptx)) >= launch.block // 2

    @pytest.mark.slow
    def test_other_kernels_compile_without_spills(tmp_path):
        place = {"BLOCK": 64, "BAND": 8}
        end = gpu.finish_options("square", 1.0, 0.5, torch.float64, "ieee") | place
        raw = {"AFFINE": False, "SPLIT": False, "BOUNDED": True, "BK": 16, "PRECISION": "ieee"}
        near = {"AFFINE": True, "FORM": "squares", "PARTS": 1, "HALF": 0.5, "AGAIN": 1.0}
        launch = gpu.Launch.of(500, 1, torch.float64)
        found = compiled(triton_.products_kernel, end | raw, launch, 80, "fp64")
        assert len(re.findall(r"mma\.sync[.\w]*f64", found.asm["ptx"])) >= 16
        assert local_bytes(found, tmp_path) <= 32
        assert found.metadata.shared <= SHARED_MEMORY[80]
        cases = [
            (triton_.cityblock_kernel, place | {"BK": 64}, True),
            (triton_.near_kernel, near | place | {"FINISH": "unit", "ROWS": 16, "BK": 16}, False),
            (triton_.unit_kernel, {"CENTRE": True, "BLOCK": 1024}, True),
            (triton_.norms_kernel, {"HALF": 0.5, "ROWS": 32, "BK": 64}, True),
            (triton_.common_kernel, {"ROWS": 32, "BK": 64}, True),
        ]
        small = gpu.Launch(64, 32, 8, 4)
        for kernel, constants, fusion in cases:
            found = compiled(kernel, constants, small, 90, fusion=fusion)
            assert local_bytes(found, tmp_path) <= 32, kernel.__name__
            if not fusion:  # the two rows of duplicates must round alike
                assert "fma.rn.f64" not in found.asm["ptx"]

    @pytest.mark.parametrize("products", [*PARTS, "ieee"])
    @pytest.mark.parametrize("kind", ["Gaussian", "rectified", "near-duplicates"])
    def test_emulated_errors_are_what_is_documented(kind, products):
        found = errors(features(kind, 48, 256), products)
        assert found.max() < 1e-4
        assert np.median(found) < 1e-6

    def test_the_gpu_is_never_left_for_the_cpu(monkeypatch):
        monkeypatch.setattr(device, "cuda_missing", lambda *_: "no NVIDIA driver here")
        with pytest.raises(BackendUnavailableError, match="device='cuda' cannot run here"):
            pairwise_distances(np.eye(4), "euclidean", device="cuda")
        with pytest.raises(InvalidInputError, match="products is 'tf32'"):
            pairwise_distances(np.eye(4), "euclidean", products="tf32")


if __name__ == "__main__":
    for p in (64, 512, 4096):
        for kind in ("Gaussian", "rectified", "near-duplicates"):
            found = [errors(features(kind, 96, p), products) for products in [*PARTS, "ieee"]]
            cells = [f"{np.median(e):.0e}, {e.max():.0e}" for e in found]
            print("|", " | ".join([str(p), kind, *cells]), "|")
