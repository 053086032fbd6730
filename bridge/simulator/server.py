"""The simulated exchange on a real socket: it listens, keeps the pace, and lets go wrong what should."""

import asyncio
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Any, Literal, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from bridge.simulator import encoding
from bridge.simulator.accounts import Account
from bridge.simulator.audience import Audience
from bridge.simulator.client import Client, binary, text
from bridge.simulator.extras import Extras
from bridge.simulator.faults import Faults
from bridge.simulator.market import Exchange, Push, symbol_names
from bridge.simulator.pace import Pace
from bridge.simulator.protocol import Answer, HangUp, Protocol
from bridge.simulator.truth import Truth

_TICK = 0.005  # seconds between two looks at what is due
_ALL_TICKER = 1.0  # seconds
_PRIVATE_SHARE = 0.02  # of the events, for each account
_AT_ITS_BEST = Faults()


class Simulator:
    """A DigiFinex of its own, as long as its context; `url` is its address, `truth` what it sent.

    `symbols` are names or a number of markets, `rate` pushes a second over all of them, `accounts` maps API
    keys to secrets. Answers come compressed or as plain text, before or after the first push; an unknown
    market is refused or, as others have seen, acknowledged. `keep_trades` is for tests: memory then grows
    with every trade. A client that leaves more than `backlog` bytes unread is cut off, and counted in
    `clients.too_slow`; `handshakes` counts those that were accepted, `refusals` those that were not.
    """

    def __init__(
        self,
        *,
        symbols: int | Sequence[str] = 10,
        rate: float = 200.0,
        seed: int = 7,
        faults: Faults = _AT_ITS_BEST,
        accounts: Mapping[str, str] | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        answers: Literal["zlib", "text"] = "zlib",
        confirm: Literal["before", "after"] = "before",
        unknown_market: Literal["refuse", "ack"] = "refuse",
        keep_trades: bool = False,
        backlog: int = 256 * 1024 * 1024,
    ) -> None:
        self.symbols = symbol_names(symbols) if isinstance(symbols, int) else list(symbols)
        self.market = Exchange(self.symbols, seed)
        self.truth = Truth(self.market, keep_trades=keep_trades)
        self.clients = Audience(backlog)
        self.url = ""
        self.handshakes = self.refusals = 0
        secrets = dict(accounts or {})
        self._protocol = Protocol(self.market, secrets, confirm, unknown_market, faults.max_subscriptions)
        self._accounts = [Account(key, random.Random(f"{seed} {key}")) for key in secrets]  # noqa: S311
        self._rng = random.Random(f"{seed} accounts")  # noqa: S311
        self._extras = Extras(faults, random.Random(f"{seed} faults"), self.market)  # noqa: S311
        self._faults = faults
        self._rate = rate
        self._address = (host, port)
        self._answers = answers
        self._to_refuse = 0
        self._admitted: list[float] = []
        self._server: Server
        self._pacing: asyncio.Task[None]
        self._misbehaving: asyncio.Task[None]

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
        self._pacing = asyncio.create_task(self._pace())
        self._misbehaving = asyncio.create_task(self._misbehave())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clients.cut()
        self._server.close()
        await self._server.wait_closed()
        await _ended(self._pacing)
        await _ended(self._misbehaving)

    async def quiesce(self) -> None:
        """Let nothing happen any more; return when all that was pushed has left."""
        await _ended(self._pacing)
        while self.clients.behind:  # noqa: ASYNC110
            await asyncio.sleep(_TICK)

    def push(self, channel: str, params: list[Any]) -> None:
        """Send hand-made params, as they are, to those who subscribed to their symbol.

        If they name none, to all that subscribed to something of the channel. The truth doesn't count them.
        """
        symbol = _symbol(channel, params)
        frame = binary(encoding.compress(encoding.text(Push(channel, symbol or "", params))))
        for client in self.clients.listening():
            subscribed = client.subscriber.subscriptions[channel]
            if symbol in subscribed or (symbol is None and subscribed):
                client.write(frame)
        self.clients.flush()

    def push_raw(self, payload: bytes) -> None:
        """Send a binary message to all clients, whatever it is; the truth doesn't count it."""
        self._write_to_all(payload)
        self.clients.flush()

    async def drop_all(self, refuse: int = 0) -> None:
        """Hang up on every connection without a word, and refuse so many of the next handshakes."""
        dropped = list(self.clients)
        self._drop(refuse)
        await asyncio.gather(*(client.connection.wait_closed() for client in dropped))

    def shut(self, *channels: str) -> None:
        """Refuse all subscriptions of these channels from here on, and of no others."""
        self._protocol.shut.clear()
        self._protocol.shut.update(channels)

    def refuse(self, handshakes: int) -> None:
        """Answer so many of the next handshakes with HTTP 502."""
        self._to_refuse = handshakes

    def stall(self, seconds: float) -> None:
        """Send nothing for so long, then all of it; the connections stay open."""
        self.clients.stall(seconds)

    def mute(self) -> None:
        """Neither hear nor tell anything on the connections that there are; they stay open."""
        self.clients.mute()

    async def _pace(self) -> None:
        """Let things happen at the configured rate, and send them together once a tick."""
        pace, next_all = Pace(self._rate, time.monotonic()), time.monotonic() + _ALL_TICKER
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            while pace.due(now):
                pace.spend(self._happen())
            if now >= next_all:
                next_all += _ALL_TICKER
                push = self.market.all_ticker(self._clock())
                if push is not None:
                    self._publish(push)
            self.clients.flush()

    def _happen(self) -> int:
        """Let one thing happen; return how many pushes it made."""
        pushes = self.market.step(self._clock())
        for account in self._accounts:
            if self._rng.random() < _PRIVATE_SHARE:
                pushes += account.step(self.market.markets[pushes[0].symbol], self._clock())
        for push in pushes:
            self.truth.happened(push)
            self._publish(push)
        return len(pushes)

    def _publish(self, push: Push) -> None:
        """Write a push to all that subscribed to it, and what faults send behind it."""
        if self._write(push):
            for fault, payload in self._extras.bad(push):
                self.truth.bad[fault] += self._write_to_all(payload)
            again = self._extras.again(push)
            if again is not None:
                self._write(again)

    def _write(self, push: Push) -> bool:
        """Write a push to all that subscribed to it, encoded once; tell if there are any."""
        subscribers = self.clients.subscribers(push)
        if subscribers:
            frame = self._frame(push)
            for client in subscribers:
                client.write(frame)
                self.truth.wrote(push)
        return bool(subscribers)

    def _write_to_all(self, payload: bytes) -> int:
        listening = self.clients.listening()
        for client in listening:
            client.write(binary(payload))
        return len(listening)

    def _frame(self, push: Push) -> bytes:
        faults = self._faults
        json = encoding.text(
            push, newest_first=faults.newest_first, nested_all_ticker=faults.nested_all_ticker
        )
        return binary(encoding.compress(json))

    def _clock(self) -> float:
        return time.time() + self._faults.clock_offset

    def _admit(self, connection: ServerConnection, _request: Request) -> Response | None:
        if self._to_refuse > 0:
            self._to_refuse -= 1
            self.refusals += 1
            return connection.respond(HTTPStatus.BAD_GATEWAY, "502 Bad Gateway\n")
        if self._faults.max_handshakes:
            second = time.monotonic() - 1
            self._admitted = [moment for moment in self._admitted if moment > second]
            if len(self._admitted) >= self._faults.max_handshakes:
                self.refusals += 1
                response = connection.respond(HTTPStatus.TOO_MANY_REQUESTS, "429 Too Many Requests\n")
                response.headers["Retry-After"] = "1"
                return response
            self._admitted.append(time.monotonic())
        self.handshakes += 1
        return None

    async def _serve(self, connection: ServerConnection) -> None:
        client = Client(connection)
        self.clients.enter(client)
        try:
            async for message in connection:
                client.heard = time.monotonic()
                if not client.muted:
                    self._reply(client, self._protocol.request(client.subscriber, message, self._clock()))
        except HangUp:
            client.cut()
        except ConnectionClosed:
            return
        finally:
            self.clients.leave(client)

    def _reply(self, client: Client, replies: Iterable[Answer | Push]) -> None:
        for reply in replies:
            if isinstance(reply, Push):
                client.write(self._frame(reply))
                self.truth.wrote(reply)
            else:
                json = encoding.answer(reply.request_id, reply.result, reply.error)
                client.write(text(json) if self._answers == "text" else binary(encoding.compress(json)))
        self.clients.flush()

    def _drop(self, refuse: int) -> None:
        self._to_refuse = max(self._to_refuse, refuse)
        self.clients.cut()

    async def _misbehave(self) -> None:
        """Let go wrong what depends on the time."""
        faults, now = self._faults, time.monotonic()
        next_drop, next_stall = now + faults.drop, now + faults.stall_every
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            if faults.drop and now >= next_drop:
                next_drop = now + faults.drop
                self._drop(faults.refuse)
            if faults.stall_every and now >= next_stall:
                next_stall = now + faults.stall_every
                self.stall(faults.stall_for)
            self.clients.grow_older(faults)
            self.clients.flush()


def _symbol(channel: str, params: list[Any]) -> str | None:
    """Return the symbol or currency that params of this channel name, "" for all_ticker, or None."""
    match channel, params:
        case "all_ticker", _:
            return ""
        case (("trades" | "depth"), [_, _, str(symbol)]):
            return symbol
        case _, [{"symbol": str(symbol)} | {"currency": str(symbol)}, *_]:
            return symbol
        case _:
            return None


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end; raise what it had failed of."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()
