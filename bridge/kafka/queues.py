"""The queues: the pending records of one shard, by partition.

A record stays with its partition until it is settled. Behind the queues in memory is the spool: while that
has unread records, new ones are appended to it, and the oldest ones move up as soon as memory has room. As
long as it is in use, the records of a partition that cannot be sent stay there, so that they take no memory
from the others.

Longer than 350 lines because every way into memory and out of it keeps the same counts.
"""

import asyncio
import heapq
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain

from bridge.channels import CHANNELS, PRIVATE
from bridge.kafka.partition import FULL_BATCH, OBJECT_OVERHEAD, Partition
from bridge.kafka.state import Save, ShardState, Unsaved
from bridge.kafka.topics import Topic
from bridge.ledger import Watermarks, covers
from bridge.records import BOOK, EVENTS, Record, schema_of
from bridge.seen import Seen
from bridge.spool.overflow import Overflow
from bridge.spool.segment import Entry, Place
from bridge.watch.metrics import Metrics

_MOST_ROUTES = 50_000  # keys of a channel whose partitions are remembered
_REFILL = 2 * 1024 * 1024  # bytes of records that are read from the spool at once
_SEARCHED = 16 * 1024 * 1024  # bytes of the spool that are read for them at once: few may be to be sent now


class Queues:
    """The pending records of one shard, up to `max_pending_bytes` in memory, then in the overflow.

    `on_change` is called when `has_room` has changed or the overflow has events to record, always as the last
    act of a method: it may add records.
    """

    def __init__(
        self,
        topics: Mapping[str, Topic],
        state: ShardState,
        overflow: Overflow,
        metrics: Metrics,
        *,
        max_pending_bytes: int,
        on_change: Callable[[], None],
    ) -> None:
        # Whether more records may be added. Becomes False when memory is full and the disk takes nothing, and
        # True again when memory is half empty and the disk has taken the records that it refused.
        self.has_room = True
        self.pending_records = 0  # records in memory that are not settled
        self.pending_bytes = 0  # the bytes of memory that they take, approximately
        self.places: dict[Place, Partition] = {}  # all partitions that have had records
        # Those with queued records to send, as an ordered set; those that can't be, until `set_stuck_aside`.
        self.dirty: dict[Partition, None] = {}
        self.event_partitions: list[Partition] = []  # those of events topics, which are sent first
        self.draining = False  # whether the shard is being stopped: then the spool is not read any more
        # Set when there is something to send, to save or to read from the spool, when a batch has failed, and
        # by `drain`. The sink clears it before it looks for any of that.
        self.something = asyncio.Event()
        # Set when a partition has a full batch, and by `drain`. The sink clears it after every pause.
        self.batch_is_full = asyncio.Event()
        # Whether keys still go by an earlier number of partitions, because the spool has records for these.
        self.behind = False
        # The last trades on Kafka of symbols whose state was lost: with it, the spool's progress was lost.
        self.rebuilt: Watermarks = {}
        # Called with each channel that the spool has records for and that is not among the topics.
        self.on_unknown: Callable[[str], None] = lambda _: None
        self._topics = topics  # as they are
        self._routed = dict(topics)  # by whose number of partitions keys are routed
        self._state = state
        self._overflow = overflow
        self._metrics = metrics
        self._max_pending_bytes = max_pending_bytes
        self._on_change = on_change
        # By channel and key, so that a key is hashed once; grows with the symbols, up to _MOST_ROUTES.
        self._routes: dict[str, dict[bytes | None, Partition]] = {channel: {} for channel in topics}

    def add(self, records: Iterable[Record]) -> list[Record]:
        """Queue records for delivery; return those too large for their topics, which were not queued."""
        if self._overflow.active:
            return self._append(records)
        too_large = []
        spilled: list[Entry] = []
        number, needed = 0, self.pending_bytes
        for record in records:
            key = record.key
            size = len(record.value)
            partition = self._routes[record.channel].get(key) or self._route(record)
            if size > partition.sure_room and size + len(key or b"") > partition.room:
                too_large.append(record)
                continue
            if partition.spilled:
                spilled.append((partition.place, record))
                continue
            queued = partition.queued
            queued.append(record)
            length = len(queued)
            if length == 1:
                self.dirty[partition] = None
                self.something.set()
            elif length == FULL_BATCH and partition.delivery is None:
                self.batch_is_full.set()
            number += 1
            needed += size + OBJECT_OVERHEAD
        self.pending_records += number
        self.pending_bytes = needed
        if spilled and not self._overflow.put(spilled):
            self._report(has_room=False)
        elif needed > self._max_pending_bytes and self.has_room:
            self._report(has_room=self.begin_spool())
        return too_large

    def unsaved(self, *, with_sent: bool) -> Unsaved:
        """Return the oldest records that a save now would leave out; `with_sent`: it includes the sent ones.

        The records of a partition are in order of reception, so its first one is its oldest.
        """
        waiting_us = self._overflow.oldest_us
        public = other = waiting_us
        for partition in self.places.values():
            records = partition.sent if partition.sent and not with_sent else partition.queued
            if not records:
                continue
            received_us = records[0].time_us
            if partition.is_public:
                public = received_us if public is None else min(public, received_us)
            else:
                other = received_us if other is None else min(other, received_us)
        return Unsaved(public, other)

    @property
    def oldest_us(self) -> int | None:
        """When the oldest pending record was received, in memory or on disk; None if none is pending.

        The records of a partition are in order of reception.
        """
        firsts = (partition.sent or partition.queued for partition in self.places.values())
        times = [records[0].time_us for records in firsts if records]
        if (on_disk := self._overflow.waiting_since_us) is not None:
            times.append(on_disk)
        return min(times, default=None)

    @property
    def spool_is_read(self) -> bool:
        """Whether no records wait behind those in memory."""
        return not self._overflow.waiting

    def drain(self) -> None:
        """Deliver the records in memory, and no others."""
        self.draining = True
        self.something.set()
        self.batch_is_full.set()  # ends the pause before the next flush

    def set_stuck_aside(self) -> None:
        """Leave out of `dirty` what cannot be sent, until it can."""
        for partition in self._blocked(self.dirty):
            del self.dirty[partition]

    @property
    def events_wait(self) -> bool:
        """Whether events wait that trades must not overtake, in a partition that is stuck or in the spool."""
        return any(
            one.has_marks and (one.spilled or (one.stuck and one.queued)) for one in self.event_partitions
        )

    def _blocked(self, partitions: Iterable[Partition]) -> list[Partition]:
        """Return those of these partitions that nothing can be sent to at the moment."""
        events_wait = self.events_wait
        return [
            one
            for one in partitions
            if one.stuck or (events_wait and one.has_marks and one not in self.event_partitions)
        ]

    def can_send(self) -> bool:
        """Return whether records are queued that can be sent."""
        return bool(self.dirty) and any(not one.stuck for one in self.dirty)

    def note_cluster(self, seen: Seen) -> None:
        """Remember the cluster in the spool, if there is one."""
        self._overflow.seen = seen

    def follow(self, topics: Mapping[str, Topic]) -> list[tuple[Partition, list[Record]]]:
        """Follow what has changed of the topics; return the queued records that have become too large.

        These are pending no more. Nothing may be sent and not settled.
        """
        for channel in topics.keys() - self._routed.keys():
            self._routed[channel], self._routes[channel] = topics[channel], {}
        self._topics = topics
        by_name = {topic.name: topic for topic in topics.values()}
        for partition in self.places.values():
            if (topic := by_name.get(partition.topic.name)) is not None:
                partition.follow(topic)
        self.reroute()
        too_large = [(one, records) for one in self.places.values() if (records := one.take_too_large())]
        self._leave_blocked()
        self._take_up()
        return too_large

    def reroute(self) -> None:
        """Send keys to the partitions that follow from the topics' present numbers of them.

        It holds for what is queued as well, and nothing may be sent and not settled: so the records of a key
        stay in order. The spool has its records by their partitions; as long as it has any, this waits.
        """
        changed = [
            channel
            for channel, topic in self._topics.items()
            if topic.partitions != self._routed[channel].partitions
        ]
        self.behind = bool(changed) and (
            self._overflow.active or any(one.spooled or one.spilled for one in self.places.values())
        )
        if not changed or self.behind:
            return
        self._routed = dict(self._topics)
        names = {self._topics[channel].name for channel in changed}
        moving = [one for one in self.places.values() if one.topic.name in names]
        queued = [one.queued for one in moving]
        for partition in moving:
            partition.queued = []
            self.dirty.pop(partition, None)
        for channel in changed:
            self._routes[channel].clear()
        for record in heapq.merge(*queued, key=lambda one: one.time_us):
            partition = self._route(record)
            partition.queued.append(record)
            self.dirty[partition] = None

    def recover(self) -> None:
        """Continue the spool that an earlier process has left, once the state of the shard was read."""
        state = self._state
        self._overflow.recover(state.previous, state.shards, state.spool_progress)
        self._report(has_room=self.has_room)

    def refill(self) -> None:
        """Move the oldest records of the spool into memory, as long as that has room."""
        has_room = self.begin_spool() if self._is_in_the_way() else self.has_room
        self._read_spool()
        self._report(has_room=has_room or self._makes_room())

    def requeue(self) -> None:
        """Queue all records that were sent and are not settled again, in front."""
        for partition in self.places.values():
            partition.requeue()
            if partition.queued and not partition.stuck:
                self.dirty[partition] = None
        self._leave_blocked()

    def settle(self, partitions: Iterable[Partition]) -> None:
        """Forget the records sent to these partitions, now that they are settled."""
        all_records = all_bytes = 0
        for partition in partitions:
            if partition.sent:
                records, value_bytes = self.note_delivered(partition)
                all_records += records
                all_bytes += value_bytes
        # Only now: records that move up from the spool may add partitions to those that are iterated over.
        self.release(all_records, all_bytes)

    def note_delivered(self, partition: Partition) -> tuple[int, int]:
        """Forget the records sent to a partition, and count them; return their number and bytes of values.

        A book may have waited until it was due, so its lag would say nothing of Kafka.
        """
        now_us = time.time_ns() // 1000
        channel = schema_of(partition.sent[0].channel)
        lag = None if channel == BOOK else self._metrics.histogram("delivery_lag_seconds", channel=channel)
        acknowledged = self._metrics.counter("records_total", channel=channel)
        all_records = all_bytes = 0
        for records, value_bytes, time_us in partition.settle():
            acknowledged.value += records
            if lag is not None:
                lag.observe((now_us - time_us) / 1e6, records)
            all_records += records
            all_bytes += value_bytes
        return all_records, all_bytes

    def release(self, records: int, value_bytes: int) -> None:
        """Give back the memory of records that are not pending any more."""
        self.pending_records -= records
        self.pending_bytes -= value_bytes + records * OBJECT_OVERHEAD
        if self.pending_bytes <= self._max_pending_bytes / 2:
            self._read_spool()
            self._report(has_room=self.has_room or self._makes_room())

    def note_progress(self, *, with_sent: bool) -> None:
        """Include the spool's committed offsets in the next save, behind the sent records if `with_sent`."""
        progress = self._overflow.progress(self._first_spooled(with_sent), self._state.next_number)
        if progress is not None:
            self._state.note_spool(progress)

    def saved(self, save: Save) -> None:
        """Delete spooled records below the committed offsets, if `save` contains these."""
        if (progress := save.spool_progress) is not None:
            self._overflow.saved(progress)
            self._report(has_room=self.has_room)

    def begin_spool(self) -> bool:
        """Append all pending records to the spool, so that new ones queue there; return whether it worked."""
        committing = self._state.committing
        backlogs = [partition.backlog() for partition in self.places.values()]
        appended = self._overflow.begin(backlogs, committing.transaction if committing else None)
        for place, offsets in appended.items():
            self.places[place].spooled += offsets
        if self._overflow.active:
            self._leave_blocked()
            self.something.set()  # to read on, if that has made room
        return self._overflow.active

    def park(self) -> tuple[int, int]:
        """Leave the pending records in the spool before the process ends.

        Returns the number of records left in the spool, and the number of records lost.
        """
        lost = 0
        if not self._overflow.active and (lost := self._in_memory()):
            lost = 0 if self.begin_spool() else self._not_spooled()
            self._report(has_room=self.has_room)
        pending = self._in_memory() - lost
        unread, not_taken = self._overflow.park()
        return pending + unread, lost + not_taken

    def _in_memory(self) -> int:
        return sum(len(partition.sent) + len(partition.queued) for partition in self.places.values())

    def _not_spooled(self) -> int:
        return self._in_memory() - sum(len(partition.spooled) for partition in self.places.values())

    def _append(self, records: Iterable[Record]) -> list[Record]:
        """Append records to the spool; return those that are too large for their topics."""
        too_large: list[Record] = []
        entries: list[Entry] = []
        for record in records:
            partition = self._routes[record.channel].get(record.key) or self._route(record)
            if len(record.value) + len(record.key or b"") > partition.room:
                too_large.append(record)
            else:
                entries.append((partition.place, record))
        if entries and not self._overflow.put(entries):
            self._report(has_room=False)
        return too_large

    def _is_in_the_way(self) -> bool:
        """Return whether what cannot be sent takes memory from what is to be read, and the disk has room."""
        most = self._max_pending_bytes // 4
        overflow = self._overflow
        if not overflow.reading or overflow.active or self.draining or not self.has_room:
            return False
        if self.pending_bytes < most or not overflow.has_room:
            return False
        blocked = chain.from_iterable(one.queued for one in self._blocked(self.places.values()))
        return sum(len(one.value) + OBJECT_OVERHEAD for one in blocked) >= most

    def _can_deliver(self) -> bool:
        """Return whether memory has records that are sent, or can be."""
        blocked = set(self._blocked(self.places.values()))
        return any(one.sent or (one.queued and one not in blocked) for one in self.places.values())

    def _read_spool(self) -> None:
        """Read on until memory has enough: half of what it may have at most, or anything that can be sent."""
        enough = min(self.pending_bytes + _REFILL, self._max_pending_bytes // 2)
        far_enough = self._overflow.bytes_read + _SEARCHED
        while self._overflow.reading and not self.draining:
            if self.pending_bytes >= enough and self._can_deliver():
                break
            if self._overflow.bytes_read >= far_enough:
                self.something.set()  # to read on, once others have had their turn
                break
            self._read_block()
        if not self._overflow.waiting:
            self.rebuilt = {}  # it is about the spool of an earlier process alone

    def _read_block(self) -> None:
        for place, record, offset in self._overflow.next():
            if self.rebuilt and covers(self.rebuilt, record):
                continue
            partition = self.places.get(place) or self._open(place, record)
            if not partition.queued:
                self.dirty[partition] = None
            partition.queued.append(record)
            if offset is not None:
                partition.spooled.append(offset)
            self.pending_records += 1
            self.pending_bytes += len(record.value) + OBJECT_OVERHEAD
        self._leave_blocked()
        if not self._overflow.reading:
            for partition in self.places.values():
                partition.spilled = partition.spilled and partition.place in self._overflow.left
            self._take_up()

    def _leave_blocked(self) -> None:
        """Leave the records of partitions that cannot be sent in the spool, as far as it has all of them."""
        for partition in self._blocked(self.places.values()):
            if partition.sent or not partition.queued or len(partition.spooled) < len(partition.queued):
                continue
            offsets, partition.spooled = partition.spooled, []
            records, partition.queued = partition.queued, []
            self._overflow.leave(partition.place, offsets, records)
            partition.spilled = True
            self.dirty.pop(partition, None)
            self.pending_records -= len(records)
            self.pending_bytes -= sum(len(one.value) + OBJECT_OVERHEAD for one in records)

    def _take_up(self) -> None:
        """Send what could not be sent and can be now: what is queued, and what was left in the spool."""
        blocked = set(self._blocked(self.places.values()))
        left = self._overflow.left
        can_be_read = []
        for place, partition in self.places.items():
            if partition in blocked:
                self.dirty.pop(partition, None)
            elif partition.queued:
                self.dirty[partition] = None
            if place in left and partition not in blocked:
                can_be_read.append(place)
        if can_be_read:
            self._overflow.take_up(can_be_read)

    def _first_spooled(self, with_sent: bool) -> Iterator[tuple[Place, int]]:
        for place, partition in self.places.items():
            first = partition.first_spooled(after_sent=with_sent)
            if first is not None:
                yield place, first

    def _makes_room(self) -> bool:
        return self.pending_bytes <= self._max_pending_bytes / 2 and self._overflow.make_room()

    def _report(self, *, has_room: bool) -> None:
        if has_room != self.has_room or self._overflow.has_events:
            self.has_room = has_room
            self._on_change()

    def _route(self, record: Record) -> Partition:
        topic = self._routed[record.channel]
        number = topic.partition(record.key)
        place = f"{topic.name}/{number}"
        partition = self.places.get(place) or self._open(place, record)
        routes = self._routes[record.channel]
        if len(routes) >= _MOST_ROUTES:
            routes.clear()  # they are found again
        routes[record.key] = partition
        return partition

    def _open(self, place: Place, record: Record) -> Partition:
        name, _, number = place.rpartition("/")
        topic = self._topics.get(record.channel)
        if topic is None:  # a record in the spool, of a channel that is not configured any more
            topic = replace(self._topics[EVENTS], name=name, id="", missing="not looked at yet")
            self.on_unknown(record.channel)
        partition = Partition(
            topic,
            int(number),
            has_marks=record.mark is not None or record.channel == EVENTS,
            is_public=record.channel in CHANNELS and record.channel not in PRIVATE,
        )
        self.places[place] = partition
        if schema_of(record.channel) == EVENTS:
            self.event_partitions.append(partition)
        return partition
