"""Whether Kafka lets the bridge do what it has to: ACLs, topics, partitions, replicas."""

import asyncio
from collections.abc import Callable, Mapping
from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError, NoError, for_code

from bridge import plan
from bridge.check.access import access
from bridge.config import Config, KafkaConfig
from bridge.kafka import quirks
from bridge.kafka.client import connection
from bridge.kafka.topics import (
    CLEANUP,
    deleted_by_retention,
    described,
    mismatch,
    partitions,
    settings,
    topic_name,
)
from bridge.records import DEADLETTER, EVENTS, STATE

Say = Callable[[str], None]

_PATIENCE = 15.0  # seconds
_MIN_INSYNC = "min.insync.replicas"


class _Found(NamedTuple):
    """A topic that exists; there are no `settings` where the broker does not tell them."""

    partitions: int
    replicas: int
    settings: Mapping[str, str]


async def check_kafka(config: Config, say: Say) -> bool:
    """Say how Kafka stands; return whether `run` could use it."""
    say(f"Kafka at {config.kafka.bootstrap_servers}")
    channels = (*sorted(plan.channels(config)), DEADLETTER, EVENTS, STATE)
    names = [topic_name(config.kafka, channel) for channel in channels]
    try:
        async with asyncio.timeout(_PATIENCE):
            refused, uncreatable = await access(config.kafka, plan.channels(config))
            for one in refused:
                say(f"  missing ACL: {one}" + (", so its settings are assumed" if one.optional else ""))
            for problem in uncreatable.values():
                say(f"  {problem}")
            if not all(one.optional for one in refused):
                return False
            found = await _topics(config.kafka, names)
    except TimeoutError:
        say(f"  no answer within {_PATIENCE:g} s")
        return False
    except (KafkaError, OSError) as error:
        say(f"  {error}")
        return False
    named = zip(channels, names, strict=True)
    usable = [
        _topic(config.kafka, channel, found.get(name), say)
        for channel, name in named
        if name not in uncreatable
    ]
    return all(usable) and not uncreatable


async def _topics(config: KafkaConfig, names: list[str]) -> dict[str, _Found]:
    admin = AIOKafkaAdminClient(**connection(config))
    try:
        await admin.start()
        there = {
            one["topic"]: one["partitions"]
            for one in await described(admin, names)
            if for_code(one["error_code"]) is NoError
        }
        told = await _settings(admin, list(there))
    finally:
        await quirks.wait_closed(admin.close())
    return {
        name: _Found(len(found), min(len(one["replicas"]) for one in found), told.get(name, {}))
        for name, found in there.items()
    }


async def _settings(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    try:
        told = await settings(admin, names, _MIN_INSYNC, CLEANUP)
    except IncompatibleBrokerVersion:
        return {}
    return {name: one for name, one in told.items() if isinstance(one, dict)}


def _topic(config: KafkaConfig, channel: str, found: _Found | None, say: Say) -> bool:
    name, wanted = topic_name(config, channel), partitions(config, channel)
    number = _plural(wanted, "partition")
    if found is None:
        will = f"would be created with {number}"
        say(f"  {name}: missing, {will if config.create_topics else 'and kafka.create_topics is false'}")
        return config.create_topics
    if found.partitions != wanted:
        say(f"  {mismatch(channel, name, found.partitions, wanted)}")
        return False
    replicas, least = _plural(found.replicas, "replica"), int(found.settings.get(_MIN_INSYNC, 0))
    if 0 < least <= found.replicas:
        replicas += f", {least} in sync at least"
    say(f"  {name}: exists, {number}, {replicas}")
    if least > found.replicas:
        # From 3.7 on (KAFKA-15583) a broker asks for no more than there are, whatever the setting.
        say(f"    {_MIN_INSYNC} is {least}: Kafka before 3.7 takes no record then")
    if channel == STATE and (problem := deleted_by_retention(name, found.settings.get(CLEANUP, ""))):
        say(f"    {problem}")
        return False
    return True


def _plural(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
