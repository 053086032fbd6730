"""The truth counts what was written, and keeps trades only on request."""

import pytest

from bridge.simulator.market import Exchange, Update
from bridge.simulator.truth import Truth

NOW = 1_600_000_000.0


def test_depth_is_counted_by_update_and_other_channels_by_item() -> None:
    exchange = Exchange(["BTC_USDT", "ETH_USDT"], 1)
    truth = Truth(exchange)
    whole = exchange.all_ticker(NOW, whole=True)
    assert whole is not None
    for update in (exchange.markets["BTC_USDT"].snapshot(), whole, whole):
        truth.record_written(update)
    truth.record_written(Update("balance", "BTC", [{"currency": "BTC"}], "key"))
    assert truth.items("depth", "BTC_USDT") == 1
    assert truth.items("all_ticker", "ETH_USDT") == 2
    assert truth.counts()["all_ticker"] == 4
    assert truth.counts()["balance"] == 1
    assert truth.good == 4


@pytest.mark.parametrize("keep_trades", [True, False])
def test_a_trade_sent_several_times_counts_once(keep_trades: bool) -> None:
    exchange = Exchange(["BTC_USDT"], 2)
    truth = Truth(exchange, keep_trades=keep_trades)
    made = [exchange.event("trades", NOW + n)[0] for n in range(30)]
    for update in (*made, *made, exchange.markets["BTC_USDT"].clean_trades()):
        truth.record_written(update)
    ids = [trade["id"] for update in made for trade in update.params[1]]
    assert truth.items("trades", "BTC_USDT") == truth.counts()["trades"] == len(ids)
    assert truth.sent == ({"BTC_USDT": set(ids)} if keep_trades else {})


def test_trades_are_kept_oldest_first_only_on_request() -> None:
    exchange = Exchange(["BTC_USDT"], 3)
    kept, counted = Truth(exchange, keep_trades=True), Truth(exchange)
    for n in range(30):
        for update in exchange.event("trades", NOW + n):
            kept.record_made(update)
            counted.record_made(update)
    assert list(exchange.markets["BTC_USDT"].trades) == kept.made["BTC_USDT"][-100:]
    assert not counted.made


def test_the_book_equals_that_of_the_market() -> None:
    exchange = Exchange(["BTC_USDT"], 4)
    book = Truth(exchange).book("BTC_USDT")
    market = exchange.markets["BTC_USDT"]
    assert (len(book["asks"]), len(book["bids"])) == (len(market.asks), len(market.bids))
    with pytest.raises(KeyError):
        Truth(exchange).book("NOPE_USDT")


def test_every_version_of_a_book_is_kept_on_request_with_the_change_that_made_it() -> None:
    exchange = Exchange(["BTC_USDT"], 5)
    market = exchange.markets["BTC_USDT"]
    kept, counted = Truth(exchange, keep_books=True), Truth(exchange)
    expected: list[tuple[object, ...]] = [(None, dict(market.asks), dict(market.bids))]
    for n in range(30):
        for update in exchange.event("depth", NOW + n):
            kept.record_made(update)
            counted.record_made(update)
            expected.append((update.params[1], dict(market.asks), dict(market.bids)))
    assert kept.versions == {"BTC_USDT": expected}
    assert not counted.versions
