"""The subscriptions of a session: which are confirmed or refused, and what is to be requested next; pure.

The answer to a subscribe request may mean several things. This decides what it means, and whether the same is
requested again: as it was, in parts, later, or not at all. The session sends the requests, and matches the
answers with them.

Times are seconds of a monotonic clock.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from bridge.exchange.awaited import NEVER, Awaited, Repeats
from bridge.exchange.events import (
    Confirmed,
    Event,
    RepeatRefused,
    RequestPostponed,
    RequestSplit,
    SubscriptionRefused,
    Symbols,
)
from bridge.exchange.refusals import Meaning, blamed, meaning
from bridge.exchange.subscribing import ALIKE, MOST_SYMBOLS, Subscribe, SubscribeQueue, subscribes

_SAME_MOMENT = 5.0  # seconds within which one answer to a subscribe request helps to explain another


class Subscriptions:
    """What becomes of the subscriptions to `wanted`; what happens is appended to `events`.

    A subscribe request may replace the one before it on the connection (FACTS, "Added later", on ViaBTC). So
    there is one at a time of each channel, and it names the confirmed symbols of its channel too. These come
    first: in ViaBTC's server, a request that is refused subscribes to the symbols in front of the bad one.
    Example: A and B are confirmed, and C is added. The request names A B C, and only C is in question.

    `retry_refused`, `reply_timeout` and `begins_clean` are as in `Session` and its `Timing`.
    """

    def __init__(
        self,
        wanted: Mapping[str, Sequence[str]],
        *,
        retry_refused: float,
        reply_timeout: float,
        begins_clean: Collection[str],
        events: list[Event],
    ) -> None:
        # By channel: its symbols, confirmed or not; none for a channel that is subscribed by nothing.
        self.wanted = {channel: tuple(symbols) for channel, symbols in wanted.items()}
        self._events = events
        self._unanswered: dict[int, Subscribe] = {}  # by request id, removed by their answer
        self._accepted_at = -NEVER  # when the exchange last accepted a subscribe request
        self._queue = SubscribeQueue(retry_refused)  # of requests to come; empty once over
        self._begins_clean = frozenset(begins_clean)
        # By channel: its confirmed symbols, in that order. One is removed when the exchange says that it is
        # bad, or when it is forgotten.
        self._confirmed: defaultdict[str, dict[str, None]] = defaultdict(dict)
        # Confirmed ones that the exchange refuses to confirm again: no request names them as `others`.
        self._unnameable: set[tuple[str, str]] = set()
        # Whether requests name confirmed symbols too; False once the exchange has refused that.
        self._names_others = True
        self._aside: set[tuple[str, str]] = set()  # subscriptions that are refused anyway, see `put_aside`
        self._awaited = Awaited(reply_timeout)  # clean lists and snapshots; none once over
        self._repeats = Repeats(reply_timeout)  # that are needed; none once over

    # Called by the session

    def put_aside(self, refused: Iterable[tuple[str, str]]) -> None:
        """As `Session.put_aside`."""
        self._aside.update(refused)

    def begin(self, now: float) -> list[Subscribe]:
        """Return the first requests, which are to be sent at once."""
        first: list[Subscribe] = []
        for channel, symbols in self.wanted.items():
            for symbol in symbols:
                if (channel, symbol) in self._aside:
                    self._queue.put_aside(channel, (symbol,), now)
            asked = [symbol for symbol in symbols if (channel, symbol) not in self._aside]
            if asked or not symbols:
                first += subscribes(channel, asked)
        return first

    def tick(self, now: float) -> None:
        """Hold what is due to be requested again, and report clean lists and snapshots that are late."""
        self._queue.hold_due_retries(now)
        self._events += self._awaited.take_due(now)
        self.hold_repeats(now)

    @property
    def next_at(self) -> float:
        """The time by which `tick` has to be called."""
        repeats = [at for channel, at in self._repeats.wished() if not self._is_requesting(channel)]
        return min(self._queue.retry_at, self._awaited.next_at, *repeats)

    @property
    def held(self) -> int:
        """The number of requests that could be sent now, see `Session.held`."""
        return self._queue.sendable(self._busy)

    def pop(self) -> Subscribe | None:
        """Return the request that has been held the longest, to be sent now; None if none may be sent."""
        return self._queue.pop(self._busy)

    def sent(self, request_id: int, request: Subscribe, now: float) -> Symbols:
        """Note that a request is sent now with this id; return the symbols that it names."""
        if request.repeat:
            self._repeats.sent(request.channel, now)
        elif self._names_others and request.symbols and not request.alone:
            others = tuple(
                symbol
                for symbol in self._confirmed[request.channel]
                if symbol not in request.symbols and (request.channel, symbol) not in self._unnameable
            )
            if len(others) + len(request.symbols) <= MOST_SYMBOLS:
                request = request._replace(others=others)
        self._unanswered[request_id] = request
        return request.named

    @property
    def unanswered(self) -> Mapping[int, Subscribe]:
        """The requests that wait for their answers, by id."""
        return self._unanswered

    def not_answered(self, request_id: int, error: str, now: float) -> None:
        """Settle one request that was not answered in time, although the exchange serves others.

        It is sent again later, as if it had been refused; `error` says that it was not.
        """
        request = self._take(request_id)
        if request is None or request.trial:  # the request that a trial belongs to is held behind it
            return
        channel, confirmed = request.channel, self._confirmed[request.channel]
        symbols = tuple(symbol for symbol in request.symbols if symbol not in confirmed)
        if request.repeat:
            self._events.append(RepeatRefused(channel, request.symbols, error))
            self._await_clean(channel, request.symbols, now)
        elif request.symbols and not symbols:
            pass  # they have brought something before, and have been taken for confirmed since
        elif request.retry:
            self._queue.refuse(channel, symbols, now)
        else:
            self._events.append(RequestPostponed(channel, symbols, error, answered=False))
            self._queue.postpone(channel, symbols, now, request.again + 1, ignored=True)

    def answered(self, request_id: int, error: str | None, now: float) -> None:
        """Settle one request, as far as its subscriptions are still wanted."""
        request = self._take(request_id)
        if request is None:
            return
        channel, symbols = request.channel, request.symbols
        if request.repeat:
            if error is not None:
                self._events.append(RepeatRefused(channel, symbols, error))
            self._await_clean(channel, symbols, now)
        elif error is None:
            self._accepted_at = now
            self._confirm(channel, symbols, now)
        else:
            self._refused(request, error, now)

    @property
    def settled(self) -> bool:
        """Whether each subscription was confirmed or refused."""
        is_asking = any(one.first for one in self._unanswered.values())
        return not is_asking and self._queue.only_settled()

    def want(self, channel: str, symbols: Sequence[str]) -> None:
        """Add symbols of a channel; `begin` or `hold` has them requested."""
        self.wanted[channel] = self.wanted.get(channel, ()) + tuple(symbols)

    def hold(self, channel: str, symbols: Sequence[str]) -> None:
        """Hold the requests for symbols that were added."""
        self._queue.hold(subscribes(channel, symbols))

    def forget(self, channel: str, symbols: Sequence[str]) -> None:
        """Want symbols of a channel no longer."""
        left = tuple(symbol for symbol in self.wanted.get(channel, ()) if symbol not in symbols)
        if left:
            self.wanted[channel] = left
        else:
            self.wanted.pop(channel, None)
        for symbol in symbols:
            self._confirmed[channel].pop(symbol, None)
        self._queue.drop(channel, tuple(symbols))

    def confirm(self, channel: str, symbols: Sequence[str], now: float) -> None:
        """Take subscriptions that were refused for confirmed."""
        self._queue.forget(channel, tuple(symbols))
        self._confirm(channel, symbols, now)

    def ask_again(self, channel: str, now: float, missing: Sequence[str]) -> None:
        """As `Session.ask_again`; `hold_repeats` holds the repeat."""
        if not self.wanted.get(channel):
            return
        if channel in self._begins_clean:
            self._awaited.extend(channel, missing, now)
        if not self._queue.holds_repeat(channel):
            self._repeats.wish(channel, now)

    def hold_repeats(self, now: float) -> None:
        """Hold the repeats that are needed and may be sent now."""
        for channel, moment in self._repeats.wished():
            if now >= moment and not self._is_requesting(channel):
                self._repeats.drop(channel)
                if symbols := tuple(self._confirmed[channel]):
                    self._queue.hold([Subscribe(channel, symbols, repeat=True)])

    def resume(self, now: float) -> None:
        """Give what is awaited the full time again, because nothing was read for a while."""
        self._awaited.restart(now)
        self._queue.hold_due_retries(now)
        self.hold_repeats(now)

    def clear(self) -> None:
        """Hold, await and repeat nothing, because the session is over."""
        self._queue.clear()
        self._awaited.clear()
        self._repeats.clear()

    def _take(self, request_id: int) -> Subscribe | None:
        """Return a request that waits no longer, with the symbols still wanted; None if nothing of it is."""
        request = self._unanswered.pop(request_id)
        wanted = self.wanted.get(request.channel)
        symbols = tuple(symbol for symbol in request.symbols if wanted and symbol in wanted)
        if wanted is None or (wanted and not symbols):
            return None
        return request._replace(symbols=symbols)

    # What an answer means

    def _refused(self, request: Subscribe, error: str, now: float) -> None:
        """Find out why, and what to do about it.

        Symbols refused together are requested in parts, to find the bad one, if there seems to be one: if the
        error says so, or if it says nothing and the exchange accepts others at the same moment.
        """
        channel, symbols = request.channel, request.symbols
        found = meaning(error, request.named)
        # Then it may be that confirmed symbols must not be named.
        is_doubtful = found is Meaning.UNKNOWN and (request.again or request.retry)
        # What is refused again and again, while one of its symbols is accepted, has another that is bad.
        vague = (Meaning.UNKNOWN, Meaning.LATER) if request.again > ALIKE else (Meaning.UNKNOWN,)
        if found in vague and now - self._accepted_at <= _SAME_MOMENT:
            found = Meaning.BAD_SYMBOL
        bad = blamed(error, request.named) if found is Meaning.BAD_SYMBOL else ()
        if found is Meaning.CONFIRMED and request.others:
            self._names_others = False
            self._queue.hold_next([request._replace(others=())])
        elif is_doubtful and request.others:
            self._queue.hold_next([request._replace(others=(), alone=True)])
            self._repeats.wish(channel, now)
        elif gone := [symbol for symbol in request.others if symbol in bad]:
            for symbol in gone:
                self._unnameable.add((channel, symbol))
                if symbol in self._confirmed[channel]:  # else it was forgotten since it was named
                    del self._confirmed[channel][symbol]
                    self._refuse(channel, (symbol,), error, now)
            self._queue.hold_next([request._replace(others=())])
        elif request.trial and found is not Meaning.CONFIRMED:
            pass  # the request that it belongs to is held behind it
        elif len(symbols) > 1 and found in (Meaning.BAD_SYMBOL, Meaning.CONFIRMED):
            self._split(request, found, error, bad, now)
        elif found is Meaning.CONFIRMED:
            self._confirm(channel, symbols, now)
        elif found is Meaning.BAD_SYMBOL or request.retry:
            self._refuse(channel, symbols, error, now)
        else:
            self._events.append(RequestPostponed(channel, symbols, error))
            self._queue.postpone(channel, symbols, now, request.again + 1)

    def _split(
        self, request: Subscribe, found: Meaning, error: str, bad: Collection[str], now: float
    ) -> None:
        """Request the symbols of a refused request in parts.

        Without those that the error names, if it names a few. Else by halves, as one of them is bad; or one
        by one, as any of them may exist already.
        """
        channel, symbols = request.channel, request.symbols
        if named := [symbol for symbol in symbols if symbol in bad]:
            for symbol in named:
                self._refuse(channel, (symbol,), error, now)
            parts = [tuple(symbol for symbol in symbols if symbol not in bad)]
        else:
            self._events.append(RequestSplit(channel, symbols, error))
            size = 1 if found is Meaning.CONFIRMED else (len(symbols) + 1) // 2
            parts = [symbols[start : start + size] for start in range(0, len(symbols), size)]
        again = request.again
        self._queue.hold_next([Subscribe(channel, part, again=again) for part in parts if part])

    def _refuse(self, channel: str, symbols: Symbols, error: str, now: float) -> None:
        self._events.append(SubscriptionRefused(channel, symbols, error))
        self._queue.refuse(channel, symbols, now)

    def _confirm(self, channel: str, symbols: Sequence[str], now: float) -> None:
        self._events.append(Confirmed(channel, tuple(symbols)))
        self._confirmed[channel].update(dict.fromkeys(symbols))
        self._await_clean(channel, symbols, now)

    def _await_clean(self, channel: str, symbols: Sequence[str], now: float) -> None:
        if channel in self._begins_clean:
            self._awaited.start(channel, symbols, now)

    @property
    def _busy(self) -> set[str]:
        """The channels of which a subscribe request is unanswered."""
        return {one.channel for one in self._unanswered.values()}

    def _is_requesting(self, channel: str) -> bool:
        """Return whether a subscribe request of a channel is held or unanswered."""
        return self._queue.holds(channel) or channel in self._busy
