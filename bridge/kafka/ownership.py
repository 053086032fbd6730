"""Ownership of the topics: a bridge waits while another one writes to the same topics.

The replicas of one bridge share the shards by their consumer group. A bridge of another group, or replicas
with another number of shards, would write the same records a second time, so they must not write at the same
time. Each shard's partition of bridge-state names its owner, which saves at least three times within its
lease. Whoever joins reads all owners first, and waits until each that is none of its own replicas has said
that it ended, or has saved nothing for its lease.

Hosts differ in their clocks, so no time in a record counts: an owner is alive if its record changes while it
is watched. Only time in which Kafka answers counts, because otherwise the owner could not have saved either.

    0.0 s   green starts; blue is the owner of shard 0, with transaction 41, and has a lease of 10 s
    1.0 s   transaction 42: blue is alive; green writes that it waits, and blue reports that
    7.0 s   blue is killed after transaction 91
   17.0 s   transaction 91 has not changed for 10 s: green joins its group, and takes shard 0 over
"""

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition

from bridge.config import KafkaConfig
from bridge.errors import TopicError
from bridge.exchange.words import printable
from bridge.kafka.client import FAILURES, in_words
from bridge.kafka.contents import (
    MOST_LEASE,
    MOST_NAME,
    OWNER,
    SECOND,
    Second,
    lease_of,
    opposes,
    owner_of,
)
from bridge.kafka.producer import PRODUCER_FAILURES, close_producer, open_producer
from bridge.kafka.reader import consumer, read
from bridge.kafka.topics import Topic, mismatch
from bridge.spool.progress import Owner

log = structlog.get_logger(__name__)

_LOOK = 1.0  # seconds between two looks at the owners
_ANNOUNCE = 60.0  # seconds between two records that say who waits
_TAIL = 2000  # records at the end of a partition, among which its owner nearly always is

_ANNOUNCING = 10.0  # seconds to write such a record

# Seconds that an owner gets on top of its lease once Kafka was unavailable: it tries every 10 s at most.
_RECOVERY = 20.0


@dataclass(slots=True)
class _Watched:
    """An owner that has to end before this bridge may begin."""

    owner: Owner
    alive: bool = False  # whether it was seen to save
    quiet: float = 0.0  # seconds for which Kafka has answered and the owner has not saved


class Ownership:
    """Who else may write to the topics, as one replica knows it."""

    def __init__(self, config: KafkaConfig, replica: str) -> None:
        self.trouble: str | None = None  # whom this replica waits for, for /readyz; None: for nobody
        self._config = config
        self._replica = replica
        self._gone: dict[int, Owner] = {}  # owners that have not ended, and saved nothing for their lease
        self._recovery = 0.0  # seconds that every owner gets on top of its lease
        self._announced_at = -float("inf")  # on the monotonic clock

    def is_gone(self, shard: int, owner: Owner) -> bool:
        """Return whether this very save of an owner was the last one, as `wait` has found."""
        return self._gone.get(shard) == owner

    async def wait(self, topic: Topic) -> None:
        """Return once nobody else writes; `topic` is bridge-state.

        Raises:
            TopicError: it is of another number of shards.
            KafkaError: Kafka is unavailable.
        """
        if topic.partitions != self._config.shards:
            raise TopicError(mismatch(topic.name, topic.partitions, self._config.shards))
        try:
            async with consumer(self._config) as reader:
                await self._watch(reader, topic)
        except FAILURES:
            self.trouble, self._recovery = None, _RECOVERY
            raise
        if self.trouble is not None:
            log.info("no longer waiting for another bridge")
        self.trouble = None

    async def _watch(self, reader: AIOKafkaConsumer, topic: Topic) -> None:
        owners, ends = await self._owners(reader, topic)
        watched = {n: _Watched(one) for n, one in owners.items() if opposes(self._config, one)}
        looked_at = time.monotonic()
        while waiting := {n: one for n, one in watched.items() if one.quiet <= self._patience(one.owner)}:
            shard = min(waiting, key=lambda n: (waiting[n].quiet, n))
            await self._report(topic, shard, waiting[shard])
            await asyncio.sleep(_LOOK)
            found = await read(reader, topic.name, ends)
            now = time.monotonic()
            # Neither Kafka's silence nor a freeze of this process is the owner's.
            passed, looked_at = min(now - looked_at, 2 * _LOOK), now
            for n, part in found.items():
                ends[n] = part.end
                if OWNER not in part.values:
                    if n in watched:
                        watched[n].quiet += passed
                elif (owner := owner_of(part.values[OWNER])) is not None and opposes(self._config, owner):
                    watched[n] = _Watched(owner, alive=True)
                else:
                    watched.pop(n, None)
        self._gone = {n: one.owner for n, one in watched.items()}

    def _patience(self, owner: Owner) -> float:
        """Return the seconds for which an owner has to be quiet until it counts as gone."""
        lease = min(owner.lease, MOST_LEASE) or lease_of(self._config)
        return lease + self._recovery

    async def _owners(
        self, reader: AIOKafkaConsumer, topic: Topic
    ) -> tuple[dict[int, Owner], dict[int, int | None]]:
        """Return the owner of each shard that has one, and the end of each partition."""
        numbers = range(topic.partitions)
        reader.assign([TopicPartition(topic.name, n) for n in numbers])
        ends = await reader.end_offsets([TopicPartition(topic.name, n) for n in numbers])
        tails: dict[int, int | None] = {place.partition: max(0, end - _TAIL) for place, end in ends.items()}
        found = await read(reader, topic.name, tails)
        without: Collection[int] = [n for n, part in found.items() if OWNER not in part.values and tails[n]]
        found |= await read(reader, topic.name, dict.fromkeys(without))
        owners = {n: owner_of(part.values.get(OWNER)) for n, part in found.items()}
        known = {n: owner for n, owner in owners.items() if owner is not None}
        return known, {n: part.end for n, part in found.items()}

    async def _report(self, topic: Topic, shard: int, watched: _Watched) -> None:
        """Say whom this replica waits for; to the other one too, once it is known to be alive."""
        before, self.trouble = self.trouble, self._words(watched.owner)
        if self.trouble != before:
            log.error("another bridge serves these topics, waiting", shard=shard, why=self.trouble)
        if watched.alive and time.monotonic() >= self._announced_at + _ANNOUNCE:
            self._announced_at = time.monotonic()
            await self._announce(topic, shard)

    def _words(self, owner: Owner) -> str:
        config, group = self._config, printable(owner.group)[:MOST_NAME]
        who = f"waiting for replica {owner.replica} of group {group}"
        if owner.group == config.group_id:
            return (
                f"{who} with kafka.shards = {owner.shards}, here it is {config.shards}: "
                f"set kafka.shards = {owner.shards}, or stop all replicas first"
            )
        return (
            f"{who}, which writes to the topics of {config.topic_prefix}: stop it, or set another "
            f"kafka.topic_prefix"
        )

    async def _announce(self, topic: Topic, shard: int) -> None:
        """Write that this replica waits where the owner of the shard reads it, if Kafka takes it."""
        group = printable(self._config.group_id)[:MOST_NAME]
        value = msgspec.json.encode(Second(group, self._replica, self._config.shards))
        try:
            async with asyncio.timeout(_ANNOUNCING):
                producer = await open_producer(self._config, None)
                try:
                    await producer.send_and_wait(topic.name, value, SECOND + group.encode(), shard)
                finally:
                    await close_producer(producer)
        except (*FAILURES, *PRODUCER_FAILURES) as error:
            log.debug("announcement to the owner failed", error=in_words(error))
