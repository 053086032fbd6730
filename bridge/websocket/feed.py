"""One session on one connection: frames from the wire go into the session, its requests onto the wire.

Longer than 350 lines because what was received, when, and what is known of each subscription belong together.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import structlog
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from bridge.channels.channel import Source
from bridge.channels.markets import Markets
from bridge.errors import BadFrame
from bridge.exchange.events import (
    CleanDue,
    ClockRead,
    Confirmed,
    Event,
    Ponged,
    SubscriptionRefused,
)
from bridge.exchange.frames import Push
from bridge.exchange.session import Session
from bridge.watch.readiness import State
from bridge.watch.watch import Watch
from bridge.websocket.courtesy import Courtesy
from bridge.websocket.listening import NOTHING_READ, ReadUpTo
from bridge.websocket.refused import Refused
from bridge.websocket.silence import Silence
from bridge.websocket.stream import Stream

log = structlog.get_logger(__name__)

EndReason = Literal["closed", "refused", "timeout", "stale", "rejected", "rotated"]
Deliver = Callable[[Push, Source, int, bytes], None]

_SEND_TIMEOUT = 10.0  # seconds
_OVERLOADED = (CloseCode.POLICY_VIOLATION, CloseCode.TRY_AGAIN_LATER)


class Receiver(Protocol):
    """Takes the messages that the sessions receive; `frame` holds the bytes as they came."""

    def push(self, push: Push, source: Source, received_us: int, frame: bytes) -> None:
        """Take one push."""

    def bad(self, bad: BadFrame, source: Source, received_us: int, frame: bytes) -> None:
        """Take a frame that is not a message of the protocol."""

    def lost(self, source: Source) -> None:
        """Note that a frame of this session could not be read; it is reported already."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a session ended, or was not `opened`; `overloaded` if the exchange said that it is."""

    reason: EndReason
    detail: str
    overloaded: bool = False
    opened: bool = True


class Feed:
    """One session on one open connection, from `begin` until `ended` is done or `close` is called."""

    ended: asyncio.Task[Ended]

    def __init__(
        self,
        stream: Stream,
        session: Session,
        source: Source,
        *,
        courtesy: Courtesy,
        receiver: Receiver,
        watch: Watch,
    ) -> None:
        self.session = session
        self.source = source
        source.channels = session.channels
        source.conceals = watch.confidential.is_in
        source.asked = {}
        for channel, symbols in session.wanted.items():
            source.ask(channel, symbols)
        self.deliver: Deliver = receiver.push  # the receiver's method, found once: the hot path calls it
        self.live = asyncio.Event()  # set when the session becomes live; cleared when subscriptions are added
        self._refused = Refused(session, source, watch.journal)
        self.refused = self._refused.now  # by subscription, until confirmed
        # Whether what it receives is held back, so that nobody knows yet which series have begun. Changed by
        # a rotation only.
        self.withheld = False
        self._read_before_withheld = NOTHING_READ  # what `read_up_to` was when that began
        self.listening: dict[str, int] = {}  # by channel: when it was first confirmed, µs since the epoch
        self._stream = stream
        self._courtesy = courtesy
        self._receiver = receiver
        self._journal = watch.journal
        self._last_frame_us = 0  # when the last frame was read, µs since the epoch; 0 before the first
        # What is read for certain, delivered or withheld; set by `begin`, moved on by each pong.
        self._read_up_to = NOTHING_READ
        # By each sending of requests since the last pong: the id of its newest one, and when it began, µs
        # since the epoch.
        self._sendings: deque[tuple[int, int]] = deque()
        self._confirmed: set[tuple[str, str]] = set()  # subscriptions, by channel and symbol, until forgotten
        self._due: list[CleanDue] = []  # not looked at yet; emptied as soon as nothing is withheld
        self._silence = Silence(session, source, watch.journal)
        self._given_up = ""  # why the session is to end; "": it is not
        self._wake = asyncio.Event()  # set when the session has something to send, report or do
        self._fences: dict[int, asyncio.Future[None]] = {}  # by ping id, until that ping is answered
        self._permits = 0  # requests with a place in the budget whose time has not come yet
        # The instruments of the shard, found once: the hot path adds to them.
        self._frames = watch.metrics.counter("frames_total", shard=watch.shard)
        self._bytes = watch.metrics.counter("received_bytes_total", shard=watch.shard)
        self._connected = watch.metrics.gauge("connected", shard=watch.shard)
        self._ping_seconds = watch.metrics.histogram("ping_seconds")
        self._clock_offset = watch.metrics.gauge("clock_offset_seconds")
        self._log = log.bind(session=source.session, account=source.account)  # both are in each of its lines

    def begin(self) -> None:
        """Start the session; `ended` is its task from here on."""
        now_us = time.time_ns() // 1000
        self._read_up_to = ReadUpTo(now_us, now_us)  # nothing can be pushed to it before
        self.source.heard_us = now_us
        self.ended = asyncio.create_task(self._drive(), name=f"session {self.source.session}")
        self.session.start(time.monotonic())
        self._stream.attach(self._take)

    async def close(self) -> None:
        """End the session from this side, with a closing handshake."""
        self.ended.cancel()
        await asyncio.wait({self.ended})
        await self._stream.close()  # the task may have been cancelled before it started

    def deliver_to(self, receiver: Receiver, *, withheld: bool = False) -> None:
        """Give everything that is received from here on to another receiver, which may withhold it."""
        self.deliver = receiver.push
        self._receiver = receiver
        if withheld and not self.withheld:
            self._read_before_withheld = self._read_up_to
        self.withheld = withheld
        self.source.heard_us = self.read_up_to.pushed_us
        self._wake.set()

    def give_up(self, why: str) -> None:
        """End the session soon, and take nothing more of what it receives."""
        self._given_up = why
        self.deliver = _drop
        self._wake.set()

    async def fence(self) -> None:
        """Return when everything that the exchange had pushed at the time of the call has been delivered."""
        request_id = self.session.ping(time.monotonic())
        answered = self._fences[request_id] = asyncio.get_running_loop().create_future()
        self._wake.set()
        await answered

    def subscribe(self, channel: str, symbols: list[str]) -> None:
        """Add symbols of a channel."""
        self.live.clear()
        self.source.ask(channel, symbols)
        self.session.subscribe(channel, symbols)
        self._wake.set()

    def carry_over(self, refused: Iterable[SubscriptionRefused]) -> None:
        """Take for refused what an earlier session was refused because of its symbols, before `begin`."""
        known = [one for one in refused if set(one.symbols) <= set(self.session.wanted.get(one.channel, ()))]
        self.session.put_aside((one.channel, one.symbols[0]) for one in known)
        self._refused.carry_over(known)

    @property
    def bad_symbols(self) -> list[SubscriptionRefused]:
        """What is refused because of its symbol, of channels of which others are confirmed."""
        channels = {channel for channel, _ in self._confirmed}
        return [one for one in self._refused.bad_symbols if one.symbols and one.channel in channels]

    def forget(self, channel: str, symbol: str) -> None:
        """Want a symbol of a channel no longer. If it is subscribed to, it stays so."""
        self.session.forget(channel, (symbol,), time.monotonic())
        self._refused.forget(channel, symbol)
        self._silence.forget(channel, symbol)
        self._confirmed.discard((channel, symbol))
        self._wake.set()

    def request_clean(self, channel: str) -> None:
        """Request the clean lists or snapshots of a channel again, as if one was lost."""
        self.source.incomplete.add(channel)
        self._wake.set()

    def note_moves(self, markets: Markets, now: float) -> None:
        """Note which markets move, see `Silence.note_moves`."""
        if not self.withheld:
            self._silence.note_moves(self._confirmed, markets, now)

    def look_at_markets(self, markets: Markets, patience: float, margin: float, now: float) -> None:
        """Act on what brings nothing although its market moves, see `Silence.look_at_markets`."""
        if self.withheld or self.ended.done():
            return
        confirmed = [one for one in self._confirmed if one[1] and (one[0], (one[1],)) not in self.refused]
        self._silence.look_at_markets(confirmed, markets, patience, margin, now)
        if self.session.held:
            self._wake.set()

    @property
    def address(self) -> str | None:
        """The address that it is connected to, like "203.0.113.7:443"; None once it is closed."""
        match self._stream.transport.get_extra_info("peername"):
            case (str(host), int(port), *_):
                return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            case _:
                return None

    def state_of(self, channel: str, symbol: str) -> tuple[State, str]:
        """Return how a subscription stands and, if it is refused, why; `symbol` is "" if it has none."""
        refused = self.refused.get((channel, (symbol,) if symbol else ()))
        if refused is not None:
            return "refused" if refused.answered else "silent", refused.error
        if (why := self._silence.why(channel, symbol)) is not None:
            return "silent", why
        return ("confirmed" if (channel, symbol) in self._confirmed else "pending"), ""

    @property
    def held_bytes(self) -> int:
        """Bytes that were read and not handed over, as reading is paused or a message is not whole."""
        return self._stream.held_bytes

    @property
    def read_up_to(self) -> ReadUpTo:
        """Up to when everything that was pushed is read and delivered for certain.

        Only a pong proves that: it comes behind all that was pushed before it, so all that was pushed before
        its ping was *sent* has been read with it. When a frame was read proves nothing. Example, in seconds:
        a ping goes out at 100 and its pong is read at 100.1. At 103 the process is frozen, at 110 the
        exchange closes the connection, and at 118 the process wakes and reads what the network still holds,
        a push of 104. What was pushed from 105 to 110 may be lost, and what happened after 110 was never
        pushed. This stays at 100: the ping that goes out at 118 is not answered any more.

        What a rotation withholds does not move it, since that is lost if the process is killed.
        """
        return self._read_before_withheld if self.withheld else self._read_up_to

    def pause(self) -> None:
        """Stop reading from the connection; pings continue."""
        self.session.pause()
        if not self.ended.done():
            self._stream.pause_reading()

    def resume(self) -> None:
        """Resume reading."""
        now = time.monotonic()
        self.session.resume(now)
        self._silence.restart()
        self.session.ping(now)  # its pong says when all that has waited in the network is read
        self._wake.set()
        if not self.ended.done():
            self._stream.resume_reading()

    def _take(self, frames: Sequence[bytes], binary: bool) -> None:
        now, received_us = time.monotonic(), time.time_ns() // 1000
        self._last_frame_us = received_us
        self._frames.value += len(frames)
        self._bytes.value += sum(map(len, frames))
        receive, source = self.session.receive, self.source
        for frame in frames:
            try:
                push = receive(frame, binary, now)
            except BadFrame as bad:
                # A new one: with its traceback, it would keep the inflated text for as long as it is held.
                self._receiver.bad(BadFrame(bad.reason, bad.detail), source, received_us, frame)
                if self.session.over:
                    self._wake.set()
                continue
            if push is None:
                self._wake.set()
            else:
                self.deliver(push, source, received_us, frame)
        if source.incomplete:
            self._wake.set()

    async def _drive(self) -> Ended:
        closed = asyncio.ensure_future(self._stream.wait_closed())
        closed.add_done_callback(lambda _: self._wake.set())
        self._connected.value += 1
        try:
            while True:
                self._report()
                if self.session.over:
                    over = self.session.over
                    self._stream.transport.abort()  # a silent exchange would not answer a closing handshake
                    return Ended(over.reason, over.detail)
                if self._given_up:
                    self._stream.transport.abort()
                    return Ended("rejected", self._given_up)
                if closed.done():
                    return self._closed()
                self._refused.note_requests()
                await self._send(self.session.to_send())
                await self._sleep_until(self.session.next_call())
                now = time.monotonic()
                self._refused.confirm_what_flows(now)
                self.session.tick(now)
        except ConnectionClosed:
            return self._closed()
        except TimeoutError:
            self._stream.transport.abort()
            return Ended("timeout", f"request not sent within {_SEND_TIMEOUT:g} s")
        except Exception as error:  # noqa: BLE001 - whatever it is, the session is over and is replaced
            self._log.exception("internal error in a session")
            return Ended("closed", f"internal error: {error!r}")
        finally:
            self._connected.value -= 1
            closed.cancel()
            for fence in self._fences.values():
                fence.cancel()
            await self._stream.close()

    async def _send(self, requests: Sequence[str]) -> None:
        if not requests:
            return
        self._sendings.append((self.session.newest_request, time.time_ns() // 1000))
        async with asyncio.timeout(_SEND_TIMEOUT):
            for request in requests:
                await self._stream.send(request)

    async def _sleep_until(self, moment: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, moment - time.monotonic())):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    def _report(self) -> None:
        """Act on the session's events and state, and reserve a place in the budget for requests it holds."""
        now = time.monotonic()
        while self.source.incomplete:
            self.session.ask_again(self.source.incomplete.pop(), now)
        for event in self.session.events():
            self._act_on(event)
        if not self.withheld:
            self._silence.look_at(self._due, now)
            self._due.clear()
        if self.session.live:
            self.live.set()
        while self._permits < self.session.held:
            self._permits += 1
            wait = self._courtesy.reserve_subscribe(now)
            asyncio.get_running_loop().call_later(wait, self._permit)

    def _act_on(self, event: Event) -> None:
        match event:
            case Ponged(request_id, seconds):
                self._ping_seconds.observe(seconds)
                while self._sendings and self._sendings[0][0] < request_id:
                    self._sendings.popleft()
                if self._sendings:
                    self._read_up_to = ReadUpTo(self._sendings[0][1], self._last_frame_us)
                    if not self.withheld:
                        self.source.heard_us = self._read_up_to.pushed_us
                fence = self._fences.pop(request_id, None)
                if fence is not None and not fence.done():
                    fence.set_result(None)
            case ClockRead(offset):
                # The local clock may have been set since the session was created.
                wall_offset = time.time() - time.monotonic()
                self._clock_offset.value = offset + self.session.wall_offset - wall_offset
            case Confirmed(channel, symbols):
                self.listening.setdefault(channel, self._last_frame_us)
                self._confirmed.update((channel, symbol) for symbol in symbols or ("",))
                self._refused.confirmed(channel, symbols)
            case CleanDue():
                self._due.append(event)
            case _:
                self._refused.note(event)

    def _permit(self) -> None:
        """Send the next held request: its time in the budget has come."""
        self._permits -= 1
        if not self.ended.done():
            request = self.session.send_held(time.monotonic())
            if request is not None and request.repeat:
                self._silence.requested(request.channel, request.symbols)
            self._wake.set()

    def _closed(self) -> Ended:
        if (fault := self._stream.fault) is not None:
            return Ended("closed", f"closed by the bridge: {fault}")
        code = self._stream.close_code
        reason = self.session.confidential.words(self._stream.close_reason or "")
        detail = f"closed by the exchange (code {code}{f', {reason!r}' if reason else ''})"
        return Ended("closed", detail, overloaded=code in _OVERLOADED)


def _drop(push: Push, source: Source, received_us: int, frame: bytes) -> None:
    """Take no push of a session that was given up."""


async def until(condition: Coroutine[object, object, object], *feeds: Feed) -> None:
    """Wait until the condition holds or one of the feeds has ended."""
    waiting = asyncio.ensure_future(condition)
    try:
        await asyncio.wait({waiting, *(feed.ended for feed in feeds)}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
