"""When the snapshots of a session are requested again because of its books.

A session spaces the requests of a channel: the more of them, the longer all its markets wait for the next
one (`bridge.exchange.awaited.Repeats`). So a single market must not ask again and again when asking does not
help. Two kinds of markets would: one whose book is crossed at the exchange itself, or whose tickers are
rounded, so that each snapshot is suspected again; and one whose snapshots never become records, as Kafka
rejects them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from bridge.books.doubts import SIGNS, Finding

_FIRST = 4
"""Times `each` that a market waits first: after three times, `Repeats` begin anew, so nobody else waits."""

_LONGEST_WAIT = 900.0  # seconds that a market waits at most

Books = Iterable[tuple[bytes, str]]
"""Books by key, with the session that has brought each."""


@dataclass(slots=True)
class _Wait:
    """Until when a market asks for nothing, and for how many seconds the next time."""

    until: float
    next: float


class Requests:
    """The requests for the sessions of a shard; times are in seconds of a monotonic clock.

    A session whose snapshots were requested is given `each` seconds. Example with 10 s, for a book that is
    crossed at the exchange itself: its first snapshot equals it, so the next one is requested 40 s later at
    the earliest, then after 80 s, and from then on up to every 900 s.
    """

    def __init__(self, each: float) -> None:
        self._each = each
        self._requested: dict[str, float] = {}  # when, by session; while there is a reason to
        self._suspected: set[bytes] = set()  # until a snapshot shows whether they were right
        self._equal: dict[bytes, _Wait] = {}  # suspected, but each time equal to the next snapshot
        self._missing: dict[bytes, _Wait] = {}  # books that are not known

    def note(self, finding: Finding, now: float) -> None:
        """Note what a check of a book has found."""
        key = finding.key
        if finding.result in SIGNS:
            self._suspected.add(key)
        elif finding.result == "different":
            self._suspected.discard(key)
            self._equal.pop(key, None)
        elif key in self._suspected:
            self._suspected.discard(key)
            wait = self._equal.setdefault(key, _Wait(now, _FIRST * self._each))
            _prolong(wait, now)

    def due(self, suspects: Books, missing: Books | None, now: float) -> set[str]:
        """Return the sessions whose snapshots are to be requested now.

        Of `missing` books a record is missing. If that is known when it happens, it is asked for at once, so
        that these are given `each` seconds first. None: which are missing is not known at the moment, so that
        none is asked for, and none begins anew.
        """
        missed = dict(missing or ())
        suspected = dict(suspects)
        asking = missed | suspected
        if missing is not None:
            self._missing = {
                key: self._missing.get(key) or _Wait(now + self._each, _FIRST * self._each) for key in missed
            }
            sessions = set(asking.values())
            self._requested = {session: at for session, at in self._requested.items() if session in sessions}
        self._suspected &= suspected.keys()
        # A market that was not suspected for as long as it would wait next begins anew.
        self._equal = {key: wait for key, wait in self._equal.items() if now < wait.until + wait.next}
        waits = self._equal | {key: self._missing[key] for key in missed}
        due = {
            key: session
            for key, session in asking.items()
            if (key not in waits or now >= waits[key].until)
            and now >= self._requested.get(session, -inf) + self._each
        }
        for key, session in due.items():
            self._requested[session] = now
            if key in missed:
                _prolong(self._missing[key], now)
        return set(due.values())


def _prolong(wait: _Wait, now: float) -> None:
    wait.until, wait.next = now + wait.next, min(2 * wait.next, _LONGEST_WAIT)
