"""The bridge and a deserializer of others with a real registry, as it is shipped."""

import copy
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
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
from tests.support.process import SYMBOLS, Command, RunningBridge, toml
from tests.support.waiting import eventually
from tests.support.walkthrough import PIP, Walkthrough, blocks, commands

HERE = Path(__file__).parent
README = HERE / "README.md"
TOPIC = "digifinex.trades.v1"
URL = "http://localhost:8081/apis/ccompat/v7"
READ = f"python read.py localhost:9092 {URL} {TOPIC}"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apicurio]:
    with Apicurio(tmp_path_factory.mktemp("registry")) as registry:
        yield registry


@pytest.fixture
def client(registry: Apicurio) -> Iterator[SchemaRegistryClient]:
    with SchemaRegistryClient({"url": registry.url}) as client:
        yield client


def settings(exchange: str, kafka: str, prefix: str, registry: str) -> dict[str, Any]:
    return {
        "exchange": {"url": exchange},
        "channels": {"trades": SYMBOLS, "depth": SYMBOLS},
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
    assert commands(README) == [PIP, READ]
    assert f'url = "{URL}"' in blocks(README, "toml")[0]
    topic = "framed.trades.v1"
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        full = settings(exchange.url, market.kafka, "framed", registry.url)
        with RunningBridge(tmp_path, full) as running:
            running.wait_ready()
            eventually(
                lambda: running.metric("records_total", channel="trades") > 50,
                60,
                "trades",
            )
            assert running.stop() == 0
    records = [
        json.loads(unframed(one.value)) for one in read_topic(market.kafka, topic)
    ]
    instead = {URL: registry.url, TOPIC: topic}
    with walkthrough(HERE.name, instead).running(READ, "^{") as example:

        def found() -> list[Any]:
            return [json.loads(line) for line in example.printed.splitlines()]

        eventually(lambda: example.printed.count("\n") >= len(records), 60, "records")
        assert sorted(found(), key=str) == sorted(records, key=str)
    assert client.get_compatibility(f"{topic}-value") == "FORWARD_TRANSITIVE"
    assert "framed.bridge-state-value" not in client.get_subjects()
    done = subprocess.run(
        [sys.executable, "-m", "bridge", "check", "--config", "bridge.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "  4 schemas registered and compatible\n" in done.stdout


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
