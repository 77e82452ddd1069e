"""`best_layer`: the layer that fits best, with its choice inside the statistic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import t

from rsafast.checks import check_integers
from rsafast.comparators import Comparator, FloatArray, get_comparator, prepare
from rsafast.errors import InvalidInputError
from rsafast.inference.bootstrap.draws import STIMULI, draw_counts
from rsafast.inference.bootstrap.resampled import ResampledComparison
from rsafast.inference.bootstrap.variance import satterthwaite
from rsafast.inference.trajectory.design import Design, Incomplete, Labels, make_design
from rsafast.inference.trajectory.resample import (
    Draws,
    cell_means,
    check_enough,
    checked_factors,
    factor_sets,
    scores_of,
)
from rsafast.inference.trajectory.simultaneous import grid_columns, total_variance
from rsafast.mask import as_pair_mask
from rsafast.memory import parse_bytes
from rsafast.permutation.api import permutation_test
from rsafast.permutation.result import PermutationResult
from rsafast.progress import track
from rsafast.rdms import RDMs, align, as_rdms

if TYPE_CHECKING:
    import pandas as pd

Select: TypeAlias = Literal["stimuli", "subjects"]
_SPLITS = 2_000  # stream of the random halves
_PER_RESAMPLE = 2  # random halves a resample, from which the noise of halving is taken out
_BLOCK = 32  # resamples at a time
_EQUAL = 1e-7  # null standard deviations below the observed maximum that count as equal to it


@dataclass(frozen=True, slots=True, kw_only=True)
class BestLayer:
    """Result of :func:`rsafast.best_layer`; arrays are (rules, epochs, regions) unless said.

    Attributes
    ----------
    alignment : (rules, epochs, layers, regions) mean over seeds and subjects.
    chosen : place of the layer with the largest alignment.
    chosen_alignment : its alignment, chosen and read off on the same data: biased upwards, never
        to be tested or compared as if the layer had been fixed.
    p_value : for the null hypothesis that no layer is related to the region: relabellings whose
        best layer, in null standard deviations, is as extreme as that of the data.
    p_value_fwer : the same, the maximum over rules, epochs and regions too.
    p_layer : (rules, epochs, layers, regions) p of each layer, adjusted for the choice.
    null_maximum : mean over relabellings of the alignment of the best layer: what choosing gives
        where nothing is related. NaN, with all p, without permutations.
    crossvalidated : alignment of the layer that was chosen on other stimuli (or subjects).
    standard_error, dof, low, high : of `crossvalidated`.
    frequency : (rules, epochs, layers, regions) share of the splits that chose each layer.
    lost : resamples left out because a similarity is undefined.
    """

    rules: tuple[Any, ...]
    epochs: tuple[float, ...]
    layers: tuple[Any, ...]
    regions: tuple[Any, ...]
    alignment: FloatArray
    chosen: NDArray[np.int64]
    chosen_alignment: FloatArray
    p_value: FloatArray
    p_value_fwer: FloatArray
    p_layer: FloatArray
    null_maximum: FloatArray
    crossvalidated: FloatArray
    standard_error: FloatArray
    dof: FloatArray
    low: FloatArray
    high: FloatArray
    frequency: FloatArray
    select: str
    method: str
    resample: tuple[str, ...]
    n_permutations: int
    n_splits: int
    n_resamples: int
    lost: int
    level: float
    seed: int
    excluded: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)

    def to_dataframe(self) -> pd.DataFrame:
        """One row a (rule, epoch, region)."""
        import pandas as pd

        columns: dict[str, Any] = grid_columns(
            ("rule", "epoch", "region"), (self.rules, self.epochs, self.regions)
        )
        columns["layer"] = [self.layers[i] for i in self.chosen.ravel()]
        for name in (
            "chosen_alignment", "null_maximum", "p_value", "p_value_fwer", "crossvalidated",
            "standard_error", "low", "high",
        ):  # fmt: skip
            columns[name] = getattr(self, name).ravel()
        return pd.DataFrame(columns)

    def summary(self) -> str:
        """Say in plain text what was tested and estimated, and to whom it generalises."""
        bias = float(np.mean(self.chosen_alignment - self.crossvalidated))
        lines = [
            f"Best of {len(self.layers)} layers for {self.p_value.size} cells (rule, epoch,"
            f" region), comparator {self.method}.",
            f"Chosen and scored on the same data, the best layer's alignment is {bias:.3g} larger"
            " on average than scored on data that did not choose it.",
            f"Cross-validated: chosen on other {self.select}, {self.n_splits} splits;"
            f" {self.level:.0%} intervals over {', '.join(self.resample)}"
            f" ({self.n_resamples} resamples, {self.lost} left out).",
        ]
        if self.n_permutations:
            smallest = float(self.p_value.min())
            lines += [
                "p-values: null hypothesis that no layer is related to the region; stimulus labels"
                f" of all networks permuted together, {self.n_permutations:,} relabellings, maximum"
                f" over layers. Smallest p {smallest:.3g}, smallest attainable"
                f" {1 / self.n_permutations:.3g}: more relabellings lift it.",
                "They speak for these stimuli, subjects and seeds only.",
            ]
        return "\n".join([*lines, *self.excluded])


def best_layer(
    models: Any,
    brain: Any,
    *,
    rules: Labels = None,
    seeds: Labels = None,
    epochs: Labels = None,
    layers: Labels = None,
    regions: Labels = None,
    subjects: Labels = None,
    method: str = "spearman",
    select: Select = "stimuli",
    n_permutations: int = 10_000,
    n_splits: int = 50,
    resample: str | Sequence[str] = ("stimuli", "seeds"),
    n_resamples: int = 1_000,
    level: float = 0.95,
    mask: ArrayLike | None = None,
    incomplete: Incomplete = "error",
    seed: int = 0,
    memory_budget: int | str | None = None,
    progress: bool = True,
) -> BestLayer:
    """Alignment of the best layer of every rule, epoch and region, without its optimism.

    The best of several layers is larger than any of them by chance alone, and more so the more
    layers and noise there are. Two remedies, which answer different questions:

    Test: is any layer related to this region? The stimuli of all networks are relabelled
    together, and the best layer is found anew under every relabelling, so that the choice is part
    of the statistic (max-T; Westfall & Young 1993). Layers compete in null standard deviations.

    Estimate: how well does the layer that one would choose do? It is chosen on one random half of
    the stimuli and scored on the other, both ways, over many halves (or chosen on the other
    subjects). In a bootstrap all copies of a stimulus stay in one half, and the noise of halving
    is taken out as in rsatoolbox's bootstrap cross-validation (Schütt et al. 2023).

    Parameters
    ----------
    models, brain, rules, seeds, epochs, layers, regions, subjects, method, mask, incomplete
        See `trajectory`; without epochs all networks are of one.
    select : {"stimuli", "subjects"}
        What the layer is chosen on. Choosing on other subjects leaves what these stimuli and
        networks share by chance in the choice: it generalises to subjects, not to stimuli.
    n_permutations : relabellings of the test, 0 for none.
    n_splits : random halves of the stimuli (``select="stimuli"``).
    resample, n_resamples, level : of the interval, see `trajectory`; 0 resamples for none.

    Returns
    -------
    BestLayer

    Raises
    ------
    InvalidInputError
        See `trajectory`; a single layer; a single subject where subjects choose; fewer than 12
        stimuli where halves of them choose.

    Examples
    --------
    >>> import numpy as np, rsafast as rf
    >>> rng = np.random.default_rng(0)
    >>> models = rf.RDMs(
    ...     rf.compute_rdms(rng.normal(size=(6, 20, 5))).vectors,
    ...     descriptors={"layer": np.tile(["a", "b", "c"], 2), "seed": np.repeat([0, 1], 3)},
    ... )
    >>> brain = rf.compute_rdms(rng.normal(size=(1, 20, 5)))
    >>> best = rf.best_layer(models, brain, n_permutations=999, n_resamples=100)
    >>> bool(best.p_value[0, 0, 0] > 0.05), bool(best.chosen_alignment > best.crossvalidated)
    (True, True)
    """
    comparator, factors = get_comparator(method), checked_factors(resample)
    _check(select, n_permutations, n_splits, n_resamples, level, seed)
    budget = parse_bytes(memory_budget)
    a, b = align(as_rdms(models, "models"), as_rdms(brain, "brain"))
    keep = as_pair_mask(mask, a, b)
    design = make_design(
        a, b, rules=rules, seeds=seeds, epochs=epochs, layers=layers, regions=regions,
        subjects=subjects, incomplete=incomplete, epochs_needed=False,
    )  # fmt: skip
    _check_design(design, select, factors if n_resamples else ())
    scores = scores_of(design, comparator, keep)
    return choose(
        design, comparator, keep, scores, select=select, n_permutations=n_permutations,
        n_splits=n_splits, factors=factors, n_resamples=n_resamples, level=level, seed=seed,
        budget=budget, progress=progress,
    )  # fmt: skip


def choose(
    design: Design,
    comparator: Comparator,
    keep: NDArray[np.bool_],
    scores: FloatArray,
    *,
    select: Select,
    n_permutations: int,
    n_splits: int,
    factors: tuple[str, ...],
    n_resamples: int,
    level: float,
    seed: int,
    budget: int,
    progress: bool,
) -> BestLayer:
    """`best_layer` of a design that was checked; `scores` (G, S, E, L, Q, P) are the data's."""
    tested = _tested(design, comparator, keep, scores, n_permutations, seed, budget, progress)
    choice = _Choice(design, comparator, keep, scores, select, factors, seed, n_splits)
    point, frequency = choice.on_data()
    error, dof, lost = choice.errors(n_resamples, progress)
    alignment = cell_means(scores)
    width = t.isf((1 - level) / 2, dof) * error
    return BestLayer(
        rules=design.rules, epochs=design.epochs, layers=design.layers, regions=design.regions,
        alignment=alignment, chosen=alignment.argmax(axis=2),
        chosen_alignment=alignment.max(axis=2), crossvalidated=point, standard_error=error,
        dof=dof, low=point - width, high=point + width, frequency=frequency, select=select,
        method=comparator.name, resample=factors, n_splits=n_splits, n_resamples=n_resamples,
        lost=lost, level=float(level), seed=seed, excluded=design.excluded, **tested,
    )  # fmt: skip


def _check(
    select: str, n_permutations: Any, n_splits: Any, n_resamples: Any, level: float, seed: Any
) -> None:
    if select not in ("stimuli", "subjects"):
        raise InvalidInputError(f"select must be 'stimuli' or 'subjects', got {select!r}")
    check_integers(
        n_permutations=(n_permutations, 0), n_splits=(n_splits, 1), n_resamples=(n_resamples, 0),
        seed=(seed, 0),
    )  # fmt: skip
    if 0 < n_resamples < 20:
        raise InvalidInputError(f"n_resamples must be 0 or at least 20, got {n_resamples}")
    if not 0.5 <= level < 1:
        raise InvalidInputError(f"level must lie from 0.5 to 1, got {level!r}")


def _check_design(design: Design, select: str, factors: tuple[str, ...]) -> None:
    check_enough(design, factors)
    if len(design.layers) < 2:
        raise InvalidInputError(
            "best_layer needs at least 2 layers to choose from, got 1; say with layers= which"
            " layer each model RDM is"
        )
    if select == "subjects" and len(design.subjects) < 2:
        raise InvalidInputError("select='subjects' needs at least 2 subjects, got 1")
    if select == "stimuli" and design.models.n_stimuli < 12:
        raise InvalidInputError(
            f"select='stimuli' needs at least 12 stimuli for two halves, got"
            f" {design.models.n_stimuli}; use select='subjects'"
        )


# ---------------------------------------------------------------- test


def _tested(
    design: Design,
    comparator: Comparator,
    keep: NDArray[np.bool_],
    scores: FloatArray,
    n_permutations: int,
    seed: int,
    budget: int,
    progress: bool,
) -> dict[str, Any]:
    """The fields of BestLayer that relabellings give."""
    g, _, e, layers, q, _ = scores.shape
    out: dict[str, Any] = {
        "p_value": np.full((g, e, q), np.nan), "p_value_fwer": np.full((g, e, q), np.nan),
        "p_layer": np.full((g, e, layers, q), np.nan), "null_maximum": np.full((g, e, q), np.nan),
        "n_permutations": 0,
    }  # fmt: skip
    if not n_permutations:
        return out
    observed, largest = np.empty((g, e, q)), None
    for rule in range(g):
        # The same sizes and seed give every call the same relabellings: maxima go across calls.
        for region in range(q):
            null, mean, std, there = _null(
                design, comparator, keep, rule, region, scores.shape, n_permutations, seed,
                budget, progress,
            )  # fmt: skip
            best = null.max(axis=1)
            out["null_maximum"][rule, :, region] = best.mean(axis=-1)
            z = (null - mean[..., None]) / std[..., None]
            there = (there - mean) / std
            top = z.max(axis=1)
            observed[rule, :, region] = there.max(axis=1)
            out["p_value"][rule, :, region] = _share(top, there.max(axis=1))
            for layer in range(layers):
                out["p_layer"][rule, :, layer, region] = _share(top, there[:, layer])
            top = top.max(axis=0)
            largest = top if largest is None else np.maximum(largest, top)
    assert largest is not None
    out["p_value_fwer"] = _share(
        np.broadcast_to(largest, (observed.size, len(largest))), observed.ravel()
    ).reshape(observed.shape)
    out["n_permutations"] = len(largest)
    return out


def _share(null: FloatArray, observed: FloatArray) -> FloatArray:
    """Share of each row of `null` that is at least the observed value; the data is one of them."""
    return (null >= observed[:, None] - _EQUAL).mean(axis=1)


def _null(
    design: Design,
    comparator: Comparator,
    keep: NDArray[np.bool_],
    rule: int,
    region: int,
    shape: tuple[int, ...],
    n_permutations: int,
    seed: int,
    budget: int,
    progress: bool,
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Null (E, L, permutations) of one rule's alignments with one region.

    Also its mean and standard deviation, and the value observed, all (E, L). Under a mask that
    value is the permutation test's own statistic, whose model ranks are not those inside the mask.

    Where the comparator is a product of prepared vectors, so is the mean over seeds and subjects:
    that of the mean prepared vectors. Else all pairs are permuted and averaged.
    """
    _, s, e, layers, _, p = shape
    rows = np.arange(s * e * layers) + rule * s * e * layers
    columns = np.arange(p) + region * p
    models, brain = design.models.subset(rows), design.brain.subset(columns)
    if keep.all() and not comparator.concordance:
        n = models.n_stimuli
        x = prepare(comparator, models.vectors, n, models.names)
        x = x.reshape(s, e * layers, -1).mean(axis=0)
        y = prepare(comparator, brain.vectors, n, brain.names).mean(axis=0, keepdims=True)
        scale = np.linalg.norm(x, axis=1) * np.linalg.norm(y)
        result = _permuted(
            RDMs.from_vectors(x), RDMs.from_vectors(y), "cosine", None, n_permutations, seed,
            budget, progress,
        )  # fmt: skip
        mean, std, observed = (
            (v[:, 0] * scale).reshape(e, layers)
            for v in (result.null_mean, result.null_std, result.statistic)
        )
        null = (np.asarray(result.null)[:, 0] * scale[:, None]).reshape(e, layers, -1)
        return null, mean, std, observed
    result = _permuted(
        models, brain, comparator.name, None if keep.all() else keep, n_permutations, seed, budget,
        progress,
    )  # fmt: skip
    null = np.asarray(result.null).reshape(s, e, layers, p, -1).mean(axis=(0, 3))
    observed = result.statistic.reshape(s, e, layers, p).mean(axis=(0, 3))
    return null, null.mean(axis=-1), null.std(axis=-1), observed


def _permuted(
    models: RDMs,
    brain: RDMs,
    method: str,
    keep: NDArray[np.bool_] | None,
    n_permutations: int,
    seed: int,
    budget: int,
    progress: bool,
) -> PermutationResult:
    return permutation_test(
        models, brain, method=method, mask=keep, n_permutations=n_permutations, seed=seed,
        keep_null=True, memory_budget=budget, progress=progress,
    )  # fmt: skip


# ---------------------------------------------------------------- estimate


class _Choice:
    """The alignment of a layer that other data chose, on the data and on resamples."""

    def __init__(
        self,
        design: Design,
        comparator: Comparator,
        keep: NDArray[np.bool_],
        scores: FloatArray,
        select: Select,
        factors: tuple[str, ...],
        seed: int,
        n_splits: int,
    ) -> None:
        self._comparison = ResampledComparison(comparator, design.models, design.brain, keep)
        self._n, self._shape, self._factors = design.models.n_stimuli, scores.shape, factors
        self._draws = Draws(design, self._comparison, scores, factors, seed)
        self._scores, self._by_halves, self._seed = scores, select == "stimuli", seed
        self._sizes = {"stimuli": self._n, "subjects": scores.shape[5], "seeds": scores.shape[1]}
        self._halves = self._scores_of_halves(n_splits) if self._by_halves else None

    def on_data(self) -> tuple[FloatArray, FloatArray]:
        """Cross-validated alignment (G, E, Q), and how often each layer was chosen."""
        if self._halves is None:
            values, chosen = _other_subjects(self._scores.mean(axis=1)[None], None)
            return values[0], chosen[0]
        values, chosen = _other_half(self._halves.mean(axis=(3, 7)))
        if not np.isfinite(values).all():
            raise InvalidInputError(
                "a half of the stimuli leaves some RDM without spread; use select='subjects'"
            )
        return values.mean(axis=0), chosen.mean(axis=0)

    def errors(self, n_resamples: int, progress: bool) -> tuple[FloatArray, FloatArray, int]:
        """Standard error and degrees of freedom (G, E, Q), and resamples left out."""
        g, _, e, _, q, _ = self._shape
        if not n_resamples:
            return np.full((g, e, q), np.nan), np.full((g, e, q), np.nan), 0
        drawn = []
        with track(n_resamples, "resamples of the choice", progress) as advance:
            for start in range(0, n_resamples, _BLOCK):
                stop = min(start + _BLOCK, n_resamples)
                drawn.append(self._replicates(start, stop))
                advance(stop - start)
        # (sets, resamples, splits, G, E, Q)
        values = np.concatenate(drawn, axis=1)
        whole = np.isfinite(values).all(axis=(0, 2, 3, 4, 5))
        if whole.sum() < max(n_resamples // 2, 2):
            raise InvalidInputError(
                f"{int((~whole).sum())} of {n_resamples} resamples leave an RDM without spread or"
                " no data to choose on; use more stimuli or subjects"
            )
        raw = np.stack([_without_split_noise(v[whole]) for v in values])
        sizes = {factor: self._sizes[factor] for factor in self._factors}
        variance = total_variance(raw, sizes)
        parts = {f: raw[2**k - 1] / (1 - 1 / n) for k, (f, n) in enumerate(sizes.items())}
        items = {f: np.asarray(n - 1.0) for f, n in sizes.items()}
        return np.sqrt(variance), satterthwaite(variance, parts, items), int((~whole).sum())

    def _replicates(self, start: int, stop: int) -> FloatArray:
        """(sets, draws, splits, G, E, Q) cross-validated alignments."""
        seeds = self._draws.seed_weights(start, stop)
        subjects = self._draws.subject_weights(start, stop)
        moving, fixed = self._split_scores(start, stop)
        out = []
        for chosen in factor_sets(self._factors):
            values = moving if "stimuli" in chosen else fixed
            by_seed = seeds if "seeds" in chosen else None
            by_subject = subjects if "subjects" in chosen else None
            out.append(self._chosen(values, by_seed, by_subject))
        return np.stack(out)

    def _chosen(
        self, values: FloatArray, seeds: FloatArray | None, subjects: FloatArray | None
    ) -> FloatArray:
        if seeds is None:
            means = values.mean(axis=-5)
        else:
            means = np.einsum("r...gselqp,rgs->r...gelqp", values, seeds)
        if not self._by_halves:
            return _other_subjects(means, subjects)[0][:, None]
        if subjects is None:
            means = means.mean(axis=-1)
        else:
            means = np.einsum("r...gelqp,rp->r...gelq", means, subjects)
        return _other_half(means)[0]

    def _split_scores(self, start: int, stop: int) -> tuple[FloatArray, FloatArray]:
        """Scores where stimuli are drawn, and where they are not."""
        rows = stop - start
        stimuli = "stimuli" in self._factors
        if self._halves is None:
            fixed = np.broadcast_to(self._scores, (rows, *self._shape))
            counts = draw_counts(self._seed, STIMULI, self._n, start, stop) if stimuli else None
            moving = fixed if counts is None else self._score(counts)
            return moving, fixed
        # Without drawn stimuli the splits of the data serve all resamples, two after the other.
        which = np.arange(start, stop)[:, None] * _PER_RESAMPLE + np.arange(_PER_RESAMPLE)
        fixed = self._halves[which % len(self._halves)]
        if not stimuli:
            return fixed, fixed
        counts = draw_counts(self._seed, STIMULI, self._n, start, stop)
        halves = np.stack([
            _halves(self._seed, r, self._n, _PER_RESAMPLE, counts[r - start] > 0)
            for r in range(start, stop)
        ])  # fmt: skip
        weights = halves * counts[:, None, None]
        return self._score(weights.reshape(-1, self._n)).reshape(
            rows, _PER_RESAMPLE, 2, *self._shape
        ), fixed  # fmt: skip

    def _scores_of_halves(self, n_splits: int) -> FloatArray:
        """(splits, 2, G, S, E, L, Q, P)."""
        halves = _halves(self._seed, None, self._n, n_splits, np.ones(self._n, bool))
        scores = self._score(halves.reshape(-1, self._n))
        return scores.reshape(n_splits, 2, *self._shape)

    def _score(self, weights: NDArray[np.integer]) -> FloatArray:
        return self._comparison.scores(weights).reshape(-1, *self._shape)


def _halves(
    seed: int, resample: int | None, n: int, splits: int, present: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Membership (splits, 2, n) of random halves of the stimuli that are present."""
    keys = [seed, _SPLITS, n] + ([] if resample is None else [1, resample])
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(keys)))
    out = np.zeros((splits, 2, n), np.int64)
    there = np.flatnonzero(present)
    for split in out:
        order = rng.permutation(there)
        split[0, order[: len(order) // 2]] = 1
        split[1, order[len(order) // 2 :]] = 1
    return out


def _other_half(means: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Score of either half's best layer on the other half: (..., 2, G, E, L, Q) -> (..., G, E, Q).

    Also how often each layer was chosen, (..., G, E, L, Q).
    """
    first, second = np.moveaxis(means, -5, 0)
    pairs = ((first, second), (second, first))
    value = [np.take_along_axis(b, _best(a), axis=-2)[..., 0, :] for a, b in pairs]
    places = np.arange(means.shape[-2])[:, None]
    chosen = [_best(a) == places for a, _ in pairs]
    return np.mean(value, axis=0), np.mean(chosen, axis=0)


def _other_subjects(
    scores: FloatArray, weights: FloatArray | None
) -> tuple[FloatArray, FloatArray]:
    """Mean score of every subject for the layer that the others choose.

    (R, G, E, L, Q, P) -> (R, G, E, Q), NaN where a resample holds a single subject; and how often
    each layer was chosen, (R, G, E, L, Q).
    """
    n = scores.shape[-1]
    w = np.full((len(scores), n), 1 / n) if weights is None else weights
    w = w[:, None, None, None, None, :]
    others = (scores * w).sum(axis=-1, keepdims=True) - scores * w
    alone = (1 - w <= 1e-12) & (w > 0)  # nobody else was drawn
    picked = others.argmax(axis=-3, keepdims=True)
    own = np.take_along_axis(scores, picked, axis=-3)[..., 0, :, :]
    own = np.where(alone[..., 0, :], np.nan, own)
    value = np.where(w[:, 0] > 0, own * w[..., 0, :], 0.0).sum(axis=-1)
    places = np.arange(scores.shape[-3])[:, None, None]
    return value, ((picked == places) * w).sum(axis=-1)


def _best(means: FloatArray) -> NDArray[np.int64]:
    return means.argmax(axis=-2, keepdims=True)


def _without_split_noise(values: FloatArray) -> FloatArray:
    """Variance (...) over resamples of values (R, splits, ...) had each infinitely many splits."""
    splits = values.shape[1]
    of_mean = values.mean(axis=1).var(axis=0, ddof=1)
    if splits == 1:
        return of_mean
    of_one = values.var(axis=0, ddof=1).mean(axis=0)
    # Never below what independent splits alone would leave of it.
    return np.maximum((splits * of_mean - of_one) / (splits - 1), of_mean / splits)
