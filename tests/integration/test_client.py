"""aiokafka on uvloop, corrected: connections that end, and clients that are closed."""

import asyncio

import pytest
import uvloop
from aiokafka.conn import AIOKafkaConnection, AIOKafkaProtocol
from aiokafka.errors import IncompatibleBrokerVersion, KafkaConnectionError
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.metadata import MetadataRequest

from bridge.kafka import quirks


def test_a_write_to_a_connection_that_was_just_closed_is_a_connection_error() -> None:
    """On uvloop it is a RuntimeError otherwise, which ends aiokafka's background tasks."""

    async def scenario() -> None:
        quirks.apply()
        loop = asyncio.get_running_loop()
        async with await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            connection = AIOKafkaConnection(host, port)
            connection._closed_fut = loop.create_future()
            reader = asyncio.StreamReader()
            protocol = AIOKafkaProtocol(connection._closed_fut, reader, loop=loop)
            transport, _ = await loop.create_connection(lambda: protocol, host, port)
            connection._writer = asyncio.StreamWriter(transport, protocol, reader, loop)
            connection._protocol = protocol
            connection._versions = {MetadataRequest.API_KEY: (0, 5)}
            with pytest.raises(IncompatibleBrokerVersion):
                await connection.send(DescribeGroupsRequest(["a request of an unknown version"]))
            transport.abort()
            await connection._closed_fut
            with pytest.raises(KafkaConnectionError, match=str(port)):
                await connection.send(MetadataRequest([]))
            assert not connection.connected()

    uvloop.run(scenario())


@pytest.mark.parametrize("error", [RuntimeError("the handler is closed"), KafkaConnectionError("closed")])
def test_closing_a_client_does_not_raise_its_earlier_error(error: Exception) -> None:
    async def fail() -> None:
        raise error

    async def scenario() -> None:
        await quirks.wait_closed(fail())

    uvloop.run(scenario())


def test_closing_a_client_ends_even_if_a_cancellation_was_lost() -> None:
    async def scenario() -> None:
        await quirks.wait_closed(_forever())

    async def _forever() -> None:
        await asyncio.Event().wait()

    uvloop.run(scenario())
