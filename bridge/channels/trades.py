"""trades: each trade of a symbol once, oldest first (API document, "Trades push")."""

from array import array
from bisect import bisect_left
from operator import attrgetter
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Raw, Struct

from bridge.channels.channel import BadItem, Channel, Outcome, Source
from bridge.channels.figures import Figure, Name, Time, exact, microseconds
from bridge.records import Record

_SECOND = 1_000_000

# Ids remembered of a symbol: several times what the exchange has been seen to repeat in a clean list.
_WINDOW = 2048


class Trade(Struct, gc=False):
    """One item of a push's list."""

    id: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    time: Time
    price: Figure
    amount: Figure
    type: Literal["buy", "sell"]


class TradeRecord(Struct, frozen=True, gc=False):
    """digifinex.trades.v1."""

    schema: str
    session: str
    seq: int
    received_us: int
    symbol: str
    id: int
    time_us: int
    price: Raw
    amount: Raw
    side: str
    snapshot: bool


_decode = msgspec.json.Decoder(tuple[bool, list[Trade], Name]).decode
_decode_items = msgspec.json.Decoder(tuple[bool, list[Raw], Name]).decode
_decode_item = msgspec.json.Decoder(Trade).decode
_encode = msgspec.json.Encoder().encode
_by_id = attrgetter("id")


class Trades:
    """The normaliser of trades; remembers per symbol the ids it has let through, from whichever session."""

    def __init__(self) -> None:
        self._seen: dict[bytes, array[int]] = {}

    def __call__(self, params: Raw, source: Source, received_us: int) -> Outcome:
        """Return the records of the trades that are new."""
        outcome = Outcome([])
        clean, trades, symbol = self._trades(params, outcome)
        series = source.series("trades", symbol)
        seen = self._seen.get(series.key)
        if seen is None:
            seen = self._seen[series.key] = array("q")
        elif clean and trades and seen and trades[0].id > seen[-1]:
            outcome.gaps = 1
        resumed = clean and bool(seen)
        for trade in trades:
            try:
                price, amount = exact((trade.price, trade.amount))
                time_us = microseconds(trade.time, _SECOND)
            except BadItem as bad:
                outcome.bad.append(f"trade {trade.id}: {bad}")
                continue
            if not _is_new(trade.id, seen):
                outcome.duplicates += 1
                continue
            if not clean:
                outcome.time_us = time_us
            value = _encode(
                TradeRecord(
                    "digifinex.trades.v1",
                    source.session,
                    series.next_seq(),
                    received_us,
                    series.symbol,
                    trade.id,
                    time_us,
                    price,
                    amount,
                    trade.type,
                    clean,
                )
            )
            outcome.records.append(Record("trades", series.key, value, received_us))
        if resumed:
            outcome.recovered = len(outcome.records)
        return outcome

    def _trades(self, params: Raw, outcome: Outcome) -> tuple[bool, list[Trade], str]:
        """Return the push with its good trades oldest first; they arrive newest first."""
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
        return clean, trades, symbol


def _is_new(trade_id: int, seen: "array[int]") -> bool:
    """Tell if an id was not met yet, and remember it.

    `seen` is ascending. What is older than all of it was there before the first session, or long ago.
    """
    if not seen or trade_id > seen[-1]:
        seen.append(trade_id)
    else:
        place = bisect_left(seen, trade_id)
        if place == 0 or seen[place] == trade_id:
            return False
        seen.insert(place, trade_id)
    if len(seen) > 2 * _WINDOW:
        del seen[:_WINDOW]
    return True


CHANNEL = Channel("trades", Trades)
