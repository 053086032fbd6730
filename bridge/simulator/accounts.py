"""The private side of the simulated exchange: orders get filled, and move balances. Pure."""

import random
from dataclasses import dataclass, field
from typing import Any

from bridge.simulator.market import Market, Push, amount_text, price_text

_SPOT, _MARGIN = 1, 2
_MODES = (_SPOT, _SPOT, _SPOT, _MARGIN)
_UNFILLED, _PARTLY, _FILLED, _CANCELED, _CANCELED_PARTLY = range(5)
_FAILED, _ALGO_CANCELED, _WAITING, _TRIGGERING, _TRIGGERED = range(-2, 3)

_ALGO = 0.3  # of the events; the rest is about orders
_PLACED = 0.43  # of those are new ones
_PARTIAL = 0.5
_GOES_WELL = 0.7  # an order that ends is filled, an algo order that waits is triggered
_MOST_OPEN = 20  # orders, and as many algo orders
_LOTS = (1_000, 50_000)  # the least and most of an order
_MONEY = 10**15  # units of each currency at the beginning
_UNITS = 10**6  # in 1; a tick times a lot is a unit
_UNITS_A_LOT = 100


@dataclass(slots=True)
class _Open:
    market: Market
    item: dict[str, Any]
    price: int
    lots: int
    filled: int = 0


@dataclass(slots=True)
class Account:
    """One account with its open orders; money in units of a millionth, amounts of orders in lots."""

    name: str
    rng: random.Random
    free: dict[str, int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    _open: list[_Open] = field(default_factory=list)
    _algo: list[dict[str, Any]] = field(default_factory=list)

    def step(self, market: Market, now: float) -> list[Push]:
        """Place an order, or let one that is open go on; or an algo order."""
        if self.rng.random() < _ALGO:
            return self._step_algo(market, now)
        if len(self._open) < _MOST_OPEN and (not self._open or self.rng.random() < _PLACED):
            return self._place(market, now)
        return self._go_on(self.rng.choice(self._open), now)

    def _place(self, market: Market, now: float) -> list[Push]:
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
        return [self._push("order", market.symbol, item), self._balance(currency)]

    def _go_on(self, order: _Open, now: float) -> list[Push]:
        """Fill a part of an order, all that is left of it, or cancel it."""
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
            self._push("order", order.market.symbol, order.item),
            *(self._balance(one) for one in currencies),
        ]

    def _fill(self, order: _Open, lots: int) -> str:
        """Exchange what was held back for so many lots; return the currency that was gained."""
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

    def _step_algo(self, market: Market, now: float) -> list[Push]:
        """Place an algo order that waits, or let the oldest one trigger, succeed, be cancelled or fail."""
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
        return [self._push("order_algo", item["symbol"], item)]

    def _move(self, currency: str, free: int, used: int) -> None:
        self.free[currency] = self.free.get(currency, _MONEY) + free
        self.used[currency] = self.used.get(currency, 0) + used

    def _balance(self, currency: str) -> Push:
        free, used = self.free[currency], self.used[currency]
        item = {
            "currency": currency,
            "free": _money_text(free),
            "total": _money_text(free + used),
            "used": _money_text(used),
        }
        return self._push("balance", currency, item)

    def _push(self, channel: str, symbol: str, item: dict[str, Any]) -> Push:
        return Push(channel, symbol, [item], self.name)


def _reserve(order: _Open) -> tuple[str, int]:
    """Return the currency that an order holds back, and how much of it for what is not filled yet."""
    base, quote = order.market.symbol.split("_")
    left = order.lots - order.filled
    return (quote, left * order.price) if order.item["side"] == "buy" else (base, left * _UNITS_A_LOT)


def _money_text(units: int) -> str:
    """Return a sum of money as the exchange writes it, with 16 decimals."""
    return f"{units // _UNITS}.{units % _UNITS:06d}0000000000"
