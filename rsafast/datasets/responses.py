"""`Responses`: the measured responses of one subject, whatever data set they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from rsafast.datasets.selection import check_choice, listed, rows_of
from rsafast.datasets.zscores import Moments
from rsafast.errors import InvalidInputError
from rsafast.features import Metric, compute_rdms
from rsafast.inference.structure.design import average_repeats
from rsafast.rdms import RDMs

Seen = frozenset[tuple[int, int]]
Within = Literal["session", "run", "all"]
# What `seen` holds of a row whose session and run are not told.
NOT_TOLD: Seen = frozenset({(0, 0)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Responses:
    """Responses of one subject to stimuli: what every reader of a data set returns.

    Attributes
    ----------
    values : (rows, channels) or (rows, channels, times) float32
        A row is a trial, or after `averaged` a stimulus. Channels are voxels, vertices or sensors.
    stimuli : stimulus id of every row.
    subject : for example "subj01".
    seen : for every row the (session, run) pairs in which it was measured, counted from 1; 0 where
        the data set does not tell. `rf.run_mask` takes them as they are.
    channels : (channels,) id of every channel in the published files.
    rois : name to (channels,) bool, the regions that were asked for.
    times : (times,) seconds from stimulus onset, for responses over time.
    noise_ceiling : (channels,) published explainable variance in per cent, NaN where there is none.
    units : of the values.
    notes : what the reader or a method did to the values, in order.
    source : facts that reports print: files, data set, version.

    Raises
    ------
    InvalidInputError
        Shapes that do not fit; a region that is not bool; NaN or infinite values; a stimulus
        without an id.
    """

    values: NDArray[np.float32]
    stimuli: tuple[str, ...]
    subject: str
    seen: tuple[Seen, ...]
    channels: NDArray[Any]
    rois: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    times: NDArray[np.float64] | None = None
    noise_ceiling: NDArray[np.float64] | None = None
    units: str = "unknown"
    notes: tuple[str, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rows, channels = self.values.shape[:2] if self.values.ndim in (2, 3) else (-1, -1)
        per_channel: dict[str, NDArray[Any]] = {
            f"roi {name!r}": mask for name, mask in self.rois.items()
        }
        per_channel["channels"] = self.channels
        if self.noise_ceiling is not None:
            per_channel["noise_ceiling"] = self.noise_ceiling
        wrong = [name for name, values in per_channel.items() if values.shape != (channels,)]
        if len(self.stimuli) != rows or len(self.seen) != rows:
            wrong.append("stimuli or seen")
        if (self.times is None) != (self.values.ndim == 2) or (
            self.times is not None and self.times.shape != self.values.shape[2:]
        ):
            wrong.append("times")
        if wrong:
            raise InvalidInputError(
                f"{self.subject}: values are {self.values.shape}, which {', '.join(wrong)} do not"
                " fit"
            )
        for name, mask in self.rois.items():
            if mask.dtype != np.bool_:
                raise InvalidInputError(
                    f"{self.subject}: roi {name!r} is {mask.dtype}, expected bool: whether each"
                    " channel is in it"
                )
        if "" in self.stimuli:
            raise InvalidInputError(
                f"{self.subject}: row {self.stimuli.index('')} has no stimulus id"
            )
        bad = np.argwhere(~np.isfinite(self.values))
        if len(bad):
            row, channel = bad[0][:2]
            raise InvalidInputError(
                f"{self.subject}: the response of channel {self.channels[channel]} to"
                f" {self.stimuli[row]!r} (row {row}) is not finite; leave the channel out"
            )

    @property
    def n_rows(self) -> int:
        """Trials, or stimuli after `averaged`."""
        return len(self.stimuli)

    def __repr__(self) -> str:
        shape = " × ".join(map(str, self.values.shape))
        names = ", ".join(self.rois) or "none"
        return f"Responses({self.subject}: {shape} ({self.units}), regions {names})"

    def roi(self, name: str) -> Responses:
        """Return the channels of one region.

        Raises
        ------
        InvalidInputError
            A region that was not read, or one without channels in this subject.
        """
        if name not in self.rois:
            raise InvalidInputError(
                f"{self.subject}: holds no region {name!r}; it holds {listed(self.rois)}"
            )
        mask = self.rois[name]
        if not mask.any():
            raise InvalidInputError(
                f"{self.subject}: region {name!r} holds no channel with data in this subject; leave"
                " it out"
            )
        ceiling = self.noise_ceiling
        return replace(
            self, values=self.values[:, mask], channels=self.channels[mask],
            rois={other: own[mask] for other, own in self.rois.items()},
            noise_ceiling=None if ceiling is None else ceiling[mask],
        )  # fmt: skip

    def subset(self, stimuli: Sequence[str]) -> Responses:
        """Return the rows of the stimuli named, in that order; repeats in the order measured.

        Raises
        ------
        InvalidInputError
            No stimuli; one that is named twice or was not read.
        """
        rows = rows_of(self.stimuli, stimuli, self.subject)
        return replace(
            self, values=self.values[rows], stimuli=tuple(self.stimuli[row] for row in rows),
            seen=tuple(self.seen[row] for row in rows),
        )  # fmt: skip

    def z_scored(self, within: Within = "session") -> Responses:
        """Subtract each channel's mean and divide by its standard deviation.

        Parameters
        ----------
        within : over the rows of each session, of each run, or over all rows at once. A channel
            that does not vary there becomes 0.

        Raises
        ------
        InvalidInputError
            Rows that were averaged over several of these blocks; rows whose session (or run) is not
            told; a block of one row.
        """
        values = self.values.astype(np.float64)
        for rows in self._blocks(within):
            moments = Moments(values.shape[1:])
            moments.add(values[rows])
            mean, spread = moments.mean_and_spread()
            values[rows] = (values[rows] - mean) / spread
        return replace(
            self, values=values.astype(np.float32), units="z",
            notes=(*self.notes, f"z-scored per channel within {within}"),
        )  # fmt: skip

    def averaged(self, *, min_repeats: int = 1) -> Responses:
        """Average the repeats of each stimulus; stimuli in the order of their first row.

        Parameters
        ----------
        min_repeats : stimuli with fewer rows are left out, and counted in `notes`.
        """
        done = average_repeats(self.values, list(self.stimuli), min_repeats=min_repeats)
        seen: dict[str, Seen] = dict.fromkeys(done.labels, frozenset())
        for stimulus, runs in zip(self.stimuli, self.seen, strict=True):
            if stimulus in seen:
                seen[stimulus] |= runs
        return replace(
            self, values=done.features.astype(np.float32), stimuli=done.labels,
            seen=tuple(seen.values()), notes=(*self.notes, done.summary()),
        )  # fmt: skip

    def rdms(
        self, rois: Sequence[str] | None = None, metric: Metric = "correlation", **options: Any
    ) -> RDMs:
        """RDM of every region, with descriptors ``subject`` and ``roi``.

        Parameters
        ----------
        rois : by default all that were read; all channels where none was.
        metric, options : see `rf.compute_rdms`. Repeats need `averaged` first, or a metric across
            folds.

        Raises
        ------
        InvalidInputError
            Responses over time (see `rf.rdm_movie`); repeats; a region without channels.
        """
        if self.times is not None:
            raise InvalidInputError(
                f"{self.subject}: these responses have {len(self.times)} time points; use"
                " rf.rdm_movie"
            )
        names = list(self.rois) if rois is None else list(rois)
        parts = {name: self.roi(name).values for name in names} or {"all": self.values}
        made = [
            compute_rdms(
                values, metric, labels=self.stimuli, names=[f"{self.subject} {name}"], **options
            )
            for name, values in parts.items()
        ]
        return RDMs.concat(made).with_descriptors(
            {"subject": [self.subject] * len(parts), "roi": list(parts)}
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One line a row: stimulus, and the sessions and runs in which it was measured."""
        return pd.DataFrame(
            {
                "stimulus": self.stimuli,
                "sessions": [sorted({session for session, _ in runs}) for runs in self.seen],
                "runs": [sorted(runs) for runs in self.seen],
            }
        )

    def _blocks(self, within: Within) -> list[list[int]]:
        """Rows of every session or run."""
        check_choice("within", within, get_args(Within))
        blocks: dict[Any, list[int]] = {}
        for row, runs in enumerate(self.seen):
            keys: Any = {"all": {0}, "run": runs, "session": {session for session, _ in runs}}[
                within
            ]
            if len(keys) != 1:
                raise InvalidInputError(
                    f"{self.subject}: {self.stimuli[row]!r} (row {row}) was measured in"
                    f" {len(keys)} {within}s; z-score before repeats are averaged"
                )
            key = next(iter(keys))
            if (within == "session" and key == 0) or (within == "run" and key[1] == 0):
                raise InvalidInputError(
                    f"{self.subject}: the {within} in which {self.stimuli[row]!r} (row {row}) was"
                    " measured is not told; use within='all'"
                )
            blocks.setdefault(key, []).append(row)
        single = [block for block, rows in blocks.items() if len(rows) < 2]
        if single:
            raise InvalidInputError(
                f"{self.subject}: {within} {single[0]} holds one row, which has no spread"
            )
        return list(blocks.values())
