"""The memory of order books: `python -m benchmarks.books` prints megabytes of resident memory.

What it measures is the room that keeps them, with a book for each market and a record made of each.
"""

import gc
from collections.abc import Iterator

import psutil

from benchmarks import supply
from bridge.books.present import PresentBooks
from bridge.records import Record
from bridge.simulator.market import symbol_names

LEVELS = 150
"""Levels on each side of a book."""

_MB = 1024 * 1024
_RECEIVED_US = 1_600_000_000_000_000


def main() -> None:
    """Print how much memory the books of all markets take."""
    present = PresentBooks(wanted=None, levels=0, interval_us=1_000_000, patience_us=5_000_000)
    process = psutil.Process()
    for record in _snapshots(["WARM_UP"]):
        present.take([record])
    present.forget(b"WARM_UP")
    gc.collect()
    before = process.memory_info().rss
    for record in _snapshots(symbol_names(supply.MARKETS)):
        present.take([record])
    made = list(present.due(_RECEIVED_US + 1_000_000))
    assert len(made) == supply.MARKETS
    print(f"{(process.memory_info().rss - before) / _MB:.1f}", flush=True)


def _snapshots(symbols: list[str]) -> Iterator[Record]:
    """Yield a record of depth for each symbol, with prices of its own."""
    head = f'{{"schema":"digifinex.depth.v1","session":"s","seq":0,"received_us":{_RECEIVED_US}'
    for number, symbol in enumerate(symbols):
        asks = ",".join(f'["{30_000 + number}.{level:04d}","{level}.1250"]' for level in range(LEVELS))
        bids = ",".join(f'["{29_999 + number}.{9999 - level:04d}","{level}.1250"]' for level in range(LEVELS))
        value = f'{head},"symbol":"{symbol}","snapshot":true,"asks":[{asks}],"bids":[{bids}]}}'
        yield Record("depth", symbol.encode(), value.encode(), _RECEIVED_US)


if __name__ == "__main__":
    main()
