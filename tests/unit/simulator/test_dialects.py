"""Ways in which the simulated exchange differs from the usual one."""

import pytest

from bridge.simulator.dialects import DOCUMENTED, Dialect, parse_dialect, spoken
from bridge.simulator.market import Exchange, Update

SYMBOL = "BTC_USDT"
TIME = 1_600_000_000.123_456


def test_a_dialect_is_parsed_from_names_and_values() -> None:
    assert parse_dialect("") == DOCUMENTED
    parsed = parse_dialect("adds, long_lists=20,trade_times=mixed")
    assert parsed == Dialect(adds="replaces", long_lists=20, trade_times="mixed")


def test_a_name_alone_turns_an_assumption_round() -> None:
    parsed = parse_dialect("compressed,long_lists")
    assert (parsed.compressed, parsed.long_lists) == ("answers", 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ads", "unknown dialect 'ads': did you mean adds?"),
        ("moon", "unknown dialect 'moon': there are compressed, "),
        ("adds=never", "adds=never: must be one of adds, replaces"),
        ("long_lists=-1", "long_lists=-1: not a number"),
    ],
)
def test_a_wrong_dialect_names_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_dialect(text)


def times(way: str, *, clean: bool) -> list[float]:
    update = Update("trades", SYMBOL, [clean, [{"id": 1, "time": TIME}], SYMBOL])
    said = spoken(update, parse_dialect(f"trade_times={way}"))
    return [trade["time"] for trade in said.params[1]]


@pytest.mark.parametrize(
    ("way", "in_lists", "in_pushes"),
    [
        ("fraction", TIME, TIME),
        ("whole", 1_600_000_000, 1_600_000_000),
        ("milliseconds", 1_600_000_000_123, 1_600_000_000_123),
        ("microseconds", 1_600_000_000_123_456, 1_600_000_000_123_456),
        ("mixed", 1_600_000_000_123, TIME),
        ("rounded", 1_600_000_000, TIME),
    ],
)
def test_times_of_trades_have_other_units(way: str, in_lists: float, in_pushes: float) -> None:
    assert times(way, clean=True) == [in_lists]
    assert times(way, clean=False) == [in_pushes]


@pytest.mark.parametrize("length", [0, 5, 200])
def test_lists_have_another_length(length: int) -> None:
    exchange = Exchange([SYMBOL], 7, listed=length)
    for _ in range(300):
        exchange.event("trades", TIME)
    _, trades, _ = exchange.markets[SYMBOL].clean_trades().params
    assert len(trades) == length
