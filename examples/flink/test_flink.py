"""The candles of Flink SQL are exact, and each trade is in them once."""

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

from confluent_kafka import Producer

from tests.support.candles import candle
from tests.support.market import TRADES, Market, assert_counted_once
from tests.support.process import ROOT
from tests.support.waiting import eventually
from tests.support.walkthrough import MAVEN, Walkthrough, commands

HERE = Path(__file__).parent
CREATE = (
    "kafka-topics.sh --bootstrap-server localhost:9092"
    " --create --topic candles-flink --config cleanup.policy=compact"
)
RUN = "java @java.options RunSql.java candles.sql localhost:9092"
READ = (
    "kcat -b localhost:9092 -C -e -q -t candles-flink -X isolation.level=read_committed"
)


def test_candles_are_exact_and_count_each_trade_once_also_after_a_kill(
    market: Market, walkthrough: Callable[[str], Walkthrough]
) -> None:
    assert commands(HERE / "README.md") == [CREATE, MAVEN, RUN, READ]
    example = walkthrough(HERE.name)
    example.run(CREATE)
    with example.running(RUN, "^running$") as first:
        market.await_records("candles-flink", 50)
        first.kill()
    market.await_trades(200)
    with example.running(RUN, r"^continuing from chk-\d+$"):
        records = market.await_candles("candles-flink")
    assert_counted_once(records)
    assert json.loads(example.run(READ).splitlines()[-1]).keys() == records[0].keys()


def test_a_price_that_a_decimal_cannot_hold_fails_the_job(
    market: Market, walkthrough: Callable[[str], Walkthrough]
) -> None:
    (trade,) = json.loads((ROOT / "schemas/trades/v1.json").read_text())["examples"]
    producer = Producer({"bootstrap.servers": market.kafka})

    def produce(*prices: str) -> None:
        for price in prices:
            producer.produce("odd.trades.v1", json.dumps(trade | {"price": price}))
        producer.flush()

    def odd_candle() -> tuple[object, ...]:
        found = [candle(record)[1] for record in market.read("candles-odd")]
        return found[-1] if found else (None, None, None)

    produce("0.000000000000000001", "1.5e-8")
    example = walkthrough(HERE.name)
    sql = example.folder / "candles.sql"
    text = sql.read_text().replace(TRADES, "odd.trades.v1")
    sql.write_text(text.replace("candles-flink", "candles-odd"))
    example.run(CREATE.replace("candles-flink", "candles-odd"))
    with example.running(RUN, "^running$") as job:
        high_low = Decimal("1.5e-8"), Decimal("1e-18")
        eventually(lambda: odd_candle()[1:3] == high_low, 60, "the candle", every=1)
        produce("0.0000000000000000001")
        assert job.process.wait() == 1
    assert '"price": "0.0000000000000000001"' in job.errors.read_text()
