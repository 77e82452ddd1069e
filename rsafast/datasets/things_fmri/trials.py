"""Which image was shown in which trial of THINGS-fMRI, and which trials to return."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rsafast.datasets.responses import Within
from rsafast.datasets.selection import rows_of
from rsafast.datasets.things_fmri.layout import Files
from rsafast.datasets.things_fmri.tables import (
    IntArray,
    check_subject,
    read_header,
    read_table,
    whole_numbers,
)
from rsafast.errors import InvalidInputError

Trials = Literal["train", "test", "all"]


class Wanted(NamedTuple):
    """Which trials to return, and which ones each is z-scored with."""

    trials: pd.DataFrame  # all: see `read_trials`
    chosen: IntArray  # trials to return, in that order
    blocks: IntArray | None  # number of the block that every trial is of

    def check_finite(
        self, values: NDArray[Any], rows: IntArray, voxel_ids: IntArray, path: Path
    ) -> None:
        """Stop at NaN in (rows, voxels); one that a trial is z-scored with shows in the trial."""
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            row, column = bad[0]
            raise InvalidInputError(
                f"{path}: the response of voxel {voxel_ids[column]} to"
                f" {self.trials['stimulus'].iloc[rows[row]]!r}, or one that it is z-scored with,"
                " is not finite; download the file again, or choose regions without the voxel"
            )


def stimulus_id(name: str) -> str:
    """File name without folder and ending; an id stays as it is."""
    return PurePosixPath(name).stem


def read_trials(files: Files) -> pd.DataFrame:
    """Read the trials in the order of the responses: see `things_fmri_trials`."""
    path = files.trials
    separator, _ = read_header(path, ["trial_type", "session", "run", "trial_id", "stimulus"])
    # As text: pandas would take an image called "null" for a missing value.
    raw = read_table(path, sep=separator, dtype=str, keep_default_na=False)
    check_subject(raw, files.subject, path)
    stimuli = [stimulus_id(name) for name in raw["stimulus"]]
    own = [re.sub(r"_\d+[a-z]*$", "", stimulus) for stimulus in stimuli]
    table = pd.DataFrame(
        {
            "trial_id": whole_numbers(raw, "trial_id", path),
            "trial_type": raw["trial_type"],
            "session": whole_numbers(raw, "session", path, least=1),
            "run": whole_numbers(raw, "run", path, least=1),
            "stimulus": stimuli,
            # Older releases have no such column; their images are named after the concept.
            "concept": raw.get("concept", own),
        }
    )
    if not len(table):
        raise InvalidInputError(f"{path}: holds no trials; download it again")
    known = table["trial_type"].isin(["train", "test"])
    wrong = np.flatnonzero(~known | (table["stimulus"] == "") | (table["concept"] == ""))
    if len(wrong):
        raise InvalidInputError(
            f"{path}: row {wrong[0] + 1} holds {raw.iloc[wrong[0]].to_dict()}, expected the image"
            " and the concept of a train or test trial; download it again"
        )
    ids = table["trial_id"].to_numpy()
    wrong = np.flatnonzero(ids != np.arange(len(ids)))
    if len(wrong):
        raise InvalidInputError(
            f"{path}: row {wrong[0] + 1} is trial {ids[wrong[0]]}, expected {wrong[0]}; rows must"
            " be all trials in order, as published"
        )
    return table


def choose(
    table: pd.DataFrame,
    which: Trials,
    stimuli: Sequence[str] | str | None,
    z_score: Within | None,
    path: Path,
) -> Wanted:
    """Choose the trials of some stimuli: see `read_things_fmri`."""
    kept = table if which == "all" else table[table["trial_type"] == which]
    if not len(kept):
        raise InvalidInputError(f"{path}: holds no {which} trials")
    names = _names(table, which, stimuli)
    rows = rows_of(kept["stimulus"].tolist(), names, f"{path} ({which} trials)")
    blocks = None if z_score is None else _blocks(table, z_score, path)
    return Wanted(table, kept["trial_id"].to_numpy()[rows], blocks)


def _names(
    table: pd.DataFrame, which: Trials, stimuli: Sequence[str] | str | None
) -> list[str] | None:
    """Ids of the stimuli that are asked for; None for all."""
    if stimuli is None:
        return None
    if not isinstance(stimuli, str):
        return [stimulus_id(str(name)) for name in stimuli]
    if stimuli != "first" or which == "test":
        raise InvalidInputError(
            f"stimuli must be a list of ids, or 'first' with training trials; got {stimuli!r} with"
            f" trials={which!r}"
        )
    train = table[table["trial_type"] == "train"]
    return train.groupby("concept", sort=True)["stimulus"].min().tolist()


def _blocks(table: pd.DataFrame, within: Within, path: Path) -> IntArray:
    """Number of the block of trials that every trial is z-scored in."""
    if within == "all":
        return np.zeros(len(table), np.int64)
    grouped = table.groupby(["session"] if within == "session" else ["session", "run"])
    sizes = grouped.size()
    if sizes.min() < 2:
        raise InvalidInputError(
            f"{path}: {within} {sizes.idxmin()} holds one trial, which has no spread; choose"
            " another z_score"
        )
    return grouped.ngroup().to_numpy(np.int64)
