"""The simulated markets agree with themselves."""

from collections import defaultdict
from decimal import Decimal

import pytest

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
    _, made = pushes(3, 10_000)
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


def test_a_quiet_market_is_not_in_all_ticker() -> None:
    exchange = Exchange(SYMBOLS, 8)
    exchange.all_ticker(NOW)
    (push, *_) = exchange.event("trades", NOW)
    changed = exchange.all_ticker(NOW)
    assert changed is not None
    assert [ticker["symbol"] for ticker in changed.params] == [push.symbol]


def test_a_market_is_listed_once() -> None:
    with pytest.raises(ValueError, match="BTC_USDT is listed"):
        Exchange(SYMBOLS, 9).list_market("BTC_USDT")


def test_a_level_is_removed_by_either_zero() -> None:
    _, made = pushes(10)
    deltas = [push.params[1] for push in made if push.channel == "depth"]
    amounts = {amount for book in deltas for side in book.values() for _, amount in side}
    assert {amount for amount in amounts if Decimal(amount) == 0} == {"0", "0.0000"}


def test_books_and_history_stay_small() -> None:
    exchange, made = pushes(11, 12_000)
    for market in exchange.markets.values():
        assert 25 <= len(market.asks) <= 51
        assert 25 <= len(market.bids) <= 51
        assert len(market.trades) == 100
    assert all(len(push.params[1]["asks"]) < 30 for push in made if push.channel == "depth")


def test_each_trade_is_one_that_the_book_allows() -> None:
    """What a taker gets stood in the book at that price, and is gone from it afterwards."""
    exchange = Exchange(SYMBOLS, 12)
    for n in range(3000):
        before = {symbol: (dict(m.asks), dict(m.bids)) for symbol, m in exchange.markets.items()}
        trades, delta = exchange.event("trades", NOW + n)
        asks, bids = before[trades.symbol]
        taken: defaultdict[int, int] = defaultdict(int)
        for trade in trades.params[1]:
            price, lots = (int(trade[key].replace(".", "")) for key in ("price", "amount"))
            taken[price] += lots
            side, now = (asks, "asks") if trade["type"] == "buy" else (bids, "bids")
            assert taken[price] <= side[price]
        left = dict(delta.params[1][now])
        for price, lots in taken.items():
            assert Decimal(left[f"{price // 100}.{price % 100:02d}"]) * 10_000 == side[price] - lots
        exchange.step(NOW + n)
