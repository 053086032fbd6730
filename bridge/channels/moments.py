"""When trades happened: their ids and times, and what two times say of each other; pure.

The exchange tells times in whole seconds, in milliseconds or in microseconds, and the same trade may come one
way in a push and another way in a list. Two times are compared in the coarser of their units.
"""

from collections.abc import Iterable

from bridge.channels.figures import SECOND

Moment = tuple[int, int]
"""The id of a trade, and its time in µs since the epoch."""


def is_later(time_us: int, other_us: int) -> bool:
    """Return whether a time is certainly later."""
    unit = _unit(time_us, other_us)
    return time_us // unit > other_us // unit


def same_time(time_us: int, other_us: int) -> bool:
    """Return whether two times can be of one trade: the coarser one may be rounded up or down."""
    return abs(time_us - other_us) < _unit(time_us, other_us)


def _unit(time_us: int, other_us: int) -> int:
    """Return the coarser of the units in which two times seem to be, in µs."""
    if not (time_us % SECOND and other_us % SECOND):
        return SECOND
    return 1 if time_us % _MILLISECOND and other_us % _MILLISECOND else _MILLISECOND


_MILLISECOND = 1000
_MOST_TIMES = 8  # of one id: epochs that are remembered, as a rule one


def times_by_id(moments: Iterable[Moment]) -> dict[int, list[int]]:
    """Return the times of all trades with the same id, of very many the newest ones."""
    times: dict[int, list[int]] = {}
    for trade_id, time_us in moments:
        note_time(times, trade_id, time_us)
    return times


def note_time(times: dict[int, list[int]], trade_id: int, time_us: int) -> None:
    """Add the time of a trade to those of all trades with the same id."""
    same = times.setdefault(trade_id, [])
    same.append(time_us)
    del same[:-_MOST_TIMES]
