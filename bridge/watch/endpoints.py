"""The HTTP endpoints: `/metrics` for Prometheus, `/healthz`, `/readyz` for Kubernetes, `/status` for people.

They run on the server of websockets, which can answer a plain HTTP request instead of a handshake. That saves
a library; nothing here speaks WebSocket.
"""

import errno
import http
import logging
import os
import socket
from collections.abc import Mapping
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import parse_qs

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from bridge.errors import ConfigError
from bridge.watch.readiness import Readiness, as_json


class Subject(Protocol):
    """The replica that the endpoints speak of."""

    def readiness(self) -> Readiness:
        """Return what keeps it from being ready, and in what it is degraded."""

    def status(self, session: str | None) -> Mapping[str, object] | None:
        """Return its sessions, or the subscriptions of one; None if there is no such session."""


_PATHS = ("/metrics", "/healthz", "/readyz", "/status")
_REQUEST_TIMEOUT = 2.0  # seconds in which a client must have sent its request

# Requests are not worth a log line; a failure of the subject or of the registry is.
_log = logging.getLogger("bridge.watch.endpoints.http")
_log.setLevel(logging.ERROR)


class Endpoints:
    """A server that runs within its context: `async with Endpoints(...) as endpoints: endpoints.port`.

    Each connection is closed after its response.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, subject: Subject) -> None:
        # The port listened on: with a configured port of 0, the one that the system chose, once entered.
        self.port = port
        self._host = host
        self._registry = registry
        self._subject = subject
        self._server: Server  # set on entering the context

    async def __aenter__(self) -> Self:
        """Start to listen; from here on `port` is the actual one.

        Raises:
            ConfigError: cannot listen on the configured address or port.
        """
        try:
            self._server = await serve(
                _no_websocket,
                self._host,
                self.port,
                process_request=self._answer,
                open_timeout=_REQUEST_TIMEOUT,
                server_header=None,
                logger=_log,
            )
        except socket.gaierror as error:
            raise ConfigError("http.host", f"cannot find {self._host}: {error.strerror}") from None
        except OSError as error:
            key = "http.host" if error.errno == errno.EADDRNOTAVAIL else "http.port"
            reason = os.strerror(error.errno or 0)
            raise ConfigError(key, f"cannot listen on {self._host}:{self.port}: {reason}") from None
        self.port = next(iter(self._server.sockets)).getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        await self._server.wait_closed()

    def _answer(self, connection: ServerConnection, request: Request) -> Response:
        path, _, query = request.path.partition("?")
        if request.method not in ("GET", "HEAD"):
            response = connection.respond(http.HTTPStatus.METHOD_NOT_ALLOWED, "GET or HEAD only\n")
            response.headers["Allow"] = "GET, HEAD"
        elif path == "/metrics":
            response = self._metrics(connection, request)
        elif path == "/healthz":
            response = connection.respond(http.HTTPStatus.OK, "ok\n")
        elif path == "/readyz":
            response = self._ready(connection)
        elif path == "/status":
            response = self._status(connection, query)
        else:
            response = connection.respond(http.HTTPStatus.NOT_FOUND, f"try {', '.join(_PATHS)}\n")
        if request.method == "HEAD":
            response.body = b""
        return response

    def _metrics(self, connection: ServerConnection, request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        response = connection.respond(http.HTTPStatus.OK, encode(self._registry).decode())
        return _typed(response, content_type)

    def _ready(self, connection: ServerConnection) -> Response:
        readiness = self._subject.readiness()
        status = http.HTTPStatus.OK if readiness.ready else http.HTTPStatus.SERVICE_UNAVAILABLE
        return _json(connection, status, readiness.body())

    def _status(self, connection: ServerConnection, query: str) -> Response:
        session = parse_qs(query).get("session", [None])[0]
        body = self._subject.status(session)
        if body is None:
            return connection.respond(http.HTTPStatus.NOT_FOUND, "no such session, see /status\n")
        return _json(connection, http.HTTPStatus.OK, body)


def _json(connection: ServerConnection, status: http.HTTPStatus, body: Mapping[str, object]) -> Response:
    return _typed(connection.respond(status, as_json(body).decode() + "\n"), "application/json")


def _typed(response: Response, content_type: str) -> Response:
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = content_type
    return response


async def _no_websocket(connection: ServerConnection) -> None:
    """Never called: every request gets its response before a handshake."""
