"""Each subscription is served by one shard, on one of its sessions."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge import plan
from bridge.config import Config

SYMBOLS = [f"S{n}_USDT" for n in range(40)]


def configured(**sections: Any) -> Config:
    return Config.model_validate({"channels": {"all_ticker": True}, **sections})


@given(
    trades=st.lists(st.sampled_from(SYMBOLS), unique=True),
    depth=st.lists(st.sampled_from(SYMBOLS), unique=True),
    shards=st.integers(1, 5),
    size=st.integers(1, 10),
)
def test_each_subscription_is_on_exactly_one_session(
    trades: list[str], depth: list[str], shards: int, size: int
) -> None:
    config = configured(
        channels={"trades": trades, "depth": depth, "all_ticker": True},
        exchange={"subscriptions_per_session": size},
        kafka={"shards": shards},
    )
    sessions = [wanted for n in range(shards) for wanted in plan.plan(config, n).public]
    assert all(plan.count(wanted) <= size for wanted in sessions)
    found = [one for wanted in sessions for one in plan.subscriptions(wanted)]
    expected = [("trades", s) for s in trades] + [("depth", s) for s in depth] + [("all_ticker", "")]
    assert sorted(found) == sorted(expected)


def test_one_shard_serves_all_channels_of_a_market() -> None:
    config = configured(
        channels={"trades": SYMBOLS, "depth": SYMBOLS, "ticker": SYMBOLS}, kafka={"shards": 4}
    )
    homes: dict[str, set[int]] = {}
    for n in range(4):
        for wanted in plan.plan(config, n).public:
            for _, symbol in plan.subscriptions(wanted):
                homes.setdefault(symbol, set()).add(n)
    assert all(len(shards) == 1 for shards in homes.values())
    assert len({shard for shards in homes.values() for shard in shards}) == 4


def test_all_ticker_is_subscribed_to_for_its_markets_without_recording_it() -> None:
    config = configured(channels={"trades": ["*"], "depth": ["BTC_USDT"], "all_ticker": False})
    share = plan.plan(config, 0)
    assert share.public == [{"all_ticker": [], "depth": ["BTC_USDT"]}]
    assert share.follows == ("trades",)
    assert share.records == {"trades", "depth"}


def test_only_the_first_shard_subscribes_to_all_ticker() -> None:
    config = configured(kafka={"shards": 3})
    assert [plan.plan(config, n).public for n in range(3)] == [[{"all_ticker": []}], [], []]
    assert [plan.plan(config, n).records for n in range(3)] == [{"all_ticker"}, set(), set()]


def test_each_account_has_its_own_sessions_in_a_single_shard() -> None:
    accounts = [
        {"name": name, "api_key": "k", "secret": "s", "order": SYMBOLS, "balance": ["BTC"]}
        for name in ("a", "b")
    ]
    config = configured(accounts=accounts, kafka={"shards": 3})
    owners: dict[str, set[int]] = {}
    for n in range(3):
        for account, wanted in plan.plan(config, n).private:
            owners.setdefault(account.name, set()).add(n)
            assert plan.count(wanted) <= 30
    assert owners.keys() == {"a", "b"}
    assert all(len(shards) == 1 for shards in owners.values())
    assert plan.channels(config) == {"all_ticker", "order", "balance"}


WANTED = st.builds(
    lambda trades, depth, whole: (
        {name: symbols for name, symbols in (("trades", trades), ("depth", depth)) if symbols}
        | ({"all_ticker": []} if whole else {})
    ),
    st.lists(st.sampled_from(SYMBOLS), unique=True),
    st.lists(st.sampled_from(SYMBOLS), unique=True),
    st.booleans(),
).filter(bool)


@given(wanted=WANTED, size=st.integers(1, 40))
def test_a_session_is_split_into_few_parts_that_have_all_its_subscriptions(
    wanted: plan.Wanted, size: int
) -> None:
    parts = plan.parts(wanted, size)
    assert len(parts) <= -(-plan.count(wanted) // size)
    assert all(1 <= plan.count(part) <= size for part in parts)
    together: plan.Wanted = {}
    for part in parts:
        together = plan.joined(together, part)
    assert together.keys() == wanted.keys()
    assert {channel: sorted(symbols) for channel, symbols in together.items()} == {
        channel: sorted(symbols) for channel, symbols in wanted.items()
    }


def test_the_subscriptions_of_one_market_stay_together_in_a_part() -> None:
    symbols = SYMBOLS[:4]
    parts = plan.parts({"trades": symbols, "depth": symbols}, 4)
    assert parts == [
        {"trades": symbols[:2], "depth": symbols[:2]},
        {"trades": symbols[2:], "depth": symbols[2:]},
    ]


@pytest.mark.parametrize(
    ("depth", "book", "has_one"),
    [
        (["A"], ["A"], True),
        (["A"], ["*"], True),
        (["B"], ["*"], False),
        (["*"], ["B"], False),
        (["*"], ["*"], True),
        (["*"], ["A"], True),
    ],
)
def test_a_market_has_no_book_any_more_if_it_is_not_configured(
    depth: list[str], book: list[str], has_one: bool
) -> None:
    """Of its trades it may be subscribed to nevertheless, by its name."""
    config = configured(channels={"depth": depth, "book": book, "trades": ["A"], "all_ticker": True})
    assert plan.has_no_book(config, "A") is not has_one
