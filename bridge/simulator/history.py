"""Everything that the simulated exchange did, for a verifier that accounts for each update. Pure.

Its size grows with every update: about 200 bytes each.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import orjson

from bridge.simulator.market import Exchange, Update

_MICROSECONDS = 1_000_000

FIGURES = (
    "open_24h",
    "high_24h",
    "low_24h",
    "base_volume_24h",
    "quote_volume_24h",
    "last",
    "last_qty",
    "best_bid",
    "best_bid_size",
    "best_ask",
    "best_ask_size",
)
"""The figures of a ticker, by which two of them are compared."""


class Trade(NamedTuple):
    """One trade. `epoch` counts from 0 and rises when the ids of its market begin anew."""

    id: int
    time_us: int
    price: str
    amount: str
    side: str
    epoch: int = 0
    stray: bool = False  # whether its id is far out of line


class Ticker(NamedTuple):
    """One ticker as `ticker_text` writes it; `broadcast` if it went to all subscribers."""

    text: bytes
    broadcast: bool


class Writing(NamedTuple):
    """An update on its way to one connection: when it is due on the socket, and whether it was damaged."""

    connection: int
    due_us: int
    damaged: bool = False


@dataclass(slots=True)
class Change:
    """One change of an account: its update, when it happened, and where it was written to."""

    update: Update
    made_us: int
    writings: list[Writing] = field(default_factory=list)


@dataclass(slots=True)
class Connection:
    """One connection; its times are in microseconds since the epoch."""

    lag_us: int  # by how much its updates are late
    closed_us: int | None = None  # None while it is open


class Damage(NamedTuple):
    """A frame that could not be read, in place of a good one."""

    at_us: int
    connection: int
    channel: str
    symbol: str


class History:
    """All updates that were made, in order, with what was needed to send them; nothing unless `keep`."""

    def __init__(self, *, keep: bool = True) -> None:
        self._keep = keep
        self.trades: defaultdict[str, list[Trade]] = defaultdict(list)  # by symbol
        self.depth: defaultdict[str, list[bytes]] = defaultdict(list)  # changes by symbol, as `book_text`
        # The books that were sent, by symbol, each with the number of changes that it contains. The same book
        # may have come about more than once.
        self.books: defaultdict[str, defaultdict[bytes, list[int]]] = defaultdict(partial(defaultdict, list))
        self.tickers: defaultdict[tuple[str, str], list[Ticker]] = defaultdict(list)  # by channel, symbol
        self.changes: defaultdict[str, list[Change]] = defaultdict(list)  # by account
        self.connections: list[Connection] = []  # by number, from 0
        self.damaged: list[Damage] = []
        self.stalls: list[tuple[int, int]] = []  # from, to, in µs: nothing was sent on any connection
        self._changes: dict[int, Change] = {}  # by the identity of their update, which they keep alive

    def record_made(self, updates: Iterable[Update], market: Exchange, now_us: int) -> None:
        """Record updates that have just happened, before they are written to anybody."""
        if not self._keep:
            return
        for update in updates:
            match update.channel:
                case "trades":
                    state = market.markets[update.symbol]
                    for trade in reversed(update.params[1]):
                        stray = trade["id"] in state.strays
                        self.trades[update.symbol].append(trade_of(trade, state.epoch, stray=stray))
                case "depth":
                    _, book, _ = update.params
                    self.depth[update.symbol].append(book_text(book["asks"], book["bids"]))
                case "ticker" | "all_ticker":
                    self._record_tickers(update, broadcast=True)
                case _:
                    self._record_change(update, now_us)

    def record_first(self, update: Update) -> None:
        """Record a full list, book or ticker that is sent to one connection."""
        if not self._keep:
            return
        if update.channel == "depth":
            _, book, _ = update.params
            versions = self.books[update.symbol][full_book_text(book.get("asks", []), book.get("bids", []))]
            version = len(self.depth[update.symbol])
            if version not in versions[-1:]:
                versions.append(version)
        elif update.channel != "trades":
            self._record_tickers(update, broadcast=False)

    def record_written(self, update: Update, connection: int, due_us: int, *, damaged: bool) -> None:
        """Record that an update was written to a connection."""
        if not self._keep:
            return
        if damaged:
            self.damaged.append(Damage(due_us, connection, update.channel, update.symbol))
        if update.account is not None:
            self._changes[id(update)].writings.append(Writing(connection, due_us, damaged))

    def record_opened(self, lag_us: int) -> int:
        """Record a new connection, whose messages are late by `lag_us`; return its number."""
        if self._keep:
            self.connections.append(Connection(lag_us))
        return len(self.connections) - 1

    def record_closed(self, connection: int, now_us: int) -> None:
        """Record the end of a connection."""
        if self._keep:
            self.connections[connection].closed_us = now_us

    def record_stall(self, begin_us: int, end_us: int) -> None:
        """Record that nothing is sent for a while."""
        if self._keep:
            self.stalls.append((begin_us, end_us))

    def settled_us(self, change: Change) -> int:
        """Return when the last of its writings was on the socket or lost, in µs; `made_us` without one."""
        return max((self._settled(writing) for writing in change.writings), default=change.made_us)

    def _settled(self, writing: Writing) -> int:
        due = writing.due_us
        for begin, end in self.stalls:
            if begin <= due < end:
                due = end
        closed = self.connections[writing.connection].closed_us
        return due if closed is None else min(due, closed)

    def _record_tickers(self, update: Update, *, broadcast: bool) -> None:
        for item in update.params:
            time_ms = item.get("timestamp")
            text = ticker_text(item, None if time_ms is None else time_ms * 1000)
            self.tickers[update.channel, item["symbol"]].append(Ticker(text, broadcast))

    def _record_change(self, update: Update, now_us: int) -> None:
        change = self._changes[id(update)] = Change(update, now_us)
        self.changes[update.account or ""].append(change)


def trade_of(trade: Mapping[str, Any], epoch: int = 0, *, stray: bool = False) -> Trade:
    """Return a trade as it was pushed, with its time in microseconds."""
    time_us = round(trade["time"] * _MICROSECONDS)
    return Trade(trade["id"], time_us, trade["price"], trade["amount"], trade["type"], epoch, stray)


def book_text(asks: Sequence[Sequence[str]], bids: Sequence[Sequence[str]]) -> bytes:
    """Return a change of a book, for comparison: its levels in the order in which they were sent."""
    return orjson.dumps([asks, bids])


def full_book_text(asks: Sequence[Sequence[str]], bids: Sequence[Sequence[str]]) -> bytes:
    """Return a whole book, for comparison: its levels in any fixed order."""
    return orjson.dumps([sorted(asks), sorted(bids)])


def ticker_text(item: Mapping[str, Any], time_us: int | None) -> bytes:
    """Return a ticker, for comparison; a figure that is not known is null, however it is written."""
    figures = [item.get(name) for name in FIGURES]
    return orjson.dumps([time_us, *(None if figure in ("", "-") else figure for figure in figures)])
