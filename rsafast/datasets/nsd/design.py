"""Which image was shown in which trial of the Natural Scenes Dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rsafast_kernels.atomic import PathInput

from rsafast.datasets.nsd.layout import SUBJECTS, checked_root
from rsafast.datasets.selection import subject_name
from rsafast.errors import InvalidInputError
from rsafast.io.entries import Entries
from rsafast.io.files import checked_file
from rsafast.io.matlab import read_mat

TRIALS = 750  # of a session
N_IMAGES = 73_000
_REPEATS = 3


def nsd_design(root: PathInput, subject: str | int) -> pd.DataFrame:
    """Read the planned trials of one subject, in the order shown.

    The plan comes from ``nsddata/experiments/nsd/nsd_expdesign.mat``, whose numbers all count from
    1 (NSD Data Manual, cvnlab.slite.page). Where ``nsd_stim_info_merged.csv`` lies beside it, the
    two are compared. All 40 sessions are listed, also those that a subject did not complete.

    Parameters
    ----------
    root : folder that holds ``nsddata``.
    subject : "subj01" or 1.

    Returns
    -------
    pandas.DataFrame
        One line a trial:

        - ``session``, ``run``, ``trial``: counted from 1; trials count through a session of 750.
          Odd runs have 63 trials, even ones 62; blank trials have no beta and no line.
        - ``nsd_id``: the image, **counted from 0**: its row in ``nsd_stimuli.hdf5``, and `nsdId` in
          ``nsd_stim_info_merged.csv``. The 73KID of ``responses.tsv`` and the numbers in the names
          of ``shared1000/shared0001_nsd02951.png`` count from 1: that file is nsd_id 2950.
        - ``repeat``: 1 to 3, which presentation of the image this is.
        - ``shared``: whether the image is one of the 1000 that all subjects were to see.

    Raises
    ------
    InvalidInputError
        A file that is missing or damaged, lacks a variable, or holds numbers that cannot be; a
        design and a table of stimuli that disagree.
    """
    folder = checked_root(root) / "nsddata" / "experiments" / "nsd"
    number = int(subject_name(subject, "subj", SUBJECTS)[-1])
    design = _from_matlab(checked_file(folder / "nsd_expdesign.mat"), number)
    table = folder / "nsd_stim_info_merged.csv"
    if table.exists():
        _compare(design, checked_file(table), number)
    return design


def stimulus_id(nsd_id: int) -> str:
    """Id of an image in `Responses`: "nsd02950" for nsd_id 2950, which counts from 0."""
    return f"nsd{nsd_id:05d}"


def _from_matlab(file: Path, subject: int) -> pd.DataFrame:
    entries = read_mat(file, None)
    of_run = _whole_numbers(file, entries, "stimpattern", 3, 0, 1).sum(axis=2)
    images = _whole_numbers(file, entries, "subjectim", 2, 1, N_IMAGES)
    order = _whole_numbers(file, entries, "masterordering", 1, 1, images.shape[1])
    shared = _whole_numbers(file, entries, "sharedix", 1, 1, N_IMAGES)
    trials = of_run.sum(axis=1)
    if len(images) != SUBJECTS or (trials != TRIALS).any() or len(order) != trials.sum():
        raise InvalidInputError(
            f"{file}: has {len(images)} subjects, sessions of {sorted(set(trials.tolist()))} trials"
            f" in stimpattern and {len(order)} trials in masterordering; expected {SUBJECTS},"
            f" {TRIALS} and {TRIALS * len(trials)}"
        )
    nsd_id = images[subject - 1, order - 1] - 1
    sessions, runs = of_run.shape
    design = pd.DataFrame(
        {
            "session": np.repeat(np.arange(1, sessions + 1), TRIALS),
            "run": np.repeat(np.tile(np.arange(1, runs + 1), sessions), of_run.ravel()),
            "trial": np.tile(np.arange(1, TRIALS + 1), sessions),
            "nsd_id": nsd_id,
            "shared": np.isin(nsd_id, shared - 1),
        }
    )
    design.insert(4, "repeat", design.groupby("nsd_id").cumcount() + 1)
    return design


def _whole_numbers(
    file: Path, entries: Entries, name: str, dimensions: int, lowest: int, highest: int
) -> NDArray[np.int64]:
    """A variable of the MATLAB file, checked."""
    values = entries[name].values if name in entries else None
    if values is None or values.dtype.kind not in "biuf" or values.ndim != dimensions:
        said = entries[name].said if name in entries else "missing"
        raise InvalidInputError(
            f"{file}: variable {name!r} should be an array of {dimensions} dimensions, but is"
            f" {said}; fetch the file again"
        )
    # Unsigned integers would wrap at 0 - 1; the numbers count from 1.
    whole = values.astype(np.int64)
    within = (whole == values) & (whole >= lowest) & (whole <= highest)
    if not whole.size or not within.all():
        raise InvalidInputError(
            f"{file}: variable {name!r} should hold whole numbers from {lowest} to {highest}; fetch"
            " the file again"
        )
    return whole


def _compare(design: pd.DataFrame, file: Path, subject: int) -> None:
    """Refuse a table of stimuli that places an image in another trial than the design."""
    repeats = [f"subject{subject}_rep{i}" for i in range(_REPEATS)]
    try:
        table = pd.read_csv(file, usecols=["nsdId", "shared1000", *repeats])
        trials = table[repeats].to_numpy(np.int64)  # counted from 1, 0 for none
        ids = table["nsdId"].to_numpy(np.int64)
    except (ValueError, TypeError, pd.errors.ParserError) as error:
        raise InvalidInputError(
            f"{file}: is no table of stimuli ({error}); fetch it again"
        ) from None
    row, column = np.nonzero(trials)
    if len(row) != len(design) or trials.min() < 0 or trials.max() > len(design):
        raise InvalidInputError(
            f"{file}: places {len(row)} images in trials {trials.min(initial=0)} to"
            f" {trials.max(initial=0)} of subject {subject}; nsd_expdesign.mat plans"
            f" {len(design)}; fetch both again from one release"
        )
    listed = np.full(len(design), -1, np.int64)
    listed[trials[row, column] - 1] = ids[row]
    planned = design["nsd_id"].to_numpy()
    differ = np.flatnonzero(listed != planned)
    if len(differ):
        trial = int(differ[0])
        said = "no image" if listed[trial] < 0 else f"nsdId {listed[trial]}"
        raise InvalidInputError(
            f"{file}: has {said} in trial {trial + 1} of subject {subject}, nsd_expdesign.mat has"
            f" nsdId {planned[trial]} ({len(differ)} of {len(design)} trials differ); fetch both"
            " again from one release"
        )
    flagged = set(ids[table["shared1000"].to_numpy(bool)].tolist())
    other = set(design.loc[design["shared"], "nsd_id"].tolist()) ^ (flagged & set(planned.tolist()))
    if other:
        raise InvalidInputError(
            f"{file}: shared1000 and sharedix of nsd_expdesign.mat disagree on nsdId {min(other)}"
        )
