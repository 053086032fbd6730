"""How many frames are kept in dead letters, where there may be no end of them. Pure."""

from collections import Counter

AT_ONCE = 10
"""Frames that may be kept at once."""

MINUTE = 60_000_000
"""µs until one more may be kept."""


class Allowance:
    """How many frames may be kept: a few at once, then one at a time; by default ten, then one a minute."""

    __slots__ = ("_at_once", "_each_us", "_full_us")

    def __init__(self, at_once: int = AT_ONCE, each_us: int = MINUTE) -> None:
        self._at_once = at_once
        self._each_us = each_us  # µs until one more may be kept
        self._full_us = 0  # when all of it may be used again, µs since the epoch

    def take(self, now_us: int) -> bool:
        """Use one, if there is one left."""
        none_left_us = now_us + self._at_once * self._each_us
        self._full_us = min(max(self._full_us, now_us), none_left_us)  # the clock may have been set back
        is_left = self._full_us + self._each_us <= none_left_us
        if is_left:
            self._full_us += self._each_us
        return is_left


class Strays:
    """Pushes of what was not subscribed to: a few are kept, the others are counted, by account."""

    def __init__(self) -> None:
        self._allowance = Allowance()
        self._left_out: Counter[str | None] = Counter()  # since they were last taken
        self._taken_us = 0  # when that was, µs since the epoch

    def keeps(self, now_us: int, account: str | None) -> bool:
        """Return whether one that came over a session of this account (None: of none) may be kept."""
        kept = self._allowance.take(now_us)
        if not kept:
            self._left_out[account] += 1
        return kept

    def take_left_out(self, now_us: int | None = None) -> list[tuple[str | None, int]]:
        """Return how many were left out since the last call, once a minute; without a time, at any time."""
        if not self._left_out or (now_us is not None and abs(now_us - self._taken_us) < MINUTE):
            return []
        self._taken_us = now_us or 0
        left_out = list(self._left_out.items())
        self._left_out.clear()
        return left_out
