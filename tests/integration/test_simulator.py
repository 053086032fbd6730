"""The simulated exchange over real sockets, with a plain websockets client."""

import asyncio
import base64
import hashlib
import hmac
import time
import zlib
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Literal, Self

import orjson
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from bridge.simulator import Dialect, Faults, Setup, Simulator
from tests.support.waiting import soon

SYMBOLS = ["BTC_USDT", "ETH_USDT", "LTC_USDT"]
PUBLIC = ["depth", "trades", "ticker"]
PRIVATE = ["order", "order_algo", "balance"]
ACCOUNTS = {"key": "secret"}
OK = {"status": "success"}
PATIENCE = 60.0  # seconds


class Listener:
    """A client that keeps all it receives, in order.

    `texts` and `frames` hold text and binary messages, `messages` what they decode to, `bad` what does not.
    """

    def __init__(self, url: str) -> None:
        self._connect = connect(url, compression=None, ping_interval=None)
        self.texts: list[str] = []
        self.frames: list[bytes] = []
        self.messages: list[dict[str, Any]] = []
        self.bad: list[bytes] = []
        self._ids = 0

    async def __aenter__(self) -> Self:
        self.socket = await self._connect
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.socket.close()
        await self._reading

    @property
    def closed(self) -> bool:
        """True once the server has closed the connection."""
        return self._reading.done()

    async def ask(self, method: str, params: list[Any] | None = None) -> dict[str, Any]:
        """Return the reply to a request.

        Raises:
            ConnectionResetError: the server has closed the connection instead.
        """
        self._ids += 1
        mine = self._ids
        await self.socket.send(orjson.dumps({"id": mine, "method": method, "params": params or []}).decode())
        await soon(lambda: self._replies(mine) or self.closed, PATIENCE, f"the reply to {method}")
        if not self._replies(mine):
            raise ConnectionResetError(method)
        (reply,) = self._replies(mine)
        return reply

    async def result(self, method: str, params: list[Any] | None = None) -> object:
        """Return the result of a request that succeeds."""
        reply = await self.ask(method, params)
        assert reply["error"] is None
        return reply["result"]

    async def authenticate(self, secret: str = "secret", ahead: float = 0.0) -> dict[str, Any]:
        """Return the reply to an authentication request, signed with the current time."""
        timestamp = str(int((time.time() + ahead) * 1000))
        digest = hmac.digest(secret.encode(), timestamp.encode(), hashlib.sha256)
        return await self.ask("server.auth", ["key", timestamp, base64.b64encode(digest).decode()])

    def updates(self, channel: str) -> list[list[Any]]:
        """Return the params of all updates of a channel."""
        return [one["params"] for one in self.messages if one.get("method") == f"{channel}.update"]

    async def heard(self, channel: str, number: int = 1) -> list[list[Any]]:
        """Return the updates of a channel as soon as there are `number`."""
        await soon(lambda: len(self.updates(channel)) >= number, PATIENCE, f"{number} updates of {channel}")
        return self.updates(channel)

    async def end(self) -> None:
        """Return as soon as the server has closed the connection."""
        await soon(lambda: self.closed, PATIENCE, "the end of the connection")

    def _replies(self, request_id: int) -> list[dict[str, Any]]:
        return [one for one in self.messages if one["id"] == request_id]

    async def _read(self) -> None:
        try:
            async for data in self.socket:
                if isinstance(data, str):
                    self.texts.append(data)
                    self.messages.append(orjson.loads(data))
                    continue
                self.frames.append(data)
                try:
                    self.messages.append(orjson.loads(zlib.decompress(data)))
                except (zlib.error, orjson.JSONDecodeError):
                    self.bad.append(data)
        except ConnectionClosed:
            return


def meeting(scenario: Callable[[Simulator, Listener], Awaitable[None]], **options: Any) -> Simulator:
    """Connect one client to a simulator and run a scenario; return the simulator, for its truth."""

    async def meet() -> Simulator:
        async with Simulator(symbols=SYMBOLS, **options) as exchange:
            async with Listener(exchange.url) as client:
                await scenario(exchange, client)
            return exchange

    return asyncio.run(meet())


def test_ping_and_time_get_compressed_replies() -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        assert await client.result("server.ping") == "pong"
        before = int(time.time())
        now = await client.result("server.time")
        assert isinstance(now, int)
        assert before <= now <= time.time()
        assert len(client.frames) == 2
        assert not client.texts

    meeting(scenario, rate=0)


def test_replies_may_be_plain_text_but_updates_are_always_compressed() -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        assert await client.result("depth.subscribe", SYMBOLS) == OK
        await client.heard("depth", 5)
        assert len(client.texts) == 1
        assert len(client.frames) >= 5

    meeting(scenario, dialect=Dialect(compressed="answers"))


def test_a_signature_with_the_exchanges_time_opens_the_private_channels() -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        assert (await client.ask("order.subscribe", SYMBOLS))["error"]["code"] == 6
        assert (await client.authenticate("wrong"))["error"]["code"] == 3
        assert (await client.authenticate())["error"]["code"] == 3
        assert (await client.authenticate(ahead=-60.0))["result"] == OK
        assert await client.result("order.subscribe", SYMBOLS) == OK

    meeting(scenario, accounts=ACCOUNTS, rate=0, faults=Faults(clock_offset=-60.0))


@pytest.mark.parametrize("order", ["answer_first", "push_first"])
@pytest.mark.parametrize("channel", [*PUBLIC, "all_ticker"])
def test_the_reply_comes_before_or_after_the_first_update(
    channel: str, order: Literal["answer_first", "push_first"]
) -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        assert await client.result(f"{channel}.subscribe", SYMBOLS[:1]) == OK
        await client.heard(channel)
        kinds = ["update" if one["id"] is None else "reply" for one in client.messages]
        assert kinds == (["reply", "update"] if order == "answer_first" else ["update", "reply"])

    meeting(scenario, rate=0, dialect=Dialect(answer_order=order))


def test_a_late_list_is_as_it_was_when_it_was_due() -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        await soon(lambda: exchange.market.markets[SYMBOLS[0]].trades, PATIENCE, "a trade")
        assert await client.result("trades.subscribe", SYMBOLS[:1]) == OK
        await soon(lambda: any(clean for clean, *_ in client.updates("trades")), PATIENCE, "a list")
        live = [trades for clean, trades, _ in client.updates("trades") if not clean]
        (late,) = [trades for clean, trades, _ in client.updates("trades") if clean]
        assert live, "something was to happen before the list came"
        assert max(trade["id"] for trade in late) < live[0][-1]["id"]

    meeting(scenario, rate=300, faults=Faults(clean_late=1.0, late_by=1.0))


def test_public_channels_start_with_a_snapshot_followed_by_changes() -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        for channel in PUBLIC:
            await client.result(f"{channel}.subscribe", SYMBOLS)
        for channel in ("depth", "trades"):
            updates = await client.heard(channel, 30)
            for symbol in SYMBOLS:
                cleans = [clean for clean, _, name in updates if name == symbol]
                assert cleans[0] is True
                assert not any(cleans[1:])
        tickers = await client.heard("ticker", 10)
        assert {ticker["symbol"] for (ticker,) in tickers} == set(SYMBOLS)

    meeting(scenario, rate=400)


def test_all_ticker_comes_once_a_second_with_the_changed_markets() -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        await client.result("all_ticker.subscribe")
        exchange.market.list_market("NEW_USDT")
        whole, *_ = await client.heard("all_ticker")
        assert [one["symbol"] for one in whole] == SYMBOLS
        await soon(lambda: "NEW_USDT" in symbols_of(client.updates("all_ticker")), PATIENCE, "the new market")
        assert client.updates("all_ticker")[-1][-1]["symbol"] == "NEW_USDT"

    meeting(scenario, rate=0)


def symbols_of(updates: list[list[Any]]) -> set[str]:
    """Return the markets in updates of all_ticker."""
    return {ticker["symbol"] for tickers in updates for ticker in tickers}


def test_private_updates_go_to_their_own_account_only() -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        async with Listener(exchange.url) as stranger:
            await client.authenticate()
            for channel in PRIVATE:
                names = ["BTC", "USDT"] if channel == "balance" else SYMBOLS
                await client.result(f"{channel}.subscribe", names)
                assert (await stranger.ask(f"{channel}.subscribe", names))["error"]["code"] == 6
            for channel in PRIVATE:
                await client.heard(channel, 3)
            assert not any(stranger.updates(channel) for channel in PRIVATE)

    exchange = meeting(scenario, accounts=ACCOUNTS, rate=3000)
    assert exchange.truth.counts()["order"] >= 3


def test_unsubscribing_ends_the_updates() -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        await client.result("depth.subscribe", SYMBOLS)
        await client.result("ticker.subscribe", SYMBOLS)
        await client.result("depth.unsubscribe", SYMBOLS[:1])
        client.messages.clear()
        assert {update[2] for update in await client.heard("depth", 20)} == set(SYMBOLS[1:])
        await client.result("depth.unsubscribe")
        client.messages.clear()
        await client.heard("ticker", 20)
        assert not client.updates("depth")

    meeting(scenario, rate=1000)


def test_an_unknown_market_is_named_in_the_refusal_or_acknowledged() -> None:
    async def refusing(exchange: Simulator, client: Listener) -> None:
        error = (await client.ask("depth.subscribe", ["BTC_USDT", "NOPE_USDT"]))["error"]
        assert error["code"] == 2
        assert "NOPE_USDT" in error["message"]

    async def acknowledging(exchange: Simulator, client: Listener) -> None:
        assert await client.result("depth.subscribe", ["NOPE_USDT"]) == OK
        assert await client.heard("depth") == [[True, {}, "NOPE_USDT"]]

    meeting(refusing, rate=0)
    meeting(acknowledging, rate=0, dialect=Dialect(unknown_refused="acknowledged"))


@pytest.mark.parametrize("message", ["hello", '{"id":"1","method":"server.ping","params":[]}', '{"id":1}'])
def test_an_invalid_request_closes_the_connection_without_a_reply(message: str) -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        await client.socket.send(message)
        await client.end()
        assert not client.messages

    meeting(scenario, rate=0)


def test_the_truth_equals_what_two_clients_received() -> None:
    """After `quiesce` everything sent has arrived, and the counts, trades and books agree."""

    async def scenario(exchange: Simulator, client: Listener) -> None:
        async with Listener(exchange.url) as other:
            for one in (client, other):
                for channel in PUBLIC:
                    await one.result(f"{channel}.subscribe", SYMBOLS)
            await client.heard("trades", 100)
            await exchange.quiesce()
            good = exchange.truth.good
            for one in (client, other):
                assert await one.result("server.ping") == "pong"
            heard = [sum(len(one.updates(channel)) for channel in PUBLIC) for one in (client, other)]
            assert sum(heard) == good == exchange.truth.good
        for symbol in SYMBOLS:
            trades = [update[1] for update in client.updates("trades") if update[2] == symbol]
            ids = {trade["id"] for one in trades for trade in one}
            assert ids == exchange.truth.sent[symbol]
            assert ids <= {trade["id"] for trade in exchange.truth.made[symbol]}
            assert exchange.truth.items("trades", symbol) == len(ids)
            assert _book(client, symbol) == exchange.truth.book(symbol)
        assert exchange.truth.counts()["depth"] == len(client.updates("depth")) + len(other.updates("depth"))

    meeting(scenario, rate=1000, setup=Setup(keep_trades=True))


def _book(client: Listener, symbol: str) -> dict[str, dict[str, str]]:
    book: dict[str, dict[str, str]] = {"asks": {}, "bids": {}}
    for clean, change, name in client.updates("depth"):
        if name != symbol:
            continue
        for side, levels in book.items():
            if clean:
                levels.clear()
            levels.update(dict(change[side]))
            for price in [price for price, amount in levels.items() if float(amount) == 0]:
                del levels[price]
    return book


def test_five_thousand_updates_a_second_are_sustained() -> None:
    """Counted in CPU time, because other processes may keep the cores busy."""

    async def scenario(exchange: Simulator, client: Listener) -> None:
        for channel in PUBLIC:
            await client.result(f"{channel}.subscribe", SYMBOLS)
        begun, before = time.process_time(), exchange.truth.good
        await soon(lambda: exchange.truth.good - before >= 5000, PATIENCE, "5000 updates")
        assert time.process_time() - begun < 5
        await exchange.quiesce()

    meeting(scenario, rate=5000)


def test_damaged_frames_are_sent_in_addition_and_counted() -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        for channel in ("depth", "trades"):
            await client.result(f"{channel}.subscribe", SYMBOLS)
        await soon(lambda: len(exchange.truth.bad) == 3, PATIENCE, "each kind of damage")
        await exchange.quiesce()
        await client.result("server.ping")
        bad, good = exchange.truth.bad, exchange.truth.good
        assert len(client.bad) == bad["corrupt"] + bad["bad_json"]
        assert len(client.updates("moon")) == bad["unknown_method"]
        assert len(client.updates("depth")) + len(client.updates("trades")) == good

    meeting(scenario, rate=500, faults=Faults(corrupt=0.1, bad_json=0.1, unknown_method=0.1))


def test_snapshots_may_be_repeated_at_any_time() -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        for channel in ("depth", "trades"):
            await client.result(f"{channel}.subscribe", SYMBOLS[:1])
        for channel in ("depth", "trades"):
            assert sum(clean for clean, _, _ in await client.heard(channel, 30)) > 5

    meeting(scenario, rate=500, faults=Faults(clean_again=0.5))


def test_trades_may_come_oldest_first_and_all_ticker_nested() -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        await client.result("trades.subscribe", SYMBOLS)
        await client.result("all_ticker.subscribe")
        for _, trades, _ in await client.heard("trades", 60):
            ids = [trade["id"] for trade in trades]
            assert ids == sorted(ids)
        ((tickers,), *_) = await client.heard("all_ticker")
        assert [one["symbol"] for one in tickers] == SYMBOLS

    meeting(scenario, rate=500, faults=Faults(newest_first=False, nested_all_ticker=True))


def test_dropping_all_connections_refuses_the_given_number_of_handshakes() -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        await exchange.drop_all(refuse=2)
        await client.end()
        for _ in range(2):
            with pytest.raises(InvalidStatus, match="502"):
                await connect(exchange.url)
        async with Listener(exchange.url) as again:
            assert await again.result("server.ping") == "pong"
        assert (exchange.handshakes, exchange.refusals) == (2, 2)

    meeting(scenario, rate=0)


def test_periodic_drops_and_refused_handshakes_hide_no_trade_from_a_client_that_reconnects() -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        heard: set[int] = set()

        async def listen() -> bool:
            """Collect the trades of one connection until it is dropped; False if that was too early."""
            try:
                async with Listener(exchange.url) as one:
                    await one.result("trades.subscribe", SYMBOLS[:1])
                    await one.end()
            except (InvalidHandshake, OSError, ConnectionClosed):
                return False  # refused, or dropped too early
            heard.update(trade["id"] for _, trades, _ in one.updates("trades") for trade in trades)
            return True

        for _ in range(4):
            await listen()
        await exchange.quiesce()
        while not await listen():
            pass
        assert heard == {trade["id"] for trade in exchange.truth.made[SYMBOLS[0]]}
        assert exchange.refusals > 0

    setup, faults = Setup(keep_trades=True), Faults(drop=0.3, refuse=1)
    meeting(scenario, rate=300, setup=setup, faults=faults)


def test_a_stall_delays_everything_and_loses_nothing() -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        await client.result("depth.subscribe", SYMBOLS)
        begun, before = time.monotonic(), exchange.truth.good
        exchange.stall(0.4)
        assert await client.result("server.ping") == "pong"
        assert time.monotonic() - begun >= 0.35
        assert exchange.truth.good > before
        await exchange.quiesce()
        assert await client.result("server.ping") == "pong"
        assert len(client.updates("depth")) == exchange.truth.good

    meeting(scenario, rate=200)


@pytest.mark.parametrize("by_hand", [True, False])
def test_a_muted_connection_stays_open_and_silent(by_hand: bool) -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        await client.result("depth.subscribe", SYMBOLS)
        if by_hand:
            exchange.mute()
        await soon(lambda: all(one.muted for one in exchange.clients), PATIENCE, "silence")
        await client.socket.send(orjson.dumps({"id": 99, "method": "server.ping", "params": []}).decode())
        good, made = exchange.truth.good, exchange.truth.made["BTC_USDT"]
        goal = len(made) + 10
        await soon(lambda: len(made) >= goal, PATIENCE, "trades that are sent to nobody")
        assert exchange.truth.good == good
        assert not client.closed
        assert not any(one["id"] == 99 for one in client.messages)

    meeting(
        scenario,
        rate=400,
        setup=Setup(keep_trades=True),
        faults=Faults() if by_hand else Faults(mute_after=3.0),
    )


@pytest.mark.parametrize("faults", [Faults(idle_limit=3.0), Faults(max_age=3.0)])
def test_idle_and_old_connections_are_cut(faults: Faults) -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        begun = time.monotonic()
        await client.result("depth.subscribe", SYMBOLS)
        await client.end()
        assert time.monotonic() - begun >= 2.5

    meeting(scenario, faults=faults)


def test_one_subscription_too_many_closes_the_connection_without_a_reply() -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        await client.result("depth.subscribe", SYMBOLS)
        before = len(client.messages)
        request = {"id": 99, "method": "trades.subscribe", "params": SYMBOLS[:1]}
        await client.socket.send(orjson.dumps(request).decode())
        await client.end()
        assert len(client.messages) == before

    meeting(scenario, rate=0, faults=Faults(max_subscriptions=3))


def test_a_client_that_does_not_read_is_cut_off_and_counted() -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        idle = await connect(exchange.url, compression=None, ping_interval=None, max_size=None, max_queue=1)
        await soon(lambda: len(exchange.clients) == 2, PATIENCE, "both clients")
        for _ in range(60):
            exchange.push_raw(bytes(900_000))
            assert await client.result("server.ping") == "pong"
            if exchange.clients.too_slow:
                break
        assert exchange.clients.too_slow == 1
        assert len(exchange.clients) == 1
        idle.transport.abort()
        await idle.wait_closed()

    meeting(scenario, rate=0, setup=Setup(backlog=4_000_000))


def test_hand_made_updates_reach_the_subscribers_of_their_symbol() -> None:
    async def scenario(exchange: Simulator, client: Listener) -> None:
        async with Listener(exchange.url) as other:
            await client.result("trades.subscribe", ["BTC_USDT"])
            await other.result("trades.subscribe", ["ETH_USDT"])
            strange = [False, [{"id": "odd"}], "BTC_USDT"]
            exchange.push("trades", strange)
            exchange.push("trades", ["no symbol at all"])
            exchange.push_raw(b"neither zlib nor JSON")
            for one in (client, other):
                assert await one.result("server.ping") == "pong"
                assert one.bad == [b"neither zlib nor JSON"]
            assert client.updates("trades")[1:] == [strange, ["no symbol at all"]]
            assert other.updates("trades")[1:] == [["no symbol at all"]]
            assert exchange.truth.good == 2

    meeting(scenario, rate=0, faults=Faults(newest_first=False))
