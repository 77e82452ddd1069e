"""Every engine counts what direct evaluation of the same relabellings counts, to the last one."""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from rsafast_kernels import threads
from rsafast_kernels.tally.reference import scores, tally

import rsafast as rf
from rsafast.comparators import get_comparator
from rsafast.errors import InvalidInputError, UnsupportedCaseError
from rsafast.mask import as_pair_mask
from rsafast.permutation import engines
from rsafast.permutation.counts import TOLERANCE
from rsafast.permutation.statistics import build_statistic
from rsafast.rdms import as_rdms

# Primes, powers, odd and even composites, products with a large prime (Bluestein).
SIZES = [4, 5, 6, 7, 8, 9, 13, 16, 30, 31, 60, 92, 101, 134, 200]
BILINEAR = ["pearson", "spearman", "rho-a", "cosine", "corr_cov", "cosine_cov"]
ALTERNATIVES = ["greater", "less", "two-sided"]
# Names of requests: what `permutation_test` is asked for beyond the method.
REQUESTS = [
    "plain",
    "mask",
    "covariates",
    "covariates raw",
    "mask, covariates",
    "mask, covariates raw",
]


def stack(random_rdm, n, kinds):
    return np.stack([halves(n) if kind == "categories" else random_rdm(n, kind) for kind in kinds])


def halves(n):
    """Two categories, the first half and the rest: nearly all relabellings tie."""
    group = np.arange(n) * 2 // n
    return (group[:, None] != group[None]).astype(float)


def problem(random_rdm, rng, n, request):
    """Models, brain and keywords: ties everywhere, and a brain RDM that is related to a model."""
    models = stack(random_rdm, n, ["categories", "line", "gaussian"])
    brain = stack(random_rdm, n, ["clustered", "categories"])
    order = rng.permutation(n)
    brain[1] = brain[1][np.ix_(order, order)]
    brain[0] += 2 * models[2]
    keywords = {}
    if "mask" in request:
        keep = rng.random((n, n)) < 0.8
        keywords["mask"] = np.triu(keep, 1) | np.triu(keep, 1).T
    if "covariates" in request:
        keywords["covariates"] = stack(random_rdm, n, ["gaussian", "line"])
        keywords["covariate_scheme"] = "raw" if "raw" in request else "freedman-lane"
    return models, brain, keywords


def statistic_of(
    models, brain, method, *, mask=None, covariates=None, covariate_scheme="freedman-lane"
):
    rdms = as_rdms(models, "models")
    return build_statistic(
        get_comparator(method),
        rdms,
        as_rdms(brain, "brain"),
        covariates=None if covariates is None else as_rdms(covariates, "covariates"),
        keep=as_pair_mask(mask, rdms),
        scheme=covariate_scheme,
        rerank=False,
    )


def orbit_permutations(result):
    """All relabellings of an orbit test, in the order of its null."""
    n, (count_a, count_b) = result.n_stimuli, result.provenance["relabelings"]
    return np.array([
        engines.orbit_permutation(result.seed, i, j, s, n)
        for i in range(count_a) for j in range(count_b) for s in range(n)
    ])  # fmt: skip


def counts_of(values, result):
    """Exceedances, single-step and step-down counts of (M, N, P) statistics."""
    observed, alternative = result.statistic, result.alternative
    limits = scores(observed, alternative) - TOLERANCE
    centres, scales = np.zeros_like(limits), np.ones_like(limits)
    if result.moments == "exact":
        centres = {"greater": 1, "less": -1, "two-sided": 0}[alternative] * result.null_mean
        scales = 1 / np.where(result.null_std > 0, result.null_std, 1)
    each, single, down = tally(values[None, :, None], limits, alternative, centres, scales)
    order = np.argsort(((limits - centres) * scales).ravel(), kind="stable")[::-1]
    down[order] = np.maximum.accumulate(down[order])
    return [c.reshape(observed.shape) for c in (each.sum(axis=0), single, down)]


def counts_in(result):
    total = result.n_permutations
    return [
        result.exceedances,
        np.rint(result.p_value_fwer * total).astype(int),
        np.rint(result.p_value_stepdown * total).astype(int),
    ]


def assert_same_counts(found, expected):
    for name, x, y in zip(
        ("exceedances", "single-step", "step-down"), found, expected, strict=True
    ):
        assert np.array_equal(x, y), f"{name}: {x.tolist()} instead of {y.tolist()}"


def orbit_test(models, brain, method, alternative="greater", n_permutations=None, **keywords):
    wanted = 6 * models.shape[1] if n_permutations is None else n_permutations
    return rf.permutation_test(
        models, brain, method=method, alternative=alternative, n_permutations=wanted,
        engine="orbit", seed=5, progress=False, **keywords,
    )  # fmt: skip


# ---------------------------------------------------------------- orbit = direct evaluation


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("method", BILINEAR)
def test_orbit_counts_are_those_of_direct_evaluation(random_rdm, rng, n, method):
    models, brain, _ = problem(random_rdm, rng, n, "plain")
    statistic = statistic_of(models, brain, method)
    values = None
    for alternative in ALTERNATIVES:
        result = orbit_test(models, brain, method, alternative)
        if values is None:
            values = statistic.evaluate(orbit_permutations(result))
        assert_same_counts(counts_in(result), counts_of(values, result))


@pytest.mark.parametrize("n", [8, 9, 13, 30, 31, 60, 92, 101])
@pytest.mark.parametrize("request_", REQUESTS[1:])
@pytest.mark.parametrize("method", ["pearson", "spearman"])
def test_orbit_counts_with_masks_and_covariates(random_rdm, rng, n, request_, method):
    models, brain, keywords = problem(random_rdm, rng, n, request_)
    statistic = statistic_of(models, brain, method, **keywords)
    values = None
    for alternative in ALTERNATIVES:
        result = orbit_test(models, brain, method, alternative, **keywords)
        if values is None:
            values = statistic.evaluate(orbit_permutations(result))
        assert_same_counts(counts_in(result), counts_of(values, result))


@pytest.mark.parametrize("n", [9, 31, 92])
def test_orbit_counts_of_a_masked_cosine(random_rdm, rng, n):
    models, brain, keywords = problem(random_rdm, rng, n, "mask")
    result = orbit_test(models, brain, "cosine", **keywords)
    values = statistic_of(models, brain, "cosine", **keywords).evaluate(orbit_permutations(result))
    assert_same_counts(counts_in(result), counts_of(values, result))


@pytest.mark.parametrize("n", [8, 31, 92])
def test_counts_where_every_value_ties(random_rdm, rng, n):
    """Two categorical RDMs: a handful of distinct values, most relabellings tie with another."""
    models = stack(random_rdm, n, ["categories", "categories"])
    order = rng.permutation(n)
    models[1] = models[1][np.ix_(order, order)]
    brain = models[:, ::-1, ::-1].copy()
    for method in ("pearson", "spearman"):
        result = orbit_test(models, brain, method, "two-sided", n_permutations=20 * n)
        values = statistic_of(models, brain, method).evaluate(orbit_permutations(result))
        assert_same_counts(counts_in(result), counts_of(values, result))


# ---------------------------------------------------------------- places, identity, seeds, blocks


@pytest.mark.parametrize("n", [7, 30])
@pytest.mark.parametrize("request_", ["plain", "mask, covariates"])
def test_the_null_lists_orbit_permutations_in_order(random_rdm, rng, n, request_):
    models, brain, keywords = problem(random_rdm, rng, n, request_)
    result = orbit_test(models, brain, "spearman", keep_null=True, **keywords)
    expected = statistic_of(models, brain, "spearman", **keywords).evaluate(
        orbit_permutations(result)
    )
    assert np.abs(result.null - expected).max() < 1e-12


@pytest.mark.parametrize("engine", ["orbit", "direct", "exact"])
def test_the_identity_is_among_the_relabellings(random_rdm, rng, engine):
    models, brain, _ = problem(random_rdm, rng, 7, "plain")
    result = rf.permutation_test(
        models,
        brain,
        method="pearson",
        engine=engine,
        n_permutations=500,
        keep_null=True,
        progress=False,
    )
    assert np.abs(result.null[:, :, 0] - result.statistic).max() < 1e-12
    assert np.allclose(result.statistic, rf.compare(models, brain, "pearson"), atol=1e-12)
    assert result.null.shape == (3, 2, result.n_permutations)


@pytest.mark.parametrize("engine", ["orbit", "direct"])
def test_seeds_reproduce_and_differ(random_rdm, rng, engine):
    models, brain, _ = problem(random_rdm, rng, 23, "plain")

    def null(seed):
        return rf.permutation_test(
            models,
            brain,
            engine=engine,
            seed=seed,
            n_permutations=800,
            keep_null=True,
            progress=False,
        ).null

    assert np.array_equal(null(3), null(3))
    assert not np.allclose(null(3)[..., 1:], null(4)[..., 1:])


@pytest.mark.parametrize("request_", ["plain", "mask, covariates"])
@pytest.mark.parametrize("n", [13, 47])
def test_counts_do_not_depend_on_memory_threads_or_block_size(
    random_rdm, rng, monkeypatch, request_, n
):
    models, brain, keywords = problem(random_rdm, rng, n, request_)

    def count(**more):
        return counts_in(
            orbit_test(models, brain, "spearman", "two-sided", 150 * n, **keywords, **more)
        )

    expected = count()
    for budget in ("3MB", "10MB", "100MB"):
        assert_same_counts(count(memory_budget=budget), expected)
    for number in (1, 2):
        with threads(number):
            assert_same_counts(count(), expected)
    for size, rows in ((1, 1), (2**12, 5), (2**20, 7), (2**30, 1000)):
        monkeypatch.setattr(engines, "_BLOCK_BYTES", size)
        monkeypatch.setattr(engines, "_MOST_ROWS", rows)
        assert_same_counts(count(), expected)


SCRIPT = """
import json, sys, numpy as np, rsafast as rf
data = np.load(sys.argv[1])
r = rf.permutation_test(data["models"], data["brain"], mask=data["mask"], n_permutations=3000,
                        engine="orbit", alternative="two-sided", seed=1, progress=False)
n = r.n_permutations
print(json.dumps([r.exceedances.tolist(), (r.p_value_fwer * n).round().tolist(),
                  (r.p_value_stepdown * n).round().tolist()]))
"""


@pytest.mark.slow
def test_counts_do_not_depend_on_the_instruction_set(random_rdm, rng, tmp_path):
    models, brain, keywords = problem(random_rdm, rng, 31, "mask")
    np.savez(tmp_path / "data.npz", models=models, brain=brain, mask=keywords["mask"])
    found = []
    for isa in ("cpu", None):
        environment = {k: v for k, v in os.environ.items() if k != "RSAFAST_ISA"}
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path / "data.npz")],
            env=environment if isa is None else environment | {"RSAFAST_ISA": isa},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.append(json.loads(run.stdout))
    assert found[0] == found[1]


@pytest.mark.parametrize("wanted", [1, 2, 30, 31, 89, 90, 120, 1000, 12_345])
def test_orbits_are_whole_and_both_sides_are_relabelled(wanted):
    a, b = engines.split_relabelings(-(-wanted // 30), 3, 2)
    assert a * b * 30 >= wanted
    assert wanted <= 90 or min(a, b) >= 2
    assert a * b * 30 <= max(wanted * 1.5, 4 * 30)


# ---------------------------------------------------------------- exact and direct


def within_blocks(permutations, blocks):
    return np.array(
        [p for p in permutations if all(blocks[k] == blocks[i] for i, k in enumerate(p))]
    )


@pytest.mark.parametrize("n", [4, 5, 6, 7])
@pytest.mark.parametrize("blocks", [False, True])
@pytest.mark.parametrize("method", ["spearman", "cosine_cov", "kendall"])
def test_exact_enumerates_every_relabelling_once(random_rdm, rng, n, blocks, method):
    models, brain, _ = problem(random_rdm, rng, n, "plain")
    groups = np.arange(n) % 2 if blocks else None
    every = np.array(list(itertools.permutations(range(n))), np.int32)
    if blocks:
        every = within_blocks(every, groups)
    result = rf.permutation_test(
        models, brain, method=method, engine="exact", blocks=groups, keep_null=True, progress=False
    )
    values = statistic_of(models, brain, method).evaluate(every)
    assert result.n_permutations == len(every)
    assert np.allclose(np.sort(result.null, axis=-1), np.sort(values, axis=-1), atol=1e-12)
    assert_same_counts(counts_in(result), counts_of(values, result))
    assert (result.p_standard_error == 0).all()


@pytest.mark.parametrize("blocks", [None, [0, 1, 0, 2, 1, 0, 2], list("aabbbab")])
def test_enumeration_is_lexicographic_and_complete(blocks):
    groups = None if blocks is None else np.unique(blocks, return_inverse=True)[1]
    members = [np.arange(7)] if groups is None else [
        np.flatnonzero(groups == g) for g in np.unique(groups)
    ]  # fmt: skip
    total = engines.count_relabelings(7, groups)
    found = engines.enumerate_relabelings(members, 0, total)
    every = np.array(list(itertools.permutations(range(7))))
    expected = every if groups is None else within_blocks(every, groups)
    assert {tuple(p) for p in found} == {tuple(p) for p in expected}
    assert len(found) == len(expected)
    parts = [
        engines.enumerate_relabelings(members, k, min(k + 5, total)) for k in range(0, total, 5)
    ]
    assert np.array_equal(np.concatenate(parts), found)


def test_direct_relabellings_keep_to_blocks(random_rdm, rng):
    """A model that only distinguishes the blocks never changes under relabelling within them."""
    blocks = np.repeat(["x", "y", "z"], [5, 4, 6])[rng.permutation(15)]
    model = (blocks[:, None] != blocks[None]).astype(float)
    result = rf.permutation_test(
        np.stack([model, random_rdm(15)]), random_rdm(15), method="pearson", blocks=blocks,
        n_permutations=300, keep_null=True, progress=False,
    )  # fmt: skip
    assert result.engine == "direct"
    assert np.ptp(result.null[0, 0]) < 1e-12
    assert np.ptp(result.null[1, 0]) > 0.1
    assert result.p_value[0, 0] == 1


@pytest.mark.parametrize("method", ["pearson", "kendall", "tau-a"])
def test_direct_counts_against_its_own_relabellings(random_rdm, rng, method):
    models, brain, _ = problem(random_rdm, rng, 12, "plain")
    result = rf.permutation_test(
        models,
        brain,
        method=method,
        engine="direct",
        n_permutations=400,
        keep_null=True,
        progress=False,
    )
    assert result.n_permutations == 400
    assert_same_counts(counts_in(result), counts_of(result.null, result))


def test_reranking_inside_a_mask_is_spearman_of_the_pairs_that_count(random_rdm, rng):
    from scipy.stats import spearmanr

    models, brain, keywords = problem(random_rdm, rng, 11, "mask")
    result = rf.permutation_test(
        models, brain, engine="direct", n_permutations=50, progress=False, **keywords
    )
    keep = keywords["mask"][np.triu_indices(11, 1)]
    for m, n in np.ndindex(3, 2):
        x, y = (r[np.triu_indices(11, 1)][keep] for r in (models[m], brain[n]))
        assert abs(result.statistic[m, n] - spearmanr(x, y)[0]) < 1e-12


# ---------------------------------------------------------------- ill-conditioned requests


def with_sentinel(random_rdm, value):
    """Model with a value such as 9999 on a pair that the mask leaves out, brain, mask."""
    model = random_rdm(20)
    brain = model + 0.3 * random_rdm(20)
    model[0, 1] = model[1, 0] = value
    mask = np.ones((20, 20), bool)
    mask[0, 1] = mask[1, 0] = False
    return model, brain, mask


@pytest.mark.parametrize("value", [1e3, 1e4])
def test_the_identity_counts_though_a_masked_pair_dwarfs_the_rest(random_rdm, value):
    for seed in range(10):
        model, brain, mask = with_sentinel(random_rdm, value)
        result = rf.permutation_test(
            model, brain, method="pearson", mask=mask, n_permutations=2000, seed=seed,
            progress=False,
        )  # fmt: skip
        assert result.exceedances[0, 0] >= 1


def test_a_masked_pair_that_drowns_the_rest_is_refused(random_rdm):
    model, brain, mask = with_sentinel(random_rdm, 1e7)
    with pytest.raises(InvalidInputError, match="outside the mask is so large"):
        rf.permutation_test(model, brain, method="pearson", mask=mask, progress=False)


@pytest.mark.parametrize("share", [1e-3, 1e-4])
def test_the_identity_counts_though_the_model_nearly_is_a_covariate(random_rdm, share):
    for seed in range(10):
        shared, own = random_rdm(20), random_rdm(20)
        result = rf.permutation_test(
            shared + share * own, shared + own, method="pearson", covariates=shared,
            covariate_scheme="raw", n_permutations=2000, seed=seed, progress=False,
        )  # fmt: skip
        assert result.exceedances[0, 0] >= 1


@pytest.mark.parametrize(
    "options",
    [{}, {"engine": "direct", "n_permutations": 100}, {"tail": "gpd", "method": "pearson"}],
    ids=str,
)
def test_a_cluster_counts_the_same(inline, random_rdm, options):
    models, brain = np.stack([random_rdm(20), random_rdm(20, "line")]), random_rdm(20)
    given = {"n_permutations": 3000, "seed": 3, "progress": False} | options
    there = rf.permutation_test(models, brain, cluster=inline, **given)
    here = rf.permutation_test(models, brain, **given)
    for name in ("exceedances", "p_value_fwer", "p_value_stepdown", "histogram", "n_permutations"):
        assert np.array_equal(getattr(there, name), getattr(here, name)), name
    for name in ("p_standard_error", "null_std", "p_tail"):
        if getattr(here, name) is not None:
            np.testing.assert_allclose(getattr(there, name), getattr(here, name), rtol=1e-12)


def test_a_cluster_keeps_no_null(random_rdm):
    with pytest.raises(UnsupportedCaseError, match="leave cluster= out"):
        rf.permutation_test(random_rdm(9), random_rdm(9), cluster="local", keep_null=True)
