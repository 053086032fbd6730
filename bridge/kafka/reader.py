"""Reads bridge-state, from an offset to its present end, and looks where any partitions end."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError, KafkaTimeoutError

from bridge.config import KafkaConfig
from bridge.kafka import quirks
from bridge.kafka.client import client, explained, in_words, reading, understood
from bridge.kafka.contents import OWNER, owner_of
from bridge.spool.progress import Owner

_PATIENCE = 60.0  # seconds to read all that there is
_POLL_MS = 500


@dataclass(slots=True)
class Read:
    """What was read of a partition."""

    # The newest of each key; None: a tombstone. The keys are in the order in which they came to have one.
    values: dict[bytes | None, bytes | None]
    owners: dict[str, Owner]  # the newest of each replica that has been the owner
    end: int  # the offset to read on from


@asynccontextmanager
async def consumer(config: KafkaConfig, **options: int | str) -> AsyncIterator[AIOKafkaConsumer]:
    """Provide a consumer of no group, of committed records unless these options of aiokafka say otherwise.

    Raises:
        KafkaError: Kafka is unavailable.
    """
    defaults = {"isolation_level": "read_committed", "auto_offset_reset": "earliest"}
    one = client(AIOKafkaConsumer, config, **{**defaults, **options})
    try:
        try:
            with explained(one), understood():
                async with asyncio.timeout(_PATIENCE):
                    await one.start()
        except TimeoutError:
            raise KafkaTimeoutError(
                f"no response from {config.bootstrap_servers} in {_PATIENCE:g} s"
            ) from None
        yield one
    finally:
        await quirks.wait_closed(one.stop())


async def read(
    one: AIOKafkaConsumer,
    topic: str,
    offsets: Mapping[int, int | None],
    begun: dict[int, Read] | None = None,
) -> dict[int, Read]:
    """Return what each of these partitions has from an offset on; None: from its beginning.

    `begun` is what an earlier call with the same offsets had read before it failed; this one goes on there.

    Raises:
        KafkaError: Kafka is unavailable, or an ACL is missing.
    """
    begun = {} if begun is None else begun
    if offsets:
        try:
            async with asyncio.timeout(_PATIENCE):
                with explained(one), reading(), understood():
                    await _read(one, topic, offsets, begun)
        except TimeoutError:
            raise KafkaTimeoutError(f"{topic} could not be read in {_PATIENCE:g} s") from None
    found = {number: begun[number] for number in offsets}
    begun.clear()
    return found


async def behind_stable(config: KafkaConfig, topic: str, partition: int) -> Read:
    """Return what a partition has behind its last stable offset: the records of open transactions.

    Raises:
        KafkaError: Kafka is unavailable, or an ACL is missing.
    """
    place = TopicPartition(topic, partition)
    async with consumer(config) as one:
        with explained(one), reading(), understood():
            one.assign([place])
            end = (await quirks.end_offsets_of_all(one, [place]))[place]
            stable = (await one.end_offsets([place]))[place]
    if stable >= end:
        return Read({}, {}, end)
    async with consumer(config, isolation_level="read_uncommitted") as one:
        return (await read(one, topic, {partition: stable}))[partition]


Look: TypeAlias = Callable[[Collection[TopicPartition]], Awaitable[dict[TopicPartition, tuple[int, int]]]]
"""Returns the last stable offset and the end of each of these partitions that has a leader.

It raises KafkaError if Kafka is unavailable. What the first open transaction has begins at the last stable
offset; without one, that is the end.
"""


@asynccontextmanager
async def looking(config: KafkaConfig) -> AsyncIterator[Look]:
    """Provide a look at partitions, to be used as often as necessary.

    Raises:
        KafkaError: Kafka is unavailable.
    """
    async with consumer(config) as one:
        yield partial(_look, one)


async def _look(
    one: AIOKafkaConsumer, places: Collection[TopicPartition]
) -> dict[TopicPartition, tuple[int, int]]:
    try:
        with explained(one), understood():
            try:
                async with asyncio.timeout(_PATIENCE):
                    led = await quirks.with_leader(one, places)
                    ends = await quirks.end_offsets_of_all(one, led)
                    stable = await one.end_offsets(list(led))
            except TimeoutError:
                raise KafkaTimeoutError(f"no response in {_PATIENCE:g} s") from None
    except KafkaError as error:
        first, *others = sorted(places)
        more = f" and {len(others)} more partitions" if others else ""
        raise KafkaError(
            f"no end of {first.topic}, partition {first.partition}{more}: {in_words(error)} "
            "(the brokers that lead them have to be reachable from here)"
        ) from error
    return {place: (stable[place], ends[place]) for place in led}


class Follower:
    """Follows a partition to which nobody but this process should write.

    What it has written needs no reading; where somebody else has written in between, it is to be read.
    `marked` is whether each transaction leaves its marker behind its records.
    """

    def __init__(self, topic: str, partition: int, *, marked: bool) -> None:
        self.disturbed = False  # whether somebody else has written since the last read
        self.has_lost = False  # whether the last read found less there than the one before
        self.read_at = -float("inf")  # when it was read last, on the monotonic clock
        self._topic = topic
        self._partition = partition
        self._marked = marked
        self._begun: dict[int, Read] = {}  # what a read that failed had read
        self._next: int | None = None  # the next offset to read; None before the first read

    async def read_on(self, one: AIOKafkaConsumer) -> Read:
        """Return what is there since the last read, apart from what was written from here.

        If the partition has lost what was read of it, all that is there is returned, and `has_lost` is set.
        The end of what is committed does not show that: it goes back while the marker of a commit is missing
        that was confirmed, as where a broker has died in between.

        Raises:
            KafkaError: Kafka is unavailable, or an ACL is missing.
        """
        part = (await read(one, self._topic, {self._partition: self._next}, self._begun))[self._partition]
        self.has_lost = False
        if self._next is not None and part.end < self._next:
            self.has_lost = await _end(one, self._topic, self._partition) < self._next
            part.end = self._next
        if self.has_lost:
            part = (await read(one, self._topic, {self._partition: None}))[self._partition]
        self._next, self.disturbed, self.read_at = part.end, False, time.monotonic()
        return part

    def begin_anew(self) -> None:
        """Read from the beginning next time, because the topic is another one."""
        self._begun.clear()
        if self._next is not None:
            self._next = 0

    @property
    def has_begun(self) -> bool:
        """Whether it was read at all."""
        return self._next is not None

    def skip(self, places: Sequence[tuple[int, int]]) -> None:
        """Skip the batches of a save that is committed: the first offset and the records of each."""
        if self._next is None:
            return
        end = self._next
        for first, number in places:
            if first >= self._next:  # otherwise it was read
                self.disturbed = self.disturbed or first != end
                end = first + number
        if end > self._next and not self.disturbed:
            self._next = end + self._marked


async def _end(one: AIOKafkaConsumer, topic: str, partition: int) -> int:
    """Return the end of a partition, with what is not committed."""
    place = TopicPartition(topic, partition)
    with explained(one), reading(), understood():
        return (await quirks.end_offsets_of_all(one, [place]))[place]


async def _read(
    one: AIOKafkaConsumer, topic: str, offsets: Mapping[int, int | None], found: dict[int, Read]
) -> None:
    places = {TopicPartition(topic, number): offset for number, offset in offsets.items()}
    if one.assignment() != places.keys():
        one.assign(list(places))
    # Not seek_to_beginning(): it may wait forever if the topic is so new that its leader is unknown.
    begins = await one.beginning_offsets(list(places))
    ends = await one.end_offsets(list(places))
    for place, offset in places.items():
        part = found.get(place.partition)
        if part is None or part.end > ends[place]:
            part = found[place.partition] = Read({}, {}, offset or 0)
        one.seek(place, max(begins[place], part.end))
    while [place for place in places if await one.position(place) < ends[place]]:
        quirks.require_fetching(one)
        for place, batch in (await one.getmany(timeout_ms=_POLL_MS)).items():
            part = found[place.partition]
            for record in batch:
                if part.values.get(record.key) is None:
                    part.values.pop(record.key, None)
                part.values[record.key] = record.value
                if record.key == OWNER and (owner := owner_of(record.value)) is not None:
                    part.owners[owner.replica] = owner
            part.end = batch[-1].offset + 1
    for place, end in ends.items():
        found[place.partition].end = end
