"""kline: candles of a market; the exchange has no such channel."""

import msgspec
from msgspec import Raw, Struct

from bridge.channels.channel import Channel, Outcome, Overlap, Source, SubscribedBy
from bridge.channels.figures import MILLISECOND, Figure, Name, Time, exact, microseconds
from bridge.channels.items import decode_items
from bridge.errors import BadItem
from bridge.records import Record


class Kline(Struct, gc=False):
    """One item of a push."""

    symbol: Name
    timestamp: Time
    open: Figure
    close: Figure


class KlineRecord(Struct, frozen=True, gc=False):
    """digifinex.kline.v1."""

    schema: str
    session: str
    seq: int
    received_us: int
    symbol: str
    time_us: int
    open: Raw
    close: Raw


_decoder = msgspec.json.Decoder(list[Kline])
_encode = msgspec.json.Encoder().encode


def normalise(params: bytes, source: Source, received_us: int) -> Outcome:
    """Return a record for each candle."""
    outcome = Outcome([])
    for kline in decode_items(_decoder, Kline, params, outcome):
        try:
            time_us = microseconds(kline.timestamp, MILLISECOND)
            first, last = exact((kline.open, kline.close))
        except BadItem as bad:
            outcome.bad.append(f"{kline.symbol}: {bad}")
            continue
        series = source.series("kline", kline.symbol.encode())
        record = KlineRecord(
            schema=CHANNEL.schema,
            session=source.session,
            seq=series.next_seq(),
            received_us=received_us,
            symbol=series.symbol,
            time_us=time_us,
            open=first,
            close=last,
        )
        outcome.records.append(Record("kline", series.key, _encode(record), received_us))
        outcome.time_us = max(outcome.time_us or 0, time_us)
    return outcome


CHANNEL = Channel(
    name="kline",
    meaning="Candles of one minute, on every change.",
    subscribed_by=SubscribedBy.MARKET,
    overlap=Overlap.SERIES,
    normaliser=lambda _: normalise,
)
