"""Events are sent before the trades behind them, also those that are queued while batches are sent.

No batch counts as acknowledged that is not.
"""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from bridge.config import KafkaConfig
from bridge.kafka.batches import Batches
from bridge.kafka.partition import Partition
from bridge.kafka.queues import Queues
from bridge.kafka.state import ShardState
from bridge.kafka.topics import Topic
from bridge.records import EVENTS, STATE, Open, Record
from bridge.spool.overflow import Overflow
from bridge.watch.metrics import Metrics

TOPICS = {"trades": Topic("trades", 3, 1_000_000), EVENTS: Topic(EVENTS, 3, 1_000_000)}


def key_of(partition: int) -> bytes:
    return next(key for n in range(99) if TOPICS["trades"].partition(key := b"%d" % n) == partition)


class Producer:
    """Stands in for aiokafka's: takes a while to accept a batch, and calls `accepting` meanwhile.

    It acknowledges all batches, unless it `cancels` them.
    """

    def __init__(self, *, cancels: bool = False) -> None:
        self.cancels = cancels
        self.accepting: Callable[[str, int], None] = lambda topic, partition: None

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(1_000_000, 0)

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> "asyncio.Future[object]":
        self.accepting(topic, partition)
        await asyncio.sleep(0)
        acknowledged = asyncio.get_running_loop().create_future()
        if self.cancels:
            asyncio.get_running_loop().call_soon(acknowledged.cancel)
        else:
            asyncio.get_running_loop().call_soon(acknowledged.set_result, SimpleNamespace(offset=7))
        return acknowledged


def batches_of(producer: Producer, *, in_transactions: bool) -> tuple[Queues, Batches]:
    state = ShardState(KafkaConfig(), Topic(STATE, 1, 1_000_000), 0, "replica")
    overflow = Overflow(None, "replica", 0, state.watermarks)
    queues = Queues(TOPICS, state, overflow, Metrics(), max_pending_bytes=1_000_000, on_change=lambda: None)
    batches = Batches(
        cast("AIOKafkaProducer", producer),
        queues,
        Partition(Topic(STATE, 1, 1_000_000), 0),
        in_transactions=in_transactions,
        with_time=lambda: True,
        on_acknowledged=lambda partition: None,
    )
    return queues, batches


@pytest.mark.parametrize("in_transactions", [True, False])
def test_a_batch_that_the_producer_has_given_up_has_failed(in_transactions: bool) -> None:
    async def scenario() -> None:
        queues, batches = batches_of(Producer(cancels=True), in_transactions=in_transactions)
        queues.add([Record("trades", key_of(1), b"trade", 0, (1, 1, 0, Open()))])
        await batches.flush()
        with pytest.raises(KafkaError, match="given the batch up"):
            await batches.all_acknowledged()
        (partition,) = queues.places.values()
        assert [one for one, _ in batches.failures] == [partition]
        assert batches.places == ({TopicPartition("trades", 1): None} if in_transactions else {})

    asyncio.run(scenario())


@pytest.mark.parametrize("in_transactions", [True, False])
@pytest.mark.parametrize("while_sending", ["trades", EVENTS])
def test_a_gap_that_is_queued_while_batches_are_sent_is_sent_before_the_trades_behind_it(
    in_transactions: bool, while_sending: str
) -> None:
    """The gap is on the first partition of the events, which was flushed already."""

    async def scenario() -> None:
        producer = Producer()
        queues, batches = batches_of(producer, in_transactions=in_transactions)
        for partition in range(3):
            queues.add([Record(EVENTS, key_of(partition), b"event", 0)])
            queues.add([Record("trades", key_of(partition), b"trade", 0, (1, 1, 0, Open()))])

        def bring_gap(topic: str, partition: int) -> None:
            if (topic, partition) == (while_sending, 1):
                producer.accepting = check
                queues.add([Record(EVENTS, key_of(0), b"gap", 0)])
                queues.add([Record("trades", key_of(2), b"behind the gap", 0, (2, 2, 0, Open()))])

        def check(topic: str, partition: int) -> None:
            sent = [record.value for p in queues.places.values() for record in p.sent]
            assert b"behind the gap" not in sent or b"gap" in sent

        producer.accepting = bring_gap
        await batches.flush()
        await batches.all_acknowledged()
        assert producer.accepting == check
        check("", 0)
        if in_transactions:
            assert batches.places == {TopicPartition(name, n): 7 for name in TOPICS for n in range(3)}

    asyncio.run(scenario())
