"""The rate is steady, however irregularly it is polled."""

import random

import pytest

from bridge.simulator.pace import Pace


def events(rate: float, times: list[float]) -> list[int]:
    """Return the number of events due at each of the times."""
    pace, found = Pace(rate, 0.0), []
    for now in times:
        number = 0
        while pace.due(now):
            pace.spend(1)
            number += 1
        found.append(number)
    return found


@pytest.mark.parametrize("rate", [0.1, 1, 7.5, 5000])
def test_the_rate_is_kept_when_polled_irregularly(rate: float) -> None:
    rng = random.Random(1)
    times, now = [], 0.0
    while now < 100:
        now += rng.uniform(0.001, 0.2)
        times.append(now)
    assert abs(sum(events(rate, times)) - rate * now) < 1.01


def test_a_rate_of_zero_makes_no_events() -> None:
    assert sum(events(0, [1.0, 100.0])) == 0


def test_after_a_pause_at_most_one_second_is_caught_up() -> None:
    assert events(50, [1.0, 60.0]) == [50, 51]


def test_an_event_with_two_updates_delays_the_next_one() -> None:
    pace = Pace(10, 0.0)
    assert pace.due(0.1)
    pace.spend(2)
    assert not pace.due(0.25)
    assert pace.due(0.35)
