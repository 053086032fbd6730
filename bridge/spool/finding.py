"""Which files of a folder are the segments of one spool, as an earlier process has left them."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from bridge.spool.folder import SEGMENT, Folder, folder_of, open_segment
from bridge.spool.segment import MOST_BLOCK, MOST_HEADER, Offsets, header_in

SEGMENT_BYTES = 16 * 1024 * 1024
"""A segment that is larger is followed by another."""

_MOST_SEGMENT = MOST_HEADER + SEGMENT_BYTES + MOST_BLOCK  # the largest that can come about


class Found(NamedTuple):
    """A segment: its name, its spool's id, first offsets and bytes.

    Its records were received at `oldest_us` or later, in µs since the epoch.
    """

    name: str
    spool: str
    base: Offsets
    size: int
    oldest_us: int


def segments_in(folder: Folder, known: str | None, damage: list[str]) -> list[Found]:
    """Return the segments of the spool, the oldest first, and add to `damage` why others are not used.

    Of several spools, as when files were restored from a backup, it is the one with the id `known`, or else
    the one of the newest segment.
    """
    readable = list(_readable(folder, damage))
    if not readable:
        return []
    ids = Counter(one.spool for one in readable)
    spool = known if known in ids else readable[-1].spool
    found: list[Found] = []
    for one in readable:
        if one.spool != spool:
            damage.append(f"{one.name} is of another spool")
        elif found and any(offset > one.base.get(place, 0) for place, offset in found[-1].base.items()):
            damage.append(f"{one.name} does not continue {found[-1].name}")
        else:
            found.append(one)
    return found


def _readable(folder: Folder, damage: list[str]) -> Iterator[Found]:
    for name in folder.segments():
        try:
            with folder.read(name) as file:
                about = os.fstat(file.fileno())
                header = header_in(file) if about.st_size <= _MOST_SEGMENT else None
        except OSError as error:
            damage.append(f"{name} cannot be read: {error}")
            continue
        if header is None:
            why = "has no header" if about.st_size <= _MOST_SEGMENT else "is too large"
            damage.append(f"{name} {why}")
            continue
        oldest_us = header.oldest_us or about.st_mtime_ns // 1000
        yield Found(name, header.spool, header.base, about.st_size, oldest_us)


def left_behind(directory: Path, topic_prefix: str, shards: Iterable[int]) -> dict[int, int]:
    """Return since when records wait in the spools of shards, before these are taken over, by shard.

    In µs since the epoch. It reads one header of each, and decides nothing: that is up to the takeover.
    """
    found = {}
    for shard in shards:
        folder = folder_of(directory, topic_prefix, shard)
        with suppress(OSError):
            if names := sorted(path.name for path in folder.iterdir() if SEGMENT.fullmatch(path.name)):
                with open_segment(folder / names[0]) as file:
                    header = header_in(file)
                    changed_us = os.fstat(file.fileno()).st_mtime_ns // 1000
                if header is not None:
                    found[shard] = header.oldest_us or changed_us
    return found
