"""The record of everything that the simulated exchange did."""

import random

from bridge.simulator.accounts import Account
from bridge.simulator.history import History, full_book_text
from bridge.simulator.market import Exchange

NOW = 1_600_000_000.5
SYMBOL = "BTC_USDT"


def test_trades_are_kept_in_order_with_their_epoch_and_times_in_microseconds() -> None:
    market, history = Exchange([SYMBOL], 1), History()
    history.record_made(market.event("trades", NOW), market, 5)
    market.markets[SYMBOL].restart_ids(0)
    history.record_made(market.event("trades", NOW + 1), market, 6)
    kept = history.trades[SYMBOL]
    assert {trade.epoch for trade in kept} == {0, 1}
    assert next(trade.id for trade in kept if trade.epoch) < 10
    assert kept[0].time_us == 1_600_000_000_500_000


def test_a_trade_whose_id_is_out_of_line_is_marked() -> None:
    market, history = Exchange([SYMBOL], 1), History()
    market.markets[SYMBOL].stray_id(10**9)
    for _ in range(3):
        history.record_made(market.event("trades", NOW), market, 5)
    assert [trade.stray for trade in history.trades[SYMBOL]].count(True) == 1


def test_a_book_is_kept_with_the_number_of_changes_that_it_contains() -> None:
    market, history = Exchange([SYMBOL], 1), History()
    for _ in range(3):
        history.record_made(market.event("depth", NOW), market, 5)
    snapshot = market.markets[SYMBOL].snapshot()
    history.record_first(snapshot)
    history.record_first(snapshot)
    book = snapshot.params[1]
    assert history.books[SYMBOL] == {full_book_text(book["asks"], book["bids"]): [3]}


def test_a_change_of_an_account_has_settled_when_it_was_due_or_its_connection_was_lost() -> None:
    market, history = Exchange([SYMBOL], 1), History()
    updates = Account("key", random.Random(1)).step(market.markets[SYMBOL], NOW)
    history.record_made(updates, market, 1000)
    number = history.record_opened(500)
    history.record_written(updates[0], number, 1500, damaged=False)
    change = history.changes["key"][0]
    assert history.settled_us(change) == 1500
    history.record_stall(1400, 1700)
    assert history.settled_us(change) == 1700
    history.record_closed(number, 1600)
    assert history.settled_us(change) == 1600


def test_nothing_is_kept_unless_asked_for() -> None:
    market, history = Exchange([SYMBOL], 1), History(keep=False)
    updates = market.event("trades", NOW)
    history.record_made(updates, market, 5)
    history.record_first(market.markets[SYMBOL].snapshot())
    history.record_closed(history.record_opened(0), 1)
    history.record_stall(0, 1)
    assert not history.trades
    assert not history.books
    assert not history.connections
