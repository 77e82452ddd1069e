"""Stages that make the networks' side: training, features, RDMs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rsafast.errors import InvalidInputError
from rsafast.features import compute_rdms
from rsafast.io.readers import read_descriptors, read_features
from rsafast.progress import track
from rsafast.rdms import RDMs
from rsafast.study.imported import import_stage
from rsafast.study.recipe import Networks, Recipe
from rsafast.study.stage import Cost, Stage, located
from rsafast.study.stimuli import Images, read_images

if TYPE_CHECKING:
    from rsafast_training.config import TrainConfig
    from rsafast_training.loop import Progress

UNTRAINED, CONTROL = "untrained", "-control"
# Seconds on two cores of a 2021 server, measured: a training image of 32 pixels by rule; a pixel
# through a network (maps that settle: so many times); a pair of stimuli of one RDM.
_PER_IMAGE = {"untrained": 0.0, "bp": 1.2e-3, "fa": 1.2e-3, "pc": 3.3e-3, "stdp": 1.5e-3}
_PER_PIXEL, _SETTLING = 4e-7, 3
PER_PAIR = 3e-8
_EMBEDDED = (1500, 8)  # training digits, and their side in pixels
_USUAL = (8000, 32)
_USUAL_LAYERS = 5


def network_stages(recipe: Recipe, base: Path, images: Images, quiet: bool) -> list[Stage]:
    """Training, features and RDMs of every rule, RDMs by resolution."""
    _check_layers(recipe)
    stages: list[Stage] = []
    data = _training_data(recipe, base)
    for rule in recipe.networks.rules:
        if data is None:
            trained = import_stage(recipe, rule, base, quiet)
        else:
            trained = _train_stage(recipe, rule, data, quiet)
        seen = _features_stage(recipe, rule, base, images, trained, quiet)
        rdms = [_rdms_stage(recipe, rule, size, seen, images) for size in recipe.stimuli.sizes]
        stages += [trained, seen, *rdms]
    return stages


def pixels_stage(recipe: Recipe, base: Path, images: Images, size: int) -> Stage:
    """RDM of the images themselves, at one resolution."""

    def work(folder: Path, needs: Mapping[str, Path]) -> None:
        from rsafast_training.stimuli import Preprocess

        stimuli = read_images(recipe, base, folder, needs)
        (pixels,) = stimuli.pixels([Preprocess(size)])
        flat = np.asarray(pixels, np.float32).reshape(len(stimuli), -1)
        compute_rdms({"pixels": flat}, labels=list(stimuli.labels)).save(folder / "models.h5")

    return Stage(f"pixels {size}", work, {"size": size}, (images.stage,))


def train_with_bar(
    config: TrainConfig, out: Path, resume: bool, quiet: bool, say: Callable[[str], object]
) -> Path:
    """Train one run behind a bar with accuracy, rate and time left; without a terminal, lines."""
    from rsafast_training.trainer import train

    lines = not quiet and not sys.stderr.isatty()
    bar, done = None, 0
    with ExitStack() as stack:

        def report(at: Progress) -> None:
            nonlocal bar, done
            if bar is None:  # its length is known from the first step on
                bar = stack.enter_context(track(at.total, config.name, not quiet))
            tested = "" if at.test_accuracy is None else f", test {at.test_accuracy:.1%}"
            seen = "" if math.isnan(at.accuracy) else f", train {at.accuracy:.1%}"
            said = f"epoch {at.epoch}/{at.epochs}{seen}{tested}"
            bar(at.done - done, said)
            done = at.done
            if at.checkpoint and lines:
                say(f"{config.name}, seeds {', '.join(map(str, at.seeds))}: {said}")

        return train(config, out, resume=resume, report=report)


def _check_layers(recipe: Recipe) -> None:
    from rsafast_training.models import build_model

    size = recipe.networks.image_size or 32
    known = build_model(recipe.networks.model, [0], 10, image_size=size).layer_names
    asked = recipe.stimuli.layers or ()
    unknown = [name for name in (*asked, *recipe.comparison.pairs.values()) if name not in known]
    if unknown:
        raise InvalidInputError(
            f"{recipe.networks.model} has no layer {unknown[0]!r}; it has {', '.join(known)}"
        )


def _training_data(recipe: Recipe, base: Path) -> tuple[str, str] | None:
    """The training data as `TrainConfig` takes them, and what identifies their content.

    None where networks were trained elsewhere.
    """
    from rsafast_training.data.dataset import data_fingerprint

    asked = recipe.networks
    if asked.weights is not None:
        return None
    kind, colon, path = asked.data.partition(":")
    data = f"{kind}:{located(base, path)}" if colon else asked.data
    return data, data_fingerprint(data, asked.image_size)


def _train_stage(recipe: Recipe, rule: str, source: tuple[str, str], quiet: bool) -> Stage:
    from rsafast_training.config import TrainConfig

    asked, (data, fingerprint) = recipe.networks, source
    config = TrainConfig(
        rule, profile=asked.profile, model=asked.model, data=data, seeds=asked.seeds,
        epochs=asked.epochs, checkpoints=asked.checkpoints, batch_size=asked.batch_size,
        n_train=asked.n_train, subset=asked.subset, image_size=asked.image_size,
        settings=asked.settings.get(rule, {}), stack=_stacking(asked),
    )  # fmt: skip
    described = json.loads(config.to_json())
    for free in ("stack", "device", "data"):
        del described[free]

    def work(folder: Path, needs: Mapping[str, Path]) -> None:
        train_with_bar(config, folder, True, quiet, lambda line: print(line, file=sys.stderr))

    number, side = _EMBEDDED if data == "digits" else _USUAL
    shown = (asked.n_train or number) * config.epochs * len(asked.seeds)
    each = _PER_IMAGE.get(rule, 3e-3) * ((asked.image_size or side) / 32) ** 2
    files = len(asked.seeds) * len(config.checkpoints)
    return Stage(
        f"train {rule}", work,
        {"config": described, "data": fingerprint},
        cost=Cost(each * shown + 5, 1e9, 5e6 * files),
    )  # fmt: skip


def _stacking(asked: Networks) -> Literal["together", "one-by-one"]:
    """How seeds train: a measurement would choose otherwise at another time, and round otherwise.

    Small images are faster with all seeds at once: docs/performance.md.
    """
    side = asked.image_size or (_EMBEDDED if asked.data == "digits" else _USUAL)[1]
    return "together" if side <= 16 else "one-by-one"


def _features_stage(
    recipe: Recipe, rule: str, base: Path, images: Images, trained: Stage, quiet: bool
) -> Stage:
    asked = recipe.stimuli

    def work(folder: Path, needs: Mapping[str, Path]) -> None:
        from rsafast_training.checkpoints import find_checkpoints
        from rsafast_training.features import Checkpointed, features_of_checkpoints
        from rsafast_training.stimuli import Preprocess

        stimuli = read_images(recipe, base, folder, needs)
        found = find_checkpoints(needs[trained.name], controls=recipe.networks.controls)
        steps = [Preprocess(size) for size in asked.sizes]
        total = len(found) * len(steps) * len(stimuli)
        with track(total, f"features {rule}", not quiet) as advance:
            features_of_checkpoints(
                map(Checkpointed.load, found), stimuli, steps, asked.layers,
                out=folder / "features.h5", pooling=asked.pooling, progress=advance,
            )  # fmt: skip

    settings = {
        "sizes": asked.sizes, "layers": asked.layers, "pooling": asked.pooling,
        "controls": recipe.networks.controls,
    }  # fmt: skip
    networks, stimuli = n_networks(recipe), images.number
    pixels = sum(size**2 for size in asked.sizes)
    settles = rule == "pc" and recipe.networks.profile == "faithful"
    each = _PER_PIXEL * (_SETTLING if settles else 1)
    return Stage(
        f"features {rule}", work, settings, (trained, images.stage),
        cost=Cost(each * stimuli * networks * pixels + 2, 1e9, 4e3 * stimuli * networks),
    )  # fmt: skip


def _rdms_stage(recipe: Recipe, rule: str, size: int, seen: Stage, images: Images) -> Stage:
    metric = recipe.comparison.metric

    def work(folder: Path, needs: Mapping[str, Path]) -> None:
        file = needs[seen.name] / "features.h5"
        layers, labels = read_features(file)
        said = read_descriptors(file, layers)
        wanted = {name: layers[name] for name, own in zip(layers, said["size"], strict=True)
                  if own == size}  # fmt: skip
        described = read_descriptors(file, wanted)
        rdms = compute_rdms(wanted, metric, labels=None if labels is None else list(labels))
        rdms.with_descriptors(described | {"rule": _conditions(described)}).save(
            folder / "models.h5"
        )

    values = n_networks(recipe) * n_layers(recipe) * images.number**2 / 2
    return Stage(
        f"rdms {rule} {size}", work, {"metric": metric, "size": size}, (seen,), version=2,
        cost=Cost(PER_PAIR * values + 1, 24 * values, 8 * values),
    )  # fmt: skip


def _conditions(described: Mapping[str, Any]) -> list[str]:
    """Names of the conditions of a study, whatever their runs are called: bp, bp-control."""
    pairs = zip(described["learning_rule"], described["variant"], strict=True)
    return [rule if variant == "trained" else f"{rule}-{variant}" for rule, variant in pairs]


def n_networks(recipe: Recipe) -> int:
    """Networks of one rule at one resolution, controls included."""
    asked = recipe.networks
    kept = len({e for e in asked.checkpoints if e <= asked.epochs} | {asked.epochs})
    return len(asked.seeds) * kept * (2 if asked.controls else 1)


def n_layers(recipe: Recipe) -> int:
    """Layers whose features are kept, where the file does not say about as many as usual."""
    return len(recipe.stimuli.layers) if recipe.stimuli.layers else _USUAL_LAYERS


def is_rdms(stage: str, size: int) -> bool:
    """Whether the stage called so makes RDMs of networks at a resolution."""
    return stage.startswith("rdms ") and stage.endswith(f" {size}")


def rdms_of(needs: Mapping[str, Path], size: int) -> RDMs:
    """RDMs of all networks at one resolution, from the stages that made them, with all controls."""
    files = [path / "models.h5" for name, path in needs.items() if is_rdms(name, size)]
    return _with_controls(RDMs.concat([RDMs.load(file) for file in files]))


def _with_controls(models: RDMs) -> RDMs:
    """Networks, with controls also of rules that have no batch-norm statistics to share.

    Where others have controls, theirs is at every checkpoint the network before training.
    """
    rule, epoch = models.descriptors["rule"], models.descriptors["epoch"]
    rules = list(dict.fromkeys(rule.tolist()))
    if not any(r.endswith(CONTROL) for r in rules):
        return models
    without = [r for r in rules if r != UNTRAINED and f"{r}{CONTROL}" not in rules
               and not r.endswith(CONTROL) and 0 in epoch[rule == r]]  # fmt: skip
    controls = []
    for name in without:
        before = models[{"rule": name, "epoch": 0}]
        for at in np.unique(epoch[rule == name]).tolist():
            said = {"rule": [f"{name}{CONTROL}"] * before.n_rdms, "epoch": [at] * before.n_rdms}
            controls.append(before.with_descriptors(said))
    return RDMs.concat([models, *controls]) if controls else models
