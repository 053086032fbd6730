"""Topics that vanish, grow or change their limits while the bridge runs, on a real broker.

The broker creates topics when a client asks for one (`auto.create.topics.enable`), with one partition.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from itertools import count, groupby
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaConnectionError, KafkaError
from confluent_kafka.admin import AdminClient
from msgspec.structs import replace

from bridge.config import KafkaConfig
from bridge.kafka.client import client
from bridge.kafka.rebuilding import LastTrades, is_on_kafka
from bridge.ledger import Watermark
from bridge.partitioner import partition_of
from bridge.records import STATE, Open, Record
from bridge.simulator.protocol import PUBLIC
from tests.support.checks import (
    assert_no_hole,
    assert_trades_are,
    assert_trades_are_but_for_gaps,
    by_symbol,
    gaps_of,
    records_of,
)
from tests.support.consumers import (
    ReadRecord,
    add_partitions,
    create_topic,
    delete_topic,
    read_topic,
    set_topic,
)
from tests.support.delivery import Delivery, kafka_config
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker
from tests.support.kafka_cluster import Cluster
from tests.support.process import SYMBOLS, RunningBridge, config
from tests.support.waiting import eventually, soon

DELIVERIES = ["exactly-once", "at-least-once"]


def partitions(kafka: Broker, topic: str) -> int:
    """Return the number of partitions of a topic; 0 if there is no such topic. Creates none."""
    topics = AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=60).topics
    return len(topics[topic].partitions) if topic in topics else 0


def delivered(bridge: RunningBridge, channels: Iterable[str] = PUBLIC) -> float:
    return sum(bridge.metric("records_total", channel=channel) for channel in channels)


def delivers(bridge: RunningBridge, *channels: str, number: int = 20) -> None:
    """Return when each of these channels has brought so many records more."""
    for channel in channels or PUBLIC:
        before = delivered(bridge, [channel])
        eventually(lambda: delivered(bridge, [channel]) > before + number, 60, f"{channel} delivered")  # noqa: B023


def all_delivered(bridge: RunningBridge, exchange: ExchangeThread) -> None:
    exchange.quiesce()
    total = sum(exchange.truth.counts().values())
    eventually(lambda: delivered(bridge) >= total, 60, f"{total} records")


def names(missing: Mapping[str, Any], word: str) -> bool:
    return word in str(missing)


def assert_end_is_whole(records: list[ReadRecord], sent: int) -> None:
    """Assert that of each symbol all records from the first one on are there, each once and in order."""
    ends = 0
    for series in by_symbol(records).values():
        numbers = [one["seq"] for one in series]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert numbers[0] > 0, "nothing was deleted"
        ends += numbers[-1] + 1
    assert ends == sent


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_a_data_topic_that_was_deleted_is_created_again_and_no_record_since_is_missing(
    kafka: Broker, prefix: str, tmp_path: Path, delivery: str
) -> None:
    keys = {"delivery": delivery}
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, {"kafka": keys})) as bridge:
            bridge.wait_ready()
            delivers(bridge)
            delete_topic(kafka.bootstrap, f"{prefix}.depth.v1")
            eventually(lambda: partitions(kafka, f"{prefix}.depth.v1") == 12, 60, "the topic")
            delivers(bridge)
            bridge.wait_ready()
            exchange.quiesce()
            assert bridge.metric("reconnects_total") == 0
            assert bridge.stop() == 0
        assert "stopped, all received records are on Kafka" in bridge.stderr
        assert_trades_are(records_of(kafka, prefix, "trades"), exchange.truth.made)
        assert_end_is_whole(records_of(kafka, prefix, "depth"), exchange.truth.counts()["depth"])


def test_a_data_topic_that_may_not_be_created_is_named_and_the_others_go_on(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """Until somebody creates it, with as many partitions as they like; what was received waits for that."""
    for channel in (*PUBLIC, "deadletter", "events"):
        create_topic(kafka.bootstrap, f"{prefix}.{channel}.v1", 3)
    create_topic(kafka.bootstrap, f"{prefix}.bridge-state", 1, cleanup_policy="compact")
    keys = {"create_topics": False}
    name = f"{prefix}.depth.v1"
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, {"kafka": keys})) as bridge:
            bridge.wait_ready()
            delivers(bridge)
            delete_topic(kafka.bootstrap, name)
            eventually(lambda: names(bridge.ready()[1].get("missing", {}), name), 60, "it is named")
            assert bridge.ready()[0] == 503
            delivers(bridge, "trades", "ticker", "all_ticker")
            assert partitions(kafka, name) == 0
            assert bridge.metric("partition_unavailable", topic=name) == 3
            create_topic(kafka.bootstrap, name, 5)
            bridge.wait_ready()
            all_delivered(bridge, exchange)
            assert bridge.metric("partition_unavailable") == 0
            assert bridge.metric("reconnects_total") == 0
            assert bridge.stop() == 0
        assert_end_is_whole(records_of(kafka, prefix, "depth"), exchange.truth.counts()["depth"])
        assert_trades_are(records_of(kafka, prefix, "trades"), exchange.truth.made)


def test_topics_that_are_missing_at_the_start_are_waited_for_and_their_growth_is_an_event(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """Also growth between two runs."""
    name = f"{prefix}.depth.v1"
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        settings = config(exchange.url, kafka, prefix, {"kafka": {"create_topics": False}})
        with RunningBridge(tmp_path, settings) as bridge:
            assert bridge.port
            eventually(lambda: names(bridge.ready()[1]["missing"], f"{prefix}.all_ticker.v1"), 60, "named")
            for channel in (*PUBLIC, "deadletter", "events"):
                create_topic(kafka.bootstrap, f"{prefix}.{channel}.v1", 2)
            create_topic(kafka.bootstrap, f"{prefix}.bridge-state", 1, cleanup_policy="compact")
            bridge.wait_ready()
            delivers(bridge)
            assert bridge.stop() == 0
        add_partitions(kafka.bootstrap, name, 5)
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            delivers(bridge, "depth")
            assert bridge.stop() == 0
    events = [record.json for record in records_of(kafka, prefix, "events")]
    (grown,) = (one["detail"] for one in events if one["event"] == "partitions_grown")
    assert grown == f"{name} had 2 partitions and has 5"
    assert "cluster_changed" not in {one["event"] for one in events}


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_bridge_state_that_was_deleted_is_written_anew_and_nothing_is_lost_or_repeated(
    kafka: Broker, prefix: str, tmp_path: Path, delivery: str
) -> None:
    """Neither by the bridge that runs, nor by the next one."""
    name = f"{prefix}.bridge-state"
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        settings = config(exchange.url, kafka, prefix, {"kafka": {"delivery": delivery}})
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            delivers(bridge)
            delete_topic(kafka.bootstrap, name)
            eventually(
                lambda: "topic created" in bridge.stderr.rpartition("shard taken over")[2], 60, "created"
            )
            bridge.wait_ready()
            assert bridge.metric("shard_owned") == 1
            delivers(bridge)
            assert partitions(kafka, name) == 1
            if delivery == "exactly-once":
                bridge.process.kill()
                bridge.process.wait(60)
            else:  # a kill may repeat some
                assert bridge.stop() == 0
        keys = {one.key for one in read_topic(kafka.bootstrap, name)}
        assert {b"owner", *(b"trades/" + symbol.encode() for symbol in SYMBOLS)} <= keys
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            delivers(bridge)
            exchange.quiesce()
            assert bridge.stop() == 0
        trades, gaps = records_of(kafka, prefix, "trades"), gaps_of(kafka, prefix, "trades")
        assert_trades_are_but_for_gaps(
            trades, exchange.truth.made, [gap for gap in gaps if not gap["closed_by"]]
        )
        assert_no_hole(records_of(kafka, prefix, "ticker"))
        events = [record.json["event"] for record in records_of(kafka, prefix, "events")]
        assert events.count("cluster_changed") == 1


def test_a_broker_that_comes_back_empty_gets_all_that_is_received_from_then_on(
    own_kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        with RunningBridge(tmp_path, config(exchange.url, own_kafka, prefix)) as bridge:
            bridge.wait_ready()
            delivers(bridge)
            own_kafka.kill()
            own_kafka.empty()
            own_kafka.start()
            delivers(bridge)
            bridge.wait_ready()
            exchange.quiesce()
            assert bridge.metric("reconnects_total") == 0
            assert bridge.stop() == 0
        assert "stopped, all received records are on Kafka" in bridge.stderr
        for channel in ("depth", "trades"):
            assert_end_is_whole(records_of(own_kafka, prefix, channel), exchange.truth.counts()[channel])
        events = [record.json for record in records_of(own_kafka, prefix, "events")]
        (changed,) = (one for one in events if one["event"] == "cluster_changed")
        assert f"{prefix}.depth.v1" in changed["detail"]


def test_partitions_without_a_leader_are_named_and_the_others_go_on(prefix: str, tmp_path: Path) -> None:
    """All of depth is on the broker that dies, without replicas; what is received of it waits.

    It waits on disk, because it is more than memory may hold; the others neither need the disk nor wait.
    """
    name = f"{prefix}.depth.v1"
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange, Cluster() as cluster:
        kafka, dying = cluster.brokers[0], cluster.brokers[2]
        create_topic(cluster.bootstrap, name, 2, on=3)
        memory = 65_536
        keys = {"partitions": 2, "max_pending_bytes": memory}
        with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, {"kafka": keys})) as bridge:
            bridge.wait_ready(60)
            delivers(bridge)
            dying.kill()
            eventually(lambda: bridge.metric("partition_unavailable", topic=name) == 2, 60, "both counted")
            assert f"no leader: {name}/0, {name}/1" in bridge.ready()[1]["missing"]["partitions"]
            assert bridge.ready()[0] == 503
            eventually(lambda: bridge.metric("spool_bytes") > 3 * memory, 60, "more than memory holds")
            delivers(bridge, "trades", "ticker", "all_ticker")
            assert bridge.metric("pending_bytes") < memory
            dying.start()
            bridge.wait_ready(60)
            all_delivered(bridge, exchange)
            assert bridge.metric("partition_unavailable") == 0
            assert bridge.metric("reconnects_total") == 0
            eventually(lambda: bridge.metric("spool_bytes") == 0, 60, "an empty spool")
            assert bridge.stop() == 0
        for channel in PUBLIC:
            records = records_of(kafka, prefix, channel)
            assert len(records) == exchange.truth.counts()[channel]
            assert_no_hole(records)


# The sink alone


async def serve(one: Delivery, steps: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run a sink and its view of the cluster through `steps`, then until all is delivered."""
    await one.prepare()
    async with asyncio.timeout(360), asyncio.TaskGroup() as group:
        running = group.create_task(one.sink.run())
        looking = group.create_task(one.cluster.run())
        await steps()
        one.queues.drain()
        await running
        looking.cancel()


async def delivered_by(one: Delivery) -> None:
    await soon(lambda: one.queues.pending_records == 0, 30, "all records")


def trade(number: int, symbol: str = "BTC_USDT", filler: int = 0) -> Record:
    value = {"session": "s", "id": number, "time_us": number, "filler": "x" * filler}
    return Record(
        "trades",
        symbol.encode(),
        msgspec.json.encode(value),
        1_600_000_000_000_000 + number,
        (number, number, 0, Open()),
    )


def size_errors(one: Delivery) -> float:
    return one.metrics.counter("kafka_errors_total", error="MessageSizeTooLargeError").value


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_keys_move_in_order_when_partitions_are_added(kafka: Broker, prefix: str, delivery: str) -> None:
    one = Delivery(kafka_config(kafka, prefix, delivery=delivery, partitions=2))
    symbols = [f"{letter}_USDT" for letter in "ABCDEFGH"]
    numbers = count(1)

    def add() -> None:
        one.queues.add([trade(next(numbers), symbol) for _ in range(10) for symbol in symbols])

    async def steps() -> None:
        add()
        await delivered_by(one)
        before = one.cluster.version
        await asyncio.to_thread(add_partitions, kafka.bootstrap, f"{prefix}.trades.v1", 7)

        def grown() -> bool:
            one.cluster.ask()
            add()
            return one.cluster.version > before

        await soon(grown, 30, "the new number")
        for _ in range(5):
            add()
            await asyncio.sleep(0)
        await delivered_by(one)
        add()  # if all of those were sent before the sink has followed the view
        await delivered_by(one)

    asyncio.run(serve(one, steps))
    records = read_topic(kafka.bootstrap, f"{prefix}.trades.v1")
    for symbol in symbols:
        mine = sorted((r.json["id"], r.partition, r.offset) for r in records if r.key == symbol.encode())
        ids = [one_id for one_id, _, _ in mine]
        assert len(ids) == len(set(ids))
        places = [partition for partition, _ in groupby(partition for _, partition, _ in mine)]
        old, new = partition_of(symbol.encode(), 2), partition_of(symbol.encode(), 7)
        assert places == ([old] if old == new else [old, new])
        for place in places:
            offsets = [offset for _, partition, offset in mine if partition == place]
            assert offsets == sorted(offsets)
    assert len(records) == next(numbers) - 1


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_one_refused_batch_is_enough_to_follow_a_limit_that_was_lowered(
    kafka: Broker, prefix: str, delivery: str
) -> None:
    one = Delivery(kafka_config(kafka, prefix, delivery=delivery, compression="none"))

    async def steps() -> None:
        one.queues.add([trade(0)])
        await delivered_by(one)
        await asyncio.to_thread(set_topic, kafka.bootstrap, f"{prefix}.trades.v1", max_message_bytes="4000")

        def refused() -> bool:
            one.queues.add([trade(next(numbers), filler=200) for _ in range(50)])
            return size_errors(one) > 0

        await soon(refused, 30, "a refused batch")
        for _ in range(20):
            one.queues.add([trade(next(numbers), filler=200) for _ in range(50)])
            await asyncio.sleep(0.01)
        await delivered_by(one)

    numbers = count(1)
    asyncio.run(serve(one, steps))
    assert size_errors(one) == 1
    ids = [record.json["id"] for record in read_topic(kafka.bootstrap, f"{prefix}.trades.v1")]
    assert ids == list(range(next(numbers)))


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_state_keeps_the_limit_of_its_topic_also_when_that_is_lowered(
    kafka: Broker, prefix: str, delivery: str
) -> None:
    name = f"{prefix}.bridge-state"
    create_topic(kafka.bootstrap, name, 1, cleanup_policy="compact", max_message_bytes="9000")
    one = Delivery(kafka_config(kafka, prefix, delivery=delivery, compression="none"))
    symbols = [f"S{number}_USDT" for number in range(300)]
    numbers = count(1)

    async def steps() -> None:
        one.queues.add([trade(next(numbers), symbol) for symbol in symbols])
        await delivered_by(one)
        assert size_errors(one) == 0
        await asyncio.to_thread(set_topic, kafka.bootstrap, name, max_message_bytes="2500")

        def refused() -> bool:
            one.queues.add([trade(next(numbers), symbol) for symbol in symbols])
            return size_errors(one) > 0

        await soon(refused, 30, "a refused batch")
        await delivered_by(one)
        at_once = size_errors(one)  # those of one save, which takes several batches
        for _ in range(5):
            one.queues.add([trade(next(numbers), symbol) for symbol in symbols])
            await delivered_by(one)
        assert size_errors(one) == at_once < 15

    asyncio.run(serve(one, steps))
    keys = {record.key for record in read_topic(kafka.bootstrap, name)}
    assert {b"trades/" + symbol.encode() for symbol in symbols} < keys


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_bridge_state_that_was_deleted_has_symbols_again_that_were_not_traded_since(
    kafka: Broker, prefix: str, delivery: str
) -> None:
    name = f"{prefix}.bridge-state"
    one = Delivery(kafka_config(kafka, prefix, delivery=delivery))

    async def steps() -> None:
        one.queues.add([trade(1, "QUIET_USDT"), trade(2, "BUSY_USDT")])
        await delivered_by(one)
        before = one.cluster.topics[STATE].id
        await asyncio.to_thread(delete_topic, kafka.bootstrap, name)
        one.cluster.ask()
        await soon(lambda: one.cluster.topics[STATE].id != before, 30, "another topic")
        one.queues.add([trade(3, "BUSY_USDT")])
        await delivered_by(one)

    asyncio.run(serve(one, steps))
    keys = {record.key for record in read_topic(kafka.bootstrap, name)}
    assert keys == {b"owner", b"cluster", b"trades/QUIET_USDT", b"trades/BUSY_USDT"}
    ids = sorted(record.json["id"] for record in read_topic(kafka.bootstrap, f"{prefix}.trades.v1"))
    assert ids == [1, 2, 3]


def test_state_whose_limit_is_too_low_for_one_record_is_named_until_it_is_raised(
    kafka: Broker, prefix: str
) -> None:
    name = f"{prefix}.bridge-state"
    create_topic(kafka.bootstrap, name, 1, cleanup_policy="compact", max_message_bytes="250")
    one = Delivery(kafka_config(kafka, prefix, compression="none"))

    async def steps() -> None:
        one.queues.add([trade(1)])
        named = f"topic {name}, partition 0: [Error 10] MessageSizeTooLargeError (raise its max.message.bytes"
        await soon(lambda: named in (one.sink.missing() or ""), 30, "it is named")
        assert one.queues.pending_records == 1
        await asyncio.to_thread(set_topic, kafka.bootstrap, name, max_message_bytes="100000")
        await delivered_by(one)

    asyncio.run(serve(one, steps))
    assert [record.json["id"] for record in read_topic(kafka.bootstrap, f"{prefix}.trades.v1")] == [1]


def test_a_start_without_state_reads_the_last_trades_from_their_topic(kafka: Broker, prefix: str) -> None:
    def settings() -> KafkaConfig:
        return kafka_config(kafka, prefix)

    async def first() -> None:
        one = Delivery(settings(), "first")

        async def steps() -> None:
            one.queues.add(
                [trade(number, symbol) for number in range(100) for symbol in ("A_USDT", "B_USDT")]
            )
            one.queues.add([trade(3000, "OLD_USDT"), replace(trade(7, "OLD_USDT"), value=b"not JSON")])
            await delivered_by(one)

        await serve(one, steps)

    async def second() -> dict[bytes, list[int]]:
        one = Delivery(settings(), "second")

        async def steps() -> None:
            await soon(one.sink.taken_over.is_set, 30, "the takeover")

        await serve(one, steps)
        return {symbol: known.ids for symbol, known in one.state.watermarks.items()}

    asyncio.run(first())
    delete_topic(kafka.bootstrap, f"{prefix}.bridge-state")
    newest = list(range(68, 100))
    assert asyncio.run(second()) == {b"A_USDT": newest, b"B_USDT": newest, b"OLD_USDT": [3000]}
    keys = [record.key for record in read_topic(kafka.bootstrap, f"{prefix}.bridge-state")]
    assert {b"owner", b"cluster", b"trades/A_USDT", b"trades/B_USDT", b"trades/OLD_USDT"} == set(keys)


def test_last_trades_that_could_not_be_read_at_once_are_read_on(
    kafka: Broker, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = 300
    getmany, read = AIOKafkaConsumer.getmany, 0

    async def failing(consumer: AIOKafkaConsumer, **keys: Any) -> Any:
        """Return few records at once, and fail once."""
        nonlocal read
        if read > number / 2 and not failed:
            failed.append(True)
            raise KafkaConnectionError("closed")
        batches = await getmany(consumer, **keys, max_records=40)
        read += sum(map(len, batches.values()))
        return batches

    failed: list[bool] = []

    async def scenario() -> dict[bytes, Watermark]:
        one = Delivery(kafka_config(kafka, prefix))

        async def steps() -> None:
            one.queues.add([trade(n, f"S{n}_USDT") for n in range(number)])
            await delivered_by(one)

        await serve(one, steps)
        monkeypatch.setattr(AIOKafkaConsumer, "getmany", failing)
        trades = LastTrades(one.config, one.cluster.topics["trades"], range(3), lambda _: True)
        with pytest.raises(KafkaConnectionError):
            await trades.read()
        return await trades.read()

    assert len(asyncio.run(scenario())) == number == read
    assert failed


def test_a_takeover_that_fails_is_continued_without_reading_the_state_again(
    kafka: Broker, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    symbols = [f"S{number}_USDT" for number in range(200)]
    getmany, read = AIOKafkaConsumer.getmany, 0

    async def failing(consumer: AIOKafkaConsumer, **keys: Any) -> Any:
        """Return few records at once, and fail once."""
        nonlocal read
        batches = await getmany(consumer, **keys, max_records=40)
        if read > 100 and not failed:
            failed.append(True)
            raise KafkaConnectionError("closed")
        read += sum(map(len, batches.values()))
        return batches

    failed: list[bool] = []

    async def scenario() -> dict[bytes, Watermark]:
        first = Delivery(kafka_config(kafka, prefix), "first")

        async def steps() -> None:
            first.queues.add([trade(1, symbol) for symbol in symbols])
            await delivered_by(first)

        await serve(first, steps)
        monkeypatch.setattr(AIOKafkaConsumer, "getmany", failing)
        second = await Delivery(kafka_config(kafka, prefix), "second").prepare()
        with pytest.raises(KafkaConnectionError):
            await second.state.catch_up()
        await second.state.catch_up()
        return second.state.watermarks

    assert len(asyncio.run(scenario())) == len(symbols)
    assert failed
    assert read == len(read_topic(kafka.bootstrap, f"{prefix}.bridge-state"))


def test_whether_a_commit_whose_state_was_lost_had_succeeded_is_read_from_the_data(
    kafka: Broker, prefix: str
) -> None:
    """However much others have written behind it."""
    one = Delivery(kafka_config(kafka, prefix))

    async def steps() -> None:
        one.queues.add([trade(number) for number in range(3000)])
        await delivered_by(one)
        partition = next(iter(one.queues.places.values()))
        place = TopicPartition(partition.topic.name, partition.number)
        partition.sent = [trade(number) for number in range(10, 20)]
        assert await is_on_kafka(one.config, [partition], {place: 10})
        for begin in (9, 20, 100_000, None):
            assert not await is_on_kafka(one.config, [partition], {place: begin})
        assert not await is_on_kafka(one.config, [partition], {})
        partition.sent = []
        assert not await is_on_kafka(one.config, [partition], {place: 10})

    asyncio.run(serve(one, steps))


def test_no_client_lets_the_broker_create_a_topic(kafka: Broker, prefix: str) -> None:
    """The broker would create one, with its own settings, for whoever asks in aiokafka's way."""

    async def ask() -> None:
        settings = kafka_config(kafka, prefix)
        admin = client(AIOKafkaAdminClient, settings)
        producer = client(AIOKafkaProducer, settings, request_timeout_ms=1000)
        member = client(AIOKafkaConsumer, settings, group_id=prefix)
        for one in (admin, producer, member):
            await one.start()
        await admin.describe_topics([f"{prefix}.admin"])
        member.subscribe([f"{prefix}.member"])
        await member.getmany(timeout_ms=1000)
        with pytest.raises(KafkaError):
            await producer.send(f"{prefix}.producer", b"value")
        await admin.close()
        await producer.stop()
        await member.stop()

    asyncio.run(ask())
    topics = AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=60).topics
    assert [name for name in topics if name.startswith(prefix)] == []
