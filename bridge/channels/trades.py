"""trades: each trade of a symbol once, oldest first (API document, "Trades push").

A session starts with a clean list (recent trades), followed by new trades. After a reconnect the list
repeats trades that are known, and usually fills in those that were missed. `known` says which trades are new
and where some may be missing; here is what is done about it.

Longer than 350 lines because both kinds of push, and what is held between them, end in the same records.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta, Raw, Struct

from bridge.channels.additions import REFUSED
from bridge.channels.channel import (
    Channel,
    Outcome,
    Overlap,
    Series,
    Source,
    SubscribedBy,
    schema_name,
)
from bridge.channels.figures import Figure, Time, exact, microseconds, plain
from bridge.channels.items import ItemsReader, ParamsReader
from bridge.channels.known import MOST_KNOWN, OUT_OF_ORDER, Found, Known, Verdict
from bridge.channels.lists import KNOWN, Judged, falls, history_ends, judge_list, new_epoch, oldest_first
from bridge.channels.moments import Moment, is_later
from bridge.errors import BadItem
from bridge.ledger import Gap, Watermarks
from bridge.records import Cause, Record, Stretch

MOST_ID = 2**63 - 1

# Trades within one second that show that ids begin anew.
_SEVERAL = 3

# Wherever ids fall in a push an epoch may begin, for which the rest of its trades is looked at again. These
# are the most places where they do, times the trades; so few trades never reach it.
_MOST_WORK = 100_000
_FEW = 300

# Trades in a list that is not marked as one, at least; pushes have fewer.
_LISTED = 10


class Trade(Struct, gc=False):
    """One item of a push's list."""

    id: Annotated[int, Meta(ge=0, le=MOST_ID)]
    time: Time
    price: Figure
    amount: Figure
    type: Literal["buy", "sell"]


class TradeRecord(Struct, gc=False):
    """digifinex.trades.v1."""

    schema: str
    session: str
    seq: int
    received_us: int
    symbol: str
    id: int
    time_us: int
    price: Raw
    amount: Raw
    side: str
    snapshot: bool


_SCHEMA = schema_name("trades")
_encode = msgspec.json.Encoder().encode

_Line = tuple[int, int, Raw, Raw, str]
"""A trade's id, its time in µs, and its price, amount and side as a record has them."""


class _Held(NamedTuple):
    """A trade that may begin a new epoch, until that is clear."""

    line: _Line
    series: Series
    clean: bool


class _Push(NamedTuple):
    """One push that is being normalised: what it is about, and what has come of it so far."""

    known: Known
    series: Series
    source: Source
    received_us: int
    outcome: Outcome


class Trades:
    """The normaliser of trades. It drops trades that it knows, whichever session brings them again.

    It starts from the watermarks of the trades that are on Kafka already.
    """

    def __init__(self, watermarks: Watermarks) -> None:
        trades = ItemsReader(Trade, "params[1]", "trade")
        self._reader = ParamsReader(lambda: trades.strict_type, trades.read_list)
        # By symbol, as in the key of its records; a symbol is added with its first push and never removed.
        self._known = {symbol: Known(symbol, watermark) for symbol, watermark in watermarks.items()}
        # The trades that may begin a new epoch, by symbol, with ascending ids; and since when, µs since the
        # epoch. A symbol is removed when its new epoch begins.
        self._held: dict[bytes, list[_Held]] = {}
        self._held_since_us: dict[bytes, int] = {}

    def push(self, params: bytes, source: Source, received_us: int) -> Outcome:
        """Return the records of the trades that are new."""
        outcome = Outcome([])
        try:
            read = self._reader.decode(params)
        except REFUSED:
            read = self._reader.read_odd(params, outcome)
        clean, lines = read.clean, _lines(read.body, outcome)
        series = source.series("trades", read.symbol)
        if len(lines) > _FEW and (ids_fall := falls(lines)) * len(lines) > _MOST_WORK:
            raise BadItem(f"the ids of {len(lines)} trades fall {ids_fall} times")
        known = self._known.get(series.key)
        if known is None:
            known = self._known[series.key] = Known(series.key, None)
        if not clean and len(lines) > 1 and known.ids and lines[0][0] <= known.ids[-1]:
            clean, lines = self._without_repeated(_Push(known, series, source, received_us, outcome), lines)
        if clean:
            self._take_list(_Push(known, series, source, received_us, outcome), lines)
        else:
            for line in lines:
                trade_id, time_us, _, _, _ = line
                ids, times = known.ids, known.times
                # Once ids have begun anew, a late trade of the epoch before could look like the next one.
                if series.linked and ids and trade_id > ids[-1] and time_us >= times[-1] and not known.epoch:
                    ids.append(trade_id)
                    times.append(time_us)
                    outcome.records.append(_record(known, series, line, received_us, clean=False))
                else:
                    self._take_unusual(_Push(known, series, source, received_us, outcome), line)
                outcome.time_us = time_us
        if len(known.ids) > MOST_KNOWN:
            outcome.gaps += known.trim()
        return outcome

    def lost(self, source: Source, symbol: str | None) -> None:
        """Trust no series concerned until its next clean list."""
        for series in source.of("trades") if symbol is None else [source.series("trades", symbol)]:
            # Without a list before the loss, the next one may still be from before it.
            series.lists_due = 1 if series.begun else 2
            series.linked = series.begun = False
            series.lost, series.resumed_us = True, 0

    def overdue(self, now_us: int, patience_us: int) -> Outcome:
        """Return the gaps that no list has filled in time, and the trades that were held for too long."""
        outcome = Outcome([])
        for symbol, since_us in list(self._held_since_us.items()):
            if since_us > now_us:  # the clock was set back
                self._held_since_us[symbol] = now_us
            elif since_us + patience_us <= now_us:
                self._end_hold(self._known[symbol], outcome, now_us)
        for known in self._known.values():
            outcome.gaps += known.give_up(now_us, patience_us)
        return outcome

    def _without_repeated(self, push: _Push, lines: list[_Line]) -> tuple[bool, list[_Line]]:
        """Return whether a push without the mark of a list is one, and what of it is to be looked at.

        A list is what a session begins with if it repeats known trades. In any push, what happened before a
        known trade begins no epoch.
        """
        known, series, _, _, outcome = push
        verdicts = [known.judge(*line[:2], listed=True) for line in lines]
        repeats = [place for place, one in enumerate(verdicts) if one in KNOWN]
        if not repeats:
            return False, lines
        if len(lines) >= _LISTED and not (
            series.seq or series.linked or series.lost or series.listed_to >= 0
        ):
            return True, lines
        old = [place for place in range(repeats[-1]) if verdicts[place] is not Verdict.NEW]
        outcome.duplicates += len(old)
        dropped = frozenset(old)
        return False, [line for place, line in enumerate(lines) if place not in dropped]

    def _take_unusual(self, push: _Push, line: _Line) -> None:
        """Take a pushed trade that does not simply follow the newest known one."""
        known, series, source, received_us, outcome = push
        moment = line[:2]
        match known.judge(*moment, listed=False):
            case Verdict.NEW:
                if not series.linked:
                    self._link(push, moment)
                elif known.ids and line[0] < known.ids[-1]:
                    known.note_overtaking(moment)
                self._refute(known, (line[0],))
                known.add(*moment)
                outcome.records.append(_record(known, series, line, received_us, clean=False))
            case Verdict.CONFLICT:
                outcome.bad.append(_conflict(line))
                outcome.gaps += known.give_up_conflict(moment, source.session, source.cause)
            case Verdict.RESTART | Verdict.DOUBTFUL:
                self._hold(push, [line], clean=False)
            case Verdict.OLD if series.begun and not source.overlapping:
                # Behind a list nothing is repeated from before it: the exchange's clock may be behind.
                self._hold(push, [line], clean=False)
            case _:
                outcome.duplicates += 1
                outcome.live_duplicates += line[0] > series.listed_to

    def _link(self, push: _Push, moment: Moment) -> None:
        """Open a stretch in front of the first trade of a session, or of the first ones behind a loss."""
        known, series, source, received_us, outcome = push
        if not series.lost:
            outcome.gaps += known.open_before(moment, source.session, source.cause, received_us)
            series.linked = True
            if series.begun:  # its list was empty: there is none to wait for
                outcome.gaps += known.give_up()
            return
        if not series.resumed_us:
            series.resumed_us = received_us
        outcome.gaps += known.open_before(moment, source.session, "damaged_frame", series.resumed_us)
        if not 0 <= received_us - series.resumed_us < OUT_OF_ORDER:
            series.linked = True

    def _take_list(self, push: _Push, lines: list[_Line], cause: Cause | None = None) -> None:
        """Take a clean list, whose trades are in the order in which they happened."""
        known, series, source, received_us, outcome = push
        cause = cause or _cause(series, source)
        follows = series.linked and series.listed_to < 0  # pushes that came first, and lack nothing
        if not lines:
            if not outcome.bad:  # nothing will be filled in
                series.begun = True
                outcome.gaps += known.give_up()
            return
        series.listed_to = max(line[0] for line in lines)
        moments = [line[:2] for line in lines]
        begin = history_ends(known, moments)
        if begin:
            known.begin_behind(moments[:begin], moments[begin])
        end = new_epoch(known, moments)
        judged = judge_list(known, moments[begin:end])
        fresh = [lines[begin + place] for place in judged.fresh]
        outcome.bad += [_conflict(lines[begin + place]) for place in judged.conflicts]
        outcome.duplicates += judged.repeats
        closed: list[Found] = []
        whole = not outcome.bad and not (judged.listed and known.omits(judged.listed))
        series.begun = whole
        if whole and judged.listed:
            gaps, closed = known.prove(judged.listed, source.session, cause, follows=follows)
            outcome.gaps += gaps
        elif judged.listed:
            # It may lack any trade, so it proves nothing: another one is needed.
            first, last = judged.listed[0].moment, judged.listed[-1]
            if not last.is_known:
                outcome.gaps += known.open_before(
                    last.moment, source.session, "damaged_frame", received_us, first
                )
        for line in fresh:
            known.add(*line[:2])
            if line is fresh[-1]:
                known.settle()
            outcome.records.append(_record(known, series, line, received_us, clean=True))
        known.settle()
        out_of_line = _out_of_line(known, judged, moments[begin:], source.session, cause)
        outcome.gaps += out_of_line
        for one in closed:
            gap = known.closed(one, source.session, is_saved=bool(fresh))
            # A trade that is out of line may be missing from the stretch that the list fills.
            is_doubtful = any(_overlap(gap.stretch, other.stretch) for other in out_of_line)
            outcome.gaps.append(gap._replace(closed=False) if is_doubtful else gap)
        self._refute(known, {moment[0] for moment in moments[begin:end]})
        if judged.listed:
            known.young = False
            series.lists_due -= whole
            series.linked = whole and series.lists_due <= 0
            series.lost = not series.linked
            if series.lost:
                series.resumed_us = 0
                source.incomplete.add("trades")
        if end < len(lines):
            self._hold(push, lines[end:], clean=True, cause=cause)

    def _hold(self, push: _Push, lines: list[_Line], *, clean: bool, cause: Cause | None = None) -> None:
        """Hold trades that may begin a new epoch, or begin it if that is clear now."""
        known, series, _, received_us, outcome = push
        earlier = {one.line[0]: one for one in self._held.get(known.symbol, ())}
        new = [line for line in lines if line[0] not in earlier]
        newest_us = known.newest_us
        is_clear = (
            len(earlier) + len(new) >= _SEVERAL
            or (clean and len(new) < len(lines))
            or any(is_later(line[1], newest_us) for line in lines)
        )
        # In the new epoch, trades may be missing between those that were held and these, or in a list; and a
        # list may show a third epoch.
        is_line = not outcome.bad and all(one[0] < other[0] for one, other in pairwise(lines))
        is_first = not earlier and (is_line or not clean)
        if not is_clear or not earlier:
            outcome.duplicates += len(lines) - len(new)
            more = new if is_first or not is_clear else new[:1]
            held = earlier | {line[0]: _Held(line, series, clean) for line in more}
            self._held[known.symbol] = [held[trade_id] for trade_id in sorted(held)]
            self._held_since_us.setdefault(known.symbol, received_us)
        if not is_clear:
            first = self._held[known.symbol][0]
            known.note_held(first.line[:2], first.series.session, received_us)
            return
        self._restart(known, outcome, received_us)
        if is_first:
            return
        if clean:
            self._take_list(push, lines, cause)
        for line in () if clean else lines:
            self._take_unusual(push, line)

    def _refute(self, known: Known, old: Collection[int]) -> None:
        """Drop held trades that are shown to be old."""
        held = self._held.get(known.symbol)
        if not held or all(one.line[0] not in old for one in held):
            return
        self._held[known.symbol] = [one for one in held if one.line[0] not in old]
        if not self._held[known.symbol]:
            del self._held[known.symbol], self._held_since_us[known.symbol]
            known.forget_held()

    def _end_hold(self, known: Known, outcome: Outcome, now_us: int) -> None:
        """Decide what trades are that nothing has explained in time."""
        held = self._held[known.symbol]
        if known.young and is_later(known.newest_us, held[-1].line[1]):
            # Ids went on above them, and nothing is known below: they were overtaken.
            known.forget_held()
            self._release(known, outcome, now_us)
        else:
            self._restart(known, outcome, now_us)

    def _restart(self, known: Known, outcome: Outcome, received_us: int) -> None:
        """Begin a new epoch with the held trades."""
        held = self._held[known.symbol]
        outcome.gaps += known.restart(held[0].line[:2], held[0].series.session)
        for one in held:
            one.series.linked = not one.series.lost
        self._release(known, outcome, received_us)

    def _release(self, known: Known, outcome: Outcome, received_us: int) -> None:
        """Add the held trades."""
        del self._held_since_us[known.symbol]
        for line, series, clean in self._held.pop(known.symbol):
            known.add(*line[:2])
            outcome.records.append(_record(known, series, line, received_us, clean=clean))


def _cause(series: Series, source: Source) -> Cause:
    """Return why trades may be missing in front of a clean list."""
    if series.lost:
        return "damaged_frame"
    return "repeated_list" if series.listed_to >= 0 else source.cause


def _out_of_line(
    known: Known, judged: Judged, moments: Sequence[Moment], session: str, cause: Cause
) -> list[Gap]:
    """Return the gaps around trades of a list that become no records although they may be new."""
    gaps: list[Gap] = []
    for place in judged.conflicts:
        gaps += known.give_up_conflict(moments[place], session, cause)
    for place in judged.skipped:
        behind = moments[place + 1] if place + 1 < len(moments) else known.last
        gaps.append(known.give_up_skipped(moments[place - 1], moments[place], behind, session, cause))
    return gaps


def _overlap(one: Stretch, other: Stretch) -> bool:
    return one.after_id < other.before_id and other.after_id < one.before_id


def _conflict(line: _Line) -> str:
    return f"trade {line[0]}: another trade has this id"


def _record(known: Known, series: Series, line: _Line, received_us: int, *, clean: bool) -> Record:
    trade_id, time_us, price, amount, side = line
    seq, symbol = series.next_seq(), series.symbol
    record = TradeRecord(
        _SCHEMA, series.session, seq, received_us, symbol, trade_id, time_us, price, amount, side, clean
    )
    mark = (trade_id, time_us, known.epoch, known.open)
    return Record("trades", series.key, _encode(record), received_us, mark)


def _lines(trades: Sequence[Trade], outcome: Outcome) -> list[_Line]:
    """Return the valid trades of a list, oldest first."""
    lines: list[_Line] = []
    is_newest_first, last_id, last_us = True, MOST_ID + 1, MOST_ID
    for trade in trades:
        trade_id, price, amount = trade.id, trade.price, trade.amount
        try:
            if not plain(b",".join((price, amount))):
                price, amount = exact((price, amount))
            time_us = microseconds(trade.time)
        except BadItem as bad:
            outcome.bad.append(f"trade {trade_id}: {bad}")
            continue
        lines.append((trade_id, time_us, price, amount, trade.type))
        is_newest_first = is_newest_first and trade_id < last_id and time_us <= last_us
        last_id, last_us = trade_id, time_us
    return lines[::-1] if is_newest_first else oldest_first(lines)


CHANNEL = Channel(
    name="trades",
    meaning="Trades, each one once, oldest first.",
    subscribed_by=SubscribedBy.MARKET,
    overlap=Overlap.IDS,
    normaliser=Trades,
    begins_clean=True,
)
