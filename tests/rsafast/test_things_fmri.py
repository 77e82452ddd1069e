"""THINGS-fMRI as published, in miniature: every trap of its three layouts.

`data/things_response_data.h5.gz` was written once by pandas 3.1.1 and PyTables 3.11.1, with

    ids = np.array([3, 4, 5, 8, 13, 14, 40])
    frame = pd.DataFrame(ids[:, None] + np.arange(10) / 100)
    frame.insert(0, "voxel_id", ids)
    frame.to_hdf("things_response_data.h5", key="ResponseData", format="fixed")

and then `gzip -9 -n`, as PyTables reserves 2 MB for the pickles of the column names. The other
.h5 files have its structure and are written by `write_h5` below.
"""

from __future__ import annotations

import builtins
import gzip
import pickle
import shutil
import sys
import tracemalloc
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import h5py
import nibabel
import numpy as np
import pandas as pd
import pytest
from scipy.stats import zscore

import rsafast as rf
from rsafast.datasets import read_things_fmri, things_fmri_trials
from rsafast.datasets.things_fmri import hdf5
from rsafast.errors import BackendUnavailableError, InvalidInputError

WRITTEN_BY_PANDAS = Path(__file__).parent / "data" / "things_response_data.h5.gz"

CONCEPTS = ["zebra", "ant_hill", "bat1", "catcher", "dog", "fork", "yak", "ant"]
TEST_IMAGES = ["dog_14s", "ant_13s", "bat1_15s", "zebra_16s"]
SHAPE = (3, 5, 4)
REGIONS = {
    "V1": [0, 1, 2, 7],
    "hV4": [3, 8],
    "LO1 (prf)": [10],
    "lSTS": [],
    "rSTS": [],
    "lLOC": [4, 5],
    "rLOC": [5, 9],
    "IT": [11],
    "glasser-V1": [0],
    "glasser-p9-\n46v": [6, 12],
}


@dataclass
class Study:
    """Three sessions of two runs; a run is four training and two test images."""

    trials: pd.DataFrame
    voxels: pd.DataFrame
    betas: np.ndarray  # (voxels, trials)

    def rows(self, **where: Any) -> np.ndarray:
        keep = np.ones(len(self.trials), bool)
        for column, value in where.items():
            keep &= (self.trials[column] == value).to_numpy()
        return np.flatnonzero(keep)


def make_study(
    subject: int = 1,
    exemplars: tuple[str, ...] = ("02s", "01b", "03n"),
    order: tuple[int, ...] = (0, 1, 2, 3, 4, 5, 6, 7),
) -> Study:
    rng = np.random.default_rng(subject)
    rows = []
    for session, exemplar in enumerate(exemplars, 1):
        for run in (1, 2):
            shown = [CONCEPTS[i] for i in order[4 * run - 4 : 4 * run]]
            images = [("train", concept, f"{concept}_{exemplar}") for concept in shown]
            for image in TEST_IMAGES[2 * run - 2 : 2 * run]:
                images.insert(2, ("test", image[:-4], image))
            rows += [(kind, session, run, subject, c, f"{name}.jpg") for kind, c, name in images]
    trials = pd.DataFrame(
        rows, columns=["trial_type", "session", "run", "subject_id", "concept", "stimulus"]
    )
    trials.insert(4, "trial_id", np.arange(len(trials)))
    places = np.argwhere(brain())
    n = len(places)
    voxels = pd.DataFrame({"voxel_id": 10 + 3 * np.arange(n), "subject_id": subject})
    voxels[["voxel_x", "voxel_y", "voxel_z"]] = places
    voxels["nc_singletrial"] = np.arange(n) + 0.25
    voxels["nc_testset"] = np.arange(n) + 50.5
    for name, rows_in in REGIONS.items():
        voxels[name] = np.isin(np.arange(n), rows_in).astype(int)
    return Study(trials, voxels, rng.normal(size=(n, len(trials))) + 5 * rng.normal(size=(n, 1)))


def brain() -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[1, 1:4, 1:] = True
    mask[2, 2, :3] = True
    mask[0, 4, 3] = True
    return mask


class Poison:
    """A pickle that leaves a mark when it is loaded."""

    def __reduce__(self) -> Any:
        return exec, ("import builtins; builtins.things_was_unpickled = True",)


def write_h5(
    path: Path, betas: np.ndarray, ids: Any, *, ids_first: bool = False, pickles: Any = None
) -> None:
    with h5py.File(path, "w") as file:
        group = file.create_group("ResponseData")
        group.attrs["pandas_type"] = "frame"
        group.attrs["nblocks"] = 2
        blocks = [np.asarray(betas), np.asarray(ids)[:, None]]
        for i, block in enumerate(blocks[::-1] if ids_first else blocks):
            group[f"block{i}_values"] = block
            group[f"block{i}_values"].attrs["transposed"] = True
        for name in ("axis0", "block0_items", "block1_items"):
            text = np.frombuffer(pickle.dumps(pickles), np.uint8)
            item = group.create_dataset(name, (1,), h5py.vlen_dtype(np.uint8))
            item[0] = text
        group["axis1"] = np.arange(len(betas))


def write_table(root: Path, study: Study, subject: str = "sub-01", **options: Any) -> Path:
    folder = root / "betas_csv"
    folder.mkdir(parents=True, exist_ok=True)
    study.trials.to_csv(folder / f"{subject}_StimulusMetadata.csv", index=False)
    study.voxels.to_csv(folder / f"{subject}_VoxelMetadata.csv", index=False)
    ids = study.voxels["voxel_id"]
    write_h5(folder / f"{subject}_ResponseData.h5", study.betas, ids, **options)
    return root


def write_ica(root: Path, study: Study, separator: str = ",") -> Path:
    folder = root / "derivatives" / "ICA-betas" / "sub-01" / "voxel-metadata"
    folder.mkdir(parents=True)
    stem = f"{folder}/sub-01_task-things_"
    study.trials.to_csv(f"{stem}stimulus-metadata.tsv", sep=separator, index=False)
    study.voxels.to_csv(f"{stem}voxel-metadata.tsv", sep=separator, index=False)
    write_h5(Path(f"{stem}voxel-wise-responses.h5"), study.betas, study.voxels["voxel_id"])
    return root


def write_volumes(root: Path, study: Study) -> Path:
    """Volumes in alphabetical order with two catch trials a run; 77 outside of the brain."""
    write_table(root, study)
    (root / "betas_csv" / "sub-01_ResponseData.h5").unlink()
    mask = brain()
    (root / "brainmasks").mkdir()
    save(root / "brainmasks" / "sub-01_space-T1w_brainmask.nii.gz", mask.astype(np.uint8))
    for (session, run), own in study.trials.groupby(["session", "run"]):
        folder = root / "betas_vol" / "sub-01" / f"ses-things{session:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{folder}/sub-01_ses-things{session:02d}_run-{run:02d}_"
        shown = [
            (f"{concept}/{image}", trial)
            for concept, image, trial in zip(
                own["concept"], own["stimulus"], own["trial_id"], strict=True
            )
        ]
        shown = sorted([*shown, ("catch008.jpg", None), ("catch010.jpg", None)])
        names = pd.DataFrame({"image_filename": [name for name, _ in shown]})
        names.to_csv(f"{stem}conditions.tsv", sep="\t")
        volumes = np.full((*SHAPE, len(shown)), 77.0)
        for i, (_, trial) in enumerate(shown):
            volumes[mask, i] = -99.0 if trial is None else study.betas[:, trial]
        save(Path(f"{stem}betas.nii.gz"), volumes)
    return root


def save(path: Path, data: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)


@pytest.fixture(scope="module")
def study() -> Study:
    return make_study()


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory, study: Study) -> Path:
    return write_table(tmp_path_factory.mktemp("table"), study)


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory, study: Study) -> Path:
    return write_volumes(tmp_path_factory.mktemp("volume"), study)


@pytest.fixture
def table(tmp_path: Path, published: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(published, tmp_path / "table"))


@pytest.fixture
def volume(tmp_path: Path, volumes: Path) -> Path:
    return Path(shutil.copytree(volumes, tmp_path / "volume"))


def refused(match: str, root: Path, rois: Any = "V1", subject: Any = 1, **options: Any) -> None:
    with pytest.raises(InvalidInputError, match=match):
        read_things_fmri(root, subject, rois, **options)


def edit(path: Path, change: Any) -> None:
    frame = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", dtype=str)
    change(frame).to_csv(path, sep="\t" if path.suffix == ".tsv" else ",", index=False)


# ---------------------------------------------------------------- the .h5 file


def test_reads_the_file_that_pandas_wrote(tmp_path: Path) -> None:
    folder = tmp_path / "betas_csv"
    folder.mkdir()
    (folder / "sub-03_ResponseData.h5").write_bytes(gzip.decompress(WRITTEN_BY_PANDAS.read_bytes()))
    ids = [3, 4, 5, 8, 13, 14, 40]
    pd.DataFrame({"voxel_id": ids, "V1": [0, 1, 1, 0, 1, 0, 1]}).to_csv(
        folder / "sub-03_VoxelMetadata.csv", index=False
    )
    pd.DataFrame(
        {
            "trial_type": ["train", "test"] * 5,
            "session": 1,
            "run": [1] * 5 + [2] * 5,
            "trial_id": range(10),
            "stimulus": [f"image_{i:02d}b.jpg" for i in range(10)],
        }
    ).to_csv(folder / "sub-03_StimulusMetadata.csv", index=False)

    read = read_things_fmri(tmp_path, "sub-03", ["V1"], z_score=None)

    assert read.channels.tolist() == [4, 5, 13, 40]
    assert read.stimuli == ("image_00b", "image_02b", "image_04b", "image_06b", "image_08b")
    expected = np.array([4, 5, 13, 40]) + np.array([[0.0], [0.02], [0.04], [0.06], [0.08]])
    np.testing.assert_array_equal(read.values, expected.astype(np.float32))
    assert read.noise_ceiling is None


def test_pickles_in_the_file_are_never_loaded(tmp_path: Path, study: Study) -> None:
    write_table(tmp_path, study, pickles=Poison())
    read_things_fmri(tmp_path, 1, "V1")
    assert not hasattr(builtins, "things_was_unpickled")


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_voxel_ids_may_be_the_first_block(tmp_path: Path, study: Study, dtype: Any) -> None:
    study = Study(study.trials, study.voxels, study.betas.astype(dtype))
    write_table(tmp_path, study, ids_first=True)
    read = read_things_fmri(tmp_path, 1, "V1", z_score=None)
    kept = study.betas[[0, 1, 2, 7]][:, study.rows(trial_type="train")].T
    np.testing.assert_array_equal(read.values, kept.astype(np.float32))


@pytest.mark.parametrize(
    ("match", "betas", "ids"),
    [
        (r"row 2 is voxel 19, but voxel 16", slice(None), [0, 1, 3, 2, *range(4, 13)]),
        (r"holds 12 voxels, but .*VoxelMetadata.csv lists 13", slice(12), range(13)),
        (r"holds 12 voxel ids, but", slice(None), range(12)),
    ],
)
def test_voxels_in_another_order_or_number_are_refused(
    table: Path, study: Study, match: str, betas: slice, ids: Any
) -> None:
    file = table / "betas_csv" / "sub-01_ResponseData.h5"
    write_h5(file, study.betas[betas], 10 + 3 * np.array(ids))
    refused(match, table)


def test_trials_in_another_number_are_refused(table: Path, study: Study) -> None:
    file = table / "betas_csv" / "sub-01_ResponseData.h5"
    write_h5(file, study.betas[:, :-1], study.voxels["voxel_id"])
    refused(r"holds 35 trials, but .*StimulusMetadata.csv lists 36", table)


def test_other_contents_of_the_file_are_refused(table: Path, study: Study) -> None:
    file = table / "betas_csv" / "sub-01_ResponseData.h5"
    ids = study.voxels["voxel_id"].to_numpy(np.float64)
    write_h5(file, study.betas, ids)  # ids as floats: no telling which block is which
    refused(r"block0_values \(13, 36\) float64, block1_values \(13, 1\) float64", table)
    with h5py.File(file, "w") as opened:
        opened["betas"] = study.betas
    refused(r"it holds \['betas'\]", table)


def test_truncated_or_missing_files_are_named(table: Path) -> None:
    file = table / "betas_csv" / "sub-01_ResponseData.h5"
    file.write_bytes(file.read_bytes()[:4000])
    refused(r"sub-01_ResponseData.h5: is no readable HDF5 file", table)
    (table / "betas_csv" / "sub-01_VoxelMetadata.csv").unlink()
    refused(r"sub-01_VoxelMetadata.csv: no such file", table)
    refused(r"holds no responses of sub-02", table, subject=2)
    refused(r"no such folder", table / "other")


def test_a_response_that_is_not_finite_is_refused(table: Path, study: Study) -> None:
    betas = study.betas.copy()
    betas[7, study.rows(session=3, trial_type="test")[0]] = np.nan
    write_h5(table / "betas_csv" / "sub-01_ResponseData.h5", betas, study.voxels["voxel_id"])
    # Not in a training trial, but z-scored with those of its session.
    refused(r"voxel 31 to 'zebra_03n', or one that it is z-scored with", table)
    assert np.isfinite(read_things_fmri(table, 1, "V1", z_score=None).values).all()


# ---------------------------------------------------------------- trials and stimuli


def test_training_trials_come_in_the_order_measured(published: Path, study: Study) -> None:
    read = read_things_fmri(published, "sub-01", "V1", z_score=None)
    rows = study.rows(trial_type="train")
    assert read.values.shape == (24, 4)
    assert read.values.dtype == np.float32
    assert read.stimuli[:5] == ("zebra_02s", "ant_hill_02s", "bat1_02s", "catcher_02s", "dog_02s")
    np.testing.assert_array_equal(
        read.values, study.betas[[0, 1, 2, 7]][:, rows].T.astype(np.float32)
    )
    assert read.seen[0] == {(1, 1)}
    assert read.seen[-1] == {(3, 2)}
    np.testing.assert_array_equal(read.noise_ceiling, [0.25, 1.25, 2.25, 7.25])
    assert read.units == "beta"
    assert read.subject == "sub-01"


def test_test_images_are_averaged_over_sessions(published: Path, study: Study) -> None:
    read = read_things_fmri(published, 1, "V1", trials="test", z_score=None)
    assert sorted(read.stimuli) == sorted(TEST_IMAGES)
    rows = study.rows(stimulus="bat1_15s.jpg")
    at = read.stimuli.index("bat1_15s")
    np.testing.assert_allclose(
        read.values[at], study.betas[[0, 1, 2, 7]][:, rows].mean(axis=1), rtol=1e-6
    )
    assert read.seen[at] == {(1, 2), (2, 2), (3, 2)}
    np.testing.assert_array_equal(read.noise_ceiling, [50.5, 51.5, 52.5, 57.5])


def test_single_test_trials_have_the_ceiling_of_single_trials(published: Path) -> None:
    read = read_things_fmri(published, 1, "V1", trials="test", average=False)
    assert read.n_rows == 12
    np.testing.assert_array_equal(read.noise_ceiling, [0.25, 1.25, 2.25, 7.25])


def test_all_trials_mix_two_ceilings_and_report_none(published: Path) -> None:
    read = read_things_fmri(published, 1, "V1", trials="all")
    assert read.n_rows == 28
    assert read.noise_ceiling is None
    repeated = read_things_fmri(published, 1, "V1", trials="all", min_repeats=3)
    assert sorted(repeated.stimuli) == sorted(TEST_IMAGES)


def test_first_is_one_exemplar_of_every_concept_sorted(published: Path, study: Study) -> None:
    read = read_things_fmri(published, 1, "IT", stimuli="first", z_score=None)
    assert read.stimuli == (
        "ant_01b", "ant_hill_01b", "bat1_01b", "catcher_01b", "dog_01b", "fork_01b", "yak_01b",
        "zebra_01b",
    )  # fmt: skip
    trial = study.rows(stimulus="catcher_01b.jpg")[0]
    assert read.values[3, 0] == np.float32(study.betas[11, trial])


def test_concepts_come_from_the_names_where_there_is_no_such_column(table: Path) -> None:
    path = table / "betas_csv" / "sub-01_StimulusMetadata.csv"
    edit(path, lambda frame: frame.drop(columns="concept"))
    assert read_things_fmri(table, 1, "IT", stimuli="first").stimuli[1] == "ant_hill_01b"


def test_named_stimuli_come_in_the_order_named(published: Path, study: Study) -> None:
    names = ["yak_03n.jpg", "ant_02s"]
    read = read_things_fmri(published, 1, "IT", stimuli=names, z_score=None)
    assert read.stimuli == ("yak_03n", "ant_02s")
    for row, name in enumerate(["yak_03n.jpg", "ant_02s.jpg"]):
        trial = study.rows(stimulus=name)[0]
        assert read.values[row, 0] == np.float32(study.betas[11, trial])


def test_unknown_stimuli_are_named(published: Path) -> None:
    refused(r"\(train trials\): holds no 'cat_01b'", published, stimuli=["dog_01b", "cat_01b"])
    refused(r"\(train trials\): holds no 'dog_14s'", published, stimuli=["dog_14s"])
    refused("'dog_01b' twice", published, stimuli=["dog_01b", "dog_01b.jpg"])
    refused("at least one", published, stimuli=[])
    refused("a list of ids, or 'first'", published, stimuli="dog_01b")
    refused("'first' with training trials", published, stimuli="first", trials="test")


def test_metadata_of_trials_as_a_table(published: Path, study: Study) -> None:
    trials = things_fmri_trials(published, 1)
    assert list(trials) == ["trial_id", "trial_type", "session", "run", "stimulus", "concept"]
    assert trials["stimulus"].tolist() == [name[:-4] for name in study.trials["stimulus"]]
    assert trials["concept"].tolist() == study.trials["concept"].tolist()


@pytest.mark.parametrize(
    ("match", "column", "row", "value"),
    [
        (r"session of row 4 is '0'", "session", 3, "0"),
        (r"run of row 1 is 'one'", "run", 0, "one"),
        (r"row 7 is trial 9, expected 6", "trial_id", 6, "9"),
        (r"row 2 holds .*'catch'", "trial_type", 1, "catch"),
        (r"row 2 holds .*'stimulus': ''", "stimulus", 1, ""),
        (r"row 36 holds .*'concept': ''", "concept", 35, ""),
        (r"holds subject 1, 2, expected sub-01", "subject_id", 0, "2"),
    ],
)
def test_wrong_metadata_of_trials_names_its_row(
    table: Path, match: str, column: str, row: int, value: str
) -> None:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[row, column] = value
        return frame

    edit(table / "betas_csv" / "sub-01_StimulusMetadata.csv", change)
    refused(match, table)


def test_a_column_that_is_missing_is_named(table: Path) -> None:
    edit(table / "betas_csv" / "sub-01_StimulusMetadata.csv", lambda f: f.drop(columns="run"))
    refused("StimulusMetadata.csv: lacks the columns run", table)


# ---------------------------------------------------------------- regions


def test_regions_are_columns_and_known_unions(published: Path) -> None:
    read = read_things_fmri(published, 1, ["LOC", "V4", "LO1 (prf)", "lLOC"])
    assert read.channels.tolist() == [10 + 3 * row for row in (3, 4, 5, 8, 9, 10)]
    members = {name: read.channels[mask].tolist() for name, mask in read.rois.items()}
    assert members == {"LOC": [22, 25, 37], "V4": [19, 34], "LO1 (prf)": [40], "lLOC": [22, 25]}


def test_own_unions_of_columns(published: Path) -> None:
    read = read_things_fmri(published, 1, {"early": ["V1", "V4"], "late": "IT"})
    assert read.roi("early").channels.tolist() == [10, 13, 16, 19, 31, 34]
    assert read.roi("late").channels.tolist() == [43]


@pytest.mark.parametrize("name", ["glasser-p9-\n46v", "glasser-p9-46v"])
def test_a_column_name_with_a_line_break_is_found(published: Path, name: str) -> None:
    assert read_things_fmri(published, 1, [name]).roi(name).channels.tolist() == [28, 46]


def test_unknown_regions_list_the_columns(published: Path) -> None:
    refused(r"'FFA' needs the column 'lFFA'; there are V1, hV4, LO1 \(prf\), .*IT and 2 named 'gl"
            , published, "FFA")  # fmt: skip
    refused(r"there are glasser-V1, glasser-p9-46v\.", published, "glasser-V2")
    refused("'nc_testset'; there are V1", published, ["nc_testset"])
    refused("at least one region", published, [])
    refused("at least one region", published, [1])
    refused("at least one region", published, {"V1": []})


def test_a_region_without_voxels_is_refused_alone_and_kept_beside_others(published: Path) -> None:
    refused("no voxel of sub-01 is in STS", published, "STS")
    read = read_things_fmri(published, 1, ["STS", "IT"])
    with pytest.raises(InvalidInputError, match="'STS' holds no channel"):
        read.roi("STS")


def test_none_reads_every_voxel(published: Path) -> None:
    read = read_things_fmri(published, 1, None)
    assert read.values.shape == (24, 13)
    assert read.rois == {}


def test_a_region_column_of_other_numbers_is_refused(table: Path) -> None:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[5, "V1"] = "2"
        return frame

    edit(table / "betas_csv" / "sub-01_VoxelMetadata.csv", change)
    refused("'V1' holds 2 in row 6", table)


def test_truncated_voxel_metadata_is_refused(table: Path) -> None:
    path = table / "betas_csv" / "sub-01_VoxelMetadata.csv"
    path.write_bytes(path.read_bytes()[:-40])
    refused("VoxelMetadata.csv", table)


# ---------------------------------------------------------------- z-scoring


@pytest.mark.parametrize("chunk", [1, 3 * 36 * 8])
@pytest.mark.parametrize("within", ["session", "run", "all"])
def test_z_scores_use_every_trial_of_their_block(
    published: Path, study: Study, within: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5, "_CHUNK_BYTES", chunk)
    names = ["yak_03n", "ant_02s", "dog_02s"]
    read = read_things_fmri(published, 1, "V1", stimuli=names, z_score=within)
    for row, name in enumerate(names):
        trial = study.rows(stimulus=f"{name}.jpg")[0]
        own = study.trials.loc[trial]
        keys = {"session": ["session"], "run": ["session", "run"], "all": []}[within]
        block = study.rows(**{key: own[key] for key in keys})
        assert len(block) == {"session": 12, "run": 6, "all": 36}[within]
        expected = zscore(study.betas[[0, 1, 2, 7]][:, block], axis=1)
        np.testing.assert_allclose(
            read.values[row], expected[:, block.tolist().index(trial)], rtol=2e-6, atol=1e-6
        )
    assert read.units == "z"


def test_the_session_is_the_default_block(published: Path) -> None:
    default = read_things_fmri(published, 1, "V1")
    session = read_things_fmri(published, 1, "V1", z_score="session")
    np.testing.assert_array_equal(default.values, session.values)


def test_a_voxel_that_does_not_vary_in_a_session_becomes_0_there(table: Path, study: Study) -> None:
    betas = study.betas.copy()
    betas[1, study.rows(session=2)] = 0.1
    write_h5(table / "betas_csv" / "sub-01_ResponseData.h5", betas, study.voxels["voxel_id"])
    values = read_things_fmri(table, 1, "V1").values
    assert (values[8:16, 1] == 0).all()
    assert (values[:8, 1] != 0).all()


def test_wrong_options_are_refused_before_reading(tmp_path: Path) -> None:
    refused("trials must be", tmp_path, trials="catch")
    refused("z_score must be", tmp_path, z_score="voxel")
    refused("layout must be", tmp_path, layout="bids")
    refused("min_repeats is for average=True", tmp_path, average=False, min_repeats=2)
    refused("min_repeats must be an integer of at least 1", tmp_path, min_repeats=0)
    for subject in ("S1", 0, 4, True):
        refused("subject must be 'sub-01' to 'sub-03' or 1 to 3, got", tmp_path, subject=subject)


# ---------------------------------------------------------------- layouts


@pytest.mark.parametrize("separator", [",", "\t"])
def test_the_ica_tables_hold_commas_or_tabs(tmp_path: Path, study: Study, separator: str) -> None:
    read = read_things_fmri(write_ica(tmp_path, study, separator), 1, "V1", z_score=None)
    rows = study.rows(trial_type="train")
    np.testing.assert_array_equal(
        read.values, study.betas[[0, 1, 2, 7]][:, rows].T.astype(np.float32)
    )
    assert read.source["layout"] == "ica"


def test_two_layouts_ask_which(table: Path, study: Study) -> None:
    other = Study(study.trials, study.voxels, study.betas + 1000)
    write_ica(table, other)
    refused(r"'table' in .*betas_csv, 'ica' in .*ICA-betas\); choose with layout=", table)
    assert read_things_fmri(table, 1, "V1", layout="ica", z_score=None).values.min() > 900
    assert read_things_fmri(table, 1, "V1", layout="table", z_score=None).values.max() < 100


def test_the_folder_itself_is_a_root_too(published: Path) -> None:
    assert read_things_fmri(published / "betas_csv", 1, "V1").n_rows == 24


@pytest.mark.parametrize(
    ("within", "options"),
    [
        (None, {"trials": "test"}),
        ("session", {"trials": "test"}),
        ("session", {"stimuli": "first"}),
        ("run", {"stimuli": "first"}),
        ("all", {}),
    ],
)
def test_volumes_give_what_the_table_gives(
    volumes: Path, published: Path, within: Any, options: dict[str, Any]
) -> None:
    rois = ["V1", "LOC", "glasser-p9-46v"]
    from_volumes = read_things_fmri(volumes, 1, rois, z_score=within, **options)
    from_table = read_things_fmri(published, 1, rois, z_score=within, **options)
    assert from_volumes.source["layout"] == "volume"
    assert from_volumes.stimuli == from_table.stimuli
    assert from_volumes.seen == from_table.seen
    np.testing.assert_array_equal(from_volumes.channels, from_table.channels)
    np.testing.assert_allclose(from_volumes.values, from_table.values, rtol=1e-5, atol=2e-6)


def test_volumes_hold_what_was_put_in_and_no_catch_trial(volumes: Path, study: Study) -> None:
    read = read_things_fmri(volumes, 1, None, trials="all", z_score=None, average=False)
    np.testing.assert_array_equal(read.values, study.betas.T.astype(np.float32))


def test_voxel_indices_may_count_from_1(volume: Path, study: Study) -> None:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        for axis in ("voxel_x", "voxel_y", "voxel_z"):
            frame[axis] = frame[axis].astype(int) + 1
        return frame

    edit(volume / "betas_csv" / "sub-01_VoxelMetadata.csv", change)
    read = read_things_fmri(volume, 1, None, trials="all", z_score=None, average=False)
    np.testing.assert_array_equal(read.values, study.betas.T.astype(np.float32))


def test_a_voxel_outside_the_mask_is_refused(volume: Path) -> None:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[4, ["voxel_x", "voxel_y", "voxel_z"]] = ["0", "0", "0"]
        return frame

    edit(volume / "betas_csv" / "sub-01_VoxelMetadata.csv", change)
    refused(r"voxel 22 at \[0, 0, 0\] lies outside of the brain mask", volume)


def test_a_mask_larger_than_the_table_is_refused(volume: Path) -> None:
    mask = brain()
    mask[0, 0, 0] = True
    save(volume / "brainmasks" / "sub-01_space-T1w_brainmask.nii.gz", mask.astype(np.uint8))
    refused("leave a part empty of the brain mask .* 14 voxels .the table has 13", volume)


def test_conditions_that_differ_from_the_metadata_are_refused(volume: Path) -> None:
    path = volume / "betas_vol/sub-01/ses-things02/sub-01_ses-things02_run-01_conditions.tsv"
    edit(path, lambda frame: frame.replace({"bat1/bat1_01b.jpg": "bat1/bat1_02s.jpg"}))
    refused(r"run-01_conditions.tsv: lists 6 images .*differ in bat1_01b, bat1_02s", volume)
    edit(path, lambda frame: frame.replace({"bat1/bat1_02s.jpg": "catch003.jpg"}))
    refused(r"lists 5 images besides catch trials", volume)


def test_a_run_of_another_shape_is_refused(volume: Path) -> None:
    path = volume / "betas_vol/sub-01/ses-things03/sub-01_ses-things03_run-02_betas.nii.gz"
    save(path, np.zeros((*SHAPE, 7)))
    refused(r"run-02_betas.nii.gz: is \(3, 5, 4, 7\), expected \(3, 5, 4, 8\)", volume)
    save(path, np.zeros((5, 3, 4, 8)))
    refused(r"is \(5, 3, 4, 8\), expected \(3, 5, 4, 8\)", volume)


def test_a_truncated_or_missing_run_is_named(volume: Path) -> None:
    path = volume / "betas_vol/sub-01/ses-things01/sub-01_ses-things01_run-02_betas.nii.gz"
    path.write_bytes(path.read_bytes()[:-600])
    refused("run-02_betas.nii.gz: is truncated, damaged", volume)
    path.write_bytes(gzip.compress(b"no image"))
    refused("run-02_betas.nii.gz: is truncated, damaged", volume)
    path.unlink()
    refused("run-02_betas.nii.gz: no such file", volume)


def test_only_the_runs_that_count_must_be_there(volume: Path) -> None:
    shutil.rmtree(volume / "betas_vol/sub-01/ses-things01")
    assert read_things_fmri(volume, 1, "V1", stimuli="first").n_rows == 8
    refused("ses-things01", volume, stimuli="first", z_score="all")


def test_volumes_need_the_mask_and_the_metadata(volume: Path) -> None:
    (volume / "brainmasks" / "sub-01_space-T1w_brainmask.nii.gz").unlink()
    refused("needs one brainmasks/sub-01_space-T1w_brainmask.nii.gz, there is none", volume)
    (volume / "betas_csv" / "sub-01_VoxelMetadata.csv").unlink()
    refused("needs one betas_csv/sub-01_VoxelMetadata.csv", volume)


def test_a_response_in_a_volume_that_is_not_finite_is_refused(volume: Path) -> None:
    path = volume / "betas_vol/sub-01/ses-things01/sub-01_ses-things01_run-02_betas.nii.gz"
    data = nibabel.load(path).get_fdata()
    data[tuple(np.argwhere(brain())[7])] = np.inf
    save(path, data)
    refused(r"run-02_betas.nii.gz: the response of voxel 31 to", volume)


def test_volumes_without_nibabel_name_the_extra(
    volumes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "nibabel", None)
    with pytest.raises(BackendUnavailableError, match=r"rsafast\[data\]"):
        read_things_fmri(volumes, 1, "V1")


# ---------------------------------------------------------------- memory


def peak_of(*arguments: Any, **options: Any) -> int:
    read_things_fmri(*arguments, **options)  # what is imported on first use does not count
    tracemalloc.start()
    try:
        read_things_fmri(*arguments, **options)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_is_the_selection_and_a_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_voxels, n_trials = 2000, 300
    trials = pd.DataFrame(
        {
            "trial_type": "train",
            "session": 1,
            "run": 1,
            "trial_id": np.arange(n_trials),
            "stimulus": [f"c{i}_01b.jpg" for i in range(n_trials)],
        }
    )
    in_v1 = np.arange(n_voxels) % 10 == 0
    voxels = pd.DataFrame({"voxel_id": np.arange(n_voxels), "V1": in_v1.astype(int)})
    betas = np.random.default_rng(0).normal(size=(n_voxels, n_trials))
    write_table(tmp_path, Study(trials, voxels, betas))
    monkeypatch.setattr(hdf5, "_CHUNK_BYTES", 1 << 17)
    names = [f"c{i}_01b" for i in range(100)]
    peak = peak_of(tmp_path, 1, "V1", stimuli=names)
    # The file holds 4.8 MB, its rows of V1 0.5 MB, the selection 0.08 MB, a chunk 0.13 MB.
    assert peak < 1e6


def test_memory_is_the_selection_and_a_volume(tmp_path: Path) -> None:
    shape, n_volumes = (30, 31, 32), 60
    mask = np.zeros(shape, np.uint8)
    mask[5:8, 6:10, 20:25] = 1
    places = np.argwhere(mask)
    trials = pd.DataFrame(
        {
            "trial_type": "train",
            "session": 1,
            "run": 1,
            "trial_id": np.arange(n_volumes),
            "stimulus": [f"c{i}_01b.jpg" for i in range(n_volumes)],
        }
    )
    voxels = pd.DataFrame({"voxel_id": np.arange(len(places)), "V1": 1})
    voxels[["voxel_x", "voxel_y", "voxel_z"]] = places
    write_table(tmp_path, Study(trials, voxels, np.zeros((len(places), n_volumes))))
    (tmp_path / "betas_csv" / "sub-01_ResponseData.h5").unlink()
    (tmp_path / "brainmasks").mkdir()
    save(tmp_path / "brainmasks" / "sub-01_space-T1w_brainmask.nii.gz", mask)
    folder = tmp_path / "betas_vol" / "sub-01" / "ses-things01"
    folder.mkdir(parents=True)
    stem = f"{folder}/sub-01_ses-things01_run-01_"
    names = pd.DataFrame({"image_filename": trials["stimulus"]})
    names.to_csv(f"{stem}conditions.tsv", sep="\t")
    save(Path(f"{stem}betas.nii.gz"), np.broadcast_to(np.arange(60.0), (*shape, n_volumes)))
    peak = peak_of(tmp_path, 1, "V1", z_score="all")
    # The run holds 14 MB, a volume 0.24 MB.
    assert peak < 2.5e6


# ---------------------------------------------------------------- the trap of the study


def test_seen_shows_who_shared_an_order_and_the_run_mask_keeps_pairs_across_runs(
    tmp_path: Path,
) -> None:
    other_order = (0, 1, 2, 4, 3, 5, 6, 7)
    made = [
        make_study(1, ("02s", "01b", "03n")),
        make_study(2, ("02s", "03n", "01b")),
        make_study(3, ("01b", "03n", "02s"), other_order),
    ]
    for number, one in enumerate(made, 1):
        write_table(tmp_path, one, f"sub-{number:02d}")
    read = [read_things_fmri(tmp_path, number, "V1", stimuli="first") for number in (1, 2, 3)]

    runs = [[next(iter(seen)) for seen in subject.seen] for subject in read]
    assert {session for session, _ in runs[0]} == {2}
    assert {session for session, _ in runs[1]} == {3}
    assert [run for _, run in runs[0]] == [run for _, run in runs[1]]
    assert [run for _, run in runs[0]] != [run for _, run in runs[2]]

    mask = rf.run_mask([subject.seen for subject in read], labels=read[0].stimuli)
    # zebra, ant_hill, bat1 | fork, yak, ant are apart for all; catcher and dog change places.
    first, second = {"zebra", "ant_hill", "bat1"}, {"fork", "yak", "ant"}
    names = [stimulus[:-4] for stimulus in read[0].stimuli]
    expected = [
        (a in first and b in second) or (a in second and b in first) or {a, b} == {"catcher", "dog"}
        for a, b in combinations(names, 2)
    ]
    assert mask.mask.tolist() == expected
    assert mask.n_pairs == 10
