"""Which subscriptions bring nothing although their market moves, and which show that it does; pure.

Times are seconds of a monotonic clock.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf

Subscription = tuple[str, str]
"""A channel and a symbol."""

# How much longer than others a channel may bring nothing: a ticker may be pushed less often than it changes.
_PATIENCE: Mapping[str, float] = {"ticker": 5.0}


@dataclass(slots=True)
class _Suspect:
    """A subscription whose market has moved, and that has pushed no change since."""

    since: float  # when the market moved for the first time
    counts: tuple[int, int]  # of records, and of lists or snapshots, as of the last look
    proof: float = inf  # when it moved so much later that its push must have come after `since`


class Traded:
    """Of which markets one session pushes trades, apart from those of lists, which were asked for.

    Example: of A three records and a list have come. A second later there are five records, so A is traded.
    Then there are 105 records and two lists: nobody knows whether one of the 100 was pushed by itself.
    """

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int]] = {}  # by symbol: of records and of lists, at the last look

    def look(self, symbol: str, counts: tuple[int, int]) -> bool:
        """Return whether trades of a market were pushed since the last look.

        `counts`: how many records have come, and how many lists.
        """
        before = self._counts.get(symbol, counts)
        self._counts[symbol] = counts
        return counts[0] > before[0] and counts[1] == before[1]

    def forget(self, symbol: str) -> None:
        """Look at a market no longer."""
        self._counts.pop(symbol, None)


class Unheard:
    """The subscriptions of one session of which no change is pushed, while their market is seen to move.

    Example, with a `patience` of 120 s and a `margin` of 10 s: a push of all_ticker at 0 shows a trade of A.
    Its own push may have come before that, so it proves nothing. The next trade is shown at 7, and another
    at 50, and no push has come: those of the trade at 50 cannot have come before 0. From 120 on A is
    `silent`, until a change is pushed. A list or snapshot is no change: it was asked for.
    If the next trade is at 200, A is silent from 210 on: a market that is quiet never is.
    """

    def __init__(self) -> None:
        self.silent: set[Subscription] = set()  # until a change is pushed
        self._suspects: dict[Subscription, _Suspect] = {}  # until a change is pushed
        self._looked_at = inf  # when they were last looked at; inf before the first time

    def look(
        self,
        subscriptions: Iterable[Subscription],
        moved_at: Callable[[str, str], float],
        counts: Callable[[str, str], tuple[int, int]],
        now: float,
    ) -> list[Subscription]:
        """Look at confirmed subscriptions, and return those of which a change was pushed after all.

        `moved_at` returns when the market of a subscription was last seen to move; `counts` returns how many
        records have come of it, and how many lists or snapshots. To be called every second or so.
        """
        begun = []
        for one in subscriptions:
            moved = moved_at(*one)
            suspect = self._suspects.get(one)
            if suspect is None:
                if moved > self._looked_at:
                    self._suspects[one] = _Suspect(moved, counts(*one))
                continue
            records, lists = counts(*one)
            if lists != suspect.counts[1]:
                suspect.counts = (records, lists)
            elif records != suspect.counts[0]:
                del self._suspects[one]
                if one in self.silent:
                    self.silent.discard(one)
                    begun.append(one)
        self._looked_at = now
        return begun

    def take_silent(
        self, moved_at: Callable[[str, str], float], patience: float, margin: float, now: float
    ) -> list[Subscription]:
        """Return those that are silent from now on, each once.

        `patience` is how long they may bring nothing, `margin` by how much the pushes that show a movement
        and their own may differ in time; both in seconds.
        """
        found = []
        for one, suspect in self._suspects.items():
            if suspect.proof == inf and (moved := moved_at(*one)) >= suspect.since + margin:
                suspect.proof = moved
            due = max(suspect.since + patience * _PATIENCE.get(one[0], 1.0), suspect.proof + margin)
            if now >= due and one not in self.silent:
                self.silent.add(one)
                found.append(one)
        return found

    def restart(self) -> None:
        """Suspect none, because nothing was read for a while."""
        self._suspects = {one: suspect for one, suspect in self._suspects.items() if one in self.silent}
        self._looked_at = inf

    def forget(self, one: Subscription) -> None:
        """Look at a subscription no longer."""
        self._suspects.pop(one, None)
        self.silent.discard(one)
