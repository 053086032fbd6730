"""The simulated exchange on a real socket: listens, keeps the rate, and injects faults.

Longer than 350 lines because it is the face of the simulator: a quarter of it are methods of a line or two
with which tests have faults happen. What the clients get of an update is in `sending`.
"""

import asyncio
import itertools
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from bridge.simulator import encoding
from bridge.simulator.accounts import Account
from bridge.simulator.audience import Audience
from bridge.simulator.client import Client
from bridge.simulator.dialects import DOCUMENTED, Dialect, known, with_faults
from bridge.simulator.extras import Extras
from bridge.simulator.faults import Faults
from bridge.simulator.handshakes import Handshakes
from bridge.simulator.history import History
from bridge.simulator.market import Exchange, Update, symbol_names
from bridge.simulator.mishaps import Harm, Mishaps, Spoiling
from bridge.simulator.pace import Pace
from bridge.simulator.protocol import HangUp, Protocol, Reply
from bridge.simulator.sending import Sending, now_us
from bridge.simulator.truth import Truth

_TICK = 0.005  # seconds between two checks for due events
_ALL_TICKER = 1.0  # seconds between two updates of all_ticker
_PRIVATE_SHARE = 0.02  # share of the events that are followed by one of an account, for each account
_EPOCH = 2.0  # seconds after which the ids of the next market begin anew, if they do
_PING = b"server.ping"
_SUBSCRIBE = b'.subscribe"'
_NO_FAULTS = Faults()


@dataclass(frozen=True, slots=True)
class Setup:
    """The address of a simulator, the seed of its random choices, and the limits of its memory."""

    seed: int = 7
    host: str = "127.0.0.1"
    port: int = 0  # 0: a free one
    keep_trades: bool = False  # for tests: keep every trade, so that memory grows with each
    keep_history: bool = False  # the same for everything; see `history`
    keep_books: bool = False  # the same for every version of the books; see `truth`
    backlog: int = 256 * 1024 * 1024  # bytes; a client that leaves more unread is cut off


_DEFAULT = Setup()


class Simulator:
    """A simulated exchange that runs inside its context.

    `symbols` are names or a number of markets, `rate` is updates a second over all of them, `accounts` maps
    API keys to secrets.
    """

    def __init__(
        self,
        *,
        symbols: int | Sequence[str] = 10,
        rate: float = 200.0,
        faults: Faults = _NO_FAULTS,
        accounts: Mapping[str, str] | None = None,
        dialect: Dialect = DOCUMENTED,
        setup: Setup = _DEFAULT,
    ) -> None:
        self.symbols = symbol_names(symbols) if isinstance(symbols, int) else list(symbols)  # at the start
        self.market = Exchange(self.symbols, setup.seed, listed=dialect.long_lists)  # changes with each event
        # Counts of the updates that it has sent.
        self.truth = Truth(self.market, keep_trades=setup.keep_trades, keep_books=setup.keep_books)
        self.history = History(keep=setup.keep_history)  # all that it has done, if kept
        self.clients = Audience(setup.backlog)  # the connected clients
        self.url = ""  # its address, once it listens
        self.subscribes = 0  # subscribe requests so far
        secrets = dict(accounts or {})
        faults = with_faults(dialect, faults)
        # Replies to requests; `shut` changes which subscriptions it refuses.
        self._accounts = [Account(key, random.Random(f"{setup.seed} {key}")) for key in secrets]  # noqa: S311
        self._protocol = Protocol(
            self.market,
            secrets,
            dialect,
            faults.max_subscriptions,
            accounts={account.name: account for account in self._accounts},
        )
        self._rng = random.Random(f"{setup.seed} accounts")  # noqa: S311 - decides when an account does something
        self._mishaps = Mishaps(faults, random.Random(f"{setup.seed} mishaps"))  # noqa: S311
        self._sending = Sending(
            self.clients,
            self.truth,
            self.history,
            mishaps=self._mishaps,
            extras=Extras(faults, random.Random(f"{setup.seed} faults"), self.market),  # noqa: S311
            dialect=dialect,
        )
        self._lags = random.Random(f"{setup.seed} lags")  # noqa: S311 - draws the lag of each connection
        self._faults = faults
        self._rate = rate
        self._setup = setup
        self._dialect = dialect
        self._handshakes = Handshakes(faults)
        self._closing: set[asyncio.Future[None]] = set()  # closing handshakes under way
        self._server: Server  # listens from `__aenter__` on
        self._pacing: asyncio.Task[None]  # makes events; ended by `quiesce`
        self._misbehaving: asyncio.Task[None]  # injects the faults that depend on time

    async def __aenter__(self) -> Self:
        self._server = await serve(
            self._serve,
            self._setup.host,
            self._setup.port,
            compression=None,
            ping_interval=None,
            close_timeout=1,
            process_request=self._admit,
        )
        port = next(iter(self._server.sockets)).getsockname()[1]
        self.url = f"ws://{self._setup.host}:{port}/ws/v1/"
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
        """Stop making events, and return when all written updates have been sent."""
        await _ended(self._pacing)
        self._sending.write_late()
        self.clients.flush()
        while self.clients.behind:  # noqa: ASYNC110
            await asyncio.sleep(_TICK)

    def inject(self, faults: Faults) -> None:
        """Replace the faults from here on; a lag is that of new connections."""
        faults = with_faults(self._dialect, faults)
        self._faults = self._mishaps.faults = self._handshakes.faults = faults
        self._sending.extras = replace(self._sending.extras, faults=faults)
        self._protocol = replace(self._protocol, max_subscriptions=faults.max_subscriptions)
        self._sending.write_late()

    def become(self, dialect: Dialect, faults: Faults = _NO_FAULTS) -> None:
        """Replace the dialect and the faults from here on; lists of trades keep their length."""
        self._dialect = self._sending.dialect = dialect
        self._protocol = replace(self._protocol, dialect=dialect)
        self.inject(faults)

    @property
    def handshakes(self) -> int:
        """How many handshakes were accepted so far."""
        return self._handshakes.accepted

    @property
    def refusals(self) -> int:
        """How many handshakes were refused so far."""
        return self._handshakes.refused

    @property
    def requests(self) -> Mapping[str, int]:
        """How many requests came so far, by method."""
        return self._protocol.asked

    def push(self, channel: str, params: list[Any]) -> None:
        """Send hand-made params, as they are, to the clients that subscribed to their symbol.

        Params without a symbol go to all clients subscribed to the channel. `truth` does not count them.
        """
        self._sending.push(channel, params)

    def push_raw(self, payload: bytes) -> None:
        """Send a binary message to all clients, whatever it is; `truth` does not count it."""
        self._sending.write_to_all(payload)
        self.clients.flush()

    def spoil(self, channel: str, symbol: str, *spoilings: Spoiling | None) -> None:
        """Decide what happens to the next first lists or snapshots of a symbol, in order; None: nothing."""
        self._mishaps.plan(channel, symbol, *spoilings)

    def harm(self, symbol: str, *harms: Harm) -> None:
        """Let the next changes of a book be lost, be without their removals, or cross it, in this order."""
        self._mishaps.harm(symbol, *harms)

    def unharm(self, symbol: str) -> None:
        """Let nothing more happen to the changes of a book."""
        self._mishaps.unharm(symbol)

    @property
    def harmed(self) -> Mapping[str, int]:
        """How many changes of books were damaged so far, by what happened to them."""
        return self._mishaps.harmed

    @property
    def spoiled(self) -> Mapping[str, int]:
        """How many first lists and snapshots were spoiled so far, by what happened to them."""
        return self._mishaps.spoiled

    def happen(self, *updates: Update) -> None:
        """Send updates that describe a change which the caller has made in `market`, with all faults."""
        self._happen(updates)
        self.clients.flush()

    async def drop_all(self, refuse: int = 0) -> None:
        """Abort every connection, without a close frame, and refuse the next `refuse` handshakes."""
        dropped = list(self.clients)
        self.drop(refuse)
        await asyncio.gather(*(client.connection.wait_closed() for client in dropped))

    def drop(self, refuse: int = 0, share: float = 1.0) -> None:
        """Abort a share of the connections, the oldest first, and refuse the next `refuse` handshakes."""
        self._handshakes.to_refuse = max(self._handshakes.to_refuse, refuse)
        self.clients.cut(share)

    def shut(self, *channels: str) -> None:
        """From here on refuse all subscriptions of these channels, and of no others."""
        self._protocol.shut.clear()
        self._protocol.shut.update(channels)

    def refuse(self, handshakes: int) -> None:
        """Answer the next `handshakes` with HTTP 502."""
        self._handshakes.to_refuse = handshakes

    def stall(self, seconds: float) -> None:
        """Send nothing for `seconds`, then everything that was held back; the connections stay open."""
        self.clients.stall(seconds)
        begin_us = now_us()
        self.history.record_stall(begin_us, begin_us + round(seconds * 1e6))

    def mute(self) -> None:
        """Ignore the current connections from here on; they stay open, and nothing is read or sent."""
        self.clients.mute()

    def hush(self, symbol: str, *channels: str) -> None:
        """From here on send no changes of a symbol on these channels, and on no others; lists are sent."""
        self._sending.hushed = {(channel, symbol) for channel in channels}

    async def _pace(self) -> None:
        """Make events at the configured rate, and send their updates together once a tick."""
        pace, next_all = Pace(self._rate, time.monotonic()), time.monotonic() + _ALL_TICKER
        while True:
            await asyncio.sleep(_TICK)
            now = time.monotonic()
            while pace.due(now):
                pace.spend(self._make_event())
            if now >= next_all:
                next_all += _ALL_TICKER
                update = self.market.all_ticker(self._clock())
                if update is not None:
                    update = known(update, self._dialect)
                    self.history.record_made([update], self.market, now_us())
                    self._sending.publish(update)
            self.clients.flush()

    def _make_event(self) -> int:
        """Make one event and publish it; return its number of updates."""
        now = self._clock()
        updates = self.market.step(int(now) if self._faults.whole_seconds else now)
        for account in self._accounts:
            if self._rng.random() < _PRIVATE_SHARE:
                updates += account.step(self.market.markets[updates[0].symbol], self._clock())
        self._happen(updates)
        return len(updates)

    def _happen(self, updates: Iterable[Update]) -> None:
        updates = [known(update, self._dialect) for update in updates]
        self.history.record_made(updates, self.market, now_us())
        for update in updates:
            self.truth.record_made(update)
            for sent in self._mishaps.sent(update):
                self._sending.publish(sent)

    def _clock(self) -> float:
        return time.time() + self._faults.clock_offset

    def _admit(self, connection: ServerConnection, _request: Request) -> Response | None:
        return self._handshakes.answer(connection, len(self.clients), self.url)

    async def _serve(self, connection: ServerConnection) -> None:
        client = Client(connection)
        client.lag = self._lags.uniform(0, self._faults.lag)
        client.number = self.history.record_opened(round(client.lag * 1e6))
        self.clients.enter(client)
        if 0 < self._faults.oldest_closed < len(self.clients):
            self._close(min(self.clients, key=lambda one: one.opened))
        try:
            async for message in connection:
                client.heard = time.monotonic()
                if not client.muted:
                    self._take(client, message)
        except ConnectionClosed:
            return
        finally:
            self.clients.leave(client)
            self.history.record_closed(client.number, now_us())

    def _take(self, client: Client, message: str | bytes) -> None:
        """Answer a message of a client: now, later or never."""
        said = message if isinstance(message, bytes) else message.encode()
        ping = _PING in said
        self.subscribes += _SUBSCRIBE in said
        if ping and self._dialect.pings_answered == "never":
            return
        if self._dialect.answers_in_time and not ping:
            loop = asyncio.get_running_loop()
            loop.call_later(self._dialect.answers_in_time, self._answer, client, message)
        else:
            self._answer(client, message)

    def _answer(self, client: Client, message: str | bytes) -> None:
        """Reply to a request; a subscribe or a login may close a connection."""
        subscriber = client.subscriber
        fresh, account = not subscriber.subscriptions, subscriber.account
        try:
            self._reply(client, self._protocol.request(subscriber, message, self._clock()))
        except HangUp:
            client.cut()
        if self._faults.close_after and fresh and subscriber.subscriptions:
            loop = asyncio.get_running_loop()
            loop.call_later(self._faults.close_after, self._close, client)
        if self._faults.one_login and subscriber.account != account:
            for one in self.clients:
                if one is not client and one.subscriber.account == subscriber.account:
                    self._close(one)

    def _close(self, client: Client) -> None:
        """Close a connection in order, with the code of the faults."""
        closing = asyncio.ensure_future(client.connection.close(self._faults.close_code))
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    def _reply(self, client: Client, messages: Iterable[Reply | Update]) -> None:
        for message in messages:
            if isinstance(message, Update):
                update = known(message, self._dialect)
                if update.account is not None:
                    self.history.record_made([update], self.market, now_us())
                self._write_first(client, update)
            else:
                json = encoding.reply(message.request_id, message.result, message.error)
                client.write(self._sending.message(json, answer=True))
        self.clients.flush()

    def _write_first(self, client: Client, update: Update) -> None:
        """Write the first update of a subscription to one client, now or late."""
        if not self._sending.write_first(client, update):
            loop = asyncio.get_running_loop()
            loop.call_later(self._faults.late_by, self._write_belated, client, update)

    def _write_belated(self, client: Client, update: Update) -> None:
        """Write a first list as it was when it was due, or a snapshot with what has changed since.

        A snapshot as it was would spoil the book of every consumer, and nobody could find that out.
        """
        if client.listens and client.subscriber.wants(update.channel, update.symbol, None):
            if update.channel == "depth":
                update = self._protocol.first(update.channel, update.symbol, self._clock())
            self._sending.write_clean(client, update)
            self.clients.flush()

    async def _misbehave(self) -> None:
        """Inject the faults that depend on time."""
        now = time.monotonic()
        next_drop, next_stall = now + self._faults.drop, now + self._faults.stall_every
        next_epoch, names = now + _EPOCH, itertools.cycle(self.symbols)
        while True:
            await asyncio.sleep(_TICK)
            faults, now = self._faults, time.monotonic()
            if faults.drop and now >= next_drop:
                next_drop = now + faults.drop
                self.drop(faults.refuse)
            if faults.stall_every and now >= next_stall:
                next_stall = now + faults.stall_every
                self.stall(faults.stall_for)
            if self._dialect.ids_rise == "restart" and now >= next_epoch:
                next_epoch = now + _EPOCH
                self.market.markets[next(names)].restart_ids(0)
            self.clients.grow_older(faults)
            self.clients.flush()


async def _ended(task: asyncio.Task[None]) -> None:
    """Cancel a task and wait for its end; raise the error if it had failed before."""
    task.cancel()
    await asyncio.wait({task})
    if not task.cancelled():
        task.result()
