"""What several answers to server.time tell of the exchange's clock."""

from collections.abc import Callable
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.exchange import clock
from bridge.exchange.clock import ServerClock

Trip = tuple[float, float]
"""Seconds that a question takes to the exchange, and that its answer takes back."""

TRIPS = st.tuples(st.floats(0.0, 0.3), st.floats(0.0, 0.3))


class Exchange:
    """A clock that counts whole seconds, or not, and is `ahead` of ours."""

    def __init__(self, ahead: float, read: Callable[[float], float] = floor) -> None:
        self.ahead = ahead
        self._read = read

    def asked(self, known: ServerClock, sent: float, trip: Trip) -> None:
        there, back = trip
        known.add(self._read(sent + there + self.ahead), sent, sent + there + back)


def error(known: ServerClock, now: float) -> float:
    low, high = known.within(now)
    return (high - low) / 2


def test_the_documented_example() -> None:
    """Its times are those of the module's docstring."""
    known = ServerClock()
    known.add(105, 100.20, 100.30)
    assert known.within(100.30) == pytest.approx((4.70, 5.80))
    at = known.claim_question(112.0)
    assert at == pytest.approx(112.75, abs=0.001)
    assert at is not None
    known.add(117, at, at + 0.1)
    assert known.within(at) == pytest.approx((4.70, 5.25), abs=0.003)


@given(
    ahead=st.floats(-1e5, 1e5),
    trips=st.lists(TRIPS, min_size=8, max_size=8),
    apart=st.floats(0.0, 400.0),
)
def test_each_answer_narrows_the_bounds_and_the_truth_is_between_them(
    ahead: float, trips: list[Trip], apart: float
) -> None:
    exchange, known, now = Exchange(ahead), ServerClock(), 1000.0
    exchange.asked(known, now, trips[0])
    widest = max(sum(trip) for trip in trips)
    for trip in trips[1:]:
        now += max(apart, 10.0)
        at = known.claim_question(now)
        assert at is not None
        assert now <= at <= now + 1.0
        before = error(known, at + sum(trip))
        exchange.asked(known, at, trip)
        now = at + sum(trip)
        low, high = known.within(now)
        assert low - 1e-6 <= ahead <= high + 1e-6
        assert error(known, now) <= before + 1e-6
        assert error(known, now) <= before / 2 + widest + 0.05
    assert error(known, now) <= widest + 0.15


@given(ahead=st.floats(-1e5, 1e5), jump=st.floats(2.0, 1e5), back=st.booleans(), trip=TRIPS)
def test_a_clock_that_jumps_is_followed_at_the_next_answer(
    ahead: float, jump: float, back: bool, trip: Trip
) -> None:
    exchange, known, now = Exchange(ahead), ServerClock(), 1000.0
    for _ in range(10):
        exchange.asked(known, now, trip)
        now += 301.0
        assert known.claim_question(now) is not None
    assert known.claim_question(now + 2.0) is None
    exchange.ahead += -jump if back else jump
    exchange.asked(known, now, trip)
    low, high = known.within(now)
    assert low - 1e-6 <= exchange.ahead <= high + 1e-6
    assert known.claim_question(now + 2.0) is not None


@given(ahead=st.floats(-1e5, 1e5), trip=TRIPS, rate=st.sampled_from([1 - 5e-5, 1 + 5e-5]))
def test_two_clocks_that_diverge_do_not_contradict_each_other(ahead: float, trip: Trip, rate: float) -> None:
    known, now = ServerClock(), 1000.0
    for _ in range(200):
        at = known.claim_question(now) if known.known else now
        if at is not None:
            Exchange(ahead + (rate - 1) * at).asked(known, at, trip)
            low, high = known.within(at + sum(trip))
            assert low - 1e-3 <= ahead + (rate - 1) * at <= high + 1e-3
        now += 15.0
    assert known.claim_question(now + 1.0) is None or known.claim_question(now + 2.0) is None


def test_it_is_asked_for_soon_at_first_and_rarely_later() -> None:
    exchange, known, asked, now = Exchange(0.3), ServerClock(), list[float](), 1000.0
    assert known.claim_question(now) is None, "nothing is known yet"
    exchange.asked(known, now, (0.01, 0.01))
    while now < 1000.0 + 3600.0:
        now += 1.0
        at = known.claim_question(now)
        if at is not None:
            asked.append(at)
            exchange.asked(known, at, (0.01, 0.01))
    assert len([at for at in asked if at < 1090.0]) == 8
    assert len(asked) <= 8 + 12
    assert error(known, now) < 0.1


def test_a_clock_with_fractions_of_a_second_is_known_at_once() -> None:
    known = ServerClock()
    Exchange(5.25, read=float).asked(known, 1000.5, (0.1, 0.1))
    assert known.within(1000.7) == pytest.approx((5.15, 5.35))


def test_answers_that_contradict_each_other_have_nothing_in_common() -> None:
    assert clock.in_common([(0.0, 1.0), (0.5, 2.0)]) == (0.5, 1.0)
    assert clock.in_common([(0.0, 1.0), (1.5, 2.0)]) is None
