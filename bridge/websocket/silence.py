"""Notices confirmed subscriptions that bring nothing, has them requested again, and reports them.

That is: no list or snapshot at their beginning, or no change although their market is seen to move.
"""

from collections.abc import Iterable, Sequence

import structlog

from bridge.channels.channel import Series, Source
from bridge.channels.markets import Markets
from bridge.exchange.events import CleanDue
from bridge.exchange.session import Session
from bridge.exchange.unheard import Traded, Unheard
from bridge.watch.events import Journal

log = structlog.get_logger(__name__)


_Subscription = tuple[str, str]
"""A channel and a symbol."""

NO_LIST = "no list or snapshot"
UNHEARD = "no change pushed although the market moves"
"""The ways in which a subscription is silent."""


class Silence:
    """The silent subscriptions of one session.

    A subscription is silent from being reported until a list or snapshot of it comes after all. As long as it
    is, its list or snapshot is not requested because of it, and it is not reported once more.

    One that brings lists or snapshots is never silent, even if something is lost after each of them. Example:
    the list of B is damaged whenever it comes, behind that of A. Nobody can know what was in that frame, so A
    has lost something too, and is not complete when its list is due. But a list of A has come since it was
    requested, so only B is reported.
    """

    def __init__(self, session: Session, source: Source, journal: Journal) -> None:
        # Each with the number of lists or snapshots that had come when it was reported; see `look_at`.
        self.silent: dict[_Subscription, int] = {}
        # How many had come when they were last requested again; none for those that never were.
        self._at_request: dict[_Subscription, int] = {}
        # The same of those that did not come in time, until they are due for the last time.
        self._missing: dict[_Subscription, int] = {}
        self._traded = Traded()
        self._unheard = Unheard()
        self._session = session
        self._source = source
        self._journal = journal
        self._log = log.bind(session=source.session, account=source.account)  # both are in each of its lines

    def requested(self, channel: str, symbols: Sequence[str]) -> None:
        """Note that lists or snapshots are requested again now."""
        for symbol in symbols:
            self._at_request[channel, symbol] = self._series(channel, symbol).brought

    def look_at(self, dues: Iterable[CleanDue], now: float) -> None:
        """Act on those lists and snapshots that are due `now`, in monotonic seconds, and have not come."""
        begun = [one for one, before in self.silent.items() if self._series(*one).brought > before]
        for channel, symbol in begun:
            self._log.info("silent subscription has begun", channel=channel, symbol=symbol)
            del self.silent[channel, symbol]
        for due in dues:
            symbols = [symbol for symbol in due.symbols if (due.channel, symbol) not in self.silent]
            if due.last:
                self._report(due.channel, symbols)
            else:
                self._request(due.channel, symbols, now)

    def note_moves(self, subscriptions: Iterable[_Subscription], markets: Markets, now: float) -> None:
        """Note which markets move, as these confirmed subscriptions show. To be called every second or so."""
        for channel, symbol in subscriptions:
            if channel == "trades" and self._traded.look(symbol, self._counts(channel, symbol)):
                markets.note_trade(symbol, now)
            elif channel == "ticker" and (value := self._series(channel, symbol).shown):
                markets.note_ticker(symbol, value, now)

    def look_at_markets(
        self,
        subscriptions: Iterable[_Subscription],
        markets: Markets,
        patience: float,
        margin: float,
        now: float,
    ) -> None:
        """Act on those confirmed subscriptions that bring no change although their markets move.

        See `Unheard`. Those that are silent are requested again, ever less often, until they bring one.
        """
        begun = self._unheard.look(subscriptions, markets.moved_at, self._counts, now)
        for channel, symbol in begun:
            self._log.info("silent subscription has begun", channel=channel, symbol=symbol)
        for channel, symbol in self._unheard.take_silent(markets.moved_at, patience, margin, now):
            self._log.error("no change received although the market moves", channel=channel, symbol=symbol)
            self._record(channel, symbol, UNHEARD)
        for channel in {channel for channel, _ in self._unheard.silent}:
            self._session.ask_again(channel, now)

    def why(self, channel: str, symbol: str) -> str | None:
        """Return in which way a subscription is silent; None if it is not."""
        if (channel, symbol) in self.silent:
            return NO_LIST
        return UNHEARD if (channel, symbol) in self._unheard.silent else None

    def restart(self) -> None:
        """Give markets that move the full time again, because nothing was read for a while."""
        self._unheard.restart()

    def forget(self, channel: str, symbol: str) -> None:
        """Look at a subscription no longer, because it is not wanted any more."""
        self.silent.pop((channel, symbol), None)
        self._missing.pop((channel, symbol), None)
        self._unheard.forget((channel, symbol))
        if channel == "trades":
            self._traded.forget(symbol)

    def _counts(self, channel: str, symbol: str) -> tuple[int, int]:
        """Return how many records have come of a subscription, and how many lists or snapshots.

        A loss counts as a list: what was lost may have been a change.
        """
        series = self._series(channel, symbol)
        return series.seq, series.brought - series.lost

    def _series(self, channel: str, symbol: str) -> Series:
        return self._source.series(channel, symbol)

    def _request(self, channel: str, symbols: Sequence[str], now: float) -> None:
        missing = [symbol for symbol in symbols if not self._series(channel, symbol).begun]
        for symbol in missing:
            self._missing[channel, symbol] = self._at_request.get((channel, symbol), 0)
        if missing:
            self._session.ask_again(channel, now, missing)

    def _report(self, channel: str, symbols: Sequence[str]) -> None:
        silent = []
        for symbol in symbols:
            brought, before = self._series(channel, symbol).brought, self._missing.pop((channel, symbol), 0)
            if brought == before:
                self.silent[channel, symbol] = brought
                silent.append(symbol)
        if not silent:
            return
        self._log.error("no list or snapshot received", channel=channel, symbols=silent)
        for symbol in silent:
            self._record(channel, symbol, "no readable list or snapshot, although it was requested again")

    def _record(self, channel: str, symbol: str, detail: str) -> None:
        self._journal.record(
            "subscription_silent",
            session=self._source.session,
            account=self._source.account,
            channel=channel,
            symbol=symbol,
            detail=detail,
        )
