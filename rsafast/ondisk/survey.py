"""One pass over RDMs that are read in rows: what they are like, and how alike they are."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.atomic import PathInput

from rsafast._condensed import n_pairs, row_start
from rsafast.comparators import FloatArray
from rsafast.errors import InvalidInputError
from rsafast.memory import format_bytes
from rsafast.ondisk.ranks import Ranks, counted
from rsafast.ondisk.rdm import StoredRDM, open_rdms
from rsafast.ondisk.rows import (
    HeldRows,
    LazyRDM,
    RankedRows,
    Rows,
    Source,
    ahead,
    panel_bytes,
    panels,
)
from rsafast.progress import Advance, track

Method = Literal["spearman", "pearson", "cosine"]
Large: TypeAlias = "PathInput | StoredRDM | LazyRDM"
_PANEL = 2**21  # pairs at a time: 16 MB as float64


@dataclass(frozen=True, slots=True)
class Values:
    """The values of an RDM that are compared, its ranks for Spearman, read in rows.

    Attributes
    ----------
    rows : the RDM that they are made of.
    source : reads them; `rows`, or its ranks.
    """

    rows: Rows
    source: Rows | RankedRows | HeldRows

    @property
    def dtype(self) -> np.dtype[Any]:
        """What they are held in: float32, float64 or uint16."""
        return _held(self.source.dtype)

    def read_rows(self, first: int, last: int) -> NDArray[Any]:
        """Values of the rows first..last with all stimuli after them."""
        return self.source.read_rows(first, last).astype(self.dtype, copy=False)


@dataclass(frozen=True, slots=True)
class Survey:
    """Of K RDMs.

    Attributes
    ----------
    centre : (K,) mean of the values; 0 for cosine, which is not centred.
    norm : (K,) length of all values less `centre`.
    row_sums : (K, n) sums over every stimulus' pairs of ``(value - centre) / norm``.
    similarity : (K, K) of each with each.
    """

    centre: FloatArray
    norm: FloatArray
    row_sums: FloatArray
    similarity: FloatArray


def opened(
    models: Large | Sequence[Large], brain: Large | Sequence[Large], method: str, budget: int
) -> tuple[list[Rows], list[Rows]]:
    """Models and brain RDMs that a caller named, opened: of a file all that it holds.

    Raises
    ------
    InvalidInputError
        For none, for files that are missing or of another kind, for other stimuli or another order
        of them, for a comparator that takes whole RDMs, and for a budget too small to read them.
    """
    check_method(method)
    left, right = opened_all(models, "models"), opened_all(brain, "brain")
    rdms = [*left, *right]
    check_same_stimuli(rdms)
    fits(survey_bytes(rdms), budget, f"a pass over {len(rdms)} RDMs")
    return left, right


def check_method(method: str) -> None:
    """Raise for a comparator that takes whole RDMs."""
    if method not in get_args(Method):
        raise InvalidInputError(
            f"method is {method!r}; RDMs that are read in rows are compared by"
            f" {', '.join(get_args(Method))}"
        )


def surveyed(
    rdms: Sequence[Rows], method: str, ranks: Ranks, budget: int, progress: bool
) -> tuple[Survey, list[Values]]:
    """What RDMs are like, and what of them is compared, within a budget of bytes."""
    total = passes(rdms, method) * n_pairs(rdms[0].n_stimuli)
    with track(total, f"{method} of RDMs in rows", progress) as advance:
        values = _compared(rdms, method, ranks, budget - survey_bytes(rdms), advance)
        return survey(values, method, advance), values


def opened_all(files: Large | Sequence[Large], what: str) -> list[Rows]:
    """RDMs that the argument `what` names, opened: of a file all that it holds."""
    alone = not isinstance(files, list | tuple)
    listed = cast("Sequence[Large]", [files] if alone else files)
    found: list[Rows] = []
    for file in listed:
        found += [file] if isinstance(file, StoredRDM | LazyRDM) else open_rdms(file)
    if not found:
        raise InvalidInputError(f"{what} must name one RDM at least")
    return found


def check_same_stimuli(rdms: Sequence[Rows]) -> None:
    """Raise unless all are over the same stimuli in the same order, as far as labels tell."""
    first = rdms[0]
    for rdm in rdms[1:]:
        if rdm.n_stimuli != first.n_stimuli:
            raise InvalidInputError(
                f"{rdm.where} has {rdm.n_stimuli} stimuli and {first.where} has {first.n_stimuli}"
            )
        if None not in (rdm.labels, first.labels) and rdm.labels != first.labels:
            raise InvalidInputError(
                f"{rdm.where} and {first.where} list other stimuli, or the same in another order;"
                " compute them over features in one order"
            )


def passes(rdms: Sequence[Rows], method: str) -> int:
    """How many RDMs `surveyed` reads in all."""
    return len(rdms) + 2 * sum(_is_to_rank(rdm, method) for rdm in rdms)


def _compared(
    rdms: Sequence[Rows], method: str, ranks: Ranks, budget: int, advance: Advance
) -> list[Values]:
    """What is compared of every RDM: for Spearman ranks, counted here unless they are stored.

    Raises
    ------
    InvalidInputError
        For values that cannot be ranked, and where their counters take more than `budget` bytes.
    """
    found = []
    for rdm in rdms:
        source: Rows | RankedRows | HeldRows = rdm
        if _is_to_rank(rdm, method):
            source = RankedRows(rdm, counted(rdm, ranks, budget, advance), np.dtype(ranks))
            if n_pairs(rdm.n_stimuli) * source.dtype.itemsize < source.ranker.nbytes:
                source = HeldRows.of(source)
            budget -= source.working_bytes
        found.append(Values(rdm, source))
    return found


def values_dtype(rdm: Rows, method: str, ranks: Ranks) -> np.dtype[Any]:
    """Type of the values that `surveyed` will read of an RDM."""
    return np.dtype(ranks) if _is_to_rank(rdm, method) else _held(rdm.dtype)


def survey(values: Sequence[Values], method: str, advance: Advance) -> Survey:
    """Read all RDMs once.

    Raises
    ------
    InvalidInputError
        For an RDM without spread, and for values that are not finite.
    """
    n, k = values[0].rows.n_stimuli, len(values)
    parts = panels(n, [v.rows.step for v in values], _PANEL)
    # Sums are taken about a value near the mean, which they are corrected for at the end.
    shift = np.zeros((k, 1))
    totals, gram, row_sums = np.zeros(k), np.zeros((k, k)), np.zeros((k, n))
    for first, last, listed in together(values, parts, [v.rows for v in values]):
        panel = np.array(listed, dtype=np.float64)
        del listed  # before the next ones are read
        if first == 0 and method != "cosine":
            shift = panel.mean(axis=1, keepdims=True)
        panel -= shift
        totals += panel.sum(axis=1)
        gram += np.einsum("ap,bp->ab", panel, panel)  # BLAS rounds by its threads
        _add_row_sums(row_sums, panel, first, last)
        advance(panel.size)
    if not np.isfinite(gram).all():
        bad = int(np.argmin(np.isfinite(np.diag(gram))))
        raise InvalidInputError(f"{values[bad].rows.where}: holds values that are not finite")
    return _finished(values, method, shift[:, 0], totals, gram, row_sums)


def together(
    sources: Sequence[Source], parts: Sequence[tuple[int, int]], rdms: Sequence[Rows]
) -> Generator[tuple[int, int, list[NDArray[Any]]]]:
    """Yield first, last and the panels of all sources, as :func:`ahead` yields those of one."""
    with ExitStack() as stack:
        readers = [ahead(s, parts, rdm) for s, rdm in zip(sources, rdms, strict=True)]
        for reader in readers:
            stack.callback(reader.close)
        for first, last in parts:
            yield first, last, [next(reader)[2] for reader in readers]


def survey_bytes(rdms: Sequence[Rows]) -> int:
    """Most bytes that `survey` takes."""
    n, k = rdms[0].n_stimuli, len(rdms)
    return k * (3 * panel_bytes(n, rdms, _PANEL) // 2 + 8 * _PANEL + 24 * n)


def fits(needed: int, budget: int, what: str) -> None:
    """Raise where a budget of bytes is too small."""
    if needed > budget:
        raise InvalidInputError(
            f"memory_budget of {format_bytes(budget)} is too small: {what} needs"
            f" {format_bytes(needed)}; raise it"
        )


def is_ranked(rdm: Rows) -> bool:
    """Whether its values are ranks already."""
    return (rdm.measure or "").endswith("ranked")


def _held(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float32) if dtype == np.float16 else dtype


def _is_to_rank(rdm: Rows, method: str) -> bool:
    return method == "spearman" and not is_ranked(rdm)


def _add_row_sums(sums: FloatArray, panel: FloatArray, first: int, last: int) -> None:
    n = sums.shape[1]
    begin = row_start(first, n)
    for row in range(first, min(last, n - 1)):
        pairs = panel[:, row_start(row, n) - begin : row_start(row + 1, n) - begin]
        sums[:, row] += pairs.sum(axis=1)
        sums[:, row + 1 :] += pairs


def _finished(
    values: Sequence[Values],
    method: str,
    shift: FloatArray,
    totals: FloatArray,
    gram: FloatArray,
    row_sums: FloatArray,
) -> Survey:
    n = row_sums.shape[1]
    pairs = n_pairs(n)
    mean = np.zeros(len(values)) if method == "cosine" else totals / pairs
    products = gram - pairs * np.outer(mean, mean)
    norm = np.sqrt(np.diag(products))
    rounding = 0.0 if method == "cosine" else 1e-12 * np.sqrt(pairs)
    least = rounding * np.abs(shift)
    flat = np.flatnonzero(~(norm > least))
    if flat.size:
        raise InvalidInputError(
            f"{values[int(flat[0])].rows.where}: has no spread, and is similar to nothing"
        )
    return Survey(
        centre=shift + mean,
        norm=norm,
        row_sums=(row_sums - (n - 1) * mean[:, None]) / norm[:, None],
        similarity=products / np.outer(norm, norm),
    )
