"""Which markets there are, as the channel that lists them (all_ticker) says, and which of them move. Pure.

Times are seconds of a monotonic clock.
"""

from collections import defaultdict
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
    """What a record of all_ticker or ticker shows of a market."""

    last: str | None = None
    last_qty: str | None = None
    base_volume_24h: str | None = None
    best_bid: str | None = None
    best_bid_size: str | None = None
    best_ask: str | None = None
    best_ask_size: str | None = None


_decode = msgspec.json.Decoder(_Shown).decode


class _Moves:
    """When one market was seen to move, by what one channel has shown of it."""

    __slots__ = ("quoted_at", "shown", "traded_at", "value")

    def __init__(self) -> None:
        self.shown: _Shown | None = None  # last, while it was watched
        self.value = b""  # of the record that has shown it; b"" before the first
        self.traded_at = -inf  # when a trade was last seen
        self.quoted_at = -inf  # when its best prices were last seen to change

    def show(self, value: bytes, now: float) -> None:
        """Note the value of the channel's last record of the market, which may be that of the last call."""
        if value is self.value:
            return
        self.value = value
        before, self.shown = self.shown, _decode(value)
        if before is None:
            return
        if (
            _differ(before.last, self.shown.last)
            or _differ(before.last_qty, self.shown.last_qty)
            or _rose(before.base_volume_24h, self.shown.base_volume_24h)
        ):
            self.traded_at = now
        if (
            _differ(before.best_bid, self.shown.best_bid)
            or _differ(before.best_bid_size, self.shown.best_bid_size)
            or _differ(before.best_ask, self.shown.best_ask)
            or _differ(before.best_ask_size, self.shown.best_ask_size)
        ):
            self.quoted_at = now


class _Market:
    """What all_ticker says of one market."""

    __slots__ = ("moves", "named")

    def __init__(self, named: float) -> None:
        self.moves = _Moves()
        self.named = named  # when it was named last, in seconds of `Markets._heard`


class Markets:
    """The markets that all_ticker has named so far, up to `most`, and the movements of these and others.

    A market is seen to move by all_ticker, by its trades and by its ticker: what one of them shows, the
    others have to push too. Its depth shows nothing: what changes may be far from the best prices.
    """

    def __init__(self, most: int) -> None:
        self.left_out = False  # whether there were more
        self._most = most
        self._markets: dict[str, _Market] = {}  # by symbol, until forgotten
        # Those that an earlier process knew, until they are known; when each was named last, like `_Market`.
        self._expected: dict[str, float] = {}
        # What the trades and the ticker of a market show, by symbol, until forgotten.
        self._own: defaultdict[str, _Moves] = defaultdict(_Moves)
        self._session = ""  # that brought the last push
        self._taken_at: float | None = None  # when the last push came
        self._heard = 0.0  # for how many seconds all_ticker has been heard; longer pauses do not count
        self._listed = -inf  # when a list of all came last, in seconds of `_heard`

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._markets)

    def expect(self, symbols: Iterable[str]) -> None:
        """Note markets that an earlier process knew, before the first `take`."""
        self._expected = dict.fromkeys(symbols, self._heard)

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
        known: dict[str, None] = {}
        unknown: dict[str, bytes] = {}
        for record in records:
            symbol = (record.key or b"").decode()
            market = self._markets.get(symbol)
            if market is None:
                unknown[symbol] = record.value
                if symbol in self._expected:
                    self._expected[symbol] = self._heard
                continue
            known[symbol] = None
            market.named = self._heard
            if symbol in watched:
                market.moves.show(record.value, now)
        is_whole = len(known) >= _WHOLE * len(self._markets)
        room = max(0, self._most - len(self._markets))
        self.left_out = self.left_out or len(unknown) > room
        new = sorted(unknown)[:room]
        for symbol in new:
            market = self._markets[symbol] = _Market(self._heard)
            self._expected.pop(symbol, None)
            if symbol in watched:
                market.moves.show(unknown[symbol], now)
        is_first, self._session = session != self._session, session
        if is_first and is_whole:
            self._listed = self._heard
        return [*known], new

    def is_gone(self, symbol: str) -> bool:
        """Return whether all_ticker no longer names a market: it was not in the last list of all, nor since.

        An exchange may never send such a list. Then a market is gone that was not named for an hour in which
        all_ticker was heard. A quiet market may look like that too, so this means something of a market only
        that cannot be subscribed to.

        A market that is expected is gone after such an hour only. Nobody has tried to subscribe to it, and
        when the first push comes, nothing says how many a list of all has to name.
        """
        market = self._markets.get(symbol)
        if market is not None:
            return market.named < self._listed or self._heard - market.named >= _UNNAMED
        named = self._expected.get(symbol)
        return named is not None and self._heard - named >= _UNNAMED

    def gone(self) -> list[str]:
        """Return the markets that are gone, if no other market can become known because of them."""
        full = len(self._markets) >= self._most
        return [symbol for symbol in self._markets if self.is_gone(symbol)] if full else []

    def forget(self, symbol: str) -> None:
        """Know a market no longer; it is new when all_ticker names it again."""
        self._markets.pop(symbol, None)
        self._own.pop(symbol, None)

    def note_trade(self, symbol: str, now: float) -> None:
        """Note that trades of a market were pushed a moment ago, other than those of a list."""
        self._own[symbol].traded_at = now

    def note_ticker(self, symbol: str, value: bytes, now: float) -> None:
        """Note the value of the last record of a market's ticker, which may be that of the last call."""
        self._own[symbol].show(value, now)

    def moved_at(self, channel: str, symbol: str) -> float:
        """Return when a market was last seen to do what the channel has to push; -inf: never."""
        seen = [self._markets[symbol].moves] if symbol in self._markets else []
        if symbol in self._own:
            seen.append(self._own[symbol])
        traded_at = max((moves.traded_at for moves in seen), default=-inf)
        if channel == "trades":
            return traded_at
        return max((traded_at, *(moves.quoted_at for moves in seen)))


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
