"""Accounts for every update of a chaos run: on Kafka once, or inside a reported gap. Pure.

Takes the records of all topics in the order of their partitions, and the history of the exchange.
"""

import base64
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, TypeAlias

import orjson

from bridge.channels.order import STATUSES as ORDER
from bridge.channels.order_algo import STATUSES as ORDER_ALGO
from bridge.simulator.history import Change, History, Ticker, Trade, book_text, full_book_text, ticker_text
from bridge.simulator.protocol import PRIVATE
from tests.chaos.intervals import Interval, merged, overlap

Json: TypeAlias = Mapping[str, Any]

_SECOND = 1_000_000  # µs
_FOREVER = 2**62
_SLACK = 2 * _SECOND  # for the work that a report takes on a busy machine


class Violation(NamedTuple):
    """Something that the bridge has promised and not kept.

    `at_us` is when it can be seen, `subject` whose it is: a symbol, an account, or "" for the whole run.
    """

    kind: str
    what: str
    subject: str = ""
    at_us: int = 0


@dataclass(frozen=True, slots=True)
class Conditions:
    """What the verifier needs to know of a run besides its records."""

    delivery: str = "exactly-once"
    reply_timeout: float = 3.0  # seconds
    accounts: Mapping[str, str] = field(default_factory=dict)  # name in the bridge by name at the exchange
    running: Sequence[Interval] = ()  # in µs: a bridge ran and was not frozen; empty: always
    units_us: Sequence[int] = (1,)  # to which the exchange may have rounded the time of a trade, down
    broker_down: Sequence[Interval] = ()  # in µs
    starved: Sequence[Interval] = ()  # in µs: the machine had no time for anybody


@dataclass(slots=True)
class Verdict:
    """What was found: violations, and figures for the report."""

    violations: list[Violation] = field(default_factory=list)
    figures: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, what: str, subject: str = "", at_us: int = 0) -> None:
        """Add a violation."""
        self.violations.append(Violation(kind, what, subject, at_us))


def verify(records: Mapping[str, Sequence[Json]], history: History, conditions: Conditions) -> Verdict:
    """Compare all records of a run, by channel, with what the exchange did."""
    verdict = Verdict()
    events = records.get("events", ())
    for event in events:
        verdict.figures[f"event {event['event']}"] += 1
    letters = records.get("deadletter", ())
    verdict.figures["dead letters"] = len(letters)
    busy = _busy(events, conditions)
    once = {
        channel: _once(channel, found, verdict, conditions)
        for channel, found in records.items()
        if channel not in ("events", "deadletter")
    }
    excused = _Excuses(letters, events)
    for channel, found in once.items():
        for series in _by(found, _series).values():
            _check_seq(channel, series, excused, verdict)
        for series in _by(found, _key).values():
            _check_order_of_reception(channel, series, verdict)
    trades = _by(once.get("trades", ()), _symbol)
    takeovers = [event["received_us"] for event in events if event["event"] == "takeover"]
    for symbol, happened in history.trades.items():
        mine = [event for event in events if event["channel"] == "trades" and event["symbol"] == symbol]
        if conditions.delivery == "at-least-once":
            trades[symbol] = _without_repeated(trades.get(symbol, []), takeovers, verdict)
        found = trades.get(symbol, [])
        _Trades(symbol, happened, found, mine, conditions.units_us).check(verdict, conditions, busy)
    for symbol, found in _by(once.get("depth", ()), _symbol).items():
        _check_depth(symbol, found, history, verdict)
    rotated = _rotated(events, letters)
    for (channel, symbol), made in history.tickers.items():
        found = [one for one in once.get(channel, ()) if one["symbol"] == symbol]
        _Tickers(channel, made).check(found, rotated, verdict)
    bad = _bad_changes(letters)
    for key, changes in history.changes.items():
        _check_account(conditions.accounts.get(key, key), changes, once, bad, events, history, verdict)
    return verdict


def _by(records: Iterable[Json], of: Callable[[Json], Any]) -> dict[Any, list[Json]]:
    found: defaultdict[Any, list[Json]] = defaultdict(list)
    for record in records:
        found[of(record)].append(record)
    return dict(found)


def _symbol(record: Json) -> str:
    return str(record["symbol"])


def _key(record: Json) -> tuple[str, str]:
    return record.get("symbol") or record["currency"], record.get("account") or ""


def _series(record: Json) -> tuple[str, str, str]:
    return (record["session"], *_key(record))


# Every channel


def _once(channel: str, found: Sequence[Json], verdict: Verdict, conditions: Conditions) -> list[Json]:
    """Return the records without second copies; only at-least-once may have some, and these are equal."""
    first: dict[object, Json] = {}
    once = []
    for record in found:
        place = (*_series(record), record["seq"])
        known = first.get(place)
        if known is None:
            first[place] = record
            once.append(record)
            continue
        verdict.figures["second copies"] += 1
        if conditions.delivery == "exactly-once":
            what = f"{channel} {place} is on Kafka twice"
            verdict.add("record twice", what, _key(record)[0], record["received_us"])
        elif known != record:
            what = f"two {channel} records have {place}"
            verdict.add("seq twice", what, _key(record)[0], record["received_us"])
    return once


class _Excuses:
    """The reasons why a `seq` may be skipped: a dead letter of the session, or damage to a spool.

    Until a session has replaced another, a bad frame that both have brought is a dead letter of the other.
    """

    def __init__(self, letters: Iterable[Json], events: Iterable[Json]) -> None:
        self._letters = _by(letters, lambda letter: letter["session"])
        self._spool = any(event["event"] == "spool_damaged" for event in events)
        self._replaced = _replaced(events)
        self._rotated_us = {
            event["session"]: event["received_us"] for event in events if event["event"] == "session_rotated"
        }

    def hold(self, channel: str, before: Json | None, after: Json) -> bool:
        """Return whether records between these two of a session may be missing."""
        session, begin = after["session"], before["received_us"] if before else 0
        letters = [
            letter
            for letter in self._letters.get(session, ())
            if begin <= letter["received_us"] <= after["received_us"]
        ]
        if begin <= self._rotated_us.get(session, -1):
            letters += self._letters.get(self._replaced[session], ())
        return self._spool or any(letter["channel"] in (None, channel) for letter in letters)


def _check_seq(channel: str, series: Sequence[Json], excused: _Excuses, verdict: Verdict) -> None:
    before: Json | None = None
    for record in series:
        expected = before["seq"] + 1 if before else 0
        if record["seq"] > expected:
            verdict.figures["holes in seq"] += 1
            if not excused.hold(channel, before, record):
                what = (
                    f"{channel} {_series(record)}: seq {record['seq']} after {expected - 1}, without a reason"
                )
                verdict.add("hole in seq", what, _key(record)[0], record["received_us"])
        elif record["seq"] < expected:
            what = f"{channel} {_series(record)}: seq {record['seq']} after {expected - 1}"
            verdict.add("seq goes back", what, _key(record)[0], record["received_us"])
        before = record


def _check_order_of_reception(channel: str, series: Sequence[Json], verdict: Verdict) -> None:
    for before, after in pairwise(series):
        if after["received_us"] < before["received_us"]:
            back = before["received_us"] - after["received_us"]
            what = (
                f"{channel} {_key(after)}: received_us goes back by {back} µs, from session "
                f"{before['session']} seq {before['seq']} to {after['session']} seq {after['seq']}"
            )
            verdict.add("received_us goes back", what, _key(after)[0], after["received_us"])


def _busy(events: Iterable[Json], conditions: Conditions) -> list[Interval]:
    """Return when a list of recent trades could not have come: no bridge, no broker, or no connection."""
    busy = [*conditions.starved]
    end = 0
    for begin, finish in sorted(conditions.running):
        busy.append((end, begin))
        end = max(end, finish)
    busy += [(begin, finish + 2 * _SECOND) for begin, finish in conditions.broker_down]
    public = [one for one in events if one["account"] is None]
    begun = sorted(one["received_us"] for one in public if one["event"] == "session_begun")
    without = [one["received_us"] for one in public if one["event"] == "session_ended"]
    without += [begin for begin, _ in conditions.running]
    for moment in without:
        busy.append((moment, next((one for one in begun if one > moment), moment)))
    return merged(busy)


# Trades


def _without_repeated(found: Sequence[Json], takeovers: Sequence[int], verdict: Verdict) -> list[Json]:
    """Return the records without trades that were repeated because of a takeover.

    At-least-once saves its state after the records, so what came last before a takeover may come again.
    """
    first: dict[tuple[object, ...], Json] = {}
    kept = []
    for record in found:
        # A list may have the time of the same trade rounded.
        known = first.setdefault((*_trade(record), record["time_us"] // _SECOND), record)
        begin, end = known["received_us"], record["received_us"]
        if known is not record and any(begin <= moment <= end for moment in takeovers):
            verdict.figures["trades repeated after a takeover"] += 1
        else:
            kept.append(record)
    return kept


def _trade(record: Json) -> tuple[object, ...]:
    """Return what tells a trade from all others, besides its time."""
    return tuple(record[name] for name in ("id", "price", "amount", "side"))


class _Trades:
    """The trades of one symbol: those that happened, in order, and the records and events about them."""

    def __init__(
        self,
        symbol: str,
        happened: Sequence[Trade],
        found: Sequence[Json],
        events: Sequence[Json],
        units_us: Sequence[int],
    ) -> None:
        self.symbol = symbol
        self.happened = happened
        self.found = found
        self.gaps = [one for one in events if one["event"] == "gap"]
        self.restarts = [one for one in events if one["event"] == "ids_restarted"]
        self._coarsest_us = max(units_us)
        # The places in `happened`, by everything that a record says of a trade, and by id and time. A trade
        # has one place and as many times as there are units.
        self._places: defaultdict[tuple[object, ...], list[int]] = defaultdict(list)
        self._moments: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
        for place, trade in enumerate(happened):
            for time_us in {trade.time_us // unit * unit for unit in units_us}:
                self._places[trade.id, trade.price, trade.amount, trade.side, time_us].append(place)
                self._moments[trade.id, time_us].append(place)

    def check(self, verdict: Verdict, conditions: Conditions, busy: Sequence[Interval]) -> None:
        """Add what is wrong."""
        on_kafka = self._on_kafka(verdict)
        self._check_restarts(verdict)
        self._check_bounds(verdict)
        if not on_kafka:
            if self.happened:
                verdict.add("no record", "not one of its trades is on Kafka", self.symbol)
            return
        first = on_kafka[0][0]
        there = {place for place, _ in on_kafka}
        missing = [place for place in range(first, len(self.happened)) if place not in there]
        verdict.figures["trades"] += len(self.happened) - first
        verdict.figures["trades on Kafka"] += len(there)
        verdict.figures["trades missing"] += len(missing)
        opened = [gap for gap in self.gaps if not gap["closed_by"]]
        closed = [gap for gap in self.gaps if gap["closed_by"]]
        verdict.figures["gaps"] += len(opened)
        verdict.figures["gaps filled"] += len(closed)
        for run in _runs(missing):
            self._check_missing(run, opened, closed, verdict)
        self._check_times(missing, opened, on_kafka, verdict, conditions, busy)

    def _on_kafka(self, verdict: Verdict) -> list[tuple[int, int]]:
        """Return the place of each record's trade, and when it was received, in the order of the topic."""
        seen: set[int] = set()
        found = []
        for record in self.found:
            what = (*_trade(record), record["time_us"])
            places = self._places.get(what, ())
            place = next((place for place in places if place not in seen), None)
            if place is not None:
                seen.add(place)
                found.append((place, record["received_us"]))
            elif not places:
                said = f"{what} never happened"
                verdict.add("invented trade", said, self.symbol, record["received_us"])
            else:
                said = f"{what} is on Kafka twice, again in session {record['session']} seq {record['seq']}"
                verdict.add("trade twice", said, self.symbol, record["received_us"])
        return found

    def _check_missing(
        self, run: Sequence[int], opened: Sequence[Json], closed: Sequence[Json], verdict: Verdict
    ) -> None:
        """Check that each of these trades is in a gap that says so, and in none that says the opposite."""
        uncovered = [place for place in run if not any(self._covers(gap, place) for gap in opened)]
        verdict.figures["trades in gaps"] += len(run) - len(uncovered)
        if uncovered:
            self._add_run("trades lost unreported", uncovered, "and in no gap", verdict)
        for gap in closed:
            inside = [place for place in run if self._covers(gap, place, strictly=True)]
            if inside:
                why = f"in the gap after {gap['after_id']} before {gap['before_id']}, reported as filled"
                self._add_run("trades missing from a closed gap", inside, why, verdict)

    def _add_run(self, kind: str, places: Sequence[int], why: str, verdict: Verdict) -> None:
        first, last = self.happened[places[0]], self.happened[places[-1]]
        what = (
            f"{len(places)} trades are not on Kafka {why}: "
            f"ids {first.id} (epoch {first.epoch}) to {last.id} (epoch {last.epoch}), "
            f"times {first.time_us} to {last.time_us}"
        )
        verdict.add(kind, what, self.symbol, first.time_us)

    def _check_times(
        self,
        missing: Sequence[int],
        opened: Sequence[Json],
        on_kafka: Sequence[tuple[int, int]],
        verdict: Verdict,
        conditions: Conditions,
        busy: Sequence[Interval],
    ) -> None:
        """Check that what is missing was reported before the first record behind it, or soon after."""
        limit = round((2 * conditions.reply_timeout + 5) * _SECOND) + _SLACK
        late: dict[int, tuple[int, int, Json]] = {}
        for place in missing:
            behind = next((received for where, received in on_kafka if where > place), None)
            covering = [gap for gap in opened if self._covers(gap, place)]
            if behind is None or not covering:
                continue
            gap = min(covering, key=lambda one: one["received_us"])
            told = gap["received_us"]
            if told - behind - overlap(busy, behind, told) > limit:
                late.setdefault(told, (place, told - behind, gap))
        for told, (place, delay, gap) in late.items():
            what = (
                f"trade {self.happened[place].id} is missing; the gap after {gap['after_id']} before "
                f"{gap['before_id']} was reported {delay / _SECOND:.1f} s after the first record behind it"
            )
            verdict.add("late gap", what, self.symbol, told)

    def _check_bounds(self, verdict: Verdict) -> None:
        """Check that gaps begin and end with trades that happened, where they name one."""
        for gap in self.gaps:
            for end in ("after", "before"):
                trade_id, time_us = bound = gap[f"{end}_id"], gap[f"{end}_us"]
                if trade_id is not None and end == "before" and gap["cause"] == "takeover":
                    # It may end behind a trade that was held when the process ended, and is missing too.
                    bound = bound if bound in self._moments else (trade_id - 1, time_us)
                if bound != (None, None) and bound not in self._moments:
                    what = f"a gap {end} trade {bound[0]} of {bound[1]}, which never happened"
                    verdict.add("invented bound", what, self.symbol, gap["received_us"])

    def _check_restarts(self, verdict: Verdict) -> None:
        """Check that ids are said to begin anew only where they do, and once.

        Within the second in which they do, a list that is ordered by id does not show which trade came first.
        A trade of the epoch before then stands behind the first ones of the new epoch, and what goes on
        behind them looks like one more.
        """
        begin: dict[int, int] = {}  # the time of the first trade of each epoch
        for trade in self.happened:
            if not trade.stray:
                begin[trade.epoch] = min(trade.time_us, begin.get(trade.epoch, _FOREVER))
        seen: Counter[tuple[int, int]] = Counter()
        for event in self.restarts:
            bounds = [
                self._moments.get((event[f"{end}_id"], event[f"{end}_us"])) for end in ("after", "before")
            ]
            what = f"ids_restarted after {event['after_id']} before {event['before_id']}"
            if not all(bounds):
                verdict.add("invented epoch", f"{what}: no such trades", self.symbol, event["received_us"])
                continue
            trades = [self.happened[place] for places in bounds for place in places or ()]
            epochs = {trade.epoch for trade in trades}
            is_clear = event["after_us"] // _SECOND > begin.get(trades[0].epoch, 0) // _SECOND
            is_first = trades[0].epoch == self.happened[0].epoch
            if len(epochs) == 1 and (is_clear or is_first) and not any(trade.stray for trade in trades):
                said = f"{what}: both are of epoch {trades[0].epoch}"
                verdict.add("invented epoch", said, self.symbol, event["received_us"])
            seen[event["before_id"], event["before_us"]] += 1
        for (trade_id, _), number in seen.items():
            if number > 1:
                said = f"ids_restarted before {trade_id} was reported {number} times"
                verdict.add("epoch twice", said, self.symbol)

    def _covers(self, gap: Json, place: int, *, strictly: bool = False) -> bool:
        """Return whether a gap speaks of a trade: by its bounds in one epoch, else by the times of these.

        If `strictly`, only if both bounds are trades that happened.
        """
        after = self._moments.get((gap["after_id"], gap["after_us"]))
        before = self._moments.get((gap["before_id"], gap["before_us"]))
        if after and before and (strictly or self._epoch(after[0]) == self._epoch(before[-1])):
            return after[0] < place < before[-1]
        if strictly:
            return False
        begin = gap["after_us"] if gap["after_us"] is not None else -1
        end = gap["before_us"] + self._coarsest_us - 1 if gap["before_us"] is not None else _FOREVER
        return bool(begin <= self.happened[place].time_us <= end)

    def _epoch(self, place: int) -> int:
        return self.happened[place].epoch


def _runs(places: Sequence[int]) -> list[list[int]]:
    """Return neighbouring places together."""
    runs: list[list[int]] = []
    for place in places:
        if runs and runs[-1][-1] == place - 1:
            runs[-1].append(place)
        else:
            runs.append([place])
    return runs


# Depth


def _check_depth(symbol: str, found: Sequence[Json], history: History, verdict: Verdict) -> None:
    """Rebuild the book as a consumer does, which drops it at a hole until the next snapshot.

    A book is known by the number of changes that it contains, since each of these is known.
    """
    changes, books = history.depth[symbol], history.books[symbol]
    version: int | None = None  # None while a consumer has no book
    session, seq = "", -1
    for record in found:
        if record["session"] != session or record["seq"] != seq + 1:
            version = None
        session, seq = record["session"], record["seq"]
        where = f"session {session} seq {seq}"
        verdict.figures["depth records"] += 1
        if record["snapshot"]:
            version = _snapshot(symbol, record, books, version, where, verdict)
        elif version is not None:
            change = book_text(record["asks"], record["bids"])
            if version < len(changes) and change == changes[version]:
                version += 1
            elif not version or change != changes[version - 1]:  # a change may have been sent twice
                place = changes.index(change) if change in changes else None
                what = f"{where}: the book has {version} changes, and change {place} follows"
                verdict.add("wrong book", what, symbol, record["received_us"])
                version = None
    if version != len(changes):
        what = f"the last book, of session {session}, has {version} of {len(changes)} changes"
        verdict.add("wrong book at the end", what, symbol, found[-1]["received_us"])


def _snapshot(
    symbol: str,
    record: Json,
    books: Mapping[bytes, Sequence[int]],
    version: int | None,
    where: str,
    verdict: Verdict,
) -> int | None:
    versions = books.get(full_book_text(record["asks"], record["bids"]))
    if not versions:
        verdict.add("wrong snapshot", f"{where} was never the book", symbol, record["received_us"])
        return None
    if not record["asks"] and not record["bids"]:
        return None  # an exchange that sends an empty book for one that is not
    if version is not None and version not in versions:
        what = f"{where}: the book had {version} changes before a snapshot with {versions}, and no hole"
        verdict.add("wrong book", what, symbol, record["received_us"])
    return version if version in versions else versions[-1]


# Tickers


def _replaced(events: Iterable[Json]) -> dict[str, str]:
    """Return which session each session has replaced because of its age."""
    rotations = (event for event in events if event["event"] == "session_rotated")
    return {event["session"]: event["detail"].rpartition(" ")[2] for event in rotations}


def _rotated(events: Iterable[Json], letters: Iterable[Json]) -> dict[str, str]:
    """Return the same without the sessions of which something was damaged."""
    damaged = {letter["session"] for letter in letters}
    return {new: old for new, old in _replaced(events).items() if not {new, old} & damaged}


class _Tickers:
    """The tickers of one symbol on one channel, in the order in which they were sent.

    Some may look the same, so where a record belongs can be ambiguous: all places that are possible are kept.
    """

    def __init__(self, channel: str, made: Sequence[Ticker]) -> None:
        self.channel = channel
        self._places: defaultdict[bytes, list[int]] = defaultdict(list)  # by text
        for place, ticker in enumerate(made):
            self._places[ticker.text].append(place)
        # For each place, how many tickers before it went to all subscribers.
        self._broadcast = [0, *accumulate(ticker.broadcast for ticker in made)]

    def check(self, found: Sequence[Json], rotated: Mapping[str, str], verdict: Verdict) -> None:
        """Check that each session brings them in order, and without a hole that `seq` does not show.

        Where a session replaces another because of its age, neither a hole nor a repetition is between them.
        """
        # By session: the places that its last ticker may have, and its seq.
        reached: dict[str, tuple[set[int], int]] = {}
        verdict.figures[f"{self.channel} records"] += len(found)
        for record in found:
            session, seq = record["session"], record["seq"]
            old: tuple[set[int], int] = reached.get(rotated.get(session, ""), (set(), 0))
            at, before = reached.get(session) or (old[0], -1)
            reached[session] = self._next(at, record, seq == before + 1, verdict) or at, seq
        if found:
            self._check_end(found[-1], reached[found[-1]["session"]][0], verdict)

    def _next(self, at: set[int], record: Json, whole: bool, verdict: Verdict) -> set[int]:
        """Return the places that a record's ticker may have; if `whole`, nothing is missing before it."""
        where = f"{self.channel} session {record['session']} seq {record['seq']}"
        known = self._places.get(ticker_text(record, record["time_us"]), [])
        later = {place for place in known if not at or place > min(at)}
        if not later:
            kind = "ticker twice or out of order" if known else "invented ticker"
            verdict.add(kind, where, record["symbol"], record["received_us"])
        if not at or not later or not whole:
            return later
        next_to = {
            place for place in later if any(self._skipped(one, place) == 0 for one in at if one < place)
        }
        if not next_to:
            skipped = min(self._skipped(one, place) for place in later for one in at if one < place)
            what = f"{where}: {skipped} before it are missing"
            verdict.add("tickers lost unreported", what, record["symbol"], record["received_us"])
        return next_to or later

    def _skipped(self, before: int, after: int) -> int:
        """Return how many tickers between two places went to all subscribers."""
        return self._broadcast[after] - self._broadcast[before + 1]

    def _check_end(self, last: Json, reached: set[int], verdict: Verdict) -> None:
        missing = self._skipped(max(reached, default=-1), len(self._broadcast) - 1)
        if missing:
            what = f"{self.channel} session {last['session']} ends {missing} tickers before the exchange does"
            verdict.add("tickers missing at the end", what, last["symbol"], last["received_us"])


# Private channels


def _bad_changes(letters: Iterable[Json]) -> Counter[tuple[object, ...]]:
    """Return the channel and identity of each change with a bad figure, as often as it is a dead letter."""
    bad: Counter[tuple[object, ...]] = Counter()
    frames = {
        (one["session"], one["received_us"], one["channel"], one["frame_base64"])
        for one in letters
        # Some are written without their frame; what they held is inside a gap, too.
        if one["channel"] in PRIVATE and one["reason"] == "payload" and one["frame_base64"]
    }
    for _, _, channel, frame in frames:
        params = orjson.loads(zlib.decompress(base64.b64decode(frame)))["params"]
        if isinstance(params, list) and params and isinstance(params[0], dict):
            bad[channel, *_identity_of_item(channel, params[0])] += 1
    return bad


def _check_account(
    account: str,
    changes: Sequence[Change],
    once: Mapping[str, Sequence[Json]],
    bad: Mapping[tuple[object, ...], int],
    events: Iterable[Json],
    history: History,
    verdict: Verdict,
) -> None:
    """Check that each change is on Kafka as often as it was sent, or a dead letter, or inside a gap."""
    gaps = _by(
        (one for one in events if one["event"] == "gap" and one["account"] == account),
        lambda gap: gap["channel"],
    )
    for channel in PRIVATE:
        records = [one for one in once.get(channel, ()) if one["account"] == account]
        there = Counter(map(_identity, records))
        verdict.figures[f"{channel} records"] += len(records)
        verdict.figures[f"{channel} gaps"] += len(gaps.get(channel, ()))
        verdict.figures[f"{channel} dead letters"] += sum(
            number for what, number in bad.items() if what[0] == channel
        )
        made: defaultdict[tuple[object, ...], list[Change]] = defaultdict(list)
        for change in changes:
            if change.update.channel == channel:
                made[_identity_at_exchange(change)].append(change)
        for what, same in made.items():
            number = there.pop(what, 0), bad.get((channel, *what), 0)
            _check_change(account, channel, what, same, number, gaps, history, verdict)
        for what in there:
            verdict.add("invented change", f"{channel} {what} never happened", account)


def _check_change(
    account: str,
    channel: str,
    what: tuple[object, ...],
    same: Sequence[Change],
    numbers: tuple[int, int],
    gaps: Mapping[str, Sequence[Json]],
    history: History,
    verdict: Verdict,
) -> None:
    """Check changes that cannot be told apart, of which so many are records and dead letters."""
    number, bad = numbers
    most = sum(_sendings(change) for change in same)
    if number > most:
        said = f"{channel} {what} is on Kafka {number} times, and was sent {most} times"
        verdict.add("change twice", said, account, same[0].made_us)
    missing = [
        change for change in same if not any(_in(gap, change, history) for gap in gaps.get(channel, ()))
    ]
    verdict.figures[f"{channel} in gaps"] += max(0, len(same) - max(number + bad, len(missing)))
    if number + bad < len(missing):
        made_us, settled_us = missing[-1].made_us, history.settled_us(missing[-1])
        said = (
            f"{channel} {what} is not on Kafka, no dead letter and in no gap: made at {made_us}, "
            f"sent at {settled_us} to connections {[one.connection for one in missing[-1].writings]}"
        )
        verdict.add("change lost unreported", said, account, made_us)


def _sendings(change: Change) -> int:
    """Return how often one connection got a change at most."""
    by_connection = Counter(one.connection for one in change.writings if not one.damaged)
    return max(by_connection.values(), default=0)


def _in(gap: Json, change: Change, history: History) -> bool:
    begin = gap["after_us"] if gap["after_us"] is not None else 0
    end = gap["before_us"] if gap["before_us"] is not None else _FOREVER
    return bool(begin <= history.settled_us(change) and change.made_us <= end)


def _identity(record: Json) -> tuple[object, ...]:
    """Return what tells a record of a private channel from others."""
    if "currency" in record:
        return record["currency"], record["free"], record["used"]
    return record["symbol"], record["id"], record["status"], record["time_us"], record.get("filled")


def _identity_at_exchange(change: Change) -> tuple[object, ...]:
    return _identity_of_item(change.update.channel, change.update.params[0])


def _identity_of_item(channel: str, item: Json) -> tuple[object, ...]:
    if channel == "balance":
        return item["currency"], item["free"], item["used"]
    statuses = ORDER if channel == "order" else ORDER_ALGO
    time_us = item["timestamp"] * 1000
    return item["symbol"], item["id"], statuses[item["status"]], time_us, item.get("filled")
