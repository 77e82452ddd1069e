"""What must be installed for training; where computations run is in rsafast_kernels.device."""

import importlib.util

from rsafast.errors import BackendUnavailableError


def require_training() -> None:
    """Raise, with the way out, where torch and what goes with it are not installed."""
    needed = ("torch", "safetensors", "PIL")
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    if absent:
        raise BackendUnavailableError(
            f"training needs {', '.join(absent)}, not installed here: pip install "
            "'rsafast[training]'"
        )
