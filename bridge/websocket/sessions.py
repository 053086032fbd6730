"""The open sessions of one connector: the one in use and, in a rotation, the one that is to replace it."""

import asyncio
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Protocol

import structlog
from websockets.exceptions import WebSocketException

from bridge import plan
from bridge.channels import BEGIN_CLEAN, CHANNELS
from bridge.channels.channel import Overlap, Source
from bridge.config import ExchangeConfig
from bridge.exchange.events import SubscriptionRefused
from bridge.exchange.requests import Credentials
from bridge.exchange.session import Session, Timing
from bridge.exchange.words import Words
from bridge.ledger import Heard
from bridge.records import Cause
from bridge.watch.watch import Watch
from bridge.websocket import opening
from bridge.websocket.buffers import Buffers
from bridge.websocket.courtesy import Courtesy
from bridge.websocket.feed import Feed, Receiver, until
from bridge.websocket.rotation import NODE_LAG, Outcome, Rotation

log = structlog.get_logger(__name__)

FAILURES = (OSError, EOFError, WebSocketException)
"""The errors with which no session can be opened; a TimeoutError is an OSError."""


class Books(Protocol):
    """The books that are kept of what the sessions bring, which a rotation can prove right."""

    def begin(self, sessions: Collection[str]) -> None:
        """Note that sessions are about to be replaced by one that is not open yet."""

    def end(self, sessions: Collection[str]) -> None:
        """Note that they are not, or that one of them has ended by itself."""

    def replaced(self, olds: Collection[str], new: str, symbols: Iterable[str]) -> None:
        """Note that a session has replaced others; its snapshots of `symbols` show what they have shown."""


@dataclass(frozen=True, slots=True)
class Account:
    """An account of the exchange: its name, its credentials, and the last-heard times of its channels.

    `heard_us` has the last-heard time of each private channel that was ever listened to: all that was pushed
    up to then was received; in microseconds since the epoch.
    """

    name: str
    credentials: Credentials
    heard_us: Heard = field(default_factory=dict)


class Sessions:
    """Opens, rotates and ends the sessions of one connector, whose pushes go to `receiver`."""

    def __init__(
        self,
        config: ExchangeConfig,
        courtesy: Courtesy,
        receiver: Receiver,
        watch: Watch,
        account: Account | None,
    ) -> None:
        self.feeds: list[Feed] = []  # the one in use, then, in a rotation, the new one
        self.reading = asyncio.Event()  # cleared by `pause`, set by `resume`
        self.reading.set()
        # Of all sessions of the process, if it has more of them than these: given by the shard.
        self.buffers = Buffers(config.max_buffered_bytes, config.max_frame_bytes)
        # Whether there is room for what they bring; likewise. Without, `pause` is about to be called.
        self.has_room: Callable[[], bool] = lambda: True
        self.books: Books | None = None  # likewise; None: no books are kept
        self._config = config
        self._courtesy = courtesy
        self._receiver = receiver
        self._watch = watch
        self._account = account.name if account else None
        self._credentials = account.credentials if account else None
        self._rotation: Rotation | None = None  # the one under way, if any
        self._bad: list[SubscriptionRefused] = []  # what the last session was refused because of its symbol
        self._log = log.bind(shard=watch.shard, account=self._account)

    @property
    def in_use(self) -> Feed | None:
        """The session in use; None if none is open."""
        return self.feeds[0] if self.feeds else None

    @property
    def held_bytes(self) -> int:
        """Bytes that were read from the exchange and not passed on, by the sessions or by a rotation."""
        rotating = self._rotation.held_bytes if self._rotation else 0
        return rotating + sum(feed.held_bytes for feed in self.feeds)

    @property
    def bad_symbols(self) -> list[SubscriptionRefused]:
        """What the session in use, or else the last one, is refused because of its symbol."""
        return self.feeds[0].bad_symbols if self.feeds else self._bad

    def subscribe(self, channel: str, symbols: Sequence[str]) -> None:
        """Add symbols of a channel to all of them."""
        for feed in self.feeds:
            feed.subscribe(channel, list(symbols))

    def forget(self, channel: str, symbol: str) -> None:
        """Want a symbol of a channel no longer, in all of them."""
        self._bad = [one for one in self._bad if (one.channel, one.symbols) != (channel, (symbol,))]
        for feed in self.feeds:
            feed.forget(channel, symbol)

    def pause(self) -> None:
        """Stop reading from the exchange; connections stay open, and none should be opened."""
        self.reading.clear()
        for feed in self.feeds:
            feed.pause()

    def resume(self) -> None:
        """Resume reading."""
        self.reading.set()
        for feed in self.feeds:
            feed.resume()

    async def open(self, wanted: plan.Wanted, cause: Cause) -> Feed:
        """Open a session and begin it; `cause` is why.

        Raises:
            OSError, EOFError, WebSocketException: it cannot be opened, see `FAILURES`.
        """
        feed = await self._connect(wanted, cause, self._receiver)
        self._begin(feed, wanted)
        return feed

    async def rotate(
        self, olds: Sequence[Feed], wanted: plan.Wanted, cause: Cause, *, accept_refusals: bool
    ) -> tuple[Outcome, Feed]:
        """Open a session and replace those of `olds` by it; return which stay in use, and the new one.

        Those that do not stay in use have to be ended, see `Rotation.run`.

        Raises:
            OSError, EOFError, WebSocketException: no session can be opened; the old ones stay in use.
        """
        sessions, replaced = [old.source.session for old in olds], False
        has_books = any(CHANNELS[channel].overlap is Overlap.SNAPSHOT for channel in wanted)
        books = self.books if has_books else None
        if books is not None:
            books.begin(sessions)
            # The new session's node may be behind: its snapshot may show what the old ones have shown before.
            await until(asyncio.sleep(NODE_LAG), *olds)
        rotation = self._rotation = Rotation(olds, self._receiver, self.buffers)
        try:
            try:
                new = await self._connect(wanted, cause, rotation.receiver_of_new)
            except FAILURES:
                rotation.abandon()
                raise
            self._begin(new, wanted)
            outcome = await rotation.run(new, accept_refusals=accept_refusals)
            replaced = outcome is Outcome.ROTATED
        finally:
            self._rotation = None
            if books is not None and not replaced:
                books.end(sessions)
        if books is not None and replaced:
            # Nothing else has run since the new session took over: none of its records is on its way.
            books.replaced(sessions, new.source.session, rotation.comparable)
        if rotation.given_up:
            session, detail = new.source.session, rotation.given_up
            self._log.error("rotation given up", session=session, detail=detail)
            self._watch.journal.record(
                "rotation_given_up", session=session, account=self._account, detail=detail
            )
        return outcome, new

    async def end(self, feed: Feed, cause: Cause) -> None:
        """Close a session and record its end; `cause` is why, unless it has ended by itself."""
        if feed in self.feeds:
            self.feeds.remove(feed)
            if feed.session.live_at != inf:
                self._bad = feed.bad_symbols
        over = None if not feed.ended.done() or feed.ended.cancelled() else feed.ended.result()
        await feed.close()
        self._watch.journal.record(
            "session_ended",
            session=feed.source.session,
            account=self._account,
            cause=over.reason if over else cause,
            detail=over.detail if over else "closed by the bridge",
        )

    def in_words(self, error: BaseException) -> Words:
        """Return why no session can be opened, without credentials."""
        return self._watch.confidential.words(opening.in_words(error))

    async def _connect(self, wanted: plan.Wanted, cause: Cause, receiver: Receiver) -> Feed:
        config = self._config
        opened = await opening.stream(config, self._courtesy, self.buffers)
        opened.has_room = self.has_room
        session = Session(
            wanted,
            timing=Timing(
                config.ping_interval, config.reply_timeout, config.reconnect_max, config.max_clock_offset
            ),
            wall_offset=time.time() - time.monotonic(),
            max_frame_bytes=config.max_frame_bytes,
            credentials=self._credentials,
            begins_clean=BEGIN_CLEAN,
        )
        session.confidential = self._watch.confidential
        session.clock = self._watch.clock
        feed = Feed(
            opened,
            session,
            Source(uuid.uuid4().hex[:16], self._account, cause),
            courtesy=self._courtesy,
            receiver=receiver,
            watch=self._watch,
        )
        feed.carry_over(self.bad_symbols)
        return feed

    def _begin(self, feed: Feed, wanted: plan.Wanted) -> None:
        self.feeds.append(feed)
        feed.begin()
        source = feed.source
        self._log.info("session opened", session=source.session, **wanted)
        self._watch.journal.record(
            "session_begun", session=source.session, account=self._account, cause=source.cause
        )
        if not self.reading.is_set():
            feed.pause()
