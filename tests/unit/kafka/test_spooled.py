"""Only what the bridge itself can have spooled is sent: for its topics, and partitions that they had."""

import json
from pathlib import Path
from typing import Any

import pytest

from bridge.config import KafkaConfig
from bridge.kafka.spooled import own_entries
from bridge.kafka.topics import Topic, topic_name
from bridge.records import DEADLETTER, EVENTS, PRIVATE_DEADLETTER, STATE, Record
from bridge.seen import Seen, SeenTopic

ROOT = Path(__file__).parents[3]
CONFIG = KafkaConfig(topic_prefix="md", partitions=4)
TOPICS = {
    channel: Topic(topic_name(CONFIG, channel), partitions, 1_000_000)
    for channel, partitions in {"trades": 4, DEADLETTER: 4, EVENTS: 4, STATE: 1}.items()
}
is_own = own_entries(CONFIG, lambda: TOPICS)


DEPTH: dict[str, Any] = {
    "session": "s1",
    "seq": 0,
    "received_us": 1,
    "symbol": "BTC_USDT",
    "snapshot": True,
    "asks": [["2", "1.50"], ["3e-8", "-0"]],
    "bids": [],
}


WRONG: list[dict[str, Any]] = [
    {"seq": "0"},
    {"asks": [["2"]]},
    {"asks": [["2", "1", "1"]]},
    {"asks": None},
    {"bids": [["1", "sNaN"]]},
    *({"bids": [[price, "1"]]} for price in ("x", "", " 1", "1\n", "1_0", "NaN", "Infinity", "１", '1","')),
]


def record(channel: str, time_us: int = 1) -> Record:
    return Record(channel, b"BTC_USDT", json.dumps(DEPTH).encode() if channel == "depth" else b"{}", time_us)


@pytest.mark.parametrize("channel", ["trades", DEADLETTER, EVENTS, "depth", "order", PRIVATE_DEADLETTER])
def test_records_of_every_channel_are_own_also_when_it_is_not_configured_any_more(channel: str) -> None:
    assert is_own((f"{topic_name(CONFIG, channel)}/3", record(channel)))


@pytest.mark.parametrize(
    ("place", "channel"),
    [
        ("payments/0", "trades"),
        ("md.order.v1/0", "order"),
        ("md.deadletter.v1/0", PRIVATE_DEADLETTER),
        ("md.trades.v1", "trades"),
        ("md.trades.v1/", "trades"),
        ("md.trades.v1/4", "trades"),
        ("md.trades.v1/" + "9" * 5000, "trades"),
        ("md.trades.v1/-1", "trades"),
        ("md.trades.v1/00", "trades"),
        ("md.trades.v1/٣", "trades"),
        ("md.trades.v1/x", "trades"),
        ("md.depth.v1/0", "trades"),
        ("md.bridge-state/0", STATE),
        ("payments.v1/0", "payments"),
        ("other.trades.v1/0", "trades"),
        ("", ""),
    ],
)
def test_other_topics_and_partitions_are_not(place: str, channel: str) -> None:
    assert not is_own((place, record(channel)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"BTC_USDT", b"{}"),
        (b"BTC_USDT", b""),
        (b"BTC_USDT", b"[" * 100_000),
        (b"BTC_USDT", b"\xff"),
        (b"\xff", json.dumps(DEPTH).encode()),
        (b"OTHER_USDT", json.dumps(DEPTH).encode()),
        (None, json.dumps(DEPTH).encode()),
        *((b"BTC_USDT", json.dumps(DEPTH | changed).encode()) for changed in WRONG),
    ],
)
def test_what_is_no_record_of_depth_is_not_taken_for_one(key: bytes | None, value: bytes) -> None:
    """A book would stop the shard with it, or show it to consumers."""
    assert not is_own(("md.depth.v1/0", Record("depth", key, value, 1)))


def test_what_the_normaliser_makes_of_depth_is_own() -> None:
    for path in sorted((ROOT / "tests" / "golden" / "depth").glob("*.json")):
        for made in json.loads(path.read_text())["records"]:
            value = Record("depth", made["symbol"].encode(), json.dumps(made).encode(), 1)
            assert is_own(("md.depth.v1/0", value)), path.name


def test_a_partition_that_a_topic_has_no_more_is_own() -> None:
    """Its records go to another one: the topic was deleted and created again with fewer."""
    topics = dict(TOPICS)
    entry = ("md.trades.v1/11", record("trades"))
    seen = Seen("cluster", {"md.trades.v1": SeenTopic("id", 12)})
    assert not own_entries(CONFIG, lambda: topics)(entry)
    assert own_entries(CONFIG, lambda: topics, lambda: seen)(entry)
    topics["trades"] = Topic("md.trades.v1", 12, 1_000_000)
    while_running = own_entries(CONFIG, lambda: topics)
    topics["trades"] = TOPICS["trades"]
    assert while_running(entry)
    assert not while_running(("md.trades.v1/12", record("trades")))
    assert TOPICS["trades"].existing(11) == 3


@pytest.mark.parametrize("time_us", [-1, 2**53, 2**64 - 1])
def test_times_that_kafka_has_no_room_for_are_not(time_us: int) -> None:
    assert not is_own(("md.trades.v1/0", record("trades", time_us)))
