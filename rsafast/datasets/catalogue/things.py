"""THINGS-fMRI and THINGS-EEG2."""

from __future__ import annotations

from rsafast.datasets.catalogue.entries import DataSet, Download, Files, Layout, Values

_VOXELS = {"sub-01": 211_339, "sub-02": 226_950, "sub-03": 189_164}
_TRIALS = 9_840
_STIMULUS_COLUMNS = ("trial_type", "session", "run", "trial_id", "stimulus", "concept")
_VOXEL_COLUMNS = ("voxel_id", "nc_singletrial", "nc_testset", "V1")

# Responses, metadata of trials and metadata of voxels, under other names in each release.
_CSV = ("ResponseData.h5", "StimulusMetadata.csv", "VoxelMetadata.csv")
_TABLES = tuple(f"{{subject}}_{name}" for name in _CSV)
_ICA = ("voxel-wise-responses.h5", "stimulus-metadata.tsv", "voxel-metadata.tsv")
_ICA_TABLES = tuple(f"{{subject}}/voxel-metadata/{{subject}}_task-things_{name}" for name in _ICA)


def _voxels(at: Values) -> int:
    return _VOXELS[at["subject"]]


def _table(name: str, folder: str, tables: tuple[str, ...]) -> Layout:
    responses, trials, voxels = (folder + table for table in tables)
    return Layout(
        name=name,
        files=(
            Files(
                path=responses, holds="single-trial betas, voxels × trials",
                arrays={
                    "ResponseData/block0_values": (_voxels, _TRIALS),
                    "ResponseData/block1_values": (_voxels, 1),
                },
                responses=True,
            ),
            Files(
                path=trials, holds="stimulus, session and run of every trial",
                columns=_STIMULUS_COLUMNS,
            ),
            Files(
                path=voxels, holds="place, noise ceiling and regions of voxels",
                columns=_VOXEL_COLUMNS,
            ),
        ),
    )  # fmt: skip


def _volume(folder: str) -> Layout:
    run = "{subject}_ses-things{session}_run-{run}"
    volumes = f"{folder}betas_vol/{{subject}}/ses-things{{session}}/{run}"
    _, trials, voxels = (f"{folder}betas_csv/{table}" for table in _TABLES)
    return Layout(
        name=f"{folder}betas_vol",
        files=(
            Files(
                path=f"{volumes}_betas.nii.gz", holds="single-trial betas, volumes",
                arrays={"": (None, None, None, 92)},
                responses=True,
            ),
            Files(
                path=f"{volumes}_conditions.tsv", holds="stimulus of every trial and catch trial",
                columns=("image_filename",),
            ),
            Files(
                path=f"{folder}brainmasks/{{subject}}_space-T1w_brainmask.nii.gz",
                holds="brain mask", arrays={"": (None, None, None)},
            ),
            Files(path=trials, holds="session and run of every trial"),
            Files(path=voxels, holds="place and regions of voxels"),
        ),
    )  # fmt: skip


_FOLDERS = ("", "derivatives/")

THINGS_FMRI = DataSet(
    name="things-fmri",
    what="THINGS-fMRI: 3T fMRI, 3 subjects, 8,740 images of objects",
    doi="10.7554/eLife.82580",
    size="betas_csv.zip 42,955,087,212 bytes",
    access="open",
    source="figshare.plus collection c.6161151, and OpenNeuro ds004192",
    reader="rsafast.datasets.read_things_fmri",
    subjects=dict.fromkeys(_VOXELS, 12),
    layouts=(
        *(_table(f"{folder}betas_csv", f"{folder}betas_csv/", _TABLES) for folder in _FOLDERS),
        _table("the tables of betas_csv", "", _TABLES),
        *(_table(f"{folder}ICA-betas", f"{folder}ICA-betas/", _ICA_TABLES) for folder in _FOLDERS),
        *(_volume(folder) for folder in _FOLDERS),
    ),
    downloads={
        "betas_csv": Download(
            name="betas_csv.zip",
            url="https://plus.figshare.com/ndownloader/files/36789690",
            gives="betas_csv",
            # Float64, which the size of the archive suggests.
            unpacked=sum(_VOXELS.values()) * _TRIALS * 8,
        )
    },
)


def _eeg(name: str, folder: str) -> Layout:
    def part(name: str, images: int, repeats: int) -> Files:
        return Files(
            path=f"{folder}{{subject}}/preprocessed_eeg_{name}.npy",
            holds=f"{images:,} images × {repeats} repeats × 17 channels × 100 times",
            at_least=images * repeats * 17 * 100 * 4,  # float32; published as float64
            responses=True,
        )

    return Layout(
        name=name,
        files=(
            part("training", 16_540, 4),
            part("test", 200, 80),
            Files(
                path="image_metadata.npy",
                also=("image_set/image_metadata.npy", "../image_metadata.npy"),
                holds="names of images and concepts",
            ),
        ),
    )


THINGS_EEG2 = DataSet(
    name="things-eeg2",
    what="THINGS-EEG2: EEG, 10 subjects, 16,740 images of objects",
    doi="10.1016/j.neuroimage.2022.119754",
    size="preprocessed, a subject: about 900 MB training, 218 MB test",
    access="open",
    source="OSF project 3jk45, and figshare.plus 18470912",
    reader="rsafast.datasets.read_things_eeg",
    subjects={f"sub-{i:02d}": 4 for i in range(1, 11)},
    layouts=(
        _eeg("preprocessed_data", "preprocessed_data/"),
        _eeg("preprocessed_data, subjects without the folder above", ""),
    ),
)
