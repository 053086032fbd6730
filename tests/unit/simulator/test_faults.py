"""Faults on request, by name and number."""

import re

import pytest

from bridge.simulator import Faults, parse


def test_no_text_is_no_fault() -> None:
    assert parse("") == Faults()


def test_each_fault_is_set_by_its_name() -> None:
    assert parse("drop=1.5, refuse=3,newest_first=false,nested_all_ticker=1") == Faults(
        drop=1.5, refuse=3, newest_first=False, nested_all_ticker=True
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dorp=1", "unknown fault 'dorp': did you mean drop?"),
        ("zzz", "unknown fault 'zzz': there are drop, "),
        ("refuse=1.5", "refuse=1.5: not a int"),
        ("newest_first=maybe", "newest_first=maybe: not a bool"),
    ],
)
def test_what_is_no_fault_is_named(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        parse(text)
