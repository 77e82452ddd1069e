"""`Trajectory`: curves of alignment over checkpoints, and what can be asked of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.tally import Alternative
from scipy.stats import spearmanr

from rsafast.comparators import FloatArray
from rsafast.errors import InvalidInputError
from rsafast.inference.exact.api import TrendNull, TrendStatistic, sign_flip_test, trend_test
from rsafast.inference.exact.result import ExactTestResult
from rsafast.inference.trajectory.best_layer import BestLayer
from rsafast.inference.trajectory.curves import (
    Axis,
    area_weights,
    axis_values,
    fit_approach,
    refine_approach,
    slope_weights,
)
from rsafast.inference.trajectory.resample import cell_means
from rsafast.inference.trajectory.simultaneous import (
    Basis,
    Contrasts,
    Estimates,
    corrected_replicates,
    infer,
)
from rsafast.inference.trajectory.tables import Interaction, Onsets, Rates, relative_change
from rsafast.io.results import check_fields, field_names, save_result

if TYPE_CHECKING:
    import h5py
    import pandas as pd
    from matplotlib.figure import Figure

KIND: Literal["trajectory"] = "trajectory"
Family: TypeAlias = Literal["curve", "all"]
_LABELS = ("rules", "seeds", "epochs", "layers", "regions", "subjects")  # any str or number
_CURVE = ("rule", "layer", "region")
_LEAST_R2 = 0.5  # below this an exponential says little about a curve
_MOST_EDGE = 0.25  # share of resamples whose τ may run off


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """Result of :func:`rsafast.trajectory`.

    Attributes
    ----------
    scores : (rules, seeds, epochs, layers, regions, subjects) similarity of each network's RDM
        with each subject's RDM.
    rules, epochs, layers, regions, subjects : values of the axes.
    seeds : seeds of every rule.
    baseline : epoch that changes are measured from.
    resample : factors that were resampled: what intervals and p-values generalise to.
    n_resamples, lost : resamples drawn, and those left out because a similarity is undefined.
    deviations : (cells, resamples) joint replicates minus their mean, cells in the order (rule,
        epoch, layer, region).
    covariances : (sets of factors, cells, cells) covariance of the replicates where only a set of
        factors is resampled; set b holds factor k of `resample` where b + 1 has bit k.
    jackknife : (cells, groups) cells with each stimulus left out (of more than 128 stimuli, each
        of 128 groups), minus their mean; (cells, 0) where stimuli are not resampled.
    best_layer : the best layer of every rule, epoch and region with its choice inside the
        statistic, where permutations were asked for; without an interval (see `best_layer`).
    excluded : one sentence for everything that ``incomplete="drop"`` left out.
    """

    scores: FloatArray
    deviations: FloatArray
    covariances: FloatArray
    jackknife: FloatArray
    rules: tuple[Any, ...]
    seeds: tuple[tuple[Any, ...], ...]
    epochs: tuple[float, ...]
    layers: tuple[Any, ...]
    regions: tuple[Any, ...]
    subjects: tuple[Any, ...]
    baseline: float
    method: str
    resample: tuple[str, ...]
    n_stimuli: int
    n_resamples: int
    lost: int
    level: float
    seed: int
    best_layer: BestLayer | None = None
    excluded: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    # ------------------------------------------------------------ curves

    @property
    def alignment(self) -> FloatArray:
        """Mean over seeds and subjects: (rules, epochs, layers, regions)."""
        return cell_means(self.scores)

    def estimates(self, family: Family = "curve") -> Estimates:
        """Alignment with intervals, and bands over the epochs of each curve (or over all cells).

        The null hypothesis of its p-values is an alignment of 0.
        """
        cells = self._cells()
        return infer(
            self._basis(), Contrasts(cells[None], np.ones((1, *cells.shape))),
            self._families(family), what="alignment", axes=("rule", "epoch", "layer", "region"),
            coords=(self.rules, self.epochs, self.layers, self.regions),
            family=_words(family),
        )  # fmt: skip

    def change(self, relative: bool = False, family: Family = "curve") -> Estimates:
        """Change from the baseline at every other epoch, with bands over the epochs of a curve.

        Parameters
        ----------
        relative : divide by the alignment at baseline
            Intervals are Fieller's, which take the error of the baseline into account. NaN, with
            the reason, where the baseline's band does not lie above 0. p-values are those of the
            absolute change: the ratio is 1 where the difference is 0.
        family : {"curve", "all"}
            Bands and family-wise p over the epochs of each (rule, layer, region), or over all.
        """
        absolute = self._absolute_change(family)
        if not relative:
            return absolute
        others = np.delete(np.arange(len(self.epochs)), self._baseline_index())
        base = np.full(len(others), self._baseline_index())
        return relative_change(absolute, self._at(others), self._at(base))

    def _at(self, epochs: NDArray[np.int64]) -> Estimates:
        """Alignment at these places of the epochs, each for itself."""
        cells = self._cells()[:, epochs]
        values = Contrasts(cells[None], np.ones((1, *cells.shape)))
        return infer(
            self._basis(), values, np.zeros(cells.shape, np.int64), what="alignment",
            axes=("rule", "epoch", "layer", "region"),
            coords=(self.rules, tuple(self.epochs[i] for i in epochs), self.layers, self.regions),
            family="",
        )  # fmt: skip

    def _absolute_change(self, family: Family) -> Estimates:
        cells, base = self._cells(), self._baseline_index()
        others = np.delete(np.arange(len(self.epochs)), base)
        index = np.stack([
            cells[:, others], np.broadcast_to(cells[:, [base]], cells[:, others].shape),
        ])  # fmt: skip
        weight = np.stack([np.ones(index.shape[1:]), -np.ones(index.shape[1:])])
        return infer(
            self._basis(), Contrasts(index, weight), self._families(family)[:, others],
            what=f"change from epoch {self.baseline:g}",
            axes=("rule", "epoch", "layer", "region"),
            coords=(
                self.rules, tuple(self.epochs[i] for i in others), self.layers, self.regions,
            ),
            family=_words(family),
        )  # fmt: skip

    def onset(self) -> Onsets:
        """First epoch after the baseline that differs from it, of every curve.

        An epoch differs where its change has a family-wise p of at most 1 - level, the maximum
        over all epochs of the curve in the statistic: on a flat curve any onset at all is found
        with at most that probability. The interval says where the same search ends on resamples;
        ``inf`` stands for "no epoch".
        """
        change, basis = self._absolute_change("curve"), self._basis()
        epochs = np.array(change.coords[1])
        after = epochs > self.baseline
        differs = (change.p_value_fwer <= 1 - self.level) & after[None, :, None, None]
        first = np.where(differs.any(axis=1), epochs[differs.argmax(axis=1)], np.inf)
        low, high = np.empty(first.shape), np.empty(first.shape)
        half = (change.band_high - change.band_low) / 2
        others = np.delete(np.arange(len(self.epochs)), self._baseline_index())
        for g, layer, q in np.ndindex(*first.shape):
            curves = corrected_replicates(basis, self._cells()[g, :, layer, q])
            changes = curves[:, others] - curves[:, [self._baseline_index()]]
            beyond = (np.abs(changes) > half[g, :, layer, q]) & after
            found = np.where(beyond.any(axis=1), epochs[beyond.argmax(axis=1)], np.inf)
            tail = (1 - self.level) / 2
            low[g, layer, q], high[g, layer, q] = np.quantile(
                found, [tail, 1 - tail], method="inverted_cdf"
            )
        chosen = np.take_along_axis(change.estimate, differs.argmax(axis=1)[:, None], axis=1)
        smallest = np.where(
            after[None, :, None, None], change.p_value_fwer, np.inf
        ).min(axis=1, initial=1.0)
        return Onsets(
            rules=self.rules, layers=self.layers, regions=self.regions, epoch=first,
            change=np.where(np.isfinite(first), chosen[:, 0], np.nan), p_value=smallest,
            low=low, high=high, level=self.level,
        )  # fmt: skip

    def rates(self) -> Rates:
        """Time constant of an exponential approach a + (b - a)·exp(-(epoch - first)/τ).

        Fitted by least squares to every curve and to all its resamples (a grid of τ in closed
        form). τ is NaN, with the reason, where the curve does not identify it: no epoch differs
        from the baseline, the fit explains less than half of the variance, or τ runs to an end of
        what the checkpoints can tell on the data or on more than a quarter of the resamples.
        """
        if len(self.epochs) < 4:
            raise InvalidInputError(
                f"rates need at least 4 checkpoints, this trajectory has {len(self.epochs)}"
            )
        moved = np.isfinite(self.onset().epoch)
        shape = moved.shape
        numbers = {name: np.full(shape, np.nan) for name in (
            "tau", "low", "high", "start", "end", "r2", "monotonicity", "runs_off",
        )}  # fmt: skip
        reasons = []
        for place in np.ndindex(*shape):
            found, reason = self._rate(place, bool(moved[place]))
            for name, value in found.items():
                numbers[name][place] = value
            reasons.append(reason)
        return Rates(
            rules=self.rules, layers=self.layers, regions=self.regions, reason=tuple(reasons),
            level=self.level, **numbers,
        )  # fmt: skip

    def _rate(self, place: tuple[int, ...], moved: bool) -> tuple[dict[str, float], str]:
        g, layer, q = place
        x = np.array(self.epochs)
        curve = self.alignment[g, :, layer, q]
        fit = refine_approach(x, curve, fit_approach(x, curve[None]))
        drawn = fit_approach(x, corrected_replicates(self._basis(), self._cells()[g, :, layer, q]))
        off = float((drawn.edge != 0).mean())
        reason = _not_identified(moved, float(fit.r2[0]), float(fit.edge[0]), off)
        constant = bool(np.ptp(curve) == 0)
        found = {
            "start": fit.start[0], "end": fit.end[0], "r2": fit.r2[0], "runs_off": off,
            "monotonicity": np.nan if constant else spearmanr(x, curve).statistic,
        }  # fmt: skip
        if not reason:
            tail = (1 - self.level) / 2
            tau = np.where(drawn.edge < 0, 0.0, np.where(drawn.edge > 0, np.inf, drawn.tau))
            low, high = np.nanquantile(tau, [tail, 1 - tail], method="inverted_cdf")
            found |= {"tau": fit.tau[0], "low": low, "high": high}
        return {name: float(value) for name, value in found.items()}, reason

    # ------------------------------------------------------------ whole curves

    def area(self, axis: Axis = "log", family: Family = "curve") -> Estimates:
        """Mean height of every curve over log(1 + epoch) or over the epochs, by trapezoids."""
        return self._summary(area_weights, "area", axis, family)

    def slopes(self, axis: Axis = "log", family: Family = "curve") -> Estimates:
        """Least-squares slope of every curve on log(1 + epoch) or on the epochs."""
        return self._summary(slope_weights, "slope", axis, family)

    def _summary(self, weights: Any, what: str, axis: Axis, family: Family) -> Estimates:
        each = weights(axis_values(np.array(self.epochs), axis))
        index = np.moveaxis(self._cells(), 1, 0)
        contrasts = Contrasts(index, np.broadcast_to(each[:, None, None, None], index.shape))
        grid = index.shape[1:]
        families = np.zeros(grid, np.int64) if _is_all(family) else _each(grid)
        return infer(
            self._basis(), contrasts, families, what=f"{what} ({axis} axis)", axes=_CURVE,
            coords=(self.rules, self.layers, self.regions), family=_words(family),
        )  # fmt: skip

    def compare_rules(
        self,
        over: Literal["epoch", "area", "mean", "slope"] = "epoch",
        axis: Axis = "log",
        family: Family = "curve",
    ) -> Estimates:
        """Differences between rules, first minus second, on the same resamples.

        The null hypothesis is that the two rules have the same alignment (area, mean, slope).

        Parameters
        ----------
        over : {"epoch", "area", "mean", "slope"}
            At every epoch, with bands over the epochs of each pair, layer and region; or of whole
            curves: their area, their mean over checkpoints, or their slope.
        axis : {"log", "linear"}, for area and slope.
        family : {"curve", "all"}
        """
        if len(self.rules) < 2:
            raise InvalidInputError("compare_rules needs at least 2 rules, this trajectory has 1")
        pairs = np.array(list(combinations(range(len(self.rules)), 2)))
        names = self._pair_names()
        cells = self._cells()
        first, second = cells[pairs[:, 0]], cells[pairs[:, 1]]
        if over == "epoch":
            index = np.stack([first, second])
            weight = np.stack([np.ones(first.shape), -np.ones(first.shape)])
            families = _by_curve(first.shape)
            axes: tuple[str, ...] = ("rules", "epoch", "layer", "region")
            coords: tuple[tuple[Any, ...], ...] = (
                names, self.epochs, self.layers, self.regions,
            )  # fmt: skip
        else:
            each = self._curve_weights(over, axis)[:, None, None, None]
            index = np.concatenate([np.moveaxis(part, 1, 0) for part in (first, second)])
            weight = np.concatenate([each, -each]) * np.ones(index.shape)
            families = _each(index.shape[1:])
            axes, coords = ("rules", "layer", "region"), (names, self.layers, self.regions)
        if _is_all(family):
            families = np.zeros_like(families)
        return infer(
            self._basis(), Contrasts(index, weight), families,
            what=f"difference of rules, {over}", axes=axes, coords=coords,
            family=_words(family),
        )  # fmt: skip

    def _curve_weights(self, over: str, axis: Axis) -> FloatArray:
        x = axis_values(np.array(self.epochs), axis)
        if over == "area":
            return area_weights(x)
        if over == "slope":
            return slope_weights(x)
        if over == "mean":
            return np.full(len(x), 1 / len(x))
        raise InvalidInputError(
            f"over must be 'epoch', 'area', 'mean' or 'slope', got {over!r}"
        )

    def interaction(
        self,
        regions: tuple[Any, Any],
        layers: Any = None,
        axis: Axis = "log",
    ) -> Interaction:
        """Slope over training in one region minus slope in another, per rule and between rules.

        Two regions may well have different slopes of the same sign: ``p_opposite`` asks whether
        the signs differ.

        Parameters
        ----------
        regions : the two regions.
        layers : the layer to follow in both, or one for each; by default the only one there is.
        axis : {"log", "linear"}
        """
        places = self._region_layers(regions, layers)
        each = slope_weights(axis_values(np.array(self.epochs), axis))
        cells = self._cells()
        # (regions, epochs, rules)
        index = np.stack([cells[:, :, layer, q].T for layer, q in places])
        weight = each[None, :, None] * np.ones(index.shape)
        signed = weight * np.array([1.0, -1.0])[:, None, None]
        named = tuple(f"{self.regions[q]} ({self.layers[layer]})" for layer, q in places)
        slopes = self._infer(
            np.moveaxis(index, 0, 2), np.moveaxis(weight, 0, 2), f"slope ({axis} axis)",
            ("rule", "region"), (self.rules, named),
        )  # fmt: skip
        flat = index.reshape(-1, len(self.rules))
        flat_weight = signed.reshape(flat.shape)
        what = f"slope in {named[0]} minus slope in {named[1]}"
        difference = self._infer(flat, flat_weight, what, ("rule",), (self.rules,))
        between = None
        if len(self.rules) > 1:
            i, j = np.array(list(combinations(range(len(self.rules)), 2))).T
            between = self._infer(
                np.concatenate([flat[:, i], flat[:, j]]),
                np.concatenate([flat_weight[:, i], -flat_weight[:, j]]),
                f"difference between rules of: {what}", ("rules",), (self._pair_names(),),
            )  # fmt: skip
        p_seeds, p_fwer, floor = self._seed_signs(places, each)
        signs = np.sign(slopes.estimate)
        return Interaction(
            regions=regions, layers=tuple(self.layers[layer] for layer, _ in places),
            slopes=slopes, difference=difference, between=between,
            p_opposite=np.where(signs[:, 0] * signs[:, 1] < 0, slopes.p_value.max(axis=1), 1.0),
            p_seeds=p_seeds, p_seeds_fwer=p_fwer, p_seeds_floor=floor,
        )  # fmt: skip

    def _seed_signs(
        self, places: list[tuple[int, int]], each: FloatArray
    ) -> tuple[FloatArray, FloatArray, float]:
        """Exact p over seeds of each rule's difference of slopes, family-wise p, and the floor."""
        if len(self.seeds[0]) < 2:
            nothing = np.full(len(self.rules), np.nan)
            return nothing, nothing, float("nan")
        curves = self.scores.mean(axis=5)  # (rules, seeds, epochs, layers, regions)
        first, second = (
            np.einsum("gse,e->sg", curves[:, :, :, layer, q], each) for layer, q in places
        )
        exact = sign_flip_test(first - second, unit="seed", progress=False)
        return exact.p_value, exact.p_value_fwer, exact.floor

    def trends(
        self,
        null: TrendNull = "units",
        statistic: TrendStatistic = "spearman",
        alternative: Alternative = "two-sided",
    ) -> dict[Any, ExactTestResult]:
        """Exact trend test of every rule over its seeds, jointly over layers and regions.

        Parameters
        ----------
        null : {"units", "checkpoints"}
            Signs of the seeds' trends (generalises to seeds; floor 2/2^seeds), or orders of the
            checkpoints (these seeds only); see `trend_test`.

        Returns
        -------
        One result a rule; its columns are named "layer, region".
        """
        names = [f"{layer}, {region}" for layer in self.layers for region in self.regions]
        curves = self.scores.mean(axis=5)
        return {
            rule: trend_test(
                values.reshape(*values.shape[:2], -1), self.epochs, null=null,
                statistic=statistic, alternative=alternative, names=names, unit="seed",
                seed=self.seed, progress=False,
            )
            for rule, values in zip(self.rules, curves, strict=True)
        }  # fmt: skip

    # ------------------------------------------------------------ tables, files, figures

    def to_dataframe(self) -> pd.DataFrame:
        """One row a (rule, epoch, layer, region): alignment, and its change from the baseline.

        Columns of the change start with "change"; they are NaN at the baseline.
        """
        keys = ["rule", "epoch", "layer", "region"]
        table = self.estimates().to_dataframe().rename(columns={"estimate": "alignment"})
        names = ["estimate", "band_low", "band_high", "p_value", "p_value_fwer"]
        change = self.change().to_dataframe()[keys + names].rename(
            columns={"estimate": "change"} | {name: f"change_{name}" for name in names[1:]}
        )
        return table.merge(change, on=keys, how="left")

    def summary(self) -> str:
        """Say in plain text what was estimated, to whom it generalises, and what was found."""
        g, s, e, layers, q, p = self.scores.shape
        onsets, grid = self.onset(), g * layers * q
        fixed = [f for f in ("stimuli", "subjects", "seeds") if f not in self.resample]
        lines = [
            f"{g} rules × {s} seeds × {e} epochs × {layers} layers against {q} regions ×"
            f" {p} subjects, {self.n_stimuli} stimuli, comparator {self.method}.",
            "Alignment is the mean over seeds and subjects of the similarity of one network's RDM"
            " with one subject's RDM.",
            f"{self.level:.0%} intervals and bands from {self.n_resamples:,} resamples of"
            f" {', '.join(self.resample)}: they generalise to other {_listed(self.resample)}"
            + (f", and speak for these {_listed(fixed)} only." if fixed else "."),
        ]
        if self.lost:
            lines.append(
                f"{self.lost} resamples are left out: a similarity is undefined on them."
            )
        lines += [
            f"Bands hold for all epochs of a curve at once. {int(np.isfinite(onsets.epoch).sum())}"
            f" of {grid} curves leave their baseline (epoch {self.baseline:g}; max-|t| over"
            f" epochs, p ≤ {1 - self.level:.3g} each).",
            f"Smallest p that {self.n_resamples:,} resamples can give:"
            f" {1 / (self.n_resamples - self.lost + 1):.2g}; that of exact tests over {s} seeds,"
            f" two-sided: {2.0 ** (1 - s):.3g}. More resamples lift the one, more seeds the other.",
        ]
        if self.best_layer is not None:
            lines.append(self.best_layer.summary())
        return "\n".join([*lines, *self.excluded])

    def plot(
        self, layer: Any = None, quantity: Literal["alignment", "change"] = "alignment"
    ) -> Figure:
        """Draw curves over log(1 + epoch) with their bands: a panel a region, a colour a rule.

        Parameters
        ----------
        layer : which layer, or a mapping of every region to its layer; by default the only one.
        quantity : {"alignment", "change"}
        """
        from rsafast.inference.trajectory.plot import draw_trajectory

        chosen = [
            self._place(layer[region] if isinstance(layer, Mapping) else layer, "layers")
            for region in self.regions
        ]
        return draw_trajectory(self, chosen, quantity)

    def save(self, path: str | Path) -> None:
        """Write the result: everything to .h5 or .hdf5, the table to .csv, whole or not at all."""
        from rsafast.io import hdf5

        def fill(file: h5py.File) -> None:
            hdf5.write_fields(file, _stored(self, ("best_layer",)))
            if self.best_layer is not None:
                hdf5.write_fields(file.create_group("best_layer"), _stored(self.best_layer, ()))

        save_result(self, path, KIND, fill)

    @classmethod
    def load(cls, path: str | Path) -> Trajectory:
        """Read a result that :meth:`save` wrote to .h5; every array comes back bit for bit."""
        from rsafast.io import hdf5

        with hdf5.read(path, KIND) as file:
            values = _restored(cls, hdf5.read_fields(file), path, ("best_layer",))
            group = file.get("best_layer")
            best = (
                None
                if group is None
                else BestLayer(**_restored(BestLayer, hdf5.read_fields(group), path, ()))
            )
        return cls(**values, best_layer=best)

    # ------------------------------------------------------------ parts

    def _infer(
        self,
        index: NDArray[np.int64],
        weight: FloatArray,
        what: str,
        axes: tuple[str, ...],
        coords: tuple[tuple[Any, ...], ...],
    ) -> Estimates:
        """Contrasts (terms, *grid) that form one family."""
        return infer(
            self._basis(), Contrasts(index, weight), np.zeros(index.shape[1:], np.int64),
            what=what, axes=axes, coords=coords, family=_FAMILY_WORDS["all"],
        )  # fmt: skip

    def _region_layers(self, regions: tuple[Any, Any], layers: Any) -> list[tuple[int, int]]:
        """(layer, region) places of two regions."""
        if isinstance(regions, str) or len(regions) != 2:
            raise InvalidInputError(f"regions must name two regions, got {regions!r}")
        both = layers if isinstance(layers, tuple | list) else (layers, layers)
        if len(both) != 2:
            raise InvalidInputError(f"layers must be a layer or two, got {layers!r}")
        places = [
            (self._place(layer, "layers"), self._place(region, "regions"))
            for layer, region in zip(both, regions, strict=True)
        ]
        if places[0] == places[1]:
            raise InvalidInputError(
                f"interaction compares two different regions or layers, got {regions!r} twice"
            )
        return places

    def _place(self, label: Any, axis: Literal["layers", "regions"]) -> int:
        known = getattr(self, axis)
        if label is None and len(known) == 1:
            return 0
        if label not in known:
            raise InvalidInputError(
                f"{axis}: {label!r} is none of {', '.join(map(str, known))}; name one"
            )
        return int(known.index(label))

    def _pair_names(self) -> tuple[str, ...]:
        return tuple(f"{a} - {b}" for a, b in combinations(self.rules, 2))

    def _basis(self) -> Basis:
        sizes = {
            "stimuli": self.n_stimuli, "subjects": len(self.subjects), "seeds": len(self.seeds[0]),
        }  # fmt: skip
        cells = self._cells()
        rule_of = np.broadcast_to(np.arange(len(self.rules))[:, None, None, None], cells.shape)
        return Basis(
            values=self.alignment.ravel(), deviations=self.deviations,
            covariances=self.covariances, jackknife=self.jackknife,
            sizes={f: sizes[f] for f in self.resample}, rule_of=rule_of.ravel(), level=self.level,
        )  # fmt: skip

    def _cells(self) -> NDArray[np.int64]:
        """Number of every cell, (rules, epochs, layers, regions)."""
        g, _, e, layers, q, _ = self.scores.shape
        return np.arange(g * e * layers * q).reshape(g, e, layers, q)

    def _families(self, family: Family) -> NDArray[np.int64]:
        shape = self._cells().shape
        return np.zeros(shape, np.int64) if _is_all(family) else _by_curve(shape)

    def _baseline_index(self) -> int:
        return self.epochs.index(self.baseline)


_FAMILY_WORDS: dict[str, str] = {
    "curve": "each curve by itself, over its epochs",
    "all": "everything in this table at once",
}


def _words(family: str) -> str:
    if family not in _FAMILY_WORDS:
        raise InvalidInputError(f"family must be 'curve' or 'all', got {family!r}")
    return _FAMILY_WORDS[family]


def _is_all(family: str) -> bool:
    return _words(family) == _FAMILY_WORDS["all"]


def _by_curve(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Family of every cell (rule or pair, epoch, layer, region): that of its curve."""
    first, _, layers, regions = shape
    numbers = np.arange(first * layers * regions).reshape(first, 1, layers, regions)
    return np.broadcast_to(numbers, shape).copy()


def _each(shape: tuple[int, ...]) -> NDArray[np.int64]:
    return np.arange(int(np.prod(shape))).reshape(shape)


def _not_identified(moved: bool, r2: float, edge: float, off: float) -> str:
    """Why τ is not reported, or ""."""
    if not moved:
        return "not identifiable: no epoch differs from the baseline"
    if not r2 >= _LEAST_R2:
        return f"not identifiable: an exponential explains {r2:.0%} of the variance"
    if edge < 0:
        return "not identifiable: complete before the second checkpoint"
    if edge > 0:
        return "not identifiable: no plateau within the checkpoints"
    if off > _MOST_EDGE:
        return f"not identifiable: τ runs off on {off:.0%} of the resamples"
    return ""


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1])] * (len(words) > 1) + [words[-1]])


def _stored(result: Trajectory | BestLayer, without: tuple[str, ...]) -> dict[str, Any]:
    """Fields for HDF5; labels, which may be of mixed kinds, in one dictionary."""
    names = [name for name in field_names(result) if name not in (*without, *_LABELS)]
    labels = {name: getattr(result, name) for name in _LABELS if hasattr(result, name)}
    return {name: getattr(result, name) for name in names} | {"labels": labels}


def _restored(
    kind: type[Trajectory] | type[BestLayer],
    values: dict[str, Any],
    path: str | Path,
    without: tuple[str, ...],
) -> dict[str, Any]:
    values |= {name: _as_tuples(held) for name, held in values.pop("labels", {}).items()}
    check_fields(kind, values, path, without)
    return values


def _as_tuples(values: Any) -> Any:
    return tuple(map(_as_tuples, values)) if isinstance(values, list) else values
