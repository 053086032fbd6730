"""What must hold for records on Kafka, whatever went wrong on the way."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from bridge.channels import PRIVATE
from bridge.records import DEADLETTER, EVENTS, Record
from tests.support.consumers import ReadRecord, read_topic
from tests.support.kafka_broker import Broker
from tests.support.schemas import validate


def topics_of(prefix: str, channel: str) -> list[str]:
    """Return the topics that the records of a channel may be on; of events and dead letters there are two."""
    if channel in (EVENTS, DEADLETTER):
        return [f"{prefix}.{channel}.v1", f"private.{prefix}.{channel}.v1"]
    return [f"private.{prefix}.{channel}.v1" if channel in PRIVATE else f"{prefix}.{channel}.v1"]


def records_of(kafka: Broker, prefix: str, channel: str) -> list[ReadRecord]:
    """Return the records of a channel, read by confluent-kafka and each validated."""
    records = [one for topic in topics_of(prefix, channel) for one in read_topic(kafka.bootstrap, topic)]
    for record in records:
        received_us = record.json["received_us"]
        validate(Record(channel, record.key, record.value, received_us))
        assert record.timestamp_ms == received_us // 1000
    return records


def trade_ids(kafka: Broker, prefix: str) -> dict[str, list[int]]:
    """Return the ids of each symbol's trades, in order, without validating the records."""
    ids: defaultdict[str, list[int]] = defaultdict(list)
    for record in read_topic(kafka.bootstrap, f"{prefix}.trades.v1"):
        ids[record.json["symbol"]].append(record.json["id"])
    return dict(ids)


def by_symbol(records: Sequence[ReadRecord]) -> dict[str, list[dict[str, Any]]]:
    """Return the JSON of the records by symbol or currency, in order."""
    series: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        assert record.key is not None
        series[record.key.decode()].append(record.json)
    return dict(series)


def assert_no_hole(records: Sequence[ReadRecord]) -> None:
    """Assert that `seq` counts from 0 without a hole, for each session and symbol."""
    expected: defaultdict[tuple[str, str], int] = defaultdict(int)
    for symbol, series in by_symbol(records).items():
        for one in series:
            assert one["seq"] == expected[symbol, one["session"]], one
            expected[symbol, one["session"]] += 1


def assert_trades_are(records: Sequence[ReadRecord], made: dict[str, list[dict[str, Any]]]) -> None:
    """Assert that from the first trade on each one is there once, in order, with its figures."""
    assert_no_hole(records)
    found = by_symbol(records)
    assert found.keys() == made.keys()
    for symbol, trades in made.items():
        kept = [(one["id"], one["price"], one["amount"], one["side"]) for one in found[symbol]]
        since = [one for one in trades if one["id"] >= kept[0][0]]
        assert kept == [(one["id"], one["price"], one["amount"], one["type"]) for one in since]


def assert_trades_are_at_least(
    records: Sequence[ReadRecord], made: dict[str, list[dict[str, Any]]], twice: int = 20
) -> None:
    """Assert that from the first trade on none is missing, and at most `twice` of a symbol are repeated."""
    found = by_symbol(records)
    assert found.keys() == made.keys()
    for symbol, series in found.items():
        ids = Counter(one["id"] for one in series)
        assert sorted(ids) == [one["id"] for one in made[symbol] if one["id"] >= min(ids)]
        assert ids.total() - len(ids) <= twice


def gaps_of(kafka: Broker, prefix: str, channel: str) -> list[dict[str, Any]]:
    """Return the gaps of a channel that the bridge has reported."""
    events = [record.json for record in records_of(kafka, prefix, "events")]
    return [one for one in events if (one["event"], one["channel"]) == ("gap", channel)]


def assert_trades_are_but_for_gaps(
    records: Sequence[ReadRecord], made: Mapping[str, list[dict[str, Any]]], gaps: Sequence[Mapping[str, Any]]
) -> None:
    """Assert that each trade is there once, in order, or inside a reported gap."""
    assert_no_hole(records)
    assert_gaps_cover_what_is_missing(records, made, gaps)


def assert_gaps_cover_what_is_missing(
    records: Sequence[ReadRecord], made: Mapping[str, list[dict[str, Any]]], gaps: Sequence[Mapping[str, Any]]
) -> None:
    """Assert the same, except for holes in `seq`, which damage to the spool leaves."""
    found = by_symbol(records)
    for symbol, trades in made.items():
        ids = [one["id"] for one in found[symbol]]
        assert ids == sorted(set(ids)), symbol
        mine = [(one["after_id"], one["before_id"]) for one in gaps if one["symbol"] == symbol]
        missing = [
            one["id"] for one in trades if ids[0] <= one["id"] <= ids[-1] and one["id"] not in set(ids)
        ]
        for trade_id in missing:
            assert any(after < trade_id < before for after, before in mine), (symbol, trade_id)
        for after, before in mine:
            assert after in ids
            assert ids[ids.index(after) + 1] == before


def assert_books_are(
    records: Sequence[ReadRecord], books: dict[str, tuple[dict[str, str], dict[str, str]]]
) -> None:
    """Assert that the books built from snapshots and deltas equal those of the exchange."""
    for symbol, series in by_symbol(records).items():
        book: dict[str, dict[str, str]] = {"asks": {}, "bids": {}}
        for one in series:
            for side, levels in book.items():
                if one["snapshot"]:
                    levels.clear()
                for price, amount in one[side]:
                    levels[price] = amount
                    if float(amount) == 0:
                        del levels[price]
        assert (book["asks"], book["bids"]) == books[symbol], symbol
