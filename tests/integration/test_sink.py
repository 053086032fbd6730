"""The sink on a real broker: records that Kafka rejects, and records that aiokafka would lose."""

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError
from confluent_kafka import KafkaError, Producer
from msgspec.structs import replace

from bridge.config import Config
from bridge.errors import TopicError, TopicMissing
from bridge.kafka.client import transactional_id
from bridge.kafka.looking import View, look
from bridge.kafka.producer import open_producer
from bridge.records import Record
from tests.support.consumers import create_topic, read_topic, set_topic
from tests.support.delivery import Delivery, kafka_config
from tests.support.kafka_broker import Broker
from tests.support.waiting import eventually, soon

DELIVERIES = ["exactly-once", "at-least-once"]
LONG_TRANSACTION = {"commit_interval": 30.0, "transaction_timeout": 60.0}
FULL = 256  # records that are sent before a commit is due


@pytest.fixture(autouse=True)
def _no_task_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else pytest keeps what aiokafka logs: exceptions, and so the tasks whose failures would be reported."""
    monkeypatch.setattr(logging.getLogger("aiokafka"), "propagate", False)


async def deliver(one: Delivery, steps: Callable[[Delivery], object]) -> None:
    """Run a sink through `steps`, then until all is delivered; no task is to fail unseen."""
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    await one.prepare()
    async with asyncio.timeout(360), asyncio.TaskGroup() as group:
        running = group.create_task(one.sink.run())
        looking = group.create_task(one.cluster.run())
        done = steps(one)
        if asyncio.iscoroutine(done):
            await done
        one.queues.drain()
        await running
        looking.cancel()
    gc.collect()  # asyncio reports a failed task when it is collected
    assert complaints == []


def delivery_to(kafka: Broker, prefix: str, delivery: str, **keys: object) -> Delivery:
    return Delivery(kafka_config(kafka, prefix, delivery=delivery, **keys))


def record(number: int, size: int = 20, key: bytes | None = b"BTC_USDT") -> Record:
    value = msgspec.json.encode({"session": "s", "n": number, "filler": "x" * size})
    return Record("trades", key, value, 1_600_000_000_000_000 + number)


def numbers(kafka: Broker, prefix: str) -> list[int]:
    return [one.json["n"] for one in read_topic(kafka.bootstrap, f"{prefix}.trades.v1")]


def limit(kafka: Broker, topic: str, max_bytes: int) -> None:
    """Return when the broker rejects larger batches, which is some time after it has accepted the setting."""
    set_topic(kafka.bootstrap, topic, max_message_bytes=str(max_bytes))

    def rejected() -> bool:
        rejections: list[KafkaError | None] = []
        producer = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": f"{topic}-limit"})
        producer.init_transactions()
        producer.begin_transaction()
        producer.produce(topic, bytes(2 * max_bytes), on_delivery=lambda error, _: rejections.append(error))
        producer.flush()
        producer.abort_transaction()
        return rejections[0] is not None

    eventually(rejected, 20, "a rejection")


async def in_a_transaction(one: Delivery, kafka: Broker, prefix: str) -> None:
    """Return when a transaction is open whose records the broker has."""
    # The first one is committed without delay.
    one.queues.add([record(0)])
    await soon(lambda: one.queues.pending_records == 0, 20, "the first transaction")
    one.queues.add([record(n) for n in range(1, FULL + 1)])

    def on_kafka() -> bool:
        return len(read_topic(kafka.bootstrap, f"{prefix}.trades.v1", "read_uncommitted")) > FULL

    await asyncio.to_thread(eventually, on_kafka, 20, "records that are not committed")


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_a_record_too_large_for_its_topic_is_not_queued(kafka: Broker, prefix: str, delivery: str) -> None:
    create_topic(kafka.bootstrap, f"{prefix}.trades.v1", 3, max_message_bytes="5000")

    def steps(one: Delivery) -> None:
        records = [record(n, size) for n, size in enumerate((10, 6000, 10, 4000))]
        assert one.queues.add(records) == [records[1]]

    asyncio.run(deliver(delivery_to(kafka, prefix, delivery), steps))
    assert numbers(kafka, prefix) == [0, 2, 3]


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_a_record_that_kafka_rejects_becomes_a_dead_letter_and_the_others_arrive_once_in_order(
    kafka: Broker, prefix: str, delivery: str
) -> None:
    """The limit falls while the sink runs, as when somebody changes the topic."""
    deliveries = delivery_to(kafka, prefix, delivery, flush_interval=0.05, compression="none")

    async def steps(one: Delivery) -> None:
        for n in range(50):
            one.queues.add([record(n)])
        await soon(lambda: one.queues.pending_records == 0, 20, "the first records")
        await asyncio.to_thread(limit, kafka, f"{prefix}.trades.v1", 3000)
        for n in range(50, 150):
            one.queues.add([record(n, 5000 if n in (70, 140) else 20)])

    asyncio.run(deliver(deliveries, steps))
    assert numbers(kafka, prefix) == [n for n in range(150) if n not in (70, 140)]
    letters = read_topic(kafka.bootstrap, f"{prefix}.deadletter.v1")
    assert [letter.json["channel"] for letter in letters] == ["trades", "trades"]
    assert all(f"{prefix}.trades.v1" in letter.json["detail"] for letter in letters)
    assert deliveries.metrics.counter("deadletters_total", reason="payload").value == 2
    assert deliveries.errors() > 0


def test_at_least_once_an_unavailable_group_duplicates_nothing(own_kafka: Broker, prefix: str) -> None:
    """What is in flight stays with the producer that knows its sequence numbers."""

    async def steps(one: Delivery) -> None:
        one.queues.add([record(0)])
        await soon(lambda: one.queues.pending_records == 0, 20, "the first record")
        own_kafka.suspend()
        one.queues.add([record(n) for n in range(1, 50)])
        await soon(one.sink.missing, 20, "a batch without a response")
        one.group_unavailable = True
        one.queues.add([record(50)])
        await soon(lambda: one.errors() > 4, 30, "requests without a response")
        assert one.sink.missing() == "no response from the group"
        own_kafka.resume()
        await soon(lambda: one.queues.pending_records == 1, 20, "what was in flight")
        one.group_unavailable = False

    asyncio.run(deliver(delivery_to(own_kafka, prefix, "at-least-once"), steps))
    assert numbers(own_kafka, prefix) == list(range(51))


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_records_whose_timestamps_kafka_rejects_arrive_without_them(
    kafka: Broker, prefix: str, delivery: str
) -> None:
    """Kafka accepts no timestamp that is more than an hour ahead of its own clock."""
    deliveries = delivery_to(kafka, prefix, delivery)
    now_us = time.time_ns() // 1000

    async def steps(one: Delivery) -> None:
        one.queues.add([replace(record(0), time_us=now_us)])
        await soon(lambda: one.queues.pending_records == 0, 20, "the first record")
        one.queues.add([replace(record(n), time_us=now_us + 2 * 3_600_000_000) for n in range(1, 100)])

    asyncio.run(deliver(deliveries, steps))
    records = read_topic(kafka.bootstrap, f"{prefix}.trades.v1")
    assert [one.json["n"] for one in records] == list(range(100))
    assert [one.timestamp_ms for one in records] == [now_us // 1000] + [-1] * 99
    assert deliveries.metrics.counter("kafka_errors_total", error="InvalidTimestampError").value == 1
    assert deliveries.metrics.counter("deadletters_total", reason="payload").value == 0


def test_a_stop_does_not_wait_until_a_commit_is_due(kafka: Broker, prefix: str) -> None:
    deliveries = delivery_to(kafka, prefix, "exactly-once", **LONG_TRANSACTION)
    stopped_at = 0.0

    async def steps(one: Delivery) -> None:
        nonlocal stopped_at
        await in_a_transaction(one, kafka, prefix)
        stopped_at = time.monotonic()

    asyncio.run(deliver(deliveries, steps))
    assert time.monotonic() - stopped_at < deliveries.config.commit_interval
    assert numbers(kafka, prefix) == list(range(FULL + 1))


def test_at_least_once_a_batch_whose_response_is_lost_is_there_twice_with_the_same_bytes(
    kafka: Broker, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So consumers know the second copy by its `session` and `seq`."""
    send = AIOKafkaProducer.send_batch
    lost: list[object] = []

    async def send_and_lose(producer: AIOKafkaProducer, *what: Any, **where: Any) -> Any:
        delivery = await send(producer, *what, **where)
        if lost or not what[1].endswith("trades.v1"):
            return delivery
        lost.append(await delivery)
        response = asyncio.get_running_loop().create_future()
        response.set_exception(KafkaConnectionError())
        return response

    monkeypatch.setattr(AIOKafkaProducer, "send_batch", send_and_lose)

    async def steps(one: Delivery) -> None:
        one.queues.add([record(n) for n in range(5)])
        await soon(lambda: one.queues.pending_records == 0, 20, "all records")

    asyncio.run(deliver(delivery_to(kafka, prefix, "at-least-once"), steps))
    values = [one.value for one in read_topic(kafka.bootstrap, f"{prefix}.trades.v1")]
    assert values == [record(n).value for n in range(5)] * 2


def test_a_fenced_producer_is_replaced_and_duplicates_nothing(kafka: Broker, prefix: str) -> None:
    """Another one with the same transactional id was opened and closed."""

    async def steps(one: Delivery) -> None:
        for n in range(200):
            one.queues.add([record(n)])
            await asyncio.sleep(0)
        await soon(lambda: one.queues.pending_records == 0, 20, "the first records")
        for n in range(200, 300):
            one.queues.add([record(n)])
        other = await open_producer(one.config, transactional_id(one.config, one.shard))
        for n in range(300, 400):
            one.queues.add([record(n)])
        await soon(lambda: one.queues.pending_records == 0, 30, "all records")
        await other.stop()

    asyncio.run(deliver(delivery_to(kafka, prefix, "exactly-once", commit_interval=0.05), steps))
    assert numbers(kafka, prefix) == list(range(400))


def test_a_transaction_that_timed_out_is_repeated(own_kafka: Broker, prefix: str) -> None:
    """The bridge is frozen for longer than `transaction_timeout`, so the broker aborts."""
    keys: dict[str, object] = {"commit_interval": 6.0, "transaction_timeout": 7.0}
    deliveries = delivery_to(own_kafka, prefix, "exactly-once", **keys)

    async def steps(one: Delivery) -> None:
        await in_a_transaction(one, own_kafka, prefix)
        time.sleep(10.0)  # noqa: ASYNC251 - the whole loop is to hang
        one.queues.add([record(n) for n in range(FULL + 1, FULL + 100)])
        await soon(lambda: one.queues.pending_records == 0, 40, "all records")
        assert one.errors() > 0

    asyncio.run(deliver(deliveries, steps))
    assert numbers(own_kafka, prefix) == list(range(FULL + 100))


def test_a_sink_that_is_cancelled_aborts_its_transaction(kafka: Broker, prefix: str) -> None:
    """Else consumers could not read what others write to these partitions until the transaction times out."""

    def of_shard(shard: int, commit_interval: float) -> Delivery:
        keys = {"commit_interval": commit_interval, "transaction_timeout": 60.0, "shards": 2}
        return Delivery(kafka_config(kafka, prefix, **keys), shard=shard)

    async def scenario() -> None:
        in_flight = asyncio.Event()

        async def steps(one: Delivery) -> None:
            await in_a_transaction(one, kafka, prefix)
            in_flight.set()
            await asyncio.Event().wait()

        cancelled = asyncio.create_task(deliver(of_shard(0, 30.0), steps))
        async with asyncio.timeout(360):
            await in_flight.wait()
        cancelled.cancel()
        await asyncio.wait({cancelled})
        await deliver(of_shard(1, 0.05), lambda one: one.queues.add([record(1000)]))

    asyncio.run(scenario())
    assert numbers(kafka, prefix) == [0, 1000]


def test_full_memory_is_reported_once_and_so_is_room(own_kafka: Broker, prefix: str) -> None:
    deliveries = delivery_to(own_kafka, prefix, "at-least-once", max_pending_bytes=65_536)

    async def steps(one: Delivery) -> None:
        await asyncio.to_thread(own_kafka.suspend)
        for n in range(1000):
            one.queues.add([record(n)])
        assert one.room == [False]
        await asyncio.to_thread(own_kafka.resume)
        await soon(lambda: one.queues.pending_records == 0, 40, "all records")

    asyncio.run(deliver(deliveries, steps))
    assert deliveries.room == [False, True]
    assert deliveries.queues.pending_bytes == 0
    assert numbers(own_kafka, prefix) == list(range(1000))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"create_topics": False}, ["does not exist", "kafka.create_topics", "12 partitions"]),
        ({"replication_factor": 3}, ["cannot be created", "kafka.replication_factor = 3"]),
    ],
)
def test_topics_that_cannot_be_created_are_named_with_the_reason(
    kafka: Broker, prefix: str, keys: dict[str, object], words: Sequence[str]
) -> None:
    settings = {"bootstrap_servers": kafka.bootstrap, "topic_prefix": prefix, **keys}
    wanted = Config.model_validate({"channels": {"all_ticker": True}, "kafka": settings}).kafka
    with pytest.raises(TopicMissing) as caught:
        asyncio.run(look(wanted, ["depth"], View()))
    assert all(word in str(caught.value) for word in [f"{prefix}.depth.v1", *words])


def test_state_of_another_number_of_shards_is_named_with_the_difference(kafka: Broker, prefix: str) -> None:
    create_topic(kafka.bootstrap, f"{prefix}.bridge-state", 3, cleanup_policy="compact")
    settings = {"bootstrap_servers": kafka.bootstrap, "topic_prefix": prefix}
    wanted = Config.model_validate({"channels": {"all_ticker": True}, "kafka": settings}).kafka
    with pytest.raises(TopicError, match=r"state of 3 shards, kafka\.shards is 1"):
        asyncio.run(look(wanted, ["depth"], View()))
