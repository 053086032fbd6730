"""Tests the exchange: handshake, authentication, one subscription of each channel, the configured markets."""

import asyncio
import contextlib
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from bridge import plan
from bridge.channels import CHANNELS, LISTING, SubscribedBy
from bridge.channels.channel import Source
from bridge.check.lines import Say
from bridge.config import AccountConfig, Config, ExchangeConfig
from bridge.errors import BadFrame, VisitFailed
from bridge.exchange.events import (
    ClockRead,
    Confirmed,
    Event,
    Ponged,
    RequestPostponed,
    SubscriptionRefused,
)
from bridge.exchange.requests import Credentials
from bridge.exchange.session import ANSWER_TIMEOUT, Session, Timing
from bridge.exchange.subscribing import subscribe_requests
from bridge.exchange.words import Confidential
from bridge.websocket import opening
from bridge.websocket.courtesy import Courtesy, Handshake

_WINDOW = 1.0  # seconds that a signature's time may be off; the REST API allows no more for one in the future

# Seconds to look for the configured markets in the channel that lists markets, which pushes those that
# changed: the quietest market that was measured, at a sibling of this exchange, changed every 32 s (FACTS).
_LISTENING = 35.0

_ANSWERS = 3  # that a session waits for one after the other, at most: to the clock, the login, subscriptions


@dataclass(frozen=True, slots=True)
class _Visitor:
    """How the exchange is visited: with the settings and request budget of `run`; `say` prints results."""

    config: ExchangeConfig
    budget: Courtesy
    say: Say
    confidential: Confidential


@dataclass(frozen=True, slots=True)
class _Search:
    """The markets to look for, the time limit in seconds, and the channels that follow every market."""

    markets: set[str]
    follows: tuple[str, ...]
    seconds: float

    def over(self, seen: set[str]) -> bool:
        """Return whether no other market has to be seen."""
        return self.markets <= seen and (bool(seen) or not self.follows)


@dataclass
class _Result:
    """The findings of one session so far."""

    clock: float | None = None  # seconds, the exchange's clock minus ours; None until it is read
    ping: float | None = None  # seconds from the first ping to its pong; None until then
    compressed: int = 0  # frames that came compressed
    texts: int = 0  # frames that came as plain JSON
    confirmed: list[str] = field(default_factory=list)  # subscriptions, like "depth BTC_USDT"
    refused: dict[str, str] = field(default_factory=dict)  # the same, and the exchange's error
    markets: set[str] = field(default_factory=set)  # seen so far

    def add(self, events: Iterable[Event]) -> None:
        """Add the events of a session."""
        for event in events:
            match event:
                case ClockRead(offset):
                    self.clock = offset
                case Ponged(_, seconds):
                    self.ping = seconds
                case Confirmed(channel, symbols):
                    self.confirmed.append(f"{channel} {' '.join(symbols)}".rstrip())
                    for one in (self.confirmed[-1], *(f"{channel} {symbol}" for symbol in symbols)):
                        self.refused.pop(one, None)
                case SubscriptionRefused(channel, symbols, error) | RequestPostponed(channel, symbols, error):
                    self.refused[f"{channel} {' '.join(symbols)}".rstrip()] = error

    def count(self, frame: bytes, binary: bool) -> None:
        """Count a frame by its format."""
        compressed = binary and frame[:1] != b"{"
        self.compressed += compressed
        self.texts += not compressed


async def check_exchange(config: Config, say: Say, listening: float = _LISTENING) -> bool:
    """Print how the exchange answers, without an account and with each; return whether nothing is wrong.

    A market that is not seen within `listening` seconds may be quiet or may not exist, so every configured
    subscription to it is tried.
    """
    opening.verify(config.exchange)
    say(f"exchange at {config.exchange.address}")
    public, private = _public(config), {account.name: _private(account) for account in config.accounts}
    subscriptions = [*public, *chain.from_iterable(private.values())]
    markets = {symbol for channel, symbol in subscriptions if _is_by_market(channel)}
    search = _Search(markets, plan.plan(config, 0).follows, listening)
    budget = Courtesy.of(config.exchange)
    confidential = Confidential(account.credentials() for account in config.accounts)
    visitor = _Visitor(config.exchange, budget, say, confidential)
    well, unseen = [], set[str]()
    if markets or not config.channels.empty():
        tried = _tried(public, unseen)
        unseen, found = await _look(visitor, tried, search)
        asked = [one for one in _tried(public, unseen) if one not in tried]
        well += [found, await _ask(visitor, None, asked)]
    for account in config.accounts:
        wanted = _tried(private[account.name], unseen)
        well.append(await _ask(visitor, account, wanted))
    return all(well)


def _public(config: Config) -> list[plan.Subscription]:
    """Return the subscriptions without an account, except those to markets that are not known yet."""
    shards = (plan.plan(config, shard) for shard in range(config.kafka.shards))
    return [one for shard in shards for wanted in shard.public for one in plan.subscriptions(wanted)]


def _private(account: AccountConfig) -> list[plan.Subscription]:
    return [(name, symbol) for name in account.channels() for symbol in account.of(name)]


def _is_by_market(channel: str) -> bool:
    return CHANNELS[channel].subscribed_by is SubscribedBy.MARKET


def _tried(subscriptions: list[plan.Subscription], unseen: set[str]) -> list[plan.Subscription]:
    """Return the first subscription of each channel, and all those to markets that were not seen."""
    first = dict(reversed(subscriptions))
    return [one for one in subscriptions if first[one[0]] == one[1] or one[1] in unseen]


async def _look(visitor: _Visitor, tried: list[plan.Subscription], search: _Search) -> tuple[set[str], bool]:
    """Look for markets in a session that also tries these; return those not seen, and whether all is ok."""
    wanted: plan.Wanted = {LISTING: []}
    wanted |= {channel: [symbol] if symbol else [] for channel, symbol in tried}
    result, say = await _visit(visitor, None, wanted, search), visitor.say
    if result is None or LISTING not in result.confirmed:
        return set(), False
    unseen = search.markets - result.markets
    if search.markets:
        number = len(search.markets)
        say(f"    {number - len(unseen)} of {number} configured markets seen in {LISTING}")
    if unseen:
        names = " ".join(sorted(unseen))
        say(f"    not seen within {search.seconds:g} s, trying to subscribe (may just be quiet): {names}")
    if search.follows and not result.markets:
        follows = ", ".join(search.follows)
        say(f"    no market seen in {LISTING} within {search.seconds:g} s, cannot try {follows}")
        return unseen, False
    return unseen, not result.refused


async def _ask(visitor: _Visitor, account: AccountConfig | None, wanted: list[plan.Subscription]) -> bool:
    """Subscribe to all of these, in as many sessions as needed; return whether all were confirmed."""
    well = True
    for one in plan.sessions(wanted, visitor.config.subscriptions_per_session):
        result = await _visit(visitor, account, one)
        if result is None:
            return False
        well = well and not result.refused
    return well


async def _visit(
    visitor: _Visitor,
    account: AccountConfig | None,
    wanted: plan.Wanted,
    search: _Search | None = None,
) -> _Result | None:
    """Open one session and print its result; return None if it failed."""
    say = visitor.say
    name, credentials = "public connection", None
    if account:
        name = f"account {account.name}"
        credentials = account.credentials()
    try:
        result = await _listen(visitor, credentials, wanted, search)
    except VisitFailed as error:
        say(f"  {name}: {error}")
        return None
    say(f"  {name}: ok (clock offset {result.clock:+.1f} s, ping {_ms(result.ping)})")
    if account and (result.ping or 0) > _WINDOW:
        say(f"    slow: the exchange may refuse signatures that arrive more than {_WINDOW:g} s late")
    formats = [name for name, number in (("zlib", result.compressed), ("text", result.texts)) if number]
    say(f"    message format: {' and '.join(formats)}")
    if result.confirmed:
        say(f"    confirmed: {', '.join(sorted(result.confirmed))}")
    for refused, why in result.refused.items():
        say(f"    refused: {refused}: {why}")
    return result


def _ms(seconds: float | None) -> str:
    return f"{(seconds or 0) * 1000:.0f} ms"


async def _listen(
    visitor: _Visitor, credentials: Credentials | None, wanted: plan.Wanted, search: _Search | None
) -> _Result:
    """Open a session, authenticate, ping, subscribe, and look for the markets.

    Raises:
        VisitFailed: any of that failed, except for subscriptions and markets that do not exist.
    """
    config, budget = visitor.config, visitor.budget
    await budget.admit(Handshake(subscribe_requests(wanted), repeated=False))
    session = Session(
        wanted,
        timing=Timing(config.ping_interval, config.reply_timeout, max_clock_offset=config.max_clock_offset),
        wall_offset=time.time() - time.monotonic(),
        max_frame_bytes=config.max_frame_bytes,
        credentials=credentials,
    )
    session.confidential = visitor.confidential
    result = _Result()
    try:
        async with await opening.connection(config, ClientConnection) as connection:
            session.start(time.monotonic())
            session.ping(time.monotonic())
            await _converse(session, connection, result, visitor)
            if search and LISTING in result.confirmed:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(search.seconds):
                        while not search.over(result.markets):
                            await _send(session, connection, result)
                            await _receive(session, connection, result)
                for channel in search.follows if result.markets else ():
                    session.subscribe(channel, [min(result.markets)])
                await _converse(session, connection, result, visitor)
    except TimeoutError:
        raise VisitFailed(f"no connection within {config.reply_timeout:g} s") from None
    except (OSError, EOFError, WebSocketException, BadFrame) as error:
        raise VisitFailed(session.confidential.words(opening.in_words(error))) from None
    return result


async def _converse(
    session: Session, connection: ClientConnection, result: _Result, visitor: _Visitor
) -> None:
    """Exchange messages until the session is live, its ping answered and the clock read.

    As in `run`, answers other than to pings may be slow.
    """
    patience = visitor.config.reply_timeout
    slow = f"    answers take more than {patience:g} s, waiting for up to {ANSWER_TIMEOUT:g} s for each"
    hint = asyncio.get_running_loop().call_later(patience, visitor.say, slow)
    most = _ANSWERS * max(patience, ANSWER_TIMEOUT)
    try:
        async with asyncio.timeout(most):
            while True:
                while session.held:
                    await asyncio.sleep(visitor.budget.reserve_subscribe(time.monotonic()))
                    session.send_held(time.monotonic())
                await _send(session, connection, result)
                if session.live and result.clock is not None and result.ping is not None:
                    return
                await _receive(session, connection, result)
    except TimeoutError:
        raise VisitFailed(f"not all that was asked for was answered within {most:g} s") from None
    finally:
        hint.cancel()


async def _send(session: Session, connection: ClientConnection, result: _Result) -> None:
    """Send what the session has to send, and note what has happened to it."""
    for request in session.to_send():
        await connection.send(request)
    result.add(session.events())
    if session.over:
        raise VisitFailed(session.over.detail)


async def _receive(session: Session, connection: ClientConnection, result: _Result) -> None:
    """Take the next message, or have the session do what is due before one comes."""
    try:
        async with asyncio.timeout(max(0.0, session.next_call() - time.monotonic())):
            message = await connection.recv()
    except TimeoutError:
        session.tick(time.monotonic())
        return
    binary = isinstance(message, bytes)
    frame = message if isinstance(message, bytes) else message.encode()
    result.count(frame, binary)
    push = session.receive(frame, binary, time.monotonic())
    if push is not None and push.channel == LISTING:
        source = Source("check")
        source.ask(LISTING)
        records = CHANNELS[LISTING].normaliser({}).push(push.params, source, 0).records
        result.markets |= {record.key.decode() for record in records if record.key}
