"""The refused subscriptions of one session: reports them, and notices those that bring data nevertheless."""

from collections.abc import Iterable
from typing import Literal

import structlog

from bridge.channels.channel import Source
from bridge.exchange.events import (
    RepeatRefused,
    RequestPostponed,
    RequestSplit,
    SubscriptionRefused,
    Symbols,
)
from bridge.exchange.session import Session
from bridge.watch.events import Journal

log = structlog.get_logger(__name__)

Refusal = SubscriptionRefused | RequestPostponed | RequestSplit | RepeatRefused

_Subscription = tuple[str, Symbols]
"""A channel and its symbol; without one for a channel that is subscribed by nothing."""


class Refused:
    """The subscriptions that are refused, each reported once."""

    def __init__(self, session: Session, source: Source, journal: Journal) -> None:
        self.now: dict[_Subscription, SubscriptionRefused] = {}  # until confirmed
        self._bad: set[_Subscription] = set()  # those of `now` that are refused because of their symbol
        # Those that were confirmed before they were refused: what had been pushed of each by then.
        self._before: dict[_Subscription, int] = {}
        self._confirmed: set[_Subscription] = set()  # those that were confirmed, and not refused since
        # By subscribe request that waits for its answer: what had been pushed of each subscription before it.
        self._at_request: dict[int, dict[_Subscription, int]] = {}
        self._session = session
        self._source = source
        self._journal = journal
        self._log = log.bind(session=source.session, account=source.account)  # both are in each of its lines

    def note(self, refusal: Refusal) -> None:
        """Note a refusal, and report what is new."""
        match refusal:
            case SubscriptionRefused(channel, symbols):
                if (channel, symbols) not in self.now:
                    self._report(refusal)
                self._refuse((channel, symbols), refusal)
                self._bad.add((channel, symbols))
            case RequestPostponed():
                self._note_postponed(refusal)
            case RequestSplit() | RepeatRefused():
                self._log.warning(
                    "subscribe request refused, retrying its symbols one by one"
                    if isinstance(refusal, RequestSplit)
                    else "request for new lists or snapshots refused",
                    channel=refusal.channel,
                    symbols=refusal.symbols,
                    error=refusal.error,
                )

    def carry_over(self, known: Iterable[SubscriptionRefused]) -> None:
        """Take over what an earlier session was refused, and reported; see `Session.put_aside`."""
        for refusal in known:
            self.now[refusal.channel, refusal.symbols] = refusal
            self._bad.add((refusal.channel, refusal.symbols))

    @property
    def bad_symbols(self) -> list[SubscriptionRefused]:
        """What is refused because of its symbol."""
        return [self.now[one] for one in self._bad]

    def forget(self, channel: str, symbol: str) -> None:
        """Forget a subscription, because it is not wanted any more."""
        self.now.pop((channel, (symbol,)), None)
        self._bad.discard((channel, (symbol,)))

    def confirmed(self, channel: str, symbols: Symbols) -> None:
        """Note that subscriptions are confirmed."""
        self._bad.difference_update(_each(channel, symbols))
        self._confirmed.update(_each(channel, symbols))
        if [one for one in _each(channel, symbols) if self.now.pop(one, None)]:
            self._log.info("subscription accepted on retry", channel=channel, symbols=symbols)

    def note_requests(self) -> None:
        """Note what was pushed before the subscribe requests of the session. To be called before sending."""
        self._at_request = {
            request_id: self._at_request.get(request_id)
            or {one: self._pushed(*one) for one in _each(request.channel, request.symbols)}
            for request_id, request in self._session.asking.items()
        }

    def confirm_what_flows(self, now: float) -> None:
        """Have the session take for confirmed what the exchange pushes although it has not confirmed it.

        It has refused it, or it has not answered the request in time. Only what was pushed since counts: a
        session that is deaf by now may have heard a lot before.
        """
        # One that was held while the process slept may be overdue before it was sent.
        self.note_requests()
        for channel, symbols in [*self.now]:
            if self._pushed(channel, symbols) > self._before.get((channel, symbols), 0):
                self._session.confirm(channel, symbols, now)
        for request_id, request in self._session.overdue(now):
            channel, symbols = request.channel, request.symbols
            # What does not come of the others is noticed as that of confirmed ones.
            before = self._at_request[request_id]
            if any(self._pushed(*one) > before[one] for one in _each(channel, symbols)):
                self._log.warning(
                    "subscribe request not answered, but data received", channel=channel, symbols=symbols
                )
                self._session.accepted(request_id, now)

    def _pushed(self, channel: str, symbols: Symbols) -> int:
        return self._source.pushed(channel, symbols[0] if symbols else None)

    def _refuse(self, one: _Subscription, refused: SubscriptionRefused) -> None:
        if one in self._confirmed:
            self._confirmed.discard(one)
            self._before[one] = self._pushed(*one)
        self.now[one] = refused

    def _note_postponed(self, postponed: RequestPostponed) -> None:
        channel, error = postponed.channel, postponed.error
        new = [one for one in _each(channel, postponed.symbols) if one not in self.now]
        for one in _each(channel, postponed.symbols):
            self._bad.discard(one)
            self._refuse(one, SubscriptionRefused(*one, error, postponed.answered))
        if not new:
            return
        names = [symbol for _, symbols in new for symbol in symbols]
        if not postponed.answered:
            self._log.warning("subscribe request not answered, retrying it", channel=channel, symbols=names)
            for symbol in names or (None,):
                self._record("subscription_silent", channel, symbol, error)
            return
        self._log.warning(
            "subscribe request refused, retrying it", channel=channel, symbols=names, error=error
        )
        several = len(names) > 1
        self._record(
            "subscription_refused",
            channel,
            None if several or not names else names[0],
            f"{error}: {' '.join(names)}" if several else error,
        )

    def _report(self, refused: SubscriptionRefused) -> None:
        self._log.error(
            "subscription refused, retrying",
            channel=refused.channel,
            symbols=refused.symbols,
            error=refused.error,
        )
        for symbol in refused.symbols or (None,):
            self._record("subscription_refused", refused.channel, symbol, refused.error)

    def _record(
        self,
        kind: Literal["subscription_refused", "subscription_silent"],
        channel: str,
        symbol: str | None,
        detail: str,
    ) -> None:
        self._journal.record(
            kind,
            session=self._source.session,
            account=self._source.account,
            channel=channel,
            symbol=symbol,
            detail=detail,
        )


def _each(channel: str, symbols: Symbols) -> list[_Subscription]:
    """Return each of some subscriptions; of a channel without symbols, the one."""
    return [(channel, (symbol,)) for symbol in symbols] or [(channel, ())]
