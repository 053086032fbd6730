"""The HTTP endpoints, over a real socket."""

import asyncio
import contextlib
import http.client
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import uvloop

from bridge.errors import ConfigError
from bridge.watch.endpoints import MOST_CONNECTIONS, PATHS, STATUS, Endpoints
from bridge.watch.metrics import Metrics
from bridge.watch.readiness import Readiness
from tests.support.waiting import STRETCH, soon

HOST = "127.0.0.1"


class Subject:
    """A replica that misses this, and has a session "s1"."""

    def __init__(self, missing: Mapping[str, object] | None = None) -> None:
        self.missing = dict(missing or {})

    def readiness(self) -> Readiness:
        return Readiness(self.missing, {"silent": [{"cause": "no list or snapshot", "number": 1}]})

    def status(self, session: str | None) -> Mapping[str, object] | None:
        known: dict[str | None, Mapping[str, object]] = {None: {"sessions": []}, "s1": {"session": "s1"}}
        return known.get(session)


def responses(
    *requests: tuple[str, str],
    headers: Mapping[str, str] | None = None,
    missing: Mapping[str, object] | None = None,
    degraded: Sequence[str] = (),
) -> list[tuple[int, http.client.HTTPMessage, str]]:
    """Return status, headers and body of each request (method, path), each on its own connection."""

    def ask(port: int, method: str, path: str) -> tuple[int, http.client.HTTPMessage, str]:
        connection = http.client.HTTPConnection(HOST, port, timeout=60)
        connection.request(method, path, headers=dict(headers or {}))
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        return response.status, response.headers, body

    async def serve() -> list[tuple[int, http.client.HTTPMessage, str]]:
        async with Endpoints(HOST, 0, Metrics().registry, Subject(missing)) as endpoints:
            return [await asyncio.to_thread(ask, endpoints.port, *request) for request in requests]

    return uvloop.run(serve())


def test_metrics_are_prometheus_text() -> None:
    [(status, headers, body)] = responses(("GET", "/metrics"))
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert headers.get_all("Content-Type") == [headers["Content-Type"]]
    assert "# TYPE digifinex_bridge_frames_total counter" in body


def test_metrics_are_openmetrics_if_the_scraper_accepts_them() -> None:
    accept = "application/openmetrics-text;version=1.0.0;q=0.75,text/plain;version=0.0.4;q=0.5"
    [(status, headers, body)] = responses(("GET", "/metrics"), headers={"Accept": accept})
    assert status == 200
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.endswith("# EOF\n")


def test_healthz_and_readyz_are_200_if_nothing_is_missing() -> None:
    health, ready = responses(("GET", "/healthz"), ("GET", "/readyz"))
    assert health[0] == 200
    assert ready[0] == 200
    degraded = {"silent": [{"cause": "no list or snapshot", "number": 1}]}
    assert json.loads(ready[2]) == {"ready": True, "degraded": degraded}


def test_readyz_is_503_with_what_is_missing() -> None:
    missing = {"kafka": "no response from localhost:9092 yet", "subscriptions": {"trades": ["BTC_USDT"]}}
    health, (status, headers, body) = responses(
        ("GET", "/healthz"), ("GET", "/readyz?verbose"), missing=missing
    )
    assert health[0] == 200
    assert status == 503
    assert headers["Content-Type"] == "application/json"
    degraded = {"silent": [{"cause": "no list or snapshot", "number": 1}]}
    assert json.loads(body) == {"ready": False, "missing": missing, "degraded": degraded}


def test_status_lists_sessions_or_one_of_them() -> None:
    every, one, unknown = responses(
        ("GET", "/status"), ("GET", "/status?session=s1"), ("GET", "/status?session=s2")
    )
    assert (every[0], json.loads(every[2])) == (200, {"sessions": []})
    assert (one[0], json.loads(one[2])) == (200, {"session": "s1"})
    assert (unknown[0], unknown[2]) == (404, "no such session, see /status\n")


@pytest.mark.parametrize("host", ["::", "0:0::0"])
def test_the_unspecified_address_of_ipv6_serves_both_families(host: str) -> None:
    def ask(where: str, port: int) -> int:
        connection = http.client.HTTPConnection(where, port, timeout=60)
        connection.request("GET", "/healthz")
        status = connection.getresponse().status
        connection.close()
        return status

    async def serve() -> list[int]:
        async with Endpoints(host, 0, Metrics().registry, Subject()) as endpoints:
            return [await asyncio.to_thread(ask, one, endpoints.port) for one in ("127.0.0.1", "::1")]

    assert uvloop.run(serve()) == [200, 200]


def test_an_unknown_path_is_404_with_the_known_paths() -> None:
    [(status, _, body)] = responses(("GET", "/"))
    assert status == 404
    assert body == "try /metrics, /healthz, /readyz, /status\n"


def test_head_returns_the_headers_without_a_body() -> None:
    [(status, headers, body)] = responses(("HEAD", "/healthz"))
    assert (status, headers["Content-Length"], body) == (200, "3", "")


def test_an_unsupported_method_is_405_with_the_allowed_ones() -> None:
    [(status, headers, _)] = responses(("POST", "/metrics"))
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


def test_a_connection_is_closed_after_the_response() -> None:
    [(_, headers, _)] = responses(("GET", "/healthz"), headers={"Connection": "keep-alive"})
    assert headers["Connection"] == "close"


def test_a_websocket_handshake_gets_a_plain_response() -> None:
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    [(status, _, body)] = responses(("GET", "/healthz"), headers=upgrade)
    assert (status, body) == (200, "ok\n")


@pytest.mark.parametrize(
    "sent",
    [b"", b"\x16\x03\x01\r\n\r\n", b"GET /metrics", b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc"],
)
def test_malformed_requests_neither_stop_the_server_nor_are_logged(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> bytes:
        async with Endpoints(HOST, 0, Metrics().registry, Subject()) as endpoints:
            _, writer = await asyncio.open_connection(HOST, endpoints.port)
            writer.write(sent)
            await writer.drain()
            writer.close()
            reader, writer = await asyncio.open_connection(HOST, endpoints.port)
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await reader.read()
            writer.close()
            return answer

    with caplog.at_level(logging.INFO):
        assert uvloop.run(scenario()).endswith(b"ok\n")
    assert [record for record in caplog.records if record.name.startswith("bridge")] == []


def test_a_failure_of_the_readiness_check_is_500_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Subject):
        def readiness(self) -> Readiness:
            raise ZeroDivisionError

    async def scenario() -> bytes:
        async with Endpoints(HOST, 0, Metrics().registry, Broken()) as endpoints:
            reader, writer = await asyncio.open_connection(HOST, endpoints.port)
            writer.write(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await reader.read()
            writer.close()
            return answer

    assert uvloop.run(scenario()).startswith(b"HTTP/1.1 500 ")
    assert "ZeroDivisionError" in caplog.text


async def answer(port: int, request: bytes = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") -> bytes:
    reader, writer = await asyncio.open_connection(HOST, port)
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()


async def end_of(reader: asyncio.StreamReader) -> bytes:
    """Return what the server sends, as soon as it has ended a connection."""
    received = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(10 * STRETCH):
            while some := await reader.read(1000):
                received += some
    return received


def test_connections_that_say_nothing_keep_nobody_out() -> None:
    """The oldest one makes room, so that there are never more than so many."""

    async def scenario() -> None:
        async with Endpoints(HOST, 0, Metrics().registry, Subject()) as endpoints:
            silent = [await asyncio.open_connection(HOST, endpoints.port) for _ in range(MOST_CONNECTIONS)]
            await soon(lambda: len(endpoints._open) == MOST_CONNECTIONS, 2, "all are accepted")
            silent += [await asyncio.open_connection(HOST, endpoints.port) for _ in range(3)]
            for reader, _ in silent[:3]:
                await end_of(reader)
            assert len(endpoints._open) == MOST_CONNECTIONS
            assert (await answer(endpoints.port)).endswith(b"ok\n")
            for _, writer in silent:
                writer.close()

    uvloop.run(scenario())


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /healthz HTTP/1.1\r\n" + b"X: %s\r\n" % (b"x" * 8000) * 100 + b"\r\n",
        b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 10_000,
        b"GET /%s HTTP/1.1\r\n" % (b"x" * 1_000_000),
        b"GET /healthz HTTP/1.1\r\nContent-Length: 1000000000\r\n\r\n" + b"x" * 10_000_000,
    ],
)
def test_a_client_that_sends_too_much_is_cut_off(sent: bytes) -> None:
    async def scenario() -> None:
        async with Endpoints(HOST, 0, Metrics().registry, Subject()) as endpoints:
            reader, writer = await asyncio.open_connection(HOST, endpoints.port)
            with contextlib.suppress(ConnectionError):
                writer.write(sent)
                await writer.drain()
            assert b"ok" not in await end_of(reader)
            writer.close()
            assert (await answer(endpoints.port)).endswith(b"ok\n")

    uvloop.run(scenario())


@pytest.mark.parametrize("sent", [b"", b"GET /", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"])
def test_a_request_that_does_not_end_is_given_up(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr("bridge.watch.endpoints._TIMEOUT", 0.01)

    async def scenario() -> None:
        async with Endpoints(HOST, 0, Metrics().registry, Subject()) as endpoints:
            reader, writer = await asyncio.open_connection(HOST, endpoints.port)
            writer.write(sent)
            await end_of(reader)
            writer.close()

    uvloop.run(scenario())


def test_a_client_that_does_not_take_its_response_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.watch.endpoints._TIMEOUT", 0.2)
    monkeypatch.setattr("bridge.watch.endpoints._CLOSE_TIMEOUT", 0.2)

    class Large(Subject):
        def status(self, session: str | None) -> Mapping[str, object] | None:
            return {"x": "x" * 20_000_000}  # more than the sockets hold

    async def scenario() -> None:
        async with Endpoints(HOST, 0, Metrics().registry, Large()) as endpoints:
            _, writer = await asyncio.open_connection(HOST, endpoints.port)
            writer.write(b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n")
            await soon(lambda: endpoints._open, 2, "it is accepted")
            await soon(lambda: not endpoints._open, 5, "it is given up")
            writer.close()

    uvloop.run(scenario())


def test_a_stop_does_not_wait_for_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bridge.watch.endpoints._TIMEOUT", 3600.0)

    async def scenario() -> None:
        async with Endpoints(HOST, 0, Metrics().registry, Subject()) as endpoints:
            _, writer = await asyncio.open_connection(HOST, endpoints.port)
            await soon(lambda: endpoints._open, 2, "it is accepted")
        assert not endpoints._open
        writer.close()

    uvloop.run(scenario())


def test_metrics_are_collected_once_a_second_however_often_they_are_asked_for() -> None:
    metrics = Metrics()
    collections = 0

    def collect() -> float:
        nonlocal collections
        collections += 1
        return collections

    metrics.gauge("ready").read = collect
    openmetrics = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text\r\n\r\n"

    async def scenario() -> None:
        async with Endpoints(HOST, 0, metrics.registry, Subject()) as endpoints:
            plain = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
            before = collections
            bodies = [(await answer(endpoints.port, plain)).partition(b"\r\n\r\n")[2] for _ in range(20)]
            assert len(set(bodies)) == collections - before < 20
            assert (await answer(endpoints.port, openmetrics)).endswith(b"# EOF\n")
            asked = time.monotonic()
            await soon(lambda: time.monotonic() > asked + 1, 2, "a second has passed")
            assert not (await answer(endpoints.port, plain)).endswith(bodies[-1])

    uvloop.run(scenario())


def test_status_can_have_a_listener_of_its_own() -> None:
    async def scenario() -> None:
        registry = Metrics().registry
        others = [path for path in PATHS if path != STATUS]
        async with (
            Endpoints(HOST, 0, registry, Subject(), paths=others) as public,
            Endpoints(HOST, 0, registry, Subject(), paths=[STATUS], keys="http.status_") as private,
        ):
            status = b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n"
            refused = await answer(public.port, status)
            assert refused.startswith(b"HTTP/1.1 404 ")
            assert refused.endswith(b"try /metrics, /healthz, /readyz\n")
            assert (await answer(private.port, status)).startswith(b"HTTP/1.1 200 ")
            assert (await answer(private.port)).endswith(b"try /status\n")
            with pytest.raises(ConfigError) as caught:
                await Endpoints(HOST, private.port, registry, Subject(), keys="http.status_").__aenter__()
            assert caught.value.key == "http.status_port"

    uvloop.run(scenario())


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_port_in_use_is_reported_with_its_key(run: Callable[[Any], None]) -> None:
    async def scenario() -> None:
        registry = Metrics().registry
        async with Endpoints(HOST, 0, registry, Subject()) as first:
            with pytest.raises(ConfigError, match="Address already in use") as caught:
                await Endpoints(HOST, first.port, registry, Subject()).__aenter__()
        assert caught.value.key == "http.port"

    run(scenario())


def test_an_address_of_another_machine_is_reported_with_its_key() -> None:
    async def scenario() -> None:
        with pytest.raises(ConfigError) as caught:
            await Endpoints("192.0.2.1", 0, Metrics().registry, Subject()).__aenter__()
        assert caught.value.key == "http.host"

    uvloop.run(scenario())
