"""The format of a segment, one file of the spool: a block with a header, then blocks of entries.

What is read is bounded by what is ever written, so no file, whatever is in it, takes more memory than that.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, BinaryIO, NamedTuple, TypeAlias

import msgspec

from bridge.errors import SpoolFull
from bridge.ledger import Watermark, advanced
from bridge.records import Record
from bridge.seen import Seen

_FRONT = struct.Struct(">II")  # a block's length in bytes and its CRC-32

MOST_HEADER = 64 * 1024 * 1024
"""Bytes of a header: several times the watermarks of 5000 markets, each with as many ids as it may have."""

MOST_BLOCK = 32 * 1024 * 1024
"""Bytes of a block of entries: a record of the largest size that fits into a topic of dead letters, twice."""

_SHARED_BLOCK = 1024 * 1024  # bytes of a block that has more than one entry, which bounds their number
_SHARED_RECORDS = 1000  # records that are written at once
_ONE_ENTRY = 0x91  # the first byte of a list of one entry, in MessagePack

Place: TypeAlias = Annotated[str, msgspec.Meta(max_length=300)]
"""A partition: the name of its topic, "/" and its number."""

Offsets: TypeAlias = dict[Place, Annotated[int, msgspec.Meta(ge=0, le=2**53)]]
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
    all earlier segments; `base` are the offsets at which this one begins. `oldest_us` is when the oldest
    record was received that Kafka did not have then, in µs since the epoch; 0 if an earlier version wrote it.
    `cluster` is the one that the records are for.
    """

    spool: Annotated[str, msgspec.Meta(max_length=64)]
    replica: str
    predecessor: Commit | None
    watermarks: dict[bytes, Watermark]
    settled: Offsets
    transaction: Commit | None
    committed: Offsets
    base: Offsets = {}
    oldest_us: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 0
    cluster: Seen | None = None


_encode = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(Header).decode
_decode_entries = msgspec.msgpack.Decoder(list[Entry]).decode

# What is no MessagePack or of another type, not UTF-8, or nested too deeply; a DecodeError is a ValueError.
_UNREADABLE = (ValueError, RecursionError)


def header_block(header: Header) -> bytes:
    """Return a header as a block, preceded by its length and checksum.

    Raises:
        SpoolFull: it is larger than a header may be.
    """
    block = _encode(header)
    if len(block) > MOST_HEADER:
        raise SpoolFull(f"a header of {len(block)} bytes, {MOST_HEADER} are possible")
    return _FRONT.pack(len(block), zlib.crc32(block)) + block


def shares(records: Iterable[Record]) -> Iterator[list[Record]]:
    """Cut many records into lists of which each makes about one block."""
    share: list[Record] = []
    size = 0
    for record in records:
        if share and (len(share) == _SHARED_RECORDS or size + len(record.value) > _SHARED_BLOCK):
            yield share
            share, size = [], 0
        share.append(record)
        size += len(record.value)
    if share:
        yield share


def blocks_of(entries: Sequence[Entry]) -> bytes:
    """Return entries as blocks, one as a rule.

    Raises:
        SpoolFull: one of them is larger than a block may be.
    """
    block = _encode(entries)
    if len(entries) > 1 and len(block) > _SHARED_BLOCK:
        middle = len(entries) // 2
        return blocks_of(entries[:middle]) + blocks_of(entries[middle:])
    if len(block) > MOST_BLOCK:
        raise SpoolFull(f"a record of {len(block)} bytes, {MOST_BLOCK} are possible")
    return _FRONT.pack(len(block), zlib.crc32(block)) + block


def header_in(file: BinaryIO) -> Header | None:
    """Read the first block; None if it is damaged, or another version wrote it in another format."""
    block = _next_block(file, MOST_HEADER)
    try:
        header = None if block is None else _decode_header(block)
    except _UNREADABLE:
        return None
    if header is None:
        return None
    known = header.watermarks.values()
    return header if all(one.ids and len(one.ids) == len(one.times) for one in known) else None


def entries_in(file: BinaryIO) -> list[Entry] | None:
    """Read the next block after the header; None at the end, if it is damaged or in another format."""
    block = _next_block(file, MOST_BLOCK)
    if not block or (len(block) > _SHARED_BLOCK and block[0] != _ONE_ENTRY):
        return None
    try:
        return _decode_entries(block) or None
    except _UNREADABLE:
        return None


def watermarks_in(file: BinaryIO, *, whole: bool) -> dict[bytes, Watermark]:
    """Return the watermarks at the front of a segment, or (`whole`) after the last entry that can be read.

    Raises:
        OSError: the disk reports an error.
    """
    watermarks: dict[bytes, Watermark] = {}
    header = header_in(file)
    if header is not None:
        watermarks.update(header.watermarks)
    while whole and (entries := entries_in(file)) is not None:
        watermarks.update(advanced(watermarks, [record for _, record in entries]))
    return watermarks


def _next_block(file: BinaryIO, most: int) -> bytes | None:
    """Read the next block; None at the end, or if the block is torn, damaged, or larger than `most` bytes."""
    front = file.read(_FRONT.size)
    if len(front) < _FRONT.size:
        return None
    size, checksum = _FRONT.unpack(front)
    if size > most:
        return None
    block = file.read(size)
    return block if len(block) == size and zlib.crc32(block) == checksum else None
