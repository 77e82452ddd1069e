"""Searchlights: peers, loops, brute force, invariances, files, refusals, size under the null."""

import itertools
import tracemalloc

import numpy as np
import pytest
from rsafast_kernels import threads
from scipy.spatial.distance import cdist

import rsafast as rf
from rsafast.datasets.responses import Responses
from rsafast.errors import InvalidInputError, UnsupportedCaseError
from rsafast.inference.searchlight import engine
from rsafast.permutation.engines import orbit_permutation

SHAPE = (6, 5, 4)
NUMBERS = ("statistic", "p_value", "p_value_fwer", "null_mean", "null_std", "null_max")


def ball(places, radius, spacing=None):
    """(voxels, voxels) whether one is at most `radius` from the other, by all distances."""
    spacing = np.eye(3) if spacing is None else spacing
    return cdist(places @ spacing.T, places @ spacing.T) <= radius + 1e-9


def looped(models, data, inside, method="spearman", metric="correlation"):
    """Statistic (models, voxels) centre by centre."""
    each = [rf.compare(models, rf.compute_rdms(data[:, row], metric), method) for row in inside]
    return np.concatenate(each, axis=1)


def models_of(rng, n, k=2):
    return rf.compute_rdms(rng.normal(size=(k, n, 3)), "euclidean")


@pytest.fixture
def mask(rng):
    return rng.random(SHAPE) < 0.8


# ---------------------------------------------------------------- statistics


@pytest.mark.parametrize("radius", [1.5, 2])
def test_statistics_and_centres_are_those_of_rsatoolbox(rng, mask, radius):
    sl = pytest.importorskip("rsatoolbox.util.searchlight")
    compare = pytest.importorskip("rsatoolbox.rdm").compare
    models, volume = models_of(rng, 7), rng.normal(size=(7, *SHAPE))
    centres, around = sl.get_volume_searchlight(
        mask, radius=radius, threshold=0, truncate_at_boundary=True
    )
    several = [k for k, own in enumerate(around) if len(own) >= 4]
    theirs = sl.get_searchlight_RDMs(
        volume.reshape(7, -1), centres[several], [around[k] for k in several], np.arange(7)
    )
    # Theirs are the voxels nearer than the radius, ours those at the radius too.
    ours = rf.searchlight(
        models, volume, mask=mask, radius=np.nextafter(radius, 0) - 1e-6, min_voxels=4,
        n_permutations=0,
    )  # fmt: skip
    np.testing.assert_array_equal(np.ravel_multi_index(ours.centres.T, SHAPE), centres[several])
    np.testing.assert_array_equal(ours.n_voxels, [len(around[k]) for k in several])
    expected = compare(models.to_rsatoolbox(), theirs, method="spearman")
    np.testing.assert_allclose(ours.statistic, expected, atol=1e-12)


def test_a_share_is_the_threshold_of_rsatoolbox_away_from_the_border(rng):
    sl = pytest.importorskip("rsatoolbox.util.searchlight")
    mask = np.zeros((10, 9, 11), bool)
    mask[3:-3, 3:-3, 3:-3] = rng.random((4, 3, 5)) < 0.9
    mask[3, 3, 3] = mask[6, 5, 7] = True
    centres, _ = sl.get_volume_searchlight(mask, radius=2, threshold=0.6)
    ours = rf.searchlight(
        models_of(rng, 6), rng.normal(size=(6, *mask.shape)), mask=mask, radius=1.8,
        min_voxels=0.6, n_permutations=0,
    )  # fmt: skip
    np.testing.assert_array_equal(np.ravel_multi_index(ours.centres.T, mask.shape), centres)
    assert 0 < ours.n_centres == mask.sum() - ours.n_too_small


@pytest.mark.parametrize(
    ("metric", "method", "dtype"),
    [("correlation", "spearman", np.float32), ("correlation", "pearson", np.float64),
     ("euclidean", "cosine", np.float32), ("cosine", "corr_cov", np.float64),
     ("cityblock", "rho-a", np.float64)],
)  # fmt: skip
def test_statistics_are_those_of_a_loop_over_centres(rng, mask, metric, method, dtype):
    models = models_of(rng, 6)
    volume = rng.normal(size=(6, *SHAPE)).astype(dtype)
    found = rf.searchlight(
        models, volume, mask=mask, radius=2, metric=metric, method=method, min_voxels=3,
        n_permutations=0,
    )  # fmt: skip
    inside = ball(np.argwhere(mask), 2)
    expected = looped(models, volume[:, mask], inside, method, metric)
    keep = inside.sum(axis=1) >= 3
    np.testing.assert_allclose(found.statistic, expected[:, keep], atol=1e-12)
    np.testing.assert_array_equal(found.n_voxels, inside.sum(axis=1)[keep])
    np.testing.assert_array_equal(found.centres, np.argwhere(mask)[keep])
    assert found.n_too_small == (~keep).sum()


@pytest.mark.parametrize(
    "spacing",
    [np.diag([1.8, 1.8, 1.8]), np.diag([2.0, 3.0, 1.0]),
     np.array([[0.0, -2, 0], [1.6, 0, 0.5], [0, 0, 2.5]])],
)  # fmt: skip
def test_neighbourhoods_are_measured_in_millimetres(rng, spacing):
    volume, radius = rng.normal(size=(5, *SHAPE)), 3 * 1.8
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = spacing, [-90, 20, 7]
    inside = ball(np.argwhere(np.ones(SHAPE)), radius, spacing)
    sizes = [affine] if np.count_nonzero(spacing) > 3 else [affine, np.diag(spacing)]
    for size in sizes:
        found = rf.searchlight(
            models_of(rng, 5), volume, radius=radius, voxel_size=size, n_permutations=0
        )
        np.testing.assert_array_equal(found.n_voxels, inside.sum(axis=1))


def test_crossnobis_is_that_of_compute_rdms(rng):
    models, data = models_of(rng, 5), rng.normal(size=(3, 5, *SHAPE))
    found = rf.searchlight(models, data, radius=1, metric="crossnobis", min_voxels=1,
                           n_permutations=0)  # fmt: skip
    flat = data.reshape(15, -1)
    stimuli, folds = np.tile(np.arange(5), 3), np.repeat(np.arange(3), 5)
    for centre, row in enumerate(ball(np.argwhere(np.ones(SHAPE)), 1)):
        rdm = rf.compute_rdms(flat[:, row], "crossnobis", labels=stimuli, folds=folds)
        expected = rf.compare(models, rf.RDMs(rdm.vectors), "spearman")[:, 0]
        np.testing.assert_allclose(found.statistic[:, centre], expected, atol=1e-12)


def test_voxels_that_do_not_vary_are_no_neighbours_and_counted(rng):
    volume = rng.normal(size=(6, *SHAPE))
    volume[:, 2, 3, 1] = 0.0
    volume[:, 0, 0, :2] = 5.0
    keep = np.ones(SHAPE, bool)
    keep[2, 3, 1] = keep[0, 0, 0] = keep[0, 0, 1] = False
    models = models_of(rng, 6)
    found = rf.searchlight(models, volume, radius=2, n_permutations=0)
    expected = rf.searchlight(models, volume, mask=keep, radius=2, n_permutations=0)
    assert (found.n_flat, expected.n_flat) == (3, 0)
    np.testing.assert_array_equal(found.statistic, expected.statistic)
    np.testing.assert_array_equal(found.centres, expected.centres)


# ---------------------------------------------------------------- inference


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize(("n", "method"), [(4, "spearman"), (5, "cosine")])
def test_all_relabellings_give_the_p_values_of_permutation_test(rng, alternative, n, method):
    models, data = models_of(rng, n), rng.normal(size=(n, 20))
    data[:, :8] += 2 * rng.normal(size=(n, 8))
    places = np.argwhere(np.ones((5, 4, 1)))
    found = rf.searchlight(
        models, data, places, radius=1, min_voxels=3, alternative=alternative, method=method,
        n_permutations=200, metric="euclidean",
    )  # fmt: skip
    rdms = rf.RDMs.concat([rf.compute_rdms(data[:, row], "euclidean") for row in ball(places, 1)])
    expected = rf.permutation_test(
        models, rdms, method=method, alternative=alternative, n_permutations=200
    )
    assert expected.engine == found.engine == "exact"
    assert found.n_permutations == expected.n_permutations == (24 if n == 4 else 120)
    np.testing.assert_array_equal(found.p_value, expected.p_value)
    np.testing.assert_array_equal(found.p_value_fwer, expected.p_value_fwer)
    np.testing.assert_allclose(found.null_std, expected.null_std, atol=1e-14)
    np.testing.assert_allclose(found.z, expected.z, atol=1e-9)


@pytest.mark.parametrize("alternative", ["greater", "less", "two-sided"])
@pytest.mark.parametrize(("wanted", "orbits"), [(20, (3, 1)), (90, (5, 2))])
def test_sampled_relabellings_count_what_a_loop_over_them_counts(rng, alternative, wanted, orbits):
    n = 9
    categories = (np.arange(n)[:, None] % 3 != np.arange(n) % 3).astype(float)
    models = rf.RDMs(np.stack([models_of(rng, n, 1).matrices()[0], categories]))
    volume = rng.normal(size=(n, 4, 3, 2))
    found = rf.searchlight(
        models, volume, radius=1, min_voxels=4, n_permutations=wanted, seed=7,
        alternative=alternative,
    )  # fmt: skip
    data, inside = volume.reshape(n, -1), ball(np.argwhere(np.ones((4, 3, 2))), 1)
    pi = np.array([orbit_permutation(7, i, j, shift, n) for i, j, shift in
                   itertools.product(range(orbits[0]), range(orbits[1]), range(n))])  # fmt: skip
    moved = models.matrices()[:, pi[:, :, None], pi[:, None, :]].reshape(-1, n, n)
    null = looped(rf.RDMs(moved), data, inside).reshape(2, len(pi), -1).transpose(1, 0, 2)
    assert found.n_permutations == len(null)
    np.testing.assert_allclose(null[0], found.statistic, atol=1e-12)
    turn = {"greater": lambda x: x, "less": np.negative, "two-sided": np.abs}[alternative]
    scores = turn(null)
    p = (scores >= scores[0] - 1e-11).mean(axis=0)
    np.testing.assert_array_equal(found.p_value, p)
    # Means of rank correlations over relabellings are 0; the spread is that of every relabelling.
    joint = scores / found.null_std
    largest = joint.max(axis=(1, 2))
    np.testing.assert_allclose(found.null_max, largest, atol=1e-9)
    fwer = (largest[:, None, None] >= joint[0] - 1e-9).mean(axis=0)
    np.testing.assert_array_equal(found.p_value_fwer, fwer)


def test_batches_budgets_and_threads_change_no_bit(rng, monkeypatch):
    models, volume = models_of(rng, 12, 3), rng.normal(size=(12, 7, 5, 3)).astype(np.float32)

    def run(**options):
        found = rf.searchlight(models, volume, radius=1.5, min_voxels=5, n_permutations=300,
                               progress=False, **options)  # fmt: skip
        return [getattr(found, name) for name in NUMBERS]

    expected = run()
    assert expected[0].shape == (3, 105)  # neither a whole number of groups nor of batches
    others = [run(memory_budget=700_000)]
    for most, block in ((16, 2**25), (32, 1), (48, 2**14)):
        monkeypatch.setattr(engine, "_MOST", most)
        monkeypatch.setattr(engine, "_BLOCK_BYTES", block)
        others.append(run())
    with threads(1):
        others.append(run())
    for values in others:
        for got, want in zip(values, expected, strict=True):
            np.testing.assert_array_equal(got, want)


@pytest.mark.slow
def test_working_memory_stays_within_the_budget(rng):
    models, volume = models_of(rng, 24), rng.normal(size=(24, 10, 8, 6)).astype(np.float32)
    rf.searchlight(models, volume[:, :3], radius=1, min_voxels=3, n_permutations=200)
    tracemalloc.start()
    found = rf.searchlight(models, volume, radius=1, min_voxels=3, n_permutations=200,
                           memory_budget="1MB")  # fmt: skip
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.n_centres == 480
    assert peak < 1e6 + 3.5 * volume.nbytes  # all matrices and spectra would take 5.5e6


def test_a_planted_region_is_found_and_little_else(rng):
    points, volume = rng.normal(size=(20, 27)), rng.normal(size=(20, 9, 8, 6))
    volume[:, 1:4, 2:5, 1:4] += 1.5 * points.reshape(20, 3, 3, 3)
    model = rf.compute_rdms(points, names=["planted"])
    found = rf.searchlight(model, volume, radius=1.5, min_voxels=8, n_permutations=1000)
    p = found.to_volume("p_value_fwer", "planted")
    assert p[2, 3, 2] <= 2 / found.n_permutations
    assert (p[2:3, 3:4, 1:4] <= 0.05).all()
    elsewhere = np.ones(p.shape, bool)
    elsewhere[:6, :7, :6] = False
    assert np.nanmin(p[elsewhere]) > 0.05
    assert (found.p_value <= found.p_value_fwer).all()


@pytest.mark.calibration
@pytest.mark.slow
@pytest.mark.parametrize("alternative", ["greater", "two-sided"])
def test_family_wise_error_is_at_most_alpha_on_smooth_noise(rng, alternative):
    from scipy.ndimage import gaussian_filter

    errors, small = [], []
    for seed in range(400):
        volume = gaussian_filter(rng.normal(size=(10, 7, 6, 5)), (0, 1, 1, 1))
        found = rf.searchlight(
            models_of(rng, 10), volume, radius=1.5, n_permutations=200, seed=seed,
            alternative=alternative,
        )  # fmt: skip
        errors.append(found.p_value_fwer.min() <= 0.1)
        small.append((found.p_value <= 0.1).mean())
    assert abs(np.mean(errors) - 0.1) < 0.05  # three standard errors
    assert np.mean(small) == pytest.approx(0.1, abs=0.015)


# ---------------------------------------------------------------- what goes in and comes out


def responses_of(values, places, stimuli, **known):
    return Responses(
        values=values.astype(np.float32), stimuli=tuple(stimuli), subject="subj01",
        seen=tuple(frozenset({(1, 1)}) for _ in stimuli),
        channels=np.array(["-".join(map(str, place)) for place in places]), **known,
    )  # fmt: skip


def test_responses_bring_voxels_and_labels(rng):
    stimuli = [f"nsd{k:05d}" for k in range(6)]
    places = np.array(list(np.ndindex(SHAPE)))[:, ::-1]  # the first index fastest, as in NSD
    values = rng.normal(size=(6, len(places))).astype(np.float32)
    models = rf.RDMs(models_of(rng, 6).vectors, labels=stimuli)
    shuffled = models.reorder(stimuli[::-1])
    found = rf.searchlight(shuffled, responses_of(values, places, stimuli), radius=1.5,
                           n_permutations=60)  # fmt: skip
    volume = np.zeros((6, *SHAPE[::-1]), np.float32)
    volume[(slice(None), *places.T)] = values
    expected = rf.searchlight(models.vectors, volume, radius=1.5, n_permutations=60)
    assert found.subject == "subj01"
    for which in ("statistic", "p_value_fwer", "n_voxels", "z"):
        np.testing.assert_allclose(
            found.to_volume(which, 1), expected.to_volume(which, 1), atol=1e-12
        )
    wide = found.to_volume("statistic", shape=(9, 9, 9))
    assert wide.shape == (9, 9, 9)
    assert np.isfinite(wide).sum() == found.n_centres


@pytest.fixture
def found(rng, mask):
    affine = np.array([[-2.0, 0, 0, 90], [0, 2, 0, -126], [0, 0, 2, -72], [0, 0, 0, 1]])
    return rf.searchlight(
        rf.RDMs(models_of(rng, 8).vectors, names=["one", "two"]),
        rng.normal(size=(8, *SHAPE)), mask=mask, radius=4, voxel_size=affine, n_permutations=100,
    )  # fmt: skip


def test_files_give_back_every_field(found, tmp_path):
    found.save(tmp_path / "map.h5")
    back = rf.SearchlightResult.load(tmp_path / "map.h5")
    for name in found.__dataclass_fields__:
        if name not in ("parameters", "provenance"):
            np.testing.assert_array_equal(getattr(back, name), getattr(found, name))
    assert back.summary() == found.summary()
    found.save(tmp_path / "map.csv")
    with pytest.raises(InvalidInputError, match=r"saved as .h5"):
        found.save(tmp_path / "map.txt")


def test_results_without_a_test_are_saved_and_said_too(rng, tmp_path):
    found = rf.searchlight(models_of(rng, 5), rng.normal(size=(5, *SHAPE)), n_permutations=0)
    found.save(tmp_path / "map.h5")
    back = rf.SearchlightResult.load(tmp_path / "map.h5")
    assert back.p_value is None
    assert back.z is None
    assert "Nothing was tested" in back.summary()
    assert "p_value" not in back.to_dataframe()
    with pytest.raises(InvalidInputError, match="needs a test"):
        back.to_volume("p_value")


def test_table_and_summary(found):
    table = found.to_dataframe()
    assert len(table) == 2 * found.n_centres
    row = table[table["model"] == "two"].iloc[3]
    volume = found.to_volume("p_value", "two")
    assert row["p_value"] == volume[row["i"], row["j"], row["k"]]
    text = found.summary()
    for said in (f"{found.n_permutations} relabellings",
                 "exchangeable", "this subject and these stimuli", "radius 4 mm"):  # fmt: skip
        assert said in text


def test_nifti_holds_the_map_in_its_place(found, tmp_path):
    nibabel = pytest.importorskip("nibabel")
    for name in ("map.nii", "map.nii.gz"):
        found.to_nifti(tmp_path / name, "statistic", "two")
        image = nibabel.load(tmp_path / name)
        np.testing.assert_array_equal(image.affine, found.affine)
        np.testing.assert_array_equal(
            image.get_fdata(), found.to_volume("statistic", 1).astype(np.float32)
        )
    with pytest.raises(InvalidInputError, match=r"\.nii"):
        found.to_nifti(tmp_path / "map.img")


def test_nifti_needs_an_affine(rng, tmp_path):
    pytest.importorskip("nibabel")
    found = rf.searchlight(models_of(rng, 5), rng.normal(size=(5, *SHAPE)), n_permutations=0)
    with pytest.raises(InvalidInputError, match="affine"):
        found.to_nifti(tmp_path / "map.nii")
    found.to_nifti(tmp_path / "map.nii", affine=np.diag([2, 2, 2, 1]))


def test_plot_outlines_what_is_significant(found):
    pytest.importorskip("matplotlib").use("Agg")
    from matplotlib.figure import Figure

    from rsafast.inference.searchlight.plot import _borders

    ax = found.plot(Figure().subplots(), "two", alpha=0.9)
    assert "family-wise p ≤ 0.9" in ax.get_title()
    inside = np.zeros((4, 5), bool)
    inside[1, 2] = inside[1, 3] = True
    assert len(_borders(inside)) == 6
    corners = np.array(_borders(inside)).reshape(-1, 2)
    assert (corners.min(axis=0), corners.max(axis=0)) == (
        pytest.approx([1.5, 0.5]), pytest.approx([3.5, 1.5])
    )  # fmt: skip


# ---------------------------------------------------------------- refusals


def case(rng, **changes):
    return {"models": models_of(rng, 6), "responses": rng.normal(size=(6, *SHAPE))} | changes


def with_value(value):
    def change(rng):
        data = rng.normal(size=(6, *SHAPE))
        data[4, 2, 1, 3] = value
        return case(rng, responses=data)

    return change


def alike(rng):
    data = rng.normal(size=(6, *SHAPE))
    data[3, :3, :3, :3] = 1.0
    return case(rng, responses=data, radius=1, min_voxels=3)


REFUSED = {
    "voxel (2, 1, 3) holds nan for stimulus 4": with_value(np.nan),
    "voxel (2, 1, 3) holds -inf": with_value(-np.inf),
    "radius must be a number above 0": lambda r: case(r, radius=0),
    "radius must be": lambda r: case(r, radius=np.nan),
    "give voxel_size=": lambda r: case(
        r, radius=300.0, responses=np.broadcast_to(np.arange(6.0)[:, None], (6, 2)),
        coordinates=[[0, 0, 0], [400, 400, 400]]),
    "must be indices of voxels, not millimetres": lambda r: case(
        r, responses=r.normal(size=(6, 2)), coordinates=[[0, 0, 0], [9999, 9999, 9999]]),
    "mask is of shape (5, 5, 4)": lambda r: case(r, mask=np.ones((5, 5, 4), bool)),
    "mask holds 120 voxels, responses have 119": lambda r: case(
        r, responses=r.normal(size=(6, 119)), mask=np.ones(SHAPE, bool)),
    "mask holds no voxel": lambda r: case(r, mask=np.zeros(SHAPE, bool)),
    "mask must be a boolean": lambda r: case(r, mask=np.full(SHAPE, 2)),
    "give one": lambda r: case(r, mask=np.ones(SHAPE, bool), coordinates=[[0, 0, 0]]),
    "give coordinates=": lambda r: case(r, responses=r.normal(size=(6, 20))),
    "coordinates must be (3, 3)": lambda r: case(
        r, responses=r.normal(size=(6, 3)), coordinates=[[0, 0, 0]]),
    "whole numbers from 0": lambda r: case(
        r, responses=r.normal(size=(6, 1)), coordinates=[[0.5, 0, 0]]),
    "voxel (1, 2, 3) more than once": lambda r: case(
        r, responses=r.normal(size=(6, 3)), coordinates=[[1, 2, 3], [0, 0, 1], [1, 2, 3]]),
    "responses hold 3 stimuli": lambda r: case(r, responses=r.normal(size=(3, *SHAPE))),
    "models hold 6 stimuli, responses 7": lambda r: case(r, responses=r.normal(size=(7, *SHAPE))),
    "labels must name 6": lambda r: case(r, labels="abc"),
    "models and responses: labels do not match": lambda r: case(
        r, models=rf.RDMs(models_of(r, 6).vectors, labels=list("abcdef")), labels=list("abcdeg")),
    "no centre is left": lambda r: case(r, radius=1, min_voxels=8),
    "none of the 120 voxels varies": lambda r: case(r, responses=np.ones((6, *SHAPE))),
    "min_voxels must be": lambda r: case(r, min_voxels=1.5),
    "min_voxels must be an integer of at least 2": lambda r: case(r, min_voxels=1),
    "stimulus 3 has the same response in all": alike,
    "memory_budget of 1 KB is too small": lambda r: case(r, memory_budget="1KB"),
    "voxel_size must be": lambda r: case(r, voxel_size=(2, 0, 2)),
    "n_permutations must be": lambda r: case(r, n_permutations=-1),
    "alternative must be": lambda r: case(r, alternative="more"),
    "metric is 'manhattan'": lambda r: case(r, metric="manhattan"),
    "method must be": lambda r: case(r, method="r"),
    "responses must be (folds, stimuli, voxels)": lambda r: case(
        r, metric="crossnobis", responses=r.normal(size=(6, 10))),
    "takes counts or rates": lambda r: case(r, metric="poisson"),
    "at least 2 folds": lambda r: case(
        r, metric="crossnobis", responses=r.normal(size=(1, 6, *SHAPE))),
}  # fmt: skip


@pytest.mark.parametrize("said", REFUSED)
def test_bad_input_is_refused(rng, said):
    with pytest.raises(InvalidInputError) as error:
        rf.searchlight(**REFUSED[said](rng))
    assert said in str(error.value)


@pytest.mark.parametrize("options", [{"method": "kendall"}, {"metric": "mahalanobis"}])
def test_unsupported_choices_are_refused(rng, options):
    with pytest.raises(UnsupportedCaseError):
        rf.searchlight(**case(rng, **options))


def test_responses_that_cannot_be_searched_are_refused(rng):
    places, values = np.argwhere(np.ones((3, 3, 3))), rng.normal(size=(6, 27))
    models = models_of(rng, 6)
    with pytest.raises(InvalidInputError, match="average them first"):
        rf.searchlight(models, responses_of(values, places, "abcdea"))
    surface = responses_of(values, [("lh", k) for k in range(27)], "abcdef")
    with pytest.raises(InvalidInputError, match="'lh-0' is no voxel"):
        rf.searchlight(models, surface)
    moving = responses_of(np.stack([values] * 2, -1), places, "abcdef", times=np.arange(2.0))
    with pytest.raises(InvalidInputError, match="time points"):
        rf.searchlight(models, moving)
    with pytest.raises(UnsupportedCaseError, match="mask="):
        rf.searchlight(models, responses_of(values, places, "abcdef"), mask=np.ones((3, 3, 3)))


# ---------------------------------------------------------------- real data


@pytest.mark.slow
@pytest.mark.data
def test_a_centre_of_the_haxby_slice_has_the_p_value_of_its_own_rdm(data_dir):
    """Eight categories, all 8! relabellings; houses stand out near voxel (25, 18)."""
    nibabel = pytest.importorskip("nibabel")
    folder = data_dir / "haxby_slice"
    bold = np.moveaxis(np.asarray(nibabel.load(folder / "bold.nii.gz").dataobj, float), -1, 0)
    category, run = np.loadtxt(folder / "attributes_literal.txt", dtype=str, unpack=True)
    names, runs = [c for c in np.unique(category) if c != "rest"], np.unique(run)
    cells = [[bold[(category == c) & (run == r)] for c in names] for r in runs]
    data = np.array([[cell.mean(axis=0) for cell in row] for row in cells])
    noise = np.mean([[cell.var(axis=0) for cell in row] for row in cells], axis=(0, 1))
    mask = noise > 0
    data[..., mask] /= np.sqrt(noise[mask])
    house = np.array([c == "house" for c in names])
    model = rf.RDMs((house[:, None] != house).astype(float), labels=names)
    found = rf.searchlight(model, data, mask=mask, labels=names, metric="crossnobis",
                           method="cosine", n_permutations=40_320)  # fmt: skip
    assert (found.engine, found.n_centres + found.n_too_small) == ("exact", 530)
    assert mask.sum() == 530
    peak = int(np.argmax(found.statistic[0]))
    assert found.statistic[0, peak] > 0.95
    near = np.linalg.norm(np.argwhere(mask) - found.centres[peak], axis=1) <= 3
    rdm = rf.compute_rdms(
        data[..., mask][..., near].reshape(96, -1), "crossnobis", labels=np.tile(names, 12),
        folds=np.repeat(runs, 8),
    )  # fmt: skip
    alone = rf.permutation_test(model, rdm, method="cosine", n_permutations=40_320)
    assert found.statistic[0, peak] == pytest.approx(alone.statistic[0, 0], abs=1e-12)
    assert found.p_value[0, peak] == alone.p_value[0, 0]
    assert found.p_value_fwer[0, peak] > 0.05
