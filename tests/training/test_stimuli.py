"""Stimuli: labels and order from every source, pixels as torchvision makes them, and bad input."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import time
import tracemalloc
import zipfile
from pathlib import Path
from threading import Event, active_count

import h5py
import numpy as np
import pytest
import rsafast_training.stimuli as module
from PIL import Image
from rsafast_kernels.errors import InvalidInputError
from rsafast_training.stimuli import Preprocess, Stimuli, read_stimuli

NAMES = ("b.png", "a.png", "c d.jpg", "Ä.png")


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def images(rng: np.random.Generator) -> dict[str, bytes]:
    made = {}
    for i, name in enumerate(NAMES):
        pixels = rng.integers(0, 256, (20 + i, 30 - 3 * i, 3), np.uint8)
        made[name] = encoded(pixels, "JPEG" if name.endswith("jpg") else "PNG")
    return made


@pytest.fixture
def folder(tmp_path: Path, images: dict[str, bytes]) -> Path:
    place = tmp_path / "images"
    place.mkdir()
    for name, content in images.items():
        (place / name).write_bytes(content)
    (place / "notes.txt").write_text("no image")
    (place / ".hidden.png").write_bytes(b"no image")
    return place


@pytest.fixture
def archive(tmp_path: Path, images: dict[str, bytes]) -> Path:
    path = tmp_path / "images.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in images.items():
            file.writestr(f"set/{name}", content)
        file.writestr("__MACOSX/set/a.png", b"no image")
    return path


def same_images(a: module.Stimuli, b: module.Stimuli) -> bool:
    return all(np.array_equal(a.image(i), b.image(i)) for i in range(len(a)))


# ---- sources -----------------------------------------------------------------------------------


def test_folder_and_zip_are_sorted_and_labelled_by_stem(folder: Path, archive: Path) -> None:
    from_folder, from_zip = read_stimuli(folder), read_stimuli(archive)
    assert from_folder.labels == from_zip.labels == ("a", "b", "c d", "Ä")
    assert same_images(from_folder, from_zip)
    assert from_folder.image(1).shape == (20, 30, 3)


def test_labels_are_paths_where_stems_repeat(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.png").write_bytes((folder / "b.png").read_bytes())
    stimuli = read_stimuli(folder)
    assert stimuli.labels == ("a.png", "b.png", "c d.jpg", "sub/a.png", "Ä.png")
    assert np.array_equal(stimuli.image(3), stimuli.image(1))


def test_list_keeps_its_order_and_is_relative_to_itself(folder: Path) -> None:
    listing = folder.parent / "list.txt"
    listing.write_text("images/c d.jpg\n\nimages/a.png\r\n", encoding="utf-8")
    stimuli = read_stimuli(listing)
    assert stimuli.labels == ("c d", "a")
    assert np.array_equal(stimuli.image(1), read_stimuli(folder).image(0))


def test_npz_of_jpeg_bytes(tmp_path: Path, rng: np.random.Generator) -> None:
    parts = [encoded(rng.integers(0, 256, (8, 9, 3), np.uint8), "JPEG") for _ in range(3)]
    blob = np.frombuffer(b"".join(parts), np.uint8)
    offsets = np.cumsum([0, *map(len, parts)])
    path = tmp_path / "sets.npz"
    np.savez(path, test_jpeg=blob, test_offsets=offsets, test_labels=np.array([1, 1, 0]),
             val_jpeg=blob, val_offsets=offsets, val_labels=np.array(["x", "y", "z"]))  # fmt: skip
    test, val = read_stimuli(path, key="test"), read_stimuli(path, key="val")
    assert test.labels == ("00000", "00001", "00002")  # classes repeat, and identify nothing
    assert val.labels == ("x", "y", "z")
    expected = np.asarray(Image.open(io.BytesIO(parts[2])))
    assert np.array_equal(test.image(2), expected)
    with pytest.raises(InvalidInputError, match=r"choose a set of images with key=.*'test', 'val'"):
        read_stimuli(path)
    with pytest.raises(InvalidInputError, match="no key 'train'"):
        read_stimuli(path, key="train")


def test_arrays(tmp_path: Path, rng: np.random.Generator) -> None:
    x = rng.integers(0, 256, (4, 8, 9, 3), np.uint8)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x, labels=np.array(list("dcba")))
    plain, named = read_stimuli(tmp_path / "x.npy"), read_stimuli(tmp_path / "x.npz")
    assert plain.labels == ("00000", "00001", "00002", "00003")
    assert named.labels == ("d", "c", "b", "a")
    assert np.array_equal(plain.image(3), x[3])
    assert np.array_equal(read_stimuli(tmp_path / "x.npz", order=["a", "d"]).image(0), x[3])


# ---- published layouts -------------------------------------------------------------------------

NSD_ROWS = (0, 12, 13, 2950, 72_999)


@pytest.fixture
def nsd(tmp_path: Path, rng: np.random.Generator) -> tuple[Path, dict[int, np.ndarray]]:
    """Make nsd_stimuli.hdf5 at its published shape, 39.6 GB, of which five images are written."""
    path = tmp_path / "nsd_stimuli.hdf5"
    written = {row: rng.integers(0, 256, (425, 425, 3), np.uint8) for row in NSD_ROWS}
    with h5py.File(path, "w") as file:
        bricks = file.create_dataset(
            "imgBrick", (73_000, 425, 425, 3), np.uint8, chunks=(1, 425, 425, 3)
        )
        for row, image in written.items():
            bricks[row] = image
    return path, written


def test_nsd_images_are_labelled_by_nsdid_from_0_in_the_order_asked(nsd) -> None:
    path, written = nsd
    rows = (72_999, 0, 2950, 13, 12)  # h5py itself takes increasing rows only
    stimuli = read_stimuli(path, order=[f"nsd{row:05d}" for row in rows])
    assert stimuli.labels == ("nsd72999", "nsd00000", "nsd02950", "nsd00013", "nsd00012")
    for i, row in enumerate(rows):
        assert np.array_equal(stimuli.image(i), written[row])
    resized = stimuli.pixels([Preprocess(32)])[0]
    for i, row in enumerate(rows):
        assert np.array_equal(resized[i], Preprocess(32).resized(written[row]))
    assert len(stimuli.unused) == 72_995
    every = read_stimuli(path).labels
    assert (len(every), every[0], every[-1]) == (73_000, "nsd00000", "nsd72999")


def test_nsd_images_are_read_one_by_one(nsd) -> None:
    path, _ = nsd
    stimuli = read_stimuli(path, order=[f"nsd{i:05d}" for i in range(0, 73_000, 1000)])
    tracemalloc.start()
    try:
        for i in range(len(stimuli)):
            stimuli.image(i)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(stimuli) == 73
    assert peak < 5 * 425 * 425 * 3


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "said"),
    [
        ("imgBrick", (3, 425, 425, 73_000), np.uint8, r"got uint8 \(3, 425, 425, 73000\)"),
        ("imgBrick", (1000, 425, 425, 3), np.uint8, r"row is the nsdId, got uint8 \(1000, "),
        ("imgBrick", (73_000, 425, 425, 3), np.float32, "got float32"),
        ("stimuli", (73_000, 425, 425, 3), np.uint8, "got none; save other images as a .npz"),
    ],
)
def test_rejects_hdf5_whose_rows_are_no_nsdids(tmp_path: Path, name, shape, dtype, said) -> None:
    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file.create_dataset(name, shape, dtype, chunks=(1, 1, 425, 3))
    with pytest.raises(InvalidInputError, match=said):
        read_stimuli(tmp_path / "x.hdf5")


def test_rejects_a_truncated_nsd_file(nsd) -> None:
    path, _ = nsd
    os.truncate(path, path.stat().st_size - 1000)
    with pytest.raises(InvalidInputError, match=r"nsd_stimuli.hdf5: is no readable HDF5 file"):
        read_stimuli(path)


def write_greys(root: Path, names: list[str]) -> None:
    """Image i is 10 i throughout."""
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(np.full((4, 5, 3), 10 * i, np.uint8)))


def greys(stimuli: module.Stimuli) -> list[int]:
    return [int(stimuli.image(i)[0, 0, 0]) // 10 for i in range(len(stimuli))]


def test_things_images_are_found_by_stimulus_id(tmp_path: Path) -> None:
    # As text, "ice-cream_cone/" comes before "ice/"; the folders' own order is the other way.
    names = ["ice/ice_01b.jpg", "ice-cream_cone/ice-cream_cone_01b.jpg", "dog/dog_12s.jpg",
             "dog/dog_01b.jpg"]  # fmt: skip
    write_greys(tmp_path, names)
    stimuli = read_stimuli(tmp_path)
    assert stimuli.labels == ("dog_01b", "dog_12s", "ice_01b", "ice-cream_cone_01b")
    assert greys(stimuli) == [3, 2, 0, 1]
    asked = read_stimuli(tmp_path, order=["ice_01b", "dog_12s.jpg", "dog/dog_01b.jpg"])
    assert asked.labels == ("ice_01b", "dog_12s.jpg", "dog/dog_01b.jpg")
    assert greys(asked) == [0, 2, 3]
    write_greys(tmp_path / "copy", ["dog_01b.jpg"])
    with pytest.raises(InvalidInputError, match="'dog_01b' could be 2 images"):
        read_stimuli(tmp_path, order=["dog_01b"])


def test_things_eeg2_images_are_in_the_order_of_the_rows(tmp_path: Path) -> None:
    names = ["training_images/00002_abacus/abacus_02n.jpg",
             "training_images/00001_aardvark/aardvark_09s.jpg",
             "training_images/00001_aardvark/aardvark_01b.jpg"]  # fmt: skip
    write_greys(tmp_path, names)
    stimuli = read_stimuli(tmp_path / "training_images")
    assert stimuli.labels == ("aardvark_01b", "aardvark_09s", "abacus_02n")
    assert greys(stimuli) == [2, 1, 0]


def test_algonauts_2023_images_by_nsdid(tmp_path: Path) -> None:
    write_greys(tmp_path, ["train-0002_nsd-00027.png", "train-0001_nsd-00013.png"])
    stimuli = read_stimuli(tmp_path, stimulus_id=lambda name: f"nsd{name[-9:-4]}")
    assert stimuli.labels == ("nsd00013", "nsd00027")
    assert greys(stimuli) == [1, 0]
    asked = read_stimuli(
        tmp_path, stimulus_id=lambda name: f"nsd{name[-9:-4]}", order=["nsd00027"]
    )
    assert (asked.labels, greys(asked), asked.unused) == (("nsd00027",), [0], ("nsd00013",))
    with pytest.raises(InvalidInputError, match=r"1 image \('nsd'\) named more than once"):
        read_stimuli(tmp_path, stimulus_id=lambda name: "nsd")


# ---- order -------------------------------------------------------------------------------------


def test_order_gives_rows_and_labels_as_written(folder: Path) -> None:
    order = folder.parent / "order.txt"
    order.write_text("Ä\nb.png\nc d\n", encoding="utf-8")
    stimuli, every = read_stimuli(folder, order=order), read_stimuli(folder)
    assert stimuli.labels == ("Ä", "b.png", "c d")
    assert stimuli.unused == ("a.png",)
    for i, j in enumerate((3, 1, 2)):
        assert np.array_equal(stimuli.image(i), every.image(j))


def test_every_missing_stimulus_is_counted_and_none_replaced(folder: Path) -> None:
    (folder / "cat_02.png").write_bytes((folder / "a.png").read_bytes())
    wanted = ["a", *(f"cat_{i:02d}" for i in range(3, 16)), "b"]
    with pytest.raises(InvalidInputError) as caught:
        read_stimuli(folder, order=wanted)
    said = str(caught.value)
    assert "13 stimuli ('cat_03', " in said
    assert "and 3 more) of 15 not in" in said


@pytest.mark.parametrize(
    ("order", "said"),
    [
        (["a", "b", "a"], r"1 label \('a'\) named more than once"),
        (["a", "a.png"], r"1 image \('a.png'\) named by two labels"),
        ([], "names no stimulus"),
    ],
)
def test_rejects_orders_that_repeat_or_are_empty(folder: Path, order: list[str], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        read_stimuli(folder, order=order)


def test_rejects_an_ambiguous_label_and_takes_its_path(folder: Path) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.png").write_bytes((folder / "b.png").read_bytes())
    (folder / "a.jpg").write_bytes((folder / "c d.jpg").read_bytes())
    with pytest.raises(InvalidInputError, match=r"'a' could be 3 images .*write the path"):
        read_stimuli(folder, order=["a"])
    assert read_stimuli(folder, order=["sub/a.png"]).labels == ("sub/a.png",)


def test_rejects_an_order_file_that_is_missing(folder: Path) -> None:
    with pytest.raises(InvalidInputError, match="order cannot be read"):
        read_stimuli(folder, order=folder / "nothing.txt")


# ---- bad sources -------------------------------------------------------------------------------


def test_rejects_paths_that_hold_no_stimuli(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.mat").write_bytes(b"x")
    (tmp_path / "x.zip").write_bytes(b"PK no zip")
    (tmp_path / "x.npz").write_bytes(b"PK no npz")
    (tmp_path / "x.txt").write_text("\n")
    (tmp_path / "x.hdf5").write_bytes(b"\x89HDF no hdf5")
    for name, said in {
        "gone": "no such file or folder", "empty": "holds no image", "x.mat": "no stimuli by its",
        "x.zip": "no readable .zip", "x.npz": "no readable NumPy", "x.txt": "names no image",
        "x.hdf5": "no readable HDF5",
    }.items():  # fmt: skip
        with pytest.raises(InvalidInputError, match=said):
            read_stimuli(tmp_path / name)


def test_rejects_a_list_with_missing_or_repeated_images(folder: Path) -> None:
    listing = folder / "list.txt"
    listing.write_text("a.png\nx.png\ny.png\n")
    with pytest.raises(InvalidInputError, match=r"2 images \('x.png', 'y.png'\) of 3 not found"):
        read_stimuli(listing)
    listing.write_text("a.png\na.png\n")
    with pytest.raises(InvalidInputError, match="named more than once"):
        read_stimuli(listing)


def test_a_truncated_image_is_named(folder: Path) -> None:
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:200])
    with pytest.raises(InvalidInputError, match=r"b\.png"):
        read_stimuli(folder).pixels([Preprocess(8)])


def test_a_damaged_entry_of_a_zip_is_named(archive: Path) -> None:
    content = bytearray(archive.read_bytes())
    start = content.find(b"set/b.png") + 60
    content[start : start + 40] = bytes(40)
    archive.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"'set/b.png' cannot be unpacked"):
        read_stimuli(archive).pixels([Preprocess(8)])


@pytest.mark.parametrize(
    "offsets", [[0, 5, 5, 10], [1, 5, 10], [0, 5, 11], [0], [0, 7, 5, 10]]
)
def test_rejects_offsets_that_do_not_fit(tmp_path: Path, offsets: list[int]) -> None:
    np.savez(tmp_path / "x.npz", jpeg=np.zeros(10, np.uint8), offsets=np.array(offsets))
    with pytest.raises(InvalidInputError, match="offsets must rise from 0 to the 10 bytes"):
        read_stimuli(tmp_path / "x.npz")


def test_rejects_arrays_of_other_kinds(tmp_path: Path) -> None:
    np.save(tmp_path / "float.npy", np.zeros((2, 4, 4, 3)))
    np.save(tmp_path / "first.npy", np.zeros((2, 3, 4, 4), np.uint8))
    np.save(tmp_path / "code.npy", np.array([{}], object), allow_pickle=True)
    np.savez(tmp_path / "short.npz", x=np.zeros((2, 4, 4, 3), np.uint8), labels=np.array(["a"]))
    for name, said in {
        "float.npy": "uint8", "first.npy": r"\(n, H, W, 3\)", "code.npy": "no readable NumPy",
        "short.npz": r"2 images and labels of shape \(1,\)",
    }.items():  # fmt: skip
        with pytest.raises(InvalidInputError, match=said):
            read_stimuli(tmp_path / name)


# ---- pixels ------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(37, 50), (50, 37), (40, 40), (9, 80)], ids=str)
@pytest.mark.parametrize(("size", "resize"), [(24, None), (24, 27), (32, 41)])
def test_centre_crop_is_torchvisions(
    rng: np.random.Generator, shape: tuple[int, int], size: int, resize: int | None
) -> None:
    image = rng.integers(0, 256, (*shape, 3), np.uint8)
    got = Preprocess(size, resize=resize).resized(image)
    # torchvision.transforms.functional: _compute_resized_output_size, center_crop.
    edge = resize or size
    short, long = min(shape), max(shape)
    new = {short: edge, long: int(edge * long / short)}
    height, width = new[shape[0]], new[shape[1]]
    scaled = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    top, left = round((height - size) / 2.0), round((width - size) / 2.0)
    expected = scaled.crop((left, top, left + size, top + size))
    assert np.array_equal(got, np.asarray(expected))


def test_without_a_crop_the_whole_image_is_squeezed(rng: np.random.Generator) -> None:
    image = rng.integers(0, 256, (30, 60, 3), np.uint8)
    expected = Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR)
    assert np.array_equal(Preprocess(16, "none").resized(image), np.asarray(expected))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"size": 0}, "size must be a positive"),
        ({"size": 8, "crop": "corner"}, "'center' or 'none'"),
        ({"size": 8, "resize": 7}, "resize must be at least size"),
        ({"size": 8, "crop": "none", "resize": 9}, "resize must be at least size"),
        ({"size": 8, "std": (1, 0, 1)}, "std above 0"),
    ],
)
def test_rejects_preprocessing_out_of_range(arguments: dict, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        Preprocess(**arguments)


def test_images_are_decoded_once_for_all_sizes(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "many"
    place.mkdir()
    for i in range(70):  # more than are decoded at once
        (place / f"{i:02d}.png").write_bytes(encoded(rng.integers(0, 256, (9, 9, 3), np.uint8)))
    decoded, real = [], module.decode_rgb

    def counting(source: Path, name: str) -> np.ndarray:
        decoded.append(name)
        return real(source, name)

    monkeypatch.setattr(module, "decode_rgb", counting)
    done: list[int] = []
    steps = [Preprocess(4), Preprocess(9), Preprocess(12, "none")]
    stimuli = read_stimuli(place)
    pixels = stimuli.pixels(steps, folder=tmp_path, progress=done.append)
    assert len(decoded) == len(set(decoded)) == sum(done) == 70
    assert [x.shape for x in pixels] == [(70, 4, 4, 3), (70, 9, 9, 3), (70, 12, 12, 3)]
    for i in (0, 63, 64, 69):
        for step, x in zip(steps, pixels, strict=True):
            assert np.array_equal(x[i], step.resized(stimuli.image(i)))
    assert os.listdir(tmp_path) == ["many"]
    assert all(isinstance(x, np.memmap) and not x.flags.writeable for x in pixels)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: open("/dev/full", "wb"))  # noqa: SIM115
    with pytest.raises(InvalidInputError, match=r"do not fit in .* choose another folder"):
        read_stimuli(folder).pixels([Preprocess(64)])
    with pytest.raises(InvalidInputError, match="do not fit"):  # seen at the last flush
        read_stimuli(folder).pixels([Preprocess(2)])


@pytest.mark.data
def test_the_92_images_are_in_the_order_of_the_rdms(data_dir: Path) -> None:
    path = data_dir / "fmri92" / "images92.zip"
    stimuli = read_stimuli(path)
    assert stimuli.labels == tuple(f"92images_{i:05d}" for i in range(1, 93))
    turned = read_stimuli(path, order=stimuli.labels[::-1])
    assert np.array_equal(turned.image(0), stimuli.image(91))
    assert stimuli.image(0).shape == (175, 175, 3)


@pytest.mark.data
def test_published_names_are_not_matched_by_another_exemplar(data_dir: Path) -> None:
    names = (data_dir / "leutenegger" / "stim_order_720.txt").read_text().split()
    path = data_dir / "fmri92" / "images92.zip"
    with pytest.raises(InvalidInputError, match=r"720 stimuli .*and 710 more"):
        read_stimuli(path, order=names)


# ---- decoding while the pixels are read --------------------------------------------------------


@pytest.fixture
def many(tmp_path: Path, rng: np.random.Generator) -> Stimuli:
    """150 images: more than are decoded ahead."""
    place = tmp_path / "many"
    place.mkdir()
    for i in range(150):
        (place / f"{i:03d}.png").write_bytes(encoded(rng.integers(0, 256, (6, 7, 3), np.uint8)))
    return read_stimuli(place)


def test_rows_are_read_in_order_while_later_ones_are_decoded(
    many: Stimuli, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps, real, begun, may_go_on = [Preprocess(4), Preprocess(6)], module.decode_rgb, [], Event()
    expected = many.pixels(steps)

    def uneven(source: Path, name: str) -> np.ndarray:
        i = int(source.stem)
        begun.append(i)
        if i >= 70:
            assert may_go_on.wait(20)
        time.sleep(0.002 * (i % 3 == 0))  # so that images are ready out of order
        return real(source, name)

    monkeypatch.setattr(module, "decode_rgb", uneven)
    with many.decoding(steps) as decoding:
        assert np.array_equal(decoding.read(0, slice(0, 64)), expected[0][:64])
        time.sleep(0.1)
        assert max(begun) < 64 + module._AT_ONCE + 8  # what is decoded ahead is bounded
        may_go_on.set()
        for start in range(0, 150, 17):
            rows = slice(start, min(start + 17, 150))
            for number in (1, 0):
                assert np.array_equal(decoding.read(number, rows), expected[number][rows])
        for i, x in enumerate(expected):
            assert decoding.digest(i) == hashlib.sha256(x.data).hexdigest()


def test_a_damaged_image_is_named_to_the_reader_of_its_rows(many: Stimuli) -> None:
    (Path(many.source) / "130.png").write_bytes(b"no image")
    threads = active_count()
    with many.decoding([Preprocess(4)]) as decoding:
        decoding.read(0, slice(0, 120))
        with pytest.raises(InvalidInputError, match=r"130\.png: is truncated"):
            decoding.read(0, slice(120, 150))
        with pytest.raises(InvalidInputError, match=r"130\.png"):
            decoding.digest(0)
    assert active_count() == threads


def test_leaving_ends_the_threads_and_decodes_no_more(
    many: Stimuli, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, real, threads = [], module.decode_rgb, active_count()

    def slow(source: Path, name: str) -> np.ndarray:
        begun.append(name)
        time.sleep(0.02)
        return real(source, name)

    def interrupted() -> None:
        with many.decoding([Preprocess(4)]):
            while not begun:
                time.sleep(0.001)
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "decode_rgb", slow)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert active_count() == threads
    assert len(begun) < 20
