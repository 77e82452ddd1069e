"""THINGS-EEG2: generated files in the published layout, in both forms that occur."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest

import rsafast as rf
from rsafast.datasets.things_eeg import read_things_eeg
from rsafast.errors import InvalidInputError

CHANNELS = ["Pz", "P1", "P10", "O1", "PO7"]
TIMES = np.linspace(-0.2, 0.4, 7) + 1e-12 * np.array([-1, 1, -1, 1, -1, 1, 1])  # s, rounded
FILES = {
    "test": ["aircraft_carrier_06s.jpg", "bee_03b.jpg", "bat1_01b.jpg"],
    "training": ["aardvark_01b.jpg", "aardvark_02s.jpg", "abacus_01b.jpg", "abacus_03s.jpg"],
}
REPEATS = {"test": 5, "training": 2}


def recording(part):
    """Every axis can be told from the value: images, repetitions, channels, times."""
    shape = len(FILES[part]), REPEATS[part], len(CHANNELS), len(TIMES)
    image, repeat, channel, time = np.indices(shape)
    return 1000.0 * image + 0.25 * repeat + 100.0 * channel + time


def content(part):
    return {"preprocessed_eeg_data": recording(part), "ch_names": CHANNELS, "times": TIMES}


def metadata():
    return {
        "train_img_concepts": ["00001_aardvark"] * 2 + ["00002_abacus"] * 2,
        "train_img_files": FILES["training"],
        "train_img_concepts_THINGS": ["00001_aardvark"] * 2 + ["00002_abacus"] * 2,
        "test_img_concepts": ["00001_aircraft_carrier", "00002_bee", "00003_bat1"],
        "test_img_files": FILES["test"],
        "test_img_concepts_THINGS": ["x", "y", "z"],
    }


@pytest.fixture
def root(tmp_path):
    for part in FILES:
        path = tmp_path / "preprocessed_data/sub-01" / f"preprocessed_eeg_{part}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, content(part))
    (tmp_path / "image_set").mkdir()
    np.save(tmp_path / "image_set/image_metadata.npy", metadata())
    return tmp_path


@pytest.fixture
def recorded(root):
    return root / "preprocessed_data/sub-01/preprocessed_eeg_test.npy"


def test_repetitions_are_averaged(root):
    read = read_things_eeg(root, "sub-01")
    image, channel, time = np.indices((3, 5, 7))
    np.testing.assert_array_equal(read.values, 1000 * image + 0.5 + 100 * channel + time)
    assert read.values.dtype == np.float32
    assert read.stimuli == ("aircraft_carrier_06s", "bee_03b", "bat1_01b")
    assert read.channels.tolist() == CHANNELS
    np.testing.assert_array_equal(read.times, TIMES)
    assert read.subject == "sub-01"
    assert read.units == "whitened"
    assert "each the mean of 5 repetitions" in read.notes
    assert read.source["part"] == "test"


def test_without_averaging_repetitions_of_an_image_follow_each_other(root):
    read = read_things_eeg(root, 1, part="training", average=False)
    assert read.subject == "sub-01"
    assert read.stimuli[:3] == ("aardvark_01b", "aardvark_01b", "aardvark_02s")
    np.testing.assert_array_equal(read.values, recording("training").reshape(8, 5, 7))
    averaged = read.averaged()
    assert averaged.stimuli == tuple(name[:-4] for name in FILES["training"])
    np.testing.assert_allclose(
        averaged.values, read_things_eeg(root, 1, part="training").values, rtol=1e-6
    )


def test_sessions_are_not_told(root):
    read = read_things_eeg(root, "sub-01", average=False)
    assert read.seen == (frozenset({(0, 0)}),) * 15
    with pytest.raises(InvalidInputError, match="not told"):
        read.z_scored()
    with pytest.raises(InvalidInputError, match="all stimuli are in one run"):
        rf.run_mask(read_things_eeg(root, "sub-01").seen)


def test_stimuli_channels_and_times_are_selected_together(root):
    read = read_things_eeg(
        root, "sub-01", stimuli=["bat1_01b", "bee_03b"], channels=["O1", "Pz"], times=(0.1, 0.3)
    )
    assert read.stimuli == ("bat1_01b", "bee_03b")
    assert read.channels.tolist() == ["O1", "Pz"]
    np.testing.assert_allclose(read.times, [0.1, 0.2, 0.3])
    expected = [[[2303.5, 2304.5, 2305.5], [2003.5, 2004.5, 2005.5]]]
    np.testing.assert_array_equal(read.values, np.concatenate([expected, np.add(expected, -1000)]))


@pytest.mark.parametrize(
    ("channels", "expected"),
    [
        ("P1", ["P1"]),  # the name of one, not the beginning of P10
        ("^P", ["Pz", "P1", "P10", "PO7"]),
        ("^O *|^P *", CHANNELS),  # as the authors selected
        ("^O|^PO", ["O1", "PO7"]),
        (["PO7", "Pz"], ["PO7", "Pz"]),
        (None, CHANNELS),
    ],
)
def test_channels_go_by_name_list_or_expression(root, channels, expected):
    assert read_things_eeg(root, "sub-01", channels=channels).channels.tolist() == expected


@pytest.mark.parametrize(
    ("channels", "said"),
    [
        ("Cz", r"\('Cz' not found\); it has Pz, P1, P10, O1, PO7"),
        (["O1", "Cz"], r"\('Cz' not found\)"),
        (["O1", "O1"], "each once"),
        ([], "must name channels"),
        ("^(", "no regular expression"),
    ],
)
def test_channels_that_are_not_there_are_refused(root, channels, said):
    with pytest.raises(InvalidInputError, match=said):
        read_things_eeg(root, "sub-01", channels=channels)


def test_names_of_channels_and_times_are_those_of_the_file(root, recorded):
    changed = content("test") | {"ch_names": np.array(CHANNELS[::-1]), "times": TIMES + 1}
    np.save(recorded, changed)
    read = read_things_eeg(root, "sub-01", channels="P1")
    np.testing.assert_array_equal(read.values[0, 0], 300.5 + np.arange(7))
    np.testing.assert_array_equal(read.times, TIMES + 1)


def test_both_ends_of_the_times_are_included_and_may_reach_one_sample_beyond(root):
    assert len(read_things_eeg(root, "sub-01", times=(-0.2, 0.4)).times) == 7
    assert len(read_things_eeg(root, "sub-01", times=(0, 0.5)).times) == 5
    np.testing.assert_allclose(read_things_eeg(root, "sub-01", times=(0, 0)).times, [0], atol=1e-9)


@pytest.mark.parametrize("times", [(0.01, 0.02), (0.3, 0.1), (0, 0.8), (-1, 0), (100, 300)])
def test_times_outside_the_recording_are_refused(root, times):
    with pytest.raises(InvalidInputError, match=r"is from -0\.2 to 0\.4 s"):
        read_things_eeg(root, "sub-01", times=times)


def test_a_plain_pickle_under_a_name_in_npy_is_read(root, recorded):
    expected = read_things_eeg(root, "sub-01").values
    recorded.write_bytes(pickle.dumps(content("test"), protocol=4))
    np.testing.assert_array_equal(read_things_eeg(root, "sub-01").values, expected)


def test_subjects_may_lie_in_the_folder_itself(root):
    folder = root / "preprocessed_data"  # its image_set is beside it
    with pytest.raises(InvalidInputError, match=r"image_metadata\.npy: no such file"):
        read_things_eeg(folder, "sub-01")
    given = read_things_eeg(folder, 1, image_metadata=root / "image_set/image_metadata.npy")
    assert given.n_rows == 3
    (root / "image_set/image_metadata.npy").replace(root / "image_metadata.npy")
    assert read_things_eeg(folder, "sub-01").n_rows == 3
    assert read_things_eeg(root, "sub-01").n_rows == 3


def test_another_number_of_images_than_listed_is_refused(root):
    np.save(root / "image_set/image_metadata.npy", metadata() | {"test_img_files": ["a.jpg"]})
    with pytest.raises(
        InvalidInputError, match=r"test\.npy: holds 3 images, .* lists 1 for the test"
    ):
        read_things_eeg(root, "sub-01")


def test_metadata_that_lack_a_list_or_repeat_an_image_are_refused(root):
    path = root / "image_set/image_metadata.npy"
    np.save(path, {"train_img_files": FILES["training"]})
    with pytest.raises(InvalidInputError, match="no 'test_img_files'; it has 'train_img_files'"):
        read_things_eeg(root, "sub-01")
    np.save(path, {"test_img_files": ["a_01b.jpg", "b_01b.jpg", "a_01b.jpg"]})
    with pytest.raises(InvalidInputError, match="lists the image 'a_01b' twice"):
        read_things_eeg(root, "sub-01")


def test_an_unknown_stimulus_is_refused(root):
    with pytest.raises(InvalidInputError, match=r"holds no 'aardvark_01b' \(1 of 1 .*'bee_03b'"):
        read_things_eeg(root, "sub-01", stimuli=["aardvark_01b"])  # it is of the training part


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"preprocessed_eeg_data": None}, "its data are NoneType"),
        ({"preprocessed_eeg_data": np.zeros((3, 5, 7))}, r"its data are \(3, 5, 7\) float64"),
        ({"preprocessed_eeg_data": np.zeros((3, 5, 5, 7), int)}, "int64; expected"),
        ({"ch_names": CHANNELS[:-1]}, "4 channels and 7 times do not fit"),
        ({"times": TIMES[:-1]}, "5 channels and 6 times do not fit"),
    ],
)
def test_parts_that_do_not_fit_are_refused(root, recorded, changed, said):
    np.save(recorded, content("test") | changed)
    with pytest.raises(InvalidInputError, match=rf"preprocessed_eeg_test\.npy: .*{said}"):
        read_things_eeg(root, "sub-01")


def test_a_raw_recording_is_refused(root, recorded):
    raw = {
        "raw_eeg_data": np.array([[1e-6, 2e-6], [1, 99999]]), "ch_names": ["Pz", "stim"],
        "ch_types": ["eeg", "stim"], "sfreq": 1000,
    }  # fmt: skip
    np.save(recorded, raw)
    with pytest.raises(InvalidInputError, match="raw recordings are not read"):
        read_things_eeg(root, "sub-01")


def test_a_value_that_is_not_finite_is_named(root, recorded):
    bad = content("test")
    bad["preprocessed_eeg_data"][1, 4, 3, 0] = np.nan
    np.save(recorded, bad)
    with pytest.raises(InvalidInputError, match=r"channel O1 to 'bee_03b' \(row 1\)"):
        read_things_eeg(root, "sub-01")
    assert read_things_eeg(root, "sub-01", channels=["Pz"]).n_rows == 3


def test_damaged_and_missing_files_are_refused(root, recorded):
    with pytest.raises(InvalidInputError, match=r"sub-02/preprocessed_eeg_test\.npy: no such file"):
        read_things_eeg(root, "sub-02")
    for subject in ("subj01", 11, 0, True):
        with pytest.raises(InvalidInputError, match="'sub-01' to 'sub-10' or 1 to 10, got"):
            read_things_eeg(root, subject)
    with pytest.raises(InvalidInputError, match="part must be"):
        read_things_eeg(root, "sub-01", part="train")
    whole = recorded.read_bytes()
    recorded.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInputError, match=r"preprocessed_eeg_test\.npy: is truncated"):
        read_things_eeg(root, "sub-01")
    np.save(recorded, recording("test"))
    with pytest.raises(InvalidInputError, match="expected a dictionary"):
        read_things_eeg(root, "sub-01")


def test_an_rdm_movie_is_made_of_what_was_read(tmp_path, rng):
    data = rng.normal(size=(6, 2, 5, 7))
    (tmp_path / "sub-03").mkdir()
    np.save(
        tmp_path / "sub-03/preprocessed_eeg_test.npy",
        {"preprocessed_eeg_data": data, "ch_names": CHANNELS, "times": TIMES},
    )
    files = [f"thing{i}_01b.jpg" for i in range(6)]
    np.save(tmp_path / "image_metadata.npy", {"test_img_files": files})
    read = read_things_eeg(tmp_path, 3)
    movie = rf.rdm_movie(read.values, times=read.times, labels=read.stimuli)
    assert movie.labels[0] == "thing0_01b"
    mean = data.mean(axis=1)
    expected = 1 - np.corrcoef(mean[0, :, 4], mean[5, :, 4])[0, 1]
    assert movie.matrices()[4, 0, 5] == pytest.approx(expected, abs=1e-5)


def test_memory_is_that_of_the_file_and_of_what_is_selected(root, recorded):
    data = np.zeros((3, 100, 20, 200))  # 9.6 MB
    names = [f"P{i}" for i in range(20)]
    np.save(recorded, {"preprocessed_eeg_data": data, "ch_names": names, "times": np.arange(200.0)})
    size = data.nbytes
    del data
    tracemalloc.start()
    read = read_things_eeg(root, "sub-01", channels=["P3"])
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert read.values.shape == (3, 1, 200)
    assert peak < 1.15 * size  # the pickle once, and a block of the channel asked for
    assert kept < 0.05 * size
