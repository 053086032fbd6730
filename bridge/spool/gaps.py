"""Gaps in trades caused by damage to a spool, each between two trades of a symbol."""

from typing import NamedTuple

from bridge.ledger import Watermark, Watermarks
from bridge.records import Record, session_of
from bridge.watch.events import About


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


def gap(lost: LostTrades) -> About:
    """Return the fields of the event that reports lost trades."""
    # What was open in front of the damage may have been reported in the part that is lost.
    open_before = lost.after.open.stretches
    after_id, after_us = open_before[0][:2] if open_before else lost.after.last
    about: About = {
        "channel": "trades",
        "symbol": lost.symbol.decode(errors="backslashreplace"),
        "cause": "spool_damaged",
        "detail": "the spool was damaged",
        "after_id": after_id,
        "after_us": after_us,
        "filled": 0,
    }
    if lost.before is not None and lost.before.mark is not None:
        before_id, before_us, _, _ = lost.before.mark
        if before_id is not None:
            about["session"] = session_of(lost.before)
            about["before_id"], about["before_us"] = before_id, before_us
    return about
