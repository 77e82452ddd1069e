"""A row of a benchmark: what runs, how its answer is checked, and the least work it takes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from rsafast_kernels.device import cuda_missing

from rsafast.errors import InvalidInputError

Device = Literal["cpu", "cuda"]
Scale = Literal["quick", "default", "large"]
SCALES: tuple[str, ...] = get_args(Scale)


class WrongAnswer(Exception):
    """What a benchmark computed is not what the reference says."""


@dataclass(frozen=True, slots=True)
class Case:
    """Something to time, its inputs made.

    Attributes
    ----------
    run : the call that is timed; its answer goes to `check`.
    check : returns the error found, or raises WrongAnswer.
    """

    run: Callable[[], Any]
    check: Callable[[Any], float]


@dataclass(frozen=True, slots=True)
class Work:
    """The least that a call has to do.

    Attributes
    ----------
    operations : additions, multiplications and comparisons of the best algorithm known here.
    bytes : inputs read once and outputs written once.
    dtype : which of the machine's rates bounds the operations.
    """

    operations: float
    bytes: float
    dtype: Literal["float32", "float64"]

    def __post_init__(self) -> None:
        if not (self.operations > 0 and self.bytes > 0) or self.dtype not in _DTYPES:
            raise InvalidInputError(f"{self} needs operations and bytes above 0, and a known dtype")


@dataclass(frozen=True, slots=True)
class Peer:
    """Another implementation of a row's computation, at its fastest setting.

    Attributes
    ----------
    name : package and setting.
    needs : modules that it imports.
    install : arguments of pip that bring them.
    prepare : makes its case.
    items : what one call does, in the unit of the row: slow peers do less of it.
    role : "peer" computes the same; a "yardstick" is another computation to be measured by, such
        as the bare matrix product.
    """

    name: str
    needs: tuple[str, ...]
    install: str
    prepare: Callable[[], Case]
    items: float
    role: Literal["peer", "yardstick"] = "peer"


@dataclass(frozen=True, slots=True)
class Quoted:
    """A figure that others published: shown beside ours, not measured here."""

    name: str
    figure: str
    source: str


@dataclass(frozen=True, slots=True)
class Row:
    """One kernel on one size and device.

    Attributes
    ----------
    kernel, name, device : together unique.
    size : what figures put on their x axis: stimuli, values or images.
    items, unit : what one call does, such as a million "relabellings".
    work : the least that a call has to do.
    prepare : makes the case.
    scale : the smallest run that holds this row: "quick", "default" or "large".
    needs : modules beyond what rsafast requires.
    """

    kernel: str
    name: str
    device: Device
    size: int
    items: float
    unit: str
    work: Work
    prepare: Callable[[], Case]
    scale: Scale = "default"
    needs: tuple[str, ...] = ()
    peers: tuple[Peer, ...] = ()
    quoted: tuple[Quoted, ...] = ()

    def __post_init__(self) -> None:
        if self.device not in get_args(Device) or self.scale not in SCALES:
            raise InvalidInputError(f"{self.key}: unknown device or scale {self.scale!r}")
        if not self.size > 0 or not min(self.items, *(p.items for p in self.peers), 1) > 0:
            raise InvalidInputError(f"{self.key}: size and items must be above 0")

    @property
    def key(self) -> str:
        """Name of the row among all."""
        return f"{self.kernel}: {self.name}, {self.device}"

    def missing(self) -> str | None:
        """Why the row cannot run here; None where it can."""
        if self.device == "cuda":
            return cuda_missing(*self.needs)
        return absent(self.needs, "rsafast[training]")


_DTYPES = ("float32", "float64")


def absent(modules: Iterable[str], install: str) -> str | None:
    """Which of the modules are not installed, with the command that brings them; None if none."""
    names = [name for name in modules if importlib.util.find_spec(name) is None]
    return f"{' and '.join(names)} not installed: pip install '{install}'" if names else None


def close(got: Any, expected: Any, tolerance: float, what: str) -> float:
    """Largest error relative to the largest expected value.

    Raises
    ------
    WrongAnswer
        For another shape, for NaN, and for an error beyond `tolerance`.
    """
    got, expected = (np.asarray(a, np.float64) for a in (got, expected))
    if got.shape != expected.shape:
        raise WrongAnswer(f"{what}: shape {got.shape}, expected {expected.shape}")
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    error = float(np.abs(got - expected).max(initial=0.0)) / scale
    if not error <= tolerance:  # NaN is wrong too
        raise WrongAnswer(f"{what}: off by {error:.1e} of the largest, allowed {tolerance:.0e}")
    return error
