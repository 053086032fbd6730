"""Which ACLs the bridge's user lacks, asked without using any of them.

Kafka reports what a client may do with a topic only in versions of its protocol that aiokafka does not know,
so one request and its response are declared here, at the end.
"""

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

from bridge.channels import PRIVATE
from bridge.config import Delivery, KafkaConfig
from bridge.kafka import quirks
from bridge.kafka.client import admin, transactional_id
from bridge.kafka.topics import ATTEMPT_INTERVAL, ATTEMPTS, new_topic, topic_name, topic_names, uncreatable
from bridge.records import PRIVATE_STATE, STATE

T = TypeVar("T")

# Bits of the authorized operations in a response, by the codes of Kafka's AclOperation.
_READ, _WRITE, _DESCRIBE_CONFIGS = (1 << code for code in (3, 4, 10))
_NOT_REPORTED = -(1 << 31)

_TRADES = "trades"  # the channel whose topic is read where bridge-state was lost

_NO_PRODUCER = (1 << 63) - 1  # a producer id that no producer has
_TRANSACTION = 1  # the type of coordinator


class Denied(NamedTuple):
    """An operation that no ACL allows; the bridge runs without those that are `optional`."""

    operation: str
    resource: str
    optional: bool = False

    def __str__(self) -> str:
        return f"{self.operation} on {self.resource}"


class Access(NamedTuple):
    """The operations that no ACL allows; other reasons why topics cannot be created, by their names."""

    denied: list[Denied]
    uncreatable: dict[str, str]


async def access(config: KafkaConfig, channels: Collection[str]) -> Access:
    """Return the operations that the bridge needs for these channels and Kafka would deny; write nothing.

    Raises:
        KafkaError: Kafka does not answer.
    """
    names = topic_names(config, channels)
    if not PRIVATE.isdisjoint(channels):
        names[PRIVATE_STATE] = topic_name(config, PRIVATE_STATE)
    async with admin(config) as client:
        found = await _topics(client, config, names)
        found.denied.extend(await _group(client, config.group_id))
        if config.delivery is Delivery.EXACTLY_ONCE:
            for shard in range(config.shards):
                found.denied.extend(await _transactional_id(client, transactional_id(config, shard)))
    return found


async def _topics(admin: AIOKafkaAdminClient, config: KafkaConfig, names: Mapping[str, str]) -> Access:
    try:
        response = await quirks.request(admin, _MetadataRequest(list(names.values())))
    except (IncompatibleBrokerVersion, NotImplementedError):
        return Access([], {})  # a broker before 2.3, which does not report it
    reported = {name: (for_code(error), allowed) for error, name, _, _, allowed in response.topics}
    found: list[Denied] = []
    missing: list[NewTopic] = []
    for channel, name in names.items():
        error, allowed = reported[name]
        if error in (UnknownTopicOrPartitionError, TopicAuthorizationFailedError):
            missing.append(new_topic(config, channel, name))
        if error is TopicAuthorizationFailedError:
            # Not even Describe is allowed, which Read and Write imply; and the topic may be missing.
            found += _topic(channel, name, _DESCRIBE_CONFIGS)
        elif error is not UnknownTopicOrPartitionError and allowed != _NOT_REPORTED:
            found += _topic(channel, name, allowed)
    if not missing or not config.create_topics:
        return Access(found, {})
    creating = await _create(admin, missing)
    return Access(found + creating.denied, creating.uncreatable)


def _topic(channel: str, name: str, allowed: int) -> Iterator[Denied]:
    if not allowed & _WRITE:
        yield Denied("Write", f"topic {name}")
    if channel in (STATE, PRIVATE_STATE, _TRADES) and not allowed & _READ:
        yield Denied("Read", f"topic {name}", optional=channel != STATE)
    if not allowed & _DESCRIBE_CONFIGS:
        yield Denied("DescribeConfigs", f"topic {name}", optional=True)


async def _create(admin: AIOKafkaAdminClient, missing: Collection[NewTopic]) -> Access:
    """Ask Kafka to validate, but not to create, the topics that `run` would create."""
    topics = {topic.name: topic for topic in missing}
    try:
        errors = await quirks.create_topics(admin, missing, validate_only=True)
    except quirks.NoController:
        return Access([], {})  # run finds out
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
        (response,) = await _from_coordinator(
            partial(admin.describe_consumer_groups, [group], include_authorized_operations=True)
        )
    except GroupAuthorizationFailedError:
        return [Denied("Read", f"group {group}")]
    except (IncompatibleBrokerVersion, NotImplementedError):
        return []
    ((error, *_, allowed),) = response.groups
    denied = for_code(error) is GroupAuthorizationFailedError
    if denied or (isinstance(allowed, int) and allowed != _NOT_REPORTED and not allowed & _READ):
        return [Denied("Read", f"group {group}")]
    return []


async def _transactional_id(admin: AIOKafkaAdminClient, name: str) -> list[Denied]:
    """Ask Kafka to end a transaction of a producer that does not exist: the ACL is checked first."""
    resource = f"transactional id {name}"
    try:
        node = await _from_coordinator(partial(admin.find_coordinator, name, _TRANSACTION))
    except TransactionalIdAuthorizationFailed:
        return [Denied("Write", resource)]
    response = await quirks.request(admin, EndTxnRequest(name, _NO_PRODUCER, 0, False), node)
    if for_code(response.error_code) is TransactionalIdAuthorizationFailed:
        return [Denied("Write", resource)]
    return []


async def _from_coordinator(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask again while there is no coordinator: the first request of a cluster has its topic created."""
    for _ in range(ATTEMPTS):
        try:
            return await ask()
        except KafkaError as error:
            if not error.retriable:
                raise
        await asyncio.sleep(ATTEMPT_INTERVAL)
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
    """Metadata with the operations that the client may perform on each topic (version 8, Kafka 2.3)."""

    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(self, request_struct_class: type[_MetadataRequest_v8]) -> _MetadataRequest_v8:
        """Return the request in the form that aiokafka sends: create nothing, report topics' operations."""
        return request_struct_class(self._topics, False, False, True)
