"""The topic of books: whoever joins late has the exchange's book at every later record of depth."""

import random
import signal
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bridge.consumer import Book, BookRecord, Continuity, Depth, decode
from bridge.records import Record
from bridge.simulator import Faults
from tests.support.checks import assert_books_are
from tests.support.consumers import ReadRecord, create_topic, read_topic, setting_of
from tests.support.exchange import ExchangeThread, books
from tests.support.kafka_broker import Broker
from tests.support.process import SYMBOLS, RunningBridge, config
from tests.support.schemas import validate
from tests.support.waiting import eventually

JOINS = 200
Sides = tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]]


def settings(url: str, kafka: Broker, prefix: str, delivery: str, **book: Any) -> dict[str, Any]:
    return config(
        url,
        kafka,
        prefix,
        {
            "channels": {"book": ["*"]},
            "book": {"interval": 0.2, **book},
            "kafka": {"delivery": delivery, "partitions": 3},
            # Many rotations.
            "exchange": {"max_session_age": 4.0},
        },
    )


def records(kafka: Broker, prefix: str, channel: str) -> list[ReadRecord]:
    found = read_topic(kafka.bootstrap, f"{prefix}.{channel}.v1")
    for one in found:
        if one.value:
            validate(Record(channel, one.key, one.value, one.json["received_us"]))
            assert one.timestamp_ms == one.json["received_us"] // 1000
    return found


def newest_books(kafka: Broker, prefix: str) -> dict[bytes | None, bytes]:
    """Return the newest value of each key, as a compacted topic keeps them; empty: a tombstone."""
    return {one.key: one.value for one in read_topic(kafka.bootstrap, f"{prefix}.book.v1")}


def place(record: Depth) -> tuple[str, int]:
    return record.session, record.seq


def join(whole: ReadRecord, depth: list[ReadRecord], truth: dict[tuple[str, int], Sides]) -> int:
    """Begin with a record of book, and with depth from its time on, as the document says.

    Assert that the book is right at every record from then on; return how many records were applied.
    """
    book, applied = Book(), 0
    start = decode("x.book.v1", whole.value)
    assert isinstance(start, BookRecord)
    assert book.apply(start)
    assert (book.asks, book.bids) == truth[start.depth_session, start.depth_seq]
    since = next(n for n, one in enumerate(depth) if one.timestamp_ms >= start.received_us // 1000)
    joined = False
    for one in depth[since:]:
        record = decode("x.depth.v1", one.value)
        assert isinstance(record, Depth)
        complete = book.apply(record)
        joined = joined or place(record) == (start.depth_session, start.depth_seq)
        if joined:
            assert complete
            assert (book.asks, book.bids) == truth[book.session, book.seq]
            applied += 1
    assert joined
    return applied


def assert_late_joiners_have_the_book(kafka: Broker, prefix: str) -> None:
    depth: defaultdict[bytes, list[ReadRecord]] = defaultdict(list)
    truth: dict[bytes, dict[tuple[str, int], Sides]] = defaultdict(dict)
    follower: defaultdict[bytes, Book] = defaultdict(Book)
    for one in records(kafka, prefix, "depth"):
        assert one.key
        depth[one.key].append(one)
        record = decode("x.depth.v1", one.value)
        assert isinstance(record, Depth)
        book = follower[one.key]
        assert book.apply(record)
        truth[one.key][book.session, book.seq] = dict(book.asks), dict(book.bids)
    wholes = records(kafka, prefix, "book")
    assert {one.key for one in wholes} == {symbol.encode() for symbol in SYMBOLS}
    rng = random.Random(1)
    joins = [rng.choice(wholes) for _ in range(JOINS)]
    for one in joins:
        assert one.key
        assert join(one, depth[one.key], truth[one.key])
    continuity = Continuity()
    for one in wholes:
        whole = decode("x.book.v1", one.value)
        assert isinstance(whole, BookRecord)
        assert not continuity.check(whole).missing


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_a_late_joiner_has_the_book_across_rotations_lost_connections_and_kills(
    kafka: Broker, prefix: str, tmp_path: Path, delivery: str
) -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=300, faults=Faults(drop=5.0, clean_again=0.02)) as exchange:
        setting = settings(exchange.url, kafka, prefix, delivery)
        for run in range(3):
            before = exchange.truth.counts()["depth"]
            (tmp_path / str(run)).mkdir()
            with RunningBridge(tmp_path / str(run), setting) as bridge:
                bridge.wait_ready()
                eventually(lambda: exchange.truth.counts()["depth"] > before + 400, 60, "depth")  # noqa: B023
                if run < 2:
                    bridge.process.send_signal(signal.SIGKILL)
                    bridge.process.wait()
                else:
                    exchange.quiesce()
                    assert bridge.stop() == 0
        assert_late_joiners_have_the_book(kafka, prefix)
        assert_books_are(read_topic(kafka.bootstrap, f"{prefix}.depth.v1"), books(exchange))


def test_a_killed_broker_leaves_no_book_ahead_of_its_depth(
    own_kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """Transactions are aborted and repeated, and what was received meanwhile comes from the spool."""
    with ExchangeThread(symbols=SYMBOLS, rate=300) as exchange:
        setting = settings(exchange.url, own_kafka, prefix, "exactly-once")
        setting["kafka"]["max_pending_bytes"] = 65536
        with RunningBridge(tmp_path, setting) as bridge:
            bridge.wait_ready()
            eventually(lambda: bridge.metric("records_total", channel="book") > 10, 60, "books")
            own_kafka.kill()
            before = exchange.truth.counts()["depth"]
            eventually(lambda: exchange.truth.counts()["depth"] > before + 500, 60, "an outage")
            own_kafka.start()
            exchange.quiesce()
            eventually(lambda: bridge.metric("oldest_pending_seconds") == 0, 120, "an empty spool")
            assert bridge.stop() == 0
        assert_late_joiners_have_the_book(own_kafka, prefix)
        assert_books_are(read_topic(own_kafka.bootstrap, f"{prefix}.depth.v1"), books(exchange))


def test_a_market_that_is_not_configured_any_more_has_a_tombstone(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=200) as exchange:
        setting = settings(exchange.url, kafka, prefix, "exactly-once")
        for number, symbols in enumerate((SYMBOLS, SYMBOLS[:1])):
            setting["channels"]["book"] = symbols
            (tmp_path / str(number)).mkdir()
            with RunningBridge(tmp_path / str(number), setting) as bridge:
                bridge.wait_ready()
                # Of the second run, with two tombstones.
                enough = len(symbols) + 2 * number
                eventually(lambda: bridge.metric("records_total", channel="book") > enough, 60, "books")  # noqa: B023
                assert bridge.stop() == 0
    newest = newest_books(kafka, prefix)
    assert {key for key, value in newest.items() if not value} == {name.encode() for name in SYMBOLS[1:]}
    assert newest[SYMBOLS[0].encode()]
    assert setting_of(kafka.bootstrap, f"{prefix}.book.v1", "cleanup.policy") == "compact"


def test_a_market_that_is_not_listed_any_more_has_a_tombstone(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=200) as exchange:
        setting = settings(exchange.url, kafka, prefix, "exactly-once")
        setting["channels"] = {"depth": ["*"], "book": ["*"], "all_ticker": True}
        with RunningBridge(tmp_path, setting) as bridge:
            bridge.wait_ready()
            eventually(lambda: len(newest_books(kafka, prefix)) == len(SYMBOLS), 60, "books")
            exchange.call(exchange.simulator.market.delist_market, SYMBOLS[1])
            exchange.call(exchange.simulator.drop)
            gone = SYMBOLS[1].encode()
            eventually(lambda: not newest_books(kafka, prefix)[gone], 120, "a tombstone")
            assert bridge.stop() == 0
    newest = newest_books(kafka, prefix)
    assert [key for key, value in newest.items() if not value] == [gone]


def test_a_book_that_is_too_large_for_its_topic_is_reported_once(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    create_topic(kafka.bootstrap, f"{prefix}.book.v1", 3, cleanup_policy="compact", max_message_bytes="600")
    with ExchangeThread(symbols=SYMBOLS[:1], rate=200) as exchange:
        setting = settings(exchange.url, kafka, prefix, "exactly-once")
        setting["channels"] = {"depth": SYMBOLS[:1], "book": SYMBOLS[:1]}
        with RunningBridge(tmp_path, setting) as bridge:
            bridge.wait_ready()
            eventually(lambda: bridge.metric("events_total", event="book_too_large") > 0, 60, "the event")
            before = bridge.metric("records_total", channel="depth")
            eventually(lambda: bridge.metric("records_total", channel="depth") > before + 200, 60, "depth")
            assert bridge.stop() == 0
    events = [one.json for one in read_topic(kafka.bootstrap, f"{prefix}.events.v1")]
    (event,) = (one for one in events if one["event"] == "book_too_large")
    assert (event["channel"], event["symbol"]) == ("book", SYMBOLS[0])
    assert "too large" in event["detail"]
    assert not read_topic(kafka.bootstrap, f"{prefix}.book.v1")
