"""How long to wait before the next try."""

import random


class Backoff:
    """Exponential back-off with full jitter: each wait is drawn between 0 and a bound that doubles.

    The bound starts at `shortest` and ends at `longest`, in seconds.
    """

    def __init__(self, shortest: float, longest: float) -> None:
        self._shortest = shortest
        self._longest = longest
        self._bound = shortest

    def next(self, *, longer: bool = False) -> float:
        """Return the seconds to wait before the next try.

        `longer`: the other side is overloaded; wait four times as long, and not less than half of that.
        """
        bound = min(self._longest, 4 * self._bound) if longer else self._bound
        self._bound = min(self._longest, 2 * bound)
        return random.uniform(bound / 2 if longer else 0, bound)  # noqa: S311

    def reset(self) -> None:
        """Start over, since a try has succeeded."""
        self._bound = self._shortest
