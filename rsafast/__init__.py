"""Representational similarity analysis with millions of permutations.

Compare representational dissimilarity matrices (RDMs) of models with those of brains, and test the
comparison by relabelling stimuli: see `compute_rdms`, `compare` and `permutation_test`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsafast.comparison import compare
    from rsafast.features import compute_rdms
    from rsafast.inference.design import (
        AveragedRepeats,
        DemeanedRDMs,
        RunMask,
        average_repeats,
        demean_blocks,
        run_mask,
    )
    from rsafast.inference.noise import NoisePrecision, noise_precision
    from rsafast.inference.subject_scores import SubjectScores, subject_scores
    from rsafast.io.readers import read_features, read_rdms
    from rsafast.permutation.api import permutation_test
    from rsafast.permutation.result import PermutationResult
    from rsafast.rdms import RDMs

# Imported on first use, so that `rsafast --help` need not wait for SciPy.
_HOME = {
    "AveragedRepeats": "rsafast.inference.design",
    "DemeanedRDMs": "rsafast.inference.design",
    "NoisePrecision": "rsafast.inference.noise",
    "PermutationResult": "rsafast.permutation.result",
    "RDMs": "rsafast.rdms",
    "RunMask": "rsafast.inference.design",
    "SubjectScores": "rsafast.inference.subject_scores",
    "average_repeats": "rsafast.inference.design",
    "compare": "rsafast.comparison",
    "compute_rdms": "rsafast.features",
    "demean_blocks": "rsafast.inference.design",
    "noise_precision": "rsafast.inference.noise",
    "permutation_test": "rsafast.permutation.api",
    "read_features": "rsafast.io.readers",
    "read_rdms": "rsafast.io.readers",
    "run_mask": "rsafast.inference.design",
    "subject_scores": "rsafast.inference.subject_scores",
}

__all__ = [
    "AveragedRepeats",
    "DemeanedRDMs",
    "NoisePrecision",
    "PermutationResult",
    "RDMs",
    "RunMask",
    "SubjectScores",
    "average_repeats",
    "compare",
    "compute_rdms",
    "demean_blocks",
    "noise_precision",
    "permutation_test",
    "read_features",
    "read_rdms",
    "run_mask",
    "subject_scores",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rsafast' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
