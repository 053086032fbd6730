"""Spooled records are on Kafka once and in order, whenever a process ends and whatever it knew by then."""

import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from structlog.testing import capture_logs

from bridge.config import KafkaConfig
from bridge.kafka.partition import Batch, Partition
from bridge.kafka.queues import Queues
from bridge.kafka.state import ShardState, Unsaved
from bridge.kafka.topics import Topic
from bridge.records import STATE, Open, Record
from bridge.spool.finding import left_behind
from bridge.spool.overflow import Overflow
from bridge.spool.progress import Owner, decode_progress
from bridge.spool.segment import Header, header_block
from bridge.spool.spool import Spool
from bridge.watch.metrics import Metrics
from tests.support.disk import damage, largest_file

TRADES = Topic("trades", 3, 1_000_000)
# One of each partition.
SYMBOLS = [
    next(key for key in (b"%d" % n for n in range(99)) if TRADES.partition(key) == p) for p in range(3)
]
METRICS = Metrics()
NONE = Unsaved(None, None)
OLD = Header("spool", "replica", None, {}, {}, None, {})


def trade(symbol: int, number: int) -> Record:
    return Record("trades", SYMBOLS[symbol], b'{"session":"s"}', number, (number, number, 0, Open()))


class Process:
    """The queues of a shard without a sink, and all that they need."""

    def __init__(
        self,
        folder: Path,
        replica: str,
        previous: Owner | None,
        progress: bytes | None,
        topic: Topic = TRADES,
    ) -> None:
        self.events: list[str] = []
        self.state = ShardState(KafkaConfig(), Topic(STATE, 1, 1_000_000), 0, replica)
        self.state.previous, self.state.spool_progress = previous, progress
        self.overflow = Overflow(Spool(folder, 10_000_000, 1_500), replica, 0, self.state.watermarks)
        self.queues = Queues(
            {"trades": topic},
            self.state,
            self.overflow,
            METRICS,
            max_pending_bytes=1_000_000_000,
            on_change=self.collect_events,
        )

    @property
    def partitions(self) -> list[Partition]:
        return list(self.queues.places.values())

    @property
    def in_memory(self) -> list[Record]:
        return [record for p in self.partitions for record in (*p.sent, *p.queued)]

    def collect_events(self) -> None:
        self.events += [kind for kind, _ in self.overflow.events()]


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow, so that no new one can have any content; discard the logs."""
    with capture_logs(), largest_file(0):
        yield


class Outage(RuleBasedStateMachine):
    """Any order of receiving, overflowing, reading back, sending, committing, and ends of the process.

    Any partitions may be without a leader at any time, and the disk full: it takes nothing then.

    `kafka` is what is committed, with the state that was saved; `disk` is what a process has put on disk.
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
        self.progress: bytes | None = None
        self.number = 0
        self.replicas = 0
        self.asked = False
        self.is_full = False
        self.topic = TRADES
        self.process = self.start()

    def start(self) -> Process:
        self.replicas += 1
        process = Process(self.folder, f"replica-{self.replicas}", self.owner, self.progress, self.topic)
        for symbol, numbers in self.kafka.items():
            process.state.acknowledged(Record("trades", symbol, b"{}", n, (n, n, 0, Open())) for n in numbers)
        process.queues.recover()
        self.asked = False
        return process

    def writing(self) -> AbstractContextManager[None]:
        """Have the disk as full as it is while something may be written to it."""
        return full_disk() if self.is_full else nullcontext()

    @property
    def held(self) -> set[int]:
        """What the disk was to take and did not, and is in no queue."""
        return {record.time_us for _, record in self.process.overflow._held}

    @rule(is_full=st.booleans())
    def fill(self, *, is_full: bool) -> None:
        self.is_full = is_full

    @rule()
    @precondition(lambda self: self.held)
    def make_room(self) -> None:
        held = self.held
        with self.writing():
            made = self.process.overflow.make_room()
        assert made != self.is_full
        assert self.held == (set() if made else held)
        if made:
            self.disk |= held

    @rule(symbols=st.lists(st.sampled_from(range(len(SYMBOLS))), min_size=3, max_size=8))
    def receive(self, symbols: list[int]) -> None:
        records = []
        for symbol in symbols:
            self.number += 1
            records.append(trade(symbol, self.number))
            self.received[SYMBOLS[symbol]].append(self.number)
        spilled = {one.place for one in self.process.partitions if one.spilled}
        on_disk = (TRADES.name + f"/{TRADES.partition(record.key)}" in spilled for record in records)
        self.disk.update(
            record.time_us
            for record, is_spilled in zip(records, on_disk, strict=True)
            if is_spilled or self.process.overflow.active
        )
        with self.writing():
            assert self.process.queues.add(records) == []
        if self.held:
            self.disk -= self.held
            assert not self.process.queues.has_room

    @rule()
    @precondition(lambda self: not self.process.overflow.active)
    def overflow(self) -> None:
        in_memory = {record.time_us for record in self.process.in_memory}
        with self.writing():
            begun = self.process.queues.begin_spool()
        assert begun != self.is_full
        if begun:
            self.disk |= in_memory

    @rule(leaderless=st.frozensets(st.sampled_from(range(len(SYMBOLS)))))
    @precondition(lambda self: not any(one.sent for one in self.process.partitions))
    def lose_leaders(self, leaderless: frozenset[int]) -> None:
        """These partitions have no leader now, and all others do."""
        self.topic = replace(TRADES, leaderless=leaderless)
        self.process.queues.follow({"trades": self.topic})

    @rule()
    @precondition(lambda self: self.process.overflow.reading)
    def read_back(self) -> None:
        self.process.queues._read_block()  # `refill` would read more of them
        self.process.collect_events()

    @rule(most=st.integers(1, 10))
    @precondition(lambda self: self.process.state.committing is None)
    def send(self, most: int) -> None:
        for one in self.process.partitions:
            if not one.stuck:
                one.sent += one.queued[:most]
                del one.queued[:most]

    @rule()
    @precondition(lambda self: self.process.state.committing is None)
    def request_the_commit(self) -> None:
        process = self.process
        process.queues.note_progress(with_sent=True)
        process.state.committing = process.state.save(
            [r for p in process.partitions for r in p.sent], process.queues.unsaved(with_sent=True)
        )

    @rule()
    @precondition(lambda self: self.process.state.committing is not None and not self.asked)
    def commit(self) -> None:
        process, self.asked = self.process, True
        assert process.state.committing is not None
        for partition in process.partitions:
            for record in partition.sent:
                self.kafka[SYMBOLS[partition.number]].append(record.time_us)
        save = process.state.committing
        self.owner = msgspec.json.decode(save.values[b"owner"] or b"", type=Owner)
        self.progress = save.spool_progress or self.progress

    @rule()
    @precondition(lambda self: self.asked)
    def get_the_response(self) -> None:
        process = self.process
        assert process.state.committing is not None
        save, process.state.committing, self.asked = process.state.committing, None, False
        process.state.saved(save)
        for partition in process.partitions:
            partition.settle()
        process.queues.saved(save)

    def transaction(self, most: int) -> None:
        """Send up to `most` records of each symbol, commit them and get the response."""
        self.send(most)
        self.request_the_commit()
        self.commit()
        self.get_the_response()

    @rule()
    @precondition(lambda self: self.process.state.committing is not None and not self.asked)
    def fail(self) -> None:
        """Abort, and queue once more, as after an error of the producer."""
        self.process.state.committing = None
        self.process.queues.requeue()

    @rule(symbol=st.sampled_from(range(len(SYMBOLS))))
    @precondition(lambda self: self.process.state.committing is None)
    def reject(self, symbol: int) -> None:
        """Give up the last record of a symbol that was sent, and abort what was sent before it."""
        partition = self.process.queues.places.get(f"trades/{symbol}")
        if partition is not None and partition.sent:
            partition.batches.append(Batch(1, 2, 0))
            rejected = partition.isolate(1)
            assert rejected is not None
            self.given_up.add(rejected.time_us)
            self.process.queues.requeue()

    @rule(stop=st.booleans(), by_another=st.integers(1, 5).map(lambda n: n == 5))
    def end(self, *, stop: bool, by_another: bool) -> None:
        """Kill or stop the process; another replica may serve the shard before the next one here."""
        process = self.process
        pending = {record.time_us for record in process.in_memory} | self.held
        if stop:
            with self.writing():
                _, lost = process.queues.park()
            if not self.is_full:
                self.disk |= pending
            assert lost == len(pending - self.disk)
        on_kafka = {n for one in self.kafka.values() for n in one}
        self.lost |= pending - self.disk - on_kafka
        process.overflow.close()
        if by_another:
            self.owner = Owner(f"another-{self.replicas}", 1, 1)
            self.lost |= self.disk - on_kafka
            self.disk -= self.lost
        with self.writing():
            self.process = self.start()
        left = {n for n in self.disk if n not in on_kafka}
        # A new process may not know which records were given up, and try them once more.
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

    @invariant()
    def the_oldest_pending_record_is_known(self) -> None:
        """Of an earlier process's spool approximately: it need not be in order of reception."""
        in_memory = {record.time_us for record in self.process.in_memory} | self.held
        if self.process.overflow.recovered or not in_memory:
            return
        on_kafka = {n for one in self.kafka.values() for n in one}
        on_disk = self.disk - on_kafka - self.given_up - self.lost
        assert self.process.queues.oldest_us == min(in_memory | on_disk)

    def teardown(self) -> None:
        """Deliver the rest: only what was in memory alone when a process was killed is missing."""
        if not hasattr(self, "process"):
            return
        try:
            self.is_full = False
            if self.process.state.committing is not None:
                (self.get_the_response if self.asked else self.fail)()
            if any(one.sent for one in self.process.partitions):
                self.request_the_commit()
                self.commit()
                self.get_the_response()
            self.lose_leaders(frozenset())
            while self.process.overflow.reading:
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


def test_partitions_with_a_leader_need_neither_the_disk_nor_wait_for_the_one_without() -> None:
    outage = Outage()
    outage.begin()
    process = outage.process
    outage.receive([0, 0, 1, 1])
    outage.lose_leaders(frozenset({1}))
    outage.overflow()
    assert len(process.in_memory) == 2
    process.queues.refill()
    assert not process.overflow.active
    outage.transaction(9)
    outage.receive([0, 1, 2])
    assert {one.time_us for one in process.in_memory} == {5, 7}
    assert process.overflow.waiting == 3
    outage.transaction(9)
    assert process.events == ["spool_begun"]
    outage.lose_leaders(frozenset())
    process.queues.refill()
    outage.receive([1])
    assert {one.time_us for one in process.in_memory} == {3, 4, 6, 8}
    outage.transaction(9)
    assert process.overflow.size == 0
    outage.teardown()


def test_what_kafka_has_of_a_partition_is_not_read_again_when_only_another_one_has_a_leader_again() -> None:
    outage = Outage()
    outage.begin()
    outage.receive([0, 1, 0, 1])
    outage.overflow()
    outage.transaction(1)
    outage.lose_leaders(frozenset({0, 1}))
    outage.read_back()
    outage.lose_leaders(frozenset({1}))
    while outage.process.overflow.reading:
        outage.read_back()
    assert outage.process.overflow.waiting == 1
    outage.teardown()
    assert outage.lost == set()


def test_what_was_left_behind_is_found_behind_damage_that_others_have_met() -> None:
    outage = Outage()
    outage.begin()
    process = outage.process
    outage.receive([0, 1, 2])
    outage.lose_leaders(frozenset({1}))
    outage.overflow()
    outage.receive([0, 2, 2])
    (segment,) = outage.folder.glob("*.spool")
    damage(segment, process.overflow.size - 1)
    process.queues.refill()
    outage.receive([1, 1, 2])
    outage.lose_leaders(frozenset())
    process.queues.refill()
    assert [one.time_us for one in process.in_memory if one.key == SYMBOLS[1]] == [2, 7, 8]
    assert process.events == ["spool_begun", "spool_damaged", "gap", "gap"]
    outage.process.overflow.close()
    shutil.rmtree(outage.folder)


def test_a_commit_requested_before_spooling_started_is_honoured_after_a_kill() -> None:
    outage = Outage()
    outage.begin()
    outage.receive([0, 0, 1])
    outage.send(2)
    outage.request_the_commit()
    outage.overflow()
    outage.commit()
    outage.end(stop=False, by_another=False)
    outage.teardown()


def test_records_committed_from_memory_alone_are_not_taken_for_later_spooled_ones() -> None:
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


def test_what_was_committed_after_the_spool_was_read_is_not_repeated_after_a_kill() -> None:
    """The spool knows less of a symbol than Kafka if only records of other symbols are left in it."""
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


def killed_behind_a_commit() -> Outage:
    """Return an outage whose first process had spooled and committed some records when it was killed."""
    outage = Outage()
    outage.begin()
    outage.receive([0, 1, 1])
    outage.overflow()
    outage.send(1)
    outage.request_the_commit()
    outage.commit()
    outage.end(stop=False, by_another=False)
    return outage


def test_committed_offsets_outlive_a_process_that_reads_nothing_of_their_partition() -> None:
    outage = killed_behind_a_commit()
    assert outage.process.partitions == []
    outage.request_the_commit()
    outage.commit()
    outage.end(stop=False, by_another=False)
    outage.teardown()


@pytest.mark.parametrize("commit_requested", [False, True])
def test_a_record_spooled_in_flight_is_not_repeated_after_memory_overflows_again(
    commit_requested: bool,
) -> None:
    """It was settled after bridge-state had its last commit, so only the newest header can know of it."""
    outage = Outage()
    outage.begin()
    outage.overflow()
    outage.read_back()
    outage.receive([0, 0, 0])
    outage.send(1)
    outage.request_the_commit()
    outage.commit()
    outage.overflow()
    outage.read_back()
    outage.get_the_response()
    if commit_requested:
        outage.request_the_commit()
    outage.overflow()
    outage.end(stop=False, by_another=False)
    outage.teardown()


def test_a_rejected_record_is_skipped_after_a_kill_and_its_successors_are_not() -> None:
    outage = Outage()
    outage.begin()
    outage.receive([0] * 6)
    outage.overflow()
    outage.send(4)
    outage.reject(0)
    outage.transaction(1)
    outage.end(stop=False, by_another=False)
    outage.teardown()


def test_spooling_finishes_although_damage_has_cost_all_records_of_a_partition() -> None:
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
    assert len(outage.process.partitions) < len(SYMBOLS)
    outage.transaction(outage.number)
    assert outage.process.events[-1] == "spool_ended"
    outage.process.overflow.close()
    shutil.rmtree(outage.folder)


def committed(process: Process, *, with_sent: bool = False) -> int | None:
    """Return the committed offset of the first partition as bridge-state would have it."""
    process.queues.note_progress(with_sent=with_sent)
    progress = process.state.save([], NONE).spool_progress
    return decode_progress(progress).committed["trades/0"] if progress else None


def memory(process: Process) -> list[tuple[int, int | None]]:
    """Return the records of the first partition in memory, with their offsets in the spool."""
    partition = process.queues.places["trades/0"]
    records = [record.time_us for record in (*partition.sent, *partition.queued)]
    return list(zip_longest(records, partition.spooled))


def test_the_example_in_the_module_of_progress_is_true() -> None:
    """The records a to h are the numbers 1 to 8 here; each step is that of the example."""
    outage = Outage()
    outage.begin()
    process, (a, b, c, d, e, f, g, h) = outage.process, range(1, 9)
    spool = process.overflow._spool
    assert spool is not None

    def quantities() -> tuple[int | None, int, int | None]:
        return spool.end.get("trades/0"), spool.position("trades/0"), committed(process)

    outage.receive([0] * 4)
    assert memory(process) == [(a, None), (b, None), (c, None), (d, None)]
    assert committed(process) is None
    outage.overflow()
    assert memory(process) == [(a, 0), (b, 1), (c, 2), (d, 3)]
    assert quantities() == (4, 4, 0)
    outage.receive([0, 0])
    outage.receive([0])
    assert quantities() == (7, 4, 0)
    (segment,) = outage.folder.glob("*.spool")
    damage(segment, segment.stat().st_size - 1)  # of the block with g, which is not read before step 7
    outage.transaction(2)
    assert memory(process) == [(c, 2), (d, 3)]
    assert quantities() == (7, 4, 2)
    outage.read_back()
    assert memory(process) == [(c, 2), (d, 3), (e, 4), (f, 5)]
    assert quantities() == (7, 6, 2)
    outage.send(1)
    outage.reject(0)
    assert memory(process) == [(d, 3), (e, 4), (f, 5)]
    assert quantities() == (7, 6, 3)
    outage.read_back()
    assert not process.overflow.active
    assert process.events == ["spool_begun", "spool_damaged", "gap"]
    assert quantities() == (7, 7, 3)
    outage.receive([0])
    assert memory(process) == [(d, 3), (e, 4), (f, 5), (h, None)]
    assert quantities() == (7, 7, 3)
    outage.send(2)
    assert committed(process, with_sent=True) == 5
    outage.request_the_commit()
    outage.commit()
    outage.disk.remove(g)
    outage.lost.add(g)
    outage.end(stop=False, by_another=False)
    outage.process.queues.refill()
    assert memory(outage.process) == [(f, 5)]
    assert outage.lost == {g, h}
    outage.teardown()


def test_progress_of_a_finished_spool_deletes_nothing_of_the_next_one() -> None:
    """At-least-once it may be saved after the next spool has begun."""
    outage = Outage()
    outage.begin()
    outage.receive([0] * 40)
    outage.overflow()
    outage.send(40)
    outage.process.queues.note_progress(with_sent=True)
    first, late = outage.process.state.save([], NONE), outage.process.state.save([], NONE)
    for partition in outage.process.partitions:
        partition.settle()
    outage.process.queues.saved(first)
    assert outage.process.overflow.active
    outage.read_back()
    outage.process.queues.saved(first)
    assert outage.process.events == ["spool_begun", "spool_ended"]
    outage.receive([0] * 40)
    outage.overflow()
    outage.read_back()
    outage.process.queues.saved(late)
    assert outage.process.events == ["spool_begun", "spool_ended", "spool_begun"]
    assert memory(outage.process)[0] == (41, 0)
    outage.process.overflow.close()
    shutil.rmtree(outage.folder)


def test_a_spool_is_delivered_by_processes_that_find_the_disk_full() -> None:
    """They can't write their names to it, but what they saved on Kafka shows that it was theirs."""
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


def test_while_the_disk_is_full_new_records_are_held_in_memory() -> None:
    outage = Outage()
    outage.begin()
    outage.receive([0, 0, 1])
    outage.overflow()
    with full_disk():
        outage.end(stop=False, by_another=False)
        overflow = outage.process.overflow
        assert not overflow.put([("trades/0", trade(0, 4))])
        assert not overflow.make_room()
    assert overflow.make_room()
    assert overflow.waiting == 4
    outage.received[SYMBOLS[0]].append(4)
    outage.teardown()


@pytest.mark.parametrize(
    ("previous", "reported"),
    [
        (None, False),
        (Owner("before", 1, 7, saved_us=5, ended=True), False),
        (Owner("before", 1, 7, saved_us=5), True),
    ],
)
@pytest.mark.parametrize("with_spool", [True, False])
def test_what_an_owner_left_behind_is_reported_unless_it_ended_with_nothing_left(
    tmp_path: Path, previous: Owner | None, *, reported: bool, with_spool: bool
) -> None:
    spool = Spool(tmp_path, 10_000, 1_500) if with_spool else None
    overflow = Overflow(spool, "replica", 0, {})
    overflow.recover(previous, 1, None)
    events = overflow.events()
    assert [kind for kind, _ in events] == (["records_lost"] if reported else [])
    for _, about in events:
        assert about["after_us"] == 5 < about["before_us"]
        assert (about["detail"] or "").startswith("before ended")
    overflow.close()


def test_what_was_in_memory_of_a_killed_process_is_not_lost_if_its_spool_is_continued() -> None:
    outage = killed_behind_a_commit()
    assert outage.process.overflow.recovered
    assert "records_lost" not in outage.process.events
    outage.end(stop=False, by_another=True)
    assert "records_lost" in outage.process.events
    outage.teardown()


def test_a_shard_whose_spool_cannot_be_used_when_it_is_taken_over_is_served_without_it(
    tmp_path: Path,
) -> None:
    """Reading is not paused, and nothing has overflowed: the log and `/readyz` say what is so."""
    (tmp_path / "file").touch()
    overflow = Overflow(Spool(tmp_path / "file", 10_000, 1_500), "replica", 3, {})
    with capture_logs() as lines:
        overflow.recover(None, 1, None)
    assert [line["event"] for line in lines] == ["spool not usable, the shard is served without it"]
    assert overflow.trouble is not None
    assert overflow.trouble.startswith("shard 3 is served without its spool, until a restart: ")
    assert (overflow.active, overflow.events()) == (False, [])


def test_nothing_is_pending_at_first_and_once_all_is_on_kafka() -> None:
    outage = Outage()
    outage.begin()
    found = [outage.process.queues.oldest_us]
    outage.receive([0, 1, 2])
    found.append(outage.process.queues.oldest_us)
    outage.transaction(1)
    found.append(outage.process.queues.oldest_us)
    outage.teardown()
    assert found == [None, 1, None]


def test_since_when_records_wait_is_known_before_and_after_a_spool_is_taken_over() -> None:
    outage = Outage()
    outage.begin()
    outage.receive([0, 1, 2])
    outage.transaction(1)
    outage.receive([2, 0, 1])  # the oldest of these is not in the first partition
    outage.overflow()
    outage.receive([0, 0, 1])
    shard = outage.folder.parent / f"{outage.folder.name}-0"
    outage.process.overflow.close()
    outage.folder.rename(shard)
    assert left_behind(shard.parent, outage.folder.name, range(2)) == {0: 4}
    shard.rename(outage.folder)
    outage.end(stop=False, by_another=False)
    assert outage.process.queues.oldest_us == 4
    outage.teardown()


def test_a_spool_of_an_earlier_version_or_a_folder_with_other_things_is_no_trouble(tmp_path: Path) -> None:
    """What has no time in its header waits since its last change at least; what has no header does not."""
    for shard, content in enumerate([header_block(OLD), b"", None]):
        folder = tmp_path / f"md-{shard}"
        folder.mkdir()
        segment = folder / "000000000001.spool"
        if content is None:
            segment.symlink_to("/dev/zero")
        else:
            segment.write_bytes(content)
            os.utime(segment, ns=(0, 7_000_000))
    (tmp_path / "md-3").touch()
    assert left_behind(tmp_path, "md", range(5)) == {0: 7000}
