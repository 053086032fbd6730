"""The simulated markets: order books, trades and tickers that are consistent with each other. Pure.

Prices are integers in ticks of 0.01 and amounts integers in lots of 0.0001, so that sums are exact. The same
seed makes the same market.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

_TICKS = 100
_LOTS = 10_000
_LEVELS = 25  # of each side of a book
_MOST_LEVELS = 2 * _LEVELS
LISTED = 100
"""How many trades a clean list has."""

_WELL_KNOWN = ("BTC_USDT", "ETH_USDT", "LTC_USDT", "XRP_USDT", "DFT_USDT", "EOS_USDT", "TRX_USDT", "BCH_USDT")
_FIRST_ID = 12_900_000_000
_EVEN = 0.5
_QUOTES, _TRADES = 0.47, 0.33  # shares of the events; each trade also changes the book
_EMPTY = ("0", "0.0000")  # amounts that remove a level; the exchange writes both

Levels = dict[int, int]
"""Price in ticks to amount in lots."""

Remembers: TypeAlias = Literal["kept", "cut", "mixed"]
"""What a list of recent trades shows once ids have begun anew: older trades too, only newer ones, or both,
ordered by id instead of by time."""


def symbol_names(number: int) -> list[str]:
    """Return `number` market names."""
    return [*_WELL_KNOWN[:number], *(f"SIM{n}_USDT" for n in range(len(_WELL_KNOWN), number))]


def price_text(ticks: int) -> str:
    """Return a price as the exchange writes it."""
    return f"{ticks // _TICKS}.{ticks % _TICKS:02d}"


def amount_text(lots: int) -> str:
    """Return an amount as the exchange writes it."""
    return f"{lots // _LOTS}.{lots % _LOTS:04d}"


@dataclass(frozen=True, slots=True)
class Update:
    """One update before encoding: channel, symbol ("" for all_ticker), params, account (None: public)."""

    channel: str
    symbol: str
    params: list[Any]
    account: str | None = None


@dataclass(slots=True)
class Market:
    """One market. `quote_change` and `trade` change it and return the updates that describe the change."""

    symbol: str
    rng: random.Random
    asks: Levels = field(default_factory=dict)  # from 25 to 51 levels; all prices above those of `bids`
    bids: Levels = field(default_factory=dict)
    listed: int = LISTED  # how many trades a list has, at most
    trades: deque[dict[str, Any]] = field(init=False)  # oldest first, at most `listed`
    last_id: int = _FIRST_ID  # of the newest trade; the next one's is 1 to 3 higher
    open: int = 0  # ticks; the ticker's 24 hours begin with the market and never end
    high: int = 0  # ticks
    low: int = 0  # ticks
    last: int = 0  # ticks; the price of the newest trade
    last_lots: int = 0  # lots of the newest trade
    base_lots: int = 0  # lots traded so far
    quote: int = 0  # ticks times lots, traded so far: units of 0.000001
    epoch: int = 0  # how often the ids have begun anew
    strays: set[int] = field(default_factory=set)  # the ids that were far out of line
    _mixed: bool = False  # whether the list of recent trades is ordered by id; set when ids begin anew
    _stray: int = 0  # by how much the next id is out of line; 0: it is not

    def __post_init__(self) -> None:
        self.trades = deque(maxlen=self.listed)
        middle = self.rng.randint(100_000, 6_000_000)
        self.open = self.high = self.low = self.last = middle
        for step in range(1, _LEVELS + 1):
            self.asks[middle + step] = self._lots()
            self.bids[middle - step] = self._lots()

    @property
    def best_ask(self) -> int:
        """The lowest price asked."""
        return min(self.asks)

    @property
    def best_bid(self) -> int:
        """The highest price bid."""
        return max(self.bids)

    @property
    def best(self) -> tuple[int, int, int, int]:
        """The best ask with its lots, then the best bid with its lots."""
        ask, bid = self.best_ask, self.best_bid
        return ask, self.asks[ask], bid, self.bids[bid]

    def quote_change(self) -> list[Update]:
        """Change, add or remove a few levels."""
        changed: tuple[Levels, Levels] = ({}, {})
        for _ in range(self.rng.randint(1, 5)):
            is_ask = self.rng.random() < _EVEN
            side = self.asks if is_ask else self.bids
            distance = self.rng.randint(0, _LEVELS)
            price = self.best_bid + 1 + distance if is_ask else self.best_ask - 1 - distance
            remove = price in side and len(side) > _LEVELS
            side[price] = changed[not is_ask][price] = 0 if remove else self._lots()
            if remove:
                del side[price]
            if len(side) > _MOST_LEVELS:
                worst = max(side) if is_ask else min(side)
                changed[not is_ask][worst] = 0
                del side[worst]
        return [self._delta(*changed)]

    def trade(self, now: float, number: int | None = None) -> list[Update]:
        """Execute a taker order against the best levels, in this number of trades, or in one or two."""
        buys = self.rng.random() < _EVEN
        side, changed, done = (self.asks if buys else self.bids), Levels(), []
        for _ in range(number or self.rng.choice((1, 1, 1, 2))):
            price = self.best_ask if buys else self.best_bid
            lots = self.rng.randint(1, side[price])
            done.append(self._traded(price, lots, "buy" if buys else "sell", now))
            changed[price] = side[price] = side[price] - lots
            if not side[price]:
                del side[price]
        while len(side) < _LEVELS:
            price = max(side) + 1 if buys else min(side) - 1
            side[price] = changed[price] = self._lots()
        update = Update("trades", self.symbol, [False, done[::-1], self.symbol])
        return [update, self._delta(changed, {}) if buys else self._delta({}, changed)]

    def restart_ids(self, start: int, history: Remembers = "kept") -> None:
        """Let the ids of the trades begin anew above `start`, as after a restart of the exchange's engine."""
        self.last_id = start
        self.epoch += 1
        self._mixed = history == "mixed"
        if history == "cut":
            self.trades.clear()

    def stray_id(self, offset: int) -> None:
        """Let the id of the next trade alone be `offset` out of line."""
        self._stray = offset

    def clean_trades(self) -> Update:
        """Return the recent trades, newest first, or by falling id if `restart_ids` has mixed them."""
        trades = list(self.trades)[::-1]
        if self._mixed:
            trades.sort(key=lambda trade: -trade["id"])
        return Update("trades", self.symbol, [True, trades, self.symbol])

    def snapshot(self) -> Update:
        """Return the whole book, both sides highest price first."""
        return Update("depth", self.symbol, [True, self._book(self.asks, self.bids), self.symbol])

    def ticker(self, now: float) -> dict[str, Any]:
        """Return the ticker at `now`, in seconds since the epoch."""
        ask, ask_size, bid, bid_size = self.best
        return {
            "symbol": self.symbol,
            "open_24h": price_text(self.open),
            "high_24h": price_text(self.high),
            "low_24h": price_text(self.low),
            "base_volume_24h": amount_text(self.base_lots),
            "quote_volume_24h": f"{self.quote // 10**6}.{self.quote % 10**6:06d}",
            "last": price_text(self.last),
            "last_qty": amount_text(self.last_lots),
            "best_bid": price_text(bid),
            "best_bid_size": amount_text(bid_size),
            "best_ask": price_text(ask),
            "best_ask_size": amount_text(ask_size),
            "timestamp": int(now * 1000),
        }

    def _lots(self) -> int:
        return self.rng.randint(1, 5 * _LOTS)

    def _traded(self, price: int, lots: int, side: str, now: float) -> dict[str, Any]:
        self.last_id += self.rng.randint(1, 3)
        self.last, self.last_lots = price, lots
        self.high, self.low = max(self.high, price), min(self.low, price)
        self.base_lots += lots
        self.quote += price * lots
        trade_id = self.last_id
        if self._stray:
            trade_id += self._stray
            self.strays.add(trade_id)
            self._stray = 0
        trade = {
            "id": trade_id,
            "time": round(now, 6),
            "price": price_text(price),
            "amount": amount_text(lots),
            "type": side,
        }
        self.trades.append(trade)
        return trade

    def _delta(self, asks: Levels, bids: Levels) -> Update:
        return Update("depth", self.symbol, [False, self._book(asks, bids), self.symbol])

    def _book(self, asks: Levels, bids: Levels) -> dict[str, list[list[str]]]:
        return {"asks": self._levels(asks), "bids": self._levels(bids)}

    def _levels(self, side: Levels) -> list[list[str]]:
        return [
            [price_text(price), amount_text(side[price]) if side[price] else self.rng.choice(_EMPTY)]
            for price in sorted(side, reverse=True)
        ]


class Exchange:
    """All markets. The same seed makes the same events."""

    def __init__(self, symbols: Sequence[str], seed: int, *, listed: int = LISTED) -> None:
        self.rng = random.Random(seed)  # noqa: S311 - decides what happens next, and seeds each market
        self.markets: dict[str, Market] = {}  # by symbol, in the order in which they were listed
        self.hidden: set[str] = set()  # markets that have tickers and cannot be subscribed to
        self._listed = listed  # trades in a clean list, at most
        self._names: list[str] = []  # the keys of `markets`, for `choice`
        self._changed: set[str] = set()  # symbols whose ticker has changed since the last `all_ticker`
        for symbol in symbols:
            self.list_market(symbol)

    def list_market(self, symbol: str) -> None:
        """Add a market.

        Raises:
            ValueError: it exists.
        """
        if symbol in self.markets:
            raise ValueError(f"{symbol} is already listed")
        self.markets[symbol] = Market(symbol, random.Random(self.rng.random()), listed=self._listed)  # noqa: S311
        self._names = list(self.markets)
        self._changed.add(symbol)

    def delist_market(self, symbol: str) -> None:
        """Remove a market: nothing happens there any more, and it cannot be subscribed to.

        Raises:
            KeyError: it does not exist.
        """
        del self.markets[symbol]
        self._names = list(self.markets)
        self._changed.discard(symbol)
        self.hidden.discard(symbol)

    def step(self, now: float) -> list[Update]:
        """Make one event in one market; of the updates 60 % are depth, 25 % trades, 15 % ticker."""
        draw = self.rng.random()
        return self.event(
            "depth" if draw < _QUOTES else "trades" if draw < _QUOTES + _TRADES else "ticker", now
        )

    def event(self, channel: str, now: float, trades: int | None = None) -> list[Update]:
        """Make one event of this channel in one market; return its updates: one, or trades and their depth.

        `trades` is the number of trades in an update of trades; None: one or two.

        Raises:
            KeyError: not trades, depth or ticker.
        """
        market = self.markets[self.rng.choice(self._names)]
        match channel:
            case "depth":
                best = market.best
                updates = market.quote_change()
                if market.best != best:
                    self._changed.add(market.symbol)
            case "trades":
                updates = market.trade(now, trades)
                self._changed.add(market.symbol)
            case "ticker":
                updates = [Update("ticker", market.symbol, [market.ticker(now)])]
            case _:
                raise KeyError(channel)
        return updates

    def all_ticker(self, now: float, *, whole: bool = False) -> Update | None:
        """Return the tickers that changed since the last call, or all if `whole`; None if there are none."""
        symbols = self._names if whole else [name for name in self._names if name in self._changed]
        if not whole:
            self._changed.clear()
        tickers = [self.markets[symbol].ticker(now) for symbol in symbols]
        return Update("all_ticker", "", tickers) if tickers else None
