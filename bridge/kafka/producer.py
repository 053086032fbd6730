"""Producers of aiokafka, opened for the configured delivery and closed for real."""

import asyncio
from collections.abc import Mapping
from itertools import chain

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import IllegalOperation, KafkaError, KafkaTimeoutError
from aiokafka.producer.message_accumulator import MessageAccumulator, MessageBatch

from bridge.config import Compression, KafkaConfig
from bridge.kafka.client import closed, connection
from bridge.kafka.topics import Topic

log = structlog.get_logger(__name__)

# Twice aiokafka's default throughput; larger batches bring nothing more.
MAX_BATCH_BYTES = 131072

# What a producer raises; the last two when its transaction has failed behind its back.
PRODUCER_FAILURES = (KafkaError, IllegalOperation, AssertionError)

_REQUEST_TIMEOUT_MS = 10_000
_RETRY_BACKOFF_MS = 50


async def open_producer(
    config: KafkaConfig, topics: Mapping[str, Topic], transactional_id: str | None
) -> AIOKafkaProducer:
    """Return a started idempotent producer; with a transactional id, which it takes over, transactional.

    Raises:
        KafkaError: Kafka does not answer or refuses.
    """
    transaction = {}
    if transactional_id is not None:
        transaction = {
            "transactional_id": transactional_id,
            "transaction_timeout_ms": int(config.transaction_timeout * 1000),
        }
    producer = AIOKafkaProducer(
        **connection(config),
        enable_idempotence=True,
        compression_type=None if config.compression is Compression.NONE else config.compression,
        max_batch_size=MAX_BATCH_BYTES,
        max_request_size=max(topic.max_message_bytes for topic in topics.values()),
        request_timeout_ms=_REQUEST_TIMEOUT_MS,
        retry_backoff_ms=_RETRY_BACKOFF_MS,
        **transaction,
    )
    try:
        await producer.start()
    except BaseException:
        await close_producer(producer, patience=1.0)
        raise
    return producer


async def abort(producer: AIOKafkaProducer, patience: float) -> None:
    """Abort the open transaction, if there is one and Kafka answers within `patience` seconds.

    Else it hides what comes after it from read_committed consumers until its timeout.
    """
    if producer._txn_manager is None or not producer._txn_manager.is_in_transaction():  # noqa: SLF001
        return
    try:
        async with asyncio.timeout(patience):
            await producer.abort_transaction()
    except (*PRODUCER_FAILURES, TimeoutError) as error:
        log.warning("an open transaction is left to time out", error=repr(error))


async def close_producer(producer: AIOKafkaProducer, patience: float) -> None:
    """Close a producer so that nothing of it is left, not even a task that delivers later.

    With idempotence nothing in aiokafka expires: while the broker is away its `stop()` waits for ever, and
    one that is cancelled leaves tasks behind that deliver when the broker is back. So after `patience`
    seconds its parts are taken down one by one; the order matters.
    """
    accumulator = producer._message_accumulator  # noqa: SLF001
    try:
        async with asyncio.timeout(patience):
            await producer.stop()
    except Exception as error:  # noqa: BLE001 - a failed transaction comes out of stop() as anything
        log.debug("producer is taken down", error=repr(error))
    if tasks := _tasks(producer):
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=patience)
    accumulator.fail_all(KafkaTimeoutError("given up"))
    await closed(producer.client.close())
    # What nobody asks for any more; asyncio would complain.
    answers = [batch._drain_waiter for batch in chain.from_iterable(accumulator._batches.values())]  # noqa: SLF001
    if producer._txn_manager is not None:  # noqa: SLF001
        answers.append(producer._txn_manager._transaction_waiter)  # noqa: SLF001
    for answer in answers:
        if answer is not None and answer.done() and not answer.cancelled():
            answer.exception()


def _tasks(producer: AIOKafkaProducer) -> set[asyncio.Task[object]]:
    """Return what the sender of a producer still does; one that has failed does not end its requests."""

    def is_the_senders(task: asyncio.Task[object]) -> bool:
        frame = getattr(task.get_coro(), "cr_frame", None)
        return frame is not None and frame.f_locals.get("self") is producer._sender  # noqa: SLF001

    return {task for task in asyncio.all_tasks() if is_the_senders(task)}


def _queue_again_unless_answered(self: MessageAccumulator, batch: MessageBatch) -> None:
    if not batch.future.done():
        self._batches[batch.tp].appendleft(batch)
        batch.reset_drain()


# aiokafka's own takes the batch out of the pending ones, from which its future takes it out, too, when it is
# failed together with the producer, before or after: each way a KeyError in a task that nobody awaits.
MessageAccumulator.reenqueue = _queue_again_unless_answered
