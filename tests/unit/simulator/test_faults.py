"""Parsing of the faults to inject."""

import re

import pytest

from bridge.simulator import Faults, parse


def test_empty_text_injects_no_fault() -> None:
    assert parse("") == Faults()


def test_each_fault_is_set_by_its_name() -> None:
    assert parse("drop=1.5, refuse=3,newest_first=false,nested_all_ticker=1") == Faults(
        drop=1.5, refuse=3, newest_first=False, nested_all_ticker=True
    )


def test_the_clock_offset_may_be_negative() -> None:
    assert parse("clock_offset=-3.5").clock_offset == -3.5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dorp=1", "unknown fault 'dorp': did you mean drop?"),
        ("zzz", "unknown fault 'zzz': there are drop, "),
        ("refuse=1.5", "refuse=1.5: not a int"),
        ("newest_first=maybe", "newest_first=maybe: not a bool"),
        ("drop", "drop=: not a float"),
        ("drop=-1", "drop=-1: must be 0 or more"),
        ("drop=nan", "drop=nan: must be finite"),
        ("corrupt=1.5", "corrupt=1.5: must be from 0 to 1"),
        ("clock_offset=inf", "clock_offset=inf: must be finite"),
    ],
)
def test_an_invalid_fault_is_named_in_the_error(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse(text)
