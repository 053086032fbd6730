"""Each time in which Kafka takes no records is a pair of log lines; what passes in a moment is none."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from bridge.kafka.outage import Outage

Lines = list[MutableMapping[str, Any]]


class Clock:
    """The monotonic clock of the tests."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("bridge.kafka.outage.time", clock)
    return clock


@pytest.fixture
def lines() -> Iterator[Lines]:
    with capture_logs() as lines:
        yield lines


def test_an_outage_is_logged_once_and_so_is_its_end_with_how_many_have_waited(
    clock: Clock, lines: Lines
) -> None:
    outage = Outage(3, "no response yet")
    outage.end()
    for second, waiting in enumerate([10, 500, 12_000, 11_000]):
        clock.now = 100.0 + second
        outage.begin("broker gone")
        outage.look(outage.trouble, waiting, silence=0.0)
    clock.now = 160.0
    outage.end()
    assert [(line["event"], line["shard"], line["log_level"]) for line in lines] == [
        ("Kafka unavailable, retrying", 3, "warning"),
        ("Kafka available again", 3, "warning"),
    ]
    assert (lines[0]["error"], lines[0]["waiting"]) == ("broker gone", 500)
    assert (lines[1]["seconds"], lines[1]["waited"]) == (60.0, 12_000)


def test_what_is_over_before_the_next_look_is_no_outage(clock: Clock, lines: Lines) -> None:
    outage = Outage(0, "no response yet")
    outage.end()
    outage.begin("another leader")
    outage.look(outage.trouble, 1, silence=0.0)
    clock.now += 0.5
    outage.end()
    outage.look(outage.trouble, 0, silence=0.0)
    assert lines == []


def test_a_takeover_that_takes_its_time_is_no_outage(clock: Clock, lines: Lines) -> None:
    outage = Outage(0, "no response yet")
    for _ in range(20):
        clock.now += 1.0
        outage.look(outage.trouble, 0, silence=0.0)
    outage.end()
    assert lines == []


def test_an_error_before_the_first_record_is_an_outage(clock: Clock, lines: Lines) -> None:
    outage = Outage(0, "no response yet")
    outage.begin("ACL missing")
    clock.now += 1.0
    outage.look(outage.trouble, 0, silence=0.0)
    outage.end()
    assert [line["event"] for line in lines] == ["Kafka unavailable, retrying", "Kafka available again"]


def test_a_silence_counts_from_its_begin_and_ends_with_a_response(clock: Clock, lines: Lines) -> None:
    outage = Outage(0, "no response yet")
    outage.end()
    outage.look("no response for 5 s", 7, silence=5.0)
    clock.now += 3.0
    outage.look(None, 9, silence=0.0)
    assert [(line["event"], line.get("seconds")) for line in lines] == [
        ("Kafka unavailable, retrying", None),
        ("Kafka available again", 8.0),
    ]


def test_two_outages_are_two_pairs(clock: Clock, lines: Lines) -> None:
    outage = Outage(0, "no response yet")
    for waiting in (70, 5):
        outage.begin("broker gone")
        clock.now += 2.0
        outage.look(outage.trouble, waiting, silence=0.0)
        outage.end()
    assert [line.get("waited") for line in lines] == [None, 70, None, 5]
