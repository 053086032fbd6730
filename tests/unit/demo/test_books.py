"""The demo says that a book equals the exchange's only if it does."""

from decimal import Decimal
from typing import Any

import pytest

from bridge.consumer import BookRecord, Depth, Level
from bridge.demo.books import Books

SYMBOL = "BTC_USDT"
SENT = {"asks": {"101.00": "1.5000", "102.00": "2.0000"}, "bids": {"100.00": "0.0001"}}
HEAD: dict[str, Any] = {"session": "s", "received_us": 1, "symbol": SYMBOL}


def levels(side: dict[str, str]) -> tuple[Level, ...]:
    return tuple(Level(Decimal(price), Decimal(amount)) for price, amount in side.items())


def depth(seq: int, *, snapshot: bool = False, **sides: dict[str, str]) -> Depth:
    asks, bids = (levels(sides.get(side, {})) for side in ("asks", "bids"))
    return Depth(schema="digifinex.depth.v1", seq=seq, snapshot=snapshot, asks=asks, bids=bids, **HEAD)


def book(seq: int, **sides: dict[str, str]) -> BookRecord:
    return BookRecord(
        schema="digifinex.book.v1",
        seq=0,
        depth_session="s",
        depth_seq=seq,
        asks=levels(sides["asks"]),
        bids=levels(sides["bids"]),
        crossed=False,
        truncated=False,
        **HEAD,
    )


SNAPSHOT, BOOK = depth(0, snapshot=True, **SENT), book(0, **SENT)


def test_both_the_followed_and_the_written_book_have_to_be_the_exchanges() -> None:
    books = Books()
    for record in (SNAPSHOT, BOOK):
        books.apply(record)
    assert not books.different({SYMBOL: SENT})
    assert books.best(SYMBOL, 1) == (
        [Level(Decimal(101), Decimal("1.5"))],
        [Level(Decimal(100), Decimal("0.0001"))],
    )


@pytest.mark.parametrize(
    "records",
    [
        [],
        [SNAPSHOT],
        [SNAPSHOT, BOOK, depth(1, asks={"101": "1.4"})],
        [SNAPSHOT, BOOK, depth(1, bids={"100": "0"})],
        [SNAPSHOT, BOOK, depth(2)],  # one is missing
        [SNAPSHOT, book(0, asks=SENT["asks"], bids={})],
    ],
)
def test_any_other_book_is_different(records: list[Depth | BookRecord]) -> None:
    books = Books()
    for record in records:
        books.apply(record)
    assert books.different({SYMBOL: SENT}) == [SYMBOL]
