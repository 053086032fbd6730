"""Counts the updates that the simulator has sent, for comparison with the records on Kafka."""

from collections import Counter, defaultdict
from typing import Any, NamedTuple

from bridge.simulator.market import Exchange, Levels, Update
from bridge.simulator.protocol import PRIVATE, PUBLIC


class Version(NamedTuple):
    """A book as a change has left it, and that change as it was pushed; None: the first book."""

    change: dict[str, Any] | None
    asks: Levels
    bids: Levels


class Truth:
    """Counts the updates written to open connections.

    For tests, it keeps every trade with `keep_trades`, and with `keep_books` every version of every book.
    """

    def __init__(self, market: Exchange, *, keep_trades: bool = False, keep_books: bool = False) -> None:
        # By symbol, and only with `keep_trades`: all trades that the markets made, oldest first, and the ids
        # that were sent to anybody, in a clean list or live.
        self.made: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.sent: defaultdict[str, set[int]] = defaultdict(set)
        # By symbol, and only with `keep_books`: all versions of the books of the markets that there were at
        # the start, from the first one on, whether or not they were sent. About 3 kB each.
        self.versions: dict[str, list[Version]] = {}
        if keep_books:
            for symbol, state in market.markets.items():
                self.versions[symbol] = [Version(None, state.asks.copy(), state.bids.copy())]
        self.good = 0  # updates written; one that went to two connections counts twice
        self.bad = Counter[str]()  # frames damaged on purpose, by fault, counted in the same way
        self._market = market
        self._keep = keep_trades
        self._items: Counter[tuple[str, str]] = Counter()  # items sent, by channel and symbol or currency
        self._newest: defaultdict[str, int] = defaultdict(int)  # the highest trade id sent, by symbol

    def record_made(self, update: Update) -> None:
        """Record an update that a market has just made, whether or not anybody subscribed to it."""
        if self._keep and update.channel == "trades":
            self.made[update.symbol] += reversed(update.params[1])
        elif update.channel == "depth" and update.symbol in self.versions:
            state = self._market.markets[update.symbol]
            version = Version(update.params[1], state.asks.copy(), state.bids.copy())
            self.versions[update.symbol].append(version)

    def record_written(self, update: Update) -> None:
        """Count an update that was written to one connection."""
        self.good += 1
        if update.channel == "depth":
            self._items["depth", update.symbol] += 1
        elif update.channel == "trades":
            self._record_trades(update)
        else:
            for item in update.params:
                self._items[update.channel, item.get("symbol") or item["currency"]] += 1

    def items(self, channel: str, symbol: str) -> int:
        """Return the number of items sent; each trade counts once, however often it was sent."""
        return self._items[channel, symbol]

    def counts(self) -> dict[str, int]:
        """Return the number of items sent per channel, which is the number of records expected on Kafka."""
        counts = dict.fromkeys((*PUBLIC, *PRIVATE), 0)
        for (channel, _), number in self._items.items():
            counts[channel] += number
        return counts

    def book(self, symbol: str) -> dict[str, dict[str, str]]:
        """Return the current book: "asks" and "bids", each a mapping of price to amount.

        Raises:
            KeyError: unknown market.
        """
        _, book, _ = self._market.markets[symbol].snapshot().params
        return {side: dict(levels) for side, levels in book.items()}

    def _record_trades(self, update: Update) -> None:
        ids = [trade["id"] for trade in update.params[1]]
        if self._keep:
            sent = self.sent[update.symbol]
            before = len(sent)
            sent.update(ids)
            new = len(sent) - before
        else:
            new = sum(one > self._newest[update.symbol] for one in ids)
        self._newest[update.symbol] = max([self._newest[update.symbol], *ids])
        self._items["trades", update.symbol] += new
