"""Concordance under relabelling: Kendall's tau of two RDMs, by Knight's count."""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.kendall import concordance
from rsafast_kernels.relabel import relabelings

from rsafast.bench.row import Case, Peer, Row, Scale, Work, close

Float = NDArray[np.float64]


def _inputs(n: int, count: int) -> tuple[Float, Float, NDArray[np.int32]]:
    rng = np.random.default_rng(0)
    a, b = (m + m.T for m in rng.standard_normal((2, n, n)))
    return a, b, relabelings(0, 0, 0, count, n)


def _moved(a: Float, relabeling: NDArray[np.int32]) -> Float:
    return a[np.ix_(relabeling, relabeling)][np.triu_indices(len(a), 1)]


def _counted(v: Float, w: Float) -> int:
    """Concordant minus discordant pairs of entries, one entry with all after it at a time."""
    return sum(
        int((np.sign(v[i + 1 :] - v[i]) * np.sign(w[i + 1 :] - w[i])).sum()) for i in range(len(v))
    )


def _case(n: int, count: int) -> Case:
    a, b, drawn = _inputs(n, count)

    def check(answer: NDArray[np.int64]) -> float:
        fixed = b[np.triu_indices(n, 1)]
        some = [0, count - 1]
        expected = [_counted(_moved(a, drawn[k]), fixed) for k in some]
        return close(answer[0, 0, some], expected, 0.0, "concordance")

    return Case(lambda: concordance(a[None], b[None], drawn), check)


def _scipy(n: int, count: int) -> Case:
    from scipy.stats import kendalltau

    a, b, drawn = _inputs(n, count)
    fixed = b[np.triu_indices(n, 1)]

    def check(answer: list[float]) -> float:
        ours = concordance(a[None], b[None], drawn)[0, 0] / (len(fixed) * (len(fixed) - 1) / 2)
        return close(answer, ours, 1e-9, "tau")

    return Case(lambda: [kendalltau(_moved(a, row), fixed).statistic for row in drawn], check)


def _row(n: int, count: int, peer_count: int, scale: Scale) -> Row:
    entries = n * (n - 1) // 2
    return Row(
        kernel="kendall",
        name=f"{n} stimuli, {count:,} relabellings",
        device="cpu",
        size=n,
        items=count,
        unit="relabellings",
        # No sort of N entries takes fewer than N log2(N / e) comparisons.
        work=Work(count * entries * np.log2(entries / np.e), 16.0 * n * n + 4.0 * n * count,
                  "float64"),
        prepare=partial(_case, n, count),
        scale=scale,
        peers=(Peer("SciPy kendalltau", ("scipy",), "scipy", partial(_scipy, n, peer_count),
                    peer_count),),
    )  # fmt: skip


ROWS = (_row(92, 500, 50, "quick"), _row(200, 100, 10, "default"))
