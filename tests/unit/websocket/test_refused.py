"""What the exchange pushes counts as confirmed, whatever it has answered."""

from bridge.channels.channel import Source
from bridge.exchange.events import Confirmed, SubscriptionRefused
from bridge.exchange.session import ANSWER_TIMEOUT, Session, Timing
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.websocket.refused import Refused


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
