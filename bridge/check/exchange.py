"""Whether the exchange answers: the handshake, the login, one subscription of each channel, the markets."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from bridge import plan
from bridge.channels import CHANNELS
from bridge.channels.channel import Source
from bridge.config import AccountConfig, Config, ExchangeConfig
from bridge.exchange import session as protocol
from bridge.exchange.frames import BadFrame, inflate

Say = Callable[[str], None]

_WINDOW = 1.0  # seconds that a signature's time may be off; the REST API grants no more for one in the future
_LISTENING = 5.0  # seconds to wait for the configured markets in all_ticker, which comes in slices


class Refused(Exception):
    """The exchange does not answer, or not as it should; the text says what happened."""


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


async def check_exchange(config: Config, say: Say) -> bool:
    """Say how the exchange answers, with and without each account; return whether all is well."""
    say(f"the exchange at {config.exchange.url}")
    well = []
    markets = _markets(config)
    if markets or config.channels.all_ticker or plan.plan(config, 0).follows:
        well.append(await _visit(config.exchange, None, _public(config), markets, say))
    for account in config.accounts:
        wanted = {name: symbols[:1] for name in _private() if (symbols := getattr(account, name))}
        well.append(await _visit(config.exchange, account, wanted, set(), say))
    return all(well)


def _public(config: Config) -> plan.Wanted:
    """Return one subscription of each public channel, with all_ticker, which tells the markets."""
    wanted: plan.Wanted = {"all_ticker": []}
    for shard in range(config.kafka.shards):
        for session in plan.plan(config, shard).public:
            for channel, symbols in session.items():
                wanted.setdefault(channel, symbols[:1])
    return wanted


def _markets(config: Config) -> set[str]:
    """Return the markets that are configured by name."""
    sessions = (one for shard in range(config.kafka.shards) for one in plan.plan(config, shard).public)
    return {symbol for session in sessions for symbols in session.values() for symbol in symbols}


def _private() -> Iterator[str]:
    return (name for name, channel in CHANNELS.items() if channel.private)


async def _visit(
    config: ExchangeConfig, account: AccountConfig | None, wanted: plan.Wanted, markets: set[str], say: Say
) -> bool:
    """Open one session, and say what came of it."""
    name, credentials = "without an account", None
    if account:
        name = f"account {account.name}"
        credentials = protocol.Credentials(
            account.api_key.get_secret_value(), account.secret.get_secret_value()
        )
    try:
        heard = await _listen(config, credentials, wanted, markets)
    except Refused as error:
        say(f"  {name}: {error}")
        return False
    say(f"  {name}: welcome; its clock is {heard.clock:+.1f} s from ours, a ping takes {_ms(heard.ping)}")
    if account and (heard.ping or 0) > _WINDOW:
        say(f"    slow: a signature may be refused when it arrives more than {_WINDOW:g} s late")
    forms = [form for form, number in (("zlib", heard.compressed), ("text", heard.texts)) if number]
    say(f"    its messages come as {' and '.join(forms)}")
    say(f"    confirmed: {', '.join(sorted(heard.confirmed))}")
    for refusal in heard.refused:
        say(f"    refused: {refusal}")
    if markets:
        unseen = sorted(markets - heard.markets)
        say(f"    {len(markets) - len(unseen)} of the {len(markets)} markets were seen in all_ticker")
        if unseen:
            say(f"    not seen in {_LISTENING:g} s, is the name right: {' '.join(unseen)}")
    return not heard.refused


def _ms(seconds: float | None) -> str:
    return f"{(seconds or 0) * 1000:.0f} ms"


async def _listen(
    config: ExchangeConfig,
    credentials: protocol.Credentials | None,
    wanted: plan.Wanted,
    markets: set[str],
) -> _Heard:
    """Open a session, authenticate, ping, subscribe, and wait for the markets.

    Raises:
        Refused: anything of that did not work, but for markets that are not there.
    """
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
            async with asyncio.timeout(2 * config.reply_timeout):
                await _converse(session, socket, limit, heard)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LISTENING):
                    while not markets <= heard.markets:
                        await _hear(session, socket, limit, heard)
    except TimeoutError:
        raise Refused(f"no answer within {config.reply_timeout:g} s") from None
    except (OSError, EOFError, WebSocketException, BadFrame) as error:
        raise Refused(str(error) or type(error).__name__) from None
    return heard


async def _converse(session: protocol.Session, socket: ClientConnection, limit: int, heard: _Heard) -> None:
    """Exchange messages until the session is live, its ping answered and the clock read."""
    session.start(time.monotonic())
    session.ping(time.monotonic())
    while True:
        while session.held:
            session.send_held(time.monotonic())
        for request in session.to_send():
            await socket.send(request)
        heard.events(session.events())
        if session.over:
            raise Refused(session.over.detail)
        if session.live and heard.clock is not None and heard.ping is not None:
            return
        await _hear(session, socket, limit, heard)


async def _hear(session: protocol.Session, socket: ClientConnection, limit: int, heard: _Heard) -> None:
    message = await socket.recv(decode=False)
    push = session.receive(heard.message(message, limit), time.monotonic())
    if push is not None and push.channel == "all_ticker":
        records = CHANNELS["all_ticker"].normaliser({})(push.params, Source("check"), 0).records
        heard.markets |= {record.key.decode() for record in records if record.key}
