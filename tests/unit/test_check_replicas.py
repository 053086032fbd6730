"""`check --replicas` asks each running replica, and prints what it waits for."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
import uvloop

from bridge.check.replicas import check_replicas
from bridge.watch.endpoints import Endpoints
from bridge.watch.metrics import Metrics
from bridge.watch.readiness import Readiness
from tests.support.kafka_broker import free_ports


class Replica:
    """One that misses this."""

    def __init__(self, missing: Mapping[str, Any]) -> None:
        self._missing = dict(missing)

    def readiness(self) -> Readiness:
        return Readiness(self._missing)

    def status(self, session: str | None) -> None:
        """Never asked for."""


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ({}, "ready"),
        (
            {
                "spool": "/var/lib: Permission denied",
                "sessions": [{"cause": "refused", "number": 3, "names": ["order of BTC"]}],
            },
            "not ready: spool: /var/lib: Permission denied; sessions: refused (3)",
        ),
    ],
)
def test_each_replica_is_asked_what_it_waits_for(missing: Mapping[str, Any], line: str) -> None:
    said: list[str] = []

    async def scenario() -> tuple[bool, int]:
        async with Endpoints("127.0.0.1", 0, Metrics().registry, Replica(missing)) as replica:
            return await check_replicas(f"127.0.0.1:{replica.port}", said.append), replica.port

    ready, port = uvloop.run(scenario())
    assert (ready, said) == (not missing, [f"replicas at 127.0.0.1:{port}", f"  127.0.0.1: {line}"])


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("no-such-host.invalid:9464", "no-such-host.invalid cannot be found: "),
        ("127.0.0.1:http", "127.0.0.1:http is not HOST:PORT"),
        ("127.0.0.1", "127.0.0.1 is not HOST:PORT"),
        ("[::1", "[::1 is not HOST:PORT"),
        ("[::1]:{free}", "::1: not ready: no response: "),
        ("127.0.0.1:{free}", "127.0.0.1: not ready: no response: "),
    ],
)
def test_replicas_that_cannot_be_asked_are_not_ready(place: str, words: str) -> None:
    said: list[str] = []
    (port,) = free_ports(1)
    assert not uvloop.run(check_replicas(place.format(free=port), said.append))
    assert said[1].startswith(f"  {words}")


@pytest.mark.parametrize("body", ['{"missing":"x"}', "[]", "no JSON", "[" * 60_000, '{"missing":{"a":[1]}}'])
def test_an_answer_that_is_not_one_of_the_bridge_is_shown_by_its_status(body: str) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 503 Busy\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        writer.close()

    async def scenario() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            assert not await check_replicas(f"127.0.0.1:{port}", said.append)

    said: list[str] = []
    uvloop.run(scenario())
    assert said[1] == "  127.0.0.1: not ready: HTTP 503"
