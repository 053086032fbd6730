"""The order books on the topics, followed with the kit for consumers, as any consumer can follow them."""

import threading
from collections import defaultdict
from collections.abc import Mapping
from decimal import Decimal

from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bridge.consumer import Book, BookRecord, Depth, Level

WIDTH = 28
"""Columns that a drawn book takes."""

Sides = Mapping[str, Mapping[str, str]]
"""The whole book of a market: "asks" and "bids", each price to amount."""


class Books:
    """The books of all markets: one thread reads the records, another one looks at the books."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # held while the books are used
        self._followed: defaultdict[str, Book] = defaultdict(Book)  # by symbol, from all records
        self._newest: dict[str, BookRecord] = {}  # the newest record of `book`, by symbol

    def apply(self, record: Depth | BookRecord) -> None:
        """Apply the next record of `depth` or `book`."""
        with self._lock:
            self._followed[record.symbol].apply(record)
            if isinstance(record, BookRecord):
                self._newest[record.symbol] = record

    def best(self, symbol: str, levels: int) -> tuple[list[Level], list[Level]] | None:
        """Return so many asks and bids of a market, the best of each first; None while it has no book."""
        with self._lock:
            book = self._followed[symbol]
            if not book.complete:
                return None
            asks, bids = sorted(book.asks.items()), sorted(book.bids.items(), reverse=True)
        return [Level(*one) for one in asks[:levels]], [Level(*one) for one in bids[:levels]]

    def different(self, sent: Mapping[str, Sides]) -> list[str]:
        """Return the markets whose followed book, or the one written last, is not what the exchange has."""
        with self._lock:
            return [symbol for symbol, sides in sent.items() if not self._is(symbol, sides)]

    def _is(self, symbol: str, sides: Sides) -> bool:
        written = Book()
        if symbol in self._newest:
            written.apply(self._newest[symbol])
        asks, bids = _by_value(sides["asks"]), _by_value(sides["bids"])
        return all(
            book.complete and (book.asks, book.bids) == (asks, bids)
            for book in (self._followed[symbol], written)
        )


def ladder(books: Books, symbol: str, levels: int) -> Panel:
    """Draw the best levels of a market: asks above bids, both with the highest price first."""
    table = Table.grid(expand=True)
    table.add_column(justify="right", ratio=1)
    table.add_column(justify="right", ratio=1)
    if best := books.best(symbol, levels):
        asks, bids = best
        for style, side in (("red", asks[::-1]), ("green", bids)):
            for level in side:
                table.add_row(Text(str(level.price), style), str(level.amount))
            if side is not bids:
                table.add_row("", "")
    return Panel(table, title=symbol, subtitle="from the topics", width=WIDTH)


def _by_value(side: Mapping[str, str]) -> dict[Decimal, Decimal]:
    return {Decimal(price): Decimal(amount) for price, amount in side.items()}
