"""Signs that a book is damaged, which show without another request to the exchange.

Both show for a moment in sound books too: between two pushes, and because tickers and changes of the book
arrive at different times. So a sign counts once it has lasted. All times are in µs since the epoch.
"""

from decimal import Decimal

from bridge.books.book import Best

FEWEST_TICKERS = 3
"""Tickers in a row that have to disagree with a book before it is suspected."""

_Range = tuple[Decimal, Decimal]
"""The lowest and the highest of some prices."""


class Crossed:
    """Tells whether a book has been crossed for longer than `patience_us` without a break."""

    def __init__(self, patience_us: int) -> None:
        self._patience_us = patience_us
        self._since_us: int | None = None  # when it was first seen crossed; None: it was not at the last look

    @property
    def seen(self) -> bool:
        """Whether it was crossed at the last look."""
        return self._since_us is not None

    def lasts(self, crossed: bool, now_us: int) -> bool:
        """Look at the book; return whether it has been crossed for too long.

        While it is `seen`, look at the book after each change, so that no break is missed. Otherwise a look
        once in a while is enough: that can only delay the beginning.
        """
        if not crossed:
            self._since_us = None
            return False
        if self._since_us is None:
            self._since_us = now_us
        return now_us - self._since_us > self._patience_us

    def restart(self, now_us: int) -> None:
        """Let it begin now if it is crossed."""
        if self.seen:
            self._since_us = now_us


class Tops:
    """Tells whether tickers have disagreed with the best prices of a book for longer than `patience_us`.

    A ticker arrives before or after the change of the book that it reports, so its price need not be the one
    that the book has at that moment. But it is one that the book had or will have. So the ranges of both are
    compared. Say the best ask in the book is 100 and then 101, and tickers say 101 and then 102: both have
    been at 101, so they agree. If the book stays at 100 while tickers go from 101 to 105, its 100 should have
    been removed. A book is never suspected if all its best prices are given to `keep`, and tickers are late
    or early by less than the patience. While no disagreement is `seen`, the price that the book has at a
    ticker is enough: only what it had before is not known, so a late ticker agrees later.

    A side of the book that is empty says nothing: a ticker may go on naming the last price that it had.
    """

    def __init__(self, patience_us: int) -> None:
        self._asks = _Top(patience_us)
        self._bids = _Top(patience_us)

    def keep(self, book: Best) -> None:
        """Take the best prices of the book, again after they have changed."""
        self._asks.keep(book[0])
        self._bids.keep(book[1])

    @property
    def seen(self) -> bool:
        """Whether a side has not agreed with any ticker since the first one that it disagreed with."""
        return self._asks.seen or self._bids.seen

    def disagree(self, ticker: Best, now_us: int, noted_us: int) -> bool:
        """Take the best prices of a ticker; zero or None says nothing.

        Return whether a side has disagreed for too long, with `FEWEST_TICKERS` or more. `noted_us`: the book
        has everything that was pushed up to then.
        """
        asks = self._asks.disagrees(ticker[0], now_us, noted_us)
        bids = self._bids.disagrees(ticker[1], now_us, noted_us)
        return asks or bids


class _Top:
    """What was seen of one side since its book and its tickers last agreed."""

    def __init__(self, patience_us: int) -> None:
        self._patience_us = patience_us
        self._kept: _Range | None = None  # best prices of the book, from the one it had then; None: empty now
        self._last: Decimal | None = None  # the book's best price now; None: no levels
        self._said: _Range | None = None  # prices in tickers; None: no tickers
        self._since_us = 0  # the time of the first ticker; 0 without any
        self._tickers = 0  # how many tickers there were

    @property
    def seen(self) -> bool:
        """Whether there was a ticker since they last agreed."""
        return bool(self._tickers)

    def keep(self, price: Decimal | None) -> None:
        """Take the best price of the book."""
        self._last = price
        if price is None:
            self._begin_anew()
        else:
            self._kept = _widened(self._kept, price)

    def disagrees(self, price: Decimal | None, now_us: int, noted_us: int) -> bool:
        """Take the price of a ticker; return whether it and those before have disagreed for too long."""
        if price and self._last is not None:
            self._since_us = self._since_us or now_us
            self._tickers += 1
            self._said = _widened(self._said, price)
            if _overlap(self._kept, self._said):
                self._begin_anew()
        return self._tickers >= FEWEST_TICKERS and noted_us - self._since_us > self._patience_us

    def _begin_anew(self) -> None:
        self._kept = None if self._last is None else (self._last, self._last)
        self._said, self._since_us, self._tickers = None, 0, 0


def _widened(known: _Range | None, price: Decimal) -> _Range:
    low, high = known or (price, price)
    return min(low, price), max(high, price)


def _overlap(one: _Range | None, other: _Range | None) -> bool:
    return one is not None and other is not None and one[0] <= other[1] and other[0] <= one[1]
