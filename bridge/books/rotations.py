"""The books of sessions that are being replaced, to compare the snapshots of the new sessions with.

Example: session X is to be replaced at 100 s; Y is opened, and takes over at 104 s. From 100 s on all states
of X's books are kept. At 104 s it is known that Y brought the snapshot of A before anything could come over Y
alone, and that of B later. So that of A has to equal one of the states that X's book of A had, and is
compared; that of B is not.

Records are looked at when they are on their way to Kafka, which may be long after a rotation. So what is
noted of rotations waits for them.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, TypeVar

from bridge.books.book import Book, Level
from bridge.books.comparing import Difference, Overlap, differences

MOST_ROTATIONS = 1000
"""Rotations of a shard that wait for their records; the oldest are forgotten, and not compared."""

MOST_CHANGED = 200_000
"""Levels that are kept of all books of a shard together, 35 MB; a book that needs more is not compared."""

T = TypeVar("T")


class _States(NamedTuple):
    """All states of a book since its session is being replaced; `overlap` is None if they were too many."""

    session: str
    since_us: int
    overlap: Overlap | None


class Rotations:
    """The rotations of the sessions of a shard, and the states of their books.

    Times are in µs since the epoch.
    """

    def __init__(self) -> None:
        self.since: dict[str, int] = {}  # sessions that are being replaced, and since when
        # By the new session: those that it has replaced, and the keys whose snapshots can be compared.
        self._replaced: dict[str, tuple[Collection[str], set[bytes]]] = {}
        self._states: dict[bytes, _States] = {}  # by key, from the first change to the next session
        self._changed = 0  # levels in all of them

    def begin(self, sessions: Iterable[str], now_us: int) -> None:
        """Note that sessions are being replaced from now on."""
        self.since.update((session, now_us) for session in sessions)
        _limit(self.since)

    def end(self, sessions: Collection[str]) -> None:
        """Note that sessions are not being replaced any more: they stay in use, or one ended by itself."""
        for session in sessions:
            self.since.pop(session, None)
        for key in [key for key, states in self._states.items() if states.session in sessions]:
            self.forget(key)

    def replaced(self, olds: Collection[str], new: str, keys: Iterable[bytes]) -> None:
        """Note that a session has replaced others; the first snapshots of `keys` can be compared."""
        self._replaced[new] = olds, set(keys)
        _limit(self._replaced)

    def note(
        self,
        key: bytes,
        session: str,
        book: Book,
        received_us: int,
        change: tuple[Sequence[Level], Sequence[Level], bool],
    ) -> None:
        """Note what a book is about to take over this session: asks, bids, and whether it is a snapshot."""
        since_us = self.since.get(session)
        if since_us is None or received_us < since_us:
            return
        states = self._states.get(key)
        if states is None or states[:2] != (session, since_us):
            self.forget(key)
            states = self._states[key] = _States(session, since_us, Overlap(book))
        if (overlap := states.overlap) is None:
            return
        asks, bids, snapshot = change
        before = overlap.changed
        overlap.add(asks, bids, snapshot=snapshot)
        self._changed += overlap.changed - before
        if self._changed > MOST_CHANGED:
            self.forget(key)
            self._states[key] = states._replace(overlap=None)

    def compared(
        self, key: bytes, old: str, new: str, books: tuple[Book, Book]
    ) -> Sequence[Difference] | None:
        """Return how the first snapshot of a new session differs from the book that it replaces.

        `books` are the kept one and that of the snapshot. Of all states that the kept one had during the
        rotation, the one that is most like the snapshot counts. None: it cannot be compared.
        """
        olds, keys = self._replaced.get(new, ((), set[bytes]()))
        states, since_us = self._states.get(key), self.since.get(old)
        self.forget(key)
        is_known = since_us is not None and old in olds and key in keys
        keys.discard(key)
        if olds and not keys:
            del self._replaced[new]
            self.end(olds)
        if not is_known:
            return None
        kept, found = books
        if states is None or states[:2] != (old, since_us):
            return differences(kept, found)
        return None if states.overlap is None else states.overlap.closest(found)

    def forget(self, key: bytes) -> None:
        """Forget the states of a book."""
        states = self._states.pop(key, None)
        if states is not None and states.overlap is not None:
            self._changed -= states.overlap.changed


def _limit(noted: dict[str, T]) -> None:
    while len(noted) > MOST_ROTATIONS:
        del noted[next(iter(noted))]
