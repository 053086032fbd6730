"""Subscriptions that bring no change although their market moves."""

import pytest

from bridge.exchange.unheard import Subscription, Traded, Unheard

PATIENCE, MARGIN = 120.0, 10.0
TRADES, DEPTH, TICKER = ("trades", "A"), ("depth", "A"), ("ticker", "A")


class Scene:
    """Time passes in steps of a second, in which things happen."""

    def __init__(self, one: Subscription = TRADES) -> None:
        self.unheard = Unheard()
        self.one = one
        self.subscribed = [one]
        self.now = 0.0
        self.moved = -1.0
        self.records = 0
        self.lists = 0
        self.silent: list[float] = []  # when it became silent
        self.begun: list[float] = []  # when a change was pushed after all
        self.wait(1)

    def wait(self, seconds: int, *, moves: bool = False, pushes: bool = False, lists: bool = False) -> None:
        """Let time pass, and these things happen in each second of it."""
        for _ in range(seconds):
            self.now += 1
            self.records += pushes + lists
            self.lists += lists
            self.moved = self.now if moves else self.moved
            if self.unheard.look(self.subscribed, self._moved_at, self._counts, self.now):
                self.begun.append(self.now)
            if self.unheard.take_silent(self._moved_at, PATIENCE, MARGIN, self.now):
                self.silent.append(self.now)

    def _moved_at(self, channel: str, symbol: str) -> float:
        assert (channel, symbol) == self.one
        return self.moved

    def _counts(self, channel: str, symbol: str) -> tuple[int, int]:
        return self.records, self.lists


@pytest.mark.parametrize("one", [TRADES, DEPTH])
def test_what_brings_nothing_while_its_market_moves_is_silent_after_some_time(one: Subscription) -> None:
    scene = Scene(one)
    scene.wait(int(PATIENCE), moves=True)
    assert scene.silent == []
    scene.wait(500, moves=True)
    assert scene.silent == [2 + PATIENCE]
    assert scene.unheard.silent == {one}


def test_a_ticker_has_five_times_as_long() -> None:
    scene = Scene(TICKER)
    scene.wait(1000, moves=True)
    assert scene.silent == [2 + 5 * PATIENCE]


def test_what_brings_changes_is_never_silent() -> None:
    scene = Scene()
    for _ in range(20):
        scene.wait(100, moves=True)
        scene.wait(1, pushes=True)
    assert scene.silent == []


def test_a_quiet_market_is_never_silent() -> None:
    scene = Scene()
    scene.wait(1, moves=True)
    scene.wait(100_000)
    assert scene.silent == []


def test_the_push_of_the_first_move_may_have_come_before_it() -> None:
    """A trade an hour: all_ticker shows each a moment after its push."""
    scene = Scene()
    for _ in range(5):
        scene.wait(1, pushes=True)
        scene.wait(2, moves=True)
        scene.wait(3600)
    assert scene.silent == []


def test_a_rare_trade_without_a_push_is_noticed_at_the_next_one() -> None:
    scene = Scene()
    scene.wait(1, moves=True)
    scene.wait(3600)
    scene.wait(1, moves=True)
    second = scene.now
    scene.wait(100)
    assert scene.silent == [second + MARGIN]


def test_lists_are_no_changes() -> None:
    scene = Scene()
    for _ in range(30):
        scene.wait(1, lists=True)
        scene.wait(9, moves=True)
    assert len(scene.silent) == 1
    assert scene.begun == []
    scene.wait(1, pushes=True)
    assert scene.begun == [scene.now]
    assert scene.unheard.silent == set()


def test_silence_can_come_again() -> None:
    scene = Scene()
    scene.wait(200, moves=True)
    scene.wait(10, moves=True, pushes=True)
    scene.wait(200, moves=True)
    assert len(scene.silent) == 2


def test_a_time_without_reading_starts_it_over_for_what_is_not_silent_yet() -> None:
    scene = Scene()
    scene.wait(100, moves=True)
    scene.unheard.restart()
    scene.wait(120, moves=True)
    assert scene.silent == []
    scene.wait(10, moves=True)
    assert len(scene.silent) == 1
    scene.unheard.restart()
    scene.wait(500, moves=True)
    assert len(scene.silent) == 1
    assert scene.unheard.silent == {TRADES}


def test_a_movement_that_is_read_together_with_what_had_piled_up_shows_nothing() -> None:
    """Its push may lie behind it, still unread."""
    scene = Scene()
    scene.unheard.restart()
    scene.wait(1, moves=True)
    scene.wait(200)
    scene.wait(1, moves=True)
    scene.wait(100)
    assert scene.silent == []


def test_what_is_forgotten_is_not_silent() -> None:
    scene = Scene()
    scene.wait(200, moves=True)
    scene.unheard.forget(TRADES)
    assert scene.unheard.silent == set()


def test_what_is_forgotten_does_not_become_silent() -> None:
    scene = Scene()
    scene.wait(100, moves=True)
    scene.unheard.forget(TRADES)
    scene.subscribed.clear()
    scene.wait(200, moves=True)
    assert scene.silent == []


@pytest.mark.parametrize(
    ("before", "after", "traded"),
    [
        ((3, 1), (5, 1), True),
        ((0, 0), (1, 0), True),
        ((3, 1), (3, 1), False),
        ((3, 1), (103, 2), False),  # a list: which of them were pushed by themselves?
        ((3, 1), (3, 2), False),
        ((3, 1), (5, 0), False),  # something was lost
    ],
)
def test_a_market_is_traded_when_trades_come_other_than_those_of_a_list(
    before: tuple[int, int], after: tuple[int, int], traded: bool
) -> None:
    looks = Traded()
    assert not looks.look("A", before)
    assert looks.look("A", after) is traded
    assert not looks.look("A", after)


def test_what_came_before_the_first_look_shows_nothing() -> None:
    looks = Traded()
    assert not looks.look("A", (100, 1))
    looks.forget("A")
    assert not looks.look("A", (200, 1))
