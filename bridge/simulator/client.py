"""One client of the simulated exchange: its connection, its subscriptions, and bytes waiting to be sent."""

import time

from websockets.asyncio.server import ServerConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import State

from bridge.simulator.protocol import Subscriber


class Client:
    """A connection and its subscriptions."""

    def __init__(self, connection: ServerConnection) -> None:
        self.connection = connection
        self.subscriber = Subscriber()  # changed by the client's requests
        self.opened = time.monotonic()  # seconds
        self.heard = self.opened  # monotonic seconds of its last message, or of the handshake
        self.muted = False  # True: neither read nor written to any more; never reset
        self.stalled = False  # True during a stall: written frames wait
        self._waiting: list[bytes] = []  # whole WebSocket frames, oldest first; emptied by `flush`

    def write(self, frame: bytes) -> None:
        """Queue a whole WebSocket frame for the next `flush`."""
        self._waiting.append(frame)

    def flush(self, most: int) -> bool:
        """Send all queued frames, unless stalled.

        Returns:
            False if the client was cut off because it left more than `most` bytes unread.
        """
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
        """Abort the connection, without a close frame."""
        self.connection.transport.abort()

    @property
    def open(self) -> bool:
        """True as long as something can be written."""
        return self.connection.state is State.OPEN and not self.connection.transport.is_closing()

    @property
    def listens(self) -> bool:
        """True if it gets updates."""
        return self.open and not self.muted

    @property
    def behind(self) -> bool:
        """True while the kernel has not accepted all that was written."""
        return self.open and bool(self._waiting or self.connection.transport.get_write_buffer_size())


def binary(payload: bytes) -> bytes:
    """Return a whole WebSocket frame around a binary message."""
    return Frame(Opcode.BINARY, payload).serialize(mask=False)


def text(payload: bytes) -> bytes:
    """Return a whole WebSocket frame around a text message."""
    return Frame(Opcode.TEXT, payload).serialize(mask=False)
