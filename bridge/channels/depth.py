"""depth: the order book of a symbol, whole (`snapshot`) or what changed (API document, "Depth push")."""

import re
from decimal import Decimal

import msgspec
from msgspec import Raw, Struct

from bridge.channels.channel import BadItem, Channel, Normalise, Outcome, Source
from bridge.channels.figures import Figure, Name, exact
from bridge.records import Record


class Book(Struct, gc=False):
    """The `depth` of a push; a missing side is an empty one."""

    asks: Raw = Raw(b"[]")
    bids: Raw = Raw(b"[]")


class DepthRecord(Struct, frozen=True, gc=False):
    """digifinex.depth.v1."""

    schema: str
    session: str
    seq: int
    received_us: int
    symbol: str
    snapshot: bool
    asks: Raw
    bids: Raw


_Level = tuple[str, str]

_decode = msgspec.json.Decoder(tuple[bool, Book, Name]).decode
_decode_levels = msgspec.json.Decoder(list[_Level]).decode
_decode_odd_levels = msgspec.json.Decoder(list[list[Figure]] | None).decode
_encode = msgspec.json.Encoder().encode

# Levels that are already written as records have them go out as they came, unparsed.
_plain = re.compile(rb'\[(?:,?\["[0-9]++(?:\.[0-9]++)?","[0-9]++(?:\.[0-9]++)?"\])*+\]').fullmatch


def normalise(params: Raw, source: Source, received_us: int) -> Outcome:
    """Return the one record of a push."""
    snapshot, book, symbol = _decode(params)
    asks = _levels(book.asks)
    bids = _levels(book.bids)
    if snapshot:
        asks = _sorted(asks, best_is_highest=False)
        bids = _sorted(bids, best_is_highest=True)
    series = source.series("depth", symbol)
    record = DepthRecord(
        "digifinex.depth.v1",
        source.session,
        series.next_seq(),
        received_us,
        series.symbol,
        snapshot,
        asks,
        bids,
    )
    return Outcome([Record("depth", series.key, _encode(record), received_us)])


def _levels(side: Raw) -> Raw:
    if _plain(side):
        return side
    levels = _decode_odd_levels(side) or []
    for level in levels:
        if len(level) < 2:  # noqa: PLR2004
            raise BadItem(f"a level of {len(level)} figures")
    return Raw(_encode([list(exact(level[:2])) for level in levels]))


def _sorted(side: Raw, *, best_is_highest: bool) -> Raw:
    levels = _decode_levels(side)
    levels.sort(key=_price, reverse=best_is_highest)
    return Raw(_encode(levels))


def _price(level: _Level) -> Decimal:
    return Decimal(level[0])


def _normaliser() -> Normalise:
    return normalise


CHANNEL = Channel("depth", _normaliser)
