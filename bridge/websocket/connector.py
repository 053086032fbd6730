"""Keeps a set of subscriptions alive over one session after another.

It reconnects with exponential back-off, and replaces an ageing session by a new one that is live before the
old one is closed (see `rotation`), so that a rotation loses and repeats nothing.

Longer than 350 lines because opening, keeping, replacing and closing a session change the same few values.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import cast

import structlog
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

from bridge import __version__
from bridge.backoff import Backoff
from bridge.channels import BEGIN_CLEAN
from bridge.channels.channel import Source
from bridge.config import ExchangeConfig
from bridge.exchange.requests import Credentials
from bridge.exchange.session import Session, Timing
from bridge.exchange.subscribing import subscribe_requests
from bridge.ledger import Heard
from bridge.records import Cause
from bridge.watch.watch import Watch
from bridge.websocket.courtesy import Courtesy, calm, spread
from bridge.websocket.feed import Ended, Feed, Receiver, until
from bridge.websocket.listening import Listening, Missed
from bridge.websocket.rotation import Outcome, Rotation
from bridge.websocket.stream import Stream

log = structlog.get_logger(__name__)

_CLOSING_HANDSHAKE = 2.0  # seconds
_AGE_JITTER = 0.1  # of max_session_age
_LONG_LIFE = 600.0  # seconds; a shorter life cannot be moved away from a full hour

_OVERLOADED = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY, HTTPStatus.SERVICE_UNAVAILABLE)
_SPREAD = 10.0  # seconds over which reconnects around a full hour are spread

# Rotations in a row that are postponed because the new session is refused subscriptions that the old one has.
_MOST_POSTPONED = 5


@dataclass(frozen=True, slots=True)
class Account:
    """An account of the exchange: its name, its credentials, and the last-heard times of its channels.

    `heard_us` has the last-heard time of each private channel that was ever listened to: all that was pushed
    up to then was received; in microseconds since the epoch.
    """

    name: str
    credentials: Credentials
    heard_us: Heard = field(default_factory=dict)


class Connector:
    """Keeps the subscriptions of `wanted` (channel to symbols) alive, one session at a time.

    With an `account`, for private channels. What they push while no session listens is lost, and each such
    time is recorded in the journal as a gap.
    """

    def __init__(
        self,
        wanted: Mapping[str, Sequence[str]],
        *,
        config: ExchangeConfig,
        courtesy: Courtesy,
        receiver: Receiver,
        watch: Watch,
        account: Account | None = None,
    ) -> None:
        self.wanted = {channel: list(symbols) for channel, symbols in wanted.items()}  # grows by `subscribe`
        self.account = account.name if account else None  # None for public channels
        self._config = config
        self._courtesy = courtesy
        self._receiver = receiver
        self._watch = watch
        self._credentials = account.credentials if account else None
        self._listening = Listening(account.heard_us if account else {})  # to private channels
        # When the present rotation began, µs since the epoch: its new session holds back what came since.
        self._rotating_us: int | None = None
        self._postponed = 0  # rotations in a row that were postponed for refusals; 0 after each rotation
        self._cause: Cause = "takeover"  # why the next session is opened: how the one before it ended
        self._feeds: list[Feed] = []  # open sessions: the one in use, then, in a rotation, the new one
        self._rotation: Rotation | None = None  # the one under way, if any
        self._reading = asyncio.Event()  # cleared by `pause`, set by `resume`
        self._reading.set()
        self._trouble = "not connected yet"  # why no session is open, for `/readyz`
        self._log = log.bind(shard=watch.shard, account=self.account)  # both are in each of its lines

    async def run(self) -> None:
        """Keep a session alive until cancelled."""
        backoff = Backoff(self._config.reconnect_min, self._config.reconnect_max)
        while True:
            await self._reading.wait()
            try:
                ended = await self._serve()
            except Exception as error:  # noqa: BLE001 - an internal error costs a session, not the pending records
                self._log.exception("internal error in a session")
                ended = Ended("closed", f"internal error: {error!r}")
            self._trouble = f"{ended.reason}: {ended.detail}"
            self._watch.metrics.counter("reconnects_total", reason=ended.reason).value += 1
            if ended.fruitful:
                backoff.reset()
            # Refused credentials would be refused again: the next try has the longest wait there is.
            longest = self._config.reconnect_max
            delay = longest if ended.reason == "rejected" else backoff.next(longer=ended.overloaded)
            delay += spread(time.time() + delay, min(longest, _SPREAD))
            self._log.warning(
                "session ended", reason=ended.reason, detail=ended.detail, next_try_in=round(delay, 3)
            )
            await asyncio.sleep(delay)

    @property
    def held_bytes(self) -> int:
        """Bytes that were read from the exchange and not passed on, by its sessions or by a rotation."""
        rotating = self._rotation.held_bytes if self._rotation else 0
        return rotating + sum(feed.held_bytes for feed in self._feeds)

    def note_heard(self) -> None:
        """Update the last-heard times of private channels; record the gap before the present session, once.

        Example, in seconds: a session listens to `order`, its last ping with an answer went out at 100, and
        it ends. The next one confirms `order` at 107. The first call after that records a gap from 100 to
        107, and the last-heard time becomes 107 or later. If `order` was never listened to before, the gap
        has no beginning.
        """
        if self.account is None or not self._feeds:
            return
        feed = self._feeds[0]
        for missed in self._listening.note(feed.listening, feed.read_up_to):
            self._record_gap(feed, missed)

    def savable(self, complete_us: int | None, saved: Heard) -> Heard:
        """As `Listening.savable`; during a rotation, nothing beyond its beginning."""
        for feed in self._feeds[:1]:
            self._listening.advance(feed.listening, feed.read_up_to)
        limits = [limit for limit in (complete_us, self._rotating_us) if limit is not None]
        return self._listening.savable(min(limits, default=None), saved)

    def subscribe(self, channel: str, symbols: Sequence[str]) -> None:
        """Add symbols of a channel, to the present session and all later ones."""
        self.wanted.setdefault(channel, []).extend(symbols)
        for feed in self._feeds:
            feed.subscribe(channel, list(symbols))

    def pause(self) -> None:
        """Stop reading from the exchange; connections stay open, and none is opened."""
        self._reading.clear()
        for feed in self._feeds:
            feed.pause()

    def resume(self) -> None:
        """Resume reading."""
        self._reading.set()
        for feed in self._feeds:
            feed.resume()

    def missing(self) -> list[str]:
        """Return the subscriptions that are not confirmed, as lines for `/readyz`; none if all are."""
        if not self._feeds:
            return [f"{self._name()}: {self._trouble}"]
        feed = self._feeds[0]
        if feed.ended.done():
            return [f"{self._name()}: session ended"]
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

    async def _serve(self) -> Ended:
        """Open a session and keep it, and those that replace it, until one ends without being replaced."""
        self._listening.begin_session()
        self._rotating_us = None
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
            await until(feed.live.wait(), feed)
            self.note_heard()
            timeout = self._lifetime()
            while True:
                await asyncio.wait({feed.ended}, timeout=timeout)
                await until(self._reading.wait(), feed)
                if feed.ended.done():
                    ended = feed.ended.result()
                    self._cause = ended.reason
                    return ended
                served, feed = feed, await self._rotate(feed)
                timeout = self._lifetime() if feed is not served else self._config.reconnect_max
        finally:
            self.note_heard()
            await asyncio.gather(*(self._end(feed, "stopped") for feed in self._feeds))

    def _record_gap(self, feed: Feed, missed: Missed) -> None:
        first = missed.after_us is None
        self._watch.journal.record(
            "gap",
            session=feed.source.session,
            account=self.account,
            channel=missed.channel,
            cause="first_listened" if first else feed.source.cause,
            detail="not known to have been listened to before" if first else None,
            after_us=missed.after_us,
            before_us=missed.before_us,
            filled=0,
        )
        self._listening.record(missed, time.time_ns() // 1000)

    async def _open(self, receiver: Receiver, cause: Cause) -> Feed:
        config = self._config
        await self._courtesy.admit(subscribe_requests(self.wanted))
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
            max_frame_bytes=config.max_frame_bytes,
            credentials=self._credentials,
            begins_clean=BEGIN_CLEAN,
        )
        return Feed(
            cast("Stream", opened),
            session,
            Source(uuid.uuid4().hex[:16], self.account, cause),
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
        """Close a session and record its end; `cause` is why, unless it has ended by itself."""
        if feed in self._feeds:
            self._feeds.remove(feed)
        over = None if not feed.ended.done() or feed.ended.cancelled() else feed.ended.result()
        await feed.close()
        self._watch.journal.record(
            "session_ended",
            session=feed.source.session,
            account=self.account,
            cause=over.reason if over else cause,
            detail=over.detail if over else "closed by the bridge",
        )

    def _lifetime(self) -> float:
        age = self._config.max_session_age * random.uniform(1 - _AGE_JITTER, 1)  # noqa: S311
        return age if age < _LONG_LIFE else calm(time.time() + age) - time.time()

    def _asked_to_wait(self, refusal: InvalidStatus) -> float:
        """Return the seconds until the next handshake: as the exchange asks for, or else the longest."""
        answer = refusal.response.headers.get("Retry-After", "")
        return float(answer) if answer.isdecimal() else self._config.reconnect_max

    async def _rotate(self, old: Feed) -> Feed:
        """Replace a session by a new one; return the one that stays in use."""
        rotation = self._rotation = Rotation(old, self._receiver)
        self._rotating_us = time.time_ns() // 1000
        try:
            return await self._replace_in(rotation, old)
        finally:
            self._rotation = None

    async def _replace_in(self, rotation: Rotation, old: Feed) -> Feed:
        """Open a new session for a rotation that has begun; return the one that stays in use."""
        try:
            new = await self._open(rotation.receiver_of_new, "rotated")
        except (OSError, EOFError, WebSocketException) as error:
            rotation.abandon()
            self._rotating_us = None
            self._log.warning("rotation postponed: could not connect", detail=str(error))
            return old
        self._begin(new)
        outcome = await rotation.run(new, accept_refusals=self._postponed >= _MOST_POSTPONED)
        # Not after a cancellation: what is held back is dropped then, and the old session may not bring it.
        self._rotating_us = None
        match outcome:
            case Outcome.REFUSED:
                self._postponed += 1
                refused = sorted(new.refused.keys() - old.refused.keys())
                self._log.warning(
                    "rotation postponed: new session was refused subscriptions", refused=refused
                )
                await self._end(new, "rejected")
                return old
            case Outcome.NEW_ENDED:
                await self._end(new, "rotated")
                return old
            case Outcome.OLD_ENDED:
                return await self._go_on_alone(new, old)
            case Outcome.ROTATED:
                return await self._replace(old, new)

    async def _replace(self, old: Feed, new: Feed) -> Feed:
        """Report a rotation, and close the session that was replaced."""
        self._watch.metrics.counter("reconnects_total", reason="rotated").value += 1
        self._log.info("session rotated", old=old.source.session, new=new.source.session)
        self._watch.journal.record(
            "session_rotated",
            session=new.source.session,
            account=self.account,
            detail=f"replaces session {old.source.session}",
        )
        self._postponed = 0
        self._listening.keep(new.listening)
        await self._end(old, "rotated")
        return new

    async def _go_on_alone(self, new: Feed, old: Feed) -> Feed:
        """Keep a new session whose predecessor ended before it was replaced: that counts as a reconnect."""
        self._cause = new.source.cause = old.ended.result().reason
        self._watch.metrics.counter("reconnects_total", reason=self._cause).value += 1
        self.note_heard()
        # A channel that the new session listened to before the old one stopped has no gap.
        read_us = old.read_up_to.pushed_us
        self._listening.keep({channel for channel, us in new.listening.items() if us <= read_us})
        await self._end(old, "rotated")
        await until(new.live.wait(), new)
        self.note_heard()
        return new
