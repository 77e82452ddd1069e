"""Data sets in their published layouts, the cache, and every way either can be bad."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rsafast_kernels.errors import InvalidInputError, UnsupportedCaseError
from rsafast_training.data import ImageData, cifar10, load_dataset
from rsafast_training.images import decode_rgb, fit_square

CLASSES = [f"class {c}" for c in range(10)]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every test's cache to itself, and hold that damage is the only reason to warn."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("RSAFAST_CACHE", str(folder))
    return folder


def encoded(pixels: np.ndarray, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(rng: np.random.Generator, n: int, height: int = 9, width: int = 12) -> np.ndarray:
    return rng.integers(0, 256, (n, height, width, 3), np.uint8)


def same(data: ImageData, train, train_labels, test, test_labels) -> None:
    np.testing.assert_array_equal(data.train_images, train)
    np.testing.assert_array_equal(data.train_labels, train_labels)
    np.testing.assert_array_equal(data.test_images, test)
    np.testing.assert_array_equal(data.test_labels, test_labels)
    assert data.train_labels.dtype == data.test_labels.dtype == np.int64


# ---- one image ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "WEBP"])
def test_decoding_is_pillows(rng, tmp_path, kind):
    image = pixels(rng, 1)[0]
    data = encoded(image, kind, **({"lossless": True} if kind == "WEBP" else {}))
    (tmp_path / "x").write_bytes(data)
    got = decode_rgb(data, "x")
    np.testing.assert_array_equal(got, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    np.testing.assert_array_equal(decode_rgb(tmp_path / "x", "x"), got)
    assert got.flags.writeable
    if kind != "JPEG":
        np.testing.assert_array_equal(got, image)


def test_other_kinds_of_pixels_become_rgb(rng):
    grey = pixels(rng, 1)[0, :, :, 0]
    three = np.repeat(grey[..., None], 3, axis=2)
    np.testing.assert_array_equal(decode_rgb(encoded(grey, "PNG"), "grey"), three)
    deep = grey.astype(np.uint16) * 256 + 17
    np.testing.assert_array_equal(decode_rgb(encoded(deep, "PNG"), "16 bits"), three)
    black_or_white = decode_rgb(encoded(grey > 127, "PNG"), "1 bit")
    np.testing.assert_array_equal(black_or_white, 255 * (three > 127))
    palette = Image.fromarray(three).quantize(256)
    buffer = io.BytesIO()
    palette.save(buffer, "PNG")
    np.testing.assert_array_equal(decode_rgb(buffer.getvalue(), "palette"), palette.convert("RGB"))
    buffer = io.BytesIO()
    Image.fromarray(three).convert("CMYK").save(buffer, "JPEG", quality=100)
    difference = decode_rgb(buffer.getvalue(), "cmyk").astype(int) - three
    # JPEG at quality 100 moves a noise pixel by a few grey levels; inverted inks would by 255.
    assert np.abs(difference).max() < 12


def test_transparent_pixels_show_the_background(rng):
    rgba = np.concatenate([pixels(rng, 1)[0], np.zeros((9, 12, 1), np.uint8)], axis=2)
    rgba[:, 6:, 3] = 255
    got = decode_rgb(encoded(rgba, "PNG"), "x")
    assert (got[:, :6] == 255).all()
    np.testing.assert_array_equal(got[:, 6:], rgba[:, 6:, :3])
    green = decode_rgb(encoded(rgba, "PNG"), "x", background=(0, 128, 9))
    assert green[0, 0].tolist() == [0, 128, 9]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.9])
def test_truncated_image_is_refused_by_name(rng, kind, kept):
    data = encoded(pixels(rng, 1, 64, 64)[0], kind)
    with pytest.raises(InvalidInputError, match="cat 7: is truncated, damaged or no image"):
        decode_rgb(data[: int(kept * len(data))], "cat 7")


def test_bad_image_files_are_refused_by_name(tmp_path):
    with pytest.raises(InvalidInputError, match=r"x.png: there is no such image file"):
        decode_rgb(tmp_path / "x.png", "x.png")
    with pytest.raises(InvalidInputError, match="truncated, damaged or no image"):
        decode_rgb(tmp_path, "a folder")
    with pytest.raises(InvalidInputError, match="no image format that Pillow knows"):
        decode_rgb(b"<html>404 Not Found</html>", "page")
    with pytest.raises(UnsupportedCaseError, match="32-bit pixels"):
        decode_rgb(encoded(np.ones((4, 4), np.float32), "TIFF"), "float")


@pytest.mark.parametrize(("height", "width"), [(9, 12), (12, 9), (9, 9), (5, 31), (16, 17)])
@pytest.mark.parametrize(("size", "resize"), [(9, None), (6, None), (20, None), (6, 8), (7, 8)])
def test_fit_square_is_resize_then_centre_crop(rng, height, width, size, resize):
    image = pixels(rng, 1, height, width)[0]
    short, edge = min(height, width), resize or size
    # torchvision's _compute_resized_output_size and center_crop.
    tall, wide = int(edge * height / short), int(edge * width / short)
    resized = np.asarray(Image.fromarray(image).resize((wide, tall), Image.Resampling.BILINEAR))
    top, left = round((tall - size) / 2.0), round((wide - size) / 2.0)
    expected = resized[top : top + size, left : left + size]
    np.testing.assert_array_equal(fit_square(image, size, resize), expected)


def test_fit_square_rejects_a_crop_larger_than_the_image(rng):
    with pytest.raises(InvalidInputError, match=r"from 1 to the resized shorter edge \(8\), got 9"):
        fit_square(pixels(rng, 1)[0], 9, resize=8)


# ---- digits and arrays -------------------------------------------------------------------------


def test_digits_are_scikit_learns_and_divided_once_and_for_all():
    from sklearn.datasets import load_digits

    data, again = load_dataset("digits"), load_dataset("digits")
    assert data.train_images.shape == (1500, 8, 8, 3)
    assert data.test_images.shape == (297, 8, 8, 3)
    assert data.fingerprint == again.fingerprint
    both = np.concatenate([data.train_images, data.test_images])[..., 0].reshape(-1, 64)
    original = np.rint(load_digits().data * 255 / 16).astype(np.uint8)
    assert sorted(map(bytes, both)) == sorted(map(bytes, original))
    share = np.bincount(data.test_labels) / np.bincount(load_digits().target)
    np.testing.assert_allclose(share, 297 / 1797, atol=0.003)
    assert str(data) == (
        "digits: 1,500 training and 297 test images of 8 x 8, 10 classes, "
        "split drawn here, stratified, seed 0"
    )


def test_mean_and_std_are_those_of_the_training_pixels(rng):
    train = pixels(rng, 600) // np.array([1, 2, 5], np.uint8)
    data = ImageData.from_arrays(train, np.arange(600) % 2, pixels(rng, 4), [0, 1, 0, 1])
    np.testing.assert_allclose(data.mean, (train / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(data.std, (train / 255).std((0, 1, 2)), rtol=1e-10)


def test_fingerprint_tells_pixels_labels_and_classes_apart(rng):
    train, test, labels = pixels(rng, 300), pixels(rng, 4), np.arange(300) % 3
    base = ImageData.from_arrays(train, labels, test, [0, 1, 2, 0])
    renamed = ImageData.from_arrays(train, labels, test, [0, 1, 2, 0], name="other")
    assert renamed.fingerprint == base.fingerprint
    brighter = test.copy()
    brighter[3, 8, 11, 2] ^= 1
    others = [
        ImageData.from_arrays(train, labels, brighter, [0, 1, 2, 0]),
        ImageData.from_arrays(train, labels, test, [0, 1, 2, 1]),
        ImageData.from_arrays(train, np.roll(labels, 1), test, [0, 1, 2, 0]),
        ImageData.from_arrays(train, labels, test, [0, 1, 2, 0], classes=("a", "b", "c")),
    ]
    assert len({d.fingerprint for d in [base, *others]}) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_images": np.zeros((6, 4, 4, 3))}, "train_images must be uint8.*got float64"),
        ({"train_images": np.zeros((6, 3, 4, 4), np.uint8)}, "move the channels last"),
        ({"test_images": np.ones((0, 4, 4, 3), np.uint8), "test_labels": []}, "whole numbers"),
        ({"train_labels": [0, 1, 2]}, r"one label for each of the 6 images, got shape \(3,\)"),
        ({"train_labels": [0.0, 1, 2, 0, 1, 2]}, "whole numbers.*float64"),
        ({"train_labels": [0, 1, 2, 0, 1, -2]}, "training label -2 of train_images image 5"),
        ({"train_labels": [0] * 6, "test_labels": [0, 0]}, "has 1 class; training needs"),
        ({"test_labels": [0, 3]}, "class '3' has test images and no training images"),
        ({"classes": ("a", "b")}, r"label 2 of train_images image 2.*none of the 2 classes"),
        ({"classes": ("a", "b", "a")}, "the class name 'a' occurs twice"),
        ({"train_images": np.full((6, 4, 4, 3), 7, np.uint8)}, "same R in every pixel"),
        ({"test_images": np.zeros((2, 4, 5, 3), np.uint8)}, "image 0 has 4 x 5 .* 4 x 4"),
    ],
)
def test_arrays_that_fit_no_training_are_refused(rng, change, message):
    arguments = {
        "train_images": pixels(rng, 6, 4, 4), "train_labels": [0, 1, 2, 0, 1, 2],
        "test_images": pixels(rng, 2, 4, 4), "test_labels": [0, 2], "classes": None,
    } | change  # fmt: skip
    with pytest.raises(InvalidInputError, match=message):
        ImageData.from_arrays(**arguments)


# ---- CIFAR-10 ----------------------------------------------------------------------------------

PER_FILE = 12


@pytest.fixture
def cifar(rng, tmp_path, monkeypatch):
    """The published files, with 12 images each instead of 10,000: binary, Python, and archives."""
    monkeypatch.setattr(cifar10, "RECORDS", PER_FILE)
    records = rng.integers(0, 256, (6, PER_FILE, 3072), np.uint8)
    labels = rng.integers(0, 10, (6, PER_FILE))
    labels[0, :10] = range(10)
    root = tmp_path / "cifar"
    binary, python = root / "bin" / "cifar-10-batches-bin", root / "py" / "cifar-10-batches-py"
    binary.mkdir(parents=True)
    python.mkdir(parents=True)
    for i, name in enumerate([*cifar10.TRAIN, cifar10.TEST]):
        rows = np.concatenate([labels[i, :, None].astype(np.uint8), records[i]], axis=1)
        (binary / f"{name}.bin").write_bytes(rows.tobytes())
        batch = {"data": records[i], "labels": labels[i].tolist(), "batch_label": name}
        (python / name).write_bytes(pickle.dumps(batch, protocol=2))
    (binary / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n\n")
    (python / "batches.meta").write_bytes(pickle.dumps({"label_names": CLASSES}, protocol=2))
    for folder, archive in ((binary, "binary"), (python, "python")):
        with tarfile.open(root / f"cifar-10-{archive}.tar.gz", "w:gz") as tar:
            tar.add(folder, folder.name)
    images = records.reshape(6, PER_FILE, 3, 32, 32).transpose(0, 1, 3, 4, 2)
    return root, images, labels


FORMS = [
    "cifar10:{}/bin/cifar-10-batches-bin", "cifar10:{}/bin", "cifar10:{}/cifar-10-binary.tar.gz",
    "cifar10:{}/py/cifar-10-batches-py", "cifar10:{}/py", "cifar10:{}/cifar-10-python.tar.gz",
    "{}/bin", "{}/cifar-10-python.tar.gz",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_cifar10_in_every_form_is_the_same_data(cifar, form):
    root, images, labels = cifar
    data = load_dataset(form.format(root))
    train = images[:5].reshape(-1, 32, 32, 3)
    same(data, train, labels[:5].ravel(), images[5], labels[5])
    arrays = ImageData.from_arrays(
        train, labels[:5].ravel(), images[5], labels[5], classes=tuple(CLASSES)
    )
    assert data.fingerprint == arrays.fingerprint
    assert (data.classes, data.mean, data.std) == (arrays.classes, arrays.mean, arrays.std)
    assert (data.name, data.split) == ("cifar10", "as given")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_every_pickle_protocol_are_admitted(cifar, protocol):
    root, images, _ = cifar
    for file in (root / "py" / "cifar-10-batches-py").iterdir():
        content = pickle.loads(file.read_bytes())
        if "data" in content:
            content["filenames"] = [b"a.png"] * PER_FILE
        file.write_bytes(pickle.dumps(content, protocol))
    np.testing.assert_array_equal(load_dataset(f"cifar10:{root}/py").test_images, images[5])


class Exploit:
    def __reduce__(self):
        return os.system, ("touch exploited",)


def test_pickle_that_runs_code_is_refused(cifar, tmp_path, monkeypatch):
    root, _, _ = cifar
    monkeypatch.chdir(tmp_path)
    bad = root / "py" / "cifar-10-batches-py" / "data_batch_3"
    bad.write_bytes(pickle.dumps({"data": Exploit()}))
    with pytest.raises(InvalidInputError, match=r"data_batch_3: asks to run (posix|nt)\.system"):
        load_dataset(f"cifar10:{root}/py")
    assert not (tmp_path / "exploited").exists()
    for payload in (b"cbuiltins\neval\n(S'1'\ntR.", b"cnumpy\nload\n(S'x'\ntR."):
        bad.write_bytes(payload)
        with pytest.raises(InvalidInputError, match=r"asks to run (builtins.eval|numpy.load)"):
            load_dataset(f"cifar10:{root}/py")
    bad.write_bytes(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")
    with pytest.raises(InvalidInputError, match="encoding 'rot13'"):
        load_dataset(f"cifar10:{root}/py")


def edit(name, change):
    def apply(root: Path) -> None:
        path = next(root.rglob(name))
        path.write_bytes(change(path.read_bytes()))

    return apply


def repickled(**fields):
    return lambda data: pickle.dumps(pickle.loads(data) | fields)


@pytest.mark.parametrize(
    ("form", "spoil", "message"),
    [
        ("bin", edit("test_batch.bin", lambda b: b[:-1]), r"test_batch.bin: has 36,875 bytes, exp"),
        ("bin", edit("data_batch_2.bin", lambda b: b + b"x"), "data_batch_2.bin: has 36,877 bytes"),
        ("bin", edit("data_batch_1.bin", lambda b: b"\x0a" + b[1:]), "label 10 of .* image 0 is "),
        ("bin", edit("batches.meta.txt", lambda b: b"cat\n"), "meta.txt: lists 1 class names, exp"),
        ("bin", lambda root: next(root.rglob("data_batch_4.bin")).unlink(), "4.bin: is missing"),
        ("py", edit("data_batch_2", lambda b: b[:-9]), "data_batch_2: is truncated or no pickle"),
        ("py", edit("data_batch_2", lambda b: pickle.dumps([1])), "holds a list, expected a dict"),
        ("py", edit("data_batch_2", repickled(data=np.zeros((12, 9)))), "expected 'data', uint8"),
        ("py", edit("data_batch_2", repickled(labels=[1] * 11)), "each of the 12 images"),
        ("py", edit("data_batch_2", repickled(labels=["x"] * 12)), "whole numbers"),
        ("cifar-10-binary.tar.gz", edit("*binary.tar.gz", lambda b: b[:-900]), "truncated or no"),
        ("cifar-10-binary.tar.gz", edit("*binary.tar.gz", lambda b: b"no"), "truncated or no .tar"),
        ("", lambda root: None, "no CIFAR-10 here; expected data_batch_1.bin"),
    ],
)
def test_damaged_cifar10_is_refused_by_name(cifar, cache, form, spoil, message):
    root, _, _ = cifar
    spoil(root)
    with pytest.raises(InvalidInputError, match=message):
        load_dataset(f"cifar10:{root / form}")
    assert not cache.exists() or not list(cache.iterdir())


def test_archive_of_something_else_is_refused(tmp_path, rng):
    with tarfile.open(tmp_path / "x.tar.gz", "w:gz") as tar:
        (tmp_path / "note").write_text("hello")
        tar.add(tmp_path / "note", "note")
    with pytest.raises(InvalidInputError, match="holds no data_batch_1; expected cifar-10-binary"):
        load_dataset(tmp_path / "x.tar.gz")


# ---- .npz --------------------------------------------------------------------------------------


def jpeg_arrays(part: str, images: list[bytes], labels) -> dict[str, np.ndarray]:
    keys = [f"{part}_{key}".strip("_") for key in ("jpeg", "offsets", "labels")]
    lengths = [len(image) for image in images]
    return dict(zip(keys, (
        np.frombuffer(b"".join(images), np.uint8),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.asarray(labels, np.uint8),
    ), strict=True))  # fmt: skip


def train_and_val(images: list[bytes]) -> dict[str, np.ndarray]:
    train = jpeg_arrays("train", images[:5], [0, 1, 0, 1, 0])
    return train | jpeg_arrays("val", images[5:], [1, 1, 1])


@pytest.fixture
def jpegs(rng):
    """Eight images of two classes as JPEG, some greyscale, as Tiny ImageNet has."""
    images = pixels(rng, 8)
    return [encoded(x[..., 0] if i % 3 == 0 else x) for i, x in enumerate(images)]


@pytest.mark.parametrize("held_out", ["test", "val"])
def test_npz_of_jpeg_bytes(jpegs, tmp_path, held_out):
    arrays = jpeg_arrays("train", jpegs[:5], [0, 1, 0, 1, 0])
    arrays |= jpeg_arrays(held_out, jpegs[5:], [1, 0, 1])
    np.savez(tmp_path / "birds.npz", classes=np.array(["wren", "owl"]), **arrays)
    data = load_dataset(f"npz:{tmp_path}/birds.npz")
    decoded = np.stack([decode_rgb(image, "x") for image in jpegs])
    same(data, decoded[:5], [0, 1, 0, 1, 0], decoded[5:], [1, 0, 1])
    assert (data.name, data.classes, data.split) == ("birds", ("wren", "owl"), "as given")


def test_npz_classes_fall_back_to_ids_where_names_repeat(jpegs, tmp_path):
    arrays = train_and_val(jpegs)
    np.savez(tmp_path / "x.npz", classes=["crane"] * 2, wnids=["n02012849", "n03126707"], **arrays)
    assert load_dataset(tmp_path / "x.npz").classes == ("n02012849", "n03126707")


@pytest.mark.parametrize("shape", [(20, 6, 5, 3), (20, 6, 5, 1), (20, 6, 5)])
def test_npz_of_arrays(rng, tmp_path, shape):
    x, y = rng.integers(0, 256, shape, np.uint8), np.arange(20)[:, None] % 3
    np.savez(tmp_path / "x.npz", x_train=x[:14], y_train=y[:14], x_test=x[14:], y_test=y[14:])
    rgb = np.broadcast_to(x.reshape(20, 6, 5, -1), (20, 6, 5, 3))
    data = load_dataset(tmp_path / "x.npz")
    same(data, rgb[:14], y[:14, 0], rgb[14:], y[14:, 0])
    assert data.classes == ("0", "1", "2")


def test_undivided_data_are_divided_by_seed_and_say_so(rng, tmp_path):
    x, y = pixels(rng, 50), np.repeat([0, 1], [30, 20])
    np.savez(tmp_path / "x.npz", x=x, y=y)
    told = r"x has no test set: 10 of its images.*seed 0.*pass split_seed"
    with pytest.warns(UserWarning, match=told):
        data = load_dataset(tmp_path / "x.npz")
    assert data.split == "drawn here, stratified, seed 0"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again, other, half = (
            load_dataset(tmp_path / "x.npz", split_seed=seed, test_fraction=fraction)
            for seed, fraction in ((0, 0.2), (1, 0.2), (0, 0.5))
        )
    assert data.fingerprint == again.fingerprint != other.fingerprint
    assert np.bincount(data.test_labels).tolist() == [6, 4]
    assert np.bincount(half.test_labels).tolist() == [15, 10]
    found = np.concatenate([data.train_images, data.test_images])
    assert sorted(map(bytes, found)) == sorted(map(bytes, x))
    with pytest.raises(InvalidInputError, match=r"cannot be divided with test_fraction=1.5"):
        load_dataset(tmp_path / "x.npz", test_fraction=1.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": np.array([0, 1, 2, 1, 0])}, "label 2 of .*image 2 is none of the 2"),
        ({"train_labels": np.array([0, 1])}, "one label for each of the 5 images"),
        ({"train_offsets": np.arange(6)}, "offsets must rise from 0 to the"),
        ({"train_offsets": np.zeros(6)}, "offsets must rise"),
        ({"val_labels": None}, r"lacks the array 'val_labels', got train_jpeg"),
        ({"train_jpeg": None, "val_jpeg": None}, "found no images; expected train_jpeg"),
        ({"classes": np.array([1, 2])}, "'classes' must be a list of str"),
        ({"classes": np.array(["a", "b"], object)}, "holds Python objects"),
        ({"classes": np.array(["a"])}, "has 1 class"),
    ],
)
def test_inconsistent_npz_is_refused(jpegs, tmp_path, change, message):
    arrays = train_and_val(jpegs)
    arrays |= {"classes": np.array(["wren", "owl"])} | change
    np.savez(tmp_path / "x.npz", **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(InvalidInputError, match=message) as caught:
        load_dataset(tmp_path / "x.npz")
    assert "x.npz" in str(caught.value)


def test_corrupt_image_in_npz_is_named_and_leaves_no_cache(jpegs, tmp_path, cache):
    broken = [*jpegs[:3], jpegs[3][:60], jpegs[4]]
    arrays = train_and_val([*broken, *jpegs[5:]])
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(InvalidInputError, match=r"x.npz, train_jpeg image 3: is truncated"):
        load_dataset(tmp_path / "x.npz")
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 half an archive"])
def test_file_that_is_no_npz_is_refused(tmp_path, content):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"x.npz: is truncated, damaged or no .npz"):
        load_dataset(tmp_path / "x.npz")


def test_npy_and_truncated_npz_are_refused(rng, tmp_path):
    np.save(tmp_path / "x.npy", pixels(rng, 3))
    with pytest.raises(InvalidInputError, match=r"no .npz archive .no zip archive"):
        load_dataset(f"npz:{tmp_path}/x.npy")
    np.savez(tmp_path / "x.npz", x=pixels(rng, 50), y=np.zeros(50, int))
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInputError, match="is truncated, damaged"):
        load_dataset(tmp_path / "x.npz")


# ---- folders -----------------------------------------------------------------------------------


def write_images(folder: Path, images, names) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for image, name in zip(images, names, strict=True):
        (folder / name).write_bytes(encoded(image, "PNG"))


@pytest.fixture
def image_folder(rng, tmp_path):
    """train/ and val/ of two classes, three and two images each."""
    x = pixels(rng, 10)
    root = tmp_path / "pets"
    for c, label in enumerate(["cat", "dog"]):
        write_images(root / "train" / label, x[3 * c : 3 * c + 3], ["a.png", "b.png", "c.PNG"])
        write_images(root / "val" / label, x[6 + 2 * c : 8 + 2 * c], ["a.png", "b.png"])
    return root, x


@pytest.mark.parametrize("held_out", ["val", "test"])
def test_image_folder(image_folder, held_out):
    root, x = image_folder
    (root / "val").rename(root / held_out)
    (root / "train" / "cat" / ".DS_Store").write_bytes(b"junk")
    (root / "train" / "cat" / "._a.png").write_bytes(b"junk")
    (root / "train" / "notes.txt").write_text("not a class")
    for data in (load_dataset(f"folder:{root}"), load_dataset(root)):
        same(data, x[:6], [0, 0, 0, 1, 1, 1], x[6:], [0, 0, 1, 1])
        assert (data.name, data.classes, data.split) == ("pets", ("cat", "dog"), "as given")


def test_tiny_imagenet_as_published(rng, tmp_path):
    x, root = pixels(rng, 9, 64, 64), tmp_path / "tiny-imagenet-200"
    for c, wnid in enumerate(["n01443537", "n01629819"]):
        names = [f"{wnid}_{i}.JPEG" for i in range(3)]
        write_images(root / "train" / wnid / "images", x[3 * c : 3 * c + 3], names)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{names[0]}\t0\t0\t9\t9\n")
    write_images(root / "val" / "images", x[6:], ["val_0.JPEG", "val_1.JPEG", "val_2.JPEG"])
    write_images(root / "test" / "images", x[:1], ["test_0.JPEG"])
    (root / "wnids.txt").write_text("n01629819\nn01443537\n")  # not sorted, as published
    lines = [f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62\n" for i, wnid in enumerate(
        ["n01629819", "n01443537", "n01629819"])]  # fmt: skip
    annotations = root / "val" / "val_annotations.txt"
    annotations.write_text("".join(lines))
    data = load_dataset(root)
    same(data, x[:6], [0, 0, 0, 1, 1, 1], x[6:], [1, 0, 1])
    assert data.classes == ("n01443537", "n01629819")
    annotations.write_text("".join(lines).replace("val_2", "val_9"))
    with pytest.raises(InvalidInputError, match=r"line 3: the image .*val_9.JPEG does not exist"):
        load_dataset(root)
    annotations.write_text(lines[0] + "val_1.JPEG n01443537\n")
    with pytest.raises(InvalidInputError, match="line 2: expected a file name, a tab and a class"):
        load_dataset(root)


def test_classes_alone_are_divided(image_folder):
    root, x = image_folder
    shutil.rmtree(root / "val")
    for data in (
        load_dataset(root, split_seed=3, test_fraction=1 / 3),
        load_dataset(root / "train", split_seed=3, test_fraction=1 / 3),
    ):
        found = np.concatenate([data.train_images, data.test_images])
        assert sorted(map(bytes, found)) == sorted(map(bytes, x[:6]))
        assert sorted(data.test_labels) == [0, 1]


def test_images_of_unequal_size_need_image_size(image_folder, rng):
    root, x = image_folder
    write_images(root / "train" / "dog", pixels(rng, 1, 20, 30), ["z.png"])
    with pytest.raises(InvalidInputError, match=r"z.png has 20 x 30 .* 9 x 12; pass image_size"):
        load_dataset(root)
    data = load_dataset(root, image_size=7)
    assert data.train_images.shape == (7, 7, 7, 3)
    np.testing.assert_array_equal(data.test_images[0], fit_square(x[6], 7))


def spoil_folder(root: Path, what: str) -> None:
    cat = root / "train" / "cat"
    if what == "corrupt":
        (cat / "b.png").write_bytes((cat / "b.png").read_bytes()[:70])
    elif what == "empty class":
        for file in cat.iterdir():
            file.unlink()
    elif what == "no classes":
        shutil.rmtree(root / "train")
        (root / "train").mkdir()
    elif what == "unknown class":
        (root / "val" / "dog").rename(root / "val" / "bird")
    elif what == "one class":
        shutil.rmtree(cat)
        shutil.rmtree(root / "val" / "cat")
    elif what == "class of one":
        shutil.rmtree(root / "val")
        (cat / "a.png").unlink()
        (cat / "b.png").unlink()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("corrupt", "train/cat/b.png: is truncated, damaged"),
        ("empty class", "train/cat: is a class folder without images"),
        ("no classes", "train: has no class folders; expected train/<class>/<image>"),
        ("unknown class", "val: the class 'bird' is not among the 2 of .*train"),
        ("one class", "pets: has 1 class; training needs at least 2"),
        ("class of one", r"class 'cat' has 1 image\(s\)"),
    ],
)
def test_bad_folders_are_refused(image_folder, what, message):
    root, _ = image_folder
    spoil_folder(root, what)
    with pytest.raises(InvalidInputError, match=message):
        load_dataset(root, split_seed=0)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_unreadable_image_is_refused_by_name(image_folder):
    root, _ = image_folder
    (root / "train" / "cat" / "b.png").chmod(0)
    with pytest.raises(InvalidInputError, match=r"train/cat/b.png: cannot be read"):
        load_dataset(root)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mnist", "data must be digits, cifar10:PATH, npz:PATH or folder:PATH, got 'mnist'"),
        ("npz", "lacks its path; write npz:PATH"),
        ("npz:/no/such.npz", "/no/such.npz: does not exist"),
        ("folder:/no/such", "/no/such: does not exist"),
        ("cifar10:/no/such", "/no/such: does not exist"),
    ],
)
def test_unknown_specs_are_refused(spec, message):
    with pytest.raises(InvalidInputError, match=message):
        load_dataset(spec)


# ---- cache -------------------------------------------------------------------------------------


@pytest.fixture
def archive(rng, tmp_path) -> Path:
    path = tmp_path / "x.npz"
    np.savez(path, x_train=pixels(rng, 600), y_train=np.arange(600) % 2,
             x_test=pixels(rng, 30), y_test=np.arange(30) % 2)  # fmt: skip
    return path


def decoded_again(path: Path, **options) -> tuple[ImageData, bool]:
    calls: list[tuple[int, int]] = []
    data = load_dataset(path, progress=lambda done, total: calls.append((done, total)), **options)
    assert not calls or calls[-1] == (630, 630)
    return data, bool(calls)


def test_images_are_decoded_once_for_a_content_wherever_it_lies(archive, cache, tmp_path, rng):
    first, decoded = decoded_again(archive)
    assert decoded
    assert isinstance(first.train_images, np.memmap)
    moved = tmp_path / "elsewhere" / "x.npz"
    moved.parent.mkdir()
    shutil.copy(archive, moved)
    second, decoded = decoded_again(moved)
    assert not decoded
    assert second.fingerprint == first.fingerprint
    assert (second.mean, second.std, second.classes) == (first.mean, first.std, first.classes)
    np.testing.assert_array_equal(second.train_images, first.train_images)
    # Other content under the same name, of the same length and time, is other data.
    before = archive.stat()
    content = bytearray(archive.read_bytes())
    with np.load(archive) as arrays:
        changed = dict(arrays)
    changed["x_train"][0, 0, 0, 0] ^= 1
    np.savez(archive, **changed)
    os.utime(archive, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert len(archive.read_bytes()) == len(content)
    third, decoded = decoded_again(archive)
    assert decoded
    assert third.fingerprint != first.fingerprint
    _, decoded = decoded_again(archive, image_size=8)
    assert decoded
    assert len(list(cache.iterdir())) == 3


def test_cache_is_a_plain_npz_and_changes_in_memory_stay_there(archive, cache):
    data = load_dataset(archive)
    with np.load(next(cache.iterdir())) as arrays:
        np.testing.assert_array_equal(arrays["train_images"], data.train_images)
        np.testing.assert_array_equal(arrays["test_labels"], data.test_labels)
    original = data.train_images[0, 0, 0, 0]
    data.train_images[0, 0, 0, 0] += 1
    assert load_dataset(archive).train_images[0, 0, 0, 0] == original


def test_cache_dir_comes_before_the_environment(archive, cache, tmp_path):
    load_dataset(archive, cache_dir=tmp_path / "own")
    assert len(list((tmp_path / "own").iterdir())) == 1
    assert not cache.exists()


@pytest.mark.parametrize("where", [0.1, 0.5, 0.9, "labels", "central directory", "meta.json"])
@pytest.mark.parametrize("how", ["flip", "truncate", "empty"])
def test_damaged_cache_is_rebuilt_with_a_warning(archive, cache, where, how):
    before = load_dataset(archive).fingerprint
    path = next(cache.iterdir())
    content = bytearray(path.read_bytes())
    if isinstance(where, str):
        marks = {"labels": b"test_labels.npy", "central directory": b"PK\x01\x02"}
        at = content.rindex(marks.get(where, b'"fingerprint"')) + 3
    else:
        at = int(where * len(content))
    content[at] ^= 0xFF
    path.write_bytes({"flip": bytes(content), "truncate": bytes(content[:at]), "empty": b""}[how])
    with pytest.warns(UserWarning, match=r"cached images are damaged .* decoded again"):
        data = load_dataset(archive)
    assert data.fingerprint == before
    with np.load(archive) as arrays:
        np.testing.assert_array_equal(data.train_images, arrays["x_train"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_dataset(archive)


FORK = multiprocessing.get_context("fork")


def _load(archive: Path, results) -> None:
    results.put(load_dataset(archive).fingerprint)


def test_processes_that_build_the_same_cache_at_once_agree(archive, cache):
    results = FORK.SimpleQueue()
    workers = [FORK.Process(target=_load, args=(archive, results)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len({results.get() for _ in workers}) == 1
    assert len(list(cache.iterdir())) == 1


def _load_with_little_room(archive: Path, results) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        load_dataset(archive)
    except InvalidInputError as error:
        results.put(str(error))


def test_full_disk_is_a_clear_error_and_leaves_nothing(archive, cache):
    results = FORK.SimpleQueue()
    worker = FORK.Process(target=_load_with_little_room, args=(archive, results))
    worker.start()
    worker.join(60)
    assert worker.exitcode == 0
    assert "could not be written" in results.get()
    assert list(cache.iterdir()) == []


def test_too_little_space_is_said_before_any_decoding(archive, cache, monkeypatch):
    usage = shutil.disk_usage(archive.parent)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InvalidInputError, match=r"need 0 MB and 0 MB are free.*RSAFAST_CACHE"):
        load_dataset(archive, progress=lambda *_: pytest.fail("decoded"))
    assert list(cache.iterdir()) == []


def _load_and_die(archive: Path) -> None:
    load_dataset(archive, progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))


def test_killed_build_does_no_harm_and_is_swept_up_later(archive, cache):
    worker = FORK.Process(target=_load_and_die, args=(archive,))
    worker.start()
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL
    (leftover,) = cache.iterdir()
    load_dataset(archive)
    # A young one may be another process at work; a day later it is not.
    assert leftover.exists()
    os.utime(leftover, (0, 0))
    load_dataset(archive, image_size=8)
    assert not leftover.exists()
    assert len(list(cache.iterdir())) == 2


def test_cache_folder_that_cannot_be_made_is_an_error(archive, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InvalidInputError, match=r"cache folder cannot be made.*RSAFAST_CACHE"):
        load_dataset(archive, cache_dir=tmp_path / "file" / "cache")


# ---- real data ---------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.slow
def test_cifar10_jpeg_copy(data_dir, tmp_path):
    path = data_dir / "cifar10" / "cifar10_jpeg_origorder.npz"
    data = load_dataset(f"npz:{path}")
    assert data.train_images.shape == (50_000, 32, 32, 3)
    assert data.test_images.shape == (10_000, 32, 32, 3)
    assert np.bincount(data.train_labels).tolist() == [5000] * 10
    assert data.classes[:2] == ("airplane", "automobile")
    with np.load(path) as arrays:
        for i in (0, 17, 49_999):
            start, stop = arrays["train_offsets"][i : i + 2]
            image = Image.open(io.BytesIO(arrays["train_jpeg"][start:stop].tobytes()))
            np.testing.assert_array_equal(data.train_images[i], image.convert("RGB"))
    # The published statistics of CIFAR-10; the JPEG copy is smoother by a hundredth.
    np.testing.assert_allclose(data.mean, (0.4914, 0.4822, 0.4465), atol=0.001)
    np.testing.assert_allclose(data.std, (0.247, 0.243, 0.262), atol=0.003)


@pytest.mark.data
def test_cifar10_lossless_and_jpeg_copies_are_the_same_images(data_dir):
    with np.load(data_dir / "cifar10" / "cifar10_train_first4000_lossless.npz") as exact:
        x, y = exact["x"], exact["y"]
    with np.load(data_dir / "cifar10" / "cifar10_jpeg_origorder.npz") as arrays:
        blob, offsets = arrays["train_jpeg"], arrays["train_offsets"]
        np.testing.assert_array_equal(arrays["train_labels"][:4000], y)
    for i in range(0, 4000, 400):
        image = decode_rgb(blob[offsets[i] : offsets[i + 1]].tobytes(), f"image {i}")
        error = np.abs(image.astype(int) - x[i]).mean()
        assert error < 12


@pytest.mark.data
@pytest.mark.slow
def test_tiny_imagenet_copy(data_dir):
    path = data_dir / "tiny_imagenet" / "tiny_imagenet_20class_jpeg.npz"
    data = load_dataset(path, image_size=16)
    assert data.train_images.shape == (10_000, 16, 16, 3)
    assert np.bincount(data.train_labels).tolist() == [500] * 20
    assert np.bincount(data.test_labels).tolist() == [50] * 20
    assert data.classes[0] == "golden retriever"
    with pytest.raises(InvalidInputError, match="lacks the array 'labels'"):
        load_dataset(data_dir / "tiny_imagenet" / "things_matched_tinyimagenet_val10.npz")
