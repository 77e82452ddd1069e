"""Flexible models: exact maxima, agreement with rsatoolbox's fitters, odd and bad input."""

import numpy as np
import pytest
import rsatoolbox
from rsatoolbox.model import (
    ModelInterpolate,
    ModelSelect,
    ModelWeighted,
    fit_interpolate,
    fit_optimize,
    fit_regress,
    fit_regress_nn,
    fit_select,
)
from rsatoolbox.model.fitter import fit_optimize_positive
from scipy.optimize import minimize

import rsafast as rf
from rsafast.errors import InvalidInputError, UnsupportedCaseError

# Ours and rsatoolbox's; the comparators that are linear in the prediction.
LINEAR = {"pearson": "corr", "cosine": "cosine", "corr_cov": "corr_cov", "cosine_cov": "cosine_cov"}
RANKS = {"spearman": "spearman", "rho-a": "rho-a", "kendall": "kendall", "tau-a": "tau-a"}


def simulated(rng, n=12, k=4, subjects=5, noise=0.7):
    pairs = n * (n - 1) // 2
    parts = rng.random((k, pairs))
    truth = rng.uniform(-0.2, 1, k)
    scale = rng.uniform(0.1, 10, (subjects, 1))
    brain = scale * (truth @ parts + 2 + noise * rng.standard_normal((subjects, pairs)))
    return rf.RDMs.from_vectors(parts), rf.RDMs.from_vectors(brain)


def achieved(model, theta, brain, method, **options):
    return rf.compare(model.predict(theta), brain, method, **options).mean()


def theirs(rdms):
    return rsatoolbox.rdm.RDMs(rdms.vectors)


def sigma_of(rng, n):
    a = rng.standard_normal((n, 3 * n))
    return a @ a.T


# ---------------------------------------------------------------- agreement


@pytest.mark.parametrize("method", LINEAR)
@pytest.mark.parametrize("n", [5, 12, 21])
def test_weights_equal_fit_regress_and_its_nonnegative_kin(rng, method, n):
    parts, brain = simulated(rng, n, 4)
    peer, data = ModelWeighted("peer", parts.vectors), theirs(brain)
    free = rf.WeightedModel(parts, nonnegative=False).fit(brain, method)
    positive = rf.WeightedModel(parts).fit(brain, method)
    assert np.abs(free - fit_regress(peer, data, method=LINEAR[method])).max() < 1e-8
    assert np.abs(positive - fit_regress_nn(peer, data, method=LINEAR[method])).max() < 1e-8


@pytest.mark.parametrize("method", LINEAR | RANKS)
def test_selection_equals_fit_select(rng, method):
    parts, brain = simulated(rng, 9, 6)
    theta = rf.SelectModel(parts).fit(brain, method)
    peer = fit_select(
        ModelSelect("peer", parts.vectors), theirs(brain), method=(LINEAR | RANKS)[method]
    )
    assert np.array_equal(theta, np.eye(6)[int(peer)])


@pytest.mark.parametrize("method", LINEAR)
def test_fits_are_at_least_as_good_as_iterative_ones(rng, method):
    for n in (6, 8):
        parts, brain = simulated(rng, n, 3)
        data = theirs(brain)
        for model, fitter in (
            (rf.WeightedModel(parts, nonnegative=False), fit_optimize),
            (rf.WeightedModel(parts), fit_optimize_positive),
        ):
            peer = fitter(ModelWeighted("peer", parts.vectors), data, method=LINEAR[method])
            ours = achieved(model, model.fit(brain, method), brain, method)
            assert ours >= achieved(model, peer, brain, method) - 1e-12
        model = rf.InterpolatedModel(parts)
        peer = fit_interpolate(ModelInterpolate("p", parts.vectors), data, method=LINEAR[method])
        theta = model.fit(brain, method)
        ours, other = (achieved(model, t, brain, method) for t in (theta, peer))
        assert other - 1e-12 <= ours < other + 1e-6


@pytest.mark.parametrize("method", ["corr_cov", "cosine_cov"])
@pytest.mark.parametrize("kind", ["weighted", "free", "interpolated", "select"])
def test_fits_under_unequal_noise_are_maxima(rng, method, kind):
    """Against a general optimiser; rsatoolbox pools as if the noise were equal."""
    parts, brain = simulated(rng, 9, 3)
    sigma = sigma_of(rng, 9)
    model = {
        "weighted": rf.WeightedModel(parts),
        "free": rf.WeightedModel(parts, nonnegative=False),
        "interpolated": rf.InterpolatedModel(parts),
        "select": rf.SelectModel(parts),
    }[kind]
    theta = model.fit(brain, method, sigma_k=sigma)
    ours = achieved(model, theta, brain, method, sigma_k=sigma)
    if kind == "select":
        tried = np.eye(3)
    elif kind == "interpolated":
        w = np.linspace(0, 1, 101)[:, None]
        tried = np.concatenate([w * a + (1 - w) * b for a, b in np.eye(3)[[[0, 1], [1, 2]]]])
    else:
        square = kind == "weighted"

        def loss(t):
            return -achieved(model, t * t if square else t, brain, method, sigma_k=sigma)

        found = [minimize(loss, rng.random(3)).x for _ in range(3)]
        tried = [t * t if square else t for t in found]
        peer = fit_regress_nn if square else fit_regress
        tried.append(
            peer(ModelWeighted("p", parts.vectors), theirs(brain), method=method, sigma_k=sigma)
        )
    assert ours >= max(achieved(model, t, brain, method, sigma_k=sigma) for t in tried) - 1e-9


@pytest.mark.parametrize("method", LINEAR)
def test_weights_are_a_maximum_over_the_cone(rng, method):
    """Adversarial brains: opposed to the components, so that no weighted sum is any good."""
    for sign in (1, -1):
        parts, brain = simulated(rng, 8, 4, 3)
        brain = rf.RDMs.from_vectors(sign * brain.vectors)
        for model in (rf.WeightedModel(parts), rf.InterpolatedModel(parts)):
            best = achieved(model, model.fit(brain, method), brain, method)
            for theta in [*np.eye(4), *rng.dirichlet(np.full(4, 0.3), 300)]:
                if isinstance(model, rf.InterpolatedModel):
                    at = rng.integers(3)
                    theta[[i for i in range(4) if i not in (at, at + 1)]] = 0
                    if not theta.any():
                        continue
                assert achieved(model, theta, brain, method) <= best + 1e-12


@pytest.mark.data
def test_weights_on_fmri_equal_rsatoolbox(data_dir):
    models = rf.read_rdms(data_dir / "fmri92" / "92_modelRDMs.mat")
    it = rf.read_rdms(data_dir / "fmri92" / "target_fmri.mat", key="IT_RDMs")
    # On the scale of the file their active-set loop never ends: its stopping rule is absolute.
    length = 100 * np.linalg.norm(models.vectors, axis=1, keepdims=True)
    models = rf.RDMs.from_vectors(models.vectors / length)
    for method in ("pearson", "cosine"):
        peer = fit_regress_nn(
            ModelWeighted("peer", models.vectors), theirs(it), method=LINEAR[method]
        )
        theta = rf.WeightedModel(models).fit(it, method)
        assert np.abs(theta - peer).max() < 1e-8


# ---------------------------------------------------------------- what a fit must keep


@pytest.mark.parametrize("method", LINEAR)
def test_a_noiseless_mixture_is_found(rng, method):
    parts, _ = simulated(rng, 10, 4)
    truth = np.array([0.6, 0.0, 0.8, 0.0])
    brain = rf.RDMs.from_vectors(truth[None] @ parts.vectors * 17)
    assert np.abs(rf.WeightedModel(parts).fit(brain, method) - truth).max() < 1e-10
    segment = rf.InterpolatedModel(parts[[0, 2]]).fit(brain, method)
    assert np.abs(segment - [3 / 7, 4 / 7]).max() < 1e-10


@pytest.mark.parametrize("method", [*LINEAR, "spearman"])
def test_the_scale_of_a_subject_does_not_count(rng, method):
    parts, brain = simulated(rng)
    scaled = rf.RDMs.from_vectors(brain.vectors * rng.uniform(1e-3, 1e3, (5, 1)))
    model = rf.WeightedModel(parts)
    assert np.abs(model.fit(brain, method) - model.fit(scaled, method)).max() < 1e-10


@pytest.mark.parametrize("factor", [1e-6, 1e6])
def test_the_scale_of_a_component_only_scales_its_weight(rng, factor):
    parts, brain = simulated(rng, 10, 3)
    scale = np.array([1.0, 1.0, factor])
    one = rf.WeightedModel(parts).fit(brain)
    other = rf.WeightedModel(rf.RDMs.from_vectors(parts.vectors * scale[:, None])).fit(brain)
    assert np.abs(other * scale / np.linalg.norm(other * scale) - one).max() < 1e-9


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_values_whose_squares_have_no_float64_are_fitted(rng, scale):
    parts, brain = simulated(rng)
    far = [rf.RDMs.from_vectors(r.vectors * scale) for r in (parts, brain)]
    for method in [*LINEAR, "spearman"]:
        one, other = (rf.WeightedModel(p).fit(b, method) for p, b in ((parts, brain), far))
        assert np.abs(one - other).max() < 1e-10


def test_rank_methods_fit_pearson_with_the_mean_ranks(rng):
    parts, brain = simulated(rng, 10, 3)
    ranks = rf.RDMs.from_vectors(np.argsort(np.argsort(brain.vectors, 1), 1) + 1.0)
    for method in RANKS:
        for model in (rf.WeightedModel(parts), rf.InterpolatedModel(parts)):
            assert np.abs(model.fit(brain, method) - model.fit(ranks, "pearson")).max() < 1e-10


def test_monotone_transforms_of_subjects_leave_rank_fits_alone(rng):
    parts, brain = simulated(rng)
    warped = rf.RDMs.from_vectors(np.exp(brain.vectors / brain.vectors.max(1, keepdims=True)))
    model = rf.WeightedModel(parts)
    assert np.array_equal(model.fit(brain, "spearman"), model.fit(warped, "spearman"))


def test_training_stimuli_and_masks_equal_a_fit_to_what_they_leave(rng):
    parts, brain = simulated(rng, 14, 4)
    here = [1, 3, 4, 6, 8, 9, 12]
    model = rf.WeightedModel(parts)
    for method in [*LINEAR, "spearman"]:
        smaller = rf.WeightedModel(parts.subset(stimuli=here))
        smaller = smaller.fit(brain.subset(stimuli=here), method)
        assert np.abs(model.fit(brain, method, stimuli=here) - smaller).max() < 1e-10
    square = np.zeros((14, 14), bool)
    square[np.ix_(here, here)] = True
    masked = model.fit(brain, "pearson", mask=square)
    assert np.abs(masked - model.fit(brain, "pearson", stimuli=here)).max() < 1e-10


def test_stimuli_may_be_labels_and_brains_in_another_order(rng):
    labels = [f"s{i}" for i in range(12)]
    parts, brain = (rf.RDMs(r.vectors, labels) for r in simulated(rng))
    chosen = ["s3", "s1", "s7", "s10", "s11"]
    model = rf.WeightedModel(parts)
    one = model.fit(brain.reorder(labels[::-1]), "cosine", stimuli=chosen)
    positions = np.isin(labels, chosen)
    assert np.abs(one - model.fit(brain, "cosine", stimuli=positions)).max() < 1e-12
    assert model.predict(one).labels == tuple(labels)


def test_collinear_components_share_the_weight(rng):
    parts, brain = simulated(rng, 10, 2)
    twice = rf.RDMs.from_vectors(np.concatenate([parts.vectors, parts.vectors[:1]]))
    for nonnegative in (True, False):
        one = rf.WeightedModel(parts, nonnegative=nonnegative)
        two = rf.WeightedModel(twice, nonnegative=nonnegative)
        theta = two.fit(brain)
        same = rf.compare(two.predict(theta), one.predict(one.fit(brain)), "pearson")[0, 0]
        assert same > 1 - 1e-9
        assert np.isfinite(theta).all()


def test_a_component_without_spread_on_the_training_stimuli_gets_no_weight(rng):
    vectors = np.zeros((3, 66))
    vectors[:2] = rng.random((2, 66))
    group = np.repeat([0, 1], 6)
    x, y = np.triu_indices(12, 1)
    vectors[2] = group[x] != group[y]
    brain = rf.RDMs.from_vectors(vectors[:1] + rng.random((4, 66)))
    here = list(range(6))
    parts = rf.RDMs.from_vectors(vectors)
    assert rf.WeightedModel(parts).fit(brain, stimuli=here)[2] == 0
    assert rf.SelectModel(parts).fit(brain, "spearman", stimuli=here)[2] == 0
    assert rf.InterpolatedModel(parts).fit(brain, stimuli=here)[2] == 0


# ---------------------------------------------------------------- bad input


def test_models_say_what_they_cannot_hold(rng):
    with pytest.raises(InvalidInputError, match="holds one RDM, got 2"):
        rf.FixedModel(rng.random((2, 15)))
    for kind in (rf.SelectModel, rf.WeightedModel, rf.InterpolatedModel):
        with pytest.raises(InvalidInputError, match="at least 2 RDMs"):
            kind(rng.random((1, 15)))
    with pytest.raises(InvalidInputError, match="complete"):
        rf.WeightedModel(rf.RDMs(np.where(np.eye(2, 15) > 0, np.nan, 1.0), missing="allow"))
    with pytest.raises(InvalidInputError, match="name must be a str"):
        rf.SelectModel(rng.random((2, 15)), name=3)


def test_fits_refuse_what_has_no_answer(rng):
    parts, brain = simulated(rng)
    model = rf.WeightedModel(parts)
    flat = rf.RDMs.from_vectors(np.ones((2, 66)), names=["a", "flat"])
    with pytest.raises(InvalidInputError, match="no spread"):
        model.fit(flat)
    with pytest.raises(UnsupportedCaseError, match="mask"):
        model.fit(brain, "corr_cov", mask=np.arange(66) > 3)
    with pytest.raises(InvalidInputError, match="sigma_k"):
        model.fit(brain, "pearson", sigma_k=np.ones(12))
    with pytest.raises(InvalidInputError, match="at least 4"):
        model.fit(brain, stimuli=[0, 1, 2])
    constant = rf.WeightedModel(rf.RDMs.from_vectors(np.ones((2, 66))))
    with pytest.raises(InvalidInputError, match="no component has any spread"):
        constant.fit(brain)
    with pytest.raises(InvalidInputError, match="4 finite weights"):
        model.predict([1, 2, np.nan, 3])
