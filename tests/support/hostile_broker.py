"""A Kafka broker that answers as a test wants, and a relay that garbles what a real one answers."""

import asyncio
import contextlib
import struct
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

Answer = Callable[[bytes], bytes | None]
"""From a request to SASL to the response's token; None: the broker closes the connection."""

_API_VERSIONS, _HANDSHAKE, _AUTHENTICATE = 18, 17, 36


def text(value: str | None) -> bytes:
    """Return a nullable string as Kafka writes it."""
    return b"\xff\xff" if value is None else struct.pack(">h", len(value.encode())) + value.encode()


def versions(*ranges: tuple[int, int, int]) -> bytes:
    """Return a response to ApiVersions with these ranges of versions (key, lowest, highest)."""
    keys = ranges or ((_API_VERSIONS, 0, 0), (_HANDSHAKE, 0, 1), (_AUTHENTICATE, 0, 0))
    return struct.pack(">hi", 0, len(keys)) + b"".join(struct.pack(">hhh", *one) for one in keys)


def mechanisms(*names: str, error: int = 0) -> bytes:
    """Return a response to SaslHandshake."""
    return struct.pack(">hi", error, len(names)) + b"".join(map(text, names))


def token(answer: bytes, error: int = 0, words: str | None = None) -> bytes:
    """Return a response to SaslAuthenticate."""
    return struct.pack(">h", error) + text(words) + struct.pack(">i", len(answer)) + answer


class HostileBroker:
    """What a broker answers; `answers` are its responses to SaslAuthenticate, one after the other."""

    def __init__(self, *answers: Answer | bytes) -> None:
        self.versions = versions()
        self.mechanisms = mechanisms("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")
        self.answers = answers
        self.raw: bytes | None = None  # if set, the response to the first request, its length included
        self.others: Callable[[], bytes] | None = None  # makes the responses to all other requests
        self.connections = 0  # so far

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Listen on a port of this machine; yield the address."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        try:
            yield f"{host}:{port}"
        finally:
            server.close()
            await server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        answers = iter(self.answers)
        try:
            while True:
                (size,) = struct.unpack(">i", await reader.readexactly(4))
                request = await reader.readexactly(size)
                if self.raw is not None:
                    writer.write(self.raw)
                    continue
                key, _, correlation, client = struct.unpack(">hhih", request[:10])
                if key == _API_VERSIONS:
                    response = self.versions
                elif key == _HANDSHAKE:
                    response = self.mechanisms
                elif key != _AUTHENTICATE and self.others is not None:
                    response = self.others()
                else:
                    answer = next(answers)
                    sent = request[10 + client + 4 :]
                    made = answer(sent) if callable(answer) else token(answer)
                    if made is None:
                        return
                    response = made
                writer.write(struct.pack(">ii", 4 + len(response), correlation) + response)
        except (EOFError, ConnectionError, StopIteration):
            pass
        finally:
            writer.close()


Lie = Callable[[bytes], bytes]
"""From a response behind its correlation id to what the client gets instead."""


class Garbler:
    """A relay in front of a broker on this machine; `lies` garble responses to some kinds of requests.

    The broker's own address in a response becomes that of the relay, so that clients stay on it.
    """

    def __init__(self, bootstrap: str) -> None:
        # By the number of the request's kind in Kafka's protocol; each is removed once it was told.
        self.lies: dict[int, Lie] = {}
        self._broker = int(bootstrap.rpartition(":")[2])
        self._port = 0
        self._relaying: set[asyncio.Task[None]] = set()  # a task for each connection

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        """Listen on a port of this machine; yield the address."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._port = server.sockets[0].getsockname()[1]
        try:
            yield f"127.0.0.1:{self._port}"
        finally:
            server.close()
            for task in self._relaying:
                task.cancel()
            await asyncio.gather(*self._relaying, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._relaying.add(task)
        there, back = await asyncio.open_connection("127.0.0.1", self._broker)
        asked: deque[int] = deque()  # kinds of the requests that are not answered yet, the oldest first
        try:
            await asyncio.gather(self._ask(reader, back, asked), self._answer(there, writer, asked))
        except (EOFError, ConnectionError, asyncio.CancelledError):
            pass  # one side has gone, or all is over
        finally:
            for end in (writer, back):
                end.close()
            for end in (writer, back):
                with contextlib.suppress(ConnectionError):
                    await end.wait_closed()
            self._relaying.discard(task)

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: deque[int]
    ) -> None:
        while True:
            request = await _message(reader)
            asked.append(int.from_bytes(request[:2], "big"))
            writer.write(struct.pack(">i", len(request)) + request)

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: deque[int]
    ) -> None:
        own, ours = (b"127.0.0.1" + struct.pack(">i", port) for port in (self._broker, self._port))
        while True:
            response = await _message(reader)
            body = response[4:].replace(own, ours)
            if (lie := self.lies.pop(asked.popleft(), None)) is not None:
                body = lie(body)
            writer.write(struct.pack(">i", 4 + len(body)) + response[:4] + body)


async def _message(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    return await reader.readexactly(size)
