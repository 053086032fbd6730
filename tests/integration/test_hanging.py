"""Transactions that Kafka has ended for its coordinator, but not in the partitions: the bridge ends them.

Kafka 4.4 leaves one hanging now and then when it is killed right after it was asked for the commit. Here it
is made to each time: it is told of another partition than those that get the records.
"""

import asyncio
import random
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.producer.sender import AddPartitionsToTxnHandler, EndTxnHandler
from aiokafka.producer.transaction_manager import TransactionManager
from structlog.testing import capture_logs

from bridge.kafka import hanging, reader
from bridge.kafka.batches import Batches
from bridge.kafka.client import transactional_id
from bridge.kafka.hanging import end_hanging
from bridge.kafka.partition import Partition
from bridge.kafka.producer import close_producer, open_producer
from bridge.records import STATE, Record
from tests.support.consumers import read_topic, set_topic
from tests.support.delivery import Delivery, kafka_config
from tests.support.kafka_broker import Broker
from tests.support.waiting import soon

KEYS = [b"BTC_USDT", b"ETH_USDT", b"LTC_USDT", b"XRP_USDT"]
ROUNDS = 3


@pytest.fixture(scope="module")
def trusting_kafka() -> Iterator[Broker]:
    """A broker that accepts records in a partition that its coordinator has not been told of."""
    with Broker({"transaction.partition.verification.enable": "false"}) as broker:
        yield broker


class Deceit:
    """Leaves the next transaction hanging when `is_next` is set, or each one after that if it `goes_on`.

    It hangs everywhere, or in the partitions of the topic `within` alone. With `loses`, its confirmation is
    lost.
    """

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, decoy: TopicPartition, *, loses: bool = False, within: str = ""
    ) -> None:
        self.is_next = self.goes_on = False
        self.hanging = 0  # transactions
        now = False
        begin, add = TransactionManager.begin_transaction, AddPartitionsToTxnHandler.do
        end = EndTxnHandler.handle_response

        def begin_transaction(manager: TransactionManager) -> None:
            nonlocal now
            now, self.is_next = self.is_next, self.is_next and self.goes_on
            self.hanging += now
            begin(manager)

        async def do(handler: Any, node: int) -> Any:
            if not now:
                return await add(handler, node)
            manager = handler._sender._txn_manager
            hidden = {place for place in handler._tps if place != decoy and within in {place.topic, ""}}
            handler._tps = {*handler._tps, decoy} - hidden
            manager._pending_txn_partitions.add(decoy)
            added = await add(handler, node)
            for place in hidden if added else ():
                manager.partition_added(place)
            return added

        def handle_response(handler: Any, response: Any) -> Any:
            if now and loses and not response.error_code:
                raise KafkaConnectionError("the confirmation is lost")
            return end(handler, response)

        monkeypatch.setattr(TransactionManager, "begin_transaction", begin_transaction)
        monkeypatch.setattr(AddPartitionsToTxnHandler, "do", do)
        monkeypatch.setattr(EndTxnHandler, "handle_response", handle_response)


@pytest.fixture
def decoy(prefix: str) -> TopicPartition:
    return TopicPartition(f"{prefix}.deadletter.v1", 0)


async def running(one: Delivery, steps: Coroutine[Any, Any, None]) -> None:
    """Run a sink while `steps` are carried out; then it ends as if it was killed."""
    await one.prepare()
    async with asyncio.timeout(360), asyncio.TaskGroup() as group:
        tasks = [group.create_task(one.sink.run()), group.create_task(one.cluster.run())]
        await steps
        for task in tasks:
            task.cancel()


async def delivered(one: Delivery, number: int) -> None:
    """Return when a record of each key has been delivered, numbered from a multiple of their number."""
    one.queues.add(
        Record("trades", key, msgspec.json.encode({"n": number * len(KEYS) + place}), 1_600_000_000_000_000)
        for place, key in enumerate(KEYS)
    )
    await soon(lambda: not one.queues.pending_records, 30, "delivered records")


def too_large() -> Record:
    """Return a record that a limit of 2,000 bytes refuses."""
    value = msgspec.json.encode(random.Random(1).randbytes(5_000))
    return Record("trades", b"SOL_USDT", value, 1_600_000_000_000_000)


def ended(lines: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the log lines about ends that were written into partitions of data."""
    return [line for line in lines if line["event"] == "ended what may have been hanging"]


def leave_one_hanging(kafka: Broker, prefix: str, deceit: Deceit) -> None:
    """Let a replica deliver a record of each key in a transaction that hangs, and end as if killed."""
    first = Delivery(kafka_config(kafka, prefix), "first")

    async def confirmed() -> None:
        deceit.is_next = True
        await delivered(first, 0)

    asyncio.run(running(first, confirmed()))


def assert_each_is_there_once(kafka: Broker, prefix: str, times: int) -> None:
    numbers = sorted(one.json["n"] for one in read_topic(kafka.bootstrap, f"{prefix}.trades.v1"))
    assert numbers == list(range(times * len(KEYS)))


def test_a_hanging_transaction_whose_confirmation_was_lost_is_committed_and_nothing_is_there_twice(
    trusting_kafka: Broker, prefix: str, decoy: TopicPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    deceit = Deceit(monkeypatch, decoy, loses=True)
    one = Delivery(kafka_config(trusting_kafka, prefix))

    async def steps() -> None:
        for number in range(ROUNDS):
            await delivered(one, 2 * number)
            deceit.is_next = True
            await delivered(one, 2 * number + 1)

    asyncio.run(running(one, steps()))
    assert deceit.hanging == ROUNDS
    assert_each_is_there_once(trusting_kafka, prefix, 2 * ROUNDS)


def test_the_next_owner_commits_a_hanging_transaction_without_sending_anything_itself(
    trusting_kafka: Broker, prefix: str, decoy: TopicPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was confirmed to the one before, which was killed then."""
    deceit = Deceit(monkeypatch, decoy, loses=False)
    first = Delivery(kafka_config(trusting_kafka, prefix), "first")
    second = Delivery(kafka_config(trusting_kafka, prefix), "second")

    async def confirmed() -> None:
        await delivered(first, 0)
        deceit.is_next = True
        await delivered(first, 1)

    async def taken_over() -> None:
        await soon(second.sink.taken_over.is_set, 30, "the takeover")

    asyncio.run(running(first, confirmed()))
    assert deceit.hanging == 1
    asyncio.run(running(second, taken_over()))
    assert second.state.previous is not None
    assert second.state.previous.transaction == first.state.next_number - 1
    assert_each_is_there_once(trusting_kafka, prefix, 2)


def test_a_hanging_transaction_is_aborted_if_its_commit_was_not_asked_for(
    trusting_kafka: Broker, prefix: str, decoy: TopicPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of it was rejected, when others and the state were on Kafka already."""
    deceit = Deceit(monkeypatch, decoy, loses=False)
    one = Delivery(kafka_config(trusting_kafka, prefix))

    async def steps() -> None:
        await delivered(one, 0)
        set_topic(
            trusting_kafka.bootstrap, f"{prefix}.trades.v1", max_message_bytes="2000"
        )  # which the bridge does not know yet
        deceit.is_next = True
        one.queues.add([too_large()])
        await delivered(one, 1)

    asyncio.run(running(one, steps()))
    assert deceit.hanging == 1
    assert_each_is_there_once(trusting_kafka, prefix, 2)
    (letter,) = read_topic(trusting_kafka.bootstrap, f"{prefix}.deadletter.v1")
    assert "max.message.bytes" in letter.json["detail"]


def test_a_transaction_that_hangs_however_often_it_is_ended_is_named_until_it_has_an_end(
    trusting_kafka: Broker, prefix: str, decoy: TopicPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    deceit = Deceit(monkeypatch, decoy, loses=False)
    second = Delivery(kafka_config(trusting_kafka, prefix), "second")

    async def ended_at_last() -> None:
        named = f"a transaction hangs in {prefix}.bridge-state, partition 0, although it was ended 5 times"
        await soon(lambda: named in (second.sink.missing() or ""), 60, "a name for it")
        deceit.is_next = deceit.goes_on = False
        await soon(second.sink.taken_over.is_set, 60, "the takeover")

    leave_one_hanging(trusting_kafka, prefix, deceit)
    deceit.is_next = deceit.goes_on = True
    asyncio.run(running(second, ended_at_last()))
    assert_each_is_there_once(trusting_kafka, prefix, 1)


def test_a_hanging_transaction_waits_for_a_leader_of_each_partition(
    trusting_kafka: Broker, prefix: str, decoy: TopicPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its end would be missing in one without, and nothing would show that any more."""
    deceit = Deceit(monkeypatch, decoy, loses=False)
    second = Delivery(kafka_config(trusting_kafka, prefix), "second")

    async def without_a_leader() -> None:
        await second.prepare()
        topics = second.cluster.topics
        producer = await open_producer(second.config, transactional_id(second.config, 0))
        batches = Batches(
            producer,
            second.queues,
            Partition(second.state.topic, 0),
            in_transactions=True,
            with_time=lambda: True,
            on_acknowledged=lambda _: None,
        )
        seen = [topics[STATE], replace(topics["trades"], leaderless=frozenset({1}))]
        try:
            with pytest.raises(KafkaError, match=rf"without a leader of {seen[1].name}, partition 1$"):
                await end_hanging(batches, second.state, seen, times=0, unrequested=None)
            assert not read_topic(trusting_kafka.bootstrap, seen[1].name)
            assert await end_hanging(batches, second.state, topics.values(), times=0, unrequested=None)
        finally:
            await close_producer(producer)

    leave_one_hanging(trusting_kafka, prefix, deceit)
    asyncio.run(without_a_leader())
    assert_each_is_there_once(trusting_kafka, prefix, 1)


def test_one_that_hangs_in_data_alone_is_aborted_if_its_commit_was_not_asked_for(
    trusting_kafka: Broker, prefix: str, decoy: TopicPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while another shard's transaction is open in front of all that this one has written."""
    deceit = Deceit(monkeypatch, decoy, within=f"{prefix}.trades.v1")
    monkeypatch.setattr(hanging, "_OTHERS", 60.0)  # a busy machine may be slow to end it
    look, looks = reader._look, list[Collection[TopicPartition]]()

    async def noting(consumer: AIOKafkaConsumer, places: Collection[TopicPartition]) -> Any:
        looks.append(places)
        return await look(consumer, places)

    monkeypatch.setattr(reader, "_look", noting)
    one = Delivery(kafka_config(trusting_kafka, prefix))
    long = one.config.model_copy(update={"transaction_timeout": 300.0})

    async def steps() -> None:
        other = await open_producer(long, transactional_id(long, 1))
        try:
            await other.begin_transaction()
            for number in range(one.config.partitions):
                await other.send_and_wait(f"{prefix}.trades.v1", b'{"n": -1}', partition=number)
            await delivered(one, 0)
            set_topic(trusting_kafka.bootstrap, f"{prefix}.trades.v1", max_message_bytes="2000")
            deceit.is_next, errors = True, one.errors()
            one.queues.add([too_large()])
            async with asyncio.TaskGroup() as group:
                group.create_task(delivered(one, 1))
                await soon(lambda: one.errors() > errors, 30, "the refused batch")
                looks.clear()
                await soon(lambda: len(looks) > 1 or not one.queues.pending_records, 30, "a wait for it")
                asked_at = one.sink._asked_at or 0.0
                await soon(lambda: (one.sink._asked_at or 0.0) > asked_at, 30, "an answer that counts as one")
                await other.abort_transaction()
        finally:
            await close_producer(other)

    asyncio.run(running(one, steps()))
    assert deceit.hanging == 1
    assert_each_is_there_once(trusting_kafka, prefix, 2)


def test_one_that_hangs_in_data_alone_is_committed_once_a_leader_is_back_if_it_was_confirmed(
    trusting_kafka: Broker, prefix: str, decoy: TopicPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    deceit = Deceit(monkeypatch, decoy, within=f"{prefix}.trades.v1")
    one = Delivery(kafka_config(trusting_kafka, prefix))

    async def steps() -> None:
        await delivered(one, 0)
        deceit.is_next = True
        await delivered(one, 1)
        with capture_logs() as lines:
            cluster, trades = one.cluster, one.cluster.topics["trades"]
            gone = replace(trades, leaderless=frozenset(range(trades.partitions)))
            cluster._take(cluster.view._replace(topics={**cluster.topics, "trades": gone}))
            await soon(lambda: any(one.stuck for one in one.queues.places.values()), 30, "no leader")
            cluster.ask()
            await soon(lambda: ended(lines), 30, "an end of what hangs")
        assert [line["committed"] for line in ended(lines)] == [True]

    asyncio.run(running(one, steps()))
    assert deceit.hanging == 1
    assert_each_is_there_once(trusting_kafka, prefix, 2)


def test_the_next_owner_commits_one_that_hangs_in_data_alone_where_it_sends_nothing(
    trusting_kafka: Broker, prefix: str, decoy: TopicPartition, monkeypatch: pytest.MonkeyPatch
) -> None:
    deceit = Deceit(monkeypatch, decoy, within=f"{prefix}.trades.v1")
    second = Delivery(kafka_config(trusting_kafka, prefix), "second")

    async def taken_over() -> None:
        with capture_logs() as lines:
            await soon(lambda: ended(lines), 30, "an end of what hangs")
        assert [line["committed"] for line in ended(lines)] == [True]

    leave_one_hanging(trusting_kafka, prefix, deceit)
    assert deceit.hanging == 1
    assert not read_topic(trusting_kafka.bootstrap, f"{prefix}.trades.v1")
    asyncio.run(running(second, taken_over()))
    assert_each_is_there_once(trusting_kafka, prefix, 1)
