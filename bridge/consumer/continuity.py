"""Continuity: proves that no record is missing, and recognises those that were read already."""

from typing import NamedTuple

from bridge.consumer.records import ChannelRecord

MOST_SESSIONS = 16
"""Sessions of one key that are remembered; the oldest are forgotten."""

_NONE = range(0)

_Series = tuple[type[ChannelRecord], str | None, str]
"""Channel, account and key."""


class Check(NamedTuple):
    """What a record's `session` and `seq` say of it."""

    repeated: bool
    """It was checked before: a consumer that rejoins its group reads some records again, and a bridge with
    `at-least-once` may write some again. Skip it."""

    missing: range
    """The `seq` of the records of its session that should have come before it; usually none."""


class Continuity:
    """Compares each record with those of the same channel, key and account that came before it.

    The first record of a key may have any `seq`.
    """

    def __init__(self) -> None:
        # The `seq` that has to follow, by series and session; of each series, the newest session is the last.
        self._due: dict[_Series, dict[str, int]] = {}
        # The series of which records may have been left out since the last one; see `resumed`.
        self._left: set[_Series] = set()

    def check(self, record: ChannelRecord) -> Check:
        """Check the next record."""
        series = type(record), getattr(record, "account", None), record.key
        sessions = self._due.setdefault(series, {})
        due = sessions.get(record.session, 0)
        if record.seq < due:
            return Check(repeated=True, missing=_NONE)
        if not sessions or series in self._left:
            self._left.discard(series)
            due = record.seq
        if record.session not in sessions and len(sessions) >= MOST_SESSIONS:
            del sessions[next(iter(sessions))]
        sessions[record.session] = record.seq + 1
        return Check(repeated=False, missing=range(due, record.seq))

    def resumed(self) -> None:
        """Let the next record of each key have any `seq` again, unless it is repeated.

        Call it when reading has left out records on purpose: after a seek, and when the consumer group has
        given back partitions that another member has read meanwhile.
        """
        self._left = set(self._due)
