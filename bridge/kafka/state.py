"""bridge-state: the state of a shard and its owner, stored on Kafka together with the records.

Each shard has a partition of the topic, in which the newest record of a key counts:

    owner               the replica that serves the shard, and the number of its last transaction
    trades/<symbol>     the watermark of a symbol
    account/<name>      the last-heard times of its private channels
    spool               the committed offsets of the spool
    cluster             which cluster and topics these are

They are written in the transaction of the records that they describe. So after a crash they match the records
on Kafka, and after a commit whose response was lost they show whether it succeeded.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaTimeoutError

from bridge.config import KafkaConfig
from bridge.errors import ShardLost
from bridge.kafka import quirks
from bridge.kafka.client import client, explained, reading, understood
from bridge.kafka.topics import Topic
from bridge.ledger import Heard, Watermark, Watermarks, advanced
from bridge.plan import shard_of
from bridge.records import Record
from bridge.seen import Seen
from bridge.spool.progress import Owner

_OWNER = b"owner"
_TRADES = b"trades/"
_ACCOUNT = b"account/"
_SPOOL = b"spool"
_CLUSTER = b"cluster"

_PATIENCE = 60.0  # seconds to read the whole state
_POLL_MS = 500


class Unsaved(NamedTuple):
    """The oldest records that a save now would leave out: when they were received, µs since the epoch.

    `public`: of the public channels; `other`: of all others, events and dead letters included. None: a save
    leaves nothing out.
    """

    public: int | None
    other: int | None


class Save(NamedTuple):
    """The values that are written to bridge-state together, in the transaction of this number."""

    transaction: int
    values: dict[bytes, bytes | None]  # by key; None: a tombstone
    changed: dict[bytes, Watermark]  # the watermarks among them, by symbol
    heard: dict[str, Heard]  # the last-heard times among them, by account
    ended: bool  # whether it says that the replica has stopped with nothing left

    @property
    def spool_progress(self) -> bytes | None:
        """The committed offsets of the spool, encoded; None if they are not among the values."""
        return self.values.get(_SPOOL)


_decode_owner = msgspec.json.Decoder(Owner).decode
_decode_watermark = msgspec.json.Decoder(Watermark).decode
_decode_heard = msgspec.json.Decoder(dict[str, int]).decode
_decode_seen = msgspec.json.Decoder(Seen).decode


class ShardState:
    """The state of one shard, as `replica` keeps it."""

    def __init__(self, config: KafkaConfig, topic: Topic, shard: int, replica: str) -> None:
        self.topic = topic
        self.shard = shard
        self.shards = config.shards  # how many there are
        self.watermarks: dict[bytes, Watermark] = {}  # by symbol, of the settled records
        self.heard: dict[str, Heard] = {}  # by account, as saved
        # Returns the last-heard times of each account that may be saved with everything received up to a time
        # (None: with everything). Set by the shard, which knows its sessions.
        self.savable: Callable[[int | None], Mapping[str, Heard]] = lambda _: {}
        self.previous: Owner | None = None  # the owner before this process; set by the first `catch_up`
        self.spool_progress: bytes | None = None  # the committed offsets that the previous owner has saved
        self.remembered: Seen | None = None  # the cluster that the previous owner has saved
        # Whether bridge-state has lost what this replica had saved there, because the topic, or the disk
        # under it, has come back empty; until `catch_up` finds a save there again.
        self.was_lost = False
        # The save in the transaction that is being committed. Without a response only Kafka knows whether the
        # commit succeeded. Set by the sink before it commits; None again once the result is known.
        self.committing: Save | None = None
        self._config = config
        self._replica = replica
        self._transaction = 0  # number of the last transaction that was prepared, committed or not
        self._read_to: int | None = None  # the partition's next offset to read; None before the first read
        # What a read from the beginning has found, with tombstones, and its next offset; for the next try.
        self._begun: dict[int, tuple[dict[bytes, bytes | None], int]] = {}
        self._cluster = b""  # the cluster as it is to be saved; empty before `follow`
        self.due = False  # whether to save even if nothing else has changed; set by the sink
        self.ended = False  # whether the newest save says that this replica has stopped with nothing left
        self._claimed = False  # whether this replica has been saved as the owner
        # Both wait to be saved; a value that changes again while it is being saved stays for the next save.
        self._unsaved: dict[bytes, bytes | None] = {}  # values by key; None: a tombstone
        self._unsaved_watermarks: dict[bytes, Watermark] = {}  # by symbol; at-least-once only

    async def catch_up(self) -> int:
        """Read the shard's state; return the number of this replica's last committed transaction, 0 for none.

        To be called after a producer was opened, which commits or aborts the transaction that was left open.

        Raises:
            ShardLost: another replica has served the shard since it was read last.
            KafkaError: Kafka is unavailable.
        """
        found, end = (await self._read({self.shard: self._read_to}))[self.shard]
        if self._read_to is not None and end < self._read_to:
            found, end = (await self._read({self.shard: None}))[self.shard]
            self.write_anew()
        owner = _decode_owner(found[_OWNER]) if _OWNER in found else None
        if self._read_to is None:
            self.previous = owner
            if owner is None or owner.shards != self._config.shards:
                found = await self._moved_here(found)
            self._load(found)
        elif owner is not None and owner.replica != self._replica:
            raise ShardLost(f"replica {owner.replica} has taken over")
        self._read_to = end
        self._begun.clear()
        if owner is not None:
            self.was_lost = False
        return owner.transaction if owner is not None and owner.replica == self._replica else 0

    def follow(self, topic: Topic, seen: Seen) -> bool:
        """Follow what has changed of the cluster; return whether bridge-state is another topic now.

        Then all that is known is saved again.
        """
        replaced = "" != topic.id != self.topic.id != ""
        self.topic = topic
        if (cluster := msgspec.json.encode(seen)) != self._cluster:
            self._cluster = self._unsaved[_CLUSTER] = cluster
        if replaced:
            self._begun.clear()
        if replaced and self._read_to is not None:
            self._read_to = 0
            self.write_anew()
        return replaced

    def complete(self, watermarks: Watermarks) -> None:
        """Include watermarks that bridge-state does not have, because it was lost; the next save has them."""
        for symbol in watermarks.keys() - self.watermarks.keys():
            self.watermarks[symbol] = watermarks[symbol]
            self._unsaved[_TRADES + symbol] = msgspec.json.encode(watermarks[symbol])

    def write_anew(self) -> None:
        """Include all that is known in the next save, because bridge-state has lost it."""
        self.was_lost = True
        values: dict[bytes, bytes | None] = {_CLUSTER: self._cluster}
        for symbol, watermark in self.watermarks.items():
            values[_TRADES + symbol] = msgspec.json.encode(watermark)
        for account, heard in self.heard.items():
            values[_ACCOUNT + account.encode()] = msgspec.json.encode(heard)
        self._unsaved = values | self._unsaved
        self._claimed = False

    def acknowledged(self, records: Iterable[Record]) -> None:
        """Advance the watermarks over acknowledged records; the next save includes them."""
        changed = advanced(self.watermarks, records)
        self.watermarks.update(changed)
        self._unsaved_watermarks.update(changed)

    @property
    def unsaved(self) -> bool:
        """Whether there is something to save, apart from the watermarks of records that are pending."""
        return bool(self._unsaved or self._unsaved_watermarks or self.due) or not self._claimed

    @property
    def next_number(self) -> int:
        """The number of the next transaction."""
        return self._transaction + 1

    def note_spool(self, progress: bytes) -> None:
        """Include the committed offsets of the spool in the next save."""
        self._unsaved[_SPOOL] = progress

    def forget_old(self, subscribed: Collection[str], before_us: int) -> int:
        """Forget symbols without a trade since a time in µs, unless subscribed to; return their number.

        The next save has their tombstones.
        """
        old = [
            symbol
            for symbol, watermark in self.watermarks.items()
            if watermark.last[1] < before_us and symbol.decode() not in subscribed
        ]
        self._unsaved.update((_TRADES + symbol, None) for symbol in old)
        return len(old)

    def changed_heard(self, unsaved: Unsaved) -> dict[str, Heard]:
        """Return the last-heard times of the accounts that a save would change; they never go back."""
        changed: dict[str, Heard] = {}
        complete_us = None if unsaved.other is None else unsaved.other - 1
        for account, savable in self.savable(complete_us).items():
            saved = self.heard.get(account, {})
            later = {channel: us for channel, us in savable.items() if us > saved.get(channel, -1)}
            if later:
                changed[account] = {**saved, **later}
        return changed

    def save(self, sent: Iterable[Record], unsaved: Unsaved, *, ended: bool = False) -> Save:
        """Return the values that transaction `next_number` saves together with the records that were sent.

        `unsaved` says which records are not among these, nor on Kafka already; `ended` that nothing is left
        and nothing more will come.
        """
        self._transaction += 1
        complete_us = min((us - 1 for us in unsaved if us is not None), default=time.time_ns() // 1000)
        owner = Owner(self._replica, self._config.shards, self._transaction, max(0, complete_us), ended)
        changed = self._unsaved_watermarks | advanced(self.watermarks, sent)
        heard = self.changed_heard(unsaved)
        for symbol in changed:
            if self._unsaved.get(_TRADES + symbol, b"") is None:
                del self._unsaved[_TRADES + symbol]  # it is traded again
        values = {_OWNER: msgspec.json.encode(owner), **self._unsaved}
        for symbol, watermark in changed.items():
            values[_TRADES + symbol] = msgspec.json.encode(watermark)
        for account, heard_us in heard.items():
            values[_ACCOUNT + account.encode()] = msgspec.json.encode(heard_us)
        return Save(self._transaction, values, changed, heard, ended)

    def saved(self, save: Save) -> None:
        """Forget these values, now that Kafka has committed them."""
        self._claimed = True
        self.due, self.ended = False, save.ended
        self.heard.update(save.heard)
        for account in save.heard:
            self._unsaved.pop(_ACCOUNT + account.encode(), None)  # older ones, from another shard
        for symbol, watermark in save.changed.items():
            if self._unsaved_watermarks.get(symbol) is watermark:
                del self._unsaved_watermarks[symbol]
            elif symbol not in self._unsaved_watermarks:
                self.watermarks[symbol] = watermark
        for key, value in save.values.items():
            if key in self._unsaved and self._unsaved[key] == value:
                del self._unsaved[key]
                symbol = key.removeprefix(_TRADES)
                if value is None and symbol not in self._unsaved_watermarks:
                    self.watermarks.pop(symbol, None)

    def _load(self, found: Mapping[bytes, bytes]) -> None:
        for key, value in found.items():
            if key.startswith(_TRADES):
                self.watermarks[key.removeprefix(_TRADES)] = _decode_watermark(value)
            elif key.startswith(_ACCOUNT):
                self.heard[key.removeprefix(_ACCOUNT).decode()] = _decode_heard(value)
            elif key == _SPOOL:
                self.spool_progress = value
            elif key == _CLUSTER:
                self.remembered = _decode_seen(value)
        if self.previous is not None and self.previous.replica == self._replica:
            self._transaction = self.previous.transaction

    async def _moved_here(self, own: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
        """Return the values in all partitions of the symbols and accounts that belong to this shard now.

        They have moved if the number of shards was changed. The newest value of each counts, because a symbol
        may have moved more than once.
        """
        found = dict(own)
        others = await self._read({n: None for n in range(self.topic.partitions) if n != self.shard})
        for values, _ in others.values():
            for key, value in values.items():
                if self._is_ours(key) and _newness(key, value) > _newness(key, found.get(key)):
                    found[key] = self._unsaved[key] = value
        return found

    def _is_ours(self, key: bytes) -> bool:
        _kind, _, name = key.partition(b"/")
        return bool(name) and shard_of(name.decode(), self._config.shards) == self.shard

    async def _read(self, offsets: Mapping[int, int | None]) -> dict[int, tuple[dict[bytes, bytes], int]]:
        """Return for each partition the newest value of each key, from an offset on, and its end offset.

        A key whose newest value is a tombstone is left out.
        """
        if not offsets:
            return {}
        consumer = client(
            AIOKafkaConsumer, self._config, isolation_level="read_committed", auto_offset_reset="earliest"
        )
        try:
            with explained(consumer):
                return await self._read_with(consumer, offsets)
        finally:
            await quirks.wait_closed(consumer.stop())

    async def _read_with(
        self, consumer: AIOKafkaConsumer, offsets: Mapping[int, int | None]
    ) -> dict[int, tuple[dict[bytes, bytes], int]]:
        try:
            async with asyncio.timeout(_PATIENCE):
                with understood(), reading():
                    await consumer.start()
                    return await self._read_all(consumer, offsets)
        except TimeoutError:
            raise KafkaTimeoutError(f"{self.topic.name} could not be read in {_PATIENCE:g} s") from None

    async def _read_all(
        self, consumer: AIOKafkaConsumer, offsets: Mapping[int, int | None]
    ) -> dict[int, tuple[dict[bytes, bytes], int]]:
        places = {TopicPartition(self.topic.name, n): offset for n, offset in offsets.items()}
        consumer.assign(list(places))
        # Not seek_to_beginning(): it may wait forever if the topic is so new that its leader is unknown.
        begins = await consumer.beginning_offsets(list(places))
        ends = await consumer.end_offsets(list(places))
        values: dict[int, dict[bytes, bytes | None]] = {}
        for place, offset in places.items():
            known, position = self._begun.get(place.partition, ({}, 0))
            if offset is not None or position > ends[place]:
                known, position = {}, offset or 0
            values[place.partition] = known
            consumer.seek(place, max(position, begins[place]))
        while [place for place in places if await consumer.position(place) < ends[place]]:
            quirks.require_fetching(consumer)
            for place, batch in (await consumer.getmany(timeout_ms=_POLL_MS)).items():
                known = values[place.partition]
                known.update((one.key, one.value) for one in batch)
                if places[place] is None:
                    self._begun[place.partition] = known, batch[-1].offset + 1
        return {
            place.partition: (
                {key: one for key, one in values[place.partition].items() if one is not None},
                end,
            )
            for place, end in ends.items()
        }


def _newness(key: bytes, value: bytes | None) -> tuple[int, ...]:
    """Return a value that is higher for the newer of two values of a key."""
    if value is None:
        return -1, -1
    if key.startswith(_TRADES):
        return _decode_watermark(value).newness
    return 0, max(_decode_heard(value).values(), default=0)
