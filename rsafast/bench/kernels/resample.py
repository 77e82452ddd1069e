"""Similarities of RDMs on bootstrap resamples of the stimuli."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.rank import reference as rank_reference

from rsafast.bench.row import Case, Peer, Row, Scale, Work, close
from rsafast.comparators import get_comparator
from rsafast.inference.bootstrap.api import bootstrap
from rsafast.inference.bootstrap.draws import draw_counts
from rsafast.inference.bootstrap.resampled import ResampledComparison
from rsafast.rdms import RDMs

Float = NDArray[np.float64]
_PEER_METHODS = {"spearman": "spearman", "pearson": "corr"}
_CHECKED = 2  # resamples that the reference does too


def _stacks(n: int, models: int, brains: int) -> tuple[RDMs, RDMs]:
    rng = np.random.default_rng(0)
    pairs = n * (n - 1) // 2
    shared = rng.random(pairs)
    a, b = (shared + 2 * rng.random((count, pairs)) for count in (models, brains))
    return RDMs(a), RDMs(b)


def _written_out(a: RDMs, b: RDMs, counts: NDArray[np.integer], method: str) -> Float:
    """Similarities (M, N) on one resample, by writing all its pairs out."""
    drawn = np.repeat(np.arange(len(counts)), counts)
    first, second = np.triu_indices(len(drawn), 1)
    x, y = np.minimum(drawn[first], drawn[second]), np.maximum(drawn[first], drawn[second])
    place = (x * len(counts) - x * (x + 1) // 2 + y - x - 1)[x != y]
    sides = []
    for rdms in (a, b):
        values = rdms.vectors[:, place]
        if method == "spearman":
            values = rank_reference.average_ranks(values)
        values = values - values.mean(axis=1, keepdims=True)
        sides.append(values / np.linalg.norm(values, axis=1, keepdims=True))
    return sides[0] @ sides[1].T


def _checked(answer: Float, a: RDMs, b: RDMs, weights: NDArray[Any], method: str) -> float:
    some = np.linspace(0, len(weights) - 1, _CHECKED).astype(int)
    expected = [_written_out(a, b, weights[k], method) for k in some]
    return close(answer[some], expected, 1e-9, "similarities")


def _case(n: int, models: int, brains: int, count: int, method: str) -> Case:
    a, b = _stacks(n, models, brains)
    weights = draw_counts(0, 0, n, 0, count)
    comparison = ResampledComparison(get_comparator(method), a, b)
    return Case(
        lambda: comparison.scores(weights),
        lambda answer: _checked(answer, a, b, weights, method),
    )


def _rsatoolbox(n: int, models: int, brains: int, count: int, method: str) -> Case:
    """What its bootstrap does in every resample."""
    from rsatoolbox.rdm import RDMs as PeerRDMs
    from rsatoolbox.rdm import compare

    a, b = _stacks(n, models, brains)
    weights = draw_counts(0, 0, n, 0, count)

    def run() -> Float:
        out = []
        for row in weights:
            drawn = np.repeat(np.arange(n), row)
            sampled = [
                PeerRDMs(
                    side.vectors, pattern_descriptors={"index": np.arange(n)}
                ).subsample_pattern("index", drawn)
                for side in (a, b)
            ]
            out.append(compare(sampled[0], sampled[1], method=_PEER_METHODS[method]))
        return np.stack(out)

    return Case(run, lambda answer: _checked(answer, a, b, weights, method))


def _cuda_case(n: int, models: int, brains: int, count: int, method: str) -> Case:
    """A whole bootstrap, compared with that of the CPU, which has a row of its own."""
    a, b = _stacks(n, models, brains)
    options: dict[str, Any] = {"method": method, "n_resamples": count, "progress": False}

    def check(answer: Any) -> float:
        expected = bootstrap(a, b, device="cpu", **options)
        return close(answer.replicates, expected.replicates, 1e-6, "replicates")

    return Case(lambda: bootstrap(a, b, device="cuda", **options), check)


def _work(n: int, products: float, sides: int, count: int) -> Work:
    pairs = n * (n - 1) / 2
    distinct = n * (1 - (1 - 1 / n) ** n)
    present = distinct * (distinct - 1) / 2
    operations = count * present * 2.0 * (products + sides)
    return Work(operations, 8.0 * (pairs * sides + count * products) + 8.0 * count * n, "float64")


def _row(
    n: int, models: int, brains: int, count: int, method: str, scale: Scale, peer_count: int
) -> Row:
    products = models * brains
    peer = partial(_rsatoolbox, n, models, brains, peer_count, method)
    peers = (
        Peer("rsatoolbox compare", ("rsatoolbox",), "rsatoolbox", peer, peer_count * products),
    )
    return Row(
        kernel="resample",
        name=f"{method}, {n} stimuli, {models} × {brains} RDMs, {count:,} resamples",
        device="cpu",
        size=n,
        items=count * products,
        unit="similarities",
        work=_work(n, products, models + brains, count),
        prepare=partial(_case, n, models, brains, count, method),
        scale=scale,
        peers=peers if peer_count else (),
    )


def _cuda_row(n: int, models: int, brains: int, count: int, method: str) -> Row:
    return Row(
        kernel="resample",
        name=f"bootstrap, {method}, {n} stimuli, {models} × {brains} RDMs, {count:,} resamples",
        device="cuda",
        size=n,
        items=count * models * brains,
        unit="similarities",
        # Of subjects of one region, products with their sum are enough.
        work=_work(n, models, models + brains, count),
        prepare=partial(_cuda_case, n, models, brains, count, method),
        needs=("cupy",),
    )


ROWS = (
    _row(92, 10, 20, 1_000, "spearman", "quick", 5),
    _row(92, 10, 20, 1_000, "pearson", "quick", 5),
    _row(720, 10, 8, 64, "spearman", "default", 1),
    _row(720, 10, 8, 64, "pearson", "default", 1),
    _row(720, 800, 18, 64, "spearman", "large", 0),
    _cuda_row(92, 10, 20, 10_000, "spearman"),
    _cuda_row(720, 10, 8, 10_000, "spearman"),
    _cuda_row(720, 10, 8, 10_000, "pearson"),
)
