"""One look at the cluster: its id, and the topics as they are; missing ones are created if allowed."""

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, TypeAlias

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    IncompatibleBrokerVersion,
    KafkaError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from bridge.config import KafkaConfig
from bridge.errors import TopicError, TopicMissing
from bridge.kafka.client import admin, in_words
from bridge.kafka.metadata import Description, Found, describe
from bridge.kafka.topics import (
    ATTEMPT_INTERVAL,
    ATTEMPTS,
    CLEANUP,
    MAX_BYTES,
    Topic,
    create,
    deleted_by_retention,
    mismatch,
    partitions,
    remark,
    settings,
    topic_name,
    topic_names,
)
from bridge.records import STATE

log = structlog.get_logger(__name__)

KAFKAS_DEFAULT_MAX_BYTES = 1048588
"""`max.message.bytes` of a topic whose setting the broker has never reported."""

Remarks: TypeAlias = frozenset[tuple[str, str]]
"""What is only remarked on, and about which topic; logged when it is new."""


GROUPS, TRANSACTIONS = "__consumer_offsets", "__transaction_state"
"""Kafka's own topics, whose leaders coordinate groups and transactions."""


class View(NamedTuple):
    """What is known of the cluster: its id ("" if the broker reports none), and the topics by channel.

    `own` has those of Kafka's own topics that the bridge may look at, by name.
    """

    cluster: str = ""
    topics: Mapping[str, Topic] = {}
    remarks: Remarks = frozenset()
    own: Mapping[str, Found] = {}


async def look(
    config: KafkaConfig, channels: Collection[str], before: View, besides: Collection[str] = ()
) -> View:
    """Return the view of now; `before` is the last one, whose topics may be missing now.

    It has the topics of these channels and those of the bridge itself, and of the channels `besides`, which
    are not configured any more.

    Raises:
        TopicError: bridge-state, when it is looked at for the first time, has another number of partitions
            than there are shards.
        TopicMissing: at the first look, a topic is missing, and is not created.
        KafkaError: Kafka does not answer, or an ACL is missing.
    """
    names = {channel: topic_name(config, channel) for channel in besides} | topic_names(config, channels)
    async with admin(config) as client:
        found = await describe(client, [*names.values(), GROUPS, TRANSACTIONS])
        own = {
            name: one for name in (GROUPS, TRANSACTIONS) if (one := found.topics.get(name)) and not one.error
        }
        refused = _unusable([names[channel] for channel in besides], found)
        missing = {
            channel: name
            for channel, name in names.items()
            if name not in refused and _is_missing(name, found.topics[name])
        }
        if missing:
            refused |= await _create(client, config, missing)
            created = [name for name in missing.values() if name not in refused]
            found = await _described(client, names.values(), created)
        known = {topic.name: topic for topic in before.topics.values()}
        if refused and not known:
            raise TopicMissing(and_more(refused.values(), "; "))
        there = [name for name in names.values() if name not in refused]
        state, number = names[STATE], found.topics[names[STATE]].partitions
        if STATE not in before.topics and number != config.shards:
            raise TopicError(mismatch(state, number, config.shards))
        if state not in refused and number < config.shards:
            refused[state] = mismatch(state, number, config.shards)  # some shards have no state
        reported = await _reported(client, there)
    topics = {
        channel: replace(known.get(name) or _unknown(config, channel, name), missing=refused[name])
        if name in refused
        else _topic(name, found.topics[name], reported[name], known.get(name))
        for channel, name in names.items()
    }
    remarks = frozenset(_remarks(config, topics, reported, before.remarks))
    return View(found.cluster, topics, remarks, own)


async def _create(
    client: AIOKafkaAdminClient, config: KafkaConfig, names: Mapping[str, str]
) -> dict[str, str]:
    """Create topics if that is allowed; return why not, by name, for all others."""
    if config.create_topics:
        return await create(client, config, names)
    return {
        name: f"topic {name} does not exist and kafka.create_topics is false: create it with "
        f"{partitions(config, channel)} partitions, or set kafka.create_topics = true"
        for channel, name in names.items()
    }


async def _described(admin: AIOKafkaAdminClient, names: Iterable[str], created: Iterable[str]) -> Description:
    """Return the metadata of topics once those that were just created, here or elsewhere, have leaders.

    Raises:
        KafkaError: some broker does not know all of them after some seconds.
    """
    for _ in range(ATTEMPTS):
        found = await describe(admin, names)
        waiting = [
            name for name in created if found.topics[name].error is not None or found.topics[name].leaderless
        ]
        if not waiting:
            return found
        await asyncio.sleep(ATTEMPT_INTERVAL)
    raise UnknownTopicOrPartitionError(", ".join(waiting))


def _unusable(names: Iterable[str], found: Description) -> dict[str, str]:
    """Return why topics cannot be looked at, by name; those that do not exist are not among them."""
    return {
        name: f"topic {name} cannot be looked at: {in_words(error(name))}"
        for name in names
        if (error := found.topics[name].error) not in (None, UnknownTopicOrPartitionError) and error
    }


def _is_missing(name: str, found: Found) -> bool:
    """Return whether a topic does not exist.

    Raises:
        KafkaError: Kafka reports something else about it, such as a missing ACL.
    """
    if found.error is None:
        return False
    if found.error is not UnknownTopicOrPartitionError:
        raise found.error(name)
    return True


Reported: TypeAlias = dict[str, str] | type[KafkaError] | None
"""The settings of a topic, or the error with which Kafka withholds them; None: it reports no settings."""


async def _reported(admin: AIOKafkaAdminClient, names: Collection[str]) -> dict[str, Reported]:
    """Return what Kafka reports of the settings of each topic."""
    reported: dict[str, Reported] = dict.fromkeys(names)
    unknown = list(names)
    for _ in range(ATTEMPTS):
        try:
            reported |= await settings(admin, unknown, MAX_BYTES, CLEANUP) if unknown else {}
        except IncompatibleBrokerVersion:
            return reported
        # A topic that is new may not be known to every broker yet.
        unknown = [name for name, one in reported.items() if one is UnknownTopicOrPartitionError]
        if not unknown:
            break
        await asyncio.sleep(ATTEMPT_INTERVAL)
    return reported


def _unknown(config: KafkaConfig, channel: str, name: str) -> Topic:
    """Return a topic that was never seen."""
    return Topic(name, partitions(config, channel), KAFKAS_DEFAULT_MAX_BYTES)


def _topic(name: str, found: Found, reported: Reported, before: Topic | None) -> Topic:
    # A smaller limit than the topic has would cost the records that wait for it; a larger one is only tried.
    limit = KAFKAS_DEFAULT_MAX_BYTES if before is None else before.max_message_bytes
    if isinstance(reported, dict) and MAX_BYTES in reported:
        limit = int(reported[MAX_BYTES])
    return Topic(name, found.partitions, limit, found.id, found.leaderless)


def _remarks(
    config: KafkaConfig, topics: Mapping[str, Topic], reported: Mapping[str, Reported], before: Remarks
) -> Iterator[tuple[str, str]]:
    """Return what is to be remarked on, and log what is new of it."""
    for channel, topic in topics.items():
        name, one = topic.name, reported.get(topic.name)
        if topic.missing:
            continue
        if not isinstance(one, dict):
            yield (said := ("limit", name))
            if said not in before:
                _log_unknown_limit(topic, one)
        # Only a warning: the state matters at the next start, and refusing to run now would lose more data.
        elif channel == STATE and (problem := deleted_by_retention(name, one.get(CLEANUP, ""))):
            yield (said := ("retention", name))
            if said not in before:
                log.warning("retention can delete bridge-state", problem=problem)
        if channel != STATE and topic.partitions != config.partitions:
            yield (said := ("partitions", name))
            if said not in before:
                detail = remark(name, topic.partitions, config.partitions)
                log.info("topic keeps its number of partitions", detail=detail)


def _log_unknown_limit(topic: Topic, error: type[KafkaError] | None) -> None:
    assumed = {"topic": topic.name, "assumed_max_message_bytes": topic.max_message_bytes}
    if error is None:
        log.warning("broker does not report topic limits, assuming the default", **assumed)
        return
    if error is TopicAuthorizationFailedError:
        log.warning("ACL missing", operation="DescribeConfigs", resource=f"topic {topic.name}")
    log.warning(
        "max.message.bytes unknown, assuming the last one known or the default",
        error=error.__name__,
        **assumed,
    )


def and_more(texts: Collection[str], separator: str, most: int = 3) -> str:
    """Return the first of some texts, and how many more there are."""
    shown = separator.join([*texts][:most])
    return shown if len(texts) <= most else f"{shown} and {len(texts) - most} more"
