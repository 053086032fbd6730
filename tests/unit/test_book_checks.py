"""The checks of books: what they report and how often, and what a clock that was set does to them."""

import asyncio
import json
import time
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from bridge.book_checks import MOST_LEVELS, BookChecks
from bridge.books.comparing import Difference
from bridge.books.present import PresentBooks
from bridge.channels.channel import Source
from bridge.config import ExchangeConfig, KafkaConfig
from bridge.exchange.session import Session, Timing
from bridge.kafka.queues import Queues
from bridge.kafka.state import ShardState
from bridge.kafka.topics import Topic
from bridge.records import STATE, Record
from bridge.spool.overflow import Overflow
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.watch.watch import Watch
from bridge.websocket.connector import Connector
from bridge.websocket.courtesy import Courtesy
from bridge.websocket.feed import Feed
from tests.support.receivers import Nobody
from tests.support.streams import open_stream

KEY = b"A_USDT"
SECOND = 1_000_000  # µs


class World:
    """The checks of one market, on a clock that can be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, each: float = 10.0) -> None:
        self.set_by = 0  # µs
        real = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: real() + 1000 * self.set_by)
        self.present = PresentBooks(wanted=None, levels=0, interval_us=SECOND, patience_us=5 * SECOND)
        topics = {name: Topic(name, 1, 1_000_000) for name in ("depth", STATE)}
        state, metrics = ShardState(KafkaConfig(), topics[STATE], 0, "replica"), Metrics()
        self.queues = Queues(
            topics,
            state,
            Overflow(None, "replica", 0, state.watermarks),
            metrics,
            max_pending_bytes=1_000_000,
            on_change=lambda: None,
        )
        self.events: list[Record] = []
        self._watch = Watch("0", metrics, Journal("replica", 0, self.events.extend, metrics))
        self._connectors: list[Connector] = []
        self.checks = BookChecks(self.present, self.queues, self._connectors, self._watch, each=each)

    def open(self, session: str) -> Feed:
        """Open a session, which reads and sends nothing as long as the event loop does not turn."""
        parts: dict[str, Any] = {"courtesy": Courtesy(5.0, 20.0), "receiver": Nobody(), "watch": self._watch}
        stream, _ = open_stream()
        its = Session({}, timing=Timing(), wall_offset=0.0, max_frame_bytes=1000)
        feed = Feed(stream, its, Source(session), **parts)
        connector = Connector({}, config=ExchangeConfig(), **parts)
        connector.sessions._begin(feed, {})
        self._connectors.append(connector)
        return feed

    def lag(self) -> None:
        """Look while a record is pending that was received long ago."""
        self.queues.add([Record("depth", KEY, b"{}", time.time_ns() // 1000 - 60 * SECOND)])
        self.checks.look()
        (partition,) = self.queues.places.values()
        partition.queued.clear()
        self.queues.release(1, self.queues.pending_bytes)

    def take(self, session: str, seq: int, amount: str, *, snapshot: bool = False) -> None:
        """Take a record of depth that is received now."""
        now_us = time.time_ns() // 1000
        value = {"session": session, "seq": seq, "received_us": now_us, "snapshot": snapshot}
        value |= {"asks": [["101", amount]], "bids": [["100", "1"]]}
        self.present.take([Record("depth", KEY, json.dumps(value).encode(), now_us)])


@pytest.mark.parametrize("seconds", [-6, 3600])
def test_a_rotation_during_which_the_clock_is_set_is_not_compared(
    monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    """The new session's snapshot shows the book as it was before the last change of the old one."""
    world = World(monkeypatch)
    world.take("x", 0, "1", snapshot=True)
    world.checks.begin(["x"])
    world.set_by = seconds * SECOND
    world.take("x", 1, "2")
    world.take("x", 2, "3")
    world.checks.replaced(["x"], "y", [KEY.decode()])
    world.take("y", 0, "2", snapshot=True)
    world.checks.look()
    assert not world.events
    world.checks.begin(["y"])
    world.take("y", 1, "4")
    world.checks.replaced(["y"], "z", [KEY.decode()])
    world.take("z", 0, "5", snapshot=True)
    world.checks.look()
    assert [json.loads(one.value)["check"] for one in world.events] == ["different"], "the next one is"


def test_hundreds_of_books_that_are_damaged_at_once_are_reported_each_and_none_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    differing = [Difference("asks", "1", "2", None)]
    for _ in range(100):
        for number in range(700):
            world.present.doubts.compared(b"S%d_USDT" % number, "x", differing, "a snapshot")
        world.checks.look()
    events = Counter(json.loads(one.value)["symbol"] for one in world.events)
    assert len(events) == 700
    assert set(events.values()) <= {4, 5}, "one more if the hundred turns have taken a minute"


def test_an_event_has_the_best_levels_that_differ_and_none_with_a_figure_of_any_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    differing = [Difference("asks", str(price), None, "1") for price in range(1, 50)]
    differing.insert(0, Difference("asks", "1" * 65, None, "1"))
    world.present.doubts.compared(KEY, "x", differing, "a snapshot")
    world.checks.look()
    (event,) = world.events
    levels = json.loads(event.value)["levels"]
    assert [int(one["price"]) for one in levels] == list(range(1, MOST_LEVELS + 1))


def test_a_rotation_that_was_given_up_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else each change of the session that stays in use would be kept."""
    world = World(monkeypatch)
    world.checks.begin(["x"])
    world.checks.end(["x"])
    assert not world.present._rotations.since


def test_books_whose_session_is_gone_are_requested_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, each=0.0)
    world.take("gone", 5, "1")
    assert world.present.missing == {KEY: "gone"}
    world.checks.look()
    world.checks.look()


def test_a_missing_book_is_asked_for_ever_less_often_however_often_kafka_lags(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As that of a market whose snapshots Kafka rejects."""

    async def requests() -> list[int]:
        world, asked = World(monkeypatch), list[int]()
        feed = world.open("s")
        world.take("s", 5, "1")
        for second in range(3600):
            now = float(second)
            clock = {"time_ns": time.time_ns, "monotonic_ns": time.monotonic_ns, "monotonic": lambda: now}  # noqa: B023
            monkeypatch.setattr("bridge.book_checks.time", SimpleNamespace(**clock))
            if second % 60 == 30:
                world.lag()
            else:
                world.checks.look()
            if "depth" in feed.source.incomplete:
                feed.source.incomplete.clear()
                asked.append(second)
        return asked

    assert asyncio.run(requests()) == [10, 50, 130, 290, 610, 1250, 2150, 3050]
