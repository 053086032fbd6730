"""The format of a segment, one file of the spool: a block with a header, then blocks of entries."""

import contextlib
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias

import msgspec

from bridge.ledger import Watermark, advanced
from bridge.records import Record

_FRONT = struct.Struct(">II")  # a block's length in bytes and its CRC-32

Place: TypeAlias = str
"""A partition: the name of its topic, "/" and its number."""

Offsets: TypeAlias = dict[Place, int]
"""An offset in each partition of the spool; a partition that is not listed is at 0."""

Entry: TypeAlias = tuple[Place, Record]
"""A record with the partition that it belongs to. Its offset is not stored, it follows from its position."""


class Commit(NamedTuple):
    """One transaction of a replica (at-least-once: one save of its state); numbers count from 1."""

    replica: str
    number: int


class Header(msgspec.Struct, frozen=True):
    """The first block of a segment.

    `spool` is the spool's id. `replica` wrote the segment; `predecessor` is the last commit of the replica
    that served the shard before it. Kafka had everything below `settled` when this was written, and has
    everything below `committed` if `transaction` is the last one that was committed. `watermarks` result from
    all earlier segments; `base` are the offsets at which this one begins.
    """

    spool: str
    replica: str
    predecessor: Commit | None
    watermarks: dict[bytes, Watermark]
    settled: Offsets
    transaction: Commit | None
    committed: Offsets
    base: Offsets = {}


_encode = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(Header).decode
_decode_entries = msgspec.msgpack.Decoder(list[Entry]).decode


def block_of(content: Header | Sequence[Entry]) -> bytes:
    """Return a header or entries as a block, preceded by its length and checksum."""
    block = _encode(content)
    return _FRONT.pack(len(block), zlib.crc32(block)) + block


def next_block(file: BinaryIO) -> bytes | None:
    """Read the next block; None at the end of the file, or if the block is torn or damaged."""
    front = file.read(_FRONT.size)
    if len(front) < _FRONT.size:
        return None
    size, checksum = _FRONT.unpack(front)
    block = file.read(size)
    return block if len(block) == size and zlib.crc32(block) == checksum else None


def header_in(file: BinaryIO) -> Header | None:
    """Read the first block; None if it is damaged, or another version wrote it in another format."""
    block = next_block(file)
    try:
        return None if block is None else _decode_header(block)
    except msgspec.DecodeError:
        return None


def entries_in(file: BinaryIO) -> list[Entry] | None:
    """Read the next block after the header; None at the end, if it is damaged or in another format."""
    block = next_block(file)
    try:
        return None if block is None else _decode_entries(block)
    except msgspec.DecodeError:
        return None


def watermarks_in(path: Path, *, whole: bool) -> dict[bytes, Watermark]:
    """Return the watermarks at the front of a segment, or (`whole`) after the last entry that can be read."""
    watermarks: dict[bytes, Watermark] = {}
    with contextlib.suppress(OSError), path.open("rb") as file:
        header = header_in(file)
        if header is not None:
            watermarks.update(header.watermarks)
        while whole and (entries := entries_in(file)) is not None:
            watermarks.update(advanced(watermarks, [record for _, record in entries]))
    return watermarks
