"""ticker: the last prices and 24-hour figures of a symbol (API document, "Ticker push")."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import astuple

from bridge.channels.channel import (
    Channel,
    Independent,
    Normaliser,
    Outcome,
    Overlap,
    Source,
    SubscribedBy,
    schema_name,
)
from bridge.channels.figures import NULL, Figure, Name, exact_or_null, microseconds, plain_or_null
from bridge.channels.items import ItemsReader
from bridge.errors import BadItem, Unsubscribed
from bridge.records import Record


class Ticker(Struct, gc=False):
    """One item of a push; all but the symbol may be left out. The order is that of the record."""

    symbol: Name
    timestamp: Any = None
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


class TickerRecord(Struct, gc=False):
    """digifinex.ticker.v1 and digifinex.all_ticker.v1."""

    schema: str
    session: str
    seq: int
    received_us: int
    symbol: str
    time_us: int | None
    open_24h: Raw
    high_24h: Raw
    low_24h: Raw
    base_volume_24h: Raw
    quote_volume_24h: Raw
    last: Raw
    last_qty: Raw
    best_bid: Raw
    best_bid_size: Raw
    best_ask: Raw
    best_ask_size: Raw


_FIGURES = slice(2, len(Ticker.__struct_fields__))

FIGURES = Ticker.__struct_fields__[_FIGURES]
"""The names of a ticker's figures, in the order of the API document."""


def normaliser(channel: str) -> Normaliser:
    """Return the normaliser of a channel whose items are tickers."""
    read = ItemsReader(Ticker).read
    encode = msgspec.json.Encoder().encode
    schema = schema_name(channel)

    def normalise(params: bytes, source: Source, received_us: int) -> Outcome:
        outcome, newest_us = Outcome([]), 0
        session, records = source.session, outcome.records
        for ticker in read(params, outcome):
            figures: Sequence[Raw] = astuple(ticker)[_FIGURES]
            if not plain_or_null(b",".join(figures)):
                try:
                    figures = exact_or_null(figures)
                except BadItem as bad:
                    outcome.bad.append(f"{ticker.symbol}: {bad}")
                    continue
            try:
                series = source.series(channel, ticker.symbol)
            except Unsubscribed as other:
                outcome.unsubscribed.append(str(other))
                continue
            except BadItem as bad:
                outcome.bad.append(str(bad))
                continue
            seq, time_us = series.next_seq(), None
            if ticker.timestamp is not None:
                try:
                    time_us = microseconds(ticker.timestamp)
                except BadItem:
                    time_us = None  # that must not cost the figures
            record = TickerRecord(schema, session, seq, received_us, series.symbol, time_us, *figures)
            series.shown = value = encode(record)
            records.append(Record(channel, series.key, value, received_us))
            if time_us is not None and time_us > newest_us:
                newest_us = time_us
        outcome.time_us = newest_us or None
        return outcome

    return Independent(channel, normalise)


CHANNEL = Channel(
    name="ticker",
    meaning="Last price, best bid and ask, and 24-hour figures, on every change.",
    subscribed_by=SubscribedBy.MARKET,
    overlap=Overlap.STATE,
    normaliser=lambda _: normaliser("ticker"),
)
