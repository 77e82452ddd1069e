"""The stage of networks that were trained elsewhere: it reads their weights instead of training."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rsafast.progress import track
from rsafast.study.recipe import Recipe
from rsafast.study.stage import Cost, Stage, file_hash, located

_UNTRAINED = "untrained"
# Of a checkpoint, to read and write it: seconds, bytes; seconds of a control image. Other models
# are much smaller.
_SECONDS, _BYTES, _PER_IMAGE = {"resnet50": 2.0}, {"resnet50": 1e8}, {"resnet50": 0.3}


def import_stage(recipe: Recipe, rule: str, base: Path, quiet: bool) -> Stage:
    """The run of a rule, read from files of weights, which are all found before anything runs."""
    from rsafast_training.imported import find_weights, import_run, weights_hash
    from rsafast_training.stimuli import read_stimuli

    asked, pattern = recipe.networks, _pattern(recipe, base)
    epochs = (0,) if rule == _UNTRAINED else asked.checkpoints
    named = _named(recipe, rule, pattern)
    files = find_weights(pattern, rule=named, seeds=asked.seeds, checkpoints=epochs)
    wanted: dict[str, Any] = {
        "rule": rule, "model": asked.model, "seeds": asked.seeds, "checkpoints": epochs,
        "image_size": asked.image_size,
    }  # fmt: skip
    wanted |= {name: value for name in ("mean", "std") if (value := getattr(asked, name))}
    images, shown = None, 0
    if asked.controls and rule != _UNTRAINED and asked.control_images is not None:
        images = located(base, asked.control_images)
        shown = len(read_stimuli(images)) * len(asked.seeds)

    def work(folder: Path, needs: Mapping[str, Path]) -> None:
        if named != rule:
            print(f"{rule}: networks of {named} before training", file=sys.stderr)
        with track(len(files), f"weights {rule}", not quiet) as advance:
            import_run(
                pattern, folder, named=named, control_images=images, advance=advance, **wanted
            )

    settings = wanted | {
        "weights": weights_hash(files), "networks_of": named,
        "control_images": None if images is None else file_hash(images),
    }  # fmt: skip
    model, number = asked.model, len(files)
    seconds = _SECONDS.get(model, 0.1) * number + _PER_IMAGE.get(model, 0.005) * shown + 2
    cost = Cost(seconds, 3e9, _BYTES.get(model, 1e7) * number)
    return Stage(f"train {rule}", work, settings, cost=cost)


def _pattern(recipe: Recipe, base: Path) -> str:
    """The pattern of the file, which starts from `base` as every path of it does."""
    # Braces in the name of a folder are no fields.
    fixed = Path(str(base).replace("{", "{{").replace("}", "}}"))
    return str(located(fixed, str(recipe.networks.weights)))


def _named(recipe: Recipe, rule: str, pattern: str) -> str:
    """The rule in the names of the files: of untrained networks without any, one that was trained.

    Before training, the networks of a rule are untrained ones.
    """
    from rsafast_training.imported import weights_paths

    if rule != _UNTRAINED:
        return rule
    own = weights_paths(pattern, rule=rule, seeds=recipe.networks.seeds, checkpoints=(0,))
    if any(path.is_file() for path in own.values()):
        return rule
    return next(name for name in recipe.networks.rules if name != _UNTRAINED)
