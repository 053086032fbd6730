"""Book: the order book of one symbol, rebuilt from its records of `depth`."""

from decimal import Decimal

from bridge.consumer.continuity import Continuity
from bridge.consumer.records import Depth, Level


class Book:
    """The order book of one symbol: price to amount, of each side.

    Prices are compared by value, as decimals are: 1.0 and 1.00 are one price.
    """

    def __init__(self) -> None:
        self.asks: dict[Decimal, Decimal] = {}
        self.bids: dict[Decimal, Decimal] = {}
        # Whether it is what the exchange had at the last record. False before the first snapshot, and from a
        # missing record to the next snapshot; meanwhile the levels stay as they were.
        self.complete = False
        self._session = ""  # of the last record
        self._continuity = Continuity()

    def apply(self, record: Depth) -> bool:
        """Apply the symbol's next record; return whether the book is complete now."""
        check = self._continuity.check(record)
        if check.repeated:
            return self.complete
        follows = record.session == self._session and not check.missing
        self._session = record.session
        self.complete = record.snapshot or (self.complete and follows)
        if record.snapshot:
            self.asks.clear()
            self.bids.clear()
        if self.complete:
            _change(self.asks, record.asks)
            _change(self.bids, record.bids)
        return self.complete

    @property
    def best_ask(self) -> Level | None:
        """The lowest ask; None without asks."""
        return Level(price := min(self.asks), self.asks[price]) if self.asks else None

    @property
    def best_bid(self) -> Level | None:
        """The highest bid; None without bids."""
        return Level(price := max(self.bids), self.bids[price]) if self.bids else None


def _change(side: dict[Decimal, Decimal], levels: tuple[Level, ...]) -> None:
    for level in levels:
        if level.amount:
            side[level.price] = level.amount
        else:
            side.pop(level.price, None)
