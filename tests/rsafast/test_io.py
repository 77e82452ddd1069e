"""Files: round trips in every format, the published files, and every way a file can be bad."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import textwrap

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
from scipy.spatial.distance import squareform

from rsafast._condensed import n_pairs
from rsafast.cli import main
from rsafast.errors import InvalidInputError
from rsafast.io import (
    array_hash,
    check_writable,
    hdf5,
    provenance,
    read_descriptors,
    read_features,
    read_rdms,
)
from rsafast.rdms import RDMs

UNICODE = ("Äpfel", "猫", "naïve dog", "🦆", "a,b", 'quo"te')


@pytest.fixture
def labelled(random_rdm):
    return RDMs(
        [random_rdm(6), random_rdm(6)],
        labels=UNICODE,
        names=["α", "β"],
        measure="corrélation",
        descriptors={"subject": [1, 2], "roi": ["V1", "海"], "z": [0.5, 1.5], "ok": [True, False]},
    )


# ---- our own format ----------------------------------------------------------------------------


def test_own_format_round_trip(labelled, tmp_path):
    path = tmp_path / "x.h5"
    labelled.save(path)
    for back in (RDMs.load(path), read_rdms(path)):
        assert back == labelled
        assert {k: v.dtype.kind for k, v in back.descriptors.items()} == {
            "subject": "i", "roi": "U", "z": "f", "ok": "b",
        }  # fmt: skip


def test_own_format_keeps_integer_labels_missing_pairs_and_absent_fields(random_rdm, tmp_path):
    matrix = random_rdm(5)
    matrix[0, 1] = matrix[1, 0] = np.nan
    rdms = RDMs(matrix, labels=[5, 4, 3, 2, 1], missing="allow")
    rdms.save(tmp_path / "x.hdf5")
    back = RDMs.load(tmp_path / "x.hdf5")
    assert back == rdms
    assert back.missing == "allow"
    assert all(type(label) is int for label in back.labels)
    RDMs(random_rdm(5)).save(tmp_path / "y.h5")
    assert RDMs.load(tmp_path / "y.h5").labels is None
    assert RDMs.load(tmp_path / "y.h5").measure is None


def test_six_rdms_over_four_stimuli_are_not_taken_for_one_matrix(tmp_path):
    rdms = RDMs.from_vectors(np.zeros((6, 6)))
    rdms.save(tmp_path / "x.h5")
    assert RDMs.load(tmp_path / "x.h5").n_rdms == 6


def test_labels_replaced_on_reading(labelled, tmp_path):
    labelled.save(tmp_path / "x.h5")
    back = read_rdms(tmp_path / "x.h5", labels=range(6), names=["a", "b"])
    assert (back.labels, back.names) == ((0, 1, 2, 3, 4, 5), ("a", "b"))
    with pytest.raises(InvalidInputError, match=r"x\.h5: labels must name 6"):
        read_rdms(tmp_path / "x.h5", labels=["a"])


def test_schema_is_readable_without_us(labelled, tmp_path):
    labelled.save(tmp_path / "x.h5")
    with h5py.File(tmp_path / "x.h5") as file:
        assert file.attrs["rsafast_format"] == 1
        assert file.attrs["rsafast_kind"] == "rdms"
        assert file["dissimilarities"].shape == (2, 15)
        assert file["labels"].asstr()[1] == "猫"
        assert sorted(file["descriptors"]) == ["ok", "roi", "subject", "z"]


def test_fields_round_trip(tmp_path, rng):
    fields = {
        "array": rng.standard_normal((3, 4)), "counts": np.arange(20_000), "flag": True,
        "number": 3, "real": 0.5, "big": 2**63, "text": "ü", "none": None, "names": ("a", "猫"),
        "nothing": (), "parameters": {"method": "spearman", "n": np.int64(3), "x": [1, None]},
        "empty": np.empty((0, 2)),
    }  # fmt: skip
    hdf5.write_atomic(tmp_path / "f.h5", lambda file: hdf5.write_fields(file, fields))
    with hdf5.open_hdf5(tmp_path / "f.h5") as file:
        back = hdf5.read_fields(file)
    assert back.keys() == fields.keys()
    for name in ("array", "counts", "empty"):
        np.testing.assert_array_equal(back[name], fields[name])
        assert back[name].dtype == fields[name].dtype
    for name in ("flag", "number", "real", "big", "text", "none", "names", "nothing"):
        assert back[name] == fields[name]
        assert type(back[name]) is type(fields[name])
    assert back["parameters"] == {"method": "spearman", "n": 3, "x": [1, None]}


@pytest.mark.parametrize(
    "value", [object(), np.array([None]), np.array([["a"]]), 1j, "nul\0", {"x": object()}]
)
def test_fields_refuse_what_hdf5_cannot_hold(tmp_path, value):
    with pytest.raises(InvalidInputError, match="'x'"):
        hdf5.write_atomic(tmp_path / "f.h5", lambda file: hdf5.write_fields(file, {"x": value}))
    assert list(tmp_path.iterdir()) == []


# ---- atomic writes -----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError, OSError, MemoryError])
def test_failed_write_leaves_the_old_file_and_no_temporary(labelled, tmp_path, error):
    path = tmp_path / "x.h5"
    labelled.save(path)
    before = path.read_bytes()

    def fill(file):
        file["partial"] = np.arange(1000)
        raise error

    with pytest.raises((error, InvalidInputError)):
        hdf5.write_atomic(path, fill)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_killed_write_leaves_the_old_file(labelled, tmp_path, number):
    path = tmp_path / "x.h5"
    labelled.save(path)
    code = f"""
        import os, signal, time
        from rsafast.io.hdf5 import write_atomic
        def fill(file):
            file["partial"] = range(1000)
            file.flush()
            os.kill(os.getpid(), {int(number)})
            time.sleep(10)
        write_atomic({str(path)!r}, fill)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        # A shell that runs the tests in the background has made them ignore SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert done.returncode != 0
    assert RDMs.load(path) == labelled
    if number == signal.SIGINT:
        assert list(tmp_path.iterdir()) == [path]


def test_write_through_a_link_keeps_the_link(labelled, tmp_path):
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "x.h5"
    labelled.save(target)
    link = tmp_path / "link.h5"
    link.symlink_to(target)
    labelled[0].save(link)
    assert link.is_symlink()
    assert RDMs.load(target).n_rdms == 1


def test_check_writable(tmp_path):
    assert check_writable(tmp_path / "x.h5") == (tmp_path / "x.h5").resolve()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InvalidInputError, match="make it first"):
        check_writable(tmp_path / "no" / "x.h5")
    with pytest.raises(InvalidInputError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(InvalidInputError, match="cannot write"):
        check_writable("/proc/x.h5") if sys.platform == "linux" else check_writable("/dev/x.h5")


def test_save_needs_an_hdf5_suffix(labelled, tmp_path):
    with pytest.raises(InvalidInputError, match=r"ending in \.h5"):
        labelled.save(tmp_path / "x.npy")


# ---- other formats -----------------------------------------------------------------------------


@pytest.mark.parametrize("square", [True, False])
def test_npy(labelled, tmp_path, square):
    np.save(tmp_path / "x.npy", labelled.matrices() if square else labelled.vectors)
    back = read_rdms(tmp_path / "x.npy", labels=UNICODE)
    np.testing.assert_array_equal(back.vectors, labelled.vectors)
    assert back.labels == UNICODE


def test_npz_with_several_keys_names_rdms_by_key(random_rdm, tmp_path):
    a, b = random_rdm(5), np.stack([random_rdm(5), random_rdm(5)])
    np.savez(tmp_path / "x.npz", animacy=a, hv=b, labels=np.array(["猫", "b", "c", "d", "e"]))
    rdms = read_rdms(tmp_path / "x.npz")
    assert rdms.names == ("animacy", "hv 0", "hv 1")
    assert rdms.labels == ("猫", "b", "c", "d", "e")
    assert rdms.subset(rdms={"key": "hv"}).n_rdms == 2
    one = read_rdms(tmp_path / "x.npz", key="hv")
    np.testing.assert_array_equal(one.matrices(), b)
    assert one.labels == rdms.labels
    with pytest.raises(InvalidInputError, match="no key 'zz'; it holds 'animacy'"):
        read_rdms(tmp_path / "x.npz", key="zz")


def test_npz_that_mixes_sizes_asks_for_a_key(random_rdm, tmp_path):
    np.savez(tmp_path / "x.npz", a=random_rdm(5), b=random_rdm(7))
    with pytest.raises(InvalidInputError, match=r"key=.*'a': \(5, 5\); 'b': \(7, 7\)"):
        read_rdms(tmp_path / "x.npz")
    np.savez(tmp_path / "y.npz", a=random_rdm(5), b=random_rdm(5), noise=np.zeros((3, 7)))
    with pytest.raises(InvalidInputError, match="key="):
        read_rdms(tmp_path / "y.npz")


def test_mat_v5_arrays_structs_and_cells(random_rdm, tmp_path):
    matrices = np.stack([random_rdm(5), random_rdm(5), random_rdm(5)])
    structs = np.zeros((1, 3), dtype=[("RDM", object), ("name", object)])
    for i in range(3):
        structs[0, i] = (squareform(matrices[i]), f"modèle {i}")
    cells = np.empty(3, dtype=object)
    cells[:] = list(matrices)
    content = {
        "stack": np.moveaxis(matrices, 0, -1),
        "models": structs,
        "cells": cells,
        "single": {"IT": matrices[0], "note": "hello"},
        "row": squareform(matrices[0])[None],
        "column": squareform(matrices[0])[:, None],
        "features": np.ones((5, 7)),
    }
    scipy.io.savemat(tmp_path / "x.mat", content)
    for key in ("stack", "models", "cells"):
        np.testing.assert_array_equal(read_rdms(tmp_path / "x.mat", key=key).matrices(), matrices)
    assert read_rdms(tmp_path / "x.mat", key="models").names[2] == "modèle 2"
    for key in ("single.IT", "row", "column"):
        rdms = read_rdms(tmp_path / "x.mat", key=key)
        np.testing.assert_array_equal(rdms.matrices(), matrices[:1])
    with pytest.raises(
        InvalidInputError, match=r"key=.*'stack': \(5, 5, 3\).*'single\.note': the t"
    ):
        read_rdms(tmp_path / "x.mat")
    with pytest.raises(InvalidInputError, match="the text 'hello'"):
        read_rdms(tmp_path / "x.mat", key="single.note")
    with pytest.raises(InvalidInputError, match=r"no key 'nix'"):
        read_rdms(tmp_path / "x.mat", key="nix")
    assert read_features(tmp_path / "x.mat", key="features").layers["features"].shape == (5, 7)


@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_mat_v5_stack_of_any_depth_even_k_equal_to_n(random_rdm, tmp_path, k):
    matrices = np.stack([random_rdm(4) for _ in range(k)])
    scipy.io.savemat(tmp_path / "x.mat", {"x": np.moveaxis(matrices, 0, -1)})
    np.testing.assert_array_equal(read_rdms(tmp_path / "x.mat").matrices(), matrices)
    scipy.io.savemat(tmp_path / "y.mat", {"x": matrices})
    np.testing.assert_array_equal(read_rdms(tmp_path / "y.mat").matrices(), matrices)


def test_mat_v73_arrays_and_structs(random_rdm, tmp_path):
    matrices = np.stack([random_rdm(5), random_rdm(5)])
    with h5py.File(tmp_path / "x.mat", "w", userblock_size=512) as file:
        # MATLAB's (5, 5, 2) lies reversed in the file.
        file["stack"] = np.moveaxis(matrices, 0, -1).T
        file["stack"].attrs["MATLAB_class"] = np.bytes_("double")
        struct = file.create_group("models")
        struct.attrs["MATLAB_class"] = np.bytes_("struct")
        references = {"RDM": [], "name": []}
        for i in range(2):
            file[f"#refs#/r{i}"] = matrices[i]
            file[f"#refs#/n{i}"] = np.array([[ord(c)] for c in f"é{i}"], dtype=np.uint16)
            file[f"#refs#/n{i}"].attrs["MATLAB_class"] = np.bytes_("char")
            references["RDM"].append([file[f"#refs#/r{i}"].ref])
            references["name"].append([file[f"#refs#/n{i}"].ref])
        for field, values in references.items():
            struct.create_dataset(field, data=values, dtype=h5py.ref_dtype)
    np.testing.assert_array_equal(read_rdms(tmp_path / "x.mat", key="stack").matrices(), matrices)
    models = read_rdms(tmp_path / "x.mat", key="models")
    np.testing.assert_array_equal(models.matrices(), matrices)
    assert models.names == ("é0", "é1")


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("labels", [UNICODE, (3, 1, 2, 9, 8, 7), None])
def test_text_square(labelled, tmp_path, suffix, header, index, labels):
    if labels is None:
        header = index = False
    frame = pd.DataFrame(labelled.matrices()[0], columns=labels, index=labels)
    path = tmp_path / f"x{suffix}"
    frame.to_csv(path, header=header, index=index, sep="\t" if suffix == ".tsv" else ",")
    back = read_rdms(path)
    np.testing.assert_allclose(back.vectors, labelled.vectors[:1], rtol=1e-15)
    assert back.labels == (labels if header or index else None)


def test_text_condensed_rows(labelled, tmp_path):
    np.savetxt(tmp_path / "x.csv", labelled.vectors, delimiter=",", fmt="%.17g")
    np.testing.assert_array_equal(read_rdms(tmp_path / "x.csv").vectors, labelled.vectors)
    np.savetxt(tmp_path / "y.csv", labelled.vectors[0], fmt="%.17g")
    np.testing.assert_array_equal(read_rdms(tmp_path / "y.csv").vectors, labelled.vectors[:1])
    np.savetxt(tmp_path / "z.csv", labelled.vectors, delimiter=";", fmt="%.17g")
    np.testing.assert_array_equal(read_rdms(tmp_path / "z.csv").vectors, labelled.vectors)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",a,b,c,d\na,0,1,2,3\nb,1,0,1,x\nc,2,1,0,1\nd,3,1,1,0\n", "row 3, column 5 holds 'x'"),
        ("0,1,2,3\n1,0,1\n2,1,0,1\n3,1,1,0\n", "row 2 has 3 cells, the first has 4"),
        (",a,b,c,d\na,0,1,2,3\nz,1,0,1,1\nc,2,1,0,1\nd,3,1,1,0\n", "column 2 is called 'b' but"),
        ("a,b,c,d\n", "header and no rows"),
        ("\n\n", "no rows"),
        ("0,1,2,3\n1,0,,1\n2,1,0,1\n3,1,1,0\n", "not symmetric"),
        ("hello world\n", "x.csv"),
    ],
)
def test_text_rejects(tmp_path, text, message):
    (tmp_path / "x.csv").write_text(text)
    with pytest.raises(InvalidInputError, match=message):
        read_rdms(tmp_path / "x.csv")


def test_text_that_is_no_utf8(tmp_path):
    (tmp_path / "x.csv").write_bytes("é,b\n1,2\n".encode("latin-1"))
    with pytest.raises(InvalidInputError, match="UTF-8"):
        read_rdms(tmp_path / "x.csv")


def test_missing_cells_are_missing_pairs(tmp_path):
    (tmp_path / "x.csv").write_text("0,1,2,NA\n1,0,5,1\n2,5,0,1\n,1,1,0\n")
    with pytest.raises(InvalidInputError, match=r"x\.csv.*\(0, 3\)"):
        read_rdms(tmp_path / "x.csv")
    assert read_rdms(tmp_path / "x.csv", missing="allow").has_missing


def test_rsatoolbox_file_round_trip(random_rdm, tmp_path):
    pytest.importorskip("rsatoolbox")
    rdms = RDMs(
        [random_rdm(6), random_rdm(6)],
        labels=list("abcdef"),
        names=["x", "y"],
        measure="euclidean",
        descriptors={"subject": [1, 2], "roi": ["V1", "IT"]},
    )
    for suffix in (".hdf5", ".h5"):
        path = tmp_path / f"theirs{suffix}"
        rdms.to_rsatoolbox().save(str(path), file_type="hdf5")
        assert read_rdms(path) == rdms
    plain = RDMs(random_rdm(5))
    plain.to_rsatoolbox().save(str(tmp_path / "plain.h5"), file_type="hdf5")
    assert read_rdms(tmp_path / "plain.h5") == plain


def test_plain_hdf5_datasets(random_rdm, tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a/it"] = random_rdm(5)
        file["a/evc"] = random_rdm(5)
        file["labels"] = list("abcde")
    assert read_rdms(tmp_path / "x.h5", key="a/it").labels == tuple("abcde")
    with pytest.raises(InvalidInputError, match="'a/evc'"):
        read_rdms(tmp_path / "x.h5")


# ---- features ----------------------------------------------------------------------------------


def test_features_of_every_format(rng, tmp_path):
    x = {"conv1": rng.standard_normal((6, 9)).astype(np.float32), "fc": rng.standard_normal((6, 4))}
    labels = np.array(list("abcdef"))
    np.savez(tmp_path / "x.npz", **x, labels=labels)
    scipy.io.savemat(tmp_path / "x.mat", {**x, "labels": labels.astype(object)})
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name, values in x.items():
            file[name] = values
        file["labels"] = labels.tolist()
    for suffix in (".npz", ".mat", ".h5"):
        layers, found = read_features(tmp_path / f"x{suffix}")
        assert found == tuple("abcdef")
        assert list(layers) == ["conv1", "fc"]
        for name, values in x.items():
            np.testing.assert_array_equal(layers[name], values)
            assert layers[name].dtype == values.dtype
        only, found = read_features(tmp_path / f"x{suffix}", key="fc")
        assert (list(only), found) == (["fc"], tuple("abcdef"))


def test_features_npy_and_csv(rng, tmp_path):
    x = rng.standard_normal((6, 9))
    np.save(tmp_path / "x.npy", x[None])
    np.testing.assert_array_equal(read_features(tmp_path / "x.npy").layers["x"], x)
    frame = pd.DataFrame(x, index=UNICODE)
    frame.to_csv(tmp_path / "x.csv")
    layers, labels = read_features(tmp_path / "x.csv")
    assert labels == UNICODE
    np.testing.assert_allclose(layers["x"], x, rtol=1e-15)
    frame.to_csv(tmp_path / "y.csv", header=False, index=False)
    assert read_features(tmp_path / "y.csv").labels is None


def test_features_reject(rng, tmp_path, labelled):
    np.savez(tmp_path / "x.npz", a=rng.random((5, 3)), b=rng.random((6, 3)))
    with pytest.raises(InvalidInputError, match="'a': 5, 'b': 6"):
        read_features(tmp_path / "x.npz")
    np.save(tmp_path / "x.npy", rng.random((5, 3, 4, 4)))
    with pytest.raises(InvalidInputError, match="reshape"):
        read_features(tmp_path / "x.npy")
    np.savez(tmp_path / "y.npz", a=rng.random(5))
    with pytest.raises(InvalidInputError, match=r"no feature matrix.*'a': \(5,\)"):
        read_features(tmp_path / "y.npz")
    labelled.save(tmp_path / "x.h5")
    with pytest.raises(InvalidInputError, match="no features"):
        read_features(tmp_path / "x.h5")


# ---- bad files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("reader", [read_rdms, read_features, RDMs.load])
def test_paths_that_are_no_file(reader, tmp_path):
    with pytest.raises(InvalidInputError, match="no such file"):
        reader(tmp_path / "x.h5")
    (tmp_path / "folder.h5").mkdir()
    with pytest.raises(InvalidInputError, match="is a folder"):
        reader(tmp_path / "folder.h5")
    (tmp_path / "empty.h5").touch()
    with pytest.raises(InvalidInputError, match="is empty"):
        reader(tmp_path / "empty.h5")
    with pytest.raises(InvalidInputError, match="must be a str"):
        reader(3)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(tmp_path):
    path = tmp_path / "x.npy"
    path.write_bytes(b"x")
    path.chmod(0)
    with pytest.raises(InvalidInputError, match="permissions"):
        read_rdms(path)


@pytest.mark.parametrize("suffix", [".h5", ".hdf5", ".npy", ".npz", ".mat", ".csv"])
@pytest.mark.parametrize("content", [b"\x00\x01\x02 not a file \xff\xfe" * 20, b"{}", b"\x93NUMPY"])
@pytest.mark.parametrize("reader", [read_rdms, read_features])
def test_foreign_content(tmp_path, suffix, content, reader):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=r"x\.\w+"):
        reader(path)


@pytest.mark.parametrize("suffix", [".h5", ".npy", ".npz", ".mat"])
@pytest.mark.parametrize("keep", [0.2, 0.6, 0.95])
def test_truncated_files(random_rdm, tmp_path, suffix, keep):
    path = tmp_path / f"x{suffix}"
    matrix = random_rdm(60)
    writers = {
        ".h5": lambda: RDMs(matrix).save(path),
        ".npy": lambda: np.save(path, matrix),
        ".npz": lambda: np.savez(path, a=matrix),
        ".mat": lambda: scipy.io.savemat(path, {"a": matrix}),
    }
    writers[suffix]()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(InvalidInputError, match=r"x\.\w+"):
        read_rdms(path)


def test_pickles_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{"a": 1}]), allow_pickle=True)
    np.savez(tmp_path / "x.npz", a=np.array([{"a": 1}]))
    for name in ("x.npy", "x.npz"):
        for reader in (read_rdms, read_features):
            with pytest.raises(InvalidInputError, match="pickle"):
                reader(tmp_path / name)
    (tmp_path / "x.pkl").write_bytes(b"x")
    with pytest.raises(InvalidInputError, match="pickle"):
        read_rdms(tmp_path / "x.pkl")
    (tmp_path / "y.npy").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InvalidInputError, match="pickle"):
        read_rdms(tmp_path / "y.npy")


def test_unknown_suffix_lists_the_known(tmp_path):
    (tmp_path / "x.xyz").write_text("1")
    with pytest.raises(InvalidInputError, match=r"'\.xyz'; supported are \.h5"):
        read_rdms(tmp_path / "x.xyz")


def test_hdf5_of_another_kind_or_version(labelled, tmp_path):
    path = tmp_path / "x.h5"
    labelled.save(path)
    with pytest.raises(InvalidInputError, match="holds 'rdms', expected 'permutation_result'"):  # noqa: SIM117
        with hdf5.read(path, "permutation_result"):
            pass
    with h5py.File(path, "a") as file:
        file.attrs["rsafast_format"] = 99
    with pytest.raises(InvalidInputError, match="format 99"):
        RDMs.load(path)
    with h5py.File(path, "a") as file:
        file.attrs["rsafast_format"] = 1
        del file["names"]
    with pytest.raises(InvalidInputError, match=r"x\.h5: lacks"):
        RDMs.load(path)
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["a"] = [1]
    with pytest.raises(InvalidInputError, match="not written by rsafast"):
        RDMs.load(tmp_path / "y.h5")


def test_invalid_values_name_file_and_key(random_rdm, tmp_path):
    matrix = random_rdm(5)
    matrix[0, 1] = 9
    np.savez(tmp_path / "x.npz", a=matrix)
    with pytest.raises(InvalidInputError, match=r"x\.npz \(key 'a'\): RDM 0 is not symmetric"):
        read_rdms(tmp_path / "x.npz")


def test_provenance_and_hash(rng):
    found = provenance()
    assert {"rsafast", "numpy", "scipy", "python", "platform", "processor", "threads", "isa",
            "time"} == set(found)  # fmt: skip
    x = rng.random((3, 4))
    assert array_hash(x) == array_hash(x.copy(order="F"))
    others = [x.T, x.ravel(), x.astype(np.float32), x + 1, np.empty((0, 3)), np.float64(1)]
    assert len({array_hash(a) for a in [x, *others]}) == 7


# ---- published files ---------------------------------------------------------------------------


@pytest.mark.data
class TestPublishedFiles:
    def test_mit_hit_correlation_is_the_published_one(self, data_dir):
        path = data_dir / "fmri92" / "Kriegeskorte_Neuron2008_supplementalData.mat"
        rdms = read_rdms(path)
        assert rdms.names == ("mIT_674neurons", "hITvisStim_316vx")
        assert np.corrcoef(rdms.vectors)[0, 1] == pytest.approx(0.491210, abs=5e-7)
        assert read_features(path, key="categoryVectors").layers["categoryVectors"].shape == (
            92,
            12,
        )
        with pytest.raises(InvalidInputError, match="category, human, face"):
            read_rdms(path, key="stimuli_92objs")

    @pytest.mark.parametrize(
        ("name", "key", "k", "first", "last"),
        [
            ("92_modelRDMs.mat", "Models", 8, "animacy", "RADON"),
            ("92_brainRDMs.mat", "RDMs", 8, "hIT | BE | Session: 1", "hIT | TI | Session: 2"),
            ("92_behavRDMs.mat", "rdms_behav_92", 16, "simJudge | subject1",
             "simJudge | subject16"),
        ],
    )  # fmt: skip
    def test_struct_arrays(self, data_dir, name, key, k, first, last):
        path = data_dir / "fmri92" / name
        rdms = read_rdms(path, key=key)
        assert rdms == read_rdms(path)
        assert (rdms.n_rdms, rdms.n_stimuli) == (k, 92)
        assert (rdms.names[0], rdms.names[-1]) == (first, last)

    def test_algonauts_92(self, data_dir):
        path = data_dir / "fmri92" / "target_fmri.mat"
        with h5py.File(path) as file:
            stored = file["IT_RDMs"][()]
        rdms = read_rdms(path, key="IT_RDMs")
        # The file is symmetric to rounding only.
        np.testing.assert_allclose(rdms.matrices(), np.moveaxis(stored, -1, 0), rtol=1e-14)
        with pytest.raises(InvalidInputError, match=r"'EVC_RDMs'.*'IT_RDMs'"):
            read_rdms(path)

    def test_algonauts_78(self, data_dir):
        rdms = read_rdms(data_dir / "fmri78" / "fmri_IT_RDMs.npz")
        assert (rdms.n_rdms, rdms.vectors.shape[1]) == (15, n_pairs(78))

    def test_feature_files(self, data_dir):
        layers, _ = read_features(data_dir / "fmri92" / "simTruePatterns.mat")
        assert layers["simTruePatterns2"].shape == (92, 100)
        layers, _ = read_features(data_dir / "things" / "THINGS_embedding_Group1.npy")
        assert layers["THINGS_embedding_Group1"].shape == (1854, 90)
        layers, labels = read_features(data_dir / "things" / "category_mat.csv")
        assert (layers["category_mat"].shape, labels[0]) == ((1854, 28), "aardvark")
        with pytest.raises(InvalidInputError, match=r"resnet20.*pickle"):
            read_features(data_dir / "cifar10" / "resnet20-12fca82f.th")
        with pytest.raises(InvalidInputError, match="no number"):
            read_features(data_dir / "things" / "item_names.tsv")


# ---- descriptors of layers ---------------------------------------------------------------------


def test_what_a_feature_file_says_of_its_layers_becomes_descriptors_of_the_rdms(tmp_path):
    x = np.random.default_rng(0).normal(size=(2, 6, 3))
    with h5py.File(tmp_path / "f.h5", "w") as file:
        for epoch, values in zip((0, 40), x, strict=True):
            layer = file.create_dataset(f"bp/seed-1/epoch-{epoch:03d}/conv1", data=values)
            layer.attrs.update({"rule": "bp", "seed": 1, "epoch": epoch, "map_shape": [3, 1, 1]})
        layer.attrs["only_here"] = 1
    main(["rdm", str(tmp_path / "f.h5"), "-o", str(tmp_path / "r.h5")])
    described = RDMs.load(tmp_path / "r.h5").descriptors
    assert {key: values.tolist() for key, values in described.items()} == {
        "rule": ["bp", "bp"], "seed": [1, 1], "epoch": [0, 40],
    }  # fmt: skip
    np.savez(tmp_path / "f.npz", conv1=x[0])
    assert read_descriptors(tmp_path / "f.npz", ["conv1"]) == {}
