"""The markets that "*" follows: those that all_ticker lists, up to exchange.max_markets."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import cast

from bridge.channels import CHANNELS
from bridge.channels.channel import Source
from bridge.config import Config
from bridge.exchange.events import SubscriptionRefused
from bridge.kafka.topics import Topic
from bridge.pipeline import Pipeline
from bridge.plan import Subscription
from bridge.records import BOOK, DEADLETTER, EVENTS, STATE, Record, schema_of
from bridge.shard import Replica, Shard
from bridge.watch.metrics import Metrics
from bridge.websocket.buffers import Buffers
from bridge.websocket.courtesy import Courtesy
from tests.support.clusters import cluster_of


def following(most: int, *channels: str) -> tuple[Shard, Metrics, list[Subscription]]:
    """Return a shard that follows up to so many markets, its metrics, and what it subscribes to."""
    config = Config.model_validate(
        {
            "exchange": {"max_markets": most},
            "channels": {channel: ["*"] for channel in channels or ("trades",)},
            "spool": {"max_bytes": 0},
        }
    )
    derived = {BOOK} & {*channels}
    topics = {name: Topic(name, 1, 1_000_000) for name in (*CHANNELS, *derived, DEADLETTER, EVENTS, STATE)}
    metrics = Metrics()
    replica = Replica(
        "replica", config, cluster_of(topics), metrics, Courtesy(5.0, 20.0), Buffers(1_000_000, 1000)
    )
    shard = Shard(0, replica, cast("Callable[[float], Awaitable[bool]]", None))
    followed: list[Subscription] = []
    shard._followed._subscribe = followed.extend  # type: ignore[method-assign,assignment]
    return shard, metrics, followed


def name(shard: Shard, *symbols: str, session: str = "S") -> None:
    """Let a push of all_ticker name markets."""
    records = [Record("all_ticker", one.encode(), b'{"symbol":"%b"}' % one.encode(), 0) for one in symbols]
    shard._followed.take(records, Source(session))


def test_markets_beyond_the_most_are_neither_followed_nor_remembered_and_reported_once() -> None:
    async def scenario() -> None:
        shard, metrics, followed = following(3)
        name(shard, "A_USDT", "B_USDT")
        name(shard, "A_USDT", "C_USDT")
        assert metrics.counter("events_total", event="markets_left_out").value == 0
        for number in range(1000):
            name(shard, "A_USDT", f"X{number}_USDT")
        assert [symbol for _, symbol in followed] == ["A_USDT", "B_USDT", "C_USDT"]
        assert len(shard._followed.markets) == 3
        assert metrics.counter("events_total", event="markets_left_out").value == 1
        (place,) = shard.queues.places.values()
        assert [schema_of(one.channel) for one in place.queued] == [EVENTS]

    asyncio.run(scenario())


def test_a_market_that_is_gone_and_not_subscribed_to_leaves_room_for_another() -> None:
    async def scenario() -> None:
        shard, _, followed = following(3)
        name(shard, "A_USDT", "B_USDT", "C_USDT")
        name(shard, "A_USDT", "B_USDT", session="later")
        name(shard, "D_USDT", session="later")
        assert "D_USDT" not in [symbol for _, symbol in followed]
        shard._forget_gone(listed=False)
        name(shard, "D_USDT", session="later")
        assert [symbol for _, symbol in followed] == ["A_USDT", "B_USDT", "C_USDT", "D_USDT"]
        name(shard, "C_USDT", session="later")
        assert len(followed) == 4

    asyncio.run(scenario())


def test_the_book_of_a_market_that_leaves_room_for_another_gets_its_tombstone() -> None:
    async def scenario() -> None:
        shard, _, _ = following(2, "depth", BOOK)
        shard._start = lambda _: None  # type: ignore[method-assign,assignment]
        shard._pipeline = cast("Pipeline", None)
        del shard._followed._subscribe
        name(shard, "A_USDT", "B_USDT")
        shard._state.books = {b"A_USDT", b"B_USDT"}
        name(shard, "A_USDT", session="later")
        (connector,) = shard._connectors
        connector.sessions._bad = [SubscriptionRefused("depth", ("B_USDT",), "unknown symbol")]
        shard._forget_gone(listed=False)
        assert len(shard._followed.markets) == 1
        assert shard._sink.books is not None
        assert shard._sink.books.gone == {b"B_USDT"}

    asyncio.run(scenario())


def test_a_market_that_is_listed_later_does_not_make_the_replica_unready() -> None:
    async def scenario() -> None:
        shard, _, followed = following(300)
        shard._start = lambda _: None  # type: ignore[method-assign,assignment]
        shard._pipeline = cast("Pipeline", None)
        del shard._followed._subscribe
        name(shard, *(f"X{number}_USDT" for number in range(40)))
        assert not followed
        first = [*shard._connectors]
        assert [one.standing().coming_up for one in first] == [True, True]
        name(shard, *(f"Y{number}_USDT" for number in range(30)))
        assert [one.standing().coming_up for one in shard._connectors] == [True, True, True]
        for one in shard._connectors:
            one.coming_up = False  # as when its first session has become live
        name(shard, *(f"Z{number}_USDT" for number in range(60)))
        assert [one.standing().coming_up for one in shard._connectors] == [False] * 5

    asyncio.run(scenario())
