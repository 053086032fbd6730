"""The topics that the examples read, and what they have to make of them."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tests.support.candles import Candle, Comparison, Key, candle, candles, compared
from tests.support.consumers import read_topic
from tests.support.waiting import eventually

TRADES = "digifinex.trades.v1"


class Market:
    """The topics `digifinex.*` of a bridge that runs as long as the tests."""

    def __init__(self, kafka: str) -> None:
        self.kafka = kafka
        """The address of the broker."""

    def read(self, topic: str) -> list[dict[str, Any]]:
        """Return the committed records of a topic up to now, each partition in order."""
        return [json.loads(one.value) for one in read_topic(self.kafka, topic)]

    def trades(self) -> list[dict[str, Any]]:
        """Return the records of `trades` up to now."""
        return self.read(TRADES)

    def await_trades(self, number: int) -> None:
        """Wait until there are so many more trades than now."""
        self.await_records(TRADES, len(self.trades()) + number)

    def await_records(self, topic: str, number: int) -> None:
        """Wait until there are so many records on a topic."""
        eventually(lambda: len(self.read(topic)) >= number, 60, f"records on {topic}", every=0.5)

    def await_minute(self) -> None:
        """Wait until there are trades of two minutes, so that candles of one do not change any more."""
        eventually(lambda: len({start for _, start in candles(self.trades())}) > 1, 90, "a minute", every=1)

    def compare(self, before: Mapping[Key, Candle], found: Mapping[Key, Candle]) -> Comparison:
        """Compare candles with those of the trades before they were found, and now."""
        return compared(before, found, candles(self.trades()))

    def await_candles(self, topic: str, minutes: int = 2) -> list[dict[str, Any]]:
        """Wait until the newest record of each candle on `topic` is what the trades say.

        Return all its records. Trades keep coming, so candles that change meanwhile are not compared, but
        some of so many minutes are.
        """
        records: list[dict[str, Any]] = []
        wrong: dict[Key, tuple[Candle | None, Candle | None]] = {}

        def right() -> bool:
            before = candles(self.trades())
            records[:] = self.read(topic)
            settled, different = self.compare(before, dict(map(candle, records)))
            wrong.clear()
            wrong.update(different)
            return not wrong and len({start for _, start in settled}) >= minutes

        try:
            eventually(right, 100, f"candles on {topic}", every=1)
        except AssertionError as error:
            error.add_note(f"expected and found: {wrong}")
            raise
        return records


def assert_counted_once(records: Iterable[Mapping[str, Any]]) -> None:
    """Assert that no record of a candle repeats or takes back the one before it."""
    counted: dict[Key, int] = {}
    for record in records:
        key, one = candle(record)
        assert one.trades > counted.get(key, 0), record
        counted[key] = one.trades
