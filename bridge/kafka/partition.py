"""The records of one partition that Kafka has not settled yet, in the order in which they go out."""

import asyncio
from typing import NamedTuple

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder

from bridge.kafka.topics import Topic
from bridge.records import Record

_RECORD_OVERHEAD = 32  # bytes that Kafka's format adds to a key and value, rounded up
OBJECT_OVERHEAD = 160  # bytes of memory that a waiting record takes besides its value, about


class Batch(NamedTuple):
    """A batch that was sent: how many records, and when the first of them was received, in µs."""

    records: int
    time_us: int


class Partition:
    """What was sent since the last settlement, and behind it what is queued.

    One batch at a time is in flight (`delivery`): Kafka could take more of them, but aiokafka sends no more
    than one request to a broker at once, and larger batches cost less.
    """

    __slots__ = ("batches", "delivery", "most", "number", "queued", "sent", "sent_at", "topic")

    def __init__(self, topic: Topic, number: int) -> None:
        self.topic = topic
        self.number = number
        self.queued: list[Record] = []
        self.sent: list[Record] = []
        self.batches: list[Batch] = []
        self.delivery: asyncio.Future[object] | None = None
        self.sent_at = 0.0
        self.most: int | None = None

    def take_batch(self, producer: AIOKafkaProducer) -> BatchBuilder:
        """Move as many queued records as one batch holds to the sent ones, and return the batch."""
        batch = producer.create_batch()
        append = batch.append
        room = self.topic.max_message_bytes
        number = 0
        for record in self.queued[: self.most]:
            room -= len(record.value) + len(record.key or b"") + _RECORD_OVERHEAD
            if number and room < 0:
                break
            if append(timestamp=record.time_us // 1000, key=record.key, value=record.value) is None:
                break
            number += 1
        self.sent += self.queued[:number]
        self.batches.append(Batch(number, self.queued[0].time_us))
        del self.queued[:number]
        batch.close()
        return batch

    def settle(self) -> tuple[list[Record], list[Batch]]:
        """Forget what was sent, for Kafka has it for good; return it."""
        settled = self.sent, self.batches
        self.sent, self.batches = [], []
        return settled

    def blame(self) -> Record | None:
        """Narrow a refused batch down; return its record, taken out, if it was the only one.

        The refused batch is the last that was sent.
        """
        refused = self.batches[-1].records
        if refused > 1:
            self.most = refused // 2
            return None
        self.batches.pop()
        return self.sent.pop()

    def requeue(self) -> None:
        """Queue all that was sent once more, in front."""
        self.queued[:0] = self.sent
        self.sent.clear()
        self.batches.clear()
