"""The topic of books: whoever joins late has the exchange's book at every later record of depth."""

import random
from collections import defaultdict
from contextlib import ExitStack
from itertools import count, dropwhile
from pathlib import Path
from typing import Any

from bridge.books.doubts import RESULTS
from bridge.consumer import Book, BookRecord, Continuity, Depth, decode
from bridge.records import Record
from bridge.simulator import Faults, Setup
from tests.support.checks import assert_books_are
from tests.support.consumers import ReadRecord, create_topic, read_topic, setting_of
from tests.support.exchange import ExchangeThread, books
from tests.support.joiners import Joiners, content, true_books
from tests.support.kafka_broker import Broker
from tests.support.process import SYMBOLS, RunningBridge, config
from tests.support.schemas import validate
from tests.support.waiting import eventually

JOINS = 200
LIVE = 12  # consumers that join while the bridges run, each all symbols
FOLLOWED = 300  # records of each symbol that those follow, if there are so many
DELIVERIES = ("exactly-once", "at-least-once")


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


class Recorded:
    """What is on the topics, with the exchange's book at each record of depth."""

    def __init__(self, kafka: Broker, prefix: str, exchange: ExchangeThread) -> None:
        self.books = [_book(one) for one in records(kafka, prefix, "book")]
        self.depth: defaultdict[str, list[Depth]] = defaultdict(list)
        for one in records(kafka, prefix, "depth"):
            record = decode("x.depth.v1", one.value)
            assert isinstance(record, Depth)
            self.depth[record.symbol].append(record)
        versions = exchange.truth.versions
        self.truth = {symbol: true_books(series, versions[symbol]) for symbol, series in self.depth.items()}
        assert self.truth.keys() == set(SYMBOLS)

    def join(self, whole: BookRecord) -> int:
        """Begin with a record of book, and with depth from its time on, as the document says.

        Assert that the book is the exchange's at every record; return how many followed.
        """
        book, truth = Book(), self.truth[whole.symbol]
        assert book.apply(whole)
        assert content(book.asks, book.bids) == truth[whole.depth_session, whole.depth_seq]
        assert (book.session, book.seq) == (whole.depth_session, whole.depth_seq)
        since_ms = whole.received_us // 1000
        later = dropwhile(lambda one: one.received_us // 1000 < since_ms, self.depth[whole.symbol])
        followed = 0
        for record in later:
            assert book.apply(record)
            assert content(book.asks, book.bids) == truth[book.session, book.seq]
            followed += (book.session, book.seq) == (record.session, record.seq)
        last = self.depth[whole.symbol][-1]
        assert (book.session, book.seq) == (last.session, last.seq)
        return followed


def _book(one: ReadRecord) -> BookRecord:
    record = decode("x.book.v1", one.value)
    assert isinstance(record, BookRecord)
    return record


def assert_late_joiners_have_the_exchanges_book(recorded: Recorded, live: Joiners) -> None:
    for symbol, place, found in live.seen:
        assert found == recorded.truth[symbol][place], (symbol, place)
    assert live.joins
    rng = random.Random(1)
    for _ in range(live.joins, JOINS // len(DELIVERIES)):
        assert recorded.join(rng.choice(recorded.books))
    continuity = Continuity()
    for whole in recorded.books:
        assert not continuity.check(whole).missing


def test_a_late_joiner_has_the_exchanges_book_across_rotations_takeovers_and_kills(
    own_kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """Bridges with both deliveries run at once, on sessions that are rotated and lost.

    A replica of each is killed and the other one takes over. Later the broker is killed: transactions are
    aborted and repeated, and what was received meanwhile comes from the spool. Consumers join all the time.
    """
    setup, faults = Setup(keep_books=True), Faults(clean_again=0.02)
    with ExitStack() as stack:
        exchange = stack.enter_context(ExchangeThread(symbols=SYMBOLS, rate=200, faults=faults, setup=setup))

        def more(number: int) -> None:
            enough = exchange.truth.counts()["depth"] + number
            eventually(lambda: exchange.truth.counts()["depth"] > enough, 60, "depth")

        prefixes = {delivery: f"{prefix}.{delivery}" for delivery in DELIVERIES}
        started = count()

        def start(delivery: str) -> RunningBridge:
            setting = settings(exchange.url, own_kafka, prefixes[delivery], delivery)
            setting["kafka"] |= {"shards": 2, "session_timeout": 3.0, "max_pending_bytes": 65536}
            folder = tmp_path / str(next(started))
            folder.mkdir()
            return stack.enter_context(RunningBridge(folder, setting))

        bridges = [(start(delivery), start(delivery)) for delivery in DELIVERIES]
        for pair in bridges:
            eventually(lambda: [shards(one) for one in pair] == [1, 1], 60, "a shard each")  # noqa: B023
        live = [
            stack.enter_context(Joiners(own_kafka.bootstrap, name, SYMBOLS, most=LIVE // 2, records=FOLLOWED))
            for name in prefixes.values()
        ]
        more(300)
        exchange.call(exchange.simulator.drop)
        more(300)
        for _, killed in bridges:
            killed.process.kill()
            killed.process.wait()
        for survivor, _ in bridges:
            eventually(lambda: shards(survivor) == 2, 60, "both shards")  # noqa: B023
            survivor.wait_ready(60)
        more(300)
        own_kafka.kill()
        more(400)
        own_kafka.start()
        for survivor, _ in bridges:
            eventually(lambda: survivor.metric("reconnects_total", reason="rotated"), 60, "a rotation")  # noqa: B023
        more(400)
        exchange.quiesce()
        for survivor, _ in bridges:
            eventually(lambda: not survivor.metric("oldest_pending_seconds"), 120, "all on Kafka")  # noqa: B023
            checks = {one: survivor.metric("book_checks_total", result=one) for one in RESULTS}
            assert checks.pop("equal") > 0
            assert not any(checks.values()), checks
            assert survivor.stop() == 0
        for joiners in live:
            joiners.close()
        for delivery, joiners in zip(DELIVERIES, live, strict=True):
            recorded = Recorded(own_kafka, prefixes[delivery], exchange)
            assert_late_joiners_have_the_exchanges_book(recorded, joiners)
            depth = read_topic(own_kafka.bootstrap, f"{prefixes[delivery]}.depth.v1")
            if delivery == "exactly-once":
                assert_books_are(depth, books(exchange))


def shards(bridge: RunningBridge) -> int:
    """Return how many shards a bridge serves."""
    return int(bridge.metric("shard_owned"))


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
            eventually(lambda: tombstones(kafka, prefix) == SYMBOLS[1:2], 120, "a tombstone")
            assert bridge.stop() == 0
        exchange.call(exchange.simulator.market.delist_market, SYMBOLS[2])
        (tmp_path / "later").mkdir()
        with RunningBridge(tmp_path / "later", setting, module="tests.support.short_hour") as bridge:
            eventually(
                lambda: tombstones(kafka, prefix) == SYMBOLS[1:], 120, "one for what happened meanwhile"
            )
            assert bridge.stop() == 0


def tombstones(kafka: Broker, prefix: str) -> list[str]:
    """Return the symbols whose newest record of book is a tombstone."""
    newest = newest_books(kafka, prefix)
    return [symbol for symbol in SYMBOLS if newest.get(symbol.encode()) == b""]


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
