"""What is known of the trades of one symbol, and where some may be missing; pure.

The words:

    known       The trade became a record; remembered by its id and its time, down to the oldest one kept.
    stretch     A place between two known trades where others may be missing. Any number of them can be open.
    proof       Only an overlap proves that nothing is missing: a clean list that contains a known trade from
                before the stretch, with its id and its time, and goes on behind it. A number alone proves
                nothing.
    epoch       Ids rise within an epoch. A new one begins when the exchange counts anew.

An example, with trades whose ids are 1, 2, 3 and so on:

| what arrives | records | known | open | gap |
|---|---|---|---|---|
| session A: clean list 1 to 5 | 1 to 5 | 1 to 5 | | |
| A: 6; then A is lost, 7 and 8 happen | 6 | 1 to 6 | | |
| session B: 9, before its clean list | 9 | 1 to 6, 9 | 6 to 9 | |
| B is lost, 10 to 19 happen; session C: 20 | 20 | 1 to 6, 9, 20 | 6 to 9, 9 to 20 | |
| C: clean list 4 to 20 | 7, 8, 10 to 19 | 1 to 20 | | 6 to 7 and 9 to 10, filled 2 and 10, closed |
| or instead: clean list 18 to 20 | 18, 19 | 1 to 6, 9, 18 to 20 | | 6 to 9; 9 to 18, filled 2 |
| or instead: no list for too long | | 1 to 6, 9, 20 | | 6 to 9; 9 to 20 |

A new epoch begins with a trade whose id is below all known ones and whose time is later than theirs. Times
may be whole seconds. So within the second of the newest known trade that is not yet clear: such trades are
held until several of them have come, one of a later second, or a list that ends with them, or until it takes
too long. A list that goes on behind them with known trades shows that they are old.

Longer than 350 lines because the trades and the stretches between them are changed together.
"""

import enum
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from bridge.channels.figures import SECOND
from bridge.channels.moments import Moment, is_later, note_time, same_time, times_by_id
from bridge.ledger import Gap, Watermark, insert
from bridge.records import Cause, Mark, Open, Stretch

# Trades that are remembered: several times as many as a clean list was seen to repeat. The same number of
# earlier epochs.
_WINDOW = 2048
MOST_KNOWN = 2 * _WINDOW

# Open stretches of a symbol. With one more, the oldest is given up.
_MOST_OPEN = 8

# Pushes may overtake each other: within so many µs on their way, and so many of them.
OUT_OF_ORDER = 1_000_000
_OVERTAKEN = 8

# The newest trades whose times are looked at: one with an absurd id or time among them does not matter.
_NEWEST = 5

# An id that is higher than its neighbours by so much is out of line.
_FAR = 10**8

# µs by which the time of a trade may be later than that of all before it.
_ABSURD = 3600 * SECOND


class Verdict(enum.Enum):
    """How a trade relates to the known ones."""

    NEW = "it is not on Kafka"
    REPEAT = "it is known"
    PAST = "it is known from an earlier epoch"
    OLD = "it is from before what is remembered"
    CONFLICT = "a known trade has its id and another time"
    RESTART = "ids begin anew with it"
    DOUBTFUL = "ids may begin anew with it"


class Listed(NamedTuple):
    """A trade of a clean list, and whether it was known before."""

    moment: Moment
    is_known: bool


class _Opened(NamedTuple):
    """An open stretch, what opened it, and when.

    The time is in µs since the epoch, negative if that was before a takeover, and 0 if it is unknown.
    """

    stretch: Stretch
    session: str | None
    cause: Cause
    since_us: int


def _seen(one: _Opened, now_us: int, patience_us: int) -> _Opened:
    """Return an open stretch with the time from which it has waited.

    The clock may have been set back since then. A takeover leaves it a quarter of its time at least, for the
    list that is about to come.
    """
    since_us = one.since_us
    if since_us < 0:
        since_us = max(-since_us, now_us - patience_us * 3 // 4)
    return one if 0 < one.since_us <= now_us else one._replace(since_us=min(since_us, now_us) or now_us)


def _in_order(opened: Iterable[_Opened]) -> list[_Opened]:
    return sorted(opened, key=lambda one: one.stretch)


class Found(NamedTuple):
    """What a clean list shows of a stretch."""

    stretch: Stretch
    filled: int
    cause: Cause


class Known:
    """The known trades of one symbol, from all sessions, and the stretches between them."""

    __slots__ = (
        "_held",
        "_opened",
        "_past",
        "_reported",
        "epoch",
        "epoch_us",
        "ids",
        "open",
        "symbol",
        "times",
        "young",
    )

    def __init__(self, symbol: bytes, watermark: Watermark | None) -> None:
        known = watermark or Watermark([], [])
        self.symbol = symbol
        # The known trades of this epoch by ascending id; beyond MOST_KNOWN only the newest _WINDOW are kept.
        self.ids = array("q", known.ids)
        self.times = array("q", known.times)
        self.epoch = known.epoch  # how often ids have begun anew
        self.epoch_us = known.epoch_us  # when the first trade of this epoch happened; 0 in the first one
        # The newest epoch that was reported before a takeover, maybe in front of its first trade.
        self._reported = known.reported
        # Until the first clean list of an epoch, a pushed trade below the lowest id is a late one.
        self.young = watermark is None
        # The open stretches as the next record saves them. Differs from `_opened` only between `prove` and
        # `settle`.
        self.open = known.open
        since = known.open.since or (0,) * len(known.open.stretches)
        # A gap may reach Kafka before the trades of its session: what was open behind these is not.
        self._opened = [
            _Opened(stretch, None, "takeover", -since_us)
            for stretch, since_us in zip(known.open.stretches, since, strict=True)
            if self.ids and stretch.after_id <= self.ids[-1]
        ]
        # The stretch up to a trade that is held: saved with the others, reported only if the process ends.
        self._held: _Opened | None = None
        # The newest trades of earlier epochs, at most _WINDOW: the times by id, which each epoch may have.
        self._past = times_by_id(known.past)

    # Trades

    def judge(self, trade_id: int, time_us: int, *, listed: bool) -> Verdict:
        """Return how a trade relates to the known ones, pushed or `listed`; it is not added."""
        place = bisect_left(self.ids, trade_id)
        has_id = self._is_at(place, trade_id)
        if has_id and same_time(self.times[place], time_us):
            return Verdict.REPEAT
        if any(same_time(past_us, time_us) for past_us in self._past.get(trade_id, ())):
            return Verdict.PAST
        if self.epoch and place == len(self.ids) and self._is_late(trade_id, time_us):
            return Verdict.PAST
        return self._judge_unknown(trade_id, time_us, place, has_id=has_id, listed=listed)

    def _judge_unknown(
        self, trade_id: int, time_us: int, place: int, *, has_id: bool, listed: bool
    ) -> Verdict:
        """Return how a trade relates to the known ones, whose ids have its id at this place, or would."""
        if not self.ids:
            return Verdict.NEW
        newest_us = self.newest_us
        if is_later(time_us, newest_us) and (not place or has_id or self._is_below(place, trade_id)):
            return Verdict.RESTART
        if place and not has_id:
            return Verdict.NEW
        is_close = self.young and 2 * trade_id > self.ids[0]
        if same_time(time_us, newest_us) and not is_close:
            return Verdict.DOUBTFUL
        if has_id:
            return Verdict.CONFLICT
        # Nothing of a young epoch is forgotten. What a list shows from before it is history.
        is_new = self.young and (not listed or is_later(time_us, min(self.times)))
        return Verdict.NEW if is_new else Verdict.OLD

    def _is_late(self, trade_id: int, time_us: int) -> bool:
        """Return whether a trade above all known ones goes on from the epoch before.

        A session that lags may bring it. It is inside the gap behind that epoch.
        """
        if not self.ids or not is_later(self.epoch_us, time_us):
            return False
        before = islice(reversed(self._past), _NEWEST)
        return min((abs(trade_id - one) for one in before), default=trade_id) < trade_id - self.ids[-1]

    def has(self, trade_id: int) -> bool:
        """Return whether a known trade of this epoch has this id."""
        return self._is_at(bisect_left(self.ids, trade_id), trade_id)

    def _is_below(self, place: int, trade_id: int) -> bool:
        """Return whether ids go on above an id, whose place would be this one.

        One known trade above it may be out of line itself; two show that ids rise there. Those that are far
        away do not count, nor those with a later trade below them: strays, and late ones of an epoch before.
        """
        above = range(place, min(place + _OVERTAKEN, len(self.ids)))
        moments = [(self.ids[n], self.times[n]) for n in above if self.ids[n] - trade_id < _FAR]
        return sum(not self._is_behind(moment) for moment in moments) >= 2  # noqa: PLR2004

    def _is_at(self, place: int, trade_id: int) -> bool:
        return place < len(self.ids) and self.ids[place] == trade_id

    def is_of_earlier_epoch(self, time_us: int, *, is_before_past: bool) -> bool:
        """Return whether a trade of a list happened before this epoch, so in the gap in front of it.

        Of the second in which the epoch began, those are which the list has in front of one from before it:
        they may be known, although only the newest of them are remembered.
        """
        second, first = time_us // SECOND, self.epoch_us // SECOND
        return bool(self.epoch) and (second < first or (is_before_past and second == first))

    @property
    def newest_us(self) -> int:
        """The time of the newest known trade in µs since the epoch, unless that is absurd."""
        *others, newest_us = sorted(self.times[-_NEWEST:])
        return others[-1] if others and newest_us - others[-1] > _ABSURD else newest_us

    @property
    def last(self) -> Moment:
        """The newest known trade that is in line: with the time `newest_us`, and no absurd id."""
        newest_us, ids = self.newest_us, list(self.ids[-_NEWEST:])
        while len(ids) > 1 and ids[-1] - ids[0] > max(_FAR, 1000 * (ids[-2] - ids[0])):
            ids.pop()
        newest = zip(self.times[-_NEWEST:], ids, strict=False)  # the times of the others are left over
        time_us, trade_id = max(
            (one for one in newest if one[0] <= newest_us), default=(self.times[-1], self.ids[-1])
        )
        return trade_id, time_us

    def add(self, trade_id: int, time_us: int) -> None:
        """Add a trade that is new."""
        insert(self.ids, self.times, trade_id, time_us)
        self.epoch_us = min(self.epoch_us, time_us)  # a trade with an absurd time may have begun it

    def restart(self, first: Moment, session: str) -> list[Gap]:
        """Begin a new epoch in front of its first trade; return the gaps, at last the one in front of it."""
        last = self.last
        if self.open.overtaken:
            last = self._before(last[0], _OVERTAKEN - 1) or last
        self._held = None
        gaps = self._give_up(self._opened)
        past = [(trade_id, time_us) for trade_id, times in self._past.items() for time_us in times]
        self._past = times_by_id([*past, *zip(self.ids, self.times, strict=True)][-_WINDOW:])
        self.ids, self.times = array("q"), array("q")
        self.epoch, self.epoch_us, self.young = self.epoch + 1, first[1], True
        cause: Cause = "ids_restarted" if self.epoch > self._reported else "takeover"
        return [*gaps, self._gap(Found(Stretch(*last, *first), 0, cause), session, closed=False)]

    def begin_behind(self, history: Sequence[Moment], first: Moment) -> None:
        """Begin with a trade in front of which a list shows those of another epoch."""
        self._past = times_by_id(history[-_WINDOW:])
        self.epoch, self.epoch_us = self.epoch + 1, first[1]

    def note_overtaking(self, late: Moment) -> None:
        """Remember that pushes of this symbol may overtake each other, if this one was overtaken."""
        last, last_us = self.last
        if late[0] < last and not is_later(late[1], last_us) and not self.open.overtaken:
            self.open = self.open._replace(revision=self.open.revision + 1, overtaken=True)

    def note_held(self, moment: Moment, session: str, now_us: int) -> None:
        """Remember with the next record that a trade is held: if the process ends, it is missing, too."""
        if self._held is None:
            trade_id, time_us = moment
            stretch = Stretch(*self.last, trade_id + 1, time_us)
            self._held = _Opened(stretch, session, "ids_restarted", now_us)
            self.settle()

    def forget_held(self) -> None:
        """Forget what `note_held` has remembered, because the trade is old."""
        self._held = None
        self.settle()

    def trim(self) -> list[Gap]:
        """Forget the oldest trades, if there are many; return the gaps that no list can fill any more."""
        if len(self.ids) <= MOST_KNOWN:
            return []
        del self.ids[:-_WINDOW], self.times[:-_WINDOW]
        return self._give_up(one for one in self._opened if one.stretch.after_id < self.ids[0])

    # Stretches

    def open_before(
        self, trade: Moment, session: str, cause: Cause, now_us: int, first: Moment | None = None
    ) -> list[Gap]:
        """Open a stretch in front of a trade that is about to be added, unless one is open there.

        It begins with the known trade before it, or with `first` if there is none. Returns the gaps that are
        given up for it.
        """
        last = self._begin(trade[0], cause) or first
        if last in (None, trade) or self._is_open_at(trade):
            return []
        opened = _Opened(Stretch(*last, *trade), session, cause, now_us)
        if cause == "damaged_frame":
            # What was lost may have been pushed out of order: behind the first trade that came after it.
            for one in self._opened:
                if (one.session, one.cause, one.since_us) == (session, cause, now_us):
                    self._opened.remove(one)
                    opened = one._replace(stretch=Stretch(*one.stretch[:2], *trade))
        self._opened = _in_order([*self._opened, opened])
        self.settle()
        return self._give_up(self._opened[: max(0, len(self._opened) - _MOST_OPEN)])

    def give_up(self, now_us: int | None = None, patience_us: int = 0) -> list[Gap]:
        """Close stretches without proof, all or those that have been open for longer than `patience_us`."""
        if not self._opened:
            return []
        if now_us is None:
            return self._give_up(self._opened)
        self._opened = [_seen(one, now_us, patience_us) for one in self._opened]
        return self._give_up(one for one in self._opened if one.since_us + patience_us <= now_us)

    def give_up_conflict(self, moment: Moment, session: str, cause: Cause) -> list[Gap]:
        """Return the gap, if any, around a trade that happened later than the known one with its id."""
        trade_id, time_us = moment
        place = bisect_left(self.ids, trade_id)
        if not self._is_at(place, trade_id) or not is_later(time_us, self.times[place]):
            return []
        stretch = Stretch(trade_id, self.times[place], *self.last)
        return [self._gap(Found(stretch, 0, cause), session, closed=False)]

    def give_up_skipped(
        self, before: Moment, moment: Moment, behind: Moment, session: str, cause: Cause
    ) -> Gap:
        """Return the gap around a trade of a list that is out of line, and may be known or not."""
        note_time(self._past, *moment)
        if len(self._past) > MOST_KNOWN:
            del self._past[next(iter(self._past))]
        return self._gap(Found(Stretch(*before, *behind), 0, cause), session, closed=False)

    def omits(self, listed: Sequence[Listed]) -> bool:
        """Return whether a list lacks a known trade that happened between its first and its last one."""
        (low, low_us), (high, high_us) = listed[0].moment, listed[-1].moment
        between = range(bisect_left(self.ids, low), bisect_right(self.ids, high))
        ids = {one.moment[0] for one in listed}
        return any(
            self.ids[n] not in ids
            and not is_later(low_us, self.times[n])
            and not is_later(self.times[n], high_us)
            for n in between
        )

    def prove(
        self, listed: Sequence[Listed], session: str, cause: Cause, *, follows: bool
    ) -> tuple[list[Gap], list[Found]]:
        """Use a clean list as proof; return the gaps that are lost, and what it closes, for `closed`.

        `listed` are its trades by ascending id, all that happened from the first to the last of them. To be
        called before the new ones of them are added. It `follows` if its session has brought trades that it
        just goes on from. What the records of the list fill stays open until `settle`, to be called before
        the last one: with only a part of them on Kafka, the next list fills it.
        """
        low = listed[0].moment
        # Behind the last one that is in line with what is known, the ids of an older list are strays.
        high = next((one.moment for one in reversed(listed) if not self._is_behind(one.moment)), low)
        reached = next((one.moment for one in listed if one.is_known), None)
        reach = reached and reached[0]
        new = [one.moment for one in listed if not one.is_known and not self._is_open_at(one.moment)]
        lost: list[Gap] = []
        closed: list[Found] = []
        remaining: list[_Opened] = []
        meanwhile: list[_Opened] = []
        for one in list(self._opened):
            after, before = one.stretch[:2], one.stretch[2:]
            if high[0] <= after[0]:  # an older list
                remaining.append(one)
                meanwhile.append(one)
                continue
            rest = []
            # What follows in the same session follows its list, unless something was lost in between.
            if high[0] < before[0] and (one.session != session or one.cause == "damaged_frame"):
                rest.append(one._replace(stretch=Stretch(*high, *before)))
            inside = [n for n in listed if after[0] < n.moment[0] < before[0]]
            filled = [n.moment for n in inside if not n.is_known]
            if reached and reached[0] <= after[0] and not is_later(reached[1], after[1]):
                if filled or not rest:
                    closed.append(Found(Stretch(*after, *(filled or [before])[0]), len(filled), one.cause))
                meanwhile.append(one)
            else:  # the next list begins later still
                meanwhile += [one] if filled else rest
                self._opened = [*meanwhile, *(other for other in self._opened if other.stretch > one.stretch)]
                self.settle()
                end = inside[0].moment if inside else before
                found = Found(Stretch(*after, *end), len(filled), one.cause)
                lost.append(self._gap(found, session, closed=False))
            remaining += rest
        without_proof = [n for n in new if reach is None or n[0] < reach]
        if without_proof and (last := self._begin(low[0], cause)) and not self._is_open_at(low):
            found = Found(Stretch(*last, *without_proof[0]), len(without_proof), cause)
            lost.append(self._gap(found, session, closed=False))
        filled = [n for n in new if reach is not None and reach < n[0] <= high[0]]
        if reached and self.open.overtaken and not follows:
            # The session before it may have ended in front of a push that was overtaken.
            begin = self._begin((filled or [high])[0][0], cause) or low
            if begin[0] < reached[0]:
                lost.append(self._gap(Found(Stretch(*begin, *reached), 0, cause), session, closed=False))
        if filled and cause == "repeated_list":
            # Nothing is known to be missing. So what is newer than all that was pushed comes in time: where
            # each push is a list, none of its trades was missed.
            filled = [n for n in filled if n < self.last]
        if filled and not follows:
            # The one in front of them is known, or a trade of a stretch that the list closes.
            last = max(one.moment for one in listed if one.moment[0] < filled[0][0])
            last = max(last, self._before(filled[0][0]) or last)
            closed.append(Found(Stretch(*last, *filled[0]), len(filled), cause))
        self._opened = meanwhile
        self.settle()
        self._opened = remaining
        return lost, closed

    def closed(self, found: Found, session: str, *, is_saved: bool) -> Gap:
        """Return a gap that is closed; `is_saved` if the last record of the list says so in the watermark."""
        gap = self._gap(found, session, closed=True)
        return gap._replace(mark=None) if is_saved else gap

    def settle(self) -> None:
        """Save with the next record what is open now."""
        opened = _in_order([*self._opened, self._held]) if self._held else self._opened
        stretches = tuple(one.stretch for one in opened)
        if stretches != self.open.stretches:
            since = tuple(abs(one.since_us) for one in opened)
            self.open = Open(self.open.revision + 1, stretches, self.open.overtaken, since)

    def _before(self, trade_id: int, further: int = 0) -> Moment | None:
        """Return the known trade in front of an id, or one so much further back; None if there is none."""
        place = bisect_left(self.ids, trade_id) - 1
        if place < 0:
            return None
        place = max(0, place - further)
        return self.ids[place], self.times[place]

    def _begin(self, trade_id: int, cause: Cause) -> Moment | None:
        """Return the known trade after which some may be missing in front of this one.

        Where pushes overtake each other, those in front of the last one may not have come.
        """
        overtaken = self.open.overtaken or cause == "damaged_frame"
        return self._before(trade_id, _OVERTAKEN if overtaken else 0)

    def _is_behind(self, moment: Moment) -> bool:
        """Return whether known trades with lower ids are later, so that its id is too high for its time."""
        place = bisect_left(self.ids, moment[0])
        return any(is_later(time_us, moment[1]) for time_us in self.times[max(0, place - _NEWEST) : place])

    def _is_open_at(self, moment: Moment) -> bool:
        """Return whether a trade is in an open stretch, by its id and its time.

        One of a later time is behind it whatever its id. If the id that ends it is far away, one of the same
        second may be, too.
        """
        trade_id, time_us = moment
        return any(
            one.stretch.after_id < trade_id <= one.stretch.before_id
            and not is_later(time_us, one.stretch.before_us)
            and (one.stretch.before_id - trade_id < _FAR or is_later(one.stretch.before_us, time_us))
            for one in self._opened
        )

    def _give_up(self, opened: Iterable[_Opened]) -> list[Gap]:
        gaps = []
        for one in list(opened):
            # One by one: what is reported may reach Kafka without what comes next.
            self._opened = [other for other in self._opened if other != one]
            self.settle()
            gaps.append(self._gap(Found(one.stretch, 0, one.cause), one.session, closed=False))
        return gaps

    def _gap(self, found: Found, session: str | None, *, closed: bool) -> Gap:
        """Return a gap; with it on Kafka, what is open now is what remains open."""
        mark: Mark = (None, 0, self.epoch, self.open)
        return Gap(self.symbol, found.stretch, found.filled, closed, found.cause, session, mark)
