"""Failed batches: each is logged, and a record that Kafka never accepts becomes a dead letter."""

import time
from collections.abc import Mapping, Sequence

import structlog
from aiokafka.errors import (
    InvalidTimestampError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    UnknownError,
)

from bridge.channels import PRIVATE
from bridge.kafka.batches import Failure
from bridge.kafka.client import in_words
from bridge.kafka.partition import RECORD_OVERHEAD, Partition
from bridge.kafka.producer import MAX_BATCH_BYTES
from bridge.kafka.queues import Queues
from bridge.kafka.topics import Topic
from bridge.records import DEADLETTER, Record, letter_for, schema_of
from bridge.watch.metrics import Metrics

log = structlog.get_logger(__name__)

TOO_LARGE = (MessageSizeTooLargeError, RecordListTooLargeError)

# Errors caused by a record, which would cause them again; for a missing key Kafka reports "unknown".
RECORDS_FAULT = (*TOO_LARGE, PolicyViolationError, UnknownError)

UNKNOWN_ERRORS = 5  # of one record in a row, until the record is taken for the cause

_WITHOUT_TIME = 60.0  # seconds in which records are sent without timestamps, once Kafka has rejected one


class Rejections:
    """Deals with failed batches of one shard: their records stay in its `queues`, or become dead letters."""

    def __init__(self, queues: Queues, metrics: Metrics) -> None:
        self._queues = queues
        self._metrics = metrics
        self._without_time_until = -float("inf")  # until then records have no timestamps, monotonic clock

    def with_time(self) -> bool:
        """Return whether records have their time of reception as Kafka's timestamp now."""
        return time.monotonic() > self._without_time_until

    def count(self, error: BaseException) -> None:
        """Count an error of Kafka."""
        self._metrics.counter("kafka_errors_total", error=type(error).__name__).value += 1

    def handle(self, failures: Sequence[Failure], topics: Mapping[str, Topic]) -> None:
        """Log and count failed batches; a record that makes them fail becomes a dead letter.

        `topics` are the topics with their limits as they were looked at after the failures, if a batch was
        `too_large`: a limit that has changed explains that, and is all that has to be followed.
        """
        limits = {topic.name: topic.max_message_bytes for topic in topics.values()}
        for partition, error in failures:
            self.count(error)
            log.error(
                "Kafka rejected a batch",
                topic=partition.topic.name,
                partition=partition.number,
                error=in_words(error),
            )
            size = isinstance(error, TOO_LARGE)
            if size and limits.get(partition.topic.name, partition.topic.max_message_bytes) < _bytes(
                partition
            ):
                continue
            if isinstance(error, RECORDS_FAULT) and partition.place in self._queues.places:
                attempts = UNKNOWN_ERRORS if isinstance(error, UnknownError) else 1
                rejected = partition.isolate(attempts, too_large=size)
                if rejected is not None:
                    self.give_up(rejected, partition, str(error))
            elif size:
                partition.refused_bytes = min(partition.batch_room, MAX_BATCH_BYTES)
        if any(isinstance(error, InvalidTimestampError) for _, error in failures):
            self._without_time_until = time.monotonic() + _WITHOUT_TIME
            log.error(
                "Kafka rejected record timestamps, sending without them; check this host's clock",
                seconds=_WITHOUT_TIME,
            )

    def give_up(self, record: Record, partition: Partition, why: str) -> None:
        """Make a dead letter of a record that Kafka does not accept, and that was taken out of its queue."""
        self._queues.release(1, len(record.value))
        detail = f"{partition.topic.name} rejected the record, kept here instead of its frame: {why}"
        if schema_of(record.channel) == DEADLETTER:
            self._metrics.counter("kafka_errors_total", error="DeadLetterRefused").value += 1
            log.error("dead letter lost", detail=detail)
            return
        self._metrics.counter("deadletters_total", reason="payload").value += 1
        private = record.channel in PRIVATE
        if self._queues.add([letter_for(record, detail, private=private)]):
            log.error("rejected record too large for the dead letter topic", detail=detail)
            detail = f"left out, too large for its topic; {detail}"
            self._queues.add([letter_for(record, detail, private=private, whole=False)])


def too_large(failures: Sequence[Failure]) -> bool:
    """Return whether a batch was refused because it is larger than its topic allows."""
    return any(isinstance(error, TOO_LARGE) for _, error in failures)


def _bytes(partition: Partition) -> int:
    """Return the bytes of the last batch of a partition: as many as were sent at most, of the state's."""
    if not partition.batches:
        return min(partition.batch_room, MAX_BATCH_BYTES)
    records, value_bytes, _ = partition.batches[-1]
    return value_bytes + records * RECORD_OVERHEAD
