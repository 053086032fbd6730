"""When a session is replaced that brings nothing: ever less often if its successor brings nothing either."""

_LONGEST = 3600.0  # seconds


class Freshness:
    """How long a session may bring nothing, over one session after another.

    Example with `stale_after` 120 s: a session brings its last push at 0, and is replaced at 120. The new one
    brings its snapshots when it is subscribed, and nothing else: it is replaced 240 s later, the next one
    after 480 s, and from then on one in an hour. A push later than `beginning` seconds after a session has
    become live starts it over.
    """

    def __init__(self, stale_after: float, beginning: float) -> None:
        self._shortest = stale_after
        self._beginning = beginning
        self._patience = stale_after  # seconds without a push after which the present session is replaced

    def stale_at(self, live_at: float, fresh_at: float) -> float:
        """Return when a session is to be replaced that was last pushed to at `fresh_at`."""
        if fresh_at > live_at + self._beginning:
            self._patience = self._shortest
        return fresh_at + self._patience

    def replaced(self) -> None:
        """Note that a session was replaced because it brought nothing."""
        self._patience = max(self._shortest, min(2 * self._patience, _LONGEST))
