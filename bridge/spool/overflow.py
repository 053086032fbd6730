"""The overflow of a shard's memory to disk: the spooled records, and the committed offsets among them.

While the spool has unread records, new ones are appended to it, and the oldest ones move up into memory.
All records in memory are in the spool as well then, so a process that is killed or stopped loses nothing.

A partition to which nothing can be sent is left behind in the spool, and what is received for it is appended
there; the others do not wait for it, in the spool or in memory. Example: a b c are for partition 1, A B C for
partition 2, which has no leader.

                                                    memory     spool, unread   active   reading   left
     a A b B, memory is full: spooling starts       a b        A B             yes      yes       2
     C c arrive and are appended                    a b        A B C c         yes      yes       2
     a b are settled; c is read                     c          A B C           yes      yes       2
     the end is reached: partition 1 needs no disk  c          A B C           no       no        2
     D d arrive                                     c d        A B C D         no       no        2
     partition 2 has a leader again; A B are read   c d A B    C D             no       yes
     E e arrive; C D E are read, to the end         A B C D e E                no       no

`bridge.spool.progress` defines the quantities, with an example.

Longer than 350 lines because what is on disk, in memory and held between them is one account.
"""

import time
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import TypeAlias

import msgspec
import structlog
from msgspec.structs import replace

from bridge.errors import SpoolFull
from bridge.ledger import Watermark, advanced, newest
from bridge.records import EVENTS, Kind, Record, schema_of
from bridge.seen import Seen
from bridge.spool.gaps import gap
from bridge.spool.progress import (
    Backlog,
    Owner,
    Progress,
    committed_offsets,
    decode_progress,
    first_unsent,
    outdated,
    settled_offset,
)
from bridge.spool.segment import Commit, Entry, Header, Offsets, Place, shares
from bridge.spool.spool import Spool
from bridge.watch.events import About

log = structlog.get_logger(__name__)

_ROOM = 0.9  # of the spool's maximum size: below it, reading from the exchange resumes

Next: TypeAlias = tuple[Place, Record, int | None]
"""A record that moves up into memory, with its offset in the spool; None if it is not there."""

SpoolEvent: TypeAlias = tuple[Kind, About]
"""An event for the journal: its kind and its fields."""


class Overflow:
    """The records of one shard that memory has no room for; without a spool there is never room for any.

    `watermarks` is a live view of the watermarks on Kafka. Events are collected until the caller takes them
    with `events` and records them in the journal.
    """

    def __init__(
        self, spool: Spool | None, replica: str, shard: int, watermarks: Mapping[bytes, Watermark]
    ) -> None:
        # Whether all new records have to queue up here. From the beginning of a spool until all of it was
        # read, except what is left behind.
        self.active = False
        self.reading = False  # whether `next` may have more: while active, and after `take_up`
        self.recovered = False  # whether the spool of an earlier process is continued
        self.seen: Seen | None = None  # the cluster that the records are for
        self.remembered: Seen | None = None  # the same, of the spool that an earlier process has left
        self._read_once = False  # whether the end of the spool was reached since then
        self._spool = spool
        self._replica = replica
        self._shard = shard
        self._on_kafka = watermarks
        self._previous: Owner | None = None  # the owner before this process, from bridge-state
        # New records that the disk did not take, the oldest first; reading is paused while there are any.
        self._held: list[Entry] = []
        # Why the shard has no spool although one is configured; None if it has.
        self.trouble: str | None = None
        # Whether the disk's refusal is reported; reset when it takes records again, or memory has room.
        self._refusing = False
        self._events: list[SpoolEvent] = []  # since the last `events()`, the oldest first
        if spool is not None:
            spool.on_kafka = watermarks

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._spool.bytes if self._spool else 0

    @property
    def bytes_read(self) -> int:
        """Bytes that `next` has read from disk so far, also those of records that it did not return."""
        return self._spool.bytes_read if self._spool else 0

    @property
    def waiting(self) -> int:
        """Records that are not in memory's queues yet."""
        return (self._spool.unread if self._spool else 0) + len(self._held)

    @property
    def has_room(self) -> bool:
        """Whether the disk is likely to take all of memory; False without a spool."""
        return self._spool is not None and not self._spool.full(_ROOM)

    @property
    def oldest_us(self) -> int | None:
        """When the oldest waiting record was received, or earlier, µs since the epoch; None if none waits.

        0 while records of an earlier process may wait: they need not be in order of reception.
        """
        if self._spool is not None and self._spool.unread:
            return 0 if self.recovered and not self._read_once else self._spool.oldest_us
        return self._held[0][1].time_us if self._held else None

    @property
    def waiting_since_us(self) -> int | None:
        """When the oldest waiting record was received, as exactly as that is known; None if none waits.

        Of the spool of an earlier process that is the beginning of its oldest segment, until memory has that.
        """
        if self._spool is not None and self._spool.unread:
            return self._spool.oldest_us
        return self._held[0][1].time_us if self._held else None

    @property
    def watermarks(self) -> Mapping[bytes, Watermark]:
        """The watermarks as they will be when all of the spool is on Kafka."""
        return self._spool.watermarks if self._spool and self._spool.header else self._on_kafka

    @property
    def left(self) -> Collection[Place]:
        """The partitions that are left behind on disk."""
        return self._spool.left if self._spool else ()

    @property
    def has_events(self) -> bool:
        """Whether `events` would return any."""
        return bool(self._events)

    def events(self) -> list[SpoolEvent]:
        """Return the events since the last call."""
        events, self._events = self._events, []
        return events

    def recover(self, previous: Owner | None, shards: int, progress: bytes | None) -> None:
        """Continue the spool that an earlier process has left, or discard it.

        `previous` and `progress` are the owner and the offsets in bridge-state. A spool is discarded if
        another replica has served the shard since, or the shard has other symbols now. If an owner has not
        said that it ended with nothing left, and its spool is not here, what it had in memory is lost.
        """
        self._previous = previous
        if self._spool is not None:
            self._continue(self._spool, previous, shards, progress)
        if previous is not None and not previous.ended and not self.recovered:
            self._report_lost(previous)

    def begin(self, backlogs: Sequence[Backlog], committing: int | None) -> dict[Place, range]:
        """Append all pending records, so that new ones queue up behind them; if that worked, `active` is set.

        Events come first: what is read back is sent in the order of the spool, and no trade may be on Kafka
        before the gap in front of it.

        `committing` is the number of the transaction with the sent records, if its commit was requested.
        Returns the offsets of the records that were appended.
        """
        spool = self._spool
        if spool is None:
            return {}
        begins = {one.place: spool.end.get(one.place, 0) for one in backlogs}
        unread = {place for place, end in spool.end.items() if spool.position(place) < end}
        behind = {place: spool.position(place) for place in unread}
        spooled = chain.from_iterable(one.records[: len(one.spooled)] for one in backlogs)
        watermarks = {**self._on_kafka, **advanced(self._on_kafka, spooled)}
        if unread:
            watermarks = newest(watermarks, spool.watermarks)
        ends = begins | behind  # where the records that memory has end
        settled = spool.end | behind | {one.place: settled_offset(one, ends[one.place]) for one in backlogs}
        transaction, committed = None, {}
        if committing is not None:
            transaction = Commit(self._replica, committing)
            committed = (
                spool.end | behind | {one.place: first_unsent(one, ends[one.place]) for one in backlogs}
            )
        try:
            name = spool.header.spool if spool.header else uuid.uuid4().hex
            header = self._header(name, watermarks, settled, transaction, committed)
            oldest_us = min((one.records[0].time_us for one in backlogs if one.records), default=_now_us())
            spool.begin(replace(header, oldest_us=max(0, oldest_us)))
            for one in _events_first(backlogs):
                for block in shares(one.records[len(one.spooled) :]):
                    spool.append([(one.place, record) for record in block])
        except (OSError, SpoolFull) as error:
            self._report_refusal(error)
        else:
            self.active = self.reading = True
            self._refusing = False
            log.warning("spooling started", shard=self._shard)
            detail = "Kafka is unavailable or slower than the exchange"
            self._events.append(("spool_begun", {"detail": detail}))
        spool.seek_end(unread)
        return {place: range(first, spool.end.get(place, 0)) for place, first in begins.items()}

    def put(self, entries: Sequence[Entry]) -> bool:
        """Append new records; return whether there is room for more, False when reading has to pause."""
        if self._spool is not None and not self._held:
            try:
                self._spool.append(entries)
            except (OSError, SpoolFull) as error:
                self._report_refusal(error)
            else:
                self._refusing = False
                return True
        self._held += entries
        return False

    def leave(self, place: Place, offsets: Sequence[int], records: Sequence[Record]) -> None:
        """Leave a partition behind, from these records on, which are the last that were read of it.

        They need not be in memory any more; `offsets` are theirs.
        """
        if self._spool is not None:
            self._spool.leave(place, offsets, records)

    def take_up(self, places: Collection[Place]) -> None:
        """Have `next` return what was left behind of these partitions."""
        if self._spool is not None:
            self._spool.take_up(places)
            self.reading = True

    def next(self) -> Iterable[Next]:
        """Return the oldest waiting records; after the last of them new ones need not queue up any more.

        But those for partitions that are left behind still have to. There may be none in what is read from
        disk at once; while `reading` is set, there may be more.
        """
        entries: Sequence[Next] | None = None
        if self._spool is not None:
            entries = self._spool.read()
            self._report_damage()
        if entries is None:
            self.active = self.reading = False
            self._read_once = True
            left = self.left
            entries = [(place, record, None) for place, record in self._held if place not in left]
            self._held = [one for one in self._held if one[0] in left]
        return entries

    def make_room(self) -> bool:
        """Try again to append the records that the disk did not take; return whether reading can resume."""
        if self.active or self._held:
            if self._spool is None or self._spool.full(_ROOM):
                return False
            entries, self._held = self._held, []
            if entries and not self.put(entries):
                return False
        self._refusing = False
        return True

    def progress(self, first_pending: Iterable[tuple[Place, int]], number: int) -> bytes | None:
        """Return the spool's committed offsets as of commit `number`, for bridge-state; None without a spool.

        `first_pending` are the offsets of the first spooled records that will be pending then.
        """
        spool = self._spool
        if spool is None or spool.header is None:
            return None
        committed = {place: spool.position(place) for place in spool.end} | dict(first_pending)
        return msgspec.json.encode(Progress(spool.header.spool, committed, Commit(self._replica, number)))

    def saved(self, progress: bytes) -> None:
        """Delete spooled records below the committed offsets in `progress`, now that these are saved."""
        spool = self._spool
        saved = decode_progress(progress)
        if spool is None or spool.header is None or spool.header.spool != saved.spool:
            return
        try:
            if not spool.forget(saved.committed) or self.reading:
                return
            spool.clear()
        except OSError as error:
            self._report_refusal(error)
            return
        log.info("spooling finished", shard=self._shard)
        self._events.append(("spool_ended", {"detail": "all spooled records are on Kafka"}))

    def park(self) -> tuple[int, int]:
        """Append the held records before the process ends.

        Returns the number of spooled records that are unread (not in memory), and the number lost.
        """
        if self._spool is None:
            return 0, len(self._held)
        entries, self._held = self._held, []
        lost = len(entries) if entries and not self.put(entries) else 0
        return self._spool.unread, lost

    def close(self) -> None:
        """Close the files of the spool; they stay on disk for the next process."""
        if self._spool is not None:
            self._spool.close()

    def _continue(self, spool: Spool, previous: Owner | None, shards: int, progress: bytes | None) -> None:
        """Continue the spool of an earlier process, if there is one and it is not outdated."""
        try:
            known = decode_progress(progress) if progress is not None else None
            header = spool.find(known.spool if known else None)
            self._report_damage()
            if header is None:
                return
            self.remembered = header.cluster
            if (reason := outdated(header, previous, known, shards)) is not None:
                detail = f"{spool.unread} records: {reason}"
                spool.clear()
                log.error("spool discarded", shard=self._shard, detail=detail)
                self._events.append(("spool_discarded", {"detail": detail}))
                return
            committed = committed_offsets(header, previous, known)
            committed = {place: min(n, spool.end.get(place, 0)) for place, n in committed.items()}
            spool.skip(committed)
            # For a symbol whose spooled records are all on Kafka, Kafka may have newer ones than the spool.
            watermarks = newest(self._on_kafka, spool.watermarks)
        except OSError as error:
            # Another start finds it again, if it can be used then.
            log.error("spool not usable, the shard is served without it", shard=self._shard, error=str(error))
            self.trouble = f"shard {self._shard} is served without its spool, until a restart: {error}"
            spool.close()
            self._spool = None
            return
        self.active = self.reading = self.recovered = True
        try:
            spool.resume(self._header(header.spool, watermarks, committed, None, {}))
        except (OSError, SpoolFull) as error:
            # The earlier segments can still be read, and that makes room.
            self._report_refusal(error)
        log.info("spool recovered", shard=self._shard, records=spool.unread, bytes=self.size)
        self._report_damage()

    def _header(
        self,
        spool: str,
        watermarks: Mapping[bytes, Watermark],
        settled: Offsets,
        transaction: Commit | None,
        committed: Offsets,
    ) -> Header:
        previous = self._previous
        return Header(
            spool=spool,
            replica=self._replica,
            predecessor=Commit(previous.replica, previous.transaction) if previous else None,
            watermarks=dict(watermarks),
            settled=settled,
            transaction=transaction,
            committed=committed,
            oldest_us=_now_us(),
            cluster=self._seen_by_all(),
        )

    def _seen_by_all(self) -> Seen | None:
        """Return the cluster that the records of the spool are for, also those of an earlier header."""
        before = self._spool.header.cluster if self._spool and self._spool.header else None
        return self.seen.with_earlier(before) if self.seen and before else self.seen or before

    def _report_lost(self, previous: Owner) -> None:
        """Report that the previous owner ended without having delivered all that it had received."""
        about: About = {
            "detail": f"{previous.replica} ended without delivering all that it had received",
            "before_us": _now_us(),
        }
        if previous.saved_us:
            about["after_us"] = previous.saved_us
        self._events.append(("records_lost", about))

    def _report_refusal(self, error: OSError | SpoolFull) -> None:
        """Report, once for each overflow, that the disk takes nothing more."""
        if not self._refusing:
            self._refusing = True
            log.error("spool full or not writable, reading from the exchange paused", error=str(error))
            self._events.append(("spool_overflowed", {"detail": str(error)}))

    def _report_damage(self) -> None:
        """Report damage to the spool, and the gaps in trades that it has caused."""
        if self._spool is None:
            return
        for damage in self._spool.damage():
            log.error("spool damaged", shard=self._shard, detail=damage)
            self._events.append(("spool_damaged", {"detail": damage}))
        self._events += [("gap", gap(lost)) for lost in self._spool.lost_trades()]


def _now_us() -> int:
    return time.time_ns() // 1000


def _events_first(backlogs: Iterable[Backlog]) -> list[Backlog]:
    return sorted(backlogs, key=lambda one: not one.records or schema_of(one.records[0].channel) != EVENTS)
