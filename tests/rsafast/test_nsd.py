"""The reader of the Natural Scenes Dataset, on files generated in the published layout."""

from __future__ import annotations

import gzip
import os
import shutil
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.stats

import rsafast as rf
from rsafast.datasets.nsd import betas as betas_module
from rsafast.datasets.nsd import nsd_design, read_nsd
from rsafast.datasets.nsd import reader as reader_module
from rsafast.datasets.responses import Responses
from rsafast.errors import BackendUnavailableError, InvalidInputError

SHAPE = (5, 4, 3)  # x, y, z differ, so that a transposed axis fails
LEFT, RIGHT = 11, 13  # vertices
BETAS = "betas_fithrf_GLMdenoise_RR"
RUNS = [63, 62] * 6

# Trials 0, 2 and 5 show the shared image 0; trials 1 and 4 the last image of all; trial 3 image 50,
# whose other presentations, like the third one of the last image, are in session 40.
FIRST, LAST, ONCE = 0, 72_999, 50
HEAD, TAIL = [1, 1001, 1, 1002, 1001, 1], [1001, 1002, 1002]

V1V = [(1, 0, 0), (2, 0, 0), (1, 1, 0)]
V1D = [(1, 0, 1), (3, 3, 2)]
V2V = [(2, 2, 1)]
GENERAL = [(0, 0, 0), (1, 0, 0), (4, 3, 2)]


# ---------------------------------------------------------------- files as published


class Plan:
    """What the files of the design say, counted from 0."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        shared = np.sort(
            np.append(rng.choice(np.setdiff1d(np.arange(1, LAST), [ONCE]), 999, False), FIRST)
        )
        others = rng.permutation(np.setdiff1d(np.arange(73_000), shared)).reshape(8, 9000)
        for place, image in enumerate([LAST, ONCE]):
            here = tuple(np.argwhere(others == image)[0])
            others[here], others[0, place] = others[0, place], image
        self.shared = shared
        self.images = np.hstack([np.tile(shared, (8, 1)), others])
        rest = np.repeat(np.setdiff1d(np.arange(1, 10_001), HEAD), 3)
        self.order = np.array([*HEAD, *rng.permutation(rest), *TAIL])

    def shown(self, subject: int) -> np.ndarray:
        return self.images[subject - 1][self.order - 1]


@pytest.fixture(scope="module")
def plan() -> Plan:
    return Plan()


@pytest.fixture(scope="module")
def published(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the design and the regions of subj01, without betas."""
    root = tmp_path_factory.mktemp("published")
    folder = root / "nsddata" / "experiments" / "nsd"
    folder.mkdir(parents=True)
    write_design(folder / "nsd_expdesign.mat", plan)
    write_volume_rois(root, "func1pt8mm")
    return root


@pytest.fixture(scope="module")
def design_of_subj01(published: Path) -> pd.DataFrame:
    return nsd_design(published, 1)


def write_design(file: Path, plan: Plan, **changes: object) -> None:
    pattern = np.zeros((40, 12, 75), np.uint8)
    for run, trials in enumerate(RUNS):
        pattern[:, run, 3 : 3 + trials] = 1
    content = {
        "masterordering": plan.order[None].astype(np.uint16),
        "subjectim": (plan.images + 1).astype(np.uint32),
        "sharedix": (plan.shared + 1)[None].astype(np.uint32),
        "stimpattern": pattern,
        "basiccnt": np.zeros((3, 40)),
    } | changes
    scipy.io.savemat(file, {k: v for k, v in content.items() if v is not None}, do_compression=True)


def stimulus_table(plan: Plan) -> pd.DataFrame:
    table = pd.DataFrame({"nsdId": np.arange(73_000)})
    table["shared1000"] = np.isin(table["nsdId"], plan.shared)
    shown = plan.shown(1)
    by_image = np.lexsort((np.arange(30_000), shown)).reshape(10_000, 3)
    for repeat in range(3):
        trials = np.zeros(73_000, np.int64)
        trials[shown[by_image[:, repeat]]] = by_image[:, repeat] + 1
        table[f"subject1_rep{repeat}"] = trials
    return table


def write_table(root: Path, table: pd.DataFrame) -> None:
    """Write the rows of images that the subject saw; the others say nothing and take long."""
    table[(table["subject1_rep0"] > 0) | (table["nsdId"] == FIRST)].to_csv(table_of(root))


def table_of(root: Path) -> Path:
    return root / "nsddata" / "experiments" / "nsd" / "nsd_stim_info_merged.csv"


@pytest.fixture
def copied(tmp_path: Path, published: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(published, tmp_path, dirs_exist_ok=True))


@pytest.fixture
def root(copied: Path, design_of_subj01: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy whose design `read_nsd` need not read again in every test."""
    monkeypatch.setattr(reader_module, "nsd_design", lambda *_: design_of_subj01.copy())
    return copied


def write_nifti(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), file)


def write_mgh(file: Path, values: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.MGHImage(values.astype(np.float32), np.eye(4)), file)


def write_volume_rois(root: Path, space: str) -> None:
    folder = root / "nsddata" / "ppdata" / "subj01" / space / "roi"
    labels = np.full(SHAPE, -1, np.int16)
    labels[1:4] = 0
    for number, places in ((1, V1V), (2, V1D), (3, V2V)):
        labels[tuple(np.transpose(places))] = number
    general = np.where(labels == -1, -1, 0).astype(np.int16)
    general[tuple(np.transpose(GENERAL))] = 1
    left = labels.copy()
    left[2:] = -1
    write_nifti(folder / "prf-visualrois.nii.gz", labels)
    write_nifti(folder / "lh.prf-visualrois.nii.gz", left)
    write_nifti(folder / "nsdgeneral.nii.gz", general)


def folder_of(root: Path, space: str = "func1pt8mm") -> Path:
    folder = root / "nsddata_betas" / "ppdata" / "subj01" / space / BETAS
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_hdf5(file: Path, values: np.ndarray) -> None:
    """`values` (x, y, z, 750) or (vertices, 750), in the order of MATLAB."""
    with h5py.File(file, "w") as handle:
        chunks = (values.shape[-1],) + (1,) * (values.ndim - 1)
        handle.create_dataset("betas", data=values.T, chunks=chunks)


def session_values(session: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    rng = np.random.default_rng(100 + session)
    return rng.integers(-900, 900, (*shape, 750)).astype(np.int16)


def write_sessions(root: Path, sessions: list[int], change: Callable | None = None) -> dict:
    raw = {session: session_values(session) for session in sessions}
    if change is not None:
        change(raw)
    for session, values in raw.items():
        write_hdf5(folder_of(root) / f"betas_session{session:02d}.hdf5", values)
    return raw


def one(responses: Responses, stimulus: str, channel: str) -> float:
    row = responses.stimuli.index(stimulus)
    return float(responses.values[row, responses.channels.tolist().index(channel)])


PERCENT = {"z_score": False, "average": False, "progress": False}


# ---------------------------------------------------------------- design


def test_images_count_from_zero_though_the_file_counts_from_one_unsigned(root, plan):
    design = nsd_design(root, "subj01")
    assert design["nsd_id"].tolist()[:6] == [FIRST, LAST, FIRST, ONCE, LAST, FIRST]
    assert np.array_equal(design["nsd_id"], plan.shown(1))
    assert design["nsd_id"].dtype == np.int64


def test_every_subject_has_its_own_images(root, plan):
    first, eighth = nsd_design(root, 1), nsd_design(root, "subj08")
    assert np.array_equal(eighth["nsd_id"], plan.shown(8))
    differ = first["nsd_id"] != eighth["nsd_id"]
    assert np.array_equal(differ, ~first["shared"])


def test_odd_runs_have_63_trials_and_even_ones_62(root):
    design = nsd_design(root, 1)
    sizes = design.groupby(["session", "run"]).size()
    assert sizes.index.tolist() == [(s, r) for s in range(1, 41) for r in range(1, 13)]
    assert sizes.tolist() == RUNS * 40
    assert design["run"].iloc[[62, 63, 749, 750]].tolist() == [1, 2, 12, 1]
    assert design["trial"].iloc[[0, 749, 750]].tolist() == [1, 750, 1]


def test_repeats_and_shared_images_are_marked(root, plan):
    design = nsd_design(root, 1)
    assert design["repeat"].tolist()[:6] == [1, 1, 2, 1, 2, 3]
    assert design["shared"].tolist()[:6] == [True, False, True, False, False, True]
    assert sorted(design.loc[design["shared"], "nsd_id"].unique()) == plan.shared.tolist()


def test_table_of_stimuli_that_agrees_is_accepted(root, plan):
    table = stimulus_table(plan)
    table.insert(1, "cropBox", "(0, 0, 0.1, 0.2)")
    write_table(root, table)
    assert np.array_equal(nsd_design(root, 1)["nsd_id"], plan.shown(1))


def swap_ids(table: pd.DataFrame) -> None:
    table.loc[[FIRST, LAST], "nsdId"] = [LAST, FIRST]


def flag_another_image(table: pd.DataFrame) -> None:
    table.loc[LAST, "shared1000"] = True


def lose_an_image(table: pd.DataFrame) -> None:
    table.loc[LAST, [f"subject1_rep{i}" for i in range(3)]] = 0


def claim_a_trial_twice(table: pd.DataFrame) -> None:
    table.loc[FIRST, "subject1_rep1"] = 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (swap_ids, r"has nsdId 72999 in trial 1 of subject 1, nsd_expdesign.mat has nsdId 0 "),
        (flag_another_image, r"shared1000 and sharedix .* disagree on nsdId 72999"),
        (lose_an_image, r"merged.csv: places 29997 images .* plans 30000"),
        (claim_a_trial_twice, r"has no image in trial 3 of subject 1"),
    ],
)
def test_table_of_stimuli_that_disagrees_is_refused(root, plan, change, said):
    table = stimulus_table(plan)
    change(table)
    write_table(root, table)
    with pytest.raises(InvalidInputError, match=said):
        nsd_design(root, 1)


def test_table_of_stimuli_of_another_kind_is_refused(root):
    table_of(root).write_text("nothing,of,the,kind\n1,2,3,4\n")
    with pytest.raises(InvalidInputError, match=r"merged.csv: is no table of stimuli"):
        nsd_design(root, 1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"subjectim": None}, "variable 'subjectim' should be .* but is missing"),
        ({"masterordering": np.zeros((1, 30_000))}, "'masterordering' should hold .* from 1"),
        ({"masterordering": np.ones((1, 750))}, "750 trials in masterordering"),
        ({"sharedix": np.array([[1.5, 2]])}, "'sharedix' should hold whole numbers"),
        ({"stimpattern": np.ones((40, 12, 75))}, r"sessions of \[900\] trials"),
    ],
)
def test_design_with_impossible_numbers_is_refused(root, plan, changes, said):
    file = root / "nsddata" / "experiments" / "nsd" / "nsd_expdesign.mat"
    file.unlink()
    write_design(file, plan, **changes)
    with pytest.raises(InvalidInputError, match=said):
        nsd_design(root, 1)


def test_design_that_is_missing_or_cut_short_is_refused(root):
    file = root / "nsddata" / "experiments" / "nsd" / "nsd_expdesign.mat"
    content = file.read_bytes()
    file.unlink()
    with pytest.raises(InvalidInputError, match=r"nsd_expdesign.mat: no such file"):
        nsd_design(root, 1)
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(InvalidInputError, match=r"nsd_expdesign.mat: is truncated"):
        nsd_design(root, 1)
    with pytest.raises(InvalidInputError, match=r"subject must be"):
        nsd_design(root, 9)
    with pytest.raises(InvalidInputError, match=r"holds no folder nsddata"):
        nsd_design(root / "nsddata", 1)


# ---------------------------------------------------------------- values


def test_values_are_divided_by_300_and_belong_to_their_voxel_and_trial(copied):
    root = copied

    def saturate(raw):
        raw[1][4, 3, 2, 7] = 32767

    raw = write_sessions(root, [1, 2], saturate)
    got = read_nsd(root, 1, "nsdgeneral", **PERCENT)
    assert got.channels.tolist() == ["0-0-0", "1-0-0", "4-3-2"]
    assert got.units == "% signal change"
    both = np.concatenate([raw[1], raw[2]], axis=-1)
    for channel, place in enumerate(GENERAL):
        expected = both[place].astype(np.float32) / np.float32(300)
        assert np.array_equal(got.values[:, channel], expected)
    assert got.values[7, 2] == np.float32(32767 / 300)
    assert got.stimuli[:6] == ("nsd00000", "nsd72999", "nsd00000", "nsd00050", "nsd72999",
                               "nsd00000")  # fmt: skip
    assert [next(iter(got.seen[i])) for i in (0, 62, 63, 750)] == [(1, 1), (1, 1), (1, 2), (2, 1)]


def test_voxels_that_adjoin_and_voxels_across_rows_are_all_read(root):
    """All voxels of the volume, whose rows end where the next ones start."""
    raw = write_sessions(root, [1])
    write_nifti(root / "nsddata/ppdata/subj01/func1pt8mm/roi/all.nii.gz", np.ones(SHAPE, np.int16))
    got = read_nsd(root, 1, "all", **PERCENT)
    assert got.channels[:6].tolist() == ["0-0-0", "1-0-0", "2-0-0", "3-0-0", "4-0-0", "0-1-0"]
    for channel, name in enumerate(got.channels):
        place = tuple(map(int, name.split("-")))
        assert np.array_equal(got.values[:, channel], raw[1][place] / np.float32(300))


def test_nifti_gives_the_values_of_hdf5_and_hdf5_is_preferred(root):
    raw = write_sessions(root, [1, 2])
    expected = read_nsd(root, 1, ["V1", "nsdgeneral"], progress=False)
    for session, values in raw.items():
        file = folder_of(root) / f"betas_session{session:02d}.nii.gz"
        write_nifti(file, values)
        file.with_name(f"betas_session{session:02d}.hdf5").unlink()
    got = read_nsd(root, 1, ["V1", "nsdgeneral"], progress=False)
    assert np.array_equal(got.values, expected.values)
    assert np.array_equal(got.channels, expected.channels)

    write_hdf5(folder_of(root) / "betas_session01.hdf5", raw[2])
    mixed = read_nsd(root, 1, "nsdgeneral", **PERCENT)
    assert np.array_equal(mixed.values[:750, 0], raw[2][0, 0, 0] / np.float32(300))


def test_1_mm_volumes_are_read_from_their_own_folders(root):
    write_volume_rois(root, "func1mm")
    write_hdf5(folder_of(root, "func1mm") / "betas_session01.hdf5", session_values(1))
    got = read_nsd(root, 1, "nsdgeneral", space="func1mm", **PERCENT)
    assert np.array_equal(got.values[:, 1], session_values(1)[1, 0, 0] / np.float32(300))


def write_surface(root: Path, space: str) -> dict[str, np.ndarray]:
    """Region nsdgeneral on vertices 2, 3 and 10 left, 0 and 12 right; one session of betas."""
    owner = "fsaverage" if space == "fsaverage" else "subj01"
    labels = root / "nsddata" / "freesurfer" / owner / "label"
    raw = {}
    for hemisphere, size, places in (("lh", LEFT, [2, 3, 10]), ("rh", RIGHT, [0, 12])):
        mask = np.zeros((size, 1, 1))
        mask[places] = 1
        write_mgh(labels / f"{hemisphere}.nsdgeneral.mgz", mask)
        raw[hemisphere] = session_values(size, (size,))
        folder, name = folder_of(root, space), f"{hemisphere}.betas_session01"
        if space == "nativesurface":
            write_hdf5(folder / f"{name}.hdf5", raw[hemisphere])
        else:
            raw[hemisphere] = raw[hemisphere] / np.float32(300)
            write_mgh(folder / f"{name}.mgh", raw[hemisphere].reshape(size, 1, 1, 750))
    return raw


def test_hemispheres_of_the_native_surface_are_joined_left_first(root):
    raw = write_surface(root, "nativesurface")
    got = read_nsd(root, 1, "nsdgeneral", space="nativesurface", **PERCENT)
    assert got.channels.tolist() == ["lh-2", "lh-3", "lh-10", "rh-0", "rh-12"]
    assert np.array_equal(got.values[:, 2], raw["lh"][10] / np.float32(300))
    assert np.array_equal(got.values[:, 4], raw["rh"][12] / np.float32(300))
    right = read_nsd(root, 1, "rh.nsdgeneral", space="nativesurface", **PERCENT)
    assert right.channels.tolist() == ["rh-0", "rh-12"]


def test_mgh_values_are_per_cent_already(root):
    raw = write_surface(root, "fsaverage")
    got = read_nsd(root, 1, "nsdgeneral", space="fsaverage", **PERCENT)
    assert got.channels.tolist() == ["lh-2", "lh-3", "lh-10", "rh-0", "rh-12"]
    assert np.array_equal(got.values[:, 1], raw["lh"][3])
    assert np.array_equal(got.values[:, 3], raw["rh"][0])


# ---------------------------------------------------------------- z-scores, repeats, missing data


def test_z_scores_are_over_all_trials_of_a_session_before_stimuli_are_selected(root):
    raw = write_sessions(root, [1, 2])
    got = read_nsd(root, 1, "nsdgeneral", stimuli=["nsd00050", "nsd00000"], progress=False)
    z = scipy.stats.zscore(raw[1][1, 0, 0].astype(float))
    assert got.stimuli == ("nsd00050", "nsd00000")
    assert got.units == "z"
    np.testing.assert_allclose(got.values[:, 1], [z[3], z[[0, 2, 5]].mean()], atol=2e-6)
    assert any("over all trials of each session" in note for note in got.notes)


def test_each_session_is_z_scored_by_itself(root):
    raw = write_sessions(root, [1, 2])
    got = read_nsd(root, 1, "nsdgeneral", average=False, progress=False)
    for session, rows in ((1, slice(0, 750)), (2, slice(750, 1500))):
        expected = scipy.stats.zscore(raw[session][4, 3, 2].astype(float))
        np.testing.assert_allclose(got.values[rows, 2], expected, atol=2e-6)


def test_repeats_are_averaged_and_their_runs_kept(root, plan):
    raw = write_sessions(root, [1, 2, 3])
    got = read_nsd(root, 1, "nsdgeneral", z_score=False, progress=False)
    shown = plan.shown(1)[:2250]
    assert got.stimuli == tuple(f"nsd{i:05d}" for i in sorted(set(shown)))
    both = np.concatenate([raw[1], raw[2], raw[3]], axis=-1)[1, 0, 0] / 300
    assert one(got, "nsd00000", "1-0-0") == pytest.approx(both[[0, 2, 5]].mean(), abs=1e-6)
    assert one(got, "nsd72999", "1-0-0") == pytest.approx(both[[1, 4]].mean(), abs=1e-6)
    assert one(got, "nsd00050", "1-0-0") == pytest.approx(both[3], abs=1e-6)
    across = next(i for i in shown[750:1500] if i in shown[:750])
    trials = np.flatnonzero(shown == across)
    edges = np.cumsum([0, *RUNS])
    runs = {(t // 750 + 1, int(np.searchsorted(edges, t % 750, side="right"))) for t in trials}
    assert got.seen[got.stimuli.index(f"nsd{across:05d}")] == runs
    assert got.seen[got.stimuli.index("nsd00000")] == {(1, 1)}


def test_averages_are_those_of_the_trials(root):
    write_sessions(root, [1, 2])
    averaged = read_nsd(root, 1, "V1", progress=False)
    trials = read_nsd(root, 1, "V1", average=False, progress=False).averaged()
    same = trials.subset(averaged.stimuli)
    np.testing.assert_allclose(same.values, averaged.values, atol=1e-6)
    assert same.seen == averaged.seen


def test_voxels_without_data_in_a_session_are_left_out_of_every_region_and_counted(root):
    def blank(raw):
        raw[1][1, 0, 0] = 0  # in V1 and nsdgeneral, in the first session alone
        raw[2][1, 1, 0] = 0  # in V1, in the last session alone
        raw[1][3, 3, 2] = raw[2][3, 3, 2] = 0  # in V1, always
        raw[1][0, 0, 0, :749] = 0  # varies

    raw = write_sessions(root, [1, 2], blank)
    got = read_nsd(root, 1, ["V1", "nsdgeneral"], progress=False)
    assert got.channels.tolist() == ["0-0-0", "2-0-0", "1-0-1", "4-3-2"]
    assert got.rois["V1"].tolist() == [False, True, True, False]
    assert got.rois["nsdgeneral"].tolist() == [True, False, False, True]
    assert "V1: 5 channels, 3 left out that have no data in a session" in got.notes
    assert "nsdgeneral: 3 channels, 1 left out that have no data in a session" in got.notes
    z = scipy.stats.zscore(raw[1][2, 0, 0].astype(float))
    assert one(got, "nsd00050", "2-0-0") == pytest.approx(z[3], abs=2e-6)
    percent = read_nsd(root, 1, ["V1", "nsdgeneral"], **PERCENT)
    assert np.array_equal(percent.channels, got.channels)


def test_region_without_any_data_is_refused(root):
    write_hdf5(folder_of(root) / "betas_session01.hdf5", np.zeros((*SHAPE, 750), np.int16))
    with pytest.raises(InvalidInputError, match=r"none of the 1 channels of .*V2v has data"):
        read_nsd(root, 1, "prf-visualrois/V2v", progress=False)


def test_nan_vertices_are_left_out_and_counted(root):
    raw = write_surface(root, "fsaverage")
    raw["lh"][3] = np.nan
    write_mgh(
        folder_of(root, "fsaverage") / "lh.betas_session01.mgh",
        raw["lh"].reshape(LEFT, 1, 1, 750),
    )
    got = read_nsd(root, 1, "nsdgeneral", space="fsaverage", progress=False)
    assert got.channels.tolist() == ["lh-2", "lh-10", "rh-0", "rh-12"]
    assert "nsdgeneral: 5 channels, 1 left out that have no data in a session" in got.notes
    z = scipy.stats.zscore(raw["lh"][10].astype(float))
    assert one(got, "nsd00050", "lh-10") == pytest.approx(z[3], abs=2e-6)


# ---------------------------------------------------------------- regions


def test_neither_minus_one_nor_zero_is_a_region(root):
    write_sessions(root, [1])
    got = read_nsd(root, 1, "prf-visualrois", **PERCENT)
    places = sorted(V1V + V1D + V2V, key=lambda p: p[::-1])
    assert got.channels.tolist() == ["-".join(map(str, place)) for place in places]


def test_regions_are_files_labels_groups_and_unions(root):
    write_sessions(root, [1])
    got = read_nsd(
        root, 1,
        {"V1": "V1", "ventral": "prf-visualrois/V1v", "two": "prf-visualrois/2",
         "any": ["nsdgeneral", "V2"], "left": "lh.V1", "left file": "lh.prf-visualrois/V1v"},
        **PERCENT,
    )  # fmt: skip
    own = {name: got.roi(name).channels.tolist() for name in got.rois}
    assert own == {
        "V1": ["1-0-0", "2-0-0", "1-1-0", "1-0-1", "3-3-2"],
        "ventral": ["1-0-0", "2-0-0", "1-1-0"],
        "two": ["1-0-1", "3-3-2"],
        "any": ["0-0-0", "1-0-0", "2-2-1", "4-3-2"],
        "left": ["1-0-0", "1-1-0", "1-0-1"],
        "left file": ["1-0-0", "1-1-0"],
    }


def test_label_absent_in_a_subject_is_an_empty_region(root):
    write_sessions(root, [1])
    got = read_nsd(root, 1, ["V1", "V3", "hV4"], progress=False)
    assert not got.rois["V3"].any()
    assert "V3: 0 channels" in got.notes
    with pytest.raises(InvalidInputError, match=r"region 'V3' holds no channel"):
        got.roi("V3")
    with pytest.raises(InvalidInputError, match=r"V3, hV4 hold no channel in func1pt8mm"):
        read_nsd(root, 1, ["V3", "hV4"], progress=False)


def test_names_of_labels_come_from_the_ctab_where_there_is_one(root):
    write_sessions(root, [1])
    documented = read_nsd(root, 1, "prf-visualrois/V1v", **PERCENT)
    assert documented.channels.tolist() == ["1-0-0", "2-0-0", "1-1-0"]
    assert "as documented" in documented.source["labels"]["prf-visualrois"]

    table = root / "nsddata" / "freesurfer" / "subj01" / "label" / "prf-visualrois.mgz.ctab"
    table.parent.mkdir(parents=True)
    table.write_text("0 Unknown\n3 V1v\n1 other\n\n")
    named = read_nsd(root, 1, "prf-visualrois/V1v", **PERCENT)
    assert named.channels.tolist() == ["2-2-1"]
    assert str(table) in named.source["labels"]["prf-visualrois"]
    with pytest.raises(InvalidInputError, match=r"no label 'V1d'.*ctab: V1v, other"):
        read_nsd(root, 1, "V1", **PERCENT)
    with pytest.raises(InvalidInputError, match=r"no label 'Unknown'"):
        read_nsd(root, 1, "prf-visualrois/Unknown", **PERCENT)
    table.write_text("0 Unknown\nV1v 1\n")
    with pytest.raises(InvalidInputError, match=r"ctab: line 2 is 'V1v 1'"):
        read_nsd(root, 1, "V1", **PERCENT)


@pytest.mark.parametrize(
    ("rois", "said"),
    [
        ("floc-faces/FFA-1", "floc-faces.nii.gz: no such file; .* nsdgeneral, prf-visualrois"),
        ("prf-visualrois/V9", "no label 'V9'; names as documented.*: V1v, V1d"),
        ("prf-visualrois/0", "no label '0'"),
        ([], "at least one region"),
        ({"V1": []}, "at least one region"),
        ([3], "at least one region"),
        (None, "at least one region"),
    ],
)
def test_regions_that_do_not_exist_are_refused(root, rois, said):
    write_sessions(root, [1])
    with pytest.raises(InvalidInputError, match=said):
        read_nsd(root, 1, rois, **PERCENT)


def test_file_of_regions_with_another_shape_or_fractions_is_refused(root):
    write_sessions(root, [1])
    folder = root / "nsddata" / "ppdata" / "subj01" / "func1pt8mm" / "roi"
    write_nifti(folder / "turned.nii.gz", np.ones(SHAPE[::-1], np.int16))
    write_nifti(folder / "part.nii.gz", np.full(SHAPE, 0.5, np.float32))
    (folder / "broken.nii.gz").write_bytes((folder / "part.nii.gz").read_bytes()[:60])
    with pytest.raises(InvalidInputError, match=r"'turned' is of shape"):
        read_nsd(root, 1, ["V1", "turned"], **PERCENT)
    with pytest.raises(InvalidInputError, match=r"part.nii.gz: is no file of regions"):
        read_nsd(root, 1, "part", **PERCENT)
    with pytest.raises(InvalidInputError, match=r"broken.nii.gz: is truncated"):
        read_nsd(root, 1, "broken", **PERCENT)
    with pytest.raises(InvalidInputError, match=r"session01.hdf5: holds betas of shape"):
        read_nsd(root, 1, "turned", **PERCENT)


# ---------------------------------------------------------------- sessions and stimuli


def test_sessions_on_disk_may_be_fewer_than_planned_and_are_named(root):
    write_sessions(root, [1, 2])
    got = read_nsd(root, 1, "V1", progress=False)
    assert "sessions 1-2 of 40 planned, read: 1-2" in got.notes
    assert got.source["sessions"] == [1, 2]


def test_hole_in_the_sessions_is_refused_unless_sessions_are_named(root):
    raw = write_sessions(root, [1, 2, 4])
    with pytest.raises(InvalidInputError, match=r"session 3 is missing, of 1-4.*sessions="):
        read_nsd(root, 1, "V1", **PERCENT)
    got = read_nsd(root, 1, "nsdgeneral", sessions=[4, 1], **PERCENT)
    assert np.array_equal(got.values[750:, 0], raw[4][0, 0, 0] / np.float32(300))
    assert {session for runs in got.seen for session, _ in runs} == {1, 4}
    with pytest.raises(InvalidInputError, match=r"holds no session 3; it holds 1-2, 4"):
        read_nsd(root, 1, "V1", sessions=[1, 3], **PERCENT)
    for bad in ([1, 1], [], ["1"], [True]):
        with pytest.raises(InvalidInputError, match=r"sessions must be different whole numbers"):
            read_nsd(root, 1, "V1", sessions=bad, **PERCENT)


def test_session_beyond_the_design_is_refused(root):
    write_sessions(root, [41])
    with pytest.raises(InvalidInputError, match=r"session 41 is not of the design, which plans 40"):
        read_nsd(root, 1, "V1", sessions=[41], **PERCENT)


def test_stimulus_without_presentation_is_refused_with_its_plan(root):
    write_sessions(root, [2, 3])
    with pytest.raises(InvalidInputError, match=r"'nsd00050' was shown 0 times in") as e:
        read_nsd(root, 1, "V1", stimuli=["nsd00050"], sessions=[2, 3], progress=False)
    assert "sessions 2-3" in str(e.value)
    assert "planned for session 1, 40" in str(e.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stimuli": ["nsd02951.png"]}, "'nsd02951.png' is no id such as .* counts from 0"),
        ({"stimuli": [50]}, "50 is no id"),
        ({"stimuli": 50}, "list of at least one id, got 50"),
        ({"sessions": 1}, "sessions must be different whole numbers"),
        ({"stimuli": ["nsd00050", "nsd00050"]}, "names 'nsd00050' twice"),
        ({"stimuli": []}, "list of at least one id"),
        ({"stimuli": "shared"}, "one of shared1000, shared515"),
        ({"stimuli": ["nsd00050"], "min_repeats": 2}, "shown 1 times .* fewer than min_repeats=2"),
        ({"min_repeats": 0}, "min_repeats must be an integer of at least 1"),
        ({"min_repeats": 4}, "none of the images was shown 4 times in sessions 1"),
        ({"space": "mni"}, "space must be one of func1pt8mm"),
        ({"betas": "betas_b4"}, f"betas_b4: no such folder; .* holds {BETAS}"),
    ],
)
def test_options_that_cannot_be_met_are_refused(root, options, said):
    write_sessions(root, [1])
    with pytest.raises(InvalidInputError, match=said):
        read_nsd(root, 1, "V1", progress=False, **options)


def test_images_with_too_few_repeats_are_left_out_and_counted(root, plan):
    write_sessions(root, [1, 2])
    got = read_nsd(root, 1, "V1", min_repeats=2, progress=False)
    ids, counts = np.unique(plan.shown(1)[:1500], return_counts=True)
    assert got.stimuli == tuple(f"nsd{i:05d}" for i in ids[counts >= 2])
    few = int((counts < 2).sum())
    assert f"left out {few} stimuli with fewer than 2 presentations" in got.notes
    assert any(f"{int((counts == 3).sum())} shown 3×" in note for note in got.notes)
    assert "nsd00050" not in got.stimuli


def test_shared_images_can_be_asked_for_by_name(root, plan):
    write_sessions(root, [1])
    got = read_nsd(root, 1, "V1", stimuli="shared1000", progress=False)
    shared = sorted(set(plan.shown(1)[:750]) & set(plan.shared.tolist()))
    assert got.stimuli == tuple(f"nsd{i:05d}" for i in shared)

    thrice = read_nsd(root, 1, "V1", stimuli="shared515", progress=False)
    times = pd.Series(plan.shown(1)[: 30 * 750]).value_counts()
    assert thrice.stimuli == tuple(f"nsd{i:05d}" for i in shared if times[i] == 3)
    assert 0 < len(thrice.stimuli) < len(shared)


def test_sessions_without_a_selected_trial_are_not_read(root):
    write_sessions(root, [1, 2])
    (folder_of(root) / "betas_session02.hdf5").write_bytes(b"damaged")
    got = read_nsd(root, 1, "V1", stimuli=["nsd00050"], progress=False)
    assert "sessions 1-2 of 40 planned, read: 1" in got.notes


# ---------------------------------------------------------------- noise ceiling


def test_noise_ceiling_is_that_of_the_repeats_averaged(root):
    write_sessions(root, [1])
    ncsnr = np.full(SHAPE, 9, np.float32)
    ncsnr[0, 0, 0], ncsnr[1, 0, 0], ncsnr[4, 3, 2] = 0.5, np.nan, 0
    write_nifti(folder_of(root) / "ncsnr.nii.gz", ncsnr)
    named = ["nsd00000", "nsd72999", "nsd00050"]  # shown 3, 2 and 1 times
    got = read_nsd(root, 1, "nsdgeneral", stimuli=named, progress=False)
    mixed = (1 / 3 + 1 / 2 + 1 / 1) / 3
    np.testing.assert_allclose(got.noise_ceiling, [100 * 0.25 / (0.25 + mixed), np.nan, 0])
    thrice = read_nsd(root, 1, "nsdgeneral", stimuli=["nsd00000"], progress=False)
    assert thrice.noise_ceiling[0] == pytest.approx(100 * 0.25 / (0.25 + 1 / 3))
    assert read_nsd(root, 1, "nsdgeneral", **PERCENT).noise_ceiling is None


def test_noise_ceiling_follows_the_channels_left_out_and_the_hemispheres(root):
    raw = write_surface(root, "nativesurface")
    raw["lh"][3] = 0
    folder = folder_of(root, "nativesurface")
    write_hdf5(folder / "lh.betas_session01.hdf5", raw["lh"])
    write_mgh(folder / "lh.ncsnr.mgh", np.arange(LEFT).reshape(LEFT, 1, 1))
    got = read_nsd(root, 1, "nsdgeneral", space="nativesurface", progress=False)
    assert got.noise_ceiling is None
    assert "no noise ceiling: rh.ncsnr.mgh is not beside the betas" in got.notes
    write_mgh(folder / "rh.ncsnr.mgh", 100 + np.arange(RIGHT).reshape(RIGHT, 1, 1))
    once = read_nsd(
        root, 1, "nsdgeneral", space="nativesurface", stimuli=["nsd00050"], progress=False
    )
    ncsnr = np.array([2.0, 10, 100, 112])
    np.testing.assert_allclose(once.noise_ceiling, 100 * ncsnr**2 / (ncsnr**2 + 1))
    write_mgh(folder / "rh.ncsnr.mgh", np.ones((LEFT, 1, 1)))
    with pytest.raises(InvalidInputError, match=r"rh.ncsnr.mgh: is of shape"):
        read_nsd(root, 1, "nsdgeneral", space="nativesurface", progress=False)


# ---------------------------------------------------------------- damaged files


def test_hdf5_of_another_layout_or_cut_short_is_refused(root):
    write_sessions(root, [1, 2])
    file = folder_of(root) / "betas_session02.hdf5"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(InvalidInputError, match=r"session02.hdf5: is no readable HDF5"):
        read_nsd(root, 1, "V1", **PERCENT)
    write_hdf5(file, session_values(2).transpose(2, 1, 0, 3))
    with pytest.raises(InvalidInputError, match=r"session02.hdf5: .* expected \(750, 3, 4, 5\)"):
        read_nsd(root, 1, "V1", **PERCENT)
    write_hdf5(file, session_values(2)[..., :749])
    with pytest.raises(InvalidInputError, match=r"session02.hdf5: .*\(749, 3, 4, 5\)"):
        read_nsd(root, 1, "V1", **PERCENT)
    write_hdf5(file, session_values(2) / 300)
    with pytest.raises(InvalidInputError, match=r"session02.hdf5: .*float64, expected int16"):
        read_nsd(root, 1, "V1", **PERCENT)
    with h5py.File(file, "w") as handle:
        handle["other"] = 1
    with pytest.raises(InvalidInputError, match=r"session02.hdf5: lacks a part"):
        read_nsd(root, 1, "V1", **PERCENT)


def test_nifti_that_is_scaled_cut_short_or_altered_is_refused(root):
    file = folder_of(root) / "betas_session01.nii.gz"
    image = nibabel.Nifti1Image(session_values(1), np.eye(4))
    image.header.set_slope_inter(2, 0)
    nibabel.save(image, file)
    with pytest.raises(InvalidInputError, match=r"session01.nii.gz: .*scaling \(2.0, 0.0\)"):
        read_nsd(root, 1, "V1", **PERCENT)

    write_nifti(file, session_values(1))
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(InvalidInputError, match=r"session01.nii.gz: is truncated, damaged"):
        read_nsd(root, 1, "V1", **PERCENT)
    # The checksum is 8 bytes before the end.
    file.write_bytes(content[:-8] + b"\0\0\0\0" + content[-4:])
    with pytest.raises(InvalidInputError, match=r"session01.nii.gz: is truncated, damaged"):
        read_nsd(root, 1, "V1", **PERCENT)
    file.write_bytes(gzip.compress(gzip.decompress(content) + b"\0\0"))
    with pytest.raises(InvalidInputError, match=r"session01.nii.gz: goes on after its last trial"):
        read_nsd(root, 1, "V1", **PERCENT)


def test_mgh_cut_short_and_a_missing_hemisphere_are_refused(root):
    write_surface(root, "fsaverage")
    file = folder_of(root, "fsaverage") / "rh.betas_session01.mgh"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(InvalidInputError, match=r"rh.betas_session01.mgh: is truncated"):
        read_nsd(root, 1, "nsdgeneral", space="fsaverage", **PERCENT)
    file.unlink()
    with pytest.raises(InvalidInputError, match=r"session 1 has no file rh.betas_session01.mgh"):
        read_nsd(root, 1, "nsdgeneral", space="fsaverage", **PERCENT)
    (file.parent / "lh.betas_session01.mgh").unlink()
    with pytest.raises(InvalidInputError, match=r"no session of betas, expected lh.betas"):
        read_nsd(root, 1, "nsdgeneral", space="fsaverage", **PERCENT)


def test_without_nibabel_the_error_says_what_to_install(root, monkeypatch):
    write_sessions(root, [1])
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(BackendUnavailableError, match=r"pip install \"rsafast\[data\]\""):
        read_nsd(root, 1, "V1", **PERCENT)


# ---------------------------------------------------------------- memory


SESSIONS = 40  # as planned


def same_sessions(root: Path, shape: tuple[int, int, int], write: Callable, suffix: str) -> None:
    """One session under many names; the region "row" is 8 voxels in two rows that adjoin."""
    mask = np.zeros(shape, np.int16)
    mask[3:7, 5, 6] = mask[3:7, 6, 6] = 1
    write_nifti(root / "nsddata/ppdata/subj01/func1pt8mm/roi/row.nii.gz", mask)
    values = np.zeros((*shape, 750), np.int16)
    values[mask == 1] = np.random.default_rng(0).integers(-900, 900, (8, 750))
    file = folder_of(root) / f"betas_session01{suffix}"
    write(file, values)
    for session in range(2, SESSIONS + 1):
        os.link(file, file.with_name(f"betas_session{session:02d}{suffix}"))


@pytest.mark.slow
def test_hdf5_of_many_sessions_is_read_in_the_region_alone(root, monkeypatch):
    shape = (15, 14, 13)
    same_sessions(root, shape, write_hdf5, ".hdf5")
    read, get = [], h5py.Dataset.__getitem__

    def counted(dataset, index, **options):
        values = get(dataset, index, **options)
        read.append(values.size)
        return values

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counted)
    tracemalloc.start()
    try:
        got = read_nsd(root, 1, "row", stimuli="shared1000", progress=False)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert got.values.shape == (len(got.stimuli), 8)
    # Every voxel of the region once a session; the four of a row in one piece.
    assert read == [4 * 750] * 2 * SESSIONS
    whole = SESSIONS * 750 * int(np.prod(shape)) * 2
    assert peak < whole / 12, (peak, whole)


@pytest.mark.slow
def test_nifti_of_many_sessions_is_decompressed_once_in_blocks(root, monkeypatch):
    shape = (10, 9, 8)
    same_sessions(root, shape, write_nifti, ".nii.gz")
    monkeypatch.setattr(betas_module, "_BLOCK", 1 << 16)
    read, original = [], gzip.GzipFile.read

    def counted(stream, size=-1):
        content = original(stream, size)
        if "betas" in Path(stream.name).name:
            read.append(len(content))
        return content

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    got = read_nsd(root, 1, "row", stimuli="shared1000", progress=False)
    assert got.values.shape == (len(got.stimuli), 8)
    session = 750 * int(np.prod(shape)) * 2
    assert max(read) <= 1 << 16
    assert SESSIONS * session <= sum(read) < (SESSIONS + 1) * session


# ---------------------------------------------------------------- on to RSA


def test_responses_go_on_to_rdms_and_to_the_mask_of_runs(root):
    write_sessions(root, [1, 2])
    got = read_nsd(root, 1, ["V1", "nsdgeneral"], stimuli="shared1000", progress=False)
    rdms = got.rdms(metric="euclidean")
    assert rdms.names == ("subj01 V1", "subj01 nsdgeneral")
    mask = rf.run_mask(got.seen, labels=got.stimuli)
    first, last = got.stimuli.index("nsd00000"), len(got.stimuli) - 1
    assert mask.matrix()[first, last] == (got.seen[first].isdisjoint(got.seen[last]))
