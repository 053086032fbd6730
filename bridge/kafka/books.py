"""The records of `book`: made of the records of `depth` that a producer has sent, and sent right behind them.

They are in no queue and in no spool, because they can be made again: in a transaction that is repeated, from
the same records of `depth`; after a restart, from the next snapshot.

With transactions, a book is in that of the last record of `depth` that it contains, or in a later one if it
was not due then. Without, it is sent once Kafka has acknowledged that record.

bridge-state says which symbols may have a book on Kafka: each one that has one, so that its tombstone is not
forgotten. With transactions, the save is in that of the book or tombstone. Without, it comes before a
symbol's first book, and after its tombstone.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain

import structlog
from aiokafka.errors import UnknownError

from bridge.books.present import MOST_LEVELS, PresentBooks
from bridge.kafka.batches import Batches, Failure
from bridge.kafka.partition import Partition
from bridge.kafka.queues import Queues
from bridge.kafka.rejections import RECORDS_FAULT, TOO_LARGE, UNKNOWN_ERRORS
from bridge.kafka.state import ShardState
from bridge.kafka.topics import Topic
from bridge.records import BOOK, Record

log = structlog.get_logger(__name__)

DEPTH = "depth"

_TRIED_AGAIN = 3600.0
"""Seconds after which a book is sent again that was rejected: why, the bridge can't always see."""


class Books:
    """Sends the books of one shard; `on_refused` is called for those that are too large, or rejected."""

    def __init__(
        self,
        present: PresentBooks,
        topics: Mapping[str, Topic],
        queues: Queues,
        state: ShardState,
        *,
        on_refused: Callable[[Record, str], None],
    ) -> None:
        self._present = present
        self._topic = topics[BOOK]
        self._depth = topics[DEPTH].name
        self._queues = queues
        self._state = state
        self._on_refused = on_refused
        self._partitions: dict[int, Partition] = {}  # those that have had records; empty but while sending
        self._refused: set[bytes] = set()  # keys whose last book was refused; each is reported once
        # What is not sent again, by key: a record of so many bytes or more (0: any), until a monotonic time.
        # Each one that Kafka rejects fails a transaction.
        self._rejected: dict[bytes, tuple[int, float]] = {}
        self.held = False  # whether first books of symbols wait for the next save; not with transactions
        self.gone: set[bytes] = set()  # keys whose tombstones are not on Kafka yet
        self._made_us = 0  # when the records that are being sent were made, in µs since the epoch

    def forget(self, keys: Iterable[bytes]) -> None:
        """Forget symbols that are not followed any more; the next save sends their tombstones."""
        for key in keys:
            self._present.forget(key)
            self._refused.discard(key)
            self._rejected.pop(key, None)
            self.gone.add(key)
            self._state.due = True
            self._queues.something.set()

    def follow(self, topic: Topic) -> None:
        """Follow what has changed of the topic; nothing may be sent and not settled.

        A topic that was created again gets all books again. Of a topic that has more partitions, the old ones
        keep the last books of the keys that have moved.
        """
        if topic.id != self._topic.id:
            self._present.repeat()
        if (topic.id, topic.partitions) != (self._topic.id, self._topic.partitions):
            self._partitions.clear()
        if (topic.id, topic.max_message_bytes) != (self._topic.id, self._topic.max_message_bytes):
            self._rejected.clear()
        for partition in self._partitions.values():
            partition.follow(topic)
        self._topic = topic

    def take(self, partition: Partition) -> None:
        """Take the records that were sent to a partition, if it is one of `depth`."""
        if partition.topic.name == self._depth:
            for key in self._present.take(partition.sent):
                self._refuse(Record(BOOK, key, b"", 0), f"more than {MOST_LEVELS:,} levels on a side")

    async def send(self, batches: Batches) -> None:
        """Send the books that are due.

        Raises:
            KafkaError: a batch has failed; none is in flight any more.
        """
        if any(partition.sent for partition in self._partitions.values()):
            return  # without transactions, the last ones may not be acknowledged yet
        self.drop()  # what a frozen process did not send
        self._made_us = time.time_ns() // 1000
        tombstones = (Record(BOOK, key, b"", self._made_us) for key in self.gone)
        self.held = False
        refused: list[Record] = []
        for record in chain(tombstones, self._present.due(self._made_us)):
            if self._topic.has_to_wait(self._topic.partition(record.key)):
                continue
            if record.value and not (batches.in_transactions or self._state.has_book(record.key or b"")):
                self._state.note_books([record])  # once that is saved, its book can be sent
                self.held = True
            elif not self._queue(record):
                refused.append(record)
        self._present.refused(refused, self._made_us)
        for record in refused:
            self._refuse(record, f"{len(record.value)} bytes, too large for {self._topic.name}")
        if batches.in_transactions:
            for partition in self._partitions.values():
                self._state.note_books(partition.queued)
        await batches.send_all(self._partitions.values())

    def settle(self, partitions: Iterable[Partition] | None = None) -> None:
        """Note that what was sent is on Kafka; `partitions`: of these, otherwise of all."""
        for partition in self._partitions.values() if partitions is None else partitions:
            if partition.sent:
                self._state.note_books(partition.sent)
                self._present.made(partition.sent, self._made_us)
                for record in partition.sent:
                    key = record.key or b""
                    if record.value:
                        self._refused.discard(key)
                    else:
                        self.gone.discard(key)
                self._queues.note_delivered(partition)

    def drop(self) -> None:
        """Forget what was sent, which is not on Kafka; it is made again."""
        for partition in self._partitions.values():
            partition.requeue()
            self._state.withdraw_tombstones(partition.queued)
            partition.queued.clear()

    def owns(self, partition: Partition) -> bool:
        """Return whether a partition is one of `book`."""
        return self._partitions.get(partition.number) is partition

    def handle(self, failures: Sequence[Failure]) -> None:
        """Find the books that make batches fail.

        None of the same symbol that is as large is sent again for an hour, or until the topic's limit has
        changed; if it was rejected for another reason, none at all.
        """
        for partition, error in failures:
            if self.owns(partition) and isinstance(error, RECORDS_FAULT):
                attempts = UNKNOWN_ERRORS if isinstance(error, UnknownError) else 1
                too_large = isinstance(error, TOO_LARGE)
                rejected = partition.isolate(attempts, too_large=too_large)
                if rejected is not None:
                    key = rejected.key or b""
                    if rejected.value:
                        size = len(rejected.value) if too_large else 0
                        self._rejected[key] = size, time.monotonic() + _TRIED_AGAIN
                    else:
                        self._state.note_books([rejected])  # it would be rejected again
                    self._present.refused([rejected], self._made_us)
                    self.gone.discard(key)
                    self._refuse(rejected, f"rejected by {self._topic.name}: {error}")

    def _queue(self, record: Record) -> bool:
        """Put a record into its partition; return False if it is too large, or like one that was rejected."""
        number = self._topic.partition(record.key)
        partition = self._partitions.get(number)
        if partition is None:
            partition = self._partitions[number] = Partition(self._topic, number)
        key, size = record.key or b"", len(record.value)
        if size + len(key) > partition.room:
            return False
        rejected, until = self._rejected.get(key, (size + 1, 0.0))
        if size >= rejected and time.monotonic() < until:
            return False
        partition.queued.append(record)
        return True

    def _refuse(self, record: Record, why: str) -> None:
        key = record.key or b""
        if key not in self._refused:
            self._refused.add(key)
            self._on_refused(record, why)
