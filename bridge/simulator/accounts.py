"""The private side of the simulated exchange: orders get filled, and move balances. Pure."""

import random
from dataclasses import dataclass, field
from typing import Any

from bridge.simulator.market import Market, Push, amount_text, price_text

_MODES = (1, 1, 1, 2)
_ENDS = (2, 2, 2, 3)  # filled, or canceled


@dataclass(slots=True)
class _Open:
    market: Market
    item: dict[str, Any]
    price: int
    lots: int
    filled: int = 0


@dataclass(slots=True)
class Account:
    """One account with its open orders; amounts in lots, quote currency in ticks times lots."""

    name: str
    rng: random.Random
    free: dict[str, int] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    _open: list[_Open] = field(default_factory=list)
    _algo: list[dict[str, Any]] = field(default_factory=list)

    def step(self, market: Market, now: float) -> list[Push]:
        """Place an order, or let one that is open go on; or an algo order."""
        draw = self.rng.random()
        if draw < 0.3:  # noqa: PLR2004
            return self._step_algo(market, now)
        if draw < 0.6 or not self._open:  # noqa: PLR2004
            return self._place(market, now)
        return self._go_on(self.rng.choice(self._open), now)

    def _place(self, market: Market, now: float) -> list[Push]:
        kind, side = self.rng.choice(("limit", "limit", "market")), self.rng.choice(("buy", "sell"))
        price, lots = market.last, self.rng.randint(1_000, 50_000)
        item = {
            "amount": amount_text(lots) if kind == "limit" else "0",
            "filled": amount_text(0),
            "id": f"{self.rng.getrandbits(128):032x}",
            "mode": self.rng.choice(_MODES),
            "notional": "0",
            "price": price_text(price) if kind == "limit" else "0",
            "price_avg": "",
            "side": side,
            "status": 0,
            "symbol": market.symbol,
            "timestamp": int(now) * 1000,
            "type": kind,
        }
        order = _Open(market, item, price, lots)
        self._open.append(order)
        currency, reserved = self._reserve(order)
        self._move(currency, -reserved, reserved)
        return [self._order(item), self._balance(currency)]

    def _go_on(self, order: _Open, now: float) -> list[Push]:
        item = order.item
        end = self.rng.choice(_ENDS)
        partly = not order.filled and self.rng.random() < 0.5  # noqa: PLR2004
        currency, reserved = self._reserve(order)
        if partly or end == 2:  # noqa: PLR2004
            lots = (order.lots - order.filled) // 2 if partly else order.lots - order.filled
            order.filled += lots
            _, left = self._reserve(order)
            self._move(currency, 0, left - reserved)
            base, quote = item["symbol"].split("_")
            gained, gain = (base, lots * 100) if item["side"] == "buy" else (quote, lots * order.price)
            self._move(gained, gain, 0)
            status = 1 if partly else 2
        else:
            gained = currency
            self._move(currency, reserved, -reserved)
            status = 4 if order.filled else 3
        if status > 1:
            self._open.remove(order)
        order.item = {
            **item,
            "filled": amount_text(order.filled),
            "notional": _quote_text(order.filled * order.price),
            "price_avg": price_text(order.price) if order.filled else "",
            "status": status,
            "timestamp": int(now) * 1000,
        }
        return [self._order(order.item), *(self._balance(one) for one in dict.fromkeys((currency, gained)))]

    def _step_algo(self, market: Market, now: float) -> list[Push]:
        waiting = self._algo and self.rng.random() < 0.6  # noqa: PLR2004
        if waiting:
            item = self._algo.pop(0)
            status = 1 if item["status"] == 0 and self.rng.random() < 0.7 else self.rng.choice((2, 2, -1, -2))  # noqa: PLR2004
            item = {**item, "status": status, "timestamp": int(now) * 1000}
        else:
            price = price_text(market.last)
            item = {
                "algo_price": price,
                "amount": amount_text(self.rng.randint(1_000, 50_000)),
                "id": f"{self.rng.getrandbits(128):032x}",
                "mode": self.rng.choice(_MODES),
                "side": self.rng.choice(("buy", "sell")),
                "status": 0,
                "symbol": market.symbol,
                "timestamp": int(now) * 1000,
                "trigger_price": price,
            }
        if item["status"] in (0, 1):
            self._algo.append(item)
        return [Push("order_algo", item["symbol"], [item], self.name)]

    def _reserve(self, order: _Open) -> tuple[str, int]:
        """Return the currency that an order holds back, and how much of it for what is not filled yet."""
        base, quote = order.item["symbol"].split("_")
        left = order.lots - order.filled
        return (quote, left * order.price) if order.item["side"] == "buy" else (base, left * 100)

    def _move(self, currency: str, free: int, used: int) -> None:
        self.free[currency] = self.free.get(currency, 10**15) + free
        self.used[currency] = self.used.get(currency, 0) + used

    def _order(self, item: dict[str, Any]) -> Push:
        return Push("order", item["symbol"], [item], self.name)

    def _balance(self, currency: str) -> Push:
        free, used = self.free[currency], self.used[currency]
        item = {
            "currency": currency,
            "free": _quote_text(free),
            "total": _quote_text(free + used),
            "used": _quote_text(used),
        }
        return Push("balance", currency, [item], self.name)


def _quote_text(units: int) -> str:
    """Return a sum in millionths, ticks times lots, as the exchange writes it."""
    return f"{units // 10**6}.{units % 10**6:06d}0000000000"
