"""Events: each becomes a record of the events topic with the key that consumers expect."""

import time
from collections.abc import Sequence
from typing import Any, get_args

import msgspec
import pytest
from structlog.testing import capture_logs

from bridge.ledger import Gap
from bridge.records import Cause, Kind, Open, Record, Stretch
from bridge.watch.events import About, Emit, Journal
from bridge.watch.metrics import Metrics
from tests.support.schemas import validate


class Recorded:
    """A journal of shard 3, and what it has recorded."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.metrics = Metrics()
        self.journal = Journal("bridge-0", 3, self.records.extend, self.metrics)

    def counted(self, name: str, **labels: str) -> float:
        """Return the value of a counter."""
        return self.metrics.counter(name, **labels).value

    def one(self) -> dict[str, Any]:
        """Return the only event, checked against the schema."""
        (record,) = self.records
        return validate(record)


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind_is_a_valid_record(recorded: Recorded, kind: Kind) -> None:
    before_us = time.time_ns() // 1000
    recorded.journal.record(kind, detail="why")
    event = recorded.one()
    assert (event["event"], event["replica"], event["shard"]) == (kind, "bridge-0", 3)
    assert before_us <= event["received_us"] <= time.time_ns() // 1000
    assert recorded.counted("events_total", event=kind) == 1


@pytest.mark.parametrize(
    ("about", "key"),
    [
        ({"symbol": "BTC_USDT", "account": "main"}, b"BTC_USDT"),
        ({"symbol": None, "account": "main"}, b"main"),
        ({"account": None}, b"3"),
    ],
)
def test_the_key_is_the_symbol_else_the_account_else_the_shard(
    recorded: Recorded, about: About, key: bytes
) -> None:
    recorded.journal.record("subscription_refused", **about)
    assert recorded.records[0].key == key


@pytest.mark.parametrize(
    ("closed", "closed_by", "cause"),
    [(True, "clean_list", "stale"), (False, None, "stale"), (False, None, "repeated_list")],
)
def test_a_gap_in_trades_has_its_bounds_and_its_cause(
    recorded: Recorded, closed: bool, closed_by: str | None, cause: Cause
) -> None:
    mark = (None, 0, 0, Open(revision=1))
    gap = Gap(b"BTC_USDT", Stretch(7, 1_000_000, 12, 2_000_000), 4, closed, cause, "session-1", mark)
    recorded.journal.record_gap(gap)
    assert recorded.records[0].mark == mark
    event = recorded.one()
    assert recorded.records[0].key == b"BTC_USDT"
    assert (event["event"], event["channel"], event["symbol"]) == ("gap", "trades", "BTC_USDT")
    assert (event["after_id"], event["after_us"]) == (7, 1_000_000)
    assert (event["before_id"], event["before_us"]) == (12, 2_000_000)
    assert (event["session"], event["filled"]) == ("session-1", 4)
    assert (event["closed_by"], event["cause"]) == (closed_by, cause)
    assert recorded.counted("gaps_total", channel="trades", cause=cause) == (0 if closed else 1)


def test_where_ids_begin_anew_an_event_of_its_own_says_so_in_front_of_the_gap(recorded: Recorded) -> None:
    gap = Gap(b"BTC_USDT", Stretch(7, 1_000_000, 1, 2_000_000), 0, False, "ids_restarted", "session-1")
    gap = gap._replace(mark=(None, 0, 4, Open(9)))
    recorded.journal.record_gap(gap)
    events = [msgspec.json.decode(record.value) for record in recorded.records]
    assert [one["event"] for one in events] == ["ids_restarted", "gap"]
    for one in events:
        assert (one["after_id"], one["before_id"], one["session"]) == (7, 1, "session-1")
    assert recorded.counted("events_total", event="ids_restarted") == 1
    # What is open counts once the gap itself is on Kafka.
    assert [one.mark for one in recorded.records] == [(None, 0, 4, Open()), gap.mark]


def test_a_gap_without_a_known_beginning_counts_by_its_own_cause(recorded: Recorded) -> None:
    recorded.journal.record(
        "gap", account="main", channel="order", cause="first_listened", after_us=None, before_us=7, filled=0
    )
    assert recorded.one()["after_us"] is None
    assert recorded.counted("gaps_total", channel="order", cause="first_listened") == 1


def test_a_long_detail_is_cut(recorded: Recorded) -> None:
    recorded.journal.record("session_ended", detail="x" * 501)
    assert recorded.one()["detail"] == "x" * 500


@pytest.mark.parametrize(
    ("kind", "about", "level", "phrase"),
    [
        ("gap", {"channel": "trades", "cause": "closed"}, "warning", "gap not filled"),
        (
            "gap",
            {"channel": "order", "cause": "first_listened"},
            "info",
            "private channel listened to for the first time",
        ),
        ("ids_restarted", {"channel": "trades", "symbol": "BTC_USDT"}, "warning", "trade ids began anew"),
        ("records_lost", {}, "warning", "previous owner left records undelivered"),
        ("unknown_field", {"channel": "trades", "field": "fee"}, "warning", "unknown field ignored"),
        (
            "book_too_large",
            {"channel": "book", "symbol": "BTC_USDT"},
            "warning",
            "book not sent, too large or rejected",
        ),
    ],
)
def test_an_event_that_nothing_else_logs_is_logged_once(
    recorded: Recorded, kind: Kind, about: About, level: str, phrase: str
) -> None:
    with capture_logs() as lines:
        recorded.journal.record(kind, **about)
    (line,) = lines
    assert (line["log_level"], line["event"], line["shard"]) == (level, phrase, 3)
    assert about.items() <= line.items()


@pytest.mark.parametrize("kind", ["session_begun", "takeover", "spool_damaged", "subscription_silent"])
def test_an_event_that_other_code_logs_is_not_logged_again(recorded: Recorded, kind: Kind) -> None:
    with capture_logs() as lines:
        recorded.journal.record(kind, detail="why")
    assert lines == []


def too_large_above(limit: int, taken: list[Record]) -> Emit:
    def emit(records: Sequence[Record]) -> list[Record]:
        taken.extend(record for record in records if len(record.value) <= limit)
        return [record for record in records if len(record.value) > limit]

    return emit


def test_an_event_that_is_too_large_for_its_topic_is_sent_without_its_detail() -> None:
    taken: list[Record] = []
    metrics = Metrics()
    Journal("bridge-0", 3, too_large_above(500, taken), metrics).record("session_ended", detail="x" * 400)
    (record,) = taken
    assert validate(record)["detail"] is None
    assert metrics.counter("events_total", event="session_ended").value == 1


def test_an_event_that_fits_nowhere_is_logged_and_counted() -> None:
    taken: list[Record] = []
    metrics = Metrics()
    with capture_logs() as lines:
        Journal("bridge-0", 3, too_large_above(10, taken), metrics).record("session_ended", detail="x")
    assert taken == []
    assert [(line["event"], line["kind"]) for line in lines] == [
        ("event lost, too large for its topic", "session_ended")
    ]
    assert metrics.counter("kafka_errors_total", error="EventTooLarge").value == 1
    assert metrics.counter("events_total", event="session_ended").value == 1
