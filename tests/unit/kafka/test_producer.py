"""A producer that cannot be started fails with an error of Kafka, whatever the library raises."""

import asyncio

import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaConnectionError

from bridge.config import KafkaConfig
from bridge.kafka.producer import open_producer


def test_a_producer_that_starts_while_the_last_broker_goes_is_a_failure_of_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The client has connected, and its metadata then names no broker any more."""

    async def connected(client: AIOKafkaClient) -> None:
        """Connect to nothing."""

    monkeypatch.setattr(AIOKafkaClient, "bootstrap", connected)
    config = KafkaConfig.model_validate({"bootstrap_servers": "127.0.0.1:1"})

    async def opened() -> None:
        async with asyncio.timeout(60):
            await open_producer(config, "bridge/0")

    with pytest.raises(KafkaConnectionError, match="no broker known"):
        asyncio.run(opened())
