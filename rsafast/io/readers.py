"""`read_rdms` and `read_features`: the reader is chosen by the suffix of the file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from rsafast.errors import InvalidInputError
from rsafast.io.entries import (
    LABEL_KEYS,
    NAME_KEYS,
    Entries,
    Entry,
    companion,
    could_be_rdms,
    entry_of,
    listing,
    unknown_key,
)
from rsafast.io.files import checked_file
from rsafast.io.hdf5 import PathInput, open_hdf5
from rsafast.io.matlab import read_mat
from rsafast.io.numpy_files import read_npy, read_npz
from rsafast.io.store import HDF5_SUFFIXES, is_rsatoolbox, load_rdms, load_rsatoolbox
from rsafast.io.text import read_feature_table, read_rdm_table
from rsafast.rdms import Label, Missing, RDMs

_PICKLES = (".pkl", ".pickle", ".p", ".joblib", ".pt", ".pth", ".th")


class Features(NamedTuple):
    """What :func:`read_features` found.

    Attributes
    ----------
    layers : name to array (n, p); floating arrays keep their precision, others become float64.
    labels : n stimulus ids, where the file holds them.
    """

    layers: dict[str, NDArray[Any]]
    labels: tuple[Label, ...] | None


def read_rdms(
    path: PathInput,
    *,
    key: str | None = None,
    names: Sequence[str] | None = None,
    labels: Sequence[Label] | None = None,
    missing: Missing = "error",
) -> RDMs:
    """Read RDMs from a file of any supported kind.

    Parameters
    ----------
    path : str or Path
        ``.h5``/``.hdf5`` of rsafast, of rsatoolbox, or with plain datasets; ``.npy``; ``.npz``;
        ``.mat`` (any version; arrays (n, n, k), vectors, cells, structs with a field ``RDM``);
        ``.csv``/``.tsv`` (a square with or without labels, or one condensed vector a row).
    key : str, optional
        Which array, where the file holds several. A .npz whose arrays are all RDMs over the same
        stimuli needs none: they are stacked, named by key, with the descriptor "key".
    names, labels : sequences, optional
        Replace what the file says.
    missing : {"error", "allow"}
        "allow" makes NaN a missing pair.

    Returns
    -------
    RDMs

    Raises
    ------
    InvalidInputError
        For a file that is missing, empty, damaged, a pickle, or holds no (or no single) valid
        stack of RDMs; the message names the file, and what it holds instead.
    """
    file = checked_file(path)
    suffix = file.suffix.lower()
    stored = _read_stored(file, key, missing) if suffix in HDF5_SUFFIXES else None
    if stored is not None:
        return _relabelled(stored, names, labels, file)
    read = {".npy": read_npy, ".npz": read_npz, ".mat": read_mat}.get(suffix)
    if read is not None:
        entries: Entries = read(file, key)
    elif suffix in (".csv", ".tsv"):
        _refuse_key(file, key)
        entries = read_rdm_table(file)
    elif suffix in HDF5_SUFFIXES:
        entries = _read_datasets(file, key)
    else:
        raise _unknown_suffix(file)
    labels = companion(entries, LABEL_KEYS) if labels is None else labels
    names = companion(entries, NAME_KEYS) if names is None else names
    chosen = _choose(file, entries, key, joins=suffix == ".npz")
    return _stack(file, chosen, names, labels, missing)


def read_features(path: PathInput, *, key: str | None = None) -> Features:
    """Read feature matrices, one stimulus a row.

    Parameters
    ----------
    path : str or Path
        ``.npy``, ``.npz``, ``.mat``, ``.csv``/``.tsv``, or ``.h5``/``.hdf5`` with one dataset a
        layer (nested groups give names such as ``"block1/conv"``).
    key : str, optional
        Read this array alone. Without it every numeric array of at least two dimensions is a
        layer.

    Returns
    -------
    Features
        The layers, (n, p) or, for repeated stacks, (k, n, p), and the labels (``labels`` or
        ``stimuli`` of the file, or the index column of a table), if it has them.

    Raises
    ------
    InvalidInputError
        For a file that is missing, empty, damaged or a pickle, that holds no feature matrix, or
        whose layers differ in their number of stimuli.
    """
    file = checked_file(path)
    suffix = file.suffix.lower()
    readers: dict[str, Callable[[Path, str | None], dict[str, Entry]]] = {
        ".npy": read_npy, ".npz": read_npz, ".mat": read_mat,
        **dict.fromkeys(HDF5_SUFFIXES, _read_datasets),
    }  # fmt: skip
    if suffix in readers:
        entries: Entries = readers[suffix](file, key)
    elif suffix in (".csv", ".tsv"):
        _refuse_key(file, key)
        entries = read_feature_table(file)
    else:
        raise _unknown_suffix(file)
    layers = {
        name: _as_layer(file, name, entry.values)
        for name, entry in entries.items()
        if _is_layer(name, entry, key)
    }
    if not layers:
        raise InvalidInputError(
            f"{file}: holds no feature matrix (stimuli, features); it holds {listing(entries)}"
        )
    return Features(layers, _feature_labels(file, entries, layers))


def read_descriptors(path: PathInput, layers: Iterable[str]) -> dict[str, list[Any]]:
    """What a feature file says about its layers: attributes that all of them have.

    Parameters
    ----------
    path : str or Path
        As for :func:`read_features`; only HDF5 files say anything.
    layers : names of the layers, as :func:`read_features` gives them

    Returns
    -------
    dict
        Attribute to one value a layer (str, int, float or bool), such as "rule", "seed", "epoch"
        and "layer" for features of ``rsafast features``: descriptors of RDMs.
    """
    file_path = checked_file(path)
    if file_path.suffix.lower() not in HDF5_SUFFIXES:
        return {}
    with open_hdf5(file_path) as file:
        said = [dict(file[layer].attrs) for layer in layers]
    shared = [key for key in (said[0] if said else ()) if all(key in one for one in said)]
    columns = {key: [_plain_attribute(one[key]) for one in said] for key in shared}
    return {key: values for key, values in columns.items() if None not in values}


def _plain_attribute(value: Any) -> str | int | float | bool | None:
    """The value of an HDF5 attribute, None if it is an array or of another kind."""
    value = value.item() if isinstance(value, np.generic) else value
    return value if isinstance(value, str | int | float | bool) else None


def _is_layer(name: str, entry: Entry, key: str | None) -> bool:
    if key is not None:
        return name == key
    described = name in LABEL_KEYS or name in NAME_KEYS
    numeric = entry.values is not None and entry.values.dtype.kind in "biuf"
    return numeric and not described and entry.values is not None and entry.values.ndim >= 2


def _as_layer(path: Path, name: str, values: NDArray[Any] | None) -> NDArray[Any]:
    if values is None or values.dtype.kind not in "biuf" or values.ndim not in (2, 3):
        said = "no numbers" if values is None else f"shape {values.shape}, dtype {values.dtype}"
        raise InvalidInputError(
            f"{path}: key {name!r} is no feature matrix (stimuli, features): {said}; flatten "
            "feature maps with x.reshape(len(x), -1)"
        )
    if values.ndim == 3 and len(values) == 1:
        values = values[0]
    if values.dtype in (np.float32, np.float64):
        return values
    return values.astype(np.float32 if values.dtype == np.float16 else np.float64)


def _feature_labels(
    path: Path, entries: Entries, layers: dict[str, NDArray[Any]]
) -> tuple[Label, ...] | None:
    sizes = {name: values.shape[-2] for name, values in layers.items()}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{name!r}: {n}" for name, n in sizes.items())
        raise InvalidInputError(
            f"{path}: the arrays differ in their number of stimuli ({said}); choose one with key="
        )
    found = companion(entries, LABEL_KEYS)
    labels = next((e.labels for e in entries.values() if e.labels), None) if found is None else (
        tuple(found)
    )  # fmt: skip
    n = next(iter(sizes.values()))
    if labels is not None and len(labels) != n:
        raise InvalidInputError(f"{path}: holds {len(labels)} labels for {n} stimuli")
    return labels


def _read_stored(path: Path, key: str | None, missing: Missing) -> RDMs | None:
    """RDMs of an HDF5 file of rsafast or rsatoolbox; None for plain datasets."""
    with open_hdf5(path) as file:
        ours, theirs = "rsafast_format" in file.attrs, is_rsatoolbox(file)
        if ours or theirs:
            _refuse_key(path, key)
        if theirs and not ours:
            try:
                return load_rsatoolbox(file, None, missing)
            except InvalidInputError as error:
                raise InvalidInputError(f"{path}: {error}") from None
    return load_rdms(path) if ours else None


def _read_datasets(path: Path, key: str | None) -> dict[str, Entry]:
    """Every dataset of an HDF5 file under its path; of one `key` alone if it is given."""
    with open_hdf5(path) as file:
        if "rsafast_kind" in file.attrs and file.attrs["rsafast_kind"] != "features":
            raise InvalidInputError(
                f"{path}: holds {file.attrs['rsafast_kind']!r} of rsafast, no features"
            )
        known: dict[str, h5py.Dataset] = {}
        file.visititems(
            lambda name, item: (
                known.update({name: item})
                if isinstance(item, h5py.Dataset) and item.shape is not None
                else None
            )
        )
        if key is not None and key not in known:
            raise unknown_key(path, key, known)
        described = (*LABEL_KEYS, *NAME_KEYS)
        return {
            name: _dataset_entry(item)
            for name, item in known.items()
            if key is None or name == key or name in described
        }


def _dataset_entry(item: h5py.Dataset) -> Entry:
    if h5py.check_string_dtype(item.dtype) is not None:
        return entry_of(np.array(item.asstr("utf-8")[()], dtype=str))
    return entry_of(item[()])


def _choose(path: Path, entries: Entries, key: str | None, joins: bool) -> dict[str, Entry]:
    """The entries to stack: the key, the only candidate, or all where the format joins them."""
    if key is not None:
        if entries[key].values is None:
            raise InvalidInputError(f"{path}: key {key!r} is {entries[key].said}")
        return {key: entries[key]}
    rest = {k: e for k, e in entries.items() if k not in LABEL_KEYS and k not in NAME_KEYS}
    candidates = {k: e for k, e in rest.items() if could_be_rdms(e.values)}
    # The only array is tried whatever its shape: RDMs then says what is wrong with it.
    if len(rest) == 1 and (only := next(iter(rest.values()))).values is not None:
        return rest if only.values.dtype.kind in "biuf" else {}
    if not candidates:
        raise InvalidInputError(
            f"{path}: holds no array in the shape of RDMs; it holds {listing(rest)}; feature "
            "matrices open with read_features"
        )
    if len(candidates) > 1 and not (joins and len(candidates) == len(rest)):
        raise InvalidInputError(
            f"{path}: choose one of its arrays with key=; it holds {listing(rest)}"
        )
    return candidates


def _stack(
    path: Path,
    chosen: dict[str, Entry],
    names: Sequence[str] | None,
    labels: Sequence[Label] | None,
    missing: Missing,
) -> RDMs:
    several = len(chosen) > 1
    stacks = []
    for key, entry in chosen.items():
        try:
            stack = RDMs(
                entry.values,  # type: ignore[arg-type]
                labels=entry.labels if labels is None else labels,
                names=entry.names if several or names is None else names,
                missing=missing,
            )
        except InvalidInputError as error:
            raise InvalidInputError(f"{path} (key {key!r}): {error}") from None
        stacks.append(_named_by_key(stack, key) if several else stack)
    if not several:
        return stacks[0]
    if len({stack.n_stimuli for stack in stacks}) > 1:
        raise InvalidInputError(
            f"{path}: its arrays differ in their number of stimuli, choose one with key=; it "
            f"holds {listing(chosen)}"
        )
    return _relabelled(RDMs.concat(stacks), names, None, path)


def _named_by_key(stack: RDMs, key: str) -> RDMs:
    k = stack.n_rdms
    return RDMs.from_vectors(
        stack.vectors,
        labels=stack.labels,
        names=[key] if k == 1 else [f"{key} {i}" for i in range(k)],
        descriptors={"key": [key] * k},
        missing=stack.missing,
    )


def _relabelled(
    rdms: RDMs, names: Sequence[str] | None, labels: Sequence[Label] | None, path: Path
) -> RDMs:
    if names is None and labels is None:
        return rdms
    try:
        return RDMs.from_vectors(
            rdms.vectors,
            labels=rdms.labels if labels is None else labels,
            names=rdms.names if names is None else names,
            measure=rdms.measure,
            descriptors=rdms.descriptors,
            missing=rdms.missing,
        )
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from None


def _refuse_key(path: Path, key: str | None) -> None:
    if key is not None:
        raise InvalidInputError(f"{path}: holds one table or stack; leave key= out")


def _unknown_suffix(path: Path) -> InvalidInputError:
    if path.suffix.lower() in _PICKLES:
        return InvalidInputError(
            f"{path}: is a pickle by its name, which can run code when opened and is not read; "
            "save plain arrays as .npy, .npz or .h5 (rsatoolbox: rdms.save(path, 'hdf5'))"
        )
    return InvalidInputError(
        f"{path}: unknown suffix {path.suffix!r}; supported are .h5, .hdf5, .npy, .npz, .mat, "
        ".csv and .tsv"
    )
