"""`check --replicas` asks each running replica, and prints what it waits for."""

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
        ("127.0.0.1:http", "127.0.0.1 cannot be found: "),
        ("127.0.0.1", "127.0.0.1 cannot be found: "),
        ("127.0.0.1:{free}", "127.0.0.1: not ready: no response: "),
    ],
)
def test_replicas_that_cannot_be_asked_are_not_ready(place: str, words: str) -> None:
    said: list[str] = []
    (port,) = free_ports(1)
    assert not uvloop.run(check_replicas(place.format(free=port), said.append))
    assert said[1].startswith(f"  {words}")
