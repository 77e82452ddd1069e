"""`permutation_test_files`: are RDMs related that are too large for memory?"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from rsafast_kernels.atomic import PathInput
from rsafast_kernels.orbit import streaming
from rsafast_kernels.relabel import relabelings
from rsafast_kernels.tally import Alternative

from rsafast._condensed import n_pairs
from rsafast.cluster import Cluster, connected
from rsafast.errors import UnsupportedCaseError
from rsafast.memory import parse_bytes
from rsafast.ondisk import engine
from rsafast.ondisk.plan import Orbits, Sizes, StreamPlan, choose_orbits, details, make_plan
from rsafast.ondisk.ranks import Ranks, check_ranks
from rsafast.ondisk.rows import Rows, panel_bytes, panels
from rsafast.ondisk.survey import (
    Large,
    Method,
    Survey,
    Values,
    opened,
    passes,
    surveyed,
    values_dtype,
)
from rsafast.ondisk.work import resumable_if_named
from rsafast.permutation.counts import TOLERANCE, Counts, Observed, result_of
from rsafast.permutation.engines import Sampling
from rsafast.permutation.moments import mean_and_std_of_sums
from rsafast.permutation.result import PermutationResult
from rsafast.permutation.setup import NullMoments, check_choices
from rsafast.progress import track

# Nanoseconds a pair, for the estimate: counting and looking up ranks, and the survey of one RDM.
_COUNTING, _LOOKING_UP, _SURVEYING = 10.0, 5.0, 6.0


def permutation_test_files(
    models: Large | Sequence[Large],
    brain: Large | Sequence[Large],
    *,
    method: Method = "spearman",
    n_permutations: int = 100_000,
    alternative: Alternative = "greater",
    tail: Literal["gpd"] | None = None,
    ranks: Ranks = "float32",
    seed: int = 0,
    memory_budget: int | str | None = None,
    out: PathInput | None = None,
    resume: bool = True,
    cluster: Cluster | None = None,
    progress: bool = True,
) -> PermutationResult:
    """Test RDMs that are too large for memory: :func:`rsafast.permutation_test`, streamed.

    The null hypothesis, what it generalises to, the p-values and their corrections are those of
    :func:`rsafast.permutation_test`. RDMs are read in rows, a few times in all, and their
    circulant diagonals are taken some at a time (orbit sampling). Relabellings are
    ``g ∘ (x → u·x + s) ∘ r⁻¹`` with random g and r, every shift s and a group of units u of Z_n;
    p-values are exact with units as they are without. Relabellings of one pair (g, r) are not
    independent, so that the Monte Carlo error is estimated from the spread between pairs.

    Parameters
    ----------
    models, brain : RDM files, opened or not, or :func:`rsafast.lazy_rdm`
        All over the same stimuli in the same order: nothing is reordered.
    method : {"spearman", "pearson", "cosine"}
        "spearman" takes files of ranks (:func:`rsafast.rank_rdm_file`) as they are, and ranks
        others wherever they are read, after two passes that count their values.
    n_permutations : relabellings wanted
        Whole orbits are evaluated, so some more than asked for; the result tells.
    alternative, seed : as of :func:`rsafast.permutation_test`
    tail : {"gpd"}, optional
        Also approximate p-values below ``1 / n_permutations``.
    ranks : {"float32", "uint16"}
        How ranks that are made here are held: exact, or in 65,536 steps (see
        :func:`rsafast.rank_rdm_file`) at half the memory.
    memory_budget : bytes or a size like "2GB", optional
        By default 2 GB, or a quarter of a small machine. More memory, fewer passes over the RDMs;
        what is found does not depend on it.
    out : file for the result, .h5, optional
        While it is in the making, the sums so far lie beside it, and a run that was killed goes on
        from there when it is called again with the same arguments.
    resume : False starts anew
    cluster : address, Client or "local", optional
        Dask cluster that reads the RDMs and sums over their diagonals, to the same bits; files must
        lie on a disk that its workers share. `memory_budget` is then that of every worker, and
        workers of one thread use it best. See docs/large.md.
    progress : show bars

    Returns
    -------
    PermutationResult

    Raises
    ------
    InvalidInputError
        As :func:`rsafast.compare_files`; for bad counts and choices; for a budget that is too
        small; and while another process writes `out`.

    See Also
    --------
    plan_permutation_test_files : what it will do, and how long it takes.

    References
    ----------
    As of :func:`rsafast.permutation_test`; Koning & Hemerik (2023) for subgroups.

    Examples
    --------
    >>> import numpy as np, rsafast as rf
    >>> x = np.random.default_rng(0).standard_normal((2, 300, 20)).astype(np.float32)
    >>> model, brain = rf.lazy_rdm(x[0]), rf.lazy_rdm(x[0] + 3 * x[1])
    >>> result = rf.permutation_test_files(model, brain, n_permutations=10_000)
    >>> result.n_permutations >= 10_000, bool(result.p_value[0, 0] < 0.01)
    (True, True)
    """
    started = time.perf_counter()
    check_choices(n_permutations, alternative, tail, "auto", seed, "freedman-lane")
    if tail not in (None, "gpd"):
        raise UnsupportedCaseError(f"tail={tail!r} needs whole matrices; use tail='gpd'")
    task = _task(models, brain, method, n_permutations, ranks, memory_budget)
    with (
        resumable_if_named(out, (task.key, alternative, tail, seed), resume=resume) as work,
        nullcontext() if cluster is None else connected(cluster) as client,
    ):
        watch = engine.Stopwatch()
        with watch.timing("survey"):
            found, values = surveyed(task.rdms, method, ranks, task.budget, progress)
        plan = make_plan(task.orbits, task.sizes(values), task.budget)
        observed = _observed(found, len(task.models))
        counts = Counts.start(observed, alternative, tail)
        checkpoint = engine.Checkpoint(work, counts, plan)
        sides = engine.sides(values, len(task.models), found, seed)
        with track(task.orbits.n_permutations, "relabellings", progress) as advance:
            for block in engine.run(plan, sides, checkpoint, watch, advance, client):
                counts.add(block)
        counts.check()
        asked = int(n_permutations)
        how = details(plan) | {"stages": watch.seconds}
        result = _result(task, how, counts, observed, tail, asked, int(seed), started)
        if work is not None:
            work.finish(result.save)
    return result


def plan_permutation_test_files(
    models: Large | Sequence[Large],
    brain: Large | Sequence[Large],
    *,
    method: Method = "spearman",
    n_permutations: int = 100_000,
    ranks: Ranks = "float32",
    memory_budget: int | str | None = None,
) -> StreamPlan:
    """Say what :func:`rsafast.permutation_test_files` will do, and about how long it takes.

    Parameters
    ----------
    As of :func:`rsafast.permutation_test_files`.

    Returns
    -------
    StreamPlan
        ``print`` it. Times are those of a small part of the work, measured here and now, and of
        files that may still be in the system's cache.
    """
    check_choices(n_permutations, "greater", None, "auto", 0, "freedman-lane")
    task = _task(models, brain, method, n_permutations, ranks, memory_budget)
    plan = make_plan(task.orbits, task.sizes(), task.budget)
    return replace(plan, seconds=_estimated(task, plan))


# ---------------------------------------------------------------- arguments


@dataclass(frozen=True, slots=True)
class _Task:
    models: list[Rows]
    brain: list[Rows]
    orbits: Orbits
    method: str
    ranks: Ranks
    budget: int

    @property
    def rdms(self) -> list[Rows]:
        return [*self.models, *self.brain]

    @property
    def key(self) -> tuple[Any, ...]:
        """All that decides what is found, but for the seed and what is counted."""
        sources = [rdm.identity for rdm in self.rdms]
        orbits = (self.orbits.counts, self.orbits.units.tolist())
        return (sources, len(self.models), self.method, self.ranks, orbits)

    def sizes(self, values: Sequence[Values] | None = None) -> Sizes:
        """What a plan has to know; before ranks are counted, without the tables of the ranks."""
        n, rdms = self.orbits.n_stimuli, self.rdms
        models, brain = (
            max(values_dtype(rdm, self.method, self.ranks).itemsize for rdm in side)
            for side in (self.models, self.brain)
        )
        sources = rdms if values is None else [v.source for v in values]
        return Sizes(
            rdms=(len(self.models), len(self.brain)),
            itemsize=(models, brain),
            # A panel and the next one, and what conversions make of it.
            reading=2 * max(panel_bytes(n, [rdm]) for rdm in rdms)
            + sum(source.working_bytes for source in sources),
            stored=sum(n_pairs(n) * rdm.dtype.itemsize for rdm in rdms),
        )


def _task(
    models: Large | Sequence[Large],
    brain: Large | Sequence[Large],
    method: str,
    n_permutations: int,
    ranks: Ranks,
    memory_budget: int | str | None,
) -> _Task:
    """Checked arguments; what does not fit the budget is told before work begins."""
    check_ranks(ranks)
    budget = parse_bytes(memory_budget)
    left, right = opened(models, brain, method, budget)
    orbits = choose_orbits(left[0].n_stimuli, int(n_permutations), len(left), len(right))
    task = _Task(left, right, orbits, method, ranks, budget)
    make_plan(orbits, task.sizes(), budget)
    return task


# ---------------------------------------------------------------- what is compared


def _observed(found: Survey, models: int) -> Observed:
    n = found.row_sums.shape[1]
    left, right = (
        (rows, np.full(len(rows), 2.0))  # every pair stands twice in a matrix of unit norm
        for rows in (found.row_sums[:models], found.row_sums[models:])
    )
    return Observed(
        np.ascontiguousarray(found.similarity[:models, models:]),
        TOLERANCE,
        NullMoments(*mean_and_std_of_sums(left, right, n), exact=True),
    )


def _result(
    task: _Task,
    how: dict[str, Any],
    counts: Counts,
    observed: Observed,
    tail: str | None,
    n_permutations: int,
    seed: int,
    started: float,
) -> PermutationResult:
    total, n = task.orbits.n_permutations, task.orbits.n_stimuli
    return result_of(
        Sampling(
            engine="orbit-streamed", n_permutations=total, independent_blocks=True, details=how
        ),
        counts,
        observed,
        tuple(rdm.name for rdm in task.models),
        tuple(rdm.name for rdm in task.brain),
        n,
        tail=tail,
        method=task.method,
        seed=seed,
        parameters={
            "n_permutations": n_permutations,
            "memory_budget": task.budget,
            "models": [rdm.identity for rdm in task.models],
            "brain": [rdm.identity for rdm in task.brain],
            "ranks": task.ranks,
            "pairs": n_pairs(n),
        },
        inputs={},
        started=started,
    )


# ---------------------------------------------------------------- estimate


def _estimated(task: _Task, plan: StreamPlan) -> dict[str, float]:
    """Seconds of every stage, from a small part of each."""
    orbits = task.orbits
    n, pairs = orbits.n_stimuli, n_pairs(orbits.n_stimuli)
    rdms, matrices = len(task.rdms), 0
    for i, j in plan.tiles:
        matrices += len(i) * len(task.models) + len(j) * len(task.brain)
    to_rank = (passes(task.rdms, task.method) - rdms) // 2
    reading = sum(_seconds_to_read(rdm) for rdm in task.rdms)
    a_pass = reading + to_rank * _LOOKING_UP * 1e-9 * pairs
    return {
        "survey": a_pass
        + 2 * reading * to_rank / rdms
        + 1e-9 * pairs * (rdms * _SURVEYING + to_rank * _COUNTING),
        "reading": plan.passes * a_pass,
        "filling": _seconds_to_fill(n) * matrices,
        "transforms and products": _seconds_to_add(plan, len(task.models), len(task.brain)),
    }


def _seconds_to_read(rdm: Rows) -> float:
    """Of a whole RDM, from its first rows."""
    n = rdm.n_stimuli
    first, last = panels(n, [rdm.step])[0]
    start = time.perf_counter()
    read = len(rdm.read_rows(first, last))
    return (time.perf_counter() - start) * n_pairs(n) / read


def _seconds_to_fill(n: int) -> float:
    """Of all diagonals of one relabelled matrix, from some of the rows and diagonals."""
    held, rows = max(1, min(n // 2, 2**27 // n)), max(1, min(n, 2**22 // n))
    first = (n - rows) // 2
    pairs = n_pairs(n - first) - n_pairs(n - first - rows)
    values, out = np.zeros(pairs, np.float32), np.zeros((held, n), np.float32)
    order = relabelings(0, 0, 0, 1, n)[0]
    wanted = np.arange(1, held + 1)
    seconds = _best(lambda: streaming.fill(values, first, first + rows, order, wanted, out))
    return seconds * (n / rows) * (n // 2 / held)


def _seconds_to_add(plan: StreamPlan, models: int, brain: int) -> float:
    orbits = plan.orbits
    n, (a, b) = orbits.n_stimuli, plan.tile
    chunk = max((c for part in orbits.parts for c in part), key=lambda c: len(c.residues))
    diagonals = streaming.stored_diagonals(chunk.residues, n)
    sums = streaming.Sums(n, a * models, b * brain, orbits.units)
    left, right = (
        np.ones((rows, len(diagonals), n), np.float32) for rows in (a * models, b * brain)
    )
    ones = (np.ones(len(left)), np.ones(len(right)))
    seconds = _best(lambda: sums.add(chunk, left, right, diagonals, ones, ones))
    return seconds / len(chunk.residues) * (n / 2) * len(plan.tiles)


def _best(call: Callable[[], object]) -> float:
    """Seconds of the faster of two calls: the first one touches new memory."""
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds)
