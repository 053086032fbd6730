"""The markets that "*" follows: those that all_ticker lists, up to exchange.max_markets."""

import time
from collections.abc import Sequence
from typing import Any, cast

from bridge import plan
from bridge.channels.channel import Source
from bridge.config import Config
from bridge.exchange.events import SubscriptionRefused
from bridge.followed import Followed
from bridge.records import BOOK, EVENTS, Record, schema_of
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.watch.watch import Watch
from bridge.websocket.connector import Connector
from bridge.websocket.courtesy import Courtesy
from bridge.websocket.feed import Receiver


class Following:
    """A shard that follows up to so many markets on the given channels; its connectors open no sessions."""

    def __init__(self, most: int, *channels: str, **named: list[str]) -> None:
        every = {channel: ["*"] for channel in channels}
        self.config = Config.model_validate(
            {"exchange": {"max_markets": most}, "channels": {**every, **named}}
        )
        self.metrics = Metrics()
        self.reported: list[Record] = []
        self._now = time.monotonic()  # of the last push that `hear` has let come
        self.connectors: list[Connector] = []
        self._watch = Watch("0", self.metrics, Journal("replica", 0, self._emit, self.metrics))
        self._courtesy = Courtesy(5.0, 20.0)
        self.followed = Followed(
            self.config, 0, self.connectors, self._start, self.connectors.remove, self._watch
        )

    def name(self, *symbols: str, session: str = "S") -> None:
        """Let a push of all_ticker name markets."""
        records = [
            Record("all_ticker", one.encode(), b'{"symbol":"%b"}' % one.encode(), 0) for one in symbols
        ]
        self.followed.take(records, Source(session))

    def hear(self, seconds: int, symbol: str) -> None:
        """Let pushes of all_ticker name a market for so long, one a second."""
        record = Record("all_ticker", symbol.encode(), b"{}", 0)
        for _ in range(seconds):
            self._now += 1.0
            self.followed.markets.take([record], "S", self._now, ())

    @property
    def subscribed(self) -> list[str]:
        """The symbols that it subscribes to, in order."""
        return [symbol for one in self.connectors for names in one.wanted.values() for symbol in names]

    def connector(self, wanted: plan.Wanted) -> Connector:
        receiver = cast("Receiver", None)
        config: dict[str, Any] = {"config": self.config.exchange, "courtesy": self._courtesy}
        return Connector(wanted, **config, receiver=receiver, watch=self._watch)

    def _start(self, wanted: plan.Wanted, is_coming_up: bool) -> None:
        connector = self.connector(wanted)
        connector.coming_up = is_coming_up
        self.connectors.append(connector)

    def _emit(self, records: Sequence[Record]) -> None:
        self.reported += records


def test_markets_beyond_the_most_are_neither_followed_nor_remembered_and_reported_once() -> None:
    following = Following(3, "trades")
    following.name("A_USDT", "B_USDT")
    following.name("A_USDT", "C_USDT")
    assert following.reported == []
    for number in range(1000):
        following.name("A_USDT", f"X{number}_USDT")
    assert following.subscribed == ["A_USDT", "B_USDT", "C_USDT"]
    assert len(following.followed.markets) == 3
    assert following.metrics.counter("events_total", event="markets_left_out").value == 1
    assert [schema_of(one.channel) for one in following.reported] == [EVENTS]


def test_a_market_that_is_gone_and_not_subscribed_to_leaves_room_for_another() -> None:
    following = Following(3, "trades")
    following.name("A_USDT", "B_USDT", "C_USDT")
    following.name("A_USDT", "B_USDT", session="later")
    following.name("D_USDT", session="later")
    assert following.subscribed == ["A_USDT", "B_USDT", "C_USDT"]
    refuse(following, "trades", "C_USDT")
    following.followed.forget_gone([])
    following.name("D_USDT", session="later")
    assert following.subscribed == ["A_USDT", "B_USDT", "D_USDT"]
    following.name("C_USDT", session="later")
    assert following.subscribed == ["A_USDT", "B_USDT", "D_USDT"]


def test_a_market_that_is_gone_but_not_refused_is_followed_on() -> None:
    following = Following(3, "trades")
    following.name("A_USDT", "B_USDT", "C_USDT")
    following.name("A_USDT", "B_USDT", session="later")
    following.followed.forget_gone([])
    following.name("D_USDT", session="later")
    assert following.subscribed == ["A_USDT", "B_USDT", "C_USDT"]


def test_a_market_that_is_refused_but_still_listed_is_not_forgotten() -> None:
    following = Following(3, "trades")
    following.name("A_USDT", "B_USDT")
    following.name("A_USDT", "B_USDT", session="later")
    refuse(following, "trades", "B_USDT")
    following.followed.forget_gone([])
    assert following.subscribed == ["A_USDT", "B_USDT"]


def test_the_book_of_a_market_that_leaves_room_for_another_is_gone() -> None:
    following = Following(2, "depth", BOOK)
    following.name("A_USDT", "B_USDT")
    following.name("A_USDT", session="later")
    refuse(following, "depth", "B_USDT")
    assert following.followed.forget_gone([b"A_USDT", b"B_USDT"]) == [b"B_USDT"]
    assert len(following.followed.markets) == 1


def test_the_books_of_markets_that_were_delisted_while_no_bridge_ran_are_gone() -> None:
    following = Following(300, "depth", BOOK)
    books = [b"A_USDT", b"B_USDT", b"C_USDT"]
    following.followed.expect(books)
    following.name("A_USDT", "B_USDT")
    assert not following.followed.forget_gone(books)
    following.hear(3590, "A_USDT")
    assert not following.followed.forget_gone(books)
    following.hear(20, "A_USDT")
    assert following.followed.forget_gone(books) == [b"C_USDT"]
    following.name("C_USDT")
    assert not following.followed.forget_gone(books)
    assert following.subscribed == ["A_USDT", "B_USDT", "C_USDT"]


def test_a_market_whose_depth_is_subscribed_to_keeps_its_book_when_its_trades_are_forgotten() -> None:
    following = Following(300, "trades", "depth", BOOK)
    following.name("A_USDT", "B_USDT")
    following.name("A_USDT", session="later")
    refuse(following, "trades", "B_USDT")
    assert not following.followed.forget_gone([b"A_USDT", b"B_USDT"])
    refuse(following, "depth", "B_USDT")
    assert following.followed.forget_gone([b"A_USDT", b"B_USDT"]) == [b"B_USDT"]


def test_a_market_that_depth_names_has_a_book_even_if_nobody_lists_it() -> None:
    """It may exist again tomorrow."""
    following = Following(300, "trades", BOOK, depth=["A_USDT"])
    following.connectors.append(following.connector({"depth": ["A_USDT"]}))
    following.followed.expect([b"A_USDT"])
    following.name("B_USDT")
    following.hear(10_000, "B_USDT")
    assert not following.followed.forget_gone([b"A_USDT"])


def test_a_market_that_is_forgotten_is_followed_again_once_it_is_listed_again() -> None:
    following = Following(3, "trades")
    following.name("A_USDT", "B_USDT")
    following.name("A_USDT", session="later")
    refuse(following, "trades", "B_USDT")
    following.followed.forget_gone([])
    assert following.subscribed == ["A_USDT"]
    following.name("B_USDT", session="later")
    assert following.subscribed == ["A_USDT", "B_USDT"]


def test_a_connector_without_any_market_left_is_ended() -> None:
    following = Following(300, "trades")
    following.name("A_USDT")
    following.name("A_USDT", *(f"X{number}_USDT" for number in range(30)))
    assert len(following.connectors) == 2
    last = following.connectors[-1]
    gone = [symbol for symbols in last.wanted.values() for symbol in symbols]
    named = [symbol for symbol in following.subscribed if symbol not in gone]
    following.name(*named, session="later")
    for symbol in gone:
        refuse(following, "trades", symbol)
        following.followed.forget_gone([])
    assert last not in following.connectors
    assert following.subscribed == named


def test_nothing_is_followed_any_more_once_the_shard_ends() -> None:
    following = Following(3, "trades")
    following.name("A_USDT")
    following.followed.stop()
    following.name("B_USDT")
    assert following.subscribed == ["A_USDT"]


def test_a_market_that_is_listed_later_does_not_make_the_replica_unready() -> None:
    following = Following(300, "trades")
    following.name(*(f"X{number}_USDT" for number in range(40)))
    assert [one.standing().coming_up for one in following.connectors] == [True, True]
    following.name(*(f"Y{number}_USDT" for number in range(30)))
    assert [one.standing().coming_up for one in following.connectors] == [True, True, True]
    for one in following.connectors:
        one.coming_up = False  # as when its first session has become live
    following.name(*(f"Z{number}_USDT" for number in range(60)))
    assert [one.standing().coming_up for one in following.connectors] == [False] * 5


def refuse(following: Following, channel: str, symbol: str) -> None:
    """Let the exchange refuse a subscription because of its symbol."""
    (connector,) = (one for one in following.connectors if symbol in one.wanted.get(channel, ()))
    connector.sessions._bad = [SubscriptionRefused(channel, (symbol,), "unknown symbol")]
