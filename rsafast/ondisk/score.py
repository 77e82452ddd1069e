"""Similarity of RDMs that are read in rows."""

from __future__ import annotations

from collections.abc import Sequence

from rsafast.comparators import FloatArray
from rsafast.memory import parse_bytes
from rsafast.ondisk.survey import Large, Method, opened, surveyed


def compare_files(
    models: Large | Sequence[Large],
    brain: Large | Sequence[Large],
    method: Method = "spearman",
    *,
    memory_budget: int | str | None = None,
    progress: bool = True,
) -> FloatArray:
    """Compare RDMs that stay on disk: what :func:`rsafast.compare` gives, within a memory budget.

    Parameters
    ----------
    models, brain : RDM files, opened or not, or :func:`rsafast.lazy_rdm`, M and N of them
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
    budget = parse_bytes(memory_budget)
    left, right = opened(models, brain, method, budget)
    found, _ = surveyed([*left, *right], method, "float32", budget, progress)
    return found.similarity[: len(left), len(left) :]
