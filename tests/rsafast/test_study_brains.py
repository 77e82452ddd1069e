"""Brains of a study: each source gives stimuli their order and regions their RDMs, once."""

import h5py
import numpy as np
import pytest
import scipy.io
import test_algonauts as algonauts
import test_nsd as nsd
import test_things_eeg as eeg
import test_things_fmri as things
from PIL import Image

import rsafast as rf
from rsafast import datasets
from rsafast.errors import InvalidInputError
from rsafast.study import stage as stage_module
from rsafast.study.brains import brain_of, brain_stage
from rsafast.study.pipeline import study_stages
from rsafast.study.recipe import Recipe, parse_recipe
from rsafast.study.sources import measured_stimuli
from rsafast.study.stage import file_hash, run_stages
from rsafast.study.stimuli import find_images, read_images, read_order


def study(brain, images, pairs, **sections):
    content = {
        "name": "small",
        "networks": {"rules": ["bp"], "epochs": 1, "checkpoints": [0, 1], "seeds": [0, 1]},
        "stimuli": {"images": str(images), "sizes": [8]} | sections.get("stimuli", {}),
        "brain": brain,
        "comparison": {"pairs": pairs} | sections.get("comparison", {}),
    }
    return Recipe.model_validate(content)


def write_images(folder, names):
    """Images whose grey tells which: the place of the name."""
    for number, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), (number, number, number)).save(path)
    return folder


def made(recipe, tmp_path):
    """Run both stages; return the order, the brain's RDMs and the mask."""
    images = find_images(recipe, tmp_path)
    folders = run_stages([images.stage, brain_stage(recipe, tmp_path, images)], tmp_path, str)
    rdms, mask = brain_of(folders)
    order = read_order(folders)
    assert images.number == len(order) or recipe.brain.source in ("rdms", "folder")
    assert list(read_images(recipe, tmp_path, tmp_path, folders).labels) == order
    return order, rdms, mask


def one_minus_r(values):
    return (1 - np.corrcoef(values))[np.triu_indices(len(values), 1)]


def check(rdms, region, subject, values, labels):
    """An RDM is that of the values, whose rows are the labels."""
    own = rdms[{"region": region, "subject": subject}]
    assert own.n_rdms == 1
    np.testing.assert_allclose(own.reorder(labels).vectors[0], one_minus_r(values), atol=2e-5)


# ---------------------------------------------------------------- THINGS-fMRI


@pytest.fixture(scope="module")
def things_root(tmp_path_factory):
    """Two subjects who saw the same images in another order."""
    root = things.write_table(tmp_path_factory.mktemp("things"), things.make_study(1))
    second = things.make_study(2, order=(3, 1, 0, 2, 7, 5, 6, 4))
    return things.write_table(root, second, "sub-02")


def things_images(folder, exemplars="abc", **options):
    names = [f"{c}/{c}_0{i}{e}.jpg" for c in things.CONCEPTS for i, e in
             ((2, "s"), (1, "b"), (3, "n"), (4, "n"))]  # fmt: skip
    tests = [f"{image[:-4]}/{image}.jpg" for image in things.TEST_IMAGES]
    return write_images(folder, names + tests)


def of_things(root, **more):
    return {"source": "things-fmri", "path": str(root), "regions": ["V1", "LOC"]} | more


def test_things_takes_the_first_exemplars_out_of_all_images(things_root, tmp_path):
    images = things_images(tmp_path / "images")
    order, rdms, _ = made(study(of_things(things_root), images, {"V1": "conv1"}), tmp_path)
    assert order == [f"{concept}_01b" for concept in sorted(things.CONCEPTS)]
    assert list(rdms.labels) == order
    assert rdms.n_rdms == 4
    for subject in ("sub-01", "sub-02"):
        read = datasets.read_things_fmri(things_root, subject, ["V1", "LOC"], progress=False)
        own = read.subset(order)
        check(rdms, "LOC", subject, own.roi("LOC").values, order)


def test_subjects_and_the_mask_of_runs_are_in_one_order_of_stimuli(things_root, tmp_path):
    """The order measured differs between subjects; pairs must be the same images in both."""
    images = things_images(tmp_path / "images")
    brain = of_things(things_root, stimuli="all")
    recipe = study(brain, images, {"V1": "conv1"}, comparison={"mask": "cross-run"})
    order, rdms, mask = made(recipe, tmp_path)
    reads = [datasets.read_things_fmri(things_root, s, ["V1"], progress=False) for s in (1, 2)]
    assert order == list(reads[0].stimuli)
    assert order != list(reads[1].stimuli)
    assert set(order) == set(reads[1].stimuli)
    check(rdms, "V1", "sub-02", reads[1].values, list(reads[1].stimuli))
    runs = [dict(zip(read.stimuli, read.seen, strict=True)) for read in reads]
    pairs = zip(*np.triu_indices(len(order), 1), strict=True)
    apart = [all(run[order[a]] != run[order[b]] for run in runs) for a, b in pairs]
    assert mask.tolist() == apart


def test_an_image_that_is_missing_is_said_before_anything_runs(things_root, tmp_path):
    images = things_images(tmp_path / "images")
    for name in ("dog", "yak"):
        (images / name / f"{name}_01b.jpg").unlink()
    recipe = study(of_things(things_root), images, {"V1": "conv1"})
    with pytest.raises(InvalidInputError, match=r"2 stimuli \('dog_01b', 'yak_01b'\) of 8 not in"):
        find_images(recipe, tmp_path)
    with pytest.raises(InvalidInputError, match=r"stimuli\.order is absent, the order is that"):
        find_images(recipe, tmp_path)


def test_an_order_of_other_stimuli_is_refused(things_root, tmp_path):
    images = things_images(tmp_path / "images")
    names = [f"{concept}_01b" for concept in things.CONCEPTS]
    (tmp_path / "order.txt").write_text("\n".join([*names[1:], "dog_02s"]))
    brain, order = of_things(things_root), {"order": "order.txt"}
    with pytest.raises(InvalidInputError, match=r"1 stimuli .*'zebra_01b'.* 1 that .*'dog_02s'"):
        find_images(study(brain, images, {"V1": "conv1"}, stimuli=order), tmp_path)
    (tmp_path / "order.txt").write_text("\n".join(names))
    recipe = study(brain, images, {"V1": "conv1"}, stimuli=order)
    assert made(recipe, tmp_path)[0] == names


def test_what_does_not_name_stimuli_lets_networks_see_no_image_again(things_root, tmp_path):
    images = things_images(tmp_path / "images")
    keys = {}
    for name, brain, comparison in (
        ("as it is", {}, {}),
        ("metric", {}, {"metric": "euclidean"}),
        ("regions", {"regions": ["IT", "V1"]}, {}),
        ("z-scores", {"z_score": "all"}, {}),
        ("mask", {}, {"mask": "cross-run"}),
        ("subjects", {"subjects": ["sub-02"]}, {}),
        ("stimuli", {"trials": "test"}, {}),
    ):
        recipe = study(of_things(things_root, **brain), images, {"V1": "conv1"},
                       comparison=comparison)  # fmt: skip
        stages = study_stages(recipe, tmp_path, quiet=True)
        assert [stage.name for stage in stages[:2]] == ["stimuli", "brain"]
        keys[name] = {stage.name: stage.key for stage in stages}
    before = keys.pop("as it is")
    for name, own in keys.items():
        assert own["brain"] != before["brain"]
        assert own["train bp"] == before["train bp"]
        for stage in ("stimuli", "features bp", "pixels 8"):
            assert (own[stage] == before[stage]) == (name != "stimuli"), (name, stage)


# ---------------------------------------------------------------- THINGS-EEG2


@pytest.fixture(scope="module")
def eeg_root(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("eeg"), np.random.default_rng(5)
    for subject in ("sub-01", "sub-02"):
        folder = root / "preprocessed_data" / subject
        folder.mkdir(parents=True)
        data = rng.normal(size=(4, 2, len(eeg.CHANNELS), len(eeg.TIMES)))
        content = eeg.content("training") | {"preprocessed_eeg_data": data}
        np.save(folder / "preprocessed_eeg_training.npy", content)
    np.save(root / "image_metadata.npy", eeg.metadata())
    return root


def of_eeg(root, **more):
    times = {"early": [0.0, 0.1], "all": [-0.2, 0.4]}
    return {"source": "things-eeg", "path": str(root), "part": "training", "times": times} | more


@pytest.mark.parametrize("window_as", ["mean", "concatenate"])
def test_windows_of_eeg_are_regions(eeg_root, tmp_path, window_as):
    names = [f"00001_x/{name}" for name in [*eeg.FILES["test"], *eeg.FILES["training"]]]
    images = write_images(tmp_path / "images", names)
    brain = of_eeg(eeg_root, window_as=window_as, channels=["O1", "Pz", "P1"])
    order, rdms, mask = made(study(brain, images, {"early": "conv1"}), tmp_path)
    assert order == [name[:-4] for name in eeg.FILES["training"]]
    assert mask is None
    assert dict.fromkeys(rdms.descriptors["region"].tolist()) == {"early": None, "all": None}
    assert rdms.n_rdms == 4
    read = datasets.read_things_eeg(eeg_root, 2, part="training", channels=["O1", "Pz", "P1"])
    for region, samples in (("early", slice(2, 4)), ("all", slice(None))):
        own = read.values[:, :, samples]
        own = own.mean(axis=2) if window_as == "mean" else own.reshape(4, -1)
        check(rdms, region, "sub-02", own, order)
    movie = rf.rdm_movie(read.values[:, :, 2:4], window=2, window_as=window_as, labels=order)
    early = rdms[{"region": "early", "subject": "sub-02"}]
    np.testing.assert_allclose(early.vectors, movie.vectors, atol=1e-6)


def test_windows_that_hold_nothing_are_refused(eeg_root, tmp_path):
    names = [f"x/{name}" for name in eeg.FILES["training"]]
    images = write_images(tmp_path / "images", names)
    for times, said in (
        ({"w": [0.0, 0.1], "early": [0.12, 0.18]}, "sub-01: there is no sample in the window 'ear"),
        ({"early": [0.3, 0.9]}, "not within the recording"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            made(study(of_eeg(eeg_root, times=times), images, {"early": "conv1"}), tmp_path)


def test_a_window_that_ends_before_it_begins_is_a_mistake_of_the_file():
    text = """name = "x"
[networks]
rules = ["bp"]
[stimuli]
images = "i"
sizes = [8]
[brain]
source = "things-eeg"
path = "p"
times = { "100 ms" = [0.12, 0.08] }
[comparison]
pairs = { "100 ms" = "conv1" }
"""
    with pytest.raises(InvalidInputError, match=r"line 10: brain.times: window '100 ms' ends at 0"):
        parse_recipe(text, "my.toml")
    right = parse_recipe(text.replace("0.12, 0.08", "0.08, 0.12"), "my.toml")
    assert right.brain.times == {"100 ms": (0.08, 0.12)}


# ---------------------------------------------------------------- NSD and Algonauts 2023


@pytest.fixture(scope="module")
def nsd_root(tmp_path_factory):
    root, plan = tmp_path_factory.mktemp("nsd"), nsd.Plan()
    (root / "nsddata" / "experiments" / "nsd").mkdir(parents=True)
    nsd.write_design(root / "nsddata" / "experiments" / "nsd" / "nsd_expdesign.mat", plan)
    nsd.write_volume_rois(root, "func1pt8mm")
    nsd.write_sessions(root, [1, 2])
    return root


def of_nsd(root, **more):
    return {"source": "nsd", "path": str(root), "regions": ["V1", "nsdgeneral"]} | more


def test_shared_images_of_nsd_count_from_one_in_their_names(nsd_root, tmp_path):
    read = datasets.read_nsd(
        nsd_root, 1, "V1", stimuli="shared1000", min_repeats=2, progress=False
    )  # fmt: skip
    ids = [int(stimulus[3:]) for stimulus in read.stimuli]
    names = [f"shared{i:04d}_nsd{number + 1:05d}.png" for i, number in enumerate(ids, 1)]
    images = write_images(tmp_path / "images", [*names[::-1], "other.png"])
    recipe = study(of_nsd(nsd_root, min_repeats=2), images, {"V1": "conv1"})
    order, rdms, _ = made(recipe, tmp_path)
    assert order == list(read.stimuli)
    assert order[0] == "nsd00000"
    check(rdms, "V1", "subj01", read.values, order)


@pytest.mark.slow
def test_nsd_finds_its_images_in_the_published_file(nsd_root, tmp_path):
    with h5py.File(tmp_path / "nsd_stimuli.hdf5", "w") as file:
        file.create_dataset("imgBrick", (73_000, 425, 425, 3), "uint8", chunks=(1, 425, 425, 3))
    recipe = study(of_nsd(nsd_root), tmp_path / "nsd_stimuli.hdf5", {"V1": "conv1"})
    order, rdms, _ = made(recipe, tmp_path)
    read = datasets.read_nsd(nsd_root, 1, "V1", stimuli="shared1000", progress=False)
    assert order == list(read.stimuli)
    check(rdms, "V1", "subj01", read.values, order)


def test_subjects_of_nsd_who_completed_other_sessions_are_told_what_to_choose(nsd_root, tmp_path):
    betas = tmp_path / "nsddata_betas" / "ppdata"
    (tmp_path / "nsddata").symlink_to(nsd_root / "nsddata")
    for subject, sessions in (("subj01", (1, 2)), ("subj02", (1,))):
        folder = betas / subject / "func1pt8mm" / nsd.BETAS
        folder.mkdir(parents=True)
        for session in sessions:
            (folder / f"betas_session{session:02d}.hdf5").touch()
    brain = of_nsd(tmp_path)
    with pytest.raises(InvalidInputError, match=r"subj01 saw \d+ stimuli, subj02 \d+, .*shared515"):
        measured_stimuli(study(brain, "x", {"V1": "conv1"}).brain, tmp_path)


SECOND = (7, 500, 845, 1000, 20000, 72999)


@pytest.fixture(scope="module")
def algonauts_root(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("algonauts"), np.random.default_rng(6)
    for subject, images in (("subj01", algonauts.NSD), ("subj02", SECOND)):
        folder = root / subject
        algonauts.write_split(folder, "training", images)
        for side, size in algonauts.SIZES.items():
            values = rng.normal(size=(6, size)).astype(np.float32)
            np.save(folder / f"training_split/training_fmri/{side}_training_fmri.npy", values)
        (folder / "roi_masks").mkdir()
        for name, mapping in algonauts.MAPPING.items():
            np.save(folder / "roi_masks" / f"mapping_{name}.npy", mapping)
        for name, codes in algonauts.CODES.items():
            np.save(folder / f"roi_masks/{name}_challenge_space.npy", np.array(codes))
    return root


def test_algonauts_subjects_are_compared_on_the_images_that_they_share(algonauts_root, tmp_path):
    names = [f"train-{i:04d}_nsd-{n:05d}.png" for i, n in enumerate(SECOND, 1)]
    images = write_images(tmp_path / "images", [*names[::-1], "test-0001_nsd-00003.png"])
    brain = {"source": "algonauts-2023", "path": str(algonauts_root), "regions": ["V1"]}
    with pytest.raises(InvalidInputError, match=r"share 4; in \[brain\], choose stimuli = 'sh"):
        find_images(study(brain, images, {"V1": "conv1"}), tmp_path)
    recipe = study(brain | {"stimuli": "shared"}, images, {"V1": "conv1"})
    order, rdms, _ = made(recipe, tmp_path)
    assert order == ["nsd00007", "nsd00845", "nsd01000", "nsd72999"]
    for subject in ("subj01", "subj02"):
        read = datasets.read_algonauts_2023(algonauts_root, subject, "V1", stimuli=order)
        check(rdms, "V1", subject, read.values, order)
    one = study(brain | {"subjects": ["subj02"]}, images, {"V1": "conv1"})
    order, rdms, _ = made(one, tmp_path)
    assert order == [f"nsd{n:05d}" for n in SECOND]
    folders = {"stimuli": find_images(one, tmp_path).stage.folder(tmp_path)}
    seen = read_images(one, tmp_path, tmp_path, folders)
    assert [int(seen.image(i)[0, 0, 0]) for i in range(6)] == [5, 4, 3, 2, 1, 0]


# ---------------------------------------------------------------- RDMs


def test_rdms_with_labels_order_the_images_and_those_without_must_number_the_same(tmp_path, rng):
    images = write_images(tmp_path / "images", [f"{name}.png" for name in "fabcde"])
    rdms = rf.RDMs(rng.random((2, 6)), labels=list("dabc"))
    rdms.save(tmp_path / "v1.h5")
    recipe = study({"source": "rdms", "files": {"V1": "v1.h5"}}, images, {"V1": "conv1"})
    order, brain, _ = made(recipe, tmp_path)
    assert order == list("dabc")
    np.testing.assert_array_equal(brain.vectors, rdms.vectors)
    rf.RDMs(rng.random((2, 6)), labels=list("dabz")).save(tmp_path / "v1.h5")
    with pytest.raises(InvalidInputError, match=r"1 stimulus \('z'\) of 4"):
        made(recipe, tmp_path)
    scipy.io.savemat(tmp_path / "v1.mat", {"V1": rdms.matrices()})
    unnamed = study({"source": "rdms", "files": {"V1": "v1.mat:V1"}}, images, {"V1": "conv1"})
    with pytest.raises(InvalidInputError, match="4 stimuli and no labels, the images are 6"):
        made(unnamed, tmp_path)
    for name in "ef":
        (images / f"{name}.png").unlink()
    order, brain, _ = made(unnamed, tmp_path)
    assert order == list("abcd")
    assert brain.labels is None


def test_labels_that_are_numbers_find_their_images(tmp_path, rng):
    images = write_images(tmp_path / "images", [f"{number}.png" for number in range(1, 9)])
    rf.RDMs(rng.random((1, 6)), labels=[4, 2, 8, 1]).save(tmp_path / "v1.h5")
    recipe = study({"source": "rdms", "files": {"V1": "v1.h5"}}, images, {"V1": "conv1"})
    order, brain, _ = made(recipe, tmp_path)
    assert order == list(brain.labels) == ["4", "2", "8", "1"]


def test_a_folder_of_rdms_orders_the_images_by_its_order_file(tmp_path, rng):
    images = write_images(tmp_path / "images", [f"{name}.png" for name in "fabcde"])
    folder = tmp_path / "rdms"
    folder.mkdir()
    matrices = rf.RDMs(rng.random((2, 6))).matrices()
    for subject, matrix in zip("12", matrices, strict=True):
        np.save(folder / f"fmri_rdm_IT_{subject}.npy", matrix)
    (folder / "order.txt").write_text("e\nb\na\nf\n")
    brain = {"source": "folder", "path": "rdms", "order": "order.txt"}
    order, rdms, _ = made(study(brain, images, {"IT": "conv1"}), tmp_path)
    assert order == list("ebaf")
    np.testing.assert_array_equal(rdms.matrices(), matrices)
    assert rdms.descriptors["subject"].tolist() == ["1", "2"]


def test_a_changed_file_of_rdms_is_read_again(tmp_path, rng):
    images = write_images(tmp_path / "images", [f"{name}.png" for name in "abcd"])
    recipe = study({"source": "rdms", "files": {"V1": "v1.h5"}}, images, {"V1": "conv1"})
    seen = []
    for _ in range(2):
        rf.RDMs(rng.random((1, 6)), labels=list("dabc")).save(tmp_path / "v1.h5")
        seen.append(made(recipe, tmp_path)[1].vectors)
    assert not np.array_equal(*seen)


# ---------------------------------------------------------------- what identifies large files


def test_large_data_are_identified_by_names_and_sizes(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_text("12345")
    (tmp_path / "y").write_text("123456789")
    whole = {path: file_hash(path) for path in (tmp_path / "a", tmp_path / "y")}
    monkeypatch.setattr(stage_module, "_READ_WHOLE", 4)
    for path, content, name in ((tmp_path / "a", tmp_path / "a/b/x", "z"),
                                (tmp_path / "y", tmp_path / "y", "w")):  # fmt: skip
        large = file_hash(path)
        assert large != whole[path]
        content.write_text(content.read_text()[::-1])
        assert file_hash(path) == large  # other content of the same size goes unseen
        content.write_text(content.read_text() + "0")
        assert file_hash(path) != large
        renamed = content.rename(content.with_name(name))
        where = path if path.is_dir() else renamed
        assert file_hash(where) != large
