"""The file that describes a study, STUDY.toml: its sections, their defaults, and clear errors.

Everything a file can get wrong by itself is found here, before anything runs: unknown names, values
of a wrong kind, settings that contradict each other. Errors name the file and the line.
"""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
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


class _Section(BaseModel):
    """A table of the file: every key is known, nothing changes after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Networks(_Section):
    """``[networks]``: what is trained, on what.

    Attributes
    ----------
    rules : untrained, bp, fa, pc or stdp.
    data : digits, cifar10:PATH, npz:PATH or folder:PATH.
    seeds : one network a seed and rule.
    epochs, checkpoints : passes over the training images, and those whose networks are kept.
    model, profile, n_train, batch_size, image_size, subset : see `rsafast_training.TrainConfig`.
    settings : of a rule, by its name: ``[networks.settings.bp]``.
    controls : also compare, at every checkpoint, the untrained network with the batch-norm
        statistics of the trained one ("bp-control").
    """

    rules: Names = Field(min_length=1)
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

    @model_validator(mode="after")
    def _consistent(self) -> Networks:
        stray = sorted(set(self.settings) - set(self.rules))
        if stray:
            raise ValueError(f"settings for {stray[0]!r}, which is none of the rules")
        if self.controls and 0 not in self.checkpoints:
            raise ValueError("controls need the networks before training: add 0 to checkpoints")
        return self


class StimulusSet(_Section):
    """``[stimuli]``: the images that networks and brains saw, and what is kept of the networks.

    Attributes
    ----------
    images : a path as `rsafast_training.read_stimuli` takes it, or "digits": 100 that are embedded.
    order, key : as for `read_stimuli`.
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


class _Measured(_Section):
    """A brain side that was measured.

    Attributes
    ----------
    path : of the data set.
    regions : names, or name to what it unites, as the reader takes them.
    subjects : by default all that are there.
    """

    path: str
    regions: Names | dict[str, Names] = Field(min_length=1)
    subjects: Names | None = None


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


class ThingsFmri(_Measured):
    """``source = "things-fmri"``: see `rsafast.datasets.read_things_fmri`."""

    source: Literal["things-fmri"]
    stimuli: Literal["first"] | None = "first"
    trials: Literal["train", "test"] = "train"
    z_score: Literal["session", "run", "all", "none"] = "session"


class Nsd(_Measured):
    """``source = "nsd"``: see `rsafast.datasets.read_nsd`."""

    source: Literal["nsd"]
    stimuli: str = "shared1000"
    space: str = "func1pt8mm"
    betas: str = "betas_fithrf_GLMdenoise_RR"
    min_repeats: int = 1


Brain = Annotated[
    SimulatedBrain | RdmFiles | RdmFolder | ThingsFmri | Nsd, Field(discriminator="source")
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
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    title: str = ""
    networks: Networks
    stimuli: StimulusSet
    brain: Brain
    comparison: Comparison
    inference: Inference = Inference()

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        simulated = isinstance(self.brain, SimulatedBrain)
        if simulated != (self.stimuli.images == "digits"):
            raise ValueError("a simulated brain and the embedded digits go together")
        if self.comparison.mask == "cross-run" and not isinstance(self.brain, ThingsFmri | Nsd):
            raise ValueError(
                f"a cross-run mask needs runs, which source {self.brain.source!r} does not tell"
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
    if place.suffix == ".toml":
        try:
            text = place.read_text(encoding="utf-8")
        except OSError as error:
            raise InvalidInputError(f"{path}: cannot be read ({error.strerror})") from None
        return parse_recipe(text, str(path)), place.resolve().parent
    known = sorted(item.name.removesuffix(".toml") for item in RECIPES.iterdir()
                   if item.name.endswith(".toml"))  # fmt: skip
    if str(path) not in known:
        raise InvalidInputError(
            f"{path}: no such recipe; give a .toml file or one of {', '.join(known)}"
        )
    return parse_recipe((RECIPES / f"{path}.toml").read_text(encoding="utf-8"), str(path)), Path()


def parse_recipe(text: str, where: str) -> Recipe:
    """Read a study from the text of a file called `where`."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInputError(f"{where}: is no TOML: {error}") from None
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        said = [_said(problem, text) for problem in error.errors()]
        more = f"; and {len(said) - 3} more" if len(said) > 3 else ""
        raise InvalidInputError(f"{where}: {'; '.join(said[:3])}{more}") from None


def _said(problem: Any, text: str) -> str:
    """One problem in words, with the line of the key it is about or of the table around it."""
    place = list(problem["loc"])
    if place[:1] == ["brain"]:
        del place[1:2]  # the kind of source, which pydantic adds
    keys = tuple(str(part) for part in place if not isinstance(part, int))
    message = problem["msg"].removeprefix("Value error, ")
    name = ".".join(keys) or "the study"
    return f"line {_line(text, keys)}: {name}: {message[0].lower()}{message[1:]}"


def _line(text: str, keys: tuple[str, ...]) -> int:
    """Line, from 1, of the deepest of `keys` that the file holds."""
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
    return best
