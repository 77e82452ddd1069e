"""Representational similarity analysis with millions of permutations.

Compare representational dissimilarity matrices (RDMs) of models with those of brains, and test the
comparison by relabelling stimuli: see `compute_rdms`, `compare` and `permutation_test`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsafast.comparison import compare
    from rsafast.features import compute_rdms
    from rsafast.inference.best_layer import BestLayer, best_layer
    from rsafast.inference.simultaneous import Estimates
    from rsafast.inference.trajectory import trajectory
    from rsafast.inference.trajectory_result import Trajectory
    from rsafast.io.readers import read_features, read_rdms
    from rsafast.permutation.api import permutation_test
    from rsafast.permutation.result import PermutationResult
    from rsafast.rdms import RDMs

# Imported on first use, so that `rsafast --help` need not wait for SciPy.
_HOME = {
    "BestLayer": "rsafast.inference.best_layer",
    "Estimates": "rsafast.inference.simultaneous",
    "PermutationResult": "rsafast.permutation.result",
    "RDMs": "rsafast.rdms",
    "Trajectory": "rsafast.inference.trajectory_result",
    "best_layer": "rsafast.inference.best_layer",
    "compare": "rsafast.comparison",
    "compute_rdms": "rsafast.features",
    "permutation_test": "rsafast.permutation.api",
    "read_features": "rsafast.io.readers",
    "read_rdms": "rsafast.io.readers",
    "trajectory": "rsafast.inference.trajectory",
}

__all__ = [
    "BestLayer",
    "Estimates",
    "PermutationResult",
    "RDMs",
    "Trajectory",
    "best_layer",
    "compare",
    "compute_rdms",
    "permutation_test",
    "read_features",
    "read_rdms",
    "trajectory",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rsafast' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
