"""Records of book: which are sent again after Kafka has rejected some, and what bridge-state says of them."""

import asyncio
import json
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaError,
    MessageSizeTooLargeError,
    NotLeaderForPartitionError,
    PolicyViolationError,
)
from aiokafka.producer.message_accumulator import BatchBuilder

from bridge.books.present import PresentBooks
from bridge.config import KafkaConfig
from bridge.kafka.batches import Batches
from bridge.kafka.books import Books
from bridge.kafka.partition import Partition
from bridge.kafka.queues import Queues
from bridge.kafka.state import Save, ShardState, Unsaved
from bridge.kafka.topics import Topic
from bridge.records import BOOK, STATE, Record
from bridge.spool.overflow import Overflow
from bridge.watch.metrics import Metrics

KEY = b"ETH_USDT"
TOPICS = {name: Topic(name, 1, 1_000_000) for name in ("depth", BOOK, STATE)}


class Producer:
    """Stands in for aiokafka's: keeps the sizes of the batches that it was given, and rejects some."""

    def __init__(self) -> None:
        self.rejects: KafkaError | None = None
        self.limit = 0  # bytes; a smaller batch is not rejected
        self.sizes: list[int] = []

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(1_000_000, 0)

    async def send_batch(self, batch: Any, topic: str, *, partition: int) -> "asyncio.Future[object]":
        self.sizes.append(batch.size())
        response = asyncio.get_running_loop().create_future()
        if self.rejects is not None and batch.size() > self.limit:
            response.set_exception(self.rejects)
        else:
            response.set_result(None)
        return response


class Shard:
    """The books of a shard, with its state and its queues, but without a sink."""

    def __init__(self) -> None:
        self.state = ShardState(KafkaConfig(), TOPICS[STATE], 0, "replica")
        overflow = Overflow(None, "replica", 0, self.state.watermarks)
        queues = Queues(
            TOPICS, self.state, overflow, Metrics(), max_pending_bytes=1_000_000, on_change=lambda: None
        )
        self.queues = queues
        self.reported: list[bytes | None] = []
        present = PresentBooks(wanted=None, levels=0, interval_us=0, patience_us=5_000_000)
        self.books = Books(
            present, TOPICS, queues, self.state, on_refused=lambda one, _: self.reported.append(one.key)
        )
        self.producer = Producer()
        self.seq = 0

    def batches(self, *, in_transactions: bool) -> Batches:
        def acknowledged(partition: Partition) -> None:
            if not in_transactions:
                self.books.settle([partition])

        return Batches(
            cast("AIOKafkaProducer", self.producer),
            self.queues,
            Partition(TOPICS[STATE], 0),
            in_transactions=in_transactions,
            with_time=lambda: True,
            on_acknowledged=acknowledged,
        )

    def depth(self, levels: int) -> None:
        """Let a snapshot of depth with so many asks be sent."""
        value = {"session": "s1", "seq": self.seq, "received_us": 1, "snapshot": True, "bids": []}
        value["asks"] = [[str(price), "1"] for price in range(1, levels + 1)]
        self.seq += 1
        partition = Partition(TOPICS["depth"], 0)
        partition.sent.append(Record("depth", KEY, json.dumps(value).encode(), 1))
        self.books.take(partition)

    def transaction(self) -> Save | None:
        """Send what is due as the sink does, and save; return the save if the transaction is committed."""
        return asyncio.run(self._transaction())

    async def _transaction(self) -> Save | None:
        batches = self.batches(in_transactions=True)
        try:
            await self.books.send(batches)
            save = self.state.save((), Unsaved(None, None))
            await batches.all_acknowledged()
        except KafkaError:
            self.books.handle(batches.failures)
            self.books.drop()
            return None
        self.state.saved(save)
        self.books.settle()
        return save


def failures(shard: Shard, levels: int, transactions: int) -> int:
    """Return how many transactions fail, each with such a book to be sent."""
    failed = 0
    for _ in range(transactions):
        shard.depth(levels)
        failed += shard.transaction() is None
    return failed


def test_a_book_that_kafka_finds_too_large_fails_one_transaction_until_the_limit_changes() -> None:
    """Something in front of the topic has a lower limit than the topic says."""
    shard = Shard()
    shard.producer.rejects, shard.producer.limit = MessageSizeTooLargeError(), 1_000
    assert failures(shard, 100, 5) == 1
    assert failures(shard, 200, 5) == 0
    assert shard.reported == [KEY]
    sent = len(shard.producer.sizes)
    assert failures(shard, 10, 1) == 0
    assert len(shard.producer.sizes) == sent + 1
    shard.books.follow(Topic(BOOK, 1, 2_000_000))
    assert failures(shard, 100, 5) == 1


def test_a_book_that_kafka_rejects_for_another_reason_fails_one_transaction() -> None:
    shard = Shard()
    shard.producer.rejects = PolicyViolationError()
    assert failures(shard, 100, 5) == 1
    assert failures(shard, 10, 5) == 0
    assert shard.reported == [KEY]


def test_a_rejected_book_is_tried_again_after_an_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    shard = Shard()
    shard.producer.rejects = PolicyViolationError()
    monkeypatch.setattr("bridge.kafka.books._TRIED_AGAIN", 0.0)
    assert failures(shard, 100, 1) == 1
    shard.producer.rejects = None
    shard.depth(100)
    shard.transaction()
    assert len(shard.producer.sizes) == 2


@pytest.mark.parametrize("fault", ["rejected", "stuck"])
def test_a_tombstone_that_is_not_on_kafka_is_not_struck_off_the_state(fault: str) -> None:
    """The process after this one would not know that the topic still has a book."""
    shard = Shard()
    shard.depth(10)
    shard.transaction()
    assert shard.state.books == {KEY}
    shard.books.forget([KEY])
    shard.producer.rejects = NotLeaderForPartitionError()
    assert shard.transaction() is None
    if fault == "stuck":
        shard.producer.rejects = None
        shard.books.follow(Topic(BOOK, 1, 1_000_000, leaderless=frozenset({0})))
        assert shard.transaction() is not None
    assert shard.state.books == shard.books.gone == {KEY}
    shard.producer.rejects = None
    shard.books.follow(TOPICS[BOOK])
    save = shard.transaction()
    assert save is not None
    assert save.values[b"book/" + KEY] is None
    assert shard.state.books == shard.books.gone == set()


def test_without_transactions_a_first_book_waits_for_the_save_that_names_it() -> None:
    async def scenario() -> None:
        shard = Shard()
        batches = shard.batches(in_transactions=False)
        shard.depth(10)
        await shard.books.send(batches)
        assert not shard.producer.sizes
        assert shard.books.held
        shard.state.saved(shard.state.save((), Unsaved(None, None)))
        await shard.books.send(batches)
        await batches.all_acknowledged()
        assert len(shard.producer.sizes) == 1
        assert not shard.books.held

    asyncio.run(scenario())


def test_without_transactions_a_tombstone_is_saved_after_it_was_acknowledged() -> None:
    async def scenario() -> None:
        shard = Shard()
        batches = shard.batches(in_transactions=False)
        shard.state.books.add(KEY)
        shard.books.forget([KEY])
        await shard.books.send(batches)
        assert b"book/" + KEY not in shard.state.save((), Unsaved(None, None)).values
        await batches.all_acknowledged()
        assert shard.state.save((), Unsaved(None, None)).values[b"book/" + KEY] is None

    asyncio.run(scenario())


@pytest.mark.parametrize("in_transactions", [True, False])
def test_a_tombstone_that_kafka_rejects_is_not_sent_for_ever(in_transactions: bool) -> None:
    async def scenario() -> None:
        shard = Shard()
        batches = shard.batches(in_transactions=in_transactions)
        shard.state.books.add(KEY)
        shard.books.forget([KEY])
        shard.producer.rejects = PolicyViolationError()
        await shard.books.send(batches)
        with pytest.raises(KafkaError):
            await batches.all_acknowledged()
        shard.books.handle(batches.failures)
        shard.books.drop()
        shard.state.saved(shard.state.save((), Unsaved(None, None)))
        assert shard.state.books == shard.books.gone == set()

    asyncio.run(scenario())
