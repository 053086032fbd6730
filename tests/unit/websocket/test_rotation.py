"""A rotation: whatever its two sessions receive is delivered once and in order, whichever of them ends.

X is the old session and Y the new one. The exchange pushes the items 1, 2, 3 and so on, a session brings
those it is subscribed for, and "X1 Y2" says that item 1 was delivered as X brought it, and item 2 as Y did.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import pytest

from bridge.channels.channel import Source
from bridge.errors import BadFrame
from bridge.exchange.events import SubscriptionRefused
from bridge.exchange.frames import Push
from bridge.exchange.session import Session, Timing
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.watch.watch import Watch
from bridge.websocket.courtesy import Courtesy
from bridge.websocket.feed import Ended, Feed, Receiver
from bridge.websocket.rotation import Outcome, Rotation
from bridge.websocket.stream import Stream


class Recorder:
    """A receiver that keeps what is delivered to it, and from which session."""

    def __init__(self) -> None:
        self._items: list[str] = []

    def push(self, push: Push, source: Source, received_us: int, frame: bytes) -> None:
        self._take(push.params, source, received_us, frame)

    def bad(self, bad: BadFrame, source: Source, received_us: int, frame: bytes) -> None:
        self._take(frame, source, received_us, frame)

    def _take(self, content: bytes, source: Source, received_us: int, frame: bytes) -> None:
        assert (content, received_us) == (frame, source_time(source)), "delivered with the context of another"
        self._items.append(f"{source.session}{item_of(frame)}")

    def __str__(self) -> str:
        return " ".join(self._items)


def source_time(source: Source) -> int:
    """Return when everything that a session brings is received, in µs since the epoch."""
    return {"X": 1000, "Y": 2000}[source.session]


def frame_of(item: str) -> bytes:
    """Return an order if the item is a number; else a frame that is not a message of the protocol."""
    return f'[{{"symbol":"BTC_USDT","id":"{item}"}}]'.encode() if item.isdecimal() else item.encode()


def item_of(frame: bytes) -> str:
    return frame.split(b'"')[-2].decode() if frame.startswith(b"[") else frame.decode()


class Side(Feed):
    """A feed without a connection: the test brings what it receives, answers its pings, and ends it."""

    def __init__(self, name: str, receiver: Receiver) -> None:
        metrics = Metrics()
        super().__init__(
            cast("Stream", None),
            Session({}, timing=Timing(), wall_offset=0.0, max_frame_bytes=1000),
            Source(name),
            courtesy=Courtesy(5.0, 20.0),
            receiver=receiver,
            watch=Watch("0", metrics, Journal("replica", 0, lambda records: None, metrics)),
        )
        self._pings = 0  # that were sent over it
        self._pong = asyncio.get_running_loop().create_future()
        self._over = asyncio.Event()  # set by `end`
        self.ended = asyncio.create_task(self._until_over())

    def bring(self, items: str) -> None:
        """Receive items, like "1 2 damaged"."""
        for item in items.split():
            frame, received_us = frame_of(item), source_time(self.source)
            if item.isdecimal():
                self.deliver(Push("order", frame), self.source, received_us, frame)
            else:
                self._receiver.bad(BadFrame("json", item), self.source, received_us, frame)

    async def fence(self) -> None:
        self._pings += 1
        await self._pong

    def pinged(self) -> bool:
        """Return whether its one ping has been sent."""
        assert self._pings <= 1
        return self._pings == 1

    async def pong(self) -> None:
        assert self.pinged(), "a pong without a ping"
        self._pong.set_result(None)
        await settled()

    async def become_live(self, refused: str = "") -> None:
        """Become live, with all subscriptions confirmed but those of the refused channels."""
        self.refuse(refused)
        self.live.set()
        await settled()

    def refuse(self, channels: str) -> None:
        for channel in channels.split():
            self.refused[channel, ()] = SubscriptionRefused(channel, (), "no")

    async def end(self) -> None:
        self._over.set()
        await settled()

    async def _until_over(self) -> Ended:
        await self._over.wait()
        self._pong.cancel()  # as a feed does
        return Ended("closed", "by the exchange")


async def settled() -> None:
    """Let every task go on until it waits for the test."""
    for _ in range(10):
        await asyncio.sleep(0)


class Scene:
    """A rotation of X to Y, which runs from the start."""

    def __init__(self, *, accept_refusals: bool = False) -> None:
        self.delivered = Recorder()
        self.x = Side("X", self.delivered)
        self.rotation = Rotation(self.x, self.delivered)
        self.y = Side("Y", self.rotation.receiver_of_new)
        self.running = asyncio.create_task(self.rotation.run(self.y, accept_refusals=accept_refusals))

    def outcome(self) -> Outcome | None:
        """Return what came of it; None while it runs."""
        return self.running.result() if self.running.done() else None

    async def cancel(self) -> None:
        self.running.cancel()
        await settled()
        assert self.running.cancelled()


@asynccontextmanager
async def rotation(*, accept_refusals: bool = False) -> AsyncIterator[Scene]:
    """Give a rotation that waits for Y to be live; end whatever still runs at the end."""
    scene = Scene(accept_refusals=accept_refusals)
    await settled()
    try:
        yield scene
    finally:
        tasks = {scene.running, scene.x.ended, scene.y.ended}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def in_a_loop(scenario: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Make a test of a coroutine function."""

    def test() -> None:
        async def run() -> None:
            async with asyncio.timeout(60):
                await scenario()

        asyncio.run(run())

    return test


@in_a_loop
async def test_the_documented_example() -> None:
    """Its times are those of the module's docstring."""
    async with rotation() as the:
        # 0.0
        the.x.bring("1")
        assert str(the.delivered) == "X1"
        # 0.1: Y subscribes
        the.x.bring("2 3")
        the.y.bring("3")
        assert str(the.delivered) == "X1 X2 X3"
        assert not the.x.pinged()
        # 0.4
        await the.y.become_live()
        assert the.x.pinged()
        the.y.bring("4")
        the.x.bring("4")
        assert str(the.delivered) == "X1 X2 X3 X4"
        assert not the.y.pinged()
        # 0.6
        await the.x.pong()
        assert the.y.pinged()
        the.x.bring("5")
        the.y.bring("5 6")
        assert str(the.delivered) == "X1 X2 X3 X4"
        assert the.outcome() is None
        # 0.8
        await the.y.pong()
        assert the.outcome() is Outcome.ROTATED
        assert str(the.delivered) == "X1 X2 X3 X4 Y5 Y6"
        the.x.bring("6 7")
        the.y.bring("7")
        assert str(the.delivered) == "X1 X2 X3 X4 Y5 Y6 Y7"


@in_a_loop
async def test_a_new_session_that_lags_behind_repeats_nothing() -> None:
    """What X brought up to its pong comes over Y before Y's pong."""
    async with rotation() as the:
        the.x.bring("1 2")
        await the.y.become_live()
        the.x.bring("3")
        await the.x.pong()
        the.y.bring("2 3")
        assert str(the.delivered) == "X1 X2 X3"
        await the.y.pong()
        the.y.bring("4")
        assert str(the.delivered) == "X1 X2 X3 Y4"


@in_a_loop
async def test_an_old_session_that_lags_behind_loses_nothing() -> None:
    """What was pushed before Y was live comes over X before X's pong."""
    async with rotation() as the:
        the.x.bring("1")
        await the.y.become_live()
        the.y.bring("4")
        the.x.bring("2 3")
        await the.x.pong()
        await the.y.pong()
        assert str(the.delivered) == "X1 X2 X3 Y4"


@in_a_loop
async def test_a_bad_frame_that_both_sessions_bring_is_delivered_once() -> None:
    async with rotation() as the:
        the.x.bring("1 damaged 2")
        the.y.bring("damaged 2 broken 3")
        await the.y.become_live()
        await the.x.pong()
        await the.y.pong()
        assert str(the.delivered) == "X1 Xdamaged X2 Ybroken Y3"


@in_a_loop
async def test_without_a_new_session_the_old_one_serves_on() -> None:
    async with rotation() as the:
        await the.cancel()
        other = Rotation(the.x, the.delivered)
        the.x.bring("1")
        other.abandon()
        the.x.bring("2")
        assert str(the.delivered) == "X1 X2"


@in_a_loop
async def test_the_new_session_serves_on_at_once_if_the_old_one_ends_before_it_is_live() -> None:
    async with rotation() as the:
        the.x.bring("1 2")
        the.y.bring("2 3")
        assert str(the.delivered) == "X1 X2"
        await the.x.end()
        assert the.outcome() is Outcome.OLD_ENDED
        assert str(the.delivered) == "X1 X2 Y3"
        the.y.bring("4")
        assert str(the.delivered) == "X1 X2 Y3 Y4"


@in_a_loop
async def test_the_new_session_serves_on_after_its_pong_if_the_old_one_ends_before_its_own() -> None:
    async with rotation() as the:
        await the.y.become_live()
        the.x.bring("1 2 3")
        the.y.bring("2")
        await the.x.end()
        assert str(the.delivered) == "X1 X2 X3"
        assert the.outcome() is None
        the.y.bring("3 4")
        await the.y.pong()
        assert the.outcome() is Outcome.OLD_ENDED
        the.y.bring("5")
        assert str(the.delivered) == "X1 X2 X3 Y4 Y5"


@in_a_loop
async def test_an_old_session_that_ends_after_its_pong_is_replaced_as_planned() -> None:
    async with rotation() as the:
        await the.y.become_live()
        the.x.bring("1")
        await the.x.pong()
        the.x.bring("2")
        await the.x.end()
        the.y.bring("1 2 3")
        await the.y.pong()
        assert the.outcome() is Outcome.ROTATED
        the.y.bring("4")
        assert str(the.delivered) == "X1 Y2 Y3 Y4"


@in_a_loop
async def test_the_old_session_serves_on_if_the_new_one_ends_before_it_is_live() -> None:
    async with rotation() as the:
        the.x.bring("1")
        the.y.bring("1 2")
        await the.y.end()
        assert the.outcome() is Outcome.NEW_ENDED
        the.x.bring("2 3")
        assert str(the.delivered) == "X1 X2 X3"


@in_a_loop
async def test_the_old_session_serves_on_if_the_new_one_ends_before_the_first_pong() -> None:
    async with rotation() as the:
        await the.y.become_live()
        the.x.bring("1")
        the.y.bring("1 2")
        await the.y.end()
        assert the.outcome() is Outcome.NEW_ENDED
        the.x.bring("2 3")
        assert str(the.delivered) == "X1 X2 X3"


@in_a_loop
async def test_what_was_kept_aside_is_delivered_if_the_new_session_ends_before_its_pong() -> None:
    async with rotation() as the:
        await the.y.become_live()
        the.x.bring("1")
        await the.x.pong()
        the.x.bring("2 damaged 3")
        the.y.bring("2 damaged")
        assert str(the.delivered) == "X1"
        await the.y.end()
        assert the.outcome() is Outcome.NEW_ENDED
        the.x.bring("4")
        assert str(the.delivered) == "X1 X2 Xdamaged X3 X4"


@in_a_loop
async def test_if_both_end_all_that_either_has_brought_is_delivered() -> None:
    async with rotation() as the:
        await the.y.become_live()
        the.x.bring("1")
        await the.x.pong()
        the.x.bring("2")
        the.y.bring("2 3")
        await the.x.end()
        await the.y.end()
        assert the.outcome() is Outcome.ROTATED
        assert str(the.delivered) == "X1 X2 Y3"


@in_a_loop
async def test_a_new_session_that_is_refused_more_does_not_replace_the_old_one() -> None:
    """What it brings until it is closed is dropped even if X ends before that: part of it came over X too."""
    async with rotation() as the:
        the.x.refuse("depth")
        the.x.bring("1")
        the.y.bring("1 2")
        await the.y.become_live("depth ticker")
        assert the.outcome() is Outcome.REFUSED
        assert not the.x.pinged()
        the.x.bring("2 3")
        the.y.bring("3")
        await the.x.end()
        the.y.bring("4")
        assert str(the.delivered) == "X1 X2 X3"


@in_a_loop
async def test_a_new_session_that_is_refused_the_same_replaces_the_old_one() -> None:
    async with rotation() as the:
        the.x.refuse("depth ticker")
        await the.y.become_live("depth")
        await the.x.pong()
        await the.y.pong()
        assert the.outcome() is Outcome.ROTATED


@in_a_loop
async def test_refusals_can_be_accepted() -> None:
    async with rotation(accept_refusals=True) as the:
        the.x.bring("1")
        await the.y.become_live("depth")
        the.y.bring("2")
        await the.x.pong()
        await the.y.pong()
        assert the.outcome() is Outcome.ROTATED
        assert str(the.delivered) == "X1 Y2"


@in_a_loop
async def test_refusals_do_not_matter_once_the_old_session_has_ended() -> None:
    async with rotation() as the:
        the.x.bring("1")
        the.y.bring("1 2")
        the.y.live.set()
        the.y.refuse("depth")
        await the.x.end()
        await the.y.pong()
        assert the.outcome() is Outcome.OLD_ENDED
        assert str(the.delivered) == "X1 Y2"


@in_a_loop
async def test_a_stop_before_the_new_session_is_live_leaves_the_old_one_serving() -> None:
    async with rotation() as the:
        the.x.bring("1")
        the.y.bring("1")
        await the.cancel()
        the.x.bring("2")
        the.y.bring("2")
        assert str(the.delivered) == "X1 X2"


@in_a_loop
async def test_a_stop_before_the_pong_of_the_old_session_leaves_it_serving() -> None:
    async with rotation() as the:
        await the.y.become_live()
        the.x.bring("1")
        the.y.bring("1")
        await the.cancel()
        the.x.bring("2")
        the.y.bring("2")
        assert str(the.delivered) == "X1 X2"


@in_a_loop
async def test_a_stop_before_the_pong_of_the_new_session_loses_nothing_of_the_old_one() -> None:
    """Neither what was kept aside, nor what X still brings while it is being closed."""
    async with rotation() as the:
        await the.y.become_live()
        the.x.bring("1")
        await the.x.pong()
        the.x.bring("2 3")
        the.y.bring("2 3")
        assert str(the.delivered) == "X1"
        await the.cancel()
        assert str(the.delivered) == "X1 X2 X3"
        the.x.bring("4")
        the.y.bring("4")
        assert str(the.delivered) == "X1 X2 X3 X4"


@pytest.mark.parametrize("had_its_pong", [False, True])
def test_a_stop_after_the_end_of_the_old_session_delivers_what_only_the_new_one_brought(
    had_its_pong: bool,
) -> None:
    async def scenario() -> None:
        async with rotation() as the:
            await the.y.become_live()
            the.x.bring("1 2")
            if had_its_pong:
                await the.x.pong()
            await the.x.end()
            the.y.bring("2 3")
            assert str(the.delivered) == "X1 X2"
            await the.cancel()
            assert str(the.delivered) == "X1 X2 Y3"

    asyncio.run(scenario())
