"""The lines that `tail` prints: records as they are, others recognisably, nothing for the terminal."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.tail import Asked, Form
from bridge.tail.lines import Message, as_json, as_row, heading, line
from tests.support.schemas import schema

TRADE: dict[str, Any] = schema("trades")["examples"][0]
VALUE = json.dumps(TRADE).encode()
ONE = Asked(("p.trades.v1",), named=True, keys=frozenset(), start="end")
TWO = Asked(("p.trades.v1", "p.depth.v1"), named=True, keys=frozenset(), start="end")


def message(value: bytes | None, key: bytes | None = b"BTC_USDT") -> Message:
    return Message("p.trades.v1", key, value, 1589266947123)


@pytest.mark.parametrize("framing", [b"", b"\x00\x00\x00\x00\x07", b"\x01" + bytes(range(16))])
def test_a_record_is_printed_as_it_is_whatever_its_framing(framing: bytes) -> None:
    shown = as_json(message(framing + VALUE))
    assert json.loads(shown) == TRADE
    assert "id=" in as_row(message(framing + VALUE), ONE)


def test_json_keeps_every_digit_on_one_line() -> None:
    assert as_json(message(b'{"a": 1.10,\n "b": "x"}')) == '{"a":1.10,"b":"x"}'


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, {"value": None}),
        (b"", {"value_base64": ""}),
        (b"\x00", {"value_base64": "AA=="}),
        (b"not JSON", {"value_base64": "bm90IEpTT04="}),
        (b'"\xff"', {"value_base64": "Iv8i"}),
        (b"[" * 100_000, None),
    ],
)
def test_what_is_no_record_is_an_object_that_says_so(value: bytes | None, shown: object) -> None:
    printed = json.loads(as_json(message(value)))
    assert (printed.pop("topic"), printed.pop("key")) == ("p.trades.v1", "BTC_USDT")
    assert shown is None or printed == shown


def test_a_key_may_be_missing_or_anything() -> None:
    assert json.loads(as_json(message(None, key=None)))["key"] is None
    assert json.loads(as_json(message(None, key=b"\xff\n")))["key"] == "\\xff\n"
    assert as_row(message(None, key=None), ONE).split() == [
        "2020-05-12T07:02:27.123000Z",
        "-",
        "(no",
        "value)",
    ]


def test_a_row_has_the_time_the_key_and_the_fields_of_a_record() -> None:
    row = as_row(message(VALUE), ONE)
    for name in ("id", "price", "amount", "side"):
        assert f"{name}={TRADE[name]}" in row
    assert "snapshot=" in row
    assert TRADE["session"] not in row


def test_several_topics_are_a_column() -> None:
    assert "topic" not in heading(ONE, None)
    assert heading(TWO, None).split() == ["received", "topic", "key", "record"]
    assert as_row(message(VALUE), TWO).split()[1:3] == ["p.trades.v1", "BTC_USDT"]


def test_a_row_is_cut_to_the_width_of_the_terminal_and_json_is_not() -> None:
    for width in (1, 10, 80):
        assert len(line(message(VALUE), Form.TABLE, ONE, width)) == width
        assert len(heading(ONE, width)) <= width
    assert line(message(VALUE), Form.TABLE, ONE, None) == as_row(message(VALUE), ONE)
    assert json.loads(line(message(VALUE), Form.JSON, ONE, 10)) == TRADE


def test_a_row_with_wide_characters_is_cut_to_the_columns_that_they_take() -> None:
    """As messages of the exchange have them."""
    detail = message(json.dumps({"detail": "交易对" * 30}, ensure_ascii=False).encode())
    for width in range(1, 260):
        row = line(detail, Form.TABLE, ONE, width)
        wide = sum(character in "交易对" for character in row)
        assert width - 1 <= len(row) + wide <= width or row == as_row(detail, ONE)


def test_a_message_without_anything_in_it_says_so() -> None:
    assert "(no value)" in as_row(message(None), ONE)
    assert "(empty)" in as_row(message(b""), ONE)


@given(
    st.one_of(st.binary(), st.text().map(lambda text: json.dumps({text: text}, ensure_ascii=False).encode()))
)
def test_nothing_in_a_message_controls_the_terminal(value: bytes) -> None:
    one = message(value, key=value)
    assert as_json(one).isprintable()
    assert as_row(one, TWO).isprintable()
    json.loads(as_json(one))


@given(st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.none(), st.booleans())))
def test_the_json_that_is_printed_means_what_the_record_says(record: dict[str, object]) -> None:
    encoded = json.dumps(record, ensure_ascii=False).encode(errors="replace")
    assert json.loads(as_json(message(encoded))) == json.loads(encoded)


@pytest.mark.parametrize("time_ms", [-1, 0, 1 << 60, -(1 << 60)])
def test_any_time_can_be_shown(time_ms: int) -> None:
    assert as_row(Message("p.trades.v1", b"k", None, time_ms), ONE)
    value = json.dumps({"received_us": time_ms}).encode()
    assert as_row(Message("p.trades.v1", b"k", value, 0), ONE)
