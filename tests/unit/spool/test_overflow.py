"""What waits on disk goes to Kafka once and in order, whenever the process ends, whatever it knew by then."""

import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from structlog.testing import capture_logs

from bridge.config import KafkaConfig
from bridge.kafka.partition import Batch, Partition
from bridge.kafka.state import Owner, State
from bridge.kafka.topics import Topic
from bridge.records import STATE, Record
from bridge.spool.overflow import NOTE, Overflow
from bridge.spool.segment import Entry
from bridge.spool.spool import Spool
from tests.support.disk import damage, largest_file

SYMBOLS = [b"A", b"B", b"C"]
TRADES = Topic("trades", len(SYMBOLS), 1_000_000)


def entry(symbol: int, number: int) -> Entry:
    return f"trades/{symbol}", Record(
        "trades", SYMBOLS[symbol], b'{"session":"s"}', number, (number, number, None)
    )


class Process:
    """A sink without Kafka: its partitions, its state, and what overflows them."""

    def __init__(self, folder: Path, replica: str, previous: Owner | None, notes: dict[bytes, bytes]) -> None:
        self.events: list[str] = []
        self.state = State(KafkaConfig(), Topic(STATE, 1, 1_000_000), 0, replica)
        self.state.previous, self.state.notes = previous, notes
        self.partitions = [Partition(TRADES, n, marked=True) for n in range(len(SYMBOLS))]
        self.overflow = Overflow(
            Spool(folder, 10_000_000, 1_500), self.state, replica, lambda kind, _: self.events.append(kind)
        )

    @property
    def in_memory(self) -> list[Record]:
        return [record for p in self.partitions for record in (*p.sent, *p.queued)]

    def add(self, entries: list[Entry]) -> None:
        if self.overflow.active:
            assert self.overflow.put(entries)
        else:
            self.queue(entries)

    def queue(self, entries: list[Entry]) -> None:
        for place, record in entries:
            next(p for p in self.partitions if p.place == place).queued.append(record)


class Outage(RuleBasedStateMachine):
    """Any order of receiving, overflowing, reading back, sending, committing, and ends of the process.

    `kafka` is what is committed, with the state that went along; `disk` what a process has put on disk.
    """

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.kafka: dict[bytes, list[int]] = defaultdict(list)
        self.received: dict[bytes, list[int]] = defaultdict(list)
        self.disk: set[int] = set()
        self.lost: set[int] = set()
        self.given_up: set[int] = set()
        self.owner: Owner | None = None
        self.notes: dict[bytes, bytes] = {}
        self.number = 0
        self.replicas = 0
        self.asked = False
        self.process = self.start()

    def start(self) -> Process:
        self.replicas += 1
        process = Process(self.folder, f"replica-{self.replicas}", self.owner, dict(self.notes))
        for symbol, numbers in self.kafka.items():
            process.state.acknowledged(Record("trades", symbol, b"{}", n, (n, n, None)) for n in numbers)
        process.overflow.recover()
        self.asked = False
        return process

    @rule(symbols=st.lists(st.sampled_from(range(len(SYMBOLS))), min_size=3, max_size=8))
    def receive(self, symbols: list[int]) -> None:
        entries = []
        for symbol in symbols:
            self.number += 1
            entries.append(entry(symbol, self.number))
            self.received[SYMBOLS[symbol]].append(self.number)
        if self.process.overflow.active:
            self.disk.update(record.time_us for _, record in entries)
        self.process.add(entries)

    @rule()
    @precondition(lambda self: not self.process.overflow.active)
    def overflow(self) -> None:
        assert self.process.overflow.begin(self.process.partitions)
        self.disk.update(record.time_us for record in self.process.in_memory)

    @rule()
    @precondition(lambda self: self.process.overflow.active)
    def read_back(self) -> None:
        self.process.queue(list(self.process.overflow.next()))

    @rule(most=st.integers(1, 10))
    @precondition(lambda self: self.process.state.committing is None)
    def send(self, most: int) -> None:
        for one in self.process.partitions:
            one.sent += one.queued[:most]
            del one.queued[:most]

    @rule()
    @precondition(lambda self: self.process.state.committing is None)
    def ask_for_the_commit(self) -> None:
        process = self.process
        process.state.note(process.overflow.note(process.partitions, with_sent=True))
        process.state.committing = process.state.save([r for p in process.partitions for r in p.sent])

    @rule()
    @precondition(lambda self: self.process.state.committing is not None and not self.asked)
    def commit(self) -> None:
        process, self.asked = self.process, True
        assert process.state.committing is not None
        for partition in process.partitions:
            for record in partition.sent:
                self.kafka[SYMBOLS[partition.number]].append(record.time_us)
        self.owner = msgspec.json.decode(process.state.committing.values[b"owner"], type=Owner)
        if NOTE in process.state.committing.values:
            self.notes[NOTE] = process.state.committing.values[NOTE]

    @rule()
    @precondition(lambda self: self.asked)
    def learn_that_it_is_committed(self) -> None:
        process = self.process
        assert process.state.committing is not None
        save, process.state.committing, self.asked = process.state.committing, None, False
        process.state.saved(save)
        for partition in process.partitions:
            partition.settle()
        process.overflow.saved(save)

    def transaction(self, most: int) -> None:
        """Send so many records of each symbol, and learn that they are committed."""
        self.send(most)
        self.ask_for_the_commit()
        self.commit()
        self.learn_that_it_is_committed()

    @rule()
    @precondition(lambda self: self.process.state.committing is not None and not self.asked)
    def fail(self) -> None:
        """Abort, and queue once more, as after an error of the producer."""
        self.process.state.committing = None
        for partition in self.process.partitions:
            partition.requeue()

    @rule(symbol=st.sampled_from(range(len(SYMBOLS))))
    @precondition(lambda self: self.process.state.committing is None)
    def refuse(self, symbol: int) -> None:
        """Give up the last record of those that were sent of a symbol, and abort what was sent before it."""
        partition = self.process.partitions[symbol]
        if partition.sent:
            partition.batches.append(Batch(1, 2, 0))
            refused = partition.blame(1)
            assert refused is not None
            self.given_up.add(refused.time_us)
            for one in self.process.partitions:
                one.requeue()

    @rule(stop=st.booleans(), by_another=st.integers(1, 5).map(lambda n: n == 5))
    def end(self, *, stop: bool, by_another: bool) -> None:
        """Kill or stop the process; another replica may serve the shard before the next one here."""
        process = self.process
        if stop:
            _, lost = process.overflow.park(process.partitions)
            assert lost == 0
            self.disk.update(record.time_us for record in process.in_memory)
        on_kafka = {n for one in self.kafka.values() for n in one}
        self.lost |= {record.time_us for record in process.in_memory} - self.disk - on_kafka
        process.overflow.close()
        if by_another:
            self.owner = Owner(f"another-{self.replicas}", 1, 1)
            self.lost |= self.disk - on_kafka
            self.disk -= self.lost
        self.process = self.start()
        left = {n for n in self.disk if n not in on_kafka}
        # Of those given up a new process may know nothing, and try them once more.
        assert len(left - self.given_up) <= self.process.overflow.waiting <= len(left)
        newest = self.process.overflow.watermarks
        for symbol, numbers in self.received.items():
            held = [n for n in numbers if n in on_kafka or n in left]
            if not self.given_up.intersection(numbers):
                assert (newest[symbol].ids[-1] if symbol in newest else None) == (held[-1] if held else None)

    @invariant()
    def each_is_on_kafka_once_and_in_order(self) -> None:
        for numbers in self.kafka.values():
            assert numbers == sorted(set(numbers))

    def teardown(self) -> None:
        """Deliver the rest: nothing is missing but what was in memory when a process was killed."""
        if not hasattr(self, "process"):
            return
        try:
            if self.process.state.committing is not None:
                (self.learn_that_it_is_committed if self.asked else self.fail)()
            while self.process.overflow.active:
                self.read_back()
            self.transaction(self.number)
            self.each_is_on_kafka_once_and_in_order()
            for symbol, numbers in self.received.items():
                delivered = [n for n in self.kafka[symbol] if n not in self.given_up]
                assert delivered == [n for n in numbers if n not in self.lost | self.given_up]
            assert not list(self.folder.glob("*.spool"))
        finally:
            self.process.overflow.close()
            shutil.rmtree(self.folder)


TestOutage = pytest.mark.filterwarnings("ignore")(Outage.TestCase)
TestOutage.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_a_commit_that_was_asked_for_before_the_overflow_counts_after_a_kill() -> None:
    outage = Outage()
    outage.begin()
    outage.receive([0, 0, 1])
    outage.send(2)
    outage.ask_for_the_commit()
    outage.overflow()
    outage.commit()
    outage.end(stop=False, by_another=False)
    outage.teardown()


def test_what_kafka_took_without_the_disk_does_not_stand_for_what_is_there_later() -> None:
    outage = Outage()
    outage.begin()
    outage.receive([0, 1, 1, 1])
    outage.overflow()
    outage.read_back()
    outage.read_back()
    outage.receive([0])
    outage.transaction(2)
    outage.overflow()
    outage.receive([0])
    outage.end(stop=False, by_another=False)
    outage.teardown()


def test_what_kafka_took_after_the_spool_was_read_counts_after_a_kill() -> None:
    """The spool knows less of a symbol than Kafka, when only another one's records of it are left."""
    outage = Outage()
    outage.begin()
    outage.receive([0, 0, 0])
    outage.overflow()
    outage.read_back()
    outage.read_back()
    outage.receive([1])
    outage.transaction(1)
    outage.end(stop=False, by_another=False)
    outage.teardown()


def test_what_kafka_took_of_a_partition_is_not_forgotten_by_a_process_that_never_meets_it() -> None:
    outage = Outage()
    outage.begin()
    outage.receive([0, 1, 1])
    outage.overflow()
    outage.send(1)
    outage.ask_for_the_commit()
    outage.commit()
    outage.end(stop=False, by_another=False)
    outage.process.partitions = outage.process.partitions[1:]
    outage.ask_for_the_commit()
    outage.commit()
    outage.end(stop=False, by_another=False)
    outage.teardown()


def test_a_record_that_was_given_up_counts_in_its_place_after_a_kill() -> None:
    outage = Outage()
    outage.begin()
    outage.receive([0] * 6)
    outage.overflow()
    outage.send(4)
    outage.refuse(0)
    outage.transaction(1)
    outage.end(stop=False, by_another=False)
    outage.teardown()


def test_a_spool_ends_although_damage_has_cost_all_of_a_partition() -> None:
    outage = Outage()
    outage.begin()
    outage.receive([0, 0, 0])
    outage.overflow()
    outage.receive([1, 1, 1])
    outage.receive([2, 2, 2])
    (segment,) = outage.folder.glob("*.spool")
    end = outage.process.overflow.size
    outage.receive([0] * 40)
    outage.receive([0])
    assert len(list(outage.folder.glob("*.spool"))) > 1
    damage(segment, end - 300)
    outage.process.overflow.close()
    outage.process = outage.start()
    while outage.process.overflow.active:
        outage.read_back()
    for partition in list(outage.process.partitions):
        if not partition.queued:
            outage.process.partitions.remove(partition)
    assert len(outage.process.partitions) < len(SYMBOLS)
    outage.transaction(outage.number)
    assert outage.process.events[-1] == "spool_ended"
    outage.process.overflow.close()
    shutil.rmtree(outage.folder)


@contextmanager
def full_disk() -> Iterator[None]:
    """No file may grow, so no new one can have anything in it; logs go nowhere."""
    with capture_logs(), largest_file(0):
        yield


def test_a_spool_is_drained_by_processes_that_find_the_disk_full() -> None:
    """They can't put their names on it, but what Kafka has of it tells that it was theirs."""
    outage = Outage()
    outage.begin()
    outage.receive([0, 0, 1])
    outage.overflow()
    outage.receive([0, 1, 2])
    for _ in range(3):
        with full_disk():
            outage.end(stop=False, by_another=False)
        assert outage.process.overflow.active
        assert "spool_overflowed" in outage.process.events
        outage.read_back()
        outage.transaction(1)
    outage.receive([2, 2, 2])
    outage.end(stop=False, by_another=False)
    outage.teardown()
    assert outage.lost == set()


def test_while_the_disk_is_still_full_what_comes_has_to_wait_in_memory() -> None:
    outage = Outage()
    outage.begin()
    outage.receive([0, 0, 1])
    outage.overflow()
    with full_disk():
        outage.end(stop=False, by_another=False)
        overflow = outage.process.overflow
        assert not overflow.put([entry(0, 4)])
        assert not overflow.has_room()
    assert overflow.has_room()
    assert overflow.waiting == 4
    outage.received[SYMBOLS[0]].append(4)
    outage.teardown()
