"""A private topic prefix belongs to one topic prefix: no two bridges mix the orders of their accounts.

Bridges with different `kafka.topic_prefix` have nothing in common but the private topics, so the claims are
there, on `<private_topic_prefix>.bridge-state`: one record for each topic prefix, of which the first one that
has not been taken back counts. Kafka has put them in an order that all see alike, so whoever writes a claim
and finds another one in front of it knows that it came too late, and takes its own back. A claim that is made
again, by another replica that starts at the same time, keeps its place.

A claim never expires: a private prefix changes hands only when somebody says so, with a tombstone. One that
came too late, and whose bridge died before it took it back, stays behind the one that counts, and changes
nothing. That bridge takes it back at its next start. If the prefix changes hands before that, it counts, and
the message to others names it and the tombstone that ends it.
"""

import asyncio

import structlog
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaTimeoutError

from bridge.config import KafkaConfig
from bridge.errors import TopicError
from bridge.kafka.client import AclMissing, admin
from bridge.kafka.metadata import describe
from bridge.kafka.producer import close_producer, open_producer
from bridge.kafka.reader import consumer, read
from bridge.kafka.topics import create, topic_name
from bridge.records import PRIVATE_STATE

log = structlog.get_logger(__name__)

_CLAIM = b"claim/"
_WRITING = 30.0  # seconds to write a claim


async def claim(config: KafkaConfig) -> None:
    """Claim the private topic prefix for the topic prefix, unless that was done before.

    Without the topic, or the right to read it, nothing is claimed: a warning says so.

    Raises:
        TopicError: it belongs to another topic prefix.
        KafkaError: Kafka is unavailable, or another ACL is missing.
    """
    topic = await _topic(config)
    if topic is None:
        return
    mine = _CLAIM + config.topic_prefix.encode()
    try:
        async with consumer(config) as reader:
            claims = await _claims(reader, topic)
            if not claims:
                await _write(config, topic, mine, b"{}")
                claims = await _claims(reader, topic)
                if not claims:  # it was taken back just now, or somebody's open transaction hides it
                    raise KafkaTimeoutError(f"the claim on {topic} could not be read")
    except AclMissing:
        log.warning("ACL missing", operation="Read", resource=f"topic {topic}")
        return
    if claims[0] == mine:
        return
    if mine in claims:
        await _write(config, topic, mine, None)
    other = claims[0].removeprefix(_CLAIM).decode(errors="backslashreplace")
    raise TopicError(
        f"kafka.private_topic_prefix {config.private_topic_prefix} belongs to kafka.topic_prefix {other}: "
        f"set another one, or write a tombstone for {_CLAIM.decode()}{other} to {topic}"
    )


async def _topic(config: KafkaConfig) -> str | None:
    """Return the name of the topic of the claims; it is created if it is missing, None if it can't be."""
    name = topic_name(config, PRIVATE_STATE)
    async with admin(config) as client:
        if (await describe(client, [name])).topics[name].error is None:
            return name
        why = f"topic {name} does not exist and kafka.create_topics is false"
        if config.create_topics:
            why = (await create(client, config, {PRIVATE_STATE: name})).get(name, "")
    if why:
        log.warning("a second bridge with this private prefix would not be noticed", why=why)
        return None
    return name


async def _claims(reader: AIOKafkaConsumer, topic: str) -> list[bytes]:
    """Return the keys of all claims, in the order in which they were made."""
    values = (await read(reader, topic, {0: None}))[0].values
    return [key for key, value in values.items() if key and key.startswith(_CLAIM) and value is not None]


async def _write(config: KafkaConfig, topic: str, key: bytes, value: bytes | None) -> None:
    producer = await open_producer(config, None)
    try:
        async with asyncio.timeout(_WRITING):
            await producer.send_and_wait(topic, value, key, 0)
    finally:
        await close_producer(producer)
