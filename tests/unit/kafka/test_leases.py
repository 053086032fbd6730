"""A shard is confirmed by a request that may outlive the wait for it."""

import asyncio
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError

from bridge.config import KafkaConfig
from bridge.kafka import leases
from bridge.kafka.leases import Leases
from bridge.watch.metrics import Metrics
from tests.support.clusters import cluster_of


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
