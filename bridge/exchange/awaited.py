"""Which clean pushes a session waits for, and when it requests them again; pure.

A clean push is one with `clean` true: a list of recent trades, or a snapshot of an order book. Times are
seconds of a monotonic clock.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from bridge.exchange.events import CleanDue

NEVER = float("inf")
"""A moment that does not come."""

_LONGEST_WAIT = 900.0  # seconds between two repeats for a channel that loses something again and again


class Awaited:
    """The clean pushes that subscriptions have to bring, each with its deadline.

    Example with a `reply_timeout` of 10 s: a subscription is confirmed at 0. At 10 its clean push is due. If
    it has not come, it is `extend`ed, to be due for the last time at 20.
    """

    def __init__(self, reply_timeout: float) -> None:
        self._reply_timeout = reply_timeout
        # By channel and symbol: when it is due, and whether for the last time. Removed when it is due.
        self._due: dict[tuple[str, str], tuple[float, bool]] = {}

    def start(self, channel: str, symbols: Iterable[str], now: float) -> None:
        """Wait for clean pushes of these symbols from now on, unless they are waited for already."""
        for symbol in symbols:
            self._due.setdefault((channel, symbol), (now + self._reply_timeout, False))

    def extend(self, channel: str, symbols: Iterable[str], now: float) -> None:
        """Wait once more for clean pushes that were due."""
        for symbol in symbols:
            self._due.setdefault((channel, symbol), (now + self._reply_timeout, True))

    def take_due(self, now: float) -> list[CleanDue]:
        """Return those that are due, each once."""
        due: defaultdict[tuple[str, bool], list[str]] = defaultdict(list)
        for (channel, symbol), (moment, last) in self._due.items():
            if now >= moment:
                due[channel, last].append(symbol)
        for (channel, _), symbols in due.items():
            for symbol in symbols:
                del self._due[channel, symbol]
        return [CleanDue(channel, tuple(symbols), last) for (channel, last), symbols in due.items()]

    @property
    def next_at(self) -> float:
        """When the next one is due."""
        return min((moment for moment, _ in self._due.values()), default=NEVER)

    def restart(self, now: float) -> None:
        """Give all of them the full time again, because nothing was read for a while."""
        for one, (_, last) in self._due.items():
            self._due[one] = (now + self._reply_timeout, last)

    def clear(self) -> None:
        """Wait for nothing."""
        self._due.clear()


@dataclass(slots=True)
class _Repeat:
    """The repeats for one channel."""

    wait: float  # seconds from the next repeat to the one after it, at least
    wished: bool = False  # whether one is to be sent, at once or when `not_before` is reached
    not_before: float = -NEVER  # when the next one may be sent


class Repeats:
    """When the clean pushes of a channel are requested again: at once, and then ever less often.

    Example with a `reply_timeout` of 10 s, if pushes are lost all the time: at 0, 10, 30, 70, 150, 310, 630,
    1270, and from then on every 900 s. After the one at 10, the next may be sent at 30, and the one after
    that 40 s later. If nothing is lost between 30 and 70, it begins anew: with a repeat at once, and 10 s.
    """

    def __init__(self, reply_timeout: float) -> None:
        self._shortest = reply_timeout
        self._channels: dict[str, _Repeat] = {}  # by channel, added by its first wish

    def wish(self, channel: str, now: float) -> None:
        """Note that a repeat is needed."""
        repeat = self._channels.setdefault(channel, _Repeat(self._shortest))
        if not repeat.wished and now >= repeat.not_before + repeat.wait:
            repeat.wait = self._shortest
        repeat.wished = True

    def drop(self, channel: str) -> None:
        """Forget the wish: it is about to be fulfilled, or there is nothing to request."""
        self._channels[channel].wished = False

    def sent(self, channel: str, now: float) -> None:
        """Note that a repeat is sent now."""
        repeat = self._channels[channel]
        repeat.not_before = now + repeat.wait
        repeat.wait = min(2 * repeat.wait, _LONGEST_WAIT)

    def wished(self) -> list[tuple[str, float]]:
        """Return the channels for which a repeat is needed, and when it may be sent."""
        return [(name, repeat.not_before) for name, repeat in self._channels.items() if repeat.wished]

    def clear(self) -> None:
        """Need nothing."""
        self._channels.clear()
