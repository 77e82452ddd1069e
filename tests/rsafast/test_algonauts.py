"""Algonauts 2019 and 2023: generated files in the published layouts, and the real ones of 2019."""

from __future__ import annotations

import pickle
import tracemalloc

import h5py
import numpy as np
import pytest
import scipy.io
from scipy.stats import spearmanr

import rsafast as rf
from rsafast.datasets.algonauts import (
    read_algonauts_2019,
    read_algonauts_2019_meg,
    read_algonauts_2023,
)
from rsafast.errors import InvalidInputError

# ---- 2019: RDMs --------------------------------------------------------------------------------


def symmetric(rng, *shape):
    """RDMs (..., n, n), symmetric and hollow."""
    x = rng.random(shape)
    x = x + np.swapaxes(x, -1, -2)
    x[..., np.arange(shape[-1]), np.arange(shape[-1])] = 0
    return x


def write_v73(path, **variables):
    """As MATLAB v7.3 does: HDF5 holds the axes in reverse."""
    with h5py.File(path, "w") as file:
        for key, values in variables.items():
            file.create_dataset(key, data=values.T)


@pytest.mark.parametrize("n_subjects", [3, 6])  # 6 subjects and 6 images: only the values tell
def test_fmri_rdms_have_the_subject_first(tmp_path, rng, n_subjects):
    evc, it = symmetric(rng, n_subjects, 6, 6), symmetric(rng, n_subjects, 6, 6)
    path = tmp_path / "target_fmri.mat"
    write_v73(path, EVC_RDMs=evc, IT_RDMs=it)
    with h5py.File(path) as file:
        assert file["EVC_RDMs"].shape == (6, 6, n_subjects)  # the published raw order
    rdms = read_algonauts_2019(path)
    np.testing.assert_array_equal(rdms[{"roi": "EVC"}].matrices(), evc)
    np.testing.assert_array_equal(rdms[{"roi": "IT"}].matrices(), it)
    assert rdms.descriptors["subject"].tolist() == [*range(1, n_subjects + 1)] * 2
    assert rdms.names[0] == "EVC subject 1"
    assert (rdms.measure, rdms.labels) == ("correlation", None)


def test_fmri_rdms_of_one_region_with_ids(tmp_path, rng):
    it = symmetric(rng, 3, 5, 5)
    write_v73(tmp_path / "x.mat", EVC_RDMs=symmetric(rng, 3, 5, 5), IT_RDMs=it)
    rdms = read_algonauts_2019(tmp_path / "x.mat", rois=["IT"], stimuli=list("edcba"))
    np.testing.assert_array_equal(rdms.matrices(), it)
    assert rdms.labels == tuple("edcba")
    assert set(rdms.descriptors["roi"]) == {"IT"}
    with pytest.raises(InvalidInputError, match=r"x\.mat.*labels"):
        read_algonauts_2019(tmp_path / "x.mat", stimuli=list("edcb"))


def test_fmri_rdms_of_an_older_matlab_file_and_of_npz(tmp_path, rng):
    evc, it = symmetric(rng, 3, 5, 5), symmetric(rng, 3, 5, 5)
    scipy.io.savemat(tmp_path / "x.mat", {"EVC_RDMs": evc, "IT_RDMs": it})
    np.savez(tmp_path / "fmri_EVC_RDMs.npz", evc)
    np.savez(tmp_path / "fmri_IT_RDMs.npz", it)
    for path in (tmp_path / "x.mat", tmp_path):
        rdms = read_algonauts_2019(path)
        np.testing.assert_array_equal(rdms.matrices(), np.concatenate([evc, it]))


def test_fmri_files_that_are_no_such_files_are_refused(tmp_path, rng):
    path = tmp_path / "target_fmri.mat"
    with pytest.raises(InvalidInputError, match=r"target_fmri\.mat: no such file"):
        read_algonauts_2019(path)
    with pytest.raises(InvalidInputError, match=r"fmri_EVC_RDMs\.npz: no such file"):
        read_algonauts_2019(tmp_path)
    write_v73(path, MEG_RDMs_early=symmetric(rng, 2, 3, 5, 5))
    with pytest.raises(InvalidInputError, match="no key 'EVC_RDMs'; it holds 'MEG_RDMs_early'"):
        read_algonauts_2019(path)
    write_v73(path, EVC_RDMs=rng.random((3, 5, 5)))
    with pytest.raises(InvalidInputError, match=r"target_fmri\.mat \(key 'EVC_RDMs'\): RDM 0"):
        read_algonauts_2019(path, rois=["EVC"])
    write_v73(path, EVC_RDMs=symmetric(rng, 3, 5, 5), IT_RDMs=symmetric(rng, 3, 5, 5))
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(InvalidInputError, match=r"target_fmri\.mat"):
        read_algonauts_2019(path)
    for rois in (["V1"], "EVC", []):
        with pytest.raises(InvalidInputError, match="rois must be a list of 'EVC', 'IT'"):
            read_algonauts_2019(path, rois=rois)


def test_meg_rdms_are_one_a_subject_and_sample(tmp_path, rng):
    early, late = symmetric(rng, 3, 4, 5, 5), symmetric(rng, 3, 2, 5, 5)
    path = tmp_path / "target_meg.mat"
    write_v73(path, MEG_RDMs_early=early, MEG_RDMs_late=late)
    rdms = read_algonauts_2019_meg(path, stimuli=list("abcde"))
    assert rdms.n_rdms == 3 * 4 + 3 * 2
    for subject in range(3):
        chosen = rdms[{"interval": "early", "subject": subject + 1}]
        np.testing.assert_array_equal(chosen.matrices(), early[subject])
        assert chosen.descriptors["time"].tolist() == [0, 1, 2, 3]
    last = rdms[{"interval": "late", "subject": 3, "time": 1}]
    np.testing.assert_array_equal(last.matrices()[0], late[2, 1])
    assert last.labels == tuple("abcde")
    only = read_algonauts_2019_meg(path, intervals=["late"])
    np.testing.assert_array_equal(only.matrices(), late.reshape(-1, 5, 5))


def test_meg_rdms_feed_time_courses(tmp_path, rng):
    early = symmetric(rng, 3, 4, 5, 5)
    path = tmp_path / "target_meg.mat"
    write_v73(path, MEG_RDMs_early=early)
    model = symmetric(rng, 5, 5)
    rdms = read_algonauts_2019_meg(path, intervals=["early"])
    courses = rf.time_courses(model, rdms[{"interval": "early"}])
    assert courses.values.shape == (3, 1, 4)
    upper = np.triu_indices(5, 1)
    expected = spearmanr(model[upper], early[2, 1][upper]).statistic
    assert courses.values[2, 0, 1] == pytest.approx(expected)


def test_meg_files_that_are_no_such_files_are_refused(tmp_path, rng):
    path = tmp_path / "target_meg.mat"
    write_v73(path, MEG_RDMs_early=symmetric(rng, 3, 5, 5))
    with pytest.raises(InvalidInputError, match=r"'MEG_RDMs_early' holds an array \(3, 5, 5\)"):
        read_algonauts_2019_meg(path)
    with pytest.raises(InvalidInputError, match="no key 'MEG_RDMs_late'"):
        read_algonauts_2019_meg(path, intervals=["late"])
    # Axes as Python would have them, not as MATLAB's reversed file.
    with h5py.File(path, "w") as file:
        file.create_dataset("MEG_RDMs_early", data=symmetric(rng, 3, 4, 5, 5))
    with pytest.raises(InvalidInputError, match=r"array \(5, 5, 4, 3\); expected"):
        read_algonauts_2019_meg(path, intervals=["early"])
    write_v73(path, MEG_RDMs_early=rng.random((3, 4, 5, 5)))
    with pytest.raises(InvalidInputError, match=r"target_meg\.mat \(key 'MEG_RDMs_early'\)"):
        read_algonauts_2019_meg(path, intervals=["early"])
    with pytest.raises(InvalidInputError, match="intervals must be"):
        read_algonauts_2019_meg(path, intervals=["middle"])


@pytest.mark.data
@pytest.mark.parametrize(
    ("place", "n", "published"),
    [
        ("fmri92/target_fmri.mat", 92, {"EVC": 0.1589, "IT": 0.3075}),
        ("fmri78", 78, {"EVC": 0.0640, "IT": 0.0647}),
    ],
)
def test_real_rdms_have_the_published_noise_ceilings(data_dir, place, n, published):
    rdms = read_algonauts_2019(data_dir / place)
    assert (rdms.n_rdms, rdms.n_stimuli) == (30, n)
    for roi, ceiling in published.items():
        vectors = rdms[{"roi": roi}].vectors
        assert len(vectors) == 15
        mean = vectors.mean(axis=0)
        scores = [spearmanr(vector, mean).statistic ** 2 for vector in vectors]
        assert np.mean(scores) == pytest.approx(ceiling, abs=6e-5)


# ---- 2023: responses of both hemispheres -------------------------------------------------------

NSD = (0, 7, 845, 1000, 30000, 72999)  # counted from 0
SIZES = {"lh": 7, "rh": 5}
CODES = {
    "lh.prf-visualrois": [1, 0, 2, 2, 0, 3, 1],
    "rh.prf-visualrois": [0, 2, 1, 0, 0],
    "lh.floc-faces": [0, 0, 0, 0, 2, 0, 0],
    "rh.floc-faces": [0, 0, 0, 1, 0],
}
MAPPING = {
    "prf-visualrois": {0: "Unknown", 1: "V1v", 2: "V1d", 3: "V2v", 4: "V2d"},
    "floc-faces": {0: "Unknown", 1: "OFA", 2: "FFA-1", 4: "mTL-faces"},
}


def fmri(side, n_images=6):
    """Response of a vertex to an image: both can be told from the value."""
    row, vertex = np.indices((n_images, SIZES[side]))
    return np.float32(10 * row + vertex + (0.25 if side == "lh" else 0.5))


def write_split(folder, split, nsd):
    prefix = "train" if split == "training" else "test"
    images, values = (
        folder / f"{split}_split/{split}_images",
        folder / f"{split}_split/{split}_fmri",
    )
    images.mkdir(parents=True)
    values.mkdir()
    for number, image in enumerate(nsd, start=1):
        (images / f"{prefix}-{number:04d}_nsd-{image:05d}.png").touch()
    for side in SIZES:
        np.save(values / f"{side}_{split}_fmri.npy", fmri(side, len(nsd)))


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "subj01"
    write_split(folder, "training", NSD)
    masks = folder / "roi_masks"
    masks.mkdir()
    np.save(masks / "mapping_prf-visualrois.npy", MAPPING["prf-visualrois"])
    # One of them as a plain pickle, as some copies have it.
    (masks / "mapping_floc-faces.npy").write_bytes(pickle.dumps(MAPPING["floc-faces"]))
    for name, codes in CODES.items():
        np.save(masks / f"{name}_challenge_space.npy", np.array(codes))
        np.save(masks / f"{name}_fsaverage_space.npy", np.full(20, 1))
    return tmp_path


def test_a_region_is_its_vertices_in_both_hemispheres(root):
    read = read_algonauts_2023(root, "subj01", ["V1v", "OFA"])
    # V1v is lh 0 and 6, rh 2; OFA is rh 3 alone.
    assert read.channels.tolist() == ["lh-0", "lh-6", "rh-2", "rh-3"]
    rows = 10 * np.arange(6)[:, None]
    np.testing.assert_array_equal(read.values, rows + np.array([0.25, 6.25, 2.5, 3.5]))
    np.testing.assert_array_equal(read.roi("V1v").values, rows + np.array([0.25, 6.25, 2.5]))
    np.testing.assert_array_equal(read.roi("OFA").values, rows + np.array([3.5]))
    assert read.values.dtype == np.float32
    assert (read.subject, read.units, read.noise_ceiling) == ("subj01", "z", None)
    assert read.source["split"] == "training"


def test_ids_are_nsd_numbers_counted_from_0_in_the_order_of_the_rows(root):
    read = read_algonauts_2023(root, 1, "V1v")
    assert read.stimuli == ("nsd00000", "nsd00007", "nsd00845", "nsd01000", "nsd30000", "nsd72999")
    assert read.subject == "subj01"


def test_v1_is_ventral_and_dorsal_and_a_mapping_unites_regions(root):
    read = read_algonauts_2023(root, "subj01", ["V1"])
    assert read.channels.tolist() == ["lh-0", "lh-2", "lh-3", "lh-6", "rh-1", "rh-2"]
    read = read_algonauts_2023(root, "subj01", {"mine": ["V2", "FFA-1"], "V1d": "V1d"})
    assert read.roi("mine").channels.tolist() == ["lh-4", "lh-5"]
    assert read.roi("V1d").channels.tolist() == ["lh-2", "lh-3", "rh-1"]


def test_all_vertices_are_the_whole_challenge_space(root):
    read = read_algonauts_2023(root, "subj01", ["all-vertices"])
    np.testing.assert_array_equal(read.values, np.concatenate([fmri("lh"), fmri("rh")], axis=1))


def test_stimuli_are_read_in_the_order_asked_for(root):
    read = read_algonauts_2023(root, "subj01", ["OFA"], stimuli=["nsd30000", "nsd00007"])
    assert read.stimuli == ("nsd30000", "nsd00007")
    np.testing.assert_array_equal(read.values, [[43.5], [13.5]])
    with pytest.raises(InvalidInputError, match=r"training_images: holds no 'nsd00013' \(1 of 2"):
        read_algonauts_2023(root, "subj01", ["OFA"], stimuli=["nsd00013", "nsd00007"])
    with pytest.raises(InvalidInputError, match="'nsd00007' twice"):
        read_algonauts_2023(root, "subj01", ["OFA"], stimuli=["nsd00007", "nsd00007"])
    for stimuli in ([], "nsd00007"):
        with pytest.raises(InvalidInputError, match="list of at least one id"):
            read_algonauts_2023(root, "subj01", ["OFA"], stimuli=stimuli)


def test_sessions_and_runs_are_not_told(root):
    read = read_algonauts_2023(root, "subj01", ["V1v"])
    assert read.seen == (frozenset({(0, 0)}),) * 6
    with pytest.raises(InvalidInputError, match="all stimuli are in one run"):
        rf.run_mask(read.seen)


def test_an_empty_region_is_a_note_and_cannot_be_taken(root):
    read = read_algonauts_2023(root, "subj01", ["V1v", "mTL-faces"])
    assert "region 'mTL-faces' is empty in this subject" in read.notes
    assert read.roi("V1v").values.shape == (6, 3)
    with pytest.raises(InvalidInputError, match="'mTL-faces' holds no channel"):
        read.roi("mTL-faces")
    with pytest.raises(InvalidInputError, match="'mTL-faces', 'V2d' are empty in this subject"):
        read_algonauts_2023(root, "subj01", ["mTL-faces", "V2d"])


def test_unknown_regions_are_refused_with_those_there_are(root):
    for rois, said in (
        (["V9"], r"no region 'V9'; it has OFA, FFA-1, mTL-faces, V1v.*all-vertices"),
        (["Unknown"], "no region 'Unknown'"),
        ([], "at least one region"),
        ({"mine": []}, "at least one region"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            read_algonauts_2023(root, "subj01", rois)


def test_rows_and_images_must_number_the_same(root):
    (root / "subj01/training_split/training_images/train-0006_nsd-72999.png").unlink()
    with pytest.raises(InvalidInputError, match=r"lh_training_fmri.npy: holds 6 rows, .* 5 images"):
        read_algonauts_2023(root, "subj01", ["V1v"])


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("train-0003_nsd-00845.png", None, "image 3 is missing or there twice"),
        ("train-0001_nsd-00000.png", None, "image 1 is missing"),
        ("train-0003_nsd-00845.png", "train-0004_nsd-00845.png", "image 3 is missing"),
        ("train-0003_nsd-00845.png", "train-0002_nsd-00845.png", "image 2 is missing or"),
        ("train-0003_nsd-00845.png", "train-0003_nsd-00003.png", r"image 3 \(3\) is not above"),
        ("train-0003_nsd-00845.png", "train-0003_nsd-00007.png", r"image 3 \(7\) is not above"),
        ("train-0003_nsd-00845.png", "cat.png", r"cat\.png: is not named train-NUMBER"),
        ("train-0003_nsd-00845.png", "test-0003_nsd-00845.png", "is not named train-NUMBER"),
    ],
)
def test_image_files_that_were_renamed_or_lost_are_refused(root, old, new, said):
    images = root / "subj01/training_split/training_images"
    (images / old).unlink()
    if new is not None:
        (images / new).touch()
    with pytest.raises(InvalidInputError, match=said):
        read_algonauts_2023(root, "subj01", ["V1v"])


def test_other_and_hidden_files_beside_the_images_do_not_count(root):
    images = root / "subj01/training_split/training_images"
    for name in (".DS_Store", "._train-0001_nsd-00000.png", "readme.txt"):
        (images / name).touch()
    assert read_algonauts_2023(root, "subj01", ["V1v"]).n_rows == 6


def test_images_are_in_the_order_of_their_numbers_not_of_text(root):
    images = root / "subj01/training_split/training_images"
    for path in images.iterdir():
        path.unlink()
    for number, name in enumerate(("9", "10", "11", "12", "13", "14"), start=1):
        (images / f"train-{number}_nsd-{name}.png").touch()
    assert read_algonauts_2023(root, "subj01", ["V1v"]).stimuli[:2] == ("nsd00009", "nsd00010")


def test_hemispheres_that_were_swapped_are_refused(root):
    masks = root / "subj01/roi_masks"
    a, b = (masks / f"{side}.prf-visualrois_challenge_space.npy" for side in SIZES)
    left, right = np.load(a), np.load(b)
    np.save(a, right)
    np.save(b, left)
    with pytest.raises(InvalidInputError, match=r"lh\.prf-.*is of 5 vertices, .* are of 7"):
        read_algonauts_2023(root, "subj01", ["V1v"])


def test_a_mask_on_fsaverage_in_place_of_the_challenge_space_is_refused(root):
    masks = root / "subj01/roi_masks"
    (masks / "rh.floc-faces_fsaverage_space.npy").replace(
        masks / "rh.floc-faces_challenge_space.npy"
    )
    assert read_algonauts_2023(root, "subj01", ["V1v"]).n_rows == 6  # of another atlas
    with pytest.raises(InvalidInputError, match=r"rh\.floc-faces.*is of 20 vertices"):
        read_algonauts_2023(root, "subj01", ["OFA"])


def test_damaged_and_missing_files_are_refused(root):
    folder = root / "subj01"
    values = folder / "training_split/training_fmri/rh_training_fmri.npy"
    whole = values.read_bytes()
    values.write_bytes(whole[:-3])
    with pytest.raises(InvalidInputError, match=r"rh_training_fmri\.npy: is truncated"):
        read_algonauts_2023(root, "subj01", ["V1v"])
    np.save(values, np.zeros(6))
    with pytest.raises(InvalidInputError, match=r"holds \(6,\); expected numbers in 2 dimensions"):
        read_algonauts_2023(root, "subj01", ["V1v"])
    np.save(values, np.array([["a"]]))
    with pytest.raises(InvalidInputError, match="expected numbers in 2 dimensions"):
        read_algonauts_2023(root, "subj01", ["V1v"])
    values.unlink()
    with pytest.raises(InvalidInputError, match=r"rh_training_fmri\.npy: no such file"):
        read_algonauts_2023(root, "subj01", ["V1v"])
    values.write_bytes(whole)
    (folder / "roi_masks/lh.floc-faces_challenge_space.npy").unlink()
    with pytest.raises(InvalidInputError, match=r"lh\.floc-faces_challenge_space.*no such file"):
        read_algonauts_2023(root, "subj01", ["OFA"])


def test_mappings_that_are_missing_or_hold_something_else_are_refused(root):
    masks = root / "subj01/roi_masks"
    np.save(masks / "mapping_streams.npy", {0: "Unknown", 1: "V1v"})
    with pytest.raises(
        InvalidInputError, match=r"'V1v' is named in mapping_prf-visualrois\.npy too"
    ):
        read_algonauts_2023(root, "subj01", ["V1v"])
    np.save(masks / "mapping_streams.npy", {"early": 1})
    with pytest.raises(InvalidInputError, match=r"mapping_streams\.npy: maps 'early' to 1"):
        read_algonauts_2023(root, "subj01", ["V1v"])
    np.save(masks / "mapping_streams.npy", np.arange(3))
    with pytest.raises(InvalidInputError, match=r"mapping_streams\.npy: .*expected a dictionary"):
        read_algonauts_2023(root, "subj01", ["V1v"])
    for path in masks.glob("mapping_*.npy"):
        path.unlink()
    with pytest.raises(InvalidInputError, match=r"roi_masks: holds no mapping_\*\.npy"):
        read_algonauts_2023(root, "subj01", ["V1v"])


def test_a_vertex_without_data_is_named(root):
    values = root / "subj01/training_split/training_fmri/rh_training_fmri.npy"
    bad = fmri("rh")
    bad[3, 2] = np.nan
    np.save(values, bad)
    with pytest.raises(InvalidInputError, match=r"channel rh-2 to 'nsd01000' \(row 3\)"):
        read_algonauts_2023(root, "subj01", ["V1v"])
    assert read_algonauts_2023(root, "subj01", ["V1d"]).n_rows == 6


def test_a_subject_or_split_that_is_not_there_is_refused(root):
    with pytest.raises(InvalidInputError, match="holds no folder 'subj02'; it holds 'subj01'"):
        read_algonauts_2023(root, 2, ["V1v"])
    with pytest.raises(InvalidInputError, match="no folder 'subj01'; it holds nothing"):
        read_algonauts_2023(root / "subj01", "subj01", ["V1v"])
    with pytest.raises(InvalidInputError, match="subject must be"):
        read_algonauts_2023(root, "sub-01", ["V1v"])
    with pytest.raises(InvalidInputError, match="'subj01' to 'subj08' or 1 to 8, got 9"):
        read_algonauts_2023(root, 9, ["V1v"])
    with pytest.raises(InvalidInputError, match="split must be"):
        read_algonauts_2023(root, "subj01", ["V1v"], split="validation")
    with pytest.raises(InvalidInputError, match=r"test_images: holds no images \(test-\*\.png\)"):
        read_algonauts_2023(root, "subj01", ["V1v"], split="test")


def test_the_test_split_is_read_where_its_responses_are_there(root):
    folder = root / "subj01"
    write_split(folder, "test", NSD[:4])
    read = read_algonauts_2023(root, "subj01", ["OFA"], split="test")
    np.testing.assert_array_equal(read.values[:, 0], [3.5, 13.5, 23.5, 33.5])
    assert read.noise_ceiling is None
    ceiling = folder / "test_split/noise_ceiling"
    ceiling.mkdir()
    np.save(ceiling / "lh_noise_ceiling.npy", np.arange(7) / 10)  # fractions
    np.save(ceiling / "rh_noise_ceiling.npy", np.arange(5) / 20)
    read = read_algonauts_2023(root, "subj01", ["V1v"], split="test")
    np.testing.assert_allclose(read.noise_ceiling, [0, 60, 10])  # lh 0 and 6, rh 2, in per cent
    assert read_algonauts_2023(root, "subj01", ["V1v"]).noise_ceiling is None
    np.save(ceiling / "rh_noise_ceiling.npy", np.arange(4))
    with pytest.raises(InvalidInputError, match=r"rh_noise_ceiling\.npy: is of 4 vertices"):
        read_algonauts_2023(root, "subj01", ["V1v"], split="test")


def test_participants_copies_lack_the_responses_to_test_images(root):
    write_split(root / "subj01", "test", NSD[:4])
    for path in (root / "subj01/test_split/test_fmri").iterdir():
        path.unlink()
    with pytest.raises(InvalidInputError, match=r"participants' copies .* lack the responses"):
        read_algonauts_2023(root, "subj01", ["V1v"], split="test")


def test_memory_is_that_of_the_vertices_asked_for(root):
    masks, values = root / "subj01/roi_masks", root / "subj01/training_split/training_fmri"
    n_vertices = 100_000
    codes = np.zeros(n_vertices, dtype=np.int8)
    codes[[5, 70_000]] = 1
    for side in SIZES:
        np.save(values / f"{side}_training_fmri.npy", np.zeros((6, n_vertices), np.float64))
        np.save(masks / f"{side}.prf-visualrois_challenge_space.npy", codes)
    tracemalloc.start()
    read = read_algonauts_2023(root, "subj01", ["V1v"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read.values.shape == (6, 4)
    assert peak < 1_200_000  # of 9,600,000 bytes; masks and their places are most of it


def test_the_whole_challenge_space_is_held_once(tmp_path):
    folder, n_images, n_vertices = tmp_path / "subj01", 60, 4000
    write_split(folder, "training", range(n_images))
    for side in SIZES:
        path = folder / f"training_split/training_fmri/{side}_training_fmri.npy"
        np.save(path, np.zeros((n_images, n_vertices), np.float32))
    (folder / "roi_masks").mkdir()
    np.save(folder / "roi_masks/mapping_streams.npy", {0: "Unknown", 1: "early"})
    tracemalloc.start()
    read = read_algonauts_2023(tmp_path, 1, ["all-vertices"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read.values.shape == (n_images, 2 * n_vertices)
    assert peak < 1.6 * read.values.nbytes  # with names of channels, and a check of the values
