"""stub: candles of a market; the exchange has no such channel."""

import msgspec
from msgspec import Raw, Struct

from bridge.channels.channel import Channel, Independent, Outcome, Overlap, Source, SubscribedBy
from bridge.channels.figures import Figure, Name, Time, exact, microseconds
from bridge.channels.items import ItemsReader
from bridge.errors import BadItem
from bridge.records import Record


class Candle(Struct, gc=False):
    """One item of a push."""

    symbol: Name
    timestamp: Time
    open: Figure
    close: Figure


class CandleRecord(Struct, frozen=True, gc=False):
    """digifinex.stub.v1."""

    schema: str
    session: str
    seq: int
    received_us: int
    symbol: str
    time_us: int
    open: Raw
    close: Raw


_read = ItemsReader(Candle).read
_encode = msgspec.json.Encoder().encode


def normalise(params: bytes, source: Source, received_us: int) -> Outcome:
    """Return a record for each candle."""
    outcome = Outcome([])
    for candle in _read(params, outcome):
        try:
            time_us = microseconds(candle.timestamp)
            first, last = exact((candle.open, candle.close))
        except BadItem as bad:
            outcome.bad.append(f"{candle.symbol}: {bad}")
            continue
        series = source.series("stub", candle.symbol)
        record = CandleRecord(
            schema=CHANNEL.schema,
            session=source.session,
            seq=series.next_seq(),
            received_us=received_us,
            symbol=series.symbol,
            time_us=time_us,
            open=first,
            close=last,
        )
        outcome.records.append(Record("stub", series.key, _encode(record), received_us))
        outcome.time_us = max(outcome.time_us or 0, time_us)
    return outcome


CHANNEL = Channel(
    name="stub",
    meaning="Candles of one minute, on every change.",
    subscribed_by=SubscribedBy.MARKET,
    overlap=Overlap.SERIES,
    normaliser=lambda _: Independent("stub", normalise),
)
