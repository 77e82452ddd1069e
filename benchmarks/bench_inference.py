"""Bootstraps beside rsatoolbox's, and the inference of a whole study.

Every row's `per_resample` is seconds a resample of a whole call. The answers are compared on
rsatoolbox's own draws before any time is taken. Run: ``pytest benchmarks/bench_inference.py``; the
study (minutes, 8 GB) runs only with ``RSAFAST_BENCH_LARGE=1``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rsatoolbox
from rsatoolbox.inference import eval_bootstrap_pattern, eval_dual_bootstrap

import rsafast as rf
from rsafast.inference.bootstrap.api import bootstrap_of
from rsafast.inference.bootstrap.draws import counts_of
from rsafast.inference.bootstrap.replicates import given_draws, prepare_study

PEERS = {"pearson": "corr", "spearman": "spearman", "cosine_cov": "cosine_cov"}
STUDY = Path(__file__).parent / "trajectory_study.py"


def rdms(n, models, subjects):
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((n, 5))
    noisy = shared + 2.5 * rng.standard_normal((models + subjects, n, 5))
    stack = rf.compute_rdms(noisy, "euclidean")
    return stack[:models], stack[models:]


def theirs(models, brain):
    fixed = [rsatoolbox.model.ModelFixed(str(i), v) for i, v in enumerate(models.vectors)]
    return fixed, rsatoolbox.rdm.RDMs(brain.vectors.copy())


def record_draws(monkeypatch):
    """Keep what rsatoolbox draws, in order."""
    drawn, draw = [], np.random.randint

    def recorded(*arguments, **keywords):
        drawn.append(draw(*arguments, **keywords))
        return drawn[-1]

    monkeypatch.setattr(np.random, "randint", recorded)
    return drawn


def check_stimuli(models, brain, method, monkeypatch):
    """Two resamples of the stimuli: the same similarities, from rsatoolbox's draws."""
    with monkeypatch.context() as patch:
        drawn = record_draws(patch)
        expected = eval_bootstrap_pattern(
            *theirs(models, brain), method=PEERS[method], N=2, boot_noise_ceil=False
        ).evaluations
    study = prepare_study(models, brain, method=method)
    n = models.n_stimuli
    counts = counts_of(np.stack([d for d in drawn if d.shape == (n,)]), n)
    got = study.comparison.scores(counts).mean(axis=2)
    assert np.abs(got - expected).max() < 1e-8


def check_dual(models, brain, method, monkeypatch):
    """Four resamples of stimuli and subjects: the same similarities, from rsatoolbox's draws."""
    with monkeypatch.context() as patch:
        drawn = record_draws(patch)
        result = eval_dual_bootstrap(*theirs(models, brain), method=PEERS[method], N=4)
    n, subjects = models.n_stimuli, brain.n_rdms
    stimuli = counts_of(np.stack([d for d in drawn if d.shape == (n,)]), n)
    people = counts_of(np.stack([d for d in drawn if d.shape == (subjects,)]), subjects)
    study = prepare_study(models, brain, method=method)
    ours = bootstrap_of(study, given_draws(study, stimuli=stimuli, subjects=people))
    # The last axis of theirs: both factors, the subjects, the stimuli resampled.
    assert np.abs(ours.replicates[:, :, 0] - result.evaluations[:, :, 0, 0, 0]).max() < 1e-8


@pytest.mark.parametrize("side", ["rsafast", "rsatoolbox"])
def test_stimulus_bootstrap(benchmark, monkeypatch, side):
    """Spearman, 720 stimuli, 10 models, 8 subjects."""
    models, brain = rdms(720, 10, 8)
    if side == "rsafast":
        check_stimuli(models, brain, "spearman", monkeypatch)
        count = 2_000
        benchmark.pedantic(
            rf.bootstrap, (models, brain), {"n_resamples": count, "progress": False}, rounds=3,
            warmup_rounds=1,
        )  # fmt: skip
    else:
        count = 3
        benchmark.pedantic(
            eval_bootstrap_pattern, theirs(models, brain),
            {"method": "spearman", "N": count, "boot_noise_ceil": False}, rounds=1,
        )  # fmt: skip
    benchmark.extra_info |= {"per_resample": benchmark.stats.stats.median / count, "n": 720}


@pytest.mark.parametrize("side", ["rsafast", "rsatoolbox"])
@pytest.mark.parametrize("method", ["pearson", "cosine_cov"])
def test_dual_bootstrap(benchmark, monkeypatch, method, side):
    """Stimuli and subjects, with noise ceilings; 92 stimuli, 10 models, 20 subjects."""
    models, brain = rdms(92, 10, 20)
    if side == "rsafast":
        check_dual(models, brain, method, monkeypatch)
        count = 5_000
        keywords = {
            "method": method, "resample": ("stimuli", "subjects"), "n_resamples": count,
            "ceiling": True, "progress": False,
        }  # fmt: skip
        benchmark.pedantic(rf.bootstrap, (models, brain), keywords, rounds=3, warmup_rounds=1)
    else:
        count = 20 if method == "pearson" else 2
        benchmark.pedantic(
            eval_dual_bootstrap, theirs(models, brain), {"method": PEERS[method], "N": count},
            rounds=1,
        )  # fmt: skip
    benchmark.extra_info |= {"per_resample": benchmark.stats.stats.median / count, "n": 92}


@pytest.mark.skipif("RSAFAST_BENCH_LARGE" not in os.environ, reason="minutes, 8 GB")
def test_trajectory_study(benchmark):
    """800 networks' layers against 18 brain RDMs, in a process of its own: time and peak memory."""
    command = [sys.executable, str(STUDY), "--json"]
    done = benchmark.pedantic(
        subprocess.run, (command,), {"check": True, "capture_output": True, "text": True}, rounds=1
    )
    measured = json.loads(done.stdout)
    assert measured["peak_bytes"] < 8e9
    benchmark.extra_info |= {"n": 720, **measured}
