"""Why a broker cannot be used is said in words, whatever the connection fails with; on real sockets."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import uvloop
from aiokafka.errors import KafkaError

from bridge.config import KafkaConfig
from bridge.kafka.client import admin, in_words
from bridge.network import Loop
from tests.support.certificates import THIS_HOST, make_certificates
from tests.support.hostile_broker import HostileBroker
from tests.support.relays import Relay

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def refusal(address: str, **keys: str) -> str:
    """Return why a client cannot use what listens at an address."""
    with pytest.raises(KafkaError) as caught:
        async with admin(KafkaConfig.model_validate({"bootstrap_servers": address, **keys})):
            pass
    return in_words(caught.value)


def words_about(handle: Handle, **keys: str) -> str:
    """Return why a client cannot use a server that handles connections so."""

    async def scenario() -> str:
        async with await asyncio.start_server(handle, "127.0.0.1", 0) as server:
            return await refusal(f"localhost:{server.sockets[0].getsockname()[1]}", **keys)

    return uvloop.run(scenario(), loop_factory=Loop)


async def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


def say(answer: bytes) -> Handle:
    """Return what says something at once."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        with suppress(ConnectionError):
            await reader.read()
        writer.close()

    return handle


@pytest.mark.parametrize(
    ("handle", "protocol", "words"),
    [
        (
            close,
            "PLAINTEXT",
            "connection closed without an answer: it may want TLS or SASL (change kafka.sec",
        ),
        (close, "SSL", "closed during the TLS handshake: the broker may not use TLS (change kafka.security_"),
        (say(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "PLAINTEXT", "an answer in HTTP, not of a Kafka broker"),
        (
            say(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
            "SSL",
            "no answer in TLS (change kafka.security_protocol)",
        ),
        (say(b"\x15\x03\x03\x00\x02\x02\x46"), "PLAINTEXT", "an answer in TLS, which is not configured"),
        (
            say(b"SSH-2.0-OpenSSH_9.2\r\n"),
            "PLAINTEXT",
            "a response of 1397966893 bytes, 104857600 are accepted",
        ),
        (say(b"\0\0\0\1\0"), "PLAINTEXT", "no answer of a Kafka broker"),
    ],
)
def test_a_server_that_is_not_what_is_configured_is_named(handle: Handle, protocol: str, words: str) -> None:
    assert words in words_about(handle, security_protocol=protocol)


@pytest.mark.parametrize(
    ("names", "days", "words"),
    [
        (THIS_HOST, -1, "the broker's certificate is not valid now: certificate has expired"),
        ("DNS:other.example.com", 2, "the broker's certificate is for another host: "),
    ],
)
def test_what_is_wrong_with_the_brokers_certificate_is_named(
    tmp_path: Path, names: str, days: int, words: str
) -> None:
    authority, keystore = make_certificates(tmp_path, names=names, days=days)

    async def scenario() -> str:
        async with HostileBroker().listening() as address:
            with Relay(target=int(address.rpartition(":")[2]), keystore=keystore) as relay:
                keys = {"security_protocol": "SSL", "ssl_cafile": str(authority)}
                return await refusal(f"localhost:{relay.port}", **keys)

    assert words in uvloop.run(scenario(), loop_factory=Loop)
