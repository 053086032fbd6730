"""What a connector knows of the session of which it serves a part. Pure."""

from dataclasses import dataclass, replace
from math import inf

_MOST = 10  # doublings of the time until parts are joined again


@dataclass(frozen=True, slots=True)
class Part:
    """The session that was halved, and when its parts may be joined again.

    `whole` is the number of its subscriptions. `failed` counts in a row: parts that could not be joined, and
    joined ones that had to be halved again. `not_before` is in seconds of a monotonic clock. `joined` from
    the moment when parts were joined until that session has been rotated.
    """

    whole: int
    failed: int = 0
    not_before: float = -inf
    joined: bool = False

    def postponed(self, now: float, age: float) -> "Part":
        """Return it after a failure; with `age`, the seconds between two rotations.

        Example: parts are joined at their first rotation. If that fails each time, they are tried again at
        the second rotation after that, then at the fourth, then at the eighth.
        """
        failed = self.failed + 1
        not_before = now + age * (2.0 ** min(failed, _MOST) - 1)
        return replace(self, failed=failed, not_before=not_before, joined=False)

    def with_other(self, other: "Part") -> "Part":
        """Return what is known of the session that has replaced two parts."""
        return Part(max(self.whole, other.whole), max(self.failed, other.failed), joined=True)

    def rotated(self) -> "Part":
        """Return it after a rotation: if it was joined, that was right."""
        return replace(self, failed=0, joined=False) if self.joined else self
