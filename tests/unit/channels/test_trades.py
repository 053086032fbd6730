"""trades: each trade of a symbol once, oldest first, whatever the sessions repeat."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.channels.channel import Source
from bridge.errors import BadItem
from bridge.ledger import Gap
from bridge.records import Cause, Stretch
from tests.support.pushes import RECEIVED_US, Feed, bad, push, records, source
from tests.support.schemas import Json


def trade(trade_id: int, **fields: object) -> Json:
    return {
        "id": trade_id,
        "time": 1597419159 + min(trade_id, 10**9),  # later ones have higher ids
        "price": "398.59",
        "amount": "0.027",
        "type": "buy",
    } | fields


def at(trade_id: int) -> int:
    """Return the time of a trade in microseconds."""
    return int(trade(trade_id)["time"]) * 1_000_000


def params(*ids: int, clean: bool = False, symbol: str = "ETH_USDT") -> list[object]:
    """Return the params of a push; ids are given oldest first, and are sent newest first."""
    return [clean, [trade(trade_id) for trade_id in reversed(ids)], symbol]


def ids(feed: Feed) -> list[int]:
    return [record["id"] for record in feed.records]


def gap(
    after: int,
    before: int,
    *,
    filled: int = 0,
    closed: bool = False,
    cause: Cause = "takeover",
    session: str = "s2",
) -> Gap:
    stretch = Stretch(after, at(after), before, at(before))
    return Gap(b"ETH_USDT", stretch, filled, closed, cause, session)


def without_marks(gaps: list[Gap]) -> list[Gap]:
    return [one._replace(mark=None) for one in gaps]


@dataclass
class Exchange:
    """Sends a stream of trades over several sessions."""

    stream: list[int]
    feed: Feed = field(default_factory=lambda: Feed("trades"))
    shown: int = 0  # number of trades of the stream that any session has brought
    sent: int = 0  # number of trades in all pushes, repeated ones included
    duplicates: int = 0
    sessions: list[Source] = field(default_factory=list)
    places: list[int] = field(default_factory=list)  # the same as `shown`, for each session

    def open(self, back: int, ahead: int) -> None:
        """Open a session with a clean list that repeats `back` trades and brings `ahead` new ones."""
        self.sessions.append(source(f"s{len(self.sessions)}"))
        self.places.append(0)
        self.clean(len(self.sessions) - 1, back, ahead)

    def clean(self, session: int, back: int, ahead: int) -> None:
        start = max(0, self.shown - back)
        self._send(session, start, max(self.places[session], start) + ahead, clean=True)

    def delta(self, session: int, ahead: int) -> None:
        start = self.places[session]
        self._send(session, start, start + ahead, clean=False)

    def _send(self, session: int, start: int, end: int, *, clean: bool) -> None:
        shown = self.stream[start:end]
        self.places[session] = start + len(shown)
        self.shown = max(self.shown, start + len(shown))
        self.sent += len(shown)
        outcome = self.feed.push(params(*shown, clean=clean), self.sessions[session])
        assert outcome.bad == []
        assert all(gap.closed for gap in outcome.gaps)
        self.duplicates += outcome.duplicates


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_any_split_into_pushes_clean_lists_and_sessions_gives_each_trade_once(
    data: st.DataObject,
) -> None:
    """Sessions overlap, lag behind each other and restart; clean lists arrive at any time, and reach back."""
    stream = sorted(data.draw(st.sets(st.integers(0, 2**63 - 1), min_size=1, max_size=30)))
    exchange = Exchange(stream)
    few = st.integers(0, 8)
    exchange.open(0, data.draw(few) + 1)
    for step in data.draw(st.lists(st.sampled_from(["open", "clean", "delta", "delta"]), max_size=12)):
        if step == "open":
            exchange.open(data.draw(few) + 1, data.draw(few))
            continue
        session = data.draw(st.integers(0, len(exchange.sessions) - 1))
        if step == "clean":
            exchange.clean(session, data.draw(few) + 1, data.draw(few))
        else:
            exchange.delta(session, data.draw(few))
    exchange.open(1, len(stream))

    found = exchange.feed.records
    assert [record["id"] for record in found] == stream
    assert exchange.sent == len(stream) + exchange.duplicates
    for one in exchange.sessions:
        seqs = [record["seq"] for record in found if record["session"] == one.session]
        assert seqs == list(range(len(seqs)))


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from(["ETH_USDT", "eth_usdt", "BTC_USDT", "btc_Usdt"]), max_size=12))
def test_each_symbol_has_its_own_seq_and_memory_in_upper_or_lower_case(symbols: list[str]) -> None:
    feed, session = Feed("trades"), source()
    for trade_id, symbol in enumerate(symbols):
        feed.push(params(trade_id, symbol=symbol), session)
        feed.push(params(trade_id, symbol=symbol), session)
    for name in ("ETH_USDT", "BTC_USDT"):
        found = [record for record in feed.records if record["symbol"] == name]
        assert [record["seq"] for record in found] == list(range(len(found)))
    assert ids(feed) == list(range(len(symbols)))


def test_the_same_id_on_two_symbols_is_two_trades() -> None:
    feed, session = Feed("trades"), source()
    feed.push(params(7, symbol="ETH_USDT"), session)
    feed.push(params(7, symbol="BTC_USDT"), session)
    assert ids(feed) == [7, 7]


def test_only_trades_of_a_clean_list_are_marked_as_snapshot() -> None:
    feed, session = Feed("trades"), source()
    feed.push(params(1, 2, clean=True), session)
    feed.push(params(3), session)
    assert [record["snapshot"] for record in feed.records] == [True, True, False]


def test_a_session_that_starts_with_a_known_trade_and_lists_all_of_them_has_missed_none() -> None:
    """Only its clean list proves that: the trade may have been pushed a second time."""
    feed = Feed("trades")
    feed.push(params(1, 2, clean=True), source("s1"))
    second = source("s2")
    feed.push(params(2), second)
    feed.push(params(3, 4), second)
    (closed,) = feed.push(params(1, 2, 3, 4, clean=True), second).gaps
    assert (closed.closed, closed.filled) == (True, 0)
    assert feed.push(params(4, clean=True), source("s3")).gaps == []
    assert ids(feed) == [1, 2, 3, 4]


def test_a_clean_list_after_a_pause_fills_in_what_was_missed() -> None:
    feed = Feed("trades")
    feed.push(params(1, 2, 3, clean=True), source("s1"))
    outcome = feed.push(params(2, 3, 4, 5, clean=True), source("s2"))
    assert ids(feed) == [1, 2, 3, 4, 5]
    assert outcome.duplicates == 2
    assert without_marks(outcome.gaps) == [gap(3, 4, filled=2, closed=True)]


def test_the_very_first_clean_list_reports_no_gap() -> None:
    feed, session = Feed("trades"), source()
    feed.push(params(3), session)
    assert feed.push(params(1, 2, 3, 4, clean=True), session).gaps == []
    assert Feed("trades").push(params(1, 2, 3, clean=True), session).gaps == []


def test_a_clean_list_that_does_not_reach_back_to_the_last_trade_reports_a_gap() -> None:
    feed = Feed("trades")
    feed.push(params(1, 2, 3, clean=True), source("s1"))
    outcome = feed.push(params(8, 9, clean=True), source("s2"))
    assert without_marks(outcome.gaps) == [gap(3, 8, filled=2, closed=False)]
    assert ids(feed) == [1, 2, 3, 8, 9]


def test_a_clean_list_without_new_trades_reports_no_gap() -> None:
    feed = Feed("trades")
    feed.push(params(1, 2, 3, clean=True), source("s1"))
    assert feed.push(params(2, 3, clean=True), source("s2")).gaps == []


def test_trades_before_the_clean_list_of_their_session_do_not_hide_a_gap() -> None:
    feed, session = Feed("trades"), source("s2")
    feed.push(params(1, 2, 3, clean=True), source("s1"))
    assert feed.push(params(9), session).gaps == []
    outcome = feed.push(params(8, 9, clean=True), session)
    assert without_marks(outcome.gaps) == [gap(3, 8, filled=1, closed=False)]
    assert feed.push(params(10, clean=False), session).gaps == []


def test_a_gap_stays_open_across_sessions_until_a_clean_list_arrives() -> None:
    feed = Feed("trades")
    feed.push(params(1, 2, 3, clean=True), source("s1"))
    feed.push(params(6), source("s2"))
    feed.push(params(8), source("s3"))
    outcome = feed.push(params(2, 3, 4, 5, 6, 7, 8, clean=True), source("s4"))
    assert without_marks(outcome.gaps) == [
        gap(3, 4, filled=2, closed=True, session="s4"),
        gap(6, 7, filled=1, closed=True, session="s4"),
    ]
    assert ids(feed) == [1, 2, 3, 6, 8, 4, 5, 7]


def test_a_second_clean_list_with_trades_that_were_not_pushed_is_reported_as_repeated() -> None:
    feed, session = Feed("trades"), source()
    feed.push(params(1, 2, 3, clean=True), session)
    feed.push(params(5), session)
    outcome = feed.push(params(3, 4, 5, 6, clean=True), session)
    assert without_marks(outcome.gaps) == [
        gap(3, 4, filled=1, closed=True, cause="repeated_list", session="s1")
    ]
    assert ids(feed) == [1, 2, 3, 5, 4, 6]


def test_where_each_push_is_a_list_none_of_its_trades_was_missed() -> None:
    feed, session = Feed("trades"), source()
    for newest in range(10, 40):
        trades = range(newest - 9, newest + 1)
        assert feed.push(params(*trades, clean=True), session).gaps == []
    assert ids(feed) == [*range(1, 40)]
    outcome = feed.push(params(*range(60, 70), clean=True), session)  # does not reach back
    assert [one.closed for one in outcome.gaps] == [False]


def test_late_trades_after_a_gap_still_become_records() -> None:
    """An overlapping session that lags behind may bring trades that the newer one never received."""
    feed = Feed("trades")
    old, new = source("old"), source("new")
    feed.push(params(1, 2, 3, clean=True), old)
    feed.push(params(8, 9, clean=True), new)
    feed.push(params(4, 5, 6, 7, 8, 9), old)
    assert ids(feed) == [1, 2, 3, 8, 9, 4, 5, 6, 7]


def test_trades_older_than_the_first_one_are_dropped() -> None:
    """Records are in order, so a trade from before the first one cannot follow it."""
    feed, session = Feed("trades"), source()
    feed.push(params(5), session)
    assert feed.push(params(3, 4, 5, 6, clean=True), session).duplicates == 3
    assert ids(feed) == [5, 6]


def test_a_market_without_trades_starts_with_the_session_that_brings_its_first() -> None:
    feed, first, second = Feed("trades"), source("s1"), source("s2")
    for session in (first, second):
        assert feed.push(params(clean=True), session).gaps == []
    outcome = feed.push(params(1, 2), second)
    assert (outcome.bad, outcome.gaps) == ([], [])
    assert feed.push(params(1, 2, 3, clean=True), second).gaps == []
    assert ids(feed) == [1, 2, 3]


def lots(feed: Feed, first: int, last: int, step: int = 500) -> None:
    """Send ids in large pushes, without validating each record."""
    session = source()
    for start in range(first, last, step):
        feed.normalise(push("trades", params(*range(start, start + step))).params, session, RECEIVED_US)


def test_a_clean_list_of_two_thousand_is_recognised_after_any_number_of_trades() -> None:
    feed = Feed("trades")
    lots(feed, 0, 10_000)
    outcome = feed.push(params(*range(8_000, 10_000), clean=True), source("s2"))
    assert (outcome.duplicates, outcome.records) == (2_000, [])


def test_an_absurd_id_affects_neither_later_trades_nor_duplicates() -> None:
    feed = Feed("trades")
    feed.push(params(1), source())
    feed.push(params(2**63 - 1), source())
    lots(feed, 500, 10_500)
    outcome = feed.push(params(*range(10_000, 10_501)), source("s2"))
    assert (outcome.duplicates, len(outcome.records)) == (500, 1)


def test_a_list_whose_ids_fall_at_every_other_trade_is_bad_and_takes_no_time() -> None:
    """Each fall may begin an epoch: nothing else ran for hours while such a list was read."""
    feed = Feed("trades")
    lots(feed, 1000, 1500)
    for clean in (True, False):
        trades = [trade(number % 7, time=1597430000 + number) for number in range(20_000)]
        with pytest.raises(BadItem, match="the ids of 20000 trades fall 2857 times"):
            feed.push([clean, trades, "ETH_USDT"], source("s2"))
    assert ids(feed) == []


def test_a_short_list_whose_ids_fall_at_every_trade_is_read() -> None:
    feed = Feed("trades")
    feed.push([True, [trade(300 - number, time=1597430000 + number) for number in range(300)], "A"], source())
    assert ids(feed) == [1], "the others are of earlier epochs"


def test_a_bad_trade_uses_no_seq_and_may_be_sent_again() -> None:
    feed, session = Feed("trades"), source()
    outcome = feed.push([False, [trade(3), trade(2, price="x"), trade(1)], "ETH_USDT"], session)
    assert outcome.bad == ["trade 2: 'x' is not a decimal"]
    feed.push([False, [trade(2)], "ETH_USDT"], session)
    assert [(record["id"], record["seq"]) for record in feed.records] == [(1, 0), (3, 1), (2, 2)]


def test_each_bad_trade_of_a_list_has_a_reason() -> None:
    reasons = bad(
        "trades", [True, [trade(3, type="swap"), trade(2, id="x"), 7, trade(1, time=-1)], "ETH_USDT"]
    )
    assert len(reasons) == 4


def test_the_time_of_a_push_is_that_of_its_newest_live_trade() -> None:
    """Trades of a clean list are history: their age says nothing about the exchange's lag."""
    feed, session = Feed("trades"), source()
    assert feed.push(params(1, 2, clean=True), session).time_us is None
    assert feed.push(params(3, 4), session).time_us == (1597419159 + 4) * 1_000_000


def test_the_side_of_a_trade_is_that_of_the_taker() -> None:
    (record,) = records("trades", [False, [trade(1, type="sell")], "ETH_USDT"])
    assert record["side"] == "sell"
