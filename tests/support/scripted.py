"""An exchange that answers as the API document says, unless a test has it answer or push something else."""

import json
import threading
import time
import zlib
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

Json = dict[str, Any]
Frame = Json | bytes
"""A message, sent as compressed JSON; or the bytes of a frame, sent as they are."""


def answer(request: Json) -> Json:
    """Return the answer of an exchange that accepts everything."""
    results: dict[str, object] = {
        "server.ping": "pong",
        "server.time": int(time.time()),
    }
    result = results.get(request["method"], {"status": "success"})
    return {"error": None, "result": result, "id": request["id"]}


def push(channel: str, params: object) -> Json:
    """Return a push of a channel."""
    return {"method": f"{channel}.update", "params": params, "id": None}


class ScriptedExchange:
    """Sends, for each request, the frames that `reply` returns; runs in threads of its own in its context.

    Every connection is passed to `reply`, so that a test can tell its sessions apart.
    """

    def __init__(self, reply: Callable[[Json, ServerConnection], Iterable[Frame]]) -> None:
        self.requests: list[Json] = []  # all requests, in the order in which they were received
        self._reply = reply
        self._server: Server
        self._thread: threading.Thread

    def __enter__(self) -> Self:
        self._server = serve(self._serve, "127.0.0.1", 0, compression=None, max_size=None)
        self._thread = threading.Thread(target=self._server.serve_forever, name="scripted", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()

    @property
    def url(self) -> str:
        """Its address."""
        return f"ws://127.0.0.1:{self._server.socket.getsockname()[1]}/ws/v1/"

    def methods(self) -> list[str]:
        """Return the methods of all requests so far."""
        return [one["method"] for one in list(self.requests)]

    def _serve(self, connection: ServerConnection) -> None:
        try:
            for message in connection:
                request = json.loads(message)
                self.requests.append(request)
                for frame in self._reply(request, connection):
                    whole = frame if isinstance(frame, bytes) else zlib.compress(json.dumps(frame).encode())
                    connection.send(whole)
        except ConnectionClosed:
            return
