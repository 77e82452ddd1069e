"""Stages that infer: each writes tables (.csv) and, where there is one, the result itself (.h5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rsafast.comparison import compare
from rsafast.errors import InvalidInputError
from rsafast.inference.ceilings.api import noise_ceiling
from rsafast.inference.exact.corrections import adjust_p
from rsafast.inference.exact.effects import cohens_d
from rsafast.inference.ladder.api import compare_rules
from rsafast.inference.trajectory.api import trajectory
from rsafast.permutation.api import permutation_test
from rsafast.rdms import RDMs, align
from rsafast.study.brains import brain_of
from rsafast.study.networks import (
    CONTROL,
    UNTRAINED,
    is_rdms,
    n_layers,
    n_networks,
    pixels_stage,
    rdms_of,
)
from rsafast.study.published import published_table
from rsafast.study.recipe import Recipe
from rsafast.study.stage import Cost, Stage
from rsafast.study.stimuli import Images

NETWORK = ["rule", "seed", "epoch", "layer"]
# Seconds on two cores, measured: a relabelling per stimulus and pair of RDMs, a resample per RDM
# and pair of stimuli.
PER_SHUFFLE, PER_RANKING = 8e-14, 5.5e-10
_PARTIAL = 10_000  # relabellings of the partial test at most: each costs a regression
Analyse = Callable[[Recipe, int, Path, Mapping[str, Path]], None]


def analysis_stages(
    recipe: Recipe, base: Path, images: Images, networks: list[Stage], brain: Stage
) -> list[Stage]:
    """Every analysis, those of networks by resolution."""
    trained = tuple(stage for stage in networks if stage.name.startswith("train "))
    stages = [_ceiling_stage(recipe, brain), Stage("drift", _drift, needs=trained)]
    for size in recipe.stimuli.sizes:
        rdms = tuple(stage for stage in networks if is_rdms(stage.name, size))
        pixels = pixels_stage(recipe, base, images, size)
        inference = recipe.inference.model_dump(mode="json")
        comparison = recipe.comparison.model_dump(mode="json")
        costs = _costs(recipe, images.number)
        for name, analyse, options, more in (
            ("alignment", _alignment, ("method",), ()),
            ("permutation", _permutation, ("method", "permutations", "seed"), ()),
            ("trajectory", _trajectory, ("method", "resamples", "resample", "level", "seed"), ()),
            ("differences", _differences,
             ("method", "pairs", "permutations", "resamples", "adjust", "level", "seed"), ()),
            ("partial", _partial, ("method", "permutations", "seed"), (pixels,)),
            ("published", _published, ("pairs", "seed"), ()),
        ):  # fmt: skip
            if not inference.get(name, True):
                continue
            stages += more
            settings = {key: (comparison | inference)[key] for key in options}
            work, needs = _bound(analyse, recipe, size), (*rdms, brain, *more)
            stages.append(
                Stage(f"{name} {size}", work, settings, needs, version=2, cost=costs[name])
            )
    return stages


def _costs(recipe: Recipe, n: int) -> dict[str, Cost]:
    """Estimates of every analysis at one resolution, as if there were 18 brain RDMs."""
    inference, brains = recipe.inference, 18
    pairs, last = n**2 / 2, 2 * len(recipe.networks.seeds) * n_layers(recipe)
    rules = len(recipe.networks.rules)
    models = rules * n_networks(recipe) * n_layers(recipe)
    compared = rules * (rules + 3) / 2 * len(recipe.comparison.pairs)
    ranked = PER_RANKING * pairs * inference.resamples
    seconds = {
        "alignment": 1e-8 * pairs * models,
        "permutation": PER_SHUFFLE * n * rules * last * 6 * inference.permutations,
        "trajectory": ranked * (models + brains),
        "differences": ranked * compared * (2 * len(recipe.networks.seeds) + brains),
        "partial": 1e-10 * pairs * _PARTIAL * rules * 2 * n_layers(recipe),
        "published": 1e-8 * pairs * 1500 * compared,
    }
    return {name: Cost(value + 1, 24 * pairs * models) for name, value in seconds.items()}


def _bound(analyse: Analyse, recipe: Recipe, size: int) -> Callable[..., None]:
    return lambda folder, needs: analyse(recipe, size, folder, needs)


def _sides(needs: Mapping[str, Path], size: int) -> tuple[RDMs, RDMs, Any]:
    """Networks and brains over the same stimuli, and the mask."""
    models, (brain, mask) = rdms_of(needs, size), brain_of(needs)
    brain, models = align(brain, models)  # into the order of the brain, which the mask has
    return models, brain, mask


def _last(models: RDMs) -> RDMs:
    """The networks of every rule after its last epoch."""
    rule, epoch = models.descriptors["rule"], models.descriptors["epoch"]
    last = {name: epoch[rule == name].max() for name in dict.fromkeys(rule.tolist())}
    return models[np.array([e == last[r] for r, e in zip(rule.tolist(), epoch, strict=True)])]


def _network_columns(models: RDMs) -> pd.DataFrame:
    return pd.DataFrame({name: models.descriptors[name] for name in NETWORK})


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table of the study."""
    # Enough digits to come back bit for bit, and the same text for the same numbers.
    table.to_csv(path, index=False, float_format="%.17g", lineterminator="\n")


def _alignment(recipe: Recipe, size: int, folder: Path, needs: Mapping[str, Path]) -> None:
    """Similarity of every network with every subject."""
    models, brain, mask = _sides(needs, size)
    scores = compare(models, brain, recipe.comparison.method, mask=mask)
    network = _network_columns(models)
    repeated = network.loc[network.index.repeat(brain.n_rdms)].reset_index(drop=True)
    for name in ("region", "subject"):
        repeated[name] = np.tile(brain.descriptors[name], models.n_rdms)
    repeated["similarity"] = scores.ravel()
    write_table(repeated, folder / "alignment.csv")


def mean_brain(brain: RDMs) -> RDMs:
    """One RDM a region, the mean over subjects."""
    regions = dict.fromkeys(brain.descriptors["region"].tolist())
    return RDMs.concat([brain[{"region": region}].mean(region) for region in regions])


def _permutation(recipe: Recipe, size: int, folder: Path, needs: Mapping[str, Path]) -> None:
    """Every network after training against the mean RDM of every region, max-T over all."""
    models, brain, mask = _sides(needs, size)
    last, means = _last(models), mean_brain(brain)
    result = permutation_test(
        last, means, method=recipe.comparison.method, mask=mask,
        n_permutations=recipe.inference.permutations, seed=recipe.inference.seed,
    )  # fmt: skip
    result.save(folder / "permutation.h5")
    network = _network_columns(last)
    table = network.loc[network.index.repeat(means.n_rdms)].reset_index(drop=True)
    of_pair = result.to_dataframe().drop(columns="model").rename(columns={"brain": "region"})
    write_table(pd.concat([table, of_pair], axis=1), folder / "permutation.csv")


def _trajectory(recipe: Recipe, size: int, folder: Path, needs: Mapping[str, Path]) -> None:
    """Alignment over training of every rule that was trained, and of its controls."""
    models, brain, mask = _sides(needs, size)
    trained = models[models.descriptors["rule"] != UNTRAINED]
    inference = recipe.inference
    curves = trajectory(
        trained, brain, rules="rule", seeds="seed", epochs="epoch", layers="layer",
        regions="region", subjects="subject", method=recipe.comparison.method,
        resample=inference.resample, n_resamples=inference.resamples, level=inference.level,
        mask=mask, seed=inference.seed, incomplete="drop",
    )  # fmt: skip
    curves.save(folder / "trajectory.h5")
    for name, table in (
        ("trajectory", curves.estimates()), ("change", curves.change()),
        ("rules", curves.compare_rules()), ("onset", curves.onset()),
    ):  # fmt: skip
        write_table(table.to_dataframe(), folder / f"{name}.csv")


def _differences(recipe: Recipe, size: int, folder: Path, needs: Mapping[str, Path]) -> None:
    """Every two rules after training, on the layer chosen beforehand for each region.

    All rungs of `rf.compare_rules`, each corrected over all comparisons and regions, and Cohen's d
    over seeds.
    """
    models, brain, mask = _sides(needs, size)
    last, inference = _last(models), recipe.inference
    tables = []
    for region, layer in recipe.comparison.pairs.items():
        chosen, own = last[{"layer": layer}], brain[{"region": region}]
        for a, b in _compared(dict.fromkeys(chosen.descriptors["rule"].tolist())):
            result = compare_rules(
                chosen, own, rule_a=a, rule_b=b, rules="rule", seeds="seed", regions="region",
                subjects="subject", method=recipe.comparison.method, mask=mask, seed=inference.seed,
                n_permutations=inference.permutations, n_resamples=inference.resamples,
                level=inference.level, progress=False,
            )  # fmt: skip
            table = result.to_dataframe()
            table.insert(0, "layer", layer)
            table.insert(0, "rule_b", b)
            table.insert(0, "rule_a", a)
            tables.append(table.assign(**_effect(chosen, own, a, b, recipe, mask)))
    table = pd.concat(tables, ignore_index=True)
    table["p_adjusted"] = np.nan
    for _, rows in table.groupby("rung").groups.items():
        p = table.loc[rows, "p_value"].to_numpy(float)
        table.loc[rows, "p_adjusted"] = adjust_p(p, inference.adjust, nan="omit")
    write_table(table.assign(adjusted_by=inference.adjust), folder / "differences.csv")


def _compared(rules: Mapping[str, None]) -> list[tuple[str, str]]:
    """Every trained rule with its control and the untrained network, and with every other rule."""
    trained = [rule for rule in rules if rule != UNTRAINED and not rule.endswith(CONTROL)]
    baselines = [(rule, other) for rule in trained for other in (f"{rule}{CONTROL}", UNTRAINED)]
    return [pair for pair in baselines if pair[1] in rules] + list(combinations(trained, 2))


def _effect(
    models: RDMs, brain: RDMs, a: str, b: str, recipe: Recipe, mask: Any
) -> dict[str, float]:
    """Cohen's d of the difference over seeds, paired where both rules have the same seeds."""
    sides = [models[{"rule": rule}] for rule in (a, b)]
    seeds = [side.descriptors["seed"].tolist() for side in sides]
    scores = [
        compare(side, brain, recipe.comparison.method, mask=mask).mean(axis=1) for side in sides
    ]
    try:
        d = cohens_d(*scores, paired=seeds[0] == seeds[1], level=recipe.inference.level)
    except InvalidInputError:  # one seed, or no spread between seeds
        return {"cohens_d": np.nan, "d_low": np.nan, "d_high": np.nan}
    low, high = d.ci[0, 0]
    return {"cohens_d": float(d.estimate[0, 0]), "d_low": float(low), "d_high": float(high)}


def _partial(recipe: Recipe, size: int, folder: Path, needs: Mapping[str, Path]) -> None:
    """Every rule after training with the pixels of the images held constant.

    Networks of a rule and subjects of a region are averaged before: RDMs of the mean network.
    """
    models, brain, mask = _sides(needs, size)
    last, means = _last(models), mean_brain(brain)
    pixels = RDMs.load(needs[f"pixels {size}"] / "models.h5")
    groups = dict.fromkeys(zip(*(last.descriptors[n].tolist() for n in ("rule", "layer")),
                               strict=True))  # fmt: skip
    averaged = RDMs.concat(
        [last[{"rule": rule, "layer": layer}].mean(f"{rule} {layer}") for rule, layer in groups]
    )
    options = {"method": recipe.comparison.method, "mask": mask}
    result = permutation_test(
        averaged, means, covariates=pixels, seed=recipe.inference.seed,
        n_permutations=min(recipe.inference.permutations, _PARTIAL), **options,
    )  # fmt: skip
    table = result.to_dataframe().rename(columns={"brain": "region", "statistic": "partial"})
    names = np.repeat(np.array(list(groups), dtype=object), means.n_rdms, axis=0)
    table.insert(0, "layer", names[:, 1])
    table.insert(0, "rule", names[:, 0])
    table["similarity"] = compare(averaged, means, **options).ravel()
    write_table(table.drop(columns="model"), folder / "partial.csv")


def _published(recipe: Recipe, size: int, folder: Path, needs: Mapping[str, Path]) -> None:
    """What published studies would have reported of the same RDMs, all pairs of stimuli used."""
    models, brain, _ = _sides(needs, size)
    compared = _compared(dict.fromkeys(models.descriptors["rule"].tolist()))
    table = published_table(
        models, brain, recipe.comparison.pairs, compared, recipe.inference.seed
    )
    write_table(table, folder / "published.csv")


def _ceiling_stage(recipe: Recipe, brain: Stage) -> Stage:
    method = recipe.comparison.method

    def work(folder: Path, needs: Mapping[str, Path]) -> None:
        rdms, mask = brain_of(needs)
        tables = [
            noise_ceiling(
                rdms, method, definition, regions="region", subjects="subject", mask=mask
            ).to_dataframe()
            for definition in ("rank-average", "leave-one-out")
        ]  # fmt: skip
        write_table(pd.concat(tables, ignore_index=True), folder / "ceilings.csv")

    return Stage("ceilings", work, {"method": method}, (brain,))


def _drift(folder: Path, needs: Mapping[str, Path]) -> None:
    """Accuracy and weight drift of every network at every epoch."""
    from rsafast_training.checkpoints import metrics_table

    table = pd.concat([metrics_table(run) for run in needs.values()], ignore_index=True)
    # How long it took differs from run to run, and tables are to be the same.
    table = table.drop(columns=["seconds", "cpu_seconds"], errors="ignore")
    write_table(table, folder / "drift.csv")
