"""The simulated markets agree with themselves."""

import random
from decimal import Decimal
from typing import Any

from bridge.simulator.accounts import Account
from bridge.simulator.market import Exchange, Push

NOW = 1_600_000_000.0
SYMBOLS = ["BTC_USDT", "ETH_USDT"]


def pushes(seed: int, steps: int = 2000) -> tuple[Exchange, list[Push]]:
    exchange = Exchange(SYMBOLS, seed)
    return exchange, [push for n in range(steps) for push in exchange.step(NOW + n)]


def test_the_same_seed_makes_the_same_market() -> None:
    assert pushes(1)[1] == pushes(1)[1]
    assert pushes(1)[1] != pushes(2)[1]


def test_the_mix_is_mostly_depth_then_trades_then_ticker() -> None:
    _, made = pushes(3, 20_000)
    share = {channel: sum(p.channel == channel for p in made) / len(made) for channel in ("depth", "trades")}
    assert 0.55 < share["depth"] < 0.65
    assert 0.2 < share["trades"] < 0.3


def test_books_never_cross_and_follow_from_snapshot_and_deltas() -> None:
    exchange = Exchange(SYMBOLS, 4)
    books: dict[str, dict[str, dict[str, str]]] = {}
    for symbol, market in exchange.markets.items():
        books[symbol] = {side: dict(levels) for side, levels in market.snapshot().params[1].items()}
    for n in range(3000):
        for push in exchange.step(NOW + n):
            if push.channel != "depth":
                continue
            for side, levels in push.params[1].items():
                for price, amount in levels:
                    books[push.symbol][side][price] = amount
                    if Decimal(amount) == 0:
                        del books[push.symbol][side][price]
            market = exchange.markets[push.symbol]
            assert market.best_bid < market.best_ask
    for symbol, market in exchange.markets.items():
        assert books[symbol] == {side: dict(levels) for side, levels in market.snapshot().params[1].items()}


def test_tickers_follow_from_the_trades() -> None:
    exchange, made = pushes(5)
    for symbol, market in exchange.markets.items():
        trades = [t for p in made if p.channel == "trades" and p.symbol == symbol for t in p.params[1][::-1]]
        ticker = market.ticker(NOW)
        assert ticker["last"] == trades[-1]["price"]
        assert Decimal(ticker["base_volume_24h"]) == sum(Decimal(t["amount"]) for t in trades)
        value = sum(Decimal(t["amount"]) * Decimal(t["price"]) for t in trades)
        assert Decimal(ticker["quote_volume_24h"]) == value
        prices = [Decimal(t["price"]) for t in trades] + [Decimal(ticker["open_24h"])]
        assert (Decimal(ticker["high_24h"]), Decimal(ticker["low_24h"])) == (max(prices), min(prices))
        assert [t["id"] for t in trades] == sorted({t["id"] for t in trades})
        assert market.clean_trades().params[1] == trades[-100:][::-1]


def test_all_ticker_tells_of_the_markets_that_changed() -> None:
    exchange = Exchange(SYMBOLS, 6)
    assert exchange.all_ticker(NOW) is not None
    assert exchange.all_ticker(NOW) is None
    exchange.list_market("NEW_USDT")
    push = exchange.all_ticker(NOW)
    assert push is not None
    assert [ticker["symbol"] for ticker in push.params] == ["NEW_USDT"]


def test_orders_go_from_unfilled_to_an_end_and_balances_add_up() -> None:
    exchange = Exchange(SYMBOLS, 7)
    account = Account("key", random.Random(7))
    orders: dict[str, list[dict[str, Any]]] = {}
    algo: dict[str, list[int]] = {}
    for n in range(3000):
        for push in account.step(exchange.markets[SYMBOLS[n % 2]], NOW + n):
            (item,) = push.params
            if push.channel == "order":
                orders.setdefault(item["id"], []).append(item)
            elif push.channel == "order_algo":
                algo.setdefault(item["id"], []).append(item["status"])
            else:
                assert Decimal(item["free"]) + Decimal(item["used"]) == Decimal(item["total"])
                assert Decimal(item["used"]) >= 0
    ends = {tuple(order["status"] for order in states) for states in orders.values()}
    assert {(0, 2), (0, 1, 2), (0, 3), (0, 1, 4)} <= ends
    assert ends <= {(0,), (0, 1), (0, 2), (0, 1, 2), (0, 3), (0, 1, 4)}
    statuses = {tuple(states) for states in algo.values()}
    assert {(0, 1, 2), (0, -1), (0, -2)} <= statuses
    filled = [states[-1] for states in orders.values() if states[-1]["status"] == 2]
    assert all(Decimal(order["filled"]) > 0 and order["price_avg"] for order in filled)
