"""`bootstrap_cross_validate`: how sure cross-validated scores and their differences are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from rsafast.checks import check_integers
from rsafast.comparators import FloatArray, get_comparator
from rsafast.errors import InvalidInputError
from rsafast.inference.bootstrap.draws import STIMULI, SUBJECTS, blocks, draw_counts
from rsafast.inference.bootstrap.variance import corrected_variance
from rsafast.inference.models.crossvalidation import check_seed, cross_validate, split_stimuli
from rsafast.inference.models.folds import (
    MIN_STIMULI,
    FoldPlan,
    IntArray,
    Study,
    build_study,
    plan_folds,
    run_folds,
)
from rsafast.plotting import method_name
from rsafast.progress import track

if TYPE_CHECKING:
    import pandas as pd

_BLOCK = 16  # resamples whose folds go to the kernel together
_FACTORS = ("stimuli", "subjects")
_Job = tuple[IntArray, IntArray, IntArray, IntArray]


@dataclass(frozen=True, slots=True, kw_only=True)
class BootstrapCrossValidationResult:
    """What `bootstrap_cross_validate` found. M models, G regions.

    Attributes
    ----------
    estimates : (M, G) cross-validated scores of the data, as `cross_validate` gives them.
    ceilings : (2, G) lower and upper noise ceiling of the same folds.
    standard_error : (M, G) of the estimates, for new draws of what was resampled.
    ci : (M, G, 2) t interval at `confidence`.
    p_zero : (M, G) one-sided, "the model's score is not above 0".
    p_pairwise : (G, M, M) two-sided, "two models predict equally well".
    p_ceiling : (M, G) two-sided, "the model's score equals the lower noise ceiling".
    replicates : (schemes, resamples, n_cv, M + 2, G) scores and both ceilings of the resamples,
        NaN for those that failed; schemes are both factors, subjects, stimuli, or the only one.
    dof : degrees of freedom of every t, the smallest number of what was resampled less one.
    n_failed : resamples of too few distinct stimuli or subjects for the folds, left out.
    """

    estimates: FloatArray
    ceilings: FloatArray
    standard_error: FloatArray
    ci: FloatArray
    p_zero: FloatArray
    p_pairwise: FloatArray
    p_ceiling: FloatArray
    replicates: FloatArray
    dof: int
    n_failed: int
    n_resamples: int
    n_cv: int
    confidence: float
    resample: tuple[str, ...]
    model_names: tuple[str, ...]
    region_names: tuple[str, ...]
    method: str
    seed: int
    notes: tuple[str, ...] = ()

    def to_dataframe(self) -> pd.DataFrame:
        """One row a region and model: estimate, standard_error, ci, p_zero, p_ceiling, ceilings."""
        import pandas as pd

        m, g = self.estimates.shape
        return pd.DataFrame(
            {
                "region": np.repeat(np.array(self.region_names, object), m),
                "model": np.tile(np.array(self.model_names, object), g),
                "estimate": self.estimates.T.ravel(),
                "standard_error": self.standard_error.T.ravel(),
                "ci_low": self.ci[..., 0].T.ravel(),
                "ci_high": self.ci[..., 1].T.ravel(),
                "p_zero": self.p_zero.T.ravel(),
                "p_ceiling": self.p_ceiling.T.ravel(),
                "ceiling_lower": np.repeat(self.ceilings[0], m),
                "ceiling_upper": np.repeat(self.ceilings[1], m),
            }
        )

    def summary(self) -> str:
        """Say in plain text what was resampled, what came out and to whom it generalises."""
        drawn = " and ".join(self.resample)
        lines = [
            f"Cross-validated {method_name(self.method)}, {self.n_resamples} bootstrap resamples"
            f" of {drawn} with {self.n_cv} splits each, seed {self.seed}.",
            f"Standard errors and p-values generalise to new {drawn} (t with"
            f" {self.dof} degrees of freedom; p-values are not corrected for their number).",
        ]
        for row in self.to_dataframe().itertuples():
            lines.append(
                f"{row.region}, {row.model}: {row.estimate:.3f}"
                f" [{row.ci_low:.3f}, {row.ci_high:.3f}], p = {row.p_zero:.2g} against 0"
            )
        return "\n".join([*lines, *self.notes])


def bootstrap_cross_validate(
    models: Any,
    brain: Any,
    *,
    method: str = "pearson",
    resample: tuple[str, ...] | str = _FACTORS,
    stimulus_folds: Any = 3,
    subject_folds: Any = 3,
    n_cv: int = 2,
    n_resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
    regions: Any = None,
    subjects: Any = None,
    mask: ArrayLike | None = None,
    progress: bool = True,
) -> BootstrapCrossValidationResult:
    """Standard errors and tests of cross-validated scores, by a bootstrap around the folds.

    Stimuli, subjects or both are drawn with replacement, and every resample is cross-validated
    `n_cv` times on random folds. All copies of a stimulus or subject are in one fold, so that no
    copy is scored by a fit to another; pairs of copies of one stimulus do not exist. The split into
    folds adds variance that the data's own score, a mean over many splits, does not have:
    (n_cv · var_mean − var_1) / (n_cv − 1) extrapolates to infinitely many splits, var_mean being
    the variance of the mean over splits and var_1 that of one. With both factors the variances of
    three bootstraps (both, subjects, stimuli) make the two-factor estimate, since resampling both
    at once counts their common noise twice (Schütt et al. 2023, as rsatoolbox's
    ``eval_dual_bootstrap``).

    With few stimuli the errors are too small, as those of every bootstrap of dissimilarities: by a
    sixth in 288 simulated studies of 30 stimuli and 8 subjects (a fixed model, squared distances of
    Gaussian patterns). Where nothing is fitted, `bootstrap` corrects for that; prefer it there.

    Parameters
    ----------
    models, brain, method, stimulus_folds, subject_folds, regions, subjects, mask
        See `cross_validate`. Resamples hold about 63 % of the stimuli, so allow for at least 3 of
        these a fold.
    resample : tuple of "stimuli" and "subjects", or one of them
        What the errors are to generalise to.
    n_cv : splits a resample, at least 2
    n_resamples : number of resamples
    confidence : of the intervals
    seed : int
    progress : show a bar on stderr after a second.

    Returns
    -------
    BootstrapCrossValidationResult

    Raises
    ------
    InvalidInputError
        What `cross_validate` refuses; too few stimuli for any resample to fill the folds.
    """
    comparator = get_comparator(method)
    factors = _factors(resample)
    _check_numbers(n_cv, n_resamples, confidence)
    seed = check_seed(seed)
    study = build_study(
        models, brain, comparator, regions=regions, subjects=subjects, mask=mask, sigma_k=None,
        subjects_matter=subject_folds is not None or "subjects" in factors,
    )  # fmt: skip
    plan = plan_folds(study, stimulus_folds, subject_folds)
    if "subjects" in factors and len(study.subject_names) < 2:
        raise InvalidInputError("resample='subjects' needs at least 2 subjects; resample stimuli")
    data = cross_validate(
        models, brain, method=method, stimulus_folds=stimulus_folds, subject_folds=subject_folds,
        seed=seed, regions=regions, subjects=subjects, mask=mask,
    )  # fmt: skip
    schemes: list[tuple[str, ...]] = (
        [("stimuli", "subjects"), ("subjects",), ("stimuli",)] if len(factors) == 2 else [factors]
    )
    values = _replicates(study, plan, schemes, n_resamples, n_cv, seed, progress)
    fine = ~np.isnan(values).any(axis=(0, 2, 3, 4))
    if fine.sum() < 2:
        raise InvalidInputError(
            f"{int((~fine).sum())} of {n_resamples} resamples hold too few distinct stimuli or"
            " subjects for the folds; use fewer stimulus_folds or subject_folds"
        )
    sizes = {"stimuli": study.brain.n_stimuli, "subjects": len(study.subject_names)}
    number = [sizes[f] for f in factors]
    return _result(data, values, fine, schemes, sizes, min(number) - 1, n_cv, confidence, factors)


# ---------------------------------------------------------------- resamples


def _replicates(
    study: Study,
    plan: FoldPlan,
    schemes: list[tuple[str, ...]],
    n_resamples: int,
    n_cv: int,
    seed: int,
    progress: bool,
) -> FloatArray:
    m, g = len(study.models) + 2, len(study.region_names)
    values = np.full((len(schemes), n_resamples, n_cv, m, g), np.nan)
    n, people = study.brain.n_stimuli, len(study.subject_names)
    with track(n_resamples, "resamples", progress) as advance:
        for start, stop in blocks(n_resamples, _BLOCK):
            drawn = draw_counts(seed, STIMULI, n, start, stop)
            persons = draw_counts(seed, SUBJECTS, people, start, stop)
            jobs: list[_Job] = []
            places = []
            for b in range(start, stop):
                for k, scheme in enumerate(schemes):
                    w = drawn[b - start] if "stimuli" in scheme else np.ones(n, np.int64)
                    v = persons[b - start] if "subjects" in scheme else np.ones(people, np.int64)
                    for c in range(n_cv):
                        made = fold_jobs(study, plan, w, v, (seed, b, c))
                        jobs += made
                        places += [(k, b, c, v)] * bool(made)
            done = run_folds(study, jobs, plan.subjects)
            for k, b, c, v in places:
                parts = [next(done) for _ in range(plan.stimuli)]
                scores = np.stack(
                    [np.vstack([part.models, part.lower, part.upper]) for part in parts]
                )
                values[k, b, c] = _region_means(study, scores, v)
            advance(stop - start)
    return values


def fold_jobs(
    study: Study, plan: FoldPlan, stimuli: IntArray, subjects: IntArray, seed: tuple[int, ...]
) -> list[_Job]:
    """Jobs of `run_folds` for one split of a resample; none where a fold would be too small."""
    n, people = len(stimuli), len(subjects)
    stimulus_fold = plan.stimulus_folds(np.flatnonzero(stimuli), n, seed)
    subject_fold = plan.subject_folds(np.flatnonzero(subjects), people, seed)
    sizes = np.bincount(stimulus_fold[stimulus_fold >= 0], minlength=plan.stimuli)
    if sizes.min() < MIN_STIMULI or not _subjects_suffice(study, plan, subject_fold):
        return []
    of_rdms, counts = subject_fold[study.subject], subjects[study.subject]
    jobs = []
    for s in range(plan.stimuli):
        train, test = split_stimuli(stimulus_fold, s, plan.stimuli)
        jobs.append((train * stimuli, test * stimuli, of_rdms, counts))
    return jobs


def _subjects_suffice(study: Study, plan: FoldPlan, subject_fold: IntArray) -> bool:
    """Whether every region has two subjects, and in two folds where subjects are left out."""
    for region in range(len(study.region_names)):
        here = np.unique(study.subject[study.region == region])
        folds = subject_fold[here]
        if plan.subjects > 1 and len(set(folds[folds >= 0])) < 2:
            return False
        if len(here) > 1 and (folds >= 0).sum() < 2:
            return False
    return True


def _region_means(study: Study, scores: FloatArray, subjects: IntArray) -> FloatArray:
    """Mean over folds and subjects, (M + 2, G), of scores (folds, M + 2, N)."""
    out = np.empty((scores.shape[1], len(study.region_names)))
    for g in range(len(study.region_names)):
        here = study.region == g
        of_subject = np.bincount(study.subject[here], minlength=len(subjects))
        share = subjects[study.subject[here]] / of_subject[study.subject[here]]
        part = scores[:, :, here]
        weight = np.where(np.isnan(part), 0.0, share)
        total = weight.sum(axis=(0, 2))
        with np.errstate(invalid="ignore", divide="ignore"):
            out[:, g] = np.where(np.isnan(part), 0.0, part * weight).sum(axis=(0, 2)) / total
    return out


# ---------------------------------------------------------------- variances


def _result(
    data: Any,
    values: FloatArray,
    fine: Any,
    schemes: list[tuple[str, ...]],
    sizes: dict[str, int],
    dof: int,
    n_cv: int,
    confidence: float,
    factors: tuple[str, ...],
) -> BootstrapCrossValidationResult:
    m, g = data.means.shape
    covariance = np.stack([_covariances(values[:, fine][..., r]) for r in range(g)])
    error, p_ceiling = np.empty((m, g)), np.empty((m, g))
    p_pairwise = np.ones((g, m, m))
    unit = np.eye(m + 2)
    for r in range(g):

        def spread(contrast: FloatArray, r: int = r) -> float:
            parts = np.einsum("i,sij,j->s", contrast, covariance[r], contrast)
            return float(np.sqrt(_combined(parts, schemes, sizes)))

        for i in range(m):
            error[i, r] = spread(unit[i])
            gap = data.means[i, r] - data.ceilings[0, r]
            p_ceiling[i, r] = _p(gap, spread(unit[i] - unit[m]), dof)
            for j in range(i):
                gap = data.means[i, r] - data.means[j, r]
                p = _p(gap, spread(unit[i] - unit[j]), dof)
                p_pairwise[r, i, j] = p_pairwise[r, j, i] = p
    half = stats.t.ppf(0.5 + confidence / 2, dof) * error
    n_failed = int((~fine).sum())
    notes = list(data.notes)
    if n_failed:
        notes.append(
            f"{n_failed} of {len(fine)} resamples held too few distinct stimuli or subjects for the"
            " folds and are left out."
        )
    if not (error > 0).all():
        notes.append(
            "A variance came out at or below 0 and its error and p are NaN; raise n_cv or"
            " n_resamples."
        )
    with np.errstate(invalid="ignore", divide="ignore"):
        p_zero = stats.t.sf(data.means / error, dof)
    return BootstrapCrossValidationResult(
        estimates=data.means, ceilings=data.ceilings, standard_error=error,
        ci=np.stack([data.means - half, data.means + half], axis=-1), p_zero=p_zero,
        p_pairwise=p_pairwise, p_ceiling=p_ceiling, replicates=values, dof=dof, n_failed=n_failed,
        n_resamples=len(fine), n_cv=n_cv, confidence=confidence, resample=factors,
        model_names=data.model_names, region_names=data.region_names, method=data.method,
        seed=data.seed, notes=tuple(notes),
    )  # fmt: skip


def _covariances(values: FloatArray) -> FloatArray:
    """Covariance (schemes, M + 2, M + 2) for infinitely many splits.

    Of values (schemes, resamples, n_cv, M + 2).
    """
    n_cv = values.shape[2]
    of_mean = np.stack([np.cov(part.mean(axis=1).T) for part in values])
    of_one = np.stack(
        [np.mean([np.cov(part[:, c].T) for c in range(n_cv)], axis=0) for part in values]
    )
    return (n_cv * of_mean - of_one) / (n_cv - 1)


def _combined(parts: FloatArray, schemes: list[tuple[str, ...]], sizes: dict[str, int]) -> float:
    """Variance from those of the schemes; NaN where it is not above 0."""
    raw = dict(zip(schemes, parts, strict=True))
    variance = corrected_variance(raw, {f: sizes[f] for f in max(raw, key=len)})
    return float(variance) if variance > 0 else float("nan")


def _p(gap: float, error: float, dof: int) -> float:
    return float(2 * stats.t.sf(abs(gap) / error, dof))


def _factors(resample: Any) -> tuple[str, ...]:
    given = (resample,) if isinstance(resample, str) else tuple(resample)
    if not given or len(set(given)) != len(given) or not set(given) <= set(_FACTORS):
        raise InvalidInputError(
            f"resample must hold 'stimuli', 'subjects' or both, got {resample!r}"
        )
    return tuple(factor for factor in _FACTORS if factor in given)


def _check_numbers(n_cv: Any, n_resamples: Any, confidence: Any) -> None:
    check_integers(n_cv=(n_cv, 2), n_resamples=(n_resamples, 2))
    if not isinstance(confidence, float) or not 0 < confidence < 1:
        raise InvalidInputError(f"confidence must lie between 0 and 1, got {confidence!r}")
