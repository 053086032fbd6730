"""A replica is ready while it does its work; what it does less well makes it degraded."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.watch.readiness import (
    LARGEST,
    STATES,
    Readiness,
    Standing,
    State,
    as_json,
    counts,
    fitting,
    of_sessions,
    sessions_of,
    subscriptions_of,
)


def standing(
    trouble: str = "",
    *,
    account: str | None = None,
    coming_up: bool = False,
    state: State = "confirmed",
    symbols: tuple[str, ...] = ("BTC_USDT", "ETH_USDT"),
) -> Standing:
    why = "no such market" if state == "refused" else ""
    return Standing(
        account,
        None if trouble else "s1",
        None if trouble else "127.0.0.1:443",
        trouble,
        coming_up,
        {("depth", symbol): (state, why) for symbol in symbols},
    )


LIVE, DOWN = standing(), standing("refused: HTTP 403")
COMING = standing("subscribing", coming_up=True)
ACCOUNT, REFUSED_ACCOUNT = standing(account="main"), standing("rejected: bad key", account="main")


@pytest.mark.parametrize(
    ("standings", "missing", "degraded"),
    [
        ([], [], []),
        ([LIVE, LIVE], [], []),
        ([LIVE, DOWN], [], ["sessions"]),
        ([DOWN, DOWN], ["sessions"], []),
        ([LIVE, COMING], ["sessions"], []),
        ([COMING], ["sessions"], []),
        ([LIVE, REFUSED_ACCOUNT], [], ["accounts"]),
        ([DOWN, ACCOUNT], ["sessions"], []),
        ([ACCOUNT], [], []),
        ([REFUSED_ACCOUNT], ["sessions"], ["accounts"]),
        ([LIVE, standing(state="refused")], [], ["refused"]),
        ([LIVE, standing(state="silent")], [], ["silent"]),
    ],
)
def test_one_live_session_is_enough_once_all_have_been_tried(
    standings: list[Standing], missing: list[str], degraded: list[str]
) -> None:
    readiness = of_sessions(standings)
    assert (list(readiness.missing), list(readiness.degraded)) == (missing, degraded)
    assert readiness.ready is not bool(missing)


def test_what_is_the_matter_is_said_by_cause_with_number_and_names() -> None:
    degraded = of_sessions([LIVE, DOWN, DOWN, standing("timeout", symbols=("X_Y",))]).degraded
    assert degraded["sessions"] == [
        {"cause": "refused: HTTP 403", "number": 2, "names": ["depth BTC_USDT and 1 more"] * 2},
        {"cause": "timeout", "number": 1, "names": ["depth X_Y"]},
    ]
    refused = of_sessions([standing(state="refused")]).degraded["refused"]
    assert refused == [
        {"cause": "no such market", "number": 2, "names": ["depth BTC_USDT", "depth ETH_USDT"]}
    ]


def test_the_body_has_only_what_there_is_to_say() -> None:
    assert Readiness().body(named=True) == {"ready": True}
    assert Readiness({"kafka": "away"}, {}).body(named=True) == {
        "ready": False,
        "missing": {"kafka": "away"},
    }


def test_subscriptions_are_counted_by_channel_and_state() -> None:
    assert counts([LIVE, LIVE, standing(state="silent")]) == {
        ("depth", "confirmed"): 4,
        ("depth", "silent"): 2,
    }


def test_a_session_is_listed_with_what_is_not_confirmed_and_whole_on_request() -> None:
    (listed,) = sessions_of(3, [standing(state="refused")])
    assert (listed["shard"], listed["state"], listed["address"]) == (3, "live", "127.0.0.1:443")
    assert listed["subscriptions"] == {"refused": 2}
    assert listed["not_confirmed"] == ["depth BTC_USDT", "depth ETH_USDT"]
    assert subscriptions_of("s2", [LIVE]) is None
    assert subscriptions_of("s1", [LIVE]) == [
        {"subscription": "depth BTC_USDT", "state": "confirmed", "why": ""},
        {"subscription": "depth ETH_USDT", "state": "confirmed", "why": ""},
    ]


def test_ready_gives_causes_and_numbers_and_no_names() -> None:
    body = of_sessions([LIVE, DOWN, REFUSED_ACCOUNT, standing(state="silent")]).body(named=False)
    assert body == {
        "ready": True,
        "degraded": {
            "sessions": [{"cause": "refused: HTTP 403", "number": 1}],
            "accounts": [{"cause": "rejected: bad key", "number": 1}],
            "silent": [{"cause": "no list or snapshot", "number": 2}],
        },
    }


def test_many_long_causes_and_names_leave_room_for_each_kind_and_for_the_sessions() -> None:
    """The most that the exchange can make of it: every subscription is refused in its own long words."""
    word = "\N{GRINNING FACE}" * 300
    standings = [
        Standing(account, "s1", None, f"{n}{word}", False, {("depth", f"{word}{n}"): (state, f"{n}{word}")})
        for n in range(300)
        for account in (None, f"{n}{word}")
        for state in ("refused", "silent")
    ]
    readiness = of_sessions([*standings, LIVE])
    for named in (False, True):
        body = readiness.body(named=named)
        assert len(as_json(body)) <= LARGEST // 2
        degraded = body["degraded"]
        assert isinstance(degraded, dict)
        assert list(degraded) == ["sessions", "accounts", "refused", "silent"]
        assert [sum(group["number"] for group in groups) for groups in degraded.values()] == [600] * 4
    assert len(as_json(fitting(body, "sessions", list(sessions_of(0, standings))))) <= LARGEST


words = st.text(max_size=400)
symbols = st.lists(st.text(max_size=40), unique=True, max_size=40)
any_standing = st.builds(
    lambda account, trouble, coming_up, names, state, why: Standing(
        account, "s1", None, trouble, coming_up, {("depth", name): (state, why) for name in names}
    ),
    st.none() | words,
    words,
    st.booleans(),
    symbols,
    st.sampled_from(STATES),
    words,
)


@given(st.lists(any_standing, max_size=60), st.integers(1, 40))
def test_no_response_is_larger_than_64_kib_whatever_the_exchange_says(
    standings: list[Standing], times: int
) -> None:
    readiness = of_sessions(standings)
    assert len(as_json(readiness.body(named=False))) <= LARGEST
    listed = list(sessions_of(0, standings)) * times
    status = fitting(dict(readiness.body(named=True)), "sessions", listed)
    assert len(as_json(status)) <= LARGEST
    kept = json.loads(as_json(status))["sessions"]
    assert len(kept) + json.loads(as_json(status)).get("left_out", 0) == len(listed)
