"""Which network and which subject each RDM is: the complete grid that a trajectory is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rsafast.errors import InvalidInputError
from rsafast.rdms import RDMs

Incomplete: TypeAlias = Literal["error", "drop"]
Labels: TypeAlias = "str | Sequence[Any] | NDArray[Any] | None"
Cell: TypeAlias = tuple[Any, Any, Any, Any]  # rule, seed, epoch, layer
_NAMED = 6  # cells that an error message names


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """The grid of a trajectory.

    Attributes
    ----------
    models : RDMs of the networks, put into the order (rule, seed, epoch, layer).
    brain : RDMs of the brains, put into the order (region, subject).
    rules, layers, regions : in the order of their first appearance.
    epochs, subjects : sorted.
    seeds : for every rule its seeds, sorted.
    excluded : one sentence for everything that was left out.
    """

    models: RDMs
    brain: RDMs
    rules: tuple[Any, ...]
    seeds: tuple[tuple[Any, ...], ...]
    epochs: tuple[float, ...]
    layers: tuple[Any, ...]
    regions: tuple[Any, ...]
    subjects: tuple[Any, ...]
    excluded: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int, int, int, int]:
        """Numbers of rules, seeds, epochs, layers, regions and subjects."""
        return (
            len(self.rules), len(self.seeds[0]), len(self.epochs), len(self.layers),
            len(self.regions), len(self.subjects),
        )  # fmt: skip

    @property
    def region_of(self) -> NDArray[np.int64]:
        """Region of every brain RDM, counted from 0."""
        return np.repeat(np.arange(len(self.regions)), len(self.subjects))


def make_design(
    models: RDMs,
    brain: RDMs,
    *,
    rules: Labels,
    seeds: Labels,
    epochs: Labels,
    layers: Labels,
    regions: Labels,
    subjects: Labels,
    incomplete: Incomplete,
    epochs_needed: bool = True,
) -> Design:
    """Put both sides into the order of the grid, or say which of its cells are missing."""
    if incomplete not in ("error", "drop"):
        raise InvalidInputError(f"incomplete must be 'error' or 'drop', got {incomplete!r}")
    cells = _model_cells(models, rules, seeds, epochs, layers, epochs_needed)
    kept, excluded = _complete_models(cells, incomplete == "drop")
    model_at = {cell: i for i, cell in enumerate(cells)}
    sides = _brain_cells(brain, regions, subjects)
    kept_brain, excluded_brain = _complete_brain(sides, incomplete == "drop")
    brain_at = {cell: i for i, cell in enumerate(sides)}
    rule_names = _unique(cell[0] for cell in kept)
    return Design(
        models=_in_order(models, [model_at[cell] for cell in kept]),
        brain=_in_order(brain, [brain_at[cell] for cell in kept_brain]),
        rules=rule_names,
        seeds=tuple(
            _unique(cell[1] for cell in kept if cell[0] == rule) for rule in rule_names
        ),
        epochs=_unique(cell[2] for cell in kept),
        layers=_unique(cell[3] for cell in kept),
        regions=_unique(cell[0] for cell in kept_brain),
        subjects=_unique(cell[1] for cell in kept_brain),
        excluded=(*excluded, *excluded_brain),
    )


def _in_order(rdms: RDMs, order: list[int]) -> RDMs:
    """RDMs in this order; no copy where they are in it, since they may take gigabytes."""
    return rdms if order == list(range(rdms.n_rdms)) else rdms.subset(np.array(order))


# ---------------------------------------------------------------- models


def _model_cells(
    models: RDMs,
    rules: Labels,
    seeds: Labels,
    epochs: Labels,
    layers: Labels,
    epochs_needed: bool,
) -> list[Cell]:
    """(rule, seed, epoch, layer) of every model RDM."""
    when = labels_of(models, epochs, "epoch", "epochs", "models")
    if when is None and not epochs_needed:
        when = [0] * models.n_rdms
    if when is None:
        raise InvalidInputError(
            "epochs: the models have no descriptor 'epoch'; pass epochs= (a descriptor's name or"
            f" {models.n_rdms} numbers)"
        )
    axes = [
        labels_of(models, given, word, f"{word}s", "models") or [fallback] * models.n_rdms
        for given, word, fallback in (
            (rules, "rule", "model"), (seeds, "seed", 0), (layers, "layer", "layer"),
        )
    ]  # fmt: skip
    numbers = [_as_epoch(value) for value in when]
    cells = list(zip(axes[0], axes[1], numbers, axes[2], strict=True))
    _refuse_duplicates(cells, "models", "(rule, seed, epoch, layer)", "seeds= or layers=")
    return cells


def _as_epoch(value: Any) -> float:
    try:
        epoch = float(value)
    except (TypeError, ValueError):
        raise InvalidInputError(
            f"epochs must be numbers (their distance matters), got {value!r}; pass epochs= as"
            " numbers of epochs or steps"
        ) from None
    if not np.isfinite(epoch) or epoch < 0:
        raise InvalidInputError(f"epochs must be finite and at least 0, got {value!r}")
    return epoch


def _complete_models(cells: list[Cell], drop: bool) -> tuple[list[Cell], list[str]]:
    """Cells of the complete grid in its order, and a sentence for each thing left out."""
    excluded: list[str] = []
    if drop:
        cells = _drop_axis(cells, 2, "epoch", excluded)
        cells = _drop_axis(cells, 3, "layer", excluded)
        cells = _drop_seeds(cells, excluded)
    rules, layers = _unique(c[0] for c in cells), _unique(c[3] for c in cells)
    epochs = tuple(sorted({c[2] for c in cells}))
    seeds = {rule: _sorted({c[1] for c in cells if c[0] == rule}) for rule in rules}
    there = set(cells)
    lacking = [
        (rule, seed, epoch, layer)
        for rule in rules for seed in seeds[rule] for epoch in epochs for layer in layers
        if (rule, seed, epoch, layer) not in there
    ]  # fmt: skip
    if lacking:
        raise InvalidInputError(
            f"models: {len(lacking)} of the cells (rule, seed, epoch, layer) are missing:"
            f" {_some(lacking)}; every rule and seed needs every checkpoint and layer: add them,"
            " or pass incomplete='drop' to leave out whole checkpoints and seeds"
        )
    sizes = {rule: len(seeds[rule]) for rule in rules}
    if len(set(sizes.values())) > 1:
        raise InvalidInputError(
            "models: the rules have unequal numbers of seeds ("
            + ", ".join(f"{rule}: {size}" for rule, size in sizes.items())
            + "); give each the same number, or pass incomplete='drop' to keep the seeds that all"
            " rules share"
        )
    ordered = [
        (rule, seed, epoch, layer)
        for rule in rules for seed in seeds[rule] for epoch in epochs for layer in layers
    ]  # fmt: skip
    return ordered, excluded


def _drop_axis(cells: list[Cell], axis: int, word: str, excluded: list[str]) -> list[Cell]:
    """Leave out every epoch (or layer) that some rule lacks altogether."""
    rules = _unique(cell[0] for cell in cells)
    for value in _unique(cell[axis] for cell in cells):
        having = {cell[0] for cell in cells if cell[axis] == value}
        absent = [rule for rule in rules if rule not in having]
        if absent:
            excluded.append(
                f"{word} {_short(value)} is left out of every rule: missing from"
                f" {', '.join(map(str, absent))}"
            )
            cells = [cell for cell in cells if cell[axis] != value]
    if not cells:
        raise InvalidInputError(
            f"models: no {word} is shared by all rules, so incomplete='drop' leaves nothing"
        )
    return cells


def _drop_seeds(cells: list[Cell], excluded: list[str]) -> list[Cell]:
    """Leave out seeds that lack a cell, then those that some rule no longer has."""
    wanted = len({cell[2] for cell in cells}) * len({cell[3] for cell in cells})
    for (rule, seed), count in Counter((cell[0], cell[1]) for cell in cells).items():
        if count < wanted:
            excluded.append(
                f"seed {seed} of rule {rule} is left out: it lacks {wanted - count} of {wanted}"
                " cells (epoch, layer)"
            )
            cells = [cell for cell in cells if (cell[0], cell[1]) != (rule, seed)]
    rules = _unique(cell[0] for cell in cells)
    seeds = {rule: {cell[1] for cell in cells if cell[0] == rule} for rule in rules}
    if len({len(s) for s in seeds.values()}) > 1:
        shared = set.intersection(*seeds.values())
        for rule in rules:
            for seed in _sorted(seeds[rule] - shared):
                excluded.append(f"seed {seed} of rule {rule} is left out: another rule lacks it")
        cells = [cell for cell in cells if cell[1] in shared]
    if not cells:
        raise InvalidInputError(
            "models: incomplete='drop' leaves no seed that is complete and shared by all rules;"
            " add the missing checkpoints"
        )
    return cells


# ---------------------------------------------------------------- brain


def _brain_cells(brain: RDMs, regions: Labels, subjects: Labels) -> list[tuple[Any, Any]]:
    """(region, subject) of every brain RDM."""
    where = labels_of(brain, regions, "region", "regions", "brain") or ["brain"] * brain.n_rdms
    who = labels_of(brain, subjects, "subject", "subjects", "brain")
    if who is None and len(set(where)) == 1:
        who = list(range(brain.n_rdms))
    if who is None:
        raise InvalidInputError(
            "subjects: with several regions each brain RDM needs its subject; pass subjects= (a"
            f" descriptor's name or {brain.n_rdms} labels)"
        )
    cells = list(zip(where, who, strict=True))
    _refuse_duplicates(cells, "brain", "(region, subject)", "subjects=")
    return cells


def _complete_brain(
    cells: list[tuple[Any, Any]], drop: bool
) -> tuple[list[tuple[Any, Any]], list[str]]:
    regions, subjects = _unique(c[0] for c in cells), _sorted({c[1] for c in cells})
    there, excluded = set(cells), []
    for subject in subjects:
        absent = [region for region in regions if (region, subject) not in there]
        if absent and not drop:
            raise InvalidInputError(
                f"brain: subject {subject} has no RDM for {', '.join(map(str, absent))}; every"
                " subject needs every region: add it, or pass incomplete='drop'"
            )
        if absent:
            excluded.append(
                f"subject {subject} is left out of every region: no RDM for"
                f" {', '.join(map(str, absent))}"
            )
            subjects = tuple(s for s in subjects if s != subject)
    if not subjects:
        raise InvalidInputError("brain: no subject has an RDM for every region")
    return [(region, subject) for region in regions for subject in subjects], excluded


# ---------------------------------------------------------------- labels


def labels_of(
    rdms: RDMs, given: Labels, word: str, argument: str, role: str
) -> list[Any] | None:
    """One label an RDM: of the descriptor named, of a sequence, or of the descriptor `word`.

    None where nothing was given and there is no descriptor of that name.
    """
    if given is None:
        held = rdms.descriptors.get(word)
        return None if held is None else held.tolist()
    if isinstance(given, str):
        if given not in rdms.descriptors:
            known = ", ".join(map(repr, rdms.descriptors)) or "none"
            raise InvalidInputError(
                f"{argument}={given!r} is no descriptor of {role}, whose descriptors are: {known}"
            )
        return rdms.descriptors[given].tolist()
    values = given.tolist() if isinstance(given, np.ndarray) else list(given)
    if len(values) != rdms.n_rdms:
        raise InvalidInputError(
            f"{argument} must hold one label for each of {rdms.n_rdms} RDMs of {role}, got"
            f" {len(values)}"
        )
    return values


def _refuse_duplicates(
    cells: Sequence[Hashable], role: str, what: str, way_out: str
) -> None:
    twice = [cell for cell, count in Counter(cells).items() if count > 1]
    if twice:
        raise InvalidInputError(
            f"{role}: {len(twice)} cells {what} hold more than one RDM: {_some(twice)}; tell them"
            f" apart with {way_out}"
        )


def _unique(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


def _sorted(values: Iterable[Any]) -> tuple[Any, ...]:
    """Sorted by kind, then by value, so that mixed labels have an order too."""
    key: Callable[[Any], Any] = lambda v: (isinstance(v, str), v)  # noqa: E731
    return tuple(sorted(values, key=key))


def _some(cells: Sequence[Any]) -> str:
    shown = ", ".join(
        f"({', '.join(_short(part) for part in cell)})" for cell in cells[:_NAMED]
    )
    more = f" and {len(cells) - _NAMED} more" if len(cells) > _NAMED else ""
    return shown + more


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
