"""aiokafka's producer: batches that wait for a second attempt when it fails."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import ProducerFenced
from aiokafka.producer.message_accumulator import MessageAccumulator, MessageBatch
from aiokafka.structs import TopicPartition

import bridge.kafka.producer  # noqa: F401 - what is tested here is how it changes aiokafka

PLACE = TopicPartition("topic", 0)

Steps = Callable[[MessageAccumulator, MessageBatch], None]


def fail(accumulator: MessageAccumulator, batch: MessageBatch) -> None:
    accumulator.fail_all(ProducerFenced())


def queue_again(accumulator: MessageAccumulator, batch: MessageBatch) -> None:
    accumulator.reenqueue(batch)


def send_again(accumulator: MessageAccumulator, batch: MessageBatch) -> None:
    assert accumulator._pop_batch(PLACE) is batch


def acknowledge(accumulator: MessageAccumulator, batch: MessageBatch) -> None:
    batch.done(base_offset=7)


async def batch_in_flight() -> tuple[MessageAccumulator, MessageBatch, "asyncio.Future[Any]"]:
    accumulator = MessageAccumulator(ClusterMetadata(), 1000, 0, 30)
    builder = accumulator.create_builder()
    builder.append(timestamp=1, key=b"key", value=b"value")
    answer = await accumulator.add_batch(builder, PLACE, 1)
    return accumulator, accumulator._pop_batch(PLACE), answer


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([fail, queue_again], id="answered after the producer has failed"),
        pytest.param([queue_again, fail], id="waits to be sent again when the producer fails"),
        pytest.param([queue_again, send_again, fail], id="is sent again when the producer fails"),
    ],
)
def test_a_batch_fails_once_when_its_producer_fails(steps: list[Steps]) -> None:
    """Whenever that is; aiokafka alone fails at it itself."""

    async def scenario() -> None:
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        accumulator, batch, answer = await batch_in_flight()
        for step in steps:
            step(accumulator, batch)
        with pytest.raises(ProducerFenced):
            await answer
        await asyncio.sleep(0)
        assert not accumulator._pending_batches
        assert complaints == []

    asyncio.run(scenario())


def test_a_batch_that_is_sent_again_is_answered_and_gone() -> None:
    async def scenario() -> None:
        accumulator, batch, answer = await batch_in_flight()
        for step in (queue_again, send_again, acknowledge):
            step(accumulator, batch)
        assert (await answer).offset == 7
        await accumulator.flush()
        assert not accumulator._pending_batches
        assert not accumulator._batches

    asyncio.run(scenario())
