"""Which sessions are halved, into what, and which parts are joined again."""

import asyncio
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest

from bridge import plan
from bridge.config import ExchangeConfig
from bridge.exchange.requests import Credentials
from bridge.halving import Halving
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.watch.watch import Watch
from bridge.websocket.connector import Connector
from bridge.websocket.courtesy import LIFE, Courtesy
from bridge.websocket.feed import Feed
from bridge.websocket.sessions import Account
from tests.support.receivers import Nobody

SYMBOLS = [f"S{number}_USDT" for number in range(30)]


class Scene:
    """Connectors of one shard, none of which has a session unless the test says so."""

    def __init__(self, *sizes: int) -> None:
        metrics = Metrics()
        self._watch = Watch("0", metrics, Journal("replica", 0, lambda records: None, metrics))
        self._config = ExchangeConfig()
        self.connectors: list[Connector] = []
        self.started: list[Connector] = []
        self.halving = Halving(self.connectors, self.create, self.started.append, "0")
        for size in sizes:
            self.connectors.append(self.create({"trades": SYMBOLS[:size]}))

    def create(self, wanted: plan.Wanted, account: Account | None = None) -> Connector:
        connector = Connector(
            wanted,
            config=self._config,
            courtesy=Courtesy.of(self._config),
            receiver=Nobody(),
            watch=self._watch,
            account=account,
        )
        connector.siblings = self.halving
        return connector

    def live(self, connector: Connector, seconds: float = LIFE) -> None:
        """Let a connector have had a session for so many seconds."""
        ended, live = SimpleNamespace(done=lambda: False), SimpleNamespace(is_set=lambda: True)
        connector.sessions.feeds[:] = [cast("Feed", SimpleNamespace(ended=ended, live=live))]
        connector._live_at = time.monotonic() - seconds

    @property
    def sizes(self) -> list[int]:
        return [plan.count(one.wanted) for one in self.connectors]


@pytest.fixture
def scene() -> Callable[..., Scene]:
    return Scene


def test_a_session_alone_is_halved_down_to_four_subscriptions(scene: Callable[..., Scene]) -> None:
    the = scene(30)
    for _ in range(3):
        for connector in [*the.connectors]:
            the.halving.split(connector)
    assert the.sizes == [4, 4, 4, 3, 4, 4, 4, 3]
    assert not any(the.halving.split(connector) for connector in the.connectors)
    assert sorted(symbol for one in the.connectors for symbol in one.wanted["trades"]) == sorted(SYMBOLS)


def test_parts_begin_at_once_and_are_not_coming_up_for_the_first_time(scene: Callable[..., Scene]) -> None:
    the = scene(30)
    the.connectors[0].trouble, the.connectors[0].cause = "closed: why", "closed"
    assert the.halving.split(the.connectors[0])
    assert the.started == the.connectors
    for part in the.connectors:
        assert (part.standing().coming_up, part.standing().trouble) == (False, "closed: why")
        assert part.cause == "closed"


def test_while_no_session_stays_up_only_one_is_tried(scene: Callable[..., Scene]) -> None:
    the = scene(30, 30, 30)
    first, second, third = the.connectors
    assert the.halving.split(first)
    assert not the.halving.split(second)
    assert the.halving.split(the.connectors[0])
    the.live(third, LIFE - 5.0)
    assert not the.halving.split(second)
    the.live(third)
    assert the.halving.split(second)


def test_others_are_split_at_once_into_parts_of_a_size_that_stays_up(scene: Callable[..., Scene]) -> None:
    the = scene(30, 30, 30, 30, 30)
    last = the.connectors[-1]
    the.halving.split(the.connectors[0])
    the.halving.split(the.connectors[0])
    assert the.sizes == [8, 7, 15, 30, 30, 30, 30]
    the.live(the.connectors[0])
    assert the.halving.split(last)
    assert the.sizes == [8, 7, 15, 30, 30, 30, 8, 8, 8, 6]


def test_the_number_of_sessions_is_at_most_doubled(scene: Callable[..., Scene]) -> None:
    the = scene(*[30] * 10)
    the.live(the.connectors[0])
    changed = True
    while changed:
        changed = any(the.halving.split(one) for one in the.connectors[1:])
    assert len(the.connectors) == 20
    assert sum(the.sizes) == 300


def test_sessions_of_accounts_are_left_alone(scene: Callable[..., Scene]) -> None:
    the = scene(5, 30)
    the.connectors[0] = the.create({"order": SYMBOLS[:20]}, Account("main", Credentials("key", "secret")))
    the.live(the.connectors[0])
    assert the.halving.split(the.connectors[1])
    assert the.sizes == [20, 15, 15]
    for part in the.connectors[1:]:
        the.live(part)
    assert the.halving.partner(the.connectors[1]) is the.connectors[2]


def test_a_part_is_joined_with_the_smallest_other_one_that_is_live(scene: Callable[..., Scene]) -> None:
    the = scene(30, 20)
    the.live(the.connectors[1])
    the.halving.split(the.connectors[0])
    the.halving.split(the.connectors[0])
    assert the.sizes == [8, 7, 15, 20]
    first, second, third, other = the.connectors
    assert the.halving.partner(first) is None
    the.live(first, 1.0)
    the.live(third, 1.0)
    assert the.halving.partner(first) is third
    the.live(second, 1.0)
    assert the.halving.partner(first) is second
    assert the.halving.partner(third) is second
    assert the.halving.partner(other) is None
    second.lend()
    assert the.halving.partner(first) is third
    second.take_back()
    assert the.halving.partner(first) is third, "it may be tried at a later rotation"


def test_what_was_joined_may_be_halved_again_and_is_then_joined_later(scene: Callable[..., Scene]) -> None:
    async def scenario() -> None:
        the = scene(30)
        the.halving.split(the.connectors[0])
        first, second = the.connectors
        for part in (first, second):
            the.live(part)
        assert the.halving.partner(first) is second
        assert first.part is not None
        assert second.part is not None
        # As a connector does it.
        first.wanted = plan.joined(first.wanted, second.wanted)
        first.part = first.part.with_other(second.part)
        the.halving.joined(second)
        assert the.sizes == [30]
        assert not first.is_part
        assert the.halving.partner(first) is None
        first.sessions.feeds.clear()
        assert the.halving.split(first)
        for part in the.connectors:
            the.live(part)
        assert the.sizes == [15, 15]
        assert the.halving.partner(the.connectors[0]) is None
        now = time.monotonic() + 1.01 * ExchangeConfig().max_session_age
        assert the.connectors[0].may_join(now)

    asyncio.run(scenario())
