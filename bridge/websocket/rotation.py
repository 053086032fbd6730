"""One rotation: a new session replaces an old one, and no push is lost or repeated.

Example, in seconds, with old session X and new session Y:

    0.0  X is to be replaced. Its pushes are delivered as before, and remembered from here on.
    0.1  Y is connected. It subscribes; its pushes are held back.
    0.4  Y is live: what the exchange pushes from here on comes over both, on each as its node is ready.
    1.9  A ping goes out over X.
    2.1  X's pong: everything that was pushed before 0.4 has come over X, and is delivered. X's pushes are
         kept aside from here on, since they come over Y too.
    3.6  A ping goes out over Y.
    3.8  Y's pong: everything that came over X up to 2.1 has come over Y too. What is held of Y and has not
         come over X is delivered, and from now on Y's pushes are delivered directly. What was kept aside of
         X is dropped, and X can be closed.

If Y ends before 3.8, what was kept aside of X is delivered, and X stays in use. If X ends before 2.1, Y
is used, live or not yet: what was still to come over X is lost, as whenever a session ends without a
replacement. What X has brought by then may still be on its way over Y, so Y's ping goes out 1.5 s later, and
Y is used after its pong.

Y may replace several sessions that have no subscription in common: then each of them is pinged, and the last
pong counts. If one of them ends before that, Y is dropped, and the others stay in use.
"""

import asyncio
import enum
import time
from collections.abc import Callable, Iterable, Sequence

from bridge.channels import CHANNELS
from bridge.channels.channel import Source
from bridge.errors import BadFrame
from bridge.exchange.frames import Push
from bridge.exchange.handover import Bad, Handover, Message, size_of
from bridge.websocket.buffers import Buffers
from bridge.websocket.feed import Feed, Receiver, until

NODE_LAG = 1.5
"""Seconds to wait before each of the two pings: by how much two nodes of the exchange may differ in lag.

A pong says that its own node has pushed everything that this node had by then. Example: X's node pushes a
change 0.9 s after it happens, Y's node 0.1 s after, and a pong takes 0.2 s. A change at 0.2 is pushed over Y
at 0.3, before Y is live at 0.4: it comes over X only, at 1.1. If the ping went out at 0.4, its pong at 0.6
would end the deliveries of X before that, and the change would be lost. The other way round, a change that X
brings at 0.5, shortly before its pong at 0.6, would come over Y at 1.3, after Y's pong at 0.8, and would be
repeated. Both sessions run meanwhile, so the wait loses nothing.
"""

_SAME_MOMENT_US = round(NODE_LAG / 2 * 1e6)
"""How long after the new session is live, in µs, a snapshot comes that the old ones show too.

Up to `NODE_LAG` after that they deliver. So the new session's node may be ahead of theirs by the other half.
"""

_Came = tuple[Source, int, bytes]
"""The session that received a message, when (µs since the epoch), and the frame."""


class Outcome(enum.Enum):
    """The result of a rotation, and which of its sessions stays in use."""

    ROTATED = "the new session has replaced the old one"
    REFUSED = "the old session stays in use: the new one was refused more subscriptions"
    NEW_ENDED = "the old session stays in use: the new one has ended"
    ONE_ENDED = "the old sessions stay in use: one of several ended before all were replaced"
    OLD_ENDED = "the new session is used, maybe not live yet: the old one ended before it was replaced"


class Rotation:
    """The replacement of sessions by one, from its creation until `run` has returned or `abandon` was called.

    `olds` are those that are replaced, usually one. Whatever they and the new one receive is delivered to
    `receiver`, once. When `buffers` are full, the new one is given up: it ends.
    """

    def __init__(self, olds: Sequence[Feed], receiver: Receiver, buffers: Buffers) -> None:
        self.given_up = ""  # why the new session was given up; "": it was not
        self._olds = olds
        self._receiver = receiver
        self._buffers = buffers
        self._new: Feed | None = None  # given to `run`
        self._over = False  # whether `run` has returned
        self._live_us = 0  # when the new session became live, µs since the epoch; 0: it did not
        # Symbols whose books go on with a snapshot that shows what the old sessions have shown too; known
        # once the new session has replaced them.
        self.comparable: set[str] = set()
        self._counted = 0  # bytes that are counted in the buffers
        self._frames_bytes = 0  # of the frames of messages that are held
        self._aside_bytes = 0  # of what is kept aside, with its frames
        # The messages of the old sessions that are remembered, and those of the new one that are held.
        self._handover: Handover[_Came] = Handover(CHANNELS)
        self._aside: list[tuple[Message, _Came]] = []  # received over old ones after their pongs, in order
        self._delivered_us = 0  # reception of the old sessions' last message that was delivered, µs
        # A damaged frame may come over both as soon as both are open, which is before this side knows of it.
        for old in olds:
            old.deliver_to(_Into(self._remember))

    @property
    def receiver_of_new(self) -> Receiver:
        """The receiver of the new session, from its very first frame on."""
        return _Into(self._hold)

    @property
    def held_bytes(self) -> int:
        """Bytes of messages that are remembered, held back or kept aside, approximately."""
        return self._handover.held_bytes + self._frames_bytes + self._aside_bytes

    def abandon(self) -> None:
        """Keep the old sessions in use, because they are not replaced."""
        for old in self._olds:
            old.deliver_to(self._receiver)
        self._count(0)

    async def run(self, new: Feed, *, accept_refusals: bool) -> Outcome:
        """Replace the old sessions by a new one that has begun; none is closed.

        Unless `accept_refusals`, a new session that is refused subscriptions of the old ones does not
        replace them.
        """
        self._new = new
        try:
            return await self._run(new, accept_refusals=accept_refusals)
        finally:
            self._over = True
            self._count(0)
            # A cycle of references keeps all this until the next collection of garbage.
            self._handover = Handover(CHANNELS)
            self._aside.clear()

    async def _run(self, new: Feed, *, accept_refusals: bool) -> Outcome:
        olds = self._olds
        new.withheld = True
        try:
            await until(new.live.wait(), new, *olds)
            if new.live.is_set():
                self._live_us = time.time_ns() // 1000
            refused = new.refused.keys() - {one for old in olds for one in old.refused}
            if refused and not self._any_ended() and not accept_refusals:
                # What the new session has received is dropped, even if an old one ends before it is closed:
                # part of it came over the old ones too, and would be repeated.
                self.abandon()
                return Outcome.REFUSED
            await until(asyncio.sleep(NODE_LAG), new, *olds)
            if not (self._any_ended() or new.ended.done()):
                await until(_fence(olds), new, *olds)
            old_ended = self._any_ended()
            if old_ended and len(olds) > 1:
                self.abandon()
                return Outcome.ONE_ENDED
            for old in olds:
                old.deliver_to(_Into(self._keep_aside), withheld=True)
            # Also if the old session has ended: the new one may still bring what that has brought.
            await until(asyncio.sleep(NODE_LAG), new)
            if not new.ended.done():
                await until(new.fence(), new)
        except asyncio.CancelledError:
            # The old sessions are closed after this, and may receive more until the exchange agrees.
            self._deliver(self._aside)
            self.abandon()
            if all(old.ended.done() for old in olds):
                self._release(new.source)
            raise
        if new.ended.done():
            for message, came in self._aside:
                self._remember(message, came)
            self.abandon()
            if len(olds) > 1 or not self._any_ended():
                return Outcome.NEW_ENDED
        outcome = self._go_on_with(new, Outcome.OLD_ENDED if old_ended else Outcome.ROTATED)
        for old in olds:
            old.deliver_to(_Into(_drop), withheld=True)
        return outcome

    def _any_ended(self) -> bool:
        return any(old.ended.done() for old in self._olds)

    def _go_on_with(self, new: Feed, outcome: Outcome) -> Outcome:
        self._release(new.source)
        self.comparable = {
            symbol
            for (_, symbol), (_, received_us, _) in self._handover.snapshots.items()
            if symbol is not None and received_us <= self._live_us + _SAME_MOMENT_US
        }
        self._aside.clear()  # it came over the new session too
        self._frames_bytes = self._aside_bytes = 0
        new.deliver_to(self._receiver)
        return outcome

    def _hold(self, message: Message, came: _Came) -> None:
        if self._over:  # the new session has replaced nothing, and is about to be closed
            return
        if isinstance(message, Push):
            came[0].withhold(message.channel, self._handover.symbols(message))
        self._handover.hold(message, came)
        self._frames_bytes += len(came[2])
        self._count(self.held_bytes)

    def _remember(self, message: Message, came: _Came) -> None:
        self._handover.remember(message)
        self._deliver([(message, came)])
        self._count(self.held_bytes)

    def _keep_aside(self, message: Message, came: _Came) -> None:
        self._aside.append((message, came))
        self._aside_bytes += len(came[2]) + size_of(message)
        self._count(self.held_bytes)

    def _count(self, size: int) -> None:
        """Count what is held, and give the new session up if that is too much."""
        change, self._counted = size - self._counted, size
        self._buffers.change(change)
        if change > 0 and self._buffers.full and self._new is not None and not self.given_up:
            self.given_up = f"it held {size} bytes, and exchange.max_buffered_bytes is used up"
            self._new.give_up(f"rotation given up: {self.given_up}")

    def _deliver(self, messages: Iterable[tuple[Message, _Came]]) -> None:
        for message, (source, received_us, frame) in messages:
            self._delivered_us = max(self._delivered_us, received_us)
            self._pass(message, source, received_us, frame)

    def _release(self, source: Source) -> None:
        """Deliver what was held of the new session and has not come over the old one.

        The time of reception must not go back within a key, so it is at least that of the last message of the
        old session. What the old one brought as a bad frame is lost to the new one too, and reported already.
        """
        source.overlapping = True
        try:
            for message, (_, received_us, frame) in self._handover.release():
                if isinstance(message, Bad) and message.repeated:
                    self._receiver.lost(source)
                else:
                    self._pass(message, source, max(received_us, self._delivered_us), frame)
        finally:
            source.overlapping = False
            source.release()

    def _pass(self, message: Message, source: Source, received_us: int, frame: bytes) -> None:
        if isinstance(message, Bad):
            self._receiver.bad(message.why, source, received_us, frame)
        else:
            self._receiver.push(message, source, received_us, frame)


async def _fence(feeds: Iterable[Feed]) -> None:
    await asyncio.gather(*(feed.fence() for feed in feeds))


class _Into:
    """A receiver that passes pushes and bad frames alike to `take`."""

    def __init__(self, take: Callable[[Message, _Came], None]) -> None:
        self._take = take

    def push(self, push: Push, source: Source, received_us: int, frame: bytes) -> None:
        self._take(push, (source, received_us, frame))

    def bad(self, bad: BadFrame, source: Source, received_us: int, frame: bytes) -> None:
        self._take(Bad(frame, bad), (source, received_us, frame))

    def lost(self, source: Source) -> None:
        """Do nothing: a session reports what it cannot read as a bad frame."""


def _drop(message: Message, came: _Came) -> None:
    """Drop what still comes over the old session: it comes over the new one too."""
