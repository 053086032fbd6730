"""A shard is confirmed by a request that may outlive the wait for it."""

import asyncio
import random
import time
from dataclasses import replace
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import GroupAuthorizationFailedError, KafkaConnectionError, KafkaTimeoutError
from structlog.testing import capture_logs

from bridge.config import KafkaConfig
from bridge.kafka import cluster, leases
from bridge.kafka.leases import Leases
from bridge.kafka.looking import View
from bridge.kafka.topics import Topic
from bridge.records import STATE
from bridge.watch.metrics import Metrics
from tests.support.clusters import cluster_of
from tests.support.waiting import soon


def test_a_confirmation_that_fails_after_the_wait_for_it_leaves_no_error_unread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As aiokafka does it: the request goes on when the wait is cancelled, and fails when the broker goes."""
    unread: list[dict[str, Any]] = []
    broker_goes: list[asyncio.Future[None]] = []

    async def request() -> None:
        broker_goes.append(asyncio.get_running_loop().create_future())
        await broker_goes[0]

    async def commit(consumer: AIOKafkaConsumer, offsets: object) -> None:
        await asyncio.shield(request())

    async def confirmed() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unread.append(context))
        config = KafkaConfig.model_validate({"bootstrap_servers": "127.0.0.1:1"})
        lease = Leases(config, cluster_of(), metrics=Metrics(), on_change=lambda: None)
        lease._consumer, lease.shards = lease._member(), frozenset({0})
        with pytest.raises(KafkaTimeoutError, match="no response from consumer group"):
            await lease.is_ours(0, 0.0)
        broker_goes[0].set_exception(KafkaConnectionError("closed"))
        for _ in range(5):
            await asyncio.sleep(0)
        await lease._consumer.stop()

    monkeypatch.setattr(AIOKafkaConsumer, "commit", commit)
    monkeypatch.setattr(leases, "_CONFIRM_TIMEOUT", 0.01)
    asyncio.run(confirmed())
    assert not [one["message"] for one in unread if "never retrieved" in one["message"]]


THERE = Topic("digifinex.bridge-state", 2, 1_000_000, "first")
AGAIN = replace(THERE, id="second")
UNKNOWN = None  # the look fails


@pytest.mark.parametrize("assigned", [[], [TopicPartition(THERE.name, 0)]], ids=["none", "fewer"])
@pytest.mark.parametrize(
    "looks",
    [
        [(THERE, True)],
        [(replace(THERE, missing="deleted"), False), (AGAIN, False), (AGAIN, True)],
        [(UNKNOWN, False), (UNKNOWN, False), (THERE, True)],
        [(UNKNOWN, False), (AGAIN, False), (AGAIN, True)],
    ],
)
def test_an_assignment_of_fewer_shards_is_believed_only_if_bridge_state_was_there(
    monkeypatch: pytest.MonkeyPatch,
    looks: list[tuple[Topic | None, bool]],
    assigned: list[TopicPartition],
) -> None:
    """The group's leader assigns nothing of a topic that it does not see, as when it was deleted."""
    now: Topic | None = THERE

    async def look(*_: object) -> View:
        if now is UNKNOWN:
            raise KafkaConnectionError("no controller")
        return View("cluster", {STATE: now})

    monkeypatch.setattr(cluster, "_LEAST", 0.0)
    monkeypatch.setattr(cluster, "_UNEASY", 0.0)
    monkeypatch.setattr(cluster, "look", look)

    async def scenario() -> None:
        nonlocal now
        view = cluster_of({STATE: THERE})
        watching = asyncio.create_task(view.run())
        lease = Leases(KafkaConfig(shards=2), view, metrics=Metrics(), on_change=lambda: None)
        await lease.on_partitions_assigned([TopicPartition(THERE.name, number) for number in range(2)])
        for topic, believed in looks:
            now = topic
            await lease.on_partitions_assigned(assigned)
            assert lease.shards == (frozenset(range(len(assigned))) if believed else {0, 1})
            assert lease._doubtful is not believed
            lease._doubtful = False
        watching.cancel()
        await asyncio.wait({watching})

    asyncio.run(scenario())


def test_an_assignment_of_fewer_shards_is_not_believed_while_kafka_is_silent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "_WAIT", 0.01)

    async def scenario() -> None:
        view = cluster_of({STATE: THERE})  # at which nobody looks
        lease = Leases(KafkaConfig(shards=2), view, metrics=Metrics(), on_change=lambda: None)
        await lease.on_partitions_assigned([TopicPartition(THERE.name, 0)])
        await lease.on_partitions_assigned([])
        assert lease.shards == frozenset({0})

    asyncio.run(scenario())


def test_who_has_left_the_group_does_not_go_by_an_earlier_confirmation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without transactions nothing else keeps it from writing beside the next owner."""
    monkeypatch.setattr(leases, "_CONFIRM_TIMEOUT", 0.01)

    async def scenario() -> None:
        config = KafkaConfig.model_validate({"bootstrap_servers": "127.0.0.1:1"})
        lease = Leases(config, cluster_of(), metrics=Metrics(), on_change=lambda: None)
        lease.shards, lease._confirmed_at = frozenset({0}), time.monotonic()
        assert await lease.is_ours(0, 1000.0)
        member = asyncio.create_task(lease.run())
        await soon(lease.unavailable, 20, "a failure")
        with pytest.raises(KafkaTimeoutError):
            await lease.is_ours(0, 1000.0)
        member.cancel()
        await asyncio.wait({member})

    asyncio.run(scenario())


def test_a_group_that_cannot_be_joined_is_tried_less_and_less_often_until_it_assigns_shards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kafka takes the connection and denies the group only afterwards. The log has a pair for each outage."""
    lease = Leases(KafkaConfig(), cluster_of(), metrics=Metrics(), on_change=lambda: None)
    waits: list[float] = []  # the most that each wait may take
    asked = asyncio.Event()

    async def works(*_: object) -> None:
        pass

    async def denied(*_: object, **__: object) -> None:
        if len(waits) == 4:
            await lease.on_partitions_assigned([TopicPartition(THERE.name, 0)])
        raise GroupAuthorizationFailedError("group")

    def uniform(_low: float, high: float) -> float:
        waits.append(high)
        if len(waits) == 6:
            asked.set()
        return 0.0

    monkeypatch.setattr(leases, "_POLL_INTERVAL", 0.0)
    monkeypatch.setattr(random, "uniform", uniform)
    monkeypatch.setattr(AIOKafkaConsumer, "start", works)
    monkeypatch.setattr(AIOKafkaConsumer, "pause", lambda *_: None)
    monkeypatch.setattr(AIOKafkaConsumer, "subscribe", lambda *_, **__: None)
    monkeypatch.setattr(AIOKafkaConsumer, "getmany", denied)

    async def scenario() -> None:
        member = asyncio.create_task(lease.run())
        async with asyncio.timeout(20):
            await asked.wait()
        member.cancel()
        await asyncio.wait({member})

    with capture_logs() as log:
        asyncio.run(scenario())
    assert waits[:6] == [0.5, 1, 2, 4, 0.5, 1]
    unavailable = "consumer group unavailable, retrying"
    lines = [(line["event"], line.get("error", "")) for line in log if "group" in line["event"]]
    assert [event for event, _ in lines] == [unavailable, "consumer group available again", unavailable]
    assert all("group" in error for event, error in lines if event == unavailable)
