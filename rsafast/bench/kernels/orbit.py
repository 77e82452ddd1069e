"""Permutation tests of one pair of RDMs and of a family, as a user calls them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import ceil, log2
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.gather import reference

from rsafast.bench.row import Case, Device, Peer, Row, Scale, Work, WrongAnswer, close
from rsafast.features import compute_rdms
from rsafast.permutation.api import permutation_test
from rsafast.permutation.counts import TOLERANCE
from rsafast.permutation.engines import orbit_permutation, split_relabelings
from rsafast.permutation.result import PermutationResult
from rsafast.rdms import RDMs

_SAMPLED = 20_000_000  # gathered values that a check may cost


def make_rdms(n: int, models: int, brains: int) -> tuple[RDMs, RDMs]:
    """Euclidean RDMs of noisy copies of the same points."""
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((n, 5))
    stack = compute_rdms(
        shared + 2.5 * rng.standard_normal((models + brains, n, 5)), "euclidean", device="cpu"
    )
    return stack[:models], stack[models:]


def _test(a: RDMs, b: RDMs, count: int, device: str, **options: Any) -> PermutationResult:
    return permutation_test(
        a, b, method="pearson", n_permutations=count, engine="orbit", device=device,
        progress=False, **options,
    )  # fmt: skip


def _units(rdms: RDMs) -> NDArray[np.float64]:
    """(k, n, n) matrices whose products over the pairs are Pearson correlations."""
    z = rdms.vectors - rdms.vectors.mean(axis=1, keepdims=True)
    return RDMs(z / np.linalg.norm(z, axis=1, keepdims=True)).matrices()


def _check(answer: PermutationResult, a: RDMs, b: RDMs, count: int) -> float:
    """Counts are those of the CPU's null, and the null is the reference's on some relabellings."""
    kept = _test(a, b, count, "cpu", keep_null=True)
    null = kept.null
    assert null is not None
    counted = (null >= kept.statistic[..., None] - TOLERANCE).sum(axis=-1)
    if not np.array_equal(counted, answer.exceedances):
        raise WrongAnswer(f"exceedances {answer.exceedances.ravel()}, not {counted.ravel()}")
    n, total = kept.n_stimuli, kept.n_permutations
    some = max(2, min(24, _SAMPLED // (n * n * a.n_rdms)))
    chosen = np.random.default_rng(1).choice(total, some, replace=False)
    splits = (*kept.provenance["relabelings"], n)
    relabelings = np.stack([
        orbit_permutation(kept.seed, i, j, s, n)
        for i, j, s in np.stack(np.unravel_index(chosen, splits), axis=1).tolist()
    ])  # fmt: skip
    first, second = _units(a), _units(b)
    expected = reference.gather_products(first, second, relabelings)
    observed = reference.gather_products(first, second, np.arange(n, dtype=np.int32)[None])
    return max(
        close(answer.statistic, observed[..., 0], 1e-9, "statistic"),
        close(null[..., chosen], expected, 1e-9, "null"),
    )


def _case(n: int, models: int, brains: int, count: int, device: Device) -> Case:
    a, b = make_rdms(n, models, brains)
    return Case(lambda: _test(a, b, count, device), lambda answer: _check(answer, a, b, count))


def _scikit_bio(n: int, count: int, engine: str | None, device: Device) -> Case:
    from skbio.stats.distance import DistanceMatrix, mantel

    a, b = (rdms.matrices()[0] for rdms in make_rdms(n, 1, 1))
    if device == "cuda":
        import cupy

        given = [cupy.asarray(a), cupy.asarray(b)]
    else:
        given = [DistanceMatrix(a), DistanceMatrix(b)]
    pairs = np.triu_indices(n, 1)
    r = np.corrcoef(a[pairs], b[pairs])[0, 1]

    def check(answer: tuple[Any, Any, int]) -> float:
        ours = _test(*make_rdms(n, 1, 1), 20_000, "cpu").p_value[0, 0]
        noise = 5 * np.sqrt(ours * (1 - ours) * (1 / count + 1 / 20_000)) + 2 / count
        if not abs(float(answer[1]) - ours) <= noise:
            raise WrongAnswer(f"p is {float(answer[1]):.4g}, ours {ours:.4g}")
        return close(float(answer[0]), r, 1e-6, "statistic")

    run = partial(
        mantel, *given, permutations=count, alternative="greater", seed=1, engine=engine
    )
    return Case(run, check)


# Relabellings of a call of scikit-bio, which its set-up no longer shows in.
_PEER_COUNTS = {92: 10_000, 720: 1_000, 1854: 200}


def _peers(n: int, device: Device) -> Iterator[Peer]:
    count = _PEER_COUNTS.get(n)
    if count is None:
        return
    if device == "cpu":
        engines: list[tuple[str | None, tuple[str, ...], str]] = [
            ("cython", (), ""), ("numba", ("numba",), " numba")
        ]  # fmt: skip
    else:
        count *= 10
        engines = [(None, ("cupy",), " cupy-cuda12x"), ("numba", ("cupy", "numba"), " numba-cuda")]
    for engine, needs, more in engines:
        yield Peer(
            f"scikit-bio {engine or 'array API'}", ("skbio", *needs), f"scikit-bio{more}",
            partial(_scikit_bio, n, count, engine, device), count,
        )  # fmt: skip


def _work(n: int, models: int, brains: int, blocks: tuple[int, int]) -> Work:
    i, j = blocks
    pairs = n * (n - 1) // 2
    fft = 2.5 * n * log2(n)  # of n real numbers
    transforms = (i * models + j * brains) * (n // 2) * fft + i * j * models * brains * fft
    products = 2.0 * n * n * i * j * models * brains
    return Work(transforms + products, 8.0 * pairs * (models + brains), "float64")


def _row(n: int, models: int, brains: int, count: int, scale: Scale, device: Device) -> Row:
    blocks = split_relabelings(ceil(count / n), models, brains)
    family = f", {models} × {brains} RDMs" if models * brains > 1 else ""
    return Row(
        kernel="orbit",
        name=f"{n} stimuli{family}, {count:,} relabellings",
        device=device,
        size=n,
        items=blocks[0] * blocks[1] * n * models * brains,
        unit="relabellings",
        work=_work(n, models, brains, blocks),
        prepare=partial(_case, n, models, brains, count, device),
        scale=scale,
        needs=("cupy",) if device == "cuda" else (),
        peers=() if family else tuple(_peers(n, device)),
    )


_SIZES: tuple[tuple[int, int, int, int, Scale], ...] = (
    (92, 1, 1, 1_000_000, "quick"),
    (720, 1, 1, 1_000_000, "quick"),
    (92, 1, 1, 10_000_000, "default"),
    (720, 1, 1, 10_000_000, "default"),
    (1854, 1, 1, 1_000_000, "default"),
    (720, 20, 18, 10_000, "default"),
    (720, 200, 18, 10_000, "large"),
    (10_000, 1, 1, 100_000, "large"),
    (10_000, 1, 1, 1_000_000, "large"),
)
ROWS = tuple(_row(*size, device) for device in ("cpu", "cuda") for size in _SIZES)
