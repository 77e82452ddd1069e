"""`permutation_test` against peers and brute force, and what it refuses."""

import contextlib

import numpy as np
import pytest
from mne_rsa import rsa
from rsafast_kernels.device import cuda_missing
from scipy.stats import false_discovery_control
from skbio.stats.distance import DistanceMatrix, mantel

import rsafast as rf
from rsafast.errors import BackendUnavailableError, InvalidInputError, UnsupportedCaseError

N = 12


def check(models, brain, **keywords):
    return rf.permutation_test(models, brain, progress=False, **keywords)


def pairs(rdm):
    return rdm[np.triu_indices(len(rdm), 1)]


# ---------------------------------------------------------------- peers


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("kind", ["gaussian", "clustered", "line", "categories"])
def test_p_values_agree_with_scikit_bio(random_rdm, rng, method, alternative, kind):
    n, shuffles = 24, 4999
    model, order = random_rdm(n, kind), rng.permutation(n)
    brain = random_rdm(n, kind)[np.ix_(order, order)]
    brain += (0.15 if alternative != "less" else -0.05) * model * brain.std() / model.std()
    brain -= min(brain.min(), 0)
    np.fill_diagonal(brain, 0)
    ours = check(model, brain, method=method, alternative=alternative, n_permutations=50_000)
    r, p, _ = mantel(
        DistanceMatrix(model), DistanceMatrix(brain), method=method, permutations=shuffles,
        alternative=alternative, seed=1,
    )  # fmt: skip
    ours_p, error = ours.p_value[0, 0], ours.p_standard_error[0, 0]
    assert ours.statistic[0, 0] == pytest.approx(r, abs=1e-10)
    # Four standard errors, and the 1 in (1 + count) / (1 + shuffles).
    assert (
        abs(ours_p - p)
        < 4 * np.hypot(error, np.sqrt(ours_p * (1 - ours_p) / shuffles)) + 1 / shuffles
    )


@pytest.mark.parametrize(
    ("method", "metric"), [("pearson", "partial"), ("spearman", "partial-spearman")]
)
@pytest.mark.parametrize("scheme", ["freedman-lane", "raw"])
@pytest.mark.parametrize("others", [1, 2, 4])
def test_partial_correlation_agrees_with_mne_rsa(random_rdm, method, metric, scheme, others):
    kinds = ["gaussian", "clustered", "line", "categories"][:others]
    z = np.stack([random_rdm(15, kind) for kind in kinds])
    model = random_rdm(15) + 0.5 * z[0]
    brain = random_rdm(15, "clustered") + 0.5 * z[0] + 0.5 * model
    ours = check(
        model, brain, method=method, covariates=z, covariate_scheme=scheme, n_permutations=100
    )
    # mne-rsa partials every model for all the others.
    theirs = rsa(pairs(brain), [pairs(model), *map(pairs, z)], metric=metric)
    assert ours.statistic[0, 0] == pytest.approx(theirs[0], abs=1e-10)


def test_q_values_are_benjamini_hochbergs(random_rdm):
    models = np.stack([random_rdm(N) for _ in range(5)])
    result = check(models, np.stack([models[0] + random_rdm(N), random_rdm(N)]), n_permutations=999)
    expected = false_discovery_control(result.p_value.ravel()).reshape(5, 2)
    assert np.array_equal(result.q_value, expected)
    assert (result.q_value >= result.p_value).all()


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize("engine", ["orbit", "direct"])
def test_max_t_against_brute_force(random_rdm, alternative, engine):
    """Westfall & Young written out on the kept null."""
    models = np.stack([random_rdm(N, k) for k in ("gaussian", "line", "clustered", "gaussian")])
    brain = np.stack([random_rdm(N) + 0.5 * models[0], random_rdm(N)])
    result = check(
        models, brain, alternative=alternative, engine=engine, n_permutations=1000, keep_null=True
    )
    turn = {"greater": lambda x: x, "less": np.negative, "two-sided": np.abs}[alternative]
    null, observed = turn(result.null).reshape(8, -1), turn(result.statistic).ravel()
    if result.moments == "exact":
        centre = {"greater": 1, "less": -1, "two-sided": 0}[alternative] * result.null_mean.ravel()
        null = (null - centre[:, None]) / result.null_std.reshape(8, 1)
        observed = (observed - centre) / result.null_std.ravel()
    close = 1e-9
    single = [(null.max(axis=0) >= o - close).mean() for o in observed]
    order, down, floor = np.argsort(observed)[::-1], np.empty(8), 0.0
    for k, q in enumerate(order):
        floor = max(floor, (null[order[k:]].max(axis=0) >= observed[q] - close).mean())
        down[q] = floor
    assert np.allclose(result.p_value_fwer.ravel(), single, atol=1e-12)
    assert np.allclose(result.p_value_stepdown.ravel(), down, atol=1e-12)
    assert (result.p_value <= result.p_value_stepdown).all()
    assert (result.p_value_stepdown <= result.p_value_fwer).all()


def test_one_pair_needs_no_correction(random_rdm):
    result = check(random_rdm(N), random_rdm(N), n_permutations=500)
    assert result.p_value == result.p_value_fwer == result.p_value_stepdown == result.q_value


def test_labels_are_matched(random_rdm, rng):
    a, b, order = random_rdm(N), random_rdm(N), rng.permutation(N)
    labels = [f"s{i}" for i in range(N)]
    shuffled = rf.RDMs(b[np.ix_(order, order)], labels=[labels[i] for i in order])
    found = check(rf.RDMs(a, labels=labels), shuffled, n_permutations=500, keep_null=True)
    expected = check(a, b, n_permutations=500, keep_null=True)
    assert np.allclose(found.null, expected.null, atol=1e-12)


def test_inputs_are_left_alone(random_rdm):
    arrays = {k: random_rdm(N) for k in ("models", "brain", "covariates")}
    arrays["mask"] = np.ones((N, N), bool)
    arrays["mask"][0, 1] = arrays["mask"][1, 0] = False
    before = {k: v.copy() for k, v in arrays.items()}
    check(**arrays, n_permutations=200)
    assert all(np.array_equal(arrays[k], before[k]) for k in arrays)


# ---------------------------------------------------------------- refusals


def with_entry(rdm, value):
    rdm = rdm.copy()
    rdm[0, 1] = rdm[1, 0] = value
    return rdm


def few_pairs():
    mask = np.zeros((N, N), bool)
    mask[:3, :3] = True
    return mask


def lopsided():
    mask = np.ones((N, N), bool)
    mask[0, 1] = False
    return mask


CHOICES = {
    "negative count": ({"n_permutations": -1}, "n_permutations must be"),
    "no count": ({"n_permutations": 0}, "n_permutations must be"),
    "part of a count": ({"n_permutations": 10.5}, "n_permutations must be"),
    "boolean count": ({"n_permutations": True}, "n_permutations must be"),
    "method": ({"method": "euclid"}, "method must be one of"),
    "engine": ({"engine": "fft"}, "engine must be one of"),
    "alternative": ({"alternative": "bigger"}, "alternative must be one of"),
    "tail": ({"tail": "normal"}, "tail must be one of"),
    "scheme": ({"covariate_scheme": "draper"}, "covariate_scheme must be one of"),
    "device": ({"device": "tpu"}, "device must be one of"),
    "seed": ({"seed": -1}, "seed must be"),
    "part of a seed": ({"seed": 0.5}, "seed must be"),
    "small mask": ({"mask": few_pairs()}, "leaves 3 of 66 pairs"),
    "lopsided mask": ({"mask": lopsided()}, "not symmetric"),
    "mask of numbers": ({"mask": np.full((N, N), 0.5)}, "must be boolean"),
    "mask of another size": ({"mask": np.ones((9, 9), bool)}, "mask must be"),
    "tiny budget": ({"memory_budget": "1KB"}, "memory_budget of 1 KB is too small"),
    "budget of nothing": ({"memory_budget": 0}, "memory budget must be"),
    "budget in words": ({"memory_budget": "much"}, "is not a size"),
    "null beyond budget": (
        {"keep_null": True, "n_permutations": 10**9},
        "keep_null would take",
    ),
    "short blocks": ({"blocks": [0, 1]}, "blocks must hold one value"),
    "single blocks": ({"blocks": np.arange(N)}, "nothing can be permuted"),
    "NaN blocks": ({"blocks": np.full(N, np.nan)}, "blocks holds NaN"),
}


@pytest.mark.parametrize("case", CHOICES)
def test_rejects_a_bad_choice(random_rdm, case):
    keywords, message = CHOICES[case]
    with pytest.raises(InvalidInputError, match=message):
        check(random_rdm(N), random_rdm(N), **keywords)


@pytest.mark.parametrize(
    "keywords",
    [
        {"n_permutations": float("nan")},
        {"n_permutations": float("inf")},
        {"n_permutations": "many"},
        {"n_permutations": None},
        {"seed": None},
        {"seed": "one"},
        {"method": ["pearson"]},
        {"memory_budget": [1]},
        {"blocks": [None, "a"] * (N // 2)},
    ],
    ids=repr,
)
def test_rejects_a_value_of_the_wrong_kind(random_rdm, keywords):
    with pytest.raises(InvalidInputError):
        check(random_rdm(N), random_rdm(N), **keywords)


@pytest.mark.parametrize("keywords", [{"n_permutations": 1e3, "engine": "direct"}, {"seed": 1.0}])
def test_whole_floats_count_or_are_refused(random_rdm, keywords):
    with contextlib.suppress(InvalidInputError):
        check(random_rdm(N), random_rdm(N), **{"n_permutations": 200, **keywords})


@pytest.mark.parametrize("side", ["models", "brain"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rejects_values_that_are_no_numbers(random_rdm, side, value):
    sides = {"models": random_rdm(N), "brain": random_rdm(N)}
    sides[side] = with_entry(sides[side], value)
    with pytest.raises(InvalidInputError, match=rf"{side}.*pair \(0, 1\)"):
        check(**sides)


def test_rejects_rdms_that_cannot_be_tested(random_rdm):
    with pytest.raises(InvalidInputError, match="at least 4 stimuli"):
        check(random_rdm(4)[:3, :3], random_rdm(4)[:3, :3])
    with pytest.raises(InvalidInputError, match="undefined for RDM"):
        check(1 - np.eye(N), random_rdm(N))
    with pytest.raises(InvalidInputError, match="not symmetric"):
        check(np.triu(random_rdm(N)), random_rdm(N))
    with pytest.raises(InvalidInputError, match="stimuli"):
        check(random_rdm(N), random_rdm(N + 1))
    with pytest.raises(InvalidInputError, match="lacks 'l'"):
        check(
            rf.RDMs(random_rdm(N), labels=list("abcdefghijkl")),
            rf.RDMs(random_rdm(N), labels=list("abcdefghijkz")),
        )


@pytest.mark.parametrize(
    "scheme",
    [
        "freedman-lane",
        "raw",
    ],
)
def test_rejects_covariates_that_leave_nothing(random_rdm, scheme):
    a, b, z = random_rdm(N), random_rdm(N), random_rdm(N)
    for covariates, message in (
        (a, "linear function of the covariates"),
        (b, "linear function of the covariates"),
        (np.stack([z, 3 * z]), "linear function of the others"),
        (np.stack([z, random_rdm(N), z]), "linear function of the others"),
        (1 - np.eye(N), "undefined for RDM"),
        (random_rdm(N + 1), "stimuli"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            check(a, b, method="pearson", covariates=covariates, covariate_scheme=scheme)


UNSUPPORTED = [
    {"engine": "orbit", "method": "kendall"},
    {"engine": "orbit", "blocks": [0, 1] * (N // 2)},
    {"tail": "pearson3", "method": "tau-a"},
    {"tail": "pearson3", "blocks": [0, 1] * (N // 2)},
    {"method": "kendall", "mask": ~few_pairs()},
    {"method": "rho-a", "mask": ~few_pairs()},
]


@pytest.mark.parametrize("keywords", UNSUPPORTED, ids=lambda k: " ".join(k))
def test_says_what_no_engine_answers(random_rdm, keywords):
    with pytest.raises(UnsupportedCaseError):
        check(random_rdm(N), random_rdm(N), **keywords)


@pytest.mark.parametrize("method", ["kendall", "cosine", "corr_cov", "rho-a"])
def test_covariates_need_a_correlation(random_rdm, method):
    with pytest.raises(UnsupportedCaseError):
        check(random_rdm(N), random_rdm(N), covariates=random_rdm(N), method=method)


def test_rejects_a_model_that_is_constant_inside_the_mask(random_rdm):
    group = np.arange(N) * 2 // N
    between = group[:, None] != group[None]
    with pytest.raises(InvalidInputError):
        check(between.astype(float), random_rdm(N), method="pearson", mask=between)


def test_masked_spearman_has_one_partial_correlation(random_rdm, rng):
    a, b, z = random_rdm(N), random_rdm(N), random_rdm(N)
    keep = np.triu(rng.random((N, N)) < 0.6, 1)
    first, second = (
        check(a, b, covariates=z, mask=keep | keep.T, covariate_scheme=s, n_permutations=100)
        for s in ("freedman-lane", "raw")
    )
    assert first.statistic == pytest.approx(second.statistic, abs=1e-10)


def test_an_explicit_device_never_falls_back(random_rdm):
    if cuda_missing("cupy") is None:
        pytest.skip("a GPU is here")
    with pytest.raises(BackendUnavailableError, match="device='cuda' cannot run here: "):
        check(random_rdm(N), random_rdm(N), device="cuda")


def test_exact_refuses_to_enumerate_for_ever(random_rdm):
    with pytest.raises(InvalidInputError, match="would enumerate"):
        check(random_rdm(20), random_rdm(20), engine="exact")
