"""Watermarks: which trades of each symbol are on Kafka, and where some may be missing. Pure.

A restart reads them to repeat no trade and to miss none. An example: trades 1 to 6 and 9 of a symbol are on
Kafka, and the clean list that shows whether 7 and 8 exist has not arrived. Then the watermark has
ids 1 2 3 4 5 6 9 and an open stretch after 6 and before 9. A restart that receives the clean list 4 to 9
makes records of 7 and 8 alone. `bridge.channels.known` has the rules.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, MutableSequence
from typing import NamedTuple, TypeAlias

import msgspec

from bridge.records import Cause, Mark, Open, Record, Stretch

# Trades that a watermark keeps of a symbol. Down to the oldest, a late trade is distinguished from a repeat.
# As many are kept of the epoch before, once ids have begun anew.
KEPT = 32

# The same while a stretch is open: several times as many as the clean list that closes it shows.
KEPT_OPEN = 512


class Watermark(msgspec.Struct, omit_defaults=True):
    """Which trades of a symbol are on Kafka."""

    ids: list[int]
    """The ids of the newest ones, ascending; never empty."""

    times: list[int]
    """When each of them happened, in µs since the epoch."""

    open: Open = Open()
    """Where trades may be missing, until a clean list shows whether any are."""

    epoch: int = 0
    """How often ids have begun anew."""

    epoch_us: int = 0
    """When the first trade of this epoch happened, in µs since the epoch; 0 in the first epoch."""

    past: list[tuple[int, int]] = []
    """Ids and times of the newest trades of the epoch before."""

    reported: int = 0
    """The newest epoch whose beginning is reported; its trades may not be on Kafka yet."""

    @property
    def last(self) -> tuple[int, int]:
        """The id and the time, in µs, of the newest trade; the highest id may be out of line."""
        time_us, trade_id = max(zip(self.times, self.ids, strict=True))
        return trade_id, time_us

    @property
    def newness(self) -> tuple[int, ...]:
        """A value that is higher for the newer of two watermarks of a symbol.

        With an id far out of line the highest one stays the same, so the others count as well.
        """
        return self.epoch, *self.ids[: -KEPT - 1 : -1]


Watermarks: TypeAlias = Mapping[bytes, Watermark]
"""By symbol, as in the key of its records."""


Heard: TypeAlias = Mapping[str, int]
"""The last-heard time of each private channel of an account, in microseconds since the epoch.

All that was pushed on the channel up to then was received.
"""


class Gap(NamedTuple):
    """Trades of a symbol that no session brought live."""

    symbol: bytes

    stretch: Stretch
    """From the last trade known before to the first one known after."""

    filled: int
    """How many of the trades in it a clean list has brought."""

    closed: bool
    """Whether a clean list has proved that none of the others is missing."""

    cause: Cause
    """What caused it."""

    session: str | None
    """The session that brought the first trade after it; None if that was before a restart."""

    mark: Mark | None = None
    """Its part in the watermark of the symbol, if it closes a stretch that is open there."""


def advanced(watermarks: Watermarks, records: Iterable[Record]) -> dict[bytes, Watermark]:
    """Return the watermarks that change once these records are on Kafka, with their new values."""
    changed: dict[bytes, Watermark] = {}
    for record in records:
        mark, key = record.mark, record.key
        if mark is None or key is None:
            continue
        watermark = changed.get(key)
        if watermark is None:
            known = watermarks.get(key)
            watermark = changed[key] = _copy(known) if known else Watermark([], [])
        trade_id, time_us, epoch, open_now = mark
        ids = watermark.ids
        # A trade that follows the newest one, as nearly all do, and leaves everything else as it is.
        if (
            open_now is watermark.open
            and epoch == watermark.epoch == watermark.reported
            and ids
            and trade_id is not None
            and trade_id > ids[-1]
        ):
            ids.append(trade_id)
            watermark.times.append(time_us)
        else:
            _advance(watermark, mark)
    for symbol, watermark in list(changed.items()):
        if watermark.ids:
            _trim(watermark)
        else:
            del changed[symbol]
    return changed


def covers(watermarks: Watermarks, record: Record) -> bool:
    """Return whether a record is a trade that these watermarks have, or in front of all that they have."""
    known = watermarks.get(record.key or b"")
    if known is None or record.mark is None:
        return False
    trade_id, time_us, _, _ = record.mark
    if trade_id is None:
        return False
    is_known = (trade_id, time_us) in zip(known.ids, known.times, strict=True)
    return is_known or (trade_id < known.ids[0] and time_us <= known.times[0])


def insert(ids: MutableSequence[int], times: MutableSequence[int], trade_id: int, time_us: int) -> None:
    """Add a trade to those with these ids, ascending, and times; one more with the same id goes in front."""
    place = bisect_left(ids, trade_id)
    ids.insert(place, trade_id)
    times.insert(place, time_us)


def newest(one: Watermarks, other: Watermarks) -> dict[bytes, Watermark]:
    """Return for each symbol the watermark with the newer last trade, or both combined if it is the same."""
    merged = {**one, **other}
    for symbol in one.keys() & other.keys():
        merged[symbol] = _newer(one[symbol], other[symbol])
    return merged


def _newer(one: Watermark, other: Watermark) -> Watermark:
    if one.newness[:2] != other.newness[:2]:
        return max(one, other, key=lambda watermark: watermark.newness)
    both = _copy(max(one, other, key=lambda watermark: watermark.open.revision))
    for trade_id, time_us in (
        *zip(one.ids, one.times, strict=True),
        *zip(other.ids, other.times, strict=True),
    ):
        _add(both, trade_id, time_us)
    _trim(both)
    return both


def _copy(one: Watermark) -> Watermark:
    return Watermark(
        list(one.ids), list(one.times), one.open, one.epoch, one.epoch_us, one.past, one.reported
    )


def _advance(watermark: Watermark, mark: Mark) -> None:
    """Advance a watermark; the marks of one partition come in order, those of gaps may come too early."""
    trade_id, time_us, epoch, open_now = mark
    if open_now.revision >= watermark.open.revision:
        watermark.open = open_now
    watermark.reported = max(watermark.reported, epoch)
    if trade_id is None or epoch < watermark.epoch:
        return
    if epoch > watermark.epoch:
        watermark.past = list(zip(watermark.ids[-KEPT:], watermark.times[-KEPT:], strict=True))
        watermark.ids, watermark.times = [], []
        watermark.epoch, watermark.epoch_us = epoch, time_us
    _add(watermark, trade_id, time_us)


def _add(watermark: Watermark, trade_id: int, time_us: int) -> None:
    ids = watermark.ids
    if not ids or trade_id > ids[-1]:
        ids.append(trade_id)
        watermark.times.append(time_us)
    elif ids[bisect_left(ids, trade_id)] != trade_id:
        insert(ids, watermark.times, trade_id, time_us)


def _trim(watermark: Watermark) -> None:
    """Drop trades beyond KEPT, but keep those from the oldest open stretch on, up to KEPT_OPEN of them.

    A clean list that closes the stretch must find them.
    """
    ids = watermark.ids
    surplus = len(ids) - KEPT
    if watermark.open.stretches:
        after = min(stretch.after_id for stretch in watermark.open.stretches)
        before = sum(1 for one in ids if one <= after)
        surplus = max(min(surplus, before - 1), len(ids) - KEPT_OPEN)
    if surplus > 0:
        del ids[:surplus], watermark.times[:surplus]
