"""One client of the simulated exchange: its connection, its subscriptions, and bytes waiting to be sent."""

import time
from collections import deque

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
        self.lag = 0.0  # seconds by which all that is written to it is late; set before the first write
        self.number = 0  # in the history of connections, if there is one
        self._waiting: list[bytes] = []  # whole WebSocket frames, oldest first; emptied by `flush`
        # The same while they are too early, each with the time when it is due, in monotonic seconds.
        self._early: deque[tuple[float, bytes]] = deque()

    def write(self, frame: bytes) -> None:
        """Queue a whole WebSocket frame for the first `flush` after the connection's lag."""
        if self.lag:
            self._early.append((time.monotonic() + self.lag, frame))
        else:
            self._waiting.append(frame)

    def flush(self, most: int) -> bool:
        """Send all queued frames, unless stalled.

        Returns:
            False if the client was cut off because it left more than `most` bytes unread.
        """
        now = time.monotonic() if self._early else 0.0
        while self._early and self._early[0][0] <= now:
            self._waiting.append(self._early.popleft()[1])
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
        waiting = self._waiting or self._early or self.connection.transport.get_write_buffer_size()
        return self.open and bool(waiting)


def binary(payload: bytes) -> bytes:
    """Return a whole WebSocket frame around a binary message."""
    return Frame(Opcode.BINARY, payload).serialize(mask=False)


def text(payload: bytes) -> bytes:
    """Return a whole WebSocket frame around a text message."""
    return Frame(Opcode.TEXT, payload).serialize(mask=False)
