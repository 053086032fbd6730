"""Decides when events are due at a steady rate, however irregularly it is polled. Pure."""


class Pace:
    """Spreads `rate` events over each second; after a pause, catches up on about one second of events."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._most = rate + 1  # events; the bound of `_due`
        self._due = 0.0  # events due at `_seen`, with a fraction; negative after an event that cost several
        self._seen = now  # seconds; when `due` was last called

    def due(self, now: float) -> bool:
        """Return True if another event is due at `now`, in seconds."""
        self._due = min(self._due + (now - self._seen) * self._rate, self._most)
        self._seen = now
        return self._due >= 1

    def spend(self, events: int) -> None:
        """Subtract events that have happened."""
        self._due -= events
