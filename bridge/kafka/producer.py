"""Producers of aiokafka: opened for the configured delivery, and closed with nothing left behind."""

import asyncio

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import IllegalOperation, KafkaConnectionError, KafkaError

from bridge.config import Compression, KafkaConfig
from bridge.kafka import quirks
from bridge.kafka.client import client, explained, understood

log = structlog.get_logger(__name__)

MAX_BATCH_BYTES = 131072
"""The size of a full batch: twice the throughput of aiokafka's 16 KiB; a larger one is no faster."""

PRODUCER_FAILURES = (KafkaError, IllegalOperation, AssertionError)
"""The errors that a producer raises; the last two when its transaction has failed in the background."""

_STOP_TIMEOUT = 1.0  # seconds for an abort, and for a stop before the producer is closed by force
_START_TIMEOUT = 15.0  # seconds; aiokafka has none, and looks for a coordinator for ever
_REQUEST_TIMEOUT_MS = 10_000
_RETRY_BACKOFF_MS = 50


async def open_producer(config: KafkaConfig, transactional_id: str | None) -> AIOKafkaProducer:
    """Return a started idempotent producer, a transactional one if it gets a transactional id.

    Starting with a transactional id fences the producer that had it before, and aborts its open transaction.

    Raises:
        KafkaError, TimeoutError: Kafka does not answer, or rejects the producer.
    """
    transaction = {}
    if transactional_id is not None:
        transaction = {
            "transactional_id": transactional_id,
            "transaction_timeout_ms": int(config.transaction_timeout * 1000),
        }
    producer = client(
        AIOKafkaProducer,
        config,
        enable_idempotence=True,
        compression_type=None if config.compression is Compression.NONE else config.compression,
        max_batch_size=MAX_BATCH_BYTES,
        request_timeout_ms=_REQUEST_TIMEOUT_MS,
        retry_backoff_ms=_RETRY_BACKOFF_MS,
        **transaction,
    )
    try:
        with explained(producer), understood():
            async with asyncio.timeout(_START_TIMEOUT):
                await _start(producer)
    except BaseException:
        await close_producer(producer)
        raise
    return producer


async def _start(producer: AIOKafkaProducer) -> None:
    try:
        await producer.start()
    except AssertionError as error:
        # aiokafka asserts that it knows a broker, and it knows none once the last one has gone.
        raise KafkaConnectionError(f"no broker known: {error}") from error


async def abort(producer: AIOKafkaProducer) -> None:
    """Abort the open transaction, if there is one and Kafka answers in time.

    A transaction that stays open hides all later records of its partitions from read_committed consumers,
    until `kafka.transaction_timeout` has passed.
    """
    if not quirks.is_in_transaction(producer):
        return
    try:
        async with asyncio.timeout(_STOP_TIMEOUT):
            await producer.abort_transaction()
    except (*PRODUCER_FAILURES, TimeoutError) as error:
        log.warning("open transaction left to time out", error=repr(error))


async def close_producer(producer: AIOKafkaProducer) -> None:
    """Close a producer so that nothing of it is left, not even a task that delivers later.

    One that does not stop in time, or fails at it, is closed by force.
    """
    try:
        async with asyncio.timeout(_STOP_TIMEOUT):
            await producer.stop()
    except Exception as error:  # noqa: BLE001 - a failed transaction comes out of stop() as anything
        log.debug("producer closed by force", error=repr(error))
    await quirks.close_by_force(producer)
