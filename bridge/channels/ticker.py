"""ticker: the last prices and 24-hour figures of a symbol (API document, "Ticker push")."""

import re
from collections.abc import Iterable, Sequence
from itertools import chain

import msgspec
from msgspec import Struct

from bridge.channels.channel import Channel, Independent, Normaliser, Outcome, Overlap, Source, SubscribedBy
from bridge.channels.figures import (
    MILLISECOND,
    NULL,
    USUAL,
    USUAL_NAME,
    Figure,
    Name,
    Time,
    exact_or_null,
    microseconds,
)
from bridge.channels.items import decode_items
from bridge.errors import BadItem
from bridge.records import Record


class Ticker(Struct, gc=False):
    """One item of a push; any figure may be left out."""

    symbol: Name
    timestamp: Time
    open_24h: Figure = NULL
    high_24h: Figure = NULL
    low_24h: Figure = NULL
    base_volume_24h: Figure = NULL
    quote_volume_24h: Figure = NULL
    last: Figure = NULL
    last_qty: Figure = NULL
    best_bid: Figure = NULL
    best_bid_size: Figure = NULL
    best_ask: Figure = NULL
    best_ask_size: Figure = NULL


_FIGURES = Ticker.__struct_fields__[2:]

# digifinex.ticker.v1 and digifinex.all_ticker.v1: head, seq, received_us, symbol, time_us, figures.
_RECORD = b'%b%d,"received_us":%d,"symbol":%b,"time_us":%b,%b}'
_RECORD_FIGURES = ",".join(f'"{name}":%b' for name in _FIGURES).encode()

# A ticker as the exchange nearly always writes it, with what follows it in its list: its figures are copied
# into the record unparsed.
_usual = re.compile(
    rb'\{"symbol":%b,(%b),"timestamp":([1-9][0-9]{12})\}(?:,|\]\Z)'
    % (USUAL_NAME, b",".join(b'"%b":%b' % (name.encode(), USUAL) for name in _FIGURES))
).findall
_AROUND = len(b'{"symbol":"",,"timestamp":},')  # bytes of such a ticker besides its three groups

_decode = msgspec.json.Decoder(list[Ticker])

_Line = tuple[bytes, bytes, bytes]
"""A ticker's symbol, its figures as a record has them, and the digits of its time."""


def normaliser(channel: str) -> Normaliser:
    """Return the normaliser of a channel whose items are tickers."""

    def normalise(params: bytes, source: Source, received_us: int) -> Outcome:
        outcome = Outcome([])
        records, times = outcome.records, []
        usual = _usual_lines(params)
        # Appended to the digits of a time to get microseconds: in the usual form they are milliseconds.
        unit = b"000" if usual else b""
        for symbol, figures, time in usual or _unusual_lines(params, outcome):
            time_us = time + unit
            series = source.series(channel, symbol)
            value = _RECORD % (
                series.head,
                series.next_seq(),
                received_us,
                series.name,
                time_us,
                figures,
            )
            records.append(Record(channel, series.key, value, received_us))
            times.append(time_us)
        if times:
            outcome.time_us = max(map(int, times))
        return outcome

    return Independent(channel, normalise)


def _usual_lines(params: bytes) -> Sequence[_Line]:
    """Return the tickers of a list if all are in the usual form, else none."""
    lines: list[_Line] = _usual(params, 1)
    size = sum(map(len, chain.from_iterable(lines))) + len(lines) * _AROUND
    return lines if size + 1 == len(params) else ()


def _unusual_lines(params: bytes, outcome: Outcome) -> Iterable[_Line]:
    for ticker in decode_items(_decode, Ticker, params, outcome):
        try:
            time_us = microseconds(ticker.timestamp, MILLISECOND)
            figures = exact_or_null([getattr(ticker, name) for name in _FIGURES])
        except BadItem as bad:
            outcome.bad.append(f"{ticker.symbol}: {bad}")
            continue
        yield ticker.symbol.encode(), _RECORD_FIGURES % tuple(figures), b"%d" % time_us


CHANNEL = Channel(
    name="ticker",
    meaning="Last price, best bid and ask, and 24-hour figures, on every change.",
    subscribed_by=SubscribedBy.MARKET,
    overlap=Overlap.STATE,
    normaliser=lambda _: normaliser("ticker"),
)
