"""The sink: delivers what is in the queues of a shard, and keeps its state, through every kind of trouble.

A record is settled by its batch's acknowledgement (at-least-once), or by the commit of its transaction
(exactly-once). When anything fails, the producer is rebuilt, which settles an open transaction one way or the
other, and all that is not settled is sent again, in order.

With the records goes the state that they bring about: in their transaction, or right after them.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from itertools import chain

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
from bridge.errors import ShardLost
from bridge.kafka.batches import Batches, Failure
from bridge.kafka.client import FAILURES, in_words
from bridge.kafka.partition import Partition
from bridge.kafka.producer import PRODUCER_FAILURES, abort, close_producer, open_producer
from bridge.kafka.queues import Queues
from bridge.kafka.state import Alive, Save, State
from bridge.kafka.topics import Topic
from bridge.records import DEADLETTER, Record, letter_for
from bridge.spool.overflow import Overflow
from bridge.watch.metrics import Metrics

log = structlog.get_logger(__name__)

# Errors that a record brings about, and would again; Kafka says "unknown" of a key that is missing.
_RECORDS_FAULT = (
    MessageSizeTooLargeError,
    PolicyViolationError,
    RecordListTooLargeError,
    UnknownError,
)

_DOUBTS = 5  # refusals of one record for a reason unknown, until it is taken for the reason

_WITHOUT_TIME = 60.0  # seconds in which records go without their time, once Kafka has refused one

_SILENCE = 5.0  # seconds without an acknowledgement after which Kafka counts as away


class Sink:
    """Delivers the records of one shard from its `queues`, and keeps its `state`.

    `transactional_id` makes it exactly-once, None at-least-once. `is_ours` tells whether the shard still is
    this replica's, by what Kafka said not longer than so many seconds ago.

    `taken_over` is set when the shard's state has been read, and nobody else can write to it any more.
    """

    def __init__(
        self,
        config: KafkaConfig,
        topics: Mapping[str, Topic],
        *,
        transactional_id: str | None,
        queues: Queues,
        overflow: Overflow,
        state: State,
        is_ours: Callable[[float], Awaitable[bool]],
        metrics: Metrics,
    ) -> None:
        self.taken_over = asyncio.Event()
        self._config = config
        self._topics = topics
        self._transactional_id = transactional_id
        self._queues = queues
        self._overflow = overflow
        self._state = state
        self._is_ours = is_ours
        self._metrics = metrics
        self._trouble: str | None = f"no answer from {config.bootstrap_servers} yet"
        self._backoff = Backoff(0.1, 10.0)
        self._asked_at: float | None = None
        self._without_time_until = -float("inf")
        self._state_partition = Partition(state.topic, state.shard)
        # At-least-once: what is on its way to the state's topic.
        self._saving: Save | None = None

    async def run(self) -> None:
        """Deliver until the queues are drained.

        Raises:
            ShardLost: the shard is another replica's now, and so is what is not delivered.
        """
        queues = self._queues
        while not (queues.draining and not queues.pending_records):
            self._asked_at = time.monotonic()
            try:
                producer = await self._open()
            except FAILURES as error:
                self._count(error)
                self._trouble = f"no producer on {self._config.bootstrap_servers}: {in_words(error)}"
                log.warning("Kafka is away", error=in_words(error), bootstrap=self._config.bootstrap_servers)
                await asyncio.sleep(self._backoff.next())
                continue
            batches = self._batches(producer)
            try:
                await self._take_over()
                self._asked_at = None
                if not queues.pending_records:  # else the first that is settled shows that Kafka takes them
                    self._trouble = None
                if self._transactional_id is None:
                    await self._at_least_once(batches)
                else:
                    await self._exactly_once(batches)
                return
            except asyncio.CancelledError:
                await abort(producer)
                raise
            except PRODUCER_FAILURES as error:
                self._recover(error, batches.failures)
            finally:
                await close_producer(producer)
            await asyncio.sleep(self._backoff.next())

    def listened(self, account: str, alive: Alive) -> None:
        """Keep with the state until when an account's private channels were listened to."""
        self._state.listened(account, alive)
        self._queues.something.set()

    def missing(self) -> str | None:
        """Say what is wrong with Kafka; None if it answers."""
        if self._trouble is not None:
            return self._trouble
        sent_at = [partition.sent_at for partition in self._queues.places.values() if partition.delivery]
        if self._asked_at is not None:
            sent_at.append(self._asked_at)
        silence = time.monotonic() - min(sent_at) if sent_at else 0.0
        if silence < _SILENCE:
            return None
        return f"no answer from {self._config.bootstrap_servers} for {silence:.0f} s"

    # Take over

    async def _open(self) -> AIOKafkaProducer:
        """Open a producer, which from then on is the only one that can write for the shard.

        Raises:
            ShardLost: the group has given the shard to another replica.
            KafkaError: Kafka does not answer or refuses.
        """
        await self._check_lease(0.0)
        return await open_producer(self._config, self._topics, self._transactional_id)

    def _batches(self, producer: AIOKafkaProducer) -> Batches:
        return Batches(
            producer,
            self._queues,
            self._state_partition,
            in_transactions=self._transactional_id is not None,
            with_time=lambda: time.monotonic() > self._without_time_until,
            on_acknowledged=self._acknowledged,
        )

    async def _check_lease(self, max_age: float) -> None:
        if not await self._is_ours(max_age):
            raise ShardLost("the group has given it to another replica")

    async def _await_lease(self, max_age: float, safe_until: float) -> None:
        """Check as soon as the group answers that nobody else can have had the shard.

        Not with another producer: this one knows which of its batches Kafka has, if their answers are lost.

        Raises:
            ShardLost: somebody has, or will have.
        """
        away = False
        while True:
            try:
                await self._check_lease(max_age)
                if time.monotonic() > safe_until:
                    await self._state.catch_up()
            except KafkaError as error:
                self._count(error)
                self._trouble, away = in_words(error), True
                log.warning("the group is away", error=in_words(error))
                await asyncio.sleep(self._backoff.next())
            else:
                if away:
                    self._trouble = None
                return

    async def _take_over(self) -> None:
        """Learn from the state what Kafka has of what was sent, and queue the rest once more.

        Raises:
            ShardLost: another replica has served the shard meanwhile.
            KafkaError: Kafka does not answer.
        """
        state = self._state
        committed = await state.catch_up()
        if not self.taken_over.is_set():
            self._overflow.recover()
        if state.committing is not None and state.committing.transaction == committed:
            log.info("a commit without an answer had taken place", transaction=committed)
            state.saved(state.committing)
            self._settle(self._queues.places.values())
        state.committing = self._saving = None
        self._queues.requeue()
        self.taken_over.set()

    # Deliver

    async def _at_least_once(self, batches: Batches) -> None:
        # With heartbeats every quarter of the session timeout, the group gives nothing away in half of it.
        safe_for = self._config.session_timeout / 2
        batches.safe_until = time.monotonic() + safe_for
        while await self._anything(batches):
            # Nobody fences a producer without transactions, so it has to look whether it may write; and
            # after a time in which another replica could have had the shard, whether one has.
            await self._await_lease(safe_for, batches.safe_until)
            batches.safe_until = time.monotonic() + safe_for
            await batches.flush()
            if self._state.unsaved and self._saving is None and time.monotonic() <= batches.safe_until:
                self._saving = self._state.save(())
                await batches.send_state(self._saving)
            if self._queues.draining:
                await batches.all_answered()
            else:
                await self._pause(self._config.flush_interval)

    async def _exactly_once(self, batches: Batches) -> None:
        """Commit one transaction after another; the next one's records gather meanwhile.

        Nothing is visible before the commit, so a partition is flushed when a batch is full, and once,
        `flush_interval` before the commit is due: a batch costs as much work as many records.
        """
        config, queues, state = self._config, self._queues, self._state
        gathering = config.commit_interval - config.flush_interval
        flush_at = 0.0
        while await self._anything(batches):
            await batches.begin_transaction()
            flush_at = max(flush_at + gathering, time.monotonic() + config.flush_interval)
            while (left := flush_at - time.monotonic()) > 0 and (queues.dirty or not queues.draining):
                if queues.draining:
                    await batches.flush()
                    await batches.all_answered()
                else:
                    await self._pause(left)
                    await batches.flush(full_only=True)
            await batches.flush()
            partitions = queues.places.values()
            marked = (partition.sent for partition in partitions if partition.marked)
            state.note(self._overflow.note(partitions, with_sent=True))
            save = state.committing = state.save(chain.from_iterable(marked))
            await batches.send_state(save)
            await batches.all_answered()
            self._asked_at = time.monotonic()
            await batches.commit_transaction()
            self._asked_at = state.committing = None
            state.saved(save)
            self._settle(partitions)
            self._overflow.saved(save)

    async def _anything(self, batches: Batches) -> bool:
        """Wait for something to send; False when draining and all is settled."""
        queues = self._queues
        queues.refill()
        while not (queues.dirty or self._state.unsaved):
            if queues.draining or batches.failures:
                await batches.all_answered()
                if not (queues.dirty or self._state.unsaved):
                    return False
            queues.something.clear()
            await queues.something.wait()
        return True

    async def _pause(self, seconds: float) -> None:
        """Wait for the next flush: so long, or until a batch is full."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._queues.batch_is_full.wait()
        self._queues.batch_is_full.clear()

    # Settle

    def _acknowledged(self, partition: Partition) -> None:
        """Kafka works; at-least-once, what it has acknowledged is settled, and may bring about state."""
        self._backoff.reset()
        if self._transactional_id is not None:
            return
        partitions = self._queues.places.values()
        if partition is self._state_partition:
            if self._saving is not None and partition.delivery is None:  # it was the last batch
                self._state.saved(self._saving)
                self._overflow.saved(self._saving)
                self._saving = None
            return
        if partition.marked:
            self._state.acknowledged(partition.sent)
        self._settle([partition])
        self._state.note(self._overflow.note(partitions, with_sent=False))
        if self._state.unsaved:
            self._queues.something.set()

    def _settle(self, partitions: Iterable[Partition]) -> None:
        self._trouble = None
        self._queues.settle(partitions)

    # Recover

    def _recover(self, error: Exception, failures: Sequence[Failure]) -> None:
        """Tell and count what failed; a record that Kafka won't ever take goes to the dead letters."""
        self._trouble = f"{self._config.bootstrap_servers}: {in_words(failures[0][1] if failures else error)}"
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
        self._queues.release(1, len(record.value))
        detail = f"{partition.topic.name} refused the record, which stands here for its frame: {error}"
        if record.channel == DEADLETTER:
            self._metrics.counter("kafka_errors_total", error="DeadLetterRefused").value += 1
            log.error("dead letter lost", detail=detail)
            return
        self._metrics.counter("deadletters_total", reason="payload").value += 1
        if self._queues.add([letter_for(record, detail)]):
            log.error("a refused record is too large for the dead letters too", detail=detail)
            detail = f"left out, too large for its topic; {detail}"
            self._queues.add([letter_for(record, detail, whole=False)])

    def _count(self, error: BaseException) -> None:
        self._metrics.counter("kafka_errors_total", error=type(error).__name__).value += 1
