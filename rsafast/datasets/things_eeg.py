"""Reader of THINGS-EEG2: EEG of ten subjects who saw 16,540 + 200 images of objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.atomic import PathInput

from rsafast.datasets.responses import NOT_TOLD, Responses
from rsafast.datasets.selection import (
    check_choice,
    first_repeated,
    listed,
    rows_of,
    subject_name,
)
from rsafast.errors import InvalidInputError
from rsafast.io.pickled import read_dictionary

_SUBJECTS = 10
_IMAGES_AT_ONCE = 256
_ROUNDING = 1e-6  # seconds

Part = Literal["test", "training"]


def read_things_eeg(
    root: PathInput,
    subject: str | int,
    *,
    part: Part = "test",
    channels: str | Sequence[str] | None = None,
    times: tuple[float, float] | None = None,
    stimuli: Sequence[str] | None = None,
    average: bool = True,
    image_metadata: PathInput | None = None,
) -> Responses:
    r"""Read the preprocessed EEG of THINGS-EEG2.

    Parameters
    ----------
    root : folder that holds ``sub-01`` ... ``sub-10``, or the folder above, in which they lie under
        ``preprocessed_data``. In them are ``preprocessed_eeg_training.npy`` and
        ``preprocessed_eeg_test.npy``.
    subject : "sub-01" or 1.
    part : "test" (200 images, 80 repetitions as published) or "training" (16,540 images, 4).
    channels : the name of one, a list of names (in that order), or a regular expression that is
        searched in the names (``"^O|^PO"``); all by default. Names are those of the file.
    times : first and last time in seconds from stimulus onset, both included; all by default. They
        may reach one sample beyond the recording, no further.
    stimuli : ids to read, in that order; all by default. An id is the name of an image's file
        without its suffix: "aardvark_01b".
    average : average the repetitions of each image. Otherwise a row is a repetition, the
        repetitions of an image one after the other.
    image_metadata : ``image_metadata.npy``; by default looked for in `root`, its ``image_set`` and
        the folder above `root`.

    Returns
    -------
    Responses
        Values (rows, channels, times). `channels` are the names of the electrodes, `times` those of
        the file. `rf.rdm_movie(r.values, times=r.times, labels=r.stimuli)` makes RDMs of them.

    Raises
    ------
    InvalidInputError
        A missing or damaged file; a file that asks for code to be run; parts of the dictionary that
        do not fit; another number of images than `image_metadata.npy` lists; an unknown channel or
        stimulus; times outside the recording.

    Notes
    -----
    The authors whitened the data (multivariate noise normalisation), so they have no unit. They
    shuffled the repetitions across the four sessions: which repetition is of which session is
    not told, `seen` holds (0, 0), and run masks cannot be made.

    Memory: the file is one pickle and is read whole, 0.9 GB for the training part and 0.2 GB for
    the test part of a subject, beside what is returned. What was asked for is selected before it is
    averaged and made float32, and the rest is freed on return.

    Layout: Gifford et al. 2022, https://doi.org/10.1016/j.neuroimage.2022.119754. Rows are in the
    order of the lists in `image_metadata.npy`. Versions of the data saved as plain pickles under a
    name in .npy are read too.
    """
    check_choice("part", part, get_args(Part))
    name = subject_name(subject, "sub-", _SUBJECTS)
    base = Path(root).expanduser()
    file = _first_of(
        base / name / f"preprocessed_eeg_{part}.npy",
        base / "preprocessed_data" / name / f"preprocessed_eeg_{part}.npy",
    )
    metadata = _metadata_file(base) if image_metadata is None else Path(image_metadata)
    ids = _image_ids(metadata, part)
    rows = rows_of(ids, stimuli, str(metadata))
    data, names, when = _recording(file)
    if len(data) != len(ids):
        raise InvalidInputError(
            f"{file}: holds {len(data)} images, {metadata} lists {len(ids)} for the {part} part;"
            " they must be of the same copy of the data"
        )
    sensors = _channels(names, channels, file)
    samples = _samples(when, times, file)
    repetitions = data.shape[1]
    picked = [ids[row] for row in rows]
    return Responses(
        values=_selected(data, rows, sensors, samples, average),
        stimuli=tuple(picked if average else np.repeat(picked, repetitions).tolist()),
        subject=name,
        seen=(NOT_TOLD,) * (len(rows) if average else len(rows) * repetitions),
        channels=np.array([names[sensor] for sensor in sensors]),
        times=when[samples],
        units="whitened",
        notes=(
            "whitened, baseline-corrected and shuffled across sessions by the authors",
            *([f"each the mean of {repetitions} repetitions"] if average else []),
        ),
        source={"data set": "THINGS-EEG2", "file": str(file), "part": part},
    )


def things_eeg_stimuli(root: PathInput, *, part: Part = "test") -> tuple[str, ...]:
    """Ids of the rows that `read_things_eeg` makes of the same arguments, from the metadata alone.

    Raises
    ------
    InvalidInputError
        No ``image_metadata.npy``, or one that does not list the images of the part.
    """
    check_choice("part", part, get_args(Part))
    return tuple(_image_ids(_metadata_file(Path(root).expanduser()), part))


def _metadata_file(base: Path) -> Path:
    folders = (base, base / "image_set", base.parent)
    return _first_of(*(folder / "image_metadata.npy" for folder in folders))


def _first_of(*paths: Path) -> Path:
    for path in paths:
        if path.is_file():
            return path
    raise InvalidInputError(
        f"{paths[0]}: no such file, nor {', '.join(map(str, paths[1:]))}; check root and subject"
    )


def _image_ids(path: Path, part: Part) -> list[str]:
    key = "test_img_files" if part == "test" else "train_img_files"
    metadata = read_dictionary(path)
    if key not in metadata:
        raise InvalidInputError(f"{path}: has no {key!r}; it has {listed(metadata)}")
    ids = [Path(str(name)).stem for name in metadata[key]]
    twice = first_repeated(ids)
    if twice is not None:
        raise InvalidInputError(f"{path}: {key!r} lists the image {twice!r} twice")
    return ids


def _recording(path: Path) -> tuple[NDArray[Any], list[str], NDArray[np.float64]]:
    """Data (images, repetitions, channels, times), names of the channels, times in seconds."""
    content = read_dictionary(path)
    wanted = ("preprocessed_eeg_data", "ch_names", "times")
    lacking = [key for key in wanted if key not in content]
    if lacking:
        raise InvalidInputError(
            f"{path}: has no {listed(lacking)}; it has {listed(content)}; raw recordings are"
            " not read, take the preprocessed data"
        )
    data = content["preprocessed_eeg_data"]
    if not isinstance(data, np.ndarray) or data.ndim != 4 or data.dtype.kind != "f":
        said = f"{data.shape} {data.dtype}" if isinstance(data, np.ndarray) else type(data).__name__
        raise InvalidInputError(
            f"{path}: its data are {said}; expected (images, repetitions, channels, times)"
        )
    names = [str(name) for name in content["ch_names"]]
    when = np.asarray(content["times"], dtype=np.float64)
    if data.shape[2] != len(names) or (data.shape[3],) != when.shape:
        raise InvalidInputError(
            f"{path}: its data are {data.shape}, which {len(names)} channels and {when.size} times"
            " do not fit"
        )
    return data, names, when


def _channels(
    names: list[str], wanted: str | Sequence[str] | None, path: Path
) -> NDArray[np.int64]:
    if wanted is None:
        return np.arange(len(names))
    if isinstance(wanted, str) and wanted not in names:
        try:
            found = [i for i, name in enumerate(names) if re.search(wanted, name)]
        except re.error as error:
            raise InvalidInputError(
                f"channels={wanted!r} is no channel and no regular expression ({error})"
            ) from None
        missing = [] if found else [wanted]
    else:
        asked = [wanted] if isinstance(wanted, str) else list(wanted)
        missing = [name for name in asked if name not in names]
        found = [names.index(name) for name in asked if name in names]
    if missing or not found or len(set(found)) < len(found):
        raise InvalidInputError(
            f"{path}: channels={wanted!r} must name channels of the file, each once"
            f" ({listed(missing)} not found); it has {', '.join(names)}"
        )
    return np.array(found)


def _samples(
    when: NDArray[np.float64], wanted: tuple[float, float] | None, path: Path
) -> NDArray[np.int64]:
    if wanted is None:
        return np.arange(len(when))
    start, stop = wanted
    found = np.flatnonzero((when >= start - _ROUNDING) & (when <= stop + _ROUNDING))
    # A window may end at the next sample that would have come.
    step = (when[-1] - when[0]) / max(len(when) - 1, 1) + _ROUNDING
    if not len(found) or start < when[0] - step or stop > when[-1] + step:
        raise InvalidInputError(
            f"{path}: times={wanted} is not within the recording, which is from {when[0]:g} to"
            f" {when[-1]:g} s"
        )
    return found


def _selected(
    data: NDArray[Any],
    rows: NDArray[np.int64],
    sensors: NDArray[np.int64],
    samples: NDArray[np.int64],
    average: bool,
) -> NDArray[np.float32]:
    repetitions = 1 if average else data.shape[1]
    values = np.empty((len(rows), repetitions, len(sensors), len(samples)), dtype=np.float32)
    every = np.arange(data.shape[1])
    for start in range(0, len(rows), _IMAGES_AT_ONCE):
        some = rows[start : start + _IMAGES_AT_ONCE]
        block = data[np.ix_(some, every, sensors, samples)]
        if average:
            block = block.mean(axis=1, keepdims=True, dtype=np.float64)
        values[start : start + len(some)] = block
    return values.reshape(-1, len(sensors), len(samples))
