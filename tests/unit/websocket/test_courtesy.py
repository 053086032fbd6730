"""The limits towards the exchange, and the jitter around full hours."""

import asyncio
import heapq
import itertools
import time
from collections.abc import Callable
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.datastructures import Headers

from bridge.config import ExchangeConfig
from bridge.websocket.courtesy import (
    ACCOUNT,
    LISTING,
    OTHER,
    Courtesy,
    Handshake,
    asked_to_wait,
    calm,
    spread,
)
from bridge.websocket.feed import Ended
from bridge.websocket.retrying import Retrying

HOUR = 3600.0
SOME_HOUR = 494_000 * HOUR
LONG_AGO = -1e9


def first(subscribes: int = 0, rank: int = OTHER) -> Handshake:
    """Return the first handshake of a connector that starts now."""
    return Handshake(subscribes, rank, well_at=1e9, repeated=False)


def open_one(courtesy: Courtesy, now: float, subscribes: int = 0) -> float:
    """Open a connection as soon as allowed, and return the seconds that this took."""
    wait = courtesy.wait(now, first(subscribes))
    courtesy.take(now + wait, first(subscribes))
    return wait


# The budget


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
        now += open_one(courtesy, now, requests)
        opened.append((now, 1 / handshakes + requests / subscribes))
    for begin in range(len(opened)):
        for last in range(begin, len(opened)):
            used = sum(cost for _, cost in opened[begin:last])
            assert used <= opened[last][0] - opened[begin][0] + 1.0 + 1e-6


@given(st.integers(0, 40), st.floats(0, 5))
def test_requests_on_open_connections_use_the_same_budget(requests: int, later: float) -> None:
    """They wait for it, and a connection that is opened later waits as if they had been its own."""
    courtesy, alike = Courtesy(5.0, 20.0), Courtesy(1e9, 20.0)
    waits = [courtesy.reserve_subscribe(10.0) for _ in range(requests)]
    assert waits == [pytest.approx(max(0.0, number / 20 - 1)) for number in range(requests)]
    alike.take(10.0, first(requests))
    assert courtesy.wait(10.0 + later, first()) == pytest.approx(alike.wait(10.0 + later, first()), abs=1e-6)


def test_the_documented_burst() -> None:
    courtesy, now = Courtesy(5.0, 20.0), 10.0
    waits = []
    for _ in range(5):
        waits.append(courtesy.wait(now, first(4)))
        now += open_one(courtesy, now, 4)
    assert waits == pytest.approx([0, 0, 0, 0.2, 0.4])


def test_after_a_pause_the_budget_applies_again() -> None:
    courtesy = Courtesy(5.0, 20.0)
    courtesy.pause(10.0, 30.0)
    assert open_one(courtesy, 11.0) == pytest.approx(29.0)
    assert courtesy.wait(100.0, first()) == 0.0


def test_a_pause_has_a_maximum_whatever_the_exchange_asks_for() -> None:
    courtesy = Courtesy(5.0, 20.0, refused_max=200.0)
    courtesy.pause(0.0, 1e9)
    assert courtesy.wait(0.0, first()) == pytest.approx(200.0)


# Who is admitted


def test_a_pause_also_holds_for_connections_that_already_wait() -> None:
    async def scenario() -> None:
        courtesy = Courtesy(200.0, 200.0)
        waiting = [asyncio.create_task(courtesy.admit(first(1))) for _ in range(1000)]
        await waiting[12]
        end = time.monotonic() + 1.0
        courtesy.pause(time.monotonic(), 1.0)
        for _ in range(5):
            await asyncio.sleep(0)  # those that were admitted before it end
        admitted = sum(task.done() for task in waiting)
        await waiting[admitted]
        assert time.monotonic() >= end
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)

    asyncio.run(scenario())


@pytest.mark.parametrize("ranks", list(itertools.permutations((OTHER, LISTING, ACCOUNT))))
def test_accounts_come_first_then_what_lists_the_markets(ranks: tuple[int, ...]) -> None:
    async def scenario() -> list[int]:
        courtesy, admitted = Courtesy(20.0, 1e6), list[int]()

        async def one(rank: int) -> None:
            await courtesy.admit(first(rank=rank))
            admitted.append(rank)

        async with asyncio.TaskGroup() as group:
            for rank in (*ranks, OTHER):
                group.create_task(one(rank))
        return admitted

    assert asyncio.run(scenario()) == [ACCOUNT, LISTING, OTHER, OTHER]


def test_one_that_is_cancelled_does_not_keep_others_waiting() -> None:
    async def scenario() -> None:
        courtesy = Courtesy(20.0, 1e6)
        waiting = [asyncio.create_task(courtesy.admit(first())) for _ in range(40)]
        await waiting[20]
        for task in waiting[21:39]:
            task.cancel()
        await waiting[39]

    asyncio.run(scenario())


# Refusals


def refuse(courtesy: Courtesy, now: float, times: int, *, answered: bool = True) -> tuple[float, list[float]]:
    """Try and be refused so many times; return the time afterwards, and the waits."""
    waits = []
    for _ in range(times):
        one = Handshake(0, repeated=False)
        waits.append(courtesy.wait(now, one))
        now += waits[-1]
        courtesy.take(now, one)
        courtesy.refused(now, now, answered=answered)
    return now, waits


@pytest.mark.parametrize(("answered", "longest"), [(True, 300.0), (False, 30.0)])
def test_the_time_between_refusals_doubles_up_to_its_maximum(answered: bool, longest: float) -> None:
    courtesy = Courtesy(1e6, 1e6)
    _, waits = refuse(courtesy, 100.0, 15, answered=answered)
    assert waits[0] == 0.0
    for number, wait in enumerate(waits[1:]):
        most = min(longest, 0.5 * 2**number)
        assert most / 2 - 1e-6 <= wait <= most + 1e-6


def test_refusals_of_handshakes_that_began_together_count_once() -> None:
    courtesy = Courtesy(1e6, 1e6)
    for number in range(20):
        courtesy.refused(100.0 + number / 100, 99.0)
    assert courtesy.wait(100.2, Handshake(0, repeated=False)) <= 0.5


def test_an_accepted_handshake_lets_all_others_try_at_once() -> None:
    courtesy = Courtesy(1e6, 1e6)
    now, _ = refuse(courtesy, 100.0, 15)
    courtesy.accepted(now)
    assert courtesy.wait(now, Handshake(0, repeated=False)) == 0.0


def test_a_refusal_right_after_an_accepted_handshake_waits_half_as_long_as_before() -> None:
    courtesy = Courtesy(1e6, 1e6)
    now, _ = refuse(courtesy, 100.0, 15)
    courtesy.accepted(now)
    now, _ = refuse(courtesy, now + 59.0, 1)
    assert 75.0 <= courtesy.wait(now, Handshake(0, repeated=False)) <= 150.0


def test_a_refusal_a_minute_after_an_accepted_handshake_begins_anew() -> None:
    courtesy = Courtesy(1e6, 1e6)
    now, _ = refuse(courtesy, 100.0, 15)
    courtesy.accepted(now)
    now, _ = refuse(courtesy, now + 60.0, 1)
    assert courtesy.wait(now, Handshake(0, repeated=False)) <= 0.5


def test_refusals_do_not_delay_who_was_well_afterwards() -> None:
    """As long as it is not known that they are refused too."""
    courtesy = Courtesy(1e6, 1e6)
    now, _ = refuse(courtesy, 100.0, 15)
    assert courtesy.wait(now + 2.0, Handshake(0, well_at=now + 1.0, repeated=False)) == 0.0
    courtesy.refused(now + 2.0, now + 2.0)
    assert courtesy.wait(now + 2.0, Handshake(0, well_at=now + 1.0, repeated=False)) > 100.0


# Retry-After


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("20", 20.0),
        (" 20 ", 20.0),
        ("0", 0.0),
        ("1.5", 1.5),
        ("-5", 0.0),
        ("nan", 0.0),
        ("inf", 86_400.0),
        ("Thu, 01 Jan 2026 00:00:40 GMT", 40.0),
        ("Thu, 01 Jan 2026 00:00:40 +0000", 40.0),
        ("Wed, 31 Dec 2025 23:00:00 GMT", 0.0),
        ("Thursday, 01-Jan-26 00:00:40 GMT", 40.0),
        ("Thu Jan  1 00:00:40 2026", 40.0),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_has_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    headers = Headers() if value is None else Headers({"Retry-After": value})
    assert asked_to_wait(headers, 1_767_225_600.0) == seconds


def test_a_date_is_compared_with_the_clock_of_the_server() -> None:
    asked = {"Retry-After": formatdate(5000, usegmt=True)}
    assert asked_to_wait(Headers(asked, Date=formatdate(4970, usegmt=True)), 1_767_225_600.0) == 30.0
    assert asked_to_wait(Headers(asked, Date="broken"), 4990.0) == 10.0


def test_of_several_headers_the_longest_wait_counts() -> None:
    headers = Headers([("Retry-After", "soon"), ("retry-after", "20"), ("Retry-After", "5")])
    assert asked_to_wait(headers, 1_767_225_600.0) == 20.0
    several = [("Retry-After", formatdate(5000, usegmt=True)), ("Date", "?")]
    clock = ("Date", formatdate(4970, usegmt=True))
    assert asked_to_wait(Headers([*several, clock, clock]), 1_767_225_600.0) == 30.0


# In a steady state, whatever the exchange does


Exchange = Callable[[int, float], tuple[Ended, float] | None]
"""What becomes of handshake number n at a time: how its session ends, and after how long; None: refused."""


def handshakes_of(connectors: int, exchange: Exchange, *, until: float) -> list[float]:
    """Return when handshakes are made by so many connectors with the default settings."""
    config = ExchangeConfig()
    courtesy, now = Courtesy.of(config), 1000.0
    ready = []  # when each connector wants to connect, and its number
    retrying = []
    for number in range(connectors):
        courtesy.enter()
        retrying.append(Retrying(config, OTHER, now))
        ready.append((now, number))
    made: list[float] = []
    while True:
        now, number = heapq.heappop(ready)
        if now >= 1000.0 + until:
            return made
        one = retrying[number]
        wait = courtesy.wait(now, one.handshake(1))
        if wait > 0:
            heapq.heappush(ready, (now + wait + 1e-6, number))
            continue
        courtesy.take(now, one.handshake(1))
        one.tried()
        made.append(now - 1000.0)
        result = exchange(len(made), now)
        if result is None:
            courtesy.refused(now, now)
            ended = Ended("refused", "HTTP 403", opened=False)
            heapq.heappush(ready, (now + one.ended(ended, now, None), number))
        else:
            courtesy.accepted(now)
            ended, life = result
            heapq.heappush(ready, (now + life + one.ended(ended, now + life, now), number))


def closing(after: float, *, overloaded: bool = False) -> Exchange:
    """Return an exchange that closes each session after a time."""
    return lambda number, now: (Ended("closed", "", overloaded=overloaded), after)


def capped(connections: int) -> Exchange:
    """Return an exchange that accepts so many connections, for an hour each, and refuses all others."""
    ends: list[float] = []

    def exchange(number: int, now: float) -> tuple[Ended, float] | None:
        ends[:] = [end for end in ends if end > now]
        if len(ends) >= connections:
            return None
        ends.append(now + HOUR)
        return Ended("closed", ""), HOUR

    return exchange


@pytest.mark.parametrize("connectors", [1, 2, 10, 71])
@pytest.mark.parametrize(
    "exchange",
    [
        pytest.param(lambda number, now: None, id="refuses all"),
        pytest.param(closing(0.2), id="closes after the snapshot"),
        pytest.param(closing(0.2, overloaded=True), id="closes with 1013"),
        pytest.param(closing(20.0), id="closes after 20 s"),
        pytest.param(closing(61.0), id="closes after a minute"),
        pytest.param(closing(100.0), id="closes after 100 s"),
        pytest.param(
            lambda number, now: (Ended("closed", ""), 5.0) if number % 2 else None, id="refuses every other"
        ),
        pytest.param(lambda number, now: (Ended("rejected", ""), 0.2), id="refuses the login"),
    ],
)
def test_in_a_steady_state_there_is_at_most_one_handshake_in_10_s(
    exchange: Exchange, connectors: int
) -> None:
    made = handshakes_of(connectors, exchange, until=4500.0)
    steady = [moment for moment in made if moment > 1500.0]
    assert len(steady) <= 3000 / 10 + 1


@pytest.mark.parametrize("connections", [0, 1, 3, 10, 70])
def test_over_a_cap_of_connections_handshakes_become_rare(connections: int) -> None:
    made = handshakes_of(71, capped(connections), until=2400.0)
    assert len([moment for moment in made if moment > 600.0]) <= 1800 / 100


def test_all_sessions_are_opened_again_without_delay_after_a_cut_of_all() -> None:
    """Even if it is the third within ten minutes, each after less than a minute."""
    cuts = [50.0, 300.0, 350.0]

    def exchange(number: int, now: float) -> tuple[Ended, float]:
        since = now - 1000.0
        return Ended("closed", ""), next((cut - since for cut in cuts if cut > since), HOUR)

    made = handshakes_of(71, exchange, until=1000.0)
    assert len(made) == 71 * 4
    for cut in cuts:
        back = [moment for moment in made if cut <= moment < cut + 45.0]
        assert len(back) == 71


def test_all_sessions_are_opened_soon_after_an_outage_in_which_everything_was_refused() -> None:
    well_at = 1000.0 + 1200.0
    made = handshakes_of(
        71, lambda number, now: None if now < well_at else (Ended("closed", ""), HOUR), until=2000.0
    )
    opened = [moment for moment in made if moment >= 1200.0]
    assert len(opened) == 71
    assert opened[0] <= 1200.0 + 300.0
    assert opened[-1] - opened[0] <= 71 * 0.25 + 1.0


# Full hours


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
