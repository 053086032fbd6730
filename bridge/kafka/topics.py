"""The bridge's topics: their names, partitions and limits; created where they are missing, or verified."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    NoError,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    for_code,
)
from aiokafka.partitioner import murmur2

from bridge.config import KafkaConfig
from bridge.kafka.client import connection
from bridge.records import DEADLETTER

log = structlog.get_logger(__name__)

# A frame of the default max_frame_bytes in base64, with room for the rest of its dead letter.
DEADLETTER_MAX_BYTES = 16 * 1024 * 1024

_KAFKAS_DEFAULT_MAX_BYTES = 1048588
_BATCH_OVERHEAD = 128  # bytes of a batch and a record around its key and value, rounded up


class TopicError(Exception):
    """A topic is not as configured; the text says which, what differs and what to do."""


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
        return int((murmur2(key) & 0x7FFFFFFF) % self.partitions)

    @property
    def max_record_bytes(self) -> int:
        """The most bytes of key and value together that fit into a batch of one."""
        return self.max_message_bytes - _BATCH_OVERHEAD


def topic_name(config: KafkaConfig, channel: str) -> str:
    """Return the name of a channel's topic."""
    return f"{config.topic_prefix}.{channel}.v1"


async def prepare(config: KafkaConfig, channels: Iterable[str]) -> dict[str, Topic]:
    """Return the topics of these channels and of dead letters, which exist from then on.

    Raises:
        TopicError: a topic is missing and may not be created, can't be created, or has other partitions.
        KafkaError: Kafka does not answer, or refuses to.
    """
    names = {channel: topic_name(config, channel) for channel in [*channels, DEADLETTER]}
    admin = AIOKafkaAdminClient(**connection(config))
    try:
        await admin.start()
        partitions = await existing(admin, names.values())
        missing = {channel: name for channel, name in names.items() if name not in partitions}
        if missing:
            if not config.create_topics:
                raise TopicError(
                    f"topic {', '.join(missing.values())} does not exist and kafka.create_topics is false: "
                    f"create it with {config.partitions} partitions, or set kafka.create_topics = true"
                )
            await _create(admin, config, missing)
            partitions |= dict.fromkeys(missing.values(), config.partitions)
        _verify(partitions, config.partitions)
        limits = await max_message_bytes(admin, names.values())
        if DEADLETTER in missing:  # a topic that is new may not be known to every broker yet
            limits[names[DEADLETTER]] = DEADLETTER_MAX_BYTES
    finally:
        await admin.close()
    return {channel: Topic(name, partitions[name], limits[name]) for channel, name in names.items()}


async def existing(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, int]:
    """Return the partitions of those topics that exist.

    Raises:
        KafkaError: Kafka refuses to tell.
    """
    partitions = {}
    for topic in await admin.describe_topics(list(names)):
        error = for_code(topic["error_code"])
        if error is NoError:
            partitions[topic["topic"]] = len(topic["partitions"])
        elif error is not UnknownTopicOrPartitionError:
            raise error(topic["topic"])
    return partitions


async def max_message_bytes(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, int]:
    """Return `max.message.bytes` of each topic; Kafka's default where the broker does not tell."""
    limits = dict.fromkeys(names, _KAFKAS_DEFAULT_MAX_BYTES)
    resources = [
        ConfigResource(ConfigResourceType.TOPIC, name, configs={"max.message.bytes": None}) for name in limits
    ]
    try:
        responses = await admin.describe_configs(resources)
    except IncompatibleBrokerVersion:
        log.warning("the broker tells no limits", assumed_max_message_bytes=_KAFKAS_DEFAULT_MAX_BYTES)
        return limits
    for response in responses:
        for error_code, _, _, name, entries, *_ in response.resources:
            if for_code(error_code) is not NoError:
                log.warning("max.message.bytes unknown", topic=name, error=for_code(error_code).__name__)
            for entry in entries:
                limits[name] = int(entry[1])
    return limits


async def _create(admin: AIOKafkaAdminClient, config: KafkaConfig, names: Mapping[str, str]) -> None:
    topics = [_new_topic(config, channel, name) for channel, name in names.items()]
    response: Any = await admin.create_topics(topics)
    for name, code, message in response.topic_errors:
        error = for_code(code)
        if error is NoError:
            log.info("topic created", topic=name, partitions=config.partitions)
        elif error is not TopicAlreadyExistsError:
            raise TopicError(
                f"topic {name} can't be created: {message or error.__name__} "
                f"(kafka.partitions = {config.partitions}, "
                f"kafka.replication_factor = {config.replication_factor})"
            )


def _new_topic(config: KafkaConfig, channel: str, name: str) -> NewTopic:
    settings = {"cleanup.policy": "delete", "compression.type": "producer"}
    if channel == DEADLETTER:
        settings["max.message.bytes"] = str(DEADLETTER_MAX_BYTES)
    topic = NewTopic(name, config.partitions, 1, topic_configs=settings)
    # -1 is the broker's own default to Kafka, but "not given" to the constructor, which refuses it.
    topic.replication_factor = config.replication_factor
    return topic


def _verify(partitions: Mapping[str, int], expected: int) -> None:
    for name, number in partitions.items():
        if number != expected:
            raise TopicError(
                f"topic {name} has {number} partitions, kafka.partitions is {expected}: "
                f"set kafka.partitions = {number}, or use another kafka.topic_prefix"
            )
