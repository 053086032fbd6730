"""The private side of the simulated exchange: orders, algo orders and the balances that they move. Pure."""

import random
from dataclasses import dataclass, field
from typing import Any

from bridge.simulator.market import Market, Update, amount_text, price_text

_SPOT, _MARGIN = 1, 2
_MODES = (_SPOT, _SPOT, _SPOT, _MARGIN)
_UNFILLED, _PARTLY, _FILLED, _CANCELED, _CANCELED_PARTLY = range(5)
_FAILED, _ALGO_CANCELED, _WAITING, _TRIGGERING, _TRIGGERED = range(-2, 3)

_ALGO = 0.3  # share of the events that are about algo orders
_PLACED = 0.43  # share of the events that place a new one
_PARTIAL = 0.5
_GOES_WELL = 0.7  # share of orders that end filled, and of waiting algo orders that trigger
_MOST_OPEN = 20  # orders, and the same number of algo orders
_LOTS = (1_000, 50_000)  # the smallest and largest order
_MONEY = 10**15  # units of each currency at the start
_UNITS = 10**6  # units in 1 of a currency; a tick times a lot is a unit
_UNITS_A_LOT = 100


@dataclass(slots=True)
class _Open:
    market: Market
    item: dict[str, Any]  # as it was last sent; replaced, never changed
    price: int  # ticks
    lots: int
    filled: int = 0  # lots


@dataclass(slots=True)
class Account:
    """One account with its open orders. Money is in units of 0.000001, order amounts are in lots."""

    name: str
    rng: random.Random
    free: dict[str, int] = field(default_factory=dict)  # units by currency; a missing one has `_MONEY`
    used: dict[str, int] = field(default_factory=dict)  # units reserved by open orders, by currency
    _open: list[_Open] = field(default_factory=list)  # oldest first, at most `_MOST_OPEN`
    _algo: list[dict[str, Any]] = field(default_factory=list)  # waiting or triggering, oldest first

    def step(self, market: Market, now: float) -> list[Update]:
        """Place an order or change an open one, or do the same with an algo order; return the updates."""
        if self.rng.random() < _ALGO:
            return self._step_algo(market, now)
        if len(self._open) < _MOST_OPEN and (not self._open or self.rng.random() < _PLACED):
            return self._place(market, now)
        return self._change(self.rng.choice(self._open), now)

    def _place(self, market: Market, now: float) -> list[Update]:
        kind, side = self.rng.choice(("limit", "limit", "market")), self.rng.choice(("buy", "sell"))
        price, lots = market.last, self.rng.randint(*_LOTS)
        item = {
            "amount": amount_text(lots) if kind == "limit" else "0",
            "filled": amount_text(0),
            "id": f"{self.rng.getrandbits(128):032x}",
            "mode": self.rng.choice(_MODES),
            "notional": "0",
            "price": price_text(price) if kind == "limit" else "0",
            "price_avg": "",
            "side": side,
            "status": _UNFILLED,
            "symbol": market.symbol,
            "timestamp": int(now) * 1000,
            "type": kind,
        }
        order = _Open(market, item, price, lots)
        self._open.append(order)
        currency, reserved = _reserve(order)
        self._move(currency, -reserved, reserved)
        return [self._update("order", market.symbol, item), self.balance(currency)]

    def _change(self, order: _Open, now: float) -> list[Update]:
        """Fill an order in part or completely, or cancel it."""
        currency, reserved = _reserve(order)
        partly = not order.filled and self.rng.random() < _PARTIAL
        if partly or self.rng.random() < _GOES_WELL:
            left = order.lots - order.filled
            currencies = [currency, self._fill(order, left // 2 if partly else left)]
            status = _PARTLY if partly else _FILLED
        else:
            self._move(currency, reserved, -reserved)
            currencies = [currency]
            status = _CANCELED_PARTLY if order.filled else _CANCELED
        if not partly:
            self._open.remove(order)
        order.item = {
            **order.item,
            "filled": amount_text(order.filled),
            "notional": _money_text(order.filled * order.price),
            "price_avg": price_text(order.price) if order.filled else "",
            "status": status,
            "timestamp": int(now) * 1000,
        }
        return [
            self._update("order", order.market.symbol, order.item),
            *(self.balance(one) for one in currencies),
        ]

    def _fill(self, order: _Open, lots: int) -> str:
        """Exchange the money reserved for `lots`; return the currency that was bought."""
        currency, before = _reserve(order)
        order.filled += lots
        _, after = _reserve(order)
        self._move(currency, 0, after - before)
        base, quote = order.market.symbol.split("_")
        if order.item["side"] == "buy":
            self._move(base, lots * _UNITS_A_LOT, 0)
            return base
        self._move(quote, lots * order.price, 0)
        return quote

    def _step_algo(self, market: Market, now: float) -> list[Update]:
        """Place a waiting algo order, or make the oldest one trigger, succeed, be cancelled or fail."""
        full = len(self._algo) >= _MOST_OPEN
        if full or (self._algo and self.rng.random() < 1 - _PLACED):
            item = self._algo.pop(0)
            triggers = item["status"] == _WAITING and self.rng.random() < _GOES_WELL
            ends = (_TRIGGERED, _TRIGGERED, _ALGO_CANCELED, _FAILED)
            status = _TRIGGERING if triggers else self.rng.choice(ends)
            item = {**item, "status": status, "timestamp": int(now) * 1000}
        else:
            price = price_text(market.last)
            item = {
                "algo_price": price,
                "amount": amount_text(self.rng.randint(*_LOTS)),
                "id": f"{self.rng.getrandbits(128):032x}",
                "mode": self.rng.choice(_MODES),
                "side": self.rng.choice(("buy", "sell")),
                "status": _WAITING,
                "symbol": market.symbol,
                "timestamp": int(now) * 1000,
                "trigger_price": price,
            }
        if item["status"] in (_WAITING, _TRIGGERING):
            self._algo.append(item)
        return [self._update("order_algo", item["symbol"], item)]

    def _move(self, currency: str, free: int, used: int) -> None:
        self.free[currency] = self.free.get(currency, _MONEY) + free
        self.used[currency] = self.used.get(currency, 0) + used

    def balance(self, currency: str) -> Update:
        """Return the present balance of a currency."""
        free, used = self.free.get(currency, _MONEY), self.used.get(currency, 0)
        item = {
            "currency": currency,
            "free": _money_text(free),
            "total": _money_text(free + used),
            "used": _money_text(used),
        }
        return self._update("balance", currency, item)

    def _update(self, channel: str, symbol: str, item: dict[str, Any]) -> Update:
        return Update(channel, symbol, [item], self.name)


def _reserve(order: _Open) -> tuple[str, int]:
    """Return the currency that an order reserves, and how many units of it for the lots not filled yet."""
    base, quote = order.market.symbol.split("_")
    left = order.lots - order.filled
    return (quote, left * order.price) if order.item["side"] == "buy" else (base, left * _UNITS_A_LOT)


def _money_text(units: int) -> str:
    """Return an amount of money as the exchange writes it, with 16 decimals."""
    return f"{units // _UNITS}.{units % _UNITS:06d}0000000000"
