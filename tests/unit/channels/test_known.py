"""What is known of trades: each is on Kafka once or inside a reported gap, whatever the exchange does."""

import random
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.channels.channel import Outcome, Source
from bridge.channels.lists import in_line
from bridge.channels.trades import Trades
from bridge.ledger import Gap, Watermark, advanced
from bridge.records import EVENTS, Record
from tests.support.trade_world import PATIENCE_US, World

SYMBOL = "BTC_USDT"
FIRST = 1000
NOW_US = 1_600_000_000_000_000


@settings(deadline=None, max_examples=300)
@given(
    seed=st.integers(0, 2**32),
    steps=st.integers(1, 80),
    whole_seconds=st.booleans(),
    keeps_history=st.booleans(),
    overtaking=st.booleans(),
)
def test_every_trade_is_on_kafka_once_or_inside_a_reported_gap(
    seed: int, steps: int, whole_seconds: bool, keeps_history: bool, overtaking: bool
) -> None:
    """Whatever happens to trades, sessions, lists, ids and the bridge."""
    world = World(
        random.Random(seed), whole_seconds=whole_seconds, keeps_history=keeps_history, overtaking=overtaking
    )
    for _ in range(steps):
        world.step()
    world.finish()
    assert world.violations() == []


@given(st.lists(st.integers(0, 50), max_size=20))
def test_what_is_in_line_rises_and_nothing_longer_does(ids: list[int]) -> None:
    places = in_line(ids)
    found = [ids[place] for place in places]
    assert places == sorted(places)
    assert all(one < other for one, other in pairwise(found))
    # Of all series that rise, by the plain method.
    longest = [0] * len(ids)
    for place, one in enumerate(ids):
        longest[place] = 1 + max((longest[n] for n in range(place) if ids[n] < one), default=0)
    assert len(found) == max(longest, default=0)


@dataclass
class Bridge:
    """Takes trades, and keeps what it sends; what it has sent is on Kafka."""

    trades: Trades = field(default_factory=lambda: Trades({}))
    ids: list[int] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    watermarks: dict[bytes, Watermark] = field(default_factory=dict)
    sessions: int = 0

    def open(self) -> Source:
        """Begin a session after one that was closed."""
        self.sessions += 1
        return Source(f"s{self.sessions}", None, "closed")

    def push(
        self,
        source: Source,
        *ids: int,
        clean: bool = False,
        second: float | None = None,
        now_us: int = NOW_US,
    ) -> Outcome:
        """Push trades, or a clean list; each happened at the second of its id, or at this one."""
        items = [
            {
                "id": one,
                "time": 1_597_000_000 + (one if second is None else second),
                "price": "1",
                "amount": "2",
                "type": "buy",
            }
            for one in reversed(ids)
        ]
        outcome = self.trades.push(msgspec.json.encode([clean, items, SYMBOL]), source, now_us)
        self.send(outcome)
        return outcome

    def recent(self, source: Source, first: int, last: int) -> Outcome:
        """Push a clean list of these ids and all between them."""
        return self.push(source, *range(first, last + 1), clean=True)

    def overdue(self, now_us: int) -> None:
        """Time passes."""
        self.send(self.trades.overdue(now_us, PATIENCE_US))

    def send(self, outcome: Outcome) -> None:
        """Send an outcome to Kafka."""
        self.ids += [
            record.mark[0] for record in outcome.records if record.mark and record.mark[0] is not None
        ]
        self.gaps += outcome.gaps
        reports = [Record(EVENTS, gap.symbol, b"", NOW_US, gap.mark) for gap in outcome.gaps]
        self.watermarks.update(advanced(self.watermarks, [*reports, *outcome.records]))

    def restart(self) -> None:
        """Start again, with what is on Kafka."""
        self.trades = Trades(self.watermarks)

    @property
    def bounds(self) -> list[tuple[int, int, bool]]:
        """Between which ids each gap is, and whether it is closed."""
        return [(gap.stretch.after_id, gap.stretch.before_id, gap.closed) for gap in self.gaps]


@pytest.fixture
def bridge() -> Bridge:
    """A bridge that has the trades 1000 to 1099 from its first session."""
    bridge = Bridge()
    bridge.recent(bridge.open(), FIRST, FIRST + 99)
    return bridge


@pytest.mark.parametrize("restarts", [False, True])
def test_each_of_several_interruptions_is_a_gap_of_its_own(bridge: Bridge, restarts: bool) -> None:
    """A session brings live trades and no list; before the next one more happens than its list shows."""
    bridge.push(bridge.open(), FIRST + 200, FIRST + 201)
    if restarts:
        bridge.restart()
    bridge.recent(bridge.open(), FIRST + 1000, FIRST + 1099)
    assert bridge.bounds == [(FIRST + 99, FIRST + 200, False), (FIRST + 201, FIRST + 1000, False)]


def test_live_trades_in_front_of_the_list_after_the_next_interruption_hide_no_gap(bridge: Bridge) -> None:
    bridge.push(bridge.open(), FIRST + 200)
    last = bridge.open()
    bridge.push(last, FIRST + 1100)
    bridge.recent(last, FIRST + 1001, FIRST + 1100)
    assert bridge.bounds == [(FIRST + 99, FIRST + 200, False), (FIRST + 200, FIRST + 1001, False)]


def test_an_empty_list_fills_in_nothing_and_so_the_gap_is_reported_at_once(bridge: Bridge) -> None:
    session = bridge.open()
    bridge.push(session, clean=True)
    bridge.push(session, FIRST + 200)
    assert bridge.bounds == [(FIRST + 99, FIRST + 200, False)]


def test_a_list_that_reaches_back_over_two_interruptions_closes_both(bridge: Bridge) -> None:
    bridge.push(bridge.open(), FIRST + 110)
    bridge.push(bridge.open(), FIRST + 120)
    bridge.recent(bridge.open(), FIRST + 50, FIRST + 125)
    assert sorted(bridge.ids) == list(range(FIRST, FIRST + 126))
    assert all(closed for _, _, closed in bridge.bounds)


def test_a_gap_is_reported_if_no_list_comes_in_time_and_only_once(bridge: Bridge) -> None:
    bridge.push(bridge.open(), FIRST + 200)
    bridge.overdue(NOW_US + PATIENCE_US - 1)
    assert bridge.gaps == []
    bridge.overdue(NOW_US + PATIENCE_US)
    bridge.overdue(NOW_US + 2 * PATIENCE_US)
    bridge.restart()
    bridge.overdue(NOW_US + 9 * PATIENCE_US)
    assert bridge.bounds == [(FIRST + 99, FIRST + 200, False)]


def test_more_open_stretches_than_are_kept_are_reported_the_oldest_first(bridge: Bridge) -> None:
    for number in range(1, 12):
        bridge.push(bridge.open(), FIRST + 100 * (number + 1))
    assert bridge.bounds == [
        (FIRST + 99, FIRST + 200, False),
        (FIRST + 200, FIRST + 300, False),
        (FIRST + 300, FIRST + 400, False),
    ]
    (watermark,) = bridge.watermarks.values()
    assert len(watermark.open.stretches) == 8


def test_a_trade_that_is_held_is_not_reported_for_want_of_room(bridge: Bridge) -> None:
    """What it is, is not decided yet; that it is held is saved for the case that the process ends."""
    bridge.push(bridge.open(), 5, second=FIRST + 99)
    for number in range(1, 12):
        bridge.push(bridge.open(), FIRST + 100 * (number + 1))
    (watermark,) = bridge.watermarks.values()
    assert (FIRST + 99, 6) in [(one.after_id, one.before_id) for one in watermark.open.stretches]
    assert [before for _, before, _ in bridge.bounds] == [FIRST + 200, FIRST + 300, FIRST + 400]


def test_two_trades_above_all_others_do_not_make_the_next_one_begin_anew(bridge: Bridge) -> None:
    """Those with later trades below them are out of line: strays, or late ones of an epoch before."""
    session = bridge.open()
    bridge.push(session, FIRST + 1_000_000, second=FIRST + 100)
    bridge.push(session, FIRST + 101)
    bridge.push(session, FIRST + 1_000_100, second=FIRST + 101)
    for number in range(102, 110):
        bridge.push(session, FIRST + number)
    assert not [gap for gap in bridge.gaps if gap.cause == "ids_restarted"]
    assert bridge.ids[-8:] == list(range(FIRST + 102, FIRST + 110))


@pytest.mark.parametrize("wrong", [5, FIRST + 90, 2**62], ids=["low", "known", "high"])
def test_a_wrong_number_in_a_list_is_no_proof(bridge: Bridge, wrong: int) -> None:
    """Only an overlap with id and time is."""
    session = bridge.open()
    items = [
        {"id": one, "time": 1_597_000_000 + second, "price": "1", "amount": "2", "type": "buy"}
        for one, second in [(FIRST + 300, FIRST + 300), (wrong, FIRST + 299), (FIRST + 298, FIRST + 298)]
    ]
    bridge.send(bridge.trades.push(msgspec.json.encode([True, items, SYMBOL]), session, NOW_US))
    bridge.overdue(NOW_US)
    bridge.overdue(NOW_US + 2 * PATIENCE_US)
    assert any(
        after <= FIRST + 99 and before >= FIRST + 298 and not closed
        for after, before, closed in bridge.bounds
    )
    assert not any(closed for _, _, closed in bridge.bounds)


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize("clean", [False, True], ids=["pushed", "in a list"])
def test_ids_that_begin_anew_are_a_new_epoch_with_its_bounds(
    bridge: Bridge, restarts: bool, clean: bool
) -> None:
    session = bridge.open()
    if restarts:
        bridge.restart()
    outcome = bridge.push(session, 1, 2, 3, clean=clean, second=5000)
    assert [gap.cause for gap in outcome.gaps] == ["ids_restarted"]
    assert bridge.bounds[-1] == (FIRST + 99, 1, False)
    assert bridge.ids[-3:] == [1, 2, 3]
    bridge.restart()
    assert bridge.push(bridge.open(), 1, 2, 3, 4, clean=True, second=5000).duplicates == 3


def test_within_one_second_a_new_epoch_needs_several_trades_and_none_of_them_is_dropped(
    bridge: Bridge,
) -> None:
    session, second = bridge.open(), FIRST + 99
    assert bridge.push(session, 1, second=second).records == []
    assert bridge.push(session, 2, second=second).records == []
    outcome = bridge.push(session, 3, second=second)
    assert [gap.cause for gap in outcome.gaps] == ["ids_restarted"]
    assert bridge.ids[-3:] == [1, 2, 3]


def test_a_trade_that_waits_for_others_of_its_epoch_does_not_wait_for_ever(bridge: Bridge) -> None:
    bridge.push(bridge.open(), 1, second=FIRST + 99)
    bridge.overdue(NOW_US + PATIENCE_US)
    assert bridge.ids[-1] == 1
    assert [gap.cause for gap in bridge.gaps] == ["ids_restarted"]


def test_a_repeated_or_late_push_begins_no_epoch(bridge: Bridge) -> None:
    session = bridge.open()
    bridge.recent(session, FIRST + 50, FIRST + 99)
    for ids in ((FIRST + 101, FIRST + 102), (FIRST + 100,), (FIRST + 101,), (FIRST,), (FIRST + 50,)):
        bridge.push(session, *ids)
    assert bridge.gaps == []
    assert bridge.ids[-3:] == [FIRST + 101, FIRST + 102, FIRST + 100]


def test_an_id_far_out_of_line_swallows_nothing_that_follows(bridge: Bridge) -> None:
    session = bridge.open()
    bridge.recent(session, FIRST + 50, FIRST + 99)
    bridge.push(session, 2**62, second=FIRST + 100)
    bridge.push(session, FIRST + 101)
    bridge.recent(bridge.open(), FIRST + 110, FIRST + 120)
    assert bridge.ids[-13:] == [2**62, FIRST + 101, *range(FIRST + 110, FIRST + 121)]
    after, before, closed = bridge.bounds[-1]
    assert (after <= FIRST + 101, before, closed) == (True, FIRST + 110, False)


def test_after_a_loss_the_next_trade_opens_a_gap_and_the_next_list_closes_it(bridge: Bridge) -> None:
    session = bridge.open()
    bridge.recent(session, FIRST, FIRST + 99)
    bridge.trades.lost(session, None)
    bridge.push(session, FIRST + 102)
    assert bridge.gaps == []
    bridge.recent(session, FIRST + 3, FIRST + 102)
    assert [(gap.cause, gap.filled, gap.closed) for gap in bridge.gaps] == [("damaged_frame", 2, True)]
    assert sorted(bridge.ids) == list(range(FIRST, FIRST + 103))


def test_a_list_with_a_bad_item_proves_nothing_and_another_one_is_asked_for(bridge: Bridge) -> None:
    session = bridge.open()
    items = [
        {"id": FIRST + 101, "time": 1_597_000_000 + FIRST + 101, "price": "1", "amount": "2", "type": "buy"},
        {"id": FIRST + 100, "time": "?"},
        {"id": FIRST + 99, "time": 1_597_000_000 + FIRST + 99, "price": "1", "amount": "2", "type": "buy"},
    ]
    bridge.send(bridge.trades.push(msgspec.json.encode([True, items, SYMBOL]), session, NOW_US))
    assert session.incomplete == {"trades"}
    assert not session.series("trades", SYMBOL).begun
    bridge.recent(session, FIRST + 2, FIRST + 101)
    assert sorted(bridge.ids) == list(range(FIRST, FIRST + 102))
    assert all(closed for _, _, closed in bridge.bounds)


def test_between_a_held_trade_and_the_list_of_the_next_session_is_a_gap(bridge: Bridge) -> None:
    bridge.push(bridge.open(), 5, second=FIRST + 99)
    session = bridge.open()
    bridge.push(session, *range(41, 51), clean=True, second=FIRST + 200)
    assert bridge.bounds == [(FIRST + 99, 5, False), (5, 41, False)]
    assert bridge.ids[-11:] == [5, *range(41, 51)]


def test_what_is_lost_between_held_trades_is_reported(bridge: Bridge) -> None:
    session = bridge.open()
    bridge.push(session, 1, second=FIRST + 99)
    bridge.trades.lost(session, None)
    bridge.push(session, 3, second=FIRST + 101)
    bridge.overdue(NOW_US + PATIENCE_US)
    assert any(after <= 1 and before >= 3 and not closed for after, before, closed in bridge.bounds)


def test_a_late_list_that_was_made_before_a_loss_does_not_make_it_good(bridge: Bridge) -> None:
    session = bridge.open()
    bridge.push(session, FIRST + 100)
    bridge.trades.lost(session, None)
    bridge.recent(session, FIRST + 50, FIRST + 102)
    assert session.incomplete == {"trades"}
    bridge.push(session, FIRST + 104)
    bridge.overdue(NOW_US + PATIENCE_US)
    assert any(
        after <= FIRST + 102 and before >= FIRST + 104 and not closed
        for after, before, closed in bridge.bounds
    )


def test_after_a_list_that_lacks_a_known_trade_the_next_trade_still_opens_a_gap(bridge: Bridge) -> None:
    session = bridge.open()
    bridge.push(session, *(one for one in range(FIRST, FIRST + 100) if one != FIRST + 51), clean=True)
    bridge.push(session, FIRST + 101)
    bridge.overdue(NOW_US + PATIENCE_US)
    assert any(
        after <= FIRST + 99 and before >= FIRST + 101 and not closed
        for after, before, closed in bridge.bounds
    )


def test_a_session_that_begins_with_a_repeated_trade_is_not_believed_to_have_missed_none(
    bridge: Bridge,
) -> None:
    session = bridge.open()
    bridge.push(session, FIRST + 99)
    bridge.push(session, *range(FIRST + 110, FIRST + 200))
    bridge.recent(session, FIRST + 110, FIRST + 199)
    assert (FIRST + 99, FIRST + 110, False) in bridge.bounds


def test_ids_that_begin_anew_while_the_clock_of_the_exchange_is_behind_are_not_swallowed(
    bridge: Bridge,
) -> None:
    session = bridge.open()
    bridge.recent(session, FIRST, FIRST + 99)
    bridge.push(session, FIRST + 100, second=FIRST + 3000)
    for number in range(1, 9):
        bridge.push(session, number, second=FIRST + 100 + number)
    assert bridge.ids[-8:] == list(range(1, 9))
    assert [gap.cause for gap in bridge.gaps] == ["ids_restarted"]


def test_a_clock_that_is_set_back_delays_a_gap_but_does_not_suppress_it(bridge: Bridge) -> None:
    bridge.push(bridge.open(), FIRST + 200)
    earlier_us = NOW_US - 10**15
    bridge.overdue(earlier_us)
    bridge.overdue(earlier_us + PATIENCE_US)
    assert bridge.bounds == [(FIRST + 99, FIRST + 200, False)]


def test_a_gap_that_reached_kafka_before_the_trades_of_later_sessions_hides_none_of_them(
    bridge: Bridge,
) -> None:
    """Events are sent first. Then the process is killed."""
    bridge.push(bridge.open(), FIRST + 150)
    on_kafka = dict(bridge.watermarks)
    bridge.push(bridge.open(), *range(FIRST + 160, FIRST + 200))
    bridge.push(bridge.open(), FIRST + 300)
    (gap, *_) = bridge.trades.overdue(NOW_US + PATIENCE_US, PATIENCE_US).gaps
    bridge.watermarks = on_kafka | advanced(on_kafka, [Record(EVENTS, gap.symbol, b"", NOW_US, gap.mark)])
    bridge.gaps = []
    bridge.restart()
    bridge.recent(bridge.open(), FIRST + 250, FIRST + 305)
    assert (FIRST + 150, FIRST + 250, False) in bridge.bounds


def test_on_a_quiet_symbol_one_loss_is_one_gap(bridge: Bridge) -> None:
    session = bridge.open()
    bridge.recent(session, FIRST, FIRST + 99)
    bridge.trades.lost(session, None)
    now_us = NOW_US
    for number in range(1, 13):
        now_us += 3_000_000
        bridge.push(session, FIRST + 100 + number, now_us=now_us)
        bridge.overdue(now_us)
    bridge.overdue(now_us + 2 * PATIENCE_US)
    assert len(bridge.gaps) == 1


def test_a_restart_with_a_held_trade_breaks_nothing(bridge: Bridge) -> None:
    session = bridge.open()
    bridge.push(session, 1, second=FIRST + 99)
    bridge.push(session, FIRST + 101)
    bridge.restart()
    bridge.push(bridge.open(), 1, second=FIRST + 101)
    bridge.recent(bridge.open(), FIRST + 50, FIRST + 102)
    bridge.overdue(NOW_US)
    bridge.overdue(NOW_US + PATIENCE_US)
    assert bridge.ids.count(1) == 1


def test_bounds_in_front_of_a_new_epoch_are_of_one_trade_that_is_in_line(bridge: Bridge) -> None:
    session = bridge.open()
    bridge.recent(session, FIRST, FIRST + 99)
    bridge.push(session, 2**62, second=FIRST + 100)
    bridge.push(session, FIRST + 101)
    bridge.push(session, 1, second=5000)
    (gap,) = [one for one in bridge.gaps if one.cause == "ids_restarted"]
    assert gap.stretch[:3:2] == (FIRST + 101, 1)
    assert gap.stretch.after_us == (1_597_000_000 + FIRST + 101) * 1_000_000


def test_a_far_lower_id_in_the_second_in_which_an_epoch_began_is_the_next_epoch(bridge: Bridge) -> None:
    session = bridge.open()
    bridge.recent(session, FIRST, FIRST + 99)
    bridge.push(session, 503, second=FIRST + 100)
    for trade_id in (7, 8, 11):
        bridge.push(session, trade_id, second=FIRST + 100)
    for trade_id in (12, 13):
        bridge.push(session, trade_id, second=FIRST + 101)
    assert bridge.bounds[-2:] == [(FIRST + 99, 503, False), (503, 7, False)]
    assert bridge.ids[-6:] == [503, 7, 8, 11, 12, 13]


def test_a_low_id_in_the_first_second_of_a_symbol_that_was_overtaken_begins_no_epoch() -> None:
    bridge = Bridge()
    session = bridge.open()
    for trade_id in (3, 1, 4, 5):
        bridge.push(session, trade_id, second=FIRST)
    bridge.push(session, 6, second=FIRST + 1)
    bridge.overdue(NOW_US)
    bridge.overdue(NOW_US + PATIENCE_US)
    assert bridge.gaps == []
    assert sorted(bridge.ids) == [1, 3, 4, 5, 6]


def test_an_epoch_that_begins_among_the_few_known_ids_of_a_quiet_symbol_is_one() -> None:
    bridge = Bridge()
    session = bridge.open()
    bridge.push(session, 2, 3, 4, 7, second=FIRST)
    bridge.push(session, 63, 66, 69, clean=True, second=FIRST + 60)
    bridge.push(session, 5, second=FIRST + 90)
    bridge.push(session, 7, second=FIRST + 90)
    assert bridge.bounds[-1][1:] == (5, False)
    assert bridge.ids[-2:] == [5, 7]


def test_a_push_that_is_lost_after_it_was_overtaken_is_missing_in_front_of_a_later_trade(
    bridge: Bridge,
) -> None:
    """Of 101 to 104, 103 is pushed first and lost; 104 comes seconds later."""
    session = bridge.open()
    bridge.recent(session, FIRST, FIRST + 100)
    bridge.trades.lost(session, None)
    for trade_id, seconds in ((FIRST + 101, 0), (FIRST + 102, 0.1), (FIRST + 104, 3), (FIRST + 105, 6)):
        bridge.push(session, trade_id, now_us=NOW_US + int(seconds * 1e6))
    bridge.overdue(NOW_US + PATIENCE_US)
    after, before, closed = bridge.bounds[-1]
    assert (after <= FIRST + 100, before, closed) == (True, FIRST + 104, False)


def test_a_bad_item_in_the_list_that_begins_an_epoch_is_inside_a_gap(bridge: Bridge) -> None:
    session = bridge.open()
    items: list[object] = [
        {"id": one, "time": 1_597_005_000 + one, "price": "1", "amount": "2", "type": "buy"}
        for one in reversed(range(20))
    ]
    items[10] = {"id": "?"}
    bridge.send(bridge.trades.push(msgspec.json.encode([True, items, SYMBOL]), session, NOW_US))
    bridge.overdue(NOW_US)
    bridge.overdue(NOW_US + PATIENCE_US)
    assert bridge.bounds == [(FIRST + 99, 0, False), (0, 19, False)]


@pytest.mark.parametrize("pushed", [0.123456, 0.123999])
@pytest.mark.parametrize("listed", [0.123, 0.124, 0, 1])
def test_the_same_trade_in_a_coarser_unit_of_time_is_a_repeat(
    bridge: Bridge, pushed: float, listed: float
) -> None:
    """However it was rounded."""
    session = bridge.open()
    bridge.push(session, FIRST + 100, second=FIRST + 100 + pushed)
    outcome = bridge.push(session, FIRST + 100, clean=True, second=FIRST + 100 + listed)
    assert (outcome.records, outcome.bad, outcome.duplicates) == ([], [], 1)


def test_a_held_trade_that_another_session_explains_becomes_one_record(bridge: Bridge) -> None:
    """The first trade of an epoch is overtaken; its id is half as high."""
    session = bridge.open()
    bridge.recent(session, FIRST, FIRST + 99)
    for trade_id, second in ((5, 0.2), (2, 0.2), (7, 0.3), (10, 9)):
        bridge.push(session, trade_id, second=FIRST + 200 + second)
    other = bridge.open()
    bridge.push(other, 2, second=FIRST + 200.2)
    bridge.overdue(NOW_US + PATIENCE_US)
    assert bridge.ids.count(2) == 1


def test_a_list_fills_in_the_lost_first_trade_of_an_epoch_whatever_its_id() -> None:
    bridge = Bridge()
    session = bridge.open()
    bridge.push(session, 4, second=FIRST + 0.1)
    bridge.trades.lost(session, None)  # the id 3, later
    bridge.push(session, 6, second=FIRST + 0.3)
    items = [
        {"id": one, "time": 1_597_000_000 + FIRST + tenth / 10, "price": "1", "amount": "2", "type": "buy"}
        for one, tenth in ((7, 4), (6, 3), (3, 2), (4, 1))
    ]
    bridge.send(bridge.trades.push(msgspec.json.encode([True, items, SYMBOL]), bridge.open(), NOW_US))
    assert sorted(bridge.ids) == [3, 4, 6, 7]


def test_where_pushes_overtake_each_other_a_list_that_reaches_back_a_little_proves_nothing(
    bridge: Bridge,
) -> None:
    """The session ended in front of 108, which 109 and 110 had overtaken."""
    session = bridge.open()
    bridge.recent(session, FIRST, FIRST + 99)
    for one in (101, 100, 102, 103, 104, 105, 106, 107, 109, 110):
        bridge.push(session, FIRST + one)
    bridge.recent(bridge.open(), FIRST + 109, FIRST + 111)
    assert any(after < FIRST + 108 < before and not closed for after, before, closed in bridge.bounds)


def test_a_list_that_shows_two_new_epochs_fills_in_both(bridge: Bridge) -> None:
    ids = [FIRST + 99, FIRST + 100, 1, 2, 3, 4, 1, 2]
    items = [
        {"id": one, "time": 1_597_000_000 + FIRST + 99 + place, "price": "1", "amount": "2", "type": "buy"}
        for place, one in enumerate(ids)
    ]
    bridge.send(bridge.trades.push(msgspec.json.encode([True, items[::-1], SYMBOL]), bridge.open(), NOW_US))
    assert bridge.ids[-6:] == [1, 2, 3, 4, 1, 2]
    assert [gap.cause for gap in bridge.gaps].count("ids_restarted") == 2


@pytest.mark.parametrize("stray", [2**62, FIRST + 5000], ids=["far", "near"])
def test_an_older_list_that_ends_with_an_id_out_of_line_closes_nothing(bridge: Bridge, stray: int) -> None:
    bridge.push(bridge.open(), FIRST + 110)
    items = [
        {"id": one, "time": 1_597_000_000 + second, "price": "1", "amount": "2", "type": "buy"}
        for one, second in [(stray, FIRST + 100), (FIRST + 99, FIRST + 99), (FIRST + 98, FIRST + 98)]
    ]
    bridge.send(bridge.trades.push(msgspec.json.encode([True, items, SYMBOL]), bridge.open(), NOW_US))
    bridge.overdue(NOW_US)
    bridge.overdue(NOW_US + PATIENCE_US)
    assert bridge.ids[-1] == stray
    assert bridge.bounds == [(FIRST + 99, FIRST + 110, False)]


def test_a_known_trade_that_is_later_than_its_id_says_is_no_overlap() -> None:
    bridge = Bridge()
    session = bridge.open()
    bridge.push(session, 10, 30, clean=True)
    bridge.push(session, 15, second=35)
    session = bridge.open()
    bridge.push(session, 60)
    items = [
        {"id": one, "time": 1_597_000_000 + second, "price": "1", "amount": "2", "type": "buy"}
        for one, second in [(60, 60), (50, 50), (15, 35)]
    ]
    bridge.send(bridge.trades.push(msgspec.json.encode([True, items, SYMBOL]), session, NOW_US))
    assert (30, 50, False) in bridge.bounds


def test_a_session_that_lags_behind_a_new_epoch_begins_no_other(bridge: Bridge) -> None:
    """What it brings of the old epoch is inside the gap in front of the new one."""
    lagging, session = bridge.open(), bridge.open()
    bridge.recent(lagging, FIRST + 50, FIRST + 99)
    bridge.recent(session, FIRST + 50, FIRST + 99)
    for trade_id in range(1, 4):
        bridge.push(session, trade_id, second=5000 + trade_id)
    for trade_id in range(FIRST + 100, FIRST + 110):
        assert bridge.push(lagging, trade_id).records == []
    for trade_id in range(4, 20):
        bridge.push(session, trade_id, second=5000 + trade_id)
    assert bridge.ids[-19:] == list(range(1, 20))
    assert [gap.cause for gap in bridge.gaps] == ["ids_restarted"]


def test_a_restart_between_the_report_of_a_new_epoch_and_its_first_trade_reports_it_no_more(
    bridge: Bridge,
) -> None:
    outcome = bridge.trades.push(
        msgspec.json.encode(
            [False, [{"id": 1, "time": 1_597_005_000, "price": "1", "amount": "2", "type": "buy"}], SYMBOL]
        ),
        bridge.open(),
        NOW_US,
    )
    outcome.records.clear()
    bridge.send(outcome)
    bridge.restart()
    bridge.push(bridge.open(), *range(1, 6), clean=True, second=5000)
    assert [gap.cause for gap in bridge.gaps] == ["ids_restarted", "takeover"]
    assert bridge.bounds == [(FIRST + 99, 1, False)] * 2
    assert bridge.ids[-5:] == list(range(1, 6))


def test_restarts_faster_than_a_list_is_waited_for_do_not_delay_a_gap_for_ever(bridge: Bridge) -> None:
    bridge.push(bridge.open(), FIRST + 200)
    for second in range(0, 24, 6):
        bridge.restart()
        for later in (0, 5.5):
            bridge.overdue(NOW_US + int((second + later) * 1e6))
    assert bridge.bounds == [(FIRST + 99, FIRST + 200, False)]


def test_after_a_long_stop_the_list_of_the_next_session_is_waited_for(bridge: Bridge) -> None:
    bridge.push(bridge.open(), FIRST + 102)
    bridge.restart()
    bridge.overdue(NOW_US + 9 * PATIENCE_US)
    bridge.overdue(NOW_US + 9 * PATIENCE_US + PATIENCE_US // 5)
    bridge.recent(bridge.open(), FIRST + 50, FIRST + 102)
    assert bridge.bounds == [(FIRST + 99, FIRST + 100, True)]


@pytest.mark.parametrize("second", [None, FIRST + 99], ids=["seconds apart", "within one second"])
def test_after_a_restart_a_list_that_is_not_marked_as_one_is_a_list(second: int | None) -> None:
    bridge = Bridge()
    bridge.push(bridge.open(), *range(FIRST, FIRST + 100), clean=True, second=second)
    bridge.restart()
    bridge.push(bridge.open(), *range(FIRST + 5, FIRST + 105), second=second)
    bridge.overdue(NOW_US)
    bridge.overdue(NOW_US + PATIENCE_US)
    assert bridge.ids == list(range(FIRST, FIRST + 105))
    assert all(closed for _, _, closed in bridge.bounds)


@pytest.mark.parametrize("trades", [3, 100])
def test_a_push_that_repeats_trades_of_one_second_begins_no_epoch(trades: int) -> None:
    bridge = Bridge()
    session = bridge.open()
    bridge.push(session, *range(FIRST, FIRST + 100), clean=True, second=FIRST)
    bridge.restart()
    session = bridge.open()
    bridge.push(session, FIRST + 100, second=FIRST)
    bridge.push(session, *range(FIRST + 70 - trades, FIRST + 70), second=FIRST)
    bridge.push(session, *range(FIRST + 71 - trades, FIRST + 101), second=FIRST)
    assert bridge.ids == list(range(FIRST, FIRST + 101))
    assert not any(gap.cause == "ids_restarted" for gap in bridge.gaps)


def test_a_repeated_push_behind_a_loss_is_no_list_that_makes_it_good(bridge: Bridge) -> None:
    session = bridge.open()
    bridge.recent(session, FIRST, FIRST + 99)
    bridge.push(session, *range(FIRST + 100, FIRST + 120))
    bridge.trades.lost(session, None)
    bridge.push(session, *range(FIRST + 100, FIRST + 120))
    bridge.push(session, FIRST + 125)
    bridge.overdue(NOW_US + PATIENCE_US)
    assert any(before == FIRST + 125 and not closed for _, before, closed in bridge.bounds)


def test_what_was_on_kafka_before_an_epoch_of_the_same_second_is_not_repeated_after_a_restart() -> None:
    bridge = Bridge()
    session = bridge.open()
    bridge.push(session, *range(FIRST, FIRST + 100), clean=True, second=FIRST)
    bridge.push(session, 1, second=FIRST)
    bridge.push(session, 2, second=FIRST)
    bridge.push(session, 3, second=FIRST)
    bridge.restart()
    items = [
        {"id": one, "time": 1_597_000_000 + FIRST, "price": "1", "amount": "2", "type": "buy"}
        for one in (4, 3, 2, 1, *range(FIRST + 99, FIRST, -1))
    ]
    bridge.send(bridge.trades.push(msgspec.json.encode([True, items, SYMBOL]), bridge.open(), NOW_US))
    assert bridge.ids[100:] == [1, 2, 3, 4]


@pytest.mark.parametrize("clean", [False, True], ids=["pushed", "in a list"])
def test_a_later_trade_with_the_id_of_a_known_one_is_inside_a_gap(bridge: Bridge, clean: bool) -> None:
    session = bridge.open()
    bridge.recent(session, FIRST, FIRST + 120)
    outcome = bridge.push(session, FIRST + 90, clean=clean, second=FIRST + 110)
    assert len(outcome.bad) == 1
    (gap,) = outcome.gaps
    assert (gap.stretch.after_id, gap.stretch.before_id, gap.closed) == (FIRST + 90, FIRST + 120, False)
    bridge.recent(bridge.open(), FIRST + 50, FIRST + 120)
    assert not any(after <= FIRST + 90 < before and closed for after, before, closed in bridge.bounds)


def test_a_new_epoch_in_a_list_is_one_although_the_list_ends_with_an_id_out_of_line(bridge: Bridge) -> None:
    ids = [FIRST + 98, FIRST + 99, 1, 2, 3, 2**62]
    items = [
        {"id": one, "time": 1_597_000_000 + FIRST + 98 + place, "price": "1", "amount": "2", "type": "buy"}
        for place, one in enumerate(ids)
    ]
    bridge.send(bridge.trades.push(msgspec.json.encode([True, items[::-1], SYMBOL]), bridge.open(), NOW_US))
    assert bridge.bounds == [(FIRST + 99, 1, False)]
    assert bridge.ids[-4:] == [1, 2, 3, 2**62]


def test_an_id_out_of_line_at_the_end_of_a_damaged_list_hides_no_loss_of_the_same_second() -> None:
    bridge = Bridge()
    session = bridge.open()
    items = [
        {"id": "?"},
        *(
            {"id": one, "time": 1_597_000_000, "price": "1", "amount": "2", "type": "buy"}
            for one in (FIRST, 2**62)
        ),
    ]
    bridge.send(bridge.trades.push(msgspec.json.encode([True, items, SYMBOL]), session, NOW_US))
    bridge.trades.lost(session, SYMBOL)
    bridge.push(session, FIRST + 2, second=0)
    bridge.overdue(NOW_US + PATIENCE_US)
    assert any(before == FIRST + 2 for _, before, _ in bridge.bounds)


def test_an_id_below_all_remembered_ones_among_known_trades_of_a_list_is_inside_a_gap(
    bridge: Bridge,
) -> None:
    session = bridge.open()
    bridge.push(session, FIRST + 100)
    ids = [FIRST + 99, 5, FIRST + 100]
    items = [
        {
            "id": one,
            "time": 1_597_000_000 + FIRST + 99 + place / 2,
            "price": "1",
            "amount": "2",
            "type": "buy",
        }
        for place, one in enumerate(ids)
    ]
    for _ in range(2):
        params = msgspec.json.encode([True, items[::-1], SYMBOL])
        bridge.send(bridge.trades.push(params, session, NOW_US))
    # The second list fills nothing and closes what the push has opened; that must not say that all is there.
    assert {*bridge.bounds} == {(FIRST + 99, FIRST + 100, False)}
    assert 5 not in bridge.ids


def test_what_the_first_list_of_a_symbol_shows_of_another_epoch_is_history_in_the_next_one_too() -> None:
    bridge = Bridge()
    ids = [*range(FIRST, FIRST + 50), *range(1, 51)]
    items = [
        {"id": one, "time": 1_597_000_000 + place // 10, "price": "1", "amount": "2", "type": "buy"}
        for place, one in enumerate(ids)
    ]
    params = msgspec.json.encode([True, items[::-1], SYMBOL])
    for _ in range(2):
        bridge.send(bridge.trades.push(params, bridge.open(), NOW_US))
        bridge.restart()
        bridge.send(bridge.trades.push(params, bridge.open(), NOW_US))
    assert bridge.ids == list(range(1, 51))
    assert not any(gap.cause == "ids_restarted" for gap in bridge.gaps)


def test_a_closed_gap_does_not_reach_over_a_trade_that_another_stretch_waits_for(bridge: Bridge) -> None:
    """The trade in front of the new ones was not on Kafka yet when the process was killed."""
    before = dict(bridge.watermarks)
    outcome = bridge.push(bridge.open(), FIRST + 101)
    assert outcome.records[0].mark is not None
    mark = (FIRST + 99, (1_597_000_000 + FIRST + 99) * 1_000_000, 0, outcome.records[0].mark[3])
    bridge.watermarks = before | advanced(before, [Record("trades", SYMBOL.encode(), b"", NOW_US, mark)])
    bridge.restart()
    bridge.recent(bridge.open(), FIRST + 99, FIRST + 103)
    assert bridge.bounds[-1] == (FIRST + 101, FIRST + 102, True)


def test_history_of_another_epoch_in_front_of_the_first_pushed_trade_is_no_news() -> None:
    bridge = Bridge()
    session = bridge.open()
    bridge.push(session, 3, second=5000)
    ids = [FIRST, FIRST + 1, 2, 3, 4]
    items = [
        {"id": one, "time": 1_597_004_997 + place, "price": "1", "amount": "2", "type": "buy"}
        for place, one in enumerate(ids)
    ]
    params = msgspec.json.encode([True, items[::-1], SYMBOL])
    bridge.send(bridge.trades.push(params, session, NOW_US))
    bridge.restart()
    bridge.send(bridge.trades.push(params, bridge.open(), NOW_US))
    assert FIRST not in bridge.ids
    assert [one for one in bridge.ids if one > 2] == [3, 4]
