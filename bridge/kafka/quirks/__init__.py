"""Corrections and additions to aiokafka: the only package that touches its private members.

Seen in aiokafka 0.14.0. After an upgrade read each function again; a test fails until `SEEN_IN` is raised.

`apply` replaces some methods of aiokafka; `bridge.kafka.client`, which builds every client, calls it. The
other functions do their work where they are called. `connection` and `connecting` have what is about reaching
brokers.

Three more properties of aiokafka need no private member, and are handled where the records are sent:

- A record that the broker rejects makes every later send to its partition fail until the producer is
  replaced (issue 1017 has the same symptom): `Sink` replaces the producer.
- `commit_transaction()` succeeds although batches of the transaction have failed: `Batches` looks at the
  result of every batch first.
- With idempotence nothing ever expires (issue 1101): `Batches` limits how long it waits for a response.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from itertools import chain
from typing import Any

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.consumer.fetcher import READ_UNCOMMITTED
from aiokafka.errors import KafkaError, KafkaTimeoutError
from aiokafka.producer.message_accumulator import BatchBuilder, MessageAccumulator, MessageBatch
from aiokafka.protocol.api import Response
from aiokafka.protocol.metadata import MetadataRequest, MetadataRequest_v5

from bridge.exchange.words import Confidential
from bridge.kafka.quirks import connecting, connection

log = structlog.get_logger(__name__)

SEEN_IN = "0.14.0"
"""The version of aiokafka in which all of this was last checked."""

_CLOSE_TIMEOUT = 1.0  # seconds that a client gets to close, and once more after its task was cancelled

_original_reenqueue = MessageAccumulator.reenqueue
_original_build = MetadataRequest.build


def apply() -> None:
    """Replace the methods of aiokafka that have to be replaced; calling it again changes nothing."""
    for owner, name, original, corrected in (
        *connection.CORRECTIONS,
        *connecting.CORRECTIONS,
        (MessageAccumulator, "reenqueue", _original_reenqueue, _reenqueue),
        (MetadataRequest, "build", _original_build, _build),
    ):
        if getattr(owner, name) is original:
            setattr(owner, name, corrected)


def _reenqueue(self: MessageAccumulator, batch: MessageBatch) -> None:
    """Queue a batch for another attempt, unless it has been failed together with its producer.

    aiokafka removes the batch from the pending ones here, and again when its future is done. When the
    producer fails before or after, one of the two removals is a KeyError in a task that nobody awaits. Not
    reported upstream as far as known. Without this a failing producer logs such errors, and the response to
    a batch may be lost.
    """
    if not batch.future.done():
        self._batches[batch.tp].appendleft(batch)
        batch.reset_drain()


def _build(self: MetadataRequest, request_struct_class: type[MetadataRequest_v5]) -> MetadataRequest_v5:
    """Ask for metadata without letting the broker create the topics that are asked for.

    aiokafka's clients let it, and have no option against it. Not reported upstream as far as known. Without
    this a broker with `auto.create.topics.enable` creates a deleted topic again as soon as the producer or
    the group's consumer asks for it, with the broker's number of partitions and settings.
    """
    if self._allow_auto_topic_creation is None:
        self._allow_auto_topic_creation = False
    return _original_build(self, request_struct_class)


async def wait_closed(closing: Coroutine[Any, Any, None]) -> None:
    """Wait for one of aiokafka's clients to close, for two seconds at most.

    A client's `stop()` or `close()` waits for a task that it has cancelled; but before Python 3.12
    `asyncio.wait_for` loses a cancellation that arrives together with a result, so that it may wait forever.
    A second cancellation ends the task. The close also raises whatever that task had failed with, which no
    longer matters. Not reported upstream as far as known. Without this a shutdown may hang.
    """
    task = asyncio.create_task(closing)
    await asyncio.wait({task}, timeout=_CLOSE_TIMEOUT)
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CLOSE_TIMEOUT)
    if task.done() and not task.cancelled() and (error := task.exception()) is not None:
        log.warning("Kafka client did not close cleanly", error=repr(error))


def require_fetching(consumer: AIOKafkaConsumer) -> None:
    """Raise what the task that fetches for a consumer has failed with.

    aiokafka never looks at it: once a response has made no sense, `getmany()` returns nothing for ever. Not
    reported upstream as far as known. Without this such a response would delay a takeover by a minute.

    Raises:
        KafkaError: it has failed.
    """
    fetching = consumer._fetcher._fetch_task  # noqa: SLF001
    if fetching.done() and not fetching.cancelled():
        fetching.result()


async def end_offsets_of_all(
    consumer: AIOKafkaConsumer, places: Collection[TopicPartition]
) -> Mapping[TopicPartition, int]:
    """Return the ends of partitions with what is not committed, from a consumer of committed records.

    aiokafka asks for one of the two ends, by the consumer's isolation level. Not reported upstream as far as
    known. Without this every takeover would need one more consumer, with connections of its own.

    Raises:
        KafkaError: Kafka is unavailable.
    """
    fetcher = consumer._fetcher  # noqa: SLF001
    level, fetcher._isolation_level = fetcher._isolation_level, READ_UNCOMMITTED  # noqa: SLF001
    try:
        ends: Mapping[TopicPartition, int] = await consumer.end_offsets(list(places))
    finally:
        fetcher._isolation_level = level  # noqa: SLF001
    return ends


async def with_leader(consumer: AIOKafkaConsumer, places: Collection[TopicPartition]) -> set[TopicPartition]:
    """Return which partitions have a leader, or are not known to have none; their topics are known then.

    aiokafka gets the metadata of topics that a consumer is not assigned one by one, 0.1 s apart, and waits
    40 s for a leader. Not reported upstream as far as known. Without this a look at many topics would take
    seconds, and at a partition without a leader it would fail.

    Raises:
        KafkaError: Kafka is unavailable.
    """
    client = consumer._client  # noqa: SLF001
    await client.set_topics({place.topic for place in places})
    return {place for place in places if client.cluster.leader_for_partition(place) != -1}


def appending(
    batch: BatchBuilder,
) -> Callable[[int, int, bytes | None, bytes | None, Sequence[object]], object]:
    """Return what appends a record to a batch: its place in it from 0, its time in ms, key, value, headers.

    It returns None once the batch is full. `BatchBuilder.append` does the same, but in a layer of Python that
    costs more than the rest. `note_appended` has to be called afterwards, instead of the counting there.
    """
    return batch._builder.append  # type: ignore[no-any-return]  # noqa: SLF001


def note_appended(batch: BatchBuilder, number: int) -> None:
    """Tell a batch how many records it has, from which the producer counts its sequence numbers."""
    batch._relative_offset = number  # noqa: SLF001


def is_in_transaction(producer: AIOKafkaProducer) -> bool:
    """Return whether a transaction of this producer is open.

    aiokafka has no public way to ask, and `abort_transaction()` without a transaction is an error. Not
    reported upstream as far as known. Without this the bridge would have to keep a second account of it.
    """
    manager = producer._txn_manager  # noqa: SLF001
    return manager is not None and bool(manager.is_in_transaction())


def add_to_transaction(producer: AIOKafkaProducer, places: Collection[TopicPartition]) -> None:
    """Make partitions part of the open transaction without a record for them.

    aiokafka adds a partition when the first batch for it is queued, and has no other way. Not reported
    upstream as far as known. Without this a transaction that Kafka has left open could not be ended.
    """
    for place in places:
        producer._txn_manager.maybe_add_partition_to_txn(place)  # noqa: SLF001


def hears_coordinator(consumer: AIOKafkaConsumer) -> bool:
    """Return whether the group's coordinator answers a member of the group, as of its last request.

    aiokafka has no public way to ask. Not reported upstream as far as known. Without this it is not seen that
    a replica which serves its shards is about to lose them.
    """
    return getattr(consumer._coordinator, "coordinator_id", None) is not None  # noqa: SLF001


async def close_by_force(producer: AIOKafkaProducer) -> None:
    """Dismantle a producer that has stopped, or does not stop, so that none of its tasks remains.

    With idempotence batches never expire: while the broker is unavailable `stop()` waits forever, and after
    a cancelled `stop()` the sender's tasks live on and deliver when the broker is back. Upstream issue 1101,
    open. Without this a batch that the bridge has sent again with its next producer is on Kafka twice.

    The order matters: to fail the batches before the tasks have ended is a KeyError in them. In the end the
    errors of futures that nobody awaits any more are retrieved, or asyncio would complain about each.
    """
    accumulator, manager = producer._message_accumulator, producer._txn_manager  # noqa: SLF001
    if tasks := _tasks_of(producer._sender):  # noqa: SLF001
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_CLOSE_TIMEOUT)
    accumulator.fail_all(KafkaTimeoutError("given up"))
    await wait_closed(producer.client.close())
    waiters = [batch._drain_waiter for batch in chain.from_iterable(accumulator._batches.values())]  # noqa: SLF001
    if manager is not None:
        waiters.append(manager._transaction_waiter)  # noqa: SLF001
    for waiter in waiters:
        if waiter is not None and waiter.done() and not waiter.cancelled():
            waiter.exception()


def _tasks_of(sender: object) -> set[asyncio.Task[object]]:
    """Return the tasks of a producer's sender; one that has failed leaves its requests running."""

    def belongs(task: asyncio.Task[object]) -> bool:
        frame = getattr(task.get_coro(), "cr_frame", None)
        return frame is not None and frame.f_locals.get("self") is sender

    return {task for task in asyncio.all_tasks() if belongs(task)}


async def request(admin: AIOKafkaAdminClient, message: object, node: int | None = None) -> Response:
    """Return Kafka's response to a request that the admin client has no method for, from any node or this.

    There is no method for most requests. Not reported upstream as far as known. Without this `check` could
    not ask for ACLs, nor anybody for the ids of topics.

    Raises:
        KafkaError: Kafka does not answer.
    """
    return await admin._send_request(message, node)  # noqa: SLF001


async def create_topics(
    admin: AIOKafkaAdminClient, topics: Collection[NewTopic], *, validate_only: bool = False
) -> Mapping[str, tuple[int, str]]:
    """Return Kafka's error code and message for each topic that was to be created; code 0 is success.

    While the cluster has no controller, `create_topics()` is an AttributeError. Not reported upstream as far
    as known. Without this an election of the controller at the start would end the bridge with an internal
    error.

    Raises:
        NoController: the cluster has no controller; librdkafka's mock cluster never has one.
        KafkaError: Kafka does not answer.
    """
    try:
        response: Any = await admin.create_topics(list(topics), validate_only=validate_only)
    except AttributeError:
        if admin._client.cluster.controller is not None:  # noqa: SLF001
            raise
        raise NoController("the cluster has no controller at the moment") from None
    clean = Confidential().words
    return {name: (code, clean(message or "")) for name, code, message in response.topic_errors}


class NoController(KafkaError):  # type: ignore[misc]
    """The cluster has no controller, so no topic can be created."""


def new_topic(name: str, partitions: int, replication_factor: int, settings: Mapping[str, str]) -> NewTopic:
    """Return a topic to be created; a replication factor of -1 leaves it to the broker.

    -1 is the broker's default in Kafka's protocol, but `NewTopic` takes it for "not given" and raises. Not
    reported upstream as far as known. Without this `kafka.replication_factor = -1` would be impossible.
    """
    topic = NewTopic(name, partitions, 1, topic_configs=dict(settings))
    topic.replication_factor = replication_factor
    return topic
