"""What present books give to the checks: each test fails if one of these wires is missing."""

import json
from decimal import Decimal

import pytest

from bridge.books import present as module
from bridge.books.doubts import Finding
from bridge.books.present import PresentBooks
from bridge.records import Record

KEY = b"A_USDT"
SECOND = 1_000_000  # µs
PATIENCE = 5
SOUND = Decimal(101), Decimal(100)


class World:
    """The present book of one market; times are in seconds."""

    def __init__(self, wanted: frozenset[bytes] | None = None) -> None:
        self.books = PresentBooks(wanted=wanted, levels=0, interval_us=0, patience_us=PATIENCE * SECOND)
        self.take("x", 0, at=0, snapshot=True)

    def take(
        self,
        session: str,
        seq: int,
        bid: str = "100",
        amount: str = "1",
        *,
        at: float,
        snapshot: bool = False,
    ) -> None:
        """Take a record that sets a bid beside the ask of 101, and make the record of book that is due."""
        us = round(at * SECOND)
        value = {"session": session, "seq": seq, "received_us": us, "snapshot": snapshot}
        value |= {"asks": [["101", "1"]], "bids": [[bid, amount]]}
        self.books.take([Record("depth", KEY, json.dumps(value).encode(), us)])
        self.books.made(list(self.books.due(us)), us)

    def ticker(self, ask: int, *, at: float, session: str = "x") -> None:
        us = round(at * SECOND)
        self.books.note_ticker(KEY, (Decimal(ask), Decimal(100)), us, {session: us})

    def found(self, *, at: float, session: str = "x") -> list[str]:
        """Look, and return what was found since the last call."""
        self.books.doubts.look({session: round(at * SECOND)})
        return [one.result for one in self.findings()]

    def findings(self) -> list[Finding]:
        return self.books.doubts.take_findings()

    @property
    def suspected(self) -> bool:
        return bool(list(self.books.doubts.suspects()))


def crossed() -> World:
    """Return a book that is suspected, because it has been crossed for long."""
    world = World()
    world.take("x", 1, "101", at=1)
    assert world.found(at=7) == ["crossed"]
    assert world.suspected
    return world


def test_a_book_that_nothing_changes_any_more_is_found_crossed() -> None:
    crossed()


def test_a_break_in_a_crossing_counts_however_short_it_is() -> None:
    world = World()
    world.take("x", 1, "101", at=1)
    world.take("x", 2, "101", "0", at=5)
    assert not world.found(at=9)
    world.take("x", 3, "101", at=9)
    assert not world.found(at=13)
    assert world.found(at=15) == ["crossed"]


def test_a_snapshot_within_a_session_ends_a_suspicion_and_shows_each_level_that_was_wrong() -> None:
    world = crossed()
    world.take("x", 2, at=8, snapshot=True)
    (finding,) = world.findings()
    assert [(one.side, one.price, one.kept, one.found) for one in finding.differing] == [
        ("bids", "101", "1", None)
    ]
    assert not world.suspected
    world.take("x", 3, at=9, snapshot=True)
    assert world.found(at=9) == ["equal"], "two snapshots in a row show the same"


@pytest.mark.parametrize("rotated", [True, False])
def test_the_snapshot_of_another_session_ends_a_suspicion(rotated: bool) -> None:
    """Of the session that replaces its own, or of the next one after its own has ended."""
    world = crossed()
    world.books.begin_rotation(["x"], 8 * SECOND)
    if rotated:
        world.books.replaced(["x"], "y", [KEY])
    else:
        world.books.end_rotation(["x"])
    world.take("y", 0, at=10, snapshot=True)
    assert not world.suspected
    assert world.found(at=10, session="y") == (["different"] if rotated else [])


def test_a_snapshot_behind_a_missing_record_proves_nothing() -> None:
    world = World()
    world.take("x", 2, "99", at=1)
    world.take("x", 3, "98", at=2, snapshot=True)
    assert not world.found(at=2)


def test_a_suspicion_ends_when_a_record_is_missing_because_the_book_is_given_up() -> None:
    world = crossed()
    world.take("x", 3, at=8)
    assert not world.suspected
    assert world.books.missing == {KEY: "x"}


def test_a_suspicion_ends_when_the_market_is_forgotten() -> None:
    world = crossed()
    world.books.forget(KEY)
    assert not world.suspected


def test_a_new_session_proves_each_state_of_the_overlap_right() -> None:
    world = World()
    world.books.begin_rotation(["x"], 1 * SECOND)
    world.take("x", 1, "99", at=2)
    world.take("x", 2, "98", at=3)
    world.books.replaced(["x"], "y", [KEY])
    # As it was after the change of 2 s.
    value = {"session": "y", "seq": 0, "received_us": 4 * SECOND, "snapshot": True}
    value |= {"asks": [["101", "1"]], "bids": [["99", "1"], ["100", "1"]]}
    world.books.take([Record("depth", KEY, json.dumps(value).encode(), 0)])
    assert [one.result for one in world.findings()] == ["equal"]


def test_a_new_session_proves_nothing_of_a_book_that_was_given_up() -> None:
    world = World()
    world.books.begin_rotation(["x"], 1 * SECOND)
    world.take("x", 2, at=2)
    world.books.replaced(["x"], "y", [KEY])
    world.take("y", 0, at=4, snapshot=True)
    assert not world.findings()


def test_states_from_before_a_missing_record_are_no_states_of_the_book_behind_it() -> None:
    world = World()
    world.books.begin_rotation(["x"], 1 * SECOND)
    world.take("x", 1, "99", at=2)
    world.take("x", 3, "98", at=3)
    world.take("x", 4, "97", at=4, snapshot=True)
    world.books.replaced(["x"], "y", [KEY])
    world.take("y", 0, "97", at=5, snapshot=True)
    assert [one.result for one in world.findings()] == ["equal"]


def test_a_rotation_is_over_with_the_last_book_that_is_wanted() -> None:
    world = World(wanted=frozenset({KEY}))
    world.books.begin_rotation(["x"], 1 * SECOND)
    world.books.replaced(["x"], "y", [KEY, b"B_USDT"])
    world.take("y", 0, at=2, snapshot=True)
    assert not world.books._rotations.since


def test_a_book_that_is_repeated_is_not_compared_with_tickers() -> None:
    """It is ahead of what Kafka has."""
    world = World()
    world.take("x", 1, at=1)
    world.take("x", 0, at=0, snapshot=True)
    world.ticker(105, at=2)
    assert not world.books.doubts.by_key
    world.take("x", 1, at=1)
    world.ticker(105, at=3)
    assert world.books.doubts.by_key


def test_a_book_of_a_session_that_is_not_in_use_is_not_compared_with_tickers() -> None:
    world = World()
    world.ticker(105, at=2, session="y")
    assert not world.books.doubts.by_key


def test_a_best_price_that_came_and_went_between_two_tickers_agrees_with_both() -> None:
    """The ticker comes early, and is the last one for a while."""
    world = World()
    world.ticker(105, at=1)
    for seq, (ask, amount) in enumerate([("101", "0"), ("105", "1"), ("105", "0"), ("102", "1")], start=1):
        value = {"session": "x", "seq": seq, "received_us": seq * SECOND, "snapshot": False}
        value |= {"asks": [[ask, amount]], "bids": []}
        world.books.take([Record("depth", KEY, json.dumps(value).encode(), 0)])
    world.ticker(105, at=10)
    world.ticker(105, at=32)
    assert not world.found(at=32)


def test_a_book_with_too_many_levels_is_not_requested(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its next snapshot would have as many."""
    monkeypatch.setattr(module, "MOST_LEVELS", 1)
    world = World()
    world.take("x", 1, "99", at=1)
    world.take("x", 2, "99", "0", at=2)
    assert not world.books.missing


def test_removals_of_absent_levels_are_counted_across_snapshots() -> None:
    world = World()
    world.take("x", 1, "90", "0", at=1)
    world.take("x", 2, at=2, snapshot=True)
    world.take("x", 3, "91", "0.000", at=3)
    assert world.books._kept[KEY].book.absent == 2
