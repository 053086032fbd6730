"""Lists and snapshots that do not come are requested again once, and then reported."""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, cast

import msgspec

from bridge.channels.channel import Source
from bridge.errors import BadFrame
from bridge.exchange.frames import Push
from bridge.exchange.session import Session, Timing
from bridge.records import Record
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.watch.watch import Watch
from bridge.websocket.courtesy import Courtesy
from bridge.websocket.feed import Feed
from bridge.websocket.silence import Silence
from bridge.websocket.stream import Stream

TIMING = Timing(ping_interval=1e6, reply_timeout=10.0)
WANTED = {"trades": ["A", "B"]}
SUBSCRIBE = 2
"""The id of the first subscribe request; the one before it is for the server's time."""


class Nobody:
    """A receiver of pushes that do not matter here."""

    def push(self, push: Push, source: Source, received_us: int, frame: bytes) -> None:
        """Drop it."""

    def bad(self, bad: BadFrame, source: Source, received_us: int, frame: bytes) -> None:
        """Drop it."""

    def lost(self, source: Source) -> None:
        """Ignore it."""


def answer(request_id: int, error: object = None) -> bytes:
    return msgspec.json.encode({"id": request_id, "result": 1_700_000_000, "error": error})


class Scene:
    """A live session that is subscribed to trades of A and B; `now` is its time."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.now = time.monotonic()
        metrics = Metrics()
        self.watch = Watch("0", metrics, Journal("replica", 0, self._emit, metrics))
        self.source = Source("S")
        self.session = Session(
            WANTED, timing=TIMING, wall_offset=0.0, max_frame_bytes=1000, begins_clean=["trades"]
        )
        self.silence = Silence(self.session, self.source, self.watch.journal)
        self.session.start(self.now)
        for request_id in (1, SUBSCRIBE):
            self.session.receive(answer(request_id), False, self.now)
        self.take()

    def feed(self) -> Feed:
        """Return a feed of the session that has no connection."""
        return Feed(
            cast("Stream", None),
            self.session,
            self.source,
            courtesy=Courtesy(5.0, 20.0),
            receiver=Nobody(),
            watch=self.watch,
        )

    def take(self) -> list[Any]:
        """Return the requests to send, those that are held with them."""
        while self.session.held:
            request = self.session.send_held(self.now)
            assert request is not None
            self.silence.requested(request.channel, request.symbols)
        self.session.events()
        return [msgspec.json.decode(request) for request in self.session.to_send()]

    def wait(self, seconds: float) -> None:
        """Let time pass, and look at what has become due."""
        self.now += seconds
        self.session.tick(self.now)
        self.silence.look_at(cast("Any", self.session.events()), self.now)

    def begin(self, *symbols: str) -> None:
        for symbol in symbols:
            self.source.series("trades", symbol).begun = True

    def lose(self, *symbols: str) -> None:
        for symbol in symbols:
            self.source.series("trades", symbol).begun = False
        self.session.ask_again("trades", self.now)

    def requested(self) -> list[list[str]]:
        """Return the symbols of each subscribe request since the last call, all of which are accepted."""
        requests = [one for one in self.take() if one["method"] == "trades.subscribe"]
        for one in requests:
            self.session.receive(answer(one["id"]), False, self.now)
        self.session.events()
        return [one["params"] for one in requests]

    def reported(self) -> list[str]:
        """Return the symbols of the events since the last call."""
        events = [msgspec.json.decode(record.value) for record in self.records]
        self.records.clear()
        assert all(event["event"] == "subscription_silent" for event in events)
        assert all((event["session"], event["channel"]) == ("S", "trades") for event in events)
        return [event["symbol"] for event in events]

    def _emit(self, records: Sequence[Record]) -> Sequence[Record]:
        self.records += records
        return ()


def test_lists_that_have_come_are_not_requested_again() -> None:
    scene = Scene()
    scene.begin("A", "B")
    for _ in range(5):
        scene.wait(10)
    assert (scene.requested(), scene.reported()) == ([], [])


def test_a_missing_list_is_requested_once_more_with_all_symbols_and_then_reported_once() -> None:
    scene = Scene()
    scene.begin("A")
    scene.wait(10)
    assert scene.requested() == [["A", "B"]]
    assert scene.reported() == []
    scene.wait(10)
    assert scene.reported() == ["B"]
    for _ in range(100):
        scene.wait(10)
    assert (scene.requested(), scene.reported()) == ([], [])


def test_a_list_that_comes_after_it_was_requested_again_is_not_reported() -> None:
    scene = Scene()
    scene.begin("A")
    scene.wait(10)
    assert scene.requested() == [["A", "B"]]
    scene.begin("B")
    for _ in range(5):
        scene.wait(10)
    assert (scene.requested(), scene.reported()) == ([], [])


def test_a_silent_symbol_is_not_reported_again_when_another_one_loses_something() -> None:
    scene = Scene()
    scene.begin("A")
    scene.wait(10)
    scene.requested()
    scene.wait(10)
    assert scene.reported() == ["B"]
    scene.wait(500)
    scene.lose("A")
    assert scene.requested() == [["A", "B"]]
    scene.begin("A")
    for _ in range(5):
        scene.wait(10)
    assert (scene.requested(), scene.reported()) == ([], [])


def test_what_is_lost_and_does_not_come_back_is_reported() -> None:
    scene = Scene()
    scene.begin("A", "B")
    scene.wait(100)
    scene.lose("A")
    assert scene.requested() == [["A", "B"]]
    scene.wait(10)
    assert scene.requested() == [["A", "B"]]
    scene.wait(10)
    assert scene.reported() == ["A"]


def test_a_silent_symbol_that_has_begun_can_become_silent_again() -> None:
    scene = Scene()
    scene.begin("A")
    scene.wait(10)
    scene.requested()
    scene.wait(10)
    assert scene.reported() == ["B"]
    scene.begin("B")
    scene.wait(500)
    scene.lose("B")
    scene.requested()
    for _ in range(2):
        scene.wait(10)
        scene.requested()
    assert scene.reported() == ["B"]


def test_a_symbol_that_loses_something_after_each_list_is_not_silent() -> None:
    """As when the list of one symbol is damaged each time: nobody knows whose frame that was."""
    scene = Scene()
    for _ in range(10):
        scene.wait(10)
        scene.requested()
        scene.begin("A")
        scene.lose("A", "B")
    assert scene.reported() == ["B"]


def test_a_silent_symbol_that_brings_its_list_and_loses_something_at_once_is_not_silent_any_more() -> None:
    scene = Scene()
    scene.begin("A")
    scene.wait(10)
    scene.requested()
    scene.wait(10)
    assert scene.reported() == ["B"]
    scene.wait(500)
    scene.begin("B")
    scene.lose("B")
    assert scene.requested() == [["A", "B"]]
    scene.wait(10)
    assert scene.requested() == [["A", "B"]]
    scene.wait(10)
    assert scene.reported() == ["B"]


def test_nothing_is_missing_as_long_as_a_rotation_withholds_what_the_session_brings() -> None:
    """The session's pushes have come, but nobody has read them yet."""

    async def scenario() -> None:
        scene = Scene()
        feed = scene.feed()
        feed.withheld = True
        scene.session.tick(scene.now + 10)
        feed._report()
        assert scene.session.held == 0
        scene.begin("A")  # as the messages that were withheld are delivered
        feed.deliver_to(Nobody())
        feed._report()
        assert scene.session.held == 1
        feed._report()
        assert scene.session.held == 1

    asyncio.run(scenario())


def test_a_feed_requests_again_what_its_source_has_lost() -> None:
    async def scenario() -> None:
        scene = Scene()
        feed = scene.feed()
        assert set(scene.source.channels) == {"trades"}
        scene.source.incomplete.update({"trades", "depth"})
        feed._report()
        assert scene.source.incomplete == set()
        assert scene.requested() == [["A", "B"]]

    asyncio.run(scenario())
