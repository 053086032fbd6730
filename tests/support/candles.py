"""One-minute candles of the records of `trades`: what examples have to print, to the last digit."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from decimal import Context, Decimal, Inexact
from typing import Any, NamedTuple

MINUTE_US = 60_000_000

_exact = Context(prec=200, traps=[Inexact])


class Candle(NamedTuple):
    """What was traded of one market in one minute.

    The first and the last trade are by time, and by id where the time is the same: trades that were
    filled in after a lost connection are on the topic later than they took place.
    """

    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal
    trades: int


Key = tuple[str, int]
"""Of a candle: symbol, and the minute's start in microseconds since 1970."""


def candles(trades: Iterable[Mapping[str, Any]]) -> dict[Key, Candle]:
    """Return the candles of these records."""
    minutes: dict[Key, list[tuple[int, int, Decimal, Decimal]]] = {}
    for trade in trades:
        start = trade["time_us"] // MINUTE_US * MINUTE_US
        place = trade["time_us"], trade["id"], Decimal(trade["price"]), Decimal(trade["amount"])
        minutes.setdefault((trade["symbol"], start), []).append(place)
    return {key: _candle(sorted(places)) for key, places in minutes.items()}


def _candle(trades: list[tuple[int, int, Decimal, Decimal]]) -> Candle:
    prices = [price for _, _, price, _ in trades]
    volume = Decimal(0)
    for _, _, _, amount in trades:
        volume = _exact.add(volume, amount)
    return Candle(prices[0], max(prices), min(prices), prices[-1], volume, len(trades))


class Comparison(NamedTuple):
    """What has become of candles: those that no trade has changed meanwhile, and what was found instead.

    `wrong` has what was expected and what was found, either of which may be nothing.
    """

    settled: dict[Key, Candle]
    wrong: dict[Key, tuple[Candle | None, Candle | None]]


def compared(
    before: Mapping[Key, Candle], found: Mapping[Key, Candle], after: Mapping[Key, Candle]
) -> Comparison:
    """Compare candles with those of the trades before and after they were found: trades keep coming.

    Those that a trade has changed meanwhile are not compared; but none may be there that no trade belongs to.
    """
    settled = {key: one for key, one in before.items() if after.get(key) == one}
    wrong: dict[Key, tuple[Candle | None, Candle | None]] = {
        key: (one, found.get(key)) for key, one in settled.items() if found.get(key) != one
    }
    wrong |= {key: (None, one) for key, one in found.items() if key not in after}
    return Comparison(settled, wrong)


def once(found: Iterable[tuple[Key, Candle]]) -> dict[Key, Candle]:
    """Return candles by their keys; fail if one is there twice."""
    listed = list(found)
    assert len(listed) == len(dict(listed)), listed
    return dict(listed)


def candle(record: Mapping[str, Any]) -> tuple[Key, Candle]:
    """Return the candle in a record that an example wrote, with its key.

    Its fields are those of `Candle`, `symbol` and `start_us`; prices and the volume are strings.
    """
    first, high, low, last, volume = (Decimal(record[name]) for name in Candle._fields[:5])
    return (record["symbol"], record["start_us"]), Candle(first, high, low, last, volume, record["trades"])


def printed(line: str) -> tuple[Key, Candle]:
    """Return the candle in a line that an example printed: symbol, minute, and the fields of `Candle`."""
    symbol, minute, *figures, trades = line.split()
    first, high, low, last, volume = map(Decimal, figures)
    start_us = int(datetime.fromisoformat(minute).timestamp()) * 1_000_000
    return (symbol, start_us), Candle(first, high, low, last, volume, int(trades))
