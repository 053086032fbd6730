"""A partition to which only one process writes is read again only where somebody else has written."""

import asyncio
from collections.abc import Collection
from types import SimpleNamespace
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.cluster import ClusterMetadata
from aiokafka.errors import KafkaError, KafkaTimeoutError
from aiokafka.protocol.metadata import MetadataResponse_v1

from bridge.config import KafkaConfig
from bridge.kafka import client, reader
from bridge.kafka.reader import Follower, Read


class Log:
    """Stands in for a partition: each record is whoever has written it; "marker" ends a transaction."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, marked: bool) -> None:
        self.records: list[str] = ["before"] * 5
        self.read: list[str] = []  # what was read, in order
        self.follower = Follower("state", 0, marked=marked)
        self._marked = marked
        self.uncommitted = 0  # records at the end whose transaction is open
        monkeypatch.setattr(reader, "read", self._read)
        monkeypatch.setattr(reader, "_end", self._end)
        self.look()

    async def _read(
        self, _one: object, _topic: str, offsets: dict[int, int | None], _begun: object = None
    ) -> dict[int, Read]:
        end = len(self.records) - self.uncommitted
        self.read += self.records[offsets[0] or 0 : end]
        return {0: Read({}, {}, end)}

    async def _end(self, *_: object) -> int:
        return len(self.records)

    def look(self) -> list[str]:
        """Read on, and return what was read."""
        self.read = []
        asyncio.run(self.follower.read_on(cast("AIOKafkaConsumer", None)))
        return self.read

    def disturbed(self) -> bool:
        """Return whether it is known that somebody else has written."""
        return self.follower.disturbed

    def save(self, *batches: int, between: int = 0) -> None:
        """Save in these batches; somebody else writes so many records behind the first one."""
        places = []
        for number in batches:
            places.append((len(self.records), number))
            self.records += ["own"] * number + ["other"] * between
            between = 0
        if self._marked:
            self.records.append("marker")
        self.follower.skip(places)


@pytest.mark.parametrize("marked", [True, False])
def test_what_was_saved_from_here_is_not_read(monkeypatch: pytest.MonkeyPatch, marked: bool) -> None:
    log = Log(monkeypatch, marked=marked)
    for batches in ((1,), (3, 2), (7,)):
        log.save(*batches)
        assert not log.disturbed()
    assert log.look() == []


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("marked", [True, False])
def test_what_somebody_else_writes_between_two_saves_is_noticed_and_read(
    monkeypatch: pytest.MonkeyPatch, marked: bool, number: int
) -> None:
    log = Log(monkeypatch, marked=marked)
    log.save(2)
    log.records += ["other"] * number
    log.save(2)
    assert log.disturbed()
    log.save(1)
    assert log.look().count("other") == number
    assert not log.disturbed()
    log.save(1)
    assert log.look() == []


@pytest.mark.parametrize("marked", [True, False])
def test_what_somebody_else_writes_within_a_save_is_noticed(
    monkeypatch: pytest.MonkeyPatch, marked: bool
) -> None:
    """One record at the place of which a marker could be."""
    log = Log(monkeypatch, marked=marked)
    log.save(2, 2, between=1)
    assert log.disturbed()
    assert log.look().count("other") == 1


@pytest.mark.parametrize("marked", [True, False])
def test_a_save_that_was_read_already_is_not_skipped_again(
    monkeypatch: pytest.MonkeyPatch, marked: bool
) -> None:
    """As after a commit whose response was lost."""
    log = Log(monkeypatch, marked=marked)
    first = len(log.records)
    log.records += ["own"] * 2 + ["marker"] * marked
    log.look()
    log.follower.skip([(first, 2)])
    log.save(1)
    assert not log.disturbed()
    assert log.look() == []


def test_a_partition_that_has_lost_records_is_read_from_its_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = Log(monkeypatch, marked=True)
    log.records = ["new"] * 2
    log.look()
    assert log.follower.has_lost
    assert log.read == ["new"] * 2


def test_records_whose_marker_is_missing_again_are_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their commit was confirmed, and the broker that had to write the marker has died."""
    log = Log(monkeypatch, marked=True)
    log.save(2)
    log.uncommitted = 3
    assert log.look() == []
    assert not log.follower.has_lost
    log.uncommitted = 0
    log.records += ["other"]
    assert log.look() == ["other"]


def test_a_consumer_that_does_not_start_in_time_is_an_error_of_kafka(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is tried again; another one would end the bridge."""

    async def start(_consumer: AIOKafkaConsumer) -> None:
        await asyncio.Event().wait()

    async def opened() -> None:
        async with reader.consumer(KafkaConfig()):
            pass

    monkeypatch.setattr(AIOKafkaConsumer, "start", start)
    monkeypatch.setattr(reader, "_PATIENCE", 0.01)
    with pytest.raises(KafkaTimeoutError, match="no response"):
        asyncio.run(opened())


class Unled:
    """A consumer whose cluster has a leader of partition 0 of each topic alone."""

    def __init__(self, *, answers: bool) -> None:
        self._answers = answers
        self.asked: list[set[str]] = []  # topics that metadata was asked for
        self._client = SimpleNamespace(set_topics=self._set_topics, cluster=ClusterMetadata())
        self._fetcher = SimpleNamespace(_isolation_level=1)

    async def _set_topics(self, topics: set[str]) -> bool:
        self.asked.append(topics)
        places = [(0, 0, 1, [1], [1]), (5, 1, -1, [2], [])]
        answer = MetadataResponse_v1(
            [(1, "kafka", 9092, None)], 1, [(0, one, False, places) for one in topics]
        )
        self._client.cluster.update_metadata(answer)
        return True

    async def end_offsets(self, places: Collection[TopicPartition]) -> dict[TopicPartition, int]:
        if not self._answers:
            await asyncio.Event().wait()
        return dict.fromkeys(places, 9 - self._fetcher._isolation_level)


def test_a_look_asks_for_all_topics_at_once_and_leaves_out_what_has_no_leader() -> None:
    one: Any = Unled(answers=True)
    places = [TopicPartition(topic, number) for topic in ("a", "b") for number in range(2)]
    assert asyncio.run(reader._look(one, places)) == dict.fromkeys(places[::2], (8, 9))
    assert one.asked == [{"a", "b"}]


def test_a_look_without_an_answer_names_the_partitions_and_the_way_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader, "_PATIENCE", 0.01)
    monkeypatch.setattr(client, "trouble", lambda _: "kafka:9092: refused")
    one: Any = Unled(answers=False)
    named = (
        r"no end of a, partition 0 and 1 more partitions: cannot connect to kafka:9092: refused \(the brokers"
    )
    with pytest.raises(KafkaError, match=named):
        asyncio.run(reader._look(one, [TopicPartition("b", 0), TopicPartition("a", 0)]))
