"""Counting of permuted statistics: exceedances, moments, histogram and joint maxima in one pass."""

from __future__ import annotations

from functools import partial

import numpy as np
from rsafast_kernels.tally import Tally, reference

from rsafast.bench.row import Case, Row, Scale, Work, close


def _case(models: int, brains: int, blocks: int, size: int) -> Case:
    rng = np.random.default_rng(0)
    values = rng.standard_normal((blocks, models, 1, brains, size))
    shape = models, brains
    thresholds, centres = np.full(shape, 1.5), np.zeros(shape)
    edges = np.broadcast_to([-4.0, 4.0], (*shape, 2)).copy()

    def run() -> Tally:
        tally = Tally.start(thresholds, "greater", centres, edges)
        tally.add(values)
        return tally

    def check(answer: Tally) -> float:
        each, single, down = reference.tally(values, thresholds, "greater")
        expected = [each.sum(axis=0)] + ([single, down] if models * brains > 1 else [])
        counts = [answer.exceedances, answer.single_step, answer.step_down][: len(expected)]
        close([c.ravel() for c in counts], expected, 0.0, "counts")
        moments = [answer.sums, answer.squares]
        axes = (0, 2, 4)
        return close(moments, [values.sum(axis=axes), (values**2).sum(axis=axes)], 1e-10, "moments")

    return Case(run, check)


def _row(models: int, brains: int, blocks: int, size: int, scale: Scale) -> Row:
    count = models * brains * blocks * size
    return Row(
        kernel="tally",
        name=f"{models} × {brains} RDMs, {blocks * size:,} relabellings",
        device="cpu",
        size=models * brains,
        items=count,
        unit="statistics",
        # A comparison, a sum, a sum of squares (two) and a bin (two) each.
        work=Work(6.0 * count, 8.0 * count, "float64"),
        prepare=partial(_case, models, brains, blocks, size),
        scale=scale,
    )


ROWS = (_row(1, 1, 1_400, 720, "quick"), _row(20, 18, 20, 720, "default"))
