"""The HTTP endpoints: `/metrics` for Prometheus, `/healthz` and `/readyz` for Kubernetes.

They run on the server of websockets, which can answer a plain HTTP request instead of a handshake. That saves
a library; nothing here speaks WebSocket.
"""

import errno
import http
import json
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.http11 import Request, Response

from bridge.errors import ConfigError


def _nothing() -> Sequence[str]:
    return ()


@dataclass(frozen=True, slots=True)
class Readiness:
    """What `/readyz` asks.

    `missing` returns what keeps this replica from being ready, by subject, in JSON values; empty when it is
    ready. `degraded` returns in lines what does not work, whether the replica is ready or not.
    """

    missing: Callable[[], Mapping[str, object]]
    degraded: Callable[[], Sequence[str]] = _nothing


# Of a list in the body: lines, and characters of each at its beginning and at its end. With two lists and one
# longer text, of which each character may be written in six, the body has less than 64 KiB.
_MOST_LINES = 25
_MOST_OF_LINE = 90
_MOST_OF_TEXT = 1500
_PATHS = ("/metrics", "/healthz", "/readyz")
_REQUEST_TIMEOUT = 2.0  # seconds in which a client must have sent its request

# Requests are not worth a log line; a failure of `readiness` or of the registry is.
_log = logging.getLogger("bridge.watch.endpoints.http")
_log.setLevel(logging.ERROR)


class Endpoints:
    """A server that runs within its context: `async with Endpoints(...) as endpoints: endpoints.port`.

    Each connection is closed after its response.
    """

    def __init__(self, host: str, port: int, registry: CollectorRegistry, readiness: Readiness) -> None:
        # The port listened on: with a configured port of 0, the one that the system chose, once entered.
        self.port = port
        self._host = host
        self._registry = registry
        self._readiness = readiness
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
        path = request.path.partition("?")[0]
        if request.method not in ("GET", "HEAD"):
            response = connection.respond(http.HTTPStatus.METHOD_NOT_ALLOWED, "GET or HEAD only\n")
            response.headers["Allow"] = "GET, HEAD"
        elif path == "/metrics":
            response = self._metrics(connection, request)
        elif path == "/healthz":
            response = connection.respond(http.HTTPStatus.OK, "ok\n")
        elif path == "/readyz":
            response = self._ready(connection)
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
        missing, degraded = self._readiness.missing(), self._readiness.degraded()
        status = http.HTTPStatus.SERVICE_UNAVAILABLE if missing else http.HTTPStatus.OK
        body: dict[str, object] = {"ready": not missing}
        if missing:
            body["missing"] = {subject: _bounded(what) for subject, what in missing.items()}
        if degraded:
            body["degraded"] = _bounded(degraded)
        return _typed(connection.respond(status, json.dumps(body) + "\n"), "application/json")


def _bounded(what: object) -> object:
    """Return a text or a list of texts, cut to what is of use to a reader."""
    if isinstance(what, str):
        return what[:_MOST_OF_TEXT]
    if not isinstance(what, Sequence):
        return what
    lines = [_shortened(str(line)) for line in what[:_MOST_LINES]]
    return [*lines, f"and {len(what) - _MOST_LINES} more"] if len(what) > _MOST_LINES else lines


def _shortened(line: str) -> str:
    if len(line) <= 2 * _MOST_OF_LINE:
        return line
    return f"{line[:_MOST_OF_LINE]} … {line[-_MOST_OF_LINE:]}"


def _typed(response: Response, content_type: str) -> Response:
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = content_type
    return response


async def _no_websocket(connection: ServerConnection) -> None:
    """Never called: every request gets its response before a handshake."""
