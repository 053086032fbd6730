"""Which markets all_ticker lists, which of them are gone, and which move."""

import math
from typing import Any

import msgspec
import pytest

from bridge.channels.markets import Markets
from bridge.records import Record


def ticker(symbol: str, **figures: object) -> Record:
    """Return a record of all_ticker; figures that are not given are not known."""
    return Record("all_ticker", symbol.encode(), msgspec.json.encode({"symbol": symbol, **figures}), 0)


class Scene:
    """Markets that hear of all_ticker once a second, or at times of the test."""

    def __init__(self, most: int = 100) -> None:
        self.markets = Markets(most)
        self.now = 1000.0

    def push(
        self, *symbols: str, session: str = "one", after: float = 1.0, watched: bool = True, **figures: Any
    ) -> list[str]:
        """Let a push name these symbols, which are all watched or not; return those that are new."""
        self.now += after
        records = [ticker(one, **figures) for one in symbols]
        known, new = self.markets.take(records, session, self.now, symbols if watched else ())
        assert {*known, *new} <= {*symbols}
        return new

    def hear(self, seconds: int, *symbols: str) -> None:
        for _ in range(seconds):
            self.push(*symbols)

    def gone(self, *symbols: str) -> list[str]:
        return [one for one in symbols if self.markets.is_gone(one)]


def test_a_market_is_new_when_it_is_named_for_the_first_time() -> None:
    scene = Scene()
    assert scene.push("A", "B") == ["A", "B"]
    assert scene.push("B", "C") == ["C"]
    assert scene.push("A", "C") == []


def test_no_more_markets_are_known_than_may_be() -> None:
    scene = Scene(most=2)
    assert scene.push("B") == ["B"]
    assert not scene.markets.left_out
    assert scene.push("B", "D", "C") == ["C"]
    assert (len(scene.markets), scene.markets.left_out) == (2, True)
    assert scene.gone("D") == []


def test_a_market_is_gone_that_is_not_in_the_list_of_all_after_a_fresh_subscribe() -> None:
    scene = Scene()
    scene.push("A", "B", "C", "D")
    scene.push("A", "B", session="two")
    assert scene.gone("A", "B", "C", "D") == ["C", "D"]
    scene.push("C", session="two")
    assert scene.gone("A", "B", "C", "D") == ["D"]


def test_a_market_that_does_not_move_is_not_gone() -> None:
    scene = Scene()
    scene.push("A", "B", "C", "D")
    scene.hear(3000, "A", "B", "C")
    assert scene.gone("D") == []


def test_what_an_exchange_pushes_that_never_lists_all_is_no_list() -> None:
    scene = Scene()
    scene.hear(10, *"ABCDEFGHIJ")
    for session in ("two", "three"):
        scene.push("A", "B", session=session)
    assert scene.gone(*"ABCDEFGHIJ") == []


def test_new_markets_make_no_list_of_all() -> None:
    scene = Scene()
    scene.push("A", "B")
    scene.push("C", "D", "E", session="two")
    assert scene.gone("A", "B") == []


def test_without_a_list_a_market_is_gone_that_was_not_named_for_an_hour_of_listening() -> None:
    scene = Scene()
    scene.push("A", "B", "C", "D")
    scene.hear(3599, "A")
    assert scene.gone("A", "B") == []
    scene.hear(1, "A")
    assert scene.gone("A", "B") == ["B"]


def test_a_market_that_an_earlier_process_knew_is_gone_after_an_hour_of_listening() -> None:
    scene = Scene()
    scene.markets.expect("BC")
    scene.push("A", "B")
    scene.hear(3599, "A", "B")
    assert scene.gone("A", "B", "C") == []
    scene.hear(1, "A", "B")
    assert scene.gone("A", "B", "C") == ["C"]
    assert scene.push("C") == ["C"]
    assert scene.gone("A", "B", "C") == []


def test_no_list_shows_that_a_market_of_an_earlier_process_is_gone() -> None:
    """Nothing says how many markets there are: all that move may be named each time."""
    scene = Scene()
    scene.markets.expect(["QUIET", "MOVING"])
    for session in ("one", "two", "three"):
        scene.push("MOVING", "A", session=session)
        scene.hear(600, "MOVING", "A")
    assert scene.gone("QUIET") == []
    assert scene.push("QUIET") == ["QUIET"]


def test_few_pushes_over_a_long_time_are_no_hour_of_listening() -> None:
    scene = Scene()
    scene.markets.expect(["QUIET"])
    for _ in range(59):
        scene.push("A", after=10_000.0)
    assert scene.gone("QUIET") == []


def test_a_market_of_an_earlier_process_that_is_named_but_has_no_room_is_not_gone() -> None:
    scene = Scene(most=1)
    scene.markets.expect(["B"])
    scene.hear(5000, "A", "B")
    assert scene.gone("B") == []
    scene.hear(3600, "A")
    assert scene.gone("B") == ["B"]


def test_a_time_in_which_all_ticker_is_not_heard_does_not_count() -> None:
    scene = Scene()
    scene.push("A", "B", "C", "D")
    scene.push("A", after=100_000.0)
    assert scene.gone("A", "B") == []


def test_a_market_that_was_never_named_is_not_gone() -> None:
    assert Scene().gone("A") == []


@pytest.mark.parametrize(
    ("before", "after", "trade", "quote"),
    [
        ({"last": "1.0"}, {"last": "1.1"}, True, False),
        ({"last_qty": "1.0"}, {"last_qty": "1.1"}, True, False),
        ({"base_volume_24h": "9.5"}, {"base_volume_24h": "10.5"}, True, False),
        ({"base_volume_24h": "10.5"}, {"base_volume_24h": "9.5"}, False, False),
        ({"best_bid": "1.0"}, {"best_bid": "1.1"}, False, True),
        ({"best_ask_size": "1.0"}, {"best_ask_size": "1.1"}, False, True),
        ({"last": "1.0", "best_bid": "1"}, {"last": "1.0", "best_bid": "1"}, False, False),
        ({"last": "1.0"}, {}, False, False),
        ({}, {"last": "1.0", "best_bid": "1.0", "base_volume_24h": "1.0"}, False, False),
        ({"last": None}, {"last": "1.0"}, False, False),
        ({"high_24h": "1.0", "time_us": 1}, {"high_24h": "1.1", "time_us": 2}, False, False),
    ],
)
def test_a_market_moves_when_a_figure_shows_a_trade_or_another_best_price(
    before: dict[str, Any], after: dict[str, Any], trade: bool, quote: bool
) -> None:
    scene = Scene()
    scene.push("A", **before)
    scene.push("A", **after)
    assert (scene.markets.moved_at("trades", "A") == scene.now) is trade
    for channel in ("depth", "ticker"):
        assert (scene.markets.moved_at(channel, "A") == scene.now) is (trade or quote)
    assert scene.markets.moved_at("trades", "NONE") == -math.inf


def test_markets_that_are_not_watched_are_known_and_not_looked_at_closely() -> None:
    scene = Scene()
    for last in ("1", "2"):
        scene.push("A", watched=False, last=last)
    assert scene.markets.moved_at("trades", "A") == -math.inf
    scene.push("A", last="3")
    assert scene.markets.moved_at("trades", "A") == -math.inf  # there is nothing to compare it with
    scene.push("A", last="4")
    assert scene.markets.moved_at("trades", "A") == scene.now


def test_a_market_moves_when_its_own_trades_come() -> None:
    """Whether all_ticker names it or not."""
    scene = Scene()
    scene.push("A", last="1")
    for symbol in ("A", "B"):
        scene.markets.note_trade(symbol, 2000.0)
        for channel in ("trades", "depth", "ticker"):
            assert scene.markets.moved_at(channel, symbol) == 2000.0


def test_a_market_moves_when_its_own_ticker_shows_it() -> None:
    scene = Scene()
    for now, figures in (
        (1.0, {"last": "1", "best_bid": "1"}),
        (2.0, {"last": "1", "best_bid": "2"}),
        (3.0, {"last": "2", "best_bid": "2"}),
    ):
        scene.markets.note_ticker("A", ticker("A", **figures).value, now)
    assert scene.markets.moved_at("trades", "A") == 3.0
    scene.markets.note_ticker("A", ticker("A", last="2", best_bid="3").value, 4.0)
    assert scene.markets.moved_at("trades", "A") == 3.0
    assert scene.markets.moved_at("depth", "A") == 4.0


def test_a_first_ticker_shows_no_movement() -> None:
    scene = Scene()
    scene.markets.note_ticker("A", ticker("A", last="1", best_bid="1").value, 1.0)
    assert scene.markets.moved_at("ticker", "A") == -math.inf


def test_two_channels_that_lag_behind_each_other_show_no_movement() -> None:
    """Each is compared with what itself has shown before."""
    scene = Scene()
    scene.push("A", last="1", best_bid="1")
    scene.markets.note_ticker("A", ticker("A", last="2", best_bid="2").value, 1.0)
    scene.push("A", last="1", best_bid="1")
    assert scene.markets.moved_at("ticker", "A") == -math.inf


def test_a_market_that_was_forgotten_is_new_when_it_is_named_again() -> None:
    scene = Scene(most=4)
    scene.markets.expect("C")
    scene.push("A", "B", "C")
    scene.push("A", "B", session="two")
    assert scene.markets.gone() == []  # there is room
    scene.push("D", session="two")
    assert scene.markets.gone() == ["C"]
    scene.markets.forget("C")
    assert (scene.gone("C"), len(scene.markets)) == ([], 3)
    scene.hear(3600, "A", "B", "D")
    assert scene.gone("C") == []
    assert scene.push("C") == ["C"]
