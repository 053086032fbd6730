"""Which partitions are suspected to have a hanging transaction, when they are looked at, and what ends it."""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaTimeoutError
from structlog.testing import capture_logs

from bridge.config import KafkaConfig
from bridge.kafka import hanging
from bridge.kafka.hanging import Suspects
from bridge.kafka.topics import Topic

TRADES = [TopicPartition("trades", number) for number in range(2)]
EVENTS = TopicPartition("events", 0)
TOPICS = {
    "trades": Topic("trades", 2, 1000),
    "events": Topic("events", 1, 1000),
    "state": Topic("state", 1, 1000),
}
Places = dict[TopicPartition, tuple[int, int]]


@dataclass
class Kafka:
    """Partitions as they are seen, one view after another, the last one again and again; and what ends them.

    Each has no open transaction, unless the view says where it begins and where the partition ends.
    """

    views: list[Places] = field(default_factory=lambda: [{}])
    without_a_leader: set[TopicPartition] = field(default_factory=set)
    looks: list[set[TopicPartition]] = field(default_factory=list)
    ends: list[tuple[list[TopicPartition], bool]] = field(default_factory=list)
    is_available: bool = True
    answers: int = 0

    @asynccontextmanager
    async def looking(self) -> AsyncIterator[Any]:
        async def look(places: Collection[TopicPartition]) -> Places:
            self.looks.append(set(places))
            view = self.views.pop(0) if len(self.views) > 1 else self.views[0]
            return {place: view.get(place, (9, 9)) for place in places if place not in self.without_a_leader}

        yield look

    async def end_without_records(self, places: Collection[TopicPartition], *, commit: bool) -> None:
        if not self.is_available:
            raise KafkaTimeoutError("no response")
        self.ends.append((sorted(places), commit))

    def suspects(self, **keys: float) -> Suspects:
        state: Any = SimpleNamespace(shard=0, topic=TOPICS["state"])
        return Suspects(KafkaConfig().model_copy(update=keys), state, self.looking)

    def end(self, suspects: Suspects, *views: Places) -> Sequence[tuple[list[TopicPartition], bool]]:
        """Open a producer while partitions are like this; return which ends are written."""
        self.looks, self.ends, self.views = [], [], [*views]
        batches: Any = self
        asyncio.run(suspects.end(batches, TOPICS, self._answer))
        return self.ends

    def _answer(self) -> None:
        self.answers += 1


@pytest.fixture
def kafka() -> Kafka:
    return Kafka()


@pytest.fixture
def suspects(kafka: Kafka) -> Suspects:
    """Return those of a process that has looked at all partitions, and committed to some from offset 5 on."""
    known = kafka.suspects()
    assert not kafka.end(known, {})
    known.committed({EVENTS: 5, TRADES[1]: 5})
    return known


def test_a_process_looks_at_each_partition_of_data_once_if_nothing_is_open(kafka: Kafka) -> None:
    suspects = kafka.suspects()
    assert suspects.follow(TOPICS)
    assert not kafka.end(suspects, {})
    assert kafka.looks == [{*TRADES, EVENTS}]
    assert not suspects.follow(TOPICS)
    assert not kafka.end(suspects, {EVENTS: (5, 9)})
    assert not kafka.looks


def test_what_is_open_at_the_first_look_is_committed_without_a_wait(kafka: Kafka) -> None:
    assert kafka.end(kafka.suspects(), {EVENTS: (5, 9)}) == [([EVENTS], True)]
    assert len(kafka.looks) == 1


def test_a_failure_makes_its_partitions_suspected_and_those_committed_to_before(
    kafka: Kafka, suspects: Suspects
) -> None:
    """In one of the latter the end of a confirmed transaction may be missing."""
    suspects.failed({TRADES[1]: 7})
    assert kafka.end(suspects, {EVENTS: (5, 9), TRADES[1]: (7, 9)}) == [
        ([EVENTS], True),
        ([TRADES[1]], False),
    ]
    assert kafka.looks == [{EVENTS, TRADES[1]}]


def test_a_failure_without_a_transaction_makes_nothing_suspected(kafka: Kafka, suspects: Suspects) -> None:
    suspects.failed({})
    assert not suspects.follow(TOPICS)
    assert not suspects.sent


def test_a_partition_is_looked_at_when_its_leader_is_back(kafka: Kafka, suspects: Suspects) -> None:
    gone = {**TOPICS, "trades": replace(TOPICS["trades"], leaderless=frozenset({1}))}
    assert not suspects.follow(gone)
    assert suspects.follow(TOPICS)
    assert kafka.end(suspects, {TRADES[1]: (5, 9)}) == [([TRADES[1]], True)]
    assert kafka.looks == [{TRADES[1]}]


def test_a_partition_whose_leader_is_gone_again_stays_suspected(kafka: Kafka, suspects: Suspects) -> None:
    suspects.failed({TRADES[1]: 7})
    kafka.without_a_leader = {TRADES[1]}
    assert not kafka.end(suspects, {})
    kafka.without_a_leader = set()
    assert kafka.end(suspects, {TRADES[1]: (7, 9)}) == [([TRADES[1]], False)]


def test_a_partition_stays_suspected_if_its_end_could_not_be_written(
    kafka: Kafka, suspects: Suspects
) -> None:
    suspects.failed({TRADES[1]: 7})
    kafka.is_available = False
    with pytest.raises(KafkaTimeoutError):
        kafka.end(suspects, {TRADES[1]: (7, 9)})
    kafka.is_available = True
    assert kafka.end(suspects, {TRADES[1]: (7, 9)}) == [([TRADES[1]], False)]


@pytest.mark.parametrize("is_first", [True, False])
def test_an_end_that_is_lost_too_is_written_again(kafka: Kafka, suspects: Suspects, is_first: bool) -> None:
    """As where the leader was lost again before it was written."""
    suspects = kafka.suspects() if is_first else suspects
    suspects.failed({TRADES[0]: 7})
    hangs = {TRADES[0]: (7, 9)}
    assert kafka.end(suspects, hangs) == [([TRADES[0]], is_first)]
    assert suspects.follow(TOPICS)
    assert kafka.end(suspects, hangs) == [([TRADES[0]], is_first)]


def test_what_was_open_when_an_end_was_written_again_needs_that_end(kafka: Kafka, suspects: Suspects) -> None:
    suspects.failed({TRADES[0]: 7})
    for hangs in ((7, 9), (7, 12), (10, 14)):
        assert kafka.end(suspects, {TRADES[0]: hangs}) == [([TRADES[0]], False)]
    assert not kafka.end(suspects, {TRADES[0]: (14, 15)})


@pytest.mark.parametrize("after", [{}, {TRADES[0]: (9, 12)}])
def test_an_end_that_is_seen_is_not_written_again(kafka: Kafka, suspects: Suspects, after: Places) -> None:
    """Whatever others have open behind it."""
    suspects.failed({TRADES[0]: 7})
    kafka.end(suspects, {TRADES[0]: (7, 9)})
    assert not kafka.end(suspects, after)
    assert kafka.looks
    assert not suspects.follow(TOPICS)


def test_what_was_open_at_the_first_look_and_has_its_end_decides_nothing_later(kafka: Kafka) -> None:
    suspects = kafka.suspects()
    kafka.end(suspects, {TRADES[0]: (5, 9)})
    suspects.failed({TRADES[0]: 10})
    assert kafka.end(suspects, {TRADES[0]: (10, 12)}) == [([TRADES[0]], False)]


@pytest.mark.parametrize("may_last", [True, False])
@pytest.mark.parametrize("is_first", [True, False])
def test_one_that_stays_open_for_longer_than_any_may_is_reported_once_and_holds_nothing_up(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch, is_first: bool, may_last: bool
) -> None:
    monkeypatch.setattr(hanging, "_TO_TIME_OUT", 0.0)
    suspects = kafka.suspects(transaction_timeout=1000.0 if may_last else 0.0)
    if not is_first:
        kafka.end(suspects, {})
    with capture_logs() as lines:
        for _ in range(4):
            suspects.failed({TRADES[0]: 7})
            assert kafka.end(suspects, {TRADES[0]: (7, 9)})
    assert suspects.follow(TOPICS) == may_last
    warnings = [line for line in lines if line["log_level"] == "warning"]
    assert [(line["partition"], line["offset"]) for line in warnings] == [("trades/0", 7)] * (not may_last)
    assert all("kafka-transactions.sh find-hanging" in line["detail"] for line in warnings)


def test_a_partition_in_which_one_after_another_is_open_is_not_reported(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hanging, "_TO_TIME_OUT", 0.0)
    suspects = kafka.suspects(transaction_timeout=0.0)
    with capture_logs() as lines:
        for begin in range(4):
            assert kafka.end(suspects, {TRADES[0]: (begin, 9)})
    assert {line["log_level"] for line in lines} == {"info"}


def test_another_one_that_hides_whether_the_last_one_hangs_is_waited_for(
    kafka: Kafka, suspects: Suspects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suspects, "_patience", 60.0)
    monkeypatch.setattr(hanging, "_POLL", 0.0)
    suspects.failed({TRADES[1]: 7})
    hidden, seen = {TRADES[1]: (3, 9)}, {TRADES[1]: (7, 9)}
    kafka.answers = 0
    assert kafka.end(suspects, hidden, hidden, seen) == [([TRADES[1]], False)]
    assert kafka.answers == 4  # three looks, and an end


def test_it_is_waited_for_while_others_may_go_on_and_then_what_hangs_counts_as_committed(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hanging, "_OTHERS", 0.0)
    monkeypatch.setattr(hanging, "_POLL", 0.05)
    suspects = kafka.suspects(commit_interval=0.1)
    kafka.end(suspects, {})
    suspects.committed({TRADES[1]: 5})
    suspects.failed({TRADES[1]: 7})
    assert kafka.end(suspects, {TRADES[1]: (3, 9)}) == [([TRADES[1]], True)]
    assert len(kafka.looks) > 1
