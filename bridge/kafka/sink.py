"""The sink: sends the pending records of a shard until they are settled, and saves the shard's state.

A record is settled by the acknowledgement of its batch (at-least-once) or by the commit of its transaction
(exactly-once). When anything fails, the producer is replaced by a new one, which commits or aborts the open
transaction, and all that is not settled is sent again, in order.

The state that follows from the records is saved in their transaction, or right after them.

Longer than 350 lines because taking over, delivering and following the cluster depend on what is sent and not
settled at each moment.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import chain

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from bridge.backoff import Backoff
from bridge.config import Delivery, KafkaConfig
from bridge.errors import ShardLost
from bridge.kafka.batches import Batches, Failure
from bridge.kafka.books import Books
from bridge.kafka.client import FAILURES, explained, explanation, in_words, transactional_id
from bridge.kafka.cluster import Cluster
from bridge.kafka.hanging import Suspects, end_hanging
from bridge.kafka.outage import Outage
from bridge.kafka.partition import Partition
from bridge.kafka.producer import PRODUCER_FAILURES, abort, close_producer, open_producer
from bridge.kafka.queues import Queues
from bridge.kafka.quirks.connecting import trouble
from bridge.kafka.reader import looking
from bridge.kafka.rebuilding import LastTrades, is_on_kafka, partitions_of
from bridge.kafka.rejections import Rejections, too_large
from bridge.kafka.state import Save, ShardState, Unsaved
from bridge.records import BOOK, STATE
from bridge.watch.metrics import Metrics

log = structlog.get_logger(__name__)

_SILENCE = 5.0  # seconds without a response after which Kafka counts as unavailable


class Sink:
    """Delivers the records of one shard from its `queues`, and saves its `state`.

    `is_ours` returns whether the group has assigned the shard to this replica; its argument is how many
    seconds old Kafka's response may be.
    """

    def __init__(
        self,
        config: KafkaConfig,
        cluster: Cluster,
        *,
        queues: Queues,
        state: ShardState,
        is_ours: Callable[[float], Awaitable[bool]],
        metrics: Metrics,
    ) -> None:
        # Set when the shard's state was read and nobody else can write to it any more; never cleared.
        self.taken_over = asyncio.Event()
        self.books: Books | None = None  # sends the records of `book`; set by the shard; None: there are none
        self._config = config
        self._cluster = cluster
        # The topics as partitions and state have them, and the version of the view that they are of.
        self._topics, self._followed = cluster.topics, cluster.version
        self._queues = queues
        queues.on_unknown = cluster.include
        self._state = state
        self._is_ours = is_ours
        self._rejections = Rejections(queues, metrics)  # deals with failed batches
        exactly_once = config.delivery is Delivery.EXACTLY_ONCE
        # The id that makes the producer transactional, and fences the one before it; None: at-least-once.
        self._transactional_id = transactional_id(config, state.shard) if exactly_once else None
        # Why Kafka counts as unavailable, for `missing`. After an error a settled record ends it; a new
        # producer does so only if nothing is pending, a confirmed lease only if the group was unavailable.
        self._outage = Outage(state.shard, f"no response from {config.bootstrap_servers} yet")
        self._backoff = Backoff(0.1, 10.0)  # seconds between two producers; reset by an acknowledgement
        # When Kafka was asked for a producer or a commit, on the monotonic clock; None when it has responded.
        self._asked_at: float | None = None
        self._last_trades: LastTrades | None = None  # what the takeover has read of them, until it succeeds
        self._state_partition = Partition(state.topic, state.shard)  # the shard's partition of bridge-state
        self._requested = 0  # number of the last transaction whose commit was requested
        self._hangs = 0  # how often in a row a hanging transaction was found and ended
        # Where one may hang that bridge-state does not show.
        self._suspects = Suspects(config, state, partial(looking, config))
        self._saving: Save | None = None  # at-least-once: the save that is in flight
        self._producer: AIOKafkaProducer | None = None  # the one that delivers; None while there is none

    async def run(self) -> None:
        """Deliver until the queues are drained.

        Raises:
            ShardLost: another replica serves the shard now, and delivers the rest.
        """
        self._cluster.watchers.append(self._queues.something.set)
        try:
            await self._deliver()
        finally:
            self._cluster.watchers.remove(self._queues.something.set)

    async def _deliver(self) -> None:
        queues = self._queues
        while not self._drained():
            self._asked_at = time.monotonic()
            try:
                producer = await self._open()
            except FAILURES as error:
                self._rejections.count(error)
                self._cluster.ask()
                self._outage.begin(f"no producer on {self._config.bootstrap_servers}: {in_words(error)}")
                await asyncio.sleep(self._backoff.next())
                continue
            self._note_answer()
            batches, self._producer = self._batches(producer), producer
            try:
                with explained(producer):
                    if self._transactional_id is not None and await self._end_hanging(batches):
                        continue
                    await self._take_over()
                    self._note_answer()
                    self._follow()
                    if self._transactional_id is not None:
                        await self._suspects.end(batches, self._topics, self._note_answer)
                    self._asked_at = None
                    # Otherwise the first settled record shows that Kafka accepts them.
                    if not queues.pending_records:
                        self._outage.end()
                    deliver = self._at_least_once if self._transactional_id is None else self._exactly_once
                    if await deliver(batches):
                        return
            except asyncio.CancelledError:
                await abort(producer)
                raise
            except PRODUCER_FAILURES as error:
                self._suspects.failed(batches.places)
                await self._recover(error, batches.failures)
            finally:
                self._producer = None
                await close_producer(producer)
            await asyncio.sleep(self._backoff.next())

    def save_heard(self) -> None:
        """Save the last-heard times of private channels soon, as far as their records are on Kafka."""
        if self._state.changed_heard(self._unsaved()):
            self._state.due = True
            self._queues.something.set()

    def missing(self) -> str | None:
        """Return why Kafka counts as unavailable; None if it responds."""
        if self._outage.trouble is not None:
            return self._outage.trouble
        silence = self._silence()
        if silence < _SILENCE:
            return None
        why = trouble(self._producer) if self._producer is not None else None
        because = f": cannot connect to {why}" if why else ""
        return f"no response from {self._config.bootstrap_servers} for {silence:.0f} s{because}"

    def look(self, waiting: int) -> None:
        """Log the begin and the end of an outage; `waiting` is the number of records not on Kafka now."""
        self._outage.look(self.missing(), waiting, self._silence())

    def _silence(self) -> float:
        """Return for how many seconds a response has been waited for."""
        partitions = (*self._queues.places.values(), self._state_partition)
        sent_at = [partition.sent_at for partition in partitions if partition.delivery]
        if self._asked_at is not None:
            sent_at.append(self._asked_at)
        return time.monotonic() - min(sent_at) if sent_at else 0.0

    def _note_answer(self) -> None:
        """Note that Kafka has answered, and will be asked for more before it counts as available."""
        self._asked_at = time.monotonic()

    # Take over

    async def _open(self) -> AIOKafkaProducer:
        """Open a producer; with transactions, from then on nobody else can write for the shard.

        Raises:
            ShardLost: the group has assigned the shard to another replica, or another bridge has served it.
            KafkaError: Kafka is unavailable, or rejects the producer.
        """
        await self._check_lease(0.0)
        await self._state.look()  # before the one that serves it is fenced
        return await open_producer(self._config, self._transactional_id)

    def _batches(self, producer: AIOKafkaProducer) -> Batches:
        return Batches(
            producer,
            self._queues,
            self._state_partition,
            in_transactions=self._transactional_id is not None,
            with_time=self._rejections.with_time,
            on_acknowledged=self._acknowledged,
        )

    async def _check_lease(self, max_age: float) -> None:
        if not await self._is_ours(max_age):
            raise ShardLost("the group has assigned it to another replica")

    async def _await_lease(self, max_age: float, safe_until: float) -> None:
        """Wait until it is certain that no other replica can have served the shard.

        The producer is kept meanwhile: it knows which of its batches Kafka has if their responses are lost.

        Raises:
            ShardLost: another replica has served it, or is about to.
        """
        unavailable = False
        while True:
            try:
                if self._transactional_id is None:
                    await self._check_lease(max_age)
                if time.monotonic() > safe_until or self._state.has_to_look:
                    await self._state.look()
            except KafkaError as error:
                self._rejections.count(error)
                self._outage.begin(in_words(error))
                unavailable = True
                await asyncio.sleep(self._backoff.next())
            else:
                if unavailable:
                    self._outage.end()
                return

    async def _end_hanging(self, batches: Batches) -> bool:
        """End the transaction that Kafka has left hanging; return whether there was one."""
        committing, topics = self._state.committing, self._cluster.topics.values()
        unrequested = None
        if committing is not None and committing.transaction != self._requested:
            unrequested = committing.transaction
        found = await end_hanging(batches, self._state, topics, times=self._hangs, unrequested=unrequested)
        self._hangs = self._hangs + 1 if found else 0
        return found

    async def _take_over(self) -> None:
        """Settle the sent records that Kafka has committed according to its state, and queue the rest again.

        Raises:
            ShardLost: another replica has served the shard meanwhile.
            KafkaError: Kafka is unavailable.
        """
        state = self._state
        self._follow_state()
        committed = await state.catch_up()
        if not self.taken_over.is_set():
            await self._complete_state()
            self._queues.recover()
        elif (
            state.was_lost
            and state.committing is not None
            and await is_on_kafka(self._config, self._queues.places.values(), self._suspects.sent)
        ):
            committed = state.committing.transaction
        if state.committing is not None and state.committing.transaction == committed:
            log.info("a commit whose response was lost had succeeded", transaction=committed)
            state.saved(state.committing)
            self._suspects.committed(self._suspects.sent)
            self._settle(self._queues.places.values())
            if self.books is not None:
                self.books.settle()
            if state.was_lost:
                state.write_anew()  # what the commit has saved was lost, too
        if self.books is not None:
            self.books.drop()
        state.committing = self._saving = None
        self._queues.requeue()
        self.taken_over.set()

    async def _complete_state(self) -> None:
        """Read the last trades from their topic, where bridge-state does not have them.

        That is if it is not the one that the owner has completed, or if a watermark can't be used.

        Raises:
            KafkaError: Kafka is unavailable.
        """
        state, trades = self._state, self._cluster.topics.get("trades")
        remembered = state.remembered
        is_whole = remembered is not None and remembered.has_state_of(self._cluster.seen)
        if trades is None or (is_whole and not state.unreadable):
            return

        def is_wanted(key: bytes) -> bool:
            if is_whole:
                return key in state.unreadable
            return key not in state.watermarks and state.has_symbol(key)

        if self._last_trades is None or self._last_trades.topic.id != trades.id:
            # A key that was not traded since the topic got more partitions may be where it was before.
            numbers = {trades.partitions, min(self._config.partitions, trades.partitions)}
            partitions = partitions_of(state.shard, state.shards, numbers)
            self._last_trades = LastTrades(self._config, trades, partitions, is_wanted)
        found = await self._last_trades.read()
        state.complete(found)
        self._queues.rebuilt, self._last_trades = found, None
        if found:
            log.warning(
                "bridge-state incomplete, read last trades from their topic",
                shard=state.shard,
                symbols=len(found),
            )

    # Deliver

    async def _at_least_once(self, batches: Batches) -> bool:
        """Send one batch after another; return whether all is delivered, False for a new producer."""
        # With a heartbeat every quarter of the session timeout, nothing is reassigned within half of it.
        safe_for = self._config.session_timeout / 2
        batches.safe_until = time.monotonic() + safe_for
        while await self._anything(batches):
            if self._has_to_follow:
                await batches.all_acknowledged()
                if not self._follow():
                    return False
            # A producer without transactions is not fenced, so it has to ask whether it may still write; and
            # if another replica could have served the shard meanwhile, whether one has.
            await self._await_lease(safe_for, batches.safe_until)
            if time.monotonic() > self._state.safe_until:
                await self._claim(batches)
            batches.safe_until = min(time.monotonic() + safe_for, self._state.safe_until)
            await batches.flush()
            if self.books is not None:
                await self.books.send(batches)
            if self._state.unsaved and self._saving is None and time.monotonic() <= batches.safe_until:
                self._saving = self._state.save((), self._unsaved(), ended=self._complete())
                await batches.send_state(self._saving)
            if self._queues.draining:
                await batches.all_acknowledged()
            else:
                await self._pause(self._config.flush_interval)
        return True

    async def _claim(self, batches: Batches) -> None:
        """Save the owner before anything else, for a bridge that may wait until this one counts as gone.

        Raises:
            ShardLost: it has taken the shard over already.
            KafkaError: a batch has failed, or Kafka is unavailable.
        """
        if self._saving is None:
            self._saving = self._state.save((), self._unsaved(), ended=self._complete())
            await batches.send_state(self._saving)
        await batches.all_acknowledged()
        if self._state.disturbed:
            await self._state.look()

    async def _exactly_once(self, batches: Batches) -> bool:
        """Commit one transaction after another; records for the next one gather meanwhile.

        Returns whether all is delivered, False for a new producer.

        Nothing is visible before the commit, so a partition is flushed when a batch is full, and once,
        `flush_interval` before the commit is due: a batch costs as much work as many records.
        """
        config, queues, state = self._config, self._queues, self._state
        gathering = config.commit_interval - config.flush_interval
        flush_at = 0.0
        while await self._anything(batches):
            if self._has_to_follow and not self._follow():
                return False
            await self._await_lease(float("inf"), float("inf"))
            await batches.begin_transaction()
            flush_at = max(flush_at + gathering, time.monotonic() + config.flush_interval)
            while (left := flush_at - time.monotonic()) > 0 and (queues.dirty or not queues.draining):
                if queues.draining:
                    await batches.flush()
                    await batches.all_acknowledged()
                else:
                    await self._pause(left)
                    await batches.flush(full_only=True)
            await batches.flush()
            partitions = queues.places.values()
            if self.books is not None:
                for partition in partitions:
                    self.books.take(partition)
                await self.books.send(batches)
            trades = (partition.sent for partition in partitions if partition.has_marks)
            queues.note_progress(with_sent=True)
            save = state.save(chain.from_iterable(trades), self._unsaved(), ended=self._complete())
            state.committing = save
            await batches.send_state(save)
            await batches.all_acknowledged()
            self._asked_at, self._requested = time.monotonic(), save.transaction
            await batches.commit_transaction()
            self._asked_at = state.committing = None
            self._suspects.committed(batches.places)
            state.saved(save)
            self._settle(partitions)
            if self.books is not None:
                self.books.settle()
            queues.saved(save)
        return True

    @property
    def _has_to_follow(self) -> bool:
        """Whether the cluster has changed since it was followed, or keys can follow their partitions."""
        return self._cluster.version != self._followed or (self._queues.behind and self._queues.spool_is_read)

    def _follow(self) -> bool:
        """Follow what has changed of the topics; return whether the producer can be kept.

        Nothing may be sent and not settled. aiokafka's producer does not notice at once that a topic has more
        partitions, or is another one.
        """
        before, now = self._topics, self._cluster.topics
        self._topics, self._followed = now, self._cluster.version
        self._follow_state()
        if self.books is not None:
            self.books.follow(now[BOOK])
        for partition, records in self._queues.follow(now):
            for record in records:
                why = f"more than max.message.bytes ({partition.topic.max_message_bytes})"
                self._rejections.give_up(record, partition, why)
        can_be_looked_at = self._suspects.follow(now)
        if can_be_looked_at and self._transactional_id is not None:
            return False
        return all(
            (one.id, one.partitions) == (now[channel].id, now[channel].partitions)
            for channel, one in before.items()
        )

    def _follow_state(self) -> None:
        """Follow what has changed of bridge-state: another topic gets all that is to be in it."""
        topic, seen = self._cluster.topics[STATE], self._cluster.seen
        self._state_partition.follow(topic)
        self._queues.note_cluster(seen)
        if self._state.follow(topic, seen):
            log.warning("bridge-state was lost, writing it anew", shard=self._state.shard)
            self._queues.note_progress(with_sent=False)

    def _unsaved(self) -> Unsaved:
        """Return the oldest records that a save now would leave out: a transaction includes the sent ones."""
        return self._queues.unsaved(with_sent=self._transactional_id is not None)

    def _complete(self) -> bool:
        """Return whether nothing is left to deliver after a save now, at the end."""
        queues = self._queues
        in_transaction = 0
        if self._transactional_id is not None:
            in_transaction = sum(len(partition.sent) for partition in queues.places.values())
        return queues.draining and queues.pending_records == in_transaction and queues.spool_is_read

    def _save_end(self) -> None:
        """Save that this replica has ended, and until when private channels were listened to."""
        self.save_heard()
        if self._complete() and not self._state.ended:
            self._state.due = True

    def _drained(self) -> bool:
        """Return whether nothing is left to deliver or to save, at the end."""
        saved = not self._state.due or not self.taken_over.is_set()
        return self._queues.draining and not self._queues.pending_records and saved

    async def _anything(self, batches: Batches) -> bool:
        """Wait for something to send; False when draining and all is settled."""
        queues = self._queues
        while True:
            queues.something.clear()
            queues.refill()
            if queues.can_send() or self._state.unsaved or self._has_to_follow:
                return True
            if queues.draining or batches.failures:
                await batches.all_acknowledged()
                self._save_end()
                return queues.can_send() or self._state.unsaved
            await asyncio.sleep(0)  # a wait for what is set already would not let anything else run
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._state.renewal_in):
                    await queues.something.wait()

    async def _pause(self, seconds: float) -> None:
        """Wait for the next flush: until a batch is full, at most `seconds`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._queues.batch_is_full.wait()
        self._queues.batch_is_full.clear()

    # Settle

    def _acknowledged(self, partition: Partition) -> None:
        """Note that Kafka accepts records; at-least-once, settle those of the batch and note their state."""
        self._backoff.reset()
        if self._transactional_id is not None:
            return
        if partition is self._state_partition:
            if self._saving is not None and partition.delivery is None:  # it was the last batch
                self._state.saved(self._saving)
                self._queues.saved(self._saving)
                self._saving = None
                if self.books is not None and self.books.held:
                    self._state.due = True  # so that the loop goes on, and sends them
                    self._queues.something.set()
            return
        if self.books is not None:
            if self.books.owns(partition):
                if partition.delivery is None:
                    self.books.settle([partition])
                    if self._state.unsaved:
                        self._queues.something.set()
                return
            self.books.take(partition)
        if partition.has_marks:
            self._state.acknowledged(partition.sent)
        self._settle([partition])
        if partition in self._queues.event_partitions:
            self.save_heard()  # the event may be a gap that was waited for
        self._queues.note_progress(with_sent=False)
        if self._state.unsaved:
            self._queues.something.set()

    def _settle(self, partitions: Iterable[Partition]) -> None:
        self._outage.end()
        self._queues.settle(partitions)

    # Recover

    async def _recover(self, error: Exception, failures: Sequence[Failure]) -> None:
        if too_large(failures):
            await self._cluster.refreshed()
        else:
            self._cluster.ask()
        place = f"{self._config.bootstrap_servers}: "
        if failures:
            partition, error_of_batch = failures[0]
            words = explanation(error_of_batch, self._producer)
            place += f"topic {partition.topic.name}, partition {partition.number}: {words}"
            if partition is self._state_partition and too_large(failures[:1]):
                place += f" (raise its max.message.bytes, which is {partition.topic.max_message_bytes})"
        else:
            place += explanation(error, self._producer)
        self._outage.begin(place)
        self._rejections.handle(failures, self._cluster.topics)
        if self.books is not None:
            self.books.handle(failures)
        if not failures:
            self._rejections.count(error)
            log.error("producer failed, retrying", error=in_words(error))
