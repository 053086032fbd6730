"""The bridge and deserializers of others with a real registry, as it is shipped."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.schema_registry import (
    Schema,
    SchemaRegistryClient,
    SchemaRegistryError,
)

from bridge.consumer.decoding import unframed
from bridge.schema import RECORDS, published
from tests.support.apicurio import Apicurio
from tests.support.consumers import read_topic
from tests.support.exchange import ExchangeThread
from tests.support.market import Market
from tests.support.process import (
    ACCOUNTS,
    CURRENCIES,
    SYMBOLS,
    Command,
    RunningBridge,
    toml,
)
from tests.support.waiting import eventually
from tests.support.walkthrough import (
    MAVEN,
    PIP,
    Running,
    Walkthrough,
    blocks,
    commands,
)

HERE = Path(__file__).parent
README = HERE / "README.md"
TOPIC = "digifinex.trades.v1"
REGISTRY = "http://localhost:8081"
URL = f"{REGISTRY}/apis/ccompat/v7"
PYTHON = f"python read.py localhost:9092 {URL} {TOPIC}"
JAVA = f"java -cp 'jars/*' Read.java localhost:9092 {REGISTRY}/apis/registry/v2 {TOPIC}"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apicurio]:
    with Apicurio(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture
def client(registry: Apicurio) -> Iterator[SchemaRegistryClient]:
    with SchemaRegistryClient({"url": registry.url}) as client:
        yield client


def settings(exchange: str, kafka: str, prefix: str, registry: str) -> dict[str, Any]:
    """Return a configuration with all channels."""
    public = dict.fromkeys(("trades", "depth", "book", "ticker"), SYMBOLS)
    private = dict.fromkeys(("order", "order_algo"), SYMBOLS)
    keys = {"name": "main", "api_key": "key", "secret": ACCOUNTS["key"]}
    return {
        "exchange": {"url": exchange},
        "channels": {**public, "all_ticker": True},
        "accounts": [{**keys, **private, "balance": CURRENCIES}],
        "kafka": {
            "bootstrap_servers": kafka,
            "topic_prefix": prefix,
            "group_id": prefix,
        },
        "schema_registry": {"url": registry, "framing": "confluent"},
        "http": {"host": "127.0.0.1", "port": 0},
        "log": {"format": "json"},
    }


def test_records_are_read_by_the_schemas_that_the_bridge_has_registered(
    market: Market,
    walkthrough: Callable[..., Walkthrough],
    registry: Apicurio,
    client: SchemaRegistryClient,
    tmp_path: Path,
) -> None:
    assert commands(README) == [PIP, PYTHON, MAVEN, JAVA]
    assert f'url = "{URL}"' in blocks(README, "toml")[0]
    topics = write_all_channels(market, registry, tmp_path)
    trades = "framed.trades.v1"
    others = " ".join(topics.keys() - {trades})
    example = walkthrough(HERE.name, {REGISTRY: registry.address, TOPIC: trades})
    with (
        example.running(PYTHON, "^{") as python,
        example.running(f"{JAVA} {others}", "^{") as java,
    ):
        assert_prints(python, topics[trades])
        assert_prints(java, [one for records in topics.values() for one in records])
        # Both validate what they read.
        produce_by_schema(market, client, trades, topics[trades][0] | {"price": "much"})
        for reader in (python, java):
            assert reader.process.wait(60) == 1
            assert "price" in reader.errors.read_text()
    assert client.get_compatibility(f"{trades}-value") == "FORWARD_TRANSITIVE"
    assert not [one for one in client.get_subjects() if "bridge-state" in one]
    done = subprocess.run(
        [sys.executable, "-m", "bridge", "check", "--config", "bridge.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "  12 schemas registered and compatible\n" in done.stdout


def write_all_channels(
    market: Market, registry: Apicurio, folder: Path
) -> dict[str, list[dict[str, Any]]]:
    """Run a bridge for a while; return the records of each topic, without framing."""
    private = ("order", "order_algo", "balance")
    with ExchangeThread(symbols=SYMBOLS, rate=100, accounts=ACCOUNTS) as exchange:
        full = settings(exchange.url, market.kafka, "framed", registry.url)
        with RunningBridge(folder, full) as running:
            running.wait_ready()
            channels = [*full["channels"], *private]

            def fewest() -> float:
                return min(
                    running.metric("records_total", channel=one) for one in channels
                )

            eventually(lambda: fewest() > 5, 60, "records of every channel")
            assert running.stop() == 0
    topics = [
        f"{'private.' if one in private else ''}framed.{one}.v1" for one in channels
    ]
    return {
        topic: [
            json.loads(unframed(one.value)) for one in read_topic(market.kafka, topic)
        ]
        for topic in topics
    }


def assert_prints(reader: Running, records: list[dict[str, Any]]) -> None:
    """Assert that exactly these are printed."""
    eventually(lambda: reader.printed.count("\n") >= len(records), 60, "records")
    found = [json.loads(line) for line in reader.printed.splitlines()]
    assert sorted(found, key=str) == sorted(records, key=str)


def produce_by_schema(
    market: Market, client: SchemaRegistryClient, topic: str, record: dict[str, Any]
) -> None:
    """Write a record with the framing of its topic."""
    number = client.get_latest_version(f"{topic}-value").schema_id
    assert number is not None
    producer = Producer({"bootstrap.servers": market.kafka})
    framing = b"\x00" + number.to_bytes(4, "big")
    producer.produce(topic, framing + json.dumps(record).encode(), record["symbol"])
    assert producer.flush(60) == 0


def changed(schema: dict[str, Any], name: str, field: object) -> dict[str, Any]:
    """Return a schema with a field declared otherwise; without it, if that is None."""
    other = copy.deepcopy(schema)
    other["properties"].pop(name, None)
    if field is None:
        other["required"].remove(name)
    else:
        other["properties"][name] = field
    return other


@pytest.mark.parametrize("name", RECORDS)
def test_the_registry_can_compare_each_schema(
    client: SchemaRegistryClient, name: str
) -> None:
    """A later bridge may add optional fields, and nothing else."""
    subject = f"compared.{name}.v1-value"
    client.set_compatibility(subject, "FORWARD_TRANSITIVE")
    client.register_schema(subject, Schema(published(name), "JSON"))
    schema = json.loads(published(name))

    def fits(other: dict[str, Any]) -> bool:
        return bool(
            client.test_compatibility(subject, Schema(json.dumps(other), "JSON"))
        )

    assert fits(schema)
    assert fits(changed(schema, "added", {"type": "string"}))
    assert not fits(changed(schema, "received_us", None))
    assert not fits(changed(schema, "received_us", {"type": "string"}))
    if "decimal" in schema.get("definitions", {}):
        schema["definitions"]["decimal"] = {"type": "number"}
        assert not fits(schema)
    later = changed(json.loads(published(name)), "added", {"type": "string"})
    client.register_schema(subject, Schema(json.dumps(later), "JSON"))


def test_a_schema_that_the_registry_refuses_ends_the_start(
    market: Market, registry: Apicurio, client: SchemaRegistryClient, tmp_path: Path
) -> None:
    subject = "refused.trades.v1-value"
    other = changed(json.loads(published("trades")), "price", {"type": "number"})
    client.set_compatibility(subject, "FORWARD_TRANSITIVE")
    client.register_schema(subject, Schema(json.dumps(other), "JSON"))
    with pytest.raises(SchemaRegistryError) as error:
        client.register_schema(subject, Schema(published("trades"), "JSON"))
    with ExchangeThread(symbols=SYMBOLS) as exchange:
        full = settings(exchange.url, market.kafka, "refused", registry.url)
        (tmp_path / "bridge.toml").write_text(toml(full))
        with Command(tmp_path, ["run", "--config", "bridge.toml"]) as running:
            assert running.process.wait(600) == 1
    assert error.value.error_message[:100] in running.stderr
