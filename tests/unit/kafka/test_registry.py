"""Schemas are registered over HTTP, and what the registry says of them becomes the framing of messages."""

import asyncio
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import structlog
from confluent_kafka.schema_registry import (
    Schema,
    SchemaRegistryClient,
    header_schema_id_serializer,
    prefix_schema_id_serializer,
)
from confluent_kafka.schema_registry.json_schema import JSONDeserializer, JSONSerializer
from confluent_kafka.serialization import MessageField, SerializationContext, SerializationError

from bridge.config import Config, KafkaConfig, SchemaRegistryConfig
from bridge.config import Framing as Kind
from bridge.errors import SchemaRefused
from bridge.kafka import registry as of_schemas
from bridge.kafka import subjects
from bridge.kafka.framing import PLAIN, Framing, framing
from bridge.kafka.registry import Registry, registered_topics
from bridge.kafka.subjects import Unavailable, register, try_registering
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
def test_a_schema_that_is_refused_is_named_with_the_way_out(registry: SchemaRegistry, attempt: Any) -> None:
    subject = "p.trades.v1-value"
    registry.schemas[subject] = "another one"
    registry.levels[subject] = "BACKWARD"
    registry.refused.add(subject)
    with pytest.raises(SchemaRefused, match=r"p\.trades\.v1-value") as error:
        attempt(config(registry), TOPICS)
    assert registry.url in str(error.value)
    if attempt is register:
        assert REFUSAL in str(error.value)
        assert "its compatibility is BACKWARD, that of the bridge's schemas has to be" in str(error.value)
    else:
        assert "compare that with `digifinex-bridge schema trades`" in str(error.value)


def test_a_schema_that_is_registered_needs_no_right_to_write(registry: SchemaRegistry) -> None:
    framings = register(config(registry, framing="confluent"), TOPICS)
    registry.may_set_levels = False
    registry.refused |= registry.schemas.keys()
    assert register(config(registry, framing="confluent"), TOPICS) == framings


def test_a_schema_that_was_deleted_is_registered_again(registry: SchemaRegistry) -> None:
    subject = "p.trades.v1-value"
    before = register(config(registry, framing="confluent"), TOPICS)
    registry.memory.delete_subject(subject)
    after = register(config(registry, framing="confluent"), TOPICS)
    assert {topic for topic in TOPICS if before[topic] != after[topic]} == {"p.trades.v1"}
    assert subject in registry.memory.get_subjects()


LOGIN_PAGE = (200, b"<html>Sign in</html>")
NOT_OF_A_REGISTRY = [
    LOGIN_PAGE,
    (200, b""),
    (204, b""),
    (200, b"null"),
    (200, b"7"),
    (200, b"{}"),
    (200, b'{"id": "7", "guid": 7}'),
    (200, b'{"id": true}'),
    (200, b"\xff"),
    (301, b""),
    (302, b"<html>elsewhere</html>"),
    (404, b"<html>nginx</html>"),
    (405, b""),
]


@pytest.mark.parametrize(
    ("attempt", "place", "answer"),
    [
        *((register, "subjects", answer) for answer in NOT_OF_A_REGISTRY),
        (register, "config", LOGIN_PAGE),
        (register, "config", (200, b'{"compatibilityLevel": 7}')),
        (try_registering, "subjects", LOGIN_PAGE),
        (try_registering, "subjects", (200, b'{"p.trades.v1-value": 1}')),
        (try_registering, "compatibility", LOGIN_PAGE),
        (try_registering, "compatibility", (200, b'{"is_compatible": "true"}')),
    ],
)
def test_an_answer_that_is_none_of_a_registry_says_that_the_address_is_wrong(
    registry: SchemaRegistry, attempt: Any, place: str, answer: tuple[int, bytes]
) -> None:
    """From a proxy, a page for people to log in at, or a registry with another API."""
    registry.schemas["p.trades.v1-value"] = "another one"
    registry.levels["p.trades.v1-value"] = "FORWARD"
    registry.instead[place] = answer
    with pytest.raises(Unavailable, match=r"schema_registry\.url has to be the address") as error:
        attempt(config(registry), TOPICS)
    assert registry.url in str(error.value)
    asks_for_all = attempt is try_registering and place == "subjects"
    assert asks_for_all is ("p.trades.v1-value" not in str(error.value))


@pytest.mark.parametrize(
    ("status", "answer", "words"),
    [
        (401, {"message": "No"}, "No (HTTP 401); schema_registry.username and password_file have to be set"),
        (403, {"message": "Forbidden"}, "Forbidden (HTTP 403); the user needs the right to read the subject"),
        (422, {"error_code": 42205, "message": "Read-only"}, "Read-only (HTTP 422); it is tried again until"),
        (500, {"error_code": 50001}, "an error without a reason (HTTP 500)"),
        (500, ["<", 7], "no answer of a schema registry: b'[\"<\", 7]' (HTTP 500)"),
        (500, {"message": ["a", "\n"]}, r"['a', '\n'] (HTTP 500)"),
        (500, {"message": "a\nb"}, r"a\nb (HTTP 500)"),
        (503, {"message": "x" * 100_000}, "x…"),
    ],
)
def test_an_error_of_a_registry_is_named_with_its_subject_and_what_to_do(
    registry: SchemaRegistry, status: int, answer: object, words: str
) -> None:
    registry.instead["subjects"] = (status, json.dumps(answer).encode())
    with pytest.raises(Unavailable) as error:
        register(config(registry), TOPICS)
    text = str(error.value)
    assert text.startswith(f"{registry.url}: p.trades.v1-value: ")
    assert words in text
    assert text.isprintable()
    assert len(text) < 1000


def test_a_login_that_is_refused_is_not_called_a_missing_one() -> None:
    with SchemaRegistry(login=("bridge", PASSWORD)) as registry:
        wrong = config(registry, username="bridge", password="wr0ng-password")
        with pytest.raises(Unavailable, match="have to be those of a user of the registry") as error:
            register(wrong, TOPICS)
        assert "wr0ng-password" not in str(error.value)


def test_a_registry_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects, "_TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unavailable, match=f"{url}: .*timed out"):
            register(SchemaRegistryConfig.model_validate({"url": url}), TOPICS)


def test_the_start_waits_for_a_registry_that_does_not_answer_for_a_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(of_schemas, "_PATIENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        schemas = Registry(SchemaRegistryConfig.model_validate({"url": url}), TOPICS, lambda _: None)
        asyncio.run(schemas.begin())
    assert schemas.trouble == f"no response from {url} in 0.05 s"


@pytest.mark.parametrize("kind", [Kind.CONFLUENT, Kind.HEADER])
def test_a_name_by_which_readers_get_another_schema_is_not_used(registry: SchemaRegistry, kind: Kind) -> None:
    schema = json.dumps({"schemaType": "JSON", "schema": '{"type": "string"}'}).encode()
    registry.instead["schemas"] = (200, schema)
    register(config(registry), TOPICS)  # without a framing it does not matter
    with pytest.raises(Unavailable, match=r"p\.trades\.v1-value: .* has another schema by that name"):
        register(config(registry, framing=kind), TOPICS)
    registry.instead["schemas"] = (200, b'{"schemaType": "JSON"}')
    with pytest.raises(Unavailable, match=r"p\.trades\.v1-value: its answer is none"):
        register(config(registry, framing=kind), TOPICS)
    spelled = json.dumps({"schema": json.dumps(json.loads(published("trades")), indent=9)}).encode()
    registry.instead["schemas"] = (200, spelled)
    register(config(registry, framing=kind), {"p.trades.v1": "trades"})


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

    with structlog.testing.capture_logs() as lines:
        asyncio.run(scenario())
    # Only of what had failed before.
    assert [one["event"] for one in lines].count("schema registry available again") == 1


def test_a_registry_that_was_set_up_anew_is_noticed(registry: SchemaRegistry) -> None:
    """Its consumers know no schema any more, or another one by that number."""

    async def scenario() -> None:
        framed: asyncio.Queue[Mapping[str, Framing]] = asyncio.Queue()
        schemas = Registry(config(registry, framing="confluent"), TOPICS, framed.put_nowait, look=0.01)
        await schemas.begin()
        before = await framed.get()
        running = asyncio.create_task(schemas.run())
        with structlog.testing.capture_logs() as lines:
            registry.broken = 503
            await soon(lambda: bool(lines), 60, "the failure")
            assert not schemas.trouble  # records go on with the names that they have
            registry.memory = SchemaRegistryClient.new_client({"url": "mock://tests"})
            registry.memory.register_schema("something-else", Schema('{"type": "string"}', "JSON"))
            registry.broken = None
            after = await asyncio.wait_for(framed.get(), 60)
        running.cancel()
        assert [one["event"] for one in lines] == ["schemas not looked up again", "schemas have other ids"]
        assert "HTTP 503" in lines[0]["error"]
        assert set(lines[1]["topics"]) == set(TOPICS)
        assert all(before[topic] != after[topic] for topic in TOPICS)
        assert sorted(registry.memory.get_subjects()) == [*sorted(registry.schemas), "something-else"]
        assert framed.empty()

    asyncio.run(scenario())


def test_a_schema_that_is_refused_at_first_is_tried_again_where_records_go_on(
    registry: SchemaRegistry,
) -> None:
    registry.broken = 503

    async def scenario() -> None:
        framed: asyncio.Queue[Mapping[str, Framing]] = asyncio.Queue()
        schemas = Registry(config(registry), TOPICS, framed.put_nowait, look=0.01)
        await schemas.begin()
        running = asyncio.create_task(schemas.run())
        registry.refused.add("p.trades.v1-value")
        registry.broken = None
        await soon(lambda: REFUSAL in schemas.trouble, 60, "the refusal")
        registry.refused.clear()
        await asyncio.wait_for(framed.get(), 60)
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
