"""depth: the order book of a symbol as a snapshot or as a change to it (API document, "Depth push")."""

import re
from decimal import Decimal

import msgspec
from msgspec import Raw, Struct

from bridge.channels.channel import Channel, Independent, Outcome, Overlap, Source, SubscribedBy
from bridge.channels.figures import USUAL, USUAL_NAME, Figure, Name, exact
from bridge.errors import BadItem
from bridge.records import Record

# digifinex.depth.v1: head, seq, received_us, symbol, snapshot, asks, bids.
_RECORD = b'%b%d,"received_us":%d,"symbol":%b,"snapshot":%b,"asks":%b,"bids":%b}'


class Book(Struct, gc=False):
    """The book in a push; a missing side is empty."""

    asks: Raw = Raw(b"[]")
    bids: Raw = Raw(b"[]")


_Level = tuple[str, str]

_decode = msgspec.json.Decoder(tuple[bool, Book, Name]).decode
_decode_levels = msgspec.json.Decoder(list[_Level]).decode
_decode_odd_levels = msgspec.json.Decoder(list[list[Figure]] | None).decode
_encode = msgspec.json.Encoder().encode

# A push as the exchange nearly always writes it: its levels are copied into the record unparsed.
_LEVELS = rb"\[(?:,?\[%b,%b\])*+\]" % (USUAL, USUAL)
_usual = re.compile(
    rb'\[(true|false),\{"asks":(%b),"bids":(%b)\},%b\]' % (_LEVELS, _LEVELS, USUAL_NAME)
).fullmatch
_usual_levels = re.compile(_LEVELS).fullmatch


def normalise(params: bytes, source: Source, received_us: int) -> Outcome:
    """Return the record of a push; a push has exactly one."""
    usual = _usual(params)
    clean, asks, bids, symbol = usual.groups() if usual else _unusual(params)
    if clean == b"true":
        asks = _sorted(asks, best_is_highest=False)
        bids = _sorted(bids, best_is_highest=True)
    series = source.series("depth", symbol)
    if clean == b"true":
        series.begun = True
    value = _RECORD % (series.head, series.next_seq(), received_us, series.name, clean, asks, bids)
    return Outcome([Record("depth", series.key, value, received_us)])


def _unusual(params: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    clean, book, symbol = _decode(params)
    return (b"true" if clean else b"false", _levels(book.asks), _levels(book.bids), symbol.encode())


def _levels(side: Raw) -> bytes:
    if _usual_levels(side):
        return bytes(side)
    levels = _decode_odd_levels(side) or []
    for level in levels:
        if len(level) < 2:  # noqa: PLR2004
            raise BadItem(f"a level of {len(level)} figures")
    return _encode([list(exact(level[:2])) for level in levels])


def _sorted(side: bytes, *, best_is_highest: bool) -> bytes:
    levels = _decode_levels(side)
    levels.sort(key=_price, reverse=best_is_highest)
    return _encode(levels)


def _price(level: _Level) -> Decimal:
    return Decimal(level[0])


CHANNEL = Channel(
    name="depth",
    meaning="Order book: full snapshots, and the changes between them.",
    subscribed_by=SubscribedBy.MARKET,
    overlap=Overlap.SNAPSHOT,
    normaliser=lambda _: Independent("depth", normalise),
    begins_clean=True,
)
