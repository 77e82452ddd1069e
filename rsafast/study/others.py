"""Stages of published networks, which nobody here trained: features, RDMs, alignment with brains.

They have neither seeds nor epochs, and differ from the networks of a study in everything: they are
described beside them, and no test compares them with a rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rsafast.comparison import compare
from rsafast.features import compute_rdms
from rsafast.inference.bootstrap.api import bootstrap
from rsafast.inference.ceilings.api import noise_ceiling
from rsafast.io.readers import read_features
from rsafast.permutation.api import permutation_test
from rsafast.progress import track
from rsafast.rdms import RDMs, align
from rsafast.study.analyses import PER_RANKING, PER_SHUFFLE, mean_brain, write_table
from rsafast.study.brains import brain_of
from rsafast.study.networks import PER_PAIR
from rsafast.study.recipe import Recipe
from rsafast.study.stage import Cost, Stage, located
from rsafast.study.stimuli import Images, read_images

# Seconds an image on two cores, and values of all layers together by pooling.
_SECONDS = {"efficientnet-lite0": 0.1, "resnet50": 0.2}
_VALUES = {
    "efficientnet-lite0": {"mean": 4e3, "none": 6e5}, "resnet50": {"mean": 7e3, "none": 2.5e6}
}  # fmt: skip


def other_stages(
    recipe: Recipe, base: Path, images: Images, brain: Stage, quiet: bool
) -> list[Stage]:
    """Features and RDMs of every published network, and one analysis of them all.

    Raises
    ------
    InvalidInputError, BackendUnavailableError
        Weights or packages that are missing, before anything runs.
    """
    stages: list[Stage] = []
    for name, file in recipe.networks.others.items():
        seen = _features_stage(
            recipe, base, images, name, located(base, file) if file else None, quiet
        )
        stages += [seen, _rdms_stage(recipe, name, seen, images)]
    return [*stages, _others_stage(recipe, stages[1::2], brain, images)] if stages else []


def _features_stage(
    recipe: Recipe, base: Path, images: Images, name: str, weights: Path | None, quiet: bool
) -> Stage:
    from rsafast_training.published import load_network

    pooling = recipe.stimuli.pooling
    published = load_network(name, weights)

    def work(folder: Path, needs: Mapping[str, Path]) -> None:
        from rsafast_training.features import Checkpointed, features_of_checkpoints

        network = load_network(name, weights)
        stimuli = read_images(recipe, base, folder, needs)
        with track(len(stimuli), f"features {name}", not quiet) as advance:
            features_of_checkpoints(
                [Checkpointed(network.model)], stimuli, network.preprocess, network.layers,
                out=folder / "features.h5", pooling=pooling, progress=advance,
            )  # fmt: skip

    settings = {
        "weights": published.sha256, "layers": published.layers, "pooling": pooling,
        "preprocess": asdict(published.preprocess),
    }  # fmt: skip
    seconds, disk = _SECONDS[name] * images.number + 3, 4 * _VALUES[name][pooling] * images.number
    cost = Cost(seconds, 2e9, disk)
    return Stage(f"features {name}", work, settings, (images.stage,), cost=cost)


def _rdms_stage(recipe: Recipe, name: str, seen: Stage, images: Images) -> Stage:
    metric, layers = recipe.comparison.metric, seen.settings["layers"]

    def work(folder: Path, needs: Mapping[str, Path]) -> None:
        file, rdms = needs[seen.name] / "features.h5", []
        for layer in layers:  # one at a time: whole maps of all layers may not fit into memory
            values, labels = read_features(file, key=layer)
            own = {f"{name} {layer}": values[layer]}
            rdms.append(compute_rdms(own, metric, labels=None if labels is None else list(labels)))
        described = {"network": [name] * len(layers), "layer": list(layers)}
        RDMs.concat(rdms).with_descriptors(described).save(folder / "models.h5")

    values = len(layers) * images.number**2 / 2
    return Stage(
        f"rdms {name}", work, {"metric": metric}, (seen,),
        cost=Cost(PER_PAIR * values + 1, 24 * values, 8 * values),
    )  # fmt: skip


def _others_stage(recipe: Recipe, rdms: list[Stage], brain: Stage, images: Images) -> Stage:
    inference = recipe.inference

    def work(folder: Path, needs: Mapping[str, Path]) -> None:
        models = RDMs.concat([RDMs.load(needs[stage.name] / "models.h5") for stage in rdms])
        regions, mask = brain_of(needs)
        regions, models = align(regions, models)  # into the order of the brain, which the mask has
        write_table(_by_subject(recipe, models, regions, mask), folder / "others-subjects.csv")
        write_table(_aligned(recipe, models, regions, mask), folder / "others.csv")

    settings = {
        "method": recipe.comparison.method, "permutations": inference.permutations,
        "resamples": inference.resamples, "level": inference.level, "seed": inference.seed,
    }  # fmt: skip
    models = sum(len(stage.needs[0].settings["layers"]) for stage in rdms)
    pairs = images.number**2 / 2
    shuffled = PER_SHUFFLE * images.number * models * 6 * inference.permutations
    ranked = PER_RANKING * pairs * inference.resamples * (models + 18)
    cost = Cost(shuffled + ranked + 1, 24 * pairs * models)
    return Stage("others", work, settings, (*rdms, brain), cost=cost)


def _by_subject(recipe: Recipe, models: RDMs, brain: RDMs, mask: Any) -> pd.DataFrame:
    """Similarity of every layer with every subject."""
    scores = compare(models, brain, recipe.comparison.method, mask=mask)
    table = _crossed(models, brain.descriptors["region"])
    table["subject"] = np.tile(brain.descriptors["subject"], models.n_rdms)
    return table.assign(similarity=scores.ravel())


def _aligned(recipe: Recipe, models: RDMs, brain: RDMs, mask: Any) -> pd.DataFrame:
    """Mean similarity of every layer with every region: interval, test and noise ceiling.

    The interval speaks for other stimuli, and for other subjects where every region has several;
    the test is of the mean RDM of a region, family-wise over all networks, layers and regions.
    """
    method, inference = recipe.comparison.method, recipe.inference
    means = mean_brain(brain)
    tested = permutation_test(
        models, means, method=method, mask=mask, n_permutations=inference.permutations,
        seed=inference.seed,
    )  # fmt: skip
    alone = [name for name in means.names if brain[{"region": name}].n_rdms == 1]
    sampled = bootstrap(
        models, brain, regions="region", subjects="subject", method=method, mask=mask,
        resample=("stimuli",) if alone else ("stimuli", "subjects"),
        n_resamples=inference.resamples, level=inference.level, seed=inference.seed,
    )  # fmt: skip
    # Regions are in the order of their first RDM on all sides.
    table = _crossed(models, np.array(means.names, dtype=object))
    of_pair = sampled.to_dataframe()
    table["n_subjects"] = of_pair["n_subjects"]
    table["estimate"], table["low"], table["high"] = (
        of_pair[name] for name in ("estimate", "ci_low", "ci_high")
    )
    table["resample"] = "+".join(sampled.resample)
    columns = ["statistic", "p_value", "p_value_fwer", "p_value_stepdown", "n_permutations"]
    table[columns] = tested.to_dataframe()[columns]
    for region in means.names:
        # A ceiling compares subjects: of a single one there is none.
        bounds = (np.nan, np.nan)
        if region not in alone:
            own = noise_ceiling(brain[{"region": region}], method, "rank-average", mask=mask)
            bounds = float(own.lower[0]), float(own.upper[0])
        table.loc[table["region"] == region, ["ceiling_lower", "ceiling_upper"]] = bounds
    return table


def _crossed(models: RDMs, regions: Any) -> pd.DataFrame:
    """One row a model and region, models varying slowest."""
    network = pd.DataFrame({name: models.descriptors[name] for name in ("network", "layer")})
    table = network.loc[network.index.repeat(len(regions))].reset_index(drop=True)
    return table.assign(region=np.tile(regions, models.n_rdms))
