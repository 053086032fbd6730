"""bridge-state: the state of a shard and its owner, stored on Kafka together with the records.

Each shard has a partition of the topic, in which the newest record of a key counts; `bridge.kafka.contents`
has the keys. They are written in the transaction of the records that they describe. So after a crash they
match the records on Kafka, and after a commit whose response was lost they show whether it succeeded.

Nobody else writes to the partition while the shard is served, or something is wrong: each save follows the
one before it. Where there is a hole between two of them, what is in it is read.

Longer than 350 lines because what is read, kept and saved is one account of the same values.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import NamedTuple

import msgspec
from aiokafka import AIOKafkaConsumer

from bridge.config import Delivery, KafkaConfig
from bridge.errors import Contested, ShardLost
from bridge.kafka.contents import (
    ACCOUNT,
    BOOK,
    CLUSTER,
    OWNER,
    RENEWALS,
    SPOOL,
    TRADES,
    Found,
    contents,
    lease_of,
    name_of,
    newness,
    opposes,
    owner_of,
)
from bridge.kafka.reader import Follower, Read, behind_stable, consumer, read
from bridge.kafka.topics import Topic, mismatch
from bridge.ledger import Heard, Watermark, Watermarks, advanced
from bridge.plan import shard_of
from bridge.records import Record
from bridge.seen import Seen
from bridge.spool.progress import Owner

_LOOK_INTERVAL = 1.0  # seconds at least between two looks at what others write
_MOST_FOUND = 1000  # things found that nobody has taken yet


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
    places: list[tuple[int, int]]  # where its batches are on Kafka, as far as known: first offset, records

    @property
    def spool_progress(self) -> bytes | None:
        """The committed offsets of the spool, encoded; None if they are not among the values."""
        return self.values.get(SPOOL)


class ShardState:
    """The state of one shard, as `replica` keeps it."""

    def __init__(self, config: KafkaConfig, topic: Topic, shard: int, replica: str) -> None:
        self.topic = topic
        self.shard = shard
        self.replica = replica
        self.shards = config.shards  # how many there are
        self.watermarks: dict[bytes, Watermark] = {}  # by symbol, of the settled records
        self.heard: dict[str, Heard] = {}  # by account, as saved
        self.books: set[bytes] = set()  # the symbols that have a record of `book`, as saved
        # Returns the last-heard times of each account that may be saved with everything received up to a time
        # (None: with everything). Set by the shard, which knows its sessions.
        self.savable: Callable[[int | None], Mapping[str, Heard]] = lambda _: {}
        self.unreadable: set[bytes] = set()  # symbols whose watermark could not be used at the takeover
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
        self._transaction = 0  # number of the last transaction that was prepared, committed or not
        self._cluster = b""  # the cluster as it is to be saved; empty before `follow`
        self._committed = 0  # number of the last transaction that was read, or known to be committed
        # Returns whether an owner of another group, or with another number of shards, is known to be gone.
        # Set by the shard.
        self.is_gone: Callable[[int, Owner], bool] = lambda _shard, _owner: False
        exactly_once = config.delivery is Delivery.EXACTLY_ONCE
        self._follower = Follower(topic.name, shard, marked=exactly_once)
        self._begun: dict[int, Read] = {}  # what a read of the other partitions that failed had read
        # The newest value of each key, until the first `catch_up` has used them.
        self._values: dict[bytes | None, bytes | None] | None = {}
        self._found: list[Found] = []  # what nobody has taken yet
        self._saved_at = -float("inf")  # when the newest committed save began, on the monotonic clock
        self._saving_at = self._saved_at  # the same of the newest save
        self.due = False  # whether to save even if nothing else has changed; set by the sink
        self.ended = False  # whether the newest save says that this replica has stopped with nothing left
        # Both wait to be saved; a value that changes again while it is being saved stays for the next save.
        self._unsaved: dict[bytes, bytes | None] = {}  # values by key; None: a tombstone
        self._unsaved_watermarks: dict[bytes, Watermark] = {}  # by symbol; at-least-once only

    async def look(self) -> None:
        """Read on, and find out whether this replica may serve the shard.

        Raises:
            Contested: a bridge of another group, or with another number of shards, has served it last.
            ShardLost: another replica has served the shard since it was taken over.
            KafkaError: Kafka is unavailable.
        """
        async with consumer(self._config) as reader:
            await self._read_on(reader)

    async def hanging(self) -> Owner | None:
        """Return the owner in a transaction that has no end in the shard's partition; None if there is none.

        To be called after a producer was opened, which should have ended all transactions of the shard.

        Raises:
            KafkaError: Kafka is unavailable.
        """
        part = await behind_stable(self._config, self.topic.name, self.shard)
        return owner_of(part.values.get(OWNER))

    async def catch_up(self) -> int:
        """Read on to the end; return the number of this replica's last committed transaction, 0 for none.

        To be called after a producer was opened, which commits or aborts the transaction that was left open.

        Raises:
            Contested: a bridge of another group, or with another number of shards, has served it last.
            ShardLost: another replica has served the shard since it was read last.
            KafkaError: Kafka is unavailable.
        """
        async with consumer(self._config) as reader:
            await self._read_on(reader)
            if self._values is None:
                return self._committed
            owner, values = owner_of(self._values.get(OWNER)), self._values
            if owner is None or owner.shards != self.shards:
                values = await self._moved_here(reader, values)
        self.previous = owner
        self._load(values)
        self._values = None
        self._committed = self._transaction
        return self._committed

    def take_found(self) -> list[Found]:
        """Return what somebody else has written to the partition, once."""
        found, self._found = self._found, []
        return found

    def follow(self, topic: Topic, seen: Seen) -> bool:
        """Follow what has changed of the cluster; return whether bridge-state is another topic now.

        Then all that is known is saved again.
        """
        replaced = "" != topic.id != self.topic.id != ""
        self.topic = topic
        if (cluster := msgspec.json.encode(seen)) != self._cluster:
            self._cluster = self._unsaved[CLUSTER] = cluster
        if replaced:
            self._begun.clear()
            self._follower.begin_anew()
        if replaced and self._follower.has_begun:
            self.write_anew()
        return replaced

    def complete(self, watermarks: Watermarks) -> None:
        """Include watermarks that bridge-state does not have, because it was lost; the next save has them."""
        for symbol in watermarks.keys() - self.watermarks.keys():
            self.watermarks[symbol] = watermarks[symbol]
            self._unsaved[TRADES + symbol] = msgspec.json.encode(watermarks[symbol])

    def write_anew(self) -> None:
        """Include all that is known in the next save, because bridge-state has lost it."""
        self.was_lost = True
        values: dict[bytes, bytes | None] = {CLUSTER: self._cluster}
        for symbol, watermark in self.watermarks.items():
            values[TRADES + symbol] = msgspec.json.encode(watermark)
        for account, heard in self.heard.items():
            values[ACCOUNT + account.encode()] = msgspec.json.encode(heard)
        values.update((BOOK + symbol, b"{}") for symbol in self.books)
        self._unsaved = self._unsaved | values | {k: one for k, one in self._unsaved.items() if one is None}
        self._saved_at = -float("inf")  # its owner, too

    def acknowledged(self, records: Iterable[Record]) -> None:
        """Advance the watermarks over acknowledged records; the next save includes them."""
        changed = advanced(self.watermarks, records)
        self.watermarks.update(changed)
        self._unsaved_watermarks.update(changed)

    @property
    def unsaved(self) -> bool:
        """Whether there is something to save, apart from the watermarks of records that are pending."""
        return bool(self._unsaved or self._unsaved_watermarks or self.due) or self.renewal_in <= 0

    @property
    def renewal_in(self) -> float:
        """Seconds until the owner has to be saved again, so that everybody sees that it is alive."""
        return self._saved_at + lease_of(self._config) / RENEWALS - time.monotonic()

    @property
    def safe_until(self) -> float:
        """Monotonic time up to which no other bridge can count this one as gone."""
        return self._saved_at + lease_of(self._config) / 2

    @property
    def disturbed(self) -> bool:
        """Whether somebody else has written to the shard's partition since it was read."""
        return self._follower.disturbed

    @property
    def has_to_look(self) -> bool:
        """Whether to `look` before anything else is written: another bridge may have taken the shard over."""
        now = time.monotonic()
        if self.disturbed:
            return now > self._follower.read_at + _LOOK_INTERVAL
        return now > max(self.safe_until, self._follower.read_at + lease_of(self._config) / 2)

    @property
    def next_number(self) -> int:
        """The number of the next transaction."""
        return self._transaction + 1

    def note_spool(self, progress: bytes) -> None:
        """Include the committed offsets of the spool in the next save."""
        self._unsaved[SPOOL] = progress

    def note_books(self, records: Iterable[Record]) -> None:
        """Include in the next save which symbols have a book; a record without a value is its tombstone."""
        for record in records:
            symbol, value = record.key or b"", b"{}" if record.value else None
            if (value is None) == (symbol in self.books) or self._unsaved.get(BOOK + symbol, value) != value:
                self._unsaved[BOOK + symbol] = value

    def has_book(self, symbol: bytes) -> bool:
        """Return whether the newest save says that a symbol has a book, and nothing else is to be saved."""
        return symbol in self.books and BOOK + symbol not in self._unsaved

    def withdraw_tombstones(self, records: Iterable[Record]) -> None:
        """Take back what `note_books` has noted of the tombstones among these: they are not on Kafka."""
        for record in records:
            key = BOOK + (record.key or b"")
            if not record.value and self._unsaved.get(key, b"") is None:
                del self._unsaved[key]

    def forget_old(self, subscribed: Collection[str], before_us: int) -> int:
        """Forget symbols without a trade since a time in µs, unless subscribed to; return their number.

        The next save has their tombstones.
        """
        old = [
            symbol
            for symbol, watermark in self.watermarks.items()
            if watermark.last[1] < before_us and symbol.decode() not in subscribed
        ]
        self._unsaved.update((TRADES + symbol, None) for symbol in old)
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
        owner = Owner(
            self.replica,
            self.shards,
            self._transaction,
            saved_us=max(0, complete_us),
            ended=ended,
            group=self._config.group_id,
            lease=lease_of(self._config),
        )
        self._saving_at = time.monotonic()
        changed = self._unsaved_watermarks | advanced(self.watermarks, sent)
        heard = self.changed_heard(unsaved)
        for symbol in changed:
            if self._unsaved.get(TRADES + symbol, b"") is None:
                del self._unsaved[TRADES + symbol]  # it is traded again
        values = {OWNER: msgspec.json.encode(owner), **self._unsaved}
        for symbol, watermark in changed.items():
            values[TRADES + symbol] = msgspec.json.encode(watermark)
        for account, heard_us in heard.items():
            values[ACCOUNT + account.encode()] = msgspec.json.encode(heard_us)
        return Save(self._transaction, values, changed, heard, ended, [])

    def saved(self, save: Save) -> None:
        """Forget these values, now that Kafka has committed them."""
        self._saved_at = self._saving_at
        self._follower.skip(save.places)
        self.due, self.ended = False, save.ended
        self.heard.update(save.heard)
        for account in save.heard:
            self._unsaved.pop(ACCOUNT + account.encode(), None)  # older ones, from another shard
        for symbol, watermark in save.changed.items():
            if self._unsaved.get(TRADES + symbol) is not None:
                del self._unsaved[TRADES + symbol]  # an older one; a tombstone would be newer
            if self._unsaved_watermarks.get(symbol) is watermark:
                del self._unsaved_watermarks[symbol]
            elif symbol not in self._unsaved_watermarks:
                self.watermarks[symbol] = watermark
        for key, value in save.values.items():
            if key.startswith(BOOK):
                (self.books.discard if value is None else self.books.add)(key.removeprefix(BOOK))
            if key in self._unsaved and self._unsaved[key] == value:
                del self._unsaved[key]
                symbol = key.removeprefix(TRADES)
                if value is None and symbol not in self._unsaved_watermarks:
                    self.watermarks.pop(symbol, None)

    async def _read_on(self, reader: AIOKafkaConsumer) -> None:
        part = await self._follower.read_on(reader)
        if self._values is not None:
            self._values = part.values if self._follower.has_lost else self._values | part.values
            if (owner := owner_of(self._values.get(OWNER))) is not None:
                self._admit(self.shard, owner)
            partitions = reader.partitions_for_topic(self.topic.name)
            if partitions is not None and len(partitions) != self.shards:
                raise Contested(mismatch(self.topic.name, len(partitions), self.shards))
        else:
            for replica in self._successors(part):
                raise ShardLost(f"replica {replica} has taken over")
            if self._follower.has_lost:
                self.write_anew()
            if (own := part.owners.get(self.replica)) is not None:
                self._committed, self.was_lost = own.transaction, False
            self._note(part)

    def _successors(self, part: Read) -> Iterator[str]:
        """Return which other replicas have been the owner since this one took the shard over.

        What was read from the beginning has those before it as well, so there the newest owner counts. That
        may be the one before this replica, if the partition has lost what this one had written.
        """
        owners: Iterable[Owner] = part.owners.values()
        if self._follower.has_lost:
            newest = owner_of(part.values.get(OWNER))
            owners = [] if newest is None or newest == self.previous else [newest]
        return (owner.replica for owner in owners if owner.replica != self.replica)

    def _admit(self, shard: int, owner: Owner) -> None:
        """Raise Contested unless the owner before is a replica of this bridge, has ended, or is gone."""
        if opposes(self._config, owner) and not self.is_gone(shard, owner):
            raise Contested(f"replica {owner.replica} of group {owner.group} serves it")

    def _note(self, part: Read) -> None:
        """Note what somebody else has written while this replica serves the shard.

        The next save has tombstones of what was for this replica, and replaces what can't be used.
        """
        found = contents(part.values)
        own = self._config.group_id, self.shards
        self._find(one for one in found.seconds.values() if (one.group, one.shards) != own)
        self._find(found.unreadable)
        self._unsaved.update(dict.fromkeys(found.seconds))
        for one in found.unreadable:
            symbol = (one.symbol or "").encode()
            if symbol in self.watermarks:
                self._unsaved[TRADES + symbol] = msgspec.json.encode(self.watermarks[symbol])

    def _find(self, found: Iterable[Found]) -> None:
        self._found += islice(found, _MOST_FOUND - len(self._found))

    def _load(self, values: Mapping[bytes | None, bytes | None]) -> None:
        found = contents(values)
        self.watermarks.update(found.watermarks)
        self.heard.update(found.heard)
        self.books |= found.books
        self.spool_progress, self.remembered = found.spool_progress, found.remembered
        self._find(found.unreadable)
        self._unsaved.update(dict.fromkeys(found.seconds))
        # It is reported once: unless the symbol is traded again, the next save forgets it.
        symbols = (one.symbol.encode() for one in found.unreadable if one.symbol is not None)
        self.unreadable = {symbol for symbol in symbols if self.has_symbol(symbol)}
        self._unsaved.update((TRADES + symbol, None) for symbol in self.unreadable)
        if self.previous is not None and self.previous.replica == self.replica:
            self._transaction = self.previous.transaction

    async def _moved_here(
        self, reader: AIOKafkaConsumer, own: Mapping[bytes | None, bytes | None]
    ) -> dict[bytes | None, bytes | None]:
        """Return the values in all partitions of the symbols and accounts that belong to this shard now.

        They have moved if the number of shards was changed. The newest value of each counts, because a symbol
        may have moved more than once.
        """
        found = dict(own)
        others = {n: None for n in range(self.topic.partitions) if n != self.shard}
        for number, part in (await read(reader, self.topic.name, others, self._begun)).items():
            if (owner := owner_of(part.values.get(OWNER))) is not None:
                self._admit(number, owner)
            for key, value in part.values.items():
                if key is None or not self._is_ours(key):
                    continue
                if newness(key, value) > newness(key, found.get(key)):
                    found[key] = self._unsaved[key] = value
                elif value is not None and found.get(key) is None:
                    found[key] = value  # it can't be used, which is to be reported
        return found

    def has_symbol(self, symbol: bytes) -> bool:
        """Return whether a symbol belongs to this shard."""
        return self._is_ours(TRADES + symbol)

    def _is_ours(self, key: bytes) -> bool:
        name = name_of(key)
        return name is not None and shard_of(name, self.shards) == self.shard
