"""Rate limits towards the exchange, shared by all connectors of a process."""

import asyncio
import random
import time

_BURST = 1.0  # seconds of the budget that may be used at once
_LONGEST_PAUSE = 300.0  # seconds; after that the exchange is tried again, however long it asked to wait

_HOUR = 3600.0
_ROUGH = 60.0  # seconds around a full hour in which handshakes fail more often (FACTS, section 2: HTTP 502)


class Courtesy:
    """A budget of handshakes and subscribe requests per second, for any number of connectors.

    Both are paid for in seconds. Example, with 5 handshakes and 20 subscribe requests per second: a
    connection with 4 subscribe requests costs 0.2 + 4 × 0.05 = 0.4 s. After a quiet second three of them may
    be opened at once (they find 0, 0.4 and 0.8 s of the burst used), the fourth in 0.2 s, the fifth in 0.6 s.
    """

    def __init__(self, handshakes_per_second: float, subscribes_per_second: float) -> None:
        self._handshake = 1 / handshakes_per_second  # seconds that a handshake costs
        self._subscribe = 1 / subscribes_per_second  # seconds that a subscribe request costs
        # The time up to which the budget is used, in monotonic seconds; each reservation adds its cost.
        self._used_until = 0.0
        self._not_before = 0.0  # no handshake before this, in monotonic seconds; advanced by `pause`

    async def admit(self, subscribes: int) -> None:
        """Wait until a connection with this number of subscribe requests may be opened."""
        wait = self.reserve(time.monotonic(), subscribes)
        while wait > 0:
            await asyncio.sleep(wait)
            now = time.monotonic()
            # The exchange may have asked for a pause in the meantime.
            wait = self.reserve(now, subscribes) if now < self._not_before else 0.0

    def pause(self, now: float, seconds: float) -> None:
        """Open no connection for this time, because the exchange answered that there were too many."""
        self._not_before = max(self._not_before, now + min(seconds, _LONGEST_PAUSE))

    def reserve(self, now: float, subscribes: int) -> float:
        """Reserve the budget of a connection; return in how many seconds from `now` it may be opened."""
        begin = max(self._used_until, now - _BURST, self._not_before)
        self._used_until = begin + self._handshake + subscribes * self._subscribe
        return max(0.0, begin - now)

    def reserve_subscribe(self, now: float) -> float:
        """Reserve a request on an open connection; return in how many seconds from `now` it may be sent."""
        begin = max(self._used_until, now - _BURST)
        self._used_until = begin + self._subscribe
        return max(0.0, begin - now)


def spread(wall: float, most: float) -> float:
    """Return the seconds to delay a reconnect at a wall time: 0 to `most` around a full hour, else 0."""
    if _ROUGH < wall % _HOUR < _HOUR - _ROUGH:
        return 0.0
    return random.uniform(0, most)  # noqa: S311


def calm(wall: float) -> float:
    """Return a wall time that is not around a full hour: the given one, or one shortly before that hour."""
    since = (wall + _ROUGH) % _HOUR
    if since > 2 * _ROUGH:
        return wall
    return wall - since - random.uniform(0, _ROUGH)  # noqa: S311
