"""Representational similarity analysis with millions of permutations.

Compare representational dissimilarity matrices (RDMs) of models with those of brains, and test the
comparison by relabelling stimuli: see `compute_rdms`, `compare` and `permutation_test`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsafast.comparison import compare
    from rsafast.features import compute_rdms
    from rsafast.inference.bootstrap import bootstrap
    from rsafast.inference.bootstrap_result import BootstrapResult
    from rsafast.inference.ceilings import NoiseCeiling, noise_ceiling
    from rsafast.inference.crossvalidation import CrossValidationResult, cross_validate
    from rsafast.inference.models import FixedModel, InterpolatedModel, SelectModel, WeightedModel
    from rsafast.inference.partition import VariancePartition, variance_partition
    from rsafast.inference.regression import RDMRegression, rdm_regression
    from rsafast.io.readers import read_features, read_rdms
    from rsafast.permutation.api import permutation_test
    from rsafast.permutation.result import PermutationResult
    from rsafast.rdms import RDMs

# Imported on first use, so that `rsafast --help` need not wait for SciPy.
_HOME = {
    "BootstrapResult": "rsafast.inference.bootstrap_result",
    "CrossValidationResult": "rsafast.inference.crossvalidation",
    "FixedModel": "rsafast.inference.models",
    "InterpolatedModel": "rsafast.inference.models",
    "NoiseCeiling": "rsafast.inference.ceilings",
    "PermutationResult": "rsafast.permutation.result",
    "RDMRegression": "rsafast.inference.regression",
    "RDMs": "rsafast.rdms",
    "SelectModel": "rsafast.inference.models",
    "VariancePartition": "rsafast.inference.partition",
    "WeightedModel": "rsafast.inference.models",
    "bootstrap": "rsafast.inference.bootstrap",
    "compare": "rsafast.comparison",
    "compute_rdms": "rsafast.features",
    "cross_validate": "rsafast.inference.crossvalidation",
    "noise_ceiling": "rsafast.inference.ceilings",
    "permutation_test": "rsafast.permutation.api",
    "rdm_regression": "rsafast.inference.regression",
    "read_features": "rsafast.io.readers",
    "read_rdms": "rsafast.io.readers",
    "variance_partition": "rsafast.inference.partition",
}

__all__ = [
    "BootstrapResult",
    "CrossValidationResult",
    "FixedModel",
    "InterpolatedModel",
    "NoiseCeiling",
    "PermutationResult",
    "RDMRegression",
    "RDMs",
    "SelectModel",
    "VariancePartition",
    "WeightedModel",
    "bootstrap",
    "compare",
    "compute_rdms",
    "cross_validate",
    "noise_ceiling",
    "permutation_test",
    "rdm_regression",
    "read_features",
    "read_rdms",
    "variance_partition",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rsafast' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
