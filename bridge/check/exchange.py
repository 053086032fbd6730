"""Whether the exchange answers: the handshake, the login, one subscription of each channel, the markets."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from bridge import plan
from bridge.channels import CHANNELS, SubscribedBy
from bridge.channels.channel import Source
from bridge.config import AccountConfig, Config, ExchangeConfig
from bridge.errors import BadFrame, VisitFailed
from bridge.exchange import session as protocol
from bridge.exchange.frames import inflate
from bridge.websocket.courtesy import Courtesy

Say = Callable[[str], None]

_WINDOW = 1.0  # seconds that a signature's time may be off; the REST API grants no more for one in the future

# Seconds to wait for the configured markets in all_ticker, which tells of those that changed: the quietest
# that was measured, at a sibling of this exchange, changed every 32 s (FACTS).
_LISTENING = 35.0

# The channel that names all markets.
_LISTING = next(name for name, channel in CHANNELS.items() if channel.lists_markets)


@dataclass(frozen=True, slots=True)
class _Visitor:
    """How the exchange is visited: as `run` would, within its budget, and telling what comes of it."""

    config: ExchangeConfig
    courtesy: Courtesy
    say: Say


@dataclass(frozen=True, slots=True)
class _Search:
    """The markets to look for in all_ticker, and the channels that are to follow every market it tells of."""

    markets: set[str]
    follows: tuple[str, ...]
    seconds: float

    def over(self, seen: set[str]) -> bool:
        """Tell if no more has to be seen."""
        return self.markets <= seen and (bool(seen) or not self.follows)


@dataclass
class _Heard:
    """What a session has heard."""

    clock: float | None = None
    ping: float | None = None
    compressed: int = 0
    texts: int = 0
    confirmed: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    markets: set[str] = field(default_factory=set)

    def events(self, events: Iterable[protocol.Event]) -> None:
        """Take note of what happened in a session."""
        for event in events:
            match event:
                case protocol.ClockRead(offset):
                    self.clock = offset
                case protocol.Ponged(_, seconds):
                    self.ping = seconds
                case protocol.Confirmed(channel, symbols):
                    self.confirmed.append(f"{channel} {' '.join(symbols)}".rstrip())
                case protocol.Refused(channel, symbols, error):
                    self.refused.append(f"{channel} {' '.join(symbols)}".rstrip() + f": {error}")

    def message(self, message: bytes | str, limit: int) -> bytes:
        """Return a message as text, and take note of how it came."""
        compressed = isinstance(message, bytes) and message[:1] != b"{"
        self.compressed += compressed
        self.texts += not compressed
        return inflate(message.encode() if isinstance(message, str) else message, limit)


async def check_exchange(config: Config, say: Say, listening: float = _LISTENING) -> bool:
    """Say how the exchange answers, with and without each account; return whether all is well.

    A market that all_ticker does not tell of in so many seconds may be quiet or not exist. The exchange knows
    best, so all that is configured of it is subscribed to.
    """
    say(f"the exchange at {config.exchange.url}")
    public, private = _public(config), {account.name: _private(account) for account in config.accounts}
    subscriptions = [*public, *chain.from_iterable(private.values())]
    markets = {symbol for channel, symbol in subscriptions if _by_market(channel)}
    search = _Search(markets, plan.plan(config, 0).follows, listening)
    budget = Courtesy(config.exchange.handshakes_per_second, config.exchange.subscribes_per_second)
    visitor = _Visitor(config.exchange, budget, say)
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
    """Return the subscriptions without an account, but for markets that are yet to be found."""
    shards = (plan.plan(config, shard) for shard in range(config.kafka.shards))
    return [one for shard in shards for wanted in shard.public for one in plan.subscriptions(wanted)]


def _private(account: AccountConfig) -> list[plan.Subscription]:
    return [(name, symbol) for name in account.channels() for symbol in account.of(name)]


def _by_market(channel: str) -> bool:
    return CHANNELS[channel].subscribed_by is SubscribedBy.MARKET


def _tried(subscriptions: list[plan.Subscription], unseen: set[str]) -> list[plan.Subscription]:
    """Return the first subscription of each channel, and those to markets that were not seen."""
    first = dict(reversed(subscriptions))
    return [one for one in subscriptions if first[one[0]] == one[1] or one[1] in unseen]


async def _look(visitor: _Visitor, tried: list[plan.Subscription], search: _Search) -> tuple[set[str], bool]:
    """Look for markets in a session that tries these besides; return those not seen, and if all is well."""
    wanted: plan.Wanted = {_LISTING: []}
    wanted |= {channel: [symbol] if symbol else [] for channel, symbol in tried}
    heard, say = await _visit(visitor, None, wanted, search), visitor.say
    if heard is None or _LISTING not in heard.confirmed:
        return set(), False
    unseen = search.markets - heard.markets
    if search.markets:
        number = len(search.markets)
        say(f"    {number - len(unseen)} of the {number} markets were seen in all_ticker")
    if unseen:
        names = " ".join(sorted(unseen))
        say(f"    not seen in {search.seconds:g} s, so asked for (if confirmed, it may be quiet): {names}")
    if search.follows and not heard.markets:
        say(f"    no market was seen in {search.seconds:g} s: {', '.join(search.follows)} can't be tried")
        return unseen, False
    return unseen, not heard.refused


async def _ask(visitor: _Visitor, account: AccountConfig | None, wanted: list[plan.Subscription]) -> bool:
    """Ask for all of these, in as many sessions as that takes; return whether all were confirmed."""
    well = True
    for one in plan.sessions(wanted, visitor.config.subscriptions_per_session):
        heard = await _visit(visitor, account, one)
        if heard is None:
            return False
        well = well and not heard.refused
    return well


async def _visit(
    visitor: _Visitor,
    account: AccountConfig | None,
    wanted: plan.Wanted,
    search: _Search | None = None,
) -> _Heard | None:
    """Open one session, and say what came of it; None if it did not come about."""
    say = visitor.say
    name, credentials = "without an account", None
    if account:
        name = f"account {account.name}"
        credentials = protocol.Credentials(
            account.api_key.get_secret_value(), account.secret.get_secret_value()
        )
    try:
        heard = await _listen(visitor, credentials, wanted, search)
    except VisitFailed as error:
        say(f"  {name}: {error}")
        return None
    say(f"  {name}: welcome; its clock is {heard.clock:+.1f} s from ours, a ping takes {_ms(heard.ping)}")
    if account and (heard.ping or 0) > _WINDOW:
        say(f"    slow: a signature may be refused when it arrives more than {_WINDOW:g} s late")
    forms = [form for form, number in (("zlib", heard.compressed), ("text", heard.texts)) if number]
    say(f"    its messages come as {' and '.join(forms)}")
    if heard.confirmed:
        say(f"    confirmed: {', '.join(sorted(heard.confirmed))}")
    for refusal in heard.refused:
        say(f"    refused: {refusal}")
    return heard


def _ms(seconds: float | None) -> str:
    return f"{(seconds or 0) * 1000:.0f} ms"


async def _listen(
    visitor: _Visitor,
    credentials: protocol.Credentials | None,
    wanted: plan.Wanted,
    search: _Search | None,
) -> _Heard:
    """Open a session, authenticate, ping, subscribe, and look for the markets.

    Raises:
        VisitFailed: anything of that did not work, but for subscriptions and markets that are not there.
    """
    config, courtesy = visitor.config, visitor.courtesy
    await courtesy.admit(protocol.subscribes(wanted))
    timing = protocol.Timing(config.ping_interval, config.reply_timeout, config.stale_after)
    session = protocol.Session(
        wanted, timing=timing, wall_offset=time.time() - time.monotonic(), credentials=credentials
    )
    opening = connect(
        config.url,
        compression=None,
        max_size=config.max_frame_bytes,
        open_timeout=config.reply_timeout,
        ping_interval=None,
    )
    limit, heard = config.max_frame_bytes, _Heard()
    try:
        async with opening as socket:
            session.start(time.monotonic())
            session.ping(time.monotonic())
            async with asyncio.timeout(2 * config.reply_timeout):
                await _converse(session, socket, limit, heard, courtesy)
            if search and _LISTING in heard.confirmed:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(search.seconds):
                        while not search.over(heard.markets):
                            await _hear(session, socket, limit, heard)
                for channel in search.follows if heard.markets else ():
                    session.subscribe(channel, [min(heard.markets)])
                async with asyncio.timeout(2 * config.reply_timeout):
                    await _converse(session, socket, limit, heard, courtesy)
    except TimeoutError:
        raise VisitFailed(f"no answer within {config.reply_timeout:g} s") from None
    except (OSError, EOFError, WebSocketException, BadFrame) as error:
        raise VisitFailed(session.without_secrets(str(error)) or type(error).__name__) from None
    return heard


async def _converse(
    session: protocol.Session, socket: ClientConnection, limit: int, heard: _Heard, courtesy: Courtesy
) -> None:
    """Exchange messages until the session is live, its ping answered and the clock read."""
    while True:
        while session.held:
            await asyncio.sleep(courtesy.reserve_subscribe(time.monotonic()))
            session.send_held(time.monotonic())
        for request in session.to_send():
            await socket.send(request)
        heard.events(session.events())
        if session.over:
            raise VisitFailed(session.over.detail)
        if session.live and heard.clock is not None and heard.ping is not None:
            return
        await _hear(session, socket, limit, heard)


async def _hear(session: protocol.Session, socket: ClientConnection, limit: int, heard: _Heard) -> None:
    message = await socket.recv(decode=False)
    push = session.receive(heard.message(message, limit), time.monotonic())
    if push is not None and push.channel == _LISTING:
        records = CHANNELS[_LISTING].normaliser({})(push.params, Source("check"), 0).records
        heard.markets |= {record.key.decode() for record in records if record.key}
