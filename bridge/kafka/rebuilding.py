"""What the data topics say where bridge-state was lost: the last trades, and whether a transaction succeeded.

The ends of their partitions are read, up to a limit. A symbol that was not traded within it counts as
unknown, as at the very first start. So does what the bridge has no right to read: a warning says so.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
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

_MARKERS = 1000  # offsets that markers of transactions may take among the records that are looked for
_PATIENCE = 60.0  # seconds for all of it
_POLL_MS = 500

Range: TypeAlias = tuple[int, int]
"""The first offset, and the one behind the last."""


class _Trade(msgspec.Struct):
    id: int
    time_us: int


_decode = msgspec.json.Decoder(_Trade).decode


async def is_on_kafka(config: KafkaConfig, partitions: Iterable[Partition]) -> bool:
    """Return whether the sent records of these partitions, which are of one transaction, are on Kafka.

    The transaction is committed or aborted by now, so one partition speaks for all: one of trades if there is
    one, the only data topic that the documented ACLs let the bridge read. Without the right to read it they
    count as missing: what is sent twice can be recognised, what is lost can't.

    Raises:
        KafkaError: Kafka is unavailable.
    """
    trades = topic_name(config, "trades")
    candidates = [one for one in partitions if one.sent and not one.stuck]
    if not candidates:
        return False
    sent = min(candidates, key=lambda one: one.topic.name != trades)
    place = TopicPartition(sent.topic.name, sent.topic.existing(sent.number))
    values = {record.value for record in sent.sent}
    try:
        async with _ends(config, [place], len(values) + _MARKERS) as (consumer, ranges):
            async for records in _records(consumer, ranges):
                if any(one.value and unframed(one.value) in values for one in records):
                    return True
    except AclMissing:
        _warn_unreadable(sent.topic)
    return False


async def last_trades(
    config: KafkaConfig, topic: Topic, wanted: Callable[[bytes], bool]
) -> dict[bytes, Watermark]:
    """Return what the topic of trades says of the symbols that are `wanted`; nothing if it may not be read.

    Raises:
        KafkaError: Kafka is unavailable.
    """
    watermarks: dict[bytes, Watermark] = {}
    places = [TopicPartition(topic.name, number) for number in range(topic.partitions)]
    try:
        async with _ends(config, places, MOST_READ) as (consumer, ranges):
            async for records in _records(consumer, ranges):
                for one in records:
                    if one.key is not None and wanted(one.key) and (trade := _trade(one.value)) is not None:
                        watermarks[one.key] = _behind(watermarks.get(one.key), trade)
    except AclMissing:
        _warn_unreadable(topic)
        return {}
    return watermarks


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
async def _ends(
    config: KafkaConfig, places: Sequence[TopicPartition], most: int
) -> AsyncIterator[tuple[AIOKafkaConsumer, Mapping[TopicPartition, Range]]]:
    """Yield a consumer of these partitions, and the last offsets of each, `most` of them.

    Raises:
        KafkaError: Kafka is unavailable.
    """
    consumer = client(AIOKafkaConsumer, config, isolation_level="read_committed")
    try:
        async with asyncio.timeout(_PATIENCE):
            with explained(consumer), reading():
                with understood():
                    await consumer.start()
                    consumer.assign(list(places))
                    begins = await consumer.beginning_offsets(list(places))
                    ends = await consumer.end_offsets(list(places))
                    ranges = {one: (max(begins[one], ends[one] - most), ends[one]) for one in places}
                yield consumer, ranges
    except TimeoutError:
        raise KafkaTimeoutError(
            f"the end of {places[0].topic} could not be read in {_PATIENCE:g} s"
        ) from None
    finally:
        await quirks.wait_closed(consumer.stop())


async def _records(
    consumer: AIOKafkaConsumer, ranges: Mapping[TopicPartition, Range]
) -> AsyncIterator[Sequence[ConsumerRecord]]:
    """Yield the records in these ranges, in the order of each partition."""
    for place, (begin, _) in ranges.items():
        consumer.seek(place, begin)
    while True:
        with understood():
            quirks.require_fetching(consumer)
            if not [place for place, (_, end) in ranges.items() if await consumer.position(place) < end]:
                return
            batches = await consumer.getmany(timeout_ms=_POLL_MS)
        for place, records in batches.items():
            end = ranges[place][1]
            yield [one for one in records if one.offset < end]
