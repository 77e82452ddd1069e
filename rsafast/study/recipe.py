"""The file that describes a study, STUDY.toml: its sections, their defaults, and clear errors.

Everything a file can get wrong by itself is found here, before anything runs: unknown names, values
of a wrong kind, settings that contradict each other. Errors name the file and the line.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from rsafast_kernels.atomic import PathInput

from rsafast.comparators import get_comparator
from rsafast.errors import InvalidInputError
from rsafast.features import Metric

Names = tuple[str, ...]
Factor = Literal["stimuli", "subjects", "seeds"]
RECIPES = resources.files("rsafast.study") / "recipes"
OTHERS = ("efficientnet-lite0", "resnet50")  # NETWORKS of rsafast_training.published, without torch


class _Section(BaseModel):
    """A table of the file: every key is known, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Networks(_Section):
    """``[networks]``: what is trained, on what, or read where it was trained elsewhere.

    Attributes
    ----------
    rules : untrained, bp, fa, pc or stdp; any names with `weights`.
    weights : names of torch files with the fields {rule}, {seed} and {epoch}: their networks are
        read, and nothing is trained. The checkpoints are all of the files', and the untrained
        networks those of epoch 0. See `rsafast_training.import_run`.
    mean, std : by which the images of `weights` were normalised; ImageNet's by default.
    control_images : images as `rsafast_training.read_stimuli` takes them, from which the untrained
        networks of `weights` get batch-norm statistics; without, there are no controls.
    data : digits, cifar10:PATH, npz:PATH or folder:PATH.
    seeds : one network a seed and rule.
    epochs, checkpoints : passes over the training images, and those whose networks are kept.
    model, profile, n_train, batch_size, image_size, subset : see `rsafast_training.TrainConfig`.
    settings : of a rule, by its name: ``[networks.settings.bp]``.
    controls : also compare, at every checkpoint, the untrained network with batch-norm
        statistics of the same images as the trained one's ("bp-control").
    others : networks that nobody here trained, each with the file of its weights, "" where its
        package has them: {"efficientnet-lite0": ""}. They are described beside the others.
    """

    rules: Names = Field(min_length=1)
    weights: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    control_images: str | None = None
    data: str = "digits"
    seeds: tuple[int, ...] = Field(default=(0, 1, 2, 3, 4), min_length=1)
    epochs: int = Field(default=40, ge=1)
    checkpoints: tuple[int, ...] = (0, 1, 2, 5, 10, 20, 30, 40)
    model: Literal["cnn3", "vgg5", "resnet50"] = "cnn3"
    profile: Literal["corrected", "faithful"] = "corrected"
    n_train: int | None = None
    batch_size: int = 128
    image_size: int | None = None
    subset: Literal["per-seed", "shared"] = "per-seed"
    settings: dict[str, dict[str, str | bool | int | float]] = {}
    controls: bool = True
    others: dict[str, str] = {}

    @model_validator(mode="before")
    @classmethod
    def _elsewhere(cls, content: Any) -> Any:
        """Fill what follows from files of weights: the last epoch, and whether there are controls.

        Only where they say which: the training images are not here to take statistics from.
        """
        if not isinstance(content, dict) or content.get("weights") is None:
            return content
        follows: dict[str, Any] = {"controls": content.get("control_images") is not None}
        kept = content.get("checkpoints")
        if isinstance(kept, list) and kept and all(isinstance(epoch, int) for epoch in kept):
            follows["epochs"] = max(kept)
        return follows | content

    @field_validator("weights")
    @classmethod
    def _pattern(cls, weights: str | None) -> str | None:
        try:
            (weights or "").format(rule="", seed=0, epoch=0)
        except (KeyError, IndexError, ValueError, AttributeError):
            raise ValueError(
                "a path with the fields {rule}, {seed} and {epoch}, as in"
                " seed-{seed}/epoch-{epoch:03d}.pth"
            ) from None
        return weights

    @field_validator("mean", "std", "control_images")
    @classmethod
    def _of_weights(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("weights") is None:
            raise ValueError("is of networks that were trained elsewhere: it needs weights")
        return value

    @field_validator("data", "profile", "n_train", "batch_size", "subset", "settings")
    @classmethod
    def _of_training(cls, value: Any, info: ValidationInfo) -> Any:
        default = cls.model_fields[str(info.field_name)].default
        if info.data.get("weights") is not None and value != default:
            raise ValueError("says how to train, and weights are of trained networks: leave it out")
        return value

    @field_validator("others")
    @classmethod
    def _published(cls, others: dict[str, str]) -> dict[str, str]:
        unknown = sorted(set(others) - set(OTHERS))
        if unknown:
            raise ValueError(f"{unknown[0]!r} is none of the networks {', '.join(OTHERS)}")
        return others

    @model_validator(mode="after")
    def _consistent(self) -> Networks:
        stray = sorted(set(self.settings) - set(self.rules))
        if stray:
            raise ValueError(f"settings for {stray[0]!r}, which is none of the rules")
        if self.controls and 0 not in self.checkpoints:
            raise ValueError("controls need the networks before training: add 0 to checkpoints")
        if self.weights is not None:
            self._check_weights()
        return self

    def _check_weights(self) -> None:
        """Check what networks that were trained elsewhere need."""
        last = max(self.checkpoints, default=None)
        if last != self.epochs:
            raise ValueError(
                f"weights are of the checkpoints, of which the last is {last}; epochs is"
                f" {self.epochs}: leave it out"
            )
        if self.controls and self.control_images is None:
            raise ValueError("controls of networks trained elsewhere need control_images")
        trained = [rule for rule in self.rules if rule != "untrained"]
        if not trained or (len(trained) > 1 and "{rule" not in str(self.weights)):
            raise ValueError("weights need a rule that was trained, and {rule} where several were")


class StimulusSet(_Section):
    """``[stimuli]``: the images that networks and brains saw, and what is kept of the networks.

    Attributes
    ----------
    images : a path as `rsafast_training.read_stimuli` takes it, or "digits": 100 that are embedded.
    order : a text file of labels, one a line; by default the labels of the brain's stimuli say
        which images are used and in what order, and all are used where it has none.
    key : as for `read_stimuli`.
    sizes : sides in pixels of what the networks see, each analysed by itself.
    layers : by default all.
    pooling : "mean" averages maps over space, "none" keeps them.
    """

    images: str
    order: str | None = None
    key: str | None = None
    sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(min_length=1)
    layers: Names | None = None
    pooling: Literal["mean", "none"] = "mean"


class Measured(_Section):
    """A brain side of measured responses.

    Attributes
    ----------
    path : of the data set.
    subjects : by default all that are there.
    """

    path: str
    subjects: Names | None = Field(default=None, min_length=1)


class _MeasuredRegions(Measured):
    """Responses of places in the brain.

    Attributes
    ----------
    regions : names, or name to what it unites, as the reader takes them.
    """

    regions: Names | dict[str, Names] = Field(min_length=1)


class SimulatedBrain(_Section):
    """``source = "simulated"``: subjects of `rsafast.demo` who see the embedded digits."""

    source: Literal["simulated"]
    seed: int = 0


class RdmFiles(_Section):
    """``source = "rdms"``: files of RDMs, one RDM a subject, one file or variable a region.

    Attributes
    ----------
    files : region to a path, or to a path and a variable of the file: "target.mat:EVC_RDMs".
    """

    source: Literal["rdms"]
    files: dict[str, str] = Field(min_length=1)


class RdmFolder(_Section):
    """``source = "folder"``: see `rsafast.datasets.read_rdm_folder`."""

    source: Literal["folder"]
    path: str
    pattern: str = "fmri_rdm_{roi}_{subject}.npy"
    order: str | None = None


class ThingsFmri(_MeasuredRegions):
    """``source = "things-fmri"``: see `rsafast.datasets.read_things_fmri`.

    Attributes
    ----------
    stimuli : of the training images, the "first" of every concept, or "all".
    trials, z_score : as the reader takes them.
    """

    source: Literal["things-fmri"]
    stimuli: Literal["first", "all"] = "first"
    trials: Literal["train", "test"] = "train"
    z_score: Literal["session", "run", "all", "none"] = "session"


class Nsd(_MeasuredRegions):
    """``source = "nsd"``: see `rsafast.datasets.read_nsd`."""

    source: Literal["nsd"]
    stimuli: str = "shared1000"
    space: str = "func1pt8mm"
    betas: str = "betas_fithrf_GLMdenoise_RR"
    min_repeats: int = 1


class ThingsEeg(Measured):
    """``source = "things-eeg"``: see `rsafast.datasets.read_things_eeg`.

    A window of time takes the place of a region: it has one RDM a subject.

    Attributes
    ----------
    times : name of a window to its first and last second from stimulus onset, both included:
        ``{ "100 ms" = [0.08, 0.12] }``.
    window_as : as for `rf.rdm_movie`: "mean" averages the samples of a window, one value a channel;
        "concatenate" takes every sample as further channels, which keeps what changes inside it.
    part, channels : as the reader takes them.
    """

    source: Literal["things-eeg"]
    times: dict[str, tuple[float, float]] = Field(min_length=1)
    window_as: Literal["mean", "concatenate"] = "mean"
    part: Literal["test", "training"] = "test"
    channels: str | Names | None = None

    @field_validator("times")
    @classmethod
    def _in_order(cls, times: dict[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        for name, (first, last) in times.items():
            if not first <= last:
                raise ValueError(f"window {name!r} ends at {last} s, before it begins at {first} s")
        return times


class Algonauts2023(_MeasuredRegions):
    """``source = "algonauts-2023"``: see `rsafast.datasets.read_algonauts_2023`.

    Attributes
    ----------
    split : as the reader takes it.
    stimuli : "all" images of a subject, or those "shared" by all subjects of the study: subjects
        saw different images, so several need "shared".
    """

    source: Literal["algonauts-2023"]
    split: Literal["training", "test"] = "training"
    stimuli: Literal["all", "shared"] = "all"


Brain = Annotated[
    SimulatedBrain | RdmFiles | RdmFolder | ThingsFmri | Nsd | ThingsEeg | Algonauts2023,
    Field(discriminator="source"),
]


class Comparison(_Section):
    """``[comparison]``: how networks and brains are compared.

    Attributes
    ----------
    metric : of the networks' and the measured brains' RDMs.
    method : comparator, see `rf.compare`.
    pairs : region to the layer that was chosen for it beforehand; tests of differences are made on
        these alone.
    mask : "cross-run" leaves out pairs of stimuli that any subject saw in one run.
    """

    metric: Metric = "correlation"
    method: str = "spearman"
    pairs: dict[str, str] = Field(min_length=1)
    mask: Literal["none", "cross-run"] = "none"

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        return get_comparator(method).name


class Inference(_Section):
    """``[inference]``: how sure that is.

    Attributes
    ----------
    permutations : relabellings of the stimuli.
    resamples : of the bootstraps.
    resample : what trajectories generalise to: stimuli, subjects, seeds.
    adjust : correction of the tests of differences, see `rf.adjust_p`.
    level : of intervals and bands.
    seed : of everything drawn here.
    partial : hold the pixels of the images constant in one analysis (partial RSA).
    published : also do what published studies did with the same RDMs, known to mislead, and show
        it beside (`rsafast.study.published`).
    """

    permutations: int = Field(default=100_000, ge=100)
    resamples: int = Field(default=10_000, ge=100)
    resample: tuple[Factor, ...] = Field(default=("stimuli", "seeds"), min_length=1)
    adjust: Literal["holm", "bh", "by", "bonferroni"] = "holm"
    level: float = Field(default=0.95, gt=0.5, lt=1)
    seed: int = Field(default=0, ge=0)
    partial: bool = True
    published: bool = False


class Recipe(_Section):
    """A study.

    Attributes
    ----------
    name : of the study and of its folder.
    title : one line for the report.
    networks, stimuli, brain, comparison, inference : the sections of the file.
    published : the same study as it was published, where the file has ``[published...]`` tables,
        which say what differs: ``[published.networks]`` and so on.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str = ""
    networks: Networks
    stimuli: StimulusSet
    brain: Brain
    comparison: Comparison
    inference: Inference = Inference()
    published: Recipe | None = Field(default=None, exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _as_published(cls, content: Any) -> Any:
        """Fill the tables of ``[published]`` with what they do not change."""
        if not isinstance(content, dict) or not isinstance(content.get("published"), dict):
            return content
        own = {key: value for key, value in content.items() if key != "published"}
        title = content.get("title") or content.get("name")
        practices = {"title": f"{title}, as published", "inference": {"published": True}}
        return own | {"published": merged(merged(own, practices), content["published"])}

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        simulated = isinstance(self.brain, SimulatedBrain)
        if simulated != (self.stimuli.images == "digits"):
            raise ValueError("a simulated brain and the embedded digits go together")
        if self.comparison.mask == "cross-run" and not isinstance(self.brain, ThingsFmri | Nsd):
            raise ValueError(
                f"a cross-run mask needs runs, which source {self.brain.source!r} does not tell"
            )
        if "seeds" in self.inference.resample and len(self.networks.seeds) < 2:
            raise ValueError(
                'one seed cannot be resampled: add seeds, or set inference.resample = ["stimuli"]'
            )
        layers = self.stimuli.layers
        unknown = sorted(set(self.comparison.pairs.values()) - set(layers or ()))
        if layers is not None and unknown:
            raise ValueError(f"comparison.pairs names the layer {unknown[0]!r}, not in layers")
        return self


def read_recipe(path: PathInput) -> tuple[Recipe, Path]:
    """Read a study from a file, or one of those in the package by its name.

    Returns
    -------
    (Recipe, Path)
        And the folder that relative paths in it start from: that of the file, or the current one
        for a recipe of the package.

    Raises
    ------
    InvalidInputError
        No such file or recipe; a file that is no TOML or does not describe a study, with the line.
    """
    place = Path(path).expanduser()
    base = place.resolve().parent if place.suffix == ".toml" else Path()
    return parse_recipe(recipe_text(path), str(path)), base


def recipe_text(path: PathInput) -> str:
    """Text of the file that `read_recipe` reads."""
    place = Path(path).expanduser()
    if place.suffix == ".toml":
        try:
            return place.read_text(encoding="utf-8")
        except OSError as error:
            raise InvalidInputError(f"{path}: cannot be read ({error.strerror})") from None
    known = sorted(item.name.removesuffix(".toml") for item in RECIPES.iterdir()
                   if item.name.endswith(".toml"))  # fmt: skip
    if str(path) not in known:
        raise InvalidInputError(
            f"{path}: no such recipe; give a .toml file or one of {', '.join(known)}"
        )
    return (RECIPES / f"{path}.toml").read_text(encoding="utf-8")


def merged(content: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Tables with some keys changed, tables within them likewise."""
    out = dict(content)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(out.get(key), Mapping)
        out[key] = merged(out[key], value) if both else value
    return out


def parse_recipe(text: str, where: str) -> Recipe:
    """Read a study from the text of a file called `where`."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(f"{where}: is no TOML: {error}") from None
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        said = list(dict.fromkeys(_said(problem, text) for problem in error.errors()))
        more = f"; and {len(said) - 3} more" if len(said) > 3 else ""
        raise InvalidInputError(f"{where}: {'; '.join(said[:3])}{more}") from None


def _said(problem: Any, text: str) -> str:
    """One problem in words, with the line of the key it is about or of the table around it."""
    keys = [part for part in problem["loc"] if not isinstance(part, int)]
    published = keys[:1] == ["published"]
    own = keys[1:] if published else keys
    if own[:1] == ["brain"]:
        del own[1:2]  # the kind of source, which pydantic adds
    line, _ = _line(text, tuple(own))
    if published and (there := _line(text, ("published", *own)))[1] > len(own):
        line = there[0]  # else it stands in the tables of the study itself
    message = problem["msg"].removeprefix("Value error, ")
    name = ".".join(own) or "the study"
    return f"line {line}: {name}: {message[0].lower()}{message[1:]}"


def _line(text: str, keys: tuple[str, ...]) -> tuple[int, int]:
    """Line, from 1, of the deepest of `keys` that the file holds, and how deep that is."""
    best, deepest = 1, 0
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        heading = re.match(r"\s*\[+\s*([^\]]+?)\s*\]+", line)
        key = re.match(r"\s*([\w\"'-]+)\s*=", line)
        if heading:
            table = tuple(part.strip(" \"'") for part in heading[1].split("."))
            here = table
        elif key:
            here = (*table, key[1].strip("\"'"))
        else:
            continue
        if here == keys[: len(here)] and len(here) > deepest:
            best, deepest = number, len(here)
    return best, deepest
