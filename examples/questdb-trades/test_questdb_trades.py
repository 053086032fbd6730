"""The candles of QuestDB are exact, and each trade is in its table once."""

import csv
import re
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path

from tests.support.candles import Candle, Key, candles, once
from tests.support.kafka_broker import free_ports
from tests.support.market import Market
from tests.support.waiting import eventually
from tests.support.walkthrough import MAVEN, PIP, Walkthrough, commands

HERE = Path(__file__).parent
CONFIGURE = "mkdir -p root/conf && cp server.conf root/conf"
SERVE = (
    "java --add-exports java.base/jdk.internal.math=ALL-UNNAMED"
    " --add-opens java.base/java.lang=ALL-UNNAMED"
    " -cp 'jars/*' io.questdb.ServerMain -d \"$PWD/root\""
)
CREATE = "curl -fsSG localhost:9000/exec --data-urlencode query@create.sql"
WRITE = "python to_questdb.py localhost:9092 localhost:9000"
ASK = "curl -fsSG localhost:9000/exp --data-urlencode query@candles.sql"
WRITTEN = r"^\d+ trades written$"


def found(example: Walkthrough) -> dict[Key, Candle]:
    """Return the candles that QuestDB makes of its table."""
    return once(map(candle, csv.DictReader(example.run(ASK).splitlines())))


def candle(row: dict[str, str]) -> tuple[Key, Candle]:
    first, high, low, last, volume = (Decimal(row[name]) for name in Candle._fields[:5])
    key = row["symbol"], start_us(row["minute"])
    return key, Candle(first, high, low, last, volume, int(row["trades"]))


def start_us(minute: str) -> int:
    return int(datetime.fromisoformat(minute).timestamp()) * 1_000_000


def test_candles_are_exact_also_after_a_kill(
    market: Market, walkthrough: Callable[..., Walkthrough]
) -> None:
    readme = HERE / "README.md"
    assert commands(readme) == [MAVEN, CONFIGURE, SERVE, PIP, CREATE, WRITE, ASK]
    assert re.search(WRITTEN, readme.read_text(), re.MULTILINE)
    (port,) = free_ports(1)
    example = walkthrough(HERE.name, {"localhost:9000": f"127.0.0.1:{port}"})
    configuration = example.folder / "server.conf"
    configuration.write_text(configuration.read_text().replace("9000", str(port)))
    example.run(CONFIGURE)
    with example.running(SERVE, "server is ready to be started|QuestDB is running"):
        example.run(CREATE)
        with example.running(WRITE, WRITTEN) as killed:
            killed.kill()
        market.await_minute()

        def exact() -> bool:
            """Whether all candles are there that no trade changes meanwhile."""
            before = candles(market.trades())
            settled, wrong = market.compare(before, found(example))
            return bool(settled) and not wrong

        with example.running(WRITE, WRITTEN):
            eventually(exact, 60, "exact candles", every=1)
