"""ticker: the last prices and 24-hour figures of a symbol (API document, "Ticker push")."""

import msgspec
from msgspec import Raw, Struct

from bridge.channels.channel import BadItem, Channel, Normalise, Outcome, Source
from bridge.channels.figures import NULL, Figure, Name, Time, exact_or_null, microseconds
from bridge.channels.items import decode_items
from bridge.records import Record

_MILLISECOND = 1_000


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


class TickerRecord(Struct, frozen=True, gc=False):
    """digifinex.ticker.v1 and digifinex.all_ticker.v1."""

    schema: str
    session: str
    seq: int
    received_us: int
    symbol: str
    time_us: int
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


_decode = msgspec.json.Decoder(list[Ticker])
_encode = msgspec.json.Encoder().encode


def normaliser(channel: str) -> Normalise:
    """Return the normaliser of a channel whose items are tickers."""
    schema = f"digifinex.{channel}.v1"

    def normalise(params: Raw, source: Source, received_us: int) -> Outcome:
        outcome = Outcome([])
        newest = 0
        records, session = outcome.records, source.session
        for ticker in decode_items(_decode, Ticker, params, outcome):
            try:
                time_us = microseconds(ticker.timestamp, _MILLISECOND)
                figures = exact_or_null(
                    (
                        ticker.open_24h,
                        ticker.high_24h,
                        ticker.low_24h,
                        ticker.base_volume_24h,
                        ticker.quote_volume_24h,
                        ticker.last,
                        ticker.last_qty,
                        ticker.best_bid,
                        ticker.best_bid_size,
                        ticker.best_ask,
                        ticker.best_ask_size,
                    )
                )
            except BadItem as bad:
                outcome.bad.append(f"{ticker.symbol}: {bad}")
                continue
            series = source.series(channel, ticker.symbol)
            record = TickerRecord(
                schema, session, series.next_seq(), received_us, series.symbol, time_us, *figures
            )
            records.append(Record(channel, series.key, _encode(record), received_us))
            newest = max(newest, time_us)
        outcome.time_us = newest or None
        return outcome

    return normalise


CHANNEL = Channel("ticker", lambda: normaliser("ticker"))
