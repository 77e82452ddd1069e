"""The exceptions of every layer. `rsafast.errors` re-exports them."""


class RsafastError(Exception):
    """Root of every error that rsafast raises on purpose."""


class InvalidInputError(RsafastError, ValueError):
    """An argument or a file does not hold what the function needs."""


class UnsupportedCaseError(RsafastError, NotImplementedError):
    """The request is meaningful, and no engine of this version answers it."""


class BackendUnavailableError(RsafastError, RuntimeError):
    """A device, a library or an instruction set that was asked for is not here."""
