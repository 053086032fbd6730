"""Until when private channels were listened to, and the gaps that follow from it."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from bridge.channels.channel import Source
from bridge.config import ExchangeConfig
from bridge.exchange.requests import Credentials
from bridge.exchange.session import Session, Timing
from bridge.records import Record
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.watch.watch import Watch
from bridge.websocket.connector import Connector
from bridge.websocket.courtesy import Courtesy
from bridge.websocket.feed import Feed
from bridge.websocket.sessions import Account
from bridge.websocket.stream import Stream
from tests.support.receivers import Nobody

ACCOUNT = Credentials("MYKEY123", "s3cr3t")
WANTED = {"order": ["BTC_USDT"], "balance": ["USDT"]}
REQUESTS = ("time", "auth", "order", "balance")
"""What a session requests, in order, so that the ids of the requests are 1 to 4."""


class Listening:
    """A connector of one account whose sessions have no connection: tests say what they read, and when."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, heard: dict[str, int]) -> None:
        self._monkeypatch = monkeypatch
        self._recorded: list[Record] = []
        metrics = Metrics()
        self._watch = Watch("0", metrics, Journal("replica", 0, self._recorded.extend, metrics))
        heard_us = {channel: seconds * 1_000_000 for channel, seconds in heard.items()}
        self._connector = Connector(
            WANTED,
            config=ExchangeConfig(),
            courtesy=Courtesy(5.0, 20.0),
            receiver=Nobody(),
            watch=self._watch,
            account=Account("main", ACCOUNT, heard_us),
        )

    def connect(self) -> None:
        """Open a session in place of the one before, if any."""
        session = Session(WANTED, timing=Timing(), wall_offset=0.0, max_frame_bytes=1000, credentials=ACCOUNT)
        self._feed = Feed(
            cast("Stream", SimpleNamespace(send=_send)),
            session,
            Source("S", "main", "closed"),
            courtesy=Courtesy(5.0, 20.0),
            receiver=Nobody(),
            watch=self._watch,
        )
        session.start(0.0)
        self._connector.sessions.feeds[:] = [self._feed]
        self._connector._listening.begin_session()

    def confirmed(self, *answered: str, at: int) -> None:
        """Read the answers to these requests."""
        for request in answered:
            result = 1_700_000_000 if request == "time" else {"status": "success"}
            self._read({"id": REQUESTS.index(request) + 1, "result": result, "error": None}, at)

    def pinged(self, *, at: int) -> None:
        """Send a ping."""
        self._feed.session.ping(0.0)
        with self._time(at):
            asyncio.run(self._feed._send(self._feed.session.to_send()))

    @property
    def newest_request(self) -> int:
        return self._feed.session.newest_request

    def ponged(self, *, at: int, request: int | None = None) -> None:
        """Read the answer to a ping, to the newest if none is given."""
        self._read({"id": request or self.newest_request, "result": "pong", "error": None}, at)

    def pushed(self, *, at: int) -> None:
        self._read({"method": "order.update", "params": [], "id": None}, at)

    def heard(self) -> dict[str, float]:
        """Note and return until when each channel was listened to, in seconds."""
        self._connector.note_heard()
        return {channel: us / 1e6 for channel, us in self._connector.savable(None, {}).items()}

    def gaps(self) -> list[tuple[str, float | None, float]]:
        """Return channel, begin (None: unknown) and end of each recorded gap, in seconds."""
        events = [msgspec.json.decode(record.value) for record in self._recorded]
        assert all((event["event"], event["account"]) == ("gap", "main") for event in events)
        assert all((event["session"], event["filled"]) == ("S", 0) for event in events)
        for event in events:
            assert event["cause"] == ("first_listened" if event["after_us"] is None else "closed")
        counter = self._watch.metrics.counter
        counted = [
            counter("gaps_total", channel=channel, cause=cause).value
            for channel in WANTED
            for cause in ("closed", "first_listened")
        ]
        assert sum(counted) == len(events)
        return [
            (
                event["channel"],
                None if event["after_us"] is None else event["after_us"] / 1e6,
                event["before_us"] / 1e6,
            )
            for event in events
        ]

    def _read(self, message: dict[str, Any], at: int) -> None:
        with self._time(at):
            self._feed._take([msgspec.json.encode(message)], binary=False)
            self._feed._report()

    @contextmanager
    def _time(self, seconds: int) -> Iterator[None]:
        with self._monkeypatch.context() as patch:
            patch.setattr("time.time_ns", lambda: seconds * 1_000_000_000)
            yield


async def _send(request: str) -> None:
    """Send it nowhere."""


def test_the_documented_gap_before_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its times are those of the docstring of `note_heard`."""
    listening = Listening(monkeypatch, {})
    listening.connect()
    listening.confirmed("time", "auth", "order", at=90)
    listening.pinged(at=100)
    listening.ponged(at=102)
    listening.pushed(at=104)
    assert listening.heard() == {"order": 100}
    first = ("order", None, 90)
    assert listening.gaps() == [first]
    listening.connect()
    listening.confirmed("time", "auth", at=106)
    assert listening.heard() == {"order": 100}
    assert listening.gaps() == [first]
    listening.confirmed("order", at=107)
    assert listening.heard() == {"order": 107}
    assert listening.gaps() == [first, ("order", 100, 107)]
    listening.pinged(at=110)
    assert listening.heard() == {"order": 107}
    listening.ponged(at=111)
    assert listening.heard() == {"order": 110}
    assert listening.gaps() == [first, ("order", 100, 107)]


def test_a_gap_begins_where_the_last_answered_ping_was_sent_whatever_was_read_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The times are those of the docstring of `Feed.read_up_to`: a process is frozen from 103 to 118."""
    listening = Listening(monkeypatch, {"order": 50})
    listening.connect()
    listening.confirmed("time", "auth", "order", at=60)
    listening.pinged(at=100)
    listening.ponged(at=101)
    listening.pushed(at=118)
    listening.pinged(at=118)
    assert listening.heard() == {"order": 100}
    listening.connect()
    listening.confirmed("time", "auth", "order", at=120)
    assert listening.heard() == {"order": 120}
    assert listening.gaps() == [("order", 50, 60), ("order", 100, 120)]


def test_a_late_pong_counts_for_the_time_when_its_own_ping_was_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    listening = Listening(monkeypatch, {"order": 50})
    listening.connect()
    listening.confirmed("time", "auth", "order", at=60)
    listening.pinged(at=70)
    first = listening.newest_request
    listening.pinged(at=80)
    listening.ponged(at=90, request=first)
    assert listening.heard() == {"order": 70}
    listening.ponged(at=91)
    assert listening.heard() == {"order": 80}


def test_the_gap_is_bounded_by_the_confirmation_even_if_it_is_noted_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listening = Listening(monkeypatch, {"order": 100})
    listening.connect()
    listening.confirmed("time", "auth", "order", at=107)
    listening.pinged(at=120)
    listening.ponged(at=121)
    assert listening.heard() == {"order": 120}
    assert listening.gaps() == [("order", 100, 107)]


def test_each_channel_has_a_gap_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a channel that was never listened to, its beginning is unknown."""
    listening = Listening(monkeypatch, {"order": 100})
    listening.connect()
    listening.confirmed("time", "auth", "balance", at=105)
    assert listening.heard() == {"order": 100, "balance": 105}
    assert listening.gaps() == [("balance", None, 105)]
    listening.confirmed("order", at=107)
    assert listening.heard() == {"order": 107, "balance": 105}
    assert listening.gaps() == [("balance", None, 105), ("order", 100, 107)]


def test_without_a_session_nothing_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    listening = Listening(monkeypatch, {"order": 100})
    assert listening.heard() == {"order": 100}
    assert listening.gaps() == []
