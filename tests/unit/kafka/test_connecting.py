"""When a client tries to connect again, and which of its failures are of interest."""

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaTimeoutError, TopicAuthorizationFailedError

from bridge.kafka import client as module
from bridge.kafka.client import explained, explanation
from bridge.kafka.quirks import connection
from bridge.kafka.quirks.connection import Pace, Reach


class Clock:
    """A monotonic clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(connection, "time", clock)
    return clock


def pauses(clock: Clock, number: int, takes: float = 0.0) -> list[float]:
    """Return how long a connection has to wait after each of so many attempts, which all fail."""
    pace, found = Pace(), []
    for _ in range(number):
        assert pace.allows()
        pace.note()
        clock.now += takes
        pace.note_failure()
        since = clock.now
        while not pace.allows():
            clock.now += 0.01
        found.append(clock.now - since)
    return found


def test_attempts_are_made_less_and_less_often_up_to_a_bound(clock: Clock) -> None:
    found = pauses(clock, 20)
    assert 0.05 <= found[0] <= 0.11
    assert all(1.5 <= pause <= 3.01 for pause in found[-10:])
    assert len({round(pause, 1) for pause in found[-10:]}) > 1, "they are spread"


def test_an_attempt_that_takes_long_is_followed_by_a_pause_too(clock: Clock) -> None:
    """Others of the client wait for it, as it opens one connection at a time."""
    assert all(pause >= 0.05 for pause in pauses(clock, 5, takes=9.0))


def test_after_a_while_without_attempts_the_next_pause_is_short_again(clock: Clock) -> None:
    pauses(clock, 1)
    pace = Pace()
    for _ in range(10):
        clock.now += 4
        pace.note()
    clock.now += 11
    pace.note()
    clock.now += 0.2
    assert pace.allows()


def test_a_cause_is_of_interest_until_a_connection_succeeds_or_for_half_a_minute(clock: Clock) -> None:
    """A broker that is not needed is not tried again, so its cause stays."""
    reach = Reach()
    reach.failed("one:9092", "connection refused")
    clock.now += 20
    reach.failed("other:9092", "name not found")
    assert reach.trouble() == "one:9092: connection refused; other:9092: name not found"
    clock.now += 20
    assert reach.trouble() == "other:9092: name not found"
    del reach.causes["other:9092"]
    assert reach.trouble() is None


def test_an_error_is_explained_by_the_connection_only_where_there_was_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    producer = object.__new__(AIOKafkaProducer)
    monkeypatch.setattr(module, "trouble", lambda _: "one:9092: connection refused")
    denied, silence = TopicAuthorizationFailedError("feed"), KafkaTimeoutError("no response")
    assert explanation(silence, producer) == "cannot connect to one:9092: connection refused"
    assert explanation(silence, None) == "no response"
    assert explanation(denied, producer).startswith("ACL missing: Write on topic feed")
    with pytest.raises(TopicAuthorizationFailedError), explained(producer):
        raise denied
