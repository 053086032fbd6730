"""order and order_algo: an account's orders, with names for the numeric codes of the exchange."""

import pytest

from bridge.channels.channel import Source
from tests.support.pushes import Feed, bad, records, source
from tests.support.schemas import Json

ORDER: Json = {
    "amount": "0.50",
    "filled": "0.25",
    "id": "31b7f41c81787b4200c75eb074e6edc9",
    "mode": 1,
    "notional": "2000.00",
    "price": "4000",
    "price_avg": "3999.5",
    "side": "buy",
    "status": 1,
    "symbol": "BTC_USDT",
    "timestamp": 1589272547000,
    "type": "limit",
}
ALGO: Json = {
    "algo_price": "4000",
    "amount": "1",
    "id": "ff0738804cc3361fa91cb7c84feb113c",
    "mode": 1,
    "side": "buy",
    "status": 0,
    "symbol": "BTC_USDT",
    "timestamp": 1586767202000,
    "trigger_price": "4000",
}
FIGURES = {"price", "price_avg", "amount", "filled", "notional", "algo_price", "trigger_price"}

EACH = pytest.mark.parametrize(("channel", "order"), [("order", ORDER), ("order_algo", ALGO)])


@pytest.mark.parametrize(
    ("channel", "order", "words"),
    [
        (
            "order",
            ORDER,
            {
                0: "unfilled",
                1: "partially_filled",
                2: "filled",
                3: "canceled_unfilled",
                4: "canceled_partially_filled",
            },
        ),
        (
            "order_algo",
            ALGO,
            {-2: "failed", -1: "canceled", 0: "waiting", 1: "triggering", 2: "triggered"},
        ),
    ],
)
def test_each_status_code_has_a_name_and_any_other_is_bad(
    channel: str, order: Json, words: dict[int, str]
) -> None:
    for status in range(-5, 10):
        if status in words:
            (record,) = records(channel, [order | {"status": status}])
            assert record["status"] == words[status]
        else:
            assert len(bad(channel, [order | {"status": status}])) == 1


@EACH
def test_each_mode_code_has_a_name_and_any_other_is_bad(channel: str, order: Json) -> None:
    (spot, margin) = records(channel, [order | {"mode": 1}, order | {"mode": 2}])
    assert (spot["mode"], margin["mode"]) == ("spot", "margin")
    assert len(bad(channel, [order | {"mode": mode} for mode in (0, 3, "spot", None)])) == 4


@EACH
def test_every_field_but_the_figures_is_required(channel: str, order: Json) -> None:
    for name in order.keys() - FIGURES:
        assert len(bad(channel, [{key: value for key, value in order.items() if key != name}])) == 1, name


@EACH
def test_a_figure_that_is_left_out_or_empty_is_null(channel: str, order: Json) -> None:
    for name in order.keys() & FIGURES:
        without = {key: value for key, value in order.items() if key != name}
        for sent in (without, *(order | {name: empty} for empty in ("", "-", None))):
            (record,) = records(channel, [sent])
            assert record[name] is None
            assert all(record[other] for other in order.keys() & FIGURES if other != name)


@EACH
def test_a_record_names_the_account_of_its_session(channel: str, order: Json) -> None:
    feed = Feed(channel)
    for account in ("one", "other"):
        feed.push([order], Source(f"session of {account}", account))
    assert [(record["account"], record["seq"]) for record in feed.records] == [("one", 0), ("other", 0)]


@EACH
def test_a_repeated_state_becomes_another_record(channel: str, order: Json) -> None:
    """Nothing in a push shows whether it is a repetition: it has no counter, and times may be in seconds."""
    feed, session = Feed(channel), source()
    feed.push([order], session)
    feed.push([order], session)
    assert [record["seq"] for record in feed.records] == [0, 1]


@EACH
def test_a_bad_order_uses_no_seq_and_does_not_spoil_the_others(channel: str, order: Json) -> None:
    feed, session = Feed(channel), source()
    outcome = feed.push([order, order | {"side": "hold"}, order | {"amount": "x"}, order], session)
    assert [record["seq"] for record in feed.records] == [0, 1]
    assert len(outcome.bad) == 2


@EACH
def test_the_time_of_a_push_is_that_of_its_newest_order(channel: str, order: Json) -> None:
    times = (1589272548000, 1589272549000, 1589272547000)
    outcome = Feed(channel).push([order | {"timestamp": time} for time in times], source())
    assert outcome.time_us == 1589272549000_000
