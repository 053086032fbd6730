"""The budget of handshakes and requests, and the jitter around full hours."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.websocket.courtesy import Courtesy, calm, spread

HOUR = 3600.0
SOME_HOUR = 494_000 * HOUR


@given(
    st.floats(0.5, 50),
    st.floats(0.5, 50),
    st.lists(st.tuples(st.floats(0, 2), st.integers(0, 10)), min_size=1, max_size=60),
)
def test_the_budget_is_never_exceeded_over_any_period(
    handshakes: float, subscribes: float, asked: list[tuple[float, int]]
) -> None:
    """Except by the burst of one second, and by the cost of the last connection itself."""
    courtesy = Courtesy(handshakes, subscribes)
    now, opened = 100.0, []
    for pause, requests in asked:
        now += pause
        opened.append((now + courtesy.reserve(now, requests), 1 / handshakes + requests / subscribes))
    for first, (begin, _) in enumerate(opened):
        for last in range(first, len(opened)):
            used = sum(cost for _, cost in opened[first:last])
            assert used <= opened[last][0] - begin + 1.0 + 1e-6


@given(st.integers(0, 40), st.floats(0, 5))
def test_requests_on_open_connections_use_the_same_budget(requests: int, later: float) -> None:
    """They wait for it, and a connection that is opened later waits as if they had been its own."""
    courtesy, alike = Courtesy(5.0, 20.0), Courtesy(1e9, 20.0)
    waits = [courtesy.reserve_subscribe(10.0) for _ in range(requests)]
    assert waits == [pytest.approx(max(0.0, number / 20 - 1)) for number in range(requests)]
    alike.reserve(10.0, requests)
    assert courtesy.reserve(10.0 + later, 0) == pytest.approx(alike.reserve(10.0 + later, 0), abs=1e-6)


def test_a_pause_also_holds_for_connections_that_already_wait() -> None:
    async def scenario() -> None:
        courtesy = Courtesy(200.0, 200.0)
        waiting = [asyncio.create_task(courtesy.admit(1)) for _ in range(1000)]
        await waiting[12]
        end = time.monotonic() + 1.0
        courtesy.pause(time.monotonic(), 1.0)
        admitted = sum(task.done() for task in waiting)
        await waiting[admitted]
        assert time.monotonic() >= end
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)

    asyncio.run(scenario())


def test_connections_are_opened_in_order_and_the_first_of_them_at_once() -> None:
    courtesy = Courtesy(5.0, 20.0)
    waits = [courtesy.reserve(10.0, 0) for _ in range(10)]
    assert waits == sorted(waits)
    assert waits[:6] == pytest.approx([0.0] * 6)
    assert waits[-1] == pytest.approx(0.8)


def test_after_a_pause_the_budget_applies_again() -> None:
    courtesy = Courtesy(5.0, 20.0)
    courtesy.pause(10.0, 30.0)
    assert courtesy.reserve(11.0, 0) == pytest.approx(29.0)
    assert courtesy.reserve(11.0, 0) == pytest.approx(29.2)
    assert courtesy.reserve(100.0, 0) == 0.0


def test_a_pause_has_a_maximum_whatever_the_exchange_asks_for() -> None:
    courtesy = Courtesy(5.0, 20.0)
    courtesy.pause(0.0, 1e9)
    assert courtesy.reserve(0.0, 0) == pytest.approx(300.0)


@given(st.floats(-60, 60))
def test_reconnects_around_a_full_hour_are_spread(offset: float) -> None:
    waits = [spread(SOME_HOUR + offset, 10.0) for _ in range(50)]
    assert 0 <= min(waits) < max(waits) <= 10


@given(st.floats(61, HOUR - 61))
def test_reconnects_at_other_times_are_not_delayed(offset: float) -> None:
    assert spread(SOME_HOUR + offset, 10.0) == 0.0


@given(st.floats(0, HOUR))
def test_a_calm_time_is_the_given_one_or_one_before_the_hour(offset: float) -> None:
    asked = SOME_HOUR + offset
    found = calm(asked)
    assert asked - 181 <= found <= asked
    assert 60 <= found % HOUR <= HOUR - 60
    assert found == asked or (offset <= 60 or offset >= HOUR - 60)
