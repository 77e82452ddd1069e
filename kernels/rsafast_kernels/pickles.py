"""Pickles of published data sets, read by an unpickler that cannot run what they ask for.

A pickle is a program. This one admits numbers, text, containers and NumPy arrays, and refuses every
other name that the file wants to call.
"""

from __future__ import annotations

import pickle
from typing import IO, Any

import numpy as np

from rsafast_kernels.errors import InvalidInputError


def load_pickle(file: IO[bytes], name: str, *, encoding: str = "latin1") -> Any:
    """Return what a pickle holds.

    Parameters
    ----------
    file : open at the first byte of the pickle; read as it is needed.
    name : of the file, for errors.
    encoding : of 8-bit strings of Python 2; latin1 maps them to text one to one.

    Raises
    ------
    InvalidInputError
        A pickle that asks for anything but plain values and arrays, or that is damaged.
    """
    try:
        return _ArraysOnly(file, encoding).load()
    except InvalidInputError as error:
        raise InvalidInputError(f"{name}: {error}") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise InvalidInputError(
            f"{name}: is truncated or no pickle ({error}); download or unpack it again"
        ) from None


class _ArraysOnly(pickle.Unpickler):
    """Unpickler that builds arrays and containers, and calls nothing else."""

    def __init__(self, file: IO[bytes], encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self._admitted = _admitted()

    def find_class(self, module: str, name: str) -> Any:
        """Return a constructor of arrays, and refuse every other name."""
        try:
            return self._admitted[module, name]
        except KeyError:
            raise InvalidInputError(
                f"asks to run {module}.{name}; a pickle with more than arrays is refused, as it "
                "could run any code"
            ) from None


def _admitted() -> dict[tuple[str, str], Any]:
    from numpy._core import multiarray, numeric

    arrays: dict[str, dict[str, Any]] = {
        "multiarray": {
            "_reconstruct": multiarray._reconstruct,
            "scalar": multiarray.scalar,
        },
        "numeric": {"_frombuffer": numeric._frombuffer},  # type: ignore[attr-defined]
    }
    return {
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1,  # how protocol 2 writes bytes
        **{
            (f"{core}.{module}", name): function
            for core in ("numpy.core", "numpy._core")
            for module, functions in arrays.items()
            for name, function in functions.items()
        },
    }


def _latin1(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise InvalidInputError(f"asks for the text encoding {encoding!r}; the file is refused")
    return text.encode("latin-1")
