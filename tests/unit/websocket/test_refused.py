"""What the exchange pushes counts as confirmed, whatever it has answered; and only what it still pushes."""

from collections.abc import Callable, Mapping, Sequence

import msgspec
import pytest

from bridge.channels import CHANNELS
from bridge.channels.channel import Source
from bridge.exchange.events import Confirmed, RepeatRefused, RequestPostponed, SubscriptionRefused
from bridge.exchange.frames import Push
from bridge.exchange.handover import Handover
from bridge.exchange.requests import Credentials
from bridge.exchange.session import ANSWER_TIMEOUT, Session, SessionState, Timing
from bridge.records import Record
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.websocket.refused import Refused

SUCCESS = {"status": "success"}
NO = {"code": 3, "message": "market C does not exist"}


def scene() -> tuple[Session, Source, Refused]:
    """Return a session that asks for trades and tickers of A and B, which has no answer yet."""
    source = Source("S")
    wanted = {"trades": ["A", "B"], "ticker": ["A", "B"]}
    session = Session(wanted, timing=Timing(), wall_offset=0.0, max_frame_bytes=1000)
    session.start(0.0)
    journal = Journal("replica", 0, lambda records: (), Metrics())
    return session, source, Refused(session, source, journal)


def test_a_request_without_an_answer_is_confirmed_once_it_is_overdue_if_it_brings_data() -> None:
    session, source, refused = scene()
    refused.note_requests()
    source.series("trades", "B").next_seq()
    for now in (0.0, ANSWER_TIMEOUT - 0.1):
        refused.confirm_what_flows(now)
        assert session.events() == []
    refused.confirm_what_flows(ANSWER_TIMEOUT)
    assert session.events() == [Confirmed("trades", ("A", "B"))]  # whether A comes is looked at elsewhere
    assert [request.channel for _, request in session.overdue(ANSWER_TIMEOUT)] == ["ticker"]


def test_a_refused_subscription_is_confirmed_as_soon_as_it_brings_data() -> None:
    session, source, refused = scene()
    refused.note(SubscriptionRefused("ticker", ("A",), "no"))
    refused.confirm_what_flows(0.0)
    assert session.events() == []
    source.series("ticker", "A").next_seq()
    refused.confirm_what_flows(0.0)
    assert session.events() == [Confirmed("ticker", ("A",))]


class Scene:
    """A session of an exchange that answers pings and logins, and of subscribe requests those it chooses.

    With each second `bring` is called, and all requests are sent. `answers` says what an answer to a
    subscribe request has as its error: None for a success, "" for no answer.
    """

    def __init__(
        self, wanted: Mapping[str, Sequence[str]], answers: Callable[[str], object], *, account: bool = False
    ) -> None:
        self.now = 0.0
        self.answers = answers
        self.bring: Callable[[], None] = lambda: None
        self.asked: list[tuple[float, str, list[str]]] = []  # subscribe requests: when, the channel, symbols
        self.events: list[tuple[str, str, str | None]] = []  # in the journal: kind, channel, symbol
        self.source = Source("S")
        for channel, symbols in wanted.items():
            self.source.ask(channel, symbols)
        self.session = Session(
            wanted,
            timing=Timing(),
            wall_offset=0.0,
            max_frame_bytes=1000,
            credentials=Credentials("k" * 15, "s" * 15) if account else None,
            begins_clean=("trades", "depth"),
        )
        self.refused = Refused(self.session, self.source, Journal("replica", 0, self._journal, Metrics()))
        self.session.start(self.now)
        self._act()

    def run(self, until: float) -> None:
        while self.now < until and self.session.over is None:
            self.now += 1
            self.bring()
            self.refused.confirm_what_flows(self.now)
            self.session.tick(self.now)
            self._act()

    def push(self, channel: str, symbol: str) -> None:
        """Receive a push, which is delivered at once."""
        self.session.receive(
            b'{"method":"%s.update","params":[],"id":null}' % channel.encode(), False, self.now
        )
        self.source.series(channel, symbol).next_seq()

    def _act(self) -> None:
        while self.session.held:
            self.session.send_held(self.now)
        self._take_events()
        self.refused.note_requests()
        for text in self.session.to_send():
            request = msgspec.json.decode(text)
            channel, _, verb = request["method"].partition(".")
            self._answer(request["id"], channel, verb, request["params"])
        self._take_events()

    def _answer(self, request_id: int, channel: str, verb: str, params: list[str]) -> None:
        error = self.answers(channel) if verb == "subscribe" else None
        if verb == "subscribe":
            self.asked.append((self.now, channel, params))
        if error != "":
            result = 1_700_000_000 if verb == "time" else SUCCESS
            text = msgspec.json.encode(
                {"id": request_id, "error": error, "result": None if error else result}
            )
            self.session.receive(text, False, self.now + 0.01)

    def _take_events(self) -> None:
        for event in self.session.events():
            match event:
                case Confirmed(channel, symbols):
                    self.refused.confirmed(channel, symbols)
                case SubscriptionRefused() | RequestPostponed() | RepeatRefused():
                    self.refused.note(event)

    def _journal(self, records: Sequence[Record]) -> None:
        for record in records:
            event = msgspec.json.decode(record.value)
            self.events.append((event["event"], event["channel"], event["symbol"]))


def never(channel: str) -> object:
    return ""


def test_a_session_of_which_nothing_is_answered_and_nothing_flows_ends() -> None:
    scene = Scene({"trades": ["A"], "ticker": ["A"]}, never)
    scene.run(300)
    assert scene.now == ANSWER_TIMEOUT
    assert scene.session.over is not None
    assert scene.session.over.reason == "timeout"


@pytest.mark.parametrize("account", [False, True])
def test_a_quiet_channel_without_an_answer_is_reported_as_silent_and_ends_no_session_that_flows(
    account: bool,
) -> None:
    loud, quiet = ("balance", "order") if account else ("trades", "ticker")
    scene = Scene({quiet: ["A"], loud: ["A"]}, never, account=account)
    scene.bring = lambda: scene.push(loud, "A")
    scene.run(ANSWER_TIMEOUT + 5)
    assert scene.session.state is SessionState.LIVE
    assert scene.events == [("subscription_silent", quiet, "A")]
    assert [(one, refused.answered) for one, refused in scene.refused.now.items()] == [
        ((quiet, ("A",)), False)
    ]
    scene.run(1000)
    assert scene.session.over is None
    assert len(scene.events) == 1
    times = [at for at, channel, _ in scene.asked if channel == quiet]
    assert 8 <= len(times) <= 14, "it is asked for again, ever less often"
    scene.push(quiet, "A")
    scene.run(1001)
    assert scene.refused.now == {}


def test_a_quiet_channel_without_an_answer_ends_no_session_of_which_another_one_is_answered() -> None:
    scene = Scene({"trades": ["A"], "ticker": ["A"]}, lambda channel: "" if channel == "ticker" else None)
    scene.run(1000)
    assert scene.session.over is None
    assert scene.events == [("subscription_silent", "ticker", "A")]


def test_what_was_pushed_before_a_repeat_does_not_answer_it() -> None:
    """From 100 on the exchange pushes nothing and answers pings only; a successor would heal that."""
    scene = Scene({"depth": ["A"]}, lambda channel: None)
    scene.bring = lambda: scene.push("depth", "A")
    scene.run(100)
    scene.bring, scene.answers = (lambda: None), never
    scene.session.ask_again("depth", scene.now)
    scene.run(4000)
    assert scene.now == pytest.approx(100 + ANSWER_TIMEOUT, abs=2)
    assert scene.session.over is not None


def test_what_was_pushed_before_a_retry_does_not_answer_it() -> None:
    """C flows until it is refused; what else flows keeps the session, and C stays refused."""
    scene = Scene({"ticker": ["A", "C"]}, lambda channel: None)
    scene.push("ticker", "C")
    scene.bring = lambda: scene.push("ticker", "A")
    scene.run(50)
    scene.answers = lambda channel: NO
    scene.session.subscribe("ticker", ["D"])
    scene.run(51)
    scene.answers = never
    scene.run(1000)
    assert ("ticker", ("C",)) in scene.refused.now
    assert [params for at, _, params in scene.asked if at > 100 and "C" in params], "it was retried"
    scene.push("ticker", "C")
    scene.run(1001)
    assert ("ticker", ("C",)) not in scene.refused.now


def test_a_frame_that_could_not_be_read_answers_no_request() -> None:
    session, source, refused = scene()
    source.series("ticker", "A").next_seq()
    refused.note_requests()
    CHANNELS["ticker"].normaliser({}).lost(source, None)
    refused.confirm_what_flows(ANSWER_TIMEOUT)
    assert session.events() == []


PUSHES = {
    "trades": b'[true,[{"id":1}],"a"]',
    "depth": b'[false,{"asks":[["1","2"]]},"A"]',
    "ticker": b'[{"symbol":"A"},{"symbol":"B"}]',
    "order": b'[{"symbol":"A"}]',
    "balance": b'[{"currency":"A"}]',
}


@pytest.mark.parametrize("channel", PUSHES)
def test_what_a_rotation_withholds_counts_as_pushed_once(channel: str) -> None:
    source = Source("S")
    source.ask(channel, ["A", "C"])
    symbols = Handover[None](CHANNELS).symbols(Push(channel, PUSHES[channel]))
    for number in range(3):
        assert [source.pushed(channel, name) for name in "ABC"] == [number, 0, 0]
        source.withhold(channel, symbols)
    for _ in range(2):  # a part of what was withheld is a repeat, and is not delivered
        source.series(channel, "A").next_seq()
    source.release()
    assert source.pushed(channel, "A") == 3
    source.series(channel, "A").next_seq()
    assert source.pushed(channel, "A") == 4


def test_what_a_rotation_withholds_of_a_channel_without_symbols_counts_as_pushed() -> None:
    source = Source("S")
    source.ask("all_ticker")
    source.withhold("all_ticker", ["A", "B"])
    assert source.pushed("all_ticker", None) == 1
    source.series("all_ticker", "A").next_seq()
    source.release()
    assert source.pushed("all_ticker", None) == 1
