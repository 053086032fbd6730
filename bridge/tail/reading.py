"""Reads topics from where it was asked on, without a group: nothing is written to Kafka."""

import asyncio
import heapq
import time
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import TopicAuthorizationFailedError

from bridge.config import KafkaConfig
from bridge.errors import BrokerError, TopicMissing
from bridge.kafka import quirks
from bridge.kafka.client import (
    FAILURES,
    AclMissing,
    admin,
    explained,
    explanation,
    reading,
    understood,
)
from bridge.kafka.metadata import describe
from bridge.kafka.quirks.connecting import trouble
from bridge.kafka.reader import consumer
from bridge.tail.asked import Asked, Start
from bridge.tail.lines import Message

log = structlog.get_logger(__name__)

_PATIENCE = 30.0  # seconds until Kafka has described the topics
_POLL_MS = 500
_LOOK = 5.0  # seconds between two looks at the metadata that the consumer has, for new partitions
_METADATA_MS = 10_000  # and how old that may become


async def read(config: KafkaConfig, asked: Asked) -> AsyncGenerator[list[Message], None]:
    """Yield committed messages for ever, and those of new partitions from their beginning.

    The messages of a partition are in their order; those of several that are read at once, by their times.
    Kafka may be unavailable in between, which is logged.

    Raises:
        BrokerError: Kafka is unavailable at the start, a topic is missing, or a topic cannot be read.
    """
    one: AIOKafkaConsumer | None = None
    try:
        with understood():
            partitions = await _partitions(config, asked)
            async with consumer(config, metadata_max_age_ms=_METADATA_MS) as one:
                with explained(one), reading():
                    await _begin(one, partitions, asked.start)
                looked = time.monotonic()
                is_away = False
                while True:
                    with explained(one), reading():
                        quirks.require_fetching(one)
                        batches = await one.getmany(timeout_ms=_POLL_MS)
                        if time.monotonic() - looked > _LOOK:
                            looked = time.monotonic()
                            await _follow_grown(one, partitions)
                    why = trouble(one)
                    if why and not batches and not is_away:
                        is_away = True
                        log.error("Kafka unavailable, retrying", error=why)
                    elif batches and is_away:
                        is_away = False
                        log.warning("Kafka available again")
                    yield _merged(batches, asked.keys)
    except FAILURES as error:
        raise BrokerError(f"Kafka at {config.bootstrap_servers}: {explanation(error, one)}") from error


async def _partitions(config: KafkaConfig, asked: Asked) -> dict[str, int]:
    """Return the topics that exist, with their numbers of partitions.

    Raises:
        TopicMissing: one that was named does not exist, or none does.
        KafkaError: Kafka is unavailable, or an ACL is missing.
    """
    async with asyncio.timeout(_PATIENCE), admin(config) as client:
        found = (await describe(client, asked.topics)).topics
    missing = []
    for name in asked.topics:
        error = found[name].error
        if error is TopicAuthorizationFailedError:
            raise AclMissing(f"Describe on topic {name}")
        if error is not None:
            missing.append(name)
    if missing and (asked.named or len(missing) == len(asked.topics)):
        raise TopicMissing(f"no such topic on Kafka at {config.bootstrap_servers}: {', '.join(missing)}")
    if missing:
        log.warning("topics left out, because they do not exist", topics=missing)
    return {name: found[name].partitions for name in asked.topics if name not in missing}


async def _begin(one: AIOKafkaConsumer, partitions: Mapping[str, int], start: Start) -> None:
    """Assign all partitions to a consumer, each from where the reading is to begin."""
    places = [TopicPartition(topic, n) for topic, number in partitions.items() for n in range(number)]
    one.assign(places)
    # Not seek_to_end() and the like: they may wait for ever if a topic is so new that its leader is unknown.
    if start == "beginning":
        offsets = await one.beginning_offsets(places)
    else:
        offsets = await one.end_offsets(places)
        if start != "end":
            found = await one.offsets_for_times(dict.fromkeys(places, start))
            offsets |= {place: since.offset for place, since in found.items() if since is not None}
    for place, offset in offsets.items():
        one.seek(place, offset)


async def _follow_grown(one: AIOKafkaConsumer, topics: Iterable[str]) -> None:
    """Read partitions that were added to the topics, too, which aiokafka does only for a group."""
    known = one.assignment()
    added = {
        TopicPartition(topic, number) for topic in topics for number in one.partitions_for_topic(topic) or ()
    } - known
    if added:
        offsets = {place: await one.position(place) for place in known}
        one.assign([*known, *added])
        for place, offset in (offsets | await one.beginning_offsets([*added])).items():
            one.seek(place, offset)


def _merged(batches: Mapping[TopicPartition, list[object]], keys: Collection[bytes]) -> list[Message]:
    """Return the messages with these keys, ordered by time where they are of different partitions."""
    messages = [
        [
            Message(one.topic, one.key, one.value, one.timestamp)  # type: ignore[attr-defined]
            for one in batch
            if not keys or one.key in keys  # type: ignore[attr-defined]
        ]
        for batch in batches.values()
    ]
    return list(heapq.merge(*messages, key=lambda one: one.time_ms))
