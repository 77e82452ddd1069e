"""Tiny ImageNet and ImageNet-1k in their published layouts, and what their size asks for."""

from __future__ import annotations

import errno
import io
import os
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import rsafast_training.data.batches as batches_module
import rsafast_training.data.cache as cache_module
import rsafast_training.data.decode as decode_module
import torch
from PIL import Image
from rsafast_kernels.errors import InvalidInputError
from rsafast_training.data import Batches, load_dataset
from rsafast_training.data.folder import folder
from rsafast_training.images import decode_rgb, fit_square
from scipy.io import savemat

# ILSVRC2012_ID, wnid, words, number of children. The leaves' numbers follow neither the sorted
# wnids (n01440764, n02012849, n03126707) nor the rows of the file, where others lie between them.
SYNSETS = [
    (1001, "n00001740", "entity", 2),
    (3, "n02012849", "crane", 0),
    (1, "n03126707", "crane", 0),
    (1002, "n01317541", "domestic animal", 1),
    (2, "n01440764", "tench, Tinca tinca", 0),
]
WNIDS = ("n01440764", "n02012849", "n03126707")
TRUTH = [1, 3, 2, 2, 1]  # ILSVRC2012_ID of validation images 1 to 5
LABELS = [2, 1, 0, 0, 2]  # where their wnids are among the sorted ones
KIT = Path("ILSVRC2012_devkit_t12", "data")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RSAFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def plain(rng: np.random.Generator, grey: int) -> np.ndarray:
    """An image of one grey and its own size, which any JPEG keeps but for rounding."""
    height, width = rng.integers(20, 40, 2)
    return np.full((height, width, 3), grey, np.uint8)


def save(path: Path, image: Image.Image, kind: str = "JPEG") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, kind, **({"quality": 100} if kind == "JPEG" else {}))


def levels(images: np.ndarray) -> list[int]:
    """The grey of every image, to the next multiple of 10."""
    return (np.rint(images.mean(axis=(1, 2, 3)) / 10) * 10).astype(int).tolist()


@pytest.fixture
def imagenet(rng: np.random.Generator, tmp_path: Path) -> Path:
    """ImageNet-1k of three classes with two training images each, val/ flat, as shipped."""
    root = tmp_path / "imagenet"
    for c, wnid in enumerate(WNIDS):
        for i in range(2):
            image = Image.fromarray(plain(rng, 10 * (2 * c + i)))
            save(root / "train" / wnid / f"{wnid}_{10 - i}.JPEG", image)
    for number in range(1, 6):
        image = Image.fromarray(plain(rng, 100 + 10 * number))
        save(root / "val" / f"ILSVRC2012_val_{number:08d}.JPEG", image)
    (root / KIT).mkdir(parents=True)
    names = ["ILSVRC2012_ID", "WNID", "words", "num_children", "children"]
    synsets = np.zeros((len(SYNSETS), 1), dtype=[(name, object) for name in names])
    for row, synset in enumerate(SYNSETS):
        synsets[row, 0] = (*synset, np.arange(1, synset[3] + 1, dtype=float))
    savemat(root / KIT / "meta.mat", {"synsets": synsets})
    (root / KIT / "ILSVRC2012_validation_ground_truth.txt").write_text(
        "".join(f"{number}\n" for number in TRUTH)
    )
    return root


# ---- ImageNet-1k -------------------------------------------------------------------------------


def test_flat_validation_images_go_through_the_devkits_numbers(imagenet: Path) -> None:
    for spec in (f"folder:{imagenet}", imagenet):
        data = load_dataset(spec, image_size=8)
        assert data.test_labels.tolist() == LABELS
        assert levels(data.test_images) == [110, 120, 130, 140, 150]
        # Within a class by name: n01440764_10.JPEG, then n01440764_9.JPEG.
        assert levels(data.train_images) == [0, 10, 20, 30, 40, 50]
        assert data.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
        assert data.split == "as given"


def test_words_that_two_classes_share_are_told_apart(imagenet: Path) -> None:
    classes = load_dataset(imagenet, image_size=8).classes
    assert classes == ("tench, Tinca tinca", "crane (n02012849)", "crane (n03126707)")


def test_validation_images_in_class_folders_need_no_devkit(imagenet: Path) -> None:
    flat = load_dataset(imagenet, image_size=8)
    shutil.rmtree(imagenet / "ILSVRC2012_devkit_t12")
    for number, label in enumerate(LABELS, start=1):
        place = imagenet / "val" / WNIDS[label]
        place.mkdir(exist_ok=True)
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        (imagenet / "val" / name).rename(place / name)
    save(imagenet / "test" / "ILSVRC2012_test_00000001.JPEG", Image.new("RGB", (9, 9)))
    sorted_ = load_dataset(imagenet, image_size=8)
    assert sorted_.classes == WNIDS
    assert sorted_.test_labels.tolist() == sorted(LABELS)
    assert levels(sorted_.test_images) == [130, 140, 120, 110, 150]
    np.testing.assert_array_equal(sorted_.train_images, flat.train_images)


def test_files_are_named_from_the_root_however_it_is_written(
    imagenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = list(folder(imagenet, 0.2, 0).files)
    assert names[0] == f"train/{WNIDS[0]}/{WNIDS[0]}_10.JPEG"
    monkeypatch.chdir(imagenet)
    assert list(folder(Path("."), 0.2, 0).files) == names


@pytest.mark.parametrize("gone", ["meta.mat", "ILSVRC2012_validation_ground_truth.txt", "."])
def test_a_missing_devkit_is_said_with_both_files(imagenet: Path, gone: str) -> None:
    path = imagenet / KIT / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InvalidInputError) as caught:
        load_dataset(imagenet, image_size=8)
    for name in ("meta.mat", "ILSVRC2012_validation_ground_truth.txt", str(KIT), "5 images"):
        assert name in str(caught.value)


def truth(text: str):
    return lambda root: (root / KIT / "ILSVRC2012_validation_ground_truth.txt").write_text(text)


def cut_meta(root: Path) -> None:
    meta = root / KIT / "meta.mat"
    meta.write_bytes(meta.read_bytes()[:-50])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (truth("1\n3\n2\n2\n"), r"5 images, and .*ground_truth.txt the classes of 4; number 5 "),
        (truth("1\n3\n2\n2\n1\n1\n"), r"number 6 is not in both"),
        (truth("1\n3\n2\n1001\n1\n"), r"truth.txt, line 4: '1001' is the .* none of the 3 classes"),
        (truth("1\n3\n0\n2\n1\n"), r"line 3: '0' is"),
        (truth("1\n3\n2\nn01440764\n1\n"), r"line 4: 'n01440764' is"),
        (cut_meta, r"meta.mat: is not the readable meta.mat"),
        (lambda root: (root / "val" / "ILSVRC2012_val_00000003.JPEG").unlink(), r"number 3 is not"),
        (lambda root: save(root / "val" / "x.JPEG", Image.new("RGB", (9, 9))),
         r"val/x.JPEG: is no ILSVRC2012_val_<number>.JPEG"),
        (lambda root: (root / "val" / WNIDS[0]).mkdir(), r"5 images outside its 1 folders"),
        (lambda root: shutil.rmtree(root / "train" / WNIDS[1]), "'n02012849' is not among the 2"),
    ],
)  # fmt: skip
def test_contradictory_validation_sets_are_refused(imagenet: Path, spoil, message: str) -> None:
    spoil(imagenet)
    with pytest.raises(InvalidInputError, match=message):
        load_dataset(imagenet, image_size=8)


def test_cmyk_and_png_under_the_name_of_a_jpeg_decode(imagenet: Path) -> None:
    place = imagenet / "train" / WNIDS[0]
    save(place / f"{WNIDS[0]}_10.JPEG", Image.new("RGB", (30, 20), (200, 60, 10)).convert("CMYK"))
    save(place / f"{WNIDS[0]}_9.JPEG", Image.new("RGBA", (20, 30), (10, 60, 200, 255)), "PNG")
    cmyk, png = load_dataset(imagenet, image_size=8).train_images[:2].astype(int)
    assert np.abs(cmyk - [200, 60, 10]).max() < 5
    assert (png == [10, 60, 200]).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_neither_images_nor_their_order(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    monkeypatch.setattr(decode_module, "num_threads", lambda: threads)
    monkeypatch.setattr(decode_module, "BLOCK", 7)  # three parts of 3, 3 and 1
    images = rng.integers(0, 256, (20, 120, 110, 3), np.uint8)
    for i, image in enumerate(images):
        part = "train" if i < 16 else "val"
        place = tmp_path / "x" / part / "ab"[i % 16 // 8 if i < 16 else i % 2]
        save(place / f"{i:02d}.png", Image.fromarray(image), "PNG")
    data = load_dataset(tmp_path / "x")
    np.testing.assert_array_equal(data.train_images, images[:16])
    np.testing.assert_array_equal(data.test_images, images[[16, 18, 17, 19]])


def test_images_of_unequal_size_are_refused_within_the_first_block(imagenet: Path) -> None:
    seen: list[int] = []
    with pytest.raises(InvalidInputError, match="pass image_size to bring all to one size"):
        load_dataset(imagenet, progress=lambda done, total: seen.append(done))
    assert seen == []


# ---- what its size asks for --------------------------------------------------------------------


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """1,000 files in 20 classes that are no images: whoever opens one fails."""
    root = tmp_path / "many"
    for c in range(20):
        for part, n in (("train", 45), ("val", 5)):
            place = root / part / f"n{c:08d}"
            place.mkdir(parents=True)
            for i in range(n):
                os.close(os.open(place / f"n{c:08d}_{i}.JPEG", os.O_CREAT | os.O_WRONLY))
    return root


def test_listing_opens_no_image_and_takes_half_a_kilobyte_a_file(many: Path, monkeypatch) -> None:
    monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("an image was opened"))
    tracemalloc.start()
    try:
        source = folder(many, 0.2, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(source.files) == 1000
    assert peak / 1000 < 500


def test_of_many_files_the_sizes_of_images_are_the_key_and_none_is_opened(
    imagenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = folder(imagenet, 0.2, 0)
    by_bytes = cache_module.content_key(source, 8)
    monkeypatch.setattr(cache_module, "BYTES_UP_TO", len(source.files))
    assert cache_module.content_key(source, 8) == by_bytes
    monkeypatch.setattr(cache_module, "BYTES_UP_TO", len(source.files) - 1)
    opened = []

    def watched(path, mode):
        opened.append(Path(path).name)
        return Path(path).open(mode)

    monkeypatch.setattr(cache_module, "open", watched, raising=False)
    by_size = cache_module.content_key(source, 8)
    assert by_size != by_bytes
    # Of another few bytes in these the classes of thousands of images can change.
    assert opened == ["meta.mat", "ILSVRC2012_validation_ground_truth.txt"]
    truth("1\n3\n2\n1\n2\n")(imagenet)
    relabelled = cache_module.content_key(source, 8)
    assert relabelled != by_size
    with Path(source.files[f"train/{WNIDS[0]}/{WNIDS[0]}_9.JPEG"]).open("ab") as file:
        file.write(b"x")
    assert cache_module.content_key(source, 8) != relabelled


def test_a_cache_that_does_not_fit_is_refused_with_its_size(
    imagenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(imagenet)._replace(free=10_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    # 11 images of 3 MB.
    with pytest.raises(InvalidInputError, match=r"need 33 MB and 10 MB are free.*image_size"):
        load_dataset(imagenet, image_size=1000, progress=lambda *_: pytest.fail("decoded"))


def test_a_cache_larger_than_memory_is_read_only_and_gives_the_same_batches(
    imagenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = load_dataset(imagenet, image_size=8)
    real = np.memmap

    def refuse_copies(path, dtype=None, mode="r", **place):
        if mode == "c":
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return real(path, dtype=dtype, mode=mode, **place)

    monkeypatch.setattr(np, "memmap", refuse_copies)
    data = load_dataset(imagenet, image_size=8, progress=lambda *_: pytest.fail("decoded again"))
    assert not data.train_images.flags.writeable
    for (x, y), (x1, y1) in zip(
        Batches(data, batch_size=4).epoch([0, 1], 0),
        Batches(expected, batch_size=4).epoch([0, 1], 0),
        strict=True,
    ):
        assert torch.equal(x, x1)
        assert torch.equal(y, y1)


@pytest.mark.parametrize(("device", "n_bytes", "held"), [
    ("cuda", 39, "cuda"), ("cuda", 41, "cpu"), ("cpu", 10**15, "cpu"),
])  # fmt: skip
def test_images_stay_on_the_cpu_where_they_leave_a_gpu_no_room(
    monkeypatch: pytest.MonkeyPatch, device: str, n_bytes: int, held: str
) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (80, 100))
    assert batches_module.held_on(torch.device(device), n_bytes).type == held


# ---- Tiny ImageNet -----------------------------------------------------------------------------


def tiny(root: Path, train: dict[str, list[bytes]], val: list[tuple[str, bytes]]) -> Path:
    """Write JPEGs as Tiny ImageNet is published: nested, listed, with wnids.txt as given."""
    for wnid, images in train.items():
        place = root / "train" / wnid / "images"
        place.mkdir(parents=True)
        for i, image in enumerate(images):
            (place / f"{wnid}_{i}.JPEG").write_bytes(image)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t9\t9\n")
    for part in ("val", "test"):
        (root / part / "images").mkdir(parents=True)
    lines = []
    for i, (wnid, image) in enumerate(val):
        (root / "val" / "images" / f"val_{i}.JPEG").write_bytes(image)
        (root / "test" / "images" / f"test_{i}.JPEG").write_bytes(image)
        lines.append(f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    (root / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in train))
    return root


def jpeg(value: int, mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (64, 64), value).convert(mode).save(buffer, "JPEG", quality=100)
    return buffer.getvalue()


@pytest.fixture
def tiny_root(tmp_path: Path) -> Path:
    train = {
        "n01629819": [jpeg(100), jpeg(110, "L")],
        "n02124075": [jpeg(120), jpeg(130)],
        "n01443537": [jpeg(140, "L"), jpeg(150)],
    }
    val = [("n02124075", jpeg(10 * i)) for i in range(9)]
    val += [("n01443537", jpeg(90, "L")), ("n01629819", jpeg(100)), ("n01443537", jpeg(110))]
    root = tiny(tmp_path / "tiny-imagenet-200", train, val)
    words = "n00001740\tentity\nn01443537\tgoldfish, Carassius auratus\nn01629819\tsalamander\n"
    (root / "words.txt").write_text(words)
    return root


def test_tiny_imagenets_classes_are_sorted_wnids_named_by_words(tiny_root: Path) -> None:
    assert (tiny_root / "wnids.txt").read_text().split()[0] == "n01629819"
    data = load_dataset(tiny_root)
    # The third is not in this words.txt and keeps its id.
    assert data.classes == ("goldfish, Carassius auratus", "salamander", "n02124075")
    assert levels(data.train_images) == [140, 150, 100, 110, 120, 130]
    assert data.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
    # In the order of the list: val_2 before val_10.
    assert levels(data.test_images) == [10 * i for i in range(12)]
    assert data.test_labels.tolist() == [2] * 9 + [0, 1, 0]
    assert data.train_images.shape[1:] == (64, 64, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[: text.rindex("val_11")], r"no class to 1 of 12 images, .*val_11.JPEG"),
        (lambda text: text + text.splitlines()[0], r"line 13: names val_0.JPEG again"),
        (lambda text: text.replace("n02124075", "n09999999"), "'n09999999' is not among the 3"),
    ],
)
def test_a_list_that_does_not_fit_its_images_is_refused(tiny_root: Path, change, message) -> None:
    listing = tiny_root / "val" / "val_annotations.txt"
    listing.write_text(change(listing.read_text()))
    with pytest.raises(InvalidInputError, match=message):
        load_dataset(tiny_root)


@pytest.mark.data
def test_real_tiny_imagenet_in_its_published_layout(data_dir: Path, tmp_path: Path) -> None:
    with np.load(data_dir / "tiny_imagenet" / "tiny_imagenet_20class_jpeg.npz") as arrays:
        wnids, parts = arrays["wnids"].tolist(), {}
        for part, n in (("train", 3), ("val", 2)):
            blob, offsets = arrays[f"{part}_jpeg"], arrays[f"{part}_offsets"]
            labels = arrays[f"{part}_labels"]
            rows = np.concatenate([np.flatnonzero(labels == c)[:n] for c in range(len(wnids))])
            parts[part] = [
                (wnids[labels[i]], blob[offsets[i] : offsets[i + 1]].tobytes()) for i in rows
            ]
    assert wnids != sorted(wnids)
    assert any(Image.open(io.BytesIO(image)).mode == "L" for _, image in parts["val"])
    train = {wnid: [image for own, image in parts["train"] if own == wnid] for wnid in wnids}
    data = load_dataset(tiny(tmp_path / "tiny", train, parts["val"]), image_size=32)
    assert data.classes == tuple(sorted(wnids))
    for images, labels, given in (
        (data.train_images, data.train_labels, sorted(parts["train"], key=lambda pair: pair[0])),
        (data.test_images, data.test_labels, parts["val"]),
    ):
        assert [data.classes[label] for label in labels] == [wnid for wnid, _ in given]
        expected = [fit_square(decode_rgb(image, "x"), 32) for _, image in given]
        np.testing.assert_array_equal(images, expected)
