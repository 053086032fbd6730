"""How long to wait before the next attempt. Pure, but for the random numbers."""

import random


class Backoff:
    """Exponential back-off with full jitter: each wait is drawn between 0 and a bound that doubles.

    The bound starts at `shortest` seconds and never exceeds `longest`.
    """

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest = shortest
        self._longest = longest
        self._bound = shortest  # seconds, the most that the next wait may take; doubles with each

    def next(self, *, longer: bool = False, share: tuple[float, float] = (0.0, 1.0)) -> float:
        """Return the seconds to wait before the next attempt, drawn from this `share` of the bound.

        `longer`, if the other side is overloaded: the bound is four times as high, and the wait at least half
        of it.
        """
        bound = min(self._longest, 4 * self._bound) if longer else self._bound
        self._bound = min(self._longest, 2 * bound)
        low, high = (0.5, 1.0) if longer else share
        return random.uniform(low * bound, high * bound)  # noqa: S311

    def reset(self) -> None:
        """Start over after an attempt that succeeded."""
        self._bound = self._shortest
