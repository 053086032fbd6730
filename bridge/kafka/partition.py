"""The pending records of one partition, in the order in which they are sent."""

import asyncio
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder

from bridge.kafka import quirks
from bridge.kafka.framing import PLAIN
from bridge.kafka.topics import Topic
from bridge.records import Record
from bridge.spool.progress import Backlog

FULL_BATCH = 256  # records; a partition with this many is flushed before the interval is over
RECORD_OVERHEAD = 128  # bytes of a key and of Kafka's format around it and a value, rounded up
NO_TIME = -1  # the timestamp of a record that has none
_LONGEST_KEY = 256  # bytes: a name of 64 characters
_NO_LIMIT = 65_536  # records; a limit that no batch reaches
OBJECT_OVERHEAD = 160  # bytes of memory that a pending record takes besides its value, approximately


class Batch(NamedTuple):
    """A batch that was sent: its records, the bytes of their values, and the first one's reception in µs."""

    records: int
    value_bytes: int
    time_us: int


class Partition:
    """The records sent since the last settlement, and behind them those that are queued.

    One batch at a time is in flight: Kafka would accept more, but aiokafka sends no more than one request to
    a broker at once, and larger batches cost less.
    """

    __slots__ = (
        "batch_limit",
        "batches",
        "delivery",
        "framing",
        "has_marks",
        "is_public",
        "number",
        "place",
        "queued",
        "refused_bytes",
        "rejections",
        "room",
        "sent",
        "sent_at",
        "spilled",
        "spooled",
        "stuck",
        "sure_room",
        "topic",
    )

    def __init__(self, topic: Topic, number: int, *, has_marks: bool = False, is_public: bool = True) -> None:
        self.number = number
        # Bytes of the smallest batch that was refused as too large, although the topic allows it as far as is
        # known; None if there was none.
        self.refused_bytes: int | None = None
        self.has_marks = has_marks  # whether its records are trades, which advance watermarks
        self.is_public = is_public  # whether its records are those of a public channel
        self.place = f"{topic.name}/{number}"  # its name in the spool
        self.topic = topic
        self.follow(topic)
        self.queued: list[Record] = []  # records to be sent, the oldest first
        self.sent: list[Record] = []  # records that were sent and are not settled, the oldest first
        self.batches: list[Batch] = []  # the batches in which `sent` went out
        self.spooled: list[int] = []  # offsets of the records that are in the spool: always the first ones
        # Whether new records have to go to the spool, because others wait there that could not be sent.
        self.spilled = False
        self.delivery: asyncio.Future[object] | None = None  # of the batch in flight; None if there is none
        self.sent_at = 0.0  # when the last batch was sent, on the monotonic clock
        # The most records in a batch. A rejected batch halves it, until the rejected record is alone in its
        # batch; then every settlement doubles it, until it is above `_NO_LIMIT`. None: as many as fit.
        self.batch_limit: int | None = None
        self.rejections = 0  # how often a record that was alone in its batch was rejected in a row

    def follow(self, topic: Topic) -> None:
        """Follow what has changed of the topic."""
        if self.refused_bytes is not None and topic.max_message_bytes != self.topic.max_message_bytes:
            self.refused_bytes = None
        self.topic = topic
        self.room = topic.max_record_bytes  # the most bytes that a record's key and value may have together
        self.sure_room = self.room - _LONGEST_KEY  # the most that a value may have, whatever its key
        self.framing = topic.framing or PLAIN  # of its messages; nothing is sent while the topic has none
        self.stuck = topic.has_to_wait(self.number)  # whether nothing can be written to it at the moment

    @property
    def batch_room(self) -> int:
        """The most bytes of a batch of several records, each with its overhead, that the broker accepts."""
        room = self.topic.max_message_bytes - RECORD_OVERHEAD
        return room if self.refused_bytes is None else min(room, self.refused_bytes // 2)

    def take_too_large(self) -> list[Record]:
        """Take out the queued records that are too large for the topic, and return them.

        Nothing may be sent and not settled.
        """
        too_large = []
        for place in reversed(range(len(self.queued))):
            record = self.queued[place]
            if len(record.value) + len(record.key or b"") > self.room:
                too_large.append(self.queued.pop(place))
                del self.spooled[place : place + 1]
        return too_large[::-1]

    def take_batch(self, producer: AIOKafkaProducer, *, with_time: bool) -> BatchBuilder:
        """Move as many queued records as one batch holds to the sent ones, and return the batch."""
        batch = producer.create_batch()
        append = quirks.appending(batch)
        room = self.batch_room
        queued = self.queued
        prefix, headers = self.framing.prefix, [*self.framing.headers]
        number = value_bytes = needed = 0
        for record in queued if self.batch_limit is None else queued[: self.batch_limit]:
            value = record.value
            size = len(value)
            needed += size
            if needed > room and number:
                break
            needed += RECORD_OVERHEAD
            time_ms = record.time_us // 1000 if with_time else NO_TIME
            framed = prefix + value if prefix and value else value or None
            if append(number, time_ms, record.key, framed, headers) is None:
                break
            number += 1
            value_bytes += size
        self.sent += queued[:number]
        self.batches.append(Batch(number, value_bytes, queued[0].time_us))
        del queued[:number]
        quirks.note_appended(batch, number)
        batch.close()
        return batch

    def settle(self) -> list[Batch]:
        """Forget the sent records, now that they are settled; return their batches."""
        settled, self.batches = self.batches, []
        if self.spooled:
            del self.spooled[: len(self.sent)]
        self.sent.clear()
        self.rejections = 0
        if self.batch_limit is not None:
            self.batch_limit = 2 * self.batch_limit if self.batch_limit < _NO_LIMIT else None
        return settled

    def requeue(self) -> None:
        """Queue all sent records again, in front."""
        self.queued[:0] = self.sent
        self.sent.clear()
        self.batches.clear()

    def isolate(self, attempts: int, *, too_large: bool = False) -> Record | None:
        """Find the record that caused the last batch to be rejected.

        Halves the next batch; if it was `too_large`, all later ones. A record that was alone in its batch is
        taken out and returned, once it was rejected `attempts` times in a row.
        """
        records, value_bytes, _ = self.batches[-1]
        if records > 1:
            if too_large:
                self.refused_bytes = value_bytes + records * RECORD_OVERHEAD
            else:
                self.batch_limit = records // 2
            return None
        self.rejections += 1
        if self.rejections < attempts:
            return None
        self.rejections = 0
        self.batches.pop()
        rejected = self.sent.pop()
        del self.spooled[len(self.sent) : len(self.sent) + 1]
        return rejected

    def first_spooled(self, *, after_sent: bool) -> int | None:
        """Return the offset of the first pending record in the spool, or of the first that was not sent."""
        first = len(self.sent) if after_sent else 0
        return self.spooled[first] if first < len(self.spooled) else None

    def backlog(self) -> Backlog:
        """Return the pending records, and the offsets of those that are in the spool."""
        return Backlog(self.place, (*self.sent, *self.queued), len(self.sent), tuple(self.spooled))
