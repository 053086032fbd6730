"""Lists and snapshots that are damaged, missing, late or empty, and pushes that are lost, over real sockets.

A connector and a pipeline without Kafka: what would become records is kept in a list.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import msgspec
import pytest
import uvloop

from bridge.channels import CHANNELS
from bridge.config import ExchangeConfig
from bridge.exchange.requests import Credentials
from bridge.pipeline import Pipeline
from bridge.records import DEADLETTER, EVENTS, Record, schema_of
from bridge.simulator import Dialect, Faults, Setup, Simulator
from bridge.simulator.market import symbol_names
from bridge.simulator.mishaps import Spoiling
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.watch.watch import Watch
from bridge.websocket.connector import Connector
from bridge.websocket.courtesy import Courtesy
from bridge.websocket.sessions import Account
from tests.support.waiting import soon

SYMBOLS = ["BTC_USDT", "ETH_USDT", "LTC_USDT"]
WANTED = {"trades": SYMBOLS, "depth": SYMBOLS}
REPLY_TIMEOUT = 2.0  # seconds; long enough for a busy machine to answer
ALWAYS = 1000
DAMAGED: list[Spoiling] = ["damaged"] * ALWAYS


class Bridge:
    """A connector with its pipeline, and all that comes out of it."""

    def __init__(
        self,
        exchange: Simulator,
        wanted: Mapping[str, Sequence[str]],
        account: Account | None,
        settings: Mapping[str, Any],
    ) -> None:
        self.records: list[Record] = []
        metrics = Metrics()
        watch = Watch("0", metrics, Journal("replica", 0, self._emit, metrics))
        pipeline = Pipeline(wanted=CHANNELS, emit=self._emit, watermarks={}, watch=watch, on_markets=None)
        values = {"reply_timeout": REPLY_TIMEOUT, "reconnect_min": 0.05, "reconnect_max": 0.2, **settings}
        self.connector = Connector(
            wanted,
            config=ExchangeConfig(url=exchange.url, **values),
            courtesy=Courtesy(100.0, 100.0),
            receiver=pipeline,
            watch=watch,
            account=account,
        )

    def made(self, channel: str, symbol: str = "") -> list[dict[str, Any]]:
        """Return the records of a channel, of one symbol or of all."""
        return [
            msgspec.json.decode(one.value)
            for one in list(self.records)
            if schema_of(one.channel) == channel and (not symbol or one.key == symbol.encode())
        ]

    def snapshots(self, channel: str, symbol: str) -> int:
        return sum(one["snapshot"] for one in self.made(channel, symbol))

    def silent(self) -> list[tuple[str, str, str]]:
        """Return session, channel and symbol of each subscription that was reported as silent."""
        events = [one for one in self.made(EVENTS) if one["event"] == "subscription_silent"]
        return [(one["session"], one["channel"], one["symbol"]) for one in events]

    def _emit(self, records: Sequence[Record]) -> Sequence[Record]:
        self.records += records
        return ()


@asynccontextmanager
async def bridge(
    exchange: Simulator,
    wanted: Mapping[str, Sequence[str]] = WANTED,
    account: Account | None = None,
    **settings: Any,
) -> AsyncIterator[Bridge]:
    """Run a bridge for the duration of the context."""
    one = Bridge(exchange, wanted, account, settings)
    running = asyncio.create_task(one.connector.run())
    try:
        yield one
    finally:
        running.cancel()
        await asyncio.wait({running})


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    uvloop.run(scenario())


def all_begun(one: Bridge) -> bool:
    """Return whether each subscription of the session has brought its list or snapshot."""
    feeds = one.connector.sessions.feeds
    return bool(feeds) and all(
        feeds[0].source.series(channel, symbol).begun
        for channel, symbols in WANTED.items()
        for symbol in symbols
    )


async def passed(seconds: float) -> None:
    """Return after some time, in which nothing is to happen."""
    since = time.monotonic()
    await soon(lambda: time.monotonic() > since + seconds, seconds, "time")


@pytest.mark.parametrize("spoiling", ["damaged", "missing", "late"])
@pytest.mark.parametrize("channel", ["trades", "depth"])
def test_a_list_or_snapshot_that_does_not_come_is_requested_again(channel: str, spoiling: Any) -> None:
    async def scenario() -> None:
        async with Simulator(
            symbols=SYMBOLS, rate=100, faults=Faults(late_by=1.5 * REPLY_TIMEOUT)
        ) as exchange:
            exchange.spoil(channel, "ETH_USDT", spoiling)
            async with bridge(exchange) as one:
                await soon(lambda: all_begun(one), 10, "all lists and snapshots")
                await passed(2 * REPLY_TIMEOUT)
                assert one.silent() == []
                assert exchange.spoiled == {spoiling: 1}

    run(scenario)


@pytest.mark.parametrize("spoiling", ["damaged", "missing"])
@pytest.mark.parametrize("channel", ["trades", "depth"])
def test_a_subscription_that_never_brings_its_list_or_snapshot_is_reported_once(
    channel: str, spoiling: Any
) -> None:
    """Live updates come nevertheless, of this symbol and the others, and the session goes on."""

    async def scenario() -> None:
        async with Simulator(symbols=SYMBOLS, rate=100) as exchange:
            exchange.spoil(channel, "ETH_USDT", *(spoiling,) * ALWAYS)
            async with bridge(exchange) as one:
                await soon(one.silent, 10, "a report")
                await soon(lambda: one.connector.standing().live, 10, "readiness")
                before = len(one.made(channel, "ETH_USDT"))
                await soon(lambda: len(one.made(channel, "ETH_USDT")) > before, 10, "live updates")
                await passed(3 * REPLY_TIMEOUT)
                reported = one.silent()
                assert {(channel, symbol) for _, channel, symbol in reported} == {(channel, "ETH_USDT")}
                assert len(set(reported)) == len(reported), "once in each session"

    run(scenario)


@pytest.mark.parametrize("channel", ["trades", "depth"])
def test_an_empty_list_or_book_is_an_answer(channel: str) -> None:
    async def scenario() -> None:
        async with Simulator(symbols=SYMBOLS, rate=10) as exchange:
            exchange.spoil(channel, "ETH_USDT", "empty", *DAMAGED)
            async with bridge(exchange) as one:
                await soon(lambda: exchange.spoiled, 10, "the subscription")
                await passed(3 * REPLY_TIMEOUT)
                assert one.silent() == []
                assert exchange.spoiled["damaged"] == exchange.handshakes - 1, "it was requested again"

    run(scenario)


@pytest.mark.parametrize("channel", ["trades", "depth"])
def test_all_markets_go_on_when_a_subscribe_replaces_the_one_before_it(channel: str) -> None:
    async def scenario() -> None:
        dialect = Dialect(adds="replaces")
        async with Simulator(symbols=SYMBOLS, rate=100, dialect=dialect) as exchange:
            exchange.spoil(channel, "ETH_USDT", "damaged")
            async with bridge(exchange) as one:
                await soon(lambda: all_begun(one), 10, "all lists and snapshots")
                before = {symbol: len(one.made(channel, symbol)) for symbol in SYMBOLS}
                await soon(
                    lambda: all(len(one.made(channel, symbol)) > number for symbol, number in before.items()),
                    20,
                    "live updates of all symbols",
                )
                assert one.silent() == []

    run(scenario)


@pytest.mark.parametrize("clean_again", ["sent", "silent"])
def test_25_markets_of_one_session_flow_with_a_new_one_when_a_subscribe_replaces_the_one_before_it(
    clean_again: Any,
) -> None:
    """One of them is unknown to the exchange, which subscribes to those in front of it only."""

    async def scenario() -> None:
        symbols = symbol_names(25)
        dialect = Dialect(adds="replaces", clean_again=clean_again)
        wanted = {channel: [*symbols[:12], "GONE_USDT", *symbols[12:]] for channel in ("trades", "depth")}
        async with Simulator(symbols=symbols, rate=500, dialect=dialect) as exchange:  # noqa: SIM117
            async with bridge(exchange, wanted) as one:
                await soon(lambda: one.connector.standing().live, 10, "readiness")
                await all_flow(one, symbols)
                exchange.market.list_market("NEW_USDT")
                for channel in wanted:
                    one.connector.subscribe(channel, ["NEW_USDT"])
                await all_flow(one, [*symbols, "NEW_USDT"])
                assert one.silent() == []
                assert exchange.handshakes == 1

    run(scenario)


async def all_flow(one: Bridge, symbols: Sequence[str]) -> None:
    """Return when live trades and changes of depth of all symbols have come since the call."""

    def live() -> Counter[tuple[str, str]]:
        return Counter(
            (record.channel, record.key.decode())
            for record in list(one.records)
            if record.key is not None and b'"snapshot":false' in record.value
        )

    def flow() -> bool:
        now = live()
        return all(now[one] > before[one] for one in each)

    before = live()
    each = [(channel, symbol) for channel in ("trades", "depth") for symbol in symbols]
    await soon(flow, 30, "live updates of all")


@pytest.mark.parametrize("spoiling", ["damaged", "missing", "late"])
def test_trades_that_were_missed_are_filled_in_when_the_list_comes_at_last(spoiling: Any) -> None:
    async def scenario() -> None:
        setup, faults = Setup(keep_trades=True), Faults(late_by=1.5 * REPLY_TIMEOUT)
        async with Simulator(symbols=SYMBOLS, rate=300, setup=setup, faults=faults) as exchange:  # noqa: SIM117
            async with bridge(exchange, reconnect_min=0.5, reconnect_max=1.0) as one:
                await soon(lambda: all(one.made("trades", symbol) for symbol in SYMBOLS), 10, "trades")
                exchange.spoil("trades", "ETH_USDT", spoiling)
                await exchange.drop_all()
                await soon(lambda: exchange.handshakes >= 2, 10, "another session")
                await soon(lambda: exchange.spoiled and all_begun(one), 10, "all lists")
                await exchange.quiesce()
                await soon(lambda: trades_are_complete(one, exchange), 10, "all trades")

    run(scenario)


def test_a_depth_push_that_becomes_a_dead_letter_leaves_a_hole_and_a_snapshot_follows_it() -> None:
    async def scenario() -> None:
        async with Simulator(symbols=SYMBOLS, rate=100) as exchange:  # noqa: SIM117
            async with bridge(exchange) as one:
                await soon(lambda: all_begun(one), 10, "all snapshots")
                exchange.push("depth", [False, {"asks": [["9000.00", "much"]]}, "ETH_USDT"])
                await soon(lambda: one.made(DEADLETTER), 10, "a dead letter")
                await soon(lambda: one.snapshots("depth", "ETH_USDT") > 1, 10, "another snapshot")
                before = len(one.made("depth", "ETH_USDT"))
                await soon(lambda: len(one.made("depth", "ETH_USDT")) > before, 10, "what follows it")
                assert holes(one.made("depth", "ETH_USDT")) == 1
                assert holes(one.made("depth", "BTC_USDT")) == 0

    run(scenario)


def trades_are_complete(one: Bridge, exchange: Simulator) -> bool:
    """Return whether all trades from the first one on have come; assert that each came once."""
    complete = True
    for symbol in SYMBOLS:
        found = [trade["id"] for trade in one.made("trades", symbol)]
        assert len(set(found)) == len(found)
        made = [trade["id"] for trade in exchange.truth.made[symbol] if trade["id"] >= found[0]]
        complete = complete and sorted(found) == made
    return complete


def holes(records: Sequence[Mapping[str, Any]]) -> int:
    """Return how often `seq` skips numbers within a session; after each hole there has to be a snapshot."""
    found, wrong = 0, False
    for before, one in pairwise(records):
        if one["session"] == before["session"] and one["seq"] != before["seq"] + 1:
            found, wrong = found + 1, True
        wrong = wrong and not one["snapshot"]
    assert not wrong, "no snapshot came after a hole"
    return found


def test_an_endless_stream_of_damaged_frames_asks_ever_less_often() -> None:
    """With a `reply_timeout` of 1 s: at once, and 1, 3, 7 s after that."""

    async def scenario() -> None:
        async with Simulator(symbols=SYMBOLS, rate=50) as exchange:  # noqa: SIM117
            async with bridge(exchange, reply_timeout=1.0, ping_interval=5.0) as one:
                await soon(lambda: all_begun(one), 10, "all snapshots")
                begin = time.monotonic()
                while time.monotonic() < begin + 5.0 or one.snapshots("depth", "BTC_USDT") < 4:
                    assert time.monotonic() < begin + 60.0, "it has stopped asking"
                    exchange.push_raw(b"damaged")
                    await asyncio.sleep(0.02)
                seconds = time.monotonic() - begin
                sessions = [
                    record["session"] for record in one.made("depth", "BTC_USDT") if record["snapshot"]
                ]
                most = 2 + math.ceil(math.log2(seconds + 1) + 1)
                assert all(sessions.count(session) <= most for session in sessions)
                assert len(one.made(DEADLETTER)) > 20 * len(sessions)

    run(scenario)


def test_a_damaged_frame_of_an_account_is_a_gap_of_its_channels() -> None:
    async def scenario() -> None:
        accounts = {"key": "secret"}
        async with Simulator(symbols=SYMBOLS, rate=100, accounts=accounts) as exchange:
            account = Account("main", Credentials("key", "secret"))
            wanted = {"order": SYMBOLS, "balance": ["USDT"]}
            async with bridge(exchange, wanted, account) as one:
                await soon(lambda: one.made("order"), 20, "orders")
                exchange.push_raw(b"damaged")
                await soon(lambda: one.made(DEADLETTER), 10, "a dead letter")
                (letter,) = one.made(DEADLETTER)
                gaps = [event for event in one.made(EVENTS) if event["cause"] == "damaged_frame"]
                assert [gap["channel"] for gap in gaps] == ["order", "balance"]
                for gap in gaps:
                    assert (gap["account"], gap["session"]) == ("main", letter["session"])
                    assert gap["after_us"] < gap["before_us"] == letter["received_us"]

    run(scenario)


def test_rotations_wait_for_what_they_withhold() -> None:
    """What the new session brings is read when it takes over, which may be after its deadline."""

    async def scenario() -> None:
        async with Simulator(symbols=SYMBOLS, rate=100) as exchange:  # noqa: SIM117
            async with bridge(exchange, max_session_age=1.0, reply_timeout=1.0) as one:
                await soon(lambda: exchange.handshakes >= 4, 60, "rotations")
                assert one.silent() == []

    run(scenario)
