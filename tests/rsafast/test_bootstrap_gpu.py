"""Bootstraps on a GPU equal those on the CPU: CUDA kernels on the CPU, CuPy on NumPy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rsafast_kernels import device as placement
from scipy.spatial.distance import pdist

import rsafast as rf
from rsafast.cli import main
from rsafast.comparators import get_comparator
from rsafast.errors import BackendUnavailableError, InvalidInputError, RsafastError
from rsafast.inference.bootstrap import resampled
from rsafast.inference.bootstrap.api import bootstrap_of
from rsafast.inference.bootstrap.draws import SEEDS, STIMULI, SUBJECTS, draw_counts
from rsafast.inference.bootstrap.replicates import given_draws, prepare_study
from rsafast.inference.bootstrap.resampled import ResampledComparison

STUDY = {
    "rules": ["a", "a", "b", "b"], "regions": ["V1", "V1", "IT", "IT"], "subjects": [0, 1, 0, 1],
}  # fmt: skip
N, DRAWS = 10, 12
# Similarities of values are sums of some hundred terms that may cancel.
TOLERANCE = 1e-10


@pytest.fixture
def study(rng: np.random.Generator) -> tuple[rf.RDMs, rf.RDMs]:
    points = rng.standard_normal((N, 4))
    models, brain = (
        np.stack([pdist(points + noise * rng.standard_normal((N, 4))) for _ in range(4)])
        for noise in (1.0, 1.5)
    )
    models[1] = np.round(models[1])
    return rf.RDMs(models), rf.RDMs(brain)


@pytest.fixture(autouse=True)
def forget_what_was_said() -> None:
    placement._warn_once.cache_clear()


def numbers(result: Any) -> dict[str, NDArray[Any]]:
    names = ("replicates", "standard_error", "ci", "p_zero", "p_pairwise", "raw_variance",
             "ceiling_replicates", "p_ceiling")  # fmt: skip
    values = {name: getattr(result, name) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def assert_same(got: Any, wanted: Any) -> None:
    for name, value in numbers(wanted).items():
        np.testing.assert_allclose(
            getattr(got, name), value, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name
        )


def both(
    rdms: tuple[rf.RDMs, rf.RDMs], factors: str = "stimuli", ceiling: bool = False, **options: Any
) -> tuple[Any, Any]:
    """Bootstraps of a dozen draws on a GPU and on the CPU."""
    results = []
    for device in ("cuda", "cpu"):
        study = prepare_study(*rdms, **STUDY, **options, device=device)
        n, people = study.n_stimuli, len(study.layout.subjects)
        seeds = [draw_counts(0, SEEDS, int(k), 0, DRAWS) for k in study.layout.n_seeds]
        draws = given_draws(
            study,
            stimuli=draw_counts(0, STIMULI, n, 0, DRAWS) if "stimuli" in factors else None,
            subjects=draw_counts(0, SUBJECTS, people, 0, DRAWS) if "subjects" in factors else None,
            seeds=seeds if "seeds" in factors else None,
        )
        results.append(bootstrap_of(study, draws, ceiling=ceiling))
    return results[0], results[1]


@pytest.mark.parametrize("resample", ["stimuli", "stimuli,subjects,seeds"])
@pytest.mark.parametrize("method", ["spearman", "pearson", "rho-a", "cosine"])
def test_replicates_are_those_of_the_cpu(
    simulated_gpu: Any, study: tuple[rf.RDMs, rf.RDMs], method: str, resample: str
) -> None:
    there, here = both(study, resample, method=method)
    assert (there.parameters["device"], here.parameters["device"]) == ("cuda", "cpu")
    assert_same(there, here)
    if method == "spearman":
        assert np.array_equal(there.replicates, here.replicates)


def test_sums_that_cancel_are_made_from_the_pairs_of_the_resample(
    simulated_gpu: Any, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One value far from all others: without it, what is left is a rounding error of sums."""
    a, b = rng.random((2, 45)), rng.random((1, 45))
    a[0, 0] = 1e7
    sides = rf.RDMs(a), rf.RDMs(b)
    weights = draw_counts(0, STIMULI, N, 0, DRAWS)
    alone = (weights[:, :2] == 0).any(axis=1)
    assert 0 < alone.sum() < DRAWS
    there, here = (
        ResampledComparison(get_comparator("pearson"), *sides, device=place).scores(weights)
        for place in ("cuda", "cpu")
    )
    np.testing.assert_allclose(there, here, rtol=0, atol=TOLERANCE)
    monkeypatch.setattr(resampled, "_SHARE", 0.0)
    unsure = ResampledComparison(get_comparator("pearson"), *sides, device="cuda").scores(weights)
    assert np.abs(unsure - here)[alone].max() > TOLERANCE, "nothing cancels"


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_groups_of_brain_rdms(
    simulated_gpu: Any, study: tuple[rf.RDMs, rf.RDMs], method: str
) -> None:
    weights, groups = draw_counts(0, STIMULI, N, 0, DRAWS), np.array([0, 0, 1, 1])
    there, here = (
        ResampledComparison(
            get_comparator(method), *study, groups=groups, device=place
        ).scores(weights)
        for place in ("cuda", "cpu")
    )
    assert there.shape == (DRAWS, 4, 2)
    np.testing.assert_allclose(there, here, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_pairs_outside_a_mask_do_not_count(
    simulated_gpu: Any, study: tuple[rf.RDMs, rf.RDMs], method: str, rng: np.random.Generator
) -> None:
    there, here = both(study, method=method, mask=rng.random(45) < 0.8)
    assert_same(there, here)


@pytest.mark.parametrize("method", ["pearson", "cosine"])
def test_noise_ceilings_are_those_of_the_cpu(
    simulated_gpu: Any, study: tuple[rf.RDMs, rf.RDMs], method: str
) -> None:
    there, here = both(study, ceiling=True, method=method)
    assert_same(there, here)


def test_the_whole_of_a_bootstrap_and_resamples_of_few_stimuli(
    simulated_gpu: Any, rng: np.random.Generator
) -> None:
    """Of 4 stimuli one draw in seven holds fewer than 3: excluded, on either side."""
    rdms = [rf.RDMs(rng.random((k, 6))) for k in (1, 1)]
    there, here = (
        rf.bootstrap(*rdms, n_resamples=100, progress=False, device=d) for d in ("cuda", "cpu")
    )
    assert there.n_excluded == here.n_excluded > 0
    assert_same(there, here)


def test_a_budget_is_kept_and_changes_nothing(
    simulated_gpu: Any, study: tuple[rf.RDMs, rf.RDMs]
) -> None:
    models, brain = study
    given = {"n_resamples": 100, "progress": False, "device": "cuda"}
    whole = rf.bootstrap(models[:1], brain[:1], **given)
    simulated_gpu.largest = 0
    cut = rf.bootstrap(models[:1], brain[:1], **given, memory_budget="500kB")
    assert 50e3 < simulated_gpu.largest < 500e3
    assert np.array_equal(cut.replicates, whole.replicates)
    with pytest.raises(InvalidInputError, match="raise memory_budget"):
        rf.bootstrap(models[:1], brain[:1], **given, memory_budget="30kB")


@pytest.mark.parametrize("method", ["spearman", "pearson"])
def test_rdms_for_which_there_is_no_room(
    simulated_gpu: Any, study: tuple[rf.RDMs, rf.RDMs], method: str
) -> None:
    simulated_gpu.limit = 100
    with pytest.raises(RsafastError, match=r"no room for the RDMs .* or use device='cpu'"):
        rf.bootstrap(*study, method=method, device="cuda")


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"method": "corr_cov"}, "the bootstrap of corr_cov"),
        ({"method": "tau-a"}, "the bootstrap of tau-a"),
        ({"ceiling": True}, "the noise ceiling of spearman on resamples"),
    ],
)
def test_what_has_no_kernel_is_said_or_raised(
    simulated_gpu: Any, study: tuple[rf.RDMs, rf.RDMs], options: dict[str, Any], what: str
) -> None:
    models, brain = study
    given = {"resample": "subjects", "n_resamples": 100, "progress": False} | options
    with pytest.raises(BackendUnavailableError, match=f"{what} has no GPU kernel"):
        rf.bootstrap(models, brain, **given, device="cuda")
    with pytest.warns(UserWarning, match=f"{what} has no GPU kernel and runs on the CPU"):
        got = rf.bootstrap(models, brain, **given)
    assert_same(got, rf.bootstrap(models, brain, **given, device="cpu"))


def test_without_a_gpu(study: tuple[rf.RDMs, rf.RDMs]) -> None:
    with pytest.raises(BackendUnavailableError, match="device='cuda' cannot run here"):
        rf.bootstrap(*study, device="cuda")
    with pytest.raises(InvalidInputError, match="device must be one of auto, cpu, cuda"):
        rf.bootstrap(*study, device="tpu")


def test_the_command_line_takes_a_device(
    simulated_gpu: Any, study: tuple[rf.RDMs, rf.RDMs], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    files = [str(tmp_path / name) for name in ("models.npy", "brain.npy")]
    for file, rdms in zip(files, study, strict=True):
        np.save(file, rdms.vectors[:1])
    options = ["-n", "100", "--quiet", "--json"]
    found = []
    for place in ("cuda", "cpu"):
        assert main(["bootstrap", *files, *options, "--device", place]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert [one["parameters"]["device"] for one in found] == ["cuda", "cpu"]
    assert found[0]["estimates"] == found[1]["estimates"]
    assert main(["bootstrap", *files, "--stream", "--device", "cuda"]) == 2
    assert "--device cuda" in capsys.readouterr().err
