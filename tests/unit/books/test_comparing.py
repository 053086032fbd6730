"""Comparing books: which levels differ, and whether a snapshot is any of the states that a book had."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from bridge.books.book import Book, Level
from bridge.books.comparing import MOST_CHANGED, Difference, Overlap, differences
from tests.unit.books.levels import book_of, by_value, sides

Sides = tuple[list[Level], list[Level]]
updates = st.lists(st.tuples(st.booleans(), sides), max_size=6)


def states(book: Book, overlap: Overlap, made: list[tuple[bool, Sides]]) -> list[Book]:
    """Give these updates to a book and its overlap; return all states of the book, the first included."""
    found = [book.copy()]
    for snapshot, (asks, bids) in made:
        overlap.add(asks, bids, snapshot=snapshot)
        (book.replace if snapshot else book.change)(asks, bids)
        found.append(book.copy())
    return found


@given(sides, sides)
def test_books_differ_where_their_values_do(kept: Sides, found: Sides) -> None:
    one, other = book_of(*kept), book_of(*found)
    by_side = dict(zip(("asks", "bids"), zip(by_value(one), by_value(other), strict=True), strict=True))
    expected = {
        (side, price, mine.get(price), others.get(price))
        for side, (mine, others) in by_side.items()
        for price in mine.keys() | others.keys()
        if mine.get(price) != others.get(price)
    }
    result = [
        (side, Decimal(price), mine and Decimal(mine), other and Decimal(other))
        for side, price, mine, other in differences(one, other)
    ]
    assert set(result) == expected
    assert len(result) == len(expected)
    prices = [[price for of, price, _, _ in result if of == side] for side in ("asks", "bids")]
    assert prices == [sorted(prices[0]), sorted(prices[1], reverse=True)]
    assert [of for of, *_ in result] == sorted(of for of, *_ in result)


def test_a_difference_has_the_digits_of_each_book() -> None:
    kept = book_of([("1.0", "2.0"), ("2", "5"), ("3", "1.0")], [("0.5", "7")])
    found = book_of([("1.00", "2.00"), ("2.0", "4"), ("4", "6.0")], [("0.5", "7")])
    assert differences(kept, found) == [
        Difference("asks", "2", "5", "4"),
        Difference("asks", "3", "1.0", None),
        Difference("asks", "4", None, "6.0"),
    ]


@given(sides, updates, sides, st.integers(0, 6), st.booleans())
def test_a_snapshot_is_compared_with_every_state_of_an_overlap(
    start: Sides, made: list[tuple[bool, Sides]], other: Sides, place: int, had: bool
) -> None:
    book = book_of(*start)
    overlap = Overlap(book)
    known = states(book, overlap, made)
    found = known[place % len(known)] if had else book_of(*other)
    result = overlap.closest(found)
    assert result is not None
    assert len(result) == min(len(differences(state, found)) for state in known)
    assert any(result == differences(state, found) for state in known)


def test_an_overlap_does_not_change_with_its_book() -> None:
    book = book_of([("1", "1")])
    overlap = Overlap(book)
    book.change([("1", "2")], [])
    assert overlap.closest(book_of([("1", "1")])) == []


def test_an_overlap_of_more_changes_than_are_kept_tells_nothing() -> None:
    overlap = Overlap(Book())
    change: list[Level] = [("1", "1")] * (MOST_CHANGED // 2)
    overlap.add(change, change, snapshot=False)
    assert overlap.closest(book_of([("1", "1")], [("1", "1")])) == []
    overlap.add([("2", "1")], [], snapshot=True)
    overlap.add([("3", "1")], [], snapshot=True)
    assert overlap.closest(book_of([("3", "1")])) is None


def test_differing_bids_are_in_order_to_the_last_digit() -> None:
    prices = [f"{'1' * 40}.{last}" for last in (3, 1, 2)]
    found = differences(book_of(), book_of(bids=[(price, "1") for price in prices]))
    assert [one.price[-1] for one in found] == ["3", "2", "1"]
