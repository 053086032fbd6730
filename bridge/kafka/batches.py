"""The batches that one producer sends, and Kafka's responses to them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError
from aiokafka.producer.message_accumulator import BatchBuilder

from bridge.kafka import quirks
from bridge.kafka.partition import FULL_BATCH, NO_TIME, RECORD_OVERHEAD, Partition
from bridge.kafka.producer import PRODUCER_FAILURES
from bridge.kafka.queues import Queues
from bridge.kafka.state import Save

_PATIENCE = 15.0  # seconds without any response until a producer is given up: aiokafka may wait forever
_LONG_PATIENCE = 120.0  # the same without transactions, where giving up may duplicate the batches in flight

Failure = tuple[Partition, BaseException]
"""The last batch of a partition failed with this error."""


class Batches:
    """Sends the queued records with one producer, one batch of each partition at a time.

    `on_acknowledged` is called for each batch that Kafka has acknowledged. `with_time` returns whether
    records have their time of reception as Kafka's timestamp.
    """

    def __init__(
        self,
        producer: AIOKafkaProducer,
        queues: Queues,
        state: Partition,
        *,
        in_transactions: bool,
        with_time: Callable[[], bool],
        on_acknowledged: Callable[[Partition], None],
    ) -> None:
        # Failed batches, never removed. Once there is one, `flush` raises at its start and `all_acknowledged`
        # at its end; a flush that is under way may still send the rest.
        self.failures: list[Failure] = []
        # Until when a flush may send, on the monotonic clock: another replica may serve the shard after that.
        self.safe_until = float("inf")
        # The partitions that the last transaction has records in, with the offset of its first one there;
        # None: not known, as before it is acknowledged. Without transactions it says nothing.
        self.places: dict[TopicPartition, int | None] = {}
        self._producer = producer
        self._queues = queues
        self._state = state
        self.in_transactions = in_transactions
        self._patience = _PATIENCE if in_transactions else _LONG_PATIENCE  # seconds without any response
        self._with_time = with_time
        self._on_acknowledged = on_acknowledged
        self._in_flight = 0  # batches that were sent and are neither acknowledged nor failed
        self._quiet = asyncio.Event()  # set while no batch is in flight
        self._quiet.set()

    async def begin_transaction(self) -> None:
        """Begin a transaction: what is sent from here on is visible when it is committed, and not before.

        Raises:
            KafkaError: the producer has failed and can't be used any more.
        """
        self.places = {}
        await _response_to(self._producer.begin_transaction())

    async def commit_transaction(self) -> None:
        """Make visible all that was sent since `begin_transaction`.

        Raises:
            KafkaError: Kafka rejects it, or there is no response; then it may still have succeeded.
        """
        await _response_to(self._producer.commit_transaction())

    async def end_without_records(self, places: Collection[TopicPartition], *, commit: bool) -> None:
        """Commit or abort a transaction over these partitions, and with it what was left open in them.

        Raises:
            KafkaError: Kafka rejects it, or there is no response; then it may still have succeeded.
        """
        await self.begin_transaction()
        quirks.add_to_transaction(self._producer, places)
        if commit:
            await self.commit_transaction()
        else:
            await _response_to(self._producer.abort_transaction())

    async def flush(self, *, full_only: bool = False) -> None:
        """Send a batch to each partition that has queued records (or a full batch), and none in flight.

        Events first, also those that are queued while batches are sent: no trade is on Kafka before the gap
        in front of it was reported there. Nothing is sent to partitions that are stuck; while those of events
        are, no trades are sent either.

        Raises:
            KafkaError: a batch has failed; none is in flight any more.
        """
        if self.failures:
            await self.all_acknowledged()
        await self._flush_events()
        least = FULL_BATCH if full_only else 1
        self._queues.set_stuck_aside()
        ready = [p for p in self._queues.dirty if p.delivery is None and len(p.queued) >= least]
        for partition in ready:
            await self._flush_events()
            if time.monotonic() > self.safe_until:
                return  # the process was frozen in the middle of this
            if not (partition.has_marks and self._queues.events_wait):
                await self._send_next(partition)

    async def send_all(self, partitions: Iterable[Partition]) -> None:
        """Send all queued records of these partitions, which are in no queue.

        Raises:
            KafkaError: a batch has failed; none is in flight any more.
        """
        for partition in partitions:
            while partition.queued:
                if time.monotonic() > self.safe_until:
                    return
                if partition.delivery is not None:
                    await self.all_acknowledged()
                await self._send_next(partition)

    async def send_state(self, save: Save) -> None:
        """Send a save to bridge-state, in as few batches as possible.

        Raises:
            KafkaError: a batch has failed; none is in flight any more.
        """
        now_ms = time.time_ns() // 1_000_000 if self._with_time() else NO_TIME
        batch, left = self._producer.create_batch(), self._state.batch_room
        for key, value in save.values.items():
            left -= len(key) + len(value or b"") + RECORD_OVERHEAD
            if (left < 0 and batch.record_count()) or batch.append(
                timestamp=now_ms, key=key, value=value
            ) is None:
                await self._send(self._state, batch, save.places)
                batch = self._producer.create_batch()
                left = self._state.batch_room - len(key) - len(value or b"") - RECORD_OVERHEAD
                batch.append(timestamp=now_ms, key=key, value=value)
        await self._send(self._state, batch, save.places)

    async def all_acknowledged(self) -> None:
        """Wait until no batch is in flight.

        aiokafka commits a transaction although batches of it have failed, so they have to be awaited first.

        Raises:
            KafkaError: a batch has failed, or there is no response to any.
        """
        while self._in_flight:
            in_flight = self._in_flight
            try:
                async with asyncio.timeout(self._patience):
                    await self._quiet.wait()
            except TimeoutError:
                if self._in_flight == in_flight:
                    raise KafkaTimeoutError(
                        f"no response to {in_flight} batches within {self._patience:g} s"
                    ) from None
        if self.failures:
            raise KafkaError(str(self.failures[0][1]))

    async def _flush_events(self) -> None:
        """Send all queued events, and those that are queued meanwhile."""
        while waiting := [one for one in self._queues.event_partitions if one.queued and not one.stuck]:
            for partition in waiting:
                if time.monotonic() > self.safe_until:
                    return
                await self._send_next(partition)
                if not self.in_transactions or partition.queued:
                    await self.all_acknowledged()

    async def _send_next(self, partition: Partition) -> None:
        batch = partition.take_batch(self._producer, with_time=self._with_time())
        if not partition.queued:
            self._queues.dirty.pop(partition, None)
        await self._send(partition, batch)

    async def _send(
        self, partition: Partition, batch: BatchBuilder, places: list[tuple[int, int]] | None = None
    ) -> None:
        """Send a batch; where Kafka has put it is added to `places`: its first offset, and its records."""
        place = TopicPartition(partition.topic.name, partition.topic.existing(partition.number))
        if self.in_transactions:
            self.places.setdefault(place, None)
        try:
            delivery = await self._producer.send_batch(batch, place.topic, partition=place.partition)
        except PRODUCER_FAILURES as error:
            self.failures.append((partition, error))
            await self.all_acknowledged()
        partition.delivery = delivery
        partition.sent_at = time.monotonic()
        self._in_flight += 1
        self._quiet.clear()
        if places is not None:
            number = batch.record_count()
            delivery.add_done_callback(lambda done: _note_place(done, number, places))
        delivery.add_done_callback(lambda done: self._on_response(partition, place, done))

    def _on_response(
        self, partition: Partition, place: TopicPartition, delivery: "asyncio.Future[Any]"
    ) -> None:
        if partition.delivery is delivery:
            partition.delivery = None
        self._in_flight -= 1
        if not self._in_flight:
            self._quiet.set()
        # A producer that goes on cancels none. Of one that has ended, Kafka may have the batch or not.
        given_up = KafkaConnectionError("the producer has given the batch up")
        error = given_up if delivery.cancelled() else delivery.exception()
        if error is not None:
            self.failures.append((partition, error))
            self._queues.something.set()
            return
        if self.in_transactions and self.places.get(place) is None:
            self.places[place] = delivery.result().offset
        if len(partition.queued) >= FULL_BATCH:
            self._queues.batch_is_full.set()
        self._on_acknowledged(partition)


def _note_place(delivery: "asyncio.Future[Any]", number: int, places: list[tuple[int, int]]) -> None:
    if not delivery.cancelled() and delivery.exception() is None:
        places.append((delivery.result().offset, number))


async def _response_to(request: Awaitable[None]) -> None:
    try:
        async with asyncio.timeout(_PATIENCE):
            await request
    except TimeoutError:
        raise KafkaTimeoutError(f"no response about the transaction within {_PATIENCE:g} s") from None
