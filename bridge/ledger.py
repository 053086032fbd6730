"""Watermarks: up to where the trades of each symbol are on Kafka. Pure."""

from bisect import insort
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

import msgspec

from bridge.records import Mark, Record, Stretch

# Ids that a watermark keeps: among the last so many trades of a symbol, one that comes late is still told
# from one that is repeated.
KEPT = 32

# The same while the list that closes an open gap has not come: several times what such a list shows.
KEPT_OPEN = 512


class Watermark(msgspec.Struct, omit_defaults=True):
    """Which trades of a symbol are on Kafka.

    `ids` are the newest ones, ascending, the last one made at `time_us`. `open` stands while a session has
    brought trades, but not yet the list that shows whether any were missed before them.
    """

    ids: list[int]
    time_us: int
    open: Stretch | None = None


Watermarks: TypeAlias = Mapping[bytes, Watermark]
"""By symbol, in the bytes of its key."""


class Gap(NamedTuple):
    """Trades of a symbol that a session did not bring, between the last known one and the first new one.

    `filled` of them came in a clean list; `closed` if that reached back to the last known one, so that none
    is missing. `repeated` if the list came again in the middle of a session.
    """

    symbol: bytes
    stretch: Stretch
    filled: int
    closed: bool
    repeated: bool


def advanced(watermarks: Watermarks, records: Iterable[Record]) -> dict[bytes, Watermark]:
    """Return the watermarks that change when these records are on Kafka."""
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
    """Return of each symbol the watermark that is farther on; if both end alike, what both know."""
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
    """Forget old ids, but from an open gap's beginning on only what no list that closes it will show.

    The id before the gap stays, for what is older than all ids counts as known.
    """
    ids = watermark.ids
    surplus = len(ids) - KEPT
    if watermark.open is not None:
        before = sum(1 for one in ids if one <= watermark.open.after_id)
        surplus = max(min(surplus, before - 1), len(ids) - KEPT_OPEN)
    if surplus > 0:
        del ids[:surplus]
