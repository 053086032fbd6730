"""Connectors of an exchange that refuses connections or closes them soon: reported, and never a storm."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import pytest
import uvloop

from bridge import plan
from bridge.config import ExchangeConfig
from bridge.exchange.requests import Credentials
from bridge.halving import Halving
from bridge.records import Record
from bridge.simulator import Faults, Simulator
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.watch.watch import Watch
from bridge.websocket.connector import Connector, Siblings
from bridge.websocket.courtesy import Courtesy
from bridge.websocket.sessions import Account
from tests.support.receivers import Nobody
from tests.support.standings import not_confirmed
from tests.support.waiting import soon

SYMBOLS = ["BTC_USDT", "ETH_USDT", "LTC_USDT", "XRP_USDT"]
STEADY = 0.5  # seconds between two handshakes in a steady state, with these settings
QUICK = {"reconnect_min": 0.01, "reconnect_max": 3 * STEADY, "refused_max": 2 * STEADY}


class Process:
    """Connectors of one process, and the events that they record."""

    def __init__(self, exchange: Simulator, settings: dict[str, object]) -> None:
        self._recorded: list[Record] = []
        metrics = Metrics()
        self._watch = Watch("0", metrics, Journal("replica", 0, self._recorded.extend, metrics))
        self._config = ExchangeConfig.model_validate({"url": exchange.url, **QUICK, **settings})
        self.courtesy = Courtesy.of(self._config)
        self.connectors: list[Connector] = []
        self.siblings: Siblings | None = None  # None: none is halved

    def connector(self, channel: str, symbols: Sequence[str], account: str | None = None) -> None:
        """Add one."""
        known = Account(account, Credentials(account, "secret")) if account else None
        self.connectors.append(self.create({channel: list(symbols)}, known))

    def create(self, wanted: plan.Wanted, account: Account | None = None) -> Connector:
        """Return one that is not among those of the process yet."""
        connector = Connector(
            wanted,
            config=self._config,
            courtesy=self.courtesy,
            receiver=Nobody(),
            watch=self._watch,
            account=account,
        )
        connector.siblings = self.siblings
        return connector

    def events(self, kind: str) -> list[dict[str, object]]:
        """Return the recorded events of a kind."""
        return [
            event
            for record in self._recorded
            if (event := msgspec.json.decode(record.value))["event"] == kind
        ]

    @property
    def live(self) -> int:
        """How many have nothing missing."""
        return sum(not not_confirmed(connector) for connector in self.connectors)


@asynccontextmanager
async def running(process: Process, *, halving: bool = False) -> AsyncIterator[None]:
    """Run all connectors for the duration of the context, and those into which they are divided."""
    tasks: list[asyncio.Task[None]] = []

    def start(connector: Connector) -> None:
        tasks.append(asyncio.create_task(connector.run()))

    divided = Halving(process.connectors, process.create, start, "0")
    if halving:
        process.siblings = divided
    for connector in [*process.connectors]:
        connector.siblings = process.siblings
        start(connector)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def tries(exchange: Simulator) -> int:
    return exchange.handshakes + exchange.refusals


async def assert_steady(exchange: Simulator) -> None:
    """Wait until handshakes are rare, and assert that they stay so."""
    begin = time.monotonic()
    before, since = tries(exchange), begin
    while time.monotonic() - since < 8 * STEADY:
        await asyncio.sleep(0.05)  # as they happen elsewhere, nothing can be awaited
        if tries(exchange) - before > (time.monotonic() - since) / STEADY + 1:
            before, since = tries(exchange), time.monotonic()
        assert time.monotonic() - begin < 60, "handshakes do not become rare"


SERVERS = {
    "403 for all": Faults(refuse_all=403),
    "503 for all": Faults(refuse_all=503, retry_after=0.2),
    "a redirect for all": Faults(refuse_all=301),
    "a cap of connections by 403": Faults(max_connections=2),
    "the oldest connection closed": Faults(oldest_closed=2),
    "closed after the snapshot": Faults(close_after=0.01),
    "closed with 1008": Faults(close_after=0.01, close_code=1008),
    "closed with 1012": Faults(close_after=0.01, close_code=1012),
    "closed with 1013": Faults(close_after=0.01, close_code=1013),
    "a silent close over a cap of subscriptions": Faults(max_subscriptions=1),
}
ONE_LOGIN = "one login a key"


async def visit(faults: Faults) -> None:
    """Be refused or closed again and again, and come back once the exchange is well again."""
    async with Simulator(symbols=SYMBOLS, rate=20, faults=faults) as exchange:
        process = Process(exchange, {})
        for symbol in SYMBOLS:
            process.connector("trades", [symbol, "BTC_USDT"])
        async with running(process):
            await assert_steady(exchange)
            exchange.inject(Faults())
            if not faults.max_subscriptions:
                await soon(lambda: process.live == len(SYMBOLS), 60, "all sessions")


async def log_in_twice() -> None:
    """Log in with one key on two connections, where the older one is closed."""
    faults, accounts = Faults(one_login=True), {"main": "secret"}
    async with Simulator(symbols=SYMBOLS, rate=20, faults=faults, accounts=accounts) as exchange:
        process = Process(exchange, {})
        process.connector("order", ["BTC_USDT"], "main")
        process.connector("balance", ["USDT"], "main")
        process.connector("trades", SYMBOLS)
        async with running(process):
            # On a slow machine handshakes are rare before the third session has ended soon.
            await soon(lambda: process.events("short_lives"), 60, "a report")
            await assert_steady(exchange)
            assert {report["account"] for report in process.events("short_lives")} == {"main"}
            await soon(lambda: not not_confirmed(process.connectors[2]), 20, "the one without a login")


@pytest.fixture(scope="module")
def failures() -> dict[str, BaseException | None]:
    """Visit all servers at the same time, since most of it is waiting; return what failed, by server."""

    async def all_visited() -> list[BaseException | None]:
        visits = [*map(visit, SERVERS.values()), log_in_twice()]
        return await asyncio.gather(*visits, return_exceptions=True)

    return dict(zip([*SERVERS, ONE_LOGIN], uvloop.run(all_visited()), strict=True))


@pytest.mark.parametrize("server", SERVERS)
def test_a_server_that_goes_on_refusing_or_closing_is_asked_ever_less_often(
    server: str, failures: dict[str, BaseException | None]
) -> None:
    """And all is well soon after the exchange is well again."""
    raise_if(failures[server])


def test_two_sessions_that_log_in_with_one_key_close_each_other_ever_less_often_and_it_is_reported(
    failures: dict[str, BaseException | None],
) -> None:
    """Only one login a key is accepted: the older connection is closed."""
    raise_if(failures[ONE_LOGIN])


def raise_if(failure: BaseException | None) -> None:
    if failure is not None:
        raise failure


def test_halving_sessions_that_all_end_soon_neither_storms_the_exchange_nor_opens_many() -> None:
    """Something else than their size ends them; all is well soon after the exchange is well again."""

    async def scenario() -> None:
        symbols = [f"SIM{number}_USDT" for number in range(60)]
        async with Simulator(symbols=symbols, rate=20, faults=Faults(close_after=0.01)) as exchange:
            process = Process(exchange, {})
            for first in range(0, 60, 20):
                process.connector("trades", symbols[first : first + 20])
            async with running(process, halving=True):
                await soon(lambda: len(process.connectors) == 8, 60, "parts of one of them")
                await assert_steady(exchange)
                assert len(process.connectors) == 8
                exchange.inject(Faults())
                await soon(lambda: process.live == 8, 60, "all sessions")
            wanted = [symbol for one in process.connectors for symbol in one.wanted["trades"]]
            assert sorted(wanted) == sorted(symbols)

    uvloop.run(scenario())


def test_sessions_that_keep_ending_soon_are_reported() -> None:
    async def scenario() -> None:
        async with Simulator(symbols=SYMBOLS, rate=20, faults=Faults(close_after=0.01)) as exchange:
            process = Process(exchange, {})
            process.connector("trades", SYMBOLS)
            async with running(process):
                await soon(lambda: len(process.events("short_lives")) == 2, 60, "two reports")
            first, second = process.events("short_lives")
            assert first["cause"] == "closed"
            assert str(first["detail"]).startswith("3 sessions in a row ended within 60 s (trades BTC_USDT")
            assert str(second["detail"]).startswith("6 sessions in a row")

    uvloop.run(scenario())


def test_a_refused_login_delays_its_account_only() -> None:
    async def scenario() -> None:
        async with Simulator(symbols=SYMBOLS, rate=20, accounts={"main": "other"}) as exchange:
            process = Process(exchange, {"reconnect_max": 300.0})
            process.connector("order", ["BTC_USDT"], "main")
            process.connector("trades", SYMBOLS)
            async with running(process):
                await soon(
                    lambda: "auth failed" in str(not_confirmed(process.connectors[0])), 20, "a refusal"
                )
                await soon(lambda: not not_confirmed(process.connectors[1]), 20, "the others")
                await exchange.drop_all()
                await soon(lambda: exchange.handshakes == 3, 20, "a third connection")
                await soon(lambda: not not_confirmed(process.connectors[1]), 20, "the others again")

    uvloop.run(scenario())


def test_accounts_and_all_ticker_come_back_first_after_a_cut_of_all() -> None:
    async def scenario() -> None:
        async with Simulator(symbols=SYMBOLS, rate=20, accounts={"main": "secret"}) as exchange:
            process = Process(exchange, {"reconnect_min": 0.5, "reconnect_max": 1.0})
            for symbol in SYMBOLS:
                process.connector("trades", [symbol])
            process.connector("all_ticker", [])
            process.connector("order", ["BTC_USDT"], "main")
            async with running(process):
                await soon(lambda: process.live == 6, 60, "all sessions")
                await exchange.drop_all(refuse=1)
                await soon(lambda: len(exchange.clients) >= 3, 60, "some sessions again")
                order = sorted(exchange.clients, key=lambda client: client.opened)
                await soon(lambda: process.live == 6, 60, "all sessions again")
                first = {channel for client in order[:2] for channel in client.subscriber.subscriptions}
                assert first == {"order", "all_ticker"}

    uvloop.run(scenario())


def test_a_redirect_is_not_followed() -> None:
    async def scenario() -> None:
        async with Simulator(symbols=SYMBOLS, faults=Faults(refuse_all=302)) as exchange:
            process = Process(
                exchange, {"reconnect_max": 300.0, "reconnect_min": 300.0, "refused_max": 300.0}
            )
            process.connector("trades", SYMBOLS)
            async with running(process):
                await soon(
                    lambda: "redirect" in str(not_confirmed(process.connectors[0])), 20, "why it is refused"
                )
                assert exchange.refusals == 1

    uvloop.run(scenario())
