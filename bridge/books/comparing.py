"""Compares books with each other: the one that was kept with one that the exchange has sent whole.

A rotation is the hard case. The new session's snapshot shows the book at a moment that is not known: the two
sessions may be connected to different nodes, one of which is ahead of the other. If the old session's book
was A, then B, then C during the overlap, a snapshot that equals any of the three proves that it was right.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import Literal, NamedTuple

from bridge.books.book import Book, Level, price_and_amount

MOST_CHANGED = 20_000
"""Levels that may change during an overlap; a book of which more change is not compared."""

SideName = Literal["asks", "bids"]

_Place = tuple[SideName, Decimal]
"""A price on one side of a book."""


class Difference(NamedTuple):
    """A price at which two books differ, with the amount in each as the exchange wrote it; None: no level."""

    side: SideName
    price: str
    kept: str | None
    found: str | None


def differences(kept: Book, found: Book) -> list[Difference]:
    """Return where two books differ: asks before bids, the best price of each first.

    Amounts are compared by value: "1.0" and "1.00" are equal.
    """
    return [_difference(place, kept, found) for place in _best_first(_differing(kept, found))]


class Overlap:
    """All states that a book goes through from now on, to compare the snapshot of another session with."""

    def __init__(self, book: Book) -> None:
        self._start = book.copy()
        # What has changed the book since, in order: whether it was a snapshot, asks, bids.
        self._changes: list[tuple[bool, Sequence[Level], Sequence[Level]]] = []
        self.changed = 0  # levels in all changes; with more than MOST_CHANGED, none of them is kept

    def add(self, asks: Sequence[Level], bids: Sequence[Level], *, snapshot: bool) -> None:
        """Note a snapshot or change that the book takes."""
        self.changed += len(asks) + len(bids)
        if self.changed <= MOST_CHANGED:
            self._changes.append((snapshot, asks, bids))
        else:
            self._changes.clear()

    def closest(self, found: Book) -> list[Difference] | None:
        """Return how `found` differs from the state that is most like it: not at all, if it equals one.

        None if too much has changed to tell. Takes time in proportion to the levels of the book and those of
        all changes together: after a change only its own levels are compared again.
        """
        if self.changed > MOST_CHANGED:
            return None
        book = self._start.copy()
        differing = _differing(book, found)
        fewest, after = len(differing), 0
        for number, (snapshot, asks, bids) in enumerate(self._changes, start=1):
            _take(book, asks, bids, snapshot=snapshot)
            if snapshot:
                differing = _differing(book, found)
            else:
                changed = _places(asks, bids)
                differing -= changed
                differing.update(place for place in changed if _differs(place, book, found))
            if len(differing) < fewest:
                fewest, after = len(differing), number
        return differences(self._state(after), found) if fewest else []

    def _state(self, after: int) -> Book:
        """Return the book after so many changes."""
        book = self._start.copy()
        for snapshot, asks, bids in self._changes[:after]:
            _take(book, asks, bids, snapshot=snapshot)
        return book


def _take(book: Book, asks: Sequence[Level], bids: Sequence[Level], *, snapshot: bool) -> None:
    if snapshot:
        book.replace(asks, bids)
    else:
        book.change(asks, bids)


def _places(asks: Sequence[Level], bids: Sequence[Level]) -> set[_Place]:
    return {("asks", Decimal(price)) for price, _ in asks} | {("bids", Decimal(price)) for price, _ in bids}


def _differing(kept: Book, found: Book) -> set[_Place]:
    places: set[_Place] = {("asks", price) for price in kept.asks.keys() | found.asks.keys()}
    places |= {("bids", price) for price in kept.bids.keys() | found.bids.keys()}
    return {place for place in places if _differs(place, kept, found)}


def _differs(place: _Place, kept: Book, found: Book) -> bool:
    mine, other = _levels(place, kept, found)
    if mine is None or other is None:
        return mine is not other
    return mine != other and _amount(mine) != _amount(other)


def _difference(place: _Place, kept: Book, found: Book) -> Difference:
    mine, other = (level and price_and_amount(level) for level in _levels(place, kept, found))
    price, _ = mine or other or ("", "")
    return Difference(place[0], price, mine[1] if mine else None, other[1] if other else None)


def _levels(place: _Place, kept: Book, found: Book) -> tuple[str | None, str | None]:
    side, price = place
    if side == "asks":
        return kept.asks.get(price), found.asks.get(price)
    return kept.bids.get(price), found.bids.get(price)


def _amount(level: str) -> Decimal:
    return Decimal(price_and_amount(level)[1])


def _best_first(places: set[_Place]) -> list[_Place]:
    # `-price` would round to 28 digits.
    return sorted(
        places, key=lambda place: (place[0], place[1] if place[0] == "asks" else place[1].copy_negate())
    )
