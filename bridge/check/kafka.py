"""Whether Kafka is ready for the bridge: ACLs, topics, partitions, replicas."""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import IncompatibleBrokerVersion, KafkaError

from bridge import plan
from bridge.check.access import access
from bridge.check.lines import Say, plural
from bridge.config import Config, KafkaConfig
from bridge.kafka.client import admin, connection, in_words, sends_password_in_clear, understood
from bridge.kafka.metadata import describe
from bridge.kafka.topics import (
    CLEANUP,
    deleted_by_retention,
    mismatch,
    partitions,
    remark,
    settings,
    topic_name,
    topic_names,
)
from bridge.records import STATE

# Seconds for all of Kafka's responses together, and besides for each server to be found unreachable: they are
# tried one after another, and the last one says why none can be used.
_TIMEOUT, _CONNECTING = 5.0, 10.0
_MIN_INSYNC = "min.insync.replicas"


class _Found(NamedTuple):
    """A topic that exists; `settings` is empty where the broker does not report them."""

    partitions: int
    replicas: int
    settings: Mapping[str, str]


async def check_kafka(config: Config, say: Say) -> bool:
    """Print the state of Kafka's ACLs and topics; return whether `run` could work with them.

    Raises:
        ConfigError: a certificate, key or password cannot be used.
    """
    connection(config.kafka)
    say(f"Kafka at {config.kafka.bootstrap_servers}")
    if sends_password_in_clear(config.kafka):
        say(f"  the password is sent without TLS ({config.kafka.sasl_mechanism}): use SASL_SSL")
    names = topic_names(config.kafka, sorted(plan.channels(config)))
    seconds = _TIMEOUT + _CONNECTING * len(config.kafka.bootstrap_servers.split(","))
    try:
        with understood():
            async with asyncio.timeout(seconds):
                denied, uncreatable = await access(config.kafka, plan.channels(config))
                for one in denied:
                    say(
                        f"  ACL missing: {one}"
                        + (" (optional: see docs/security.md)" if one.optional else "")
                    )
                for problem in uncreatable.values():
                    say(f"  {problem}")
                if not all(one.optional for one in denied):
                    return False
                found = await _existing(config.kafka, names.values())
    except TimeoutError:
        say(f"  no response within {seconds:g} s")
        return False
    except (KafkaError, OSError) as error:
        say(f"  {in_words(error)}")
        return False
    usable = [
        _topic(config.kafka, channel, found.get(name), say)
        for channel, name in names.items()
        if name not in uncreatable
    ]
    return all(usable) and not uncreatable


async def _existing(config: KafkaConfig, names: Collection[str]) -> dict[str, _Found]:
    """Return those of these topics that exist.

    Raises:
        KafkaError: Kafka does not answer.
    """
    async with admin(config) as client:
        described = (await describe(client, names)).topics
        there = {name: one for name, one in described.items() if one.error is None}
        settings_of = await _settings(client, there)
    return {
        name: _Found(one.partitions, one.replicas, settings_of.get(name, {})) for name, one in there.items()
    }


async def _settings(admin: AIOKafkaAdminClient, names: Iterable[str]) -> dict[str, dict[str, str]]:
    try:
        reported = await settings(admin, names, _MIN_INSYNC, CLEANUP)
    except IncompatibleBrokerVersion:
        return {}
    return {name: one for name, one in reported.items() if isinstance(one, dict)}


def _topic(config: KafkaConfig, channel: str, found: _Found | None, say: Say) -> bool:
    """Print how a topic compares with the configuration; return whether `run` could use it."""
    name, wanted = topic_name(config, channel), partitions(config, channel)
    if found is None:
        number = plural(wanted, "partition")
        effect = f"run would create it with {number}"
        say(f"  {name}: missing, {effect if config.create_topics else 'and kafka.create_topics is false'}")
        return config.create_topics
    if channel == STATE and found.partitions != wanted:
        say(f"  {mismatch(name, found.partitions, wanted)}")
        return False
    replicas, least = plural(found.replicas, "replica"), int(found.settings.get(_MIN_INSYNC, 0))
    if 0 < least <= found.replicas:
        replicas += f", at least {least} in sync"
    say(f"  {name}: exists, {plural(found.partitions, 'partition')}, {replicas}")
    if found.partitions != wanted:
        say(f"    {remark(name, found.partitions, wanted)}")
    if least > found.replicas:
        # From 3.7 on (KAFKA-15583) a broker requires no more than there are, whatever the setting.
        say(f"    {_MIN_INSYNC} is {least}: Kafka before 3.7 would reject every record")
    if channel == STATE and (problem := deleted_by_retention(name, found.settings.get(CLEANUP, ""))):
        say(f"    {problem}")
        return False
    return True
