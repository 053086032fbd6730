"""What cannot become a record is reported, and consumers see where it was lost."""

import base64
from collections.abc import Collection, Sequence
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from bridge.allowance import AT_ONCE
from bridge.channels import CHANNELS
from bridge.channels.channel import Outcome, Source
from bridge.errors import BadFrame, DeadLetterReason
from bridge.exchange.frames import Push
from bridge.pipeline import MOST_REMARKED, Pipeline
from bridge.records import DEADLETTER, EVENTS, PRIVATE_DEADLETTER, PRIVATE_EVENTS, Record, schema_of
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.watch.watch import Watch
from tests.support.pushes import push
from tests.support.schemas import validate

RECEIVED_US = 1_600_000_000_000_000

LEVEL = ["9000.00", "1.0000"]
TRADE = {"id": 7, "time": 1_600_000_000.5, "price": "9000.00", "amount": "0.1000", "type": "buy"}
UNREADABLE: tuple[DeadLetterReason, ...] = ("decompression", "json", "payload")


class Sessions:
    """A pipeline, and what it makes of the pushes of any session."""

    def __init__(self, wanted: Collection[str] = CHANNELS) -> None:
        self.records: list[Record] = []
        self.metrics = Metrics()
        self.too_large = 10**9  # bytes of a record's value
        self.pipeline = Pipeline(
            wanted=wanted,
            emit=self._emit,
            watermarks={},
            watch=Watch("0", self.metrics, Journal("replica", 0, self._emit, self.metrics)),
            on_markets=None,
        )

    def push(self, source: Source, channel: str, params: Any) -> None:
        self.pipeline.push(push(channel, params), source, RECEIVED_US, b"a frame")

    def damaged(self, source: Source, reason: DeadLetterReason = "decompression") -> None:
        self.pipeline.bad(BadFrame(reason, "why"), source, RECEIVED_US, b"damaged")

    def seqs(self, channel: str, name: str) -> list[int]:
        """Return the `seq` of each record of a symbol or currency."""
        return [
            msgspec.json.decode(one.value)["seq"]
            for one in self.records
            if (one.channel, one.key) == (channel, name.encode())
        ]

    def events(self) -> list[dict[str, Any]]:
        return [msgspec.json.decode(one.value) for one in self.records if schema_of(one.channel) == EVENTS]

    def dead_letters(self) -> int:
        return sum(schema_of(one.channel) == DEADLETTER for one in self.records)

    def _emit(self, records: Sequence[Record]) -> Sequence[Record]:
        refused = [one for one in records if len(one.value) > self.too_large]
        self.records += [one for one in records if one not in refused]
        return refused


def book(symbol: str, *, clean: bool = False, levels: Any = ()) -> list[Any]:
    return [clean, {"asks": list(levels), "bids": []}, symbol]


def with_books(*symbols: str) -> tuple[Sessions, Source]:
    """Return sessions of which one has brought the snapshot of each symbol, as its record 0."""
    sessions, source = Sessions(), Source("s")
    source.channels = {"trades", "depth", "ticker"}
    for symbol in symbols:
        sessions.push(source, "depth", book(symbol, clean=True))
    return sessions, source


@pytest.mark.parametrize(
    "params",
    [
        pytest.param(book("A", levels=[["9000.00"]]), id="a bad level"),
        pytest.param(book("A", levels=[["9000.00", None]]), id="a bad amount"),
        pytest.param([False, "no book", "A"], id="a bad book"),
        pytest.param(["no", {}, "a"], id="a bad flag, and the symbol in lower case"),
        pytest.param(book("A", clean=True, levels=[["9000.00"]]), id="a bad snapshot"),
    ],
)
def test_a_depth_push_that_becomes_a_dead_letter_takes_a_seq_of_its_symbol(params: object) -> None:
    sessions, source = with_books("A", "B")
    sessions.push(source, "depth", params)
    for symbol in ("A", "B"):
        sessions.push(source, "depth", book(symbol))
    assert sessions.seqs("depth", "A") == [0, 2]
    assert sessions.seqs("depth", "B") == [0, 1]
    assert source.incomplete == {"depth"}
    assert [source.series("depth", symbol).begun for symbol in ("A", "B")] == [False, True]
    assert sessions.dead_letters() == 1


@pytest.mark.parametrize(
    "params",
    [
        pytest.param(b'[false,{"asks":[},"A"]', id="no JSON"),
        pytest.param([False, {}], id="no symbol"),
        pytest.param([False, {}, ""], id="an empty symbol"),
        pytest.param([False, {}, 5], id="a number for a symbol"),
        pytest.param({"A": []}, id="no list"),
    ],
)
def test_a_depth_push_without_a_readable_symbol_takes_a_seq_of_all_books(params: object) -> None:
    sessions, source = with_books("A", "B")
    other = Source("other")
    sessions.push(other, "depth", book("A", clean=True))
    sessions.push(source, "depth", params)
    sessions.push(other, "depth", book("A"))
    for symbol in ("A", "B"):
        sessions.push(source, "depth", book(symbol))
    assert sessions.seqs("depth", "B") == [0, 2]
    assert sessions.seqs("depth", "A") == [0, 0, 1, 2], "the other session has lost nothing"
    assert (source.incomplete, other.incomplete) == ({"depth"}, set())


def test_a_depth_record_that_is_too_large_leaves_a_hole_and_has_a_snapshot_requested() -> None:
    sessions, source = with_books("A")
    sessions.too_large = 1000
    sessions.push(source, "depth", book("A", levels=[LEVEL] * 100))
    sessions.push(source, "depth", book("A"))
    before, after = sessions.seqs("depth", "A")
    assert after > before + 1
    assert source.incomplete == {"depth"}
    assert not source.series("depth", "A").begun


def test_a_snapshot_completes_the_series_again() -> None:
    sessions, source = with_books("A")
    sessions.push(source, "depth", "[]")
    sessions.push(source, "depth", [True, {}, "A"])
    assert source.series("depth", "A").begun


@pytest.mark.parametrize("reason", UNREADABLE)
def test_a_frame_that_cannot_be_read_takes_a_seq_of_everything_but_trades(reason: DeadLetterReason) -> None:
    sessions, source = with_books("A", "B")
    ticker = [{"symbol": "A", "timestamp": 1_600_000_000_000}]
    sessions.push(source, "ticker", ticker)
    sessions.push(source, "trades", [True, [TRADE], "A"])
    sessions.damaged(source, reason)
    sessions.push(source, "ticker", ticker)
    sessions.push(source, "trades", [False, [TRADE | {"id": 8}], "A"])
    for symbol in ("A", "B"):
        sessions.push(source, "depth", book(symbol))
        assert sessions.seqs("depth", symbol) == [0, 2]
    assert sessions.seqs("ticker", "A") == [0, 2]
    assert sessions.seqs("trades", "A") == [0, 1]
    assert source.incomplete == {"trades", "depth"}
    assert not source.series("trades", "A").begun
    assert sessions.dead_letters() == 1


def test_only_channels_of_the_session_are_requested_again() -> None:
    sessions, source = Sessions(), Source("s")
    source.channels = {"depth", "ticker"}
    sessions.damaged(source)
    assert source.incomplete == {"depth"}


def test_a_message_that_the_api_does_not_have_loses_nothing() -> None:
    sessions, source = with_books("A")
    sessions.damaged(source, "unknown_method")
    sessions.push(source, "moon", [])
    sessions.push(source, "depth", book("A"))
    assert sessions.seqs("depth", "A") == [0, 1]
    assert source.incomplete == set()


@pytest.mark.parametrize(
    "params",
    [
        pytest.param([True, [TRADE, TRADE | {"id": "?"}], "A"], id="a bad trade in the list"),
        pytest.param([False, [TRADE | {"type": "gift"}], "A"], id="a bad live trade"),
        pytest.param([True, [], "A"][:2], id="no symbol"),
        pytest.param(b"[true,[}", id="no JSON"),
    ],
)
def test_a_bad_trade_has_the_list_of_its_symbol_requested(params: object) -> None:
    sessions, source = Sessions(), Source("s")
    sessions.push(source, "trades", [True, [], "A"])
    assert source.series("trades", "A").begun
    sessions.push(source, "trades", params)
    assert source.incomplete == {"trades"}
    assert not source.series("trades", "A").begun
    assert sessions.dead_letters() == 1


@pytest.mark.parametrize("reason", UNREADABLE)
def test_a_frame_of_an_account_that_cannot_be_read_is_a_gap_of_its_private_channels(
    reason: DeadLetterReason,
) -> None:
    sessions, source = Sessions(), Source("s", "main")
    source.channels = {"order": (), "balance": ()}.keys()
    sessions.push(source, "balance", [{"currency": "USDT", "free": "1", "total": "1", "used": "0"}])
    source.heard_us = RECEIVED_US - 5
    sessions.damaged(source, reason)
    sessions.push(source, "balance", [{"currency": "USDT", "free": "1", "total": "1", "used": "0"}])
    events = sessions.events()
    assert [event["channel"] for event in events] == ["order", "balance"]
    for event in events:
        assert (event["event"], event["session"], event["account"]) == ("gap", "s", "main")
        assert (event["after_us"], event["before_us"]) == (RECEIVED_US - 5, RECEIVED_US)
        assert (event["cause"], event["filled"], event["closed_by"]) == ("damaged_frame", 0, None)
        counter = sessions.metrics.counter("gaps_total", channel=event["channel"], cause="damaged_frame")
        assert counter.value == 1
    assert sessions.seqs("balance", "USDT") == [0, 2]
    assert source.incomplete == set()


BALANCE = {"currency": "USDT", "free": "1", "total": "1", "used": "0"}


@pytest.mark.parametrize(
    "params",
    [
        b"[{]",
        b'{"currency":"USDT"}',
        b'"USDT"',
        b"null",
        b"[" * 5000,
        b'[7,{"currency":"USDT","free":"1","total":"1","used":"0"}]',
        b'[{"currency":"USDT","free":"1","total":"1","used":{}}]',
    ],
    ids=["no JSON", "no list", "text", "null", "too deep", "an item that is no object", "a bad figure"],
)
def test_a_push_of_a_private_channel_that_cannot_become_records_is_a_gap_of_that_channel(
    params: bytes,
) -> None:
    sessions, source = Sessions(), Source("s", "main")
    source.channels = {"order": (), "balance": ()}.keys()
    source.heard_us = RECEIVED_US - 5
    sessions.pipeline.push(Push("balance", params), source, RECEIVED_US, b"a frame")
    (event,) = sessions.events()
    assert (event["event"], event["channel"], event["account"]) == ("gap", "balance", "main")
    assert (event["cause"], event["session"]) == ("damaged_frame", "s")
    assert (event["after_us"], event["before_us"]) == (RECEIVED_US - 5, RECEIVED_US)
    assert sessions.dead_letters() == 1


def test_a_private_record_too_large_for_its_topic_is_a_gap_of_its_channel() -> None:
    sessions, source = Sessions(), Source("s", "main")
    sessions.push(source, "balance", [BALANCE])
    assert sessions.events() == []
    sessions.too_large = 1000
    sessions.push(source, "balance", [{**BALANCE, "free": "1" + "0" * 1000}])
    assert [(event["event"], event["channel"]) for event in sessions.events()] == [("gap", "balance")]


def test_a_frame_that_was_reported_for_another_session_is_lost_without_a_report() -> None:
    sessions, source = with_books("A")
    source.channels = {"depth", "order"}
    before = len(sessions.records)
    sessions.pipeline.lost(source)
    assert len(sessions.records) == before
    sessions.push(source, "depth", book("A"))
    assert sessions.seqs("depth", "A") == [0, 2]
    assert source.incomplete == {"depth"}


def test_a_known_trade_in_a_live_push_counts_as_a_live_duplicate_but_not_in_a_list_or_a_rotation() -> None:
    sessions = Sessions()
    source = Source("s1")
    counter = sessions.metrics.counter("live_duplicates_total", channel="trades")
    sessions.push(source, "trades", [True, [TRADE], "BTC_USDT"])
    sessions.push(source, "trades", [False, [{**TRADE, "id": 8}], "BTC_USDT"])
    sessions.push(source, "trades", [True, [{**TRADE, "id": 8}, TRADE], "BTC_USDT"])
    assert counter.value == 0
    sessions.push(source, "trades", [False, [{**TRADE, "id": 9}], "BTC_USDT"])
    source.overlapping = True
    sessions.push(source, "trades", [False, [{**TRADE, "id": 9}], "BTC_USDT"])
    assert counter.value == 0
    source.overlapping = False
    sessions.push(source, "trades", [False, [{**TRADE, "id": 9}], "BTC_USDT"])
    assert counter.value == 1


def held_trade(sessions: Sessions) -> None:
    """Bring a trade that may begin a new epoch of ids."""
    sessions.push(Source("s"), "trades", [True, [TRADE], "A"])
    sessions.push(Source("t"), "trades", [False, [TRADE | {"id": 1}], "A"])


def test_a_trade_that_was_held_and_is_too_large_becomes_a_dead_letter() -> None:
    sessions = Sessions()
    held_trade(sessions)
    sessions.too_large = 100
    sessions.pipeline.overdue(RECEIVED_US, 0)
    assert sessions.metrics.counter("deadletters_total", reason="payload").value == 1


def test_of_a_channel_that_is_only_read_for_its_markets_nothing_is_reported_late() -> None:
    sessions = Sessions(wanted=())
    held_trade(sessions)
    sessions.pipeline.overdue(RECEIVED_US, 0)
    assert sessions.records == []


def test_a_field_that_the_exchange_has_added_is_reported_once_for_each_channel() -> None:
    sessions, first, second = Sessions(), Source("first"), Source("second")
    for source in (first, second, first):
        for number in range(3):
            sessions.push(source, "trades", [False, [TRADE | {"id": number + 1, "fee": "0.1"}], "A"])
        sessions.push(source, "depth", [True, {"asks": [], "version": 1}, "A", "more"])
    assert [(event["event"], event["channel"], event["field"]) for event in sessions.events()] == [
        ("unknown_field", "trades", "params[1][].fee"),
        ("unknown_field", "depth", "params[3]"),
        ("unknown_field", "depth", "params[1].version"),
    ]
    assert sessions.dead_letters() == 0


def test_a_field_that_many_sessions_bring_is_reported_once() -> None:
    sessions = Sessions()
    for number in range(3):
        push = Push("depth", b'[true,{"asks":[]},"A"]', ["sendTime"])
        sessions.pipeline.push(push, Source(f"session {number}"), RECEIVED_US, b"a frame")
    assert [event["field"] for event in sessions.events()] == ["sendTime"]


def test_endless_new_fields_are_reported_up_to_a_bound() -> None:
    sessions, source = Sessions(), Source("s")
    for number in range(200):
        push = Push("depth", b'[true,{"asks":[]},"A"]', [f"field{number}"])
        sessions.pipeline.push(push, source, RECEIVED_US, b"a frame")
    assert len(sessions.events()) == MOST_REMARKED


def test_an_odd_ticker_in_each_push_costs_a_whole_frame_now_and_then_only() -> None:
    """One in all_ticker would cost a frame of all markets each second, for ever."""
    sessions, source = Sessions(), Source("s")
    push = Push("all_ticker", b'[{"symbol":"A","last":"1"},{"symbol":"B","last":"n/a"}]')
    for second in range(3600):
        sessions.pipeline.push(push, source, RECEIVED_US + second * 1_000_000, b"a frame")
    letters = [
        msgspec.json.decode(one.value) for one in sessions.records if schema_of(one.channel) == DEADLETTER
    ]
    whole = [letter for letter in letters if letter["frame_base64"]]
    assert len(letters) == 3600
    assert AT_ONCE + 58 <= len(whole) <= AT_ONCE + 60
    assert all("frame of 7 bytes omitted" in one["detail"] for one in letters if not one["frame_base64"])
    assert all("B: 'n/a' is not a decimal" in letter["detail"] for letter in letters)
    assert len([one for one in sessions.records if one.channel == "all_ticker"]) == 3600


def test_frames_of_channels_that_are_not_replaced_are_all_kept_whole() -> None:
    sessions, source = Sessions(), Source("s")
    for _ in range(100):
        sessions.push(source, "trades", [False, [TRADE | {"type": "gift"}], "A"])
    letters = [
        msgspec.json.decode(one.value) for one in sessions.records if schema_of(one.channel) == DEADLETTER
    ]
    assert len(letters) == 100
    assert all(letter["frame_base64"] for letter in letters)


def test_large_frames_are_kept_whole_one_at_a_time() -> None:
    """Each takes several times its size in memory, and all sessions may bring one at once."""
    sessions, source = Sessions(), Source("s")
    sizes = [2_000_000, 2_000_000, 1_000_000, 2_000_000, 2_000_000]
    for size, second in zip(sizes, [0, 1, 2, 3, 12], strict=True):
        bad = BadFrame("json", "no JSON")
        sessions.pipeline.bad(bad, source, RECEIVED_US + second * 1_000_000, bytes(size))
    letters = [
        msgspec.json.decode(one.value) for one in sessions.records if schema_of(one.channel) == DEADLETTER
    ]
    kept = [len(base64.b64decode(letter["frame_base64"])) for letter in letters]
    assert kept == [2_000_000, 0, 1_000_000, 0, 2_000_000]
    omitted = "frame of 2000000 bytes omitted: one so large was kept shortly before; no JSON"
    assert [letter["detail"] for letter in letters] == ["no JSON", omitted, "no JSON", omitted, "no JSON"]


def test_a_clock_that_is_set_back_gives_frames_no_longer_wait() -> None:
    sessions, source = Sessions(), Source("s")
    push = Push("ticker", b'[{"symbol":"B","last":"n/a"}]')
    for _ in range(20):
        sessions.pipeline.push(push, source, RECEIVED_US, b"a frame")
    before = sessions.dead_letters()
    for minute in range(AT_ONCE + 2):
        sessions.pipeline.push(push, source, RECEIVED_US - 10**12 + minute * 60_000_000, b"a frame")
    late = [
        msgspec.json.decode(one.value) for one in sessions.records if schema_of(one.channel) == DEADLETTER
    ][before:]
    assert any(letter["frame_base64"] for letter in late)


@pytest.mark.parametrize(
    ("account", "channel", "private"),
    [("main", "order", True), ("main", "trades", True), (None, "order", True), (None, "trades", False)],
)
def test_dead_letters_of_accounts_are_apart_and_their_details_are_not_logged(
    account: str | None, channel: str, private: bool
) -> None:
    sessions, source = Sessions(), Source("s", account)
    with capture_logs() as lines:
        sessions.push(source, channel, [False, [TRADE | {"price": "canary"}], "A"])
        sessions.damaged(source)
    letters = [one for one in sessions.records if schema_of(one.channel) == DEADLETTER]
    of_push = [PRIVATE_DEADLETTER if private else DEADLETTER]
    of_frame = [PRIVATE_DEADLETTER if account else DEADLETTER]
    assert [one.channel for one in letters] == of_push + of_frame
    assert [("detail" in line) for line in lines if line["event"] == "dead letter"] == [
        not private,
        account is None,
    ]


def test_an_internal_error_about_a_private_push_does_not_show_it(capfd: pytest.CaptureFixture[str]) -> None:
    sessions, source = Sessions(), Source("s", "main")

    def fails(*_: object) -> Outcome:
        raise RuntimeError("canary")

    sessions.pipeline._lanes["order"].normalise = fails
    sessions.push(source, "order", [])
    assert sessions.dead_letters() == 1
    assert "canary" not in "".join(capfd.readouterr())


def test_events_of_accounts_are_apart() -> None:
    sessions = Sessions()
    sessions.damaged(Source("s", "main"))
    sessions.push(Source("s", "main"), "balance", [BALANCE | {"canary": 1}])
    with capture_logs() as lines:
        sessions.push(Source("t", "main"), "balance", [BALANCE | {"canary": 1}])
    kinds = [(one.channel, validate(one)["event"]) for one in sessions.records if "events" in one.channel]
    assert {channel for channel, _ in kinds} == {PRIVATE_EVENTS}
    assert "canary" not in str(lines)
