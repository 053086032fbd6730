"""What waits on disk behind the queues of a sink, and how much of it Kafka has taken.

While something waits in the spool, new records go to its end and the oldest ones move on into the queues. All
that is in memory then is on disk, too, so a process that is killed, or has to stop, leaves nothing behind.
How much Kafka has taken is kept with the shard's state, in the transaction that takes it.
"""

import time
import uuid
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import chain, islice

import msgspec
import structlog

from bridge.errors import SpoolFull
from bridge.kafka.partition import Partition
from bridge.kafka.state import Owner, Save, State
from bridge.ledger import Watermark, advanced, newest
from bridge.records import session_of
from bridge.spool.segment import Counts, Entry, Header
from bridge.spool.spool import Spool
from bridge.watch.events import About, Kind

log = structlog.get_logger(__name__)

NOTE = b"spool"

_BLOCK = 1000  # records that are written at once when the spool begins
_ROOM = 0.9  # of the spool's bound: below it, a full spool takes records again

Tell = Callable[[Kind, About], None]
"""Tell of an event of this kind."""


class Taken(msgspec.Struct, frozen=True):
    """Up to where in each partition Kafka has taken a spool, with this transaction of a replica."""

    spool: str
    taken: Counts
    transaction: tuple[str, int] | None = None


_decode_taken = msgspec.json.Decoder(Taken).decode


class Overflow:
    """The records of one shard that memory has no room for; without a spool there is never room for any.

    `active` while new records have to queue up here.
    """

    def __init__(self, spool: Spool | None, state: State, replica: str, tell: Tell) -> None:
        self.active = False
        self._spool = spool
        self._state = state
        self._replica = replica
        self._tell = tell
        self._base: Counts = {}
        self._behind: list[Entry] = []
        self._refused = False
        if spool is not None:
            spool.on_kafka = state.watermarks

    @property
    def size(self) -> int:
        """Bytes on disk."""
        return self._spool.bytes if self._spool else 0

    @property
    def waiting(self) -> int:
        """Records that no queue in memory has."""
        return (self._spool.waiting if self._spool else 0) + len(self._behind)

    @property
    def age(self) -> float:
        """Seconds since the oldest record that waits was received; 0 if none does."""
        return max(0.0, time.time() - self._spool.oldest_us / 1e6) if self._spool and self.waiting else 0.0

    @property
    def watermarks(self) -> Mapping[bytes, Watermark]:
        """The watermarks of what is on Kafka, and of what will be when all of the spool is."""
        return self._spool.watermarks if self._spool and self._spool.header else self._state.watermarks

    def recover(self) -> None:
        """Take up what an earlier process has left, unless another replica has had the shard since."""
        if self._spool is None:
            return
        try:
            header = self._spool.find()
            if header is None:
                self._tell_damage()
                return
            previous = self._state.previous
            note = self._state.notes.get(NOTE)
            known = _decode_taken(note) if note is not None else None
            if (reason := _discarded(header, previous, known, self._state.shards)) is not None:
                detail = f"{self._spool.waiting} records: {reason}"
                self._spool.clear()
                log.error("spool discarded", shard=self._state.shard, detail=detail)
                self._tell("spool_discarded", {"detail": detail})
                return
            kept = self._spool.counts
            taken = {p: min(n, kept.get(p, 0)) for p, n in _taken(header, previous, known).items()}
            self._spool.skip(taken)
            self._base = {place: -number for place, number in taken.items()}
            committed = (previous.replica, previous.transaction) if previous else None
            # Of a symbol whose part of the spool Kafka has taken it may have more than the spool knows of.
            watermarks = newest(self._state.watermarks, self._spool.watermarks)
        except OSError as error:
            self._fail(error)
            self._spool.close()
            self._spool = None
            return
        self.active = True
        try:
            self._spool.go_on(self._header(header.spool, watermarks, committed, taken))
        except OSError as error:
            # What is there can be read all the same, and that makes room.
            self._fail(error)
        log.info("spool found", shard=self._state.shard, records=self._spool.waiting, bytes=self.size)
        self._tell_damage()

    def begin(self, partitions: Collection[Partition]) -> bool:
        """Let new records queue up here, behind all that is in memory; return whether that can be."""
        if self._spool is None:
            return False
        memory = {partition: (*partition.sent, *partition.queued) for partition in partitions}
        known = {}
        for partition in partitions:
            # What Kafka has taken since the last record was read from disk has never been there.
            kept = self._spool.kept(partition.place)
            self._base[partition.place] = max(self._base_of(partition), partition.settled - kept)
            known[partition] = partition.on_disk(kept - partition.settled + self._base_of(partition))
        on_disk = chain.from_iterable(islice(memory[p], known[p]) for p in partitions if p.marked)
        watermarks = {**self._state.watermarks, **advanced(self._state.watermarks, on_disk)}
        committed, taken = None, {}
        if self._state.committing is not None:
            committed = (self._replica, self._state.committing.transaction)
            taken = self._taken_of_all(partitions, with_sent=True)
        try:
            name = self._spool.header.spool if self._spool.header else uuid.uuid4().hex
            self._spool.begin(self._header(name, watermarks, committed, taken))
            for partition in partitions:
                unknown = islice(memory[partition], known[partition], None)
                while block := [(partition.place, record) for record in islice(unknown, _BLOCK)]:
                    self._spool.append(block)
        except (OSError, SpoolFull) as error:
            self._fail(error)
            return False
        finally:
            self._spool.seek_end()
        self.active, self._refused = True, False
        log.warning("spool begins", shard=self._state.shard)
        self._tell("spool_begun", {"detail": "Kafka does not take the records as fast as they come"})
        return True

    def put(self, entries: Sequence[Entry]) -> bool:
        """Queue new records up; return whether there is room for more, False when reading has to pause."""
        if self._spool is not None and not self._behind:
            try:
                self._spool.append(entries)
            except (OSError, SpoolFull) as error:
                self._fail(error)
            else:
                return True
        self._behind += entries
        return False

    def next(self) -> Sequence[Entry]:
        """Return the oldest records that wait; after the last of them new ones need not queue up any more."""
        entries: Sequence[Entry] = ()
        if self._spool is not None:
            entries = self._spool.read()
            while self._spool.damage or self._spool.gaps:
                self._tell_damage()
                self._tell_gaps()
                entries = entries or self._spool.read()
        if not entries:
            self.active = False
            entries, self._behind = self._behind, []
        return entries

    def has_room(self) -> bool:
        """Tell if reading may go on: what had no room is on disk, and there is some for more."""
        if not self.active:
            return True
        if self._spool is None or self._spool.full(_ROOM):
            return False
        entries, self._behind = self._behind, []
        return not entries or self.put(entries)

    def note(self, partitions: Iterable[Partition], *, with_sent: bool) -> dict[bytes, bytes]:
        """Return for the state how much of the spool Kafka has taken, or will with what is sent."""
        if self._spool is None or self._spool.header is None:
            return {}
        taken = self._taken_of_all(partitions, with_sent=with_sent, on_disk=True)
        transaction = (self._replica, self._state.next_number)
        return {NOTE: msgspec.json.encode(Taken(self._spool.header.spool, taken, transaction))}

    def saved(self, save: Save) -> None:
        """Delete what Kafka has taken by what was saved: the next process goes by that."""
        note = save.values.get(NOTE)
        if self._spool is None or self._spool.header is None or note is None:
            return
        try:
            if not self._spool.forget(_decode_taken(note).taken) or self.active:
                return
            self._spool.clear()
        except OSError as error:
            self._fail(error)
            return
        self._base = {}
        log.info("spool ends", shard=self._state.shard)
        self._tell("spool_ended", {"detail": "all of it is on Kafka"})

    def park(self, partitions: Collection[Partition]) -> tuple[int, int]:
        """Leave all that waits on disk, for the process ends; return how many records are there, and lost."""
        waiting = sum(len(p.sent) + len(p.queued) for p in partitions)
        if waiting and not self.active and not self.begin(partitions):
            return 0, waiting
        if not self.active or self._spool is None:
            return 0, 0
        entries, self._behind = self._behind, []
        lost = len(entries) if entries and not self.put(entries) else 0
        return waiting + self._spool.waiting, lost

    def close(self) -> None:
        """Leave what is on disk as it is."""
        if self._spool is not None:
            self._spool.close()

    def _header(
        self,
        spool: str,
        watermarks: Mapping[bytes, Watermark],
        transaction: tuple[str, int] | None,
        taken: Counts,
    ) -> Header:
        previous = self._state.previous
        return Header(
            spool=spool,
            replica=self._replica,
            predecessor=(previous.replica, previous.transaction) if previous else None,
            watermarks=dict(watermarks),
            transaction=transaction,
            taken=taken,
        )

    def _taken_of_all(
        self, partitions: Iterable[Partition], *, with_sent: bool, on_disk: bool = False
    ) -> Counts:
        """Return up to where Kafka has the spool, also of partitions that this process has not met.

        What has never been `on_disk` may be left out, for it would stand for what comes there later.
        """
        assert self._spool is not None  # noqa: S101 - the callers have looked
        taken = dict.fromkeys(self._spool.counts, 0)
        taken |= {place: -base for place, base in self._base.items() if base < 0}
        for partition in partitions:
            number = partition.settled_with_sent if with_sent else partition.settled
            taken[partition.place] = number - self._base_of(partition)
        for place, number in taken.items():
            most = min(number, self._spool.kept(place)) if on_disk else number
            taken[place] = self._spool.place_of(place, most)
        return taken

    def _base_of(self, partition: Partition) -> int:
        """Return how many records Kafka had taken when the spool began, of this process's."""
        return self._base.get(partition.place, 0)

    def _fail(self, error: OSError | SpoolFull) -> None:
        """Tell once that the spool takes nothing; that is when reading pauses."""
        if not self._refused:
            self._refused = True
            log.error("the spool takes nothing more, so reading pauses", error=str(error))
            self._tell("spool_overflowed", {"detail": str(error)})

    def _tell_damage(self) -> None:
        if self._spool is not None:
            for damage in self._spool.damage:
                log.error("spool damaged", shard=self._state.shard, detail=damage)
                self._tell("spool_damaged", {"detail": damage})
            self._spool.damage.clear()

    def _tell_gaps(self) -> None:
        """Tell of the trades that damage has cost; the records of the events queue up behind all others."""
        if self._spool is None:
            return
        gaps, self._spool.gaps = self._spool.gaps, []
        for symbol, known, first in gaps:
            about: About = {
                "channel": "trades",
                "symbol": symbol.decode(),
                "detail": "the spool was damaged",
                "after_id": known.ids[-1],
                "after_us": known.time_us,
                "filled": 0,
            }
            if first is not None and first.mark is not None:
                about["session"] = session_of(first)
                about["before_id"], about["before_us"], _ = first.mark
            self._tell("gap", about)


def _discarded(header: Header, previous: Owner | None, known: Taken | None, shards: int) -> str | None:
    """Say why a spool can't be taken up; None if those who had it are the last who have served the shard."""
    if previous is None:
        return None
    if previous.shards != shards:
        return f"there were {previous.shards} shards, now there are {shards}"
    last = (previous.replica, previous.transaction)
    if previous.replica == header.replica or last == header.predecessor:
        return None
    # The last one could not write to the disk, but has told Kafka what it took from there.
    if known is not None and (known.spool, known.transaction) == (header.spool, last):
        return None
    return f"{previous.replica} has served the shard since"


def _taken(header: Header, previous: Owner | None, known: Taken | None) -> Counts:
    """Return up to where Kafka has taken a spool, by its newest header and the shard's state."""
    if previous is not None and (previous.replica, previous.transaction) == header.transaction:
        return header.taken
    if known is not None and known.spool == header.spool:
        return known.taken
    return {}
