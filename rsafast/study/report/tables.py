"""What a finished study left on disk, read once for its report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rsafast.errors import InvalidInputError
from rsafast.inference.exact.corrections import adjust_p
from rsafast.inference.ladder.api import RUNGS
from rsafast.permutation.result import PermutationResult
from rsafast.rdms import RDMs, align
from rsafast.study.brains import brain_of
from rsafast.study.networks import CONTROL, UNTRAINED, rdms_of
from rsafast.study.recipe import Recipe
from rsafast.study.report.words import pixels

# Names stay text, whatever they look like: a subject called "01", a region called "null".
_NAMES = (
    "rule", "rules", "rule_a", "rule_b", "layer", "region", "subject", "rung", "test",
    "generalises_to", "not_run", "adjusted_by", "definition", "method", "practice", "wrong",
    "network", "resample",
)  # fmt: skip
_BY_SIZE = (
    "alignment", "trajectory", "change", "rules", "onset", "differences", "partial", "permutation",
    "published",
)  # fmt: skip


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of a study: numbers bit for bit, names as text, only empty cells as missing.

    Raises
    ------
    InvalidInputError
        The file is missing or is no table.
    """
    try:
        return pd.read_csv(
            path, dtype=dict.fromkeys(_NAMES, str), keep_default_na=False, na_values=[""],
            engine="python",  # whose numbers are those of float()
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise InvalidInputError(
            f"{path}: cannot be read as a table of the study ({error}); run the study again with"
            " --resume, which makes what is missing"
        ) from None


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; NaN where there is none."""

    estimate: float
    low: float
    high: float


@dataclass(frozen=True)
class Study:
    """A finished study.

    Attributes
    ----------
    recipe : what was asked.
    folders : of its stages, by name.
    by_size : (table, size) to the table.
    ceilings, drift : the tables that all sizes share.
    others : of published networks, where there are some.
    """

    recipe: Recipe
    folders: Mapping[str, Path]
    by_size: Mapping[tuple[str, int], pd.DataFrame]
    ceilings: pd.DataFrame
    drift: pd.DataFrame
    others: pd.DataFrame | None = None

    @classmethod
    def read(cls, recipe: Recipe, root: Path, folders: Mapping[str, Path]) -> Study:
        """Read the tables of the study in the folder `root`."""
        tables = root / "tables"
        asked = {"partial": recipe.inference.partial, "published": recipe.inference.published}
        names = [name for name in _BY_SIZE if asked.get(name, True)]
        by_size = {
            (name, size): read_table(tables / f"{name}-{size}.csv")
            for size in recipe.stimuli.sizes
            for name in names
        }
        for size in recipe.stimuli.sizes:
            differences = by_size["differences", size]
            differences["not_run"] = differences["not_run"].fillna("")
        return cls(
            recipe, folders, by_size,
            read_table(tables / "ceilings.csv"), read_table(tables / "drift.csv"),
            read_table(tables / "others.csv") if recipe.networks.others else None,
        )  # fmt: skip

    def table(self, name: str, size: int) -> pd.DataFrame:
        """One table of one resolution."""
        return self.by_size[name, size]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Resolutions, each analysed by itself."""
        return self.recipe.stimuli.sizes

    @property
    def pairs(self) -> dict[str, str]:
        """Region to the layer that was chosen for it beforehand."""
        return self.recipe.comparison.pairs

    @property
    def trained(self) -> list[str]:
        """Rules that learn."""
        return [rule for rule in self.recipe.networks.rules if rule != UNTRAINED]

    @property
    def alpha(self) -> float:
        """Level of the tests: what the intervals leave out."""
        return round(1 - self.recipe.inference.level, 12)

    @cached_property
    def conditions(self) -> list[str]:
        """The untrained network, then every rule and its control, as far as there are results."""
        present = set(self.table("alignment", self.sizes[0])["rule"])
        ordered = [UNTRAINED]
        for rule in self.trained:
            ordered += [rule, f"{rule}{CONTROL}"]
        return [name for name in ordered if name in present]

    @cached_property
    def n_subjects(self) -> dict[str, int]:
        """Region to the number of its subjects."""
        table = self.table("alignment", self.sizes[0])
        return {region: table.loc[table["region"] == region, "subject"].nunique()
                for region in self.pairs}  # fmt: skip

    def rung(self, size: int) -> str | None:
        """The broadest test of differences that could be made at this resolution."""
        table = self.table("differences", size)
        ran = set(table.loc[table["p_value"].notna(), "rung"])
        return next((rung for rung in reversed(RUNGS) if rung in ran), None)

    def differences(self, size: int) -> pd.DataFrame:
        """Rows of the broadest rung, where it could be made or not."""
        table = self.table("differences", size)
        return table[table["rung"] == self.rung(size)]

    def at(self, size: int) -> str:
        """Name a resolution in a heading where there are several: " at 32 × 32 pixels"."""
        return f" at {pixels(size)}" if len(self.sizes) > 1 else ""

    def entry_tests(self, size: int) -> pd.DataFrame:
        """Published tests of differences by shuffled RDM entries, corrected as they were.

        Benjamini–Hochberg over all pairs of conditions, among which were no matched controls.
        """
        table = self.table("published", size)
        table = table[(table["practice"] == "entries shuffled")
                      & ~table["rule_b"].fillna("").str.endswith(CONTROL)]  # fmt: skip
        p = table["p_value"].to_numpy(float)
        return table.assign(p_adjusted=adjust_p(p, "bh") if len(p) else p)

    def significant(self, table: pd.DataFrame) -> pd.Series:
        """Whether the corrected p is at most alpha; a missing one never is."""
        return table["p_adjusted"] <= self.alpha

    def last_by_subject(self, size: int) -> pd.DataFrame:
        """Alignment after the last epoch on the pre-specified layers, seeds averaged.

        Columns: rule, region, subject, similarity.
        """
        table = self.table("alignment", size)
        last = table.groupby("rule")["epoch"].transform("max")
        chosen = (table["epoch"] == last) & (table["layer"] == table["region"].map(self.pairs))
        keys = ["rule", "region", "subject"]
        return table[chosen].groupby(keys, sort=False)["similarity"].mean().reset_index()

    def alignment(self, size: int, rule: str, region: str) -> Interval:
        """Alignment after the last epoch, with the interval of the trajectory.

        The untrained network has no trajectory. Where it is the network that a rule starts from
        (every similarity is the same), the interval of that rule before training is its interval.
        """
        curves = self.table("trajectory", size)
        here = (curves["layer"] == self.pairs[region]) & (curves["region"] == region)
        if rule == UNTRAINED:
            start = self._starts_untrained(size, region)
            own = curves[here & (curves["rule"] == start) & (curves["epoch"] == 0)]
        else:
            own = curves[here & (curves["rule"] == rule)]
            own = own[own["epoch"] == own["epoch"].max()]
        if len(own):
            row = own.iloc[0]
            return Interval(float(row["estimate"]), float(row["low"]), float(row["high"]))
        points = self.last_by_subject(size)
        points = points[(points["rule"] == rule) & (points["region"] == region)]
        return Interval(float(points["similarity"].mean()), np.nan, np.nan)

    def _starts_untrained(self, size: int, region: str) -> str | None:
        """A rule whose networks before training are the untrained ones, in this region."""
        table = self.table("alignment", size)
        here = (table["layer"] == self.pairs[region]) & (table["region"] == region)
        keys = ["seed", "subject"]
        before = table[here & (table["epoch"] == 0)]
        untrained = before[before["rule"] == UNTRAINED].set_index(keys)["similarity"].sort_index()
        for rule in self.trained:
            own = before[before["rule"] == rule].set_index(keys)["similarity"].sort_index()
            if len(own) and own.index.equals(untrained.index) and np.array_equal(own, untrained):
                return rule
        return None

    def ceiling(self, region: str) -> dict[str, float]:
        """Bounds of the rank-average ceiling and the lower one with each subject left out."""
        own = self.ceilings[self.ceilings["region"] == region].set_index("definition")
        whole = own.loc["rank-average"]
        return {
            "lower": float(whole["lower"]), "upper": float(whole["upper"]),
            "unrelated": float(whole["upper_unrelated"]),
            "left_out": float(own.loc["leave-one-out", "lower"]),
        }  # fmt: skip

    def permutation(self, size: int) -> PermutationResult:
        """The permutation test of every network with every region, with its nulls."""
        return PermutationResult.load(self.folders[f"permutation {size}"] / "permutation.h5")

    def pair_rows(self, size: int) -> pd.DataFrame:
        """Rows of the permutation test on the pre-specified pairs; the index numbers all rows."""
        table = self.table("permutation", size)
        return table[table["layer"] == table["region"].map(self.pairs)]

    def mean_rdms(self, size: int) -> tuple[RDMs, RDMs]:
        """Regions (mean over subjects) and networks (last epoch, mean over seeds), in one order.

        The networks are those of every condition on every pre-specified layer, with descriptors
        ``rule`` and ``layer``.
        """
        brain, _ = brain_of(self.folders)
        needs = {n: f for n, f in self.folders.items() if n.startswith("rdms ")}
        brain, models = align(brain, rdms_of(needs, size))
        regions = RDMs.concat([brain[{"region": name}].mean(name) for name in self.pairs])
        means, rules, layers = [], [], []
        epochs, of_rule = models.descriptors["epoch"], models.descriptors["rule"]
        for layer in dict.fromkeys(self.pairs.values()):
            for rule in self.conditions:
                last = epochs[of_rule == rule].max()
                own = models[{"rule": rule, "layer": layer, "epoch": int(last)}]
                means.append(own.mean(f"{rule}, {layer}"))
                rules.append(rule)
                layers.append(layer)
        networks = RDMs.concat(means).with_descriptors({"rule": rules, "layer": layers})
        return regions, networks

    def counted_pairs(self) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
        """Which pairs of stimuli count, condensed; None where all do."""
        mask = brain_of(self.folders)[1]
        if mask is None or mask.ndim == 1:
            return mask
        return mask[np.triu_indices(len(mask), 1)]

    @cached_property
    def done(self) -> dict[str, dict[str, Any]]:
        """Stage to what it noted when it was done: settings, seconds, provenance."""
        return {
            name: json.loads((folder / "done.json").read_text(encoding="utf-8"))
            for name, folder in self.folders.items()
            if (folder / "done.json").is_file()
        }

    @cached_property
    def published_networks(self) -> dict[str, dict[str, Any]]:
        """Published network to its layers, weights, and what was done to the images."""
        return {
            name: self.done[f"features {name}"]["settings"]
            for name in self.recipe.networks.others
            if f"features {name}" in self.done
        }

    @cached_property
    def batch_norm(self) -> dict[str, str]:
        """Rule to its regime of batch normalisation."""
        return {
            rule: config["batch_norm"]
            for rule in self.recipe.networks.rules
            if (config := self._config(rule))
        }

    def settings(self, rule: str) -> dict[str, Any]:
        """Settings of a rule as it was trained, defaults included; none if it was not here."""
        from rsafast_training.rules import rule_settings

        config = self._config(rule)
        if not config:
            return {}
        return asdict(rule_settings(config["rule"], config["settings"], config["profile"]))

    def _config(self, rule: str) -> dict[str, Any]:
        """What a rule was trained with; empty where its stage has noted nothing."""
        done = self.done.get(f"train {rule}", {})
        return dict(done.get("settings", {}).get("config", {}))
