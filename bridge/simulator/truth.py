"""What the simulator has sent, for comparison with what came out at the other end."""

from collections import Counter, defaultdict
from typing import Any

from bridge.simulator.market import Exchange, Push

_CHANNELS = ("trades", "depth", "ticker", "all_ticker", "order", "order_algo", "balance")


class Truth:
    """Counts what was written to open connections; with `keep_trades` it keeps each trade, for tests.

    `made` has all trades that the markets made, oldest first; `sent` the ids that went out to anybody, in a
    clean list or as they happened. `good` is the number of pushes that were written, one for each
    connection; `bad` the same of frames damaged on purpose, by fault.
    """

    def __init__(self, market: Exchange, *, keep_trades: bool = False) -> None:
        self.made: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.sent: defaultdict[str, set[int]] = defaultdict(set)
        self.good = 0
        self.bad = Counter[str]()
        self._market = market
        self._keep = keep_trades
        self._items: Counter[tuple[str, str]] = Counter()
        self._newest: defaultdict[str, int] = defaultdict(int)

    def happened(self, push: Push) -> None:
        """Take note of trades that the market made."""
        if self._keep and push.channel == "trades":
            self.made[push.symbol] += reversed(push.params[1])

    def wrote(self, push: Push) -> None:
        """Take note of a push that was written to one connection."""
        self.good += 1
        if push.channel == "depth":
            self._items["depth", push.symbol] += 1
        elif push.channel == "trades":
            self._wrote_trades(push)
        else:
            for item in push.params:
                self._items[push.channel, item.get("symbol") or item["currency"]] += 1

    def items(self, channel: str, symbol: str) -> int:
        """Return the number of items sent; of trades, of different ones."""
        return self._items[channel, symbol]

    def counts(self) -> dict[str, int]:
        """Return the number of items sent per channel: as many records should be on Kafka."""
        counts = dict.fromkeys(_CHANNELS, 0)
        for (channel, _), number in self._items.items():
            counts[channel] += number
        return counts

    def book(self, symbol: str) -> dict[str, dict[str, str]]:
        """Return the book of now: "asks" and "bids", each price with its amount.

        Raises:
            KeyError: no such market.
        """
        _, book, _ = self._market.markets[symbol].snapshot().params
        return {side: dict(levels) for side, levels in book.items()}

    def _wrote_trades(self, push: Push) -> None:
        ids = [trade["id"] for trade in push.params[1]]
        if self._keep:
            sent = self.sent[push.symbol]
            before = len(sent)
            sent.update(ids)
            new = len(sent) - before
        else:
            new = sum(one > self._newest[push.symbol] for one in ids)
        self._newest[push.symbol] = max([self._newest[push.symbol], *ids])
        self._items["trades", push.symbol] += new
