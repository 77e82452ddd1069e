"""`bootstrap`: how well does a rule align, how sure is that, and does another align better?"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm
from scipy.stats import t as student

from rsafast.checks import check_integers
from rsafast.comparators import FloatArray
from rsafast.errors import InvalidInputError
from rsafast.inference.bootstrap.draws import jackknife_counts
from rsafast.inference.bootstrap.intervals import (
    Interval,
    acceleration,
    check_interval,
    interval,
    quantile_p,
    rescaled,
    t_test,
)
from rsafast.inference.bootstrap.replicates import (
    FACTORS,
    Ceiling,
    Draws,
    Resampled,
    ScoreBlock,
    check_factors,
    given_draws,
    prepare_study,
    replicate_scores,
    seeded_draws,
)
from rsafast.inference.bootstrap.result import BootstrapResult
from rsafast.inference.bootstrap.variance import (
    Subset,
    corrected_variance,
    jackknife_dof,
    jackknife_variance,
    own_parts,
    satterthwaite,
    subsets,
    with_leverage,
)
from rsafast.io.provenance import provenance
from rsafast.memory import format_bytes, parse_bytes
from rsafast.progress import Advance, track

MIN_RESAMPLES = 100
_ROUNDING = 1e-12  # similarities that differ by less are the same
_FEW = 10  # items of a factor below which standard errors are rough


def bootstrap(
    models: Any,
    brain: Any,
    *,
    method: str = "spearman",
    resample: Sequence[str] = ("stimuli",),
    n_resamples: int = 10_000,
    seed: int = 0,
    rules: str | Sequence[Any] | None = None,
    seeds: str | Sequence[Any] | None = None,
    regions: str | Sequence[Any] | None = None,
    subjects: str | Sequence[Any] | None = None,
    interval: Interval = "percentile",
    level: float = 0.95,
    mask: ArrayLike | None = None,
    ceiling: bool = False,
    memory_budget: int | str | None = None,
    progress: bool = True,
    device: str = "auto",
) -> BootstrapResult:
    """Estimate the alignment of rules with regions, with intervals, by resampling whole items.

    The alignment of a rule with a region is the mean similarity over the rule's seeds and the
    region's subjects. Stimuli, subjects and seeds are drawn with replacement, the same draws for
    all rules and regions, so that differences are paired; a stimulus drawn twice has no
    dissimilarity to itself. The factors resampled say to whom the result generalises: new stimuli,
    new subjects, newly trained networks, or all of them at once. Factors left out are taken as
    they are.

    Null hypotheses: `p_zero`, the alignment in the population is not above 0; `p_pairwise`, two
    rules align equally well; `p_ceiling`, the alignment equals the lower noise ceiling. They are
    t-tests with corrected standard errors, and not corrected for their number: see `adjust_p`.

    Parameters
    ----------
    models, brain : RDMs, arrays ((k, pairs), (k, n, n), (pairs,)) or rsatoolbox RDMs
        At least 4 stimuli, matched by label where both sides have labels.
    method : comparator, see `compare`
    resample : "stimuli", "subjects", "seeds", or several of them
    n_resamples : int
    seed : int
        The same seed gives the same result whatever the memory budget and number of threads.
    rules, seeds : descriptor of the models, or one label a model
        Which rule and which seed each model is. By default every model is a rule with one seed.
        Seeds belong to their rule: seed 1 of two rules is not the same network.
    regions, subjects : descriptor of the brain RDMs, or one label an RDM
        By default all are of one region, each of another subject. With several regions, subjects
        are needed where they are resampled: a subject is drawn for all regions at once.
    interval : {"percentile", "basic", "bca", "t"}
        Quantiles are taken at levels expanded for few items (Hesterberg 2015).
    level : 0.95 for 95 % intervals
    mask : (n, n) or (pairs,) bool, optional
        True where a pair counts. Ranks are taken inside the mask.
    ceiling : also resample the noise ceiling and test against its lower bound
    memory_budget : bytes or a size like "2GB"
        For working arrays (2 GB by default; on a GPU most of what is free). On the CPU it never
        changes a value, on a GPU at most the last digits.
    progress : show a bar on work longer than a second
    device : {"auto", "cpu", "cuda"}
        Where stimulus draws are scored. "auto" takes a GPU where there is one, and the CPU for what
        has no GPU kernel: whitened comparators, Kendall's tau, and the ceilings of spearman and
        rho-a. The draws are the same, and replicates agree to 1e-10; those of ranks of up to some
        800 stimuli are the same numbers.

    Returns
    -------
    BootstrapResult

    Raises
    ------
    InvalidInputError
        Bad input; a single item of a factor that is resampled; two RDMs of one subject in one
        region or of one seed in one rule; more than half of the resamples without a value.
    UnsupportedCaseError
        ``ceiling=True`` with Kendall's tau; a mask with whitened comparators.
    BackendUnavailableError
        ``device="cuda"`` where it cannot run.

    Notes
    -----
    Standard errors with several factors take the interaction, which a bootstrap of all factors
    counts several times, once (Schütt et al. 2023 for two factors; for any number of factors
    `rsafast.inference.bootstrap.variance`). The part of the stimuli is the jackknife's (of more
    than 128, that of 128 groups), because bootstrap variances over stimuli are too small (see the
    guide). Degrees of freedom are Satterthwaite's. Where stimuli or several factors are resampled,
    replicates are rescaled about the estimate to the corrected standard error before quantiles are
    taken.

    Examples
    --------
    >>> import numpy as np, rsafast as rf
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.normal(size=(30, 5))
    >>> brain = rf.compute_rdms(truth + rng.normal(size=(12, 30, 5)))
    >>> models = rf.compute_rdms({"good": truth, "poor": truth + 2 * rng.normal(size=(30, 5))})
    >>> result = rf.bootstrap(models, brain, resample=("stimuli", "subjects"), n_resamples=500)
    >>> result.estimates.shape, bool(result.p_pairwise[0, 0, 1] < 0.05)
    ((2, 1), True)
    """
    factors = check_factors(resample)
    check_interval(interval, level)
    check_integers(
        whole_floats=True, n_resamples=(n_resamples, MIN_RESAMPLES), seed=(seed, 0)
    )
    study = prepare_study(
        models, brain, method=method, rules=rules, seeds=seeds, regions=regions, subjects=subjects,
        mask=mask, match_subjects="subjects" in factors, device=device,
        gpu_budget=None if memory_budget is None else parse_bytes(memory_budget),
    )  # fmt: skip
    draws = seeded_draws(study, factors, int(n_resamples), int(seed))
    return bootstrap_of(
        study, draws, interval_kind=interval, level=float(level), ceiling=ceiling, seed=int(seed),
        memory_budget=memory_budget, progress=progress,
    )  # fmt: skip


def bootstrap_of(
    study: Resampled,
    draws: Draws,
    *,
    interval_kind: str = "percentile",
    level: float = 0.95,
    ceiling: bool = False,
    seed: int = 0,
    memory_budget: int | str | None = None,
    progress: bool = False,
) -> BootstrapResult:
    """Bootstrap a prepared study with given draws: see `bootstrap`."""
    started = time.perf_counter()
    budget = parse_bytes(memory_budget)
    factors = _factors(draws)
    _check_memory(study, draws, factors, ceiling, budget)
    bounds = study.ceiling() if ceiling else None
    rules, ceilings = _resampled(study, draws, bounds, seed, budget, progress)
    valid = _valid(rules, ceilings)
    rules, ceilings = rules.only(valid), None if ceilings is None else ceilings.only(valid)
    items = _Items(study, factors)
    rule = _Rule(interval_kind, level, rescale="stimuli" in factors or len(factors) > 1)
    alignment = rule.infer(rules, items.of_rules(), two_sided=False)
    pairwise = _pairwise(rule, rules, items)
    against = None if ceilings is None else _against(rule, rules, ceilings, items)
    return BootstrapResult(
        estimates=rules.estimate,
        standard_error=alignment.standard_error,
        ci=alignment.ci,
        p_zero=alignment.p,
        p_zero_quantile=alignment.p_quantile,
        difference=pairwise.estimate,
        difference_standard_error=pairwise.standard_error,
        difference_ci=pairwise.ci,
        p_pairwise=pairwise.p,
        p_pairwise_quantile=pairwise.p_quantile,
        dof=alignment.dof,
        difference_dof=pairwise.dof,
        replicates=rules.replicates[factors],
        raw_variance=np.stack([v.var(axis=0, ddof=1) for v in rules.replicates.values()]),
        subsets=tuple("+".join(subset) for subset in rules.replicates),
        scores=study.layout.model_means(study.observed),
        region_of=study.layout.region_of,
        subject_names=tuple(study.layout.subjects[i] for i in study.layout.subject_of),
        rules=study.layout.rules,
        regions=study.layout.regions,
        n_seeds=study.layout.n_seeds,
        n_subjects=study.layout.n_subjects,
        n_stimuli=study.n_stimuli,
        method=study.method,
        resample=factors,
        interval=interval_kind,
        level=level,
        n_resamples=draws.n_resamples,
        n_excluded=int((~valid).sum()),
        seed=seed,
        ceiling=None if ceilings is None else ceilings.estimate,
        ceiling_standard_error=None if against is None else against.ceiling_error,
        ceiling_replicates=None if ceilings is None else ceilings.replicates[factors],
        p_ceiling=None if against is None else against.p,
        p_ceiling_quantile=None if against is None else against.p_quantile,
        notes=_notes(study, items, rule, int(valid.sum()), alignment),
        parameters={
            "rules": list(study.layout.rules),
            **study.described,
            "memory_budget": budget,
        },
        provenance=provenance()
        | {"seconds": time.perf_counter() - started}
        | study.hashes,
    )


# ---------------------------------------------------------------- input


def _factors(draws: Draws) -> Subset:
    drawn = (draws.stimuli, draws.brain, draws.models)
    return tuple(
        factor for factor, source in zip(FACTORS, drawn, strict=True) if source is not None
    )


def _check_memory(
    study: Resampled, draws: Draws, factors: Subset, ceiling: bool, budget: int
) -> None:
    regions = len(study.layout.regions)
    values = len(subsets(factors)) * regions * (len(study.layout.rules) + 2 * ceiling)
    size = 8 * draws.n_resamples * values
    if size > budget:
        raise InvalidInputError(
            f"the replicates would take {format_bytes(size)}, more than memory_budget"
            f" ({format_bytes(budget)}); raise it, lower n_resamples, or take fewer rules at a time"
        )


# ---------------------------------------------------------------- resamples


@dataclass(frozen=True, slots=True)
class _Sampled:
    """An estimate (...), its replicates (R, ...) by subset of factors, and its jackknifes."""

    estimate: FloatArray
    replicates: dict[Subset, FloatArray]
    jackknifes: dict[str, FloatArray]

    def only(self, valid: NDArray[np.bool_]) -> _Sampled:
        kept = {subset: values[valid] for subset, values in self.replicates.items()}
        return _Sampled(self.estimate, kept, self.jackknifes)

    def at(self, place: Any) -> _Sampled:
        return _Sampled(
            self.estimate[place],
            {subset: values[:, *place] for subset, values in self.replicates.items()},
            {name: values[:, *place] for name, values in self.jackknifes.items()},
        )

    def __sub__(self, other: _Sampled) -> _Sampled:
        shared = [name for name in self.jackknifes if name in other.jackknifes]
        return _Sampled(
            self.estimate - other.estimate,
            {u: values - other.replicates[u] for u, values in self.replicates.items()},
            {name: self.jackknifes[name] - other.jackknifes[name] for name in shared},
        )


def _resampled(
    study: Resampled,
    draws: Draws,
    bounds: Ceiling | None,
    seed: int,
    budget: int,
    progress: bool,
) -> tuple[_Sampled, _Sampled | None]:
    """Alignments (rules, regions) and ceilings (regions, 2) on the resamples of every subset."""
    layout, groups = study.layout, subsets(_factors(draws))
    shape = (draws.n_resamples, len(layout.rules), len(layout.regions))
    aligned = {subset: np.empty(shape) for subset in groups}
    ceilings = {subset: np.empty((shape[0], shape[2], 2)) for subset in groups if bounds}
    fixed = None if bounds is None else bounds(None, [None])[0]
    without = None
    if draws.stimuli is not None:
        without = given_draws(study, stimuli=jackknife_counts(seed, study.n_stimuli))
    total = draws.n_resamples + (0 if without is None else without.n_resamples)
    with track(total, "resamples", progress) as advance:
        for block in replicate_scores(study, draws, memory_budget=budget, advance=advance):
            place = slice(block.start, block.stop)
            for subset, values in aligned.items():
                values[place] = layout.means(
                    block.scores if "stimuli" in subset else study.observed[None],
                    block.model_counts if "seeds" in subset else None,
                    block.brain_counts if "subjects" in subset else None,
                )
            if bounds is not None and fixed is not None:
                got = _ceilings(bounds, fixed, block)
                for subset, values in ceilings.items():
                    values[place] = got["stimuli" in subset, "subjects" in subset]
        left_out = _left_out(study, without, bounds, budget, advance)
    observed = layout.means(study.observed[None])[0]
    rules = _Sampled(observed, aligned, _jackknifes(study, draws) | left_out[0])
    return rules, None if fixed is None else _Sampled(fixed[0], ceilings, left_out[1])


def _ceilings(
    bounds: Ceiling, fixed: FloatArray, block: ScoreBlock
) -> dict[tuple[bool, bool], FloatArray]:
    """Ceilings with stimuli, subjects, both or neither resampled."""
    out, brain = {(False, False): fixed}, block.brain_counts
    wanted = [None] if brain is None else [None, brain]
    if block.stimulus_counts is not None:
        for counts, values in zip(wanted, bounds(block, wanted), strict=True):
            out[True, counts is not None] = values
    if brain is not None:
        out[False, True] = bounds(None, [brain])[0]
    return out


def _left_out(
    study: Resampled,
    without: Draws | None,
    bounds: Ceiling | None,
    budget: int,
    advance: Advance,
) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """Alignments and ceilings with each group of a jackknife left out, if stimuli are resampled."""
    if without is None:
        return {}, {}
    aligned, ceilings = [], []
    for block in replicate_scores(study, without, memory_budget=budget, advance=advance):
        aligned.append(study.layout.means(block.scores))
        if bounds is not None:
            ceilings += bounds(block, [None])
    return (
        {"stimuli": np.concatenate(aligned)},
        {"stimuli": np.concatenate(ceilings)} if ceilings else {},
    )


def _jackknifes(study: Resampled, draws: Draws) -> dict[str, FloatArray]:
    """Alignments with each subject left out, and with each seed of every rule."""
    layout, observed, out = study.layout, study.observed[None], {}
    if draws.brain is not None:
        absent = np.arange(len(layout.subjects))[:, None] == layout.subject_of
        values = layout.means(observed, None, (~absent).astype(np.int64))
        has = absent @ (layout.region_of[:, None] == np.arange(len(layout.regions))) > 0
        out["subjects"] = np.where(has[:, None, :], values, np.nan)
    if draws.models is not None:
        others = 1 - np.eye(len(layout.rule_of), dtype=np.int64)
        values = layout.means(observed, others)
        for rule in range(len(layout.rules)):
            out[f"seeds of rule {rule}"] = values[layout.rule_of == rule]
    return out


def _valid(rules: _Sampled, ceilings: _Sampled | None) -> NDArray[np.bool_]:
    """Which resamples have a value everywhere."""
    arrays = [*rules.replicates.values(), *(ceilings.replicates.values() if ceilings else ())]
    valid = np.all([np.isfinite(values).all(axis=(1, 2)) for values in arrays], axis=0)
    if valid.sum() * 2 < len(valid) or valid.sum() < 2:
        raise InvalidInputError(
            f"{(~valid).sum():,} of {len(valid):,} resamples hold fewer than 3 different stimuli,"
            " leave an RDM without spread or a region without two subjects (for a ceiling); there"
            " are too few stimuli or subjects to resample them, or an RDM is nearly constant"
        )
    return np.asarray(valid)


# ---------------------------------------------------------------- inference


class _Items:
    """How many items every factor has, as arrays that broadcast against estimates."""

    def __init__(self, study: Resampled, factors: Subset) -> None:
        self._layout, self.factors = study.layout, factors
        self._stimuli = np.array(float(study.n_stimuli))

    def of_rules(self) -> dict[str, FloatArray]:
        """For estimates (rules, regions)."""
        return self._kept(self._layout.n_seeds[:, None])

    def of_pairs(self, first: int) -> dict[str, FloatArray]:
        """For differences (rules after `first`, regions); of unequal seeds the fewer."""
        seeds = self._layout.n_seeds
        return self._kept(np.minimum(seeds[first], seeds[first + 1 :])[:, None])

    def of_ceilings(self) -> dict[str, FloatArray]:
        """For ceilings (2, regions), on which seeds have no bearing."""
        return self._kept(np.full((1, 1), np.inf))

    @property
    def least(self) -> float:
        """Items of the smallest factor."""
        return min(float(values.min()) for values in self.of_rules().values())

    def _kept(self, seeds: NDArray[Any]) -> dict[str, FloatArray]:
        every = {
            "stimuli": self._stimuli,
            "subjects": self._layout.n_subjects[None, :].astype(np.float64),
            "seeds": seeds.astype(np.float64),
        }
        return {factor: every[factor] for factor in self.factors}


@dataclass(frozen=True, slots=True)
class _Inference:
    estimate: FloatArray
    standard_error: FloatArray
    ci: FloatArray
    p: FloatArray
    p_quantile: FloatArray
    dof: FloatArray


@dataclass(frozen=True, slots=True)
class _AgainstCeiling:
    ceiling_error: FloatArray
    p: FloatArray
    p_quantile: FloatArray


@dataclass(frozen=True, slots=True)
class _Rule:
    """How replicates become intervals and p-values."""

    kind: str
    level: float
    rescale: bool

    def infer(
        self, sampled: _Sampled, items: Mapping[str, FloatArray], *, two_sided: bool
    ) -> _Inference:
        """Infer on one estimand, of which 0 is the value to be tested."""
        replicates = next(reversed(sampled.replicates.values()))
        error, dof = standard_error(sampled.replicates, sampled.jackknifes.get("stimuli"), items)
        stretch: FloatArray | float = 1.0
        if self.rescale:
            raw = replicates.std(axis=0, ddof=1)
            ratio = np.divide(error, raw, out=np.ones_like(raw), where=raw > 0)
            replicates = rescaled(replicates, sampled.estimate, ratio)
        else:
            stretch = np.sqrt((dof + 1) / dof)
        fast: FloatArray | float = 0.0
        if self.kind in ("basic", "bca"):
            means = ("subjects", "seeds") if self.kind == "basic" else None
            fast = acceleration(sampled.jackknifes, means)
        return _Inference(
            estimate=sampled.estimate,
            standard_error=error,
            ci=interval(
                self.kind, replicates, sampled.estimate, error,
                level=self.level, dof=dof, stretch=stretch, acceleration=fast,
            ),
            p=t_test(sampled.estimate, error, dof, two_sided=two_sided),
            p_quantile=quantile_p(replicates, two_sided=two_sided, dof=dof, stretch=stretch),
            dof=dof,
        )  # fmt: skip


def standard_error(
    replicates: Mapping[Subset, FloatArray],
    without_stimuli: FloatArray | None,
    items: Mapping[str, FloatArray],
) -> tuple[FloatArray, FloatArray]:
    """Corrected standard error (...) of an estimate and its degrees of freedom.

    Parameters
    ----------
    replicates : (R, ...) by subset of the factors, all subsets
    without_stimuli : (groups, ...) estimates without each group of stimuli; None where stimuli are
        not resampled
    items : number of items of each factor
    """
    raw = {subset: values.var(axis=0, ddof=1) for subset, values in replicates.items()}
    dof = {factor: n - 1.0 for factor, n in items.items()}
    if without_stimuli is not None:
        own = jackknife_variance(without_stimuli)
        raw = with_leverage(raw, "stimuli", own, items["stimuli"])
        dof["stimuli"] = jackknife_dof(without_stimuli)
    variance = np.maximum(corrected_variance(raw, items), 0.0)
    parts = own_parts(raw, variance, items)
    error = np.sqrt(variance)
    return np.where(error > _ROUNDING, error, 0.0), satterthwaite(variance, parts, dof)


def _pairwise(rule: _Rule, rules: _Sampled, items: _Items) -> _Inference:
    """All differences of two rules, (regions, rules, rules)."""
    n_rules, n_regions = rules.estimate.shape
    shape = (n_regions, n_rules, n_rules)
    estimate, error, ci = np.zeros(shape), np.zeros(shape), np.zeros((*shape, 2))
    p, p_quantile, dof = np.ones(shape), np.ones(shape), np.full(shape, np.nan)
    for first in range(n_rules - 1):
        difference = rules.at(np.s_[first : first + 1, :]) - rules.at(np.s_[first + 1 :, :])
        got = rule.infer(difference, items.of_pairs(first), two_sided=True)
        row, column = np.s_[:, first, first + 1 :], np.s_[:, first + 1 :, first]
        estimate[row], estimate[column] = got.estimate.T, -got.estimate.T
        ci[row] = np.swapaxes(got.ci, 0, 1)
        ci[column] = -np.swapaxes(got.ci, 0, 1)[..., ::-1]
        for out, values in (
            (error, got.standard_error), (p, got.p), (p_quantile, got.p_quantile), (dof, got.dof),
        ):  # fmt: skip
            out[row] = out[column] = values.T
    return _Inference(estimate, error, ci, p, p_quantile, dof)


def _against(
    rule: _Rule, rules: _Sampled, ceilings: _Sampled, items: _Items
) -> _AgainstCeiling:
    """Alignments less the lower ceiling, and the standard error of both bounds."""
    plain = _Rule("t", rule.level, rule.rescale)  # no interval is asked for
    got = plain.infer(rules - ceilings.at(np.s_[None, :, 0]), items.of_rules(), two_sided=True)
    error, _ = standard_error(
        {u: np.swapaxes(values, 1, 2) for u, values in ceilings.replicates.items()},
        np.swapaxes(ceilings.jackknifes["stimuli"], 1, 2) if ceilings.jackknifes else None,
        items.of_ceilings(),
    )
    return _AgainstCeiling(error.T, got.p, got.p_quantile)


# ---------------------------------------------------------------- words


def _notes(
    study: Resampled, items: _Items, rule: _Rule, replicates: int, alignment: _Inference
) -> tuple[str, ...]:
    layout, factors, notes = study.layout, items.factors, []
    if "seeds" in factors and len(set(layout.n_seeds.tolist())) > 1:
        told = ", ".join(
            f"{r} {k}" for r, k in zip(layout.rules, layout.n_seeds.tolist(), strict=True)
        )
        notes.append(
            f"Rules have unequal numbers of seeds ({told}): differences use the smaller of the two,"
            " which makes their intervals wider rather than too narrow."
        )
    if "subjects" in factors and len(set(layout.n_subjects.tolist())) > 1:
        told = ", ".join(
            f"{r} {k}" for r, k in zip(layout.regions, layout.n_subjects.tolist(), strict=True)
        )
        notes.append(f"Regions have unequal numbers of subjects ({told}).")
    if items.least < _FEW:
        notes.append(
            f"The smallest resampled factor has {items.least:g} items: standard errors are rough;"
            " report an exact test over these items beside them (sign_flip_test, swap_test)."
        )
    tail = norm.cdf(-student.ppf((1 + rule.level) / 2, alignment.dof.min()))
    if rule.kind != "t" and tail * (replicates + 1) < 1:
        notes.append(
            f"With so few items, {100 * rule.level:g} % intervals end beyond the outermost of"
            f" {replicates:,} replicates and are too narrow; use interval='t'."
        )
    if (alignment.standard_error == 0).any():
        notes.append(
            "Some alignments are the same in every resample: they have no standard error to be"
            " tested with, and their p is NaN."
        )
    return tuple(notes)
