"""The simulated exchange on a real socket: the methods of the API document, the pace, and the faults."""

import asyncio
import base64
import hashlib
import hmac
import random
import time
import zlib
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal, Self

import orjson
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from bridge.simulator.accounts import Account
from bridge.simulator.client import Client, binary, text
from bridge.simulator.faults import Faults
from bridge.simulator.market import Exchange, Push, symbol_names
from bridge.simulator.truth import Truth

_PUBLIC = ("trades", "depth", "ticker", "all_ticker")
_PRIVATE = ("order", "order_algo", "balance")
_TICK = 0.005  # seconds between two looks at what is due
_ALL_TICKER = 1.0  # seconds
_PRIVATE_SHARE = 0.02  # of the rate
_WINDOW_MS = (-1_000, 5_000)  # how old the signature's timestamp may be

_INVALID, _NOT_FOUND, _AUTH_FAILED, _NEED_AUTH = 2, 4, 3, 6

_SUCCESS = {"status": "success"}


class _Refused(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Simulator:
    """A DigiFinex of its own, as long as its context; `url` is its address, `truth` what it sent.

    `symbols` are names or a number of markets, `rate` pushes a second over all of them, `accounts` maps API
    keys to secrets. Answers come compressed or as plain text, before or after the first push; an unknown
    market is refused or, as others have seen, acknowledged.
    """

    def __init__(
        self,
        *,
        symbols: int | Sequence[str] = 10,
        rate: float = 200.0,
        seed: int = 7,
        faults: Faults = Faults(),  # noqa: B008
        accounts: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        answers: Literal["zlib", "text"] = "zlib",
        confirm: Literal["before", "after"] = "before",
        unknown_market: Literal["refuse", "ack"] = "refuse",
        keep_trades: bool = False,
    ) -> None:
        self.symbols = symbol_names(symbols) if isinstance(symbols, int) else list(symbols)
        self.truth = Truth(keep_trades=keep_trades)
        self.market = Exchange(self.symbols, seed)
        self.clients: set[Client] = set()
        self.handshakes = 0
        self.refusals = 0
        self._rate = rate
        self._faults = faults
        self._secrets = dict(accounts or {})
        self._accounts = [Account(key, random.Random(f"{seed} {key}")) for key in self._secrets]  # noqa: S311
        self._rng = random.Random(f"{seed} faults")  # noqa: S311
        self._address = (host, port)
        self._answers = answers
        self._confirm = confirm
        self._unknown_market = unknown_market
        self._refuse = 0
        self._server: Server
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        host, port = self._address
        self._server = await serve(
            self._serve,
            host,
            port,
            compression=None,
            ping_interval=None,
            close_timeout=1,
            process_request=self._admit,
        )
        port = next(iter(self._server.sockets)).getsockname()[1]
        self.url = f"ws://{host}:{port}/ws/v1/"
        self._tasks = [asyncio.create_task(self._pace()), asyncio.create_task(self._misbehave())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._tasks:
            task.cancel()
        for client in self.clients:
            client.cut()
        self._server.close()
        await asyncio.gather(*self._tasks, self._server.wait_closed(), return_exceptions=True)

    # What tests do

    async def quiesce(self) -> None:
        """Let nothing happen any more; return when all that was pushed has left."""
        pace = self._tasks[0]
        pace.cancel()
        await asyncio.wait({pace})
        if not pace.cancelled():
            pace.result()
        while any(client.behind or client.stalled for client in self.clients):  # noqa: ASYNC110
            await asyncio.sleep(_TICK)

    def drop_all(self, refuse: int = 0) -> None:
        """Hang up on every connection, and refuse the next handshakes."""
        self._refuse = refuse
        for client in self.clients:
            client.cut()

    def push(self, push: Push) -> None:
        """Send a push to all that subscribed to it."""
        frame = None
        for client in self.clients:
            if client.open and not client.muted and client.wants(push.channel, push.symbol, push.account):
                frame = frame or _frame(_message(push, nested=self._faults.nested_all_ticker))
                client.write(frame)
                self.truth.wrote(push)
        if frame is not None:
            self._add_faults(push)

    def push_raw(self, payload: bytes) -> None:
        """Send a binary message to all clients, whatever it is."""
        for client in self.clients:
            if client.open and not client.muted:
                client.write(binary(payload))

    # Pace

    async def _pace(self) -> None:
        """Let things happen at the configured rate."""
        due, next_all, before = 0.0, time.monotonic() + _ALL_TICKER, time.monotonic()
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            due = min(due + (now - before) * self._rate, self._rate)
            before = now
            while due >= 1:
                due -= self._happen()
            if now >= next_all:
                next_all += _ALL_TICKER
                push = self.market.all_ticker(self._clock())
                if push is not None:
                    self.push(push)

    def _happen(self) -> int:
        """Let one thing happen; return how many pushes it made."""
        pushes = self.market.step(self._clock())
        for account in self._accounts:
            if self._rng.random() < _PRIVATE_SHARE:
                pushes += account.step(self.market.markets[pushes[0].symbol], self._clock())
        for push in pushes:
            self.truth.happened(push)
            self.push(push if self._faults.newest_first else _oldest_first(push))
        return len(pushes)

    def _clock(self) -> float:
        return time.time() + self._faults.clock_offset

    # The protocol

    def _admit(self, connection: ServerConnection, _request: Request) -> Response | None:
        if self._refuse > 0:
            self._refuse -= 1
            self.refusals += 1
            return connection.respond(HTTPStatus.BAD_GATEWAY, "502 Bad Gateway\\n")
        self.handshakes += 1
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        client = Client(connection)
        self.clients.add(client)
        try:
            async for message in connection:
                client.heard = time.monotonic()
                if not client.muted and not self._request(client, message):
                    client.cut()
        except ConnectionClosed:
            return
        finally:
            self.clients.discard(client)

    def _request(self, client: Client, message: str | bytes) -> bool:
        """Answer a request; False hangs up, as the exchange does on one without an id or params."""
        try:
            request = orjson.loads(message)
            request_id, method, params = request["id"], request["method"], request["params"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            return False
        if not isinstance(request_id, int) or not isinstance(params, list):
            return False
        try:
            result, pushes = self._result(client, method, params)
        except _Refused as error:
            self._answer(client, request_id, None, {"code": error.code, "message": str(error)})
            return True
        if self._confirm == "before":
            self._answer(client, request_id, result)
        for push in pushes:
            client.write(_frame(_message(push, nested=self._faults.nested_all_ticker)))
            self.truth.wrote(push)
        if self._confirm == "after":
            self._answer(client, request_id, result)
        cap = self._faults.max_subscriptions
        return not cap or sum(map(len, client.subscriptions.values())) <= cap

    def _result(self, client: Client, method: str, params: list[Any]) -> tuple[object, list[Push]]:
        channel, _, verb = method.partition(".")
        match channel, verb:
            case "server", "ping":
                return "pong", []
            case "server", "time":
                return int(self._clock()), []
            case "server", "auth":
                self._authenticate(client, params)
                return _SUCCESS, []
            case _, "subscribe" if channel in _PUBLIC or channel in _PRIVATE:
                return _SUCCESS, self._subscribe(client, channel, params)
            case _, "unsubscribe" if channel in _PUBLIC or channel in _PRIVATE:
                self._unsubscribe(client, channel, params)
                return _SUCCESS, []
            case _:
                raise _Refused(_NOT_FOUND, f"method not found: {method}")

    def _authenticate(self, client: Client, params: list[Any]) -> None:
        match params:
            case [str(key), str(timestamp), str(sign)] if timestamp.isdecimal():
                secret = self._secrets.get(key, "")
                digest = hmac.digest(secret.encode(), timestamp.encode(), hashlib.sha256)
                age = self._clock() * 1000 - int(timestamp)
                good = hmac.compare_digest(base64.b64encode(digest).decode(), sign)
                if not (secret and good and _WINDOW_MS[0] <= age <= _WINDOW_MS[1]):
                    raise _Refused(_AUTH_FAILED, "auth failed")
                client.account = key
            case _:
                raise _Refused(_INVALID, "invalid argument")

    def _subscribe(self, client: Client, channel: str, params: list[Any]) -> list[Push]:
        if channel in _PRIVATE and client.account is None:
            raise _Refused(_NEED_AUTH, "require authentication")
        if channel == "all_ticker":
            client.subscriptions[channel] = {""}
            push = self.market.all_ticker(self._clock(), whole=True)
            return [push] if push else []
        names = [str(name).upper() for name in params]
        markets = self.market.markets
        unknown = [name for name in names if name not in markets] if channel != "balance" else []
        if unknown and self._unknown_market == "refuse":
            raise _Refused(_INVALID, f"invalid market: {', '.join(unknown)}")
        client.subscriptions[channel].update(names)
        pushes = [self._first(channel, name) for name in names if name in markets and channel in _PUBLIC]
        if channel == "depth":
            pushes += [Push("depth", name, [True, {}, name]) for name in unknown]
        return pushes

    def _first(self, channel: str, symbol: str) -> Push:
        market = self.market.markets[symbol]
        if channel == "trades":
            push = market.clean_trades()
            return push if self._faults.newest_first else _oldest_first(push)
        if channel == "depth":
            return market.snapshot()
        return Push("ticker", symbol, [market.ticker(self._clock())])

    def _unsubscribe(self, client: Client, channel: str, params: list[Any]) -> None:
        if params:
            client.subscriptions[channel].difference_update(str(name).upper() for name in params)
        else:
            client.subscriptions[channel].clear()

    def _answer(self, client: Client, request_id: int, result: object, error: object = None) -> None:
        answer = orjson.dumps({"error": error, "result": result, "id": request_id})
        client.write(text(answer) if self._answers == "text" else binary(zlib.compress(answer)))

    # Faults

    def _add_faults(self, push: Push) -> None:
        faults, draw = self._faults, self._rng.random
        if draw() < faults.corrupt:
            damaged = bytearray(zlib.compress(orjson.dumps(_message(push))))
            damaged[len(damaged) // 2] ^= 0xFF
            self._bad("corrupt", bytes(damaged))
        if draw() < faults.bad_json:
            self._bad("bad_json", zlib.compress(orjson.dumps(_message(push))[:-3]))
        if draw() < faults.unknown_method:
            self._bad("unknown_method", zlib.compress(b'{"method":"moon.update","params":[],"id":null}'))
        if push.channel in ("trades", "depth") and draw() < faults.clean_again:
            market = self.market.markets[push.symbol]
            again = market.snapshot() if push.channel == "depth" else market.clean_trades()
            for client in self.clients:
                if client.open and not client.muted and client.wants(push.channel, push.symbol, None):
                    client.write(_frame(_message(again)))
                    self.truth.wrote(again)

    def _bad(self, kind: str, payload: bytes) -> None:
        self.truth.bad[kind] += sum(client.open and not client.muted for client in self.clients)
        self.push_raw(payload)

    async def _misbehave(self) -> None:
        """Do what faults depend on the time."""
        faults, now = self._faults, time.monotonic()
        next_drop, next_stall, stalled_until = now + faults.drop, now + faults.stall_every, 0.0
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            if faults.drop and now >= next_drop:
                next_drop = now + faults.drop
                self.drop_all(faults.refuse)
            if faults.stall_every and now >= next_stall:
                next_stall, stalled_until = now + faults.stall_every, now + faults.stall_for
            for client in list(self.clients):
                if now < stalled_until:
                    client.stalled = True
                elif client.stalled:
                    client.go_on()
                client.muted = bool(faults.mute_after) and now - client.opened > faults.mute_after
                too_old = faults.max_age and now - client.opened > faults.max_age
                if too_old or now - client.heard > faults.idle_limit:
                    client.cut()


def _message(push: Push, *, nested: bool = False) -> dict[str, Any]:
    params = [push.params] if nested and push.channel == "all_ticker" else push.params
    return {"method": f"{push.channel}.update", "params": params, "id": None}


def _frame(message: dict[str, Any]) -> bytes:
    return binary(zlib.compress(orjson.dumps(message)))


def _oldest_first(push: Push) -> Push:
    if push.channel != "trades":
        return push
    clean, trades, symbol = push.params
    return Push("trades", symbol, [clean, trades[::-1], symbol])
