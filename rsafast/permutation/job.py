"""The counting of a test: in this process, or in shares by the workers of a Dask cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.device import free_bytes
from rsafast_kernels.tally import Alternative

from rsafast.cluster import Cluster, connected, in_order, once
from rsafast.permutation import gpu
from rsafast.permutation.counts import Counts, Observed
from rsafast.permutation.engines import Block, Plan
from rsafast.permutation.setup import Engine, choose_plan
from rsafast.permutation.statistics import Statistic
from rsafast.progress import track

# Tasks of a cluster; fixed, so that no result depends on the number of workers. Every task
# transforms the fixed side again: with many more of them that would be most of the work.
_SHARES = 32


@dataclass(frozen=True, slots=True)
class Job:
    """All that counting depends on; see `permutation_test`.

    Attributes
    ----------
    shape : (models, brain RDMs).
    gpu_budget : bytes of GPU memory to work in; None: most of what is free on the GPU that does.
    """

    statistic: Statistic
    shape: tuple[int, int]
    n: int
    n_permutations: int
    engine: Engine
    seed: int
    blocks: NDArray[np.int64] | None
    alternative: Alternative
    tail: str | None
    keep_null: bool
    budget: int
    device: Literal["cpu", "cuda"]
    gpu_budget: int | None

    def plan(self) -> Plan:
        """How it is done on the device that it is for."""
        statistic, budget, single = self.statistic, self.budget, False
        if self.device == "cuda":
            statistic = gpu.moved(statistic)  # type: ignore[type-var]
            budget = free_bytes() * 4 // 5 if self.gpu_budget is None else self.gpu_budget
            single = self.tail is None and not self.keep_null and gpu.prefers_float32()
        return choose_plan(
            statistic, self.shape[0] * self.shape[1], self.n, self.n_permutations, self.engine,
            self.seed, self.blocks, budget, single,
        )  # fmt: skip

    def nothing(self, observed: Observed, n_permutations: int) -> Counts:
        """Counts to start from."""
        kept = n_permutations if self.keep_null else 0
        return Counts.start(observed, self.alternative, self.tail, kept)


def counted(
    job: Job, plan: Plan, observed: Observed, cluster: Cluster | None, progress: bool
) -> Counts:
    """Counts of all relabellings of a plan of this job."""
    counts = job.nothing(observed, plan.n_permutations)
    with track(plan.n_permutations, "relabellings", progress) as advance:
        if cluster is None:
            for block in plan.blocks():
                counts.add(block)
                advance(block.size)
            return counts
        with connected(cluster) as client:
            task = (once(client, job), once(client, observed))
            calls = ((*task, rows) for rows in _shares(plan.rows))
            with closing(in_order(client, _count, calls)) as parts:
                for part in parts:
                    counts.merge(part)
                    advance(part.tally.permutations)
    return counts


def _shares(rows: int) -> Iterator[range]:
    size = -(-rows // _SHARES)
    return (range(at, min(at + size, rows)) for at in range(0, rows, size))


def _count(job: Job, observed: Observed, rows: range) -> Counts:
    """The work of one task of a cluster."""
    counts = job.nothing(observed, 0)
    blocks: Iterator[Block] = job.plan().run(rows)
    for block in blocks:
        counts.add(block)
    return counts
