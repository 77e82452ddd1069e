"""Simulated studies whose truth is known: published practices fail, ours hold, intervals cover.

The experiments are those of `benchmarks/ground_truth.py`, fewer of each; limits leave room for what
the number of experiments explains, one chance in a thousand.
"""

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom, t

import rsafast as rf
from rsafast.demo.population import Population

PATH = Path(__file__).resolve().parents[2] / "benchmarks" / "ground_truth.py"
SPEC = spec_from_file_location("ground_truth", PATH)
truth = sys.modules["ground_truth"] = module_from_spec(SPEC)
SPEC.loader.exec_module(truth)

CHANCE = 1e-3
# Experiments and stimuli of each practice.
EXPERIMENTS = {
    "entries": (150, 92), "zero": (1200, 24), "pairs": (80, 92), "runs": (120, 92),
    "order": (120, 92), "layer": (200, 92), "seeds": (80, 92),
}  # fmt: skip
STIMULI, SUBJECTS, BOTH = ("stimuli",), ("subjects",), ("stimuli", "subjects")
# Intervals that hold the truth in 85 % (80 %) of studies and not 95 % fail with probability .98
# (1.00) of 400 studies, .86 (.999) of 250, .75 (.99) of 200, .33 (.81) of 100, .18 (.55) of 60;
# those that hold it in 95 % fail with less than 4e-5.
DESIGNS = [
    truth.Design("moderate noise", 92, "pearson", (STIMULI, BOTH), 250),
    truth.Design("moderate noise", 92, "pearson", (SUBJECTS,), 400),
    truth.Design("strong noise", 92, "pearson", (BOTH,), 200, (10,)),
    truth.Design("moderate noise", 92, "spearman", (STIMULI,), 100, (10,)),
    truth.Design("as measured", 720, "pearson", (SUBJECTS,), 60),
]
# Studies of subjects alone draw from a population of measured ones, which is exact at any size.
SIZE = {"pearson": 0.05, "spearman": 0.1}


@pytest.fixture
def population():
    return Population(
        shares=(0.4, 0.3), common=0.3, gain_spread=0.3, individual=1.0, noise=1.0, initial=1.0,
        drift=0.5,
    )  # fmt: skip


# ---------------------------------------------------------------- the simulator


def test_pearson_of_the_population_is_what_many_stimuli_give(population, rng):
    networks, subjects = population.networks(2, rng), population.subjects(3, rng)
    got = []
    for _ in range(10):
        stimuli = population.stimuli(600, rng)
        brain = population.brain_rdms(stimuli, subjects, rng)
        got.append(rf.compare(population.model_rdms(stimuli, networks), brain, "pearson"))
    error = np.std(got, axis=0) / np.sqrt(len(got))
    expected = population.pearson(networks, subjects)
    assert (np.abs(np.mean(got, axis=0) - expected) < 4 * error + 2e-3).all()
    assert expected.min() > 0.03


def test_spearman_of_independent_pairs_is_what_many_stimuli_give(population, rng):
    networks, subjects = population.networks(1, rng), population.subjects(2, rng)
    sampled = truth.sampled_spearman(population, rng, pairs=200_000)(networks, subjects)
    got = []
    for _ in range(10):
        stimuli = population.stimuli(500, rng)
        brain = population.brain_rdms(stimuli, subjects, rng)
        got.append(rf.compare(population.model_rdms(stimuli, networks), brain, "spearman"))
    error = np.std(got, axis=0) / np.sqrt(len(got))
    assert (np.abs(np.mean(got, axis=0) - sampled) < 4 * error + 6e-3).all()


def test_without_shares_nothing_is_related(rng):
    population = Population(shares=(0.0, 0.0), individual=1.0, initial=1.0, drift=1.0)
    scores = population.pearson(population.networks(3, rng), population.subjects(4, rng))
    np.testing.assert_allclose(scores, 0.0, atol=1e-15)


def test_a_seed_starts_from_the_same_weights_in_every_rule(population, rng):
    networks = population.networks(3, rng)
    first, second = networks
    differ = [(first[..., c] != second[..., c]).any() for c in range(networks.shape[-1])]
    initial = slice(2 * population.size, 3 * population.size)
    assert not any(differ[initial])
    assert any(differ[3 * population.size :])
    assert (networks[0, 0, :, initial] != networks[0, 1, :, initial]).any()


def test_models_and_brains_say_whose_they_are(population, rng):
    stimuli = population.stimuli(8, rng)
    models = population.model_rdms(stimuli, population.networks(2, rng))
    brain = population.brain_rdms(stimuli, population.subjects(3, rng), rng)
    assert models.descriptors["rule"].tolist() == ["rule 0", "rule 0", "rule 1", "rule 1"]
    assert models.descriptors["seed"].tolist() == [0, 1, 0, 1]
    assert brain.descriptors["subject"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(("n", "runs"), [(92, 8), (17, 4), (6, 6)])
def test_runs_are_of_nearly_equal_length_and_follow_the_feature(n, runs, rng):
    population = Population(shares=(0.0,))
    stimuli = population.stimuli(n, rng)
    for confound in (0.0, 0.8, 1.0):
        order = population.presentation(stimuli, runs, rng, confound=confound)
        counts = np.bincount(order, minlength=runs)
        assert counts.min() >= n // runs
        assert counts.max() <= -(-n // runs)
    feature = stimuli[np.argsort(order, kind="stable"), population.size]
    assert all(feature[order[np.argsort(order, kind="stable")] == r].max()
               <= feature[order[np.argsort(order, kind="stable")] == r + 1].min()
               for r in range(runs - 1))  # fmt: skip


def test_run_noise_makes_stimuli_of_one_run_alike(rng):
    population = Population(shares=(0.0,), noise=0.5, run_noise=1.0)
    stimuli, order = population.stimuli(60, rng), np.arange(60) % 5
    brain = population.brain_rdms(stimuli, population.subjects(2, rng), rng, order)
    same = (order[:, None] == order)[np.triu_indices(60, 1)]
    assert (brain.vectors[:, same].mean(axis=1) < brain.vectors[:, ~same].mean(axis=1)).all()


# ---------------------------------------------------------------- the experiments


@pytest.mark.simulation
@pytest.mark.slow
@pytest.mark.parametrize("key", truth.PRACTICES)
def test_published_practice_fails_and_ours_holds(key):
    practice, (total, n) = truth.PRACTICES[key], EXPERIMENTS[key]
    p = truth.p_values(key, n, 0, total)
    for test, role in practice.roles.items():
        hits = (np.array(p[test]) <= practice.alpha + truth.ROUNDING).sum()
        most = binom.isf(CHANCE, total, practice.alpha)
        if role == "published":
            assert hits > most, f"{test}: {hits} of {total} is no failure"
        elif role == "ours":
            assert hits <= most, f"{test}: {hits} of {total}"


@pytest.mark.simulation
@pytest.mark.slow
@pytest.mark.parametrize("design", DESIGNS, ids=lambda d: f"{d.n}-{d.resampled}-{d.method}")
def test_intervals_cover_within_two_points(design):
    values = truth.population_values(design, SIZE[design.method])
    hits = truth.covered(design, values, 0, design.experiments)
    least = binom.ppf(CHANCE, design.experiments, truth.LEVEL - 0.02)
    most = binom.isf(CHANCE, design.experiments, truth.LEVEL + 0.02)
    assert (hits >= least).all(), f"{hits.tolist()} of {design.experiments}"
    assert (hits <= most).all(), f"{hits.tolist()} of {design.experiments}"


@pytest.mark.simulation
@pytest.mark.slow
def test_intervals_are_those_of_bootstrap():
    design = truth.Design("moderate noise", 92, "pearson", (STIMULI, SUBJECTS, BOTH), 1)
    people, every = truth.experiment(design, np.zeros((2, truth.POOL)), 3)
    rng = np.random.default_rng([design.key, 2, 3])
    assert np.array_equal(people, rng.integers(0, truth.POOL, 20))
    models, brain = design.study(people, rng)
    for (count, factors), got in zip(design.bootstraps, every, strict=True):
        for kind, (own, difference) in zip(truth.INTERVALS, got, strict=True):
            result = rf.bootstrap(
                models, brain[np.arange(count)], method=design.method, resample=factors,
                rules="rule", seeds="seed", n_resamples=truth.RESAMPLES, seed=3, interval=kind,
                progress=False,
            )  # fmt: skip
            np.testing.assert_allclose(own, result.ci[0, 0], rtol=1e-12)
            np.testing.assert_allclose(difference, result.difference_ci[0, 0, 1], rtol=1e-12)


@pytest.mark.simulation
def test_studies_of_new_subjects_are_draws_of_measured_ones():
    design = truth.Design("as measured", 24, "pearson", (SUBJECTS,), 1)
    values = truth.population_values(design, 0.05)
    assert values.shape == (2, truth.POOL)
    people, every = truth.experiment(design, values, 3)
    assert people.max() < truth.POOL
    for count, got in zip(design.subjects, every, strict=True):
        drawn = values[:, people[:count]]
        for sample, ci in zip((drawn[0], drawn[0] - drawn[1]), got[-1], strict=True):
            half = t.ppf(0.975, count - 1) * sample.std(ddof=1) / np.sqrt(count)
            middle, reach = ci.mean(), np.diff(ci)[0] / 2
            assert middle == pytest.approx(sample.mean(), abs=1e-9)
            assert reach == pytest.approx(half, rel=0.1)  # of 500 resamples


@pytest.mark.simulation
@pytest.mark.slow
def test_the_truth_of_a_study_is_that_of_its_own_subjects_where_they_are_not_resampled():
    design = truth.Design("moderate noise", 92, "pearson", (STIMULI, BOTH), 1)
    values = truth.population_values(design)
    people = np.arange(20) * 7
    wanted = truth.truths(design, values, people)
    population = truth.POPULATIONS[design.population]
    networks = design.draw(np.random.default_rng(0))[1]
    scores = population.pearson(networks, truth.subjects_of(design.population))
    for place, count in ((0, 10), (2, 20)):
        own = scores[:, people[:count]].mean(axis=1)
        np.testing.assert_allclose(wanted[place], [own[0], own[0] - own[1]], atol=1e-12)
    everybody = scores.mean(axis=1)
    np.testing.assert_allclose(wanted[[1, 3], 0], everybody[0], atol=1e-12)
