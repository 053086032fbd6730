"""What the tests of examples compare candles with notices any row of trades that is wrong."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.support.candles import candles, compared, once, printed
from tests.support.market import assert_counted_once
from tests.support.schemas import schema

Rows = list[dict[str, Any]]

(ONE,) = schema("trades")["examples"]
START = ONE["time_us"] // 60_000_000 * 60_000_000
ROWS: Rows = [
    ONE | {"symbol": symbol, "id": number, "time_us": START + number, "price": price, "amount": amount}
    for symbol in ("BTC_USDT", "ETH_USDT")
    for number, (price, amount) in enumerate(
        [("2", "0.5"), ("3", "12345678901.123456789012345678"), ("1", "7"), ("2.50", "0.000000000000000001")]
    )
]


def other_digit(figure: str) -> str:
    return f"{figure[:-1]}{(int(figure[-1]) + 1) % 10}"


WRONG: dict[str, Callable[[Rows, int], Rows]] = {
    "missing": lambda rows, at: rows[:at] + rows[at + 1 :],
    "twice": lambda rows, at: [*rows, rows[at]],
    "another price": lambda rows, at: changed(rows, at, price=other_digit(rows[at]["price"])),
    "another amount": lambda rows, at: changed(rows, at, amount=other_digit(rows[at]["amount"])),
    "as a float": lambda rows, at: changed(rows, at, amount=repr(float(rows[at]["amount"]) + 1e-7)),
    "of another market": lambda rows, at: changed(rows, at, symbol="ANOTHER_USDT"),
    "of another minute": lambda rows, at: changed(rows, at, time_us=START + 60_000_000),
    "twice, once elsewhere": lambda rows, at: [*rows, rows[at] | {"symbol": "ANOTHER_USDT"}],
}


def changed(rows: Rows, at: int, **fields: Any) -> Rows:
    return [row | fields if number == at else row for number, row in enumerate(rows)]


@pytest.mark.parametrize("fault", WRONG)
@pytest.mark.parametrize("at", range(len(ROWS)))
def test_a_wrong_row_is_noticed(fault: str, at: int) -> None:
    expected = candles(ROWS)
    assert compared(expected, candles(ROWS), expected) == (expected, {})
    assert compared(expected, candles(WRONG[fault](ROWS, at)), expected).wrong


def test_candles_that_change_meanwhile_are_not_compared_and_others_are() -> None:
    later = [*ROWS, ROWS[0] | {"id": 99, "time_us": START + 99}]
    before, after = candles(ROWS), candles(later)
    for found in (before, after):
        settled, wrong = compared(before, found, after)
        assert {symbol for symbol, _ in settled} == {"ETH_USDT"}
        assert not wrong
    assert compared(before, {}, after).wrong.keys() == settled.keys()
    assert not compared({}, {}, after).settled


def test_a_candle_that_is_printed_twice_is_noticed() -> None:
    line = "BTC_USDT 2026-11-28T16:30Z 1 2 0.5 1 3 4"
    assert len(once([printed(line)])) == 1
    with pytest.raises(AssertionError):
        once([printed(line), printed(line)])


@pytest.mark.parametrize("counts", [[1, 1], [2, 1], [1, 2, 2]])
def test_a_candle_that_counts_a_trade_again_is_noticed(counts: list[int]) -> None:
    prices = dict.fromkeys(("open", "high", "low", "close", "volume"), "1")
    records = [prices | {"symbol": "BTC_USDT", "start_us": START, "trades": number} for number in counts]
    with pytest.raises(AssertionError):
        assert_counted_once(records)
    assert_counted_once(records[:1])
