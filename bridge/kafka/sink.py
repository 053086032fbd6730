"""The sink: accumulate records per partition, flush them as batches, settle what Kafka has for good.

A record stays with its partition until it is settled: by its batch's acknowledgement (at-least-once), or by
the commit of its transaction (exactly-once). When anything fails, the producer is rebuilt, which settles an
open transaction one way or the other, and all that is not settled is sent again, in order.

With the records goes the state that they bring about: in their transaction, or right after them.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from itertools import chain

import msgspec
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTimestampError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    UnknownError,
)
from aiokafka.producer.message_accumulator import BatchBuilder

from bridge.backoff import Backoff
from bridge.config import KafkaConfig
from bridge.kafka.client import FAILURES, in_words
from bridge.kafka.overflow import Overflow
from bridge.kafka.partition import NO_TIME, OBJECT_OVERHEAD, Partition
from bridge.kafka.producer import PRODUCER_FAILURES, abort, close_producer, open_producer
from bridge.kafka.state import Alive, Lost, Save, State
from bridge.kafka.topics import Topic
from bridge.metrics import Metrics
from bridge.records import DEADLETTER, EVENTS, Record, deadletter
from bridge.spool import Place

log = structlog.get_logger(__name__)

# Errors that a record brings about, and would again; Kafka says "unknown" of a key that is missing.
_RECORDS_FAULT = (
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    UnknownError,
)

_DOUBTS = 5  # refusals of one record for a reason unknown, until it is taken for the reason

_FULL_BATCH = 256  # records that are worth a flush before its time

_REFILL = 2 * 1024 * 1024  # bytes of records that are read from disk at once

_WITHOUT_TIME = 60.0  # seconds in which records go without their time, once Kafka has refused one

_SILENCE = 5.0  # seconds without an acknowledgement after which Kafka counts as away
_CLOSE_PATIENCE = 1.0  # seconds
_PATIENCE = 15.0  # seconds without any answer until a producer is given up, for aiokafka may wait for ever
_LONG_PATIENCE = 120.0  # the same without transactions, where it may double what was in flight


class _Provenance(msgspec.Struct):
    session: str | None


_provenance = msgspec.json.Decoder(_Provenance).decode


class Sink:
    """Delivers the records of one shard, and keeps its `state`.

    `transactional_id` makes it exactly-once, None at-least-once. `is_ours` tells whether the shard still is
    this replica's, by what Kafka said not longer than so many seconds ago. `on_room(False)` is called when
    more than `max_pending_bytes` wait, `on_room(True)` when it is down to half of that.

    `taken_over` is set when the shard's state has been read, and nobody else can write to it any more.
    """

    def __init__(
        self,
        config: KafkaConfig,
        topics: Mapping[str, Topic],
        *,
        transactional_id: str | None,
        state: State,
        is_ours: Callable[[float], Awaitable[bool]],
        metrics: Metrics,
        on_room: Callable[[bool], None],
        overflow: Overflow,
    ) -> None:
        self.pending_records = 0
        self.pending_bytes = 0
        self._config = config
        self._topics = topics
        self.taken_over = asyncio.Event()
        self._transactional_id = transactional_id
        self._state = state
        self._is_ours = is_ours
        self._metrics = metrics
        self._on_room = on_room
        self._overflow = overflow
        self._no_room = False
        self._routes: dict[str, dict[bytes | None, Partition]] = {channel: {} for channel in topics}
        self._places: dict[Place, Partition] = {}
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
        self._without_time_until = -float("inf")
        self._state_partition = Partition(state.topic, state.shard)
        self._events: list[Partition] = []
        # Exactly-once: what is saved when the commit that was asked for has taken place.
        self._committing: Save | None = None
        # At-least-once: until when nobody else can have the shard.
        self._safe_until = float("inf")
        # At-least-once: what is on its way to the state's topic.
        self._saving: Save | None = None

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
            self._no_room = True  # while it is told, records may be added
            self._no_room = not self._overflow.begin(self._places.values(), self._committing)
            if self._no_room:
                self._on_room(False)
        return refused

    async def run(self) -> None:
        """Deliver until `drain` is called and nothing is left, through every kind of trouble.

        Raises:
            Lost: the shard is another replica's now, and so is what is not delivered.
        """
        while not (self._stopping and not self.pending_records):
            self._asked_at = time.monotonic()
            try:
                producer = await self._open()
            except FAILURES as error:
                self._count(error)
                self._trouble = f"no producer on {self._config.bootstrap_servers}: {in_words(error)}"
                log.warning("Kafka is away", error=in_words(error), bootstrap=self._config.bootstrap_servers)
                await asyncio.sleep(self._backoff.next())
                continue
            try:
                await self._take_over()
                self._asked_at = None
                if not self.pending_records:  # else the first that is settled shows that Kafka takes them
                    self._trouble = None
                if self._transactional_id is None:
                    await self._at_least_once(producer)
                else:
                    await self._exactly_once(producer)
                return
            except asyncio.CancelledError:
                await abort(producer, _CLOSE_PATIENCE)
                raise
            except PRODUCER_FAILURES as error:
                self._recover(error)
            finally:
                await close_producer(producer, _CLOSE_PATIENCE)
            await asyncio.sleep(self._backoff.next())

    def pending(self, channels: Collection[str]) -> bool:
        """Tell if records of these channels wait or are not settled yet."""
        names = {self._topics[channel].name for channel in channels if channel in self._topics}
        if self._overflow.active:
            return True
        return any(p.queued or p.sent for p in self._places.values() if p.topic.name in names)

    def park(self) -> tuple[int, int]:
        """When `run` has ended, leave on disk what waits; return how many records are there, and lost."""
        return self._overflow.park(self._places.values(), self._committing)

    def listened(self, account: str, alive: Alive) -> None:
        """Keep with the state until when an account's private channels were listened to."""
        self._state.listened(account, alive)
        self._something.set()

    def drain(self) -> None:
        """Let `run` end as soon as all that is queued is settled."""
        self._stopping = True
        self._something.set()
        self._batch_is_full.set()  # ends the pause before the next flush

    def missing(self) -> str | None:
        """Say what is wrong with Kafka; None if it answers."""
        if self._trouble is not None:
            return self._trouble
        sent_at = [partition.sent_at for partition in self._places.values() if partition.delivery]
        if self._asked_at is not None:
            sent_at.append(self._asked_at)
        silence = time.monotonic() - min(sent_at) if sent_at else 0.0
        if silence < _SILENCE:
            return None
        return f"no answer from {self._config.bootstrap_servers} for {silence:.0f} s"

    # Accumulate

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

    def _refill(self) -> None:
        """Move the oldest records that wait on disk into the queues, as long as these have room."""
        enough = min(self.pending_bytes + _REFILL, self._config.max_pending_bytes // 2)
        while self._overflow.active and not self._stopping and self.pending_bytes < enough:
            for place, record in self._overflow.next():
                partition = self._places.get(place) or self._open_place(place, record)
                if not partition.queued:
                    self._dirty[partition] = None
                partition.queued.append(record)
                self.pending_records += 1
                self.pending_bytes += len(record.value) + OBJECT_OVERHEAD

    def _has_room(self, room: bool) -> None:
        if room == self._no_room:
            self._no_room = not room
            self._on_room(room)

    def _route(self, record: Record) -> Partition:
        topic = self._topics[record.channel]
        number = topic.partition(record.key)
        place = f"{topic.name}/{number}"
        partition = self._places.get(place) or self._open_place(place, record)
        self._routes[record.channel][record.key] = partition
        return partition

    def _open_place(self, place: Place, record: Record) -> Partition:
        name, _, number = place.rpartition("/")
        # A record on disk may be of a channel that is not configured any more.
        topic = self._topics.get(record.channel) or replace(self._topics[EVENTS], name=name)
        partition = Partition(topic, int(number), marked=record.mark is not None)
        self._places[place] = partition
        if record.channel == EVENTS:
            self._events.append(partition)
        return partition

    # Take over

    async def _open(self) -> AIOKafkaProducer:
        """Open a producer, which from then on is the only one that can write for the shard.

        Raises:
            Lost: the group has given the shard to another replica.
            KafkaError: Kafka does not answer or refuses.
        """
        await self._check_lease(0.0)
        return await open_producer(self._config, self._topics, self._transactional_id)

    async def _check_lease(self, max_age: float) -> None:
        if not await self._is_ours(max_age):
            raise Lost("the group has given it to another replica")

    async def _await_lease(self, max_age: float) -> None:
        """Check as soon as the group answers that nobody else can have had the shard.

        Not with another producer: this one knows which of its batches Kafka has, if their answers are lost.

        Raises:
            Lost: somebody has, or will have.
        """
        while True:
            try:
                await self._check_lease(max_age)
                if time.monotonic() > self._safe_until:
                    await self._state.catch_up()
            except KafkaError as error:
                self._count(error)
                self._trouble = str(error)
                log.warning("the group is away", error=str(error))
                await asyncio.sleep(self._backoff.next())
            else:
                self._trouble = None
                return

    async def _take_over(self) -> None:
        """Learn from the state what Kafka has of what was sent, and queue the rest once more.

        Raises:
            Lost: another replica has served the shard meanwhile.
            KafkaError: Kafka does not answer.
        """
        committed = await self._state.catch_up()
        if not self.taken_over.is_set():
            self._overflow.recover()
        if self._committing is not None and self._committing.transaction == committed:
            log.info("a commit without an answer had taken place", transaction=committed)
            self._state.saved(self._committing)
            self._settle(self._places.values())
        self._committing = self._saving = None
        self._failures.clear()  # of batches that the old producer left unanswered when it was closed
        for partition in self._places.values():
            partition.requeue()
            if partition.queued:
                self._dirty[partition] = None
        self.taken_over.set()

    # Flush

    async def _at_least_once(self, producer: AIOKafkaProducer) -> None:
        # With heartbeats every quarter of the session timeout, the group gives nothing away in half of it.
        safe_for = self._config.session_timeout / 2
        self._safe_until = time.monotonic() + safe_for
        while await self._anything():
            # Nobody fences a producer without transactions, so it has to look whether it may write; and
            # after a time in which another replica could have had the shard, whether one has.
            await self._await_lease(safe_for)
            self._safe_until = time.monotonic() + safe_for
            await self._flush(producer)
            if self._state.unsaved and self._saving is None:
                self._saving = self._state.save(())
                await self._send_state(producer, self._saving)
            if self._stopping:
                await self._all_answered()
            else:
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
            await _answer_of(producer.begin_transaction())
            flush_at = max(flush_at + gathering, time.monotonic() + config.flush_interval)
            while (left := flush_at - time.monotonic()) > 0 and (self._dirty or not self._stopping):
                if self._stopping:
                    await self._flush(producer)
                    await self._all_answered()
                else:
                    await self._pause(left)
                    await self._flush(producer, full_only=True)
            await self._flush(producer)
            marked = (partition.sent for partition in self._places.values() if partition.marked)
            self._state.note(self._overflow.note(self._places.values(), with_sent=True))
            self._committing = self._state.save(chain.from_iterable(marked))
            await self._send_state(producer, self._committing)
            await self._all_answered()
            self._asked_at = time.monotonic()
            await _answer_of(producer.commit_transaction())
            save, self._asked_at, self._committing = self._committing, None, None
            self._state.saved(save)
            self._settle(self._places.values())
            self._overflow.settled(self._places.values())

    async def _anything(self) -> bool:
        """Wait for something to send; False when stopping and all is settled."""
        self._refill()
        while not (self._dirty or self._state.unsaved):
            if self._stopping or self._failures:
                await self._all_answered()
                if not (self._dirty or self._state.unsaved):
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
        await self._flush_events(producer)
        least = _FULL_BATCH if full_only else 1
        ready = [p for p in self._dirty if p.delivery is None and len(p.queued) >= least]
        for partition in ready:
            if time.monotonic() > self._safe_until:
                return  # the process was frozen in the middle of this
            await self._send(producer, partition, self._batch(producer, partition))

    async def _flush_events(self, producer: AIOKafkaProducer) -> None:
        """Send all events: no trade is on Kafka before the gap in front of it has been told there."""
        for partition in self._events:
            while partition.queued:
                await self._send(producer, partition, self._batch(producer, partition))
                if self._transactional_id is None or partition.queued:
                    await self._all_answered()

    def _batch(self, producer: AIOKafkaProducer, partition: Partition) -> BatchBuilder:
        return partition.take_batch(producer, with_time=time.monotonic() > self._without_time_until)

    async def _send_state(self, producer: AIOKafkaProducer, save: Save) -> None:
        with_time = time.monotonic() > self._without_time_until
        now_ms = time.time_ns() // 1_000_000 if with_time else NO_TIME
        batch = producer.create_batch()
        for key, value in save.values.items():
            if batch.append(timestamp=now_ms, key=key, value=value) is None:
                await self._send(producer, self._state_partition, batch)
                batch = producer.create_batch()
                batch.append(timestamp=now_ms, key=key, value=value)
        await self._send(producer, self._state_partition, batch)

    async def _send(self, producer: AIOKafkaProducer, partition: Partition, batch: BatchBuilder) -> None:
        if not partition.queued:
            self._dirty.pop(partition, None)
        try:
            delivery = await producer.send_batch(batch, partition.topic.name, partition=partition.number)
        except PRODUCER_FAILURES as error:
            self._failures.append((partition, error))
            await self._all_answered()
        partition.delivery = delivery
        partition.sent_at = time.monotonic()
        self._in_flight += 1
        self._quiet.clear()
        delivery.add_done_callback(lambda done: self._answered(partition, done))

    # Settle

    def _answered(self, partition: Partition, delivery: "asyncio.Future[object]") -> None:
        if partition.delivery is delivery:
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
            self._acknowledged(partition)

    def _acknowledged(self, partition: Partition) -> None:
        """At-least-once: what Kafka has acknowledged is settled, and may bring about state."""
        if partition is self._state_partition:
            if self._saving is not None and partition.delivery is None:  # it was the last batch
                self._state.saved(self._saving)
                self._overflow.settled(self._places.values())
                self._saving = None
            return
        if partition.marked:
            self._state.acknowledged(partition.sent)
        self._settle([partition])
        self._state.note(self._overflow.note(self._places.values(), with_sent=False))
        if self._state.unsaved:
            self._something.set()

    async def _all_answered(self) -> None:
        """Wait until no batch is in flight.

        aiokafka commits a transaction whose batches have failed, so each one's answer is looked at first.

        Raises:
            KafkaError: a batch has failed, or Kafka answers none.
        """
        patience = _PATIENCE if self._transactional_id is not None else _LONG_PATIENCE
        while self._in_flight:
            in_flight = self._in_flight
            try:
                async with asyncio.timeout(patience):
                    await self._quiet.wait()
            except TimeoutError:
                if self._in_flight == in_flight:
                    raise KafkaTimeoutError(f"no answer to {in_flight} batches in {patience:g} s") from None
        if self._failures:
            raise KafkaError(str(self._failures[0][1]))

    def _settle(self, partitions: Iterable[Partition]) -> None:
        self._trouble = None
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
        if self.pending_bytes <= self._config.max_pending_bytes / 2:
            self._refill()
            if self._no_room:
                self._has_room(self._overflow.has_room())

    # Recover

    def _recover(self, error: Exception) -> None:
        """Tell and count what failed; a record that Kafka won't ever take goes to the dead letters."""
        failures, self._failures = self._failures, []
        self._trouble = f"{self._config.bootstrap_servers}: {failures[0][1] if failures else error}"
        for partition, failure in failures:
            self._count(failure)
            log.error(
                "Kafka refused a batch",
                topic=partition.topic.name,
                partition=partition.number,
                error=str(failure),
            )
            if isinstance(failure, _RECORDS_FAULT) and partition is not self._state_partition:
                refused = partition.blame(_DOUBTS if isinstance(failure, UnknownError) else 1)
                if refused is not None:
                    self._give_up(refused, partition, failure)
        if any(isinstance(failure, InvalidTimestampError) for _, failure in failures):
            self._without_time_until = time.monotonic() + _WITHOUT_TIME
            log.error(
                "is the clock right? Kafka refuses its time, so records go without", seconds=_WITHOUT_TIME
            )
        if not failures:
            self._count(error)
            log.error("producer failed", error=str(error))

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
                session=_provenance(record.value).session or "none",
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


async def _answer_of(request: Awaitable[None]) -> None:
    try:
        async with asyncio.timeout(_PATIENCE):
            await request
    except TimeoutError:
        raise KafkaTimeoutError(f"no answer about the transaction in {_PATIENCE:g} s") from None
