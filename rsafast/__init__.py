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
    from rsafast.inference.bootstrap import bootstrap
    from rsafast.inference.bootstrap_cv import (
        BootstrapCrossValidationResult,
        bootstrap_cross_validate,
    )
    from rsafast.inference.bootstrap_result import BootstrapResult
    from rsafast.inference.ceilings import NoiseCeiling, noise_ceiling
    from rsafast.inference.clusters import Cluster, ClusterResult, cluster_test, group_cluster_test
    from rsafast.inference.corrections import adjust_p
    from rsafast.inference.crossvalidation import CrossValidationResult, cross_validate
    from rsafast.inference.design import (
        AveragedRepeats,
        DemeanedRDMs,
        RunMask,
        average_repeats,
        demean_blocks,
        run_mask,
    )
    from rsafast.inference.effects import EffectSize, cohens_d
    from rsafast.inference.exact import sign_flip_test, swap_test, trend_test
    from rsafast.inference.exact_result import ExactTestResult
    from rsafast.inference.ladder import compare_rules
    from rsafast.inference.ladder_result import RuleComparison
    from rsafast.inference.models import FixedModel, InterpolatedModel, SelectModel, WeightedModel
    from rsafast.inference.movies import TimeCourses, rdm_movie, time_courses
    from rsafast.inference.noise import NoisePrecision, noise_precision
    from rsafast.inference.partition import VariancePartition, variance_partition
    from rsafast.inference.regression import RDMRegression, rdm_regression
    from rsafast.inference.simultaneous import Estimates
    from rsafast.inference.subject_scores import SubjectScores, subject_scores
    from rsafast.inference.trajectory import trajectory
    from rsafast.inference.trajectory_result import Trajectory
    from rsafast.io.readers import read_features, read_rdms
    from rsafast.permutation.api import permutation_test
    from rsafast.permutation.result import PermutationResult
    from rsafast.rdms import RDMs

# Imported on first use, so that `rsafast --help` need not wait for SciPy.
_HOME = {
    "AveragedRepeats": "rsafast.inference.design",
    "BestLayer": "rsafast.inference.best_layer",
    "BootstrapCrossValidationResult": "rsafast.inference.bootstrap_cv",
    "BootstrapResult": "rsafast.inference.bootstrap_result",
    "Cluster": "rsafast.inference.clusters",
    "ClusterResult": "rsafast.inference.clusters",
    "CrossValidationResult": "rsafast.inference.crossvalidation",
    "DemeanedRDMs": "rsafast.inference.design",
    "EffectSize": "rsafast.inference.effects",
    "Estimates": "rsafast.inference.simultaneous",
    "ExactTestResult": "rsafast.inference.exact_result",
    "FixedModel": "rsafast.inference.models",
    "InterpolatedModel": "rsafast.inference.models",
    "NoiseCeiling": "rsafast.inference.ceilings",
    "NoisePrecision": "rsafast.inference.noise",
    "PermutationResult": "rsafast.permutation.result",
    "RDMRegression": "rsafast.inference.regression",
    "RDMs": "rsafast.rdms",
    "RuleComparison": "rsafast.inference.ladder_result",
    "RunMask": "rsafast.inference.design",
    "SelectModel": "rsafast.inference.models",
    "SubjectScores": "rsafast.inference.subject_scores",
    "TimeCourses": "rsafast.inference.movies",
    "Trajectory": "rsafast.inference.trajectory_result",
    "VariancePartition": "rsafast.inference.partition",
    "WeightedModel": "rsafast.inference.models",
    "adjust_p": "rsafast.inference.corrections",
    "average_repeats": "rsafast.inference.design",
    "best_layer": "rsafast.inference.best_layer",
    "bootstrap": "rsafast.inference.bootstrap",
    "bootstrap_cross_validate": "rsafast.inference.bootstrap_cv",
    "cluster_test": "rsafast.inference.clusters",
    "cohens_d": "rsafast.inference.effects",
    "compare": "rsafast.comparison",
    "compare_rules": "rsafast.inference.ladder",
    "compute_rdms": "rsafast.features",
    "cross_validate": "rsafast.inference.crossvalidation",
    "demean_blocks": "rsafast.inference.design",
    "group_cluster_test": "rsafast.inference.clusters",
    "noise_ceiling": "rsafast.inference.ceilings",
    "noise_precision": "rsafast.inference.noise",
    "permutation_test": "rsafast.permutation.api",
    "rdm_movie": "rsafast.inference.movies",
    "rdm_regression": "rsafast.inference.regression",
    "read_features": "rsafast.io.readers",
    "read_rdms": "rsafast.io.readers",
    "run_mask": "rsafast.inference.design",
    "sign_flip_test": "rsafast.inference.exact",
    "subject_scores": "rsafast.inference.subject_scores",
    "swap_test": "rsafast.inference.exact",
    "time_courses": "rsafast.inference.movies",
    "trajectory": "rsafast.inference.trajectory",
    "trend_test": "rsafast.inference.exact",
    "variance_partition": "rsafast.inference.partition",
}

__all__ = [
    "AveragedRepeats",
    "BestLayer",
    "BootstrapCrossValidationResult",
    "BootstrapResult",
    "Cluster",
    "ClusterResult",
    "CrossValidationResult",
    "DemeanedRDMs",
    "EffectSize",
    "Estimates",
    "ExactTestResult",
    "FixedModel",
    "InterpolatedModel",
    "NoiseCeiling",
    "NoisePrecision",
    "PermutationResult",
    "RDMRegression",
    "RDMs",
    "RuleComparison",
    "RunMask",
    "SelectModel",
    "SubjectScores",
    "TimeCourses",
    "Trajectory",
    "VariancePartition",
    "WeightedModel",
    "adjust_p",
    "average_repeats",
    "best_layer",
    "bootstrap",
    "bootstrap_cross_validate",
    "cluster_test",
    "cohens_d",
    "compare",
    "compare_rules",
    "compute_rdms",
    "cross_validate",
    "demean_blocks",
    "group_cluster_test",
    "noise_ceiling",
    "noise_precision",
    "permutation_test",
    "rdm_movie",
    "rdm_regression",
    "read_features",
    "read_rdms",
    "run_mask",
    "sign_flip_test",
    "subject_scores",
    "swap_test",
    "time_courses",
    "trajectory",
    "trend_test",
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
