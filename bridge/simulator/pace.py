"""How much is due at a steady rate, whenever one looks. Pure."""


class Pace:
    """Spreads `rate` events over each second; after a pause about a second's worth is made up for."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._most = rate + 1
        self._due = 0.0
        self._seen = now

    def due(self, now: float) -> bool:
        """Tell if another event is due at `now`, in seconds."""
        self._due = min(self._due + (now - self._seen) * self._rate, self._most)
        self._seen = now
        return self._due >= 1

    def spend(self, events: int) -> None:
        """Take note that so many have happened."""
        self._due -= events
