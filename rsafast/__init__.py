"""Representational similarity analysis with millions of permutations.

Compare representational dissimilarity matrices (RDMs) of models with those of brains, and test the
comparison by relabelling stimuli: see `compute_rdms`, `compare` and `permutation_test`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rsafast import datasets as datasets
    from rsafast.comparison import compare
    from rsafast.features import compute_rdms
    from rsafast.inference.bootstrap.api import bootstrap
    from rsafast.inference.bootstrap.result import BootstrapResult
    from rsafast.inference.ceilings.api import NoiseCeiling, noise_ceiling
    from rsafast.inference.decomposition.partition import VariancePartition, variance_partition
    from rsafast.inference.decomposition.regression import RDMRegression, rdm_regression
    from rsafast.inference.exact.api import sign_flip_test, swap_test, trend_test
    from rsafast.inference.exact.corrections import adjust_p
    from rsafast.inference.exact.effects import EffectSize, cohens_d
    from rsafast.inference.exact.result import ExactTestResult
    from rsafast.inference.ladder.api import compare_rules
    from rsafast.inference.ladder.result import RuleComparison
    from rsafast.inference.models.api import (
        FixedModel,
        InterpolatedModel,
        SelectModel,
        WeightedModel,
    )
    from rsafast.inference.models.bootstrap_cv import (
        BootstrapCrossValidationResult,
        bootstrap_cross_validate,
    )
    from rsafast.inference.models.crossvalidation import CrossValidationResult, cross_validate
    from rsafast.inference.searchlight.api import searchlight
    from rsafast.inference.searchlight.result import SearchlightResult
    from rsafast.inference.structure.design import (
        AveragedRepeats,
        DemeanedRDMs,
        RunMask,
        average_repeats,
        demean_blocks,
        run_mask,
    )
    from rsafast.inference.structure.noise import NoisePrecision, noise_precision
    from rsafast.inference.structure.subject_scores import SubjectScores, subject_scores
    from rsafast.inference.time.clusters import (
        Cluster,
        ClusterResult,
        cluster_test,
        group_cluster_test,
    )
    from rsafast.inference.time.movies import TimeCourses, rdm_movie, time_courses
    from rsafast.inference.trajectory.api import trajectory
    from rsafast.inference.trajectory.best_layer import BestLayer, best_layer
    from rsafast.inference.trajectory.result import Trajectory
    from rsafast.inference.trajectory.simultaneous import Estimates
    from rsafast.io.readers import read_features, read_rdms
    from rsafast.ondisk.bootstrap import bootstrap_files
    from rsafast.ondisk.ceiling import noise_ceiling_files
    from rsafast.ondisk.compute import compute_rdm_file
    from rsafast.ondisk.plan import StreamPlan
    from rsafast.ondisk.ranks import rank_rdm_file
    from rsafast.ondisk.rdm import StoredRDM, open_rdm
    from rsafast.ondisk.rows import LazyRDM, lazy_rdm
    from rsafast.ondisk.score import compare_files
    from rsafast.ondisk.test import permutation_test_files, plan_permutation_test_files
    from rsafast.permutation.api import permutation_test
    from rsafast.permutation.result import PermutationResult
    from rsafast.rdms import RDMs

# Imported on first use, so that `rsafast --help` need not wait for SciPy.
_HOME = {
    "AveragedRepeats": "rsafast.inference.structure.design",
    "BestLayer": "rsafast.inference.trajectory.best_layer",
    "BootstrapCrossValidationResult": "rsafast.inference.models.bootstrap_cv",
    "BootstrapResult": "rsafast.inference.bootstrap.result",
    "Cluster": "rsafast.inference.time.clusters",
    "ClusterResult": "rsafast.inference.time.clusters",
    "CrossValidationResult": "rsafast.inference.models.crossvalidation",
    "DemeanedRDMs": "rsafast.inference.structure.design",
    "EffectSize": "rsafast.inference.exact.effects",
    "Estimates": "rsafast.inference.trajectory.simultaneous",
    "ExactTestResult": "rsafast.inference.exact.result",
    "FixedModel": "rsafast.inference.models.api",
    "InterpolatedModel": "rsafast.inference.models.api",
    "LazyRDM": "rsafast.ondisk.rows",
    "NoiseCeiling": "rsafast.inference.ceilings.api",
    "NoisePrecision": "rsafast.inference.structure.noise",
    "PermutationResult": "rsafast.permutation.result",
    "RDMRegression": "rsafast.inference.decomposition.regression",
    "RDMs": "rsafast.rdms",
    "RuleComparison": "rsafast.inference.ladder.result",
    "RunMask": "rsafast.inference.structure.design",
    "SearchlightResult": "rsafast.inference.searchlight.result",
    "SelectModel": "rsafast.inference.models.api",
    "StoredRDM": "rsafast.ondisk.rdm",
    "StreamPlan": "rsafast.ondisk.plan",
    "SubjectScores": "rsafast.inference.structure.subject_scores",
    "TimeCourses": "rsafast.inference.time.movies",
    "Trajectory": "rsafast.inference.trajectory.result",
    "VariancePartition": "rsafast.inference.decomposition.partition",
    "WeightedModel": "rsafast.inference.models.api",
    "adjust_p": "rsafast.inference.exact.corrections",
    "average_repeats": "rsafast.inference.structure.design",
    "best_layer": "rsafast.inference.trajectory.best_layer",
    "bootstrap": "rsafast.inference.bootstrap.api",
    "bootstrap_files": "rsafast.ondisk.bootstrap",
    "bootstrap_cross_validate": "rsafast.inference.models.bootstrap_cv",
    "cluster_test": "rsafast.inference.time.clusters",
    "cohens_d": "rsafast.inference.exact.effects",
    "compare": "rsafast.comparison",
    "compare_files": "rsafast.ondisk.score",
    "compare_rules": "rsafast.inference.ladder.api",
    "compute_rdm_file": "rsafast.ondisk.compute",
    "compute_rdms": "rsafast.features",
    "cross_validate": "rsafast.inference.models.crossvalidation",
    "demean_blocks": "rsafast.inference.structure.design",
    "group_cluster_test": "rsafast.inference.time.clusters",
    "lazy_rdm": "rsafast.ondisk.rows",
    "noise_ceiling": "rsafast.inference.ceilings.api",
    "noise_ceiling_files": "rsafast.ondisk.ceiling",
    "noise_precision": "rsafast.inference.structure.noise",
    "open_rdm": "rsafast.ondisk.rdm",
    "permutation_test": "rsafast.permutation.api",
    "permutation_test_files": "rsafast.ondisk.test",
    "plan_permutation_test_files": "rsafast.ondisk.test",
    "rank_rdm_file": "rsafast.ondisk.ranks",
    "rdm_movie": "rsafast.inference.time.movies",
    "rdm_regression": "rsafast.inference.decomposition.regression",
    "read_features": "rsafast.io.readers",
    "read_rdms": "rsafast.io.readers",
    "run_mask": "rsafast.inference.structure.design",
    "searchlight": "rsafast.inference.searchlight.api",
    "sign_flip_test": "rsafast.inference.exact.api",
    "subject_scores": "rsafast.inference.structure.subject_scores",
    "swap_test": "rsafast.inference.exact.api",
    "time_courses": "rsafast.inference.time.movies",
    "trajectory": "rsafast.inference.trajectory.api",
    "trend_test": "rsafast.inference.exact.api",
    "variance_partition": "rsafast.inference.decomposition.partition",
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
    "LazyRDM",
    "NoiseCeiling",
    "NoisePrecision",
    "PermutationResult",
    "RDMRegression",
    "RDMs",
    "RuleComparison",
    "RunMask",
    "SearchlightResult",
    "SelectModel",
    "StoredRDM",
    "StreamPlan",
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
    "bootstrap_files",
    "cluster_test",
    "cohens_d",
    "compare",
    "compare_files",
    "compare_rules",
    "compute_rdm_file",
    "compute_rdms",
    "cross_validate",
    "demean_blocks",
    "group_cluster_test",
    "lazy_rdm",
    "noise_ceiling",
    "noise_ceiling_files",
    "noise_precision",
    "open_rdm",
    "permutation_test",
    "permutation_test_files",
    "plan_permutation_test_files",
    "rank_rdm_file",
    "rdm_movie",
    "rdm_regression",
    "read_features",
    "read_rdms",
    "run_mask",
    "searchlight",
    "sign_flip_test",
    "subject_scores",
    "swap_test",
    "time_courses",
    "trajectory",
    "trend_test",
    "variance_partition",
]


def __getattr__(name: str) -> Any:
    if name == "datasets":
        return import_module("rsafast.datasets")
    if name not in _HOME:
        raise AttributeError(f"module 'rsafast' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "datasets"]
