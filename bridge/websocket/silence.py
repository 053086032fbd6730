"""Notices confirmed subscriptions that bring no list or snapshot: has it requested again, then reports it."""

from collections.abc import Iterable, Sequence

import structlog

from bridge.channels.channel import Source
from bridge.exchange.events import CleanDue
from bridge.exchange.session import Session
from bridge.watch.events import Journal

log = structlog.get_logger(__name__)


class Silence:
    """The silent subscriptions of one session.

    A subscription is silent from being reported until its list or snapshot comes after all. As long as it
    is, its list or snapshot is not requested because of it, and it is not reported once more.
    """

    def __init__(self, session: Session, source: Source, journal: Journal) -> None:
        self.silent: set[tuple[str, str]] = set()  # by channel and symbol; changed by `look_at`
        self._session = session
        self._source = source
        self._journal = journal
        self._log = log.bind(session=source.session, account=source.account)  # both are in each of its lines

    def look_at(self, dues: Iterable[CleanDue], now: float) -> None:
        """Act on those lists and snapshots that are due `now`, in monotonic seconds, and have not come."""
        begun = {one for one in self.silent if self._has_begun(*one)}
        for channel, symbol in sorted(begun):
            self._log.info("silent subscription has begun", channel=channel, symbol=symbol)
        self.silent -= begun
        for due in dues:
            channel = due.channel
            missing = [
                symbol
                for symbol in due.symbols
                if (channel, symbol) not in self.silent and not self._has_begun(channel, symbol)
            ]
            if missing and due.last:
                self._report(channel, missing)
            elif missing:
                self._session.ask_again(channel, now, missing)

    def _has_begun(self, channel: str, symbol: str) -> bool:
        return self._source.series(channel, symbol.encode()).begun

    def _report(self, channel: str, symbols: Sequence[str]) -> None:
        self._log.error("no list or snapshot received", channel=channel, symbols=symbols)
        for symbol in symbols:
            self.silent.add((channel, symbol))
            self._journal.record(
                "subscription_silent",
                session=self._source.session,
                account=self._source.account,
                channel=channel,
                symbol=symbol,
                detail="no readable list or snapshot, although it was requested again",
            )
