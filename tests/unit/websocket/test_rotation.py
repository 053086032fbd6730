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
from bridge.exchange.handover import size_of
from bridge.exchange.session import Session, Timing
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.watch.watch import Watch
from bridge.websocket.buffers import Buffers
from bridge.websocket.courtesy import Courtesy
from bridge.websocket.feed import Ended, Feed, Receiver
from bridge.websocket.rotation import NODE_LAG, Outcome, Rotation
from bridge.websocket.stream import Stream


class Recorder:
    """A receiver that keeps what is delivered to it, and from which session."""

    def __init__(self) -> None:
        self._items: list[str] = []
        self.lost_of: list[str] = []  # the sessions of frames that could not be read and are reported already
        self.overlapping: list[str] = []  # what was delivered while its session counted as overlapping
        self._received_us = 0

    def push(self, push: Push, source: Source, received_us: int, frame: bytes) -> None:
        self._take(push.params, source, received_us, frame)

    def bad(self, bad: BadFrame, source: Source, received_us: int, frame: bytes) -> None:
        self._take(frame, source, received_us, frame)

    def lost(self, source: Source) -> None:
        self.lost_of.append(source.session)

    def _take(self, content: bytes, source: Source, received_us: int, frame: bytes) -> None:
        assert content == frame, "delivered with the frame of another"
        assert received_us >= max(source_time(source), self._received_us), "the time of reception went back"
        self._received_us = received_us
        self._items.append(f"{source.session}{item_of(frame)}")
        if source.overlapping:
            self.overlapping.append(self._items[-1])

    def __str__(self) -> str:
        return " ".join(self._items)


def source_time(source: Source) -> int:
    """Return when what a session brings is received, unless a test says otherwise, in µs since the epoch."""
    return {"W": 1000, "X": 1000, "Y": 2000}[source.session]


def frame_of(item: str) -> bytes:
    """Return an order if the item is a number; else a frame that is not a message of the protocol.

    Orders from 100 on are of another market.
    """
    if not item.isdecimal():
        return item.encode()
    symbol = "BTC_USDT" if int(item) < 100 else "ETH_USDT"
    return f'[{{"symbol":"{symbol}","id":"{item}"}}]'.encode()


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

    def bring(self, items: str, *, later_us: int = 0) -> None:
        """Receive items, like "1 2 damaged"."""
        for item in items.split():
            frame, received_us = frame_of(item), source_time(self.source) + later_us
            if item.isdecimal():
                self.deliver(Push("order", frame), self.source, received_us, frame)
            else:
                self._receiver.bad(BadFrame("json", item), self.source, received_us, frame)

    @property
    def why_given_up(self) -> str:
        return self._given_up

    async def fence(self) -> None:
        self._pings += 1
        await self._pong

    def pinged(self) -> bool:
        """Return whether its one ping has been sent."""
        assert self._pings <= 1
        return self._pings == 1

    async def pong(self) -> None:
        """Answer its ping, once the rotation has waited for it."""
        if not self.pinged():
            await pass_time(NODE_LAG)
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


async def pass_time(seconds: float) -> None:
    """Let the loop's clock jump, so that nobody has to wait."""
    loop = asyncio.get_running_loop()
    now = loop.time
    loop.time = lambda: now() + seconds  # type: ignore[method-assign]
    await settled()


class Scene:
    """A rotation of X, and of `others`, to Y, which runs from the start."""

    def __init__(self, *, accept_refusals: bool = False, others: str = "", room: int = 10**6) -> None:
        self.buffers = Buffers(room, 0)
        self.delivered = Recorder()
        self.x = Side("X", self.delivered)
        self.others = [Side(name, self.delivered) for name in others]
        self.rotation = Rotation([self.x, *self.others], self.delivered, self.buffers)
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
async def rotation(*, accept_refusals: bool = False, room: int = 10**6) -> AsyncIterator[Scene]:
    """Give a rotation that waits for Y to be live; end whatever still runs at the end."""
    scene = Scene(accept_refusals=accept_refusals, room=room)
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
        # 0.4
        await the.y.become_live()
        assert not the.x.pinged()
        the.y.bring("4")
        the.x.bring("4")
        assert str(the.delivered) == "X1 X2 X3 X4"
        # 1.9
        await pass_time(NODE_LAG)
        assert the.x.pinged()
        assert not the.y.pinged()
        # 2.1
        await the.x.pong()
        assert not the.y.pinged()
        the.x.bring("5")
        the.y.bring("5 6")
        assert str(the.delivered) == "X1 X2 X3 X4"
        # 3.6
        await pass_time(NODE_LAG)
        assert the.y.pinged()
        assert the.outcome() is None
        # 3.8
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


class Node:
    """A node of the exchange, which pushes what happens over one session, late by its lag."""

    def __init__(self, side: Side, lag: float) -> None:
        self._side = side
        self._lag = lag
        self._to_push: list[tuple[float, int]] = []  # when, and which item
        self._subscribed_at: float | None = 0.0

    def subscribe(self, at: float | None) -> None:
        self._subscribed_at = at

    def happens(self, item: int, now: float) -> None:
        self._to_push.append((now + self._lag, item))

    async def push_until(self, now: float) -> None:
        """Push what is due, and answer the ping: a node answers at once, however late its pushes are."""
        while self._to_push and self._to_push[0][0] <= now:
            at, item = self._to_push.pop(0)
            if self._subscribed_at is not None and at >= self._subscribed_at:
                self._side.bring(str(item))
        if self._side.pinged() and not self._side._pong.done():
            await self._side.pong()


@pytest.mark.parametrize(("lag_of_x", "lag_of_y"), [(1.4, 0.0), (0.0, 1.4), (0.7, 0.0), (0.3, 0.3)])
def test_nodes_that_differ_in_lag_lose_and_repeat_no_private_change(lag_of_x: float, lag_of_y: float) -> None:
    """An item happens every 0.1 s; Y is subscribed and live at 1.0."""

    async def scenario() -> None:
        async with rotation() as the:
            x, y = Node(the.x, lag_of_x), Node(the.y, lag_of_y)
            y.subscribe(None)
            for item in range(80):
                now = item / 10
                if item == 10:
                    y.subscribe(now)
                    await the.y.become_live()
                for node in (x, y):
                    node.happens(item, now)
                    await node.push_until(now)
                await pass_time(0.1)
            for node in (x, y):
                await node.push_until(100.0)
            assert the.outcome() is Outcome.ROTATED
            delivered = [int(item[1:]) for item in str(the.delivered).split()]
            assert delivered == list(range(80))

    asyncio.run(scenario())


@pytest.mark.parametrize("which", ["x", "y"])
def test_a_session_that_ends_ends_the_wait_before_the_first_ping(which: str) -> None:
    async def scenario() -> None:
        async with rotation() as the:
            await the.y.become_live()
            the.x.bring("1")
            the.y.bring("1")
            await (the.x if which == "x" else the.y).end()
            if which == "y":
                assert the.outcome() is Outcome.NEW_ENDED
            else:
                assert the.outcome() is None
                await the.y.pong()
                assert the.outcome() is Outcome.OLD_ENDED
            assert not the.x.pinged()
            assert str(the.delivered) == "X1"

    asyncio.run(scenario())


@in_a_loop
async def test_the_end_of_the_new_session_ends_the_wait_before_its_ping() -> None:
    async with rotation() as the:
        await the.y.become_live()
        await the.x.pong()
        the.x.bring("1")
        await the.y.end()
        assert the.outcome() is Outcome.NEW_ENDED
        assert str(the.delivered) == "X1"


@in_a_loop
async def test_what_the_new_session_received_first_counts_as_received_after_what_the_old_one_brought() -> (
    None
):
    """The recorder checks that no time of reception is before the one in front of it."""
    async with rotation() as the:
        await the.y.become_live()
        the.y.bring("1 2 damaged 3", later_us=100)
        the.x.bring("1", later_us=5000)
        await the.x.pong()
        await the.y.pong()
        assert str(the.delivered) == "X1 Y2 Ydamaged Y3"
        the.y.bring("4", later_us=6000)
        assert str(the.delivered) == "X1 Y2 Ydamaged Y3 Y4"


@in_a_loop
async def test_only_what_is_released_of_the_new_session_counts_as_overlapping() -> None:
    async with rotation() as the:
        await the.y.become_live()
        the.x.bring("1 2")
        the.y.bring("1 2 3")
        await the.x.pong()
        await the.y.pong()
        the.y.bring("4")
        assert str(the.delivered) == "X1 X2 Y3 Y4"
        assert the.delivered.overlapping == ["Y3"]


@in_a_loop
async def test_what_is_held_or_kept_aside_is_counted_in_bytes() -> None:
    async with rotation() as the:
        one = size_of(Push("order", frame_of("1")))
        assert one > 700, "its record counts too"
        frame = len(frame_of("1"))
        assert the.rotation.held_bytes == 0
        the.x.bring("1")
        the.y.bring("1 2")
        assert the.rotation.held_bytes == 3 * one + 2 * frame, "one is remembered, two are held with frames"
        await the.y.become_live()
        await the.x.pong()
        the.x.bring("2 3")
        assert the.rotation.held_bytes == 5 * one + 4 * frame, "and two are kept aside with frames"
        await the.y.pong()
        assert the.rotation.held_bytes == 0


@pytest.mark.parametrize("of", ["new", "old", "aside"])
def test_too_much_to_hold_ends_the_new_session_and_loses_nothing_of_the_old_one(of: str) -> None:
    @in_a_loop
    async def scenario() -> None:
        async with rotation(room=10_000) as the:
            the.x.bring("1")
            if of == "new":
                the.y.bring(" ".join(map(str, range(1, 100))))
            elif of == "old":
                the.x.bring(" ".join(map(str, range(2, 100))))
            else:
                await the.y.become_live()
                await the.x.pong()
                the.x.bring(" ".join(map(str, range(2, 100))))
            assert "max_buffered_bytes is used up" in the.rotation.given_up
            assert the.y.why_given_up == f"rotation given up: {the.rotation.given_up}"
            await the.y.end()
            assert the.outcome() is Outcome.NEW_ENDED
            the.x.bring("200")
            kept = [] if of == "new" else [f"X{n}" for n in range(2, 100)]
            assert str(the.delivered) == " ".join(["X1", *kept, "X200"])
            the.buffers.change(10_000)
            assert not the.buffers.full, "what was held counts no longer"

    scenario()


@in_a_loop
async def test_what_a_session_that_replaced_nothing_still_receives_is_not_counted() -> None:
    """It is closed with a handshake, and the exchange may push until it agrees."""
    async with rotation(room=10_000) as the:
        the.y.bring("1 2")
        await the.y.become_live(refused="order")
        assert the.outcome() is Outcome.REFUSED
        the.y.bring("3 4")
        the.buffers.change(10_000)
        assert not the.buffers.full


@in_a_loop
async def test_other_sessions_of_the_process_count_too() -> None:
    async with rotation(room=10_000) as the:
        the.buffers.change(9_000)
        the.y.bring("1")
        assert not the.rotation.given_up
        the.y.bring("2")
        assert the.rotation.given_up


@in_a_loop
async def test_a_bad_frame_that_both_sessions_bring_is_delivered_once() -> None:
    async with rotation() as the:
        the.x.bring("1 damaged 2")
        the.y.bring("damaged 2 broken 3")
        await the.y.become_live()
        await the.x.pong()
        await the.y.pong()
        assert str(the.delivered) == "X1 Xdamaged X2 Ybroken Y3"
        assert the.delivered.lost_of == ["Y"], "of the new session something is lost too"


@in_a_loop
async def test_without_a_new_session_the_old_one_serves_on() -> None:
    async with rotation() as the:
        await the.cancel()
        other = Rotation([the.x], the.delivered, the.buffers)
        the.x.bring("1")
        other.abandon()
        the.x.bring("2")
        assert str(the.delivered) == "X1 X2"


@in_a_loop
async def test_the_new_session_serves_on_after_its_pong_if_the_old_one_ends_before_it_is_live() -> None:
    """What X has brought may still be on its way over Y."""
    async with rotation() as the:
        the.x.bring("1 2")
        the.y.bring("2")
        assert str(the.delivered) == "X1 X2"
        the.x.bring("3")
        await the.x.end()
        assert the.outcome() is None
        the.y.bring("3 4")
        await the.y.pong()
        assert the.outcome() is Outcome.OLD_ENDED
        assert str(the.delivered) == "X1 X2 X3 Y4"
        the.y.bring("5")
        assert str(the.delivered) == "X1 X2 X3 Y4 Y5"


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


@asynccontextmanager
async def joining() -> AsyncIterator[tuple[Scene, Side]]:
    """Give a rotation in which Y replaces X and W, which has another market, and that session W."""
    scene = Scene(others="W")
    (w,) = scene.others
    await settled()
    try:
        yield scene, w
    finally:
        tasks = {scene.running, scene.x.ended, scene.y.ended, w.ended}
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@in_a_loop
async def test_two_sessions_are_replaced_by_one_once_both_have_answered() -> None:
    async with joining() as (the, w):
        the.x.bring("1")
        w.bring("101")
        the.y.bring("1 101")
        await the.y.become_live()
        await the.x.pong()
        the.x.bring("2")
        w.bring("102")
        assert str(the.delivered) == "X1 W101 X2 W102"
        await w.pong()
        the.x.bring("3")
        w.bring("103")
        the.y.bring("102 2 3 103")
        assert str(the.delivered) == "X1 W101 X2 W102"
        await the.y.pong()
        assert the.outcome() is Outcome.ROTATED
        w.bring("103 104")
        the.x.bring("4")
        the.y.bring("4 104")
        assert str(the.delivered) == "X1 W101 X2 W102 Y3 Y103 Y4 Y104"


@in_a_loop
async def test_one_of_two_sessions_that_ends_before_it_is_replaced_leaves_the_other_in_use() -> None:
    """The new one is dropped: it may not have brought all that the other one has."""
    for ends_before_the_pong in (False, True):
        async with joining() as (the, w):
            the.x.bring("1")
            the.y.bring("1 101")
            await the.y.become_live()
            if ends_before_the_pong:
                await the.x.pong()
            await w.end()
            assert the.outcome() is Outcome.ONE_ENDED
            the.x.bring("2")
            the.y.bring("2 102")
            assert str(the.delivered) == "X1 X2"


@in_a_loop
async def test_two_sessions_stay_in_use_if_the_new_one_ends() -> None:
    async with joining() as (the, w):
        await the.y.become_live()
        await the.x.pong()
        await w.pong()
        the.x.bring("1")
        w.bring("101")
        the.y.bring("1")
        assert str(the.delivered) == ""
        await the.y.end()
        assert the.outcome() is Outcome.NEW_ENDED
        w.bring("102")
        the.x.bring("2")
        assert str(the.delivered) == "X1 W101 W102 X2"


@in_a_loop
async def test_a_session_that_ends_after_both_have_answered_is_replaced_all_the_same() -> None:
    async with joining() as (the, w):
        await the.y.become_live()
        await the.x.pong()
        await w.pong()
        w.bring("101")
        await w.end()
        the.y.bring("101 102")
        await the.y.pong()
        assert the.outcome() is Outcome.ROTATED
        assert str(the.delivered) == "Y101 Y102"


@in_a_loop
async def test_if_the_new_session_and_one_of_two_end_the_other_one_stays_in_use() -> None:
    async with joining() as (the, w):
        await the.y.become_live()
        await the.x.pong()
        await w.pong()
        the.x.bring("1")
        w.bring("101")
        await w.end()
        the.y.bring("1 101 102")
        await the.y.end()
        assert the.outcome() is Outcome.NEW_ENDED
        the.x.bring("2")
        assert str(the.delivered) == "X1 W101 X2"


@in_a_loop
async def test_a_refusal_of_what_either_of_two_sessions_has_leaves_both_in_use() -> None:
    async with joining() as (the, w):
        w.refuse("order")
        await the.y.become_live(refused="order depth")
        assert the.outcome() is Outcome.REFUSED
        w.bring("101")
        the.x.bring("1")
        assert str(the.delivered) == "W101 X1"
    async with joining() as (the, w):
        w.refuse("order")
        the.x.refuse("depth")
        await the.y.become_live(refused="order depth")
        assert the.outcome() is None


@in_a_loop
async def test_a_cancelled_replacement_of_two_delivers_what_both_have_brought() -> None:
    async with joining() as (the, w):
        await the.y.become_live()
        await the.x.pong()
        await w.pong()
        the.x.bring("1")
        w.bring("101")
        await w.end()
        the.y.bring("1 101")
        await the.cancel()
        the.x.bring("2")
        assert str(the.delivered) == "X1 W101 X2"
