"""What the data topics say where bridge-state was lost: the last trades, and whether a transaction succeeded.

The ends of their partitions are read, up to a limit. A symbol that was not traded within it counts as
unknown, as at the very first start. So does what the bridge has no right to read: a warning says so.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from math import gcd
from typing import TypeAlias

import msgspec
import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaTimeoutError

from bridge.config import KafkaConfig
from bridge.consumer.decoding import unframed
from bridge.kafka import quirks
from bridge.kafka.client import AclMissing, client, explained, reading, understood
from bridge.kafka.partition import Partition
from bridge.kafka.topics import Topic, topic_name
from bridge.ledger import KEPT, Watermark, insert

log = structlog.get_logger(__name__)

MOST_READ = 50_000
"""Records of a partition that are read from its end, at most."""

_PATIENCE = 60.0  # seconds in which nothing more is read
_POLL_MS = 500

Range: TypeAlias = tuple[int, int]
"""The first offset, and the one behind the last."""


class _Trade(msgspec.Struct):
    id: int
    time_us: int


_decode = msgspec.json.Decoder(_Trade).decode


async def is_on_kafka(
    config: KafkaConfig, partitions: Iterable[Partition], begins: Mapping[TopicPartition, int | None]
) -> bool:
    """Return whether the sent records of these partitions, which are of one transaction, are on Kafka.

    `begins` has the offset of its first record in each of them; None where Kafka has not acknowledged it.

    The transaction is committed or aborted by now, so one partition speaks for all: one of trades if there is
    one, the only data topic that the documented ACLs let the bridge read. Without the right to read it they
    count as missing: what is sent twice can be recognised, what is lost can't.

    Raises:
        KafkaError: Kafka is unavailable.
    """
    trades = topic_name(config, "trades")
    candidates = [
        (one, place, begin)
        for one in partitions
        if one.sent and not one.stuck
        for place in [TopicPartition(one.topic.name, one.topic.existing(one.number))]
        if (begin := begins.get(place)) is not None
    ]
    if not candidates:
        return False
    sent, place, begin = min(candidates, key=lambda one: one[1].topic != trades)
    values = {record.value for record in sent.sent}
    try:
        async with _consumer(config, [place]) as (consumer, silence):
            first, end = (await _ends(consumer, [place]))[place]
            if not first <= begin < end:
                return False
            async for records in _records(consumer, {place: (begin, begin + 1)}, silence):
                if any(one.value and unframed(one.value) in values for one in records):
                    return True
    except AclMissing:
        _warn_unreadable(sent.topic)
    return False


class LastTrades:
    """What the topic of trades says of the symbols that are `wanted`, which are in some of its partitions."""

    def __init__(
        self, config: KafkaConfig, topic: Topic, partitions: Iterable[int], wanted: Callable[[bytes], bool]
    ) -> None:
        self.topic = topic
        self._config = config
        self._places = [TopicPartition(topic.name, number) for number in sorted(partitions)]
        self._wanted = wanted
        self._watermarks: dict[bytes, Watermark] = {}
        self._next: dict[TopicPartition, int] = {}  # the offsets to read on from, after a read that failed

    async def read(self) -> dict[bytes, Watermark]:
        """Return it; nothing if the topic may not be read. After a failure the next call reads on.

        Raises:
            KafkaError: Kafka is unavailable.
        """
        try:
            async with _consumer(self._config, self._places) as (consumer, silence):
                ranges = await _ends(consumer, self._places, MOST_READ)
                for place, (begin, end) in ranges.items():
                    if begin < (read_on := self._next.get(place, 0)) <= end:
                        ranges[place] = read_on, end
                async for records in _records(consumer, ranges, silence):
                    self._take(records)
        except AclMissing:
            _warn_unreadable(self.topic)
            return {}
        return self._watermarks

    def _take(self, records: Sequence[ConsumerRecord]) -> None:
        for one in records:
            if one.key is not None and self._wanted(one.key) and (trade := _trade(one.value)) is not None:
                self._watermarks[one.key] = _behind(self._watermarks.get(one.key), trade)
            self._next[TopicPartition(one.topic, one.partition)] = one.offset + 1


def partitions_of(shard: int, shards: int, numbers: Iterable[int]) -> set[int]:
    """Return which partitions may have keys of a shard, in a topic that has had these numbers of partitions.

    Both are the remainder of one hash, so they are equal modulo what divides both numbers. Example: of 12
    partitions, those of shard 1 of 8 are 1, 5 and 9.
    """
    return {
        partition
        for number in numbers
        for partition in range(shard % gcd(shards, number), number, gcd(shards, number))
    }


def _warn_unreadable(topic: Topic) -> None:
    """Warn instead of raising: a start that knows less is better than none."""
    log.warning("ACL missing", operation="Read", resource=f"topic {topic.name}")


def _trade(value: bytes | None) -> _Trade | None:
    """Return the trade in a record; None if it has none, because somebody else has written it."""
    try:
        return None if value is None else _decode(unframed(value))
    except (ValueError, RecursionError):  # no JSON of this type, not UTF-8, or nested too deeply
        return None


def _behind(known: Watermark | None, trade: _Trade) -> Watermark:
    """Return the watermark behind one more trade: below all that is known and later, it begins an epoch."""
    if known is None:
        return Watermark([trade.id], [trade.time_us])
    if trade.id < known.ids[0] and trade.time_us > max(known.times):
        epoch, past = known.epoch + 1, list(zip(known.ids, known.times, strict=True))
        return Watermark(
            [trade.id], [trade.time_us], epoch=epoch, epoch_us=trade.time_us, past=past, reported=epoch
        )
    if trade.id not in known.ids:
        insert(known.ids, known.times, trade.id, trade.time_us)
        del known.ids[:-KEPT], known.times[:-KEPT]
    return known


@asynccontextmanager
async def _consumer(
    config: KafkaConfig, places: Sequence[TopicPartition]
) -> AsyncIterator[tuple[AIOKafkaConsumer, asyncio.Timeout]]:
    """Yield a consumer of these partitions, and the limit that is to be moved whenever it has read something.

    Raises:
        KafkaError: Kafka is unavailable.
    """
    consumer = client(AIOKafkaConsumer, config, isolation_level="read_committed")
    try:
        async with asyncio.timeout(_PATIENCE) as silence:
            with explained(consumer), reading():
                with understood():
                    await consumer.start()
                    consumer.assign(list(places))
                yield consumer, silence
    except TimeoutError:
        raise KafkaTimeoutError(
            f"nothing more could be read of the end of {places[0].topic} in {_PATIENCE:g} s"
        ) from None
    finally:
        await quirks.wait_closed(consumer.stop())


async def _ends(
    consumer: AIOKafkaConsumer, places: Sequence[TopicPartition], most: int | None = None
) -> dict[TopicPartition, Range]:
    """Return the last offsets of each partition, `most` of them; None: all."""
    with understood():
        begins = await consumer.beginning_offsets(list(places))
        ends = await consumer.end_offsets(list(places))
        least = {one: 0 if most is None else ends[one] - most for one in places}
        return {one: (max(begins[one], least[one]), ends[one]) for one in places}


async def _records(
    consumer: AIOKafkaConsumer, ranges: Mapping[TopicPartition, Range], silence: asyncio.Timeout
) -> AsyncIterator[Sequence[ConsumerRecord]]:
    """Yield the records in these ranges, in the order of each partition."""
    for place, (begin, _) in ranges.items():
        consumer.seek(place, begin)
    before: dict[TopicPartition, int] = {}
    while True:
        with understood():
            quirks.require_fetching(consumer)
            positions = {place: await consumer.position(place) for place in ranges}
            if not [place for place, (_, end) in ranges.items() if positions[place] < end]:
                return
            if positions != before:
                before = positions
                silence.reschedule(asyncio.get_running_loop().time() + _PATIENCE)
            batches = await consumer.getmany(timeout_ms=_POLL_MS)
        for place, records in batches.items():
            end = ranges[place][1]
            yield [one for one in records if one.offset < end]
