"""Streams without sockets: a transport whose network is in the hands of the test."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from websockets.client import ClientProtocol
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from bridge.websocket.stream import Stream

READ = 262_144
"""The most bytes that one read returns, as in asyncio."""


class Network(asyncio.Transport):
    """The transport of a stream. What the exchange sends waits in `arrived` until it is read."""

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.arrived = bytearray()  # what the exchange has sent and nobody has read
        self.read_bytes = 0  # what was read
        self.written = bytearray()  # what was sent to the exchange
        self._stream = stream
        self._reading = True
        self._closing = False

    def read(self) -> None:
        """Read once, as an event loop does, if anything has arrived and reading is not paused."""
        if self._reading and not self._closing and self.arrived:
            data = bytes(self.arrived[:READ])
            del self.arrived[:READ]
            self.read_bytes += len(data)
            self._stream.data_received(data)

    def is_reading(self) -> bool:
        """Return whether reading is not paused."""
        return self._reading

    def pause_reading(self) -> None:
        """Pause reading."""
        self._reading = False

    def resume_reading(self) -> None:
        """Resume reading."""
        self._reading = True

    def lose(self) -> None:
        """Lose the connection, as after an error."""
        if not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_soon(self._stream.connection_lost, None)

    def read_and_lose(self, data: bytes) -> None:
        """Read what has arrived, then lose the connection."""
        self.arrived += data
        self.read()
        self.lose()

    def write(self, data: Any) -> None:
        """Take bytes for the exchange."""
        self.written += data

    def get_write_buffer_size(self) -> int:
        """Return 0: the exchange reads everything at once."""
        return 0

    def is_closing(self) -> bool:
        """Return whether the connection is lost."""
        return self._closing

    def close(self) -> None:
        """Lose the connection."""
        self.lose()

    def abort(self) -> None:
        """Lose the connection."""
        self.lose()

    def can_write_eof(self) -> bool:
        """Return False."""
        return False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Accept any limits: everything is written at once."""


def open_stream() -> tuple[Stream, Network]:
    """Return a stream after its handshake, to which nothing is attached, and its network."""
    client = ClientProtocol(parse_uri("ws://exchange/"), max_size=1_000_000)
    stream = Stream(client, ping_interval=None, close_timeout=0.1)
    network = Network(stream)
    stream.connection_made(network)
    request = client.connect()
    client.send_request(request)
    server = ServerProtocol()
    server.receive_data(b"".join(client.data_to_send()))
    (received,) = server.events_received()
    server.send_response(server.accept(cast("Any", received)))
    stream.data_received(b"".join(server.data_to_send()))
    return stream, network


async def turns(count: int = 1, *, each: Callable[[], object] = lambda: None) -> None:
    """Let the loop turn, calling `each` in front of every turn."""
    for _ in range(count):
        each()
        await asyncio.sleep(0)
