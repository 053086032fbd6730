"""The queues: what of one shard's records Kafka does not have for good yet, by partition.

A record stays with its partition until it is settled. Behind the queues in memory is the disk: while anything
waits there, new records go to its end, and the oldest ones move up as soon as memory has room.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace

from bridge.kafka.partition import FULL_BATCH, OBJECT_OVERHEAD, Partition
from bridge.kafka.topics import Topic
from bridge.records import EVENTS, Record
from bridge.spool.overflow import Overflow
from bridge.spool.segment import Place
from bridge.watch.metrics import Metrics

_REFILL = 2 * 1024 * 1024  # bytes of records that are read from disk at once


class Queues:
    """The records that wait or are on their way; `dirty` are the partitions with some that were not sent.

    `something` is set when there is something new to do, `batch_is_full` when a partition has a whole batch.
    `on_room(False)` is called when more than `max_pending_bytes` wait and the disk takes none either,
    `on_room(True)` when it is down to half of that.
    """

    def __init__(
        self,
        topics: Mapping[str, Topic],
        overflow: Overflow,
        metrics: Metrics,
        *,
        max_pending_bytes: int,
        on_room: Callable[[bool], None],
    ) -> None:
        self.pending_records = 0
        self.pending_bytes = 0
        self.places: dict[Place, Partition] = {}
        self.dirty: dict[Partition, None] = {}
        self.events: list[Partition] = []
        self.draining = False
        self.something = asyncio.Event()
        self.batch_is_full = asyncio.Event()
        self._topics = topics
        self._overflow = overflow
        self._metrics = metrics
        self._max_pending_bytes = max_pending_bytes
        self._on_room = on_room
        self._no_room = False
        self._routes: dict[str, dict[bytes | None, Partition]] = {channel: {} for channel in topics}

    def add(self, records: Iterable[Record]) -> list[Record]:
        """Queue records for delivery; return those larger than their topics take, which were not queued."""
        if self._overflow.active:
            return self._queue_up(records)
        refused = []
        number = value_bytes = 0
        for record in records:
            size = len(record.value)
            partition = self._routes[record.channel].get(record.key) or self._route(record)
            if size + len(record.key or b"") > partition.room:
                refused.append(record)
                continue
            queued = partition.queued
            if not queued:
                self.dirty[partition] = None
                self.something.set()
            queued.append(record)
            if len(queued) == FULL_BATCH and partition.delivery is None:
                self.batch_is_full.set()
            number += 1
            value_bytes += size
        self.pending_records += number
        self.pending_bytes += value_bytes + number * OBJECT_OVERHEAD
        if self.pending_bytes > self._max_pending_bytes and not self._no_room:
            self._no_room = True  # while it is told, records may be added
            self._no_room = not self._overflow.begin(self.places.values())
            if self._no_room:
                self._on_room(False)
        return refused

    def pending(self, channels: Collection[str]) -> bool:
        """Tell if records of these channels wait or are not settled yet."""
        names = {self._topics[channel].name for channel in channels if channel in self._topics}
        if self._overflow.active:
            return True
        return any(p.queued or p.sent for p in self.places.values() if p.topic.name in names)

    def drain(self) -> None:
        """Deliver what is in memory, and nothing after that."""
        self.draining = True
        self.something.set()
        self.batch_is_full.set()  # ends the pause before the next flush

    def park(self) -> tuple[int, int]:
        """Leave on disk what waits, for the process ends; return how many records are there, and lost."""
        return self._overflow.park(self.places.values())

    def refill(self) -> None:
        """Move the oldest records that wait on disk into the queues, as long as these have room."""
        enough = min(self.pending_bytes + _REFILL, self._max_pending_bytes // 2)
        while self._overflow.active and not self.draining and self.pending_bytes < enough:
            for place, record in self._overflow.next():
                partition = self.places.get(place) or self._open(place, record)
                if not partition.queued:
                    self.dirty[partition] = None
                partition.queued.append(record)
                self.pending_records += 1
                self.pending_bytes += len(record.value) + OBJECT_OVERHEAD

    def requeue(self) -> None:
        """Queue all that was sent and is not settled once more, in front."""
        for partition in self.places.values():
            partition.requeue()
            if partition.queued:
                self.dirty[partition] = None

    def settle(self, partitions: Iterable[Partition]) -> None:
        """Forget what was sent to these partitions, for Kafka has it for good."""
        now_us = time.time_ns() // 1000
        all_records = all_bytes = 0
        for partition in partitions:
            if not partition.sent:
                continue
            channel = partition.sent[0].channel
            lag = self._metrics.histogram("delivery_lag_seconds", channel=channel)
            acknowledged = self._metrics.counter("records_total", channel=channel)
            for records, value_bytes, time_us in partition.settle():
                acknowledged.value += records
                lag.observe((now_us - time_us) / 1e6, records)
                all_records += records
                all_bytes += value_bytes
        # Only now, for what moves up from the disk may be of a partition that is new.
        self.release(all_records, all_bytes)

    def release(self, records: int, value_bytes: int) -> None:
        """Take note that so many records do not wait any more."""
        self.pending_records -= records
        self.pending_bytes -= value_bytes + records * OBJECT_OVERHEAD
        if self.pending_bytes <= self._max_pending_bytes / 2:
            self.refill()
            if self._no_room:
                self._has_room(self._overflow.has_room())

    def _queue_up(self, records: Iterable[Record]) -> list[Record]:
        """Let records queue up behind those that wait on disk; return those larger than their topics take."""
        refused, entries = [], []
        for record in records:
            partition = self._routes[record.channel].get(record.key) or self._route(record)
            if len(record.value) + len(record.key or b"") > partition.room:
                refused.append(record)
            else:
                entries.append((partition.place, record))
        if entries and not self._overflow.put(entries):
            self._has_room(False)
        return refused

    def _has_room(self, room: bool) -> None:
        if room == self._no_room:
            self._no_room = not room
            self._on_room(room)

    def _route(self, record: Record) -> Partition:
        topic = self._topics[record.channel]
        number = topic.partition(record.key)
        place = f"{topic.name}/{number}"
        partition = self.places.get(place) or self._open(place, record)
        self._routes[record.channel][record.key] = partition
        return partition

    def _open(self, place: Place, record: Record) -> Partition:
        name, _, number = place.rpartition("/")
        # A record on disk may be of a channel that is not configured any more.
        topic = self._topics.get(record.channel) or replace(self._topics[EVENTS], name=name)
        partition = Partition(topic, int(number), marked=record.mark is not None)
        self.places[place] = partition
        if record.channel == EVENTS:
            self.events.append(partition)
        return partition
