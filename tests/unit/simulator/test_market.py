"""The simulated markets are consistent: books, trades and tickers agree with each other."""

from collections import defaultdict
from decimal import Decimal

import pytest

from bridge.simulator.market import Exchange, Remembers, Update

NOW = 1_600_000_000.0
SYMBOLS = ["BTC_USDT", "ETH_USDT"]


def updates(seed: int, steps: int = 2000) -> tuple[Exchange, list[Update]]:
    exchange = Exchange(SYMBOLS, seed)
    return exchange, [update for n in range(steps) for update in exchange.step(NOW + n)]


def test_the_same_seed_makes_the_same_market() -> None:
    assert updates(1)[1] == updates(1)[1]
    assert updates(1)[1] != updates(2)[1]


def test_most_updates_are_depth_then_trades_then_ticker() -> None:
    _, made = updates(3, 10_000)
    share = {channel: sum(p.channel == channel for p in made) / len(made) for channel in ("depth", "trades")}
    assert 0.55 < share["depth"] < 0.65
    assert 0.2 < share["trades"] < 0.3


def test_books_never_cross_and_equal_their_snapshot_plus_deltas() -> None:
    exchange = Exchange(SYMBOLS, 4)
    books: dict[str, dict[str, dict[str, str]]] = {}
    for symbol, market in exchange.markets.items():
        books[symbol] = {side: dict(levels) for side, levels in market.snapshot().params[1].items()}
    for n in range(3000):
        for update in exchange.step(NOW + n):
            if update.channel != "depth":
                continue
            for side, levels in update.params[1].items():
                for price, amount in levels:
                    books[update.symbol][side][price] = amount
                    if Decimal(amount) == 0:
                        del books[update.symbol][side][price]
            market = exchange.markets[update.symbol]
            assert market.best_bid < market.best_ask
    for symbol, market in exchange.markets.items():
        assert books[symbol] == {side: dict(levels) for side, levels in market.snapshot().params[1].items()}


def test_tickers_agree_with_the_trades() -> None:
    exchange, made = updates(5)
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


def test_all_ticker_lists_only_the_markets_that_changed() -> None:
    exchange = Exchange(SYMBOLS, 6)
    assert exchange.all_ticker(NOW) is not None
    assert exchange.all_ticker(NOW) is None
    exchange.list_market("NEW_USDT")
    update = exchange.all_ticker(NOW)
    assert update is not None
    assert [ticker["symbol"] for ticker in update.params] == ["NEW_USDT"]


def test_all_ticker_leaves_out_quiet_markets() -> None:
    exchange = Exchange(SYMBOLS, 8)
    exchange.all_ticker(NOW)
    (update, *_) = exchange.event("trades", NOW)
    changed = exchange.all_ticker(NOW)
    assert changed is not None
    assert [ticker["symbol"] for ticker in changed.params] == [update.symbol]


def test_listing_a_market_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match="BTC_USDT is already listed"):
        Exchange(SYMBOLS, 9).list_market("BTC_USDT")


def test_removed_levels_are_written_in_both_spellings_of_zero() -> None:
    _, made = updates(10)
    deltas = [update.params[1] for update in made if update.channel == "depth"]
    amounts = {amount for book in deltas for side in book.values() for _, amount in side}
    assert {amount for amount in amounts if Decimal(amount) == 0} == {"0", "0.0000"}


def test_books_and_trade_history_are_bounded() -> None:
    exchange, made = updates(11, 12_000)
    for market in exchange.markets.values():
        assert 25 <= len(market.asks) <= 51
        assert 25 <= len(market.bids) <= 51
        assert len(market.trades) == 100
    assert all(len(update.params[1]["asks"]) < 30 for update in made if update.channel == "depth")


def test_trades_only_take_what_is_in_the_book() -> None:
    """Each trade takes lots that the book had at its price, and the delta removes them."""
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


@pytest.mark.parametrize("history", ["kept", "cut", "mixed"])
def test_ids_that_begin_anew_are_in_the_list_as_asked_for(history: Remembers) -> None:
    exchange = Exchange(SYMBOLS[:1], 6)
    market = exchange.markets[SYMBOLS[0]]
    for n in range(20):
        exchange.event("trades", NOW + n)
    market.restart_ids(0, history)
    for n in range(20, 30):
        exchange.event("trades", NOW + n)
    ids = [trade["id"] for trade in market.clean_trades().params[1]]
    new = [one for one in ids if one < 1000]
    assert new == sorted(new, reverse=True)
    match history:
        case "kept":
            assert ids[: len(new)] == new
            assert len(ids) > len(new)
        case "cut":
            assert ids == new
        case "mixed":
            assert ids[-len(new) :] == new
            assert len(ids) > len(new)


def test_one_id_is_out_of_line_and_the_next_ones_are_not() -> None:
    exchange = Exchange(SYMBOLS[:1], 6)
    exchange.markets[SYMBOLS[0]].stray_id(10**12)
    ids = [trade["id"] for n in range(5) for trade in exchange.event("trades", NOW + n)[0].params[1][::-1]]
    assert ids[0] > 10**12
    assert ids[1:] == sorted(ids[1:])
    assert ids[-1] < 10**11
