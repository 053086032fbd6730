"""A world of trades of one symbol, in which everything goes wrong, and the laws that hold all the same.

The exchange makes trades, pushes them over sessions and answers subscribes with lists. Pushes and lists are
damaged, doubled, late, empty or missing, ids begin anew, and the bridge is killed. What the bridge sends is
committed to a Kafka that is a list.
"""

import random
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from bridge.channels.channel import Outcome, Source
from bridge.channels.trades import Trades
from bridge.ledger import Gap, Watermark, advanced
from bridge.records import EVENTS, Record

SYMBOL = b"ETH_USDT"
PATIENCE_US = 20_000_000  # how long a list is waited for
_SHOWN = 12  # trades in a list
_SESSIONS = 2  # at once

# How often what happens, in relation to each other.
_CHANCES = {
    "trade": 30,
    "arrive": 40,
    "open": 6,
    "close": 3,
    "ask": 3,
    "damage": 4,
    "restart": 0.7,
    "kill": 1.5,
    "tick": 3,
    "absurd": 0.3,
    "swap": 3,
    "commit": 5,
}
_ABSURD = 2**40  # no id in line is as high
_START_US = 1_600_000_000_000_000


class Trade(NamedTuple):
    """A trade that happened: its place among all of them, its epoch, its id and its time."""

    place: int
    epoch: int
    id: int
    us: int


class OnKafka(NamedTuple):
    """A record or a gap on Kafka, with the time of its reception in µs."""

    record: Record
    gap: Gap | None
    at_us: int


@dataclass
class Session:
    """A session of the exchange with the bridge."""

    source: Source
    queue: list[tuple[bool, list[Trade] | None]] = field(default_factory=list)  # what is still to arrive


class World:
    """Everything, driven by the random numbers of one seed.

    `whole_seconds`: how the exchange tells time. `keeps_history`: its lists show trades of the epoch before.
    `overtaking`: pushes of a session may change places.
    """

    def __init__(
        self, rng: random.Random, *, whole_seconds: bool, keeps_history: bool, overtaking: bool
    ) -> None:
        self.rng = rng
        self.whole_seconds = whole_seconds
        self.keeps_history = keeps_history
        self.made: list[Trade] = []
        self.epoch = 0
        self.next_id = rng.choice([1, 1000])
        self.now_us = _START_US
        self.listed_from = 0  # the first place that lists still show
        self.kafka: list[OnKafka] = []
        self.waiting: list[OnKafka] = []  # sent, not committed
        self.watermarks: dict[bytes, Watermark] = {}
        self.trades = Trades({})
        self.sessions: list[Session] = []
        self.opened = 0
        self.overtaking = overtaking
        if overtaking:
            # The first time could not be known beforehand.
            self.open()
            self.sessions[0].queue.clear()
            for _ in range(3):
                self.trade()
            self.arrive(self.sessions[0])
            self.swap(self.sessions[0])
            self.arrive(self.sessions[0])
            self.arrive(self.sessions[0])
            self.commit()

    # The exchange

    def trade(self, *, absurd: bool = False) -> None:
        """A trade happens, and is pushed over every session."""
        self.now_us += self.rng.choice([0, 1_000, 300_000, 2_000_000])
        us = self.now_us // 1_000_000 * 1_000_000 if self.whole_seconds else self.now_us | 1
        if absurd:
            trade_id = self.rng.choice([_ABSURD, 2**62])
            if any(one.id == trade_id for one in self.made):
                return
        else:
            self.next_id += self.rng.randint(1, 3)
            trade_id = self.next_id
        trade = Trade(len(self.made), self.epoch, trade_id, us)
        self.made.append(trade)
        for session in self.sessions:
            session.queue.append((False, [trade]))

    def swap(self, session: Session) -> None:
        """The next two pushes of a session change places."""
        queue = session.queue
        if len(queue) > 1 and not queue[0][0] and not queue[1][0]:
            queue[0], queue[1] = queue[1], queue[0]

    def restart_ids(self) -> None:
        """Ids begin anew."""
        self.now_us += self.rng.choice([0, 2_000_000])
        # Two trades with one id and one time could not be told apart.
        self.now_us += 1_000_000 if self.whole_seconds else 2
        self.epoch += 1
        self.next_id = self.rng.choice([0, 0, 3, 500])
        if not self.keeps_history:
            self.listed_from = len(self.made)

    def open(self) -> None:
        """A session begins: with a list in most cases."""
        session = Session(Source(f"s{self.opened}", None, "closed"))
        self.opened += 1
        self.sessions.append(session)
        self.ask(session)

    def ask(self, session: Session) -> None:
        """A list is asked for, and made now; when it arrives is another matter."""
        shown = self.made[self.listed_from :][-self.rng.choice([_SHOWN, _SHOWN, _SHOWN, 3]) :]
        session.queue.append((True, self.rng.choice([shown, shown, shown, shown, [], None])))

    def arrive(self, session: Session, *, damage: str = "") -> None:
        """The first of what is on its way arrives."""
        if not session.queue:
            return
        clean, trades = session.queue.pop(0)
        if trades is None:
            return
        if damage == "frame":
            self.trades.lost(session.source, self.rng.choice([None, SYMBOL.decode()]))
            return
        items: list[object] = [
            {"id": one.id, "time": one.us / 1e6, "price": "1", "amount": "2", "type": "buy"}
            for one in reversed(trades)
        ]
        if damage == "item" and items:
            items[self.rng.randrange(len(items))] = {"id": "?"}
        params = msgspec.json.encode([clean, items, SYMBOL.decode()])
        outcome = self.trades.push(params, session.source, self.now_us)
        if outcome.bad:
            self.trades.lost(session.source, SYMBOL.decode())
        self.send(outcome)
        if damage == "twice":
            self.send(self.trades.push(params, session.source, self.now_us))

    # The bridge

    def send(self, outcome: Outcome) -> None:
        """Gaps go first."""
        for gap in outcome.gaps:
            record = Record(EVENTS, gap.symbol, b"", self.now_us, gap.mark)
            self.waiting.append(OnKafka(record, gap, self.now_us))
        self.waiting += [OnKafka(record, None, self.now_us) for record in outcome.records]

    def commit(self, number: int | None = None) -> None:
        """The first of what was sent is on Kafka: all of it, or so many."""
        number = len(self.waiting) if number is None else number
        committed, self.waiting = self.waiting[:number], self.waiting[number:]
        self.watermarks.update(advanced(self.watermarks, [one.record for one in committed]))
        self.kafka += committed

    def kill(self) -> None:
        """The bridge is killed, and starts with what is on Kafka."""
        self.commit(self.rng.randint(0, len(self.waiting)))
        self.waiting.clear()
        self.sessions.clear()
        encoded = msgspec.json.encode(self.watermarks)
        self.trades = Trades(msgspec.json.decode(encoded, type=dict[bytes, Watermark]))
        self.watermarks = msgspec.json.decode(encoded, type=dict[bytes, Watermark])

    def tick(self, seconds: float) -> None:
        """Time passes."""
        for _ in range(max(1, int(seconds))):
            self.now_us += int(1e6 * min(1.0, seconds))
            self.send(self.trades.overdue(self.now_us, PATIENCE_US))

    # All of it

    def step(self) -> None:
        """One thing happens."""
        names = list(_CHANCES)
        what = self.rng.choices(names, [_CHANCES[name] for name in names])[0]
        some = self.rng.choice(self.sessions) if self.sessions else None
        self.happens(what) if some is None else self.happens_to(some, what)

    def happens(self, what: str) -> None:
        """Something happens to nobody in particular."""
        rng = self.rng
        match what:
            case "trade":
                for _ in range(rng.choice([1, 1, 1, 2, 20])):
                    self.trade()
            case "absurd":
                self.trade(absurd=True)
            case "open" if len(self.sessions) < _SESSIONS:
                self.open()
            case "restart":
                self.restart_ids()
            case "kill":
                self.kill()
            case "tick":
                self.tick(rng.choice([0.1, 1, 5]))
            case "commit":
                self.commit(rng.randint(0, len(self.waiting)))

    def happens_to(self, session: Session, what: str) -> None:
        """Something happens to one session, or to nobody in particular."""
        match what:
            case "arrive":
                for _ in range(self.rng.choice([1, 2, 10])):
                    self.arrive(session)
            case "close":
                self.sessions.remove(session)
            case "ask":
                self.ask(session)
            case "damage":
                self.arrive(session, damage=self.rng.choice(["frame", "item", "twice"]))
            case "swap" if self.overtaking:
                self.swap(session)
            case _:
                self.happens(what)

    def finish(self) -> None:
        """Let everything arrive and everything be reported."""
        for session in self.sessions:
            while session.queue:
                self.arrive(session)
        self.sessions.clear()
        self.open()
        self.sessions[0].queue = [(True, self.made[self.listed_from :][-_SHOWN:])]
        self.arrive(self.sessions[0])
        self.trade()
        self.arrive(self.sessions[0])
        self.tick(PATIENCE_US / 1e6 + 2)
        self.commit()

    # The laws

    def violations(self) -> list[str]:
        """Return what is wrong."""
        found: list[str] = []
        by_moment = {(one.id, one.us): one for one in self.made}
        recorded: list[Trade] = []
        for one in self.kafka:
            if one.gap is None:
                assert one.record.mark is not None
                trade_id, us, _, _ = one.record.mark
                recorded.append(by_moment[trade_id or 0, us])
        if len(set(recorded)) < len(recorded):
            twice = sorted({one for one in recorded if recorded.count(one) > 1})
            found.append(f"twice: {twice}")
        if not recorded:
            return found
        on_kafka = set(recorded)
        first = recorded[0].place
        missing = [one for one in self.made if one.place > first and one not in on_kafka]
        gaps = [one.gap for one in self.kafka if one.gap is not None]
        for trade in missing:
            inside = [gap for gap in gaps if self._contains(gap, trade)]
            if not any(not gap.closed for gap in inside):
                found.append(f"lost without a word: {trade}")
            if any(gap.closed for gap in inside):
                found.append(f"missing in a closed gap: {trade} {[gap for gap in inside if gap.closed]}")
        return found

    def _contains(self, gap: Gap, trade: Trade) -> bool:
        """Return whether a trade happened between the two that bound a gap."""
        after_id, after_us, before_id, before_us = gap.stretch
        # After an absurd time, the time of the one before it bounds the gap.
        same = [one for one in self.made if one.id == after_id]
        after = min((one for one in same if one.us >= after_us), default=same[-1]).place
        # A trade that was held when the bridge was killed is inside a gap of its own.
        bounds = {(before_id, before_us): 0, (before_id - 1, before_us): 1}
        before = max(one.place + bounds[one.id, one.us] for one in self.made if (one.id, one.us) in bounds)
        if trade.id >= _ABSURD and not gap.closed:  # its time alone says where it belongs
            return after_us <= trade.us <= before_us
        in_line = after_id < trade.id < before_id or not gap.closed  # an absurd id is in line with nothing
        return after < trade.place < before and in_line
