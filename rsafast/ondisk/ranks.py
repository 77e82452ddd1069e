"""An RDM on disk to its average ranks, exact, in three passes over the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.atomic import PathInput
from rsafast_kernels.rank.counting import Ranker

from rsafast._condensed import row_start
from rsafast.cluster import Cluster, connected, in_order, once
from rsafast.errors import InvalidInputError
from rsafast.io import hdf5
from rsafast.io.store import check_suffix
from rsafast.memory import format_bytes, parse_bytes
from rsafast.ondisk.rdm import StoredRDM, create_rdm, data_offset, open_rdm, write_values
from rsafast.ondisk.rows import PANEL, Rows, ahead, panel_bytes, panels
from rsafast.ondisk.work import resumable
from rsafast.progress import Advance, track

if TYPE_CHECKING:
    from distributed import Client

Ranks = Literal["float32", "uint16"]
Panel: TypeAlias = "tuple[int, int]"
_BLOCK = 2**23  # values at a time: 32 MB as float32
_READ_PER_SENT = 4  # bytes that a worker counts for every byte of counts that it sends


def rank_rdm_file(
    source: PathInput | StoredRDM,
    path: PathInput,
    *,
    dtype: Ranks = "float32",
    memory_budget: int | str | None = None,
    resume: bool = True,
    cluster: Cluster | None = None,
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
    cluster : address, Client or "local", optional
        Dask cluster that counts and looks up, to the same bits; `source` must lie on a disk that
        its workers share, and only this process writes. `memory_budget` is that of every worker.
        See docs/large.md.
    progress : show a bar

    Raises
    ------
    InvalidInputError
        For a source that is missing, of another kind, or of other values than float32 and float16;
        for values that are not finite; where the budget or the disk is too small; and while another
        process writes the same file.
    RsafastError
        Where the cluster is lost.

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
        resumable(path, (rdm.identity, dtype, hdf5.FORMAT, _BLOCK), resume=resume) as work,
        nullcontext() if cluster is None else connected(cluster) as client,
        track(3 * len(rdm.values), f"ranks of {rdm.n_stimuli:,} stimuli", progress) as advance,
    ):
        if not work.done:
            measure = None if rdm.measure is None else f"{rdm.measure}, ranked"
            create_rdm(
                work.file, dtype, rdm.n_stimuli, labels=rdm.labels, name=rdm.name, measure=measure,
                target=path,
            )  # fmt: skip
        ranker = counted(rdm, dtype, budget, advance, client)
        missing = [block for part, block in enumerate(_blocks(rdm)) if part not in work.done]
        offset = data_offset(work.file)
        for block, ranks in zip(missing, _ranked(rdm, ranker, missing, client), strict=True):
            part = block.start // _BLOCK
            write_values(work.file, ranks, offset, block.start, path)
            work.record(range(part, part + 1))
            advance(len(block))
    return open_rdm(path)


def check_ranks(ranks: str, name: str = "ranks") -> None:
    """Raise for a type that ranks are not held in."""
    if ranks not in get_args(Ranks):
        raise InvalidInputError(f"{name} is {ranks!r}; choose one of {', '.join(get_args(Ranks))}")


def counted(
    rdm: Rows, dtype: Ranks, budget: int, advance: Advance, client: Client | None = None
) -> Ranker:
    """The first two of three passes over an RDM, on a cluster or here: what its values rank.

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
    parts = panels(rdm.n_stimuli, [rdm.step])
    if client is None:
        scanned = _scan(rdm, parts, advance)
    else:
        scanned = _scan_there(rdm, parts, advance, client)
    needed = scanned.table_bytes + 4 * _pairs(rdm, parts[-1:]) + panel_bytes(rdm.n_stimuli, [rdm])
    if needed > budget:
        raise InvalidInputError(
            f"memory_budget is too small: {format_bytes(budget)} of it are left for the counters of"
            f" {rdm.where}, which take {format_bytes(needed)}; raise it, or rank the RDM in a file"
            " of its own first (rank_rdm_file)"
        )
    if client is None:
        ranker = _count(rdm, scanned, parts, advance)
    else:
        ranker = _count_there(rdm, scanned, parts, advance, client)
    ranker.finish(dtype)
    return ranker


def _untold(items: int, note: str = "") -> None:
    """Progress of a worker."""


def _scan(rdm: Rows, parts: Sequence[Panel], advance: Advance = _untold) -> Ranker:
    """First pass, over panels of the RDM."""
    ranker = Ranker()
    for _, _, values in ahead(rdm, parts, rdm):
        try:
            ranker.scan(values.astype(np.float32, copy=False))
        except InvalidInputError as error:
            raise InvalidInputError(f"{rdm.where}: {error}") from None
        advance(len(values))
    return ranker


def _count(
    rdm: Rows, scanned: Ranker, parts: Sequence[Panel], advance: Advance = _untold
) -> Ranker:
    """Second pass, over panels of the RDM."""
    ranker = scanned.part()
    for _, _, values in ahead(rdm, parts, rdm):
        ranker.count(values.astype(np.float32, copy=False))
        advance(len(values))
    return ranker


def _look_up(rdm: StoredRDM, ranker: Ranker, block: range) -> NDArray[np.generic]:
    """Third pass, over values of these numbers."""
    return ranker.ranks(rdm.read(block.start, block.stop).astype(np.float32, copy=False))


def _scan_there(rdm: Rows, parts: list[Panel], advance: Advance, client: Client) -> Ranker:
    """First pass, by a cluster: a panel a task."""
    ranker, shared = Ranker(), once(client, rdm)
    found = in_order(client, _scan, [(shared, [part]) for part in parts])
    for part, scanned in zip(parts, found, strict=True):
        ranker.merge_scanned(scanned)
        advance(_pairs(rdm, [part]))
    return ranker


def _count_there(
    rdm: Rows, scanned: Ranker, parts: list[Panel], advance: Advance, client: Client
) -> Ranker:
    """Second pass, by a cluster. Counts are whole numbers: any shares of them add up the same."""
    # Counts may be as large as the budget: a task reads much for those that it sends.
    size = -(-_READ_PER_SENT * scanned.table_bytes // (4 * PANEL))
    groups = [parts[first : first + size] for first in range(0, len(parts), size)]
    ranker, shared = scanned.part(), (once(client, rdm), once(client, scanned))
    found = in_order(client, _count, [(*shared, group) for group in groups])
    for group, counted_of_group in zip(groups, found, strict=True):
        ranker.merge_counted(counted_of_group)
        advance(_pairs(rdm, group))
    return ranker


def _ranked(
    rdm: StoredRDM, ranker: Ranker, blocks: list[range], client: Client | None
) -> Iterator[NDArray[np.generic]]:
    """Yield the ranks of every block of values, looked up by a cluster or here."""
    if client is None:
        for block in blocks:
            yield _look_up(rdm, ranker, block)
        return
    shared = (once(client, rdm), once(client, ranker))
    yield from in_order(client, _look_up, [(*shared, block) for block in blocks])


def _pairs(rdm: Rows, parts: Sequence[Panel]) -> int:
    """Values of panels."""
    n = rdm.n_stimuli
    return sum(row_start(last, n) - row_start(first, n) for first, last in parts)


def _blocks(rdm: StoredRDM) -> list[range]:
    """Numbers of the values, some at a time."""
    size = len(rdm.values)
    return [range(start, min(start + _BLOCK, size)) for start in range(0, size, _BLOCK)]
