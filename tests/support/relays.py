"""What may stand between the bridge and others: a server with TLS, an HTTP proxy, and a forwarder."""

import asyncio
import ssl
import threading
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Self

_HEAD = b"\r\n\r\n"
_CHUNK = 65_536


class Relay:
    """Relays connections on a port of its own, inside its context.

    With `keystore`, it is a server with TLS in front of `target`, a port of this machine. Without, it is a
    proxy to which clients say with CONNECT where to; it notes that in `asked`.
    """

    def __init__(self, *, port: int = 0, target: int = 0, keystore: Path | None = None) -> None:
        self.asked: list[str] = []  # host:port, as clients have asked for it
        self.port = port  # a free one, once it listens, if it is 0
        self.target = target
        self._tls: ssl.SSLContext | None = None
        if keystore is not None:
            self._tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._tls.load_cert_chain(keystore)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._server: asyncio.Server
        self._connections: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _run(self, coroutine: Coroutine[None, None, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            host, port = "127.0.0.1", self.target
            if self._tls is None:
                request = (await reader.readuntil(_HEAD)).split(b" ")
                assert request[0] == b"CONNECT"
                self.asked.append(request[1].decode())
                host, _, asked = self.asked[-1].rpartition(":")
                port = int(asked)
            there, back = await asyncio.open_connection(host, port)
            if self._tls is None:
                writer.write(b"HTTP/1.1 200 Connection established" + _HEAD)
            try:
                await asyncio.gather(_copy(reader, back), _copy(there, writer))
            finally:
                back.close()
        except (OSError, asyncio.IncompleteReadError):
            pass  # one side has gone
        finally:
            writer.close()
            self._connections.discard(task)


class Forwarder(Relay):
    """Relays connections on `port` to the port `target`, which may change; counts them in `accepted`."""

    def __init__(self, *, port: int = 0, target: int) -> None:
        super().__init__(port=port, target=target)
        self.accepted = 0
        self.is_closed = False  # whether connections are closed as soon as they are accepted

    def cut(self) -> None:
        """Close all connections."""
        self._run(self._cut())

    async def _cut(self) -> None:
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self.accepted += 1
        try:
            if not self.is_closed:
                there, back = await asyncio.open_connection("127.0.0.1", self.target)
                try:
                    await asyncio.gather(_copy(reader, back), _copy(there, writer))
                finally:
                    back.close()
        except (OSError, asyncio.CancelledError):
            pass  # one side has gone, or all are cut
        finally:
            writer.close()
            self._connections.discard(task)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    writer.close()
