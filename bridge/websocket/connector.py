"""The WebSocket edge: keeps a set of subscriptions alive over one session after another.

It reconnects with exponential back-off, and replaces an ageing session by one that is live before the old
one goes, so that a rotation loses and repeats nothing.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import cast

import structlog
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from bridge import __version__
from bridge.backoff import Backoff
from bridge.channels.channel import Source
from bridge.config import ExchangeConfig
from bridge.errors import BadFrame
from bridge.exchange.frames import Push
from bridge.exchange.handover import Bad, Handover, Message
from bridge.exchange.session import Credentials, Session, Timing, subscribes
from bridge.records import Cause
from bridge.watch.watch import Watch
from bridge.websocket.courtesy import Courtesy, calm, spread
from bridge.websocket.feed import Ended, Feed, Receiver
from bridge.websocket.stream import Stream

log = structlog.get_logger(__name__)

_CLOSING_HANDSHAKE = 2.0  # seconds
_AGE_JITTER = 0.1  # of max_session_age
_LONG_LIFE = 600.0  # seconds; a rotation after less can't be moved away from a full hour

_OVERLOADED = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE)
_SPREAD = 10.0  # seconds over which reconnects around a full hour are spread

# Rotations that are put off, one after the other, since the new session is refused what the old one has.
_PUT_OFF = 5

_Came = tuple[Source, int, bytes]
"""From which session a message came, when in µs, and its frame."""


class Connector:
    """Keeps the subscriptions of `wanted` (channel to symbols) alive, one session at a time.

    `account` and `credentials` go together, for private channels. Of these nobody can fill in what is pushed
    while no session listens: each such time is recorded in the journal. `alive` tells until when each of them
    was listened to before, in microseconds since the epoch, and is kept up to date.
    """

    def __init__(
        self,
        wanted: Mapping[str, Sequence[str]],
        *,
        config: ExchangeConfig,
        courtesy: Courtesy,
        receiver: Receiver,
        watch: Watch,
        account: str | None = None,
        credentials: Credentials | None = None,
        alive: Mapping[str, int] | None = None,
    ) -> None:
        self.wanted = {channel: list(symbols) for channel, symbols in wanted.items()}
        self.account = account
        self._config = config
        self._courtesy = courtesy
        self._receiver = receiver
        self._watch = watch
        self._credentials = credentials
        self._alive = dict(alive or {})
        self._heard: set[str] = set()
        self._put_off = 0
        self._cause: Cause = "takeover"
        self._feeds: list[Feed] = []
        self._reading = asyncio.Event()
        self._reading.set()
        self._trouble: str | None = "not connected yet"
        self._log = log.bind(shard=watch.shard, account=account)

    async def run(self) -> None:
        """Keep a session alive until cancelled."""
        backoff = Backoff(self._config.reconnect_min, self._config.reconnect_max)
        while True:
            await self._reading.wait()
            try:
                ended = await self._session()
            except Exception as error:  # noqa: BLE001 - our mistake costs a session, not what is queued
                self._log.exception("a session failed")
                ended = Ended("closed", f"a mistake of our own: {error!r}")
            self._trouble = f"{ended.reason}: {ended.detail}"
            self._watch.metrics.counter("reconnects_total", reason=ended.reason).value += 1
            if ended.fruitful:
                backoff.reset()
            # A refused account would be refused again: it waits the longest there is.
            longest = self._config.reconnect_max
            delay = longest if ended.reason == "rejected" else backoff.next(longer=ended.overloaded)
            delay += spread(time.time() + delay, min(longest, _SPREAD))
            self._log.warning(
                "session ended", reason=ended.reason, detail=ended.detail, next_try_in=round(delay, 3)
            )
            await asyncio.sleep(delay)

    def alive(self) -> dict[str, int]:
        """Return until when each private channel was listened to.

        Of the time before, in which nobody did, it is told once.
        """
        if self.account is not None and self._feeds:
            feed = self._feeds[0]
            for channel, since_us in feed.listening.items():
                if channel in self._alive and channel not in self._heard:
                    self._tell_gap(feed, channel, since_us)
                self._heard.add(channel)
                self._alive[channel] = max(since_us, feed.heard_us)
        return self._alive

    def subscribe(self, channel: str, symbols: Sequence[str]) -> None:
        """Add symbols of a channel, in this session and all that follow."""
        self.wanted.setdefault(channel, []).extend(symbols)
        for feed in self._feeds:
            feed.subscribe(channel, list(symbols))

    def pause(self) -> None:
        """Stop reading, since there is no room; connections stay."""
        self._reading.clear()
        for feed in self._feeds:
            feed.pause()

    def resume(self) -> None:
        """Read on."""
        self._reading.set()
        for feed in self._feeds:
            feed.resume()

    def missing(self) -> list[str]:
        """Say what of the subscriptions is not confirmed; nothing if all of it is."""
        if not self._feeds:
            return [f"{self._name()}: {self._trouble}"]
        feed = self._feeds[0]
        if feed.ended.done():
            return [f"{self._name()}: the session has ended"]
        if not feed.session.live:
            return [f"{self._name()}: {feed.session.state.value}"]
        return [
            f"{refused.channel} {' '.join(refused.symbols)}: refused: {refused.error}".replace("  ", " ")
            for refused in feed.refused.values()
        ]

    def _name(self) -> str:
        subscriptions = ", ".join(
            f"{channel} {' '.join(symbols)}".rstrip() for channel, symbols in self.wanted.items()
        )
        return f"account {self.account} ({subscriptions})" if self.account else subscriptions

    async def _session(self) -> Ended:
        """Open a session and serve it, and those that take over from it, to the last one's end."""
        self._heard.clear()
        try:
            feed = await self._open(self._receiver, self._cause)
        except TimeoutError:
            return Ended("timeout", f"no connection to {self._config.url}")
        except InvalidStatus as error:
            overloaded = error.response.status_code in _OVERLOADED
            return Ended("refused", f"{self._config.url}: {error}", overloaded=overloaded)
        except (OSError, EOFError, WebSocketException) as error:
            return Ended("refused", f"{self._config.url}: {error}")
        try:
            self._begin(feed)
            await _first(feed.live.wait(), feed.ended)
            self.alive()
            patience = self._lifetime()
            while True:
                await asyncio.wait({feed.ended}, timeout=patience)
                await _first(self._reading.wait(), feed.ended)
                if feed.ended.done():
                    ended = feed.ended.result()
                    self._cause = ended.reason
                    return ended
                served, feed = feed, await self._rotate(feed)
                patience = self._lifetime() if feed is not served else self._config.reconnect_max
        finally:
            self.alive()
            await asyncio.gather(*(self._end(feed, "stopped") for feed in self._feeds))

    def _tell_gap(self, feed: Feed, channel: str, before_us: int) -> None:
        self._watch.metrics.counter("gaps_total", channel=channel).value += 1
        self._watch.journal.record(
            "gap",
            session=feed.source.session,
            account=self.account,
            channel=channel,
            cause=feed.source.cause,
            after_us=self._alive[channel],
            before_us=before_us,
            filled=0,
        )

    async def _open(self, receiver: Receiver, cause: Cause) -> Feed:
        config = self._config
        await self._courtesy.admit(subscribes(self.wanted))
        try:
            opened = await connect(
                config.url,
                create_connection=Stream,
                compression=None,
                max_size=config.max_frame_bytes,
                open_timeout=config.reply_timeout,
                close_timeout=_CLOSING_HANDSHAKE,
                ping_interval=None,
                user_agent_header=f"digifinex-bridge/{__version__}",
            )
        except InvalidStatus as error:
            if error.response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
                self._courtesy.pause(time.monotonic(), self._asked_to_wait(error))
            raise
        session = Session(
            self.wanted,
            timing=Timing(
                config.ping_interval, config.reply_timeout, config.stale_after, config.reconnect_max
            ),
            wall_offset=time.time() - time.monotonic(),
            credentials=self._credentials,
        )
        return Feed(
            cast("Stream", opened),
            session,
            Source(uuid.uuid4().hex[:16], self.account, cause),
            max_frame_bytes=config.max_frame_bytes,
            courtesy=self._courtesy,
            receiver=receiver,
            watch=self._watch,
        )

    def _begin(self, feed: Feed) -> None:
        self._feeds.append(feed)
        feed.begin()
        source = feed.source
        self._log.info("session opened", session=source.session, **self.wanted)
        self._watch.journal.record(
            "session_begun", session=source.session, account=self.account, cause=source.cause
        )
        if not self._reading.is_set():
            feed.pause()

    async def _end(self, feed: Feed, cause: Cause) -> None:
        """Close a session; `cause` says why, unless it has ended by itself."""
        if feed in self._feeds:
            self._feeds.remove(feed)
        over = None if not feed.ended.done() or feed.ended.cancelled() else feed.ended.result()
        await feed.close()
        self._watch.journal.record(
            "session_ended",
            session=feed.source.session,
            account=self.account,
            cause=over.reason if over else cause,
            detail=over.detail if over else "closed from this side",
        )

    def _lifetime(self) -> float:
        age = self._config.max_session_age * random.uniform(1 - _AGE_JITTER, 1)  # noqa: S311
        return age if age < _LONG_LIFE else calm(time.time() + age) - time.time()

    def _asked_to_wait(self, refusal: InvalidStatus) -> float:
        """Return the seconds after which the exchange wants to be asked again."""
        answer = refusal.response.headers.get("Retry-After", "")
        return float(answer) if answer.isdecimal() else self._config.reconnect_max

    async def _rotate(self, old: Feed) -> Feed:
        """Let a fresh session take over from `old`; return the one that serves on."""
        handover: Handover[_Came] = Handover()
        late: list[tuple[Message, _Came]] = []

        def remember(message: Message, came: _Came) -> None:
            handover.remember(message)
            self._pass_on([(message, came)])

        # A damaged frame may come on both as soon as both are open, which is before this side knows of it.
        old.deliver_to(_Into(remember))
        try:
            new = await self._open(_Into(handover.hold), "rotated")
        except (OSError, EOFError, WebSocketException) as error:
            old.deliver_to(self._receiver)
            self._log.warning("no session to take over yet", detail=str(error))
            return old
        self._begin(new)
        try:
            await _first(new.live.wait(), new.ended, old.ended)
            if not new.live.is_set() and not new.ended.done():
                return await self._step_in(new, old, handover)
            refused = new.refused.keys() - old.refused.keys()
            if refused and not old.ended.done() and self._put_off < _PUT_OFF:
                self._put_off += 1
                old.deliver_to(self._receiver)
                self._log.warning("the session to take over is refused more", refused=sorted(refused))
                await self._end(new, "rejected")
                return old
            if not old.ended.done():
                await _first(old.fence(), new.ended, old.ended)
            died = old.ended.done()
            # What the old session brings from here on, the new one brings too; and with its own fence it
            # has brought all that the old one did.
            old.deliver_to(_Into(lambda message, came: late.append((message, came))))
            if not new.ended.done():
                await _first(new.fence(), new.ended)
        except asyncio.CancelledError:
            self._pass_on(late)
            if old.ended.done():
                self._pass_on(handover.release())
            raise
        if new.ended.done():
            old.deliver_to(self._receiver)
            for message, came in late:
                remember(message, came)
            if not old.ended.done():
                await self._end(new, "rotated")
                return old
        self._pass_on(handover.release())
        new.deliver_to(self._receiver)
        old.deliver_to(_Into(_drop))
        if died:
            return await self._go_on_alone(new, old)
        self._watch.metrics.counter("reconnects_total", reason="rotated").value += 1
        self._log.info("session rotated", old=old.source.session, new=new.source.session)
        self._watch.journal.record(
            "session_rotated",
            session=new.source.session,
            account=self.account,
            detail=f"takes over from {old.source.session}",
        )
        self._put_off = 0
        self._heard &= new.listening.keys()
        await self._end(old, "rotated")
        return new

    async def _step_in(self, new: Feed, old: Feed, handover: "Handover[_Came]") -> Feed:
        """Let a session go on that is not live yet, since the one that it was to take over from has ended."""
        self._pass_on(handover.release())
        new.deliver_to(self._receiver)
        return await self._go_on_alone(new, old)

    async def _go_on_alone(self, new: Feed, old: Feed) -> Feed:
        """Have a session go on whose predecessor has ended before it was replaced: that is no rotation."""
        self._cause = new.source.cause = old.ended.result().reason
        self._watch.metrics.counter("reconnects_total", reason=self._cause).value += 1
        self.alive()
        # Of what the new one heard already while the old one still did, nothing is missing.
        self._heard &= {channel for channel, us in new.listening.items() if us <= old.heard_us}
        await self._end(old, "rotated")
        await _first(new.live.wait(), new.ended)
        self.alive()
        return new

    def _pass_on(self, messages: Iterable[tuple[Message, _Came]]) -> None:
        for message, came in messages:
            if isinstance(message, Bad):
                self._receiver.bad(message.why, *came)
            else:
                self._receiver.push(message, *came)


class _Into:
    """A receiver that puts pushes and bad frames alike into `take`."""

    def __init__(self, take: Callable[[Message, _Came], None]) -> None:
        self._take = take

    def push(self, push: Push, source: Source, received_us: int, frame: bytes) -> None:
        self._take(push, (source, received_us, frame))

    def bad(self, bad: BadFrame, source: Source, received_us: int, frame: bytes) -> None:
        self._take(Bad(frame, bad), (source, received_us, frame))


async def _first(condition: Coroutine[object, object, object], *ends: asyncio.Task[Ended]) -> None:
    """Wait until the condition holds or one of the sessions has ended."""
    waiting = asyncio.ensure_future(condition)
    try:
        await asyncio.wait({waiting, *ends}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()


def _drop(message: Message, came: _Came) -> None:
    """Leave out what an old session still brings: the new one brings it too."""
