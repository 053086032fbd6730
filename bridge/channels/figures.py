"""Converts decimals and times from the forms that the exchange uses to that of records.

Decimals never pass through a float.
"""

import re
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta, Raw

from bridge.errors import BadItem

Figure = Raw
"""A decimal in JSON as received: a string, or a number whose text is kept."""

Name = Annotated[str, Meta(min_length=1, max_length=64)]
"""A symbol or currency."""

Time = int | float | str
"""A time as received: an integer, a fraction, in exponent form, or a string of one of these."""

NULL = Raw(b"null")

# Units of time in µs.
MILLISECOND = 1_000
SECOND = 1_000_000

# A time is one between these: this tells in which unit it is.
_YEAR_2010 = 1_262_304_000  # s
_YEAR_2100 = 4_102_444_800  # s
_YEAR_2010_MS, _YEAR_2100_MS = _YEAR_2010 * 1_000, _YEAR_2100 * 1_000
_YEAR_2010_US, _YEAR_2100_US = _YEAR_2010 * SECOND, _YEAR_2100 * SECOND

USUAL = rb'"[0-9]++(?:\.[0-9]++"|")'
"""Regular expression of a decimal as the exchange nearly always writes it, and as records have it."""

# Each Raw is one whole JSON value, so a comma between two of them cannot be part of a value.
plain = re.compile(rb"(?:%b,?+)++" % USUAL).fullmatch
"""Whether figures, joined by commas, are as `exact` returns them; saves the call where many are."""

plain_or_null = re.compile(rb"(?:(?:%b|null),?+)++" % USUAL).fullmatch
"""Whether figures, joined by commas, are as `exact_or_null` returns them."""

# An exponent has at most three digits, since decimal types, here and at consumers, have limits too.
_decimal = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?").fullmatch
_encode = msgspec.json.encode

_EMPTY = ("", "-")


def exact(figures: Sequence[Figure]) -> Sequence[Raw]:
    """Return each figure as a JSON string with the exchange's own digits.

    Raises:
        BadItem: one of them is missing, empty, or not a decimal.
    """
    if plain(b",".join(figures)):
        return figures
    texts = exact_or_null(figures)
    if NULL in texts:
        raise BadItem("a figure is missing")
    return texts


def exact_or_null(figures: Sequence[Figure]) -> Sequence[Raw]:
    """Return each figure as a JSON string, or as null where the exchange has "", "-" or null.

    Raises:
        BadItem: one of them is not a decimal.
    """
    if plain_or_null(b",".join(figures)):
        return figures
    return [_exact_or_null(figure) for figure in figures]


def _exact_or_null(figure: Figure) -> Raw:
    text = bytes(figure)
    if text == b"null":
        return NULL
    try:
        digits = msgspec.json.decode(text, type=str) if text[:1] == b'"' else text.decode()
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadItem(f"{text[:80]!r} is not a decimal") from None
    if digits in _EMPTY:
        return NULL
    if not _decimal(digits):
        raise BadItem(f"{digits[:80]!r} is not a decimal")
    return Raw(_encode(digits))


def microseconds(time: object) -> int:
    """Return a time in seconds, milliseconds or microseconds as integer microseconds since the epoch.

    A double holds seconds of this century to a quarter of a microsecond, so rounding restores the digits.

    Raises:
        BadItem: not a time between 2010 and 2100.
    """
    if type(time) is int and _YEAR_2010_MS <= time < _YEAR_2100_MS:
        return time * MILLISECOND
    if type(time) is float or type(time) is int:
        number: float = time
    elif type(time) is str and _decimal(time):
        number = float(time)
    else:
        shown = repr(time[:80]) if type(time) is str else f"a value of type {type(time).__name__}"
        raise BadItem(f"{shown} is not a time")
    if _YEAR_2010 <= number < _YEAR_2100:
        return round(number * SECOND)
    if _YEAR_2010_MS <= number < _YEAR_2100_MS:
        return round(number * MILLISECOND)
    if _YEAR_2010_US <= number < _YEAR_2100_US:
        return round(number)
    raise BadItem(f"{str(time)[:80]} is not a time")
