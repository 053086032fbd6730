"""decode: the record in a message, whatever stands in front of it."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.consumer import RECORDS, Depth, Event, Level, NotARecord, Trade, decode
from tests.support.decimals import decimals
from tests.support.schemas import Json, schema

GOLDEN = Path(__file__).parents[2] / "golden"
CONFLUENT = b"\x00\x00\x00\x00\x14"  # schema 20

SAMPLES = [
    (path.parent.name, record)
    for name in RECORDS
    for path in sorted((GOLDEN / name).glob("*.json"))
    for record in json.loads(path.read_text())["records"]
]


def example(name: str) -> Json:
    (record,) = schema(name)["examples"]
    return dict(record)


def encoded(record: Json) -> bytes:
    return json.dumps(record).encode()


def plain(value: Any) -> Any:
    """Return JSON with its decimals by value, so that "1e2" and "1E+2" are equal."""
    if isinstance(value, dict):
        return {name: plain(one) for name, one in value.items()}
    if isinstance(value, list):
        return [plain(one) for one in value]
    try:
        return Decimal(value) if isinstance(value, str) else value
    except ArithmeticError:
        return value


@pytest.mark.parametrize("name", RECORDS)
@pytest.mark.parametrize("prefix", ["digifinex", "private.digifinex", "a.b-c_d.v1", "depth"])
@pytest.mark.parametrize("front", [b"", CONFLUENT], ids=["none", "confluent"])
def test_the_example_of_each_schema_is_decoded(name: str, prefix: str, front: bytes) -> None:
    record = decode(f"{prefix}.{name}.v1", front + encoded(example(name)))
    assert type(record) is RECORDS[name]
    assert plain(json.loads(msgspec.json.encode(record))) == plain(example(name))


def test_every_golden_record_is_decoded_to_the_last_digit() -> None:
    assert len(SAMPLES) > 50
    for name, sample in SAMPLES:
        record = decode(f"digifinex.{name}.v1", encoded(sample))
        assert plain(json.loads(msgspec.json.encode(record))) == plain(sample)


@given(decimals)
def test_a_decimal_keeps_its_digits(text: str) -> None:
    record = decode("digifinex.trades.v1", encoded(example("trades") | {"price": text}))
    assert isinstance(record, Trade)
    assert record.price.as_tuple() == Decimal(text).as_tuple()


def test_fields_of_a_later_bridge_are_ignored() -> None:
    record = decode("digifinex.depth.v1", encoded(example("depth") | {"checksum": [1, {"of": "levels"}]}))
    assert isinstance(record, Depth)
    assert record.asks == (Level(Decimal("8000.00"), Decimal("9.6250")),)


def test_kinds_of_events_of_a_later_bridge_are_decoded() -> None:
    record = decode(
        "digifinex.events.v1", encoded(example("events") | {"event": "moon_landed", "cause": "boredom"})
    )
    assert isinstance(record, Event)
    assert (record.event, record.cause) == ("moon_landed", "boredom")


@pytest.mark.parametrize(
    "topic",
    [
        "digifinex.bridge-state",
        "digifinex.trades.v2",
        "digifinex.trades",
        "trades",
        "",
        "x.trades.v1.v2",
        "x..v1",
    ],
)
def test_a_topic_that_has_no_records_of_v1_is_refused(topic: str) -> None:
    with pytest.raises(NotARecord, match="is not a topic of records in v1"):
        decode(topic, encoded(example("trades")))


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"[]",
        b"\x00",
        CONFLUENT,
        CONFLUENT[:3] + encoded(example("trades")),
        b"\x00" + CONFLUENT + encoded(example("trades")),
        b'{"schema":"\xff"}',
        b"[" * 100_000,
        encoded(example("depth")),
        encoded(example("trades") | {"price": "x"}),
        encoded(example("trades") | {"schema": "digifinex.trades.v2"}),
        encoded({name: value for name, value in example("trades").items() if name != "id"}),
    ],
)
def test_a_value_that_is_no_record_of_its_topic_is_refused(value: bytes) -> None:
    with pytest.raises(NotARecord, match=r"a message on digifinex\.trades\.v1 is not a record: "):
        decode("digifinex.trades.v1", value)


def test_a_tombstone_is_none_and_only_on_a_topic_of_records() -> None:
    assert decode("digifinex.book.v1", None) is None
    with pytest.raises(NotARecord, match="is not a topic of records in v1"):
        decode("digifinex.bridge-state", None)


@given(st.sampled_from(sorted(RECORDS)), st.binary())
def test_any_bytes_are_a_record_or_are_refused(name: str, value: bytes) -> None:
    with pytest.raises(NotARecord):
        decode(f"digifinex.{name}.v1", value)
