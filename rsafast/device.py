"""Where a computation runs, and what must be installed for it."""

import importlib.util

from rsafast.errors import BackendUnavailableError, InvalidInputError


def require_cpu(device: str, operation: str) -> None:
    """Accept "auto" and "cpu"; an explicit "cuda" never falls back.

    Raises
    ------
    BackendUnavailableError
        "cuda": no CUDA kernel of this operation ships in this version.
    InvalidInputError
        Any other name.
    """
    if device == "cuda":
        raise BackendUnavailableError(
            f"{operation} has no CUDA kernel in this version; use device='auto' or 'cpu'"
        )
    if device not in ("auto", "cpu"):
        raise InvalidInputError(f"device must be one of auto, cpu, cuda, got {device!r}")


def require_training() -> None:
    """Raise, with the way out, where torch and what goes with it are not installed."""
    needed = ("torch", "safetensors", "PIL")
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    if absent:
        raise BackendUnavailableError(
            f"training needs {', '.join(absent)}, not installed here: pip install "
            "'rsafast[training]'"
        )
