"""Similarity of RDMs on disk, in one pass over their files (three for Spearman)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray
from rsafast_kernels.atomic import PathInput
from rsafast_kernels.rank.counting import Ranker

from rsafast.comparators import FloatArray
from rsafast.errors import InvalidInputError
from rsafast.memory import parse_bytes
from rsafast.ondisk.ranks import counted
from rsafast.ondisk.rdm import StoredRDM, open_rdm
from rsafast.progress import Advance, track

Method = Literal["spearman", "pearson", "cosine"]
Files: TypeAlias = "PathInput | StoredRDM | Sequence[PathInput | StoredRDM]"
_BLOCK = 2**21  # values of one RDM at a time: 16 MB as float64


def compare_files(
    models: Files,
    brain: Files,
    method: Method = "spearman",
    *,
    memory_budget: int | str | None = None,
    progress: bool = True,
) -> FloatArray:
    """Compare RDMs that stay on disk: what :func:`rsafast.compare` gives, within a memory budget.

    Parameters
    ----------
    models, brain : RDM files, opened or not, M and N of them
        All over the same stimuli in the same order: files are not reordered.
    method : {"spearman", "pearson", "cosine"}
        "spearman" ranks float32 and float16 values on the fly; no file of ranks is needed.
    memory_budget : bytes or a size like "2GB", optional
        By default 2 GB, or a quarter of a small machine. Spearman takes up to 67 MB an RDM for
        every factor of 2 between its smallest and largest value.
    progress : show a bar of the values read

    Returns
    -------
    (M, N) array
        Similarities, with sums in float64.

    Raises
    ------
    InvalidInputError
        For files that are missing or of another kind, other stimuli or another order of them, an
        RDM without spread, and a budget that is too small.

    Examples
    --------
    >>> import numpy as np, rsafast as rf, tempfile
    >>> x = np.random.default_rng(0).standard_normal((2, 300, 20)).astype(np.float32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     a = rf.compute_rdm_file(x[0], f"{folder}/a.h5")
    ...     b = rf.compute_rdm_file(x[0] + x[1], f"{folder}/b.h5")
    ...     rho = rf.compare_files(a, b)[0, 0]
    >>> in_memory = rf.compare(rf.compute_rdms(x[0]), rf.compute_rdms(x[0] + x[1]))[0, 0]
    >>> bool(abs(rho - in_memory) < 1e-9)
    True
    """
    if method not in get_args(Method):
        raise InvalidInputError(
            f"method is {method!r}; files are compared by {', '.join(get_args(Method))}"
        )
    left, right = _opened(models), _opened(brain)
    rdms = [*left, *right]
    _check_same_stimuli(rdms)
    pairs, budget = len(rdms[0].values), parse_bytes(memory_budget)
    passes = {"spearman": 3, "pearson": 2, "cosine": 1}[method]
    with track(passes * pairs * len(rdms), f"{method} on disk", progress) as advance:
        each = (budget - 8 * _BLOCK * (len(rdms) + 2)) // len(rdms)
        prepared = [_prepared(rdm, method, each, advance) for rdm in rdms]
        gram = np.zeros((len(rdms), len(rdms)))
        for start in range(0, pairs, _BLOCK):
            stop = min(start + _BLOCK, pairs)
            block = np.empty((len(rdms), stop - start))
            for row, rdm, prepare in zip(block, rdms, prepared, strict=True):
                row[:] = prepare(rdm.read(start, stop))
                advance(stop - start)
            gram += block @ block.T
    norms = np.sqrt(np.diag(gram))
    flat = int(np.argmin(norms))
    if norms[flat] <= (0.0 if method == "cosine" else 1e-12 * np.sqrt(pairs)):
        raise InvalidInputError(f"{rdms[flat].path}: has no spread, and is similar to nothing")
    return (gram / norms / norms[:, None])[: len(left), len(left) :]


def _opened(files: Files) -> list[StoredRDM]:
    alone = isinstance(files, str | PathLike | StoredRDM)
    listed = cast("list[PathInput | StoredRDM]", [files] if alone else list(cast(Any, files)))
    found = [file if isinstance(file, StoredRDM) else open_rdm(file) for file in listed]
    if not found:
        raise InvalidInputError("models and brain must each name one RDM file at least")
    return found


def _check_same_stimuli(rdms: list[StoredRDM]) -> None:
    first = rdms[0]
    for rdm in rdms[1:]:
        if rdm.n_stimuli != first.n_stimuli:
            raise InvalidInputError(
                f"{rdm.path} has {rdm.n_stimuli} stimuli and {first.path} has {first.n_stimuli}"
            )
        if None not in (rdm.labels, first.labels) and rdm.labels != first.labels:
            raise InvalidInputError(
                f"{rdm.path} and {first.path} list other stimuli, or the same in another order;"
                " compute them over features in one order"
            )


def _prepared(
    rdm: StoredRDM, method: Method, budget: int, advance: Advance
) -> Callable[[NDArray[np.generic]], FloatArray]:
    """Function of a block of values: numbers about 1 whose products make the similarity."""
    size = len(rdm.values)
    if method == "spearman":
        ranker = counted(rdm, "float32", budget, advance)
        return lambda values: _centred_ranks(ranker, values, size)
    mean = 0.0
    if method == "pearson":
        for start in range(0, size, _BLOCK):
            values = rdm.read(start, min(start + _BLOCK, size))
            mean += float(values.sum(dtype=np.float64)) / size
            advance(len(values))
    return lambda values: (values.astype(np.float64) - mean) / (abs(mean) or 1.0)


def _centred_ranks(ranker: Ranker, values: NDArray[np.generic], size: int) -> FloatArray:
    ranks = ranker.ranks(values.astype(np.float32, copy=False)).astype(np.float64)
    return (ranks - (size + 1) / 2) / size
