"""What a training run is: one frozen object, checked before anything starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from rsafast_kernels.device import Device
from rsafast_kernels.device import check as check_device
from rsafast_kernels.errors import InvalidInputError

from rsafast_training.batchnorm import check_regime
from rsafast_training.models import MODELS
from rsafast_training.rules import PROFILES, default_regime, rule_settings

Profile = Literal["corrected", "faithful"]
Stack = Literal["auto", "together", "one-by-one"]
SCHEDULE = (0, 1, 2, 5, 10, 20, 30, 40)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """One rule on one model and one data set, for several seeds.

    Attributes
    ----------
    rule : untrained, bp, fa, pc or stdp.
    profile : "corrected", or "faithful" for what was published, quirks and all.
    model : cnn3, vgg5 or resnet50.
    data : digits, cifar10:PATH, npz:PATH or folder:PATH, as
        :func:`rsafast_training.data.load_dataset` reads them.
    name : of the run's folder; by default the rule, and "-faithful" in that profile.
    seeds : of initial weights, training subset, order, augmentation and dropout; one network each.
    epochs : number of passes over the training images.
    checkpoints : epochs whose networks are kept; 0 is before training. Those beyond `epochs` are
        left out, and the last epoch is always kept.
    batch_size : images a step; an incomplete last batch is dropped, as in the study.
    n_train : training images, drawn for each seed; by default 8,000 as in the study, or all where
        there are fewer.
    subset : "per-seed", or "shared": all seeds get the subset of the first.
    augment : flips and shifted crops of the training images; by default not for digits.
    batch_norm : loader, clean, identity, frozen or none; see
        :data:`rsafast_training.batchnorm.REGIMES`. By default the rule's own: "none" for pc, else
        "loader".
    image_size : side in pixels; by default that of the data.
    init : of the weights, see :func:`rsafast_training.initialisation.initialise`; by default the
        rule's in its profile, else the model's.
    settings : of the rule, by name; see :func:`rsafast_training.rules.rule_settings`.
    stack : "together", "one-by-one", or "auto": whichever a measurement of a few steps finds
        faster. The results agree but for rounding.
    device : "cpu", "cuda", or "auto": a GPU where one is usable. The results agree but for
        rounding.
    """

    rule: str
    profile: Profile = "corrected"
    model: str = "cnn3"
    data: str = "digits"
    name: str = ""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    epochs: int = 40
    checkpoints: tuple[int, ...] = SCHEDULE
    batch_size: int = 128
    n_train: int | None = None
    subset: Literal["per-seed", "shared"] = "per-seed"
    augment: bool | None = None
    batch_norm: str = ""
    image_size: int | None = None
    init: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    stack: Stack = "auto"
    device: Device = "auto"

    def __post_init__(self) -> None:
        """Check every field, and fill in what follows from the others."""
        if self.profile not in PROFILES:
            raise InvalidInputError(
                f"profile is {self.profile!r}; choose one of {', '.join(PROFILES)}"
            )
        resolved = self.of_rule
        if self.model not in MODELS:
            raise InvalidInputError(f"model is {self.model!r}; choose one of {', '.join(MODELS)}")
        if self.profile == "faithful" and self.model != "cnn3":
            raise InvalidInputError(
                f"profile 'faithful' is the study's, whose model is cnn3, got {self.model!r}"
            )
        if self.stack not in get_args(Stack):
            raise InvalidInputError(f"stack is {self.stack!r}; choose auto, together or one-by-one")
        if self.subset not in ("per-seed", "shared"):
            raise InvalidInputError(f"subset is {self.subset!r}; choose per-seed or shared")
        check_device(self.device)
        self._check_numbers()
        kept = {e for e in self.checkpoints if e <= self.epochs} | {self.epochs}
        suffix = "" if self.profile == "corrected" else f"-{self.profile}"
        filled = {
            "name": self.name or f"{self.rule}{suffix}",
            "epochs": 0 if self.rule == "untrained" else self.epochs,
            "checkpoints": (0,) if self.rule == "untrained" else tuple(sorted(kept)),
            "seeds": tuple(self.seeds),
            "batch_norm": self.batch_norm or default_regime(self.rule, self.profile),
            "init": self.init or getattr(resolved, "init", ""),
            "augment": not self.data.startswith("digits") if self.augment is None else self.augment,
            "settings": dict(self.settings),
        }
        check_regime(str(filled["batch_norm"]))
        for key, value in filled.items():
            object.__setattr__(self, key, value)

    @property
    def of_rule(self) -> Any:
        """Settings of the rule, its defaults filled in."""
        return rule_settings(self.rule, self.settings, self.profile)

    def _check_numbers(self) -> None:
        if not self.seeds:
            raise InvalidInputError("seeds is empty; give at least one")
        if len(set(self.seeds)) < len(self.seeds):
            raise InvalidInputError(f"seeds repeat: {', '.join(map(str, self.seeds))}")
        if min(self.seeds) < 0:
            raise InvalidInputError(f"seeds must not be negative, got {min(self.seeds)}")
        least = {"epochs": 0, "batch_size": 1} | ({"n_train": 1} if self.n_train else {})
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise InvalidInputError(
                    f"{name} must be at least {bound}, got {getattr(self, name)}"
                )
        if any(e < 0 for e in self.checkpoints):
            raise InvalidInputError(f"checkpoints are epochs from 0 on, got {self.checkpoints}")

    def to_json(self) -> str:
        """Everything, as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> TrainConfig:
        """Read what :meth:`to_json` wrote."""
        read = json.loads(text)
        known = {f.name for f in fields(cls)}
        unknown = sorted(read.keys() - known)
        if unknown:
            raise InvalidInputError(f"the run has a field {unknown[0]!r} of another version")
        for key in ("seeds", "checkpoints"):
            read[key] = tuple(read[key])
        return cls(**read)

    def differences(self, other: TrainConfig) -> list[str]:
        """Fields that change the trained networks and differ, as "field: mine, not theirs"."""
        free = {"stack", "device"}
        mine, theirs = asdict(self), asdict(other)
        return [
            f"{key}: {mine[key]!r}, not {theirs[key]!r}"
            for key in mine
            if key not in free and mine[key] != theirs[key]
        ]
