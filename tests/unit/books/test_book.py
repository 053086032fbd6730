"""Book: levels by the value of their price, with the exchange's own digits."""

import json
from collections.abc import Sequence
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.books.book import Book, Level
from tests.unit.books.levels import Values, book_of, by_value, sides

updates = st.lists(st.tuples(st.booleans(), sides), max_size=8)


def applied(values: Values, asks: Sequence[Level], bids: Sequence[Level]) -> int:
    """Change a book as the API document says, level by level; return how many absent ones were removed."""
    absent = 0
    for side, levels in zip(values, (asks, bids), strict=True):
        for price, amount in levels:
            if Decimal(amount) == 0:
                absent += Decimal(price) not in side
                side.pop(Decimal(price), None)
            else:
                side[Decimal(price)] = Decimal(amount)
    return absent


@given(updates)
def test_a_book_has_what_its_last_snapshot_and_the_changes_since_have_left(
    made: list[tuple[bool, tuple[list[Level], list[Level]]]],
) -> None:
    book, absent = Book(), 0
    expected: Values = ({}, {})
    for snapshot, (asks, bids) in made:
        if snapshot:
            book.replace(asks, bids)
            expected = ({}, {})
            applied(expected, asks, bids)
        else:
            book.change(asks, bids)
            absent += applied(expected, asks, bids)
        assert by_value(book) == expected
        assert book.absent == absent


@given(sides, sides)
def test_a_copy_changes_apart_from_its_original(
    first: tuple[list[Level], list[Level]], then: tuple[list[Level], list[Level]]
) -> None:
    book = book_of(*first)
    copy = book.copy()
    before = by_value(book)
    copy.change(*then)
    assert by_value(book) == before
    book.change(*then)
    assert by_value(copy) == by_value(book)


@given(sides, st.integers(0, 8))
def test_a_view_has_the_best_levels_first(made: tuple[list[Level], list[Level]], levels: int) -> None:
    book = book_of(*made)
    values = by_value(book)
    view = book.view(levels)
    asks = [(Decimal(price), Decimal(amount)) for price, amount in json.loads(view.asks)]
    bids = [(Decimal(price), Decimal(amount)) for price, amount in json.loads(view.bids)]
    at_most = levels or None
    assert asks == sorted(values[0].items())[:at_most]
    assert bids == sorted(values[1].items(), reverse=True)[:at_most]
    assert view.truncated == ((len(asks), len(bids)) != tuple(map(len, values)))


@given(sides)
def test_the_best_prices_are_the_first_of_the_view(made: tuple[list[Level], list[Level]]) -> None:
    book = book_of(*made)
    view = book.view(1)
    first = [json.loads(side)[:1] for side in (view.asks, view.bids)]
    assert [best is None for best in book.best] == [not side for side in first]
    for best, side in zip(book.best, first, strict=True):
        assert all(Decimal(price) == best for price, _ in side)


def test_a_level_keeps_the_digits_that_were_sent_last() -> None:
    book = book_of([("1.00", "2.50"), ("007", "1e3")])
    book.change([("1.0", "3.5000")], [])
    assert book.view().asks == '[["1.0","3.5000"],["007","1e3"]]'


@pytest.mark.parametrize("zero", ["0", "0.0000", "0e5", "-0", "00.0E-7"])
@pytest.mark.parametrize("price", ["100", "100.00", "1e2", "0100", "10E+1"])
def test_a_zero_in_any_spelling_removes_a_price_in_any_spelling(zero: str, price: str) -> None:
    book = book_of([("100.0", "1")], [("100.0", "1")])
    book.change([(price, zero)], [(price, zero)])
    assert by_value(book) == ({}, {})
    assert book.absent == 0


def test_prices_that_a_float_cannot_tell_apart_are_two_levels() -> None:
    book = book_of([("0.30000000000000001", "1"), ("0.30000000000000002", "1")])
    assert len(book.asks) == 2


@pytest.mark.parametrize(
    ("ask", "bid", "crossed"),
    [("2", "1", False), ("2", "2.0", True), ("2", "2.1", True), ("10", "9", False), ("1e-8", "0", False)],
)
def test_a_book_is_crossed_if_a_bid_reaches_an_ask(ask: str, bid: str, *, crossed: bool) -> None:
    assert book_of([("50", "1"), (ask, "1")], [("-5", "1"), (bid, "1")]).crossed is crossed


def test_a_book_without_one_side_is_not_crossed() -> None:
    assert not Book().crossed
    assert not book_of([("1", "1")]).crossed
    assert not book_of([], [("1", "1")]).crossed


def test_a_snapshot_without_a_side_empties_it() -> None:
    book = book_of([("1", "1")], [("0.5", "1")])
    book.replace([("2", "1")], [])
    assert book.view() == ('[["2","1"]]', "[]", False)
