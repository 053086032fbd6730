"""A feed on a stream without a socket: what counts as heard, and what is lost with the connection."""

import asyncio
import time

from websockets.frames import Frame, Opcode

from bridge.channels.channel import Source
from bridge.errors import BadFrame
from bridge.exchange.frames import Push
from bridge.exchange.requests import Credentials
from bridge.exchange.session import Session, Timing
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.watch.watch import Watch
from bridge.websocket.courtesy import Courtesy
from bridge.websocket.feed import Feed
from tests.support.streams import READ, Network, open_stream, turns
from tests.support.waiting import soon

PUSH = Frame(Opcode.TEXT, b'{"method":"order.update","params":[],"id":null}').serialize(mask=False)
DAMAGED = Frame(Opcode.TEXT, b'{"method":').serialize(mask=False)


class Counting:
    """A receiver that counts pushes, and keeps bad frames."""

    def __init__(self) -> None:
        self.pushes = 0
        self.damaged: list[int] = []  # the last-heard time at each bad frame

    def push(self, push: Push, source: Source, received_us: int, frame: bytes) -> None:
        self.pushes += 1

    def bad(self, bad: BadFrame, source: Source, received_us: int, frame: bytes) -> None:
        self.damaged.append(source.heard_us)

    def lost(self, source: Source) -> None:
        raise AssertionError(source)


def begin(receiver: Counting, credentials: Credentials | None = None) -> tuple[Feed, Network]:
    stream, network = open_stream()
    metrics = Metrics()
    feed = Feed(
        stream,
        Session(
            {"order": []}, timing=Timing(), wall_offset=0.0, max_frame_bytes=1000, credentials=credentials
        ),
        Source("S"),
        courtesy=Courtesy(5.0, 20.0),
        receiver=receiver,
        watch=Watch("0", metrics, Journal("replica", 0, lambda records: None, metrics)),
    )
    feed.begin()
    return feed, network


async def ping(feed: Feed, network: Network, *, answered: bool = True) -> tuple[int, int]:
    """Send a ping, read its pong if answered; return when it was sent at the earliest and latest, in µs."""
    earliest = time.time_ns() // 1000
    written = len(network.written)
    fence = asyncio.create_task(feed.fence())
    await soon(lambda: len(network.written) > written, 20, "the ping")
    latest = time.time_ns() // 1000
    await turns(3)
    if answered:
        pong = b'{"id":%d,"result":"pong","error":null}' % feed.session.newest_request
        network.arrived += Frame(Opcode.TEXT, pong).serialize(mask=False)
        await turns(50, each=network.read)
        assert fence.done()
    return earliest, latest


def test_only_the_sending_of_a_ping_that_is_answered_counts_as_heard() -> None:
    """A push says nothing: it may have waited in the network while the process was frozen."""

    async def scenario() -> None:
        receiver = Counting()
        feed, network = begin(receiver)
        begun = feed.read_up_to
        network.arrived += PUSH
        await turns(3, each=network.read)
        assert feed.read_up_to == begun
        earliest, latest = await ping(feed, network)
        read = feed.read_up_to
        assert (
            begun.pushed_us <= earliest <= read.pushed_us <= latest <= read.read_us <= time.time_ns() // 1000
        )
        await ping(feed, network, answered=False)
        network.arrived += PUSH
        await turns(3, each=network.read)
        assert receiver.pushes == 2
        assert feed.read_up_to == read
        network.lose()
        await feed.ended
        assert feed.read_up_to == read

    asyncio.run(scenario())


def test_a_damaged_frame_was_pushed_after_the_last_answered_ping_or_the_begin_of_the_session() -> None:
    async def scenario() -> None:
        receiver = Counting()
        feed, network = begin(receiver)
        begun = feed.read_up_to
        await turns(3)
        network.arrived += PUSH + DAMAGED
        await turns(3, each=network.read)
        await ping(feed, network)
        network.arrived += PUSH + DAMAGED
        await turns(3, each=network.read)
        assert receiver.damaged == [begun.pushed_us, feed.read_up_to.pushed_us]
        network.lose()
        await feed.ended

    asyncio.run(scenario())


def test_what_was_read_and_is_lost_in_a_pause_was_pushed_after_the_last_heard_time() -> None:
    """The gap of a private channel begins there, so it covers what a pause keeps from being handed over."""

    async def scenario() -> None:
        receiver = Counting()
        feed, network = begin(receiver)
        network.arrived += PUSH
        await ping(feed, network)
        read = feed.read_up_to
        assert receiver.pushes == 1
        network.arrived += PUSH * (READ // len(PUSH))
        await turns(3, each=network.read)
        feed.pause()
        assert 1 < receiver.pushes < READ // len(PUSH)
        assert feed.held_bytes > 0
        network.lose()
        await feed.ended
        assert feed.read_up_to == read
        assert receiver.pushes < READ // len(PUSH)

    asyncio.run(scenario())


def test_after_a_pause_a_ping_shows_when_all_that_was_pushed_meanwhile_is_read() -> None:
    async def scenario() -> None:
        receiver = Counting()
        feed, network = begin(receiver)
        await ping(feed, network)
        feed.pause()
        network.arrived += PUSH * 5
        resumed_us = time.time_ns() // 1000
        feed.resume()
        await turns(20, each=network.read)
        assert receiver.pushes == 5
        assert feed.read_up_to.pushed_us <= resumed_us
        pong = b'{"id":%d,"result":"pong","error":null}' % feed.session.newest_request
        network.arrived += Frame(Opcode.TEXT, pong).serialize(mask=False)
        await turns(20, each=network.read)
        assert feed.read_up_to.pushed_us >= resumed_us
        network.lose()
        await feed.ended

    asyncio.run(scenario())


def test_what_a_rotation_withholds_does_not_count_as_heard_before_it_is_delivered() -> None:
    """A process that is killed meanwhile loses it, and what is saved must not say that it was listened to."""

    async def scenario() -> None:
        receiver = Counting()
        feed, network = begin(receiver)
        await ping(feed, network)
        read = feed.read_up_to
        feed.deliver_to(receiver, withheld=True)
        network.arrived += PUSH
        earliest, _ = await ping(feed, network)
        assert receiver.pushes == 1
        assert feed.read_up_to == read
        feed.deliver_to(receiver)
        assert feed.read_up_to.pushed_us >= earliest
        network.lose()
        await feed.ended

    asyncio.run(scenario())


def test_the_source_knows_what_its_session_has_ever_subscribed_to() -> None:
    async def scenario() -> None:
        feed, network = begin(Counting())
        feed.subscribe("balance", ["BTC", "USDT"])
        feed.session.forget("balance", ["BTC"], time.monotonic())
        source = feed.source
        assert source.asks("order", "any")  # it was subscribed to as a whole
        assert source.asks("balance", "usdt")
        assert source.asks("balance", "BTC")  # what is forgotten may still be pushed
        assert not source.asks("balance", "ETH")
        assert not source.asks("order_algo", None)
        network.lose()
        await feed.ended

    asyncio.run(scenario())


def test_a_session_whose_login_has_ended_ends_at_once() -> None:
    """No ping is due, and nothing else is pushed that would wake it."""

    async def scenario() -> None:
        receiver = Counting()
        feed, network = begin(receiver, Credentials("key", "secret"))
        await turns(3)
        ended = b'{"error":{"code":4,"message":"NeedAuth"},"result":null,"id":null}'
        network.arrived += Frame(Opcode.TEXT, ended).serialize(mask=False)
        await turns(50, each=network.read)
        assert feed.ended.done()
        assert feed.ended.result().reason == "rejected"
        assert len(receiver.damaged) == 1

    asyncio.run(scenario())
