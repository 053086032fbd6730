"""The simulated markets: order books, trades and tickers that agree with each other. Pure and seeded.

Prices are counted in ticks of 0.01 and amounts in lots of 0.0001, as integers, so that sums are exact.
"""

import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

_TICKS = 100
_LOTS = 10_000
_LEVELS = 25  # of each side of a book
_MOST_LEVELS = 2 * _LEVELS
_HISTORY = 100  # trades in a clean list
_WELL_KNOWN = ("BTC_USDT", "ETH_USDT", "LTC_USDT", "XRP_USDT", "DFT_USDT", "EOS_USDT", "TRX_USDT", "BCH_USDT")
_FIRST_ID = 12_900_000_000
_EVEN = 0.5
_QUOTES, _TRADES = 0.47, 0.33  # of the events; each trade changes the book, too
_EMPTY = ("0", "0.0000")  # amounts that remove a level; the exchange writes both

Levels = dict[int, int]
"""Price in ticks to amount in lots."""


def symbol_names(number: int) -> list[str]:
    """Return so many market names."""
    return [*_WELL_KNOWN[:number], *(f"SIM{n}_USDT" for n in range(len(_WELL_KNOWN), number))]


def price_text(ticks: int) -> str:
    """Return a price as the exchange writes it."""
    return f"{ticks // _TICKS}.{ticks % _TICKS:02d}"


def amount_text(lots: int) -> str:
    """Return an amount as the exchange writes it."""
    return f"{lots // _LOTS}.{lots % _LOTS:04d}"


@dataclass(frozen=True, slots=True)
class Push:
    """One push: channel, symbol ("" for all_ticker), params, and the account it is for (None: all)."""

    channel: str
    symbol: str
    params: list[Any]
    account: str | None = None


@dataclass(slots=True)
class Market:
    """One market. Each method changes it and returns the pushes that tell of it."""

    symbol: str
    rng: random.Random
    asks: Levels = field(default_factory=dict)
    bids: Levels = field(default_factory=dict)
    trades: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_HISTORY))
    last_id: int = _FIRST_ID
    open: int = 0
    high: int = 0
    low: int = 0
    last: int = 0
    last_lots: int = 0
    base_lots: int = 0
    quote: int = 0

    def __post_init__(self) -> None:
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
        """The best level of each side, as a ticker has them."""
        ask, bid = self.best_ask, self.best_bid
        return ask, self.asks[ask], bid, self.bids[bid]

    def quote_change(self) -> list[Push]:
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

    def trade(self, now: float) -> list[Push]:
        """Let a taker trade with the best levels."""
        buys = self.rng.random() < _EVEN
        side, changed, done = (self.asks if buys else self.bids), Levels(), []
        for _ in range(self.rng.choice((1, 1, 1, 2))):
            price = self.best_ask if buys else self.best_bid
            lots = self.rng.randint(1, side[price])
            done.append(self._traded(price, lots, "buy" if buys else "sell", now))
            changed[price] = side[price] = side[price] - lots
            if not side[price]:
                del side[price]
        while len(side) < _LEVELS:
            price = max(side) + 1 if buys else min(side) - 1
            side[price] = changed[price] = self._lots()
        push = Push("trades", self.symbol, [False, done[::-1], self.symbol])
        return [push, self._delta(changed, {}) if buys else self._delta({}, changed)]

    def clean_trades(self) -> Push:
        """Return the recent history, newest first."""
        return Push("trades", self.symbol, [True, list(self.trades)[::-1], self.symbol])

    def snapshot(self) -> Push:
        """Return the whole book; asks, too, come highest price first."""
        return Push("depth", self.symbol, [True, self._book(self.asks, self.bids), self.symbol])

    def ticker(self, now: float) -> dict[str, Any]:
        """Return the ticker of now."""
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
        trade = {
            "id": self.last_id,
            "time": round(now, 6),
            "price": price_text(price),
            "amount": amount_text(lots),
            "type": side,
        }
        self.trades.append(trade)
        return trade

    def _delta(self, asks: Levels, bids: Levels) -> Push:
        return Push("depth", self.symbol, [False, self._book(asks, bids), self.symbol])

    def _book(self, asks: Levels, bids: Levels) -> dict[str, list[list[str]]]:
        return {"asks": self._levels(asks), "bids": self._levels(bids)}

    def _levels(self, side: Levels) -> list[list[str]]:
        return [
            [price_text(price), amount_text(side[price]) if side[price] else self.rng.choice(_EMPTY)]
            for price in sorted(side, reverse=True)
        ]


class Exchange:
    """All markets. `step` makes the pushes of one event; the same seed makes the same ones."""

    def __init__(self, symbols: Sequence[str], seed: int) -> None:
        self.rng = random.Random(seed)  # noqa: S311
        self.markets: dict[str, Market] = {}
        self._names: list[str] = []
        self._changed: set[str] = set()
        for symbol in symbols:
            self.list_market(symbol)

    def list_market(self, symbol: str) -> None:
        """Open a new market.

        Raises:
            ValueError: there is one of that name.
        """
        if symbol in self.markets:
            raise ValueError(f"{symbol} is listed")
        self.markets[symbol] = Market(symbol, random.Random(self.rng.random()))  # noqa: S311
        self._names = list(self.markets)
        self._changed.add(symbol)

    def step(self, now: float) -> list[Push]:
        """Let something happen in one market: of the pushes 60 % depth, 25 % trades, 15 % ticker."""
        draw = self.rng.random()
        return self.event(
            "depth" if draw < _QUOTES else "trades" if draw < _QUOTES + _TRADES else "ticker", now
        )

    def event(self, channel: str, now: float) -> list[Push]:
        """Let something happen in one market that this channel tells of.

        Raises:
            KeyError: it is not trades, depth or ticker.
        """
        market = self.markets[self.rng.choice(self._names)]
        match channel:
            case "depth":
                best = market.best
                pushes = market.quote_change()
                if market.best != best:
                    self._changed.add(market.symbol)
            case "trades":
                pushes = market.trade(now)
                self._changed.add(market.symbol)
            case "ticker":
                pushes = [Push("ticker", market.symbol, [market.ticker(now)])]
            case _:
                raise KeyError(channel)
        return pushes

    def all_ticker(self, now: float, *, whole: bool = False) -> Push | None:
        """Return the tickers that changed since the last call, or all; None if none did."""
        symbols = self._names if whole else [name for name in self._names if name in self._changed]
        if not whole:
            self._changed.clear()
        tickers = [self.markets[symbol].ticker(now) for symbol in symbols]
        return Push("all_ticker", "", tickers) if tickers else None
