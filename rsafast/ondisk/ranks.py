"""An RDM on disk to its average ranks, exact, in three passes over the file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.atomic import PathInput
from rsafast_kernels.rank.counting import Ranker

from rsafast.errors import InvalidInputError
from rsafast.io import hdf5
from rsafast.io.store import check_suffix
from rsafast.memory import format_bytes, parse_bytes
from rsafast.ondisk.rdm import StoredRDM, create_rdm, data_offset, open_rdm, write_values
from rsafast.ondisk.rows import Rows, ahead, panel_bytes, panels
from rsafast.ondisk.work import resumable
from rsafast.progress import Advance, track

Ranks = Literal["float32", "uint16"]
_BLOCK = 2**23  # values at a time: 32 MB as float32


def rank_rdm_file(
    source: PathInput | StoredRDM,
    path: PathInput,
    *,
    dtype: Ranks = "float32",
    memory_budget: int | str | None = None,
    resume: bool = True,
    progress: bool = True,
) -> StoredRDM:
    """Average ranks of an RDM in a file, into another file: what Spearman's correlation is made of.

    Nothing is sorted: every value that a float32 can take has a counter. So ranks are exact, ties
    share their mean, and time grows with the number of pairs alone.

    Parameters
    ----------
    source : RDM of float32 or float16 values, a file or one that is open
    path : file to write, .h5
    dtype : {"float32", "uint16"}
        "float32" holds each rank to 6e-8 of itself. "uint16" cuts the ranks 1 to the number of
        pairs P into 65,536 equal steps, (rank - 1) / (P - 1) * 65535 to the nearest whole number,
        at half the size: a rank moves by at most P / 131,070, and a correlation with other ranks by
        at most 2.7e-5, as a rule by less than 1e-7: the errors of different pairs are unrelated.
    memory_budget : bytes or a size like "2GB", optional
        For the counters: at most 67 MB for every factor of 2 between the smallest and the largest
        value. By default 2 GB, or a quarter of a small machine.
    resume : a run that was killed in the last of three passes goes on where it stopped; False
        starts anew
    progress : show a bar

    Raises
    ------
    InvalidInputError
        For a source that is missing, of another kind, or of other values than float32 and float16;
        for values that are not finite; where the budget or the disk is too small; and while another
        process writes the same file.

    Examples
    --------
    >>> import numpy as np, rsafast as rf, tempfile
    >>> features = np.random.default_rng(0).standard_normal((300, 20)).astype(np.float32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rf.compute_rdm_file(features, f"{folder}/rdm.h5").n_stimuli
    ...     ranks = rf.rank_rdm_file(f"{folder}/rdm.h5", f"{folder}/ranks.h5")
    ...     float(ranks.values.min()), float(ranks.values.max())
    300
    (1.0, 44850.0)
    """
    check_suffix(path)
    check_ranks(dtype, "dtype")
    rdm = source if isinstance(source, StoredRDM) else open_rdm(source)
    budget = parse_bytes(memory_budget)
    with (
        resumable(path, _key(rdm, dtype), resume=resume) as work,
        track(3 * len(rdm.values), f"ranks of {rdm.n_stimuli:,} stimuli", progress) as advance,
    ):
        if not work.done:
            measure = None if rdm.measure is None else f"{rdm.measure}, ranked"
            create_rdm(
                work.file, dtype, rdm.n_stimuli, labels=rdm.labels, name=rdm.name, measure=measure,
                target=path,
            )  # fmt: skip
        ranker = counted(rdm, dtype, budget, advance)
        offset = data_offset(work.file)
        for part, block in _blocks(rdm):
            if part not in work.done:
                write_values(work.file, ranker.ranks(block), offset, part * _BLOCK, path)
                work.record(range(part, part + 1))
            advance(len(block))
    return open_rdm(path)


def check_ranks(ranks: str, name: str = "ranks") -> None:
    """Raise for a type that ranks are not held in."""
    if ranks not in get_args(Ranks):
        raise InvalidInputError(f"{name} is {ranks!r}; choose one of {', '.join(get_args(Ranks))}")


def counted(rdm: Rows, dtype: Ranks, budget: int, advance: Advance) -> Ranker:
    """The first two of three passes over an RDM: what its values rank.

    Raises
    ------
    InvalidInputError
        For values other than float32 and float16, and those that are not finite; where the counters
        take more than `budget` bytes.
    """
    if rdm.dtype not in (np.float32, np.float16):
        raise InvalidInputError(
            f"{rdm.where}: holds {rdm.dtype} values; counting takes float32 or float16, which"
            " compute_rdm_file writes"
        )
    ranker = Ranker()
    parts = panels(rdm.n_stimuli, [rdm.step])
    for _, _, values in ahead(rdm, parts, rdm):
        try:
            ranker.scan(values.astype(np.float32, copy=False))
        except InvalidInputError as error:
            raise InvalidInputError(f"{rdm.where}: {error}") from None
        advance(len(values))
    needed = ranker.table_bytes + 4 * len(values) + panel_bytes(rdm.n_stimuli, [rdm])
    if needed > budget:
        raise InvalidInputError(
            f"memory_budget is too small: {format_bytes(budget)} of it are left for the counters of"
            f" {rdm.where}, which take {format_bytes(needed)}; raise it, or rank the RDM in a file"
            " of its own first (rank_rdm_file)"
        )
    ranker.allocate()
    for _, _, values in ahead(rdm, parts, rdm):
        ranker.count(values.astype(np.float32, copy=False))
        advance(len(values))
    ranker.finish(dtype)
    return ranker


def _blocks(rdm: StoredRDM) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Numbered blocks of the values, in order."""
    size = len(rdm.values)
    for part, start in enumerate(range(0, size, _BLOCK)):
        yield part, rdm.read(start, min(start + _BLOCK, size)).astype(np.float32, copy=False)


def _key(rdm: StoredRDM, dtype: str) -> str:
    """What a file in the making must agree on."""
    return hashlib.sha256(repr((rdm.identity, dtype, hdf5.FORMAT, _BLOCK)).encode()).hexdigest()
