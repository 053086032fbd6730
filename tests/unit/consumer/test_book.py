"""Book: at every record it equals the book of the market, or says that it is not complete."""

import json
import random
from decimal import Decimal
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.channels import CHANNELS
from bridge.consumer import Book, BookRecord, Depth, Level, decode
from bridge.simulator.market import Market, Update, amount_text, price_text
from tests.support.pushes import RECEIVED_US, push, source

SYMBOL = "ETH_USDT"
Sides = tuple[dict[Decimal, Decimal], dict[Decimal, Decimal]]


def record(value: bytes) -> Depth:
    decoded = decode("digifinex.depth.v1", value)
    assert isinstance(decoded, Depth)
    return decoded


class World:
    """A market, and the records that sessions of the bridge make of it, each with the book after it."""

    def __init__(self, seed: int) -> None:
        self.market = Market(SYMBOL, random.Random(seed))
        self.made: list[tuple[Depth, Sides]] = []
        self.values: list[dict[str, Any]] = []  # the same records as JSON
        self._normalise = CHANNELS["depth"].normaliser({}).push
        self._source = source("s0")
        self._sessions = 0

    def happens(self, what: str) -> None:
        """Let a session begin, the exchange send a snapshot, or the market change."""
        if what == "session":
            self._sessions += 1
            self._source = source(f"s{self._sessions}")
        if what in ("session", "snapshot"):
            self._push(self.market.snapshot())
        elif what == "quote":
            self._push(*self.market.quote_change())
        else:
            self._push(*self.market.trade(1.0))

    def _push(self, *updates: Update) -> None:
        for update in updates:
            if update.channel == "depth":
                params = push("depth", update.params).params
                (one,) = self._normalise(params, self._source, RECEIVED_US).records
                self.values.append(json.loads(one.value))
                self.made.append((record(one.value), self._truth()))

    def _truth(self) -> Sides:
        asks, bids = (
            {Decimal(price_text(price)): Decimal(amount_text(lots)) for price, lots in side.items()}
            for side in (self.market.asks, self.market.bids)
        )
        return asks, bids


happenings = st.lists(st.sampled_from(["quote", "quote", "trade", "snapshot", "session"]), max_size=25)


def world(seed: int, happened: list[str]) -> World:
    made = World(seed)
    for what in ["session", *happened]:
        made.happens(what)
    return made


@given(st.integers(0, 1000), happenings)
def test_a_book_equals_the_markets_after_every_record(seed: int, happened: list[str]) -> None:
    book = Book()
    for one, truth in world(seed, happened).made:
        assert book.apply(one)
        assert (book.asks, book.bids) == truth
        assert book.best_ask == Level(min(truth[0]), truth[0][min(truth[0])])
        assert book.best_bid == Level(max(truth[1]), truth[1][max(truth[1])])


@given(st.integers(0, 1000), happenings, st.data())
def test_a_book_is_complete_only_if_it_is_right(seed: int, happened: list[str], data: st.DataObject) -> None:
    """Whatever is lost, and wherever reading begins. From a snapshot to the next loss it is complete."""
    made = world(seed, happened).made
    lost = data.draw(st.sets(st.integers(0, len(made) - 1)))
    book, whole, last = Book(), False, -1
    for number, (one, truth) in enumerate(made):
        if number in lost:
            continue
        whole = one.snapshot or (whole and last == number - 1)
        last = number
        assert book.apply(one) is book.complete is whole
        if whole:
            assert (book.asks, book.bids) == truth


@settings(max_examples=50)
@given(st.integers(0, 1000), happenings, st.data())
def test_records_that_are_read_again_change_nothing(
    seed: int, happened: list[str], data: st.DataObject
) -> None:
    made = world(seed, happened).made
    book = Book()
    for number, (one, truth) in enumerate(made):
        book.apply(one)
        back = data.draw(st.integers(0, number + 1))
        for again, _ in made[number + 1 - back : number + 1]:
            assert book.apply(again)
            assert (book.asks, book.bids) == truth


def change(
    seq: int, asks: Any, *, snapshot: bool = False, session: str = "s1", received_us: int = 1
) -> Depth:
    value = {"schema": "digifinex.depth.v1", "session": session, "seq": seq, "received_us": received_us}
    value |= {"symbol": SYMBOL, "snapshot": snapshot, "asks": asks, "bids": []}
    return record(json.dumps(value).encode())


def test_prices_are_compared_by_value() -> None:
    book = Book()
    book.apply(change(0, [["1.0", "5"], ["20", "1"]], snapshot=True))
    book.apply(change(1, [["1.00", "6"], ["2e1", "0.000"]]))
    assert book.asks == {Decimal(1): Decimal(6)}


def whole(depth_seq: int, asks: Any, *, session: str = "s1", received_us: int = 1) -> BookRecord:
    value = {"schema": "digifinex.book.v1", "session": session, "seq": 0, "symbol": SYMBOL}
    value |= {"received_us": received_us}
    value |= {"depth_session": session, "depth_seq": depth_seq, "asks": asks, "bids": []}
    value |= {"crossed": False, "truncated": False}
    decoded = decode("digifinex.book.v1", json.dumps(value).encode())
    assert isinstance(decoded, BookRecord)
    return decoded


def test_a_book_waits_for_changes_that_a_record_of_book_does_not_contain() -> None:
    book = Book()
    assert not book.apply(change(6, [["1", "6"]]))
    assert not book.apply(whole(4, [["1", "4"]]))
    assert not book.apply(change(7, [["1", "7"]]))
    assert book.apply(whole(5, [["1", "5"], ["2", "5"]]))
    assert book.asks == {Decimal(1): Decimal(7), Decimal(2): Decimal(5)}
    assert (book.session, book.seq) == ("s1", 7)


def test_a_record_of_book_of_another_session_than_the_changes_is_not_joined() -> None:
    """It may be older than these, whatever its number is."""
    book = Book()
    assert not book.apply(change(3, [["1", "3"]], session="s2"))
    assert not book.apply(whole(5, [["1", "5"]]))
    assert not book.asks
    assert book.apply(whole(3, [["1", "3"]], session="s2"))


def test_a_record_of_book_that_is_ahead_is_waited_for_by_the_changes_it_contains() -> None:
    book = Book()
    assert book.apply(whole(5, [["1", "5"]]))
    assert not book.apply(change(2, [["1", "0"]], session="s0", received_us=2))
    for seq in (3, 4, 5):
        assert book.apply(change(seq, [["1", str(seq)]], snapshot=seq == 4))
        assert book.asks == {Decimal(1): Decimal(5)}
    assert book.apply(change(6, [["1", "6"]]))
    assert book.asks == {Decimal(1): Decimal(6)}


def test_a_missing_record_is_made_good_by_a_record_of_book_that_contains_it() -> None:
    book = Book()
    book.apply(change(0, [["1", "1"]], snapshot=True))
    assert book.apply(whole(3, [["1", "3"]]))
    assert book.seq == 0
    assert book.apply(change(2, [["1", "2"]]))
    assert (book.seq, book.asks) == (3, {Decimal(1): Decimal(3)})


def test_a_book_without_levels_has_no_best_price() -> None:
    book = Book()
    assert book.apply(change(0, [], snapshot=True))
    assert (book.best_ask, book.best_bid) == (None, None)


def test_a_session_that_does_not_begin_with_a_snapshot_leaves_the_book_incomplete() -> None:
    book = Book()
    book.apply(change(0, [["1", "5"]], snapshot=True))
    assert not book.apply(change(0, [["1", "6"]], session="s2"))
    assert not book.apply(change(1, [["1", "7"]], session="s2"))
    assert book.asks == {Decimal(1): Decimal(5)}
    assert book.apply(change(2, [["1", "8"]], session="s2", snapshot=True))
    assert book.asks == {Decimal(1): Decimal(8)}


def test_a_cleared_book_is_complete_again_with_the_next_record_of_book() -> None:
    """What its levels contained before counts no more, and none of it comes back."""
    book = Book()
    assert book.apply(whole(5, [["1", "5"]]))
    book.clear()
    assert not book.complete
    assert (book.asks, book.best_ask) == ({}, None)
    assert not book.apply(change(5, [["1", "6"]]))
    assert not book.apply(change(6, [["1", "6"]]))
    assert not book.asks
    assert book.apply(whole(6, [["2", "1"]]))
    assert book.asks == {Decimal(2): Decimal(1)}


def test_a_cleared_book_is_complete_again_with_the_next_snapshot() -> None:
    book = Book()
    assert book.apply(change(0, [["1", "5"]], snapshot=True))
    book.clear()
    assert not book.apply(change(1, [["1", "6"]]))
    assert book.apply(change(2, [["2", "1"]], snapshot=True))
    assert book.asks == {Decimal(2): Decimal(1)}


def test_a_book_does_not_go_back_in_time_when_depth_is_read_from_its_beginning() -> None:
    book = Book()
    assert book.apply(whole(4, [["1", "4"]], session="s9", received_us=900))
    for session, seq, us in [("s1", 0, 100), ("s1", 1, 101), ("s2", 0, 200), ("s9", 0, 896), ("s9", 4, 900)]:
        assert book.apply(change(seq, [["1", "1"]], snapshot=not seq, session=session, received_us=us))
        assert (book.session, book.seq, book.asks) == ("s9", 4, {Decimal(1): Decimal(4)})
    assert book.apply(change(5, [["1", "5"]], session="s9", received_us=901))
    assert book.asks == {Decimal(1): Decimal(5)}
    assert book.apply(change(0, [["1", "6"]], snapshot=True, session="s10", received_us=899))
    assert book.asks == {Decimal(1): Decimal(6)}


def test_of_two_sessions_at_the_same_time_the_earlier_one_is_skipped() -> None:
    """At a rotation, the new session's first records have the time of the old one's last."""
    book = Book()
    assert book.apply(whole(1, [["1", "7"]], session="s10", received_us=900))
    assert book.apply(change(8, [["1", "4"]], session="s9", received_us=900))
    assert (book.session, book.asks) == ("s10", {Decimal(1): Decimal(7)})
    assert book.apply(change(0, [["1", "6"]], snapshot=True, session="s10", received_us=900))
    assert book.apply(change(1, [["1", "7"]], session="s10", received_us=900))
    assert book.apply(change(2, [["1", "8"]], session="s10", received_us=901))
    assert book.asks == {Decimal(1): Decimal(8)}


def test_of_two_sessions_at_the_same_time_the_later_one_is_followed() -> None:
    book = Book()
    assert book.apply(whole(8, [["1", "4"]], session="s9", received_us=900))
    assert book.apply(change(8, [["1", "4"]], session="s9", received_us=900))
    assert book.apply(change(0, [["1", "6"]], snapshot=True, session="s10", received_us=900))
    assert book.apply(change(1, [["1", "7"]], session="s10", received_us=900))
    assert (book.session, book.asks) == ("s10", {Decimal(1): Decimal(7)})


def test_a_newer_record_of_book_is_joined_while_earlier_sessions_are_skipped() -> None:
    book = Book()
    assert book.apply(whole(4, [["1", "4"]], session="s9", received_us=900))
    assert book.apply(change(0, [["1", "1"]], snapshot=True, received_us=100))
    assert book.apply(whole(7, [["1", "7"]], session="s9", received_us=903))
    assert (book.seq, book.asks) == (7, {Decimal(1): Decimal(7)})


def test_a_later_session_replaces_a_book_whose_own_session_was_not_read() -> None:
    book = Book()
    assert book.apply(whole(4, [["1", "4"]], session="s9", received_us=900))
    assert book.apply(change(0, [["1", "1"]], snapshot=True, session="s10", received_us=1_000))
    assert book.asks == {Decimal(1): Decimal(1)}
