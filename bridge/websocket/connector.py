"""Keeps a set of subscriptions alive over one session after another.

It reconnects with exponential back-off, and replaces an ageing session by a new one that is live before the
old one is closed (see `rotation`), so that a rotation loses and repeats nothing.

Longer than 350 lines because opening, keeping, replacing and closing a session change the same few values.
"""

import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf
from typing import Literal, Protocol

import structlog

from bridge import plan
from bridge.channels import CHANNELS
from bridge.channels.markets import Markets
from bridge.config import ExchangeConfig
from bridge.exchange.events import SubscriptionRefused
from bridge.exchange.subscribing import subscribe_requests
from bridge.ledger import Heard
from bridge.records import Cause
from bridge.watch.readiness import Standing
from bridge.watch.watch import Watch
from bridge.websocket.courtesy import ACCOUNT, LIFE, LISTING, OTHER, Courtesy, Handshake, calm, spread
from bridge.websocket.feed import Ended, Feed, Receiver, until
from bridge.websocket.freshness import Freshness
from bridge.websocket.listening import Listening, Missed
from bridge.websocket.outage import Outage
from bridge.websocket.part import Part
from bridge.websocket.retrying import Retrying
from bridge.websocket.rotation import Outcome
from bridge.websocket.sessions import FAILURES, Account, Sessions

log = structlog.get_logger(__name__)

_AGE_JITTER = 0.1  # of max_session_age
_LONG_LIFE = 600.0  # seconds; a shorter life cannot be moved away from a full hour
_SPREAD = 10.0  # seconds over which reconnects around a full hour are spread

# Rotations in a row that are postponed because the new session is refused subscriptions that the old one has.
_MOST_POSTPONED = 5


class Siblings(Protocol):
    """The other connectors of a shard, as far as they share their subscriptions with one."""

    def split(self, connector: "Connector") -> bool:
        """Replace a connector whose sessions keep ending soon by several; return whether that was done."""

    def partner(self, connector: "Connector") -> "Connector | None":
        """Return the one with which this one may be joined now, if there is one."""

    def joined(self, replaced: "Connector") -> None:
        """Forget a connector whose subscriptions another one has now."""


class Connector:
    """Keeps the subscriptions of `wanted` (channel to symbols) alive, one session at a time.

    With an `account`, for private channels. What they push while no session listens is lost, and each such
    time is recorded in the journal as a gap.

    If it has `siblings`, these may replace it by several while its sessions keep ending soon. When the
    session of such a part is due for a rotation, it is joined with that of another part if possible: one
    new session replaces both, and the other connector ends.
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
        if account is not None:
            watch.confidential.add(account.credentials)
        self._config = config
        self._courtesy = courtesy
        self._watch = watch
        self.sessions = Sessions(config, courtesy, receiver, watch, account)
        self._listening = Listening(account.heard_us if account else {})  # to private channels
        self._postponed = 0  # rotations in a row that were postponed for refusals; 0 after each rotation
        self.cause: Cause = "takeover"  # why the next session is opened: how the one before it ended
        self._live_at: float | None = None  # since when sessions have been live without a break; monotonic s
        self._freshness = Freshness(config.stale_after, config.reply_timeout)
        self._retrying = Retrying(config, self._rank, time.monotonic())
        self.trouble = "not connected yet"  # why no session is open, for `/readyz`
        self.coming_up = True  # until the first session has become live or has failed; see `Standing`
        self.siblings: Siblings | None = None  # given by the shard; None: it is never halved
        self.part: Part | None = None  # of which session it has a part, or had; None: it was never halved
        self._is_rotating = False  # from the wait for a rotation's handshake to its end
        self._own = asyncio.Event()  # cleared while its session is lent to another connector, see `lend`
        self._own.set()
        self._replaced = False  # whether its session was lent, and replaced with that of the other connector
        self._log = log.bind(shard=watch.shard, account=self.account)  # both are in each of its lines
        self._outage = Outage(watch.shard, self.account)

    async def run(self) -> None:
        """Keep a session alive until cancelled, or until others have its subscriptions."""
        self._courtesy.enter()
        try:
            over = False
            while not over:
                await self.sessions.reading.wait()
                over = await self._serve_once()
        finally:
            self._courtesy.leave()

    async def _serve_once(self) -> bool:
        """Serve until there is no session any more, report why, and wait before the next.

        Return whether others have its subscriptions now.
        """
        self._live_at = None
        try:
            ended = await self._serve()
            if ended is None:
                return True
        except Exception as error:  # noqa: BLE001 - an internal error costs a session, not the pending records
            self._log.exception("internal error in a session")
            ended = Ended("closed", f"internal error: {error!r}")
        self.trouble = f"{ended.reason}: {ended.detail}"
        self.coming_up = False
        self._watch.metrics.counter("reconnects_total", reason=ended.reason).value += 1
        now = time.monotonic()
        delay = self._retrying.ended(ended, now, self._live_at)
        delay += spread(time.time() + delay, min(self._config.reconnect_max, _SPREAD))
        not_before = self._courtesy.wait(now, self._handshake())
        self._outage.begin(ended, max(delay, not_before))
        if self._retrying.reports_short_lives:
            self._report_short_lives(ended)
        await asyncio.sleep(delay)
        return self._retrying.keeps_ending and self.siblings is not None and self.siblings.split(self)

    def _report_short_lives(self, ended: Ended) -> None:
        number = self._retrying.short_lives
        self._log.error("sessions keep ending soon", sessions=number, detail=ended.detail)
        self._watch.journal.record(
            "short_lives",
            account=self.account,
            cause=ended.reason,
            detail=f"{number} sessions in a row ended within {LIFE:g} s ({self._name()}); the last one: "
            f"{ended.detail}",
        )

    @property
    def held_bytes(self) -> int:
        """Bytes that were read from the exchange and not passed on, by its sessions or by a rotation."""
        return self.sessions.held_bytes

    def note_heard(self) -> None:
        """Update the last-heard times of private channels; record the gap before the present session, once.

        Example, in seconds: a session listens to `order`, its last ping with an answer went out at 100, and
        it ends. The next one confirms `order` at 107. The first call after that records a gap from 100 to
        107, and the last-heard time becomes 107 or later. If `order` was never listened to before, the gap
        has no beginning.
        """
        feed = self.sessions.in_use
        if self.account is None or feed is None:
            return
        for missed in self._listening.note(feed.listening, feed.read_up_to):
            self._record_gap(feed, missed)

    def savable(self, complete_us: int | None, saved: Heard) -> Heard:
        """As `Listening.savable`."""
        if feed := self.sessions.in_use:
            self._listening.advance(feed.listening, feed.read_up_to)
        return self._listening.savable(complete_us, saved)

    def subscribe(self, channel: str, symbols: Sequence[str]) -> None:
        """Add symbols of a channel, to the present session and all later ones."""
        self.wanted.setdefault(channel, []).extend(symbols)
        self.sessions.subscribe(channel, symbols)

    @property
    def bad_symbols(self) -> list[SubscriptionRefused]:
        """What its session is refused because of its symbol; what the last one was, if there is none."""
        return self.sessions.bad_symbols

    def forget(self, channel: str, symbol: str) -> None:
        """Want a symbol of a channel no longer, in the present session and all later ones."""
        if symbol in self.wanted.get(channel, ()):
            self.wanted[channel].remove(symbol)
        if not self.wanted.get(channel):
            self.wanted.pop(channel, None)
        self.sessions.forget(channel, symbol)

    def note_moves(self, markets: Markets, now: float) -> None:
        """Note which markets move, as what its session pushes shows."""
        if (feed := self.sessions.in_use) is not None:
            feed.note_moves(markets, now)

    def look_at_markets(self, markets: Markets, now: float) -> None:
        """Act on subscriptions that bring nothing although their markets move."""
        if self.account is None and (feed := self.sessions.in_use):
            feed.look_at_markets(markets, self._config.stale_after, self._config.reply_timeout, now)

    # Parts of sessions

    @property
    def is_part(self) -> bool:
        """Whether it has a part of the subscriptions of a session that was halved."""
        return self.part is not None and plan.count(self.wanted) < self.part.whole

    @property
    def whole(self) -> int:
        """The number of subscriptions of the session that was halved, or of its own."""
        return self.part.whole if self.part else plan.count(self.wanted)

    def live_for(self, now: float) -> float:
        """Return for how many seconds its sessions have been live without a break."""
        feed = self.sessions.in_use
        if self._live_at is None or feed is None or feed.ended.done():
            return 0.0
        return now - self._live_at

    def begin_as_part(self, whole: "Connector", now: float) -> None:
        """Take over from a connector whose sessions keep ending, with a part of its subscriptions."""
        part = whole.part or Part(0)
        if part.joined:
            part = part.postponed(now, self._config.max_session_age)
        self.part = replace(part, whole=max(part.whole, plan.count(whole.wanted)))
        self.cause, self.trouble, self.coming_up = whole.cause, whole.trouble, False
        self._retrying.begin_as_part()

    def may_join(self, now: float) -> bool:
        """Return whether its session may be replaced together with that of another part."""
        return self.is_part and self.part is not None and now >= self.part.not_before

    @property
    def can_lend(self) -> bool:
        """Whether it has a live session that is neither lent already nor about to be replaced."""
        feed = self.sessions.in_use
        is_live = feed is not None and feed.live.is_set() and not feed.ended.done()
        return is_live and self._own.is_set() and not self._is_rotating

    def lend(self) -> Feed:
        """Return its session, for another connector to replace it; it has to be one that it can lend.

        Until `take_back` or `give_up` it neither rotates nor reconnects.
        """
        self._own.clear()
        return self.sessions.feeds[0]

    def take_back(self) -> None:
        """Go on with the session that was lent, because it was not replaced."""
        self._postpone_joining()
        self._own.set()

    async def give_up(self) -> None:
        """End, and close the session that was lent, because it was replaced."""
        self._replaced = True
        self._own.set()
        await self.sessions.end(self.sessions.feeds[0], "rotated")

    def pause(self) -> None:
        """Stop reading from the exchange; connections stay open, and none is opened."""
        self.sessions.pause()

    def resume(self) -> None:
        """Resume reading."""
        self.sessions.resume()

    def standing(self) -> Standing:
        """Return how it and its subscriptions stand."""
        feed = self.sessions.in_use
        if feed is None:
            trouble = self.trouble
        elif feed.ended.done():
            trouble = "session ended"
        else:
            trouble = "" if feed.session.live_at != inf else feed.session.state.value
        return Standing(
            self.account,
            feed.source.session if feed else None,
            feed.address if feed else None,
            trouble,
            self.coming_up,
            {
                (channel, symbol): feed.state_of(channel, symbol) if feed else ("pending", "")
                for channel, symbols in self.wanted.items()
                for symbol in symbols or ("",)
            },
        )

    def _name(self) -> str:
        subscriptions = ", ".join(
            f"{channel} {' '.join(symbols)}".rstrip() for channel, symbols in self.wanted.items()
        )
        return f"account {self.account} ({subscriptions})" if self.account else subscriptions

    async def _serve(self) -> Ended | None:
        """Open a session and keep it, and those that replace it, until one ends without being replaced.

        Return why it has ended; None if another connector has replaced it.
        """
        self._listening.begin_session()
        try:
            await self._courtesy.admit(self._handshake())
            self._retrying.tried()
            feed = await self.sessions.open(self.wanted, self.cause)
        except TimeoutError:
            return Ended("timeout", f"no connection to {self._config.address}", opened=False)
        except FAILURES as error:
            detail = f"{self._config.address}: {self.sessions.in_words(error)}"
            return Ended("refused", detail, opened=False)
        try:
            await until(feed.live.wait(), feed)
            if feed.live.is_set():
                self._live_at = time.monotonic()
                self._outage.end(feed.source.session)
            self.coming_up = False
            self.note_heard()
            return await self._keep(feed)
        finally:
            self.note_heard()
            if self.sessions.in_use:
                self._outage.session = self.sessions.in_use.source.session
            await asyncio.gather(*(self.sessions.end(feed, "stopped") for feed in self.sessions.feeds))

    async def _keep(self, feed: Feed) -> Ended | None:
        """Keep a session, and those that replace it, until one ends without being replaced.

        Return why it has ended; None if another connector has replaced it.
        """
        not_before = 0.0  # no rotation before this, as the last one was postponed; in monotonic seconds
        rotate_at = time.monotonic() + self._lifetime()
        while True:
            next_at = max(min(rotate_at, self._stale_at(feed)), not_before)
            await asyncio.wait({feed.ended}, timeout=max(0.0, next_at - time.monotonic()))
            await until(self.sessions.reading.wait(), feed)
            await self._own.wait()
            if self._replaced:
                return None
            if feed.ended.done():
                ended = feed.ended.result()
                self.cause = ended.reason
                return ended
            now = time.monotonic()
            stale = now >= self._stale_at(feed)
            if now < not_before or not (stale or now >= rotate_at):
                continue
            self._is_rotating = True
            served = feed
            try:
                if not stale:
                    feed = await self._join(feed)
                if feed is served and not feed.ended.done():
                    feed = await self._rotate(feed, "stale" if stale else "rotated")
            finally:
                self._is_rotating = False
            now = time.monotonic()
            if feed is served:
                not_before = now + self._retrying.until_rotation()
            else:
                rotate_at = now + self._lifetime()
                if stale:
                    self._freshness.replaced()

    def _stale_at(self, feed: Feed) -> float:
        """Return when a session is to be replaced because it brings nothing.

        Private channels are silent until something changes, so their sessions are never stale.
        """
        if self.account is not None:
            return inf
        return self._freshness.stale_at(feed.session.live_at, feed.session.fresh_at)

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

    def _lifetime(self) -> float:
        age = self._config.max_session_age * random.uniform(1 - _AGE_JITTER, 1)  # noqa: S311
        return age if age < _LONG_LIFE else calm(time.time() + age) - time.time()

    @property
    def _rank(self) -> int:
        if self.account is not None:
            return ACCOUNT
        return LISTING if any(CHANNELS[channel].lists_markets for channel in self.wanted) else OTHER

    def _handshake(self) -> Handshake:
        return self._retrying.handshake(subscribe_requests(self.wanted))

    async def _rotate(self, old: Feed, cause: Literal["rotated", "stale"]) -> Feed:
        """Replace a session by a new one; return the one that stays in use."""
        handshake = self._retrying.handshake_to_rotate(
            subscribe_requests(self.wanted), time.monotonic(), self._postponed
        )
        await until(self._courtesy.admit(handshake), old)
        if old.ended.done():
            return old
        try:
            outcome, new = await self.sessions.rotate(
                [old], self.wanted, cause, accept_refusals=self._postponed >= _MOST_POSTPONED
            )
        except FAILURES as error:
            self._retrying.rotation_failed()
            detail = self.sessions.in_words(error)
            self._log.warning("rotation postponed: could not connect", detail=detail)
            return old
        match outcome:
            case Outcome.REFUSED:
                self._postponed += 1
                refused = sorted(new.refused.keys() - old.refused.keys())
                self._log.warning(
                    "rotation postponed: new session was refused subscriptions", refused=refused
                )
                await self.sessions.end(new, "rejected")
                return old
            case Outcome.NEW_ENDED | Outcome.ONE_ENDED:
                self._retrying.rotation_failed()
                await self.sessions.end(new, "rotated")
                return old
            case Outcome.OLD_ENDED:
                return await self._go_on_alone(new, old)
            case Outcome.ROTATED:
                return await self._replace(old, new, cause)

    async def _replace(self, old: Feed, new: Feed, cause: Literal["rotated", "stale"]) -> Feed:
        """Report a rotation, and close the session that was replaced."""
        self._watch.metrics.counter("reconnects_total", reason=cause).value += 1
        self._log.info("session rotated", old=old.source.session, new=new.source.session)
        self._watch.journal.record(
            "session_rotated",
            session=new.source.session,
            account=self.account,
            detail=f"replaces session {old.source.session}",
        )
        self._postponed = 0
        self._retrying.rotated()
        self.part = self.part and self.part.rotated()
        self._listening.keep(new.listening)
        await self.sessions.end(old, cause)
        return new

    async def _go_on_alone(self, new: Feed, old: Feed) -> Feed:
        """Keep a new session whose predecessor ended before it was replaced: that counts as a reconnect."""
        self._postponed = 0
        self._retrying.rotated()
        ended = old.ended.result()
        self.cause = new.source.cause = ended.reason
        self._outage.session = old.source.session
        self._outage.begin(ended, 0.0)
        self._watch.metrics.counter("reconnects_total", reason=self.cause).value += 1
        self.note_heard()
        # A channel that the new session listened to before the old one stopped has no gap.
        read_us = old.read_up_to.pushed_us
        self._listening.keep({channel for channel, us in new.listening.items() if us <= read_us})
        await self.sessions.end(old, "rotated")
        await until(new.live.wait(), new)
        if new.live.is_set():
            self._outage.end(new.source.session)
        self.note_heard()
        return new

    async def _join(self, feed: Feed) -> Feed:
        """Replace the session of a part, and that of another one, by a session with both their subscriptions.

        Return the session that is in use then, the given one if that was not possible.
        """
        other = self.siblings.partner(self) if self.siblings else None
        if other is None:
            return feed
        wanted = plan.joined(self.wanted, other.wanted)
        handshake = self._retrying.handshake_to_rotate(subscribe_requests(wanted), time.monotonic(), 0)
        await until(self._courtesy.admit(handshake), feed)
        if feed.ended.done() or not other.can_lend:
            return feed
        lent = other.lend()
        new = None
        try:
            new = await self._replace_both(feed, lent, wanted)
        finally:
            if new is None:
                self._postpone_joining()
                other.take_back()
        if new is None:
            return feed
        await self._note_joined(new, feed, lent, other)
        return new

    async def _replace_both(self, feed: Feed, lent: Feed, wanted: plan.Wanted) -> Feed | None:
        """Return the session that has replaced two of them; None if these stay in use."""
        try:
            outcome, new = await self.sessions.rotate([feed, lent], wanted, "rotated", accept_refusals=False)
        except FAILURES as error:
            self._log.warning("halved sessions not joined", detail=self.sessions.in_words(error))
            return None
        if outcome is Outcome.ROTATED:
            return new
        detail = new.ended.result().detail if new.ended.done() else outcome.value
        self._log.warning("halved sessions not joined", detail=detail)
        await self.sessions.end(new, "rejected")
        return None

    def _postpone_joining(self) -> None:
        self.part = self.part and self.part.postponed(time.monotonic(), self._config.max_session_age)

    async def _note_joined(self, new: Feed, feed: Feed, lent: Feed, other: "Connector") -> None:
        """Take the subscriptions of another connector over; report it, and close what was replaced."""
        self.wanted = plan.joined(self.wanted, other.wanted)
        if self.siblings:
            self.siblings.joined(other)
        self.part = self.part and other.part and self.part.with_other(other.part)
        self._retrying.rank = self._rank
        self._retrying.rotated()
        self._live_at = time.monotonic()  # so that an early end of this session counts as one
        self._watch.metrics.counter("reconnects_total", reason="rotated").value += 2
        old = [feed.source.session, lent.source.session]
        self._log.info("halved sessions joined", old=old, new=new.source.session)
        self._watch.journal.record(
            "session_rotated", session=new.source.session, detail=f"replaces sessions {old[0]} and {old[1]}"
        )
        await asyncio.gather(self.sessions.end(feed, "rotated"), other.give_up())
