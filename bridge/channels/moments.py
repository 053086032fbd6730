"""When trades happened: their ids and times, and what two times say of each other; pure.

The exchange tells times with a fraction of a second or in whole seconds, and the same trade may come one way
in a push and the other way in a list.
"""

from collections.abc import Iterable

from bridge.channels.figures import SECOND

Moment = tuple[int, int]
"""The id of a trade, and its time in µs since the epoch."""


def is_later(time_us: int, other_us: int) -> bool:
    """Return whether a time is certainly later: one of them may be in whole seconds."""
    if time_us % SECOND and other_us % SECOND:
        return time_us > other_us
    return time_us // SECOND > other_us // SECOND


def same_time(time_us: int, other_us: int) -> bool:
    """Return whether two times can be of one trade: one of them may be in whole seconds."""
    if time_us == other_us:
        return True
    return not (time_us % SECOND and other_us % SECOND) and -SECOND < time_us - other_us < SECOND


def times_by_id(moments: Iterable[Moment]) -> dict[int, list[int]]:
    """Return the times of all trades with the same id."""
    times: dict[int, list[int]] = {}
    for trade_id, time_us in moments:
        times.setdefault(trade_id, []).append(time_us)
    return times
