"""Which subscribe requests a session has still to send, and when it retries refused subscriptions; pure."""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from bridge.exchange.awaited import NEVER
from bridge.exchange.events import Symbols

# Seconds between two requests for a subscription that is refused again and again because of its symbol.
_LONGEST_RETRY_WAIT = 900.0

# The same if the exchange cannot serve the request now: the shortest and the longest.
_SOON, _LATER = 1.0, 120.0

ALIKE = 3
"""How often a request may be refused before one of its symbols is tried on its own."""

# Symbols in one subscribe request. Nobody knows a limit of the exchange; other clients have been seen to send
# 20 and 30 (FACTS, section 2). As long as all symbols of a channel fit into one, it does not matter whether a
# request replaces the one before it.
MOST_SYMBOLS = 100


class Subscribe(NamedTuple):
    """One subscribe request.

    `retry` if its one subscription was refused before. `again` is how often the same request was refused
    before, and not because of its symbols; `trial` if it tries one symbol of such a request; `ignored` if it
    was not answered the last time. `repeat` if all
    its subscriptions are confirmed, and only their clean lists or snapshots are wanted again. `others` are
    confirmed symbols of the channel that it names too, in front, so that it does not matter whether it
    replaces the request before it; they are known when it is sent. With `alone` there are none.
    """

    channel: str
    symbols: Symbols
    retry: bool = False
    repeat: bool = False
    again: int = 0
    trial: bool = False
    alone: bool = False
    ignored: bool = False
    others: Symbols = ()

    @property
    def named(self) -> Symbols:
        """All symbols that it names, in order."""
        return self.others + self.symbols

    @property
    def first(self) -> bool:
        """Whether the exchange has neither confirmed nor refused its subscriptions."""
        return not (self.retry or self.repeat or self.again)


class _Retries:
    """Requests that were refused, until they are due; the wait for it doubles with each time."""

    def __init__(self, shortest: float, longest: float) -> None:
        self.at = NEVER  # when they are due; set by the first one since the last time
        self.waiting: list[Subscribe] = []  # in the order in which they were refused
        self._shortest = shortest
        self._longest = longest
        self._wait = shortest  # seconds from a refusal to the time when it is due
        self._due_at = -NEVER  # when some were due last

    def add(self, request: Subscribe, now: float) -> None:
        """Add a request that was refused now."""
        self.waiting.append(request)
        if self.at == NEVER:
            if now - self._due_at > 2 * self._longest:
                self._wait = self._shortest
            self.at = now + self._wait

    def take_due(self, now: float) -> list[Subscribe]:
        """Return all of them once they are due, and forget them."""
        if now < self.at:
            return []
        due, self.waiting = self.waiting, []
        self.at, self._due_at = NEVER, now
        self._wait = min(2 * self._wait, self._longest)
        return due


class SubscribeQueue:
    """Subscribe requests that are held until there is budget for them, the oldest first.

    A subscription that was refused because of its symbol is held again after `retry_wait` seconds, a time
    that doubles with each retry. With 30 s, and a first refusal at 0, that is at 30, 90, 210, 450, 930 and
    from then on every 900 s. A request that was refused for another reason is held again, as it was, after
    1, 3, 7, 15, 31, 63, 127 s, and from then on every 120 s. From the third time on, one of its symbols is
    tried on its own before it, each time another one: perhaps one of them is bad, and the error does not say
    so. One that an earlier session has found to be refused is not requested until 900 s have passed.
    """

    def __init__(self, retry_wait: float) -> None:
        self._held: deque[Subscribe] = deque()  # oldest first, until `pop`
        self._bad = _Retries(retry_wait, _LONGEST_RETRY_WAIT)  # refused because of their symbol
        self._known = _Retries(_LONGEST_RETRY_WAIT, _LONGEST_RETRY_WAIT)  # the same, in an earlier session
        self._postponed = _Retries(_SOON, _LATER)  # refused for another reason
        self._aside: set[tuple[str, Symbols]] = set()  # subscriptions that belong to `_known`; only grows

    @property
    def retry_at(self) -> float:
        """When refused ones are held again."""
        return min(retries.at for retries in self._all_retries)

    def __len__(self) -> int:
        """Return the number of requests that are held."""
        return len(self._held)

    def hold(self, requests: Sequence[Subscribe]) -> None:
        """Add requests to those that are held."""
        self._held += requests

    def hold_next(self, requests: Sequence[Subscribe]) -> None:
        """Add requests in front of those that are held."""
        self._held.extendleft(reversed(requests))

    def sendable(self, busy: Collection[str]) -> int:
        """Return how many requests could be sent at once: one of each channel that is not `busy`."""
        return len({one.channel for one in self._held}.difference(busy))

    def pop(self, busy: Collection[str] = ()) -> Subscribe | None:
        """Return the request that has been held the longest, and hold it no longer.

        None if all that are held are of channels that are `busy`.
        """
        for place, one in enumerate(self._held):
            if one.channel not in busy:
                del self._held[place]
                return one
        return None

    def put_aside(self, channel: str, symbols: Symbols, now: float) -> None:
        """Take a subscription that an earlier session has found to be refused because of its symbol."""
        self._aside.add((channel, symbols))
        self.refuse(channel, symbols, now)

    def refuse(self, channel: str, symbols: Symbols, now: float) -> None:
        """Take a subscription that was refused because of its symbol, to retry it."""
        retries = self._known if (channel, symbols) in self._aside else self._bad
        retries.add(Subscribe(channel, symbols, retry=True), now)

    def postpone(
        self, channel: str, symbols: Symbols, now: float, again: int = 1, *, ignored: bool = False
    ) -> None:
        """Take a request that was refused `again` times for another reason, to ask the same again."""
        self._postponed.add(Subscribe(channel, symbols, again=again, ignored=ignored), now)

    def hold_due_retries(self, now: float) -> None:
        """Hold the refused subscriptions again whose retry is due."""
        for request in self._postponed.take_due(now):
            if request.again >= ALIKE and len(request.symbols) > 1:
                one = request.symbols[request.again % len(request.symbols)]
                self._held.append(request._replace(symbols=(one,), trial=True))
            self._held.append(request)
        self._held += self._bad.take_due(now)
        self._held += self._known.take_due(now)

    def forget(self, channel: str, symbols: Symbols) -> None:
        """Retry these subscriptions no longer, except where that is held already."""
        for retries in self._all_retries:
            retries.waiting = list(_without(retries.waiting, channel, symbols))
            if not retries.waiting:
                retries.at = NEVER

    def drop(self, channel: str, symbols: Symbols) -> None:
        """Request these subscriptions no longer, not even where that is held already."""
        self.forget(channel, symbols)
        self._held = deque(_without(self._held, channel, symbols))

    def holds(self, channel: str) -> bool:
        """Return whether a request of this channel is held."""
        return any(one.channel == channel for one in self._held)

    def holds_repeat(self, channel: str) -> bool:
        """Return whether a repeat of this channel is held."""
        return any(one.channel == channel and one.repeat for one in self._held)

    def only_settled(self) -> bool:
        """Return whether everything that is held was confirmed or refused before."""
        return not any(one.first for one in self._held)

    def clear(self) -> None:
        """Hold nothing."""
        self._held.clear()

    @property
    def _all_retries(self) -> tuple[_Retries, ...]:
        return self._bad, self._known, self._postponed


def _without(requests: Iterable[Subscribe], channel: str, symbols: Symbols) -> Iterator[Subscribe]:
    """Return requests without these subscriptions."""
    for one in requests:
        if one.channel != channel:
            yield one
        elif rest := tuple(symbol for symbol in one.symbols if symbol not in symbols):
            yield one._replace(symbols=rest)


def subscribes(channel: str, symbols: Sequence[str]) -> list[Subscribe]:
    """Return the requests that subscribe to symbols of a channel; without symbols that is one."""
    size = MOST_SYMBOLS
    starts = range(0, max(len(symbols), 1), size)
    return [Subscribe(channel, tuple(symbols[start : start + size])) for start in starts]


def subscribe_requests(wanted: Mapping[str, Sequence[str]]) -> int:
    """Return how many subscribe requests a session sends for these symbols of each channel."""
    return sum(len(subscribes(channel, symbols)) for channel, symbols in wanted.items())
