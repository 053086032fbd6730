"""One client of the simulated exchange: what it subscribed to, and the bytes on their way to it."""

import time
from collections import defaultdict

from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import State

# A client that is this far behind is cut off, as exchanges do; bytes.
_TOO_SLOW = 256 * 1024 * 1024


class Client:
    """A connection with its subscriptions (channel to symbols) and its account once it has authenticated."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.subscriptions: defaultdict[str, set[str]] = defaultdict(set)
        self.account: str | None = None
        self.opened = self.heard = time.monotonic()
        self.muted = False
        self.stalled = False
        self.too_slow = False
        self._waiting: list[bytes] = []

    def wants(self, channel: str, symbol: str, account: str | None) -> bool:
        """Tell if a push is for this client."""
        return symbol in self.subscriptions.get(channel, ()) and account in (None, self.account)

    def write(self, frame: bytes) -> None:
        """Put a whole WebSocket frame onto the wire, behind those that wait."""
        transport = self.connection.transport
        if self.stalled:
            self._waiting.append(frame)
        elif self.open:
            transport.write(frame)
            if transport.get_write_buffer_size() > _TOO_SLOW:
                self.too_slow = True
                self.cut()

    def go_on(self) -> None:
        """End a stall: send all that waited."""
        self.stalled = False
        waiting, self._waiting = self._waiting, []
        for frame in waiting:
            self.write(frame)

    def cut(self) -> None:
        """Hang up without a word."""
        self.connection.transport.abort()

    @property
    def open(self) -> bool:
        """True as long as something can be written."""
        return self.connection.state is State.OPEN and not self.connection.transport.is_closing()

    @property
    def behind(self) -> int:
        """Bytes written here that the network has not taken yet."""
        return self.connection.transport.get_write_buffer_size() if self.open else 0


def binary(payload: bytes) -> bytes:
    """Return a whole WebSocket frame around a binary message."""
    return Frame(Opcode.BINARY, payload).serialize(mask=False)


def text(payload: bytes) -> bytes:
    """Return a whole WebSocket frame around a text message."""
    return Frame(Opcode.TEXT, payload).serialize(mask=False)
