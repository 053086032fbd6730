"""A shard: a fixed share of the subscriptions, from its sessions through its pipeline to its sink.

Longer than 350 lines because it wires all that a shard has, and starts and ends it in order; which markets
it follows is in `followed`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import structlog

from bridge import plan
from bridge.book_checks import BookChecks
from bridge.books.present import PresentBooks
from bridge.config import EVERY_MARKET, AccountConfig, Config
from bridge.errors import Contested, ShardLost
from bridge.exchange.words import Confidential
from bridge.followed import Followed
from bridge.halving import Halving
from bridge.kafka.books import Books
from bridge.kafka.cluster import Cluster
from bridge.kafka.findings import Findings
from bridge.kafka.queues import Queues
from bridge.kafka.sink import Sink
from bridge.kafka.spooled import own_entries
from bridge.kafka.state import ShardState
from bridge.pipeline import Pipeline
from bridge.records import BOOK, STATE
from bridge.seen import Seen, changes
from bridge.spool.folder import folder_of
from bridge.spool.overflow import Overflow
from bridge.spool.progress import Owner
from bridge.spool.spool import Spool
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.watch.readiness import Standing
from bridge.watch.watch import Watch
from bridge.websocket.buffers import Buffers
from bridge.websocket.connector import Connector
from bridge.websocket.courtesy import Courtesy
from bridge.websocket.sessions import Account

log = structlog.get_logger(__name__)

# Of the 10 s that a stop may take, the seconds to deliver the pending records; the rest is for closing
# sessions and clients.
_DRAIN = 4.5

# Seconds between two looks at what is overdue, and between two saves of when private channels were heard.
_LOOK = 1.0

# Seconds until a market that exists is listed for certain, as far as a day of all_ticker can show it, and
# between two looks at what can be forgotten.
_LISTED = 86_400.0
_FORGET = 3600.0


@dataclass(frozen=True, slots=True)
class Replica:
    """Everything that the shards of this process share; `name` is its name as a replica."""

    name: str
    config: Config
    cluster: Cluster
    metrics: Metrics
    courtesy: Courtesy
    buffers: Buffers
    confidential: Confidential = field(default_factory=Confidential)

    is_gone: Callable[[int, Owner], bool] = lambda _shard, _owner: False
    """Whether an owner of a shard, of another group or number of shards, is known to be gone."""


class Shard:
    """One shard, numbered from 0, as a replica serves it from taking it over to losing it or stopping.

    `is_ours` returns whether the group has assigned it to this replica; its argument is how many seconds old
    Kafka's response may be.
    """

    def __init__(self, number: int, replica: Replica, is_ours: Callable[[float], Awaitable[bool]]) -> None:
        self.failed = False  # whether an internal error has ended it
        self.lost = False  # whether another replica serves it now
        self.contested = False  # whether that shares the shards with none of this bridge's replicas
        # Whether reading is paused because memory and spool are full: what all connectors were told last. It
        # follows `queues.has_room` one turn of the loop later.
        self.paused = False
        config, cluster, metrics = replica.config, replica.cluster, replica.metrics
        topics = cluster.topics
        kafka = config.kafka
        self._number = number
        self._config = config
        self._cluster = cluster
        self._courtesy, self._buffers = replica.courtesy, replica.buffers
        self._plan = plan.plan(config, number)  # its subscriptions
        # The path of the records, built from its end, because each part takes the one behind it: `_sink`
        # delivers the records in `queues`; `overflow` holds those in the spool; `_state` is saved with them.
        self._state = ShardState(kafka, topics[STATE], number, replica.name)
        self._state.savable = self._savable
        self._state.is_gone = replica.is_gone
        spooled = spool(config, number, cluster, lambda: self.overflow.remembered)
        self.overflow = Overflow(spooled, replica.name, number, self._state.watermarks)
        self.queues = Queues(
            topics,
            self._state,
            self.overflow,
            metrics,
            max_pending_bytes=kafka.max_pending_bytes,
            on_change=self._on_change,
        )
        self._sink = Sink(
            kafka, cluster, queues=self.queues, state=self._state, is_ours=is_ours, metrics=metrics
        )
        present = present_books(config) if BOOK in topics else None
        if present is not None:
            self._sink.books = Books(
                present,
                topics,
                self.queues,
                self._state,
                on_refused=lambda record, why: self._watch.journal.record(
                    "book_too_large", channel=BOOK, symbol=(record.key or b"").decode(), detail=why
                ),
            )
        # Where all parts of the shard report: the journal puts its events into the same queues.
        journal = Journal(replica.name, number, self.queues.add, metrics)
        self._watch = Watch(str(number), metrics, journal, replica.confidential)
        # What changes while it runs.
        self._over = asyncio.Event()  # set when it is to end: stopped, lost or failed
        # Whether its connectors have been started. The takeover ends some turns of the loop earlier.
        self._serving = False
        self._scheduled: asyncio.Handle | None = None  # the call of `_follow_room` that is scheduled, if any
        self._seen = cluster.seen  # the cluster, as far as its changes are recorded
        self._pipeline: Pipeline  # from the takeover on
        self._connectors: list[Connector] = []  # public ones and those of accounts, in the order of opening
        self._halving = Halving(self._connectors, self._connector, self._start, self._watch.shard)
        self._followed = Followed(
            config, number, self._connectors, self._start_another, self._end, self._watch
        )
        # Checks the books that the sink sends; None: it sends none.
        self.book_checks = None if present is None else self._checks_of(present)
        self._group = asyncio.TaskGroup()  # of all its tasks
        self._running: dict[Connector, asyncio.Task[None]] = {}  # those of the connectors; only grows

    async def run(self) -> tuple[int, int]:
        """Serve until `stop`, then deliver the pending records; return how many were not delivered.

        The two numbers are the records left in the spool, and the records lost. If the shard is lost to
        another replica, nothing more is delivered, because that replica fetches it again: both are 0.
        """
        async with self._group:
            delivering = self._group.create_task(self._part(self._sink.run), name=f"sink {self._watch.shard}")
            serving = self._group.create_task(self._serve(), name=f"shard {self._watch.shard}")
            looking = self._group.create_task(self._look_at_kafka(), name=f"outages {self._watch.shard}")
            await self._over.wait()
            self._followed.stop()
            serving.cancel()
            await asyncio.wait({serving})
            for task in self._running.values():
                task.cancel()
            if self._running:
                await asyncio.wait(self._running.values())
            if not self.lost:
                if self._serving:
                    self._pipeline.report_left_out()
                self._sink.save_heard()
                self.queues.drain()
                await asyncio.wait({delivering}, timeout=_DRAIN)
            delivering.cancel()
            looking.cancel()
        if self._note_cluster in self._cluster.watchers:
            self._cluster.watchers.remove(self._note_cluster)
        try:
            return (0, 0) if self.lost else self.queues.park()
        finally:
            self.overflow.close()

    def stop(self) -> None:
        """End it once all received records are delivered."""
        self._over.set()

    def lose(self, why: str) -> None:
        """End it at once: another replica serves it now."""
        if not self._over.is_set():
            log.warning("shard lost", shard=self._watch.shard, why=why)
            self.lost = True
            self._over.set()

    @property
    def is_taken_over(self) -> bool:
        """Whether its state was read, and with it what an earlier process has spooled."""
        return self._sink.taken_over.is_set()

    @property
    def held_bytes(self) -> int:
        """Bytes that were read from the exchange and are not in the queues yet."""
        return sum(connector.held_bytes for connector in self._connectors)

    @property
    def suspect_books(self) -> int:
        """How many books are suspected to be damaged."""
        return self.book_checks.suspects.total() if self.book_checks else 0

    def missing(self) -> dict[str, str]:
        """Return what keeps the shard from being served, by subject; its sessions aside, see `standings`."""
        missing: dict[str, str] = {}
        if (kafka := self._sink.missing()) is not None:
            missing["kafka"] = kafka
        elif self.paused:
            missing["kafka"] = "reading paused: memory and spool are full"
        if not self._serving:
            missing["shards"] = f"shard {self._watch.shard}: takeover in progress"
        return missing

    def standings(self) -> list[Standing]:
        """Return how its connectors stand, in the order of their opening."""
        return [connector.standing() for connector in self._connectors]

    async def _serve(self) -> None:
        """Subscribe once the shard has been taken over, with the state that was read from Kafka."""
        await self._sink.taken_over.wait()
        self._seen = self._state.remembered or self.overflow.remembered or self._cluster.seen
        self._cluster.watchers.append(self._note_cluster)
        self._note_cluster()
        previous = self._state.previous
        detail = f"from {previous.replica}" if previous else "no previous owner"
        log.info("shard taken over", shard=self._watch.shard, detail=detail)
        self._watch.journal.record("takeover", detail=detail)
        findings = Findings(self._number, self._config, self._watch.journal)
        findings.report(self._state.take_found(), at_takeover=True)
        self._pipeline = Pipeline(
            wanted=self._plan.records,
            emit=self.queues.add,
            watermarks=self.overflow.watermarks,
            watch=self._watch,
            on_markets=self._followed.take,
        )
        self._followed.expect(self._state.books)
        self._connectors += [self._connector(wanted) for wanted in self._plan.public]
        self._connectors += [self._connector(wanted, account) for account, wanted in self._plan.private]
        for connector in self._connectors:
            self._start(connector)
        self._serving = True
        patience_us = round(2 * self._config.exchange.reply_timeout * 1e6)
        forget_at = time.monotonic() + min(_LISTED, self._config.kafka.state_retention)
        while True:
            await asyncio.sleep(_LOOK)
            if self._sink.missing() is not None:
                self._cluster.ask()  # a partition without a leader, or a topic, may be why
            if time.monotonic() >= forget_at:
                forget_at += _FORGET
                self._forget(time.time_ns() // 1000)
            self._pipeline.overdue(time.time_ns() // 1000, patience_us)
            now, markets = time.monotonic(), self._followed.markets
            for connector in self._connectors:
                connector.note_heard()
                connector.note_moves(markets, now)
            for connector in self._connectors:
                connector.look_at_markets(markets, now)
            self._sink.save_heard()
            if self.book_checks is not None:
                self.book_checks.look()
            findings.report(self._state.take_found())
            self._forget_gone()

    async def _look_at_kafka(self) -> None:
        """Have outages of Kafka logged, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK)
            self._sink.look(self.queues.pending_records + self.overflow.waiting)

    def _checks_of(self, present: PresentBooks) -> BookChecks:
        each = self._config.exchange.reply_timeout
        return BookChecks(present, self.queues, self._connectors, self._watch, each=each)

    def _note_cluster(self) -> None:
        """Record how the cluster differs from what was seen of it before."""
        before, self._seen = self._seen, self._cluster.seen
        for kind, detail in changes(before, self._seen):
            self._watch.journal.record(kind, detail=detail)

    def _forget(self, now_us: int) -> None:
        """Forget the state of markets that are not subscribed to and were not traded for `state_retention`.

        Markets that are followed are known once the exchange has listed them. Before it has listed any, and
        while spooled trades have to follow, nothing is forgotten.
        """
        if (self._followed.channels and not self._followed.markets) or self.overflow.waiting:
            return
        subscribed = self._followed.subscribed_symbols()
        before_us = now_us - round(self._config.kafka.state_retention * 1e6)
        if number := self._state.forget_old(subscribed, before_us):
            log.info("state of old markets forgotten", shard=self._watch.shard, markets=number)
            self.queues.something.set()

    def _forget_gone(self) -> None:
        """Forget markets that are gone, and have a tombstone written for the book of each."""
        books = self._sink.books
        gone = self._followed.forget_gone(self._state.books - books.gone if books else ())
        if books is not None:
            books.forget(gone)

    def _savable(self, complete_us: int | None) -> dict[str, dict[str, int]]:
        """Return the last-heard times of each account that may be saved, see `ShardState.savable`.

        Of a channel that several sessions share it is the earliest; none if one has not listened to it yet.
        """
        accounts: dict[str, dict[str, int]] = {}
        for name in {account.name for account, _ in self._plan.private}:
            saved = self._state.heard.get(name, {})
            times: dict[str, list[int | None]] = {}
            for connector in self._connectors:
                if connector.account == name:
                    savable = connector.savable(complete_us, saved)
                    for channel in connector.wanted:
                        times.setdefault(channel, []).append(savable.get(channel))
            earliest = {channel: _earliest(of_channel) for channel, of_channel in times.items()}
            accounts[name] = {channel: us for channel, us in earliest.items() if us is not None}
        return accounts

    def _connector(self, wanted: plan.Wanted, account: AccountConfig | None = None) -> Connector:
        known = None
        if account is not None:
            known = Account(account.name, account.credentials(), self._state.heard.get(account.name, {}))
        connector = Connector(
            wanted,
            config=self._config.exchange,
            courtesy=self._courtesy,
            receiver=self._pipeline,
            watch=self._watch,
            account=known,
        )
        connector.sessions.buffers = self._buffers
        connector.sessions.has_room = lambda: self.queues.has_room
        connector.sessions.books = self.book_checks
        if account is None:
            connector.siblings = self._halving
        if self.paused:
            connector.pause()
        return connector

    def _start(self, connector: Connector) -> None:
        task = self._group.create_task(self._part(connector.run), name=f"connector {self._watch.shard}")
        self._running[connector] = task

    def _start_another(self, wanted: plan.Wanted, is_coming_up: bool) -> None:
        connector = self._connector(wanted)
        connector.coming_up = is_coming_up
        self._connectors.append(connector)
        self._start(connector)

    def _end(self, connector: Connector) -> None:
        self._connectors.remove(connector)
        self._running[connector].cancel()

    async def _part(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run a part of the shard; if it fails, the bridge stops as on a signal, and delivers the rest."""
        try:
            await run()
        except ShardLost as why:
            self.contested = isinstance(why, Contested)
            self.lose(str(why))
        except Exception:
            log.exception("internal error, stopping", shard=self._watch.shard)
            self.failed = True
            self._over.set()

    def _on_change(self) -> None:
        """Record the events of the spool, and have the connectors follow `has_room` if it has changed.

        Recording an event adds a record to the queues, which may call this again. So the connectors are not
        called from here, but once the loop turns: a connector that resumes may fill the room again, and must
        not find itself in the middle of resuming the others.
        """
        for kind, about in self.overflow.events():
            self._watch.journal.record(kind, **about)
        if self.paused == self.queues.has_room and self._scheduled is None:
            self._scheduled = asyncio.get_running_loop().call_soon(self._follow_room)

    def _follow_room(self) -> None:
        """Pause or resume all connectors, unless `has_room` is again what they were told last."""
        self._scheduled = None
        has_room = self.queues.has_room
        if self.paused != has_room:
            return
        self.paused = not has_room
        log.warning("resumed reading" if has_room else "paused reading", shard=self._watch.shard)
        for connector in self._connectors:
            if has_room:
                connector.resume()
            else:
                connector.pause()


def _earliest(times: Sequence[int | None]) -> int | None:
    """Return the earliest of some times; None if one of them is unknown."""
    known = [us for us in times if us is not None]
    return min(known) if len(known) == len(times) else None


def present_books(config: Config) -> PresentBooks:
    """Return the books as they are configured, before any record of depth has come."""
    wanted = config.channels.book
    return PresentBooks(
        wanted=None if EVERY_MARKET in wanted else frozenset(name.encode() for name in wanted),
        levels=config.book.levels,
        interval_us=round(config.book.interval * 1e6),
        patience_us=round(config.book.patience * 1e6),
    )


def spool(
    config: Config, shard: int, cluster: Cluster, remembered: Callable[[], Seen | None]
) -> Spool | None:
    """Return the spool of a shard, each in its own folder; None if the spool is disabled.

    `remembered` returns the cluster as an earlier process has left it in there.
    """
    if not config.spool.max_bytes:
        return None
    folder = folder_of(config.spool.dir, config.kafka.topic_prefix, shard)
    accepts = own_entries(config.kafka, lambda: cluster.topics, remembered)
    return Spool(folder, config.spool.max_bytes // config.kafka.shards, accepts=accepts)
