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
    from rsafast.inference.corrections import adjust_p
    from rsafast.inference.effects import EffectSize, cohens_d
    from rsafast.inference.exact import sign_flip_test, swap_test, trend_test
    from rsafast.inference.exact_result import ExactTestResult
    from rsafast.io.readers import read_features, read_rdms
    from rsafast.permutation.api import permutation_test
    from rsafast.permutation.result import PermutationResult
    from rsafast.rdms import RDMs

# Imported on first use, so that `rsafast --help` need not wait for SciPy.
_HOME = {
    "BootstrapResult": "rsafast.inference.bootstrap_result",
    "EffectSize": "rsafast.inference.effects",
    "ExactTestResult": "rsafast.inference.exact_result",
    "PermutationResult": "rsafast.permutation.result",
    "RDMs": "rsafast.rdms",
    "adjust_p": "rsafast.inference.corrections",
    "bootstrap": "rsafast.inference.bootstrap",
    "cohens_d": "rsafast.inference.effects",
    "compare": "rsafast.comparison",
    "compute_rdms": "rsafast.features",
    "permutation_test": "rsafast.permutation.api",
    "read_features": "rsafast.io.readers",
    "read_rdms": "rsafast.io.readers",
    "sign_flip_test": "rsafast.inference.exact",
    "swap_test": "rsafast.inference.exact",
    "trend_test": "rsafast.inference.exact",
}

__all__ = [
    "BootstrapResult",
    "EffectSize",
    "ExactTestResult",
    "PermutationResult",
    "RDMs",
    "adjust_p",
    "bootstrap",
    "cohens_d",
    "compare",
    "compute_rdms",
    "permutation_test",
    "read_features",
    "read_rdms",
    "sign_flip_test",
    "swap_test",
    "trend_test",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'rsafast' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
