"""One client of the simulated exchange: who it is, and the bytes on their way to it."""

import time

from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import State

from bridge.simulator.protocol import Subscriber


class Client:
    """A connection and what it subscribed to; `opened` and `heard` (its last message) are monotonic times.

    `muted`: it is neither heard nor told anything. `stalled`: what is written waits here.
    """

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.subscriber = Subscriber()
        self.opened = self.heard = time.monotonic()
        self.muted = False
        self.stalled = False
        self._waiting: list[bytes] = []

    def write(self, frame: bytes) -> None:
        """Put a whole WebSocket frame behind those that wait for `flush`."""
        self._waiting.append(frame)

    def flush(self, most: int) -> bool:
        """Send all that waits, unless stalled; False: more than `most` bytes are unread, it was cut off."""
        if not self._waiting or self.stalled:
            return True
        waiting, self._waiting = self._waiting, []
        if not self.open:
            return True
        transport = self.connection.transport
        transport.write(b"".join(waiting))
        if transport.get_write_buffer_size() > most:
            self.cut()
            return False
        return True

    def cut(self) -> None:
        """Hang up without a word."""
        self.connection.transport.abort()

    @property
    def open(self) -> bool:
        """True as long as something can be written."""
        return self.connection.state is State.OPEN and not self.connection.transport.is_closing()

    @property
    def listens(self) -> bool:
        """True if it gets pushes."""
        return self.open and not self.muted

    @property
    def behind(self) -> bool:
        """True while the network has not taken all that was written."""
        return self.open and bool(self._waiting or self.connection.transport.get_write_buffer_size())


def binary(payload: bytes) -> bytes:
    """Return a whole WebSocket frame around a binary message."""
    return Frame(Opcode.BINARY, payload).serialize(mask=False)


def text(payload: bytes) -> bytes:
    """Return a whole WebSocket frame around a text message."""
    return Frame(Opcode.TEXT, payload).serialize(mask=False)
