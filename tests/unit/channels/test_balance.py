"""balance: an account's balance of a currency, with all its digits."""

import pytest
from hypothesis import given, settings

from bridge.channels.channel import Source
from tests.support.decimals import decimals
from tests.support.pushes import Feed, bad, records, source
from tests.support.schemas import Json

BALANCE: Json = {"currency": "USDT", "free": "90.5", "total": "100.5", "used": "10.0"}


@settings(deadline=None, max_examples=30)
@given(decimals, decimals, decimals)
def test_a_record_keeps_every_digit(free: str, total: str, used: str) -> None:
    (record,) = records("balance", [BALANCE | {"free": free, "total": total, "used": used}])
    assert (record["free"], record["total"], record["used"]) == (free, total, used)


def test_each_currency_has_its_own_seq_in_upper_or_lower_case() -> None:
    found = records(
        "balance", [BALANCE | {"currency": currency} for currency in ("USDT", "BTC", "usdt", "Btc")]
    )
    assert [(record["currency"], record["seq"]) for record in found] == [
        ("USDT", 0),
        ("BTC", 0),
        ("USDT", 1),
        ("BTC", 1),
    ]


def test_a_record_names_the_account_of_its_session() -> None:
    feed = Feed("balance")
    feed.push([BALANCE], Source("s1", "savings"))
    assert feed.records[0]["account"] == "savings"


@pytest.mark.parametrize("name", ["free", "total", "used"])
def test_a_figure_that_is_left_out_or_empty_is_null(name: str) -> None:
    without = {key: value for key, value in BALANCE.items() if key != name}
    for balance in (without, *(BALANCE | {name: empty} for empty in ("", "-", None))):
        (record,) = records("balance", [balance])
        assert record[name] is None
        assert all(record[other] for other in ("free", "total", "used") if other != name)


def test_the_currency_is_required() -> None:
    without = {key: value for key, value in BALANCE.items() if key != "currency"}
    for balance in (without, BALANCE | {"currency": None}):
        assert len(bad("balance", [balance])) == 1


def test_a_bad_balance_uses_no_seq_and_does_not_spoil_the_others() -> None:
    feed, session = Feed("balance"), source()
    outcome = feed.push([BALANCE, BALANCE | {"free": "lots"}, BALANCE], session)
    assert [record["seq"] for record in feed.records] == [0, 1]
    assert outcome.bad == ["USDT: 'lots' is not a decimal"]


def test_a_balance_push_has_no_time() -> None:
    assert Feed("balance").push([BALANCE], source()).time_us is None
