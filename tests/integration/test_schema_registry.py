"""The real command with a schema registry: framings, a registry that comes late, one that refuses."""

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.json_schema import JSONDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from bridge.config import Config
from bridge.consumer import decode
from bridge.kafka.framing import Framing
from bridge.kafka.rebuilding import LastTrades
from bridge.kafka.topics import Topic
from tests.support.consumers import read_topic
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker, free_ports
from tests.support.process import ACCOUNTS, SYMBOLS, Command, RunningBridge, config, toml
from tests.support.schema_registry import REFUSAL, SchemaRegistry
from tests.support.waiting import eventually

LOGIN = ("bridge", "s3cr3t-of-the-registry")


def settings(
    exchange: ExchangeThread, kafka: Broker, prefix: str, folder: Path, registry: dict[str, Any]
) -> dict[str, Any]:
    """Return a configuration with an account, and with a registry that asks for a password."""
    (folder / "password").write_text(LOGIN[1])
    (folder / "password").chmod(0o600)
    return config(
        exchange.url,
        kafka,
        prefix,
        {
            "kafka": {"max_pending_bytes": 65_536, "partitions": 2},
            "channels": {"book": SYMBOLS},
            "schema_registry": {"username": LOGIN[0], "password_file": "password", **registry},
        },
        accounts=True,
    )


def messages(kafka: Broker, topic: str) -> list[Message]:
    """Return the committed messages of a topic, with their headers."""
    expected = len(read_topic(kafka.bootstrap, topic))
    consumer = Consumer(
        {"bootstrap.servers": kafka.bootstrap, "group.id": "tests", "enable.auto.commit": False}
    )
    try:
        parts = consumer.list_topics(topic, timeout=60).topics[topic].partitions
        consumer.assign([TopicPartition(topic, number, 0) for number in parts])
        found: list[Message] = []
        while len(found) < expected:
            found += consumer.consume(expected - len(found), timeout=60)
        assert not [one.error() for one in found if one.error()]
        return found
    finally:
        consumer.close()


def assert_read_by_schema(registry: SchemaRegistry, topic: str, found: list[Message]) -> None:
    """Read messages with the deserializer of confluent-kafka, over HTTP and in memory, and with the kit."""
    with SchemaRegistryClient({"url": registry.url, "basic.auth.user.info": ":".join(LOGIN)}) as client:
        for source in (client, registry.memory):
            deserialize = JSONDeserializer(None, schema_registry_client=source)
            for one in found:
                context = SerializationContext(topic, MessageField.VALUE, one.headers() or [])
                record = deserialize(one.value(), context)
                assert record is not None
                assert topic.endswith(record["schema"].removeprefix("digifinex"))
                assert decode(topic, one.value()).schema == record["schema"]  # type: ignore[union-attr]


@pytest.mark.parametrize("framing", ["confluent", "header"])
def test_records_wait_for_a_registry_that_comes_late_and_are_read_by_their_schemas(
    kafka: Broker, prefix: str, tmp_path: Path, framing: str
) -> None:
    (port,) = free_ports(1)
    with ExchangeThread(symbols=SYMBOLS, rate=400, accounts=ACCOUNTS) as exchange:
        keys = {"url": f"http://127.0.0.1:{port}", "framing": framing}
        with RunningBridge(tmp_path, settings(exchange, kafka, prefix, tmp_path, keys)) as bridge:
            eventually(lambda: "schema_registry" in bridge.ready()[1].get("missing", {}), 60, "not ready")
            eventually(lambda: bridge.metric("spool_records") > 0, 60, "records in the spool")
            assert bridge.ready()[0] == 503
            assert not read_topic(kafka.bootstrap, f"{prefix}.trades.v1")
            with SchemaRegistry(port, LOGIN, guids=framing == "header") as registry:
                bridge.wait_ready(90)
                eventually(lambda: min(exchange.truth.counts().values()) > 3, 30, "records of each channel")
                exchange.quiesce()
                sent = exchange.truth.counts()
                total = sum(sent.values())
                eventually(lambda: bridge.metric("records_total") >= total, 60, f"{total} records")
                assert bridge.stop() == 0
                assert (
                    len(registry.schemas) == len(sent) + 5
                )  # books, and two topics each of events and letters
                for channel, number in sent.items():
                    private = "private." if channel in ("order", "order_algo", "balance") else ""
                    topic = f"{private}{prefix}.{channel}.v1"
                    found = messages(kafka, topic)
                    assert len(found) == number
                    assert_read_by_schema(registry, topic, found)
                    is_framed = [(one.value() or b"")[:1] != b"{" for one in found]
                    assert set(is_framed) == {framing == "confluent"}
        # A start that has lost its state reads the last trades from records with a framing, too.
        trades = Topic(f"{prefix}.trades.v1", 2, 1_000_000, framing=Framing())
        wanted = Config.model_validate(config(exchange.url, kafka, prefix)).kafka
        known = asyncio.run(LastTrades(wanted, trades, range(2), lambda _: True).read())
        assert known.keys() == {symbol.encode() for symbol in SYMBOLS}
    assert all(one.value.startswith(b"{") for one in read_topic(kafka.bootstrap, f"{prefix}.bridge-state"))
    assert LOGIN[1] not in bridge.stderr


def test_without_a_framing_the_bridge_runs_while_the_registry_is_unavailable(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    with ExchangeThread(symbols=SYMBOLS, rate=200, accounts=ACCOUNTS) as exchange:
        full = settings(exchange, kafka, prefix, tmp_path, {"url": f"http://127.0.0.1:{port}"})
        with RunningBridge(tmp_path, full) as bridge:
            bridge.wait_ready()
            assert f"127.0.0.1:{port}" in bridge.ready()[1]["degraded"]["schema_registry"]
            eventually(lambda: bridge.metric("records_total", channel="trades") > 0, 30, "trades")
            with SchemaRegistry(port, LOGIN) as registry:
                eventually(lambda: bridge.ready()[1] == {"ready": True}, 60, "schemas registered")
                assert set(registry.levels.values()) == {"FORWARD_TRANSITIVE"}
            checked = check(tmp_path)
            assert checked.returncode == 0, (
                checked.stdout
            )  # nothing depends on the registry, which is gone again
            assert bridge.stop() == 0
    assert read_topic(kafka.bootstrap, f"{prefix}.trades.v1")[0].value.startswith(b'{"schema"')


def check(folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "bridge", "check", "--config", "bridge.toml"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=600)


@pytest.mark.parametrize("framing", ["none", "confluent"])
def test_a_refused_schema_ends_the_start_with_the_words_of_the_registry(
    kafka: Broker, prefix: str, tmp_path: Path, framing: str
) -> None:
    with (
        ExchangeThread(symbols=SYMBOLS, accounts=ACCOUNTS) as exchange,
        SchemaRegistry(login=LOGIN) as registry,
    ):
        keys = {"url": registry.url, "framing": framing}
        full = settings(exchange, kafka, prefix, tmp_path, keys)
        (tmp_path / "bridge.toml").write_text(toml(full))
        if framing == "none":
            registry.schemas[f"{prefix}.trades.v1-value"] = "another one"
        registry.refused.add(f"{prefix}.trades.v1-value")
        with Command(tmp_path, ["run", "--config", "bridge.toml"]) as bridge:
            assert bridge.process.wait(600) == 1
        assert REFUSAL in bridge.stderr
        assert f"{prefix}.trades.v1-value" in bridge.stderr
        assert LOGIN[1] not in bridge.stderr
        if framing == "none":
            checked = check(tmp_path)
            assert checked.returncode == 1
            assert "not ready: the schema registry" in checked.stdout
            assert f"{prefix}.trades.v1-value is not compatible" in checked.stdout
