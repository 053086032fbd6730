"""The spool: records on disk, in order, for as long as Kafka does not take them.

A folder of segments. A segment is a row of blocks, each with its length and checksum in front: a header, then
lists of entries as they were appended. A process that is killed leaves at most the last block torn, which is
cut off. Entries are counted by partition, for Kafka takes those of one partition in order and of different
ones in any: up to which place in each it has them tells which are left. Those lost by damage count, too.
"""

import fcntl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

from msgspec.structs import replace

from bridge.errors import SpoolFull
from bridge.ledger import Watermark, advanced, newest
from bridge.records import Record
from bridge.spool.segment import (
    Counts,
    Entry,
    Header,
    Place,
    block_of,
    entries_in,
    header_in,
    next_block,
    watermarks_in,
)

_SEGMENT_BYTES = 16 * 1024 * 1024


class Missing(NamedTuple):
    """Trades that damage has cost: those of a symbol after `known`, before `first`; None if none follows."""

    symbol: bytes
    known: Watermark
    first: Record | None


@dataclass(slots=True)
class _Segment:
    path: Path
    size: int
    end: Counts


class Spool:
    """The spool in one folder.

    `header` is that of its newest segment, None while there is none. `counts` are of all entries since it
    began, `waiting` how many are to be read, `bytes` its size on disk, `oldest_us` about when the next entry
    to be read came. `damage` says what could not be read, `gaps` which trades are missing for it: none that
    are `on_kafka`.
    """

    def __init__(self, folder: Path, max_bytes: int, segment_bytes: int = _SEGMENT_BYTES) -> None:
        self.header: Header | None = None
        self.counts: Counts = {}
        self.bytes = 0
        self.waiting = 0
        self.oldest_us = 0
        self.watermarks: dict[bytes, Watermark] = {}
        self.damage: list[str] = []
        self.gaps: list[Missing] = []
        self.on_kafka: Mapping[bytes, Watermark] = {}
        self._folder = folder
        self._max_bytes = max_bytes
        self._segment_bytes = min(segment_bytes, max_bytes // 8)
        self._segments: list[_Segment] = []
        self._file: FileIO | None = None
        self._source: BinaryIO | None = None
        self._reading = 0
        self._read: Counts = {}
        self._taken: Counts = {}
        self._holes: dict[Place, list[tuple[int, int]]] = {}
        self._unreadable: set[Path] = set()
        self._missed: dict[bytes, Watermark] = {}
        self._lock: BinaryIO | None = None

    def find(self) -> Header | None:
        """Take up what an earlier process has left; return the newest header, None if there is none.

        Raises:
            OSError: the folder can't be read or written, or is another process's.
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
                    self.damage.append(f"{path.name} has no header")
                    continue
                if self.header is None:
                    self._read = dict(header.before)
                self.header, self.counts = header, dict(header.before)
                self.watermarks = header.watermarks
                if self._segments:
                    self._segments[-1].end = dict(header.before)
                self._segments.append(_Segment(path, path.stat().st_size, self.counts))
                self.bytes += self._segments[-1].size
                self.oldest_us = self.oldest_us or int(path.stat().st_mtime * 1e6)
        if self._segments:
            self._survey(self._segments[-1])
            self.waiting = sum(self.counts.values()) - sum(self._read.values())
        return self.header

    def begin(self, header: Header) -> None:
        """Begin a segment, whose `before` is filled in here; the first one begins the spool.

        Raises:
            OSError: it can't be written.
        """
        header = replace(header, before=dict(self.counts))
        paths = [*self._paths(), *(segment.path for segment in self._segments)]
        number = max((int(path.stem) for path in paths), default=0) + 1
        segment = _Segment(self._folder / f"{number:012d}.spool", 0, self.counts)
        file = segment.path.open("xb", buffering=0)
        try:
            self._write(block_of(header), segment, file)
        except OSError:
            file.close()
            segment.path.unlink()
            raise
        if self._segments:
            self._segments[-1].end = dict(self.counts)
        self._segments.append(segment)
        if self._file is not None:
            self._file.close()
        self._file = file
        self.header = header
        self.watermarks = dict(header.watermarks)

    def go_on(self, header: Header) -> None:
        """Begin a segment behind those of an earlier process.

        Raises:
            OSError: it can't be written; the next entries try it again.
        """
        self.header, self.watermarks = header, dict(header.watermarks)
        self.begin(header)

    def append(self, entries: Sequence[Entry]) -> None:
        """Add entries at the end: all of them or none.

        Raises:
            SpoolFull: they would take it over its bound.
            OSError: they can't be written.
        """
        block = block_of(entries)
        if self.bytes + len(block) > self._max_bytes:
            raise SpoolFull(f"{self.bytes} of {self._max_bytes} bytes are used")
        assert self.header is not None  # noqa: S101 - it has begun
        if self._file is None or self._segments[-1].size > self._segment_bytes:
            self.begin(replace(self.header, watermarks=self.watermarks))
        assert self._file is not None  # noqa: S101 - so has the segment
        self._write(block, self._segments[-1], self._file)
        if not self.waiting:
            self.oldest_us = entries[0][1].time_us
        self.waiting += len(entries)
        self._count(entries)

    def skip(self, taken: Counts) -> None:
        """Leave out the entries up to these places, which Kafka has."""
        self._taken = dict(taken)
        if number := self._lose({}, self._read):
            self.damage.append(f"{number} records in front of {self._segments[0].path.name} are lost")
            self._begin_gaps(self.on_kafka, watermarks_in(self._segments[0].path, whole=False))
        self.waiting = sum(
            end - max(self._read.get(place, 0), taken.get(place, 0)) for place, end in self.counts.items()
        )

    def read(self) -> list[Entry]:
        """Return the next entries that Kafka has not taken, in order; none when all have been read."""
        while self._reading < len(self._segments):
            segment = self._segments[self._reading]
            while entries := self._next_entries(segment):
                if left := self._take(entries):
                    return left
            self._miss(segment)
            if self._reading + 1 == len(self._segments):
                break
            self._close_source()
            self._reading += 1
        self.gaps += [Missing(symbol, known, None) for symbol, known in self._missed.items()]
        self._missed.clear()
        return []

    def seek_end(self) -> None:
        """Leave out of what is read all that is there now, for it is in memory, too."""
        if self._segments:
            self._close_source()
            self._reading = len(self._segments) - 1
            self._source = self._segments[-1].path.open("rb")
            self._source.seek(self._segments[-1].size)
            self._read, self.waiting = dict(self.counts), 0

    def full(self, share: float) -> bool:
        """Tell if more than a share of the bytes it may have are used."""
        return self.bytes > share * self._max_bytes

    def kept(self, place: Place) -> int:
        """Return how many entries of a partition there are since it began, without those found lost."""
        return self.counts.get(place, 0) - sum(entries for _, entries in self._holes.get(place, ()))

    def place_of(self, place: Place, number: int) -> int:
        """Return up to which place in a partition so many entries reach, with those lost between them."""
        for begin, entries in self._holes.get(place, ()):
            if begin <= number:
                number += entries
        return number

    def forget(self, taken: Counts) -> bool:
        """Delete the older segments of which Kafka has all, up to these places; return whether it has all."""
        while self._reading and _reach(taken, self._segments[0].end):
            segment = self._segments.pop(0)
            segment.path.unlink(missing_ok=True)
            self.bytes -= segment.size
            self._reading -= 1
        return not self.waiting and _reach(taken, self.counts)

    def clear(self) -> None:
        """Delete everything.

        Raises:
            OSError: a file can't be deleted.
        """
        for file in (self._file, self._source):
            if file is not None:
                file.close()
        self._file = self._source = self.header = None
        self._segments, self._reading, self.bytes, self.waiting = [], 0, 0, 0
        self.counts, self._read, self._taken, self._holes, self._missed = {}, {}, {}, {}, {}
        self._unreadable.clear()  # the numbers of segments begin again
        for path in self._paths():
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Leave what is there to the next process, or to another owner in this one."""
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
            self.damage.append(str(error))
            self._unreadable.add(segment.path)
            if segment is self._segments[-1] and self._file is not None:
                self._file.close()
                self._file = None  # what is added from here on goes to another one
            return None
        return entries

    def _close_source(self) -> None:
        if self._source is not None:
            self._source.close()
            self._source = None

    def _take(self, entries: Sequence[Entry]) -> list[Entry]:
        """Count entries as read; return those that Kafka has not taken."""
        left = []
        for place, record in entries:
            read = self._read.get(place, 0)
            self._read[place] = read + 1
            if self._missed:
                self._end_gap(record)
            if read >= self._taken.get(place, 0):
                left.append((place, record))
                self.oldest_us = record.time_us
        self.waiting -= len(left)
        return left

    def _miss(self, segment: _Segment) -> None:
        """Count as lost what a segment should have brought and has not, and tell it as damage."""
        number = self._lose(self._read, segment.end)
        self._read = dict(segment.end)
        if number:
            self.waiting -= number
            self.damage.append(f"{segment.path.name} is damaged: {number} records are lost")
            readable = segment.path not in self._unreadable
            known = newest(self.on_kafka, watermarks_in(segment.path, whole=readable))
            behind = self._segments[self._reading + 1 :]
            self._begin_gaps(known, watermarks_in(behind[0].path, whole=False) if behind else self.watermarks)

    def _lose(self, begin: Counts, end: Counts) -> int:
        """Count as lost what is between these places and not on Kafka; return how many entries."""
        number = 0
        for place, last in end.items():
            first = max(begin.get(place, 0), self._taken.get(place, 0))
            if last > first:
                self._holes.setdefault(place, []).append((first, last - first))
                number += last - first
        return number

    def _begin_gaps(self, known: Mapping[bytes, Watermark], behind: Mapping[bytes, Watermark]) -> None:
        """Remember of each symbol that has lost trades up to where it has them."""
        for symbol, watermark in known.items():
            if symbol in behind and behind[symbol].ids[-1] > watermark.ids[-1]:
                self._missed.setdefault(symbol, watermark)

    def _end_gap(self, record: Record) -> None:
        """Tell of the trades that are missing before this one, if it is one and any are."""
        if record.mark is not None and record.key in self._missed:
            self.gaps.append(Missing(record.key, self._missed.pop(record.key), record))

    def _survey(self, segment: _Segment) -> None:
        """Count the entries of the last segment, and cut off what a killed process has left torn."""
        with segment.path.open("r+b") as file:
            next_block(file)
            good = file.tell()
            while (entries := entries_in(file)) is not None:
                self._count(entries)
                good = file.tell()
            torn = segment.size - good
            if torn:
                self.damage.append(f"{segment.path.name} has a torn end of {torn} bytes, which were cut off")
                file.truncate(good)
                segment.size = good
                self.bytes -= torn

    def _count(self, entries: Sequence[Entry]) -> None:
        for place, _ in entries:
            self.counts[place] = self.counts.get(place, 0) + 1
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


def _reach(taken: Counts, end: Counts) -> bool:
    return all(taken.get(place, 0) >= number for place, number in end.items())
