"""What a clean list of trades says: their order, which are new, whether a new epoch begins; pure."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from operator import itemgetter
from typing import NamedTuple, TypeVar

from msgspec import Raw

from bridge.channels.known import Known, Listed, Verdict
from bridge.channels.moments import Moment, is_later, same_time

Line = TypeVar("Line", bound=tuple[int, int, Raw, Raw, str])


class Judged(NamedTuple):
    """The trades of a list as the known ones show them, by their places in the list."""

    fresh: list[int]
    """Those that are new, in the order of the list."""

    listed: list[Listed]
    """Those that are new or known and in line, by ascending id."""

    conflicts: list[int]
    """Those with the id of another trade."""

    skipped: list[int]
    """Those with an id below all that is remembered, although they happened after a known trade."""

    repeats: int
    """How many are known or old."""


def oldest_first(lines: Sequence[Line]) -> list[Line]:
    """Return trades in the order in which they happened; the exchange sends the newest first.

    That is the order of their ids, except where ids begin anew: those of the new epoch are later, and lower.
    """
    fewest, ordered = min(((falls(one), one) for one in (list(lines[::-1]), list(lines))), key=itemgetter(0))
    if fewest <= 1 and all(one[1] <= next_one[1] for one, next_one in pairwise(ordered)):
        return ordered
    return sorted(lines, key=itemgetter(1, 0))


def falls(lines: Sequence[Line]) -> int:
    """Return at how many places the ids of trades do not rise."""
    return sum(one[0] >= next_one[0] for one, next_one in pairwise(lines))


def judge_list(known: Known, moments: Sequence[Moment]) -> Judged:
    """Return what a list shows of one epoch; `moments` are its trades in the order in which they happened."""
    first = not known.ids
    times: dict[int, int] = {}  # of the trades so far that are new or known, by id
    fresh: list[int] = []
    judged: list[Listed] = []
    conflicts: list[int] = []
    skipped: list[int] = []
    known_us: int | None = None  # the time of the first known trade in the list
    verdicts = [Verdict.NEW if first else known.judge(*one, listed=True) for one in moments]
    past = max((place for place, one in enumerate(verdicts) if one is Verdict.PAST), default=-1)
    for place, ((trade_id, time_us), verdict) in enumerate(zip(moments, verdicts, strict=True)):
        if trade_id in times:
            if not same_time(times[trade_id], time_us):
                conflicts.append(place)
        elif verdict is Verdict.CONFLICT:
            conflicts.append(place)
        elif verdict not in _NOT_NEW and not known.is_of_earlier_epoch(time_us, is_before_past=place < past):
            is_known = verdict is Verdict.REPEAT
            if not is_known:
                fresh.append(place)
            if verdict is not Verdict.RESTART:  # which is out of line, if no new epoch begins there
                judged.append(Listed((trade_id, time_us), is_known))
            times[trade_id] = time_us
            if is_known and known_us is None:
                known_us = time_us
        elif verdict in _OUT_OF_LINE and known_us is not None and not is_later(known_us, time_us):
            skipped.append(place)
    listed = [judged[place] for place in in_line([one.moment[0] for one in judged])]
    repeats = len(moments) - len(fresh) - len(conflicts) - len(skipped)
    return Judged(fresh, listed, conflicts, skipped, repeats)


def history_ends(known: Known, moments: Sequence[Moment]) -> int:
    """Return where the epoch of the first trade of a symbol begins in its first list.

    What is in front of that is history. Without known trades, it is the newest epoch in the list.
    """
    if known.epoch or not known.young:
        return 0
    first = len(moments) if not known.ids else 0
    while first < len(moments) and known.judge(*moments[first], listed=True) is not Verdict.REPEAT:
        first += 1
    if known.ids and first == len(moments):
        return 0
    places = range(1, min(first + 1, len(moments)))
    return max((n for n in places if moments[n][0] <= moments[n - 1][0]), default=0)


def new_epoch(known: Known, moments: Sequence[Moment]) -> int:
    """Return where a new epoch may begin in a list; its length if it does not.

    It does not begin in front of known trades. An id that two trades have shows it; one that is just low does
    not if most ids behind it go on as in front of it. Example, with 1 to 9 known: in 8 9 1 2 3, where 1 to 3
    are later, it begins with 1. In 8 9 1 10 11 it does not: that 1 is out of line.
    """
    if not known.ids:
        return len(moments)
    newest_us = known.newest_us
    verdicts = [known.judge(*moment, listed=True) for moment in moments]
    begin = max((n for n, one in enumerate(verdicts) if one in KNOWN), default=-1) + 1
    highest_before = list(accumulate((trade_id for trade_id, _ in moments), max))
    seen: set[int] = set()
    for place in range(begin, len(moments)):
        trade_id = moments[place][0]
        may_begin = verdicts[place] in (Verdict.RESTART, Verdict.DOUBTFUL)
        is_twice = trade_id in seen
        seen.add(trade_id)
        if not (may_begin or is_twice):
            continue
        first = place
        while (
            first > begin
            and moments[first - 1][0] < moments[first][0]
            and is_later(moments[first - 1][1], newest_us)
        ):
            first -= 1
        higher = sum(one[0] > highest_before[first - 1] for one in moments[first:]) if first else 0
        if is_twice or known.has(trade_id) or 2 * higher < len(moments) - first:
            return first
    return len(moments)


def in_line(ids: Sequence[int]) -> list[int]:
    """Return the places of the longest series of rising ids in a list: of all of them, if they rise.

    Example: of 990 991 5 992 993 these are the places 0, 1, 3 and 4: the id 5 is out of line.
    """
    ends: list[int] = []  # the lowest id that ends a series of each length
    places: list[int] = []  # where that id is
    before: list[int] = []  # for each place, the one in front of it in its series; -1 for none
    for place, trade_id in enumerate(ids):
        length = bisect_left(ends, trade_id)
        before.append(places[length - 1] if length else -1)
        ends[length : length + 1] = [trade_id]
        places[length : length + 1] = [place]
    series = []
    place = places[-1] if places else -1
    while place >= 0:
        series.append(place)
        place = before[place]
    return series[::-1]


KNOWN = (Verdict.REPEAT, Verdict.PAST)

# In a list, these are no trades of the present epoch that Kafka lacks.
_NOT_NEW = (Verdict.OLD, Verdict.PAST, Verdict.DOUBTFUL)

# In a list, behind a known trade, these are out of line.
_OUT_OF_LINE = (Verdict.OLD, Verdict.DOUBTFUL)
