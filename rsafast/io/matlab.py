"""Reader of MATLAB files, v5 to v7.2 (SciPy) and v7.3 (h5py).

Both are brought to one form: numeric arrays in MATLAB's own axis order, str, lists for cells, and
`_Struct` for struct arrays. A struct array with a field such as ``RDM`` becomes one stack, in
MATLAB's linear order, named by its field ``name``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.io
import scipy.sparse
from numpy.typing import NDArray

from rsafast.errors import InvalidInputError
from rsafast.io.entries import LABEL_KEYS, NAME_KEYS, Entry, entry_of, unknown_key
from rsafast.io.hdf5 import open_hdf5

_RDM_FIELDS = ("rdm", "rdms", "dissimilarity", "dissimilarities")
_NAME_FIELDS = ("name", "names")


@dataclass(frozen=True, slots=True)
class _Struct:
    shape: tuple[int, ...]
    items: list[dict[str, Any]]  # in MATLAB's linear (column-major) order


@dataclass(frozen=True, slots=True)
class _Unreadable:
    kind: str


def read_mat(path: Path, key: str | None) -> dict[str, Entry]:
    """The variables of a MATLAB file, fields of a single struct as ``"variable.field"``."""
    variable = None if key is None else key.partition(".")[0]
    values = _read_v73(path, variable) if h5py.is_hdf5(path) else _read_v5(path, variable)
    entries: dict[str, Entry] = {}
    for name, value in values.items():
        entries |= _entries_of(name, value)
    if key is not None and key not in entries:
        raise unknown_key(path, key, entries)
    return entries


def _wanted(name: str, variable: str | None) -> bool:
    return variable is None or name in (variable, *LABEL_KEYS, *NAME_KEYS)


def _read_v5(path: Path, variable: str | None) -> dict[str, Any]:
    try:
        known = [name for name, _, _ in scipy.io.whosmat(path)]
        if variable is not None and variable not in known:
            raise unknown_key(path, variable, known)
        wanted = [name for name in known if _wanted(name, variable)]
        content = scipy.io.loadmat(path, variable_names=wanted)
    except InvalidInputError:
        raise
    # A damaged file surfaces as almost any exception of SciPy's parser.
    except Exception as error:
        raise InvalidInputError(
            f"{path}: is truncated, damaged or no MATLAB file ({error}); save it again with "
            "save('-v7', ...)"
        ) from None
    return {name: _from_v5(content[name]) for name in wanted if name in content}


def _from_v5(value: Any) -> Any:
    if scipy.sparse.issparse(value):
        return value.toarray()
    if not isinstance(value, np.ndarray) or isinstance(
        value, scipy.io.matlab.MatlabOpaque | scipy.io.matlab.MatlabFunction
    ):
        return _Unreadable("a MATLAB object")
    if value.dtype.names:
        items = [
            {field: _from_v5(item[field]) for field in value.dtype.names}
            for item in value.ravel(order="F")
        ]
        return _Struct(value.shape, items)
    if value.dtype == object:
        return [_from_v5(item) for item in value.ravel(order="F")]
    if value.dtype.kind == "U":
        return str(value.ravel()[0]) if value.size == 1 else [str(x).strip() for x in value.ravel()]
    return value


def _read_v73(path: Path, variable: str | None) -> dict[str, Any]:
    with open_hdf5(path) as file:
        known = [name for name in file if not name.startswith("#")]
        if variable is not None and variable not in known:
            raise unknown_key(path, variable, known)
        return {name: _from_v73(file, file[name]) for name in known if _wanted(name, variable)}


def _from_v73(file: h5py.File, item: h5py.Dataset | h5py.Group) -> Any:
    kind = item.attrs.get("MATLAB_class", b"")
    kind = kind.decode() if isinstance(kind, bytes) else str(kind)
    if isinstance(item, h5py.Group):
        return _struct_v73(file, item)
    if item.attrs.get("MATLAB_empty", 0):
        return "" if kind == "char" else np.empty((0, 0))
    if "MATLAB_object_decode" in item.attrs and kind not in ("char", "logical", "cell"):
        return _Unreadable(f"a MATLAB object of class {kind}")
    if h5py.check_ref_dtype(item.dtype) is not None:
        # HDF5 reverses MATLAB's axes, so C order here is MATLAB's linear order.
        return [_from_v73(file, file[reference]) for reference in item[()].ravel()]
    if kind == "char":
        return "".join(chr(code) for code in item[()].ravel())
    if item.dtype.kind not in "biuf":
        return _Unreadable(f"{kind or 'a value'} of dtype {item.dtype}")
    return item[()].T


def _struct_v73(file: h5py.File, group: h5py.Group) -> Any:
    if "MATLAB_sparse" in group.attrs:
        return _Unreadable("a sparse matrix; save full(x)")
    fields: dict[str, list[Any]] = {}
    shape: tuple[int, ...] = (1, 1)
    for name, item in group.items():
        # A struct array holds references in each field; so does one struct that holds cells,
        # which alone are marked as such.
        references = isinstance(item, h5py.Dataset) and h5py.check_ref_dtype(item.dtype) is not None
        if references and "MATLAB_class" not in item.attrs:
            shape = item.shape[::-1]
            fields[name] = [_from_v73(file, file[reference]) for reference in item[()].ravel()]
        else:
            fields[name] = [_from_v73(file, item)]
    count = max((len(values) for values in fields.values()), default=0)
    items = [
        {name: values[i] for name, values in fields.items() if i < len(values)}
        for i in range(count)
    ]
    return _Struct(shape, items)


def _entries_of(name: str, value: Any, nested: bool = False) -> dict[str, Entry]:
    if isinstance(value, _Struct):
        return _entries_of_struct(name, value, nested)
    if isinstance(value, list):
        return {name: _entry_of_cells(value)}
    if isinstance(value, str):
        return {name: Entry(None, f"the text {value[:30]!r}")}
    if isinstance(value, _Unreadable):
        return {name: Entry(None, f"{value.kind}, which cannot be read; save it as a plain array")}
    entry = entry_of(value)
    if entry.values is not None:
        entry = Entry(_stack_first(entry.values), entry.said)
    return {name: entry}


def _entries_of_struct(name: str, struct: _Struct, nested: bool) -> dict[str, Entry]:
    fields = list(struct.items[0]) if struct.items else []
    field = next((f for f in fields if f.lower() in _RDM_FIELDS), None)
    if field is not None:
        return {name: _entry_of_rdm_field(struct, field, fields)}
    if len(struct.items) == 1 and not nested:
        entries: dict[str, Entry] = {}
        for key, value in struct.items[0].items():
            entries |= _entries_of(f"{name}.{key}", value, nested=True)
        return entries
    return {name: Entry(None, f"a struct {struct.shape} with fields {', '.join(fields)}")}


def _entry_of_rdm_field(struct: _Struct, field: str, fields: Sequence[str]) -> Entry:
    values = [item[field] for item in struct.items]
    said = f"a struct {struct.shape} with field {field}"
    # One struct may hold a whole stack in its field.
    stack = _entries_of(field, values[0])[field].values if len(values) == 1 else _stacked(values)
    if stack is None:
        return Entry(None, f"{said}, whose values are no numeric arrays of one shape")
    name_field = next((f for f in fields if f.lower() in _NAME_FIELDS), None)
    names = [item[name_field] for item in struct.items] if name_field else []
    named = bool(names) and all(isinstance(n, str) for n in names)
    rdms = len(names) == (1 if stack.ndim < 3 and len(values) == 1 else len(stack))
    return Entry(stack, f"{said} {values[0].shape}", tuple(names) if named and rdms else None)


def _entry_of_cells(cells: list[Any]) -> Entry:
    if cells and all(isinstance(cell, str) for cell in cells):
        return Entry(np.array(cells), f"{len(cells)} texts")
    stack = _stacked(cells)
    if stack is None:
        return Entry(None, f"{len(cells)} cells, not all numeric arrays of one shape")
    return Entry(stack, f"{len(cells)} cells {cells[0].shape}")


def _stacked(values: list[Any]) -> NDArray[Any] | None:
    """Matrices as (k, n, n), row or column vectors as (k, pairs); None where they do not fit."""
    if not all(isinstance(value, np.ndarray) for value in values):
        return None
    if len({value.shape for value in values}) != 1 or values[0].dtype.kind not in "biuf":
        return None
    return np.stack([value.ravel() if 1 in value.shape else value for value in values])


def _stack_first(values: NDArray[Any]) -> NDArray[Any]:
    """A stack (n, n, k) of MATLAB as (k, n, n), a column vector as a vector; the rest as it is."""
    if values.ndim == 2 and 1 in values.shape:
        return values.ravel()
    if values.ndim != 3 or values.shape[0] != values.shape[1]:
        return values
    if values.shape[1] != values.shape[2] or not _hollow(values[0]) or _hollow(values[:, :, 0]):
        return np.moveaxis(values, 2, 0)
    return values


def _hollow(matrix: NDArray[Any]) -> bool:
    return not np.diagonal(matrix).any() and np.array_equal(matrix, matrix.T)
