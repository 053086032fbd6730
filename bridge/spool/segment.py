"""The format of a segment, a file of the spool: a row of blocks, a header and then lists of entries."""

import contextlib
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, TypeAlias

import msgspec

from bridge.ledger import Watermark, advanced
from bridge.records import Record

_FRONT = struct.Struct(">II")  # a block's length and its CRC-32

Place: TypeAlias = str
"""A topic and the number of a partition."""

Counts: TypeAlias = dict[Place, int]
"""How many entries of each partition."""

Entry: TypeAlias = tuple[Place, Record]


class Header(msgspec.Struct, frozen=True):
    """The first block of a segment.

    `spool` names the spool. `replica` has written the segment; `predecessor` had the shard before it, and has
    committed so many transactions. `before` counts the entries of the segments in front; `watermarks` are
    those that all these bring about. If the transaction that was committed last is `transaction`, Kafka has
    what is in front of the places `taken`.
    """

    spool: str
    replica: str
    predecessor: tuple[str, int] | None
    watermarks: dict[bytes, Watermark]
    transaction: tuple[str, int] | None
    taken: Counts
    before: Counts = {}


_encode = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(Header).decode
_decode_entries = msgspec.msgpack.Decoder(list[Entry]).decode


def block_of(content: Header | Sequence[Entry]) -> bytes:
    """Return a header or entries as a block, with its length and checksum in front."""
    block = _encode(content)
    return _FRONT.pack(len(block), zlib.crc32(block)) + block


def next_block(file: BinaryIO) -> bytes | None:
    """Read the next block; None if there is none that is whole."""
    front = file.read(_FRONT.size)
    if len(front) < _FRONT.size:
        return None
    size, checksum = _FRONT.unpack(front)
    block = file.read(size)
    return block if len(block) == size and zlib.crc32(block) == checksum else None


def header_in(file: BinaryIO) -> Header | None:
    """Read the first block; None if it is not whole, or another version has written it in another format."""
    block = next_block(file)
    try:
        return None if block is None else _decode_header(block)
    except msgspec.DecodeError:
        return None


def entries_in(file: BinaryIO) -> list[Entry] | None:
    """Read the next block after the first; None as for that."""
    block = next_block(file)
    try:
        return None if block is None else _decode_entries(block)
    except msgspec.DecodeError:
        return None


def watermarks_in(path: Path, *, whole: bool) -> dict[bytes, Watermark]:
    """Return the watermarks at the beginning of a segment, or at the end of what can be read of it."""
    watermarks: dict[bytes, Watermark] = {}
    with contextlib.suppress(OSError), path.open("rb") as file:
        header = header_in(file)
        if header is not None:
            watermarks.update(header.watermarks)
        while whole and (entries := entries_in(file)) is not None:
            watermarks.update(advanced(watermarks, [record for _, record in entries]))
    return watermarks
