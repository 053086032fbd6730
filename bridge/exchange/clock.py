"""How far the exchange's clock is ahead of ours, from several answers to `server.time`. Pure.

Its time counts whole seconds: at S it is anything from S to S + 1. So one answer leaves an error of half a
second. Example, by our clock: asked at 100.20 and answered at 100.30, 105 means that the exchange is from
4.70 to 5.80 s ahead. The next question is sent at 112.75, when its clock would just turn to 118 if it was in
the middle, 5.25 s ahead. The answer is 117: it has not turned yet, so that the exchange is from 4.70 to
5.25 s ahead. Each question like that halves the error, down to the time that an answer takes.

Times are seconds; ours are of a clock that runs evenly.
"""

from collections.abc import Iterable
from math import inf

Bounds = tuple[float, float]
"""The least and the most that the exchange's clock is ahead."""

_DRIFT = 1e-4  # seconds by which two clocks may diverge in a second

# Seconds between two samples: so many of them to begin with, and after that.
_MANY = 8
_SOON = 10.0
_LATER = 300.0


def bounds(seconds: float, sent: float, received: float) -> Bounds:
    """Return the bounds that one answer gives: the exchange's time, and when it was asked and answered."""
    rounded = 1.0 if seconds == int(seconds) else 0.0
    return seconds - received, seconds + rounded - sent


def in_common(several: Iterable[Bounds]) -> Bounds | None:
    """Return the bounds on which several answers agree; None if they contradict each other."""
    low, high = -inf, inf
    for one in several:
        low, high = max(low, one[0]), min(high, one[1])
    return (low, high) if low <= high else None


class ServerClock:
    """What is known of the exchange's clock, and when to ask for it again.

    If that clock is set, its answers contradict what is known, which is forgotten then.
    """

    def __init__(self) -> None:
        self._bounds: Bounds | None = None  # as of `_known_at`; None until the first answer
        self._known_at = 0.0
        self._samples = 0  # answers since the clock was last found to be set
        self._next_at = -inf  # when it may be asked for again

    @property
    def known(self) -> bool:
        """Whether there was an answer."""
        return self._bounds is not None

    def within(self, now: float) -> Bounds:
        """Return the bounds as of a time; the clock has to be `known`."""
        assert self._bounds is not None  # noqa: S101
        low, high = self._bounds
        drift = _DRIFT * max(0.0, now - self._known_at)
        return low - drift, high + drift

    def add(self, seconds: float, sent: float, received: float) -> None:
        """Take an answer: the exchange's time, and when it was asked and answered."""
        new = bounds(seconds, sent, received)
        both = in_common([self.within(received), new]) if self.known else None
        if both is None:
            self._samples, self._next_at = 0, -inf
        self._samples += 1
        self._bounds, self._known_at = both or new, received

    def claim_question(self, now: float) -> float | None:
        """Return when to ask again, within a second from now; None if it is not due.

        Whoever gets a time has to ask: nobody else does it for a while.
        """
        if not self.known or now < self._next_at:
            return None
        self._next_at = now + (_SOON if self._samples < _MANY else _LATER)
        low, high = self.within(now)
        return now + -(now + (low + high) / 2) % 1.0
