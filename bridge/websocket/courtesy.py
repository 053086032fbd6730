"""Courtesy: what all connectors of a process do together so as not to storm the exchange."""

import asyncio
import random
import time

_BURST = 1.0  # seconds of the budget that may be used at once
_LONGEST_PAUSE = 300.0  # seconds; a server that asks for more is asked again then

_HOUR = 3600.0
_ROUGH = 60.0  # seconds around a full hour in which handshakes fail more often (FACTS: 502 in bursts)


class Courtesy:
    """A budget of handshakes and subscribe requests a second, for as many connectors as there are."""

    def __init__(self, handshakes_per_second: float, subscribes_per_second: float) -> None:
        self._handshake = 1 / handshakes_per_second
        self._subscribe = 1 / subscribes_per_second
        self._free_at = 0.0
        self._not_before = 0.0

    async def admit(self, subscribes: int) -> None:
        """Wait until a connection with so many subscribe requests may be opened."""
        wait = self.reserve(time.monotonic(), subscribes)
        while wait > 0:
            await asyncio.sleep(wait)
            now = time.monotonic()
            # The exchange may have asked for a pause meanwhile.
            wait = self.reserve(now, subscribes) if now < self._not_before else 0.0

    def pause(self, now: float, seconds: float) -> None:
        """Open no connection for so long, since the exchange says that there were too many."""
        self._not_before = max(self._not_before, now + min(seconds, _LONGEST_PAUSE))

    def reserve(self, now: float, subscribes: int) -> float:
        """Take a connection's share of the budget; return how many seconds from `now` it may be opened."""
        begin = max(self._free_at, now - _BURST, self._not_before)
        self._free_at = begin + self._handshake + subscribes * self._subscribe
        return max(0.0, begin - now)

    def reserve_subscribe(self, now: float) -> float:
        """Take one request of an open connection; return in how many seconds from `now` it may be sent."""
        begin = max(self._free_at, now - _BURST)
        self._free_at = begin + self._subscribe
        return max(0.0, begin - now)


def spread(wall: float, most: float) -> float:
    """Return seconds to wait before a reconnect at a wall time: some around a full hour, else none."""
    if _ROUGH < wall % _HOUR < _HOUR - _ROUGH:
        return 0.0
    return random.uniform(0, most)  # noqa: S311


def calm(wall: float) -> float:
    """Return the last moment up to a wall time that is not around a full hour, with some jitter."""
    since = (wall + _ROUGH) % _HOUR
    if since > 2 * _ROUGH:
        return wall
    return wall - since - random.uniform(0, _ROUGH)  # noqa: S311
