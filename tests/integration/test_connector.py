"""A connector by itself: what a mistake of our own costs, and what its requests cost the budget."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import uvloop
from structlog.testing import capture_logs

from bridge.channels.channel import Source
from bridge.config import ExchangeConfig
from bridge.errors import BadFrame
from bridge.exchange.frames import Push
from bridge.records import Record
from bridge.simulator import Simulator
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.watch.watch import Watch
from bridge.websocket import connector as edge
from bridge.websocket.connector import Connector
from bridge.websocket.courtesy import Courtesy
from tests.support.waiting import soon

SYMBOLS = ["BTC_USDT", "ETH_USDT"]


class Received:
    """Takes what sessions bring, keeps their names in order, and fails as often as `mistake` says."""

    def __init__(self, mistake: Callable[["Received"], bool] = lambda _: False) -> None:
        self.sessions: dict[str, int] = {}
        self.mistakes = 0
        self._mistake = mistake

    def push(self, push: Push, source: Source, received_us: int, frame: bytes) -> None:
        self.sessions[source.session] = self.sessions.get(source.session, 0) + 1
        if self._mistake(self):
            self.mistakes += 1
            raise ZeroDivisionError("a mistake")

    def bad(self, bad: BadFrame, source: Source, received_us: int, frame: bytes) -> None:
        raise AssertionError(bad)


class Connected(Connector):
    """A connector whose settings take any value, as a mistake would make it."""

    def __init__(
        self, exchange: Simulator, receiver: Received, symbols: list[str], settings: Mapping[str, object]
    ) -> None:
        self.metrics = Metrics()
        self.told: list[Record] = []
        config = ExchangeConfig(url=exchange.url, reconnect_min=0.01, reconnect_max=0.05)
        config = config.model_copy(update=settings)
        self.courtesy = Courtesy(config.handshakes_per_second, config.subscribes_per_second)
        super().__init__(
            {"trades": symbols},
            config=config,
            courtesy=self.courtesy,
            receiver=receiver,
            watch=Watch("0", self.metrics, Journal("replica", 0, self.told.extend)),
        )

    def set(self, settings: Mapping[str, object]) -> None:
        """Have these settings from the next session on."""
        self._config = self._config.model_copy(update=settings)

    @property
    def closed(self) -> float:
        """How many sessions have ended so."""
        return self.metrics.counter("reconnects_total", reason="closed").value


@asynccontextmanager
async def connected(
    exchange: Simulator, receiver: Received, symbols: list[str] = SYMBOLS, /, **settings: object
) -> AsyncIterator[Connected]:
    """Run a connector as long as the context."""
    connector = Connected(exchange, receiver, symbols, settings)
    running = asyncio.create_task(connector.run())
    try:
        yield connector
    finally:
        running.cancel()
        await asyncio.wait({running})


def tracebacks(lines: Sequence[Mapping[str, Any]]) -> list[object]:
    """Return the tracebacks of sessions that failed by a mistake."""
    return [line["exc_info"] for line in lines if line["event"] == "a session failed" and line["exc_info"]]


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param("reply_timeout", id="where it begins"),
        pytest.param("stale_after", id="in its task"),
        pytest.param("max_session_age", id="in the connector"),
    ],
)
def test_a_session_that_fails_is_told_counted_closed_and_replaced(setting: str) -> None:
    async def scenario() -> None:
        async with Simulator(symbols=SYMBOLS, rate=100) as exchange:
            async with connected(exchange, Received(), **{setting: None}) as connector:
                await soon(lambda: connector.closed >= 3, 20, "three sessions")
                assert exchange.handshakes >= 3
                assert len(tracebacks(lines)) >= 3
            await soon(lambda: len(exchange.clients) == 0, 20, "no connection is left")

    with capture_logs() as lines:
        uvloop.run(scenario())


def test_a_mistake_while_a_session_takes_over_ends_both_and_a_third_goes_on() -> None:
    """The first push of the second session is one that was held back until the handover."""
    received = Received(lambda all_of: len(all_of.sessions) == 2 and not all_of.mistakes)

    async def scenario() -> None:
        async with Simulator(symbols=SYMBOLS, rate=200) as exchange:
            async with connected(exchange, received, max_session_age=0.5) as connector:
                await soon(lambda: len(received.sessions) > 2, 20, "a third session")
                assert (received.mistakes, connector.closed) == (1, 1)
            assert exchange.handshakes >= 3
            await soon(lambda: len(exchange.clients) == 0, 20, "no connection is left")

    with capture_logs() as lines:
        uvloop.run(scenario())
    assert len(tracebacks(lines)) == 1


def test_a_session_that_fails_before_it_has_taken_over_is_told_and_the_old_one_serves_on() -> None:
    received = Received()

    async def scenario() -> None:
        async with Simulator(symbols=SYMBOLS, rate=200) as exchange:
            async with connected(exchange, received, max_session_age=0.5) as connector:
                await soon(lambda: received.sessions, 20, "pushes")
                connector.set({"stale_after": None})
                await soon(lambda: len(tracebacks(lines)) >= 2, 20, "two sessions that fail")
                before = sum(received.sessions.values())
                await soon(lambda: sum(received.sessions.values()) > before, 20, "pushes")
                assert (len(received.sessions), connector.closed) == (1, 0)
            await soon(lambda: len(exchange.clients) == 0, 20, "no connection is left")

    with capture_logs() as lines:
        uvloop.run(scenario())


def test_a_push_that_nobody_can_take_ends_its_session_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    received = Received(lambda all_of: sum(all_of.sessions.values()) == 20)
    other = Received()

    async def scenario() -> None:
        async with Simulator(symbols=SYMBOLS, rate=200) as exchange:  # noqa: SIM117
            async with connected(exchange, received) as one, connected(exchange, other) as another:
                await soon(lambda: len(received.sessions) == 2, 20, "a second session")
                assert (received.mistakes, one.closed) == (1, 1)
                before = sum(other.sessions.values())
                await soon(lambda: sum(other.sessions.values()) > before, 20, "pushes of the other session")
                assert (len(other.sessions), another.closed) == (1, 0)

    with caplog.at_level(logging.ERROR):
        uvloop.run(scenario())
    assert "ZeroDivisionError: a mistake" in caplog.text


def test_what_is_asked_for_besides_is_taken_from_the_budget_and_waits_for_it() -> None:
    """Each symbol by itself, since one of three is refused; and one that is added."""
    budget = {"handshakes_per_second": 1000, "subscribes_per_second": 2}
    symbols = [*SYMBOLS, "NOPE_USDT"]

    async def scenario() -> None:
        async with Simulator(symbols=[*SYMBOLS, "LTC_USDT"], rate=10) as exchange:
            begin = time.monotonic()
            async with connected(exchange, Received(), symbols, **budget) as connector:
                await soon(lambda: connector.missing()[0].endswith("(code 2)"), 20, "the refused one")
                connector.subscribe("trades", ["LTC_USDT"])
                await soon(lambda: "subscribing" in connector.missing()[0], 20, "the added one")
                await soon(lambda: connector.missing()[0].endswith("(code 2)"), 20, "all answers")
                requests = 1 + len(symbols) + 1
                # A second's worth may be used at once, and the last one has not waited for itself.
                assert time.monotonic() - begin >= (requests - 1) / 2 - 1
                assert connector.courtesy.reserve(begin, 0) >= requests / 2 - 1

    uvloop.run(scenario())


def session_number(received: Received, number: int) -> bool:
    return len(received.sessions) == number + 1


def test_a_connection_that_leads_nowhere_is_not_closed_politely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would answer; the closing handshake would only keep the next session waiting."""
    monkeypatch.setattr(edge, "_CLOSING_HANDSHAKE", 3600.0)

    async def scenario() -> None:
        quick = {"ping_interval": 0.3, "reply_timeout": 0.5}
        async with Simulator(symbols=SYMBOLS, rate=100) as exchange, dark_way(exchange) as (url, go_dark):
            received = Received()
            async with connected(exchange, received, url=url, **quick) as connector:
                for session in range(3):
                    await soon(partial(session_number, received, session), 20, "pushes")
                    go_dark()
                await soon(partial(session_number, received, 3), 20, "a fourth session")
                assert connector.metrics.counter("reconnects_total", reason="timeout").value == 3

    uvloop.run(scenario())


def test_a_session_that_ends_while_another_waits_to_take_over_is_told_as_missing() -> None:
    async def scenario() -> None:
        async with Simulator(symbols=SYMBOLS, rate=100) as exchange:  # noqa: SIM117
            async with connected(exchange, Received(), max_session_age=0.5) as connector:
                await soon(lambda: connector.missing() == [], 20, "a live session")
                paused = time.monotonic()
                connector.courtesy.pause(paused, 300.0)
                await soon(lambda: time.monotonic() > paused + 1.0, 20, "the end of its age")
                await exchange.drop_all()
                await soon(connector.missing, 20, "what is missing")
                assert connector.missing() == ["trades BTC_USDT ETH_USDT: the session has ended"]

    uvloop.run(scenario())


@asynccontextmanager
async def dark_way(exchange: Simulator) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """Give the address of a relay to the exchange, and what makes its connections lead nowhere."""
    port = exchange.url.split(":")[2].split("/")[0]
    relays: list[asyncio.Task[None]] = []
    dark: set[asyncio.StreamReader] = set()
    open_ones: list[asyncio.StreamReader] = []

    async def relay(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                if source not in dark:
                    target.write(data)
        finally:
            target.close()

    async def accept(client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", int(port))
        open_ones.extend((client, server))
        relays.append(asyncio.create_task(relay(client, to_server)))
        relays.append(asyncio.create_task(relay(server, to_client)))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as listening:
        here = listening.sockets[0].getsockname()[1]
        yield exchange.url.replace(port, str(here)), lambda: dark.update(open_ones)
        for one in relays:
            one.cancel()
        await asyncio.wait(relays)
