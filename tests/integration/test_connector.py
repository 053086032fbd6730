"""A connector by itself: what an internal error costs, and what its requests cost the budget."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
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
from bridge.websocket import opening as edge
from bridge.websocket.connector import Connector
from bridge.websocket.courtesy import Courtesy, Handshake
from tests.support.standings import not_confirmed
from tests.support.waiting import soon

SYMBOLS = ["BTC_USDT", "ETH_USDT"]

NOT_TO_BE_COMPARED = 1j
"""A time at which a session can't be called, although times can be added to it."""


class Received:
    """Takes what sessions receive, counts it by session, and raises whenever `fails` returns true."""

    def __init__(self, fails: Callable[["Received"], bool] = lambda _: False) -> None:
        self.sessions: dict[str, int] = {}  # pushes by session, in the order of their first push
        self.errors = 0  # raised so far
        self._fails = fails

    def push(self, push: Push, source: Source, received_us: int, frame: bytes) -> None:
        self.sessions[source.session] = self.sessions.get(source.session, 0) + 1
        if self._fails(self):
            self.errors += 1
            raise ZeroDivisionError("an internal error")

    def bad(self, bad: BadFrame, source: Source, received_us: int, frame: bytes) -> None:
        raise AssertionError(bad)

    def lost(self, source: Source) -> None:
        raise AssertionError(source)


class Connected(Connector):
    """A connector whose settings may have any value, so that a wrong one raises inside."""

    def __init__(
        self, exchange: Simulator, receiver: Received, symbols: list[str], settings: Mapping[str, object]
    ) -> None:
        self.metrics = Metrics()
        self.events: list[Record] = []
        config = ExchangeConfig(url=exchange.url, reconnect_min=0.01, reconnect_max=0.05)
        config = config.model_copy(update=settings)
        self.courtesy = Courtesy.of(config)
        super().__init__(
            {"trades": symbols},
            config=config,
            courtesy=self.courtesy,
            receiver=receiver,
            watch=Watch("0", self.metrics, Journal("replica", 0, self.events.extend, self.metrics)),
        )

    def set(self, settings: Mapping[str, object]) -> None:
        """Use these settings from the next session on."""
        self._config = self.sessions._config = self._config.model_copy(update=settings)

    @property
    def closed(self) -> float:
        """How many sessions have ended with reason "closed"."""
        return self.metrics.counter("reconnects_total", reason="closed").value


@asynccontextmanager
async def connected(
    exchange: Simulator, receiver: Received, symbols: list[str] = SYMBOLS, /, **settings: object
) -> AsyncIterator[Connected]:
    """Run a connector for the duration of the context."""
    connector = Connected(exchange, receiver, symbols, settings)
    running = asyncio.create_task(connector.run())
    try:
        yield connector
    finally:
        running.cancel()
        await asyncio.wait({running})


def tracebacks(lines: Sequence[Mapping[str, Any]]) -> list[object]:
    """Return the logged tracebacks of internal errors in sessions."""
    return [
        line["exc_info"]
        for line in lines
        if line["event"] == "internal error in a session" and line["exc_info"]
    ]


@pytest.mark.parametrize(
    "setting",
    [
        pytest.param("reply_timeout", id="when it begins"),
        pytest.param("ping_interval", id="in its task"),
        pytest.param("max_session_age", id="in the connector"),
    ],
)
def test_an_internal_error_in_a_session_is_logged_and_the_session_replaced(setting: str) -> None:
    async def scenario() -> None:
        async with Simulator(symbols=SYMBOLS, rate=100) as exchange:
            wrong = NOT_TO_BE_COMPARED if setting == "ping_interval" else None
            async with connected(exchange, Received(), **{setting: wrong}) as connector:
                await soon(lambda: connector.closed >= 3, 20, "three sessions")
                assert exchange.handshakes >= 3
                assert len(tracebacks(lines)) >= 3
            await soon(lambda: len(exchange.clients) == 0, 20, "no connection is left")

    with capture_logs() as lines:
        uvloop.run(scenario())


def test_an_internal_error_during_a_rotation_ends_both_sessions_and_a_third_is_opened() -> None:
    """The first push of the second session is one that was held until the handover."""
    received = Received(lambda all_of: len(all_of.sessions) == 2 and not all_of.errors)

    async def scenario() -> None:
        async with Simulator(symbols=SYMBOLS, rate=200) as exchange:
            async with connected(exchange, received, max_session_age=0.5) as connector:
                await soon(lambda: len(received.sessions) > 2, 20, "a third session")
                assert (received.errors, connector.closed) == (1, 1)
            assert exchange.handshakes >= 3
            await soon(lambda: len(exchange.clients) == 0, 20, "no connection is left")

    with capture_logs() as lines:
        uvloop.run(scenario())
    assert len(tracebacks(lines)) == 1


def test_the_old_session_serves_on_if_the_new_one_fails_before_it_has_replaced_it() -> None:
    received = Received()

    async def scenario() -> None:
        async with Simulator(symbols=SYMBOLS, rate=200) as exchange:
            async with connected(exchange, received, max_session_age=0.5) as connector:
                await soon(lambda: received.sessions, 20, "pushes")
                connector.set({"ping_interval": NOT_TO_BE_COMPARED})
                await soon(lambda: len(tracebacks(lines)) >= 2, 20, "two failed sessions")
                before = sum(received.sessions.values())
                await soon(lambda: sum(received.sessions.values()) > before, 20, "pushes")
                assert (len(received.sessions), connector.closed) == (1, 0)
            await soon(lambda: len(exchange.clients) == 0, 20, "no connection is left")

    with capture_logs() as lines:
        uvloop.run(scenario())


def test_an_error_while_taking_a_push_ends_that_session_only(caplog: pytest.LogCaptureFixture) -> None:
    received = Received(lambda all_of: sum(all_of.sessions.values()) == 20)
    other = Received()

    async def scenario() -> None:
        async with Simulator(symbols=SYMBOLS, rate=200) as exchange:  # noqa: SIM117
            async with connected(exchange, received) as one, connected(exchange, other) as another:
                await soon(lambda: len(received.sessions) == 2, 20, "a second session")
                assert (received.errors, one.closed) == (1, 1)
                before = sum(other.sessions.values())
                await soon(lambda: sum(other.sessions.values()) > before, 20, "pushes of the other session")
                assert (len(other.sessions), another.closed) == (1, 0)

    with caplog.at_level(logging.ERROR):
        uvloop.run(scenario())
    assert "ZeroDivisionError: an internal error" in caplog.text


def test_later_subscribe_requests_use_and_wait_for_the_budget() -> None:
    """One request for all symbols, one without the symbol that is refused, and one for each that is added."""
    budget = {"handshakes_per_second": 1000, "subscribes_per_second": 2}
    symbols = [*SYMBOLS, "NOPE_USDT"]

    async def scenario() -> None:
        async with Simulator(symbols=[*SYMBOLS, "LTC_USDT"], rate=10) as exchange:
            begin = time.monotonic()
            async with connected(exchange, Received(), symbols, **budget) as connector:
                await soon(lambda: not_confirmed(connector)[0].endswith("(code 2)"), 20, "the refused one")
                for channel in ("trades", "depth", "ticker"):
                    connector.subscribe(channel, ["LTC_USDT"])
                await soon(lambda: "pending" in str(not_confirmed(connector)), 20, "the added ones")
                await soon(lambda: "pending" not in str(not_confirmed(connector)), 20, "all answers")
                requests = 2 + 3
                # The budget of one second may be used at once, and the last request is paid for after it.
                assert time.monotonic() - begin >= (requests - 1) / 2 - 1
                assert connector.courtesy.wait(begin, Handshake(0, repeated=False)) >= requests / 2 - 1

    uvloop.run(scenario())


def session_number(received: Received, number: int) -> bool:
    return len(received.sessions) == number + 1


def test_a_dead_connection_is_closed_without_a_closing_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handshake would time out, and delay the next session."""
    monkeypatch.setattr(edge, "_CLOSING_HANDSHAKE", 3600.0)

    async def scenario() -> None:
        quick = {"ping_interval": 0.3, "reply_timeout": 2.5}
        async with (
            Simulator(symbols=SYMBOLS, rate=100) as exchange,
            relay_that_can_die(exchange) as (url, die),
        ):
            received = Received()
            async with connected(exchange, received, url=url, **quick) as connector:
                for session in range(3):
                    await soon(partial(session_number, received, session), 20, "pushes")
                    die()
                await soon(partial(session_number, received, 3), 20, "a fourth session")
                assert connector.metrics.counter("reconnects_total", reason="timeout").value == 3

    uvloop.run(scenario())


def test_a_session_that_ends_while_its_replacement_waits_to_be_admitted_is_over() -> None:
    async def scenario() -> None:
        async with Simulator(symbols=SYMBOLS, rate=100) as exchange:  # noqa: SIM117
            async with connected(exchange, Received(), max_session_age=0.5) as connector:
                await soon(lambda: not_confirmed(connector) == [], 20, "a live session")
                paused = time.monotonic()
                connector.courtesy.pause(paused, 300.0)
                await soon(lambda: time.monotonic() > paused + 1.0, 20, "the end of its maximum age")
                await exchange.drop_all()
                await soon(
                    lambda: "closed by the exchange" in str(not_confirmed(connector)), 20, "why it ended"
                )

    uvloop.run(scenario())


def test_a_session_of_quiet_markets_is_replaced_ever_less_often_and_only_once_the_new_one_is_live(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The third is wanted after 0.2 s, the fourth after 0.4 s, and so on."""
    monkeypatch.setattr("bridge.websocket.rotation.NODE_LAG", 0.0)

    async def scenario() -> None:
        quiet = {"stale_after": 0.1, "reply_timeout": 5.0}
        async with Simulator(symbols=SYMBOLS, rate=1e-6) as exchange:
            begin = time.monotonic()
            async with connected(exchange, Received(), **quiet) as connector:
                stale = connector.metrics.counter("reconnects_total", reason="stale")
                await soon(lambda: stale.value >= 4, 60, "four replacements")
                assert time.monotonic() - begin >= 0.1 + 0.2 + 0.4 + 0.8
                assert connector.metrics.counter("reconnects_total", reason="rotated").value == 0
                assert connector.closed == 0
                kinds = [event["event"] for event in map(json_of, connector.events)]
        lives = [kind for kind in kinds if kind in ("session_begun", "session_ended")]
        assert lives[:8] == ["session_begun"] + 3 * ["session_begun", "session_ended"] + ["session_begun"]

    uvloop.run(scenario())


def json_of(record: Record) -> dict[str, Any]:
    decoded: dict[str, Any] = msgspec.json.decode(record.value)
    return decoded


def test_a_subscription_that_was_refused_and_brings_data_is_confirmed() -> None:
    """The exchange accepts part of the request, and then says in its own words that it is a repetition."""

    async def scenario() -> None:
        async with Simulator(symbols=SYMBOLS, rate=100) as exchange:  # noqa: SIM117
            async with connected(exchange, Flowing(), SYMBOLS, ping_interval=0.2) as connector:
                await soon(lambda: not_confirmed(connector) == [], 20, "a live session")
                exchange.shut("trades")
                connector.subscribe("trades", ["LTC_USDT"])
                await soon(lambda: "service unavailable" in str(not_confirmed(connector)), 20, "a refusal")
                assert len(not_confirmed(connector)) == 1
                (client,) = exchange.clients
                client.subscriber.subscriptions["trades"].add("LTC_USDT")
                exchange.push("trades", [False, [], "LTC_USDT"])
                await soon(lambda: not_confirmed(connector) == [], 20, "all confirmed")

    uvloop.run(scenario())


class Flowing(Received):
    """Makes a record of whatever comes."""

    def push(self, push: Push, source: Source, received_us: int, frame: bytes) -> None:
        *_, symbol = msgspec.json.decode(push.params)
        source.series(push.channel, symbol).next_seq()


@asynccontextmanager
async def relay_that_can_die(exchange: Simulator) -> AsyncIterator[tuple[str, Callable[[], None]]]:
    """Give the address of a relay to the exchange, and a function that makes its connections dead."""
    port = exchange.url.split(":")[2].split("/")[0]
    relays: list[asyncio.Task[None]] = []
    dead: set[asyncio.StreamReader] = set()
    open_ones: list[asyncio.StreamReader] = []

    async def relay(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                if source not in dead:
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
        yield exchange.url.replace(port, str(here)), lambda: dead.update(open_ones)
        for one in relays:
            one.cancel()
        await asyncio.wait(relays)


def test_an_outage_of_the_exchange_is_a_pair_of_log_lines_with_both_sessions() -> None:
    """Whatever number of handshakes is refused meanwhile; none of them is a session that has ended."""

    async def scenario() -> None:
        received = Received()
        async with Simulator(symbols=SYMBOLS, rate=100) as exchange, connected(exchange, received):
            await soon(lambda: received.sessions, 20, "pushes")
            await exchange.drop_all(refuse=3)
            await soon(lambda: len(received.sessions) > 1, 60, "pushes over another session")
            await soon(lambda: lines[-1]["event"] == "session recovered", 60, "its end in the log")

    with capture_logs() as lines:
        uvloop.run(scenario())
    old, new = [line["session"] for line in lines if line["event"] == "session opened"]
    outage = [line for line in lines if line["log_level"] != "info"]
    assert [line["event"] for line in outage] == [
        "session ended",
        "could not connect, retrying",
        "session recovered",
    ]
    ended, refused, recovered = outage
    assert (ended["session"], ended["reason"], refused["reason"]) == (old, "closed", "refused")
    assert (recovered["session"], recovered["lost"], recovered["refused"]) == (new, old, 3)
    assert recovered["seconds"] >= 0


def test_a_first_session_and_rotations_are_no_outages() -> None:
    async def scenario() -> None:
        async with (
            Simulator(symbols=SYMBOLS, rate=100) as exchange,
            connected(exchange, Received(), max_session_age=0.5) as connector,
        ):
            rotated = connector.metrics.counter("reconnects_total", reason="rotated")
            await soon(lambda: rotated.value >= 1, 60, "a rotation")

    with capture_logs() as lines:
        uvloop.run(scenario())
    assert [line for line in lines if line["log_level"] != "info"] == []


def test_a_session_that_ends_while_it_is_replaced_is_logged_as_an_outage_of_no_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bridge.websocket.rotation.NODE_LAG", 5.0)

    async def scenario() -> None:
        received = Received()
        async with (
            Simulator(symbols=SYMBOLS, rate=100) as exchange,
            connected(exchange, received, max_session_age=0.5),
        ):
            await soon(lambda: len(exchange.clients) == 2, 60, "a rotation")
            min(exchange.clients, key=lambda client: client.opened).cut()
            await soon(lambda: "session recovered" in str(lines), 60, "the new session alone")

    with capture_logs() as lines:
        uvloop.run(scenario())
    old, new = [line["session"] for line in lines if line["event"] == "session opened"]
    ended, recovered = [line for line in lines if line["log_level"] != "info"]
    assert (ended["event"], ended["session"]) == ("session ended", old)
    assert (recovered["session"], recovered["lost"], recovered["refused"]) == (new, old, 0)
