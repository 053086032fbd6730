"""Halves the sessions of a shard that keep ending soon, and says which halves may be joined again.

The exchange may hang up at fewer subscriptions than `exchange.subscriptions_per_session`, or at some of them.
Example: it closes a connection at the 11th subscription, and there are 30. After three short lives there are
two sessions of 15; each of them ends soon as well, so that there are four of 8, 7, 8 and 7, which stay. When
one of these is due for a rotation, it is joined with another, as far as the exchange lets it, see
`Connector`.
"""

import time
from collections.abc import Callable
from math import ceil

import structlog

from bridge import plan
from bridge.websocket.connector import Connector
from bridge.websocket.courtesy import LIFE

log = structlog.get_logger(__name__)

_LEAST = 4
"""A session of so many subscriptions is not halved."""

_ALWAYS = 8
"""Sessions that are allowed however few there were: one of 30 subscriptions, in parts of 4."""


class Halving:
    """Halves public sessions among `connectors`, the shard's own list: it replaces items of it.

    Sessions of accounts are never halved, because a further login may end the one before it.
    """

    def __init__(
        self,
        connectors: list[Connector],
        create: Callable[[plan.Wanted], Connector],
        start: Callable[[Connector], None],
        shard: str,
    ) -> None:
        self._connectors = connectors
        self._create = create
        self._start = start
        self._more = 0  # connectors by which halving has increased their number
        self._log = log.bind(shard=shard)

    def split(self, connector: Connector) -> bool:
        """Replace a connector whose sessions keep ending soon by several; return whether that was done.

        Something else than its size may end them, and then all sessions are likely to end. So one connector
        at a time is tried while no other session stays up. Once parts of another stay up, it is split into
        parts of their size at once. The number of sessions is doubled at most.
        """
        now = time.monotonic()
        public = [one for one in self._connectors if one.account is None]
        staying = [one for one in public if one is not connector and one.live_for(now) >= LIFE]
        number = plan.count(connector.wanted)
        others_are_tried = any(one.is_part for one in public)
        if number <= _LEAST or not (staying or connector.is_part or not others_are_tried):
            return False
        sizes = [plan.count(one.wanted) for one in staying if one.is_part]
        size = max((size for size in sizes if size < number), default=ceil(number / 2))
        parts = plan.parts(connector.wanted, max(size, _LEAST))
        more = len(parts) - 1
        if len(public) + more > max(2 * (len(public) - self._more), _ALWAYS):
            return False
        self._log.warning("session halved", parts=[plan.count(one) for one in parts])
        self._more += more
        connectors = [self._create(wanted) for wanted in parts]
        place = self._connectors.index(connector)
        self._connectors[place : place + 1] = connectors
        for one in connectors:
            one.begin_as_part(connector, now)
            self._start(one)
        return True

    def partner(self, connector: Connector) -> Connector | None:
        """Return the smallest part of a session with which this one may be joined now, if there is one."""
        now = time.monotonic()
        if not connector.may_join(now):
            return None
        number = plan.count(connector.wanted)
        found = [
            one
            for one in self._connectors
            if one is not connector
            and one.may_join(now)
            and one.can_lend
            and number + plan.count(one.wanted) <= max(connector.whole, one.whole)
        ]
        return min(found, key=lambda one: plan.count(one.wanted), default=None)

    def joined(self, replaced: Connector) -> None:
        """Forget a connector whose subscriptions another one has now."""
        self._connectors.remove(replaced)
        self._more -= 1
