"""Representational similarity analysis with millions of permutations.

Compare representational dissimilarity matrices (RDMs) of models with those of brains, and test the
comparison by relabelling stimuli: see `compute_rdms`, `compare` and `permutation_test`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsafast.comparison import compare
    from rsafast.features import compute_rdms
    from rsafast.inference.bootstrap_cv import (
        BootstrapCrossValidationResult,
        bootstrap_cross_validate,
    )
    from rsafast.inference.crossvalidation import CrossValidationResult, cross_validate
    from rsafast.inference.models import (
        FixedModel,
        InterpolatedModel,
        SelectModel,
        WeightedModel,
    )
    from rsafast.io.readers import read_features, read_rdms
    from rsafast.permutation.api import permutation_test
    from rsafast.permutation.result import PermutationResult
    from rsafast.rdms import RDMs

# Imported on first use, so that `rsafast --help` need not wait for SciPy.
_HOME = {
    "BootstrapCrossValidationResult": "rsafast.inference.bootstrap_cv",
    "CrossValidationResult": "rsafast.inference.crossvalidation",
    "FixedModel": "rsafast.inference.models",
    "InterpolatedModel": "rsafast.inference.models",
    "PermutationResult": "rsafast.permutation.result",
    "RDMs": "rsafast.rdms",
    "SelectModel": "rsafast.inference.models",
    "WeightedModel": "rsafast.inference.models",
    "bootstrap_cross_validate": "rsafast.inference.bootstrap_cv",
    "compare": "rsafast.comparison",
    "compute_rdms": "rsafast.features",
    "cross_validate": "rsafast.inference.crossvalidation",
    "permutation_test": "rsafast.permutation.api",
    "read_features": "rsafast.io.readers",
    "read_rdms": "rsafast.io.readers",
}

__all__ = [
    "BootstrapCrossValidationResult",
    "CrossValidationResult",
    "FixedModel",
    "InterpolatedModel",
    "PermutationResult",
    "RDMs",
    "SelectModel",
    "WeightedModel",
    "bootstrap_cross_validate",
    "compare",
    "compute_rdms",
    "cross_validate",
    "permutation_test",
    "read_features",
    "read_rdms",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rsafast' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
