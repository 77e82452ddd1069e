"""The exceptions of rsafast; all derive from `RsafastError`."""

from rsafast_kernels.errors import (
    BackendUnavailableError,
    InvalidInputError,
    RsafastError,
    UnsupportedCaseError,
)

__all__ = [
    "BackendUnavailableError",
    "InvalidInputError",
    "RsafastError",
    "UnsupportedCaseError",
]
