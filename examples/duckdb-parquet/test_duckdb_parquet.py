"""The candles made of Parquet files are exact, and each trade is in the files once."""

import re
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from tests.support.candles import Candle, Key, candles
from tests.support.market import Market
from tests.support.walkthrough import PIP, Walkthrough, commands

HERE = Path(__file__).parent
COPY = "python to_parquet.py localhost:9092 trades"
CANDLES = "python candles.py trades"
LINE = r"^[A-Z]+_USDT 20\S+Z( \d+(\.\d+)?){5} \d+$"


def candle(line: str) -> tuple[Key, Candle]:
    symbol, minute, *figures, trades = line.split()
    first, high, low, last, volume = map(Decimal, figures)
    start_us = int(datetime.fromisoformat(minute).timestamp()) * 1_000_000
    return (symbol, start_us), Candle(first, high, low, last, volume, int(trades))


def test_candles_are_exact_also_when_a_copy_was_killed(
    market: Market, walkthrough: Callable[..., Walkthrough]
) -> None:
    readme = HERE / "README.md"
    assert commands(readme) == [PIP, COPY, CANDLES]
    assert re.search(LINE, readme.read_text(), re.MULTILINE)
    example = walkthrough(HERE.name)
    market.await_minute()
    with example.running(COPY, r"^trades/\d+-\d+-\d+\.parquet$") as killed:
        killed.kill()
    market.await_trades(50)
    before = candles(market.trades())
    example.run(COPY)
    found = dict(map(candle, example.run(CANDLES).splitlines()))
    settled = market.settled(before)
    assert settled
    assert {key: found.get(key) for key in settled} == settled
