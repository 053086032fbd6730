"""The bridge's topics: their names, partitions and limits; created if missing, verified otherwise."""

import asyncio
import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    KafkaError,
    NoError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest

from bridge.channels import PRIVATE
from bridge.config import KafkaConfig
from bridge.errors import TopicError
from bridge.kafka import quirks
from bridge.kafka.client import AclMissing, connection
from bridge.partitioner import partition_of
from bridge.records import DEADLETTER, EVENTS, PRIVATE_DEADLETTER, PRIVATE_EVENTS, STATE, schema_of

log = structlog.get_logger(__name__)

DEADLETTER_MAX_BYTES = 16 * 1024 * 1024
"""`max.message.bytes` of dead letters: a frame of the default `max_frame_bytes` in base64, and more."""

ATTEMPTS = 50
"""How often Kafka is asked for something that was just created, until every broker knows it."""

ATTEMPT_INTERVAL = 0.1
"""Seconds between two of these attempts."""

CLEANUP = "cleanup.policy"

# The log cleaner leaves the newest segment of a topic alone, and whoever takes a shard over reads all of
# bridge-state, so its segments are small.
_STATE_SETTINGS = {
    CLEANUP: "compact",
    "compression.type": "producer",
    "segment.bytes": str(8 * 1024 * 1024),
    "min.cleanable.dirty.ratio": "0.1",
}

_MAX_BYTES = "max.message.bytes"
_KAFKAS_DEFAULT_MAX_BYTES = 1048588
_BATCH_OVERHEAD = 128  # bytes of a batch and a record around its key and value, rounded up


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of the bridge; `max_message_bytes` is the largest batch that the broker accepts."""

    name: str
    partitions: int
    max_message_bytes: int

    def partition(self, key: bytes | None) -> int:
        """Return the partition of a key as the Java client computes it; a random one without a key."""
        if key is None:
            return random.randrange(self.partitions)  # noqa: S311
        return partition_of(key, self.partitions)

    @property
    def max_record_bytes(self) -> int:
        """The largest record, in bytes of its key and value, that fits into a batch of its own."""
        return self.max_message_bytes - _BATCH_OVERHEAD


def topic_name(config: KafkaConfig, channel: str) -> str:
    """Return the name of the topic of a channel, of the dead letters, of the events or of the state."""
    if channel == STATE:
        return f"{config.topic_prefix}.{STATE}"
    prefix = config.private_topic_prefix if channel in PRIVATE else config.topic_prefix
    return f"{prefix}.{schema_of(channel)}.v1"


def topic_names(config: KafkaConfig, channels: Iterable[str]) -> dict[str, str]:
    """Return the names of all topics of the bridge: those of these channels, dead letters, events, state.

    With a private channel there are dead letters and events below the private prefix as well.
    """
    wanted = [*channels, DEADLETTER, EVENTS]
    if not PRIVATE.isdisjoint(wanted):
        wanted += [PRIVATE_DEADLETTER, PRIVATE_EVENTS]
    return {channel: topic_name(config, channel) for channel in [*wanted, STATE]}


def partitions(config: KafkaConfig, channel: str) -> int:
    """Return how many partitions a channel's topic needs: the state one for each shard."""
    return config.shards if channel == STATE else config.partitions


async def prepare(config: KafkaConfig, channels: Iterable[str]) -> dict[str, Topic]:
    """Return the topics of these channels, dead letters, events and state; create those that are missing.

    Raises:
        TopicError: a topic is missing and may not be created, cannot be created, or has the wrong number of
            partitions.
        KafkaError: Kafka does not answer, or an ACL is missing.
    """
    names = topic_names(config, channels)
    wanted = {name: partitions(config, channel) for channel, name in names.items()}
    admin = AIOKafkaAdminClient(**connection(config))
    try:
        await admin.start()
        found = await existing(admin, names.values())
        missing = {channel: name for channel, name in names.items() if name not in found}
        if missing:
            if not config.create_topics:
                raise TopicError(
                    " ".join(
                        f"topic {name} does not exist and kafka.create_topics is false: create it with "
                        f"{wanted[name]} partitions, or set kafka.create_topics = true."
                        for name in missing.values()
                    )
                )
            await _create(admin, config, missing)
            found = await _all_of(admin, names.values())
        for channel, name in names.items():
            if found[name] != wanted[name]:
                raise TopicError(mismatch(channel, name, found[name], wanted[name]))
        limits = await max_message_bytes(admin, names.values())
        await _warn_of_retention(admin, names[STATE])
    finally:
        await quirks.wait_closed(admin.close())
    return {channel: Topic(name, found[name], limits[name]) for channel, name in names.items()}


def mismatch(channel: str, name: str, found: int, wanted: int) -> str:
    """Return an explanation, with the remedy, of a number of partitions that is not the configured one."""
    if channel != STATE:
        return (
            f"topic {name} has {found} partitions, kafka.partitions is {wanted}: "
            f"set kafka.partitions = {found}, or use another "
            f"kafka.{'private_topic_prefix' if channel in PRIVATE else 'topic_prefix'}"
        )
    if found > wanted:
        return (
            f"topic {name} has state of {found} shards, kafka.shards is {wanted}: "
            f"set kafka.shards = {found}: the number of shards cannot be reduced"
        )
    return (
        f"topic {name} has state of {found} shards, kafka.shards is {wanted}: set kafka.shards = {found}, or "
        f"stop all replicas and give the topic {wanted} partitions "
        f"(kafka-topics.sh --alter --topic {name} --partitions {wanted}); the next start moves the state"
    )


def deleted_by_retention(name: str, policy: str) -> str | None:
    """Return the remedy if retention deletes from the state's topic; None if that is only compacted."""
    if "delete" not in policy.split(","):
        return None
    return (
        f"topic {name} has {CLEANUP}={policy}: retention deletes the state of quiet markets, and after a "
        f"restart their trades may be duplicated, or lost without a reported gap: set {CLEANUP}=compact "
        f"(kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config {CLEANUP}=compact)"
    )


async def existing(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, int]:
    """Return the number of partitions of each of these topics that exists.

    Raises:
        KafkaError: Kafka does not answer, or denies access to one of them.
    """
    found = {}
    for topic in await described(admin, names):
        error = for_code(topic["error_code"])
        if error is NoError:
            found[topic["topic"]] = len(topic["partitions"])
        elif error is not UnknownTopicOrPartitionError:
            raise error(topic["topic"])
    return found


async def described(admin: AIOKafkaAdminClient, names: Iterable[str]) -> list[dict[str, Any]]:
    """Return Kafka's metadata of topics: `topic`, `error_code` and `partitions` of each.

    Unlike the admin client's `describe_topics`, this never lets the broker create them.
    """
    response = await quirks.request(admin, MetadataRequest(list(names), allow_auto_topic_creation=False))
    topics: list[dict[str, Any]] = response.to_object()["topics"]
    return topics


async def _all_of(admin: AIOKafkaAdminClient, names: Collection[str]) -> dict[str, int]:
    """Return the number of partitions of topics that were just created, here or by another replica.

    Raises:
        KafkaError: some broker does not know all of them after some seconds.
    """
    for _ in range(ATTEMPTS):
        found = await existing(admin, names)
        if len(found) == len(names):
            return found
        await asyncio.sleep(ATTEMPT_INTERVAL)
    raise UnknownTopicOrPartitionError(", ".join(set(names) - found.keys()))


async def max_message_bytes(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, int]:
    """Return `max.message.bytes` of each topic; Kafka's default where the broker does not report it."""
    limits = dict.fromkeys(names, _KAFKAS_DEFAULT_MAX_BYTES)
    assumed = {"assumed_max_message_bytes": _KAFKAS_DEFAULT_MAX_BYTES}
    unknown = list(limits)
    errors: dict[str, type[KafkaError]] = {}
    for _ in range(ATTEMPTS):
        try:
            reported = await settings(admin, unknown, _MAX_BYTES)
        except IncompatibleBrokerVersion:
            log.warning("broker does not report topic limits, assuming the default", **assumed)
            return limits
        limits |= {name: int(one[_MAX_BYTES]) for name, one in reported.items() if isinstance(one, dict)}
        errors |= {name: one for name, one in reported.items() if not isinstance(one, dict)}
        # A topic that is new may not be known to every broker yet.
        unknown = [name for name, one in reported.items() if one is UnknownTopicOrPartitionError]
        if not unknown:
            break
        await asyncio.sleep(ATTEMPT_INTERVAL)
    for name, error in errors.items():
        if error is TopicAuthorizationFailedError:
            log.warning("ACL missing", operation="DescribeConfigs", resource=f"topic {name}")
        if name in unknown or error is not UnknownTopicOrPartitionError:
            log.warning(
                "max.message.bytes unknown, assuming the default", topic=name, error=error.__name__, **assumed
            )
    return limits


async def settings(
    admin: AIOKafkaAdminClient, names: Iterable[str], *keys: str
) -> dict[str, dict[str, str] | type[KafkaError]]:
    """Return these settings of each topic, or the error with which Kafka withholds them.

    Raises:
        IncompatibleBrokerVersion: the broker is too old to report settings.
    """
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(keys)) for name in names]
    return {
        name: {key: value for key, value, *_ in entries} if entries else for_code(error_code)
        for response in await admin.describe_configs(resources)
        for error_code, _, _, name, entries, *_ in response.resources
    }


async def _warn_of_retention(admin: AIOKafkaAdminClient, name: str) -> None:
    """Only warn: the state matters at the next start, and refusing to run now would lose more data."""
    try:
        reported = (await settings(admin, [name], CLEANUP))[name]
    except IncompatibleBrokerVersion:
        return
    if isinstance(reported, dict) and (problem := deleted_by_retention(name, reported.get(CLEANUP, ""))):
        log.warning("retention can delete bridge-state", problem=problem)


async def _create(admin: AIOKafkaAdminClient, config: KafkaConfig, names: Mapping[str, str]) -> None:
    topics = {name: new_topic(config, channel, name) for channel, name in names.items()}
    for name, (code, message) in (await quirks.create_topics(admin, topics.values())).items():
        topic, error = topics[name], for_code(code)
        if error is NoError:
            log.info("topic created", topic=name, partitions=topic.num_partitions)
        elif error in (TopicAuthorizationFailedError, ClusterAuthorizationFailedError):
            raise AclMissing(f"Create on topic {name}")
        elif error.retriable:
            raise error(f"topic {name} cannot be created yet: {message}")
        elif error is not TopicAlreadyExistsError:
            raise TopicError(uncreatable(topic, message or error.__name__))


def new_topic(config: KafkaConfig, channel: str, name: str) -> NewTopic:
    """Return the topic of a channel as `run` creates it."""
    settings = {CLEANUP: "delete", "compression.type": "producer"}
    if channel == STATE:
        settings = _STATE_SETTINGS
    elif schema_of(channel) == DEADLETTER:
        settings[_MAX_BYTES] = str(DEADLETTER_MAX_BYTES)
    return quirks.new_topic(name, partitions(config, channel), config.replication_factor, settings)


def uncreatable(topic: NewTopic, why: str) -> str:
    """Return an explanation, with the remedy, of a topic that Kafka refuses to create."""
    return (
        f"topic {topic.name} cannot be created: {why} (partitions = {topic.num_partitions}, "
        f"kafka.replication_factor = {topic.replication_factor}): change these, or create it yourself"
    )
