"""Private channels: each time in which no session listened to one is recorded as a gap, with its bounds."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import uvloop
from websockets.asyncio.server import ServerConnection, serve

from bridge.channels.channel import Source
from bridge.check.exchange import check_exchange
from bridge.config import Config, ExchangeConfig
from bridge.errors import BadFrame
from bridge.exchange.frames import Push
from bridge.exchange.requests import Credentials
from bridge.records import Record
from bridge.simulator import Setup, Simulator
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.watch.watch import Watch
from bridge.websocket.connector import Connector
from bridge.websocket.courtesy import Courtesy
from bridge.websocket.sessions import Account
from tests.support.exchange import ExchangeThread
from tests.support.standings import not_confirmed
from tests.support.waiting import eventually, soon

ACCOUNT = Credentials("MYKEY123", "s3cr3t")
WANTED = {"order": ["BTC_USDT"], "balance": ["USDT"]}


class AccountConnector(Connector):
    """A connector of one account; keeps what it records and when each channel was pushed."""

    def __init__(self, url: str, settings: dict[str, object]) -> None:
        self.metrics = Metrics()
        self.recorded: list[Record] = []  # events
        self.pushed: list[tuple[str, str, float]] = []  # channel, session, seconds since the epoch
        config = ExchangeConfig.model_validate({"url": url, "reconnect_min": 0.01, **settings})
        super().__init__(
            WANTED,
            config=config,
            courtesy=Courtesy(config.handshakes_per_second, config.subscribes_per_second),
            receiver=self,
            watch=Watch("0", self.metrics, Journal("replica", 0, self.recorded.extend, self.metrics)),
            account=Account("main", ACCOUNT),
        )

    def push(self, push: Push, source: Source, received_us: int, frame: bytes) -> None:
        """Keep a push."""
        self.pushed.append((push.channel, source.session, time.time()))

    def bad(self, bad: BadFrame, source: Source, received_us: int, frame: bytes) -> None:
        """Fail: the exchange sends no bad frames."""
        raise AssertionError(bad)

    def lost(self, source: Source) -> None:
        """Fail: no frame is bad."""
        raise AssertionError(source)

    def reconnects(self, reason: str) -> float:
        """Return how many sessions were replaced for this reason."""
        return self.metrics.counter("reconnects_total", reason=reason).value

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of this kind."""
        return [event for one in self.recorded if (event := msgspec.json.decode(one.value))["event"] == kind]

    def gaps(self) -> list[dict[str, Any]]:
        """Return all gaps behind the first listening, which leaves one for each channel."""
        return [event for event in self.events("gap") if event["cause"] != "first_listened"]

    def gap(self, channel: str) -> tuple[str, float, float]:
        """Return the cause of the one gap of a channel, and its bounds in seconds."""
        (gap,) = [one for one in self.gaps() if one["channel"] == channel]
        return gap["cause"], gap["after_us"] / 1e6, gap["before_us"] / 1e6

    def began(self, channel: str) -> float:
        """Return when a channel was first listened to, in seconds."""
        first = next(one for one in self.events("gap") if one["channel"] == channel)
        return float(first["before_us"]) / 1e6

    def heard_until(self, channel: str) -> int:
        """Return the last-heard time of a channel, in microseconds since the epoch."""
        self.note_heard()
        return self.savable(None, {})[channel]

    def times(self, channel: str) -> list[float]:
        """Return when a channel was pushed."""
        return [at for name, _, at in self.pushed if name == channel]


@asynccontextmanager
async def account(
    exchange: Simulator | ExchangeThread, **settings: object
) -> AsyncIterator[AccountConnector]:
    """Run the connector of an account for the duration of the context, which begins when it is live."""
    connector = AccountConnector(exchange.url, settings)
    running = asyncio.create_task(connector.run())
    try:
        await soon(lambda: not_confirmed(connector) == [] and connector.times("order"), 20, "a live session")
        yield connector
    finally:
        running.cancel()
        await asyncio.wait({running})


def simulator() -> Simulator:
    return Simulator(symbols=["BTC_USDT"], rate=2000, accounts={ACCOUNT.api_key: ACCOUNT.secret})


def test_a_session_that_was_dead_when_it_was_to_be_rotated_leaves_a_gap() -> None:
    """It reaches its maximum age before the unanswered ping shows that it is dead."""

    async def scenario() -> None:
        quick = {"max_session_age": 6.0, "ping_interval": 6.0, "reply_timeout": 4.0}
        async with simulator() as exchange, account(exchange, **quick) as one:
            exchange.clients.mute()
            muted = time.time()
            await soon(lambda: one.reconnects("timeout"), 20, "its replacement")
            await soon(one.gaps, 20, "the gap")
            cause, after, before = one.gap("order")
            first = min(at for at in one.times("order") if at > before)
            assert (cause, one.reconnects("rotated")) == ("timeout", 0)
            assert one.began("order") <= after <= muted < before <= first

    uvloop.run(scenario())


def test_a_refused_channel_has_a_gap_until_a_retry_is_accepted() -> None:
    """The other channels of the session are not affected."""

    async def scenario() -> None:
        async with simulator() as exchange, account(exchange, reconnect_max=0.2) as one:
            exchange.shut("order")
            await exchange.drop_all()
            dropped = time.time()
            last = max(one.times("order"))
            await soon(lambda: "order BTC_USDT: refused" in str(not_confirmed(one)), 20, "a refusal")
            await soon(
                lambda: max(one.times("balance"), default=0.0) > last + 1, 20, "pushes of the other channel"
            )
            assert [event["channel"] for event in one.events("subscription_refused")] == ["order"]
            reopened = time.time()
            exchange.shut()
            await soon(lambda: max(one.times("order")) > last and not not_confirmed(one), 20, "pushes again")
            one.note_heard()
            cause, after, before = one.gap("order")
            assert cause == "closed"
            assert one.began("order") <= after <= dropped
            assert dropped - 1 < one.gap("balance")[2] < reopened < before
            assert before <= min(at for at in one.times("order") if at > last)
            assert len(one.events("session_begun")) == 2

    uvloop.run(scenario())


def test_a_rotation_is_postponed_if_the_new_session_is_refused_subscriptions() -> None:
    async def scenario() -> None:
        quick = {"max_session_age": 1.0, "reconnect_max": 0.3}
        async with simulator() as exchange, account(exchange, **quick) as one:
            exchange.shut("order")
            rotated = one.reconnects("rotated")
            await soon(lambda: len(one.events("subscription_refused")) >= 3, 20, "attempts to rotate")
            assert one.reconnects("rotated") == rotated
            assert not_confirmed(one) == []
            exchange.shut()
            await soon(lambda: one.reconnects("rotated") >= rotated + 2, 20, "rotations")
            assert one.gaps() == []
            # If it stays refused, as a delisted market does, the session is still rotated in the end.
            exchange.shut("order")
            rotated = one.reconnects("rotated")
            await soon(lambda: one.reconnects("rotated") > rotated, 20, "a rotation despite the refusal")
            assert "refused" in str(not_confirmed(one))

    uvloop.run(scenario())


def test_after_a_pause_a_session_that_did_not_catch_up_leaves_a_gap_from_the_start_of_the_pause() -> None:
    """If the exchange closes the connection meanwhile, only what it sent before can still be read."""

    async def scenario() -> None:
        async with simulator() as exchange, account(exchange) as one:
            one.pause()
            paused = time.time()
            pushed = exchange.truth.counts()["order"]
            await soon(lambda: exchange.truth.counts()["order"] > pushed + 5, 20, "pushes")
            exchange.clients.cut()
            await soon(lambda: len(exchange.clients) == 0, 20, "the cut")
            await soon(lambda: time.time() > paused + 1.0, 20, "some time")
            one.resume()
            await soon(one.gaps, 20, "the gap")
            cause, after, before = one.gap("order")
            assert cause == "closed"
            assert after <= paused < paused + 1.0 < before

    uvloop.run(scenario())


def test_a_pause_that_the_connection_survives_leaves_no_gap() -> None:
    async def scenario() -> None:
        async with simulator() as exchange, account(exchange) as one:
            one.pause()
            pushed = exchange.truth.counts()["order"]
            await soon(lambda: exchange.truth.counts()["order"] > pushed + 5, 20, "pushes")
            one.resume()
            resumed_us = time.time_ns() // 1000
            await soon(lambda: one.heard_until("order") > resumed_us, 20, "the session to catch up")
            assert one.gaps() == []

    uvloop.run(scenario())


def test_a_connection_that_is_cut_while_the_process_is_frozen_leaves_a_gap_from_before_the_cut() -> None:
    """The process finds what the network still holds when it wakes, and that says nothing about the rest."""
    accounts = {ACCOUNT.api_key: ACCOUNT.secret}
    setup = Setup(keep_history=True)
    with ExchangeThread(symbols=["BTC_USDT"], rate=2000, accounts=accounts, setup=setup) as exchange:

        def sent() -> int:
            return exchange.truth.counts()["order"]

        def lost_since(moment: float) -> list[int]:
            """Return when changes of orders were made that went to no connection."""
            changes = exchange.simulator.history.changes[ACCOUNT.api_key]
            made = [one.made_us for one in changes if one.update.channel == "order" and not one.writings]
            return [us for us in made if us > moment * 1e6]

        async def scenario() -> None:
            async with account(exchange, ping_interval=0.1) as one:
                heard_us = one.heard_until("order")
                await soon(lambda: one.heard_until("order") > heard_us, 20, "a pong")
                # The loop does not turn, as if the process were frozen.
                before = sent()
                eventually(lambda: sent() > before + 5, 20, "pushes that nobody reads")
                cut = time.time()
                exchange.call(exchange.simulator.clients.cut)
                eventually(lambda: len(lost_since(cut)) > 5, 20, "lost changes")
                received = len(one.times("order"))
                await soon(one.gaps, 20, "the gap")
                cause, after, until = one.gap("order")
                assert cause == "closed"
                assert after <= cut < until
                assert len([at for at in one.times("order")[received:] if at < until]) > 5
                # Asked for in the thread of the exchange: no change is between being made and sent there.
                assert all(after < us / 1e6 < until for us in exchange.call(lost_since, cut))

        uvloop.run(scenario())


@pytest.mark.parametrize("words", ["invalid api key {}", "{}"])
def test_an_api_key_in_the_close_reason_is_masked_everywhere(words: str) -> None:
    async def close_with_the_key(connection: ServerConnection) -> None:
        async for message in connection:
            request = msgspec.json.decode(message)
            if request["method"] == "server.auth":
                await connection.close(1008, words.format(request["params"][0]))
            else:
                answer = {"id": request["id"], "result": round(time.time()), "error": None}
                await connection.send(msgspec.json.encode(answer).decode())

    async def scenario() -> None:
        async with serve(close_with_the_key, "127.0.0.1", 0) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            one = AccountConnector(f"ws://127.0.0.1:{port}/", {})
            running = asyncio.create_task(one.run())
            await soon(lambda: one.events("session_ended"), 20, "the end")
            reported = f"{not_confirmed(one)} {one.events('session_ended')}"
            running.cancel()
            await asyncio.wait({running})
            account = {"name": "main", "api_key": ACCOUNT.api_key, "secret": ACCOUNT.secret, **WANTED}
            exchange = {"url": f"ws://127.0.0.1:{port}/"}
            said: list[str] = []
            config = Config.model_validate({"exchange": exchange, "accounts": [account]})
            assert not await check_exchange(config, said.append, listening=0.1)
            for text in (reported, str(said)):
                assert "1008" in text
                assert "***" in text
                assert ACCOUNT.api_key not in text

    uvloop.run(scenario())
