"""What Kafka lets the bridge's user do, asked without doing any of it."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from functools import partial
from typing import ClassVar, NamedTuple, TypeVar

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IncompatibleBrokerVersion,
    KafkaError,
    NoError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.transaction import EndTxnRequest
from aiokafka.protocol.types import Array, Boolean, Int16, Int32, Schema, String

from bridge.config import Delivery, KafkaConfig
from bridge.kafka import quirks
from bridge.kafka.client import connection, transactional_id
from bridge.kafka.topics import new_topic, topic_name, uncreatable
from bridge.records import DEADLETTER, EVENTS, STATE

# Bits of an answer's authorized operations.
_READ, _WRITE, _DESCRIBE_CONFIGS = (1 << code for code in (3, 4, 10))
_NOT_TOLD = -(1 << 31)

T = TypeVar("T")

_NOBODY = (1 << 63) - 1  # a producer id that no producer has
_TRANSACTION = 1  # the type of coordinator
_LOOKS = 50
_LOOK = 0.1  # seconds between two looks for a coordinator


class Denied(NamedTuple):
    """An operation that an ACL has to allow; without an `optional` one the bridge runs nevertheless."""

    operation: str
    resource: str
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.operation} on {self.resource}"


class Access(NamedTuple):
    """What ACLs do not allow, and what stands in the way of creating topics otherwise, by their names."""

    denied: list[Denied]
    uncreatable: dict[str, str]


async def access(config: KafkaConfig, channels: Collection[str]) -> Access:
    """Return what Kafka refuses of what the bridge needs for these channels. Nothing is written.

    Raises:
        KafkaError: Kafka does not answer.
    """
    names = {channel: topic_name(config, channel) for channel in [*channels, DEADLETTER, EVENTS, STATE]}
    admin = AIOKafkaAdminClient(**connection(config))
    try:
        await admin.start()
        found = await _topics(admin, config, names)
        found.denied.extend(await _group(admin, config.group_id))
        if config.delivery is Delivery.EXACTLY_ONCE:
            for shard in range(config.shards):
                found.denied.extend(await _transactional_id(admin, transactional_id(config, shard)))
    finally:
        await quirks.wait_closed(admin.close())
    return found


async def _topics(admin: AIOKafkaAdminClient, config: KafkaConfig, names: Mapping[str, str]) -> Access:
    try:
        answer = await quirks.request(admin, _MetadataRequest(list(names.values())))
    except (IncompatibleBrokerVersion, NotImplementedError):
        return Access([], {})  # a broker before 2.3, which does not tell
    told = {name: (for_code(error), allowed) for error, name, _, _, allowed in answer.topics}
    found: list[Denied] = []
    missing: list[NewTopic] = []
    for channel, name in names.items():
        error, allowed = told[name]
        if error in (UnknownTopicOrPartitionError, TopicAuthorizationFailedError):
            missing.append(new_topic(config, channel, name))
        if error is TopicAuthorizationFailedError:
            # Not even Describe, which all others bring along; it may be missing as well.
            found += _topic(name, _DESCRIBE_CONFIGS, read=channel == STATE)
        elif error is not UnknownTopicOrPartitionError and allowed != _NOT_TOLD:
            found += _topic(name, allowed, read=channel == STATE)
    if not missing or not config.create_topics:
        return Access(found, {})
    creating = await _create(admin, missing)
    return Access(found + creating.denied, creating.uncreatable)


def _topic(name: str, allowed: int, *, read: bool) -> Iterator[Denied]:
    if not allowed & _WRITE:
        yield Denied("Write", f"topic {name}")
    if read and not allowed & _READ:
        yield Denied("Read", f"topic {name}")
    if not allowed & _DESCRIBE_CONFIGS:
        yield Denied("DescribeConfigs", f"topic {name}", optional=True)


async def _create(admin: AIOKafkaAdminClient, missing: Collection[NewTopic]) -> Access:
    """Ask for these topics as `run` would, without having them created."""
    topics = {topic.name: topic for topic in missing}
    try:
        errors = await quirks.create_topics(admin, missing, validate_only=True)
    except quirks.NoController:
        return Access([], {})  # only a mock of a broker has none
    found = Access([], {})
    for name, (code, message) in errors.items():
        error = for_code(code)
        if error in (TopicAuthorizationFailedError, ClusterAuthorizationFailedError):
            found.denied.append(Denied("Create", f"topic {name}"))
        elif error not in (NoError, TopicAlreadyExistsError):
            found.uncreatable[name] = uncreatable(topics[name], message or error.__name__)
    return found


async def _group(admin: AIOKafkaAdminClient, group: str) -> list[Denied]:
    try:
        (answer,) = await _patiently(
            partial(admin.describe_consumer_groups, [group], include_authorized_operations=True)
        )
    except GroupAuthorizationFailedError:
        return [Denied("Read", f"group {group}")]
    except (IncompatibleBrokerVersion, NotImplementedError):
        return []
    ((error, *_, allowed),) = answer.groups
    refused = for_code(error) is GroupAuthorizationFailedError
    if refused or (isinstance(allowed, int) and allowed != _NOT_TOLD and not allowed & _READ):
        return [Denied("Read", f"group {group}")]
    return []


async def _transactional_id(admin: AIOKafkaAdminClient, name: str) -> list[Denied]:
    """Ask for the end of a transaction in the name of a producer that does not exist."""
    resource = f"transactional id {name}"
    try:
        node = await _patiently(partial(admin.find_coordinator, name, _TRANSACTION))
    except TransactionalIdAuthorizationFailed:
        return [Denied("Write", resource)]
    answer = await quirks.request(admin, EndTxnRequest(name, _NOBODY, 0, False), node)
    if for_code(answer.error_code) is TransactionalIdAuthorizationFailed:
        return [Denied("Write", resource)]
    return []


async def _patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again while the coordinator is being found: the first one to ask has its topic created."""
    for _ in range(_LOOKS):
        try:
            return await ask()
        except KafkaError as error:
            if not error.retriable:
                raise
        await asyncio.sleep(_LOOK)
    return await ask()


class _MetadataResponse_v8(Response):  # type: ignore[misc] # noqa: N801 - as aiokafka names them
    API_KEY = 3
    API_VERSION = 8
    _PARTITIONS: ClassVar = Array(
        ("error_code", Int16),
        ("partition", Int32),
        ("leader", Int32),
        ("leader_epoch", Int32),
        ("replicas", Array(Int32)),
        ("isr", Array(Int32)),
        ("offline_replicas", Array(Int32)),
    )
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            Array(("node_id", Int32), ("host", String("utf-8")), ("port", Int32), ("rack", String("utf-8"))),
        ),
        ("cluster_id", String("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            Array(
                ("error_code", Int16),
                ("topic", String("utf-8")),
                ("is_internal", Boolean),
                ("partitions", _PARTITIONS),
                ("authorized_operations", Int32),
            ),
        ),
        ("cluster_authorized_operations", Int32),
    )


class _MetadataRequest_v8(RequestStruct):  # type: ignore[misc] # noqa: N801 - as aiokafka names them
    API_KEY = 3
    API_VERSION = 8
    RESPONSE_TYPE = _MetadataResponse_v8
    SCHEMA = Schema(
        ("topics", Array(String("utf-8"))),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
    )


class _MetadataRequest(Request[_MetadataRequest_v8]):  # type: ignore[misc]
    """Metadata with what one may do to each topic; aiokafka's own requests are older than that."""

    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_MetadataRequest_v8]) -> _MetadataRequest_v8:
        """Return the request as aiokafka sends it: nothing is created, and each topic's operations told."""
        return request_struct_class(self._topics, False, False, True)
