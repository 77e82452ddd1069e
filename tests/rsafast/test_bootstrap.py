"""Bootstraps: rsatoolbox on the same draws, brute force, exact moments, bad input."""

from __future__ import annotations

import dataclasses
import itertools
import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import rsatoolbox
from numpy.typing import NDArray
from scipy.stats import bootstrap as scipy_bootstrap
from scipy.stats import ttest_1samp, ttest_rel

import rsafast as rf
from rsafast.cli import main
from rsafast.comparators import get_comparator
from rsafast.errors import InvalidInputError, UnsupportedCaseError
from rsafast.inference.bootstrap import api as module
from rsafast.inference.bootstrap import resampled
from rsafast.inference.bootstrap.draws import counts_of, jackknife_counts
from rsafast.inference.bootstrap.intervals import acceleration, interval, quantile_p, t_test
from rsafast.inference.bootstrap.replicates import (
    given_draws,
    prepare_study,
    replicate_scores,
    seeded_draws,
)
from rsafast.inference.bootstrap.resampled import ResampledComparison
from rsafast.inference.bootstrap.variance import (
    corrected_variance,
    jackknife_dof,
    jackknife_variance,
    subsets,
    with_leverage,
)
from rsafast.io import read_rdms

matplotlib.use("Agg")

THEIR_METHODS = {
    "pearson": "corr",
    "cosine": "cosine",
    "spearman": "spearman",
    "corr_cov": "corr_cov",
    "cosine_cov": "cosine_cov",
}
Draw = tuple[NDArray[np.int64], NDArray[np.int64]]


def simulated(
    rng: np.random.Generator, n: int, n_models: int, n_brain: int, noise: float = 1.0
) -> tuple[rf.RDMs, rf.RDMs]:
    points = rng.standard_normal((n, 6))
    models = points + np.linspace(0.3, 2, n_models)[:, None, None] * rng.standard_normal(
        (n_models, n, 6)
    )
    brain = points + noise * rng.standard_normal((n_brain, n, 6))
    return rf.compute_rdms(models, "euclidean"), rf.compute_rdms(brain, "euclidean")


def table(models: rf.RDMs, brain: rf.RDMs) -> tuple[rf.RDMs, rf.RDMs]:
    """Two rules of 3 seeds, two regions of the same subjects."""
    k = brain.n_rdms // 2
    return (
        rf.RDMs(models.vectors, descriptors={"rule": ["a"] * 3 + ["b"] * 3, "seed": [0, 1, 2] * 2}),
        rf.RDMs(
            brain.vectors,
            descriptors={"region": ["V1"] * k + ["IT"] * k, "subject": [*range(k), *range(k)]},
        ),
    )


GROUPS = {"rules": "rule", "seeds": "seed", "regions": "region", "subjects": "subject"}


# ---------------------------------------------------------------- rsatoolbox, on the same draws


def theirs(models: rf.RDMs, brain: rf.RDMs) -> tuple[list[Any], Any]:
    fixed = [
        rsatoolbox.model.ModelFixed(f"m{i}", rsatoolbox.rdm.RDMs(v[None]))
        for i, v in enumerate(models.vectors)
    ]
    return fixed, rsatoolbox.rdm.RDMs(brain.vectors.copy())


@pytest.fixture
def hand_out(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterator[NDArray[Any]]], None]:
    """Make rsatoolbox draw the given indices instead of its own."""

    def give(draws: Iterator[NDArray[Any]]) -> None:
        def randint(low: int, high: int, size: int) -> NDArray[Any]:
            drawn = next(draws)
            assert low == 0
            assert len(drawn) == size
            assert drawn.max() < high
            return drawn

        monkeypatch.setattr(np.random, "randint", randint)

    return give


def quietly(function: Callable[..., Any], *args: Any, **keywords: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **keywords)


def drawn(rng: np.random.Generator, n: int, subjects: int, resamples: int) -> Draw:
    return (
        rng.integers(0, n, (resamples, n)),
        rng.integers(0, subjects, (resamples, subjects)),
    )


def ours_on(models: rf.RDMs, brain: rf.RDMs, method: str, **counts: Any) -> Any:
    study = prepare_study(models, brain, method=method)
    return module.bootstrap_of(study, given_draws(study, **counts), ceiling=True)


def close(ours: Any, other: Any) -> None:
    np.testing.assert_allclose(ours, other, rtol=0, atol=1e-8)


def compare_with_rsatoolbox(
    models: rf.RDMs, brain: rf.RDMs, method: str, draw: Draw,
    hand_out: Callable[[Iterator[NDArray[Any]]], None],
) -> None:  # fmt: skip
    """All four evaluations of rsatoolbox: replicates, ceilings, means, corrected variances."""
    n, k = models.n_stimuli, brain.n_rdms
    stimuli, subjects = draw
    by_stimulus, by_subject = counts_of(stimuli, n), counts_of(subjects, k)
    fixed, data = theirs(models, brain)
    name, total = THEIR_METHODS[method], len(stimuli)
    inference = rsatoolbox.inference

    result = quietly(inference.eval_fixed, fixed, data, method=name)
    both = ours_on(models, brain, method, stimuli=by_stimulus, subjects=by_subject)
    close(both.estimates[:, 0], result.get_means())
    close(both.scores, result.evaluations[0])
    close(both.ceiling[0], result.noise_ceiling)

    hand_out(iter(stimuli))
    result = quietly(inference.eval_bootstrap_pattern, fixed, data, method=name, N=total)
    only = ours_on(models, brain, method, stimuli=by_stimulus)
    close(only.replicates[:, :, 0], result.evaluations)
    close(only.ceiling_replicates[:, 0].T, result.noise_ceiling)
    close(
        corrected_variance({("stimuli",): only.raw_variance[0, :, 0]}, {"stimuli": n}),
        result.get_model_var(),
    )

    hand_out(iter(subjects))
    result = quietly(inference.eval_bootstrap_rdm, fixed, data, method=name, N=total)
    only = ours_on(models, brain, method, subjects=by_subject)
    close(only.replicates[:, :, 0], result.evaluations)
    close(only.ceiling_replicates[:, 0].T, result.noise_ceiling)
    close(only.standard_error[:, 0], result.get_sem())
    close(only.dof, result.dof)

    hand_out(itertools.chain.from_iterable(zip(subjects, stimuli, strict=True)))
    result = quietly(inference.eval_bootstrap, fixed, data, method=name, N=total)
    close(both.replicates[:, :, 0], result.evaluations)
    close(both.ceiling_replicates[:, 0].T, result.noise_ceiling)
    close(both.replicates[:, :, 0].mean(axis=0), result.get_means())

    hand_out(itertools.chain.from_iterable(zip(subjects, stimuli, strict=True)))
    result = quietly(
        inference.eval_dual_bootstrap, fixed, data, method=name, N=total, k_pattern=1, k_rdm=1
    )
    close(both.replicates[:, :, 0], result.evaluations[:, :, 0, 0, 0])
    close(both.ceiling_replicates[:, 0].T, result.noise_ceiling[:, :, 0, 0])
    raw = dict(zip(subsets(("stimuli", "subjects")), both.raw_variance[:, :, 0], strict=True))
    items = {"stimuli": n, "subjects": k}
    variance = corrected_variance(raw, items)
    # Theirs may end up below what a factor contributes by itself.
    least = np.max([raw[(f,)] / (1 - 1 / items[f]) for f in items], axis=0)
    close(variance, np.maximum(result.get_model_var(), least))
    # Their means of a dual bootstrap run over the replicates of all three bootstraps.
    study = prepare_study(models, brain, method=method)
    draws = given_draws(study, stimuli=by_stimulus, subjects=by_subject)
    replicates = module._resampled(study, draws, None, 0, 10**9, False)[0].replicates
    means = np.mean([values[:, :, 0].mean(axis=0) for values in replicates.values()], axis=0)
    close(means, result.get_means())
    got = interval(
        "t", both.replicates[:, :, 0], means, result.get_sem(),
        level=0.95, dof=np.array(float(result.dof)),
    )  # fmt: skip
    close(got.T, result.get_ci(0.95, test_type="t-test"))


@pytest.mark.parametrize("method", THEIR_METHODS)
def test_agrees_with_rsatoolbox_on_the_same_draws(
    method: str, rng: np.random.Generator, hand_out: Callable[..., None]
) -> None:
    models, brain = simulated(rng, 13, 3, 6)
    compare_with_rsatoolbox(models, brain, method, drawn(rng, 13, 6, 12), hand_out)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("method", THEIR_METHODS)
@pytest.mark.parametrize("images", [92, 78])
def test_agrees_with_rsatoolbox_on_real_data(
    images: int, method: str, data_dir: Path, rng: np.random.Generator,
    hand_out: Callable[..., None],
) -> None:  # fmt: skip
    if images == 92:
        brain = read_rdms(data_dir / "fmri92" / "target_fmri.mat", key="IT_RDMs")
        models = read_rdms(data_dir / "fmri92" / "92_modelRDMs.mat").subset([0, 3, 5])
        models = rf.RDMs(models.vectors, names=models.names)
    else:
        folder = data_dir / "fmri78"
        brain = read_rdms(folder / "fmri_IT_RDMs.npz")
        models = rf.RDMs(read_rdms(folder / "fmri_EVC_RDMs.npz").vectors[:2])
    brain = rf.RDMs(brain.vectors[:7])
    draw = drawn(rng, images, 7, 2 if "cov" in method else 4)
    compare_with_rsatoolbox(models, brain, method, draw, hand_out)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("method", THEIR_METHODS)
def test_agrees_with_rsatoolbox_on_things(
    method: str, data_dir: Path, rng: np.random.Generator, hand_out: Callable[..., None]
) -> None:
    """Embeddings of THINGS concepts, one in twenty; parts of the participants' ones as subjects."""
    folder = data_dir / "things"
    groups = [np.load(folder / f"THINGS_embedding_Group{g}.npy")[0, ::20] for g in (1, 2)]
    subjects = [group[:, part::3] for group in groups for part in range(3)]
    embeddings = ("vice_embedding_1854x42", "spose_embedding_1854x82")
    models = rf.compute_rdms([np.load(folder / f"{name}.npy")[::20] for name in embeddings])
    brain = rf.compute_rdms(subjects)
    draw = drawn(rng, models.n_stimuli, 6, 2 if "cov" in method else 4)
    compare_with_rsatoolbox(models, brain, method, draw, hand_out)


def test_differences_have_the_variance_of_rsatoolbox(
    rng: np.random.Generator, hand_out: Callable[..., None]
) -> None:
    models, brain = simulated(rng, 15, 3, 7)
    stimuli, subjects = drawn(rng, 15, 7, 40)
    hand_out(itertools.chain.from_iterable(zip(subjects, stimuli, strict=True)))
    fixed, data = theirs(models, brain)
    result = quietly(
        rsatoolbox.inference.eval_dual_bootstrap, fixed, data, method="corr", N=40, k_pattern=1,
        k_rdm=1,
    )  # fmt: skip
    study = prepare_study(models, brain, method="pearson")
    draws = given_draws(study, stimuli=counts_of(stimuli, 15), subjects=counts_of(subjects, 7))
    rules, ceilings = module._resampled(study, draws, study.ceiling(), 0, 10**9, False)
    assert ceilings is not None
    items = {"stimuli": np.array(15.0), "subjects": np.array(7.0)}

    def plain(replicates: dict[Any, NDArray[Any]]) -> NDArray[Any]:
        return corrected_variance({u: v.var(0, ddof=1) for u, v in replicates.items()}, items)

    for pair, (i, j) in enumerate([(0, 1), (0, 2), (1, 2)]):
        got = plain({u: v[:, i, 0] - v[:, j, 0] for u, v in rules.replicates.items()})
        close(got, result.diff_var[pair])
    for bound in (0, 1):
        got = plain(
            {u: v[:, :, 0] - ceilings.replicates[u][:, :, bound] for u, v in
             rules.replicates.items()}
        )  # fmt: skip
        close(got, result.noise_ceil_var[:, bound])


def test_subject_bootstrap_tends_to_the_t_tests_of_eval_fixed(rng: np.random.Generator) -> None:
    models, brain = simulated(rng, 20, 2, 12, noise=3.0)
    got = rf.bootstrap(models, brain, resample="subjects", n_resamples=20_000, interval="t")
    scores = rf.compare(models, brain)
    np.testing.assert_allclose(
        got.p_zero[:, 0], ttest_1samp(scores, 0, axis=1, alternative="greater").pvalue, rtol=0.1
    )
    expected = ttest_rel(scores[0], scores[1]).pvalue
    np.testing.assert_allclose(got.p_pairwise[0, 0, 1], expected, rtol=0.1)
    exact = ttest_1samp(scores[0], 0).confidence_interval(0.95)
    np.testing.assert_allclose(got.ci[0, 0], exact, atol=0.01)


# ---------------------------------------------------------------- replicates


@pytest.mark.parametrize("method", ["spearman", "pearson", "cosine", "rho-a"])
def test_replicates_are_those_of_resamples_written_out(
    method: str, rng: np.random.Generator
) -> None:
    models, brain = table(*simulated(rng, 11, 6, 8))
    study = prepare_study(models, brain, method=method, **GROUPS)
    draws = seeded_draws(study, ("stimuli", "subjects", "seeds"), 7, seed=3)
    got = module.bootstrap_of(study, draws).replicates
    block = next(replicate_scores(study, draws))
    assert block.model_counts is not None
    assert block.brain_counts is not None
    for r, scores in enumerate(block.scores):
        for rule, region in itertools.product(range(2), range(2)):
            of = np.ix_(np.arange(3) + 3 * rule, np.arange(4) + 4 * region)
            weights = np.outer(block.model_counts[r], block.brain_counts[r])[of]
            expected = (scores[of] * weights).sum() / weights.sum()
            np.testing.assert_allclose(got[r, rule, region], expected, atol=1e-12)


@pytest.mark.parametrize("method", ["pearson", "cosine"])
@pytest.mark.parametrize("values", ["normal", "far from 0", "one far value", "two far", "constant"])
def test_few_rdms_have_the_scores_of_many(
    method: str, values: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 40
    a, b = rng.random((2, n * (n - 1) // 2)), rng.random((3, n * (n - 1) // 2))
    if values == "far from 0":
        a += 1e6
    elif values == "one far value":
        b[:, 7] = 1e9
    elif values == "two far":  # between stimuli of two halves: most resamples of one half lack them
        b[1] += 1e8 * np.array([i < 20 <= j for i, j in itertools.combinations(range(n), 2)])
    elif values == "constant":
        b[2] = 0.1
    weights = np.stack([np.bincount(rng.integers(0, n, n), minlength=n) for _ in range(30)])
    weights[0], weights[1, 2:], weights[2, 20:] = 0, 0, 0
    weights[3, 0] = 300
    sides = [rf.RDMs.from_vectors(side) for side in (a, b)]
    got = ResampledComparison(get_comparator(method), *sides).scores(weights)
    monkeypatch.setattr(resampled, "_FEW", 0)
    want = ResampledComparison(get_comparator(method), *sides).scores(weights)
    assert not np.array_equal(got, want)
    assert np.isfinite(got).any()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-10)


def test_draws_of_subjects_are_shared_by_regions_and_those_of_seeds_are_not_by_rules(
    rng: np.random.Generator,
) -> None:
    models, brain = table(*simulated(rng, 10, 6, 12))
    study = prepare_study(models, brain, **GROUPS)
    draws = seeded_draws(study, ("subjects", "seeds"), 200, seed=0)
    block = next(replicate_scores(study, draws))
    assert block.brain_counts is not None
    assert block.model_counts is not None
    np.testing.assert_array_equal(block.brain_counts[:, :6], block.brain_counts[:, 6:])
    assert (block.model_counts[:, :3] != block.model_counts[:, 3:]).any()
    assert (block.model_counts[:, :3].sum(axis=1) == 3).all()


def test_subjects_missing_from_a_region_are_counted_and_named(rng: np.random.Generator) -> None:
    models, brain = table(*simulated(rng, 12, 6, 10))
    got = rf.bootstrap(
        models, brain.subset([0, 1, 2, 3, 4, 5, 6, 7]), resample=("subjects",), n_resamples=300,
        **GROUPS,
    )  # fmt: skip
    assert got.n_subjects.tolist() == [5, 3]
    assert any("unequal numbers of subjects (V1 5, IT 3)" in note for note in got.notes)
    assert got.n_excluded > 0  # draws without one of the 3 subjects of IT
    assert f"{got.n_excluded:,} of 300" in got.summary()


@pytest.mark.parametrize("resample", [("stimuli",), ("stimuli", "subjects", "seeds")])
def test_same_seed_same_result_whatever_the_memory(
    resample: tuple[str, ...], rng: np.random.Generator
) -> None:
    models, brain = table(*simulated(rng, 12, 6, 8))
    keywords: dict[str, Any] = {
        "resample": resample, "n_resamples": 300, "ceiling": True, "method": "pearson", **GROUPS
    }  # fmt: skip
    a = rf.bootstrap(models, brain, **keywords)
    b = rf.bootstrap(models, brain, memory_budget=200_000, **keywords)
    for name in ("replicates", "ci", "p_pairwise", "standard_error", "ceiling_replicates"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    other = rf.bootstrap(models, brain, seed=1, **keywords)
    assert not np.array_equal(a.replicates, other.replicates)


# ---------------------------------------------------------------- ceilings


@pytest.mark.parametrize("method", ["pearson", "cosine", "corr_cov", "cosine_cov", "spearman"])
def test_ceilings_count_copies_in_the_pool_and_leave_all_of_them_out(
    method: str, rng: np.random.Generator
) -> None:
    _, brain = simulated(rng, 9, 1, 5)
    study = prepare_study(brain, brain, method=method)
    counts = np.array([[2, 0, 1, 1, 1], [0, 3, 0, 2, 0], [5, 0, 0, 0, 0]])
    got = study.ceiling()(None, [counts])[0][:, 0]
    for bounds, row in zip(got[:2], counts[:2], strict=True):
        data = rsatoolbox.rdm.RDMs(
            np.repeat(brain.vectors, row, axis=0),
            rdm_descriptors={"who": np.repeat(np.arange(5), row)},
        )
        expected = rsatoolbox.inference.boot_noise_ceiling(data, THEIR_METHODS[method], "who")
        close(bounds, expected)
    assert np.isnan(got[2]).all()  # one subject has no others to be compared with


def test_ceiling_of_a_region_is_that_of_its_subjects_alone(rng: np.random.Generator) -> None:
    models, brain = table(*simulated(rng, 14, 6, 10))
    keywords: dict[str, Any] = {"n_resamples": 150, "ceiling": True, "method": "pearson"}
    got = rf.bootstrap(models, brain, **keywords, **GROUPS)
    alone = rf.bootstrap(models, brain.subset({"region": "IT"}), **keywords)
    np.testing.assert_allclose(got.ceiling[1], alone.ceiling[0], atol=1e-12)
    np.testing.assert_allclose(
        got.ceiling_replicates[:, 1], alone.ceiling_replicates[:, 0], atol=1e-12
    )


# ---------------------------------------------------------------- variance


@pytest.mark.parametrize("factors", [1, 2, 3])
def test_corrected_variance_is_unbiased_for_random_effects_of_every_order(factors: int) -> None:
    """Exact expectations of bootstrap variances of a grand mean, by enumeration of components."""
    names = ("stimuli", "subjects", "seeds")[:factors]
    n = dict(zip(names, (5, 4, 3), strict=False))
    for component in subsets(names):
        # A component of variance 1 on the mean adds prod(2 - 1/n) - 1 over the factors it shares.
        raw = {
            subset: np.prod([2 - 1 / n[f] for f in component if f in subset]) - 1
            for subset in subsets(names)
        }
        total = corrected_variance(raw, n)
        assert total == pytest.approx(1.0)


@pytest.mark.slow
def test_corrected_variance_matches_a_simulation_of_three_factors() -> None:
    """Random effects with every interaction: mean corrected variance = true variance of the mean"""
    rng = np.random.default_rng(0)
    n, estimates, variances = {"stimuli": 12, "subjects": 7, "seeds": 5}, [], []
    for _ in range(250):
        y = sum(
            rng.standard_normal([size if keep else 1 for size, keep in zip(n.values(), on,
                                                                             strict=True)])
            for on in itertools.product([True, False], repeat=3)
            if any(on)
        )  # fmt: skip
        y = np.asarray(y)
        w = [rng.multinomial(k, np.ones(k) / k, 200) / k for k in n.values()]
        raw = {}
        for subset in subsets(tuple(n)):
            each = [
                draws if f in subset else np.full((200, k), 1 / k)
                for draws, (f, k) in zip(w, n.items(), strict=True)
            ]
            raw[subset] = np.einsum("ijk,ri,rj,rk->r", y, *each, optimize=True).var(ddof=1)
        estimates.append(y.mean())
        variances.append(corrected_variance(raw, n))
    assert np.mean(variances) == pytest.approx(np.var(estimates), rel=0.25)


def test_two_factors_follow_schuett_and_their_clamps() -> None:
    n = {"stimuli": 10.0, "subjects": 4.0}
    s, c = 10 / 9, 4 / 3

    def of(a: float, b: float, both: float) -> float:
        raw = {("stimuli",): a, ("subjects",): b, ("stimuli", "subjects"): both}
        return float(corrected_variance(raw, n))

    assert of(2, 1, 3.5) == pytest.approx(s * 2 + c * 1 - s * c * 0.5)
    assert of(2, 1, 9) == pytest.approx(s * 2)  # not below a single factor
    assert of(2, 1, 3.1) == pytest.approx(3.1)  # not above the raw variance


def test_jackknife_is_exact_for_a_mean_and_replaces_one_part_only(
    rng: np.random.Generator,
) -> None:
    x = rng.standard_normal(30)
    without = (x.sum() - x) / 29
    variance = jackknife_variance(without[:, None])
    np.testing.assert_allclose(variance, x.var(ddof=1) / 30)
    raw = {("stimuli",): 2.0, ("subjects",): 1.0, ("stimuli", "subjects"): 3.5}
    new = with_leverage(raw, "stimuli", 3.0, 10)
    assert new["subjects",] == 1.0
    n = {"stimuli": 10, "subjects": 4}
    assert corrected_variance(new, n) - corrected_variance(raw, n) == pytest.approx(3 - 20 / 9)


@pytest.mark.parametrize("items", [5, 128, 129, 720])
def test_many_stimuli_are_left_out_in_128_groups_of_nearly_equal_size(items: int) -> None:
    counts = jackknife_counts(3, items)
    assert counts.shape == (min(items, 128), items)
    sizes = items - counts.sum(axis=1)
    assert sizes.sum() == items
    assert np.ptp(sizes) <= 1
    assert (counts == 0).sum(axis=0).tolist() == [1] * items
    assert np.array_equal(counts, jackknife_counts(3, items))


def test_few_influential_items_lower_the_degrees_of_freedom(rng: np.random.Generator) -> None:
    light, heavy = rng.uniform(-1, 1, 100), rng.standard_t(3, 100)
    dof = jackknife_dof(np.stack([light, heavy], axis=1))
    assert dof[0] == 99
    assert 1 <= dof[1] < 60


# ---------------------------------------------------------------- intervals and p-values


@pytest.mark.parametrize("kind", ["percentile", "basic", "bca"])
def test_intervals_are_scipys_where_levels_are_not_expanded(
    kind: str, rng: np.random.Generator
) -> None:
    x = rng.exponential(size=25)
    ours_draws = rng.integers(0, 25, (4999, 25))
    replicates = x[ours_draws].mean(axis=1)
    expected = scipy_bootstrap(
        (x,), np.mean, n_resamples=0, method=kind if kind != "bca" else "BCa",
        bootstrap_result=type("Given", (), {"bootstrap_distribution": replicates})(),
    ).confidence_interval  # fmt: skip
    fast = acceleration({"subjects": ((x.sum() - x) / 24)[:, None]})
    got = interval(
        kind, replicates[:, None], np.array([x.mean()]), np.array([x.std(ddof=1) / 5]), level=0.95,
        dof=np.array([1e9]), acceleration=fast if kind == "bca" else 0.0,
    )[0]  # fmt: skip
    np.testing.assert_allclose(got, expected, atol=5e-3)  # they interpolate quantiles elsewhere


@pytest.mark.parametrize("a", [-0.12, -0.01, 0.0, 0.03, 0.12])
def test_basic_intervals_are_reflected_where_there_is_no_skewness(a: float) -> None:
    """Each end solves Hall's g(t) = z, z the replicate's quantile without its skewness."""
    replicates = np.linspace(-3, 3, 9_999)[:, None]
    for error in (0.5, 2.0):
        ci = interval(
            "basic", replicates, np.array([0.1]), np.array([error]), level=0.9,
            dof=np.array([1e9]), acceleration=np.array([a]),
        )[0]  # fmt: skip
        for end, quantile in zip(ci, (0.95, 0.05), strict=True):
            u = (6 * quantile - 3 - 0.1) / error
            if abs(u) > 0.5 / max(abs(a), 1e-9):
                continue  # where the scale is cut off
            t = (0.1 - end) / error
            hall = t + 2 * a * t**2 + 4 / 3 * a**2 * t**3 + a
            assert hall == pytest.approx(u - a * (u**2 - 1), abs=2e-3)


def test_basic_intervals_of_a_skewed_mean_hold_it_more_often_than_reflected_quantiles() -> None:
    rng = np.random.default_rng(3)
    data = rng.gamma(4.0, size=(10, 3000)) - 4.0  # skewness 1
    drawn = rng.integers(0, 10, (800, 10))
    replicates = np.stack([data[rows].mean(axis=0) for rows in drawn])
    error, mean = data.std(axis=0, ddof=1) / np.sqrt(10), data.mean(axis=0)
    options = {"level": 0.95, "dof": np.full(3000, 9.0), "stretch": np.sqrt(10 / 9)}
    fast = acceleration({"subjects": (data.sum(axis=0) - data) / 9})
    held = []
    for skew in (0.0, fast):
        low, high = interval("basic", replicates, mean, error, acceleration=skew, **options).T
        held.append(((low <= 0) & (high >= 0)).mean())
    assert held[1] > held[0] + 0.005
    assert 0.925 < held[1] < 0.96


def test_percentile_levels_are_hesterbergs() -> None:
    """n = 10: his table gives 0.0105 in place of 0.025 (without the variance factor 0.0119)."""
    from scipy.stats import norm, t

    replicates = np.linspace(0, 1, 99_999)[:, None]
    low, high = interval(
        "percentile", replicates, np.array([0.5]), np.array([1.0]), level=0.95,
        dof=np.array([9.0]), stretch=np.sqrt(10 / 9),
    )[0]  # fmt: skip
    expected = norm.cdf(-np.sqrt(10 / 9) * t.ppf(0.975, 9))
    assert low == pytest.approx(expected, abs=1e-4)
    assert high == pytest.approx(1 - expected, abs=1e-4)


def test_quantile_p_inverts_the_percentile_interval(rng: np.random.Generator) -> None:
    replicates = rng.standard_normal((2000, 30)) + np.linspace(-3, 4, 30)
    dof, stretch = np.full(30, 14.0), np.sqrt(15 / 14)
    p = quantile_p(replicates, two_sided=True, dof=dof, stretch=stretch)
    ci = interval(
        "percentile", replicates, replicates.mean(axis=0), replicates.std(axis=0), level=0.95,
        dof=dof, stretch=stretch,
    )  # fmt: skip
    outside = (ci[:, 0] > 0) | (ci[:, 1] < 0)
    clear = np.abs(p - 0.05) > 0.002
    np.testing.assert_array_equal(outside[clear], (p < 0.05)[clear])


@pytest.mark.parametrize("shift", [-100.0, 0.0, 100.0])
@pytest.mark.parametrize("two_sided", [True, False])
def test_p_values_are_never_0_and_never_above_1(shift: float, two_sided: bool) -> None:
    replicates = np.random.default_rng(0).standard_normal((200, 1)) + shift
    dof = np.array([1000.0])
    p = quantile_p(replicates, two_sided=two_sided, dof=dof, stretch=1.0)
    assert 0 < p[0] <= 1
    t = t_test(np.array([shift * 1e4]), np.array([1e-3]), dof, two_sided=two_sided)
    assert 0 < t[0] <= 1
    zeros = quantile_p(np.zeros((200, 1)), two_sided=True, dof=dof, stretch=1.0)
    assert zeros[0] == 1


def test_identical_rules_do_not_differ(rng: np.random.Generator) -> None:
    models, brain = simulated(rng, 15, 1, 8)
    twice = rf.RDMs(np.repeat(models.vectors, 2, axis=0), names=["a", "b"])
    for kind in ("percentile", "basic", "bca", "t"):
        got = rf.bootstrap(twice, brain, resample=("stimuli", "subjects"), n_resamples=200,
                           interval=kind)  # fmt: skip
        assert (got.difference == 0).all()
        assert (got.difference_ci == 0).all()
        assert (got.p_pairwise == 1).all()
        assert (got.p_pairwise_quantile == 1).all()


def test_differences_are_antisymmetric_and_paired(rng: np.random.Generator) -> None:
    models, brain = table(*simulated(rng, 16, 6, 10))
    got = rf.bootstrap(
        models, brain, resample=("stimuli", "subjects"), n_resamples=300, method="pearson",
        interval="bca", **GROUPS,
    )  # fmt: skip
    np.testing.assert_array_equal(got.difference, -np.swapaxes(got.difference, 1, 2))
    swapped = -np.swapaxes(got.difference_ci, 1, 2)[..., ::-1]
    np.testing.assert_array_equal(got.difference_ci, swapped)
    np.testing.assert_allclose(
        got.difference[1, 0, 1], got.estimates[0, 1] - got.estimates[1, 1], atol=1e-14
    )
    frame = got.differences()
    assert frame.shape[0] == 2
    assert frame.difference[1] == got.difference[1, 0, 1]


def test_rules_of_unequal_seeds_are_noted_and_use_the_fewer(rng: np.random.Generator) -> None:
    models, brain = simulated(rng, 14, 5, 6)
    got = rf.bootstrap(
        models, brain, rules=["a", "a", "a", "b", "b"], resample="seeds", n_resamples=2000,
        method="pearson",
    )  # fmt: skip
    assert any("unequal numbers of seeds (a 3, b 2)" in note for note in got.notes)
    spread = (got.replicates[:, 0, 0] - got.replicates[:, 1, 0]).var(ddof=1)
    np.testing.assert_allclose(got.difference_standard_error[0, 0, 1] ** 2, 2 * spread)
    assert got.difference_dof[0, 0, 1] == 1


@pytest.mark.parametrize("method", ["pearson", "spearman", "rho-a", "tau-a", "corr_cov"])
def test_mean_of_a_group_taken_before_the_products_is_that_taken_after(
    method: str, rng: np.random.Generator
) -> None:
    models, brain = simulated(rng, 9, 3, 5)
    sides = get_comparator(method), models, brain, np.ones(36, bool)
    lonely = np.eye(9, dtype=np.int64)[:1] * 9  # without a pair
    counts = np.concatenate([counts_of(rng.integers(0, 9, (20, 9)), 9), lonely])
    each = ResampledComparison(*sides).scores(counts)
    got = ResampledComparison(*sides, groups=np.array([0, 0, 1, 1, 1])).scores(counts)
    expected = np.stack([each[..., :2].mean(axis=2), each[..., 2:].mean(axis=2)], axis=2)
    assert np.isnan(got[-1]).all()
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-13)


# ---------------------------------------------------------------- exclusions and bad input


def test_resamples_of_fewer_than_3_stimuli_are_left_out_and_counted(
    rng: np.random.Generator,
) -> None:
    models, brain = simulated(rng, 4, 2, 5)
    got = rf.bootstrap(models, brain, n_resamples=500, method="pearson")
    expected = 500 * 88 / 256  # of 4 stimuli, 1 or 2 are drawn so often
    assert abs(got.n_excluded - expected) < 50
    assert len(got.replicates) == 500 - got.n_excluded
    assert np.isfinite(got.replicates).all()
    assert f"{got.n_excluded} of 500 resamples were left out" in got.summary()


def test_too_many_exclusions_are_an_error(rng: np.random.Generator) -> None:
    _, brain = simulated(rng, 8, 1, 5)
    lonely = np.zeros((8, 8))
    lonely[0, 1] = lonely[1, 0] = 1.0  # without spread unless both are drawn
    models = rf.RDMs(lonely)
    with pytest.raises(InvalidInputError, match="resamples hold fewer than 3"):
        rf.bootstrap(models, brain, n_resamples=300)


def test_bad_input_is_refused(rng: np.random.Generator) -> None:
    models, brain = table(*simulated(rng, 8, 6, 6))
    cases: list[tuple[str, Any, Any, dict[str, Any]]] = [
        ("resample must name", models, brain, {"resample": ("subject",)}),
        ("resample must name", models, brain, {"resample": ()}),
        ("needs at least 2 subjects", models, brain.subset([0]), {"resample": "subjects"}),
        ("needs at least 2 seeds", models, brain, {"resample": "seeds", "subjects": ["a"] * 6,
                                                   "regions": list("abcdef")}),
        ("interval must be", models, brain, {"interval": "wald"}),
        ("level must lie", models, brain, {"level": 95}),
        ("n_resamples must", models, brain, {"n_resamples": 10}),
        ("seed must", models, brain, {"seed": -1}),
        ("no descriptor 'rulez'", models, brain, {"rules": "rulez"}),
        ("one an RDM", models, brain, {"rules": ["a", "b"]}),
        ("'a' holds seed '0' more than once", models, brain,
         {"rules": "rule", "seeds": [0, 0, 1, 0, 1, 2]}),
        ("'all' holds subject '0' more than once", models, brain, {"subjects": "subject"}),
        ("'all' holds subject '0' more than once", models, brain, {"resample": "subjects"}),
        ("raise it, lower n_resamples", models, brain.subset([0, 1]),
         {"memory_budget": 1000, "n_resamples": 5000}),
        ("spearman is undefined", rf.RDMs(np.ones(28)), brain, {"regions": "region"}),
    ]  # fmt: skip
    for message, a, b, keywords in cases:
        with pytest.raises(InvalidInputError, match=message):
            rf.bootstrap(a, b, **({"n_resamples": 200} | keywords))
    plain = rf.RDMs(brain.vectors)
    with pytest.raises(InvalidInputError, match="subjects= is needed with several regions"):
        rf.bootstrap(models, plain, resample="subjects", regions=list("aabbcc"))
    with pytest.raises(InvalidInputError, match="at least 2 subjects in every region"):
        rf.bootstrap(models, plain, regions=list("abcdef"), ceiling=True)
    with pytest.raises(UnsupportedCaseError, match="not available for kendall"):
        rf.bootstrap(models, plain, method="kendall", ceiling=True)
    with pytest.raises(InvalidInputError, match="two are called 'x'"):
        rf.bootstrap(rf.RDMs(models.vectors, names=["x"] * 6), plain)


def test_alignments_without_spread_have_no_p(rng: np.random.Generator) -> None:
    models, _ = simulated(rng, 10, 1, 1)
    brain = rf.RDMs(np.repeat(models.vectors, 12, axis=0))
    got = rf.bootstrap(models, brain, resample=("stimuli", "subjects"), n_resamples=100)
    assert got.estimates[0, 0] == pytest.approx(1)
    assert got.standard_error[0, 0] == 0
    assert np.isnan(got.p_zero[0, 0])
    assert "no standard error" in got.summary()


def test_masks_and_kendall_work(rng: np.random.Generator) -> None:
    models, brain = simulated(rng, 8, 2, 3)
    mask = rng.random(28) < 0.8
    for method in ("spearman", "kendall"):
        got = rf.bootstrap(models, brain, method=method, mask=mask, n_resamples=100)
        close(got.scores, rf.compare(models, brain, method, mask=mask))
        assert np.isfinite(got.ci).all()


# ---------------------------------------------------------------- result


def test_result_survives_a_file_and_is_drawn(rng: np.random.Generator, tmp_path: Path) -> None:
    models, brain = table(*simulated(rng, 10, 6, 8))
    got = rf.bootstrap(
        models, brain, resample=("stimuli", "subjects"), n_resamples=200, ceiling=True, **GROUPS
    )
    got.save(tmp_path / "result.h5")
    back = rf.BootstrapResult.load(tmp_path / "result.h5")
    for f in dataclasses.fields(got):
        a, b = getattr(got, f.name), getattr(back, f.name)
        if isinstance(a, np.ndarray):
            np.testing.assert_array_equal(a, b)
        else:
            assert a == b, f.name
    got.save(tmp_path / "result.csv")
    assert (tmp_path / "result.csv").read_text().startswith("rule,region,n_seeds,n_subjects")
    assert len(got.to_dataframe()) == 4
    text = back.summary()
    assert "Generalises to new stimuli and subjects; speaks for these seeds only." in text
    ax = back.plot()
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b", "a", "b"]
    assert len(ax.patches) == 4
    with pytest.raises(InvalidInputError, match="saved as"):
        got.save(tmp_path / "result.txt")


@pytest.mark.slow
def test_command_line_gives_the_numbers_of_the_function(
    rng: np.random.Generator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models, brain = table(*simulated(rng, 12, 6, 8))
    models.save(tmp_path / "models.h5")
    brain.save(tmp_path / "brain.h5")
    words = ["bootstrap", str(tmp_path / "models.h5"), str(tmp_path / "brain.h5")]
    words += ["--resample", "stimuli,subjects", "-n", "200", "--rules", "rule", "--seeds", "seed"]
    words += ["--regions", "region", "--subjects", "subject", "--ceiling", "--interval", "bca"]
    files = {"--out": "r.h5", "--csv": "r.csv", "--figure": "r.svg"}
    outputs = [word for k, v in files.items() for word in (k, str(tmp_path / v))]
    assert main([*words, *outputs, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    expected = rf.bootstrap(
        models, brain, resample=("stimuli", "subjects"), n_resamples=200, ceiling=True,
        interval="bca", **GROUPS,
    )  # fmt: skip
    frame = expected.to_dataframe()
    assert [row["ci_low"] for row in printed["estimates"]] == frame.ci_low.tolist()
    assert len(printed["differences"]) == 2
    assert all((tmp_path / name).stat().st_size > 500 for name in ("r.h5", "r.svg"))
    assert main([*words, "--quiet"]) == 0
    text = capsys.readouterr().out
    assert "Generalises to new stimuli and subjects" in text
    assert "noise ceiling" in text
    assert main([*words, "--resample", "voxels"]) == 2
    assert "resample must name" in capsys.readouterr().err
