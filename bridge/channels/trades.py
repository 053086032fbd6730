"""trades: each trade of a symbol once, oldest first (API document, "Trades push")."""

import re
from array import array
from bisect import bisect_left
from operator import attrgetter
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from bridge.channels.channel import BadItem, Channel, Outcome, Source
from bridge.channels.figures import USUAL, USUAL_NAME, Figure, Name, Time, exact, microseconds
from bridge.records import Record

_SECOND = 1_000_000

# digifinex.trades.v1: head, seq, received_us, symbol, id, time_us, price, amount, side, snapshot.
_RECORD = (
    b'%b%d,"received_us":%d,"symbol":%b,"id":%d,"time_us":%d,"price":%b,"amount":%b,'
    b'"side":"%b","snapshot":%b}'
)

# Ids remembered of a symbol: several times what the exchange has been seen to repeat in a clean list.
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


class Trades:
    """The normaliser of trades; remembers per symbol the ids it has let through, from whichever session."""

    def __init__(self) -> None:
        self._seen: dict[bytes, array[int]] = {}

    def __call__(self, params: bytes, source: Source, received_us: int) -> Outcome:
        """Return the records of the trades that are new."""
        outcome = Outcome([])
        usual = _usual(params)
        clean, lines, symbol = _usual_push(*usual.groups()) if usual else _unusual_push(params, outcome)
        series = source.series("trades", symbol)
        seen = self._seen.get(series.key)
        if seen is None:
            seen = self._seen[series.key] = array("q")
        elif clean and lines and seen and lines[0][0] > seen[-1]:
            outcome.gaps = 1
        resumed = clean and bool(seen)
        for trade_id, time_us, price, amount, side in lines:
            if not seen or trade_id > seen[-1]:
                seen.append(trade_id)
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
            outcome.records.append(Record("trades", series.key, value, received_us))
        if resumed:
            outcome.recovered = len(outcome.records)
        if len(seen) > 2 * _WINDOW:
            del seen[:_WINDOW]
        return outcome


def _usual_push(
    clean: bytes, trade_id: bytes, time: bytes, price: bytes, amount: bytes, side: bytes, symbol: bytes
) -> tuple[bool, list[_Line], bytes]:
    return clean == b"true", [(int(trade_id), round(float(time) * _SECOND), price, amount, side)], symbol


def _unusual_push(params: bytes, outcome: Outcome) -> tuple[bool, list[_Line], bytes]:
    """Return a push: whether it is a clean list, its good trades oldest first, and its symbol.

    They arrive newest first.
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
            time_us = microseconds(trade.time, _SECOND)
        except BadItem as bad:
            outcome.bad.append(f"trade {trade.id}: {bad}")
            continue
        lines.append((trade.id, time_us, bytes(price), bytes(amount), trade.type.encode()))
    return clean, lines, symbol.encode()


def _is_new(trade_id: int, seen: "array[int]") -> bool:
    """Tell if an id that is not above all of `seen`, which is ascending, was not met yet; remember it.

    What is older than all of it was there before the first session, or long ago.
    """
    place = bisect_left(seen, trade_id)
    if place == 0 or seen[place] == trade_id:
        return False
    seen.insert(place, trade_id)
    return True


CHANNEL = Channel("trades", Trades)
