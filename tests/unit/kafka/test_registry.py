"""Schemas are registered over HTTP, and what the registry says of them becomes the framing of messages."""

import asyncio
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.schema_registry import header_schema_id_serializer, prefix_schema_id_serializer
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext, SerializationError

from bridge.config import Config, KafkaConfig, SchemaRegistryConfig
from bridge.config import Framing as Kind
from bridge.errors import SchemaRefused
from bridge.kafka.framing import PLAIN, Framing, framing
from bridge.kafka.registry import Registry, Unavailable, register, registered_topics, try_registering
from bridge.kafka.topics import Topic
from bridge.schema import published
from bridge.service import Bridge
from tests.support.clusters import cluster_of
from tests.support.kafka_broker import free_ports
from tests.support.schema_registry import REFUSAL, SchemaRegistry
from tests.support.schemas import SCHEMAS
from tests.support.waiting import soon

TOPICS = {"p.trades.v1": "trades", "private.p.events.v1": "events"}
PASSWORD = "s3cr3t-of-the-registry"


@pytest.fixture
def registry() -> Iterator[SchemaRegistry]:
    with SchemaRegistry() as registry:
        yield registry


def config(registry: SchemaRegistry, **keys: Any) -> SchemaRegistryConfig:
    return SchemaRegistryConfig.model_validate({"url": registry.url, **keys})


def test_each_topic_of_records_has_a_subject_with_its_schema(registry: SchemaRegistry) -> None:
    register(config(registry), TOPICS)
    assert registry.schemas == {
        f"{topic}-value": (SCHEMAS / name / "v1.json").read_text() for topic, name in TOPICS.items()
    }


def test_all_topics_but_the_state_are_registered() -> None:
    kafka = KafkaConfig.model_validate({"topic_prefix": "mk"})
    assert registered_topics(kafka, {"order", "book"}) == {
        "private.mk.order.v1": "order",
        "mk.book.v1": "book",
        "mk.deadletter.v1": "deadletter",
        "mk.events.v1": "events",
        "private.mk.deadletter.v1": "deadletter",
        "private.mk.events.v1": "events",
    }


def test_a_subject_without_a_level_gets_one_before_its_schema_and_another_keeps_its_own(
    registry: SchemaRegistry,
) -> None:
    registry.levels["p.trades.v1-value"] = "FULL"
    register(config(registry), TOPICS)
    assert registry.levels == {
        "p.trades.v1-value": "FULL",
        "private.p.events.v1-value": "FORWARD_TRANSITIVE",
    }
    done = registry.requests
    subject = "private.p.events.v1-value"
    assert done.index(f"PUT /config/{subject}") < done.index(f"POST /subjects/{subject}/versions")


def test_without_the_right_to_set_levels_schemas_are_registered(registry: SchemaRegistry) -> None:
    registry.may_set_levels = False
    register(config(registry), TOPICS)
    assert len(registry.schemas) == len(TOPICS)


@pytest.mark.parametrize("attempt", [register, try_registering])
def test_a_schema_that_is_refused_is_named(registry: SchemaRegistry, attempt: Any) -> None:
    register(config(registry), TOPICS)
    registry.refused.add("p.trades.v1-value")
    with pytest.raises(SchemaRefused, match=r"p\.trades\.v1-value") as error:
        attempt(config(registry), TOPICS)
    assert attempt is try_registering or REFUSAL in str(error.value)


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_a_registry_that_does_not_work_is_tried_again(registry: SchemaRegistry, status: int) -> None:
    registry.broken = status
    with pytest.raises(Unavailable, match=f"HTTP {status}"):
        register(config(registry), TOPICS)


def test_a_registry_that_is_not_there_is_tried_again() -> None:
    (port,) = free_ports(1)
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
        register(SchemaRegistryConfig.model_validate({"url": f"http://127.0.0.1:{port}"}), TOPICS)


def test_the_password_is_read_again_for_each_attempt_and_in_no_error(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("the one before\n")
    with SchemaRegistry(login=("bridge", PASSWORD)) as registry:
        settings = config(registry, username="bridge", password_file=file)
        with pytest.raises(Unavailable, match="Unauthorized") as error:
            register(settings, TOPICS)
        assert "the one before" not in str(error.value)  # although the registry repeats it
        file.write_text(f"{PASSWORD}\n")
        register(settings, TOPICS)
        file.unlink()
        with pytest.raises(Unavailable, match=r"schema_registry\.password_file"):
            register(settings, TOPICS)


def test_trying_registers_nothing(registry: SchemaRegistry) -> None:
    assert try_registering(config(registry), TOPICS) == [f"{topic}-value" for topic in TOPICS]
    assert (registry.schemas, registry.levels) == ({}, {})
    register(config(registry), TOPICS)
    assert try_registering(config(registry), TOPICS) == []


def test_a_topic_that_is_included_later_is_registered_with_the_others(registry: SchemaRegistry) -> None:
    """Its records are in a spool, and its channel is not configured any more."""

    async def scenario() -> None:
        framed: asyncio.Queue[Mapping[str, Framing]] = asyncio.Queue()
        settings = config(registry, framing="confluent")
        schemas = Registry(settings, {"p.trades.v1": "trades"}, framed.put_nowait)
        await schemas.begin()
        assert (await framed.get()).keys() == {"p.trades.v1"}
        running = asyncio.create_task(schemas.run())
        for broken in (None, 503):
            registry.broken = broken
            topic = f"p.depth{broken}.v1"
            schemas.include(topic, "depth")
            assert schemas.holds_records
            if broken:
                await soon(lambda: "503" in schemas.trouble, 60, "the failure")
                registry.broken = None
            framings = await asyncio.wait_for(framed.get(), 60)
            assert framings[topic].prefix
            assert "p.trades.v1" in framings
            assert not schemas.trouble
        running.cancel()

    asyncio.run(scenario())


def test_records_of_a_topic_wait_until_its_own_schema_is_registered() -> None:
    registered = {"md.trades.v1": Framing(prefix=b"7")}
    for awaited, frames in ((True, [registered["md.trades.v1"], None]), (False, [PLAIN, PLAIN])):
        cluster = cluster_of()
        view = cluster.view._replace(
            topics={name: Topic(f"md.{name}.v1", 1, 1_000_000) for name in ("trades", "depth")}
        )
        cluster.view = view
        if awaited:
            cluster.await_framings()
        cluster.frame(registered)
        assert [cluster.topics[name].framing for name in ("trades", "depth")] == frames


def test_the_bridge_registers_a_channel_that_is_looked_at_besides(registry: SchemaRegistry) -> None:
    bridge = Bridge(
        Config.model_validate(
            {
                "channels": {"all_ticker": True},
                "schema_registry": {"url": registry.url, "framing": "confluent"},
            }
        )
    )

    async def scenario() -> None:
        await bridge._registry.begin()
        running = asyncio.create_task(bridge._registry.run())
        bridge._cluster.include("depth")
        await soon(lambda: not bridge._registry.trouble, 60, "the schema")
        running.cancel()

    asyncio.run(scenario())
    assert "digifinex.depth.v1-value" in registry.schemas


def test_a_framing_has_the_id_or_the_guid_of_the_schema() -> None:
    guid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8"
    assert framing(Kind.NONE, 7, guid) == Framing()
    assert framing(Kind.CONFLUENT, 258, None) == Framing(prefix=b"\x00\x00\x00\x01\x02")
    assert framing(Kind.HEADER, 7, guid) == Framing(
        headers=(("__value_schema_id", b"\x01" + bytes.fromhex(guid.replace("-", ""))),)
    )


@pytest.mark.parametrize(
    ("kind", "name_schema"),
    [(Kind.CONFLUENT, prefix_schema_id_serializer), (Kind.HEADER, header_schema_id_serializer)],
)
def test_a_framing_is_what_confluents_serializers_write_and_read(
    registry: SchemaRegistry, kind: Kind, name_schema: Callable[..., bytes]
) -> None:
    """With confluent-kafka's own registry in memory: no other one that runs here gives GUIDs."""
    topic = "p.trades.v1"
    ours = register(config(registry, framing=kind), {topic: "trades"})[topic]
    (record,) = json.loads(published("trades"))["examples"]
    theirs = JSONSerializer(
        published("trades"),
        registry.memory,
        conf={"schema.id.serializer": name_schema, "auto.register.schemas": False},
    )
    headers: list[tuple[str, str | bytes | None]] = []
    value = theirs(record, SerializationContext(topic, MessageField.VALUE, headers))
    assert value is not None
    assert (value[: len(ours.prefix)], headers) == (ours.prefix, list(ours.headers))
    assert json.loads(value[len(ours.prefix) :]) == record
    read = JSONDeserializer(None, schema_registry_client=registry.memory)
    written = ours.prefix + json.dumps(record).encode()
    context = SerializationContext(topic, MessageField.VALUE, [*ours.headers])
    assert read(written, context) == record
    wrong = ours.prefix + json.dumps(record | {"price": None}).encode()
    with pytest.raises(SerializationError, match="is not of type"):
        read(wrong, context)


@pytest.mark.parametrize(
    ("kind", "schema_id", "guid"),
    [
        (Kind.CONFLUENT, None, None),
        (Kind.CONFLUENT, 1 << 32, None),
        (Kind.CONFLUENT, -1, None),
        (Kind.HEADER, 7, None),
        (Kind.HEADER, 7, "not one"),
    ],
)
def test_a_registry_that_cannot_serve_the_framing_is_refused(
    kind: Kind, schema_id: int | None, guid: str | None
) -> None:
    with pytest.raises(SchemaRefused, match=f'framing "{kind}" needs'):
        framing(kind, schema_id, guid)
