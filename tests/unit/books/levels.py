"""Levels whose prices meet under many spellings, so that they replace and remove each other."""

from collections.abc import Sequence
from decimal import Decimal

from hypothesis import strategies as st

from bridge.books.book import Book, Level, Side, price_and_amount
from tests.support.decimals import decimals

prices = (
    st.sampled_from(["1", "1.0", "01.00", "1e0", "2", "2.50", "25e-1", "3", "10", "1E1", "-1"]) | decimals
)
amounts = st.sampled_from(["0", "0.0000", "0e0", "-0", "00", "1", "1.0", "2.50", "1E-8"]) | decimals
levels = st.lists(st.tuples(prices, amounts), max_size=6)
sides = st.tuples(levels, levels)

Values = tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]]
"""Asks and bids of a book, by value."""


def by_value(book: Book) -> Values:
    """Return what a book has, by value."""
    return _side(book.asks), _side(book.bids)


def _side(side: Side) -> dict[Decimal, Decimal]:
    levels = [price_and_amount(level) for level in side.values()]
    assert [Decimal(price) for price, _ in levels] == list(side)
    return {Decimal(price): Decimal(amount) for price, amount in levels}


def book_of(asks: Sequence[Level] = (), bids: Sequence[Level] = ()) -> Book:
    """Return a book with these levels."""
    book = Book()
    book.replace(asks, bids)
    return book
