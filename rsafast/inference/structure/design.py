"""What the order of an experiment does to RDMs: cross-run masks, block de-meaning, repeats.

Patterns of one run share drift, noise and arousal, so dissimilarities within a run differ from
those across runs whatever was shown. Either only pairs of different runs are compared
(`run_mask`), or the mean of every run-by-run block is removed (`demean_blocks`).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rsafast._condensed import expand
from rsafast.errors import InvalidInputError
from rsafast.mask import MIN_PAIRS
from rsafast.rdms import RDMs, as_rdms

FloatArray = NDArray[np.float64]
Runs: TypeAlias = "Sequence[Any] | NDArray[Any]"
Across = Literal["runs", "sessions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunMask:
    """Which pairs of stimuli were never seen in the same run: see :func:`run_mask`.

    Pass it as `mask` wherever one is taken; NumPy reads it as `mask`.

    Attributes
    ----------
    mask : (pairs,) bool, squareform order; True where the pair counts for every subject.
    per_subject : (subjects, pairs) bool, the same for each subject alone.
    across : "runs" or "sessions", what the stimuli of a pair must differ in.
    n_stimuli : stimuli the mask is for.
    labels : their ids, or None.
    alone : labels (or positions) of the stimuli that have no pair left.
    """

    mask: NDArray[np.bool_]
    per_subject: NDArray[np.bool_]
    across: Across
    n_stimuli: int
    labels: tuple[Any, ...] | None
    alone: tuple[Any, ...]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the mask itself, so that it can be passed as one."""
        return np.array(self.mask, dtype=dtype or bool)

    @property
    def n_pairs(self) -> int:
        """Pairs that count."""
        return int(self.mask.sum())

    @property
    def n_pairs_of(self) -> int:
        """All pairs of the stimuli."""
        return len(self.mask)

    def matrix(self) -> NDArray[np.bool_]:
        """Return the mask as (n, n), False on the diagonal."""
        return expand(self.mask[None].astype(np.float64), self.n_stimuli)[0].astype(bool)

    def summary(self) -> str:
        """Say how many pairs are left, for all subjects together and for each alone."""
        thing = self.across[:-1]
        subjects = len(self.per_subject)
        by = f" by each of {subjects} subjects" if subjects > 1 else ""
        lines = [
            f"{self.n_pairs:,} of {self.n_pairs_of:,} pairs count: their stimuli were seen in "
            f"different {self.across}{by}."
        ]
        if subjects > 1:
            each = ", ".join(f"{int(row.sum()):,}" for row in self.per_subject)
            lines.append(f"Subject by subject it would be {each}.")
        if self.alone:
            shown = ", ".join(repr(x) for x in self.alone[:5])
            more = f" and {len(self.alone) - 5} more" if len(self.alone) > 5 else ""
            lines.append(
                f"{len(self.alone)} stimuli share a {thing} with every other one and so take no "
                f"part: {shown}{more}."
            )
        return "\n".join(lines)


def run_mask(
    runs: Runs,
    *,
    sessions: Runs | None = None,
    labels: Sequence[Any] | NDArray[Any] | None = None,
    across: Across = "runs",
) -> RunMask:
    """Mask of the pairs whose stimuli were seen in different runs (or sessions).

    Parameters
    ----------
    runs : (n,) or (subjects, n)
        Run of every stimulus, numbers or strings. With several rows, one a subject, a pair counts
        only if its stimuli were in different runs for *every* subject. A stimulus that was shown
        in several runs takes a ``set`` of runs: its pair with another counts only where the two
        sets have nothing in common.
    sessions : like `runs`, optional
        Where run numbers start again in every session; a run is then a (session, run). Runs that
        are numbered through need none. Not with sets: put ``{(session, run), ...}`` there.
    labels : sequence of n, optional
        Stimulus ids, for messages and the result. The mask is in this order: bring the RDMs into
        the same one with ``rdms.reorder(labels)``.
    across : {"runs", "sessions"}
        What the stimuli of a pair must differ in. "sessions" needs `sessions`.

    Returns
    -------
    RunMask
        Its `mask` has True for the pairs that count; pass the object itself as ``mask=``.

    Raises
    ------
    InvalidInputError
        A stimulus without a run (None, NaN or an empty set or string), everything in one run, fewer
        than 6 pairs left, rows of different length, labels of another number.

    Notes
    -----
    Which relabelling is valid with such a mask: ``permutation_test(mask=...)`` moves the labels of
    the model through the fixed mask. That is exact where the order of presentation was drawn at
    random with respect to the model, whatever the runs do to the brain's dissimilarities. Where
    presentation and model go together (categories shown run by run), it is not: keep to
    ``blocks=`` the runs. See :func:`demean_blocks` and the documentation.

    Examples
    --------
    >>> mask = run_mask([1, 1, 1, 2, 2, 3], labels=list("abcdef"))
    >>> mask.n_pairs, mask.n_pairs_of
    (11, 15)
    >>> print(mask.summary())
    11 of 15 pairs count: their stimuli were seen in different runs.
    """
    if across not in ("runs", "sessions"):
        raise InvalidInputError(f"across must be 'runs' or 'sessions', got {across!r}")
    if across == "sessions" and sessions is None:
        raise InvalidInputError("across='sessions' needs sessions=, the session of every stimulus")
    rows = _rows_of_cells(runs, "runs")
    n = len(rows[0])
    ids = _ids(labels, n)
    cells = [[_cell(cell, "run", ids, i) for i, cell in enumerate(row)] for row in rows]
    if sessions is not None:
        cells = _with_sessions(cells, _rows_of_cells(sessions, "sessions"), across, ids)
    per_subject = np.stack([_apart(row) for row in cells])
    mask = np.logical_and.reduce(per_subject, axis=0)
    if mask.sum() < MIN_PAIRS:
        raise InvalidInputError(
            f"runs leave {int(mask.sum())} of {len(mask)} pairs whose stimuli were in different "
            f"{across}{' for every subject' * (len(rows) > 1)}; at least {MIN_PAIRS} are needed: "
            "use all pairs with demean_blocks, or fewer subjects"
        )
    square = expand(mask[None].astype(np.float64), n)[0]
    alone = np.flatnonzero(square.sum(axis=0) == 0)
    return RunMask(
        mask=mask,
        per_subject=per_subject,
        across=across,
        n_stimuli=n,
        labels=None if labels is None else tuple(ids),
        alone=tuple(ids[i] for i in alone),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DemeanedRDMs:
    """RDMs without the means of their run-by-run blocks: see :func:`demean_blocks`.

    Attributes
    ----------
    rdms : the RDMs; pairs of blocks that were too small are missing (NaN).
    n_blocks : (k,) blocks of each RDM whose mean was removed.
    degrees_of_freedom : (k,) pairs left less blocks: what the values can still vary in.
    smallest_block : (k,) pairs in the smallest block that was kept.
    excluded : (k,) pairs that became missing, in blocks of fewer than `min_pairs`.
    min_pairs : as asked for.
    """

    rdms: RDMs
    n_blocks: NDArray[np.int64]
    degrees_of_freedom: NDArray[np.int64]
    smallest_block: NDArray[np.int64]
    excluded: NDArray[np.int64]
    min_pairs: int

    def mask(self) -> NDArray[np.bool_]:
        """Pairs (pairs,) that every RDM still has, to pass as ``mask=``."""
        return np.logical_and.reduce(np.isfinite(self.rdms.vectors), axis=0)

    def summary(self) -> str:
        """Say what was removed, and what that leaves."""
        lines = []
        for k, name in enumerate(self.rdms.names):
            line = (
                f"{name}: the means of {self.n_blocks[k]:,} run-by-run blocks removed (smallest "
                f"block {self.smallest_block[k]} pairs), {self.degrees_of_freedom[k]:,} degrees of "
                "freedom left"
            )
            if self.excluded[k]:
                line += (
                    f"; {self.excluded[k]:,} pairs in blocks of fewer than {self.min_pairs} are "
                    "missing now"
                )
            lines.append(line + ".")
        return "\n".join(lines)


def demean_blocks(
    rdms: Any, runs: Runs, *, sessions: Runs | None = None, min_pairs: int = 2
) -> DemeanedRDMs:
    """Remove from each RDM the mean of its run-by-run blocks.

    The block (r, s) of an RDM holds the dissimilarities of stimuli of run r with stimuli of run s,
    whichever comes first; (r, r) those within a run. Subtracting the mean of each removes every
    additive offset of a pair of runs, at the price of one degree of freedom a block.

    Parameters
    ----------
    rdms : RDMs or array
        k RDMs over n stimuli. Missing pairs stay missing and count in no mean.
    runs : (n,) or (k, n)
        Run of every stimulus, for all RDMs or one row each. One run a stimulus: with repeated
        presentations there are no such blocks, use :func:`run_mask`.
    sessions : like `runs`, optional
        Where run numbers start again in every session.
    min_pairs : int, default 2
        Pairs of smaller blocks become missing: the one value of a block of one is 0 once its mean
        is gone, whatever was measured.

    Returns
    -------
    DemeanedRDMs
        ``.rdms``, and what was removed from each. Negative values are normal.

    Raises
    ------
    InvalidInputError
        Runs of another number than the stimuli, a stimulus without a run or with several, fewer
        than 6 pairs left in an RDM.

    Notes
    -----
    *Ranks.* Remove the means from the values, then rank (``method="spearman"`` does): ranks taken
    first would let a block with large offsets use up a range of ranks. After ranking, blocks need
    not have equal mean ranks, since blocks that differ in spread or skewness still do; with Pearson
    they are exactly equal.

    *Permutations.* De-meaning commutes with relabellings within runs only. Relabelling within runs
    (``permutation_test(blocks=runs)``) is valid with no assumption on how presentation and model
    are related, since it never moves a stimulus to another run. Free relabelling of the model
    stays exact if the assignment of stimuli to runs was random with respect to the model, and is
    wrong where it was not.

    Examples
    --------
    >>> import numpy as np
    >>> rdm = RDMs([5.0, 6, 1, 3, 2, 7, 3, 5, 4, 2])
    >>> done = demean_blocks(rdm, [1, 1, 1, 2, 2])
    >>> done.rdms.vectors.round(1)
    array([[ 0.7,  1.7, -2.8, -0.8, -2.3,  3.2, -0.8,  1.2,  0.2,  nan]])
    >>> print(done.summary())
    rdm 0: the means of 2 run-by-run blocks removed (smallest block 3 pairs), 7 degrees of \
freedom left; 1 pairs in blocks of fewer than 2 are missing now.
    """
    stack = as_rdms(rdms, "rdms")
    if isinstance(min_pairs, bool) or not isinstance(min_pairs, int | np.integer) or min_pairs < 1:
        raise InvalidInputError(f"min_pairs must be a positive integer, got {min_pairs!r}")
    codes = _run_codes(runs, sessions, stack)
    out = stack.vectors.copy()
    found = np.empty((4, stack.n_rdms), np.int64)
    x, y = np.triu_indices(stack.n_stimuli, 1)
    for k, vector in enumerate(out):
        code = codes[min(k, len(codes) - 1)]
        low, high = np.minimum(code[x], code[y]), np.maximum(code[x], code[y])
        found[:, k] = _demean(vector, low * (int(code.max()) + 1) + high, int(min_pairs))
        if np.isfinite(vector).sum() < MIN_PAIRS:
            raise InvalidInputError(
                f"rdms: RDM {stack.names[k]!r} keeps {int(np.isfinite(vector).sum())} pairs in "
                f"blocks of at least {min_pairs}; use run_mask, or runs of more stimuli"
            )
    n_blocks, degrees, smallest, excluded = found
    return DemeanedRDMs(
        rdms=RDMs.from_vectors(
            out, stack.labels, stack.names, stack.measure, dict(stack.descriptors),
            missing="allow" if excluded.any() or stack.has_missing else "error",
        ),
        n_blocks=n_blocks,
        degrees_of_freedom=degrees,
        smallest_block=smallest,
        excluded=excluded,
        min_pairs=int(min_pairs),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class AveragedRepeats:
    """Mean features of each stimulus: see :func:`average_repeats`.

    Attributes
    ----------
    features : (n, ...) means, stimuli in the order of their first appearance.
    labels : their n ids.
    counts : (n,) presentations behind each mean.
    excluded : ids of stimuli with fewer than `min_repeats` presentations, which were left out.
    min_repeats : as asked for.
    """

    features: NDArray[np.floating]
    labels: tuple[Any, ...]
    counts: NDArray[np.int64]
    excluded: tuple[Any, ...]
    min_repeats: int

    def summary(self) -> str:
        """Say how many presentations are behind each mean, and what was left out."""
        low, high = int(self.counts.min()), int(self.counts.max())
        spread = f"{low}" if low == high else f"{low} to {high}"
        lines = [f"{len(self.labels)} stimuli, each the mean of {spread} presentations."]
        if low != high:
            lines.append(
                "Their noise differs, and so does what it adds to non-crossvalidated distances."
            )
        if self.excluded:
            shown = ", ".join(repr(x) for x in self.excluded[:5])
            more = f" and {len(self.excluded) - 5} more" if len(self.excluded) > 5 else ""
            lines.append(
                f"Left out, with fewer than {self.min_repeats} presentations: {shown}{more}."
            )
        return "\n".join(lines)


def average_repeats(
    features: ArrayLike, labels: Sequence[Any] | NDArray[Any], *, min_repeats: int = 1
) -> AveragedRepeats:
    """Average the presentations of each stimulus.

    Parameters
    ----------
    features : (presentations, ...) array of real numbers
    labels : sequence of str or int, one a presentation
    min_repeats : int, default 1
        Stimuli with fewer presentations are left out, and named in the result.

    Raises
    ------
    InvalidInputError
        Another number of labels than rows, NaN or infinite features, no stimulus left.

    Examples
    --------
    >>> done = average_repeats([[1.0, 2], [3.0, 4], [5.0, 9]], ["cat", "dog", "cat"])
    >>> done.labels, done.counts.tolist(), done.features.tolist()
    (('cat', 'dog'), [2, 1], [[3.0, 5.5], [3.0, 4.0]])
    """
    array = np.asarray(features)
    if array.dtype.kind not in "biuf" or array.ndim < 2:
        raise InvalidInputError(
            "features must be a real array (presentations, channels, ...), got "
            f"dtype {array.dtype}, shape {array.shape}"
        )
    whole = isinstance(min_repeats, int | np.integer) and not isinstance(min_repeats, bool)
    if not whole or min_repeats < 1:
        raise InvalidInputError(f"min_repeats must be a positive integer, got {min_repeats!r}")
    rows = np.asarray(labels).tolist() if isinstance(labels, np.ndarray) else list(labels)
    if len(rows) != len(array) or not rows:
        raise InvalidInputError(
            f"labels must name each of {len(array)} presentations, got {len(rows)}"
        )
    if not np.isfinite(array).all():
        raise InvalidInputError("features holds NaN or infinity; drop or mend those presentations")
    ids = list(dict.fromkeys(rows))
    place = {label: i for i, label in enumerate(ids)}
    code = np.array([place[label] for label in rows])
    counts = np.bincount(code, minlength=len(ids))
    kept = np.flatnonzero(counts >= min_repeats)
    if not len(kept):
        raise InvalidInputError(
            f"no stimulus has min_repeats={min_repeats} presentations; the most is {counts.max()}"
        )
    means = np.zeros((len(ids), *array.shape[1:]))
    np.add.at(means, code, array.astype(np.float64, copy=False))
    means = means[kept] / counts[kept].reshape(-1, *[1] * (array.ndim - 1))
    return AveragedRepeats(
        features=means.astype(np.float32) if array.dtype == np.float32 else means,
        labels=tuple(ids[i] for i in kept),
        counts=counts[kept],
        excluded=tuple(ids[i] for i in np.flatnonzero(counts < min_repeats)),
        min_repeats=int(min_repeats),
    )


# ---------------------------------------------------------------- runs


def _rows_of_cells(values: Any, name: str) -> list[list[Any]]:
    """One list of n entries a subject."""
    if isinstance(values, str | bytes) or not hasattr(values, "__len__") or not len(values):
        raise InvalidInputError(f"{name} must be (n,) or (subjects, n), got {values!r}")
    items = values.tolist() if isinstance(values, np.ndarray) else list(values)
    nested = [isinstance(item, list | tuple | np.ndarray) for item in items]
    if any(nested) and not all(nested):
        raise InvalidInputError(
            f"{name} mixes rows and single entries; give several runs of a stimulus as a set"
        )
    rows = [list(item) for item in items] if nested[0] else [items]
    sizes = {len(row) for row in rows}
    if len(sizes) > 1:
        raise InvalidInputError(
            f"{name} must name the same stimuli for every subject, got rows of "
            f"{', '.join(map(str, sorted(sizes)))} entries"
        )
    if any(isinstance(cell, list | np.ndarray) for row in rows for cell in row):
        raise InvalidInputError(f"{name} has too many dimensions; it must be (n,) or (subjects, n)")
    return rows


def _ids(labels: Any, n: int) -> list[Any]:
    ids = list(range(n)) if labels is None else np.asarray(labels).tolist()
    if len(ids) != n or len(set(ids)) != n:
        raise InvalidInputError(
            f"labels must name each of {n} stimuli once, got {len(ids)} ({len(set(ids))} different)"
        )
    return ids


def _cell(cell: Any, what: str, ids: list[Any], i: int) -> frozenset[Hashable]:
    """Runs of one stimulus as a set; raise where there is none."""
    runs = frozenset(cell) if isinstance(cell, set | frozenset) else frozenset([cell])
    if not runs or any(_is_none(run) for run in runs):
        raise InvalidInputError(
            f"stimulus {ids[i]!r} has no {what} ({cell!r}); give it one, or leave the stimulus out "
            "of the RDMs with .subset(stimuli=...)"
        )
    return runs


def _is_none(run: Any) -> bool:
    return run is None or run == "" or (isinstance(run, float) and not np.isfinite(run))


def _with_sessions(
    cells: list[list[frozenset[Hashable]]], rows: list[list[Any]], across: Across, ids: list[Any]
) -> list[list[frozenset[Hashable]]]:
    """Replace every run by (session, run), or by its session."""
    if len(rows) == 1:
        rows = rows * len(cells)
    if len(rows) != len(cells) or len(rows[0]) != len(cells[0]):
        raise InvalidInputError(
            f"sessions must be of the shape of runs, ({len(cells)}, {len(cells[0])}), got "
            f"({len(rows)}, {len(rows[0])})"
        )
    out: list[list[frozenset[Hashable]]] = []
    for row, session_row in zip(cells, rows, strict=True):
        sessions = [_cell(cell, "session", ids, i) for i, cell in enumerate(session_row)]
        if any(len(run) > 1 for run in row) or any(len(session) > 1 for session in sessions):
            raise InvalidInputError(
                "sessions= takes one run a stimulus; for several give runs as sets of "
                "(session, run) and leave sessions out"
            )
        out.append(
            sessions
            if across == "sessions"
            else [frozenset([(*s, *r)]) for s, r in zip(sessions, row, strict=True)]
        )
    return out


def _apart(cells: list[frozenset[Hashable]]) -> NDArray[np.bool_]:
    """(pairs,) True where two sets of runs have nothing in common."""
    place = {run: i for i, run in enumerate(dict.fromkeys(r for cell in cells for r in cell))}
    if len(place) == 1:
        raise InvalidInputError(
            f"all stimuli are in one run ({next(iter(place))!r}), so no pair crosses runs; leave "
            "the mask out, or use sessions= where run numbers start again"
        )
    seen = np.zeros((len(cells), len(place)), np.float32)
    for row, cell in zip(seen, cells, strict=True):
        row[[place[run] for run in cell]] = 1
    return (seen @ seen.T == 0)[np.triu_indices(len(cells), 1)]


def _run_codes(runs: Runs, sessions: Runs | None, rdms: RDMs) -> list[NDArray[np.int64]]:
    """Number of the run of every stimulus: one row for all RDMs, or one each."""
    rows = _rows_of_cells(runs, "runs")
    if len(rows) not in (1, rdms.n_rdms) or len(rows[0]) != rdms.n_stimuli:
        raise InvalidInputError(
            f"runs must be ({rdms.n_stimuli},) or ({rdms.n_rdms}, {rdms.n_stimuli}), got "
            f"({len(rows)}, {len(rows[0])})"
        )
    ids = list(rdms.labels) if rdms.labels is not None else list(range(rdms.n_stimuli))
    cells = [[_cell(cell, "run", ids, i) for i, cell in enumerate(row)] for row in rows]
    if sessions is not None:
        cells = _with_sessions(cells, _rows_of_cells(sessions, "sessions"), "runs", ids)
    several = next((i for row in cells for i, cell in enumerate(row) if len(cell) > 1), None)
    if several is not None:
        raise InvalidInputError(
            f"stimulus {ids[several]!r} was in several runs, so its pairs belong to no one block; "
            "use run_mask, or RDMs from one presentation each"
        )
    out = []
    for row in cells:
        place = {cell: i for i, cell in enumerate(dict.fromkeys(row))}
        out.append(np.array([place[cell] for cell in row]))
    return out


def _demean(vector: FloatArray, block: NDArray[np.int64], least: int) -> tuple[int, int, int, int]:
    """Remove block means in place; (blocks, degrees of freedom, smallest block, pairs dropped)."""
    present = np.flatnonzero(~np.isnan(vector))
    _, code, sizes = np.unique(block[present], return_inverse=True, return_counts=True)
    values = vector[present]
    # Twice: the second pass removes what rounding left of large means.
    for _ in range(2):
        values = values - (np.bincount(code, values) / sizes)[code]
    small = sizes[code] < least
    values[small] = np.nan
    vector[present] = values
    kept = sizes[sizes >= least]
    degrees = int(kept.sum() - len(kept))
    return len(kept), degrees, int(kept.min()) if len(kept) else 0, int(small.sum())
