"""The checks of books on real sessions, without Kafka: what they look at, wait for and request."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from bridge.book_checks import BookChecks
from bridge.books.present import PresentBooks
from bridge.config import ExchangeConfig, KafkaConfig
from bridge.kafka.queues import Queues
from bridge.kafka.state import ShardState
from bridge.kafka.topics import Topic
from bridge.pipeline import Pipeline
from bridge.records import DEADLETTER, EVENTS, STATE, Record
from bridge.simulator import Dialect, Faults, Simulator
from bridge.simulator.dialects import DOCUMENTED
from bridge.simulator.market import Market, price_text
from bridge.spool.overflow import Overflow
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.watch.watch import Watch
from bridge.websocket.connector import Connector
from bridge.websocket.courtesy import Courtesy
from bridge.websocket.rotation import NODE_LAG
from tests.support.waiting import soon

SYMBOLS = ["BTC_USDT", "ETH_USDT"]
KEY = SYMBOLS[0].encode()
PATIENCE = 0.1  # seconds
TICKERS_PATIENCE = 6 * PATIENCE
EACH = 0.5  # seconds
CHANNELS = ("depth", "ticker", "all_ticker")


class Checked:
    """A connector of two markets whose depth becomes books at once, and the checks of these.

    While `waits` is true, depth waits for Kafka instead.
    """

    def __init__(self, exchange: Simulator, *, each: float = EACH, **settings: Any) -> None:
        self.exchange = exchange
        self.waits = False
        self.events: list[dict[str, Any]] = []
        metrics = Metrics()
        config = ExchangeConfig(
            url=exchange.url, **({"ping_interval": 0.05, "reply_timeout": 5.0} | settings)
        )
        topics = {name: Topic(name, 1, 1_000_000) for name in (*CHANNELS, EVENTS, DEADLETTER, STATE)}
        state = ShardState(KafkaConfig(), topics[STATE], 0, "replica")
        overflow = Overflow(None, "replica", 0, state.watermarks)
        self.queues = Queues(
            topics, state, overflow, metrics, max_pending_bytes=1_000_000, on_change=lambda: None
        )
        watch = Watch("0", metrics, Journal("replica", 0, self._note, metrics))
        self.present = PresentBooks(
            wanted=None, levels=0, interval_us=0, patience_us=round(PATIENCE * 1_000_000)
        )
        pipeline = Pipeline(
            wanted=CHANNELS, emit=self._emit, watermarks=state.watermarks, watch=watch, on_markets=None
        )
        self.connector = Connector(
            {"depth": SYMBOLS, "ticker": SYMBOLS, "all_ticker": []},
            config=config,
            courtesy=Courtesy.of(config),
            receiver=pipeline,
            watch=watch,
        )
        self.checks = BookChecks(self.present, self.queues, [self.connector], watch, each=each)
        self.connector.sessions.books = self.checks
        self.market: Market = exchange.market.markets[SYMBOLS[0]]

    @property
    def requests(self) -> int:
        """How many subscribe requests for depth the exchange has had."""
        return self.exchange.requests["depth.subscribe"]

    def found(self, check: str) -> bool:
        """Look; return whether this was found."""
        self.look()
        return any(one["event"] == "book_suspect" and one["check"] == check for one in self.events)

    def look(self) -> bool:
        """Look as the shard does; return True."""
        list(self.present.due(time.time_ns() // 1000))
        self.checks.look()
        return True

    async def looked_for(self, seconds: float) -> None:
        """Look again and again for so long."""
        end = time.monotonic() + seconds
        await soon(lambda: self.look() and time.monotonic() > end, 60, "time")

    def cross(self) -> None:
        """Let a change bring a bid that nobody has made, at the price of the best ask."""
        self.push({"asks": [], "bids": [[price_text(self.market.best_ask), "1"]]})

    def uncross(self) -> None:
        """Let a change take it back."""
        self.push({"asks": [], "bids": [[price_text(self.market.best_ask), "0"]]})

    def push(self, levels: object) -> None:
        self.exchange.push("depth", [False, levels, SYMBOLS[0]])

    def tick(self, channel: str) -> bool:
        """Let a ticker of the market come; return True."""
        self.exchange.push(channel, [self.market.ticker(time.time())])
        return True

    def lose_the_best_ask(self) -> None:
        """Let it be removed at the exchange, which does not push that."""
        del self.market.asks[self.market.best_ask]

    def _emit(self, records: Sequence[Record]) -> Sequence[Record]:
        depth = [one for one in records if one.channel == "depth"]
        if self.waits:
            return self.queues.add(depth)
        self.present.take(depth)
        return ()

    def _note(self, records: Sequence[Record]) -> Sequence[Record]:
        self.events += [json.loads(one.value) for one in records]
        return ()


@asynccontextmanager
async def checked(dialect: Dialect = DOCUMENTED, **settings: Any) -> AsyncIterator[Checked]:
    """Run the connector, on an exchange on which nothing happens by itself, until both books are known."""
    async with Simulator(symbols=SYMBOLS, rate=0, dialect=dialect) as exchange:
        one = Checked(exchange, **settings)
        running = asyncio.create_task(one.connector.run())
        try:
            await soon(
                lambda: all(exchange.requests[f"{name}.subscribe"] for name in CHANNELS), 20, "requests"
            )
            await soon(lambda: all(one.present.keeps(name.encode()) for name in SYMBOLS), 20, "books")
            yield one
        finally:
            running.cancel()
            await asyncio.wait({running})


def test_a_quiet_book_that_stays_crossed_is_requested_until_a_snapshot_mends_it() -> None:
    async def scenario() -> None:
        async with checked(reply_timeout=1.0) as one:
            requests = one.requests
            one.exchange.spoil("depth", SYMBOLS[0], "missing")
            one.cross()
            await soon(lambda: one.found("crossed"), 20, "the crossed book")
            assert one.checks.suspects.total() == 1
            await soon(lambda: one.look() and not one.checks.suspects, 20, "a snapshot")
            assert one.requests >= requests + 2, "again, since the first one brought none"
            assert one.found("different")

    uvloop.run(scenario())


def test_a_request_for_one_book_replaces_no_other_subscription() -> None:
    """It names all markets of the channel, since a request may replace the one before it."""

    async def scenario() -> None:
        async with checked(Dialect(adds="replaces")) as one:
            one.cross()
            await soon(lambda: one.found("different"), 20, "its snapshot")
            other = one.exchange.market.markets[SYMBOLS[1]]
            level = [price_text(other.best_ask), "0.1234"]
            one.exchange.push("depth", [False, {"asks": [level], "bids": []}, SYMBOLS[1]])
            kept = one.present._kept[SYMBOLS[1].encode()]
            await soon(lambda: "0.1234" in kept.book.view().asks, 20, "a change of the other market")
            one.lose_the_best_ask()
            one.tick("ticker")
            await soon(lambda: one.look() and one.present.doubts.by_key, 20, "a ticker")

    uvloop.run(scenario())


@pytest.mark.parametrize("channel", ["ticker", "all_ticker"])
def test_tickers_of_either_channel_show_a_best_price_that_is_wrong(channel: str) -> None:
    async def scenario() -> None:
        async with checked() as one:
            one.lose_the_best_ask()
            await soon(lambda: one.tick(channel) and one.found("ticker"), 20, "disagreement")

    uvloop.run(scenario())


def test_one_ticker_proves_nothing_however_often_it_is_looked_at() -> None:
    async def scenario() -> None:
        async with checked() as one:
            one.lose_the_best_ask()
            one.tick("ticker")
            await soon(lambda: one.look() and one.present.doubts.by_key, 20, "the disagreement")
            await one.looked_for(2 * TICKERS_PATIENCE)
            assert not one.found("ticker")

    uvloop.run(scenario())


def test_tickers_without_best_prices_and_of_no_market_that_has_a_book_say_nothing() -> None:
    async def scenario() -> None:
        async with checked() as one:
            ticker = one.market.ticker(time.time())
            prices = [None, "", "-", "0", "0.00"]
            end = time.monotonic() + 2 * TICKERS_PATIENCE

            def tick() -> bool:
                for price in prices:
                    shown = {**ticker, "best_ask": price, "best_bid": price}
                    one.exchange.push("ticker", [shown])
                    one.exchange.push("all_ticker", [{**shown, "symbol": "NOBODY_USDT", "best_ask": "1"}])
                one.look()
                return time.monotonic() > end

            await soon(tick, 60, "time")
            assert not [event for event in one.events if event["event"] == "book_suspect"]
            assert not one.present.doubts.by_key

    uvloop.run(scenario())


def test_books_that_are_behind_are_not_compared_with_tickers() -> None:
    """The market has moved on, but the changes wait for Kafka: tickers show what the books will be."""

    async def scenario() -> None:
        async with checked() as one:
            price = one.market.best_ask
            one.lose_the_best_ask()
            one.tick("ticker")
            await soon(lambda: one.look() and one.present.doubts.by_key, 20, "a first disagreement")
            one.waits = True
            one.push({"asks": [[price_text(price), "0"]], "bids": []})
            await soon(lambda: one.queues.oldest_us, 20, "a record that waits")
            end = time.monotonic() + 1.0 + 2 * TICKERS_PATIENCE
            await soon(lambda: one.tick("ticker") and one.look() and time.monotonic() > end, 60, "time")
            assert not one.found("ticker")
            assert not one.present.doubts.by_key

    uvloop.run(scenario())


def test_a_book_is_not_crossed_for_longer_than_what_is_known_of_it() -> None:
    """What waits for Kafka may uncross it."""

    async def scenario() -> None:
        async with checked() as one:
            one.waits = True
            one.push({"asks": [], "bids": []})
            await soon(lambda: one.queues.oldest_us, 20, "a record that waits")
            one.present.doubts.note_crossed(KEY, session_of(one), time.time_ns() // 1000)
            await one.looked_for(3 * PATIENCE)
            assert not one.found("crossed")

    uvloop.run(scenario())


def test_a_book_is_not_crossed_for_longer_than_its_session_was_heard() -> None:
    """The change that uncrosses it may be on its way."""

    async def scenario() -> None:
        async with checked(reply_timeout=40.0) as one:
            one.exchange.mute()
            one.present.doubts.note_crossed(KEY, session_of(one), time.time_ns() // 1000)
            await one.looked_for(3 * PATIENCE)
            assert not one.found("crossed")

    uvloop.run(scenario())


def test_a_missing_book_is_requested_unless_its_snapshot_may_wait_for_kafka() -> None:
    async def scenario() -> None:
        async with checked(each=1.5) as one:
            one.present.missing[KEY] = session_of(one)
            one.waits = True
            one.push({"asks": [], "bids": []})
            await soon(lambda: one.queues.oldest_us, 20, "a record that waits")
            requests = one.requests
            await one.looked_for(2.0)
            assert one.requests == requests
            one.queues.places.clear()
            await soon(lambda: one.look() and one.requests > requests, 20, "a request")

    uvloop.run(scenario())


def test_a_market_that_is_crossed_at_the_exchange_is_requested_ever_less_often() -> None:
    async def scenario() -> None:
        async with checked(reply_timeout=1.0) as one:
            requests, begun = one.requests, time.monotonic()
            one.market.bids[one.market.best_ask] = 10_000
            one.cross()
            await soon(lambda: one.found("crossed"), 20, "the crossed book")
            await soon(lambda: one.look() and one.requests == requests + 2, 20, "a second request")
            assert time.monotonic() - begun >= 4 * EACH

    uvloop.run(scenario())


def session_of(one: Checked) -> str:
    feed = one.connector.sessions.in_use
    assert feed is not None
    return feed.source.session


class Noted:
    """What sessions report of their rotations, and when, in monotonic seconds."""

    def __init__(self) -> None:
        self.all: list[tuple[str, float]] = []
        self.symbols: set[str] = set()

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.all]

    def begin(self, sessions: Collection[str]) -> None:
        self._note("begin")

    def end(self, sessions: Collection[str]) -> None:
        self._note("end")

    def replaced(self, olds: Collection[str], new: str, symbols: Iterable[str]) -> None:
        self._note("replaced")
        self.symbols = {*symbols}

    def _note(self, name: str) -> None:
        self.all.append((name, time.monotonic()))


def test_a_rotation_says_so_before_it_opens_a_session_and_which_snapshots_came_early() -> None:
    """A node may be behind by `NODE_LAG`, and its snapshot show a book as it was before."""

    async def scenario() -> None:
        async with checked(max_session_age=1.0) as one:
            noted = one.connector.sessions.books = Noted()
            one.exchange.inject(Faults(late_by=1.0))
            one.exchange.spoil("depth", SYMBOLS[1], "late")
            handshakes = one.exchange.handshakes
            await soon(lambda: noted.all, 20, "the beginning")
            assert noted.names == ["begin"]
            assert one.exchange.handshakes == handshakes
            await soon(lambda: one.exchange.handshakes > handshakes, 20, "the next session")
            assert time.monotonic() - noted.all[0][1] >= NODE_LAG
            await soon(lambda: len(noted.all) > 1, 30, "the end")
            assert noted.names[:2] == ["begin", "replaced"]
            assert noted.symbols == {SYMBOLS[0]}, "the other one came late"

    uvloop.run(scenario())


def test_a_rotation_that_cannot_open_a_session_says_that_nothing_was_replaced() -> None:
    async def scenario() -> None:
        async with checked(max_session_age=1.0) as one:
            noted = one.connector.sessions.books = Noted()
            one.exchange.refuse(1)
            await soon(lambda: len(noted.all) > 1, 30, "the end")
            assert noted.names[:2] == ["begin", "end"]

    uvloop.run(scenario())


def test_a_session_that_ends_during_its_rotation_is_not_replaced() -> None:
    """Nobody knows what it would have brought."""

    async def scenario() -> None:
        async with checked(max_session_age=1.0) as one:
            noted = one.connector.sessions.books = Noted()
            await soon(lambda: len(one.exchange.clients) == 2, 20, "both sessions")
            one.exchange.drop(share=0.5)
            await soon(lambda: len(noted.all) > 1, 30, "the end")
            assert noted.names[:2] == ["begin", "end"]

    uvloop.run(scenario())
