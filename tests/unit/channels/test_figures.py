"""Decimals keep the digits that the exchange sent, and times become integer microseconds."""

import re
from decimal import Decimal

import msgspec
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import Raw

from bridge.channels.figures import exact, exact_or_null, microseconds
from bridge.errors import BadItem
from tests.support.decimals import decimals, json_numbers, plain

MILLISECOND = 1_000
SECOND = 1_000_000
YEAR_2010 = 1_262_304_000 * SECOND
YEAR_2100 = 4_102_444_800 * SECOND

DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]{1,3})?")

quick = settings(deadline=None, max_examples=40)


def string(text: str) -> Raw:
    return Raw(msgspec.json.encode(text))


def raw(text: str) -> Raw:
    return Raw(text.encode())


def texts(figures: list[Raw]) -> list[str | None]:
    return [msgspec.json.decode(text, type=str | None) for text in exact_or_null(figures)]


@quick
@given(st.lists(plain, min_size=1, max_size=12) | st.lists(decimals, min_size=1, max_size=12))
def test_a_string_of_digits_is_unchanged(figures: list[str]) -> None:
    given_as = [string(figure) for figure in figures]
    assert texts(given_as) == figures
    assert [bytes(text) for text in exact(given_as)] == [bytes(text) for text in given_as]


@quick
@given(st.lists(json_numbers, min_size=1, max_size=12))
def test_a_json_number_becomes_a_string_of_its_exact_text(figures: list[str]) -> None:
    assert texts([raw(figure) for figure in figures]) == figures


@quick
@given(decimals)
def test_every_result_is_a_decimal_that_libraries_accept(figure: str) -> None:
    assert Decimal(figure).is_finite()


@quick
@given(plain)
def test_escaped_digits_become_digits(figure: str) -> None:
    assert texts([raw('"' + "".join(f"\\u{ord(digit):04x}" for digit in figure) + '"')]) == [figure]


@quick
@given(st.text())
def test_any_other_text_is_rejected(text: str) -> None:
    assume(not DECIMAL.fullmatch(text) and text not in {"", "-"})
    with pytest.raises(BadItem, match="is not a decimal"):
        exact_or_null([string("1"), string(text)])


@pytest.mark.parametrize(
    "figure", ["true", "false", "{}", "[]", '["1","2"]', '{"a":"1"}', '"1","2"', '"\xff"']
)
def test_any_other_json_is_rejected(figure: str) -> None:
    with pytest.raises(BadItem, match="is not a decimal"):
        exact_or_null([Raw(figure.encode("latin-1")), string("-1")])


def test_the_reason_for_a_long_figure_is_short() -> None:
    with pytest.raises(BadItem) as bad:
        exact_or_null([string("x" * 10_000)])
    assert len(str(bad.value)) < 120


@pytest.mark.parametrize("figure", ["null", '""', '"-"'])
def test_an_empty_figure_is_null_where_allowed_and_otherwise_rejected(figure: str) -> None:
    assert texts([string("1"), raw(figure), string("2")]) == ["1", None, "2"]
    with pytest.raises(BadItem, match="a figure is missing"):
        exact([string("1"), raw(figure), string("2")])


@quick
@given(st.integers(YEAR_2010, YEAR_2100 - SECOND), st.sampled_from([1, MILLISECOND, SECOND]))
def test_a_time_of_this_century_keeps_its_microseconds_in_any_unit(time_us: int, unit: int) -> None:
    text = f"{time_us // unit}.{time_us % unit:06}" if unit == SECOND else str(Decimal(time_us) / unit)
    assert microseconds(float(text)) == time_us
    assert microseconds(text) == time_us
    assert microseconds(time_us // unit) == time_us - time_us % unit


@quick
@given(st.integers(YEAR_2010, YEAR_2100 - SECOND))
def test_seconds_in_exponent_form_keep_their_microseconds(time_us: int) -> None:
    digits = str(time_us)
    text = f"{digits[0]}.{digits[1:]}E{len(digits) - 7}"
    assert microseconds(float(text)) == time_us
    assert microseconds(text) == time_us


@pytest.mark.parametrize("unit", [1, MILLISECOND, SECOND])
def test_a_time_lies_between_2010_and_2100(unit: int) -> None:
    assert microseconds(YEAR_2010 // unit) == YEAR_2010
    assert microseconds(YEAR_2100 // unit - 1) == YEAR_2100 - unit
    for time in (YEAR_2010 // unit - 1, YEAR_2100 // unit):
        with pytest.raises(BadItem, match="is not a time"):
            microseconds(time)


@pytest.mark.parametrize(
    "time",
    [
        "",
        "-",
        "now",
        "nan",
        "inf",
        "-inf",
        " 15 ",
        "1_586_762_545",
        "0x10",
        "2020-04-13",
        "1e309",
        "0",
        0.0,
        -1.0,
        1e-9,
        10**400,
        1586762545336000000,
    ],
)
def test_anything_but_a_time_is_rejected(time: float | str) -> None:
    with pytest.raises(BadItem, match="is not a time"):
        microseconds(time)


@quick
@given(st.floats() | st.integers() | st.text() | decimals)
def test_any_number_or_text_is_a_time_between_2010_and_2100_or_rejected(time: float | str) -> None:
    try:
        time_us = microseconds(time)
    except BadItem:
        return
    assert YEAR_2010 <= time_us <= YEAR_2100
