"""Checks of plain numbers among the arguments of the public functions."""

from numbers import Integral
from typing import Any

from rsafast.errors import InvalidInputError


def is_whole(value: Any) -> bool:
    """Whether it is an integer, or a float that stands for one (1e6); True and False are not."""
    if isinstance(value, float):
        return value.is_integer()
    return isinstance(value, Integral) and not isinstance(value, bool)


def check_integers(*, whole_floats: bool = False, **given: tuple[Any, int]) -> None:
    """Raise for what is no integer, or below its least value: ``name=(value, least)``.

    With `whole_floats` a float may stand for an integer (1e6).
    """
    for name, (value, least) in given.items():
        allowed = is_whole(value) and (whole_floats or not isinstance(value, float))
        if not allowed or value < least:
            raise InvalidInputError(f"{name} must be an integer of at least {least}, got {value!r}")
