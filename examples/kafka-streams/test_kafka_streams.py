"""The candles of Kafka Streams are exact, and each trade is in them once."""

import re
from collections.abc import Callable
from pathlib import Path

from tests.support.market import Market, assert_counted_once
from tests.support.walkthrough import MAVEN, Walkthrough, commands

HERE = Path(__file__).parent
CREATE = (
    "kafka-topics.sh --bootstrap-server localhost:9092"
    " --create --topic candles-streams --config cleanup.policy=compact"
)
RUN = "java -cp 'jars/*' Candles.java localhost:9092"
READ = (
    "kcat -b localhost:9092 -C -e -q -t candles-streams"
    r" -X isolation.level=read_committed -f '%k %s\n'"
)
LINE = (
    r"^[A-Z]+_USDT 20\S+:00Z open \d+\.\d+ high \d+\.\d+ low \d+\.\d+"
    r" close \d+\.\d+ volume \d+\.\d+ trades \d+$"
)


def test_candles_are_exact_and_count_each_trade_once_also_after_a_kill(
    market: Market, walkthrough: Callable[[str], Walkthrough]
) -> None:
    readme = HERE / "README.md"
    assert commands(readme) == [CREATE, MAVEN, RUN, READ]
    assert re.search(LINE, readme.read_text(), re.MULTILINE)
    example = walkthrough(HERE.name)
    example.run(CREATE)
    with example.running(RUN, LINE) as first:
        market.await_trades(200)
        first.kill()
    market.await_trades(200)
    with example.running(RUN, LINE):
        records = market.await_candles("candles-streams")
    assert_counted_once(records)
    keys = {line.split(" {")[0] for line in example.run(READ).splitlines()}
    assert {one["symbol"] for one in records} == {key.split()[0] for key in keys}
