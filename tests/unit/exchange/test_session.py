"""The life of one session: its requests, its events, when it has to be called, and why it gives up."""

import json
import math
import zlib
from collections.abc import Container, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import msgspec
import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bridge.errors import BadFrame
from bridge.exchange import requests
from bridge.exchange.events import (
    CleanDue,
    ClockRead,
    Confirmed,
    Event,
    GivenUp,
    Ponged,
    RepeatRefused,
    RequestPostponed,
    RequestSplit,
    SubscriptionRefused,
)
from bridge.exchange.frames import Push
from bridge.exchange.requests import Credentials
from bridge.exchange.session import ANSWER_TIMEOUT, TRANSITIONS, Session, SessionState, Timing
from bridge.exchange.subscribing import MOST_SYMBOLS

TIMING = Timing(ping_interval=15.0, reply_timeout=10.0)
START = 1000.0
WALL = 1_600_000_000.0 - START
ACCOUNT = Credentials("key", "secret")

LIMIT = 65_536  # bytes of a frame

ROUNDING = 1e-6

SUCCESS = {"status": "success"}
NO = {"code": 2, "message": "invalid market"}

CLEAN = ("trades", "depth")
"""The channels of which a subscription begins with a clean list or a snapshot."""


OPTIONS: dict[str, Any] = {
    "timing": TIMING,
    "wall_offset": WALL,
    "max_frame_bytes": LIMIT,
    "begins_clean": CLEAN,
}


class Request(msgspec.Struct, frozen=True):
    """A request as the exchange reads it."""

    id: int
    method: str
    params: list[str]


def sent(session: Session) -> list[Request]:
    return [msgspec.json.decode(text, type=Request) for text in session.to_send()]


def all_sent(session: Session, now: float = START) -> list[Request]:
    """Return the requests to send, with those that are held."""
    while session.held:
        session.send_held(now)
    return sent(session)


def answer(request_id: int, result: object = None, error: object = None) -> bytes:
    return json.dumps({"error": error, "result": result, "id": request_id}).encode()


def push(channel: str, params: object = ()) -> bytes:
    return json.dumps({"method": f"{channel}.update", "params": params, "id": None}).encode()


def receive(session: Session, text: bytes, now: float) -> Push | None:
    """Give a session one message as the exchange sends it."""
    return session.receive(zlib.compress(text), True, now)


def public(wanted: Mapping[str, Sequence[str]], timing: Timing = TIMING) -> Session:
    """Return a session without an account, started."""
    session = Session(wanted, **{**OPTIONS, "timing": timing})
    session.start(START)
    return session


def private(wanted: Mapping[str, Sequence[str]], timing: Timing = TIMING) -> Session:
    """Return a session of an account, started."""
    session = Session(wanted, timing=timing, wall_offset=WALL, max_frame_bytes=LIMIT, credentials=ACCOUNT)
    session.start(START)
    return session


def state(session: Session) -> SessionState:
    return session.state


def over(session: Session) -> GivenUp | None:
    return session.over


def accept_all(session: Session, now: float = START) -> None:
    """Answer everything with success until nothing more is sent."""
    while asked := all_sent(session, now):
        for request in asked:
            result: object = {"server.ping": "pong", "server.time": int(now + WALL)}.get(
                request.method, SUCCESS
            )
            receive(session, answer(request.id, result), now)


def live(wanted: Mapping[str, Sequence[str]], timing: Timing = TIMING) -> Session:
    """Return a public session with everything confirmed, and the events taken."""
    session = public(wanted, timing)
    accept_all(session)
    session.events()
    return session


# From the beginning to being live


def test_a_session_asks_for_the_time_and_subscribes_at_once() -> None:
    session = public({"trades": ["ETH_USDT", "BTC_USDT"], "all_ticker": []})
    assert session.to_send() == [
        requests.time(1),
        requests.subscribe(2, "trades", ["ETH_USDT", "BTC_USDT"]),
        requests.subscribe(3, "all_ticker", []),
    ]
    assert state(session) is SessionState.SUBSCRIBING


def test_requests_and_events_are_returned_once() -> None:
    session = public({"all_ticker": []})
    assert session.to_send()
    assert session.to_send() == []
    receive(session, answer(2, SUCCESS), START)
    assert session.events() == [Confirmed("all_ticker", ())]
    assert session.events() == []


def test_a_session_is_live_when_everything_is_confirmed_in_any_order() -> None:
    session = public({"trades": ["A", "B"], "depth": ["A"], "all_ticker": []})
    for request_id in (4, 2):
        receive(session, answer(request_id, SUCCESS), START)
        assert state(session) is SessionState.SUBSCRIBING
    receive(session, answer(3, SUCCESS), START)
    assert session.live
    assert state(session) is SessionState.LIVE
    assert session.events() == [
        Confirmed("all_ticker", ()),
        Confirmed("trades", ("A", "B")),
        Confirmed("depth", ("A",)),
    ]


def test_a_session_without_subscriptions_is_live_at_once() -> None:
    assert public({}).live


def test_a_public_session_does_not_need_the_server_time() -> None:
    session = public({"all_ticker": []})
    receive(session, answer(1, error=NO), START)
    receive(session, answer(2, SUCCESS), START)
    assert session.live


@pytest.mark.parametrize(
    ("count", "chunks"), [(1, [1]), (30, [30]), (100, [100]), (101, [100, 1]), (201, [100, 100, 1])]
)
def test_all_symbols_of_a_channel_are_in_one_request_unless_they_are_very_many(
    count: int, chunks: list[int]
) -> None:
    symbols = [f"S{number}" for number in range(count)]
    subscribes = sent(public({"depth": symbols}))[1:]
    assert [len(request.params) for request in subscribes] == chunks
    assert [symbol for request in subscribes for symbol in request.params] == symbols


def test_a_push_is_returned_before_and_after_its_confirmation() -> None:
    session = public({"depth": ["A"]})
    early = receive(session, push("depth", [True, {}, "A"]), START)
    assert early is not None
    assert (early.channel, bytes(early.params)) == ("depth", b'[true, {}, "A"]')
    assert receive(session, answer(2, SUCCESS), START) is None
    assert receive(session, push("depth", [False, {}, "A"]), START) is not None
    assert session.live


@pytest.mark.parametrize(
    ("frame", "binary"),
    [
        (zlib.compress(b'{"id":2}'), True),
        (zlib.compress(b'{"id":2}', wbits=-15), True),
        (b'{"id":2}', True),
        (b'{"id":2}', False),
    ],
    ids=["zlib", "raw deflate", "binary JSON", "text JSON"],
)
def test_a_frame_may_be_compressed_or_not(frame: bytes, binary: bool) -> None:
    session = public({"all_ticker": []})
    assert session.receive(frame, binary, START) is None
    assert session.live


@pytest.mark.parametrize(("size", "fits"), [(LIMIT, True), (LIMIT + 1, False)])
@pytest.mark.parametrize("binary", [True, False])
def test_no_frame_inflates_to_more_than_max_frame_bytes(size: int, fits: bool, binary: bool) -> None:
    text = b'{"method":"depth.update","params":[]}'.ljust(size)
    frame = zlib.compress(text) if binary else text
    session = live({"depth": ["A"]})
    if fits:
        assert session.receive(frame, binary, START) is not None
    else:
        with pytest.raises(BadFrame, match=f"decompression: larger than max_frame_bytes = {LIMIT}"):
            session.receive(frame, binary, START)


def test_compressed_bytes_in_a_text_frame_are_not_inflated() -> None:
    with pytest.raises(BadFrame, match="json"):
        public({"all_ticker": []}).receive(zlib.compress(b'{"id":2,"result":"pong"}'), False, START)


def test_a_push_of_a_channel_that_is_not_subscribed_to_is_returned() -> None:
    message = receive(live({"depth": ["A"]}), push("moon"), START)
    assert isinstance(message, Push)
    assert message.channel == "moon"


# The account


def test_an_account_authenticates_with_the_servers_clock_before_it_subscribes() -> None:
    session = private({"order": ["A"], "balance": ["USDT"]})
    assert session.to_send() == [requests.time(1)]
    assert state(session) is SessionState.CLOCK

    receive(session, answer(1, 1_700_000_000), START + 1)
    assert session.to_send() == [requests.auth(2, ACCOUNT, 1_700_000_000_000)]
    assert state(session) is SessionState.AUTH

    receive(session, answer(2, SUCCESS), START + 2)
    assert session.to_send() == [
        requests.subscribe(3, "order", ["A"]),
        requests.subscribe(4, "balance", ["USDT"]),
    ]
    assert state(session) is SessionState.SUBSCRIBING


@pytest.mark.parametrize("ahead", [31, -31, 315_360_000, -1_600_000_000])
def test_nothing_is_signed_while_the_clocks_are_too_far_apart(ahead: int) -> None:
    session = private({"order": ["A"]}, Timing(max_clock_offset=30.0))
    session.to_send()
    wall = int(WALL + START + 1)
    receive(session, answer(1, wall + ahead), START + 1)
    assert session.to_send() == []
    assert session.over is not None
    assert session.over.reason == "rejected"
    assert f"{ahead:+} s from the local one" in session.over.detail
    assert "max_clock_offset is 30 s" in session.over.detail


@pytest.mark.parametrize("ahead", [29, 0, -29])
def test_a_smaller_offset_is_signed_with_the_clock_of_the_exchange(ahead: int) -> None:
    session = private({"order": ["A"]}, Timing(max_clock_offset=30.0))
    session.to_send()
    wall = int(WALL + START + 1)
    receive(session, answer(1, wall + ahead), START + 1)
    assert session.to_send() == [requests.auth(2, ACCOUNT, int((wall + ahead) * 1000))]


def test_the_offset_of_the_servers_clock_is_an_event() -> None:
    session = private({})
    receive(session, answer(1, 1_600_000_042), START + 2)
    assert session.events() == [ClockRead(41.5)]  # from 40 to 43 s


def with_clock_of(exchange_ahead: float, seconds: float) -> tuple[Session, list[float]]:
    """Run a live session for so long at an exchange whose clock is ahead; return when that is asked for."""
    session, now, asked = live({"all_ticker": []}), START, list[float]()
    while now < START + seconds:
        now = session.next_call()
        session.tick(now)
        for request in sent(session):
            if request.method == "server.time":
                asked.append(now - START)
                receive(session, answer(request.id, int(now + WALL + exchange_ahead)), now)
            else:
                receive(session, answer(request.id, "pong"), now)
    return session, asked


def test_the_offset_is_known_ever_better_while_a_session_lasts() -> None:
    session, asked = with_clock_of(0.37, 120.0)
    offsets = [event.offset for event in session.events() if isinstance(event, ClockRead)]
    errors = [abs(offset - 0.37) for offset in offsets]
    assert len(asked) == len(errors) >= 6
    assert errors[-1] < 0.05
    _, asked = with_clock_of(0.37, 3600.0)
    assert len(asked) <= 25


def test_a_session_does_without_further_answers_to_server_time() -> None:
    session, now = live({"all_ticker": []}), START
    asked = 0
    while over(session) is None and now < START + 3600:
        now = session.next_call()
        session.tick(now)
        for request in sent(session):
            if request.method == "server.ping":
                receive(session, answer(request.id, "pong"), now)
            asked += request.method == "server.time"
    assert over(session) is None
    assert asked == 1


def test_sessions_that_share_what_is_known_of_the_clock_sign_with_it() -> None:
    """One answer alone may be behind by a second."""
    known, _ = with_clock_of(0.0, 120.0)
    session = Session(
        {"order": ["A"]}, timing=TIMING, wall_offset=WALL, max_frame_bytes=LIMIT, credentials=ACCOUNT
    )
    session.clock = known.clock
    at = START + 130.9
    session.start(at)
    sent(session)
    receive(session, answer(1, int(at + WALL)), at)
    (request,) = sent(session)
    signed = int(request.params[1]) / 1000
    assert at + WALL - 0.1 < signed <= at + WALL


@pytest.mark.parametrize(
    ("result", "timestamp_ms"),
    [
        (1_700_000_000, 1_700_000_000_000),
        ("1700000000", 1_700_000_000_000),
        (1.7e9, 1_700_000_000_000),
        (1700000000.25, 1_700_000_000_250),
        ("1700000000.25", 1_700_000_000_250),
    ],
)
def test_the_servers_clock_may_be_a_number_or_a_string(result: object, timestamp_ms: int) -> None:
    session = private({})
    sent(session)
    receive(session, answer(1, result), START)
    assert session.to_send() == [requests.auth(2, ACCOUNT, timestamp_ms)]


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(answer(1, error=NO), id="refused"),
        pytest.param(answer(1, 1_700_000_000, error=NO), id="refused with a result"),
        *[
            pytest.param(b'{"error":null,"result":%s,"id":1}' % result, id=repr(result[:20]))
            for result in (
                b"0",
                b"-1700000000",
                b"1e400",
                b"1e300",
                b"1" * 400,
                b"1" * 5000,
                b"null",
                b"true",
                b"{}",
                b"[1700000000]",
                b'""',
                b'"soon"',
                b'"nan"',
                b'"inf"',
                b'"1e400"',
                b'"\xff"',
            )
        ],
        pytest.param(b'{"id":1}', id="no result"),
    ],
)
def test_an_unreadable_server_time_leaves_the_local_clock_in_use(text: bytes) -> None:
    session = private({})
    sent(session)
    receive(session, text, START)
    assert session.to_send() == [requests.auth(2, ACCOUNT, 1_600_000_000_000)]
    assert session.events() == []


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ({"code": 3, "message": "auth failed"}, "auth failed (code 3)"),
        ("auth failed", "auth failed"),
        (10008, "code 10008"),
        ("no such key: key, signed with secret", "no such ***: ***, signed with ***"),
    ],
)
def test_refused_credentials_end_the_session_as_rejected(error: object, words: str) -> None:
    session = private({"order": ["A"]})
    receive(session, answer(1, 1_700_000_000), START)
    receive(session, answer(2, error=error), START)
    assert over(session) == GivenUp("rejected", f"server.auth refused: {words}")
    assert [request.method for request in sent(session)] == ["server.time", "server.auth"]


def test_credentials_are_not_part_of_a_repr() -> None:
    assert repr(ACCOUNT) == "Credentials()"


# Refused subscriptions


def asked_until_live(session: Session, bad: Container[str], *, name: bool = False) -> list[list[str]]:
    """Answer until the session is live, and return the params of the subscribe requests for trades.

    Requests with a bad symbol are refused; if `name`, with the first one in the words of the refusal.
    """
    asked = []
    while not session.live:
        for request in all_sent(session):
            if request.method == "trades.subscribe":
                asked.append(request.params)
            found = [symbol for symbol in request.params if symbol in bad]
            error = {"code": 2, "message": f"invalid market: {found[0]}"} if name and found else NO
            receive(session, answer(request.id, None if found else SUCCESS, error if found else None), START)
    return asked


def test_a_bad_symbol_is_found_by_halves() -> None:
    """Each request names all that is confirmed, in front."""
    session = public({"trades": ["A", "B", "BAD", "C"], "depth": ["A"]})
    assert asked_until_live(session, {"BAD"}) == [
        ["A", "B", "BAD", "C"],
        ["A", "B"],
        ["A", "B", "BAD", "C"],
        ["A", "B", "BAD"],
        ["A", "B", "C"],
    ]
    assert session.events() == [
        RequestSplit("trades", ("A", "B", "BAD", "C"), "invalid market (code 2)"),
        Confirmed("depth", ("A",)),
        Confirmed("trades", ("A", "B")),
        RequestSplit("trades", ("BAD", "C"), "invalid market (code 2)"),
        SubscriptionRefused("trades", ("BAD",), "invalid market (code 2)"),
        Confirmed("trades", ("C",)),
    ]


def test_bad_symbols_that_the_exchange_names_are_left_out() -> None:
    symbols = [f"S{number}" for number in range(10)]
    session = public({"trades": symbols})
    assert asked_until_live(session, {"S1", "S7"}, name=True) == [
        symbols,
        [symbol for symbol in symbols if symbol != "S1"],
        [symbol for symbol in symbols if symbol not in ("S1", "S7")],
    ]
    refused = [event.symbols for event in session.events() if isinstance(event, SubscriptionRefused)]
    assert refused == [("S1",), ("S7",)]


def test_a_refusal_that_repeats_the_request_blames_no_symbol() -> None:
    session = public({"trades": ["A", "BAD", "C"]})
    sent(session)
    receive(session, answer(2, error="invalid argument: A, BAD"), START)
    assert session.events() == [RequestSplit("trades", ("A", "BAD", "C"), "invalid argument: A, BAD")]


def test_one_request_of_a_channel_is_under_way_at_a_time() -> None:
    session = public({"trades": ["A"], "depth": ["A"]})
    sent(session)
    session.subscribe("trades", ["B"])
    session.subscribe("trades", ["C"])
    assert (session.held, session.send_held(START)) == (0, None)
    receive(session, answer(2, SUCCESS), START)
    assert session.held == 1
    (request,) = all_sent(session)
    assert request.params == ["A", "B"]
    receive(session, answer(request.id, SUCCESS), START)
    (request,) = all_sent(session)
    assert request.params == ["A", "B", "C"]
    assert not session.live
    receive(session, answer(3, SUCCESS), START)
    receive(session, answer(request.id, SUCCESS), START)
    assert session.live


@pytest.mark.parametrize("words", ["repeat subscribe", "no"])
def test_confirmed_symbols_are_not_named_where_the_exchange_refuses_that(words: str) -> None:
    """With words that do not say so, it is found out at the second time."""
    session, now = live({"trades": ["A", "B"]}), START + 60
    session.subscribe("trades", ["C"])
    confirmed: list[tuple[str, ...]] = []
    while not confirmed:
        for request in all_sent(session, now):
            repeated = request.method == "trades.subscribe" and len(request.params) > 1
            assert not repeated or request.params[:2] == ["A", "B"]
            receive(session, answer(request.id, SUCCESS, words if repeated else None), now)
        confirmed = [event.symbols for event in session.events() if isinstance(event, Confirmed)]
        now = min(now + 1, session.next_call())
        session.tick(now)
    assert confirmed == [("C",)]


def test_a_confirmed_symbol_that_is_named_as_bad_is_refused_and_the_new_one_is_not() -> None:
    session = live({"trades": ["A", "GONE", "B"]})
    session.subscribe("trades", ["C"])
    assert asked_until_live(session, {"GONE"}, name=True) == [["A", "GONE", "B", "C"], ["A", "B", "C"]]
    assert session.events() == [
        SubscriptionRefused("trades", ("GONE",), "invalid market: GONE (code 2)"),
        Confirmed("trades", ("C",)),
    ]
    session.confirm("trades", ("GONE",), START)
    session.subscribe("trades", ["D"])
    assert asked_until_live(session, {"GONE"}, name=True) == [["A", "B", "C", "D"]]


def test_what_an_earlier_session_was_refused_is_not_asked_for_at_first() -> None:
    session = Session({"trades": ["A", "BAD"], "depth": ["BAD"]}, **OPTIONS)
    session.put_aside([("trades", "BAD"), ("depth", "BAD")])
    session.start(START)
    assert asked_until_live(session, {"BAD"}) == [["A"]]
    session.events()
    now, asked = START, list[float]()
    while now < START + 3000:
        now = session.next_call()
        session.tick(now)
        for request in all_sent(session, now):
            if request.method == "trades.subscribe":
                assert request.params == ["A", "BAD"]
                asked.append(now - START)
            bad = "BAD" in request.params
            receive(session, answer(request.id, None if bad else SUCCESS, NO if bad else None), now)
    assert asked == pytest.approx([900, 1800, 2700])


@pytest.mark.parametrize("when", ["held", "unanswered", "refused"])
def test_what_is_forgotten_is_not_asked_for_any_more(when: str) -> None:
    session = live({"trades": ["A"]}, CHATTY)
    session.subscribe("trades", ["BAD"])
    requested = [] if when == "held" else all_sent(session)
    if when == "refused":
        receive(session, answer(requested.pop().id, error=NO), START)
        session.events()
    session.forget("trades", ["BAD"], START)
    for request in requested:
        receive(session, answer(request.id, error=NO), START)
    assert session.live
    now = START
    while now < START + 2000:
        assert subscribes_sent(session, now) == []
        now = min(session.next_call(), now + 100)
        session.tick(now)
    assert not [event for event in session.events() if isinstance(event, SubscriptionRefused)]
    session.ask_again("trades", now)
    assert subscribes_sent(session, now) == [("trades", ["A"])]


def test_what_is_forgotten_after_it_was_confirmed_is_named_by_no_request() -> None:
    session = live({"trades": ["A", "B"]}, CHATTY)
    session.forget("trades", ["B"], START)
    session.ask_again("trades", START)
    assert subscribes_sent(session, START) == [("trades", ["A"])]


def test_what_is_forgotten_while_a_request_names_it_may_be_what_the_exchange_refuses() -> None:
    session = live({"trades": ["A", "B"]}, CHATTY)
    session.subscribe("trades", ["C"])
    (request,) = all_sent(session)
    assert request.params == ["A", "B", "C"]
    session.events()
    session.forget("trades", ["A"], START)
    receive(session, answer(request.id, error={"code": 2, "message": "invalid market A"}), START)
    assert session.events() == []
    assert subscribes_sent(session, START) == [("trades", ["B", "C"])]


def test_a_channel_of_which_all_is_forgotten_is_not_asked_for() -> None:
    session = live({"trades": ["A"], "depth": ["A"]})
    session.forget("trades", ["A"], START)
    session.ask_again("trades", START)
    assert session.held == 0
    assert session.live


def test_all_ticker_can_be_refused() -> None:
    session = public({"all_ticker": []})
    receive(session, answer(2, error="no"), START)
    assert session.events() == [RequestPostponed("all_ticker", (), "no")]
    assert session.live


UNAVAILABLE = {"code": 3, "message": "service unavailable"}


@pytest.mark.parametrize(
    "error",
    [
        UNAVAILABLE,
        {"code": 2, "message": "internal error"},
        {"code": 5, "message": "service timeout"},
        7,
        "no",
    ],
)
def test_requests_refused_in_an_outage_are_asked_again_as_they_were(error: object) -> None:
    """Soon at first, then less often, and never one by one: at most one of them is tried as well."""
    symbols = tuple(f"S{number}" for number in range(30))
    session = public({"trades": symbols})
    sent(session)
    receive(session, answer(1, 1_600_000_000), START)
    receive(session, answer(2, error=error), START)
    postponed = [event for event in session.events() if isinstance(event, RequestPostponed)]
    assert [event.symbols for event in postponed] == [symbols]
    assert session.live
    asked, tried = list[float](), list[str]()
    now = START
    while len(asked) < 10:
        now = now if session.held else session.next_call()
        session.tick(now)
        for request in all_sent(session, now):
            if request.method != "trades.subscribe":
                receive(session, answer(request.id, "pong"), now)
                continue
            if len(request.params) == 1:
                tried.append(request.params[0])
            else:
                assert tuple(request.params) == symbols
                asked.append(now - START)
            receive(session, answer(request.id, error=error), now)
    assert asked == pytest.approx([1, 3, 7, 15, 31, 63, 127, 247, 367, 487])
    assert len(tried) == len(set(tried)) == len(asked) - 2  # each time another one
    session.events()
    while not session.held:
        now = session.next_call()
        session.tick(now)
        for request in sent(session):
            receive(session, answer(request.id, "pong"), now)
    accept_all(session, now)
    confirmed = [event for event in session.events() if isinstance(event, Confirmed)]
    alone, together = (event.symbols for event in confirmed)
    assert len(alone) == 1
    assert {*alone, *together} == {*symbols}


@pytest.mark.parametrize("error", [UNAVAILABLE, {"code": 41, "message": ""}])
@pytest.mark.parametrize("bad", ["A", "B", "C"])
def test_a_bad_symbol_that_the_error_does_not_tell_from_an_outage_holds_the_others_up_for_seconds_only(
    error: object, bad: str
) -> None:
    """Though it is in the only request of its session."""
    session, now = public({"ticker": ["A", "B", "C"]}), START
    confirmed, number = set[str](), 0
    while len(confirmed) < 2:
        assert now < START + 60
        for request in all_sent(session, now):
            if request.method != "ticker.subscribe":
                receive(session, answer(request.id, "pong"), now)
                continue
            number += 1
            receive(
                session,
                answer(request.id, error=error) if bad in request.params else answer(request.id, SUCCESS),
                now,
            )
        for event in session.events():
            if isinstance(event, Confirmed):
                confirmed.update(event.symbols)
        now = now if session.held else session.next_call()
        session.tick(now)
    assert confirmed == {"A", "B", "C"} - {bad}
    assert number < 15


def test_an_unexplained_refusal_is_one_of_a_symbol_if_others_are_accepted_at_the_same_moment() -> None:
    session = public({"trades": ["A", "B"], "depth": ["A"]})
    receive(session, answer(3, SUCCESS), START)
    receive(session, answer(2, error="no"), START + 1)
    assert RequestSplit("trades", ("A", "B"), "no") in session.events()
    (a,) = all_sent(session)[-1:]
    receive(session, answer(a.id, SUCCESS), START + 2)
    (b,) = all_sent(session)
    receive(session, answer(b.id, error="no"), START + 2)
    assert session.events() == [Confirmed("trades", ("A",)), SubscriptionRefused("trades", ("B",), "no")]


def test_an_unexplained_refusal_that_came_before_others_were_accepted_is_found_out_soon() -> None:
    session = public({"trades": ["A", "B"], "depth": ["A"]})
    receive(session, answer(2, error="no"), START)
    receive(session, answer(3, SUCCESS), START)
    session.tick(START + 1)
    (again,) = all_sent(session, START + 1)[-1:]
    receive(session, answer(again.id, error="no"), START + 1)
    assert RequestSplit("trades", ("A", "B"), "no") in session.events()
    assert session.live


def test_an_outage_of_one_channel_is_no_bad_symbol_although_others_are_accepted() -> None:
    session = public({"trades": ["A", "B"], "depth": ["A"]})
    receive(session, answer(3, SUCCESS), START)
    receive(session, answer(2, error=UNAVAILABLE), START)
    assert RequestPostponed("trades", ("A", "B"), "service unavailable (code 3)") in session.events()


@pytest.mark.parametrize("words", ["repeat subscribe", "Already subscribed", "duplicate subscription"])
def test_what_is_subscribed_already_counts_as_confirmed(words: str) -> None:
    """Of a request that was accepted in part, its symbols are asked for one by one."""
    session = public({"trades": ["A", "B", "BAD"]})
    sent(session)
    receive(session, answer(2, error=NO), START)
    while not session.live:
        for request in all_sent(session):
            error = NO if "BAD" in request.params else None
            if "A" in request.params:
                error = {"code": 5, "message": words}
            receive(session, answer(request.id, None if error else SUCCESS, error), START)
    events = [event for event in session.events() if not isinstance(event, RequestSplit)]
    assert events == [
        Confirmed("trades", ("A",)),
        Confirmed("trades", ("B",)),
        SubscriptionRefused("trades", ("BAD",), "invalid market (code 2)"),
    ]


def test_several_symbols_of_which_some_are_subscribed_already_are_asked_for_one_by_one() -> None:
    session = public({"trades": ["A", "B"]})
    receive(session, answer(2, error="already subscribed"), START)
    assert session.events() == [RequestSplit("trades", ("A", "B"), "already subscribed")]


def test_a_refused_subscription_that_brings_data_is_confirmed_and_not_asked_for_again() -> None:
    session = public({"trades": ["A", "B", "C"]})
    receive(session, answer(2, error=UNAVAILABLE), START)
    session.confirm("trades", ("A",), START)
    session.tick(START + 1)
    (again,) = all_sent(session, START + 1)[-1:]
    assert again.params == ["A", "B", "C"]
    session.confirm("trades", ("B", "C"), START + 1)
    assert subscribes_sent(session, START + 1) == []
    assert [event for event in session.events() if isinstance(event, Confirmed)] == [
        Confirmed("trades", ("A",)),
        Confirmed("trades", ("B", "C")),
    ]


def test_a_refused_subscription_is_retried_ever_less_often_until_it_is_accepted() -> None:
    session = live({"trades": ["A"]}, Timing(retry_refused=30.0))
    session.subscribe("trades", ["LATER"])
    (request,) = all_sent(session)
    receive(session, answer(request.id, error=NO), START)
    assert session.live
    now, asked = START, list[float]()
    while True:
        now = session.next_call()
        session.tick(now)
        for request in all_sent(session, now):
            if request.method == "server.ping":
                receive(session, answer(request.id, "pong"), now)
            if request.method != "trades.subscribe":
                continue
            assert request.params == ["A", "LATER"]
            asked.append(now - START)
            if len(asked) == 7:
                session.events()
                receive(session, answer(request.id, SUCCESS), now)
                assert session.events() == [Confirmed("trades", ("LATER",))]
                assert asked == pytest.approx([30, 90, 210, 450, 930, 1830, 2730])
                return
            receive(session, answer(request.id, error=NO), now)
            assert session.live


# Unexpected answers


def test_answers_to_unknown_requests_are_ignored_but_errors_are_dead_letters() -> None:
    session = public({"all_ticker": []})
    for request_id in (0, -1, 3, 99, 2**63, 10**30):
        if request_id < 2**64:
            receive(session, answer(request_id, SUCCESS), START)
        with pytest.raises(BadFrame, match="unknown_method: an error that answers no request"):
            receive(session, answer(request_id, error=NO), START)
    assert over(session) is None
    assert session.events() == []


def test_a_second_answer_to_a_request_changes_nothing() -> None:
    session = public({"all_ticker": []})
    receive(session, answer(2, SUCCESS), START)
    receive(session, answer(2, SUCCESS), START)
    with pytest.raises(BadFrame, match="unknown_method: an error that answers no request"):
        receive(session, answer(2, error=NO), START)
    assert session.events() == [Confirmed("all_ticker", ())]
    assert session.live


@pytest.mark.parametrize("bring", ["nothing", "data"])
def test_a_subscribe_request_that_is_never_answered_is_accepted_by_its_data_alone(bring: str) -> None:
    session = public({"trades": ["A"], "depth": ["A"]})
    _, *subscribes = sent(session)
    receive(session, answer(1, int(WALL + START)), START)
    receive(session, answer(subscribes[0].id, SUCCESS), START)
    due = START + ANSWER_TIMEOUT
    assert session.overdue(due - 0.1) == []
    assert [request_id for request_id, _ in session.overdue(due)] == [subscribes[1].id]
    if bring == "data":
        session.accepted(subscribes[1].id, due)
        assert Confirmed("depth", ("A",)) in session.events()
        assert session.live
    session.tick(due)
    assert (over(session) is None) == (bring == "data")


def test_a_public_session_does_without_the_servers_time() -> None:
    session = public({"all_ticker": []})
    receive(session, answer(2, SUCCESS), START)
    sent(session)
    run_with_pongs(session, 1000)
    assert over(session) is None


def test_nothing_is_overdue_during_a_pause_or_once_a_session_is_over() -> None:
    session = public({"trades": ["A"]})
    session.pause()
    assert session.overdue(START + ANSWER_TIMEOUT) == []
    session.resume(START + ANSWER_TIMEOUT)
    assert session.overdue(START + ANSWER_TIMEOUT) == []
    session.tick(START + 2 * ANSWER_TIMEOUT)
    assert over(session) is not None
    assert session.overdue(START + 2 * ANSWER_TIMEOUT) == []


@pytest.mark.parametrize(
    "notice",
    [
        b'{"error":{"code":4,"message":"NeedAuth"},"result":null,"id":null}',
        b'{"error":{"code":6,"message":"login expired"},"id":0}',
        b'{"error":"kicked","id":-1}',
        b'{"error":"session expired","id":1}',  # which is answered
        b'{"error":{"code":6,"message":""},"id":null}',
        b'{"code":10001,"msg":"logged out"}',
        b'{"method":"server.notice","error":"user offline: replaced by new connection"}',
    ],
)
def test_an_error_without_a_request_that_says_that_the_login_has_ended_ends_a_private_session(
    notice: bytes,
) -> None:
    session, other = private({"order": ["A"]}), public({"trades": ["A"]})
    for one in (session, other):
        receive(one, answer(1, 1_700_000_000), START)
        with pytest.raises(BadFrame, match=r"unknown_method: an error that answers no request: "):
            receive(one, notice, START)
    ended = over(session)
    assert ended is not None
    assert ended.reason == "rejected"
    assert ended.detail.startswith("login ended: ")
    assert over(other) is None


@pytest.mark.parametrize(
    "notice",
    [
        b'{"error":"busy","id":null}',
        b'{"event":"connected","message":"Session established"}',
        b'{"code":0,"msg":"login successful"}',
        b'{"code":200,"msg":"session expired: 0"}',
        b'{"message":"session expired"}',
        b'{"error":{"code":7,"message":"invalid token TOKEN_USDT"},"id":null}',
        b'{"error":{"code":7,"message":"logged out A"},"id":"x","method":"a.update"}',
        b'{"error":{"code":7,"message":"assigned to node 7"},"id":null}',
        b'{"error":{"code":3,"message":""},"id":null}',
        b'{"method":"server.logout"}',
    ],
)
def test_a_notice_that_does_not_certainly_say_so_ends_no_session(notice: bytes) -> None:
    session = private({"order": ["TOKEN_USDT"]})
    if b".update" in notice:
        assert receive(session, notice, START) is not None
    else:
        with pytest.raises(BadFrame, match="unknown_method"):
            receive(session, notice, START)
    assert over(session) is None


@pytest.mark.parametrize(
    ("said", "is_accepted"),
    [
        (b'"error":null,"result":{"status":"success"}', True),
        (b'"code":0,"message":"login successful"', True),
        (b'"error":{"code":1,"message":"success"},"result":null', True),
        (b'"method":"server.auth","code":200', True),
        (b'"result":true', True),
        (b'"method":"server.auth","code":10001,"msg":"invalid sign"', False),
        (b'"error":null,"result":{"code":10002,"msg":"invalid sign"}', False),
        (b'"error":null,"result":null', False),
        (b'"error":null,"result":0', False),
        (b'"error":null,"result":[false]', False),
        (b'"error":null,"result":{"status":0}', False),
        (b'"error":null,"result":{"status":"pending"}', False),
        (b'"error":null,"result":"pong"', False),
        (b'"status":"error","result":{"status":"success"}', False),
    ],
)
def test_only_a_known_success_is_a_login(said: bytes, is_accepted: bool) -> None:
    session = private({"order": ["A"]})
    receive(session, answer(1, 1_700_000_000), START)
    receive(session, b'{"id":2,%s}' % said, START)
    ended = over(session)
    assert (ended is None) == is_accepted
    assert session.state is (SessionState.SUBSCRIBING if is_accepted else SessionState.OVER)
    if ended is not None:
        assert ended.detail.startswith("server.auth refused: ")


@pytest.mark.parametrize(
    "spelled", ["%d", "%d000", "%d000000", '"%d"', '"%d000"', '{"timestamp":%d}', "%d.5"]
)
def test_the_unit_of_the_servers_time_is_told_by_its_size(spelled: str) -> None:
    session = private({"order": ["A"]})
    ahead = 5
    text = b'{"error":null,"result":%s,"id":1}' % (spelled % (WALL + START + ahead)).encode()
    receive(session, text, START)
    (read,) = session.events()
    assert isinstance(read, ClockRead)
    assert ahead <= read.offset <= ahead + 1


def test_a_bad_frame_changes_nothing() -> None:
    session = public({"all_ticker": []})
    with pytest.raises(BadFrame, match="unknown_method"):
        receive(session, b"{}", START)
    accept_all(session)
    assert session.live


# Pings


def test_pings_have_a_fixed_timer_even_while_pushes_flow() -> None:
    session = live({"all_ticker": []})
    pings = []
    now = START
    while now < START + 60:
        now += 0.5
        receive(session, push("all_ticker", []), now)
        session.tick(now)
        for request in sent(session):
            if request.method == "server.ping":
                pings.append(now - START)
            receive(session, answer(request.id, "pong"), now)
    assert pings == [15.0, 30.0, 45.0, 60.0]
    assert over(session) is None


def test_a_pong_reports_how_long_it_took() -> None:
    session = live({"all_ticker": []})
    session.tick(START + 15)
    (ping,) = sent(session)
    receive(session, answer(ping.id, "pong"), START + 15.25)
    assert session.events() == [Ponged(ping.id, 0.25)]


def test_an_extra_ping_has_an_id_and_postpones_the_next_regular_one() -> None:
    session = live({"all_ticker": []})
    request_id = session.ping(START + 10)
    assert session.to_send() == [requests.ping(request_id)]
    receive(session, answer(request_id, "pong"), START + 11)
    assert session.events() == [Ponged(request_id, 1.0)]
    assert session.next_call() == START + 25


def test_a_refused_ping_ends_the_session() -> None:
    session = live({"all_ticker": []})
    receive(session, answer(session.ping(START), error="go away"), START)
    assert over(session) == GivenUp("rejected", "server.ping refused: go away")


# Giving up


@pytest.mark.parametrize("answers", range(4))
def test_an_unanswered_ping_ends_the_session_whatever_else_is_unanswered(answers: int) -> None:
    session = private({"order": ["A"]})
    results = [1_700_000_000, SUCCESS, SUCCESS]
    for request_id, result in enumerate(results[:answers], start=1):
        receive(session, answer(request_id, result), START)
    session.tick(START + 15)
    session.tick(START + 16)  # it asks for the clock in between, once it is live
    assert session.next_call() == START + 25
    session.tick(START + 24.999)
    assert over(session) is None
    session.tick(START + 25)
    assert over(session) == GivenUp("timeout", "no response to server.ping within 10 s")


@pytest.mark.parametrize("answers", range(3))
def test_any_other_request_is_waited_for_up_to_a_minute_while_pings_are_answered(answers: int) -> None:
    session = private({"order": ["A"]})
    results = [1_700_000_000, SUCCESS]
    for request_id, result in enumerate(results[:answers], start=1):
        receive(session, answer(request_id, result), START)
    sent(session)
    assert run_with_pongs(session, 1000) == START + 60
    what = ["server.time", "server.auth", "order.subscribe"][answers]
    assert over(session) == GivenUp("timeout", f"no response to {what} within 60 s")


def test_a_session_with_answers_slower_than_reply_timeout_becomes_live() -> None:
    session = private({"order": ["A"]})
    for at, result in [(40, 1_700_000_000), (80, SUCCESS), (120, SUCCESS)]:
        asked = sent(session)[-1].id
        while over(session) is None and session.next_call() < START + at:
            now = session.next_call()
            session.tick(now)
            for request in sent(session):
                receive(session, answer(request.id, "pong"), now)
        assert over(session) is None
        receive(session, answer(asked, result), START + at)
    assert session.live


def test_a_dead_connection_is_detected_within_ping_interval_and_reply_timeout() -> None:
    session = live({"all_ticker": []})
    receive(session, push("all_ticker"), START + 14.9)
    now = START
    while over(session) is None:
        now = session.next_call()
        session.tick(now)
    assert over(session) == GivenUp("timeout", "no response to server.ping within 10 s")
    assert now == START + TIMING.ping_interval + TIMING.reply_timeout


def run_with_pongs(session: Session, seconds: float) -> float:
    """Answer the pings only, for this time or until the session is over; return the time at the end."""
    now = START
    while over(session) is None and now < START + seconds:
        now = session.next_call()
        session.tick(now)
        for request in sent(session):
            receive(session, answer(request.id, "pong"), now)
    return now


def test_a_session_that_receives_only_pongs_goes_on_and_is_not_fresh() -> None:
    session = live({"all_ticker": []})
    run_with_pongs(session, 1000)
    assert (over(session), session.fresh_at, session.live_at) == (None, START, START)


def test_a_push_makes_a_session_fresh_again() -> None:
    session = live({"all_ticker": []})
    receive(session, push("all_ticker"), START + 100)
    assert (session.fresh_at, session.live_at) == (START + 100, START)


def test_a_session_is_fresh_when_it_goes_live() -> None:
    session = public({"all_ticker": []})
    receive(session, answer(1, 1_600_000_000), START)
    receive(session, answer(2, SUCCESS), START + 9)
    assert (session.fresh_at, session.live_at) == (START + 9, START + 9)


def test_after_the_end_nothing_raises_and_nothing_changes() -> None:
    session = live({"all_ticker": []})
    receive(session, answer(session.ping(START), error="go away"), START)
    given_up = over(session)
    assert given_up == GivenUp("rejected", "server.ping refused: go away")
    sent(session)
    now = START + 2000
    assert receive(session, push("all_ticker"), now) is not None
    for request_id in range(10):
        receive(session, answer(request_id, error=NO), now)
    session.subscribe("trades", ["A"])
    session.pause()
    session.tick(now)
    session.resume(now)
    session.tick(now + 1000)
    assert math.isfinite(session.next_call())
    assert over(session) == given_up
    assert state(session) is SessionState.OVER
    assert (sent(session), session.events()) == ([], [])
    session.ping(now)
    assert over(session) == given_up


# Pausing


def test_a_paused_session_sends_pings_and_has_no_deadlines() -> None:
    session = public({"all_ticker": []})
    sent(session)
    session.pause()
    for beat in range(1, 100):
        assert session.next_call() == START + 15 * beat
        session.tick(session.next_call())
        assert [request.method for request in sent(session)] == ["server.ping"]
    assert over(session) is None


def test_after_a_pause_every_unanswered_request_has_its_full_timeout_again() -> None:
    session = public({"all_ticker": []})
    session.pause()
    session.tick(START + 15)
    session.resume(START + 1000)
    assert session.next_call() <= START + 1010
    session.tick(START + 1009.9)
    assert over(session) is None
    sent(session)
    session.tick(START + 1010)
    assert over(session) == GivenUp("timeout", "no response to server.ping within 10 s")


def test_a_session_is_fresh_right_after_a_pause() -> None:
    session = live({"all_ticker": []})
    session.pause()
    session.resume(START + 1000)
    assert session.fresh_at == START + 1000


def test_answers_received_during_a_pause_count() -> None:
    session = public({"all_ticker": []})
    session.pause()
    accept_all(session)
    assert session.live
    session.resume(START + 50)
    assert session.events() == [ClockRead(0.5), Confirmed("all_ticker", ())]


def refused_and_paused(*pings: float) -> Session:
    """Return a session whose only symbol was refused at START, then paused; it pings at these times."""
    session = public({"trades": ["BAD"]}, Timing(reply_timeout=2.0, retry_refused=30.0))
    accept_but_refuse(session, {"BAD"}, START)
    session.pause()
    for now in pings:
        session.tick(now)
    return session


def accept_but_refuse(session: Session, bad: set[str], now: float) -> None:
    """Answer everything that is to be sent: subscriptions to these symbols are refused."""
    for request in all_sent(session, now):
        error = NO if bad & set(request.params) else None
        receive(session, answer(request.id, SUCCESS, error), now)


def test_a_retry_that_became_due_during_a_pause_is_held_on_resume() -> None:
    """Else `next_call` would not be after now, and the session would be called at once for something past."""
    session = refused_and_paused(START + 15, START + 30)
    sent(session)
    session.resume(START + 30)
    assert session.next_call() > START + 30
    assert [(one.method, one.params) for one in all_sent(session, START + 30)] == [
        ("trades.subscribe", ["BAD"])
    ]


def test_a_retry_that_becomes_due_after_a_pause_leaves_the_session_live() -> None:
    session = refused_and_paused(START + 15)
    session.resume(START + 29)
    sent(session)
    assert session.next_call() == START + 30
    session.tick(START + 30)
    assert [one.method for one in all_sent(session, START + 30)] == ["server.ping", "trades.subscribe"]
    assert session.live


def test_pauses_do_not_postpone_a_retry() -> None:
    session = refused_and_paused(START + 15)
    for now in (START + 16, START + 26):
        session.resume(now)
        session.pause()
        assert session.held == 0
    session.resume(START + 29)
    assert session.next_call() == START + 30


def test_everything_that_became_due_during_a_pause_happens_once() -> None:
    """Two retries, a ping, and requests that were never answered."""
    session = public({"trades": ["BAD"], "depth": ["WORSE"]}, Timing(reply_timeout=2.0))
    accept_but_refuse(session, {"BAD", "WORSE"}, START)
    session.subscribe("ticker", ["LATER"])
    (later,) = all_sent(session)
    session.pause()
    while session.next_call() < START + 1000:
        session.tick(session.next_call())
    sent(session)
    session.resume(START + 1000)
    assert session.next_call() == START + 1002
    assert [one.params for one in all_sent(session, START + 1000)] == [["BAD"], ["WORSE"]]
    receive(session, answer(later.id, SUCCESS), START + 1001)
    assert session.live
    session.tick(START + 1001)
    assert (over(session), session.held, sent(session)) == (None, 0, [])


def test_staying_live_while_retrying_does_not_hide_that_nothing_is_pushed() -> None:
    session = public({"trades": ["BAD"]}, Timing(retry_refused=30.0))
    accept_but_refuse(session, {"BAD"}, START)
    now = START
    while now < START + 1000:
        now = session.next_call()
        session.tick(now)
        accept_but_refuse(session, {"BAD"}, now)
    assert (over(session), session.fresh_at) == (None, START)


def test_a_session_that_is_over_holds_no_requests() -> None:
    session = public({"trades": ["A", "BAD"]})
    receive(session, answer(2, error=NO), START)
    assert session.held == 1
    receive(session, answer(session.ping(START), error="go away"), START)
    assert session.held == 0


# Clean lists and snapshots


CHATTY = Timing(ping_interval=1e6, reply_timeout=10.0)
"""Without pings in between, so that `next_call` says what else is due."""


def subscribes_sent(session: Session, now: float) -> list[tuple[str, list[str]]]:
    """Return channel and symbols of each subscribe request, and accept all."""
    requested = []
    for request in all_sent(session, now):
        if request.method.endswith(".subscribe"):
            requested.append((request.method.removesuffix(".subscribe"), request.params))
        receive(session, answer(request.id, SUCCESS), now)
    return requested


def test_clean_lists_and_snapshots_are_due_after_reply_timeout() -> None:
    session = public({"trades": ["A", "B"], "depth": ["A"], "ticker": ["A"], "all_ticker": []}, CHATTY)
    receive(session, answer(1, int(WALL)), START)
    for request_id, seconds in ((2, 1.0), (3, 2.0), (4, 2.0), (5, 2.0)):
        receive(session, answer(request_id, SUCCESS), START + seconds)
    session.events()
    due = []
    while (now := session.next_call()) < START + 100:
        session.tick(now)
        due += [(now - START, event) for event in session.events()]
    assert due == [
        (11.0, CleanDue("trades", ("A", "B"), last=False)),
        (12.0, CleanDue("depth", ("A",), last=False)),
    ]
    assert session.live


def test_what_is_missing_is_requested_once_more_and_then_due_for_the_last_time() -> None:
    """The second deadline does not wait for an answer to the repeat."""
    session = live({"trades": ["A", "B", "C"]}, CHATTY)
    session.tick(START + 10)
    session.ask_again("trades", START + 10, ["B"])
    (repeat,) = all_sent(session, START + 10)
    assert (repeat.method, repeat.params) == ("trades.subscribe", ["A", "B", "C"])
    session.events()
    receive(session, answer(repeat.id, SUCCESS), START + 19)
    session.tick(START + 20)
    assert session.events() == [CleanDue("trades", ("B",), last=True)]
    assert session.live


def test_a_repeat_names_all_symbols_that_are_confirmed_and_none_that_are_refused() -> None:
    symbols = [f"S{number}" for number in range(25)]
    session = public({"trades": [*symbols, "BAD"], "depth": ["A"]}, CHATTY)
    while not session.live:
        accept_but_refuse(session, {"BAD"}, START)
    session.ask_again("trades", START + 1)
    assert subscribes_sent(session, START + 1) == [("trades", symbols)]


def test_a_repeat_of_a_channel_without_symbols_or_that_is_not_subscribed_is_not_sent() -> None:
    session = live({"all_ticker": [], "trades": ["A"]}, CHATTY)
    for channel in ("all_ticker", "depth", "moon"):
        session.ask_again(channel, START)
    assert (session.held, sent(session)) == (0, [])


def test_a_repeat_of_a_channel_that_does_not_begin_clean_has_no_deadline() -> None:
    session = live({"ticker": ["A"]}, CHATTY)
    session.ask_again("ticker", START, ["A"])
    assert subscribes_sent(session, START) == [("ticker", ["A"])]
    session.tick(START + 100)
    assert session.events() == []


def test_a_repeat_waits_until_the_first_requests_of_its_channel_are_answered() -> None:
    """Else it would name too few symbols, and a subscribe request may replace the one before it."""
    session = public({"trades": [f"S{number}" for number in range(101)]}, CHATTY)
    session.ask_again("trades", START)
    receive(session, answer(2, SUCCESS), START)
    assert session.held == 0
    receive(session, answer(3, SUCCESS), START)
    sent(session)
    ((channel, symbols),) = subscribes_sent(session, START)
    assert (channel, len(symbols)) == ("trades", 101)


def test_a_session_stays_live_during_a_repeat_and_when_it_is_refused() -> None:
    session = live({"depth": ["A", "B"]}, CHATTY)
    session.ask_again("depth", START + 1)
    assert session.live
    (repeat,) = all_sent(session, START + 1)
    assert session.live
    receive(session, answer(repeat.id, error=NO), START + 2)
    assert session.live
    assert session.events() == [RepeatRefused("depth", ("A", "B"), "invalid market (code 2)")]
    assert session.held == 0


@pytest.mark.parametrize("sent_already", [False, True])
def test_a_repeat_does_not_delay_that_a_session_becomes_live(sent_already: bool) -> None:
    session = public({"trades": ["A"], "depth": ["A"]}, CHATTY)
    receive(session, answer(2, SUCCESS), START)
    session.ask_again("trades", START)
    assert session.held == 1
    if sent_already:
        session.send_held(START)
    assert not session.live
    receive(session, answer(3, SUCCESS), START)
    assert session.live


def test_the_answer_to_a_repeat_starts_the_deadlines_anew_even_a_refusal() -> None:
    for error in (None, NO):
        session = live({"depth": ["A", "B"]}, CHATTY)
        session.tick(START + 10)
        session.ask_again("depth", START + 50)
        (repeat,) = all_sent(session, START + 50)
        session.events()
        receive(session, answer(repeat.id, error=error), START + 51)
        session.events()
        assert session.next_call() == START + 61
        session.tick(START + 61)
        assert session.events() == [CleanDue("depth", ("A", "B"), last=False)]


def test_repeats_of_an_endless_loss_come_ever_less_often() -> None:
    session, now, repeats = live({"trades": ["A"]}, CHATTY), START, list[float]()
    while now < START + 4000:
        session.ask_again("trades", now)
        repeats += [now - START for _ in subscribes_sent(session, now)]
        now = min(session.next_call(), now + 0.7)
        session.tick(now)
    assert repeats == pytest.approx([0, 10, 30, 70, 150, 310, 630, 1270, 2170, 3070, 3970])


def test_a_quiet_time_lets_repeats_begin_anew() -> None:
    """Something is lost at 0, 5 and so on. From 268 to 428 nothing is: as long as the next wait would be."""
    session, repeats = live({"trades": ["A"]}, CHATTY), list[float]()
    for lost in (0, 5, 69, 188, 428, 429, 1000):
        while session.next_call() < START + lost:
            now = session.next_call()
            session.tick(now)
            repeats += [now - START for _ in subscribes_sent(session, now)]
        session.ask_again("trades", START + lost)
        repeats += [lost for _ in subscribes_sent(session, START + lost)]
    assert repeats == [0, 10, 69, 188, 428, 438, 1000]


def test_a_wish_for_a_repeat_while_one_is_held_is_fulfilled_by_it() -> None:
    session = live({"trades": ["A"]}, CHATTY)
    session.ask_again("trades", START)
    session.ask_again("trades", START + 1)
    assert session.held == 1
    session.send_held(START + 2)
    sent(session)
    assert session.held == 0
    assert session.next_call() >= START + 10


def test_a_wish_while_a_repeat_is_unanswered_is_kept_until_it_may_be_sent() -> None:
    session = live({"trades": ["A"]}, CHATTY)
    session.ask_again("trades", START)
    (repeat,) = all_sent(session, START)
    session.ask_again("trades", START + 1)
    receive(session, answer(repeat.id, SUCCESS), START + 2)
    assert session.held == 0
    session.tick(session.next_call())
    assert session.held == 1
    assert subscribes_sent(session, START + 10) == [("trades", ["A"])]


def test_a_pause_gives_clean_lists_their_full_time_again_and_delays_repeats() -> None:
    session = live({"trades": ["A"], "depth": ["A"]}, CHATTY)
    session.pause()
    session.ask_again("depth", START + 5)
    assert session.held == 0
    session.tick(START + 500)
    assert (session.events(), session.held) == ([], 0)
    session.resume(START + 1000)
    assert session.held == 1
    session.tick(START + 1009.9)
    assert session.events() == []
    session.tick(START + 1010)
    assert session.events() == [
        CleanDue("trades", ("A",), last=False),
        CleanDue("depth", ("A",), last=False),
    ]


# Subscribing later


def test_a_live_session_subscribes_to_more() -> None:
    session = live({"trades": ["A"]})
    session.subscribe("trades", ["B"])
    assert state(session) is SessionState.SUBSCRIBING
    (request,) = all_sent(session)
    assert (request.method, request.params) == ("trades.subscribe", ["A", "B"])
    receive(session, answer(request.id, SUCCESS), START + 6)
    assert session.live
    assert session.events() == [Confirmed("trades", ("B",))]


def test_subscriptions_added_before_authentication_wait_for_it() -> None:
    session = private({"order": ["A"]})
    session.subscribe("order", ["B"])
    session.subscribe("balance", ["USDT"])
    receive(session, answer(1, 1_700_000_000), START)
    receive(session, answer(2, SUCCESS), START)
    subscribes = [(request.method, request.params) for request in sent(session)[2:]]
    assert subscribes == [("order.subscribe", ["A", "B"]), ("balance.subscribe", ["USDT"])]


def test_the_callers_lists_are_copied() -> None:
    wanted = {"trades": ["A"]}
    session = public(wanted)
    session.subscribe("trades", ["B"])
    assert wanted == {"trades": ["A"]}
    wanted["trades"].append("C")
    assert [request.params for request in sent(session)] == [[], ["A"]]
    receive(session, answer(2, SUCCESS), START)
    assert [request.params for request in all_sent(session)] == [["A", "B"]]


# The machine as a whole


def test_the_table_has_every_state_and_nothing_follows_over() -> None:
    assert set(TRANSITIONS) == set(SessionState)
    assert TRANSITIONS[SessionState.OVER] == frozenset()


def test_every_transition_of_the_table_is_possible() -> None:
    walked = set()

    def walk(session: Session, *texts: bytes, then: float = START) -> Session:
        before = session.state
        for text in texts:
            receive(session, text, START)
            walked.add((before, session.state))
            before = session.state
        session.tick(then)
        walked.add((before, session.state))
        return session

    clock, success = answer(1, 1_700_000_000), answer(2, SUCCESS)
    wanted = {"order": ["A"]}
    for session in (
        Session({}, timing=TIMING, wall_offset=WALL, max_frame_bytes=LIMIT, credentials=who)
        for who in (None, ACCOUNT)
    ):
        session.start(START)
        walked.add((SessionState.NEW, SessionState.SUBSCRIBING if session.live else session.state))
    walk(private(wanted), then=START + 99)
    walk(private(wanted), clock, then=START + 99)
    walk(private(wanted), clock, success, then=START + 99)
    session = walk(private(wanted), clock, success, answer(3, SUCCESS))
    session.subscribe("order", ["B"])
    walked.add((SessionState.LIVE, session.state))
    session = live({})
    walk(session, answer(session.ping(START), error=NO))

    table = {(before, after) for before, afters in TRANSITIONS.items() for after in afters}
    assert {(before, after) for before, after in walked if before is not after} == table


class Conversation(RuleBasedStateMachine):
    """A session with an exchange that answers late, out of order, twice, or not at all.

    The exchange refuses every subscription to a symbol with BAD in its name. Time passes in steps that never
    skip the time at which the session has to be called.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = START
        self.unanswered: dict[int, Request] = {}
        self.answered: list[int] = []
        self.wanted: set[tuple[str, str]] = set()
        self.settled: dict[tuple[str, str], type[Event]] = {}
        self.patience_from: dict[int, float] = {}
        self.last_heard = START
        self.last_fresh = START
        self.paused = False
        self.has_budget = True
        self.number = 0
        # By subscription that has a deadline for its clean push: since when, and whether it is the last one.
        self.awaited: dict[tuple[str, str], tuple[float, bool]] = {}
        self.due: list[CleanDue] = []  # that were not followed by `ask_again` yet
        self.repeats: dict[str, list[float]] = {channel: [] for channel in CLEAN}  # when they were sent
        self.wished: set[str] = set()  # channels of which a repeat is needed

    @initialize(
        account=st.booleans(),
        trades=st.integers(0, 45),
        bad=st.sets(st.integers(0, 45), max_size=3),
        all_ticker=st.booleans(),
        reply_timeout=st.sampled_from([2.0, 10.0, 20.0]),
        retry_refused=st.sampled_from([1.0, 15.0, 30.0]),
    )
    def open(
        self,
        account: bool,
        trades: int,
        bad: set[int],
        all_ticker: bool,
        reply_timeout: float,
        retry_refused: float = 30.0,
    ) -> None:
        self.timing = Timing(15.0, reply_timeout, retry_refused)
        wanted: dict[str, list[str]] = {"all_ticker": []} if all_ticker else {}
        if trades:
            wanted["trades"] = [f"BAD{n}" if n in bad else f"S{n}" for n in range(trades)]
        self.session = Session(
            wanted,
            timing=self.timing,
            wall_offset=WALL,
            max_frame_bytes=LIMIT,
            credentials=ACCOUNT if account else None,
            begins_clean=CLEAN,
        )
        self.account = account
        self.wanted = {(channel, symbol) for channel, symbols in wanted.items() for symbol in symbols or [""]}
        self.session.start(self.now)
        self.listen()

    # What the caller does after each step

    def listen(self) -> None:
        """Take the session's requests and events, with those held as long as the budget has room."""
        for event in self.session.events():
            if isinstance(event, Confirmed | SubscriptionRefused):
                assert isinstance(event, Confirmed) or len(event.symbols) <= 1
                for symbol in event.symbols or ("",):
                    assert self.settled.get((event.channel, symbol)) in (None, SubscriptionRefused)
                    self.settled[event.channel, symbol] = type(event)
                    if isinstance(event, Confirmed) and event.channel in CLEAN:
                        self.awaited.setdefault((event.channel, symbol), (self.now, False))
            elif isinstance(event, CleanDue):
                self.fell_due(event)
        for request in all_sent(self.session, self.now) if self.has_budget else sent(self.session):
            self.names_all(request)
            assert request.id not in self.unanswered
            assert request.id not in self.answered
            if self.is_repeat(request):
                self.repeated(request)
            self.unanswered[request.id] = request
            self.patience_from[request.id] = self.now
            self.last_heard = self.now
        if not self.going():
            self.awaited.clear()
            self.wished.clear()
        self.wished = {one for one in self.wished if self.confirmed(one) or self.pending(one)}

    def confirmed(self, channel: str) -> set[str]:
        return {
            symbol for (name, symbol), event in self.settled.items() if name == channel and event is Confirmed
        }

    def names_all(self, request: Request) -> None:
        """Check that whatever a request may replace is not lost by it."""
        channel, _, verb = request.method.partition(".")
        if verb == "subscribe" and channel in CLEAN:
            confirmed = self.confirmed(channel)
            too_many = len(confirmed.union(request.params)) > MOST_SYMBOLS
            assert too_many or set(request.params[: len(confirmed)]) == confirmed
            if len(self.session.wanted.get(channel, ())) <= MOST_SYMBOLS:
                assert not any(other.method == request.method for other in self.unanswered.values())

    def is_repeat(self, request: Request) -> bool:
        channel, _, verb = request.method.partition(".")
        return verb == "subscribe" and channel in CLEAN and set(request.params) <= self.confirmed(channel)

    def repeated(self, request: Request) -> None:
        channel = request.method.removesuffix(".subscribe")
        assert set(request.params) == self.confirmed(channel), "it may replace the subscriptions before it"
        assert not any(other.method == request.method for other in self.unanswered.values())
        times = self.repeats[channel]
        assert not times or self.now - times[-1] >= self.timing.reply_timeout - ROUNDING, "too soon"
        times.append(self.now)
        self.wished.discard(channel)

    def fell_due(self, event: CleanDue) -> None:
        for symbol in event.symbols:
            since, last = self.awaited.pop((event.channel, symbol))
            assert last == event.last
            assert self.now - since >= self.timing.reply_timeout - ROUNDING, "it had no time to come"
        self.due.append(event)

    def going(self) -> bool:
        return self.session.over is None

    @property
    def overdue(self) -> float:
        """How much longer than it may a request has waited for its answer, without pauses; negative: less."""

        def patience(request: Request) -> float:
            return self.timing.reply_timeout if request.method == "server.ping" else ANSWER_TIMEOUT

        waits = (self.now - self.patience_from[one.id] - patience(one) for one in self.unanswered.values())
        return max(waits, default=-1.0)

    def gave_up_for_a_reason(self) -> None:
        assert self.session.over is not None
        match self.session.over.reason:
            case "timeout":
                assert self.overdue >= -ROUNDING
            case "rejected":
                pytest.fail("a refusal ends a session when it arrives, not later")

    # What the exchange does

    def reply(self, request: Request, error: object = None, result: object = SUCCESS) -> None:
        if request.method == "server.ping" and result == SUCCESS:
            result = "pong"
        if any("BAD" in symbol for symbol in request.params) and request.method.endswith(".subscribe"):
            error = error or NO
        del self.unanswered[request.id]
        self.answered.append(request.id)
        was_live = self.session.live
        if self.going() and self.is_repeat(request):
            channel = request.method.removesuffix(".subscribe")
            for symbol in request.params:
                self.awaited.setdefault((channel, symbol), (self.now, False))
        assert receive(self.session, answer(request.id, result, error), self.now) is None
        if self.session.live and not was_live:
            self.last_fresh = self.now
        self.listen()

    @precondition(lambda self: self.unanswered)
    @rule(
        data=st.data(),
        time=st.sampled_from([1_700_000_000, "1700000000", 0, -1, 10**20, "soon", None, {}, []]),
    )
    def answer_one(self, data: st.DataObject, time: object) -> None:
        request = self.unanswered[data.draw(st.sampled_from(sorted(self.unanswered)))]
        self.reply(request, result=time if request.method == "server.time" else SUCCESS)

    @precondition(lambda self: self.unanswered)
    @rule()
    def answer_all(self) -> None:
        """Accept every subscription without a bad symbol, and refuse the others."""
        for request in list(self.unanswered.values()):
            self.reply(request)

    @rule(data=st.data())
    def refuse_to_authenticate(self, data: st.DataObject) -> None:
        auth = [request for request in self.unanswered.values() if request.method == "server.auth"]
        assume(auth)
        was_going = self.going()
        self.reply(auth[0], error={"code": 3, "message": "auth failed"})
        if was_going:
            assert self.session.over is not None
            assert self.session.over.reason == "rejected"

    @rule(data=st.data())
    def refuse_a_ping(self, data: st.DataObject) -> None:
        pings = [request for request in self.unanswered.values() if request.method == "server.ping"]
        assume(pings)
        self.reply(data.draw(st.sampled_from(pings)), error=NO)
        assert not self.going()

    @rule(data=st.data())
    def refuse_a_repeat(self, data: st.DataObject) -> None:
        repeats = [request for request in self.unanswered.values() if self.is_repeat(request)]
        assume(repeats)
        before = (self.session.state, dict(self.settled))
        self.reply(data.draw(st.sampled_from(repeats)), error=NO)
        assert (self.session.state, self.settled) == before

    @rule(request_id=st.integers(), error=st.sampled_from([None, NO, "no", 5]))
    def answer_to_nothing(self, request_id: int, error: object) -> None:
        assume(request_id not in self.unanswered)
        self.receive_late(request_id, error)

    @precondition(lambda self: self.answered)
    @rule(data=st.data(), error=st.sampled_from([None, NO]))
    def answer_again(self, data: st.DataObject, error: object) -> None:
        self.receive_late(data.draw(st.sampled_from(self.answered)), error)

    def receive_late(self, request_id: int, error: object) -> None:
        """Answer no request that is open: an error is a dead letter."""
        expected: AbstractContextManager[object] = (
            pytest.raises(BadFrame) if error and not self.session.over else nullcontext()
        )
        with expected:
            assert receive(self.session, answer(request_id, SUCCESS, error), self.now) is None

    @rule(channel=st.sampled_from(["trades", "all_ticker", "moon"]))
    def push(self, channel: str) -> None:
        message = receive(self.session, push(channel), self.now)
        assert message is not None
        assert message.channel == channel
        self.last_fresh = self.now

    @rule(text=st.sampled_from([b"", b"{}", b"[]", b'{"id":"x"}', b'{"method":"server.ping","id":1}']))
    def send_a_bad_frame(self, text: bytes) -> None:
        with pytest.raises(BadFrame):
            receive(self.session, text, self.now)

    # What the caller does

    @rule(seconds=st.floats(0.001, 30.0))
    def wait(self, seconds: float) -> None:
        """Let time pass, at most to the time at which the session has to be called."""
        moment = self.session.next_call()
        before = (self.session.state, self.session.over)
        if self.now + seconds < moment or not self.going():
            self.now += seconds
            self.session.tick(self.now)
            assert (self.session.state, self.session.over) == before
            assert (self.session.to_send(), self.session.events()) == ([], [])
        else:
            self.now = moment
            self.session.tick(self.now)
            before_it = len(self.unanswered) + len(self.due)
            self.listen()
            if self.going():
                did_something = len(self.unanswered) + len(self.due) > before_it or self.session.held
                assert did_something, "it was called for nothing"
            else:
                self.gave_up_for_a_reason()

    @rule(count=st.integers(1, 25), bad=st.booleans())
    def subscribe(self, count: int, bad: bool) -> None:
        symbols = [f"NEW{self.number + n}" for n in range(count)]
        if bad:
            symbols[0] = f"BAD_{symbols[0]}"
        self.number += count
        if self.going():
            self.wanted |= {("depth", symbol) for symbol in symbols}
        self.session.subscribe("depth", symbols)
        self.listen()

    @rule(channel=st.sampled_from([*CLEAN, "all_ticker"]))
    def lose_something(self, channel: str) -> None:
        self.ask_again(channel, ())

    @precondition(lambda self: self.due)
    @rule(missing=st.booleans())
    def look_at_what_is_due(self, missing: bool) -> None:
        due = self.due.pop()
        if missing and not due.last:
            self.ask_again(due.channel, due.symbols)

    def ask_again(self, channel: str, missing: Sequence[str]) -> None:
        before = self.session.state
        if self.session.state in (SessionState.SUBSCRIBING, SessionState.LIVE):
            self.wished |= {channel} & {*CLEAN}
            for symbol in missing:
                self.awaited.setdefault((channel, symbol), (self.now, True))
        self.session.ask_again(channel, self.now, missing)
        self.listen()
        assert self.session.state is before, "a repeat is no new subscription"

    def pending(self, channel: str) -> bool:
        """Return whether a subscription of a channel is neither confirmed nor refused yet."""
        return any(name == channel for name, _ in self.wanted - self.settled.keys())

    @rule()
    def ping(self) -> None:
        request_id = self.session.ping(self.now)
        self.listen()
        assert self.unanswered[request_id].method == "server.ping"

    @rule()
    def pause(self) -> None:
        self.session.pause()
        self.paused = True

    @precondition(lambda self: self.paused)
    @rule()
    def resume(self) -> None:
        self.session.resume(self.now)
        self.paused = False
        self.last_fresh = self.now
        self.patience_from = dict.fromkeys(self.unanswered, self.now)
        self.awaited = {one: (self.now, last) for one, (_, last) in self.awaited.items()}
        self.listen()

    @rule()
    def have_no_budget(self) -> None:
        """Leave what is held where it is, until there is a budget again."""
        self.has_budget = False

    @rule()
    def have_a_budget(self) -> None:
        self.has_budget = True
        self.listen()

    # What holds at any time

    @invariant()
    def over_and_its_state_go_together(self) -> None:
        assert (self.session.state is SessionState.OVER) == (not self.going())

    def asking_for(self) -> set[tuple[str, str]]:
        """Return the subscriptions that wait for their first answer, or for another one after a refusal."""
        return {
            (request.method.removesuffix(".subscribe"), symbol)
            for request in self.unanswered.values()
            if request.method.endswith(".subscribe") and not self.is_repeat(request)
            for symbol in request.params or [""]
            if symbol not in self.confirmed(request.method.removesuffix(".subscribe"))
        }

    @invariant()
    def live_means_that_every_subscription_is_settled(self) -> None:
        """A refused one that is being retried is settled: as refused."""
        refused = {one for one, event in self.settled.items() if event is SubscriptionRefused}
        if self.session.live:
            assert self.settled.keys() == self.wanted
            assert self.asking_for() <= refused
        elif self.session.state is SessionState.SUBSCRIBING:
            assert self.settled.keys() < self.wanted
            assert self.session.held or not self.asking_for() <= refused

    @invariant()
    def the_next_call_lies_ahead(self) -> None:
        if self.going():
            assert self.session.next_call() > self.now, "it would be called again and again"
        else:
            assert self.session.held == 0

    @invariant()
    def exactly_the_bad_symbols_are_refused(self) -> None:
        for (_, symbol), event in self.settled.items():
            assert (event is SubscriptionRefused) == ("BAD" in symbol)

    @invariant()
    def a_request_is_sent_in_every_ping_interval_even_in_a_pause(self) -> None:
        if self.going():
            assert self.now - self.last_heard <= self.timing.ping_interval

    @invariant()
    def no_clean_push_is_waited_for_longer_than_it_has_time(self) -> None:
        if self.going() and not self.paused:
            for since, _ in self.awaited.values():
                assert self.now - since <= self.timing.reply_timeout + ROUNDING

    @invariant()
    def a_repeat_that_is_needed_is_sent_sooner_or_later(self) -> None:
        """It waits for the budget, for an answer, for a resume, or for its time, which next_call returns."""
        if not self.going() or self.paused or self.session.held:
            return
        for channel in self.wished:
            asked = any(one.method == f"{channel}.subscribe" for one in self.unanswered.values())
            if self.confirmed(channel) and not asked:
                earlier = self.repeats[channel]
                longest = min(self.timing.reply_timeout * 2 ** (len(earlier) - 1), 900.0)
                assert earlier, "the first one was not sent at once"
                assert self.now <= earlier[-1] + longest + ROUNDING
                assert self.session.next_call() <= earlier[-1] + longest + ROUNDING

    @invariant()
    def it_gives_up_in_time(self) -> None:
        if self.going() and not self.paused:
            assert self.overdue <= ROUNDING

    def teardown(self) -> None:
        """Answer everything: whatever has happened, the session becomes live."""
        if not hasattr(self, "session") or not self.going():
            return
        self.have_a_budget()
        while self.unanswered:
            for request in list(self.unanswered.values()):
                self.reply(request)
        assert self.session.live
        assert self.settled.keys() == self.wanted


Conversation.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestConversation = Conversation.TestCase
