"""What the simulator has sent, for comparison with what came out at the other end."""

from collections import Counter, defaultdict
from typing import Any

from bridge.simulator.market import Push


class Truth:
    """Counts what was written to open connections; with `keep_trades` it keeps each trade, for tests.

    `made` has all trades that the markets made, oldest first; `sent` the ids that went out to anybody, in a
    clean list or as they happened.
    """

    def __init__(self, *, keep_trades: bool = False) -> None:
        self.made: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
        self.sent: defaultdict[str, set[int]] = defaultdict(set)
        self.bad = Counter[str]()
        self._keep = keep_trades
        self._items: Counter[tuple[str, str]] = Counter()
        self._newest: defaultdict[str, int] = defaultdict(int)

    def happened(self, push: Push) -> None:
        """Take note of trades that the market made."""
        if self._keep and push.channel == "trades":
            self.made[push.symbol] += reversed(push.params[1])

    def wrote(self, push: Push) -> None:
        """Take note of a push that was written to one connection."""
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
        names = ("trades", "depth", "ticker", "all_ticker", "order", "order_algo", "balance")
        counts = dict.fromkeys(names, 0)
        for (channel, _), number in self._items.items():
            counts[channel] += number
        return counts

    def _wrote_trades(self, push: Push) -> None:
        ids = [trade["id"] for trade in push.params[1]]
        if self._keep:
            new = len(self.sent[push.symbol].union(ids)) - len(self.sent[push.symbol])
            self.sent[push.symbol].update(ids)
        else:
            new = sum(one > self._newest[push.symbol] for one in ids)
        self._newest[push.symbol] = max([self._newest[push.symbol], *ids])
        self._items["trades", push.symbol] += new
