"""`permutation_test`: are these model RDMs and these brain RDMs related?"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rsafast_kernels.device import fall_back, resolve
from rsafast_kernels.tally import Alternative

from rsafast.cluster import Cluster
from rsafast.comparators import get_comparator
from rsafast.errors import InvalidInputError, UnsupportedCaseError
from rsafast.mask import as_pair_mask
from rsafast.memory import parse_bytes
from rsafast.permutation import moments
from rsafast.permutation.counts import TOLERANCE, Observed, result_of
from rsafast.permutation.engines import Plan
from rsafast.permutation.job import Job, counted
from rsafast.permutation.result import PermutationResult
from rsafast.permutation.setup import (
    Engine,
    Tail,
    aligned,
    as_groups,
    check_choices,
    null_moments,
)
from rsafast.permutation.statistics import CovariateScheme, Product, Statistic, build_statistic

_WELL_CONDITIONED = 100.0  # conditioning up to which rounding is that of the products


def permutation_test(
    models: Any,
    brain: Any,
    *,
    method: str = "spearman",
    n_permutations: int = 100_000,
    alternative: Alternative = "greater",
    covariates: Any | None = None,
    mask: ArrayLike | None = None,
    blocks: ArrayLike | None = None,
    tail: Tail | None = None,
    engine: Engine = "auto",
    seed: int = 0,
    device: str = "auto",
    keep_null: bool = False,
    memory_budget: int | str | None = None,
    cluster: Cluster | None = None,
    progress: bool = True,
    covariate_scheme: CovariateScheme = "freedman-lane",
) -> PermutationResult:
    """Test every model RDM against every brain RDM by relabelling the stimuli of the models.

    The null hypothesis is that model and brain RDM are unrelated: the stimulus labels of one are
    exchangeable with respect to the other. It concerns these stimuli, subjects and seeds; it is
    never a test that two models are equal, nor does it generalise to other stimuli or subjects.
    The p-value counts the observed labelling among the relabellings, so it is never 0 and
    P(p <= alpha) <= alpha under the null. With covariates it is exact only approximately, and with
    Spearman a strong covariate is not removed entirely, since ranks of a sum are not linear in the
    ranks of its parts (docs/methods.md has the measured sizes): prefer Pearson for partial tests.

    Family-wise p-values (max-T) compare pairs by their statistic standardised with the exact mean
    and standard deviation of its null, so that a pair with a narrow null is not drowned by one with
    a wide null; masked, partial and Kendall statistics, and tests within blocks, whose null moments
    are not known exactly, by the statistic itself.

    Parameters
    ----------
    models, brain : RDMs, arrays ((k, pairs), (k, n, n), (pairs,)) or rsatoolbox RDMs
        At least 4 stimuli, matched by label where both sides have labels. Models must be complete;
        brain RDMs may miss pairs that `mask` leaves out.
    method : comparator, see `compare`
    n_permutations : relabellings wanted
        The orbit engine evaluates whole orbits of n, so a few more than asked for; the exact
        engine all there are. The result tells.
    alternative : {"greater", "less", "two-sided"}
        Two-sided counts relabellings with at least the observed absolute value.
    covariates : RDMs, optional
        RDMs to hold constant (partial RSA; pearson and spearman).
    mask : (n, n) or (pairs,) bool, optional
        True where a pair of the brain side counts (missing pairs, cross-run pairs). Model values
        move in and out of the mask with the relabelling. Ranks: the model keeps the ranks of all
        its pairs, the brain is ranked inside the mask; ``engine="direct"`` without covariates
        instead ranks the model anew inside the mask under every relabelling.
    blocks : (n,) integers or strings, optional
        Stimuli trade labels only within their block (runs, categories).
    tail : {"gpd", "pearson3"}, optional
        Also approximate p-values below ``1 / n_permutations``: by a generalised Pareto fit to the
        largest null values (Knijnenburg et al. 2009), or by a Pearson III law with the exact
        moments of the null (Mielke & Berry 2007).
    engine : {"auto", "orbit", "exact", "direct"}
        "auto" enumerates where there are no more relabellings than asked for, else samples orbits;
        Kendall's tau and blocks go through the direct engine.
    seed : int
        The same seed gives the same relabellings on any machine, thread count and memory budget.
    device : {"auto", "cpu", "cuda"}
        "auto" takes a GPU that CuPy can use; the counts are the same. Kendall's tau and ranks taken
        anew inside a mask have no GPU kernel.
    keep_null : keep every permuted statistic (8 bytes each).
    memory_budget : bytes or a size like "2GB", for working arrays (2 GB by default; on a GPU most
        of what is free).
    cluster : address, Client or "local", optional
        Dask cluster that counts in 32 shares, to the same counts. Give each worker one GPU, and
        several are used; `device` and `memory_budget` then hold for every worker.
    progress : show a bar on stderr after a second.
    covariate_scheme : {"freedman-lane", "raw"}
        Permute the residuals of the model given the covariates, or the model itself.

    Returns
    -------
    PermutationResult

    Raises
    ------
    InvalidInputError
        Bad RDMs, labels, masks, counts or names; an impossible memory budget.
    UnsupportedCaseError
        A request that no engine answers, such as covariates for Kendall's tau.
    BackendUnavailableError
        ``device="cuda"`` where it cannot run.

    References
    ----------
    Mantel (1967); Hemerik & Goeman (2018) for exactness with random subsets of permutations;
    Westfall & Young (1993) for max-T; Benjamini & Hochberg (1995) for q; Freedman & Lane (1983).

    Examples
    --------
    >>> import numpy as np, rsafast as rf
    >>> points = np.random.default_rng(0).normal(size=(30, 5))
    >>> model = rf.compute_rdms(points, "euclidean")
    >>> brain = rf.compute_rdms(points + np.random.default_rng(1).normal(size=(30, 5)), "euclidean")
    >>> result = rf.permutation_test(model, brain, n_permutations=10_000)
    >>> bool(result.p_value[0, 0] < 0.001)
    True
    """
    started = time.perf_counter()
    if cluster is not None and keep_null:
        raise UnsupportedCaseError("keep_null keeps every statistic here; leave cluster= out")
    resolve(device, "cupy")
    comparator = get_comparator(method)
    check_choices(n_permutations, alternative, tail, engine, seed, covariate_scheme)
    budget = parse_bytes(memory_budget)
    a, b, z = aligned(models, brain, covariates)
    keep = as_pair_mask(mask, a, b)
    n_permutations, seed = int(n_permutations), int(seed)
    groups = as_groups(blocks, a.n_stimuli)
    statistic = build_statistic(
        comparator,
        a,
        b,
        covariates=z,
        keep=keep,
        scheme=covariate_scheme,
        rerank=engine == "direct",
    )
    if tail == "pearson3" and not isinstance(statistic, Product):
        raise UnsupportedCaseError(
            "tail='pearson3' needs the exact moments of the null, which masks, covariates and"
            " Kendall's tau do not have; use tail='gpd'"
        )
    if tail == "pearson3" and groups is not None:
        raise UnsupportedCaseError("tail='pearson3' does not know blocks; use tail='gpd'")
    return run_test(
        statistic, a.names, b.names, a.n_stimuli,
        method=comparator.name, n_permutations=n_permutations, alternative=alternative,
        blocks=groups, tail=tail, engine=engine, seed=seed, keep_null=keep_null, budget=budget,
        device=device, gpu_budget=None if memory_budget is None else budget,
        cluster=cluster, progress=progress, started=started,
        parameters={
            "covariates": None if z is None else list(z.names),
            "covariate_scheme": None if z is None else covariate_scheme,
            "pairs": int(keep.sum()),
            "pairs_of": keep.size,
        },
        inputs={"models": a.vectors, "brain": b.vectors, "mask": keep}
        | ({} if z is None else {"covariates": z.vectors}),
    )  # fmt: skip


def run_test(
    statistic: Statistic,
    model_names: tuple[str, ...],
    brain_names: tuple[str, ...],
    n: int,
    *,
    method: str,
    n_permutations: int,
    alternative: Alternative,
    blocks: NDArray[np.int64] | None = None,
    tail: Tail | None = None,
    engine: Engine = "auto",
    seed: int = 0,
    keep_null: bool = False,
    budget: int,
    device: str = "cpu",
    gpu_budget: int | None = None,
    cluster: Cluster | None = None,
    progress: bool = True,
    started: float,
    parameters: dict[str, Any],
    inputs: dict[str, NDArray[Any]],
) -> PermutationResult:
    """Run the permutation test of any statistic; the arguments are checked ones.

    Parameters
    ----------
    statistic : (models, brain) values under any relabelling of the n stimuli.
    gpu_budget : bytes of GPU memory to work in; by default most of what is free.
    method, parameters, inputs, started : what the result records; `inputs` are hashed.
    The others : see `permutation_test`.
    """
    shape = (len(model_names), len(brain_names))
    where = resolve(device, "cupy")
    if where == "cuda" and not statistic.bilinear:
        fall_back(device, f"method {method!r} here")
        where = "cpu"
    job = Job(
        statistic, shape, n, n_permutations, engine, seed, blocks, alternative, tail, keep_null,
        budget, where, gpu_budget,
    )  # fmt: skip
    plan = job.plan()
    _check_null_size(plan, shape, keep_null, budget)

    observed = Observed(
        statistic.evaluate(np.arange(n, dtype=np.int32)[None])[:, :, 0],
        TOLERANCE * np.maximum(1.0, statistic.conditioning / _WELL_CONDITIONED),
        null_moments(statistic, n, seed, blocks, budget),
        moments.skewness(statistic.models, statistic.brain)
        if tail == "pearson3" and isinstance(statistic, Product)
        else None,
    )
    counts = counted(job, plan, observed, cluster, progress)
    counts.check()
    return result_of(
        plan, counts, observed, model_names, brain_names, n,
        tail=tail, method=method, seed=seed,
        parameters={
            "n_permutations": n_permutations,
            "engine": engine,
            **parameters,
            "blocks": None if blocks is None else len(np.unique(blocks)),
            "memory_budget": budget,
        },
        inputs=inputs,
        started=started,
    )  # fmt: skip


def _check_null_size(plan: Plan, shape: tuple[int, int], keep_null: bool, budget: int) -> None:
    size = 8 * plan.n_permutations * shape[0] * shape[1]
    if keep_null and size > budget:
        raise InvalidInputError(
            f"keep_null would take {size:.3g} bytes, more than memory_budget ({budget:.3g});"
            " raise the budget, or leave keep_null out: the result holds a histogram of the null"
        )
