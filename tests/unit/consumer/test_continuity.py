"""Continuity: what is missing is found, what is repeated is recognised, and nothing else is reported."""

from collections import defaultdict
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from bridge.consumer import Balance, Check, Continuity, Trade
from bridge.consumer.continuity import MOST_SESSIONS

Place = tuple[str, str, int]
"""Key, session, seq."""


def trade(place: Place) -> Trade:
    symbol, session, seq = place
    return Trade(
        schema="digifinex.trades.v1",
        session=session,
        seq=seq,
        received_us=1,
        symbol=symbol,
        id=1,
        time_us=1,
        price=Decimal(1),
        amount=Decimal(1),
        side="buy",
        snapshot=False,
    )


def balance(account: str, seq: int) -> Balance:
    return Balance(
        schema="digifinex.balance.v1",
        session="s1",
        seq=seq,
        received_us=1,
        account=account,
        currency="A",
        free=None,
        total=None,
        used=None,
    )


@st.composite
def streams(draw: st.DrawFn) -> list[Place]:
    """Return the places of all records that a bridge made: sessions of a few symbols, interleaved."""
    series = {
        symbol: [
            (symbol, f"{symbol}{number}", seq)
            for number, length in enumerate(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
            for seq in range(length)
        ]
        for symbol in "AB"
    }
    order = draw(st.permutations([symbol for symbol, places in series.items() for _ in places]))
    return [series[symbol].pop(0) for symbol in order]


def missing(continuity: Continuity, places: list[Place]) -> set[Place]:
    """Return the places that are reported as missing."""
    found: set[Place] = set()
    for place in places:
        check = continuity.check(trade(place))
        assert not check.repeated
        holes = {(place[0], place[1], seq) for seq in check.missing}
        assert not holes & found
        found |= holes
    return found


@given(streams(), st.data())
def test_exactly_what_did_not_come_is_missing(stream: list[Place], data: st.DataObject) -> None:
    """Except before the first record of a key, and after the last of a session: no later one shows it."""
    lost = data.draw(st.sets(st.sampled_from(stream)))
    read = [place for place in stream if place not in lost]
    first: dict[str, int] = {}
    last: defaultdict[tuple[str, str], int] = defaultdict(lambda: -1)
    for symbol, session, seq in read:
        first.setdefault(symbol, stream.index((symbol, session, seq)))
        last[symbol, session] = seq
    noticeable = {
        place
        for place in lost
        if place[2] < last[place[0], place[1]] and stream.index(place) > first.get(place[0], len(stream))
    }
    assert missing(Continuity(), read) == noticeable


@given(streams(), st.data())
def test_what_is_read_again_is_repeated_and_hides_nothing(stream: list[Place], data: st.DataObject) -> None:
    """A bridge with at-least-once, or a consumer that rejoined, goes back by any number of records."""
    continuity, done = Continuity(), 0
    while done < len(stream):
        back = data.draw(st.integers(0, done))
        for place in stream[done - back : done]:
            assert continuity.check(trade(place)) == Check(repeated=True, missing=range(0))
        assert continuity.check(trade(stream[done])) == Check(repeated=False, missing=range(0))
        done += 1


def test_the_numbers_of_what_is_missing_are_returned() -> None:
    continuity = Continuity()
    assert not continuity.check(trade(("A", "s1", 7))).missing
    assert list(continuity.check(trade(("A", "s1", 10))).missing) == [8, 9]
    assert list(continuity.check(trade(("A", "s2", 2))).missing) == [0, 1]


def test_after_reading_has_moved_on_nothing_is_missing_and_the_past_is_repeated() -> None:
    """Another member of the group has read the records in between."""
    continuity = Continuity()
    continuity.check(trade(("A", "s1", 7)))
    continuity.resumed()
    assert continuity.check(trade(("A", "s1", 7))).repeated
    assert continuity.check(trade(("A", "s1", 20))) == Check(repeated=False, missing=range(0))
    assert list(continuity.check(trade(("A", "s1", 22))).missing) == [21]
    continuity.resumed()
    assert not continuity.check(trade(("A", "s2", 5))).missing
    assert list(continuity.check(trade(("A", "s2", 7))).missing) == [6]


def test_channels_and_accounts_count_apart() -> None:
    continuity = Continuity()
    for seq in range(3):
        assert continuity.check(trade(("A", "s1", seq))) == Check(repeated=False, missing=range(0))
        for account in ("one", "two"):
            assert not continuity.check(balance(account, seq)).repeated
    assert list(continuity.check(balance("one", 4)).missing) == [3]
    assert not continuity.check(balance("two", 3)).missing


def test_the_sessions_that_are_remembered_are_bounded() -> None:
    continuity = Continuity()
    for number in range(100 * MOST_SESSIONS):
        assert continuity.check(trade(("A", f"s{number}", 0))) == Check(repeated=False, missing=range(0))
    (sessions,) = continuity._due.values()
    assert len(sessions) == MOST_SESSIONS
    assert continuity.check(trade(("A", f"s{number}", 0))).repeated
