"""Gaps in trades caused by damage to a spool, each between two trades of a symbol; pure."""

from typing import NamedTuple

from bridge.ledger import Watermark, Watermarks
from bridge.records import Record


class LostTrades(NamedTuple):
    """Trades of a symbol between the watermark `after` and the trade `before`; None if no trade follows."""

    symbol: bytes
    after: Watermark
    before: Record | None


class Gaps:
    """Finds the bounds of each gap while the records behind the damage are read."""

    def __init__(self) -> None:
        # Symbols with lost trades, each with its watermark in front of the damage; a symbol is removed when a
        # later trade of it is read.
        self._open: dict[bytes, Watermark] = {}
        self._closed: list[LostTrades] = []  # gaps with both bounds, since the last `closed()`

    def open(self, known: Watermarks, behind: Watermarks) -> None:
        """Open a gap for each symbol that has lost trades: its watermark behind the damage is newer."""
        for symbol, watermark in known.items():
            if symbol in behind and behind[symbol].newness > watermark.newness:
                self._open.setdefault(symbol, watermark)

    @property
    def any_open(self) -> bool:
        """Whether a gap waits for its end."""
        return bool(self._open)

    def close(self, record: Record) -> None:
        """Close the gap that ends with this record, if it is a trade and there is one."""
        if record.mark is not None and record.mark[0] is not None and record.key in self._open:
            self._closed.append(LostTrades(record.key, self._open.pop(record.key), record))

    def close_all(self) -> None:
        """Close the gaps behind which no trade follows."""
        self._closed += [LostTrades(symbol, after, None) for symbol, after in self._open.items()]
        self._open.clear()

    def closed(self) -> list[LostTrades]:
        """Return the gaps that were closed since the last call."""
        closed, self._closed = self._closed, []
        return closed
