"""Topics that vanish, grow or change their limits while the bridge runs, on a real broker.

The broker creates topics when a client asks for one (`auto.create.topics.enable`), with one partition.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from bridge.simulator.protocol import PUBLIC
from tests.support.checks import (
    assert_no_hole,
    assert_trades_are,
    assert_trades_are_but_for_gaps,
    by_symbol,
    gaps_of,
    records_of,
)
from tests.support.consumers import ReadRecord, add_partitions, create_topic, delete_topic, read_topic
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker
from tests.support.process import SYMBOLS, RunningBridge, config
from tests.support.waiting import eventually

DELIVERIES = ["exactly-once", "at-least-once"]


def partitions(kafka: Broker, topic: str) -> int:
    """Return the number of partitions of a topic; 0 if there is no such topic. Creates none."""
    topics = AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics(timeout=60).topics
    return len(topics[topic].partitions) if topic in topics else 0


def delivered(bridge: RunningBridge, channels: Iterable[str] = PUBLIC) -> float:
    return sum(bridge.metric("records_total", channel=channel) for channel in channels)


def delivers(bridge: RunningBridge, *channels: str, number: int = 50) -> None:
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


def test_topics_that_are_missing_at_the_start_are_named_and_waited_for(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    keys = {"create_topics": False}
    with (
        ExchangeThread(symbols=SYMBOLS, rate=100) as exchange,
        RunningBridge(tmp_path, config(exchange.url, kafka, prefix, {"kafka": keys})) as bridge,
    ):
        assert bridge.port
        eventually(lambda: names(bridge.ready()[1]["missing"], f"{prefix}.all_ticker.v1"), 60, "named")
        for channel in (*PUBLIC, "deadletter", "events"):
            create_topic(kafka.bootstrap, f"{prefix}.{channel}.v1", 2)
        create_topic(kafka.bootstrap, f"{prefix}.bridge-state", 1, cleanup_policy="compact")
        bridge.wait_ready()
        delivers(bridge)
        assert bridge.stop() == 0


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


def test_keys_move_in_order_when_partitions_are_added(kafka: Broker, prefix: str, tmp_path: Path) -> None:
    name = f"{prefix}.trades.v1"
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        keys = {"partitions": 1}
        with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, {"kafka": keys})) as bridge:
            bridge.wait_ready()
            delivers(bridge)
            add_partitions(kafka.bootstrap, name, 12)
            # The view is renewed every minute; an error, such as a closed connection, renews it too.
            eventually(lambda: len(used(kafka, name)) > 1, 90, "other partitions", every=1.0)
            delivers(bridge)
            exchange.quiesce()
            assert bridge.metric("reconnects_total") == 0
            assert bridge.stop() == 0
        assert_trades_are(sorted(records_of(kafka, prefix, "trades"), key=_seq), exchange.truth.made)


def used(kafka: Broker, topic: str) -> set[int]:
    return {record.partition for record in read_topic(kafka.bootstrap, topic)}


def _seq(record: ReadRecord) -> int:
    seq: int = record.json["seq"]
    return seq
