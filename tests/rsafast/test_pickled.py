"""Dictionaries in .npy files: both forms are read, and nothing in them is ever run."""

from __future__ import annotations

import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from rsafast_kernels.pickles import load_pickle

from rsafast.errors import InvalidInputError
from rsafast.io import read_features
from rsafast.io.pickled import read_dictionary

CONTENT = {
    "data": np.linspace(-1, 1, 24).reshape(2, 3, 4),
    "single": np.arange(5, dtype=np.float32),
    "counts": np.array([[1, 2], [3, 4]], dtype=">i4"),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "texts": np.array(["Pz", "Öz"]),
    "objects": np.array(["a", None, 3], dtype=object),
    "scalar": np.float64(0.25),
    "whole": np.int64(7),
    "names": ["Pz", "O1"],
    "rate": 1000.0,
    "nested": {0: "Unknown", 1: ("V1v", {2}, b"raw", True, None)},
}


def assert_content(read):
    assert list(read) == list(CONTENT)
    for key, value in CONTENT.items():
        if isinstance(value, np.ndarray):
            # Before protocol 5, NumPy brings bytes into the order of this machine.
            assert read[key].dtype.newbyteorder("=") == value.dtype.newbyteorder("=")
            np.testing.assert_array_equal(read[key], value)
        else:
            assert read[key] == value
            assert type(read[key]) is type(value)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_plain_pickle_under_the_name_of_a_npy_file_is_read(tmp_path, protocol):
    content = {k: v for k, v in CONTENT.items() if k != "nested" or protocol >= 4}
    path = tmp_path / "preprocessed.npy"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    read = read_dictionary(path)
    if protocol >= 4:
        assert_content(read)
    else:  # before protocol 4 a set is a call of `set`, which is refused: left out above
        np.testing.assert_array_equal(read["data"], CONTENT["data"])
        np.testing.assert_array_equal(read["counts"], CONTENT["counts"])
        assert read["scalar"] == 0.25


def test_an_array_of_no_dimensions_around_the_dictionary_is_read(tmp_path):
    path = tmp_path / "mapping.npy"
    np.save(path, CONTENT)
    assert_content(read_dictionary(path))
    assert_content(read_dictionary(str(path)))


def test_the_second_version_of_the_header_is_read(tmp_path):
    path = tmp_path / "x.npy"
    with path.open("wb") as file:
        np.lib.format.write_array(file, np.array({"a": 1}), version=(2, 0), allow_pickle=True)
    assert read_dictionary(path) == {"a": 1}


def test_modules_of_older_numpy_are_read(tmp_path):
    path = tmp_path / "x.npy"
    modern = pickle.dumps({"x": np.arange(3.0)}, protocol=2)
    old = modern.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != modern
    path.write_bytes(old)
    np.testing.assert_array_equal(read_dictionary(path)["x"], [0.0, 1.0, 2.0])


class Runs:
    """Would write a file if it were unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return exec, (f"open({self.path!r}, 'w').close()",)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path, plain, nested):
    trap, path = tmp_path / "was_run", tmp_path / "x.npy"
    content = {"data": [Runs(trap)]} if nested else Runs(trap)
    if plain:
        path.write_bytes(pickle.dumps(content))
    else:
        np.save(path, np.array(content, dtype=object))
    with pytest.raises(InvalidInputError, match=r"x\.npy: asks to run builtins\.exec"):
        read_dictionary(path)
    assert not trap.exists()
    pickle.loads(pickle.dumps(Runs(trap)))
    assert trap.exists()  # so the trap works


@pytest.mark.parametrize(
    "asked",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy._core.multiarray\nfromfile\n(S'x'\ntR.",
        b"cnumpy\nndarray.tofile\n.",
        b"c_codecs\ndecode\n(S'x'\ntR.",
        b"crsafast_kernels.pickles\nload_pickle\n.",
    ],
)
def test_other_names_are_refused(tmp_path, asked):
    path = tmp_path / "x.npy"
    path.write_bytes(asked)
    with pytest.raises(InvalidInputError, match="asks to run"):
        read_dictionary(path)


def test_a_dotted_name_does_not_reach_into_what_is_admitted(tmp_path):
    # Protocol 4 would look up "ndarray.tofile" piece by piece.
    path = tmp_path / "x.npy"
    path.write_bytes(b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.")
    with pytest.raises(InvalidInputError, match=r"asks to run numpy\.ndarray\.tofile"):
        read_dictionary(path)


def test_bytes_are_encoded_in_latin_1_only(tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(pickle.dumps({"x": b"\xff\x00"}, protocol=2))
    assert read_dictionary(path) == {"x": b"\xff\x00"}
    path.write_bytes(b"c_codecs\nencode\n(S'x'\nS'rot13'\ntR.")
    with pytest.raises(InvalidInputError, match="text encoding 'rot13'"):
        read_dictionary(path)


def test_objects_of_other_classes_are_refused(tmp_path):
    path = tmp_path / "x.npy"
    for value in (Fraction(1, 2), Path("x")):
        np.save(path, {"x": value})
        with pytest.raises(InvalidInputError, match="asks to run"):
            read_dictionary(path)


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("kept", [0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, plain, kept):
    path = tmp_path / "x.npy"
    if plain:
        path.write_bytes(pickle.dumps(CONTENT))
    else:
        np.save(path, CONTENT)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(InvalidInputError, match=r"x\.npy: is truncated or no pickle"):
        read_dictionary(path)


def test_a_truncated_header_is_refused(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, CONTENT)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(InvalidInputError, match=r"damaged \.npy file"):
        read_dictionary(path)
    path.write_bytes(b"\x93NUMPY\x09\x00" + b" " * 100)
    with pytest.raises(InvalidInputError, match=r"damaged \.npy file"):
        read_dictionary(path)


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.arange(6.0), r"an array of shape \(6,\), float64; expected a dictionary"),
        (np.array(1.5), r"an array of shape \(\), float64"),
        (np.array([{}, {}], dtype=object), r"an array of shape \(2,\), object"),
        (np.array([1, 2], dtype=object), r"an array of shape \(2,\), object"),
    ],
)
def test_an_array_in_place_of_a_dictionary_is_refused(tmp_path, array, said):
    path = tmp_path / "x.npy"
    np.save(path, array)
    with pytest.raises(InvalidInputError, match=said):
        read_dictionary(path)


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_objects_in_place_of_numbers_are_said_to_be_a_pickle(tmp_path, suffix):
    path = tmp_path / f"x.{suffix}"
    objects = np.array([{"a": 1}, None], dtype=object)
    np.save(path, objects) if suffix == "npy" else np.savez(path, objects)
    with pytest.raises(InvalidInputError, match=r"Python objects \(a pickle\), which can run code"):
        read_features(path)


@pytest.mark.parametrize("content", [[1, 2], "text", np.arange(3)])
def test_a_pickle_of_anything_else_is_refused(tmp_path, content):
    path = tmp_path / "x.npy"
    path.write_bytes(pickle.dumps(content))
    kind = type(content).__name__
    with pytest.raises(InvalidInputError, match=f"holds a {kind}, expected a dictionary"):
        read_dictionary(path)


def test_a_missing_or_empty_file_or_a_folder_is_refused(tmp_path):
    with pytest.raises(InvalidInputError, match="no such file"):
        read_dictionary(tmp_path / "x.npy")
    with pytest.raises(InvalidInputError, match="is a folder"):
        read_dictionary(tmp_path)
    (tmp_path / "x.npy").touch()
    with pytest.raises(InvalidInputError, match="is empty"):
        read_dictionary(tmp_path / "x.npy")


def test_text_of_python_2_is_mapped_one_to_one(tmp_path):
    path = tmp_path / "x.pkl"
    path.write_bytes(b"U\x03a\xe9\xff.")  # an 8-bit string
    with path.open("rb") as file:
        assert load_pickle(file, "x.pkl") == "aéÿ"
    with path.open("rb") as file:
        assert load_pickle(file, "x.pkl", encoding="bytes") == b"a\xe9\xff"
