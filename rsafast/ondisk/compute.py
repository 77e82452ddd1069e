"""Features to an RDM on disk, some rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rsafast_kernels.atomic import PathInput
from rsafast_kernels.pairwise import Metric, working_bytes

from rsafast._condensed import row_start
from rsafast.cluster import Cluster, connected, in_order, once
from rsafast.errors import InvalidInputError
from rsafast.features import Precision, one_layer
from rsafast.io import hdf5
from rsafast.io.store import check_suffix
from rsafast.memory import format_bytes, parse_bytes
from rsafast.ondisk.rdm import StoredRDM, create_rdm, data_offset, open_rdm, write_values
from rsafast.ondisk.rows import LazyRDM, check_bits, fingerprints, lazy_of
from rsafast.ondisk.work import Work, resumable
from rsafast.progress import track

if TYPE_CHECKING:
    from distributed import Client

Stored = Literal["float32", "float16", "float64"]
_WRITE_BYTES = 2**27  # of a panel: what is computed again after a kill, and much for one write
_SENT_BYTES = 2**25  # of a panel that a worker sends: some of them lie in the scheduler's memory
_LEAST_ROWS = 256  # of a panel


def compute_rdm_file(
    features: ArrayLike | Mapping[str, ArrayLike],
    path: PathInput,
    metric: Metric = "correlation",
    *,
    dtype: Stored = "float32",
    labels: Sequence[Any] | NDArray[Any] | None = None,
    noise_precision: Precision | None = None,
    folds: Sequence[Any] | NDArray[Any] | None = None,
    normalize: Literal["channels"] | None = None,
    name: str | None = None,
    memory_budget: int | str | None = None,
    resume: bool = True,
    cluster: Cluster | None = None,
    progress: bool = True,
) -> StoredRDM:
    """Compute an RDM straight into a file: for RDMs that do not fit in memory.

    The values are those of :func:`rsafast.compute_rdms`, rounded to `dtype`, and the file is one
    that :meth:`rsafast.RDMs.load` and every command read. A run that was killed goes on where it
    stopped when it is called again with the same arguments, to the same values.

    Parameters
    ----------
    features : (n, p) array, a NumPy memory map of one, or {name: (n, p)}
        n stimuli by p channels. A normalised copy is held in memory (see `memory_budget`); types
        other than float32 and float64 are converted first, which the budget does not count.
    path : file to write, .h5; one that exists is replaced at the end
    metric, labels, noise_precision, folds, normalize
        As of :func:`rsafast.compute_rdms`; "crossnobis" for complete designs.
    dtype : {"float32", "float16", "float64"}
        What a dissimilarity is stored in. Rounding moves a value by at most 6e-8 (float32) or 5e-4
        (float16) of itself. Then scores move by less than 1e-6, or by some 1e-4 with float16, whose
        2,049 values between 1 and 3 tie many pairs; it halves the file.
    name : name of the RDM; by default that of a mapping's key, or "rdm 0"
    memory_budget : bytes or a size like "2GB", optional
        For working arrays beside `features`; by default 2 GB, or a quarter of a small machine.
    resume : False starts anew
    cluster : address, Client or "local", optional
        Dask cluster that computes the values, to the same bits; only this process writes. Features
        travel to every worker once, and `memory_budget` is that of every worker. See docs/large.md.
    progress : show a bar of the rows done

    Returns
    -------
    StoredRDM
        The file, opened: its values are mapped, not read.

    Raises
    ------
    InvalidInputError
        As :func:`rsafast.compute_rdms`; for several layers; where the budget or the disk is too
        small, before the work starts; where a value does not fit float16; and while another process
        writes the same file.
    RsafastError
        Where the cluster is lost, or one of its workers computes other bits than this process.

    Examples
    --------
    >>> import numpy as np, rsafast as rf, tempfile
    >>> features = np.random.default_rng(0).standard_normal((300, 20)).astype(np.float32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     stored = rf.compute_rdm_file(features, f"{folder}/rdm.h5")
    ...     bool(np.all(stored.values == rf.compute_rdms(features).vectors[0]))
    True
    """
    check_suffix(path)
    if dtype not in get_args(Stored):
        raise InvalidInputError(f"dtype is {dtype!r}; choose one of {', '.join(get_args(Stored))}")
    patterns, own_name = one_layer(features, metric, labels, noise_precision, folds, normalize)
    x, n = patterns.layers[0][1], patterns.n
    budget = parse_bytes(memory_budget)
    row = _row_bytes(n, x.dtype, dtype, normalize)
    needed = working_bytes(x.shape, x.dtype, metric) + _LEAST_ROWS * row
    if needed > budget:
        raise InvalidInputError(
            f"memory_budget of {format_bytes(budget)} is too small: {n} stimuli of {x.shape[-1]}"
            f" channels need {format_bytes(needed)}; raise it, or give fewer channels"
        )
    rdm = lazy_of(patterns, metric, normalize, name or own_name)
    what = (rdm.identity, dtype, rdm.labels, rdm.name, hdf5.FORMAT)
    with (
        resumable(path, what, resume=resume) as work,
        nullcontext() if cluster is None else connected(cluster) as client,
    ):
        if not work.done:
            create_rdm(
                work.file, dtype, n, labels=rdm.labels, name=rdm.name, measure=rdm.measure,
                target=path,
            )  # fmt: skip
        # A worker may hold two panels that are finished beside the one that it computes.
        most, at_once = (_WRITE_BYTES, 1) if client is None else (_SENT_BYTES, 3)
        panels = _panels(work, rdm, _LEAST_ROWS + min(most, (budget - needed) // at_once) // row)
        offset = data_offset(work.file)
        with track(n, f"{metric} of {n:,} stimuli", progress) as advance:
            computed = _computed(rdm, panels, dtype, client)
            for (first, last), panel in zip(panels, computed, strict=True):
                write_values(work.file, panel, offset, row_start(first, n), path)
                work.record(range(first // rdm.step, -(-last // rdm.step)))
                advance(last - first)
    return open_rdm(path)


def _row_bytes(n: int, features: np.dtype[Any], stored: Stored, normalize: str | None) -> int:
    """Most bytes of one row of a panel: as computed, as normalised and as stored."""
    return n * (features.itemsize + np.dtype(stored).itemsize + 8 * (normalize is not None))


def _panels(work: Work, rdm: LazyRDM, rows: int) -> list[tuple[int, int]]:
    """Rows first..last still to be computed: whole parts, as many at a time as `rows` allow."""
    step, n = rdm.step, rdm.n_stimuli
    most = max(1, rows // step)
    missing = [part for part in range(-(-n // step)) if part not in work.done]
    found, first = [], 0
    for place, part in enumerate(missing):
        last = place + 1 == len(missing) or missing[place + 1] != part + 1
        if last or place + 1 - first == most:
            found.append((missing[first] * step, min(n, (part + 1) * step)))
            first = place + 1
    return found


def _computed(
    rdm: LazyRDM, panels: list[tuple[int, int]], dtype: Stored, client: Client | None
) -> Iterator[NDArray[np.floating]]:
    """Yield the values of every panel as they are written.

    Workers send theirs here, and do not write: with one writer, locks, journals and full disks are
    what they are without a cluster, the disk need not be shared, and a task that ran twice because
    its worker died leaves no trace.
    """
    if client is None:
        for first, last in panels:
            yield _stored(rdm.read_rows(first, last), dtype)
        return
    shared, expected = once(client, rdm), fingerprints([rdm])
    yield from in_order(
        client, _computed_there, [(shared, first, last, dtype, expected) for first, last in panels]
    )


def _computed_there(
    rdm: LazyRDM, first: int, last: int, dtype: Stored, expected: list[str]
) -> NDArray[np.floating]:
    """The work of one task of a cluster."""
    check_bits([rdm], expected)
    return _stored(rdm.read_rows(first, last), dtype)


def _stored(values: NDArray[np.floating], dtype: Stored) -> NDArray[np.floating]:
    """Values as they are written."""
    with np.errstate(over="ignore"):
        out = values.astype(dtype, copy=False)
    if dtype == "float16" and not np.isfinite(out).all():
        raise InvalidInputError(
            f"a dissimilarity of {values.max():.3g} does not fit float16 (65,504 at most); choose"
            " dtype='float32'"
        )
    return out
