"""The candles made of Parquet files are exact, and each trade is in the files once."""

import json
import re
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Producer

from tests.support.candles import Candle, Key, candles, once, printed
from tests.support.consumers import create_topic
from tests.support.market import TRADES, Market
from tests.support.schemas import schema
from tests.support.walkthrough import PIP, Walkthrough, commands

HERE = Path(__file__).parent
COPY = "python to_parquet.py localhost:9092 trades"
CANDLES = "python candles.py trades"
LINE = r"^[A-Z]+_USDT 20\S+Z( \d+(\.\d+)?){5} \d+$"


def copied(example: Walkthrough) -> dict[Key, Candle]:
    """Copy the topic and return the candles of the files."""
    example.run(COPY)
    return once(map(printed, example.run(CANDLES).splitlines()))


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
    settled, wrong = market.compare(before, copied(example))
    assert settled
    assert not wrong


def test_candles_have_all_digits_and_each_trade_once(
    market: Market, walkthrough: Callable[..., Walkthrough]
) -> None:
    """Of trades as at-least-once delivery may repeat them."""
    (one,) = schema("trades")["examples"]
    one |= {"price": "100", "amount": "12345678901.123456789012345678"}
    different = [
        one,
        {**one, "id": one["id"] + 1, "price": "0.000000000000000001", "amount": "20"},
        {**one, "time_us": one["time_us"] + 1, "amount": "0.5"},  # ids have restarted
        {**one, "symbol": "ANOTHER_USDT"},
    ]
    repeated = [one, {**one, "session": "after-a-crash", "seq": 0, "snapshot": True}]
    topic = "repeated.trades.v1"
    create_topic(market.kafka, topic, 1)
    producer = Producer({"bootstrap.servers": market.kafka})
    for trade in different + repeated:
        producer.produce(topic, json.dumps(trade), trade["symbol"])
    assert producer.flush(60) == 0
    example = walkthrough(HERE.name)
    program = example.folder / "to_parquet.py"
    program.write_text(program.read_text().replace(TRADES, topic))
    assert copied(example) == candles(different)
