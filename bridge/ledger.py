"""Watermarks: up to which trade the trades of each symbol are on Kafka. Pure.

A restart reads them to repeat no trade and to miss none. An example: trades 1 to 6 and 9 of a symbol are on
Kafka, and the clean list that shows whether 7 and 8 exist has not arrived. Then the watermark has
ids 1 2 3 4 5 6 9 and an open stretch after 6 and before 9. A restart that receives the clean list 4 to 9
makes records of 7 and 8 alone.
"""

from bisect import insort
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

import msgspec

from bridge.records import Mark, Record, Stretch

# Ids that a watermark keeps of a symbol. Down to the oldest, a late trade is distinguished from a repeat.
KEPT = 32

# The same while a stretch is open: several times as many as the clean list that closes it shows.
KEPT_OPEN = 512


class Watermark(msgspec.Struct, omit_defaults=True):
    """Which trades of a symbol are on Kafka."""

    ids: list[int]
    """The ids of the newest ones, ascending; never empty."""

    time_us: int
    """When the last of them happened, in µs since the epoch."""

    open: Stretch | None = None
    """Where trades may be missing, until a clean list shows whether any are."""


Watermarks: TypeAlias = Mapping[bytes, Watermark]
"""By symbol, as in the key of its records."""


class Gap(NamedTuple):
    """Trades of a symbol that no session brought live."""

    symbol: bytes

    stretch: Stretch
    """From the last trade known before to the first one known after."""

    filled: int
    """How many of the trades in it a clean list has brought."""

    closed: bool
    """Whether that list reaches back to the last trade known before, so that none is missing."""

    repeated: bool
    """Whether it was not the session's first clean list."""


def advanced(watermarks: Watermarks, records: Iterable[Record]) -> dict[bytes, Watermark]:
    """Return the watermarks that change once these records are on Kafka, with their new values."""
    changed: dict[bytes, Watermark] = {}
    for record in records:
        if record.mark is None or record.key is None:
            continue
        watermark = changed.get(record.key)
        if watermark is None:
            known = watermarks.get(record.key)
            watermark = Watermark(list(known.ids) if known else [], known.time_us if known else 0)
            changed[record.key] = watermark
        _advance(watermark, record.mark)
    for watermark in changed.values():
        _trim(watermark)
    return changed


def newest(one: Watermarks, other: Watermarks) -> dict[bytes, Watermark]:
    """Return for each symbol the watermark with the newer last trade, or both combined if it is the same."""
    merged = {**one, **other}
    for symbol in one.keys() & other.keys():
        merged[symbol] = _newer(one[symbol], other[symbol])
    return merged


def _newer(one: Watermark, other: Watermark) -> Watermark:
    if one.ids[-1] != other.ids[-1]:
        return max(one, other, key=lambda watermark: watermark.ids[-1])
    both = Watermark(sorted({*one.ids, *other.ids}), one.time_us, one.open if other.open else None)
    _trim(both)
    return both


def _advance(watermark: Watermark, mark: Mark) -> None:
    trade_id, time_us, watermark.open = mark
    ids = watermark.ids
    if not ids or trade_id > ids[-1]:
        ids.append(trade_id)
        watermark.time_us = time_us
    else:
        insort(ids, trade_id)


def _trim(watermark: Watermark) -> None:
    """Drop ids beyond KEPT, but keep those from the start of an open stretch on, up to KEPT_OPEN ids.

    A clean list that closes the stretch must find them. The id before the stretch stays too: an id below all
    others counts as known, so without it the trades that are missing would.
    """
    ids = watermark.ids
    surplus = len(ids) - KEPT
    if watermark.open is not None:
        before = sum(1 for one in ids if one <= watermark.open.after_id)
        surplus = max(min(surplus, before - 1), len(ids) - KEPT_OPEN)
    if surplus > 0:
        del ids[:surplus]
