"""The state of a shard: what is forgotten of old markets, and when."""

import pytest

from bridge.config import KafkaConfig
from bridge.kafka.state import ShardState, Unsaved
from bridge.kafka.topics import Topic
from bridge.ledger import Watermark
from bridge.records import BOOK, STATE, Open, Record

DAY_US = 86_400_000_000
NOW_US = 1_600_000_000_000_000
NOTHING = Unsaved(None, None)
KEPT = {b"NEW_USDT", b"QUIET_USDT"}


def state_of(**ages: int) -> ShardState:
    """Return a state with the last trade of each symbol so many days old."""
    state = ShardState(KafkaConfig(), Topic(STATE, 1, 1_000_000), 0, "replica")
    for name, days in ages.items():
        state.watermarks[f"{name.upper()}_USDT".encode()] = Watermark([1], [NOW_US - days * DAY_US])
    return state


def saved(state: ShardState, *records: Record) -> dict[bytes, bytes | None]:
    """Save it with these records, and return the values by symbol."""
    save = state.save(records, NOTHING)
    state.saved(save)
    return {key[7:]: value for key, value in save.values.items() if key.startswith(b"trades/")}


def trade(symbol: bytes) -> Record:
    return Record("trades", symbol, b"{}", NOW_US, (2, NOW_US, 0, Open()))


def test_a_market_that_is_gone_and_silent_is_forgotten_by_a_tombstone_once() -> None:
    state = state_of(gone=31, new=29, quiet=400)
    assert state.forget_old({"QUIET_USDT"}, NOW_US - 30 * DAY_US) == 1
    assert state.unsaved
    assert saved(state) == {b"GONE_USDT": None}
    assert state.watermarks.keys() == KEPT
    assert saved(state) == {}
    assert not state.unsaved


def test_a_tombstone_that_is_not_saved_yet_is_kept_for_the_next_save() -> None:
    state = state_of(gone=31)
    state.forget_old((), NOW_US - 30 * DAY_US)
    state.save((), NOTHING)  # and its transaction is aborted
    assert saved(state) == {b"GONE_USDT": None}


def test_a_market_that_is_traded_again_before_its_tombstone_is_not_forgotten() -> None:
    state = state_of(gone=31)
    state.forget_old((), NOW_US - 30 * DAY_US)
    values = saved(state, trade(b"GONE_USDT"))
    assert values[b"GONE_USDT"]
    assert saved(state) == {}
    assert state.watermarks[b"GONE_USDT"].ids == [1, 2]


def test_a_trade_that_is_acknowledged_while_the_tombstone_is_saved_stays() -> None:
    state = state_of(gone=31)
    state.forget_old((), NOW_US - 30 * DAY_US)
    save = state.save((), NOTHING)
    state.acknowledged([trade(b"GONE_USDT")])
    state.saved(save)
    assert state.watermarks[b"GONE_USDT"].ids == [1, 2]
    assert saved(state)[b"GONE_USDT"]


@pytest.mark.parametrize("number", [1, 1000])
def test_a_market_that_comes_back_after_it_was_forgotten_begins_anew(number: int) -> None:
    state = state_of(**{f"gone{n}": 31 for n in range(number)})
    assert state.forget_old((), NOW_US - 30 * DAY_US) == number
    saved(state)
    assert not state.watermarks
    assert saved(state, trade(b"GONE0_USDT"))[b"GONE0_USDT"]
    assert state.watermarks[b"GONE0_USDT"].ids == [2]


def test_what_is_written_anew_goes_back_behind_no_trade_of_the_same_save() -> None:
    state = state_of(busy=1, quiet=1)
    state.write_anew()
    first = saved(state, trade(b"BUSY_USDT"))
    assert first.keys() == {b"BUSY_USDT", b"QUIET_USDT"}
    assert b'"ids":[1,2]' in (first[b"BUSY_USDT"] or b"")
    assert saved(state) == {}


def test_a_commit_that_had_succeeded_is_part_of_what_is_written_anew() -> None:
    """Its save went to the bridge-state that is lost."""
    state = state_of(busy=1, quiet=1)
    commit = state.save([trade(b"BUSY_USDT")], NOTHING)
    state.write_anew()
    state.saved(commit)
    state.write_anew()
    assert b'"ids":[1,2]' in (saved(state)[b"BUSY_USDT"] or b"")


def test_a_tombstone_outlives_that_all_is_written_anew() -> None:
    state = state_of(gone=31, new=1)
    state.forget_old((), NOW_US - 30 * DAY_US)
    state.write_anew()
    values = saved(state)
    assert values[b"GONE_USDT"] is None
    assert values[b"NEW_USDT"]


def book(symbol: bytes, value: bytes = b"{}") -> Record:
    return Record(BOOK, symbol, value, NOW_US)


def saved_books(state: ShardState, *records: Record) -> dict[bytes, bytes | None]:
    """Save that these records of book are sent, and return the values of books by symbol."""
    state.note_books(records)
    save = state.save((), NOTHING)
    state.saved(save)
    return {key[5:]: value for key, value in save.values.items() if key.startswith(b"book/")}


def test_which_symbols_have_a_book_is_saved_once_each_and_again_with_its_tombstone() -> None:
    state = state_of()
    assert saved_books(state, book(b"A_USDT"), book(b"B_USDT")) == {b"A_USDT": b"{}", b"B_USDT": b"{}"}
    assert state.books == {b"A_USDT", b"B_USDT"}
    assert saved_books(state, book(b"A_USDT")) == {}
    assert saved_books(state, book(b"A_USDT", b"")) == {b"A_USDT": None}
    assert state.books == {b"B_USDT"}
    assert saved_books(state, book(b"B_USDT", b""), book(b"B_USDT")) == {b"B_USDT": b"{}"}
    assert state.books == {b"B_USDT"}


def test_books_that_bridge_state_has_lost_are_written_anew() -> None:
    state = state_of()
    saved_books(state, book(b"A_USDT"))
    state.write_anew()
    assert saved_books(state, book(b"A_USDT")) == {b"A_USDT": b"{}"}
