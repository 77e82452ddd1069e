"""Under the null, P(p <= alpha) <= alpha; and standard errors say how far p is from the truth."""

import numpy as np
import pytest
from rsafast_kernels import threads

import rsafast as rf
from rsafast.errors import InvalidInputError

pytestmark = [pytest.mark.calibration, pytest.mark.slow]

ALPHAS = np.array([0.01, 0.05, 0.2])
KINDS = ["gaussian", "clustered", "line", "categories"]
# Name: keywords of the test, whether blocks and a mask are drawn.
WAYS = {
    "orbit": ({"engine": "orbit"}, False, False),
    "two-sided": ({"engine": "orbit", "alternative": "two-sided"}, False, False),
    "one orbit": ({"engine": "orbit", "n_permutations": 1}, False, False),
    "direct": ({"engine": "direct"}, False, False),
    "masked": ({"engine": "orbit"}, False, True),
    "blocks": ({"engine": "direct"}, True, False),
}


@pytest.fixture(autouse=True)
def _one_thread():
    """Thousands of tiny tests: threads would only wait for one another."""
    with threads(1):
        yield


def test(models, brain, rng, **keywords):
    keywords = {"n_permutations": 199, "method": "pearson"} | keywords
    return rf.permutation_test(
        models, brain, seed=int(rng.integers(2**63)), progress=False, **keywords
    )


test.__test__ = False  # type: ignore[attr-defined]


def reorder(rdm, rng, blocks=None):
    """Put the stimuli in random order (within blocks), as the null hypothesis says."""
    order = np.arange(len(rdm))
    for block in np.unique(blocks) if blocks is not None else [None]:
        members = np.arange(len(rdm)) if block is None else np.flatnonzero(blocks == block)
        order[members] = rng.permutation(members)
    return rdm[np.ix_(order, order)]


def random_mask(rng, brain):
    """Keep about 70 % of the pairs, drawn again where the brain RDM would be constant on them.

    That looks at the brain side alone, so that the stimuli of the model stay exchangeable.
    """
    while True:
        keep = np.triu(rng.random(brain.shape) < 0.7, 1)
        if np.ptp(brain[keep]) > 0:
            return keep | keep.T


def assert_controlled(p_values):
    """At most alpha, give or take three standard errors."""
    p_values = np.asarray(p_values)
    rates = (p_values[:, None] <= ALPHAS + 1e-12).mean(axis=0)
    limits = ALPHAS + 3 * np.sqrt(ALPHAS * (1 - ALPHAS) / len(p_values))
    assert (rates <= limits).all(), dict(zip(ALPHAS.tolist(), rates.tolist(), strict=True))


# Half of all combinations: any two of size, kind and way meet in two of them at least. Were the
# rate at .05 twice what it should be, one of 800 (500, 150) repeats would fail with probability
# .996 (.94, .43); where it is right, with .002 (.003, .004).
@pytest.mark.parametrize(("n", "repeats", "kind", "way"), [
    (n, repeats, kind, way)
    for i, (n, repeats) in enumerate([(8, 800), (12, 800), (30, 500), (92, 150)])
    for k, kind in enumerate(KINDS)
    for w, way in enumerate(WAYS)
    if (i + k + w) % 2 == 0
])  # fmt: skip
def test_size_of_a_single_test(random_rdm, rng, n, repeats, kind, way):
    keywords, blocked, masked = WAYS[way]
    blocks = np.arange(n) % 2 if blocked else None
    p_values = []
    for _ in range(repeats):
        model, brain = reorder(random_rdm(n, kind), rng, blocks), random_rdm(n, kind)
        mask = random_mask(rng, brain) if masked else None
        try:
            result = test(model, brain, rng, mask=mask, blocks=blocks, **keywords)
        except InvalidInputError:
            # The model is constant on the mask: refused, which is no rejection of the null.
            assert masked
            assert kind == "categories"
            p_values.append(1.0)
        else:
            p_values.append(result.p_value[0, 0])
    assert_controlled(p_values)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_size_of_the_exact_engine(random_rdm, rng, kind):
    p_values = [
        test(reorder(random_rdm(6, kind), rng), random_rdm(6), rng, engine="exact").p_value[0, 0]
        for _ in range(800)
    ]
    assert_controlled(p_values)


@pytest.mark.parametrize("related", [False, True])
@pytest.mark.parametrize("kind", KINDS[:3])
@pytest.mark.parametrize("n", [12, 30])
def test_family_wise_error(random_rdm, rng, n, kind, related):
    """Probability of any false rejection, with one truly related brain RDM in the family or none.

    All models share an order of stimuli that is random with respect to the brain's, so that every
    pair with an unrelated brain RDM is null, jointly.
    """
    single, down = [], []
    for _ in range(500):
        models = np.stack([random_rdm(n, kind) for _ in range(3)])
        order = rng.permutation(n)
        models = models[:, order[:, None], order[None]]
        brain = np.stack([random_rdm(n, kind), random_rdm(n)])
        if related:
            brain = np.concatenate([brain, models.sum(axis=0)[None]])
        result = test(models, brain, rng)
        single.append(result.p_value_fwer[:, :2].min())
        down.append(result.p_value_stepdown[:, :2].min())
    assert_controlled(single)
    assert_controlled(down)


@pytest.mark.parametrize("n", [24, 92])
@pytest.mark.parametrize("kind", ["gaussian", "clustered", "line"])
@pytest.mark.parametrize("target", [0.3, 0.05, 0.01])
def test_standard_errors_cover_the_truth(random_rdm, rng, n, kind, target):
    """Two reported standard errors reach the p of many relabellings nearly always."""
    model, noise = random_rdm(n, kind), reorder(random_rdm(n, kind), rng)
    shares = np.linspace(-0.3, 0.9, 60)
    brain = np.stack([noise / noise.std() + s * model / model.std() for s in shares])
    brain -= brain.min()
    brain[:, np.arange(n), np.arange(n)] = 0
    search = test(model, brain, rng, n_permutations=20_000)
    chosen = brain[int(np.argmin(np.abs(search.p_value[0] - target)))]
    truth = test(model, chosen, rng, n_permutations=1_000_000).p_value[0, 0]
    results = [test(model, chosen, rng, n_permutations=40 * n) for _ in range(200)]
    p = np.array([r.p_value[0, 0] for r in results])
    errors = np.array([r.p_standard_error[0, 0] for r in results])
    size = results[0].n_permutations
    effect = p.var() / (truth * (1 - truth) / size)
    print(f"n={n} {kind} p={truth:.3g}: design effect {effect:.2f}")
    assert (np.abs(p - truth) <= 2 * errors).mean() >= 0.93 - 3 * np.sqrt(0.93 * 0.07 / len(p))


@pytest.mark.parametrize("method", ["pearson", "spearman"])
@pytest.mark.parametrize("n", [12, 30])
def test_size_of_partial_tests(rng, n, method):
    """The covariate is all that model and brain share, half of the variance of each or none.

    Approximate tests: the limits are a little above what benchmarks/partial_size.py measures. Ranks
    of a sum are not linear in the ranks of its parts, so partial Spearman keeps some covariate.
    """
    repeats, p_values = 600, []
    for share in [0.0, 0.5]:
        for _ in range(repeats):
            points = rng.standard_normal((3, n, 10))
            z, own_model, own_brain = rf.compute_rdms(points, "sqeuclidean").vectors
            model, brain = (
                np.sqrt(share) * z + np.sqrt(1 - share) * own for own in (own_model, own_brain)
            )
            result = test(model, brain, rng, covariates=z, method=method)
            p_values.append(result.p_value[0, 0])
    linear = {0.05: 0.065, 0.01: 0.015}
    limits = (linear, linear if method == "pearson" else {0.05: 0.1, 0.01: 0.035})
    for p, limit_at in zip(np.reshape(p_values, (2, repeats)), limits, strict=True):
        for alpha, limit in limit_at.items():
            error = np.sqrt(limit * (1 - limit) / repeats)
            assert (p <= alpha + 1e-12).mean() <= limit + 3 * error, (alpha, limit)
