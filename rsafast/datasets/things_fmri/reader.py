"""`read_things_fmri`: the responses of one subject of THINGS-fMRI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rsafast_kernels.atomic import PathInput

from rsafast.checks import check_integers
from rsafast.datasets.responses import Responses, Within
from rsafast.datasets.selection import Rois, check_choice
from rsafast.datasets.things_fmri.hdf5 import read_hdf5
from rsafast.datasets.things_fmri.layout import AnyLayout, locate
from rsafast.datasets.things_fmri.trials import Trials, choose, read_trials
from rsafast.datasets.things_fmri.volumes import read_volumes
from rsafast.datasets.things_fmri.voxels import Voxels, read_voxels
from rsafast.errors import InvalidInputError


def read_things_fmri(
    root: PathInput,
    subject: str | int,
    rois: Rois | None,
    *,
    layout: AnyLayout = "auto",
    trials: Trials = "train",
    stimuli: Sequence[str] | Literal["first"] | None = None,
    z_score: Within | None = "session",
    average: bool = True,
    min_repeats: int = 1,
    progress: bool = True,
) -> Responses:
    """Read the responses of one subject of THINGS-fMRI.

    Regions and stimuli are selected before responses are loaded, so memory is what was asked for
    and a few tens of MiB.

    Parameters
    ----------
    root : folder that holds ``betas_csv``, ``ICA-betas`` or ``betas_vol`` and ``brainmasks``,
        directly or in ``derivatives``. Without volumes, also the folder of the tables itself.
    subject : "sub-01" or 1.
    rois : names of regions, the 0/1 columns of the voxel metadata, such as ["V1", "IT"]. "LOC" is
        lLOC and rLOC together, and so are EBA, FFA, OFA, STS, PPA, RSC and TOS; "V4" is hV4. A
        mapping unites several under a name: ``{"early": ["V1", "V2"]}``. None reads every voxel.
    layout : which of the three (see the module). "auto" takes the one that is there.
    trials : "train" (each image shown once), "test" (100 images, once a session) or "all".
    stimuli : ids to read, in this order; an id is the file name without its ending ("dog_12s").
        "first" takes the first exemplar, by name, of every training concept, concepts sorted: 720
        stimuli. By default all, in the order measured.
    z_score : per voxel over the trials of each "session", of each "run", or over "all"; None keeps
        the betas. All trials of a session (or run) count, also those that are not returned. See
        Notes.
    average : average the repeats of each stimulus, after z-scoring.
    min_repeats : with `average`, stimuli shown less often are left out and counted in `notes`.
    progress : show a bar on a terminal.

    Returns
    -------
    Responses
        Trials or stimuli × voxels. `channels` are voxel ids, `seen` the session and run of every
        presentation, counted from 1. `noise_ceiling` is the published one, in per cent of variance:
        nc_testset for the mean of the repeats of test images, nc_singletrial for single trials;
        None where both kinds are mixed or the metadata has no such column.

    Raises
    ------
    InvalidInputError
        Files that are missing, damaged, or do not fit each other; several layouts in `root`;
        unknown regions or stimuli.
    BackendUnavailableError
        The volume layout without nibabel.

    Notes
    -----
    *Why the session is the default.* Z-scoring over a block of n trials makes the patterns of the
    block sum to zero, which lowers the correlation of any two of them by about 1/(n − 1). Within a
    run (82 trials) that is .012, as large as the correlations of single presentations themselves,
    and it sets pairs of one run apart from pairs across runs: do not z-score by run for RDMs.
    Within a session (820 trials) it is .001. In return the offset of every session goes. Z-scoring
    over all trials leaves it in, and then pairs of one session look alike whatever was shown. Use
    "all" to repeat analyses that z-scored over all 9840 trials. The 720 first exemplars were shown
    in one session (the third of sub-01, the second of sub-02, the fifth of sub-03), so for them the
    choice is whether an offset that all patterns share is left in.

    *Pairs of one run.* sub-01 and sub-02 saw the 720 first exemplars in the same order, so noise
    that the pairs of a run share agrees between these subjects. Pass the `seen` of all subjects to
    `rf.run_mask`, which keeps the pairs across runs.

    *What is unverified.* Whether voxel_x, _y and _z count from 0 (presumed) or 1: the volume layout
    takes the one that makes the voxels fill the brain mask, and stops if neither does. In what
    order the volumes of a run lie does not matter: they are found by the names in conditions.tsv.

    Examples
    --------
    >>> import rsafast as rf
    >>> subjects = [
    ...     read_things_fmri("THINGS-fMRI", s, ["V1", "LOC"], stimuli="first") for s in (1, 2, 3)
    ... ]  # doctest: +SKIP
    >>> mask = rf.run_mask([s.seen for s in subjects], labels=subjects[0].stimuli)  # doctest: +SKIP
    """
    check_choice("trials", trials, get_args(Trials))
    check_choice("z_score", z_score, [*get_args(Within), None])
    check_integers(min_repeats=(min_repeats, 1))
    if not average and min_repeats != 1:
        raise InvalidInputError("min_repeats is for average=True; leave one of them out")
    files = locate(root, subject, layout)
    table = read_trials(files)
    wanted = choose(table, trials, stimuli, z_score, files.trials)
    voxels = read_voxels(files, rois)
    read = read_volumes if files.layout == "volume" else read_hdf5
    values = read(files, wanted, voxels, progress)
    picked = table.iloc[wanted.chosen]
    notes = [
        f"{len(picked):,} of {len(table):,} trials (catch trials not counted) and"
        f" {len(voxels.rows):,} of {len(voxels.ids):,} voxels read"
    ]
    if z_score is not None:
        notes.append(f"z-scored per voxel within {z_score}, over its trials of every kind")
    responses = Responses(
        values=values,
        stimuli=tuple(picked["stimulus"]),
        subject=files.subject,
        seen=tuple(
            frozenset([(int(session), int(run))])
            for session, run in zip(picked["session"], picked["run"], strict=True)
        ),
        channels=voxels.ids[voxels.rows],
        rois=voxels.rois,
        noise_ceiling=_noise_ceiling(voxels, trials, average),
        units="beta" if z_score is None else "z",
        notes=tuple(notes),
        source={
            "data set": "THINGS-fMRI",
            "layout": files.layout,
            "responses": str(files.responses),
            "trials": str(files.trials),
            "voxels": str(files.voxels),
        },
    )
    repeated = len(set(responses.stimuli)) < responses.n_rows
    if average and (repeated or min_repeats > 1):
        return responses.averaged(min_repeats=min_repeats)
    return responses


def things_fmri_trials(
    root: PathInput, subject: str | int, *, layout: AnyLayout = "auto"
) -> pd.DataFrame:
    """Read which image a subject of THINGS-fMRI saw in which trial.

    Parameters
    ----------
    root, subject, layout : as for `read_things_fmri`.

    Returns
    -------
    DataFrame
        One line a trial, catch trials left out: trial_id (from 0), trial_type ("train" or "test"),
        session and run (from 1), stimulus (id), concept.

    Raises
    ------
    InvalidInputError
        Files that are missing or damaged; several layouts in `root`.
    """
    return read_trials(locate(root, subject, layout))


def things_fmri_stimuli(
    root: PathInput,
    subject: str | int,
    *,
    trials: Trials = "train",
    stimuli: Sequence[str] | Literal["first"] | None = None,
) -> tuple[str, ...]:
    """Ids of the rows that `read_things_fmri` makes of the same arguments, from the trials alone.

    Raises
    ------
    InvalidInputError
        As `read_things_fmri`, for what the metadata of the trials show.
    """
    files = locate(root, subject, "auto")
    table = read_trials(files)
    chosen = choose(table, trials, stimuli, None, files.trials).chosen
    return tuple(dict.fromkeys(table["stimulus"].iloc[chosen]))


def _noise_ceiling(voxels: Voxels, trials: Trials, average: bool) -> NDArray[np.float64] | None:
    """The published ceiling of what is returned: of single trials, or of means of the repeats."""
    if average and trials == "all":
        return None
    averaged = average and trials == "test"
    return voxels.ceilings.get("nc_testset" if averaged else "nc_singletrial")
