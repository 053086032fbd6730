"""Rate limits towards the exchange, shared by all connectors of a process: who may connect, and when."""

import asyncio
import itertools
import random
import time
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from websockets.datastructures import Headers

from bridge.config import ExchangeConfig

_BURST = 1.0  # seconds of the budget that may be used at once

_HOUR = 3600.0
_ROUGH = 60.0  # seconds around a full hour in which handshakes fail more often (FACTS, section 2: HTTP 502)

LIFE = 60.0
"""Seconds that a session has to be live so that the next one is not delayed because of it."""

# Handshakes that all connectors together may need soon after each other: some to begin with, and for each
# connector its first, and one after each of three interruptions.
_SPARE = 4
_EACH = 3

_MORE = 0.1  # of the time that the exchange asked to wait: at most so much longer is waited

# The order of connectors that wait: what cannot be recovered, and what names the markets, comes first.
ACCOUNT, LISTING, OTHER = range(3)


@dataclass(frozen=True, slots=True)
class Handshake:
    """A handshake that somebody wants to make, with this number of subscribe requests behind it.

    `well_at` is when a session of the same connector was last known to be well, in monotonic seconds: an
    earlier refusal does not delay it. `repeated` if it follows another handshake within a few minutes.
    """

    subscribes: int
    rank: int = OTHER
    well_at: float = -float("inf")
    repeated: bool = True


@dataclass(slots=True)
class _Waiting:
    handshake: Handshake
    number: int  # +1 for each: who came earlier is admitted earlier
    admitted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Courtesy:
    """The handshakes and subscribe requests of all connectors together. Three limits hold at the same time.

    1. A budget per second, for both. Example, with 5 handshakes and 20 subscribe requests per second: a
       connection with 4 subscribe requests costs 0.2 + 4 × 0.05 = 0.4 s. After a quiet second three of them
       may be opened at once (they find 0, 0.4 and 0.8 s of the burst used), the fourth in 0.2 s, the fifth
       in 0.6 s.

    2. While handshakes are refused or nobody answers, a time between them that doubles from `reconnect_min`
       up to `refused_max`, or up to `reconnect_max` if nobody answers. An accepted handshake ends it at once,
       so that all connectors come back quickly; but if the next one is refused, half of the last time applies
       again. So where a server accepts 10 connections and 71 are wanted, there is one try in `refused_max`.

    3. A stock of repeated handshakes that is used up if sessions keep ending soon: 3 for each connector and 4
       more; one comes back in a third of `reconnect_max`. With 2 connectors, and 30 s, 10 handshakes may be
       made in a row; from then on, there is one in 10 s for both of them.
    """

    def __init__(
        self,
        handshakes_per_second: float,
        subscribes_per_second: float,
        *,
        reconnect_min: float = 0.5,
        reconnect_max: float = 30.0,
        refused_max: float = 300.0,
    ) -> None:
        self._handshake = 1 / handshakes_per_second  # seconds that a handshake costs
        self._subscribe = 1 / subscribes_per_second  # seconds that a subscribe request costs
        self._reconnect_min = reconnect_min
        self._reconnect_max = reconnect_max
        self._refused_max = refused_max
        # The time up to which the budget is used, in monotonic seconds; each reservation adds its cost.
        self._used_until = 0.0
        self._not_before = 0.0  # no handshake before this, as the exchange asked, in monotonic seconds
        # Of refusals. All times are monotonic seconds.
        self._between = 0.0  # the time between handshakes; 0 before the first refusal
        self._refused_at = -float("inf")  # the last refusal
        self._tries_from = 0.0  # the next try; in the past while handshakes are accepted
        self._accepted_at: float | None = None  # the first accepted handshake since the last refusal
        # Of repeated handshakes.
        self._connectors = 0  # that are running
        self._stock = float(_SPARE)  # repeated handshakes that may be made, as of `_stock_at`
        self._stock_at = 0.0
        # Who waits to be admitted, see `admit`.
        self._waiting: list[_Waiting] = []
        self._numbers = itertools.count()
        self._next_look: asyncio.TimerHandle | asyncio.Handle | None = None  # the next call of `_let_in`

    @classmethod
    def of(cls, config: ExchangeConfig) -> "Courtesy":
        """Return the limits as they are configured."""
        return cls(
            config.handshakes_per_second,
            config.subscribes_per_second,
            reconnect_min=config.reconnect_min,
            reconnect_max=config.reconnect_max,
            refused_max=config.refused_max,
        )

    # The connectors

    def enter(self) -> None:
        """Count a connector that starts."""
        self._connectors += 1
        self._stock += _EACH

    def leave(self) -> None:
        """Count a connector no longer."""
        self._connectors -= 1
        self._stock = min(self._stock, self._most)

    async def admit(self, handshake: Handshake) -> None:
        """Wait until this handshake may be made; of those that wait, the first rank comes first."""
        one = _Waiting(handshake, next(self._numbers))
        self._waiting.append(one)
        self._look_in(0.0)
        try:
            await one.admitted
        finally:
            if one in self._waiting:
                self._waiting.remove(one)

    def wait(self, now: float, handshake: Handshake) -> float:
        """Return in how many seconds a handshake may be made, if no other is made before."""
        moments = [self._used_until, self._not_before]
        if handshake.well_at <= self._refused_at:
            moments.append(self._tries_from)
        if handshake.repeated:
            missing = 1.0 - self._stock_now(now)
            moments.append(now + missing * self._steady)
        return max(0.0, max(moments) - now)

    def take(self, now: float, handshake: Handshake) -> None:
        """Use the limits for a handshake that is made now."""
        self._used_until = (
            max(self._used_until, now - _BURST) + self._handshake + handshake.subscribes * self._subscribe
        )
        if handshake.repeated:
            self._stock = self._stock_now(now) - 1.0
            self._stock_at = now
        # Of those that wait because of refusals, one tries it; its result decides about the others.
        if handshake.well_at <= self._refused_at and self._accepted_at is None:
            self._tries_from = now + self._drawn(self._between)

    def reserve_subscribe(self, now: float) -> float:
        """Reserve a request on an open connection; return in how many seconds from `now` it may be sent."""
        begin = max(self._used_until, now - _BURST)
        self._used_until = begin + self._subscribe
        return max(0.0, begin - now)

    # The results

    def pause(self, now: float, seconds: float) -> None:
        """Make no handshake for this time, because the exchange has asked for it."""
        self._not_before = max(self._not_before, now + min(seconds, self._refused_max))

    def accepted(self, now: float) -> None:
        """Note that a handshake was accepted."""
        if self._accepted_at is None and self._between:
            self._accepted_at = now
            self._between = max(self._between / 2, self._reconnect_min)
            self._tries_from = now
            self._look_in(0.0)

    def refused(self, now: float, begun: float, *, answered: bool = True) -> None:
        """Note that a handshake that had begun at `begun` was refused, or not `answered` at all.

        Those that had begun before the last refusal was known count with that one.
        """
        if begun < self._refused_at:
            self._refused_at = now
            return
        longest = self._refused_max if answered else self._reconnect_max
        if self._accepted_at is None:
            self._between = max(self._between, min(2 * self._between, longest)) or self._reconnect_min
        elif now - self._accepted_at >= LIFE:
            self._between = self._reconnect_min
        self._accepted_at = None
        self._refused_at = now
        self._tries_from = now + min(self._drawn(self._between), longest)
        self._look_in(0.0)

    # Inside

    @property
    def _most(self) -> float:
        return _SPARE + _EACH * self._connectors

    @property
    def _steady(self) -> float:
        """Seconds between repeated handshakes once the stock is used up."""
        return self._reconnect_max / 3

    def _stock_now(self, now: float) -> float:
        return min(self._most, self._stock + max(0.0, now - self._stock_at) / self._steady)

    def _drawn(self, between: float) -> float:
        return random.uniform(between / 2, between)  # noqa: S311

    def _look_in(self, seconds: float) -> None:
        """Call `_let_in` in so many seconds; with 0, once all that starts in this turn of the loop waits."""
        if self._next_look is not None:
            self._next_look.cancel()
            self._next_look = None
        if self._waiting:
            self._next_look = asyncio.get_running_loop().call_later(seconds, self._let_in)

    def _let_in(self) -> None:
        """Admit those whose time has come."""
        self._next_look = None
        while self._waiting:
            now = time.monotonic()
            waits = [(self.wait(now, one.handshake), one.handshake.rank, one.number) for one in self._waiting]
            wait, _, number = min(waits)
            if wait > 0:
                self._look_in(wait)
                return
            one = next(one for one in self._waiting if one.number == number)
            self._waiting.remove(one)
            self.take(now, one.handshake)
            if not one.admitted.done():
                one.admitted.set_result(None)


def asked_to_wait(headers: Headers, wall: float) -> float | None:
    """Return the seconds that a refusal asks to wait; None if it does not say, or not readably.

    `Retry-After` has seconds or a date (RFC 9110, section 10.2.3). A date is compared with the server's own
    clock if the response has it, and else with `wall`, ours in seconds since the epoch. A header that comes
    several times is no error: the longest time counts.
    """
    dates = [seconds for text in headers.get_all("Date") if (seconds := _seconds(text)) is not None]
    since = dates[0] if dates else wall
    waits = [_wait(text.strip(), since) for text in headers.get_all("Retry-After")]
    return max((wait for wait in waits if wait is not None), default=None)


def _wait(text: str, since: float) -> float | None:
    try:
        return max(0.0, min(float(text), _HOUR * 24))
    except ValueError:
        until = _seconds(text)
    return None if until is None else max(0.0, until - since)


def spread_over(seconds: float) -> float:
    """Return a time to wait if the exchange asked for `seconds`: not all come back at the same moment."""
    return seconds * random.uniform(1, 1 + _MORE)  # noqa: S311


def _seconds(date: str) -> float | None:
    try:
        return parsedate_to_datetime(date).timestamp()
    except (ValueError, OverflowError):
        return None


def spread(wall: float, most: float) -> float:
    """Return the seconds to delay a reconnect at a wall time: 0 to `most` around a full hour, else 0."""
    if _ROUGH < wall % _HOUR < _HOUR - _ROUGH:
        return 0.0
    return random.uniform(0, most)  # noqa: S311


def calm(wall: float) -> float:
    """Return a wall time that is not around a full hour: the given one, or one shortly before that hour."""
    since = (wall + _ROUGH) % _HOUR
    if since > 2 * _ROUGH:
        return wall
    return wall - since - random.uniform(0, _ROUGH)  # noqa: S311
