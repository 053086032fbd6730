"""Which subscribe requests a session has still to send, and when it retries refused subscriptions; pure."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bridge.exchange.awaited import NEVER
from bridge.exchange.events import Symbols

_LONGEST_RETRY_WAIT = 900.0  # seconds between two requests for a subscription that is refused again and again

# The most symbols that other clients have been seen to put into one subscribe request (FACTS, section 2).
_SYMBOLS_PER_REQUEST = 20


class Subscribe(NamedTuple):
    """One subscribe request.

    `retry` if its one subscription was refused before. `repeat` if all its subscriptions are confirmed, and
    only their clean lists or snapshots are wanted again.
    """

    channel: str
    symbols: Symbols
    retry: bool = False
    repeat: bool = False

    @property
    def first(self) -> bool:
        """Whether the exchange has neither confirmed nor refused its subscriptions."""
        return not (self.retry or self.repeat)


class SubscribeQueue:
    """Subscribe requests that are held until there is budget for them, the oldest first.

    A subscription that was refused on its own is held again after `retry_wait` seconds, a time that doubles
    with each retry. With 30 s, and a first refusal at 0, that is at 30, 90, 210, 450, 930 and from then on
    every 900 s.
    """

    def __init__(self, retry_wait: float) -> None:
        self.retry_at = NEVER  # when refused ones are held again; set by the first refusal since a retry
        self._held: deque[Subscribe] = deque()  # oldest first, until `pop`
        self._refused: list[Subscribe] = []  # refused since the last retry, in that order
        self._retry_wait = retry_wait  # seconds from a refusal to the next retry, doubled by each retry

    def __len__(self) -> int:
        """Return the number of requests that are held."""
        return len(self._held)

    def hold(self, requests: Sequence[Subscribe]) -> None:
        """Add requests to those that are held."""
        self._held += requests

    def pop(self) -> Subscribe:
        """Return the request that has been held the longest, and hold it no longer."""
        return self._held.popleft()

    def refuse(self, channel: str, symbols: Symbols, now: float) -> None:
        """Take a subscription that was refused on its own, to retry it."""
        self._refused.append(Subscribe(channel, symbols, retry=True))
        if self.retry_at == NEVER:
            self.retry_at = now + self._retry_wait

    def hold_due_retries(self, now: float) -> None:
        """Hold the refused subscriptions again, if their retry is due."""
        if now >= self.retry_at:
            self._held += self._refused
            self._refused.clear()
            self.retry_at = NEVER
            self._retry_wait = min(2 * self._retry_wait, _LONGEST_RETRY_WAIT)

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


def subscribes(channel: str, symbols: Sequence[str]) -> list[Subscribe]:
    """Return the requests that subscribe to symbols of a channel; without symbols that is one."""
    size = _SYMBOLS_PER_REQUEST
    starts = range(0, max(len(symbols), 1), size)
    return [Subscribe(channel, tuple(symbols[start : start + size])) for start in starts]


def subscribe_requests(wanted: Mapping[str, Sequence[str]]) -> int:
    """Return how many subscribe requests a session sends for these symbols of each channel."""
    return sum(len(subscribes(channel, symbols)) for channel, symbols in wanted.items())
