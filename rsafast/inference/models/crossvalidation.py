"""`cross_validate`: how well models predict stimuli and subjects that they were not fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsafast.checks import check_integers
from rsafast.comparators import FloatArray, get_comparator
from rsafast.errors import InvalidInputError
from rsafast.inference.models.folds import (
    FEW_STIMULI,
    FoldPlan,
    IntArray,
    Study,
    build_study,
    plan_folds,
    run_folds,
)
from rsafast.plotting import given_or_new, method_name

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

REPEATS = 10  # random splits, unless the caller says how many
_MIN_PAIRS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossValidationResult:
    """What `cross_validate` found. M models, N brain RDMs, G regions.

    Attributes
    ----------
    scores : (repeats, stimulus folds, M, N) similarity of every model, fitted without the fold's
        stimuli and without the fold of the RDM's subject, with every brain RDM on the stimuli of
        the fold. NaN where it is undefined; `undefined` counts these.
    ceiling_lower, ceiling_upper : (repeats, stimulus folds, N) similarity of every brain RDM, on
        the stimuli of the fold, with the pooled RDM of the training subjects (of all other
        subjects, where no subject is left out) and with that of all subjects of its region.
    theta : one (repeats, stimulus folds, subject folds, G, K) array a model: weights fitted.
    stimulus_fold : (repeats, n) fold in which each stimulus was left out.
    subject_fold : (repeats, N) fold in which the subject of each brain RDM was left out.
    undefined : (M,) scores that are NaN and left out of the means.
    model_names, brain_names, region_names : names.
    component_names : one tuple of K names a model.
    region, subject : (N,) name of the region and of the subject of each brain RDM.
    stimulus_folds, subject_folds : number of folds, 1 where nothing is left out.
    notes : what else was counted or left out, in words.
    """

    scores: FloatArray
    ceiling_lower: FloatArray
    ceiling_upper: FloatArray
    theta: tuple[FloatArray, ...]
    stimulus_fold: IntArray
    subject_fold: IntArray
    undefined: IntArray
    model_names: tuple[str, ...]
    brain_names: tuple[str, ...]
    region_names: tuple[str, ...]
    component_names: tuple[tuple[str, ...], ...]
    region: tuple[str, ...]
    subject: tuple[str, ...]
    stimulus_folds: int
    subject_folds: int
    n_stimuli: int
    n_pairs: int
    method: str
    seed: int
    notes: tuple[str, ...] = ()

    @property
    def n_repeats(self) -> int:
        """Number of random splits."""
        return len(self.scores)

    @property
    def rdm_means(self) -> FloatArray:
        """Mean over repeats and folds, (M, N)."""
        return _mean(self.scores, (0, 1))

    @property
    def means(self) -> FloatArray:
        """Mean over the subjects of each region, (M, G); an RDM counts 1 / RDMs of its subject."""
        return self._over_subjects(self.rdm_means)

    @property
    def ceilings(self) -> FloatArray:
        """Lower and upper noise ceiling of each region, (2, G)."""
        both = np.stack([_mean(c, (0, 1)) for c in (self.ceiling_lower, self.ceiling_upper)])
        return self._over_subjects(both)

    def _over_subjects(self, values: FloatArray) -> FloatArray:
        region, subject = np.array(self.region), np.array(self.subject)
        out = np.full((len(values), len(self.region_names)), np.nan)
        for g, name in enumerate(self.region_names):
            people = dict.fromkeys(subject[region == name])
            each = [_mean(values[:, (region == name) & (subject == who)], 1) for who in people]
            out[:, g] = _mean(np.stack(each), 0)
        return out

    def to_dataframe(self) -> pd.DataFrame:
        """One row a repeat, stimulus fold, model and brain RDM.

        Columns repeat, stimulus_fold, subject_fold, model, brain, region, subject, score,
        ceiling_lower, ceiling_upper.
        """
        import pandas as pd

        repeat, fold, model, brain = (i.ravel() for i in np.indices(self.scores.shape))
        return pd.DataFrame(
            {
                "repeat": repeat,
                "stimulus_fold": fold,
                "subject_fold": self.subject_fold[repeat, brain],
                "model": np.array(self.model_names, object)[model],
                "brain": np.array(self.brain_names, object)[brain],
                "region": np.array(self.region, object)[brain],
                "subject": np.array(self.subject, object)[brain],
                "score": self.scores.ravel(),
                "ceiling_lower": self.ceiling_lower[repeat, fold, brain],
                "ceiling_upper": self.ceiling_upper[repeat, fold, brain],
            }
        )

    def theta_to_dataframe(self) -> pd.DataFrame:
        """One row a repeat, stimulus fold, subject fold, region, model and component.

        Columns repeat, stimulus_fold, subject_fold, region, model, component, weight.
        """
        import pandas as pd

        frames = []
        for model, names, theta in zip(
            self.model_names, self.component_names, self.theta, strict=True
        ):
            repeat, fold, out, region, component = (i.ravel() for i in np.indices(theta.shape))
            frames.append(
                pd.DataFrame(
                    {
                        "repeat": repeat,
                        "stimulus_fold": fold,
                        "subject_fold": out,
                        "region": np.array(self.region_names, object)[region],
                        "model": model,
                        "component": np.array(names, object)[component],
                        "weight": theta.ravel(),
                    }
                )
            )
        return pd.concat(frames, ignore_index=True)

    def summary(self) -> str:
        """Say in plain text what was left out, what came out and to whom it generalises."""
        lines = [
            f"{len(self.model_names)} models, {len(self.brain_names)} brain RDMs in"
            f" {len(self.region_names)} region{'s' * (len(self.region_names) > 1)},"
            f" {self.n_stimuli} stimuli, {method_name(self.method)}.",
            f"Left out in turn: {self._left_out()}; {self.n_repeats} split"
            f"{'s' * (self.n_repeats > 1)}, seed {self.seed}.",
            _GENERALISES[self.stimulus_folds > 1, self.subject_folds > 1],
            "Scores and noise ceilings are over the same pairs of stimuli and the same subjects.",
        ]
        for g, region in enumerate(self.region_names):
            lower, upper = self.ceilings[:, g]
            lines.append(f"{region}: noise ceiling {lower:.3f} to {upper:.3f}")
            lines += [
                f"  {name}: {score:.3f}"
                for name, score in zip(self.model_names, self.means[:, g], strict=True)
            ]
        lines.append("No test was made: folds share data, so their spread is no standard error.")
        return "\n".join([*lines, *self.notes])

    def _left_out(self) -> str:
        parts = []
        if self.stimulus_folds > 1:
            parts.append(f"each of {self.stimulus_folds} folds of stimuli")
        if self.subject_folds > 1:
            parts.append(f"each of {self.subject_folds} folds of subjects")
        return " crossed with ".join(parts)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw every model's mean and subjects in every region, over the noise ceiling."""
        from rsafast.inference.models.plot import draw_scores

        ax = given_or_new(ax)
        draw_scores(ax, self)
        return ax


_GENERALISES = {
    (True, True): "The scores hold for stimuli and subjects that the models were not fitted to.",
    (True, False): (
        "The scores hold for stimuli that the models were not fitted to, but for these subjects:"
        " each of them took part in the fits."
    ),
    (False, True): (
        "The scores hold for subjects that the models were not fitted to, but for these stimuli:"
        " each of them took part in the fits."
    ),
}


def cross_validate(
    models: Any,
    brain: Any,
    *,
    method: str = "pearson",
    stimulus_folds: Any = 5,
    subject_folds: Any = "leave-one-out",
    n_repeats: int | None = None,
    seed: int = 0,
    regions: Any = None,
    subjects: Any = None,
    mask: ArrayLike | None = None,
    sigma_k: ArrayLike | None = None,
) -> CrossValidationResult:
    """Score models on stimuli and subjects that they were not fitted to.

    Folds of stimuli are crossed with folds of subjects. For every combination each flexible model
    is fitted to the pairs among the training stimuli in the training subjects, and scored on the
    pairs among the left-out stimuli in the left-out subjects; pairs of a training and a left-out
    stimulus are used by neither. Every brain RDM is scored once a repeat and stimulus fold. Models
    without anything to fit pass through unchanged, so that all are compared on the same pairs.

    Scores on the data that a model was fitted to favour the model with more to fit. These do not:
    a model with more weights than the data bear loses. No hypothesis is tested here; for intervals
    and p-values see `bootstrap_cross_validate`.

    Parameters
    ----------
    models : model, RDMs, or a list of both
        `FixedModel`, `SelectModel`, `WeightedModel`, `InterpolatedModel`; every plain RDM becomes a
        fixed model.
    brain : RDMs, array or rsatoolbox RDMs
        One RDM a subject (and region).
    method : comparator, see `compare` and `Model.fit`
    stimulus_folds : int, (n,) labels or None
        Number of random folds of nearly equal size (5), or the fold of every stimulus, where
        stimuli belong together (exemplars of a concept, runs), or None to leave none out. At least
        3 stimuli a fold; below 5 the result says so.
    subject_folds : "leave-one-out", int or None
        Folds of the subjects; all RDMs of a subject are left out together.
    n_repeats : int, optional
        Random splits, 10 by default, 1 where nothing is random.
    seed : int
    regions : descriptor name or N labels, optional
        Region of every brain RDM; models are fitted to each region alone. By default one.
    subjects : descriptor name or N labels, optional
        Subject of every brain RDM; by default each RDM is its own subject. Needed with several
        regions, unless `subject_folds` is None.
    mask : (pairs,) or (n, n) bool, optional
        True where a pair counts, in the stimulus order of the models.
    sigma_k : (n,) or (n, n), optional
        Noise of the conditions in the same order, see `compare`; folds take their part of it.

    Returns
    -------
    CrossValidationResult

    Raises
    ------
    InvalidInputError
        What `compare` refuses, too few stimuli or subjects for the folds, no folds at all.

    Notes
    -----
    As in rsatoolbox 0.3.2 (``sets_k_fold`` and ``crossval``, Schütt et al. 2023) with two
    differences in the ceiling: the upper bound pools the subjects over the pairs that are scored,
    not over all pairs, without which it is no bound; and the whitened methods pool whitened RDMs.

    Examples
    --------
    >>> import numpy as np, rsafast as rf
    >>> rng = np.random.default_rng(0)
    >>> parts = rng.random((3, 190))
    >>> subjects = parts[0] + parts[1] + rng.normal(size=(6, 190))
    >>> result = rf.cross_validate(
    ...     [rf.WeightedModel(parts), rf.FixedModel(parts[2], name="other")], subjects
    ... )
    >>> bool(result.means[0, 0] > result.means[1, 0])
    True
    """
    comparator = get_comparator(method)
    study = build_study(
        models, brain, comparator, regions=regions, subjects=subjects, mask=mask,
        sigma_k=sigma_k, subjects_matter=subject_folds is not None,
    )  # fmt: skip
    plan = plan_folds(study, stimulus_folds, subject_folds)
    repeats = _repeats(n_repeats, plan)
    seed = check_seed(seed)
    n, subjects_at = study.brain.n_stimuli, np.arange(len(study.subject_names))
    stimulus_fold = np.stack(
        [plan.stimulus_folds(np.arange(n), n, (seed, r)) for r in range(repeats)]
    )
    subject_fold = np.stack(
        [plan.subject_folds(subjects_at, len(subjects_at), (seed, r)) for r in range(repeats)]
    )[:, study.subject]
    jobs = [
        (*split_stimuli(folds, s, plan.stimuli), of_rdms, np.ones(study.brain.n_rdms, np.int64))
        for folds, of_rdms in zip(stimulus_fold, subject_fold, strict=True)
        for s in range(plan.stimuli)
    ]
    _check_masked_folds(study.keep, jobs, n)
    done = list(run_folds(study, jobs, plan.subjects))
    shape = (repeats, plan.stimuli)
    scores = np.stack([part.models for part in done]).reshape(*shape, *done[0].models.shape)
    lower, upper = (
        np.stack([getattr(part, side) for part in done]).reshape(*shape, -1)
        for side in ("lower", "upper")
    )
    thetas = np.stack([part.thetas for part in done]).reshape(*shape, *done[0].thetas.shape)
    undefined = np.isnan(scores).sum(axis=(0, 1, 3))
    return CrossValidationResult(
        scores=scores, ceiling_lower=lower, ceiling_upper=upper,
        theta=tuple(thetas[..., part] for part in study.slices),
        stimulus_fold=stimulus_fold, subject_fold=subject_fold, undefined=undefined,
        model_names=tuple(model.name for model in study.models),
        brain_names=study.brain.names, region_names=study.region_names,
        component_names=tuple(model.rdms.names for model in study.models),
        region=tuple(study.region_names[g] for g in study.region),
        subject=tuple(study.subject_names[i] for i in study.subject),
        stimulus_folds=plan.stimuli, subject_folds=plan.subjects, n_stimuli=n,
        n_pairs=int(study.keep.sum()), method=comparator.name, seed=seed,
        notes=_notes(study, plan, stimulus_fold, scores, lower),
    )  # fmt: skip


def split_stimuli(folds: IntArray, fold: int, n_folds: int) -> tuple[IntArray, IntArray]:
    """Counts (n,) of the training and of the test stimuli; all are both where there is one fold."""
    there = folds >= 0
    if n_folds == 1:
        return there.astype(np.int64), there.astype(np.int64)
    return (there & (folds != fold)).astype(np.int64), (folds == fold).astype(np.int64)


def check_seed(seed: Any) -> int:
    """`seed` as an int of at least 0."""
    check_integers(seed=(seed, 0))
    return int(seed)


def _repeats(n_repeats: Any, plan: FoldPlan) -> int:
    if n_repeats is None:
        return REPEATS if plan.random else 1
    if isinstance(n_repeats, bool) or not isinstance(n_repeats, int | np.integer) or n_repeats < 1:
        raise InvalidInputError(f"n_repeats must be a positive integer, got {n_repeats!r}")
    if n_repeats > 1 and not plan.random:
        raise InvalidInputError(
            f"n_repeats={n_repeats} would repeat the very same folds, since none is random; leave"
            " it out"
        )
    return int(n_repeats)


def _check_masked_folds(
    keep: NDArray[np.bool_], jobs: list[tuple[IntArray, IntArray, IntArray, IntArray]], n: int
) -> None:
    if keep.all():
        return
    x, y = np.triu_indices(n, 1)
    for counts in {tuple(part) for job in jobs for part in job[:2]}:
        row = np.array(counts)
        left = int((row[x] * row[y] * keep).sum())
        if left < _MIN_PAIRS:
            raise InvalidInputError(
                f"the mask leaves {left} pairs among the {int(row.sum())} stimuli of one fold;"
                f" at least {_MIN_PAIRS} are needed: use fewer stimulus_folds"
            )


def _notes(
    study: Study, plan: FoldPlan, stimulus_fold: IntArray, scores: FloatArray, lower: FloatArray
) -> tuple[str, ...]:
    notes = []
    if plan.stimuli > 1:
        smallest = min(int(np.bincount(row).min()) for row in stimulus_fold)
        if smallest < FEW_STIMULI:
            notes.append(
                f"The smallest fold holds {smallest} stimuli, {smallest * (smallest - 1) // 2}"
                " dissimilarities: scores are noisy; fewer stimulus_folds make larger ones."
            )
    for model, of_model in zip(study.models, scores.transpose(2, 0, 1, 3), strict=True):
        count = int(np.isnan(of_model).sum())
        if count:
            notes.append(
                f"{model.name}: {count} of {of_model.size} scores are undefined, since its"
                " prediction has no spread on the stimuli of a fold or could not be fitted; they"
                " are left out of its means."
            )
    lacking = int(np.isnan(lower).sum())
    if lacking:
        notes.append(
            f"{lacking} of {lower.size} ceilings are undefined: no other subject, or no spread."
        )
    return tuple(notes)


def _mean(values: FloatArray, axis: int | tuple[int, ...]) -> FloatArray:
    """Mean over what is defined, NaN where nothing is."""
    known = ~np.isnan(values)
    number = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.divide(total, number, out=np.full(number.shape, np.nan), where=number > 0)
