"""Which trials of the Natural Scenes Dataset to read, and in which rows they go."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rsafast.checks import check_integers
from rsafast.datasets.nsd.design import stimulus_id
from rsafast.datasets.selection import check_choice, check_stimuli, ranges
from rsafast.errors import InvalidInputError

# Every subject completed at least this many sessions (NSD Data Manual, "Technical notes").
_SESSIONS_OF_ALL = 30
_GROUPS = ("shared1000", "shared515")


@dataclass(frozen=True, slots=True)
class Selection:
    """The trials to return.

    Attributes
    ----------
    trials : lines of the design, in the order measured.
    ids : nsdId of the stimuli, in the order of averaged rows.
    left_out : stimuli with too few repeats.
    """

    trials: pd.DataFrame
    ids: list[int]
    left_out: int

    def rows(self, average: bool) -> NDArray[np.int64]:
        """Row of the result for every trial."""
        if not average:
            return np.arange(len(self.trials))
        place = pd.Series(np.arange(len(self.ids)), index=self.ids)
        return place[self.trials["nsd_id"]].to_numpy(np.int64)

    def ids_of_rows(self, average: bool) -> list[int]:
        """NsdId of every row of the result."""
        return self.ids if average else self.trials["nsd_id"].tolist()

    def repeats(self) -> NDArray[np.int64]:
        """Presentations of every stimulus."""
        return self.trials["nsd_id"].value_counts().loc[self.ids].to_numpy(np.int64)

    def notes(self, average: bool, min_repeats: int) -> list[str]:
        """Say what was averaged and left out."""
        said = []
        if average:
            shown = zip(*np.unique(self.repeats(), return_counts=True), strict=True)
            each = ", ".join(f"{count} shown {repeats}×" for repeats, count in shown)
            said.append(f"{len(self.ids)} stimuli, each the mean of its presentations: {each}")
        if self.left_out:
            said.append(
                f"left out {self.left_out} stimuli with fewer than {min_repeats} presentations"
            )
        return said


def select(
    design: pd.DataFrame,
    sessions: list[int],
    stimuli: Sequence[str] | str | None,
    min_repeats: int,
    subject: str,
) -> Selection:
    """Choose the trials of some stimuli: see `read_nsd`.

    Raises
    ------
    InvalidInputError
        Stimuli that were shown too seldom in these sessions, are named twice, or are no ids.
    """
    check_integers(min_repeats=(min_repeats, 1))
    shown = design[design["session"].isin(sessions)]
    counts = shown["nsd_id"].value_counts().sort_index()
    left_out = 0
    if stimuli is None or isinstance(stimuli, str):
        counts = counts[counts.index.isin(_group(design, stimuli))]
        ids = counts.index[counts >= min_repeats].tolist()
        left_out = len(counts) - len(ids)
        if not ids:
            raise InvalidInputError(
                f"{subject}: none of {stimuli or 'the images'} was shown {min_repeats} times in"
                f" sessions {ranges(sessions)}"
            )
    else:
        check_stimuli(stimuli)
        ids = [_nsd_id(stimulus) for stimulus in stimuli]
        _check_shown(ids, counts, design, sessions, min_repeats, subject)
    return Selection(shown[shown["nsd_id"].isin(ids)], ids, left_out)


def _group(design: pd.DataFrame, name: str | None) -> NDArray[np.int64]:
    """NsdId of the images of a group, each at least once."""
    if name is None:
        return design["nsd_id"].to_numpy()
    check_choice("stimuli that are no list of ids", name, _GROUPS)
    shared = design[design["shared"]]
    if name == "shared515":
        by_all = (shared["session"] <= _SESSIONS_OF_ALL) & (shared["repeat"] == 3)
        shared = shared[by_all]
    return shared["nsd_id"].to_numpy()


def _nsd_id(stimulus: Any) -> int:
    if not isinstance(stimulus, str) or not re.fullmatch(r"nsd\d{5}", stimulus):
        raise InvalidInputError(
            f"stimuli: {stimulus!r} is no id such as 'nsd02950', which counts from 0; the image"
            " shared0001_nsd02951.png, whose name counts from 1, is 'nsd02950'"
        )
    return int(stimulus[3:])


def _check_shown(
    ids: list[int],
    counts: pd.Series,
    design: pd.DataFrame,
    sessions: list[int],
    min_repeats: int,
    subject: str,
) -> None:
    """Refuse stimuli that were shown too seldom."""
    shown = counts.reindex(ids, fill_value=0)
    few = shown[shown < min_repeats]
    if not len(few):
        return
    first = int(few.index[0])
    planned = sorted(set(design.loc[design["nsd_id"] == first, "session"]))
    plan = f"planned for session {ranges(planned)}" if planned else "not planned for this subject"
    others = f" (and {len(few) - 1} other stimuli)" if len(few) > 1 else ""
    raise InvalidInputError(
        f"{subject}: {stimulus_id(first)!r}{others} was shown {few.iloc[0]} times in sessions"
        f" {ranges(sessions)}, fewer than min_repeats={min_repeats}; it is {plan}"
    )
