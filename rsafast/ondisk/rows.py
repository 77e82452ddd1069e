"""RDMs that are read in rows and never whole: of files, and of features as they are needed."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from math import lcm
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rsafast_kernels.pairwise import Distances, Metric, working_bytes
from rsafast_kernels.rank.counting import Ranker

from rsafast._condensed import n_pairs, row_start
from rsafast.errors import RsafastError
from rsafast.features import Patterns, Precision, kernel_metric, measure_name, normalise, one_layer
from rsafast.io.provenance import array_hash
from rsafast.rdms import Label, checked_labels

PANEL = 2**23  # pairs of some rows that are read at a time, about: 32 MB of float32
_fingerprints: dict[str, str] = {}  # of this process, by the identity of an RDM


class Source(Protocol):
    """What reads values of some rows."""

    def read_rows(self, first: int, last: int) -> NDArray[Any]:
        """Values of the pairs of the rows first..last with all stimuli after them."""
        ...


class Rows(Protocol):
    """An RDM that hands out the pairs of some rows."""

    @property
    def n_stimuli(self) -> int:
        """Number of stimuli n."""
        ...

    @property
    def labels(self) -> tuple[Label, ...] | None:
        """(n,) stimulus ids, or None."""
        ...

    @property
    def name(self) -> str:
        """Name of the RDM."""
        ...

    @property
    def measure(self) -> str | None:
        """What its values are; "..., ranked" of ranks."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        ...

    @property
    def step(self) -> int:
        """Panels start at multiples of so many rows."""
        ...

    @property
    def where(self) -> str:
        """What messages call it."""
        ...

    @property
    def identity(self) -> str:
        """Text that changes with the values."""
        ...

    @property
    def working_bytes(self) -> int:
        """Memory that reading takes beside what is read."""
        ...

    def read_rows(self, first: int, last: int) -> NDArray[Any]:
        """Pairs of the rows first..last with all stimuli after them, in squareform order."""
        ...


@dataclass(frozen=True, slots=True)
class LazyRDM:
    """An RDM whose values are computed wherever they are needed, and stored nowhere.

    Made by :func:`rsafast.lazy_rdm`. Takes the place of an RDM file in
    :func:`rsafast.permutation_test_files` and :func:`rsafast.compare_files`, where the disk is too
    small or slower than the products.
    """

    n_stimuli: int
    labels: tuple[Label, ...] | None = field(repr=False)
    name: str
    measure: str | None
    metric: Metric
    normalize: str | None
    channels: int
    identity: str = field(repr=False)
    working_bytes: int = field(repr=False)
    distances: Distances = field(repr=False)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values: float32 of float32 features, else float64."""
        return np.dtype(np.float64) if self.normalize else self.distances.dtype

    @property
    def step(self) -> int:
        """Panels start at multiples of so many rows."""
        return self.distances.step

    @property
    def where(self) -> str:
        """What messages call it."""
        return f"RDM {self.name!r} of features"

    def read_rows(self, first: int, last: int) -> NDArray[Any]:
        """Pairs of the rows first..last with all stimuli after them."""
        values = self.distances.panel(first, last)
        if self.normalize is not None:
            values = values.astype(np.float64)
            normalise(values, self.metric, self.normalize, self.channels)
        return values


def lazy_rdm(
    features: ArrayLike | Mapping[str, ArrayLike],
    metric: Metric = "correlation",
    *,
    labels: Sequence[Any] | NDArray[Any] | None = None,
    noise_precision: Precision | None = None,
    folds: Sequence[Any] | NDArray[Any] | None = None,
    normalize: str | None = None,
    name: str | None = None,
) -> LazyRDM:
    """Describe an RDM of features without computing it.

    Parameters
    ----------
    features, metric, labels, noise_precision, folds, normalize, name
        As of :func:`rsafast.compute_rdm_file`. A copy of the features stays in memory.

    Raises
    ------
    InvalidInputError
        As :func:`rsafast.compute_rdm_file`.

    Examples
    --------
    >>> import numpy as np, rsafast as rf
    >>> x = np.random.default_rng(0).standard_normal((300, 20)).astype(np.float32)
    >>> rdm = rf.lazy_rdm(x)
    >>> bool(np.all(rdm.read_rows(0, 300) == rf.compute_rdms(x).vectors[0]))
    True
    """
    patterns, own_name = one_layer(features, metric, labels, noise_precision, folds, normalize)
    return lazy_of(patterns, metric, normalize, name or own_name)


def lazy_of(patterns: Patterns, metric: Metric, normalize: str | None, name: str | None) -> LazyRDM:
    """RDM of checked patterns of one layer."""
    x = patterns.layers[0][1]
    precision = None if patterns.precision is None else array_hash(np.asarray(patterns.precision))
    return LazyRDM(
        n_stimuli=patterns.n,
        labels=checked_labels(patterns.ids, patterns.n),
        name=name or "rdm 0",
        measure=measure_name(metric, normalize),
        metric=metric,
        normalize=normalize,
        channels=x.shape[-1],
        identity=repr((array_hash(x), metric, normalize, precision)),
        working_bytes=working_bytes(x.shape, x.dtype, metric),
        distances=Distances(x, kernel_metric(metric, normalize), precision=patterns.precision),
    )


def fingerprints(rdms: Iterable[Rows]) -> list[str]:
    """Of RDMs that are computed wherever they are needed: hashes of their first rows, from here."""
    return [_fingerprint(rdm) for rdm in rdms if isinstance(rdm, LazyRDM)]


def check_bits(rdms: Iterable[Rows], expected: Sequence[str]) -> None:
    """Raise unless this process computes the values that fingerprints of another one tell of."""
    lazy = [rdm for rdm in rdms if isinstance(rdm, LazyRDM)]
    for rdm, fingerprint in zip(lazy, expected, strict=True):
        if _fingerprint(rdm) != fingerprint:
            raise RsafastError(
                f"{rdm.where}: a worker of the cluster computes other values than the process that"
                " asked, on another type of processor or with another NumPy or BLAS; leave such"
                " workers out, or write the RDM to a file first (compute_rdm_file without cluster=)"
            )


def _fingerprint(rdm: LazyRDM) -> str:
    if rdm.identity not in _fingerprints:
        first_rows = rdm.read_rows(0, min(rdm.step, rdm.n_stimuli))
        _fingerprints[rdm.identity] = array_hash(first_rows)
    return _fingerprints[rdm.identity]


@dataclass(frozen=True, slots=True)
class RankedRows:
    """Rows of an RDM as its ranks, which are looked up as they are read."""

    rows: Rows
    ranker: Ranker
    dtype: np.dtype[Any]

    @property
    def working_bytes(self) -> int:
        """Memory that reading takes beside what is read."""
        return self.rows.working_bytes + self.ranker.nbytes

    def read_rows(self, first: int, last: int) -> NDArray[Any]:
        """Ranks of the pairs of rows first..last."""
        return self.ranker.ranks(self.rows.read_rows(first, last).astype(np.float32, copy=False))


@dataclass(frozen=True, slots=True)
class HeldRows:
    """All ranks of an RDM that is small enough: they take less than the tables to look them up."""

    rows: Rows
    ranks: NDArray[Any]

    @classmethod
    def of(cls, ranked: RankedRows) -> HeldRows:
        """Look all of them up."""
        rows = ranked.rows
        parts = panels(rows.n_stimuli, [rows.step])
        ranks = np.concatenate([ranked.read_rows(first, last) for first, last in parts])
        return cls(rows, ranks)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the ranks."""
        return self.ranks.dtype

    @property
    def working_bytes(self) -> int:
        """Memory that they take, and what they were made of."""
        return self.rows.working_bytes + self.ranks.nbytes

    def read_rows(self, first: int, last: int) -> NDArray[Any]:
        """Ranks of the pairs of rows first..last."""
        n = self.rows.n_stimuli
        return self.ranks[row_start(first, n) : row_start(last, n)]


def panels(n: int, steps: Sequence[int], pairs: int = PANEL) -> list[tuple[int, int]]:
    """Rows first..last of panels of at least so many pairs that start at multiples of `steps`."""
    step = min(n, lcm(*steps))
    edges = [0]
    for last in [*range(step, n, step), n]:
        if last == n or n_pairs(n - edges[-1]) - n_pairs(n - last) >= pairs:
            edges.append(last)
    return list(pairwise(edges))


def panel_bytes(n: int, rows: Sequence[Rows], pairs: int = PANEL) -> int:
    """Most bytes of one RDM's values while a panel is used and the next one read."""
    most = pairs + n * min(n, lcm(*[r.step for r in rows]))
    return 2 * most * max(r.dtype.itemsize for r in rows)


def ahead(
    source: Source, parts: Sequence[tuple[int, int]], rdm: Rows
) -> Generator[tuple[int, int, NDArray[Any]]]:
    """Yield first, last and the values of every panel, while the next is being read from `rdm`.

    What is computed is computed by the calling thread: its products use all processors as it is.
    """
    if isinstance(rdm, LazyRDM):
        for first, last in parts:
            yield first, last, source.read_rows(first, last)
        return
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(source.read_rows, *parts[0])
        for (first, last), following in zip(parts, [*parts[1:], None], strict=True):
            values = coming.result()
            if following is not None:
                coming = pool.submit(source.read_rows, *following)
            yield first, last, values
