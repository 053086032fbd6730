"""Connectors follow the room for records: however it comes and goes, they are paused when there is none."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from websockets.frames import Frame, Opcode

from bridge.channels import CHANNELS
from bridge.channels.channel import Source
from bridge.config import Config, ExchangeConfig
from bridge.errors import BadFrame
from bridge.exchange.frames import Push
from bridge.exchange.session import Session, Timing
from bridge.kafka.queues import Queues
from bridge.kafka.topics import Topic
from bridge.pipeline import Pipeline
from bridge.records import DEADLETTER, EVENTS, PRIVATE_DEADLETTER, PRIVATE_EVENTS, STATE, Record
from bridge.shard import Replica, Shard
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.watch.watch import Watch
from bridge.websocket.buffers import Buffers
from bridge.websocket.connector import Connector
from bridge.websocket.courtesy import Courtesy
from bridge.websocket.feed import Feed
from tests.support.clusters import cluster_of
from tests.support.streams import Network, open_stream, turns

PUSH = Frame(Opcode.TEXT, b'{"method":"trades.update","params":[],"id":null}').serialize(mask=False)
MANY = 30  # pushes, each of which fills the room


class Filling:
    """A receiver that queues a large record for every push."""

    def __init__(self, queues: Queues) -> None:
        self._queues = queues

    def push(self, push: Push, source: Source, received_us: int, frame: bytes) -> None:
        self._queues.add([Record("trades", b"A", bytes(20_000), received_us)])

    def bad(self, bad: BadFrame, source: Source, received_us: int, frame: bytes) -> None:
        raise AssertionError(bad)

    def lost(self, source: Source) -> None:
        raise AssertionError(source)


class Scene:
    """A shard without a spool and without Kafka, whose sessions read from networks of the test."""

    def __init__(self, sessions: int = 4) -> None:
        self.metrics = Metrics()
        config = Config.model_validate(
            {
                "exchange": {"url": "ws://exchange/"},
                "channels": {"trades": ["BTC_USDT"]},
                "kafka": {"max_pending_bytes": 1_000_000},
                "spool": {"max_bytes": 0},
            }
        )
        topics = {
            name: Topic(name, 1, 1_000_000)
            for name in (*CHANNELS, DEADLETTER, EVENTS, PRIVATE_DEADLETTER, PRIVATE_EVENTS, STATE)
        }
        courtesy, buffers = Courtesy(5.0, 20.0), Buffers(1_000_000, 1000)
        replica = Replica("replica", config, cluster_of(topics), self.metrics, courtesy, buffers)
        self.shard = Shard(0, replica, cast("Callable[[float], Awaitable[bool]]", None))
        self.queues = self.shard.queues
        self.queues._max_pending_bytes = 10_000
        self.networks = [self._open() for _ in range(sessions)]

    def _open(self) -> Network:
        watch = Watch("0", self.metrics, Journal("replica", 0, self.queues.add, self.metrics))
        receiver, courtesy = Filling(self.queues), Courtesy(5.0, 20.0)
        stream, network = open_stream()
        session = Session({}, timing=Timing(), wall_offset=0.0, max_frame_bytes=1000)
        feed = Feed(stream, session, Source("S"), courtesy=courtesy, receiver=receiver, watch=watch)
        connector = Connector({}, config=ExchangeConfig(), courtesy=courtesy, receiver=receiver, watch=watch)
        self.shard._connectors.append(connector)
        connector.sessions._begin(feed, {})
        return network

    async def settled(self) -> None:
        def read() -> None:
            for network in self.networks:
                network.read()

        await turns(50, each=read)

    def paused(self) -> list[bool]:
        """Return which sessions are paused, after checking that the shard says the same."""
        paused = [not network.is_reading() for network in self.networks]
        assert set(paused) == {self.shard.paused} == {not self.queues.has_room}
        return paused

    def has_room(self) -> bool:
        return self.queues.has_room

    def give_room(self) -> None:
        """Give all room back, as if Kafka had acknowledged everything."""
        (partition,) = (p for p in self.queues.places.values() if p.topic.name == "trades")
        records = len(partition.queued)
        partition.queued.clear()
        self.queues.release(records, 20_000 * records)

    async def close(self) -> None:
        for network, connector in zip(self.networks, self.shard._connectors, strict=True):
            network.lose()
            await connector.sessions.feeds[0].ended


def scene(scenario: Callable[[Scene], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(60):
            the = Scene()
            await scenario(the)
            await the.close()

    asyncio.run(run())


def test_room_that_fails_at_once_after_there_was_some_leaves_every_connector_paused() -> None:
    """The first connector that resumes fills it, before the others have resumed."""

    async def scenario(the: Scene) -> None:
        for network in the.networks:
            network.arrived += PUSH * MANY
        await the.settled()
        assert the.paused() == [True] * 4
        # Wherever the room fails again, all of them wait for the next time.
        for _ in range(10):
            for network in the.networks:
                network.arrived += PUSH
            the.give_room()
            assert the.has_room()
            await the.settled()
            assert the.paused() == [True] * 4

    scene(scenario)


def test_room_that_comes_and_goes_within_one_turn_is_followed_once() -> None:
    async def scenario(the: Scene) -> None:
        the.queues.add([Record("trades", b"A", bytes(20_000), 0)])
        the.give_room()
        await the.settled()
        assert the.paused() == [False] * 4
        the.queues.add([Record("trades", b"A", bytes(20_000), 0)])
        await the.settled()
        the.give_room()
        the.queues.add([Record("trades", b"A", bytes(20_000), 0)])
        await the.settled()
        assert the.paused() == [True] * 4

    scene(scenario)


def test_a_session_that_begins_while_there_is_no_room_reads_nothing() -> None:
    async def scenario(the: Scene) -> None:
        the.queues.add([Record("trades", b"A", bytes(20_000), 0)])
        the.networks.append(the._open())
        await the.settled()
        before = the.queues.pending_records
        for network in the.networks:
            network.arrived += PUSH * MANY
        await the.settled()
        assert the.paused() == [True] * 5
        assert the.queues.pending_records == before

    scene(scenario)


def test_a_connector_that_is_opened_while_there_is_no_room_opens_no_session() -> None:
    async def scenario(the: Scene) -> None:
        the.shard._pipeline = cast("Pipeline", Filling(the.queues))
        assert the.shard._connector({}).sessions.reading.is_set()
        the.queues.add([Record("trades", b"A", bytes(20_000), 0)])
        await the.settled()
        assert not the.shard._connector({}).sessions.reading.is_set()

    scene(scenario)


def test_what_is_read_and_not_queued_counts_as_held() -> None:
    async def scenario(the: Scene) -> None:
        the.networks[0].arrived += PUSH[:-1]
        await the.settled()
        assert the.shard.held_bytes == len(PUSH) - 1
        the.networks[0].arrived += PUSH[-1:]
        await the.settled()
        assert the.shard.held_bytes == 0

    scene(scenario)
