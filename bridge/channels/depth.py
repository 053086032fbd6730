"""depth: the order book of a symbol as a snapshot or as a change to it (API document, "Depth push")."""

import re
from decimal import Decimal
from typing import Annotated

import msgspec
from msgspec import Meta, Raw, Struct

from bridge.channels.additions import REFUSED, Reader, path_of
from bridge.channels.channel import (
    Channel,
    Independent,
    Normalise,
    Outcome,
    Overlap,
    Source,
    SubscribedBy,
    schema_name,
)
from bridge.channels.figures import USUAL, Figure, exact
from bridge.channels.items import ParamsReader, decode_params
from bridge.errors import BadItem
from bridge.records import Record

# Numbers: to look for a byte in bytes costs an exception inside, which is caught, if it is given as bytes.
_SPACE, _NEWLINE = b" \n"

_MISSING = Raw(b"[]")
_BOOK = "params[1]"


class Book(Struct, gc=False):
    """The book in a push; a missing side is empty."""

    asks: Raw = _MISSING
    bids: Raw = _MISSING


class DepthRecord(Struct, gc=False):
    """digifinex.depth.v1."""

    schema: str
    session: str
    seq: int
    received_us: int
    symbol: str
    snapshot: bool
    asks: Raw
    bids: Raw


_SCHEMA = schema_name("depth")
_Level = tuple[str, str]

_decode_levels = msgspec.json.Decoder(list[_Level]).decode
_decode_sides = msgspec.json.Decoder(tuple[list[_Level], list[_Level]]).decode
_decode_odd_side = msgspec.json.Decoder(list[Raw] | None).decode
_decode_figures = msgspec.json.Decoder(list[Figure]).decode
_decode_object = msgspec.json.Decoder(dict[str, Figure]).decode
_encode = msgspec.json.Encoder().encode

# A side as the exchange nearly always writes it, and as records have it.
_LEVEL = rb"\[%b,%b\]" % (USUAL, USUAL)
_SIDE = rb"\[(?:%b(?:,%b)*+)?+\]" % (_LEVEL, _LEVEL)
_is_usual = re.compile(_SIDE).fullmatch
_usual_sides = re.compile(rb"\[(%b),(%b)\]" % (_SIDE, _SIDE)).fullmatch


def normaliser() -> Normalise:
    """Return a function that turns a push into its one record."""
    books = Reader(Book, _BOOK)
    reader = ParamsReader(
        lambda: books.strict_type, lambda body, outcome: books.read_odd(body, outcome.added)
    )

    def normalise(params: bytes, source: Source, received_us: int) -> Outcome:
        outcome = Outcome([])
        if _SPACE in params or _NEWLINE in params:
            params = msgspec.json.format(params, indent=-1)  # records have none: cheaper than level by level
        try:
            push = reader.decode(params)
        except REFUSED:
            push = reader.read_odd(params, outcome)
        clean, asks, bids = push.clean, push.body.asks, push.body.bids
        if asks is bids is _MISSING and _decode_object(decode_params(params).body):
            raise BadItem("a book with neither asks nor bids")
        if not (_is_usual(asks) and _is_usual(bids)):
            asks, bids = _sides(asks, bids, outcome)
        series = source.series("depth", push.symbol)
        if clean:
            asks = _sorted(asks, best_is_highest=False)
            bids = _sorted(bids, best_is_highest=True)
            series.begun = True
        seq, symbol = series.next_seq(), series.symbol
        record = DepthRecord(_SCHEMA, series.session, seq, received_us, symbol, clean, asks, bids)
        outcome.records.append(Record("depth", series.key, _encode(record), received_us))
        return outcome

    return normalise


def _sides(asks: Raw, bids: Raw, outcome: Outcome) -> tuple[Raw, Raw]:
    """Return both sides in the usual form."""
    try:
        usual = _usual_sides(_encode(_decode_sides(b"[%b,%b]" % (asks, bids))))
    except REFUSED:
        usual = None
    if usual:
        return Raw(usual[1]), Raw(usual[2])
    return _exact_side(asks, f"{_BOOK}.asks[]", outcome), _exact_side(bids, f"{_BOOK}.bids[]", outcome)


def _exact_side(side: Raw, path: str, outcome: Outcome) -> Raw:
    levels = _decode_odd_side(side) or []
    return Raw(_encode([_exact_level(level, path, outcome) for level in levels]))


def _exact_level(level: Raw, path: str, outcome: Outcome) -> list[Raw]:
    """Return the price and amount of a level, which may be an object, and may have more than that."""
    if bytes(level)[:1] == b"{":
        named = _decode_object(level)
        outcome.added += [path_of(path, name) for name in named if name not in ("price", "amount")]
        figures = [named[name] for name in ("price", "amount") if name in named]
    else:
        figures = _decode_figures(level)
        if len(figures) > 2:  # noqa: PLR2004
            outcome.added.append(f"{path}[2]")
    if len(figures) < 2:  # noqa: PLR2004
        raise BadItem(f"a level of {len(figures)} figures")
    return list(exact(figures[:2]))


def _sorted(side: Raw, *, best_is_highest: bool) -> Raw:
    levels = _decode_levels(side)
    levels.sort(key=_price, reverse=best_is_highest)
    return Raw(_encode(levels))


def _price(level: _Level) -> Decimal:
    return Decimal(level[0])


_Decimal = Annotated[str, Meta(pattern=r"^-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]{1,3})?\Z")]


class _Made(Struct):
    """A record as the normaliser makes it."""

    session: str
    seq: Annotated[int, Meta(ge=0)]
    received_us: Annotated[int, Meta(ge=0)]
    symbol: str
    snapshot: bool
    asks: list[tuple[_Decimal, _Decimal]]
    bids: list[tuple[_Decimal, _Decimal]]


_decode_made = msgspec.json.Decoder(_Made).decode


def is_made(record: Record) -> bool:
    """Return whether a record is one that the normaliser can have made, so that a book can take it."""
    try:
        return _decode_made(record.value).symbol.encode() == record.key
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return False


CHANNEL = Channel(
    name="depth",
    meaning="Order book: full snapshots, and the changes between them.",
    subscribed_by=SubscribedBy.MARKET,
    overlap=Overlap.SNAPSHOT,
    normaliser=lambda _: Independent("depth", normaliser()),
    begins_clean=True,
)
