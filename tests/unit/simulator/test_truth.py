"""The truth counts what was written, in bounded memory unless asked to keep it."""

import pytest

from bridge.simulator.market import Exchange, Push
from bridge.simulator.truth import Truth

NOW = 1_600_000_000.0


def test_depth_counts_pushes_and_the_others_items() -> None:
    exchange = Exchange(["BTC_USDT", "ETH_USDT"], 1)
    truth = Truth(exchange)
    whole = exchange.all_ticker(NOW, whole=True)
    assert whole is not None
    for push in (exchange.markets["BTC_USDT"].snapshot(), whole, whole):
        truth.wrote(push)
    truth.wrote(Push("balance", "BTC", [{"currency": "BTC"}], "key"))
    assert truth.items("depth", "BTC_USDT") == 1
    assert truth.items("all_ticker", "ETH_USDT") == 2
    assert truth.counts()["all_ticker"] == 4
    assert truth.counts()["balance"] == 1
    assert truth.good == 4


@pytest.mark.parametrize("keep_trades", [True, False])
def test_a_trade_counts_once_however_often_it_is_sent(keep_trades: bool) -> None:
    exchange = Exchange(["BTC_USDT"], 2)
    truth = Truth(exchange, keep_trades=keep_trades)
    made = [exchange.event("trades", NOW + n)[0] for n in range(30)]
    for push in (*made, *made, exchange.markets["BTC_USDT"].clean_trades()):
        truth.wrote(push)
    ids = [trade["id"] for push in made for trade in push.params[1]]
    assert truth.items("trades", "BTC_USDT") == truth.counts()["trades"] == len(ids)
    assert truth.sent == ({"BTC_USDT": set(ids)} if keep_trades else {})


def test_trades_that_were_made_are_kept_oldest_first_on_request() -> None:
    exchange = Exchange(["BTC_USDT"], 3)
    kept, counted = Truth(exchange, keep_trades=True), Truth(exchange)
    for n in range(30):
        for push in exchange.event("trades", NOW + n):
            kept.happened(push)
            counted.happened(push)
    assert list(exchange.markets["BTC_USDT"].trades) == kept.made["BTC_USDT"][-100:]
    assert not counted.made


def test_the_book_is_that_of_the_market() -> None:
    exchange = Exchange(["BTC_USDT"], 4)
    book = Truth(exchange).book("BTC_USDT")
    market = exchange.markets["BTC_USDT"]
    assert (len(book["asks"]), len(book["bids"])) == (len(market.asks), len(market.bids))
    with pytest.raises(KeyError):
        Truth(exchange).book("NOPE_USDT")
