"""A feed on a stream without a socket: what counts as heard, and what is lost with the connection."""

import asyncio

from websockets.frames import Frame, Opcode

from bridge.channels.channel import Source
from bridge.errors import BadFrame
from bridge.exchange.frames import Push
from bridge.exchange.session import Session, Timing
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.watch.watch import Watch
from bridge.websocket.courtesy import Courtesy
from bridge.websocket.feed import Feed
from tests.support.streams import READ, Network, open_stream, turns

PUSH = Frame(Opcode.TEXT, b'{"method":"order.update","params":[],"id":null}').serialize(mask=False)


class Counting:
    """A receiver that counts pushes."""

    def __init__(self) -> None:
        self.pushes = 0

    def push(self, push: Push, source: Source, received_us: int, frame: bytes) -> None:
        self.pushes += 1

    def bad(self, bad: BadFrame, source: Source, received_us: int, frame: bytes) -> None:
        raise AssertionError(bad)

    def lost(self, source: Source) -> None:
        raise AssertionError(source)


def begin(receiver: Counting) -> tuple[Feed, Network]:
    stream, network = open_stream()
    metrics = Metrics()
    feed = Feed(
        stream,
        Session({"order": []}, timing=Timing(), wall_offset=0.0, max_frame_bytes=1000),
        Source("S"),
        courtesy=Courtesy(5.0, 20.0),
        receiver=receiver,
        watch=Watch("0", metrics, Journal("replica", 0, lambda records: None, metrics)),
    )
    feed.begin()
    return feed, network


def test_what_was_read_and_is_lost_in_a_pause_was_pushed_after_the_last_heard_time() -> None:
    """The gap of a private channel begins there, so it covers what a pause keeps from being handed over."""

    async def scenario() -> None:
        receiver = Counting()
        feed, network = begin(receiver)
        network.arrived += PUSH
        await turns(3, each=network.read)
        heard_us = feed.heard_us
        assert heard_us
        assert receiver.pushes == 1
        network.arrived += PUSH * (READ // len(PUSH))
        await turns(3, each=network.read)
        feed.pause()
        assert 1 < receiver.pushes < READ // len(PUSH)
        assert feed.held_bytes > 0
        network.lose()
        await feed.ended
        assert feed.heard_us == heard_us
        assert receiver.pushes < READ // len(PUSH)

    asyncio.run(scenario())


def test_after_a_read_that_empties_the_socket_everything_counts_as_heard() -> None:
    async def scenario() -> None:
        receiver = Counting()
        feed, network = begin(receiver)
        network.arrived += PUSH * (READ // len(PUSH))
        await turns(50, each=network.read)
        assert receiver.pushes == READ // len(PUSH)
        assert feed.heard_us == 0
        network.arrived += PUSH
        await turns(3, each=network.read)
        assert feed.heard_us > 0
        network.lose()
        await feed.ended

    asyncio.run(scenario())


def test_what_a_rotation_withholds_does_not_count_as_heard_before_it_is_delivered() -> None:
    """A process that is killed meanwhile loses it, and what is saved must not say that it was listened to."""

    async def scenario() -> None:
        receiver = Counting()
        feed, network = begin(receiver)
        network.arrived += PUSH
        await turns(3, each=network.read)
        heard_us = feed.heard_us
        feed.deliver_to(receiver, withheld=True)
        network.arrived += PUSH
        await turns(3, each=network.read)
        assert receiver.pushes == 2
        assert feed.heard_us == heard_us
        feed.deliver_to(receiver)
        assert feed.heard_us > heard_us
        network.lose()
        await feed.ended

    asyncio.run(scenario())
