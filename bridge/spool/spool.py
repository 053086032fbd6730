"""The spool: records on disk, in order, for as long as Kafka is unavailable or slower than the exchange.

A folder of segments. A segment is a file of blocks, each preceded by its length and checksum: a header, then
lists of entries as they were appended. A process that is killed leaves at most the last block torn, which is
cut off at the next start.

Each partition has its own offsets, as in Kafka: its entries are numbered from 0, and entries lost to damage
keep their numbers. `bridge.spool.progress` defines all quantities and has an example.
"""

import fcntl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO, TypeAlias

from msgspec.structs import replace

from bridge.errors import SpoolFull
from bridge.ledger import Watermark, advanced, newest
from bridge.records import Record
from bridge.spool.gaps import Gaps, LostTrades
from bridge.spool.segment import (
    Entry,
    Header,
    Offsets,
    Place,
    block_of,
    entries_in,
    header_in,
    next_block,
    watermarks_in,
)

_SEGMENT_BYTES = 16 * 1024 * 1024

Spooled: TypeAlias = tuple[Place, Record, int]
"""An entry with its offset."""


@dataclass(slots=True)
class _Segment:
    path: Path
    size: int  # bytes of its header and all entries; a failed write leaves nothing behind this
    end: Offsets  # where the next segment begins; of the newest one, the spool's own `end`


class Spool:
    """The spool in one folder, at most `max_bytes` large."""

    def __init__(self, folder: Path, max_bytes: int, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self.header: Header | None = None  # of the newest segment; None while there is no spool
        self.end: Offsets = {}  # the offset that the next entry of each partition will have
        self.bytes = 0  # size of all segments on disk
        self.unread = 0  # entries that `read` has yet to return: not lost, nor on Kafka when it was recovered
        self.oldest_us = 0  # reception of about the oldest unread entry, µs since the epoch
        self.watermarks: dict[bytes, Watermark] = {}  # as they will be when all entries are on Kafka
        # The watermarks on Kafka, kept up to date by the owner: trades there are not lost with the spool.
        self.on_kafka: Mapping[bytes, Watermark] = {}
        self._folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = min(segment_bytes, max_bytes // 8)  # a larger segment is followed by another
        self._segments: list[_Segment] = []  # the oldest first
        self._file: FileIO | None = None  # the newest segment, to append to; None: the next entry begins one
        self._reading = 0  # index in `_segments` of the segment that is being read
        self._source: BinaryIO | None = None  # that segment's file; None until the next entry of it is read
        self._next: Offsets = {}  # offset of the next entry in `_source`, whether it is returned or left out
        self._committed: Offsets = {}  # as of the recovery; `read` skips all entries below
        self._damage: list[str] = []  # descriptions of damage found since the last `damage()`
        self._gaps = Gaps()  # the gaps in trades that damage has caused
        self._unreadable: set[Path] = set()  # segments on which the disk reported an error; not tried again
        self._lock: BinaryIO | None = None  # held from `find` to `close`

    def find(self) -> Header | None:
        """Open the spool of an earlier process; return its newest header, None if there is no spool.

        Raises:
            OSError: the folder can't be read or written, or another process uses it.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self._folder / "lock").open("wb")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(error.errno, "another bridge uses this folder", str(self._folder)) from None
        for path in self._paths():
            with path.open("rb") as file:
                header = header_in(file)
                if header is None:
                    self._damage.append(f"{path.name} has no header")
                    continue
                if self.header is None:
                    self._next = dict(header.base)
                self.header, self.end = header, dict(header.base)
                self.watermarks = header.watermarks
                if self._segments:
                    self._segments[-1].end = dict(header.base)
                self._segments.append(_Segment(path, path.stat().st_size, self.end))
                self.bytes += self._segments[-1].size
                self.oldest_us = self.oldest_us or int(path.stat().st_mtime * 1e6)
        if self._segments:
            self._survey(self._segments[-1])
            self.unread = self._between(self._next, self.end)
        return self.header

    def skip(self, committed: Offsets) -> None:
        """Skip the entries below these committed offsets; to be called after `find`."""
        self._committed = dict(committed)
        if lost := self._between({}, self._next):
            self._damage.append(f"{lost} records in front of {self._segments[0].path.name} are lost")
            self._gaps.open(self.on_kafka, watermarks_in(self._segments[0].path, whole=False))
        self.unread = self._between(self._next, self.end)

    def resume(self, header: Header) -> None:
        """Begin a segment behind those of an earlier process.

        Raises:
            OSError: it can't be written; the next append tries again.
        """
        self.header, self.watermarks = header, dict(header.watermarks)
        self.begin(header)

    def begin(self, header: Header) -> None:
        """Begin a segment, whose `base` is filled in here; the first one begins the spool.

        Raises:
            OSError: it can't be written; all is as before.
        """
        header = replace(header, base=dict(self.end))
        paths = [*self._paths(), *(segment.path for segment in self._segments)]
        number = max((int(path.stem) for path in paths), default=0) + 1
        segment = _Segment(self._folder / f"{number:012d}.spool", 0, self.end)
        file = segment.path.open("xb", buffering=0)
        try:
            self._write(block_of(header), segment, file)
        except OSError:
            file.close()
            segment.path.unlink()
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
        block = block_of(entries)
        header = None
        if self._file is None or self._segments[-1].size > self._segment_bytes:
            header = replace(self.header, watermarks=self.watermarks)
        needed = len(block) + (len(block_of(header)) if header else 0)
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

    def read(self) -> list[Spooled]:
        """Return the next unread entries, in order; none when all have been read."""
        while self._reading < len(self._segments):
            segment = self._segments[self._reading]
            while entries := self._next_entries(segment):
                if unread := self._pass(entries):
                    return unread
            self._end_segment(segment)
            if self._reading + 1 == len(self._segments):
                break
            self._close_source()
            self._reading += 1
        self._gaps.close_all()
        return []

    def position(self, place: Place) -> int:
        """Return the offset of the first entry of a partition that has been neither read nor committed."""
        return max(self._next.get(place, 0), self._committed.get(place, 0))

    def seek_end(self) -> None:
        """Count all entries as read, because memory has them too."""
        if self._segments:
            self._close_source()
            self._reading = len(self._segments) - 1
            self._source = self._segments[-1].path.open("rb")
            self._source.seek(self._segments[-1].size)
            self._next, self.unread = dict(self.end), 0

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
            segment.path.unlink(missing_ok=True)
            self.bytes -= segment.size
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
        self._unreadable.clear()  # the numbers of segments begin again
        for path in self._paths():
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the files and release the lock, for the next process or another owner in this one."""
        for file in (self._file, self._source, self._lock):
            if file is not None:
                file.close()

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("*.spool"))

    def _next_entries(self, segment: _Segment) -> list[Entry] | None:
        """Return the next block of a segment; None at its end, or at the end of what can be read of it."""
        if segment.path in self._unreadable:
            return None
        try:
            if self._source is None:
                self._source = segment.path.open("rb")
                next_block(self._source)  # the header
            if self._source.tell() >= segment.size:
                return None
            entries = entries_in(self._source)
            if entries is None:
                self._source.seek(segment.size)
        except OSError as error:
            self._damage.append(str(error))
            self._unreadable.add(segment.path)
            if segment is self._segments[-1] and self._file is not None:
                self._file.close()
                self._file = None  # the next append begins another segment
            return None
        return entries

    def _close_source(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None

    def _pass(self, entries: Iterable[Entry]) -> list[Spooled]:
        """Advance behind these entries; return those that Kafka does not have, with their offsets."""
        unread = []
        next_offsets, committed, any_open = self._next, self._committed, self._gaps.any_open
        for place, record in entries:
            offset = next_offsets.get(place, 0)
            next_offsets[place] = offset + 1
            if any_open:
                self._gaps.close(record)
            if offset >= committed.get(place, 0):
                unread.append((place, record, offset))
        if unread:
            self.oldest_us = unread[-1][1].time_us
        self.unread -= len(unread)
        return unread

    def _end_segment(self, segment: _Segment) -> None:
        """Advance to the end of a segment; entries missing before it were lost to damage."""
        lost = self._between(self._next, segment.end)
        self._next = dict(segment.end)
        if lost:
            self.unread -= lost
            self._damage.append(f"{segment.path.name} is damaged: {lost} records are lost")
            readable = segment.path not in self._unreadable
            known = newest(self.on_kafka, watermarks_in(segment.path, whole=readable))
            behind = self._segments[self._reading + 1 :]
            self._gaps.open(known, watermarks_in(behind[0].path, whole=False) if behind else self.watermarks)

    def _between(self, begin: Offsets, end: Offsets) -> int:
        """Return how many entries are between these offsets that Kafka does not have."""
        return sum(
            max(0, last - max(begin.get(place, 0), self._committed.get(place, 0)))
            for place, last in end.items()
        )

    def _survey(self, segment: _Segment) -> None:
        """Count the entries of the last segment, and cut off a torn end that a killed process has left."""
        with segment.path.open("r+b") as file:
            next_block(file)
            good = file.tell()
            while (entries := entries_in(file)) is not None:
                self._count(entries)
                good = file.tell()
            torn = segment.size - good
            if torn:
                self._damage.append(f"{segment.path.name} has a torn end of {torn} bytes, which were cut off")
                file.truncate(good)
                segment.size = good
                self.bytes -= torn

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
