"""From a spool, no trade moves into memory before the gap in front of it: the sink sends events first."""

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from structlog.testing import capture_logs

from bridge.config import KafkaConfig
from bridge.kafka.queues import Queues
from bridge.kafka.state import ShardState
from bridge.kafka.topics import Topic
from bridge.records import EVENTS, STATE, Open, Record
from bridge.spool.overflow import Overflow
from bridge.spool.spool import Spool
from bridge.watch.metrics import Metrics

TOPICS = {"trades": Topic("trades", 2, 1_000_000), EVENTS: Topic(EVENTS, 2, 1_000_000)}
KEYS = (b"A", b"B", b"C", b"D")
SPOOL = 12_000  # bytes
MEMORY = 4_000  # bytes; some records


class Process:
    """The queues of a shard, whose spool and memory are small, and the events that they report."""

    def __init__(self, folder: Path, replica: str, *, spool: int = SPOOL, memory: int = MEMORY) -> None:
        self.events: list[str] = []
        state = ShardState(KafkaConfig(), Topic(STATE, 1, 1_000_000), 0, replica)
        self.overflow = Overflow(Spool(folder, spool), replica, 0, state.watermarks)
        self.queues = Queues(
            TOPICS, state, self.overflow, Metrics(), max_pending_bytes=memory, on_change=self._collect
        )
        self.queues.recover()

    def in_memory(self) -> list[Record]:
        return [record for p in self.queues.places.values() for record in (*p.sent, *p.queued)]

    def deliver(self) -> list[Record]:
        """Let Kafka take what is in memory and can be sent, which makes room."""
        self.queues.set_stuck_aside()
        records = []
        for partition in self.queues.places.values():
            if partition in self.queues.dirty:
                records += partition.queued
                partition.queued.clear()
                partition.spooled.clear()
        self.queues.dirty.clear()
        self.queues.release(len(records), sum(len(record.value) for record in records))
        return records

    def _collect(self) -> None:
        self.events += [kind for kind, _ in self.overflow.events()]


def trade(number: int, key: bytes, gap: int) -> Record:
    """Return a trade behind the gap with this number, 0 for none."""
    return Record("trades", key, b"%d %d" % (number, gap) + bytes(100), number, (number, number, 0, Open()))


def event(number: int, key: bytes) -> Record:
    return Record(EVENTS, key, b"%d" % number + bytes(100), number)


def number_of(record: Record) -> int:
    return int(record.value.rstrip(b"\0").split()[0])


def gap_of(record: Record) -> int:
    """Return the number of the gap in front of a trade, 0 for none."""
    return int(record.value.rstrip(b"\0").split()[1]) if record.channel == "trades" else 0


class Order(RuleBasedStateMachine):
    """Trades and gaps in front of them, through a memory and a spool that are often full.

    Any partitions may be without a leader at any time.
    """

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.number = 0
        self.on_kafka: set[int] = set()  # the gaps that Kafka has
        self.reported: set[int] = set()  # those, and the ones in memory
        self.processes = 1
        self.process = Process(self.folder, "replica-1")

    def add(self, *records: Record) -> None:
        with capture_logs():
            for record in records:
                self.process.queues.add([record])

    @rule(key=st.sampled_from(KEYS), count=st.integers(1, 4))
    def trades(self, key: bytes, count: int) -> None:
        for _ in range(count):
            self.number += 1
            self.add(trade(self.number, key, 0))
            self.each_trade_is_behind_its_gap()

    @rule(key=st.sampled_from(KEYS))
    def gap_and_trade(self, key: bytes) -> None:
        self.number += 2
        self.add(event(self.number - 1, key), trade(self.number, key, self.number - 1))

    @rule()
    def deliver(self) -> None:
        with capture_logs():
            records = self.process.deliver()
        self.on_kafka |= {number_of(record) for record in records if record.channel == EVENTS}
        for record in records:
            assert gap_of(record) == 0 or gap_of(record) in self.on_kafka

    @rule(trades=st.frozensets(st.integers(0, 1)), events=st.frozensets(st.integers(0, 1)))
    def lose_leaders(self, trades: frozenset[int], events: frozenset[int]) -> None:
        """These partitions have no leader now, and all others do."""
        leaderless = {"trades": trades, EVENTS: events}
        with capture_logs():
            self.process.queues.follow(
                {channel: replace(topic, leaderless=leaderless[channel]) for channel, topic in TOPICS.items()}
            )

    @rule()
    def overflow(self) -> None:
        if not self.process.overflow.active:
            with capture_logs():
                self.process.queues.begin_spool()

    @rule()
    def read_back(self) -> None:
        if self.process.overflow.reading:
            self.process.queues._read_block()

    @rule()
    def refill(self) -> None:
        with capture_logs():
            self.process.queues.refill()

    @rule()
    def restart(self) -> None:
        """What Kafka has not acknowledged is read again."""
        with capture_logs():
            self.process.queues.park()
            self.process.overflow.close()
            self.processes += 1
            self.reported = self.on_kafka.copy()
            self.process = Process(self.folder, f"replica-{self.processes}")

    @invariant()
    def each_trade_is_behind_its_gap(self) -> None:
        records = self.process.in_memory()
        self.reported |= {number_of(record) for record in records if record.channel == EVENTS}
        if self.process.queues.events_wait:
            return  # no trade can be sent, so one may be in memory behind a gap that is on disk
        for record in records:
            assert gap_of(record) == 0 or gap_of(record) in self.reported

    def teardown(self) -> None:
        if hasattr(self, "process"):
            self.process.overflow.close()
            shutil.rmtree(self.folder)


TestOrder = pytest.mark.filterwarnings("ignore")(Order.TestCase)
TestOrder.settings = settings(
    max_examples=100, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_a_gap_that_waits_in_memory_is_spooled_in_front_of_the_trades() -> None:
    """Its partition is opened last, behind more trades than one block of the spool holds."""
    folder = Path(tempfile.mkdtemp())
    process = Process(folder, "replica", spool=10_000_000, memory=10_000_000)
    process.queues.add(trade(number, b"A", 0) for number in range(1, 1501))
    process.queues.add([event(2000, b"A"), trade(2001, b"A", 2000)])
    process.queues.begin_spool()
    process.overflow.close()
    again = Process(folder, "replica-2")
    again.queues._read_block()
    assert [number_of(record) for record in again.in_memory()] == [2000]
    again.overflow.close()
    shutil.rmtree(folder)


def test_every_overflow_is_reported_once() -> None:
    folder = Path(tempfile.mkdtemp())
    process = Process(folder, "replica")
    number = 0

    def fill() -> None:
        nonlocal number
        with capture_logs():
            while process.queues.has_room:
                number += 1
                process.queues.add([trade(number, b"A", 0)])
            for _ in range(3):
                number += 1
                process.queues.add([trade(number, b"A", 0)])

    for overflows in range(1, 4):
        fill()
        assert process.events.count("spool_overflowed") == overflows
        with capture_logs():
            while not process.queues.has_room:
                process.deliver()
    process.overflow.close()
    shutil.rmtree(folder)


def test_an_overflow_of_memory_that_the_disk_does_not_take_is_reported_each_time() -> None:
    """The spool does not even begin."""
    folder = Path(tempfile.mkdtemp())
    process = Process(folder, "replica", spool=1)
    for overflows in range(1, 4):
        with capture_logs():
            process.queues.add(trade(number, b"A", 0) for number in range(20))
            process.queues.add([trade(21, b"A", 0)])
        assert not process.queues.has_room
        assert process.events == ["spool_overflowed"] * overflows
        process.deliver()
        assert process.queues.has_room
    process.overflow.close()
    shutil.rmtree(folder)
