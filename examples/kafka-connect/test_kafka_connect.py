"""The Iceberg table that Kafka Connect fills has each trade once."""

import re
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

from tests.support.candles import candles, once, printed
from tests.support.kafka_broker import free_ports
from tests.support.market import TRADES, Market
from tests.support.waiting import eventually
from tests.support.walkthrough import MAVEN, Walkthrough, commands

HERE = Path(__file__).parent
CREATE = (
    "kafka-topics.sh --bootstrap-server localhost:9092"
    " --create --topic control-trades --partitions 1"
)
BEGIN = (
    "kafka-consumer-groups.sh --bootstrap-server localhost:9092"
    " --group connect-trades-coord --topic control-trades"
    " --reset-offsets --to-earliest --execute"
)
RUN = (
    "java -Xmx384m -cp 'jars/*' org.apache.kafka.connect.cli.ConnectStandalone"
    " worker.properties trades.properties"
)
PIP = "pip install --require-hashes -r requirements.txt"
LINE = r"^[A-Z]+_USDT 20\S+Z( \d+(\.\d+)?){5} \d+$"
READ = "python from_iceberg.py warehouse/market/trades"


def test_the_table_has_each_trade_once_also_after_a_kill(
    market: Market, walkthrough: Callable[[str], Walkthrough]
) -> None:
    readme = HERE / "README.md"
    assert re.search(LINE, readme.read_text(), re.MULTILINE)
    assert commands(readme) == [MAVEN, CREATE, BEGIN, RUN, PIP, READ]
    example = walkthrough(HERE.name)
    worker = example.folder / "worker.properties"
    (port,) = free_ports(1)
    text = worker.read_text().replace("localhost:9092", market.kafka)
    worker.write_text(text.replace(":8083", f":{port}"))
    example.run(CREATE)
    example.run(BEGIN)

    # The worst moment: offsets are committed, the files of these trades are not.
    with example.running(RUN) as killed:
        await_offsets(market.kafka)
        killed.kill()
    market.await_trades(200)
    before = candles(market.trades())

    def right() -> bool:
        found = once(map(printed, example.run(READ).splitlines()))
        settled, wrong = market.compare(before, found)
        return bool(settled) and not wrong

    with example.running(RUN):
        eventually(right, 60, "exact candles", every=2)


def await_offsets(kafka: str) -> None:
    """Wait until the connector has committed offsets of trades."""
    group = Consumer({"bootstrap.servers": kafka, "group.id": "connect-trades"})
    partitions = group.list_topics(TRADES, timeout=60).topics[TRADES].partitions
    places = [TopicPartition(TRADES, partition) for partition in partitions]

    def committed() -> bool:
        return any(place.offset > 0 for place in group.committed(places, timeout=60))

    try:
        eventually(committed, 40, "committed offsets", every=0.02)
    finally:
        group.close()
