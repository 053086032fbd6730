"""Waits grow, are drawn from their whole range, and start over after a success."""

from hypothesis import given
from hypothesis import strategies as st

from bridge.backoff import Backoff


@given(st.floats(0.001, 10), st.integers(0, 12))
def test_each_wait_is_below_a_bound_that_doubles_up_to_the_longest(shortest: float, doublings: int) -> None:
    longest = shortest * 2**doublings
    backoff = Backoff(shortest, longest)
    for failures in range(doublings + 5):
        assert 0 <= backoff.next() <= min(longest, shortest * 2**failures)


def test_waits_are_drawn_from_the_whole_range() -> None:
    waits = []
    for _ in range(500):
        backoff = Backoff(1.0, 1.0)
        waits.append(backoff.next())
    assert min(waits) < 0.1
    assert max(waits) > 0.9


def test_waits_start_over_after_a_success() -> None:
    backoff = Backoff(0.1, 1000.0)
    for _ in range(20):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 0.1


def test_waits_are_longer_for_an_overloaded_server() -> None:
    for _ in range(100):
        backoff = Backoff(0.5, 30.0)
        assert 1.0 <= backoff.next(longer=True) <= 2.0
        assert 8.0 <= backoff.next(longer=True) <= 16.0
        assert 15.0 <= backoff.next(longer=True) <= 30.0
