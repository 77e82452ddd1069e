"""Beyond five seeds: every test of "rule A is closer to this region than rule B", side by side.

The tests differ in what they take as given. Five seeds alone stop at p = 0.0625; but a difference
may also be judged against relabelled stimuli (for these networks), against further subjects, or
against further stimuli. The broader the claim, the larger the error: `compare_rules` shows all.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsafast.checks import check_integers
from rsafast.comparators import prepare
from rsafast.errors import InvalidInputError
from rsafast.inference.bootstrap.api import MIN_RESAMPLES, bootstrap_of
from rsafast.inference.bootstrap.intervals import Interval, check_interval
from rsafast.inference.bootstrap.replicates import Study, prepare_study, seeded_draws
from rsafast.inference.bootstrap.resampled import ResampledComparison
from rsafast.inference.exact.api import sign_flip_test, swap_test
from rsafast.inference.exact.result import ExactTestResult
from rsafast.inference.ladder.result import RuleComparison, Rung
from rsafast.inference.layout import labels_of
from rsafast.io.provenance import input_hashes, provenance
from rsafast.memory import parse_bytes
from rsafast.permutation.api import permutation_test
from rsafast.rdms import RDMs, as_rdms

FloatArray = NDArray[np.float64]

# Factors that a bootstrap rung resamples, and to whom it speaks then.
_BOOTSTRAPS = {
    ("subjects", "seeds"): "newly trained networks and new subjects; these stimuli",
    ("stimuli",): "new stimuli; these networks and subjects",
    ("stimuli", "seeds"): "new stimuli and newly trained networks; these subjects",
    ("stimuli", "subjects"): "new stimuli and subjects; these networks",
    ("stimuli", "subjects", "seeds"): "new stimuli, new subjects, newly trained networks",
}
RUNGS = ("labels", "seeds-paired", "seeds", "subjects", *("+".join(f) for f in _BOOTSTRAPS))


def compare_rules(
    models: Any,
    brain: Any,
    *,
    rule_a: str,
    rule_b: str,
    rules: str | Sequence[Any] | None = None,
    seeds: str | Sequence[Any] | None = None,
    regions: str | Sequence[Any] | None = None,
    subjects: str | Sequence[Any] | None = None,
    method: str = "spearman",
    n_permutations: int = 100_000,
    n_resamples: int = 10_000,
    seed: int = 0,
    mask: ArrayLike | None = None,
    rungs: Sequence[str] | None = None,
    interval: Interval = "t",
    level: float = 0.95,
    memory_budget: int | str | None = None,
    progress: bool = True,
) -> RuleComparison:
    """Make every test of "rule A is closer to the region than rule B", and say what each means.

    All rungs judge the same estimate, the alignment of A minus that of B (mean over seeds and
    subjects of the similarity of one network with one subject), two-sided. They differ in what
    they take as given, and so in their null hypothesis:

    labels : The stimulus labels of the difference RDM (seed-averaged prepared RDM of A minus that
        of B) are exchangeable: the difference of the rules carries nothing about the brain. Any
        number of seeds will do, down to one, and p may fall to 1/n_permutations. It speaks for
        these networks, stimuli and subjects, and it is no test that both align equally well:
        rules that carry different things about the brain, equally much, violate its null.
    seeds-paired : Flips of the sign of each seed's difference, where both rules have the same
        seeds (the same initial weights, the same order of the data).
    seeds : All relabellings of the networks of both rules, for seeds that share nothing. Its null
        is that networks of both rules come from one distribution.
    subjects : Flips of the sign of each subject's difference.
    subjects+seeds, stimuli, stimuli+seeds, stimuli+subjects, stimuli+subjects+seeds : t-tests with
        the bootstrap standard error when these are resampled together, each source of variance
        counted once (see `bootstrap`). Seeds are nested in rules.

    What is not resampled is held fixed. Seeds that agree prove nothing about other stimuli: with
    two rules that align equally well in the population of stimuli, of which an experiment shows 20
    to 8 subjects, tests over 6 seeds were significant at 0.05 in 69 % (pairs) and 79 % of 300
    simulated experiments, the test over subjects in 38 %, the stimulus bootstrap in 3 %.

    A test that cannot be made (one subject, one seed, unmatched seeds, Kendall's tau) is listed
    with the reason and NaN.

    Parameters
    ----------
    models, brain : RDMs, arrays or rsatoolbox RDMs, matched by label where both have labels
    rule_a, rule_b : names of two rules among `rules`
    rules, seeds : descriptor of the models, or one label a model
        By default every model is a rule with one seed. ``seeds-paired`` needs `seeds`.
    regions, subjects : descriptor of the brain RDMs, or one label an RDM
        By default all are of one region, each of another subject; with several regions `subjects`
        is required.
    method : comparator, see `compare`
    n_permutations : relabellings of the stimuli
    n_resamples : bootstrap resamples
    seed : int
    mask : (n, n) or (pairs,) bool, optional
        True where a pair of the brain side counts. For ``labels``, the models keep the ranks and
        norms of all their pairs, since pairs move in and out of the mask under relabelling.
    rungs : names of the tests to make; by default all. A stimulus draw serves all bootstraps.
    interval : "t", "percentile", "basic" or "bca", of the bootstrap rungs
        "t" excludes 0 exactly where p is below 1 - level.
    level : of all intervals
    memory_budget : bytes or a size like "2GB"
    progress : show bars on work longer than a second

    Returns
    -------
    RuleComparison

    Raises
    ------
    InvalidInputError
        Unknown or equal rules, two RDMs of one seed in one rule or of one subject in one region
        (choose a layer and an epoch first), missing subjects with several regions.

    References
    ----------
    Schütt et al. (2023) for the corrected bootstrap of two factors; Hartigan (1969) for intervals
    of sign-flip tests; Westfall & Young (1993) for family-wise p over regions.

    Examples
    --------
    >>> import numpy as np, rsafast as rf
    >>> rng = np.random.default_rng(0)
    >>> world = rng.normal(size=(30, 8))
    >>> brain = rf.compute_rdms(world + rng.normal(size=(6, 30, 8)))
    >>> networks = world + rng.normal(size=(10, 30, 8)) * np.repeat([1, 3], 5)[:, None, None]
    >>> models = rf.compute_rdms(networks)
    >>> result = rf.compare_rules(
    ...     models, brain, rule_a="good", rule_b="poor", rules=["good"] * 5 + ["poor"] * 5,
    ...     seeds=[1, 2, 3, 4, 5] * 2, n_permutations=1000, n_resamples=200,
    ... )
    >>> result.rung("seeds-paired").floor, bool(result.rung("stimuli").p_value[0] < 0.05)
    (0.0625, True)
    """
    started = time.perf_counter()
    check_interval(interval, level)
    wanted = _checked_rungs(rungs)
    check_integers(
        whole_floats=True, n_permutations=(n_permutations, 1),
        n_resamples=(n_resamples, MIN_RESAMPLES), seed=(seed, 0),
    )  # fmt: skip
    budget = parse_bytes(memory_budget)
    study = _study_of_two(
        models, brain, rule_a=rule_a, rule_b=rule_b, rules=rules, seeds=seeds, regions=regions,
        subjects=subjects, method=method, mask=mask,
    )  # fmt: skip
    study = replace(study, comparison=_Remembering(study, budget))
    two = _TwoRules(study, str(rule_a), str(rule_b))
    climb: dict[str, Callable[[], Rung]] = {
        "labels": lambda: _label_rung(two, n_permutations, seed, memory_budget, progress),
        "seeds-paired": lambda: _paired_seeds_rung(two, seeds is not None, level, progress),
        "seeds": lambda: _seeds_rung(two, progress),
        "subjects": lambda: _subjects_rung(two, level, progress),
    }
    for factors in _BOOTSTRAPS:
        climb["+".join(factors)] = partial(
            _bootstrap_rung, two, factors, n_resamples=n_resamples, seed=seed, interval=interval,
            level=level, memory_budget=memory_budget, progress=progress,
        )  # fmt: skip
    return RuleComparison(
        rule_a=two.names[0],
        rule_b=two.names[1],
        regions=study.layout.regions,
        estimate=two.alignments[0] - two.alignments[1],
        alignment_a=two.alignments[0],
        alignment_b=two.alignments[1],
        rungs=tuple(make() for key, make in climb.items() if key in wanted),
        n_seeds=(len(two.members[0]), len(two.members[1])),
        n_subjects=study.layout.n_subjects,
        n_stimuli=study.models.n_stimuli,
        method=study.comparator.name,
        level=float(level),
        n_resamples=int(n_resamples),
        seed=int(seed),
        parameters={
            "n_permutations": int(n_permutations),
            "interval": interval,
            "pairs": int(study.keep.sum()),
            "pairs_of": study.keep.size,
        },
        provenance=provenance()
        | {"seconds": time.perf_counter() - started}
        | input_hashes(models=study.models.vectors, brain=study.brain.vectors, mask=study.keep),
    )


# ---------------------------------------------------------------- data


def _checked_rungs(rungs: Sequence[str] | None) -> tuple[str, ...]:
    if rungs is None:
        return RUNGS
    wanted = (rungs,) if isinstance(rungs, str) else tuple(rungs)
    unknown = [key for key in wanted if key not in RUNGS]
    if unknown or not wanted:
        raise InvalidInputError(f"rungs must be among {', '.join(RUNGS)}, got {rungs!r}")
    return wanted


def _study_of_two(
    models: Any,
    brain: Any,
    *,
    rule_a: str,
    rule_b: str,
    rules: str | Sequence[Any] | None,
    seeds: str | Sequence[Any] | None,
    **keywords: Any,
) -> Study:
    """Prepare the models of the two rules alone."""
    everything = as_rdms(models, "models")
    labels = (
        list(everything.names) if rules is None else labels_of(everything, rules, "rules")
    )
    wanted = (str(rule_a), str(rule_b))
    if wanted[0] == wanted[1]:
        raise InvalidInputError(f"rule_a and rule_b must differ, got {rule_a!r} twice")
    for role, name in zip(("rule_a", "rule_b"), wanted, strict=True):
        if name not in labels:
            known = ", ".join(map(repr, dict.fromkeys(labels)))
            raise InvalidInputError(f"{role} must be one of the rules {known}, got {name!r}")
    places = [i for i, label in enumerate(labels) if label in wanted]
    seed_labels = None
    if seeds is not None:
        all_seeds = labels_of(everything, seeds, "seeds")
        seed_labels = [all_seeds[i] for i in places]
    return prepare_study(
        everything.subset(places), brain,
        rules=None if rules is None else [labels[i] for i in places],
        seeds=seed_labels, match_subjects=True, **keywords,
    )  # fmt: skip


class _Remembering(ResampledComparison):
    """Scores on resamples of the stimuli, computed once for all rungs that draw the same."""

    def __init__(self, study: Study, budget: int) -> None:
        super().__init__(study.comparator, study.models, study.brain, study.keep)
        self._known: dict[bytes, FloatArray] = {}
        self._left = budget // 4

    def scores(self, weights: NDArray[np.integer]) -> FloatArray:
        """See `ResampledComparison.scores`."""
        key = blake2b(np.ascontiguousarray(weights).tobytes()).digest()
        if key in self._known:
            return self._known[key]
        values = super().scores(weights)
        if values.nbytes <= self._left:
            self._known[key] = values
            self._left -= values.nbytes
        return values


class _TwoRules:
    """The scores of two rules, by seed, subject and region."""

    def __init__(self, study: Study, rule_a: str, rule_b: str) -> None:
        layout = study.layout
        self.study, self.names = study, (rule_a, rule_b)
        self.places = tuple(layout.rules.index(name) for name in self.names)
        self.members = tuple(np.flatnonzero(layout.rule_of == place) for place in self.places)
        self.seed_names = tuple([layout.seed_names[i] for i in rows] for rows in self.members)
        means = layout.means(study.observed[None])[0]
        self.alignments = tuple(means[place] for place in self.places)

    @property
    def n_regions(self) -> int:
        return len(self.study.layout.regions)

    def of_region(self, region: int) -> NDArray[np.int64]:
        """Return the places of its brain RDMs."""
        return np.flatnonzero(self.study.layout.region_of == region)

    def by_seed(self, rule: int) -> FloatArray:
        """Alignment of every network of rule 0 or 1, mean over subjects: (seeds, regions)."""
        scores = self.study.observed[self.members[rule]]
        columns = [scores[:, self.of_region(r)].mean(axis=1) for r in range(self.n_regions)]
        return np.stack(columns, axis=1)

    def by_brain(self) -> FloatArray:
        """Difference of the rules, mean over seeds: (brain RDMs,)."""
        a, b = (self.study.observed[rows].mean(axis=0) for rows in self.members)
        return np.asarray(a - b)


# ---------------------------------------------------------------- rungs


def _not_run(two: _TwoRules, reason: str, **named: Any) -> Rung:
    nothing = np.full(two.n_regions, np.nan)
    return Rung(
        **named, statistic_name="", statistic=nothing, p_value=nothing, p_value_fwer=nothing,
        floor=np.nan, ci=np.full((two.n_regions, 2), np.nan), standard_error=nothing,
        reason=reason,
    )  # fmt: skip


def _label_rung(
    two: _TwoRules, n_permutations: int, seed: int, budget: int | str | None, progress: bool
) -> Rung:
    study = two.study
    named: dict[str, Any] = {
        "key": "labels",
        "test": "stimulus relabelling of the difference RDM",
        "generalises_to": "these networks, stimuli and subjects",
        "null": "the difference of the rules carries nothing about the brain.",
    }
    if study.comparator.concordance:
        return _not_run(
            two, "Kendall's tau has no difference RDM; use spearman or rho-a", **named
        )
    if study.models.has_missing:
        return _not_run(two, "a model RDM lacks pairs, which relabelling needs", **named)
    difference = _difference_rdm(two)
    if difference is None:
        return _not_run(two, "the seed-averaged RDMs of both rules are the same", **named)
    result = permutation_test(
        RDMs.from_vectors(difference), RDMs.from_vectors(_mean_brain(two)), method="cosine",
        n_permutations=n_permutations, alternative="two-sided", seed=seed, memory_budget=budget,
        progress=progress,
    )  # fmt: skip
    return Rung(
        **named,
        statistic_name="z",
        statistic=result.z[0],
        p_value=result.p_value[0],
        p_value_fwer=result.p_value_stepdown[0],
        floor=result.smallest_p,
        lift=f"a larger n_permutations than {n_permutations:,}",
        ci=np.full((two.n_regions, 2), np.nan),
        standard_error=np.full(two.n_regions, np.nan),
    )


def _difference_rdm(two: _TwoRules) -> FloatArray | None:
    """Seed-averaged prepared RDM of A minus that of B, (1, pairs) centred; None if it is zero.

    Its product with the subjects' mean prepared RDM is the difference of the alignments. Centring
    leaves the products with centred brain RDMs as they are, and takes from those of cosines the
    part that no relabelling changes, so that two-sided is about the mean of the null.
    """
    study = two.study
    vectors = study.models.vectors
    prepared = prepare(study.comparator, vectors, study.models.n_stimuli, study.models.names)
    difference = prepared[two.members[0]].mean(axis=0) - prepared[two.members[1]].mean(axis=0)
    length = np.linalg.norm(prepared, axis=1).max()
    difference = difference - difference.mean()
    if np.linalg.norm(difference) <= 1e-12 * length:
        return None
    return np.asarray(difference[None])


def _mean_brain(two: _TwoRules) -> FloatArray:
    """Prepared brain RDMs averaged over the subjects of each region; zero outside the mask."""
    study = two.study
    keep = study.keep
    inside = prepare(
        study.comparator, study.brain.vectors[:, keep], study.brain.n_stimuli, study.brain.names
    )
    out = np.zeros((two.n_regions, keep.size))
    for region, row in enumerate(out):
        row[keep] = inside[two.of_region(region)].mean(axis=0)
    return out


def _paired_seeds_rung(two: _TwoRules, told: bool, level: float, progress: bool) -> Rung:
    named: dict[str, Any] = {
        "key": "seeds-paired",
        "test": "sign flips over matched seeds",
        "generalises_to": "newly trained networks; these stimuli and subjects",
        "null": "the difference within a seed is symmetric about zero over seeds.",
    }
    seeds_a, seeds_b = two.seed_names
    if not told:
        reason = "seeds= is not given, so that networks of the two rules cannot be matched"
        return _not_run(two, reason, **named)
    only = [sorted(set(x) - set(y)) for x, y in ((seeds_a, seeds_b), (seeds_b, seeds_a))]
    if only[0] or only[1]:
        said = [
            f"{', '.join(names[:5])} only in {rule}"
            for names, rule in zip(only, two.names, strict=True)
            if names
        ]
        return _not_run(two, f"seeds do not match ({'; '.join(said)})", **named)
    if len(seeds_a) < 2:
        return _not_run(two, "there is one seed; at least 2 are needed", **named)
    result = swap_test(
        two.by_seed(0), two.by_seed(1), paired=True, units_a=seeds_a, units_b=seeds_b,
        statistic="t", names=two.study.layout.regions, unit="seed", level=level,
        progress=progress,
    )  # fmt: skip
    return _exact_rung(two, result, named)


def _seeds_rung(two: _TwoRules, progress: bool) -> Rung:
    named: dict[str, Any] = {
        "key": "seeds",
        "test": "relabelling of all networks of both rules",
        "generalises_to": "newly trained networks; these stimuli and subjects",
        "null": "networks of both rules come from one distribution of alignment.",
    }
    if min(map(len, two.members)) < 2:
        return _not_run(two, "a rule has one seed; at least 2 are needed", **named)
    result = swap_test(
        two.by_seed(0), two.by_seed(1), paired=False, statistic="t",
        names=two.study.layout.regions, unit="seed", progress=progress,
    )  # fmt: skip
    return _exact_rung(two, result, named)


def _subjects_rung(two: _TwoRules, level: float, progress: bool) -> Rung:
    layout = two.study.layout
    named: dict[str, Any] = {
        "key": "subjects",
        "test": "sign flips over subjects",
        "generalises_to": "new subjects; these networks and stimuli",
        "null": "the difference within a subject is symmetric about zero over subjects.",
    }
    if reason := _too_few_subjects(two):
        return _not_run(two, reason, **named)
    difference = two.by_brain()
    columns, owners = [], []
    for region in range(two.n_regions):
        places = two.of_region(region)
        places = places[np.argsort(layout.subject_of[places])]
        columns.append(difference[places])
        owners.append(layout.subject_of[places].tolist())
    keywords: dict[str, Any] = {
        "statistic": "t", "unit": "subject", "level": level, "progress": progress
    }  # fmt: skip
    if all(own == owners[0] for own in owners):
        values = np.stack(columns, axis=1)
        return _exact_rung(two, sign_flip_test(values, names=layout.regions, **keywords), named)
    parts = [sign_flip_test(column, **keywords) for column in columns]
    rungs = [_exact_rung(two, part, named) for part in parts]
    return replace(
        rungs[0],
        statistic=np.concatenate([r.statistic for r in rungs]),
        p_value=np.concatenate([r.p_value for r in rungs]),
        p_value_fwer=np.full(two.n_regions, np.nan),
        floor=max(r.floor for r in rungs),
        lift=max(rungs, key=lambda r: r.floor).lift,
        ci=np.concatenate([r.ci for r in rungs]),
        standard_error=np.full(two.n_regions, np.nan),
        notes=(
            "regions differ in their subjects, so that there is no family-wise p; the floor is that"
            " of the region with the fewest",
            *(note for r in rungs for note in r.notes),
        ),
    )


def _exact_rung(two: _TwoRules, result: ExactTestResult, named: dict[str, Any]) -> Rung:
    interval = result.interval
    return Rung(
        **named,
        statistic_name="t",
        statistic=result.statistic,
        p_value=result.p_value,
        p_value_fwer=result.p_value_stepdown,
        floor=result.floor,
        ci=np.full((len(result.names), 2), np.nan) if interval is None else interval,
        standard_error=np.full(two.n_regions, np.nan),
        lift=result.lift,
        notes=result.notes
        + (() if result.exact else (f"{result.n_patterns:,} random patterns, not all",)),
    )


def _too_few_subjects(two: _TwoRules) -> str | None:
    numbers = two.study.layout.n_subjects
    if numbers.min() >= 2:
        return None
    region = two.study.layout.regions[int(np.argmin(numbers))]
    return f"region {region!r} has one subject; at least 2 are needed"


def _bootstrap_rung(
    two: _TwoRules,
    factors: tuple[str, ...],
    *,
    n_resamples: int,
    seed: int,
    interval: Interval,
    level: float,
    memory_budget: int | str | None,
    progress: bool,
) -> Rung:
    named: dict[str, Any] = {
        "key": "+".join(factors),
        "test": f"bootstrap over {', '.join(factors)}",
        "generalises_to": _BOOTSTRAPS[factors],
        "null": f"both rules align equally well in the population of {' and '.join(factors)}.",
    }
    if "subjects" in factors and (reason := _too_few_subjects(two)):
        return _not_run(two, reason, **named)
    if "seeds" in factors and min(map(len, two.members)) < 2:
        return _not_run(two, "a rule has one seed; at least 2 are needed", **named)
    result = bootstrap_of(
        two.study, seeded_draws(two.study, factors, int(n_resamples), int(seed)),
        interval_kind=interval, level=float(level), seed=int(seed), memory_budget=memory_budget,
        progress=progress,
    )  # fmt: skip
    a, b = two.places
    difference, error = result.difference[:, a, b], result.difference_standard_error[:, a, b]
    return Rung(
        **named,
        statistic_name="t",
        statistic=np.divide(difference, error, out=np.full_like(error, np.nan), where=error > 0),
        p_value=result.p_pairwise[:, a, b],
        p_value_fwer=np.full(two.n_regions, np.nan),
        floor=np.nan,
        ci=result.difference_ci[:, a, b],
        standard_error=error,
        notes=tuple(result.notes),
    )
