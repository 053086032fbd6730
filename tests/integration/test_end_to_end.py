"""The real command between the simulated exchange and a real Kafka, read back by third-party consumers."""

import signal
import subprocess
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
from confluent_kafka import Producer

from bridge.simulator import Dialect, Faults
from tests.support.checks import (
    assert_books_are,
    assert_no_hole,
    assert_trades_are,
    by_symbol,
    records_of,
)
from tests.support.consumers import console_consume, create_topic, kcat, read_topic
from tests.support.exchange import ExchangeThread, books
from tests.support.kafka_broker import Broker
from tests.support.process import ACCOUNTS, SYMBOLS, RunningBridge, config
from tests.support.waiting import eventually


@pytest.mark.parametrize("compressed", ["zlib", "answers"])
@pytest.mark.parametrize("order", ["answer_first", "push_first"])
def test_all_channels_arrive_complete_and_in_order(
    kafka: Broker,
    prefix: str,
    tmp_path: Path,
    compressed: Literal["zlib", "answers"],
    order: Literal["answer_first", "push_first"],
) -> None:
    delivery = "exactly-once" if compressed == "zlib" else "at-least-once"
    dialect = Dialect(compressed=compressed, answer_order=order)
    with ExchangeThread(symbols=SYMBOLS, rate=400, accounts=ACCOUNTS, dialect=dialect) as exchange:
        settings = config(exchange.url, kafka, prefix, {"kafka": {"delivery": delivery}}, accounts=True)
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            eventually(lambda: min(exchange.truth.counts().values()) > 3, 30, "records of each channel")
            exchange.quiesce()
            sent = exchange.truth.counts()
            total = sum(sent.values())
            eventually(lambda: bridge.metric("records_total") >= total, 15, f"{total} records")
            assert bridge.stop() == 0
        on_kafka = {channel: records_of(kafka, prefix, channel) for channel in sent}
        assert {channel: len(records) for channel, records in on_kafka.items()} == sent
        for records in on_kafka.values():
            assert_no_hole(records)
        assert_trades_are(on_kafka["trades"], exchange.truth.made)
        assert_books_are(on_kafka["depth"], books(exchange))
        for channel in ("order", "order_algo", "balance"):
            assert {record.json["account"] for record in on_kafka[channel]} == {"main"}
    assert ACCOUNTS["key"] not in bridge.stderr


def test_kcat_and_the_java_consumer_read_the_same_records(kafka: Broker, prefix: str, tmp_path: Path) -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=300) as exchange:
        settings = config(exchange.url, kafka, prefix)
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            eventually(lambda: exchange.truth.counts()["trades"] > 50, 30, "trades")
            exchange.quiesce()
            total = sum(exchange.truth.counts().values())
            eventually(lambda: bridge.metric("records_total") >= total, 15, f"{total} records")
            assert bridge.stop(signal.SIGINT) == 0
    trades = records_of(kafka, prefix, "trades")
    lines = sorted(f"{r.partition} {(r.key or b'').decode()} {r.value.decode()}" for r in trades)
    assert sorted(kcat(kafka.bootstrap, f"{prefix}.trades.v1")) == lines
    by_java = console_consume(kafka.bootstrap, f"{prefix}.trades.v1", len(lines))
    assert sorted(line.removeprefix("Partition:") for line in by_java) == lines


def test_keys_are_on_the_partitions_that_other_clients_choose(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    symbols = [f"SIM{n}_USDT" for n in range(30)]
    with ExchangeThread(symbols=symbols, rate=300) as exchange:
        channels: dict[str, list[str]] = {"ticker": [], "trades": [], "depth": []}
        settings = config(exchange.url, kafka, prefix, {"channels": channels})
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            eventually(lambda: bridge.metric("records_total") >= 30, 15, "tickers")
            assert bridge.stop() == 0
    ours = {r.key: r.partition for r in records_of(kafka, prefix, "all_ticker")}
    create_topic(kafka.bootstrap, f"{prefix}.others", 12)
    producer = Producer({"bootstrap.servers": kafka.bootstrap, "partitioner": "murmur2_random"})
    for key in ours:
        producer.produce(f"{prefix}.others", b"", key)
    producer.flush(20)
    assert ours == {r.key: r.partition for r in read_topic(kafka.bootstrap, f"{prefix}.others")}


def test_bad_frames_become_dead_letters_and_the_rest_continues(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    faults = Faults(corrupt=0.05, bad_json=0.05, unknown_method=0.05, clean_again=0.1)
    with ExchangeThread(symbols=SYMBOLS, rate=300, faults=faults) as exchange:
        settings = config(exchange.url, kafka, prefix)
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            bad = exchange.truth.bad
            eventually(lambda: len(bad) == 3 and min(bad.values()) > 5, 30, "each kind of bad frame")
            repeated = partial(bridge.metric, "duplicates_total", channel="trades")
            eventually(lambda: repeated() > 0, 30, "repeated trades")
            exchange.quiesce()
            total = sum(exchange.truth.counts().values()) + sum(bad.values())
            eventually(lambda: bridge.metric("records_total") >= total, 15, f"{total} records")
            assert bridge.metric("reconnects_total") == 0
            assert bridge.metric("decompression_errors_total") == bad["corrupt"]
            reasons = {"decompression": "corrupt", "json": "bad_json", "unknown_method": "unknown_method"}
            for reason, kind in reasons.items():
                assert bridge.metric("deadletters_total", reason=reason) == bad[kind]
            checked = subprocess.run(
                ["promtool", "check", "metrics"],
                input=bridge.metrics(),
                text=True,
                capture_output=True,
                check=False,
            )
            assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
            assert bridge.stop() == 0
        assert_trades_are(records_of(kafka, prefix, "trades"), exchange.truth.made)
        assert len(records_of(kafka, prefix, "deadletter")) == sum(exchange.truth.bad.values())
        assert by_symbol(records_of(kafka, prefix, "ticker")).keys() == set(SYMBOLS)
