"""What the process holds of the exchange outside of the queues to Kafka, all its sessions together.

Two things are held there: frames of which only a part has come, and what a rotation holds back. An exchange
decides how much that is: it can begin large frames on every connection, or push a lot to a session that it
does not confirm. So both have one limit, `exchange.max_buffered_bytes`. When it is used up, a session with a
large frame reads nothing more until there is room; a rotation gives its new session up.

The largest frame is left free: one at a time is inflated, and must find room.
"""

from collections import deque
from collections.abc import Callable


class Buffers:
    """Counts what is held, in bytes; `limit` and `largest`, the largest frame, are in bytes too."""

    def __init__(self, limit: int, largest: int) -> None:
        self._limit = limit - largest
        self._held = 0
        self._waiting: deque[Callable[[], None]] = deque()  # to be called, in turn, when there is room again

    @property
    def full(self) -> bool:
        """Whether nothing more is to be held."""
        return self._held > self._limit

    def change(self, size: int) -> None:
        """Count `size` bytes more, or less if it is negative; those that wait go on while it is not full."""
        self._held += size
        while self._waiting and not self.full:
            self._waiting.popleft()()

    def wait(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` once there is room."""
        self._waiting.append(go_on)
