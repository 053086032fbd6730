"""The HTTP endpoints: `/metrics` for Prometheus, `/healthz`, `/readyz` for Kubernetes, `/status` for people.

They run on the server of websockets, which can answer a plain HTTP request instead of a handshake. That saves
a library; nothing here speaks WebSocket.

Anybody who reaches the port may ask, so a request is bounded in size and time, and so is their number. Past
that number the oldest connection makes room: connections that say nothing must not keep a probe out.
"""

import asyncio
import errno
import http
import ipaddress
import logging
import os
import socket
import time
from collections.abc import Collection, Mapping
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self
from urllib.parse import parse_qs

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from bridge.config import HttpConfig
from bridge.errors import ConfigError
from bridge.watch.readiness import Readiness, as_json


class Subject(Protocol):
    """The replica that the endpoints speak of."""

    def readiness(self) -> Readiness:
        """Return what keeps it from being ready, and in what it is degraded."""

    def status(self, session: str | None) -> Mapping[str, object] | None:
        """Return its sessions, or the subscriptions of one; None if there is no such session."""


STATUS = "/status"
"""The path that names accounts and symbols, so that it can have a listener of its own."""

PATHS = ("/metrics", "/healthz", "/readyz", STATUS)
"""All paths."""

MOST_CONNECTIONS = 32
"""Connections of one listener that are open at the same time."""

MOST_REQUEST = 16_384
"""Bytes that a client may send."""

_TIMEOUT = 2.0  # seconds in which a client must have sent its request, and taken most of the response
_CLOSE_TIMEOUT = 5.0  # seconds in which it must then have closed the connection
_METRICS_AGE = 1.0  # seconds for which the metrics that one client was given are given to others

# Requests are not worth a log line; a failure of the subject or of the registry is.
_log = logging.getLogger("bridge.watch.endpoints.http")
_log.setLevel(logging.ERROR)


class Endpoints:
    """A server that runs within its context: `async with Endpoints(...) as endpoints: endpoints.port`.

    Each connection is closed after its response. It answers to `paths` alone. The names of the keys that
    configured it begin with `keys`, for errors.
    """

    def __init__(
        self,
        host: str,
        port: int,
        registry: CollectorRegistry,
        subject: Subject,
        *,
        paths: Collection[str] = PATHS,
        keys: str = "http.",
    ) -> None:
        # The port listened on: with a configured port of 0, the one that the system chose, once entered.
        self.port = port
        self.host = host
        self._registry = registry
        self._subject = subject
        self.paths = paths
        self._keys = keys
        self._server: Server  # set on entering the context
        self._open: dict[_Connection, None] = {}  # all connections, the oldest first
        # The metrics by content type, and when they were collected, in monotonic seconds.
        self._collected: dict[str, tuple[float, str]] = {}

    async def __aenter__(self) -> Self:
        """Start to listen; from here on `port` is the actual one.

        Raises:
            ConfigError: cannot listen on the configured address or port.
        """

        class Connection(_Connection):
            others = self._open

        try:
            self._server = await serve(
                _no_websocket,
                **_place(self.host, self.port),
                process_request=self._answer,
                create_connection=Connection,
                open_timeout=_TIMEOUT,
                close_timeout=_CLOSE_TIMEOUT,
                server_header=None,
                logger=_log,
            )
        except socket.gaierror as error:
            raise ConfigError(f"{self._keys}host", f"cannot be found: {error.strerror}") from None
        except OSError as error:
            key = f"{self._keys}{'host' if error.errno == errno.EADDRNOTAVAIL else 'port'}"
            reason = os.strerror(error.errno or 0)
            raise ConfigError(key, f"cannot listen there: {reason}") from None
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for connection in list(self._open):
            connection.transport.abort()  # the stop waits for nobody who does not close
        await self._server.wait_closed()

    def _answer(self, connection: ServerConnection, request: Request) -> Response:
        path, _, query = request.path.partition("?")
        if request.method not in ("GET", "HEAD"):
            response = connection.respond(http.HTTPStatus.METHOD_NOT_ALLOWED, "GET or HEAD only\n")
            response.headers["Allow"] = "GET, HEAD"
        elif path not in self.paths:
            response = connection.respond(http.HTTPStatus.NOT_FOUND, f"try {', '.join(self.paths)}\n")
        elif path == "/metrics":
            response = self._metrics(connection, request)
        elif path == "/healthz":
            response = connection.respond(http.HTTPStatus.OK, "ok\n")
        elif path == "/readyz":
            response = self._ready(connection)
        else:
            response = self._status(connection, query)
        if request.method == "HEAD":
            response.body = b""
        return response

    def _metrics(self, connection: ServerConnection, request: Request) -> Response:
        encode, content_type = choose_encoder(", ".join(request.headers.get_all("Accept")))
        now = time.monotonic()
        collected_at, text = self._collected.get(content_type, (now - 2 * _METRICS_AGE, ""))
        if now > collected_at + _METRICS_AGE:
            text = encode(self._registry).decode()
            self._collected[content_type] = (now, text)
        return _typed(connection.respond(http.HTTPStatus.OK, text), content_type)

    def _ready(self, connection: ServerConnection) -> Response:
        readiness = self._subject.readiness()
        status = http.HTTPStatus.OK if readiness.ready else http.HTTPStatus.SERVICE_UNAVAILABLE
        return _json(connection, status, readiness.body(named=False))

    def _status(self, connection: ServerConnection, query: str) -> Response:
        session = parse_qs(query).get("session", [None])[0]
        body = self._subject.status(session)
        if body is None:
            return connection.respond(http.HTTPStatus.NOT_FOUND, "no such session, see /status\n")
        return _json(connection, http.HTTPStatus.OK, body)


class _Connection(ServerConnection):
    """A connection that is aborted when it passes one of its bounds."""

    others: "ClassVar[dict[_Connection, None]]"  # of the same listener, the oldest first
    _received = 0  # bytes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self.others) >= MOST_CONNECTIONS:
            oldest = next(iter(self.others))
            del self.others[oldest]
            oldest.transport.abort()
        self.others[self] = None

    def data_received(self, data: bytes) -> None:
        self._received += len(data)
        if self._received > MOST_REQUEST:
            self.transport.abort()
        else:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.others.pop(self, None)
        super().connection_lost(exc)


def listeners(config: HttpConfig, registry: CollectorRegistry, subject: Subject) -> list[Endpoints]:
    """Return the endpoints as configured: one listener for all, or another for `/status`."""
    address = config.status_address
    if address is None:
        return [Endpoints(config.host, config.port, registry, subject)]
    others = [path for path in PATHS if path != STATUS]
    return [
        Endpoints(config.host, config.port, registry, subject, paths=others),
        Endpoints(*address, registry, subject, paths=[STATUS], keys="http.status_"),
    ]


def _place(host: str, port: int) -> dict[str, Any]:
    """Return where to listen, as arguments for `serve`.

    "::" means all addresses, of IPv4 too, as for other servers; an event loop would leave those out.
    """
    try:
        every = ipaddress.ip_address(host) == ipaddress.IPv6Address("::")
    except ValueError:
        every = False
    if not every or not socket.has_dualstack_ipv6():
        return {"host": host, "port": port}
    return {"sock": socket.create_server((host, port), family=socket.AF_INET6, dualstack_ipv6=True)}


def _json(connection: ServerConnection, status: http.HTTPStatus, body: Mapping[str, object]) -> Response:
    return _typed(connection.respond(status, as_json(body).decode() + "\n"), "application/json")


def _typed(response: Response, content_type: str) -> Response:
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = content_type
    return response


async def _no_websocket(connection: ServerConnection) -> None:
    """Never called: every request gets its response before a handshake."""
