"""What goes wrong with updates on their way to the clients."""

import random
import zlib
from typing import cast

import orjson
import pytest

from bridge.simulator import Faults
from bridge.simulator.market import Update
from bridge.simulator.mishaps import Mishaps, Spoiling


def mishaps(**faults: float) -> Mishaps:
    return Mishaps(Faults(**faults), random.Random(1))  # type: ignore[arg-type]


def trade(number: int, symbol: str = "BTC_USDT") -> Update:
    return Update("trades", symbol, [False, [{"id": number}], symbol])


def test_without_faults_each_update_is_sent_once() -> None:
    one = trade(1)
    assert mishaps().sent(one) == [one]
    assert mishaps().damaged(one) is None


def test_a_reordered_update_is_sent_after_the_next_one_of_its_symbol() -> None:
    subject, one, other, two = mishaps(reordered=1.0), trade(1), trade(7, "ETH_USDT"), trade(2)
    assert subject.sent(one) == []
    assert subject.sent(other) == []
    subject.faults = Faults()
    assert subject.sent(two) == [two, one]
    assert subject.late() == [other]
    assert subject.late() == []


def test_a_duplicated_trade_is_sent_again_after_the_next_one() -> None:
    subject, one, two = mishaps(duplicated=1.0), trade(1), trade(2)
    assert subject.sent(one) == [one]
    assert subject.sent(two) == [two, one]


def test_a_duplicated_change_of_a_book_is_sent_twice_in_a_row() -> None:
    depth = Update("depth", "BTC_USDT", [False, {}, "BTC_USDT"])
    assert mishaps(duplicated=1.0).sent(depth) == [depth, depth]


def test_a_ticker_is_neither_duplicated_nor_reordered() -> None:
    ticker = Update("ticker", "BTC_USDT", [{}])
    assert mishaps(duplicated=1.0, reordered=1.0).sent(ticker) == [ticker]


def test_a_damaged_frame_is_no_stream_and_one_with_a_bad_item_is_json() -> None:
    one = trade(1)
    damaged = mishaps(damaged=1.0).damaged(one)
    assert damaged is not None
    with pytest.raises(zlib.error):
        zlib.decompress(damaged)
    for update in (one, Update("depth", "BTC_USDT", [False, {"asks": [], "bids": [["1", "2"]]}, "BTC_USDT"])):
        spoiled = mishaps(bad_item=1.0).damaged(update)
        assert spoiled is not None
        assert b'"x"' in zlib.decompress(spoiled)


@pytest.mark.parametrize(
    ("channel", "figure"), [("order", "price"), ("order_algo", "algo_price"), ("balance", "total")]
)
def test_a_bad_item_of_a_private_channel_is_still_known(channel: str, figure: str) -> None:
    item = {"id": "1", figure: "2"}
    change = Update(channel, "BTC_USDT", [item], "key")
    assert mishaps(bad_item=1.0).damaged(change) is None, "all connections get the same"
    spoiled = mishaps(bad_item=1.0).bad(change)
    assert spoiled is not None
    assert orjson.loads(zlib.decompress(spoiled))["params"] == [{"id": "1", figure: "x"}]


@pytest.mark.parametrize("channel", ["trades", "depth", "order", "order_algo", "balance"])
def test_bad_params_are_no_items(channel: str) -> None:
    params = (
        [False, {"asks": [], "bids": [["1", "2"]]}, "BTC_USDT"] if channel == "depth" else [{"id": "1"}] * 3
    )
    spoiled = mishaps(bad_params=1.0).bad(Update(channel, "BTC_USDT", params))
    assert spoiled is not None
    assert orjson.loads(zlib.decompress(spoiled))["params"] in (None, {}, "x", [0])


def test_a_ticker_gets_neither_a_bad_item_nor_bad_params() -> None:
    assert mishaps(bad_item=1.0, bad_params=1.0).damaged(Update("ticker", "BTC_USDT", [{}])) is None


def change(asks: list[list[str]], bids: list[list[str]]) -> Update:
    return Update("depth", "BTC_USDT", [False, {"asks": asks, "bids": bids}, "BTC_USDT"])


def test_a_share_of_the_changes_of_books_is_lost() -> None:
    subject, one = mishaps(change_lost=0.5), change([["2", "1"]], [])
    found = [subject.sent(one) for _ in range(100)]
    assert [one] in found
    assert subject.harmed == {"lost": found.count([])}


def test_a_level_stays_when_its_removal_is_left_out() -> None:
    subject = mishaps(level_stays=1.0)
    (sent,) = subject.sent(change([["2", "0.0000"], ["3", "1"]], [["1", "0"]]))
    assert sent == change([["3", "1"]], [])
    assert subject.sent(change([["2", "1"]], [])) == [change([["2", "1"]], [])]
    assert subject.harmed == {"stays": 1}


def test_a_book_is_crossed_by_a_level_that_is_on_both_sides() -> None:
    subject = mishaps(book_crossed=1.0)
    assert subject.sent(change([["2", "0"]], [["1", "5"]])) == [
        change([["2", "0"], ["1", "5"]], [["1", "5"]])
    ]
    assert subject.sent(change([["2", "0"]], [])) == [change([["2", "0"]], [])]
    assert subject.harmed == {"crossed": 1}


def test_what_happens_to_the_next_changes_of_a_book_can_be_planned() -> None:
    subject, one = mishaps(), change([["2", "1"], ["3", "0"]], [])
    subject.harm("BTC_USDT", "stays", "lost", "crossed")
    assert subject.sent(change([["2", "1"]], [])) == [change([["2", "1"]], [])], "nothing to leave out"
    assert [subject.sent(one) for _ in range(4)] == [
        [change([["2", "1"]], [])],
        [],
        [change([["2", "1"], ["3", "0"]], [["2", "1"]])],
        [one],
    ]


def snapshot(channel: str = "depth", symbol: str = "BTC_USDT") -> Update:
    return Update(channel, symbol, [True, {}, symbol])


def test_without_faults_no_first_list_is_spoiled() -> None:
    assert mishaps().spoils(snapshot()) is None


@pytest.mark.parametrize("spoiling", ["damaged", "missing", "late"])
def test_a_share_of_first_lists_and_snapshots_is_spoiled(spoiling: str) -> None:
    subject = mishaps(**{f"clean_{spoiling}": 0.5})
    found = [subject.spoils(snapshot()) for _ in range(100)]
    assert set(found) == {None, spoiling}
    assert subject.spoiled == {spoiling: found.count(cast("Spoiling", spoiling))}


def test_only_lists_of_trades_are_empty_by_chance() -> None:
    """A consumer could not find out that an empty book is not the book."""
    subject = mishaps(clean_empty=1.0)
    assert subject.spoils(snapshot("trades")) == "empty"
    assert subject.spoils(snapshot("depth")) is None


def test_a_short_list_has_the_newest_trades() -> None:
    subject = mishaps(clean_short=1.0)
    assert subject.spoils(snapshot("depth")) is None
    full = Update("trades", "BTC_USDT", [True, [{"id": one} for one in range(100, 0, -1)], "BTC_USDT"])
    assert subject.spoils(full) == "short"
    shortened = subject.shortened(full).params[1]
    assert shortened == full.params[1][: len(shortened)]
    assert 0 < len(shortened) < 5


def test_what_happens_to_the_next_lists_of_a_symbol_can_be_planned() -> None:
    subject = mishaps(clean_missing=1.0)
    subject.plan("depth", "BTC_USDT", "damaged", None, "empty")
    assert [subject.spoils(snapshot()) for _ in range(4)] == ["damaged", None, "empty", "missing"]
    assert subject.spoils(snapshot("trades")) == "missing"
