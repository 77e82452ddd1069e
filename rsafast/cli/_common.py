"""What several commands share: options, file arguments, checks of outputs, tables."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rsafast.errors import InvalidInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from rich.console import Console

METHODS = "pearson, spearman, rho-a, cosine, corr_cov, cosine_cov, kendall, tau-a"
# Options that several commands share.
Mask = Annotated[
    Path | None,
    typer.Option(help="Pairs to use: .npy of booleans, (pairs,) or (n, n).", show_default="none"),
]
ModelsKey = Annotated[
    str | None,
    typer.Option(help="Variable inside MODELS, where it holds several.", show_default="none"),
]
BrainKey = Annotated[
    str | None,
    typer.Option(help="Variable inside BRAIN, where it holds several.", show_default="none"),
]
Memory = Annotated[
    str | None,
    typer.Option(help="Upper bound on memory, such as 2GB or 500MB; by default chosen."),
]
Cluster = Annotated[
    str | None,
    typer.Option(
        help="Dask cluster that does the work, to the same bits: a scheduler's address such as"
        " tcp://host:8786, or local for the cores of this machine. --memory is that of a worker.",
        show_default="none",
    ),
]
Stream = Annotated[
    bool,
    typer.Option(
        "--stream",
        help="Leave RDMs on disk and read them in rows, however large; they are .h5 of"
        " `rsafast rdm` or `rsafast rank`.",
        show_default="off",
    ),
]
Resume = Annotated[
    bool,
    typer.Option(help="With --stream and --out: go on where a run that was killed stopped."),
]
Out = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="Write the whole result to this .h5.", show_default="none"),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No progress bar and no messages.", show_default="off"),
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print JSON instead of a table.", show_default="off")
]
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_BINARY_UNITS = {"k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


def parse_memory(text: str | None) -> int | None:
    """Read an amount of memory such as 2GB, 500MB or 1.5GiB into bytes; None stays None."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?))?b?\s*", text.lower())
    if match is None:
        raise InvalidInputError(
            f"--memory {text!r} is no amount of memory; write it like 2GB, 500MB or 1.5GiB"
        )
    number, unit, binary = match.groups()
    size = int(float(number) * (_BINARY_UNITS[unit] if binary else _UNITS[unit or ""]))
    if size < 10**6:
        raise InvalidInputError(f"--memory {text!r} is below 1 MB; give at least that")
    return size


def check_stream(
    stream: bool, *, refused: Mapping[str, object], needing: Mapping[str, object]
) -> None:
    """Raise for options that do not go with --stream, and for those that need it."""
    wrong = [name for name, given in (refused if stream else needing).items() if given]
    if wrong:
        goes = "does not take" if stream else "is needed by"
        raise typer.BadParameter(f"--stream {goes} {' and '.join(wrong)}")


def labels(text: str | None) -> str | list[str] | None:
    """A descriptor's name, or one label an RDM with commas between."""
    return text if text is None or "," not in text else [name.strip() for name in text.split(",")]


def check_output(path: Path | None, option: str, endings: tuple[str, ...]) -> None:
    """Raise before any work starts if `path` has a wrong ending or cannot be written."""
    if path is None:
        return
    if path.suffix.lower() not in endings:
        raise InvalidInputError(
            f"{option} {path}: the name must end in {' or '.join(endings)}, "
            f"not in {path.suffix or 'nothing'!r}"
        )
    from rsafast_kernels.atomic import check_writable

    check_writable(path)


def read_array(path: Path, option: str) -> NDArray[Any]:
    """Read one array from .npy, or from text with one row a line (commas or spaces)."""
    import numpy as np

    if not path.is_file():
        raise InvalidInputError(f"{option} {path}: there is no such file")
    try:
        if path.suffix == ".npy":
            return np.load(path, allow_pickle=False)
        text = path.read_text(encoding="utf-8")
        if not text.strip():
            raise ValueError("the file is empty")
        comma = "," in text
        return np.loadtxt(path, delimiter="," if comma else None, ndmin=1)
    except (ValueError, OSError) as error:
        raise InvalidInputError(
            f"{option} {path}: expected .npy or a table of numbers; {error}"
        ) from error


def read_integers(text: str, option: str) -> tuple[int, ...]:
    """Read whole numbers such as 0,1,2."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise InvalidInputError(
            f"{option} {text!r}: expected whole numbers with commas between, such as 0,1,2"
        ) from None


def read_list(path: Path, option: str) -> list[str]:
    """Read names, one a line; empty lines are skipped."""
    if not path.is_file():
        raise InvalidInputError(f"{option} {path}: there is no such file")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"{option} {path}: expected UTF-8 text, one name a line") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise InvalidInputError(f"{option} {path}: the file holds no names")
    return names


def read_groups(path: Path, option: str) -> NDArray[Any]:
    """Read one group (a run, a block, a fold) a stimulus from .npy or from text, one a line."""
    import numpy as np

    return read_array(path, option) if path.suffix == ".npy" else np.array(read_list(path, option))


def read_mask(path: Path, option: str) -> NDArray[Any]:
    """Read the pairs to use; numbers other than 0 and 1 are an error, not a truth value."""
    import numpy as np

    mask = read_array(path, option)
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        raise InvalidInputError(f"{option} {path}: expected only 0 and 1, or booleans")
    return mask.astype(bool)


def output_console() -> Console:
    """Return a console on stdout; wide where stdout is no terminal, so that nothing is cut."""
    from rich.console import Console

    return Console(
        file=sys.stdout, width=None if sys.stdout.isatty() else 200, highlight=False, markup=False
    )


def say(message: str) -> None:
    """Print a message for the person at the terminal, on stderr."""
    print(message, file=sys.stderr)


def print_json(value: Any) -> None:
    """Print strict JSON on stdout; NaN and infinities become null."""
    print(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)
