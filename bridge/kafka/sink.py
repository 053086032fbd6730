"""The sink: accumulate records per partition, flush them as batches, settle what Kafka has for good.

A record stays with its partition until it is settled: by its batch's acknowledgement (at-least-once), or by
the commit of its transaction (exactly-once). When anything fails, the producer is rebuilt, which aborts an
open transaction, and all that is not settled is sent again, in order.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping

import msgspec
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    UnknownError,
)

from bridge.backoff import Backoff
from bridge.config import KafkaConfig
from bridge.kafka.partition import OBJECT_OVERHEAD, Partition
from bridge.kafka.producer import abort, close_producer, open_producer
from bridge.kafka.topics import Topic
from bridge.metrics import Metrics
from bridge.records import DEADLETTER, Record, deadletter

log = structlog.get_logger(__name__)

# Errors that a record brings about, and would again; Kafka says "unknown" of a key that is missing.
_RECORDS_FAULT = (
    InvalidTimestampError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    UnknownError,
)

_DOUBTS = 5  # refusals of one record for a reason unknown, until it is taken for the reason

_FULL_BATCH = 256  # records that are worth a flush before its time

_SILENCE = 5.0  # seconds without an acknowledgement after which Kafka counts as away
_CLOSE_PATIENCE = 1.0  # seconds


class _Provenance(msgspec.Struct):
    session: str


_provenance = msgspec.json.Decoder(_Provenance).decode


class Sink:
    """Delivers the records of one shard.

    `transactional_id` makes it exactly-once, None at-least-once. `on_room(False)` is called when more than
    `max_pending_bytes` wait, `on_room(True)` when it is down to half of that.
    """

    def __init__(
        self,
        config: KafkaConfig,
        topics: Mapping[str, Topic],
        *,
        transactional_id: str | None,
        metrics: Metrics,
        on_room: Callable[[bool], None],
    ) -> None:
        self.pending_records = 0
        self.pending_bytes = 0
        self._config = config
        self._topics = topics
        self._transactional_id = transactional_id
        self._metrics = metrics
        self._on_room = on_room
        self._no_room = False
        self._routes: dict[str, dict[bytes | None, Partition]] = {channel: {} for channel in topics}
        self._partitions: dict[tuple[str, int], Partition] = {}
        self._dirty: dict[Partition, None] = {}
        self._failures: list[tuple[Partition, BaseException]] = []
        self._trouble: str | None = f"no answer from {config.bootstrap_servers} yet"
        self._backoff = Backoff(0.1, 10.0)
        self._something = asyncio.Event()
        self._batch_is_full = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._in_flight = 0
        self._asked_at: float | None = None
        self._stopping = False

    def add(self, records: Iterable[Record]) -> list[Record]:
        """Queue records for delivery; return those larger than their topics take, which were not queued."""
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
                self._dirty[partition] = None
                self._something.set()
            queued.append(record)
            if len(queued) == _FULL_BATCH and partition.delivery is None:
                self._batch_is_full.set()
            number += 1
            value_bytes += size
        self.pending_records += number
        self.pending_bytes += value_bytes + number * OBJECT_OVERHEAD
        if self.pending_bytes > self._config.max_pending_bytes and not self._no_room:
            self._no_room = True
            self._on_room(False)
        return refused

    async def run(self) -> None:
        """Deliver until `drain` is called and nothing is left, through every kind of trouble."""
        while not (self._stopping and not self.pending_records):
            self._asked_at = time.monotonic()
            try:
                producer = await open_producer(self._config, self._topics, self._transactional_id)
            except KafkaError as error:
                self._count(error)
                self._trouble = f"no producer on {self._config.bootstrap_servers}: {error}"
                log.warning("Kafka is away", error=str(error), bootstrap=self._config.bootstrap_servers)
                await asyncio.sleep(self._backoff.next())
                continue
            self._trouble = self._asked_at = None
            try:
                if self._transactional_id is None:
                    await self._at_least_once(producer)
                else:
                    await self._exactly_once(producer)
                return
            except asyncio.CancelledError:
                await abort(producer, _CLOSE_PATIENCE)
                raise
            except (KafkaError, AssertionError) as error:  # aiokafka asserts the state of its transactions
                self._recover(error)
            finally:
                await close_producer(producer, _CLOSE_PATIENCE)
            await asyncio.sleep(self._backoff.next())

    def drain(self) -> None:
        """Let `run` end as soon as all that is queued is settled."""
        self._stopping = True
        self._something.set()
        self._batch_is_full.set()  # ends the pause before the next flush

    def missing(self) -> str | None:
        """Say what is wrong with Kafka; None if it answers."""
        if self._trouble is not None:
            return self._trouble
        sent_at = [partition.sent_at for partition in self._partitions.values() if partition.delivery]
        if self._asked_at is not None:
            sent_at.append(self._asked_at)
        silence = time.monotonic() - min(sent_at) if sent_at else 0.0
        if silence < _SILENCE:
            return None
        return f"no answer from {self._config.bootstrap_servers} for {silence:.0f} s"

    # Accumulate

    def _route(self, record: Record) -> Partition:
        topic = self._topics[record.channel]
        number = topic.partition(record.key)
        partition = self._partitions.get((topic.name, number))
        if partition is None:
            partition = self._partitions[topic.name, number] = Partition(topic, number)
        self._routes[record.channel][record.key] = partition
        return partition

    # Flush

    async def _at_least_once(self, producer: AIOKafkaProducer) -> None:
        while await self._anything():
            await self._flush(producer)
            await self._pause(self._config.flush_interval)

    async def _exactly_once(self, producer: AIOKafkaProducer) -> None:
        """Commit one transaction after another; the next one's records gather meanwhile.

        Nothing is visible before the commit, so a partition is flushed when a batch is full, and once,
        `flush_interval` before the commit is due: a batch costs as much work as many records.
        """
        config = self._config
        gathering = config.commit_interval - config.flush_interval
        flush_at = 0.0
        while await self._anything():
            await producer.begin_transaction()
            flush_at = max(flush_at + gathering, time.monotonic() + config.flush_interval)
            while (left := flush_at - time.monotonic()) > 0 and (self._dirty or not self._stopping):
                if self._stopping:
                    await self._flush(producer)
                    await self._all_answered()
                else:
                    await self._pause(left)
                    await self._flush(producer, full_only=True)
            await self._flush(producer)
            await self._all_answered()
            self._asked_at = time.monotonic()
            await producer.commit_transaction()
            self._asked_at = None
            self._settle(self._partitions.values())

    async def _anything(self) -> bool:
        """Wait for a record to send; False when stopping and all is settled."""
        while not self._dirty:
            if self._stopping or self._failures:
                await self._all_answered()
                if not self._dirty:
                    return False
            self._something.clear()
            await self._something.wait()
        return True

    async def _pause(self, seconds: float) -> None:
        """Wait for the next flush: so long, or until a batch is full."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._batch_is_full.wait()
        self._batch_is_full.clear()

    async def _flush(self, producer: AIOKafkaProducer, *, full_only: bool = False) -> None:
        """Send a batch to each partition that has records, or a full batch of them, and none in flight.

        Raises:
            KafkaError: a batch has failed; all others have been answered.
        """
        if self._failures:
            await self._all_answered()
        least = _FULL_BATCH if full_only else 1
        ready = [p for p in self._dirty if p.delivery is None and len(p.queued) >= least]
        for partition in ready:
            batch = partition.take_batch(producer)
            if not partition.queued:
                del self._dirty[partition]
            try:
                delivery = await producer.send_batch(batch, partition.topic.name, partition=partition.number)
            except (KafkaError, AssertionError) as error:
                self._failures.append((partition, error))
                await self._all_answered()
            partition.delivery = delivery
            partition.sent_at = time.monotonic()
            self._in_flight += 1
            self._quiet.clear()
            delivery.add_done_callback(lambda done, partition=partition: self._answered(partition, done))

    # Settle

    def _answered(self, partition: Partition, delivery: "asyncio.Future[object]") -> None:
        partition.delivery = None
        self._in_flight -= 1
        if not self._in_flight:
            self._quiet.set()
        if delivery.cancelled():
            return
        error = delivery.exception()
        if error is not None:
            self._failures.append((partition, error))
            self._something.set()
            return
        self._backoff.reset()
        if len(partition.queued) >= _FULL_BATCH:
            self._batch_is_full.set()
        if self._transactional_id is None:
            self._settle([partition])

    async def _all_answered(self) -> None:
        """Wait until no batch is in flight.

        aiokafka commits a transaction whose batches have failed, so each one's answer is looked at first.

        Raises:
            KafkaError: a batch has failed.
        """
        await self._quiet.wait()
        if self._failures:
            raise KafkaError(str(self._failures[0][1]))

    def _settle(self, partitions: Iterable[Partition]) -> None:
        now_us = time.time_ns() // 1000
        for partition in partitions:
            if not partition.sent:
                continue
            channel = partition.sent[0].channel
            lag = self._metrics.histogram("delivery_lag_seconds", channel=channel)
            acknowledged = self._metrics.counter("records_total", channel=channel)
            for records, value_bytes, time_us in partition.settle():
                acknowledged.value += records
                lag.observe((now_us - time_us) / 1e6, records)
                self._release(records, value_bytes)

    def _release(self, records: int, value_bytes: int) -> None:
        self.pending_records -= records
        self.pending_bytes -= value_bytes + records * OBJECT_OVERHEAD
        if self._no_room and self.pending_bytes <= self._config.max_pending_bytes / 2:
            self._no_room = False
            self._on_room(True)

    # Recover

    def _recover(self, error: Exception) -> None:
        """Queue again what is not settled; a record that Kafka won't ever take goes to the dead letters."""
        failures, self._failures = self._failures, []
        for partition, failure in failures:
            self._count(failure)
            log.error(
                "Kafka refused a batch",
                topic=partition.topic.name,
                partition=partition.number,
                error=str(failure),
            )
            if isinstance(failure, _RECORDS_FAULT):
                refused = partition.blame(_DOUBTS if isinstance(failure, UnknownError) else 1)
                if refused is not None:
                    self._give_up(refused, partition, failure)
        if not failures:
            self._count(error)
            log.error("producer failed", error=str(error))
        for partition in self._partitions.values():
            partition.requeue()
            if partition.queued:
                self._dirty[partition] = None

    def _give_up(self, record: Record, partition: Partition, error: BaseException) -> None:
        self._release(1, len(record.value))
        detail = f"{partition.topic.name} refused the record, which stands here for its frame: {error}"
        if record.channel == DEADLETTER:
            self._metrics.counter("kafka_errors_total", error="DeadLetterRefused").value += 1
            log.error("dead letter lost", detail=detail)
            return
        self._metrics.counter("deadletters_total", reason="payload").value += 1

        def letter(detail: str, frame: bytes) -> Record:
            return deadletter(
                session=_provenance(record.value).session,
                received_us=record.time_us,
                reason="payload",
                channel=record.channel,
                detail=detail,
                frame=frame,
            )

        if self.add([letter(detail, record.value)]):
            log.error("a refused record is too large for the dead letters too", detail=detail)
            self.add([letter(f"left out, too large for its topic; {detail}", b"")])

    def _count(self, error: BaseException) -> None:
        self._metrics.counter("kafka_errors_total", error=type(error).__name__).value += 1
