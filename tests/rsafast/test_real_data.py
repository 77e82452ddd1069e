"""Published data, read as a user reads them, give the published numbers."""

import nibabel
import numpy as np
import pytest
import rsatoolbox
from rsatoolbox.data import Dataset

import rsafast as rf

pytestmark = pytest.mark.data

MODELS = ("animacy", "FaceBodyManmadeNatobj", "monkeyIT", "EVA", "HMAX", "V1", "Silhouette",
          "RADON")  # fmt: skip
PUBLISHED_THINGS = {"Group2": 0.9663, "VICE": 0.8877, "SPoSE": 0.8602}  # Pearson with Group1


# ---- Kriegeskorte et al. 2008: inferior temporal cortex of monkey and human ----------------------


@pytest.fixture(scope="module")
def monkey_human(data_dir):
    rdms = rf.read_rdms(data_dir / "fmri92" / "Kriegeskorte_Neuron2008_supplementalData.mat")
    return rdms[0], rdms[1]


@pytest.mark.parametrize(("method", "published"), [("pearson", 0.491210), ("spearman", 0.438924)])
def test_monkey_and_human_it_agree_as_published(monkey_human, method, published):
    result = rf.permutation_test(*monkey_human, method=method, n_permutations=10**6, progress=False)
    assert result.n_permutations >= 10**6
    assert rf.compare(*monkey_human, method)[0, 0] == pytest.approx(published, abs=1e-6)
    assert result.statistic[0, 0] == pytest.approx(published, abs=1e-6)
    assert (result.exceedances == 1).all()  # the observed labelling alone
    assert result.p_value[0, 0] == result.smallest_p
    if method == "pearson":
        assert result.null_std[0, 0] == pytest.approx(0.0184, abs=5e-5)
        assert result.null_mean[0, 0] == pytest.approx(0.0, abs=1e-12)


def test_the_sampled_null_of_monkey_and_human_it_is_the_published_one(monkey_human):
    result = rf.permutation_test(
        *monkey_human, method="pearson", n_permutations=10_000, keep_null=True, progress=False
    )
    null = np.sort(result.null[0, 0])[:-1]  # without the observed labelling
    assert null.std() == pytest.approx(0.0184, abs=5e-4)
    assert null[-1] == pytest.approx(0.080, abs=0.015)


# ---- Algonauts 2019: eight models, fifteen subjects, two regions ---------------------------------


@pytest.fixture(scope="module")
def models(data_dir):
    return rf.read_rdms(data_dir / "fmri92" / "92_modelRDMs.mat")


@pytest.fixture(scope="module")
def subjects(data_dir):
    """Fifteen subjects' early visual cortex, then their inferior temporal cortex."""
    path = data_dir / "fmri92" / "target_fmri.mat"
    return rf.RDMs.concat(
        [
            rf.read_rdms(path, key=f"{roi}_RDMs", names=[f"{roi} {i}" for i in range(15)])
            for roi in ("EVC", "IT")
        ]
    )


@pytest.mark.parametrize(("method", "peer_name"), [("pearson", "corr"), ("spearman", "spearman")])
def test_statistics_of_subjects_equal_rsatoolbox(models, subjects, method, peer_name):
    peer = rsatoolbox.rdm.compare(
        *(rsatoolbox.rdm.RDMs(r.vectors) for r in (models, subjects)), method=peer_name
    )
    result = rf.permutation_test(
        models, subjects, method=method, n_permutations=1000, progress=False
    )
    np.testing.assert_allclose(result.statistic, peer, rtol=0, atol=1e-12)
    np.testing.assert_allclose(rf.compare(models, subjects, method), peer, rtol=0, atol=1e-12)


def test_joint_test_of_models_and_subjects(models, subjects):
    result = rf.permutation_test(models, subjects, n_permutations=20_000, progress=False)
    table = result.to_dataframe()
    assert models.names == MODELS
    assert len(table) == 8 * 30
    assert table.model.tolist()[::30] == list(MODELS)
    assert table.brain.tolist()[:30] == list(subjects.names)
    # max-T is never more lenient than a single test, nor the single step than the step-down.
    assert (result.p_value_stepdown >= result.p_value).all()
    assert (result.p_value_fwer >= result.p_value_stepdown).all()
    # Animacy tells human IT apart from early visual cortex.
    mean = result.statistic[MODELS.index("animacy")].reshape(2, 15).mean(axis=1)
    assert mean[1] > mean[0]
    assert (result.p_value_fwer[MODELS.index("animacy"), 15:] < 0.05).any()


# ---- THINGS: 1,854 concepts ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def things(data_dir):
    files = {
        "Group1": "THINGS_embedding_Group1.npy",
        "Group2": "THINGS_embedding_Group2.npy",
        "VICE": "vice_embedding_1854x42.npy",
        "SPoSE": "spose_embedding_1854x82.npy",
    }
    layers = {}
    for name, file in files.items():
        (layers[name],) = rf.read_features(data_dir / "things" / file).layers.values()
    return layers


@pytest.mark.slow
def test_embeddings_of_things_agree_as_published(things):
    models = rf.compute_rdms({name: things[name] for name in PUBLISHED_THINGS})
    brain = rf.compute_rdms({"Group1": things["Group1"]})
    result = rf.permutation_test(
        models, brain, method="pearson", n_permutations=100_000, progress=False
    )
    assert (result.n_stimuli, result.n_permutations >= 100_000) == (1854, True)
    assert result.model_names == tuple(PUBLISHED_THINGS)
    np.testing.assert_allclose(result.statistic[:, 0], list(PUBLISHED_THINGS.values()), atol=5e-4)
    assert (result.p_value == result.smallest_p).all()
    assert (result.p_value_fwer == result.smallest_p).all()


def test_shuffled_concepts_do_not_agree(things, rng):
    shuffled = {name: rng.permutation(things[name]) for name in PUBLISHED_THINGS}
    models = rf.compute_rdms(shuffled)
    brain = rf.compute_rdms({"Group1": things["Group1"]})
    result = rf.permutation_test(
        models, brain, method="pearson", n_permutations=5000, progress=False
    )
    assert np.abs(result.statistic).max() < 5e-3
    assert np.abs(result.z).max() < 4
    assert result.p_value.min() > 1e-3


# ---- Haxby et al. 2001: one slice, twelve runs, eight categories ---------------------------------


@pytest.fixture(scope="module")
def haxby(data_dir):
    """Mean pattern of every category in every run: patterns (96, 530), categories, runs."""
    folder = data_dir / "haxby_slice"
    volumes = np.asarray(nibabel.load(folder / "bold.nii.gz").dataobj, dtype=np.float64)
    bold = volumes.reshape(-1, volumes.shape[-1]).T
    bold = bold[:, bold.std(axis=0) > 0]
    category, run = np.loadtxt(folder / "attributes_literal.txt", dtype=str, unpack=True)
    cells = [(c, r) for r in np.unique(run) for c in np.unique(category) if c != "rest"]
    patterns = np.array([bold[(category == c) & (run == r)].mean(axis=0) for c, r in cells])
    categories, runs = map(np.array, zip(*cells, strict=True))
    return patterns, categories, runs.astype(int)


def crossnobis(patterns, categories, runs, **keywords):
    return rf.compute_rdms(patterns, "crossnobis", labels=categories, folds=runs, **keywords)


def test_haxby_has_twelve_runs_of_eight_categories(haxby):
    patterns, categories, runs = haxby
    assert patterns.shape == (12 * 8, 530)
    assert (len(set(runs)), len(set(categories))) == (12, 8)


def test_crossnobis_of_haxby_equals_rsatoolbox(haxby):
    patterns, categories, runs = haxby
    data = Dataset(patterns, obs_descriptors={"conds": categories, "runs": runs})
    peer = rsatoolbox.rdm.calc_rdm(
        data, method="crossnobis", descriptor="conds", cv_descriptor="runs"
    )
    ours = crossnobis(*haxby, normalize="channels")
    assert ours.labels == tuple(peer.pattern_descriptors["conds"])
    scale = peer.dissimilarities.max()
    np.testing.assert_allclose(ours.vectors, peer.dissimilarities, rtol=0, atol=1e-10 * scale)
    np.testing.assert_allclose(crossnobis(*haxby).vectors, 530 * ours.vectors, rtol=1e-13)


def test_crossnobis_of_haxby_is_accurate(haxby):
    """Voxels far from zero cost products of patterns (rsatoolbox's) four digits, not ours."""
    patterns = haxby[0].astype(np.longdouble).reshape(12, 8, 530)
    x, y = np.triu_indices(8, 1)
    differences = patterns[:, x] - patterns[:, y]
    others = (differences.sum(axis=0) - differences) / 11
    exact = (differences * others).sum(axis=2).mean(axis=0)
    ours = crossnobis(*haxby).vectors[0]
    assert np.abs(ours - exact).max() < 1e-14 * exact.max()


def test_even_and_odd_runs_of_haxby_agree(haxby):
    """All 8! relabellings, none sampled. That they agree is claimed, not that p is small.

    Eight categories and one raw slice (no detrending, no noise normalisation) give a correlation
    of .39, which 14 % of the relabellings reach.
    """
    patterns, categories, runs = haxby
    halves = [
        crossnobis(patterns[half], categories[half], runs[half])
        for half in (runs % 2 == 0, runs % 2 == 1)
    ]
    result = rf.permutation_test(*halves, method="pearson", progress=False)
    assert (result.engine, result.n_permutations) == ("exact", 40_320)
    assert result.statistic[0, 0] == pytest.approx(
        np.corrcoef(*[h.vectors[0] for h in halves])[0, 1]
    )
    assert result.statistic[0, 0] > 0.2
    assert result.p_value[0, 0] < 0.5
