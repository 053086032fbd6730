"""The records of one partition that Kafka has not settled yet, in the order in which they go out."""

import asyncio
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder

from bridge.kafka.topics import Topic
from bridge.records import Record

FULL_BATCH = 256  # records that are worth a flush before its time
_RECORD_OVERHEAD = 128  # bytes of a key and of Kafka's format around it and a value, rounded up
NO_TIME = -1  # a record's timestamp, in Kafka's words, that it does not look at
_NO_LIMIT = 65_536  # records; no batch holds so many
OBJECT_OVERHEAD = 160  # bytes of memory that a waiting record takes besides its value, about


class Batch(NamedTuple):
    """A batch that was sent: its records, the bytes of their values, and the first one's reception in µs."""

    records: int
    value_bytes: int
    time_us: int


class Partition:
    """What was sent since the last settlement, and behind it what is queued.

    One batch at a time is in flight (`delivery`): Kafka could take more of them, but aiokafka sends no more
    than one request to a broker at once, and larger batches cost less. The records of a `marked` one bring
    about state. Of each record that was `given_up` it is known how many are in front of it: it counts as
    settled when these are, for what is on disk is counted from the front.
    """

    __slots__ = (
        "batches",
        "delivery",
        "given_up",
        "marked",
        "most",
        "number",
        "place",
        "queued",
        "refusals",
        "room",
        "sent",
        "sent_at",
        "settled",
        "topic",
    )

    def __init__(self, topic: Topic, number: int, *, marked: bool = False) -> None:
        self.topic = topic
        self.number = number
        self.place = f"{topic.name}/{number}"
        self.settled = 0
        self.marked = marked
        self.room = topic.max_record_bytes
        self.queued: list[Record] = []
        self.sent: list[Record] = []
        self.batches: list[Batch] = []
        self.delivery: asyncio.Future[object] | None = None
        self.sent_at = 0.0
        self.most: int | None = None
        self.refusals = 0
        self.given_up: list[int] = []

    def take_batch(self, producer: AIOKafkaProducer, *, with_time: bool) -> BatchBuilder:
        """Move as many queued records as one batch holds to the sent ones, and return the batch."""
        batch = producer.create_batch()
        append = batch.append
        room = self.topic.max_message_bytes
        queued = self.queued
        number = value_bytes = 0
        for record in queued if self.most is None else queued[: self.most]:
            value = record.value
            size = len(value)
            if number and value_bytes + size + (number + 1) * _RECORD_OVERHEAD > room:
                break
            time_ms = record.time_us // 1000 if with_time else NO_TIME
            if append(timestamp=time_ms, key=record.key, value=value) is None:
                break
            number += 1
            value_bytes += size
        self.sent += queued[:number]
        self.batches.append(Batch(number, value_bytes, queued[0].time_us))
        del queued[:number]
        batch.close()
        return batch

    def settle(self) -> list[Batch]:
        """Forget what was sent, for Kafka has it for good; return its batches."""
        settled, self.batches = self.batches, []
        sent = len(self.sent)
        self.settled = self.settled_with_sent
        self.given_up = [ahead - sent for ahead in self.given_up if ahead > sent]
        self.sent.clear()
        self.refusals = 0
        if self.most is not None:
            self.most = 2 * self.most if self.most < _NO_LIMIT else None
        return settled

    @property
    def settled_with_sent(self) -> int:
        """How many records will be settled when what was sent is: those given up count in their place."""
        sent = len(self.sent)
        return self.settled + sent + sum(ahead <= sent for ahead in self.given_up)

    def on_disk(self, number: int) -> int:
        """Take note that so many of what is not settled are on disk; return how many of them wait here, too.

        The others are those given up. Of the rest, which never will be there, none counts any more.
        """
        self.given_up = [ahead for gone, ahead in enumerate(self.given_up) if ahead + gone < number]
        return number - len(self.given_up)

    def blame(self, patience: int) -> Record | None:
        """Narrow a refused batch down; return its record, taken out, if it was alone and refused so often.

        The refused batch is the last that was sent.
        """
        records = self.batches[-1].records
        if records > 1:
            self.most = records // 2
            return None
        self.refusals += 1
        if self.refusals < patience:
            return None
        self.refusals = 0
        self.batches.pop()
        refused = self.sent.pop()
        in_front = len(self.sent)
        ahead = sorted([in_front, *(one - (one > in_front) for one in self.given_up)])
        self.given_up = [one for one in ahead if one]
        self.settled += len(ahead) - len(self.given_up)
        return refused

    def requeue(self) -> None:
        """Queue all that was sent once more, in front."""
        self.queued[:0] = self.sent
        self.sent.clear()
        self.batches.clear()
