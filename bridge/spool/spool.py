"""The spool: records on disk, in order, for as long as Kafka is unavailable or slower than the exchange.

A folder of segments. A segment is a file of blocks, each preceded by its length and checksum: a header, then
lists of entries as they were appended. A process that is killed leaves at most the last block torn, which is
cut off at the next start.

Each partition has its own offsets, as in Kafka: its entries are numbered from 0, and entries lost to damage
keep their numbers. `bridge.spool.progress` defines all quantities and has an example.

A partition to which nothing can be sent may be left behind: its entries stay unread while those of the others
are read, until it is taken up again.

Longer than 350 lines because reading, appending and deleting share one set of offsets.
"""

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO, TypeAlias

from msgspec.structs import replace

from bridge.errors import SpoolFull
from bridge.ledger import Watermark, advanced, newest
from bridge.records import Record
from bridge.spool.finding import SEGMENT_BYTES, segments_in
from bridge.spool.folder import Folder, number_of
from bridge.spool.gaps import Gaps, LostTrades
from bridge.spool.segment import (
    Entry,
    Header,
    Offsets,
    Place,
    blocks_of,
    entries_in,
    header_block,
    header_in,
    watermarks_in,
)

_NEVER = 2**63  # µs since the epoch

Spooled: TypeAlias = tuple[Place, Record, int]
"""An entry with its offset."""


Accepts: TypeAlias = Callable[[Entry], bool]
"""Whether an entry is one that the bridge can have written."""


@dataclass(slots=True)
class _Segment:
    name: str
    size: int  # bytes of its header and all entries; a failed write leaves nothing behind this
    end: Offsets  # where the next segment begins; of the newest one, the spool's own `end`


class Spool:
    """The spool in one folder, at most `max_bytes` large; entries that it does not accept count as damage."""

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        segment_bytes: int = SEGMENT_BYTES,
        *,
        accepts: Accepts = lambda _: True,
    ) -> None:
        self.header: Header | None = None  # of the newest segment; None while there is no spool
        self.end: Offsets = {}  # the offset that the next entry of each partition will have
        self.bytes = 0  # size of all segments on disk
        self.bytes_read = 0  # bytes that `read` has read from disk, again and again too
        self.unread = 0  # entries that `read` has yet to return: not lost, nor on Kafka when it was recovered
        self.left: Offsets = {}  # the partitions that are left behind, and from which offset on
        self.oldest_us = 0  # reception of about the oldest unread entry, µs since the epoch
        self.watermarks: dict[bytes, Watermark] = {}  # as they will be when all entries are on Kafka
        # The watermarks on Kafka, kept up to date by the owner: trades there are not lost with the spool.
        self.on_kafka: Mapping[bytes, Watermark] = {}
        self._folder = Folder(folder)
        self._accepts = accepts
        self._max_bytes = max_bytes
        self._segment_bytes = min(segment_bytes, max_bytes // 8)  # a larger segment is followed by another
        self._segments: list[_Segment] = []  # the oldest first
        self._file: FileIO | None = None  # the newest segment, to append to; None: the next entry begins one
        self._reading = 0  # index in `_segments` of the segment that is being read
        self._source: BinaryIO | None = None  # that segment's file; None until the next entry of it is read
        self._begin: Offsets = {}  # where the oldest segment begins
        self._next: Offsets = {}  # offset of the next entry in `_source`, whether it is returned or left out
        # `read` skips all entries below: as of the recovery on Kafka, or, when it went back, in memory or
        # before what is left behind.
        self._committed: Offsets = {}
        self._given_up: dict[Place, set[int]] = {}  # offsets behind those in `left`, or that were in there
        self._left_us: dict[Place, int] = {}  # the oldest reception among the entries that are left behind
        self._damage: list[str] = []  # descriptions of damage found since the last `damage()`
        self._gaps = Gaps()  # the gaps in trades that damage has caused
        self._known: Mapping[bytes, Watermark] = {}  # in front of the first of the entries in `_refused`
        self._refused = 0  # entries of the segment that is being read that were not accepted
        self._unreadable: set[str] = set()  # segments on which the disk reported an error; not tried again

    def find(self, spool: str | None = None) -> Header | None:
        """Open the spool of an earlier process; return its newest header, None if there is no spool.

        If there are files of several spools, it is the one with the id `spool`, or else the newest.

        Raises:
            OSError: the folder can't be read or written, or another process uses it.
        """
        self._folder.open()
        found = segments_in(self._folder, spool, self._damage)
        for one in found:
            if self._segments:
                self._segments[-1].end = dict(one.base)
            self._segments.append(_Segment(one.name, one.size, dict(one.base)))
            self.bytes += one.size
        if found:
            self._begin, self.end = dict(found[0].base), dict(found[-1].base)
            self._next = dict(self._begin)
            self.oldest_us = found[0].oldest_us
            self._segments[-1].end = self.end
            self._survey(self._segments[-1])
            self.unread = self._between(self._next, self.end)
        return self.header

    def skip(self, committed: Offsets) -> None:
        """Skip the entries below these committed offsets; to be called after `find`."""
        self._committed = dict(committed)
        if lost := self._between({}, self._next):
            self._damage.append(f"{lost} records in front of {self._segments[0].name} are lost")
            self._gaps.open(self.on_kafka, self._watermarks_in(self._segments[0], whole=False))
        self.unread = self._between(self._next, self.end)

    def resume(self, header: Header) -> None:
        """Begin a segment behind those of an earlier process.

        Raises:
            OSError: it can't be written; the next append tries again.
            SpoolFull: the header is too large.
        """
        self.header, self.watermarks = header, dict(header.watermarks)
        self.begin(header)

    def begin(self, header: Header) -> None:
        """Begin a segment, whose `base` is filled in here; the first one begins the spool.

        Raises:
            OSError: it can't be written; all is as before.
            SpoolFull: the header is too large.
        """
        header = replace(header, base=dict(self.end))
        block = header_block(header)
        name, file = self._folder.create(number_of(self._segments[-1].name) if self._segments else 0)
        segment = _Segment(name, 0, self.end)
        try:
            self._write(block, segment, file)
        except OSError:
            file.close()
            self._folder.delete(name)
            raise
        if self._segments:
            self._segments[-1].end = dict(self.end)
        self._segments.append(segment)
        if self._file is not None:
            self._file.close()
        self._file = file
        self.header = header
        self.watermarks = dict(header.watermarks)

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries at the end: all of them or none.

        Raises:
            SpoolFull: they would take it over its maximum size.
            OSError: they can't be written.
        """
        assert self.header is not None  # noqa: S101 - it has begun
        block = blocks_of(entries)
        header = None
        if self._file is None or self._segments[-1].size > self._segment_bytes:
            oldest_us = entries[0][1].time_us
            header = replace(self.header, watermarks=self.watermarks, oldest_us=max(0, oldest_us))
        needed = len(block) + (len(header_block(header)) if header else 0)
        if self.bytes + needed > self._max_bytes:
            raise SpoolFull(f"{self.bytes} of {self._max_bytes} bytes are used")
        if header:
            self.begin(header)
        assert self._file is not None  # noqa: S101 - so has the segment
        self._write(block, self._segments[-1], self._file)
        if not self.unread:
            self.oldest_us = entries[0][1].time_us
        self.unread += len(entries)
        self._count(entries)

    def read(self) -> list[Spooled] | None:
        """Return the unread entries of the next block, in order; None when all have been read.

        A block may have none, so that a caller can do something else before it has read all that others read.
        """
        while self._reading < len(self._segments):
            segment = self._segments[self._reading]
            if self._source is None and self._is_read(segment):
                self._next = dict(segment.end)
                self._reading += 1
                continue
            if entries := self._next_entries(segment):
                return self._pass(entries)
            self._end_segment(segment)
            if self._reading + 1 == len(self._segments):
                break
            self._close_source()
            self._reading += 1
        self.oldest_us = min(self._left_us.values(), default=self.oldest_us)  # nothing else is unread
        self._gaps.close_all()
        return None

    def position(self, place: Place) -> int:
        """Return the offset of the first entry of a partition that has been neither read nor committed."""
        if (left := self.left.get(place)) is not None:
            return left
        return max(self._next.get(place, 0), self._committed.get(place, 0))

    def seek_end(self, waiting: Collection[Place] = ()) -> None:
        """Count all entries as read, because memory has them too, except those of partitions that wait here.

        What is left behind stays so.
        """
        if self.left.keys() >= set(waiting):
            if self._segments:
                self._close_source()
                self._reading = len(self._segments) - 1
                self._source = self._folder.read(self._segments[-1].name)
                self._source.seek(self._segments[-1].size)
                self._next = dict(self.end)
            self.oldest_us = min(self._left_us.values(), default=self.oldest_us)
        else:
            self._committed |= {place: end for place, end in self.end.items() if place not in waiting}
        self.unread = sum(end - self.position(place) for place, end in self.end.items())
        self.unread -= sum(map(len, self._given_up.values()))

    def leave(self, place: Place, offsets: Sequence[int], records: Sequence[Record]) -> None:
        """Count these records, the last that were read of a partition, as unread, and leave it behind.

        Entries between these offsets that are not among them were given up, and are not read again. What is
        appended for the partition is left behind, too.
        """
        if holes := set(range(offsets[0], self.position(place))).difference(offsets):
            self._given_up.setdefault(place, set()).update(holes)
        self.left[place] = offsets[0]
        self._note_left(place, min(one.time_us for one in records))
        self.oldest_us = min((self.oldest_us if self.unread else _NEVER, self._left_us[place]))
        self.unread += len(records)

    def take_up(self, places: Iterable[Place]) -> None:
        """Go back to where these partitions were left behind, and read on; what was read comes once."""
        self._report_refused()
        self._committed |= {place: self.position(place) for place in self.end}
        for place in places:
            del self.left[place], self._left_us[place]
        self._close_source()
        self._reading, self._next = 0, dict(self._begin)

    def damage(self) -> list[str]:
        """Return descriptions of the damage found since the last call."""
        damage, self._damage = self._damage, []
        return damage

    def lost_trades(self) -> list[LostTrades]:
        """Return the gaps in trades caused by damage whose bounds were found since the last call."""
        return self._gaps.closed()

    def full(self, share: float) -> bool:
        """Return whether more than this share of the maximum size is used."""
        return self.bytes > share * self._max_bytes

    def forget(self, committed: Offsets) -> bool:
        """Delete the oldest segments if Kafka has all of them; return whether it has the whole spool."""
        while self._reading and _reaches(committed, self._segments[0].end):
            segment = self._segments.pop(0)
            self._folder.delete(segment.name)
            self.bytes -= segment.size
            self._begin = segment.end
            self._reading -= 1
        return not self.unread and _reaches(committed, self.end)

    def clear(self) -> None:
        """Delete everything.

        Raises:
            OSError: a file can't be deleted.
        """
        for file in (self._file, self._source):
            if file is not None:
                file.close()
        self._file = self._source = self.header = None
        self._segments, self._reading, self.bytes, self.unread = [], 0, 0, 0
        self.end, self._next, self._committed, self._gaps = {}, {}, {}, Gaps()
        self._begin, self.left, self._left_us, self._given_up = {}, {}, {}, {}
        self._unreadable.clear()  # the numbers of segments begin again
        self._folder.delete_all()

    def close(self) -> None:
        """Close the files and release the lock, for the next process or another owner in this one."""
        for file in (self._file, self._source):
            if file is not None:
                file.close()
        self._folder.close()

    def _next_entries(self, segment: _Segment) -> list[Entry] | None:
        """Return the next block of a segment; None at its end, or at the end of what can be read of it."""
        if segment.name in self._unreadable:
            return None
        try:
            if self._source is None:
                self._source = self._folder.read(segment.name)
                header_in(self._source)
            if self._source.tell() >= segment.size:
                return None
            begin = self._source.tell()
            entries = entries_in(self._source)
            self.bytes_read += self._source.tell() - begin
            if entries is None:
                self._source.seek(segment.size)
                self._end_appending(segment)
        except OSError as error:
            self._damage.append(str(error))
            self._unreadable.add(segment.name)
            self._end_appending(segment)
            return None
        return entries

    def _end_appending(self, segment: _Segment) -> None:
        """Have the next append begin another segment: what is behind damage is not found by a second read."""
        if segment is self._segments[-1] and self._file is not None:
            self._file.close()
            self._file = None

    def _is_read(self, segment: _Segment) -> bool:
        """Return whether there is nothing to be read in a segment, which is not the newest one."""
        return (
            segment is not self._segments[-1]
            and not self._between(self._next, segment.end)
            and not self._gaps.any_open
        )

    def _close_source(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None

    def _pass(self, entries: Iterable[Entry]) -> list[Spooled]:
        """Advance behind these entries; return those that Kafka does not have, with their offsets."""
        unread = []
        refused = 0
        next_offsets, committed, any_open = self._next, self._committed, self._gaps.any_open
        left, given_up = self.left, self._given_up
        for place, record in entries:
            offset = next_offsets.get(place, 0)
            next_offsets[place] = offset + 1
            is_waiting = offset >= committed.get(place, 0)
            if is_waiting and place in left and offset >= left[place]:
                self._note_left(place, record.time_us)
                continue
            if is_waiting and offset in given_up.get(place, ()):
                given_up[place].remove(offset)
                continue
            if is_waiting and not self._accepts((place, record)):
                refused += 1
                self._refuse(record)
                any_open = self._gaps.any_open
                continue
            if any_open:
                self._gaps.close(record)
            if is_waiting:
                unread.append((place, record, offset))
        if unread:
            self.oldest_us = min((unread[-1][1].time_us, *self._left_us.values()))
        self.unread -= len(unread) + refused
        return unread

    def _refuse(self, record: Record) -> None:
        """Count a record of the segment that is being read as lost, and open its gap if it is a trade.

        The segment is read once more for what was known before its first such record: that is where the gaps
        begin, also those of later ones.
        """
        if not self._refused:
            self._known = newest(
                self.on_kafka, self._watermarks_before(self._segments[self._reading], record)
            )
        self._refused += 1
        self._gaps.open(self._known, advanced(self._known, [record]))

    def _end_segment(self, segment: _Segment) -> None:
        """Advance to the end of a segment; entries missing before it were lost to damage.

        Of a partition that is left behind, they are missed when it is taken up.
        """
        self._report_refused()
        lost = self._between(self._next, segment.end)
        self._next = dict(segment.end)
        if lost:
            self.unread -= lost
            self._damage.append(f"{segment.name} is damaged: {lost} records are lost")
            readable = segment.name not in self._unreadable
            known = newest(self.on_kafka, self._watermarks_in(segment, whole=readable))
            behind = self._segments[self._reading + 1 :]
            self._gaps.open(known, self._watermarks_in(behind[0], whole=False) if behind else self.watermarks)

    def _report_refused(self) -> None:
        """Report the records of the segment that is being read that were not accepted."""
        if self._refused:
            what = "records for topics or partitions that are not the bridge's"
            self._damage.append(f"{self._segments[self._reading].name}: {self._refused} {what} are lost")
            self._refused = 0

    def _note_left(self, place: Place, time_us: int) -> None:
        self._left_us[place] = min(time_us, self._left_us.get(place, time_us))

    def _between(self, begin: Offsets, end: Offsets) -> int:
        """Return how many entries are between these offsets that Kafka does not have, nor are left behind."""
        return sum(
            max(
                0,
                min(last, self.left.get(place, last))
                - max(begin.get(place, 0), self._committed.get(place, 0)),
            )
            for place, last in end.items()
        )

    def _survey(self, segment: _Segment) -> None:
        """Count the entries of the last segment, and cut off a torn end that a killed process has left.

        Raises:
            OSError: it can't be read any more.
        """
        with self._folder.read(segment.name) as file:
            self.header = header_in(file)
            if self.header is None:
                raise OSError(f"{segment.name} has changed")
            self.watermarks = dict(self.header.watermarks)
            good = file.tell()
            while (entries := entries_in(file)) is not None:
                self._count(entries)
                good = file.tell()
        if torn := segment.size - good:
            cut = "were cut off" if self._folder.cut(segment.name, good) else "are not used"
            self._damage.append(f"{segment.name} has a torn end of {torn} bytes, which {cut}")
            segment.size = good
            self.bytes -= torn

    def _watermarks_in(self, segment: _Segment, *, whole: bool) -> dict[bytes, Watermark]:
        try:
            with self._folder.read(segment.name) as file:
                return watermarks_in(file, whole=whole)
        except OSError:
            return {}

    def _watermarks_before(self, segment: _Segment, record: Record) -> dict[bytes, Watermark]:
        """Return the watermarks in front of the first entry with this record."""
        watermarks: dict[bytes, Watermark] = {}
        with contextlib.suppress(OSError), self._folder.read(segment.name) as file:
            header = header_in(file)
            watermarks.update(header.watermarks if header else {})
            while entries := entries_in(file):
                records = [one for _, one in entries]
                found = record in records
                records = records[: records.index(record)] if found else records
                watermarks.update(advanced(watermarks, records))
                if found:
                    break
        return watermarks

    def _count(self, entries: Sequence[Entry]) -> None:
        """Advance the end and the watermarks behind entries that are on disk."""
        for place, _ in entries:
            self.end[place] = self.end.get(place, 0) + 1
        marked = [record for _, record in entries if record.mark is not None]
        if marked:
            self.watermarks.update(advanced(self.watermarks, marked))

    def _write(self, block: bytes, segment: _Segment, file: FileIO) -> None:
        """Write a block, or nothing of it."""
        try:
            written = 0
            while written < len(block):
                written += file.write(block[written:])
        except OSError:
            file.truncate(segment.size)
            file.seek(segment.size)
            raise
        segment.size += len(block)
        self.bytes += len(block)


def _reaches(committed: Offsets, end: Offsets) -> bool:
    return all(committed.get(place, 0) >= offset for place, offset in end.items())
