"""What is saved of the time that private channels were listened to is never more than what is on Kafka.

The law: every change of an account that was pushed up to the saved last-heard time is on Kafka, or inside a
gap that is there; whatever waits in the network, is received, sent, lost, killed, spooled and saved in
between. So after a kill at any moment the next process, which reports a gap from the saved time on, leaves
nothing unreported.
"""

import shutil
import tempfile
from pathlib import Path
from typing import TypeAlias

import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bridge.config import KafkaConfig
from bridge.kafka.partition import Partition
from bridge.kafka.queues import Queues
from bridge.kafka.state import Save, ShardState
from bridge.kafka.topics import Topic
from bridge.ledger import Heard
from bridge.records import DEADLETTER, EVENTS, STATE, Record, schema_of
from bridge.spool.overflow import Overflow
from bridge.spool.progress import Owner
from bridge.spool.spool import Spool
from bridge.watch.metrics import Metrics
from bridge.websocket.listening import NOTHING_READ, Listening, ReadUpTo

TOPICS = {name: Topic(name, 3, 1_000_000) for name in ("order", "balance", "trades", EVENTS, DEADLETTER)}
METRICS = Metrics()
STEP = 10  # µs

Message: TypeAlias = tuple[str, bytes, int]
"""What the exchange sends: a channel, `confirmed` or `pong`; a symbol or the channel; when it was sent."""


class Process:
    """The queues of a shard without a sink, and one connector's listening without a connection."""

    def __init__(
        self, folder: Path, replica: str, previous: Owner | None, progress: bytes | None, heard: Heard
    ) -> None:
        self.state = ShardState(KafkaConfig(), Topic(STATE, 1, 1_000_000), 0, replica)
        self.state.previous, self.state.spool_progress = previous, progress
        self.state.heard = {"main": heard} if heard else {}
        self.state.savable = self.savable
        self.overflow = Overflow(Spool(folder, 10_000_000, 1_500), replica, 0, self.state.watermarks)
        self.queues = Queues(
            TOPICS,
            self.state,
            self.overflow,
            METRICS,
            max_pending_bytes=1_000_000_000,
            on_change=self.forget_events,
        )
        self.queues.recover()
        self.listening = Listening(heard)
        self.channels: dict[str, int] = {}  # to which the open session listens, and since when
        self.read_up_to = NOTHING_READ  # by the open session

    @property
    def partitions(self) -> list[Partition]:
        return list(self.queues.places.values())

    def forget_events(self) -> None:
        self.overflow.events()

    def savable(self, complete_us: int | None) -> dict[str, Heard]:
        self.listening.advance(self.channels, self.read_up_to)
        return {"main": self.listening.savable(complete_us, self.state.heard.get("main", {}))}

    def note(self, now: int) -> None:
        for missed in self.listening.note(self.channels, self.read_up_to):
            event = msgspec.json.encode({"channel": missed.channel, "gap": missed[1:]})
            self.queues.add([Record(EVENTS, b"main", event, now)])
            self.listening.record(missed, now)

    def hang_up(self, now: int) -> None:
        self.note(now)
        self.channels = {}
        self.read_up_to = NOTHING_READ
        self.listening.begin_session()


class Account(RuleBasedStateMachine):
    """An account's changes, its sessions, Kafka and the processes between them.

    `saved` is the last-heard time that is on Kafka, `changes` are the times of all changes by channel. The
    exchange pushes each change at once to what is `subscribed`. `network` holds what the exchange has sent
    and the process has not read: changes, confirmations and pongs, each of the latter with when its ping was
    sent.
    """

    exactly_once = True

    @initialize(known=st.booleans())
    def begin(self, *, known: bool) -> None:
        """Begin with an account that is new, or listened to already."""
        self.folder = Path(tempfile.mkdtemp())
        self.now = 1000
        self.changes: dict[str, list[int]] = {"order": [], "balance": []}
        self.kafka: set[tuple[str, int]] = set()
        self.gaps: list[tuple[str, int | None, int]] = []
        self.saved: dict[str, int] = {}
        self.owner: Owner | None = None
        self.progress: bytes | None = None
        self.replicas = 0
        self.asked = False
        self.start()
        if known:
            self.listen()

    def listen(self) -> None:
        """Listen to both channels, and deliver all that waits."""
        self.subscribe("order")
        self.subscribe("balance")
        self.read(1000)
        self.ping()
        self.read(1000)
        self.note()
        self.deliver(1000)

    def start(self) -> None:
        self.replicas += 1
        self.asked = False
        self.connect()
        self.process = Process(
            self.folder, f"replica-{self.replicas}", self.owner, self.progress, dict(self.saved)
        )

    def connect(self) -> None:
        self.network: list[Message] = []
        self.subscribed: set[str] = set()
        self.connected = True

    def tick(self) -> int:
        self.now += STEP
        return self.now

    # The exchange

    @rule(channel=st.sampled_from(["order", "balance"]), key=st.sampled_from([b"A", b"B", b"C", b"D"]))
    def change(self, channel: str, key: bytes) -> None:
        now = self.tick()
        self.changes[channel].append(now)
        if channel in self.subscribed:
            self.network.append((channel, key, now))

    @rule(channel=st.sampled_from(["order", "balance"]))
    def subscribe(self, channel: str) -> None:
        if not self.connected:
            return
        self.subscribed.add(channel)
        self.network.append(("confirmed", channel.encode(), self.tick()))

    @rule()
    def ping(self) -> None:
        sent_us = self.tick()
        if self.connected:
            self.network.append(("pong", b"", sent_us))

    @rule()
    def trade(self) -> None:
        """Receive a trade over another session."""
        self.process.queues.add([Record("trades", b"A", b"0", self.tick())])

    @rule(most=st.integers(1, 6))
    def read(self, most: int) -> None:
        """Read some of what waits in the network."""
        now, process = self.tick(), self.process
        reading, self.network = self.network[:most], self.network[most:]
        for what, key, sent_us in reading:
            if what == "confirmed":
                process.channels.setdefault(key.decode(), now)
            elif what == "pong":
                process.read_up_to = ReadUpTo(sent_us, now)
            else:
                process.queues.add([Record(what, key, b"%d" % sent_us, now)])

    @rule(
        channel=st.sampled_from(["order", "balance"]),
        key=st.sampled_from([b"A", b"B", b"C", b"D"]),
        cut=st.booleans(),
    )
    def freeze(self, channel: str, key: bytes, *, cut: bool) -> None:
        """Read a change and a pong at once, late, as a process does that was frozen while it listened.

        If the connection was cut meanwhile, another change was lost.
        """
        self.subscribe(channel)
        self.read(1000)
        self.note()
        self.change(channel, key)
        self.ping()
        if cut:
            self.cut(now=0)
            self.change(channel, key)
        self.read(1000)

    @rule(now=st.integers(0, 4))
    def cut(self, *, now: int) -> None:
        """Lose the connection at the exchange's side; what it has sent can still be read."""
        if now:
            return  # not too often
        self.connected = False
        self.subscribed.clear()

    @rule()
    def hang_up(self) -> None:
        """Note the end of the session, whose rest is lost, and open another one."""
        self.process.hang_up(self.tick())
        self.connect()

    @rule()
    def note(self) -> None:
        self.process.note(self.tick())

    # Kafka

    @rule(most=st.integers(1, 4), first=st.integers(0, 4), step=st.integers(1, 2))
    @precondition(lambda self: self.process.state.committing is None)
    def send(self, most: int, first: int = 0, step: int = 1) -> None:
        for one in self.process.partitions[first::step]:
            one.sent += one.queued[:most]
            del one.queued[:most]

    @rule()
    @precondition(lambda self: self.exactly_once and self.process.state.committing is None)
    def request_the_commit(self) -> None:
        process = self.process
        process.queues.note_progress(with_sent=True)
        process.state.committing = process.state.save([], process.queues.unsaved(with_sent=True))

    @rule()
    @precondition(lambda self: self.process.state.committing is not None and not self.asked)
    def commit(self) -> None:
        self.asked = True
        assert self.process.state.committing is not None
        self.arrive([record for one in self.process.partitions for record in one.sent])
        self.save(self.process.state.committing)

    @rule()
    @precondition(lambda self: self.asked)
    def get_the_response(self) -> None:
        process = self.process
        assert process.state.committing is not None
        save, process.state.committing, self.asked = process.state.committing, None, False
        process.state.saved(save)
        for partition in process.partitions:
            partition.settle()
        process.queues.saved(save)

    @rule()
    @precondition(lambda self: self.process.state.committing is not None and not self.asked)
    def fail(self) -> None:
        self.process.state.committing = None
        self.process.queues.requeue()

    @rule(first=st.integers(0, 4), step=st.integers(1, 2))
    @precondition(lambda self: not self.exactly_once)
    def acknowledge(self, first: int = 0, step: int = 1) -> None:
        """At-least-once: some batches are acknowledged, and so settled."""
        for partition in self.process.partitions[first::step]:
            self.arrive(partition.sent)
            partition.settle()
            self.process.queues.note_progress(with_sent=False)

    @rule(most=st.integers(1, 4), first=st.integers(0, 4), step=st.integers(1, 2))
    @precondition(lambda self: self.process.state.committing is None)
    def deliver(self, most: int, first: int = 0, step: int = 1) -> None:
        """Send some records, and save, without a failure."""
        self.send(most, first, step)
        if self.exactly_once:
            self.request_the_commit()
            self.commit()
            self.get_the_response()
        else:
            self.acknowledge(first, step)
            self.save_alone()

    @rule()
    @precondition(lambda self: not self.exactly_once)
    def save_alone(self) -> None:
        save = self.process.state.save([], self.process.queues.unsaved(with_sent=False))
        self.save(save)
        self.process.state.saved(save)
        self.process.queues.saved(save)

    def arrive(self, records: list[Record]) -> None:
        for record in records:
            if schema_of(record.channel) == EVENTS:
                event = msgspec.json.decode(record.value)
                self.gaps.append((event["channel"], *event["gap"]))
            else:
                self.kafka.add((record.channel, int(record.value)))

    def save(self, save: Save) -> None:
        self.owner = msgspec.json.decode(save.values[b"owner"] or b"", type=Owner)
        self.progress = save.spool_progress or self.progress
        if (value := save.values.get(b"account/main")) is not None:
            saved = msgspec.json.decode(value, type=dict[str, int])
            assert all(saved[channel] >= us for channel, us in self.saved.items()), "it goes back"
            self.saved = saved

    # The disk and the process

    @rule()
    @precondition(lambda self: not self.process.overflow.active)
    def overflow(self) -> None:
        assert self.process.queues.begin_spool()

    @rule()
    @precondition(lambda self: self.process.overflow.active)
    def read_back(self) -> None:
        self.process.queues._read_block()  # `refill` would read more of them

    @rule(now=st.integers(0, 4), disk_lost=st.booleans(), by_another=st.booleans())
    def kill(self, *, now: int = 0, disk_lost: bool, by_another: bool) -> None:
        """Kill the process; the next one may have another disk, or another replica may come between."""
        if now:
            return  # not too often
        self.process.overflow.close()
        if disk_lost:
            shutil.rmtree(self.folder)
            self.folder.mkdir()
        if by_another:
            self.owner = Owner("another", 1, 1)
        self.start()

    @invariant()
    def what_was_heard_is_on_kafka_or_in_a_gap(self) -> None:
        if hasattr(self, "process"):
            for channel, saved_us in self.saved.items():
                self.check(channel, saved_us)

    def check(self, channel: str, until: int) -> None:
        for at in self.changes[channel]:
            reported = any(
                name == channel and (after is None or after < at) and at <= before
                for name, after, before in self.gaps
            )
            assert at > until or (channel, at) in self.kafka or reported, (channel, at)

    def teardown(self) -> None:
        """Kill it once more; the next process reports what is missing, and delivers all else."""
        if not hasattr(self, "process"):
            return
        try:
            self.kill(disk_lost=True, by_another=False)
            self.listen()
            for channel in self.changes:
                assert self.saved[channel] == self.process.read_up_to.pushed_us
                self.check(channel, self.now)
        finally:
            self.process.overflow.close()
            shutil.rmtree(self.folder)


class AccountAtLeastOnce(Account):
    """The same without transactions: batches are settled one by one, and the state is saved after them."""

    exactly_once = False


_SETTINGS = settings(
    max_examples=150, stateful_step_count=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestAccount = pytest.mark.filterwarnings("ignore")(Account.TestCase)
TestAccount.settings = _SETTINGS
TestAccountAtLeastOnce = pytest.mark.filterwarnings("ignore")(AccountAtLeastOnce.TestCase)
TestAccountAtLeastOnce.settings = _SETTINGS
