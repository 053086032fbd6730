"""The bridge's topics: their names, partitions, limits and settings, and how they are created."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaError,
    NoError,
    TopicAlreadyExistsError,
    TopicAuthorizationFailedError,
    for_code,
)

from bridge.channels import PRIVATE
from bridge.config import KafkaConfig
from bridge.kafka import quirks
from bridge.kafka.client import AclMissing, in_words
from bridge.kafka.framing import PLAIN, Framing
from bridge.partitioner import partition_of
from bridge.records import (
    BOOK,
    DEADLETTER,
    EVENTS,
    PRIVATE_DEADLETTER,
    PRIVATE_EVENTS,
    PRIVATE_STATE,
    STATE,
    schema_of,
)

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

MAX_BYTES = "max.message.bytes"
_BATCH_OVERHEAD = 128  # bytes of a batch and a record around its key and value, rounded up


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic of the bridge, as it was seen last.

    `max_message_bytes` is the largest batch that the broker accepts. `id` is another one if the topic is
    deleted and created again; "" if the broker reports none. `leaderless` are the partitions that cannot be
    written to at the moment. `missing` is why the topic is not there any more, "" if it is. `framing` is what
    its messages have besides their records; None: its schema is not registered yet, so they wait.
    """

    name: str
    partitions: int
    max_message_bytes: int
    id: str = ""
    leaderless: frozenset[int] = frozenset()
    missing: str = ""
    framing: Framing | None = PLAIN

    def partition(self, key: bytes | None) -> int:
        """Return the partition of a key as the Java client computes it; a random one without a key."""
        if key is None:
            return random.randrange(self.partitions)  # noqa: S311
        return partition_of(key, self.partitions)

    def existing(self, number: int) -> int:
        """Return the partition that the records of a partition go to: itself, unless it is gone.

        A topic that was deleted and created again may have fewer partitions than records wait for.
        """
        return number % self.partitions

    def has_to_wait(self, number: int) -> bool:
        """Return whether records for this partition wait: for it, its leader, or its topic's schema."""
        return self.framing is None or not self.exists(number)

    def exists(self, number: int) -> bool:
        """Return whether this partition is there, and has a leader."""
        return not self.missing and self.existing(number) not in self.leaderless

    @property
    def max_record_bytes(self) -> int:
        """The largest record, in bytes of its key and value, that fits into a batch of its own."""
        return self.max_message_bytes - _BATCH_OVERHEAD


def topic_name(config: KafkaConfig, channel: str) -> str:
    """Return the name of the topic of a channel, of the dead letters, of the events or of the state."""
    if channel == STATE:
        return f"{config.topic_prefix}.{STATE}"
    if channel == PRIVATE_STATE:
        return f"{config.private_topic_prefix}.{STATE}"
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
    return {STATE: config.shards, PRIVATE_STATE: 1}.get(channel, config.partitions)


def remark(name: str, found: int, wanted: int) -> str:
    """Return what a number of partitions means that is not `kafka.partitions`: nothing has to be done."""
    return f"topic {name} keeps its {found} partitions (kafka.partitions is {wanted})"


def mismatch(name: str, found: int, wanted: int) -> str:
    """Return an explanation, with the remedy, of a number of shards that is not the configured one."""
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


async def create(admin: AIOKafkaAdminClient, config: KafkaConfig, names: Mapping[str, str]) -> dict[str, str]:
    """Create the topics of these channels; return why, by name, for those that Kafka does not create.

    Raises:
        KafkaError: Kafka does not answer.
    """
    topics = {name: new_topic(config, channel, name) for channel, name in names.items()}
    refused: dict[str, str] = {}
    for name, (code, message) in (await quirks.create_topics(admin, topics.values())).items():
        topic, error = topics[name], for_code(code)
        if error is NoError:
            log.info("topic created", topic=name, partitions=topic.num_partitions)
        elif error in (TopicAuthorizationFailedError, ClusterAuthorizationFailedError):
            refused[name] = in_words(AclMissing(f"Create on topic {name}"))
        elif error.retriable:
            refused[name] = f"topic {name} cannot be created yet: {message or error.__name__}"
        elif error is not TopicAlreadyExistsError:
            refused[name] = uncreatable(topic, message or error.__name__)
    return refused


def new_topic(config: KafkaConfig, channel: str, name: str) -> NewTopic:
    """Return the topic of a channel as `run` creates it."""
    settings = {CLEANUP: "delete", "compression.type": "producer"}
    if channel in (STATE, PRIVATE_STATE):
        settings = _STATE_SETTINGS
    elif channel == BOOK:
        settings[CLEANUP] = "compact"
    elif schema_of(channel) == DEADLETTER:
        settings[MAX_BYTES] = str(DEADLETTER_MAX_BYTES)
    return quirks.new_topic(name, partitions(config, channel), config.replication_factor, settings)


def uncreatable(topic: NewTopic, why: str) -> str:
    """Return an explanation, with the remedy, of a topic that Kafka refuses to create."""
    return (
        f"topic {topic.name} cannot be created: {why} (partitions = {topic.num_partitions}, "
        f"kafka.replication_factor = {topic.replication_factor}): change these, or create it yourself"
    )
