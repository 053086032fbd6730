"""One session over one socket: frames from the wire into the session, its requests onto the wire."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import structlog
from websockets.exceptions import ConnectionClosed

from bridge.channels.channel import Source
from bridge.errors import BadFrame
from bridge.exchange.frames import Push, inflate, within
from bridge.exchange.session import ClockRead, Confirmed, Ponged, Refused, Session, Split, Symbols
from bridge.watch.watch import Watch
from bridge.websocket.courtesy import Courtesy
from bridge.websocket.stream import Stream

log = structlog.get_logger(__name__)

EndReason = Literal["closed", "refused", "timeout", "stale", "rejected", "rotated"]
Deliver = Callable[[Push, Source, int, bytes], None]

_SEND_TIMEOUT = 10.0


class Receiver(Protocol):
    """Who takes what the sessions bring; `frame` is the bytes as they came."""

    def push(self, push: Push, source: Source, received_us: int, frame: bytes) -> None:
        """Take one push."""

    def bad(self, bad: BadFrame, source: Source, received_us: int, frame: bytes) -> None:
        """Take a frame that is no message of the protocol."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Why a session ended; `fruitful` if it had brought a push, `overloaded` if the server has too much."""

    reason: EndReason
    detail: str
    fruitful: bool = False
    overloaded: bool = False


class Feed:
    """One session over one open socket, from `begin` until `ended` is done or `close` is called.

    `listening` tells since when each channel is listened to, `refused` which subscriptions are refused now.
    """

    ended: asyncio.Task[Ended]

    def __init__(
        self,
        stream: Stream,
        session: Session,
        source: Source,
        *,
        max_frame_bytes: int,
        courtesy: Courtesy,
        receiver: Receiver,
        watch: Watch,
    ) -> None:
        self.session = session
        self.source = source
        self.deliver: Deliver = receiver.push
        self.live = asyncio.Event()
        self.refused: dict[tuple[str, Symbols], Refused] = {}
        self.listening: dict[str, int] = {}
        self._heard_us = 0  # when the last frame came
        self._deaf_since_us: int | None = None
        self._proof: int | None = None
        self._stream = stream
        self._max_frame_bytes = max_frame_bytes
        self._courtesy = courtesy
        self._receiver = receiver
        self._journal = watch.journal
        self._fruitful = False
        self._wake = asyncio.Event()
        self._fences: dict[int, asyncio.Future[None]] = {}
        self._permits = 0  # that are under way
        self._frames = watch.metrics.counter("frames_total", shard=watch.shard)
        self._bytes = watch.metrics.counter("received_bytes_total", shard=watch.shard)
        self._connected = watch.metrics.gauge("connected", shard=watch.shard)
        self._ping_seconds = watch.metrics.histogram("ping_seconds")
        self._clock_offset = watch.metrics.gauge("clock_offset_seconds")
        self._log = log.bind(session=source.session, account=source.account)

    def begin(self) -> None:
        """Start the session; `ended` is its task from here on."""
        self.ended = asyncio.create_task(self._drive(), name=f"session {self.source.session}")
        self.session.start(time.monotonic())
        self._stream.attach(self._take)

    async def close(self) -> None:
        """End the session from this side, with a closing handshake."""
        self.ended.cancel()
        await asyncio.wait({self.ended})
        await self._stream.close()  # a session that failed at its start has not come to that

    def deliver_to(self, receiver: Receiver) -> None:
        """Bring all that comes from here on to another receiver."""
        self.deliver = receiver.push
        self._receiver = receiver

    async def fence(self) -> None:
        """Return when all that the exchange had pushed at the time of the call has been delivered."""
        request_id = self.session.ping(time.monotonic())
        answered = self._fences[request_id] = asyncio.get_running_loop().create_future()
        self._wake.set()
        await answered

    def subscribe(self, channel: str, symbols: list[str]) -> None:
        """Add symbols of a channel."""
        self.live.clear()
        self.session.subscribe(channel, symbols)
        self._wake.set()

    @property
    def heard_us(self) -> int:
        """Until when all has been heard, in microseconds since the epoch.

        After a pause that is its beginning, until what was pushed meanwhile has arrived.
        """
        return self._heard_us if self._deaf_since_us is None else self._deaf_since_us

    def pause(self) -> None:
        """Stop reading from the socket; pings go on."""
        if self._deaf_since_us is None and self._heard_us:
            self._deaf_since_us = self._heard_us
        self._proof = None
        self.session.pause()
        if not self.ended.done():
            self._stream.pause_reading()

    def resume(self) -> None:
        """Read on."""
        now = time.monotonic()
        self.session.resume(now)
        self._proof = self.session.ping(now)
        self._wake.set()
        if not self.ended.done():
            self._stream.resume_reading()

    def _take(self, frames: Sequence[bytes], binary: bool) -> None:
        now, received_us = time.monotonic(), time.time_ns() // 1000
        self._heard_us = received_us
        self._frames.value += len(frames)
        self._bytes.value += sum(map(len, frames))
        receive, source, limit = self.session.receive, self.source, self._max_frame_bytes
        for frame in frames:
            try:
                push = receive(inflate(frame, limit) if binary else within(frame, limit), now)
            except BadFrame as bad:
                self._receiver.bad(bad, source, received_us, frame)
                continue
            if push is None:
                self._wake.set()
            else:
                self._fruitful = True
                self.deliver(push, source, received_us, frame)

    async def _drive(self) -> Ended:
        closed = asyncio.ensure_future(self._stream.wait_closed())
        closed.add_done_callback(lambda _: self._wake.set())
        self._connected.value += 1
        try:
            while True:
                self._report()
                if self.session.over:
                    over = self.session.over
                    self._stream.transport.abort()  # nobody is there to close it with
                    return Ended(over.reason, over.detail, self._fruitful)
                if closed.done():
                    return Ended("closed", self._farewell(), self._fruitful)
                async with asyncio.timeout(_SEND_TIMEOUT):
                    for request in self.session.to_send():
                        await self._stream.send(request)
                await self._sleep_until(self.session.next_call())
                self.session.tick(time.monotonic())
        except ConnectionClosed:
            return Ended("closed", self._farewell(), self._fruitful)
        except TimeoutError:
            self._stream.transport.abort()
            return Ended("timeout", f"the socket took no request for {_SEND_TIMEOUT:g} s", self._fruitful)
        except Exception as error:  # noqa: BLE001 - whatever it is, the session is over and is replaced
            self._log.exception("a session failed")
            return Ended("closed", f"a mistake of our own: {error!r}", self._fruitful)
        finally:
            self._connected.value -= 1
            closed.cancel()
            for fence in self._fences.values():
                fence.cancel()
            await self._stream.close()

    async def _sleep_until(self, moment: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, moment - time.monotonic())):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    def _report(self) -> None:
        for event in self.session.events():
            match event:
                case Ponged(request_id, seconds):
                    self._ping_seconds.observe(seconds)
                    if request_id == self._proof:
                        self._deaf_since_us = self._proof = None
                    fence = self._fences.pop(request_id, None)
                    if fence is not None and not fence.done():
                        fence.set_result(None)
                case ClockRead(offset):
                    self._clock_offset.value = offset
                case Confirmed(channel, symbols):
                    self.listening.setdefault(channel, self._heard_us)
                    if self.refused.pop((channel, symbols), None):
                        self._log.info("subscription accepted after all", channel=channel, symbols=symbols)
                case Split(channel, symbols, error):
                    self._log.warning(
                        "the exchange refused subscriptions together; they are asked for one by one",
                        channel=channel,
                        symbols=symbols,
                        error=error,
                    )
                case Refused(channel, symbols):
                    if (channel, symbols) not in self.refused:
                        self._tell_refusal(event)
                    self.refused[channel, symbols] = event
        if self.session.live:
            self.live.set()
        while self._permits < self.session.held:
            self._permits += 1
            wait = self._courtesy.reserve_subscribe(time.monotonic())
            asyncio.get_running_loop().call_later(wait, self._permit)

    def _permit(self) -> None:
        """Let the next subscribe request go: the budget has room for it."""
        self._permits -= 1
        if not self.ended.done():
            self.session.send_held(time.monotonic())
            self._wake.set()

    def _tell_refusal(self, refused: Refused) -> None:
        self._log.error(
            "subscription refused by the exchange; it is asked for again",
            channel=refused.channel,
            symbols=refused.symbols,
            error=refused.error,
        )
        for symbol in refused.symbols or (None,):
            self._journal.record(
                "subscription_refused",
                session=self.source.session,
                account=self.source.account,
                channel=refused.channel,
                symbol=symbol,
                detail=refused.error,
            )

    def _farewell(self) -> str:
        code, reason = self._stream.close_code, self.session.without_secrets(self._stream.close_reason or "")
        return f"the exchange hung up (close code {code}{f', {reason!r}' if reason else ''})"
