"""The bridge's topics: their names, partitions and limits; created where they are missing, or verified."""

import asyncio
import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaError,
    NoError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.protocol.metadata import MetadataRequest

from bridge.config import KafkaConfig
from bridge.errors import TopicError
from bridge.kafka import quirks
from bridge.kafka.client import connection
from bridge.partitioner import partition_of
from bridge.records import DEADLETTER, EVENTS, STATE

log = structlog.get_logger(__name__)

# A frame of the default max_frame_bytes in base64, with room for the rest of its dead letter.
DEADLETTER_MAX_BYTES = 16 * 1024 * 1024

# Of bridge-state the log cleaner leaves the newest segment alone, and whoever takes a shard over reads it.
_STATE_SETTINGS = {
    "cleanup.policy": "compact",
    "compression.type": "producer",
    "segment.bytes": str(8 * 1024 * 1024),
    "min.cleanable.dirty.ratio": "0.1",
}

CLEANUP = "cleanup.policy"
_MAX_BYTES = "max.message.bytes"
_KAFKAS_DEFAULT_MAX_BYTES = 1048588
_LOOKS = 50
_LOOK = 0.1  # seconds between two looks for topics that were just created
_BATCH_OVERHEAD = 128  # bytes of a batch and a record around its key and value, rounded up


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of the bridge; `max_message_bytes` is the most that the broker takes in one batch."""

    name: str
    partitions: int
    max_message_bytes: int

    def partition(self, key: bytes | None) -> int:
        """Return the partition of a key as the Java client computes it; any one for none."""
        if key is None:
            return random.randrange(self.partitions)  # noqa: S311
        return partition_of(key, self.partitions)

    @property
    def max_record_bytes(self) -> int:
        """The most bytes of key and value together that fit into a batch of one."""
        return self.max_message_bytes - _BATCH_OVERHEAD


def topic_name(config: KafkaConfig, channel: str) -> str:
    """Return the name of a channel's topic, also of the dead letters', the events' and the state's."""
    return f"{config.topic_prefix}.{channel}" + ("" if channel == STATE else ".v1")


def partitions(config: KafkaConfig, channel: str) -> int:
    """Return how many partitions a channel's topic is to have: one a shard for the state."""
    return config.shards if channel == STATE else config.partitions


async def prepare(config: KafkaConfig, channels: Iterable[str]) -> dict[str, Topic]:
    """Return the topics of these channels, of dead letters, events and state, which exist from then on.

    Raises:
        TopicError: a topic is missing and may not be created, can't be created, or has other partitions.
        KafkaError: Kafka does not answer, or refuses to.
    """
    names = {channel: topic_name(config, channel) for channel in [*channels, DEADLETTER, EVENTS, STATE]}
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
    """Say what to do about a topic with other partitions than configured."""
    if channel != STATE:
        return (
            f"topic {name} has {found} partitions, kafka.partitions is {wanted}: "
            f"set kafka.partitions = {found}, or use another kafka.topic_prefix"
        )
    if found > wanted:
        return (
            f"topic {name} has state of {found} shards, kafka.shards is {wanted}: "
            f"set kafka.shards = {found}, for shards can't become fewer"
        )
    return (
        f"topic {name} has state of {found} shards, kafka.shards is {wanted}: set kafka.shards = {found}, or "
        f"stop all replicas and give the topic {wanted} partitions "
        f"(kafka-topics.sh --alter --topic {name} --partitions {wanted}); the state then moves by itself"
    )


def deleted_by_retention(name: str, policy: str) -> str | None:
    """Say what to do about a topic of state whose `cleanup.policy` is not compact alone; None if it is."""
    if "delete" not in policy.split(","):
        return None
    return (
        f"topic {name} has {CLEANUP}={policy}: retention deletes what is known of quiet markets, and after a "
        f"restart their trades may come twice, or be missed untold: give it {CLEANUP}=compact "
        f"(kafka-configs.sh --alter --entity-type topics --entity-name {name} --add-config {CLEANUP}=compact)"
    )


async def existing(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, int]:
    """Return the partitions of those topics that exist.

    Raises:
        KafkaError: Kafka refuses to tell.
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
    """Return what Kafka says of topics.

    The admin client's own question would have a broker create them, with its defaults: brokers do so unless
    they are told not to.
    """
    response = await quirks.request(admin, MetadataRequest(list(names), allow_auto_topic_creation=False))
    topics: list[dict[str, Any]] = response.to_object()["topics"]
    return topics


async def _all_of(admin: AIOKafkaAdminClient, names: Collection[str]) -> dict[str, int]:
    """Return the partitions of topics that were just created, by us or by another replica.

    Raises:
        KafkaError: Kafka does not know all of them after some seconds.
    """
    for _ in range(_LOOKS):
        found = await existing(admin, names)
        if len(found) == len(names):
            return found
        await asyncio.sleep(_LOOK)
    raise UnknownTopicOrPartitionError(", ".join(set(names) - found.keys()))


async def max_message_bytes(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, int]:
    """Return `max.message.bytes` of each topic; Kafka's default where the broker does not tell."""
    limits = dict.fromkeys(names, _KAFKAS_DEFAULT_MAX_BYTES)
    unknown = list(limits)
    errors: dict[str, str] = {}
    for _ in range(_LOOKS):
        try:
            told = await settings(admin, unknown, _MAX_BYTES)
        except IncompatibleBrokerVersion:
            log.warning("the broker tells no limits", assumed_max_message_bytes=_KAFKAS_DEFAULT_MAX_BYTES)
            return limits
        limits |= {name: int(one[_MAX_BYTES]) for name, one in told.items() if isinstance(one, dict)}
        errors |= {name: one.__name__ for name, one in told.items() if not isinstance(one, dict)}
        # A topic that is new may not be known to every broker yet.
        unknown = [name for name, one in told.items() if one is UnknownTopicOrPartitionError]
        if not unknown:
            break
        await asyncio.sleep(_LOOK)
    for name, error in errors.items():
        if name in unknown or error != UnknownTopicOrPartitionError.__name__:
            log.warning("max.message.bytes unknown", topic=name, error=error)
    return limits


async def settings(
    admin: AIOKafkaAdminClient, names: Iterable[str], *keys: str
) -> dict[str, dict[str, str] | type[KafkaError]]:
    """Return these settings of each topic, or why Kafka does not tell them.

    Raises:
        IncompatibleBrokerVersion: it tells none of any topic.
    """
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, dict.fromkeys(keys)) for name in names]
    return {
        name: {key: value for key, value, *_ in entries} if entries else for_code(error_code)
        for response in await admin.describe_configs(resources)
        for error_code, _, _, name, entries, *_ in response.resources
    }


async def _warn_of_retention(admin: AIOKafkaAdminClient, name: str) -> None:
    """Warn only: while the bridge runs it knows, and to stop it would lose more than the next start may."""
    try:
        told = (await settings(admin, [name], CLEANUP))[name]
    except IncompatibleBrokerVersion:
        return
    if isinstance(told, dict) and (problem := deleted_by_retention(name, told.get(CLEANUP, ""))):
        log.warning("the state is not safe", problem=problem)


async def _create(admin: AIOKafkaAdminClient, config: KafkaConfig, names: Mapping[str, str]) -> None:
    topics = {name: new_topic(config, channel, name) for channel, name in names.items()}
    for name, (code, message) in (await quirks.create_topics(admin, topics.values())).items():
        topic, error = topics[name], for_code(code)
        if error is NoError:
            log.info("topic created", topic=name, partitions=topic.num_partitions)
        elif error.retriable:
            raise error(f"topic {name} can't be created yet: {message}")
        elif error is not TopicAlreadyExistsError:
            raise TopicError(uncreatable(topic, message or error.__name__))


def new_topic(config: KafkaConfig, channel: str, name: str) -> NewTopic:
    """Return the topic of a channel as it is to be created."""
    settings = {CLEANUP: "delete", "compression.type": "producer"}
    if channel == STATE:
        settings = _STATE_SETTINGS
    elif channel == DEADLETTER:
        settings["max.message.bytes"] = str(DEADLETTER_MAX_BYTES)
    return quirks.new_topic(name, partitions(config, channel), config.replication_factor, settings)


def uncreatable(topic: NewTopic, why: str) -> str:
    """Say what to do about a topic that Kafka refuses to create."""
    return (
        f"topic {topic.name} can't be created: {why} (partitions = {topic.num_partitions}, "
        f"kafka.replication_factor = {topic.replication_factor}): change these, or create it yourself"
    )
