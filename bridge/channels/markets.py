"""What the channel that lists markets (all_ticker) says of them: which there are, and which move. Pure.

Times are seconds of a monotonic clock.
"""

from collections.abc import Container, Iterable
from decimal import Decimal, InvalidOperation
from math import inf

import msgspec
from msgspec import Struct

from bridge.records import Record

_WHOLE = 0.5  # share of the known markets that a first push names, at least, to be a list of all
_UNNAMED = 3600.0  # seconds for which all_ticker does not name a market that is gone, without such a list
_PAUSE = 60.0  # seconds between two pushes, at most, that count as having heard all_ticker


class _Shown(Struct, gc=False):
    """What a record of all_ticker shows of a market."""

    last: str | None = None
    last_qty: str | None = None
    base_volume_24h: str | None = None
    best_bid: str | None = None
    best_bid_size: str | None = None
    best_ask: str | None = None
    best_ask_size: str | None = None


_decode = msgspec.json.Decoder(_Shown).decode


class _Market:
    """What is known of one market."""

    __slots__ = ("named", "quoted_at", "shown", "traded_at")

    def __init__(self, named: float) -> None:
        self.shown: _Shown | None = None  # when it was named last while it was watched
        self.named = named  # when it was named last, in seconds of `Markets._heard`
        self.traded_at = -inf  # when a trade was last seen
        self.quoted_at = -inf  # when its best prices were last seen to change


class Markets:
    """The markets that all_ticker has named so far, up to `most`."""

    def __init__(self, most: int) -> None:
        self.left_out = False  # whether there were more
        self._most = most
        self._markets: dict[str, _Market] = {}  # by symbol; only grows
        self._session = ""  # that brought the last push
        self._taken_at: float | None = None  # when the last push came
        self._heard = 0.0  # for how many seconds all_ticker has been heard; longer pauses do not count
        self._listed = -inf  # when a list of all came last, in seconds of `_heard`

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._markets)

    def take(
        self, records: Iterable[Record], session: str, now: float, watched: Container[str]
    ) -> tuple[list[str], list[str]]:
        """Take the records of one push; return the known symbols that it names, and the new ones.

        Of those that are `watched`, it is noted whether they move.

        After each subscribe, the first push may be a list of all markets, while later ones have those that
        changed. It is taken for such a list if it names at least half of the known markets.
        """
        if self._taken_at is not None:
            self._heard += min(now - self._taken_at, _PAUSE)
        self._taken_at = now
        named = {(record.key or b"").decode(): record.value for record in records}
        known = [symbol for symbol in named if symbol in self._markets]
        new = sorted(symbol for symbol in named if symbol not in self._markets)
        room = max(0, self._most - len(self._markets))
        self.left_out = self.left_out or len(new) > room
        is_whole = len(known) >= _WHOLE * len(self._markets)
        for symbol in new[:room]:
            self._markets[symbol] = _Market(self._heard)
        for symbol in (*known, *new[:room]):
            market = self._markets[symbol]
            market.named = self._heard
            if symbol in watched:
                _note_changes(market, _decode(named[symbol]), now)
        is_first, self._session = session != self._session, session
        if is_first and is_whole:
            self._listed = self._heard
        return known, new[:room]

    def is_gone(self, symbol: str) -> bool:
        """Return whether all_ticker no longer names a market: it was not in the last list of all, nor since.

        An exchange may never send such a list. Then a market is gone that was not named for an hour in which
        all_ticker was heard. A quiet market may look like that too, so this means something of a market only
        that cannot be subscribed to.
        """
        market = self._markets.get(symbol)
        return market is not None and (market.named < self._listed or self._heard - market.named >= _UNNAMED)

    def moved_at(self, channel: str, symbol: str) -> float:
        """Return when a market was last seen to do what the channel has to push; -inf: never."""
        market = self._markets.get(symbol)
        if market is None:
            return -inf
        return market.traded_at if channel == "trades" else max(market.traded_at, market.quoted_at)


def _note_changes(market: _Market, shown: _Shown, now: float) -> None:
    before, market.shown = market.shown, shown
    if before is None:
        return
    if (
        _differ(before.last, shown.last)
        or _differ(before.last_qty, shown.last_qty)
        or _rose(before.base_volume_24h, shown.base_volume_24h)
    ):
        market.traded_at = now
    if (
        _differ(before.best_bid, shown.best_bid)
        or _differ(before.best_bid_size, shown.best_bid_size)
        or _differ(before.best_ask, shown.best_ask)
        or _differ(before.best_ask_size, shown.best_ask_size)
    ):
        market.quoted_at = now


def _differ(before: str | None, after: str | None) -> bool:
    """Return whether a figure has changed; one that is not known says nothing."""
    return before != after and before is not None and after is not None


def _rose(before: str | None, after: str | None) -> bool:
    """Return whether a volume has risen: it falls without any trade, when old ones leave its 24 hours."""
    if not _differ(before, after):
        return False
    try:
        return Decimal(after or 0) > Decimal(before or 0)
    except InvalidOperation:
        return False
