"""trades: each trade of a symbol once, oldest first (API document, "Trades push").

A session starts with a clean list (recent trades), followed by new trades. After a reconnect the list
repeats trades that are known, and usually fills in those that were missed. An example with one symbol, whose
trades have the ids 1, 2, 3 and so on; `seen` and `open` are those of `_Memory`:

| what arrives | records | seen | open | gap |
|---|---|---|---|---|
| session A: clean list 1 to 5 | 1 to 5 | 1 to 5 | | |
| A: 6; then A is lost, 7 and 8 happen | 6 | 1 to 6 | | |
| session B: 9, before its clean list | 9 | 1 to 6, 9 | after 6, before 9 | |
| B: clean list 4 to 9, reaches back to 6 | 7, 8 | 1 to 9 | | filled 2, closed |
| or instead: clean list 8 to 9, does not | 8 | 1 to 6, 8, 9 | | filled 1, not closed: 7 is lost |

If B starts with a trade that is known, 6 or less, it has missed nothing, and no stretch is opened.
"""

import re
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from operator import attrgetter
from typing import Annotated, Literal, cast

import msgspec
from msgspec import Meta, Raw, Struct
from msgspec.structs import replace

from bridge.channels.channel import Channel, Outcome, Overlap, Series, Source, SubscribedBy
from bridge.channels.figures import SECOND, USUAL, USUAL_NAME, Figure, Name, Time, exact, microseconds
from bridge.errors import BadItem
from bridge.ledger import Gap, Watermark, Watermarks
from bridge.records import Mark, Record, Stretch

# digifinex.trades.v1: head, seq, received_us, symbol, id, time_us, price, amount, side, snapshot.
_RECORD = (
    b'%b%d,"received_us":%d,"symbol":%b,"id":%d,"time_us":%d,"price":%b,"amount":%b,'
    b'"side":"%b","snapshot":%b}'
)

# Ids that are remembered of a symbol: several times as many as a clean list was seen to repeat.
_WINDOW = 2048


class Trade(Struct, gc=False):
    """One item of a push's list."""

    id: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    time: Time
    price: Figure
    amount: Figure
    type: Literal["buy", "sell"]


_decode = msgspec.json.Decoder(tuple[bool, list[Trade], Name]).decode
_decode_items = msgspec.json.Decoder(tuple[bool, list[Raw], Name]).decode
_decode_item = msgspec.json.Decoder(Trade).decode
_by_id = attrgetter("id")

# A push of one trade as the exchange nearly always writes it.
_usual = re.compile(
    rb'\[(true|false),\[\{"id":(0|[1-9][0-9]{0,17}+),"time":([1-9][0-9]{8,9}+(?:\.[0-9]{1,9}+)?),'
    rb'"price":(%b),"amount":(%b),"type":"(buy|sell)"\}\],%b\]' % (USUAL, USUAL, USUAL_NAME)
).fullmatch

_Line = tuple[int, int, bytes, bytes, bytes]
"""A trade's id, its time in µs, and its price, amount and side as a record has them."""


class _Memory:
    """The known trades of a symbol, from all sessions."""

    __slots__ = ("first", "open", "seen", "time_us")

    def __init__(self, known: Watermark | None, first: Series | None) -> None:
        # Ids of the trades that became records, ascending; beyond 2 * _WINDOW the oldest _WINDOW are dropped.
        self.seen = array("q", known.ids if known else ())
        # When the last of these trades happened, µs since the epoch; 0 while there are none.
        self.time_us = known.time_us if known else 0
        # Where trades may be missing. Set by the first trade that a session brings before its clean list, and
        # None again after the next clean list.
        self.open = known.open if known else None
        # The very first session, until its clean list arrives: older trades in that are history, not a gap.
        # None from then on, and for a symbol of which trades are on Kafka already.
        self.first = first


class Trades:
    """The normaliser of trades. It drops trades that it knows, whichever session brings them again.

    It starts from the watermarks of the trades that are on Kafka already.
    """

    def __init__(self, watermarks: Watermarks) -> None:
        # By symbol, as in the key of its records; a symbol is added with its first push and never removed.
        self._memories = {symbol: _Memory(known, None) for symbol, known in watermarks.items()}

    def push(self, params: bytes, source: Source, received_us: int) -> Outcome:
        """Return the records of the trades that are new."""
        outcome = Outcome([])
        usual = _usual(params)
        clean, lines, symbol = _usual_push(*usual.groups()) if usual else _unusual_push(params, outcome)
        series = source.series("trades", symbol)
        memory = self._memories.get(series.key)
        if memory is None:
            memory = self._memories[series.key] = _Memory(None, series)
        seen = memory.seen
        if clean:
            series.begun = True
            last_known = _last_known(memory)
        elif not series.linked and lines:
            _begin_unlinked(memory, series, lines[0])
        for trade_id, time_us, price, amount, side in lines:
            if not seen or trade_id > seen[-1]:
                seen.append(trade_id)
                memory.time_us = time_us
            elif not _is_new(trade_id, seen):
                outcome.duplicates += 1
                continue
            if not clean:
                outcome.time_us = time_us
            value = _RECORD % (
                series.head,
                series.next_seq(),
                received_us,
                series.name,
                trade_id,
                time_us,
                price,
                amount,
                side,
                b"true" if clean else b"false",
            )
            mark = (trade_id, time_us, memory.open)
            outcome.records.append(Record("trades", series.key, value, received_us, mark))
        if clean and lines:
            gap = _link(memory, series, last_known, lines[0], outcome.records)
            outcome.gaps = [gap] if gap else []
        if len(seen) > 2 * _WINDOW:
            del seen[:_WINDOW]
        return outcome

    def lost(self, source: Source, symbol: bytes | None) -> None:
        """Trust no series of this session until its next clean list."""
        for series in source.of("trades") if symbol is None else [source.series("trades", symbol)]:
            series.linked = series.begun = False

    def overdue(self, now_us: int) -> Sequence[Gap]:  # noqa: ARG002
        """Return nothing yet."""
        return ()


def _last_known(memory: _Memory) -> tuple[int, int] | None:
    """Return id and time of the trade after which others may be missing; None if no trade is known."""
    if memory.open is not None:
        return memory.open.after_id, memory.open.after_us
    return (memory.seen[-1], memory.time_us) if memory.seen else None


def _begin_unlinked(memory: _Memory, series: Series, first: _Line) -> None:
    """Open a stretch where trades may be missing, as a session brings `first` before its clean list.

    If `first` is a known trade, none is missing before it, and the session is linked.
    """
    if not memory.seen:  # as after the clean list of a market that had no trades yet
        memory.first = series
    if memory.first is series:
        return
    if _is_known(first[0], memory.seen):
        series.linked = True
        return
    memory.first = None
    if memory.open is None:
        memory.open = Stretch(memory.seen[-1], memory.time_us, first[0], first[1])


def _link(
    memory: _Memory,
    series: Series,
    last_known: tuple[int, int] | None,
    oldest: _Line,
    records: list[Record],
) -> Gap | None:
    """Close the open stretch with a session's clean list, and return the gap that the list reveals or fills.

    If the list reaches back to `last_known`, no trade since then is missing. `records` are those of the list.
    """
    was_open, memory.open = memory.open, None
    was_linked, series.linked = series.linked, True
    was_first, memory.first = memory.first, None
    if was_open and records:
        # Only the last record of the list closes the stretch on Kafka: for a restart with only a part of the
        # list there, the stretch is still open.
        records[-1] = replace(records[-1], mark=(*_moment(records[-1]), None))
    if last_known is None or was_first is series:
        return None
    closed = oldest[0] <= last_known[0]
    if closed and not records:
        return None
    new = [_moment(record) for record in records[:1]]
    if was_open:
        new.append((was_open.before_id, was_open.before_us))
    return Gap(series.key, Stretch(*last_known, *min(new)), len(records), closed, was_linked)


def _moment(record: Record) -> tuple[int, int]:
    trade_id, time_us, _ = cast("Mark", record.mark)
    return trade_id, time_us


def _usual_push(
    clean: bytes, trade_id: bytes, time: bytes, price: bytes, amount: bytes, side: bytes, symbol: bytes
) -> tuple[bool, list[_Line], bytes]:
    return clean == b"true", [(int(trade_id), round(float(time) * SECOND), price, amount, side)], symbol


def _unusual_push(params: bytes, outcome: Outcome) -> tuple[bool, list[_Line], bytes]:
    """Return whether a push is a clean list, its valid trades oldest first, and its symbol.

    The exchange sends trades newest first.
    """
    try:
        clean, trades, symbol = _decode(params)
    except (msgspec.ValidationError, UnicodeDecodeError):
        clean, items, symbol = _decode_items(params)
        trades = []
        for item in items:
            try:
                trades.append(_decode_item(item))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                outcome.bad.append(f"trade {bytes(item)[:80]!r}: {error}")
    trades.sort(key=_by_id)
    lines = []
    for trade in trades:
        try:
            price, amount = exact((trade.price, trade.amount))
            time_us = microseconds(trade.time, SECOND)
        except BadItem as bad:
            outcome.bad.append(f"trade {trade.id}: {bad}")
            continue
        lines.append((trade.id, time_us, bytes(price), bytes(amount), trade.type.encode()))
    return clean, lines, symbol.encode()


def _is_known(trade_id: int, seen: "array[int]") -> bool:
    place = bisect_left(seen, trade_id)
    return place < len(seen) and seen[place] == trade_id


def _is_new(trade_id: int, seen: "array[int]") -> bool:
    """Return whether an id is new, and if so, add it to `seen`. It must not be above the last one there.

    One below the first is not new: it is from before the first session, or from long ago.
    """
    place = bisect_left(seen, trade_id)
    if place == 0 or seen[place] == trade_id:
        return False
    seen.insert(place, trade_id)
    return True


CHANNEL = Channel(
    name="trades",
    meaning="Trades, each one once, oldest first.",
    subscribed_by=SubscribedBy.MARKET,
    overlap=Overlap.IDS,
    normaliser=Trades,
    begins_clean=True,
)
