"""All clients of the simulated exchange together: updates for many of them, and faults that hit all."""

import math
import time
from collections.abc import Iterator

from bridge.simulator.client import Client
from bridge.simulator.faults import Faults
from bridge.simulator.market import Update


class Audience:
    """The connected clients. A client that leaves more than `backlog` bytes unread is cut off."""

    def __init__(self, backlog: int) -> None:
        self._backlog = backlog
        self.too_slow = 0  # clients cut off so far because of the backlog; only grows
        self._clients: set[Client] = set()  # from the accepted handshake to the end of the connection
        self._stalled_until = 0.0  # monotonic seconds; in the past except during a stall

    def __iter__(self) -> Iterator[Client]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)

    def enter(self, client: Client) -> None:
        """Add a client; during a stall it is stalled too."""
        client.stalled = time.monotonic() < self._stalled_until
        self._clients.add(client)

    def leave(self, client: Client) -> None:
        """Forget a client."""
        self._clients.discard(client)

    def listening(self) -> list[Client]:
        """Return the clients that get updates: open and not muted."""
        return [client for client in self._clients if client.listens]

    def subscribers(self, update: Update) -> list[Client]:
        """Return the listening clients that subscribed to an update."""
        return [
            client
            for client in self._clients
            if client.subscriber.wants(update.channel, update.symbol, update.account) and client.listens
        ]

    def flush(self) -> None:
        """Send the written frames; cut off clients that read too slowly."""
        for client in self._clients:
            self.too_slow += not client.flush(self._backlog)

    @property
    def behind(self) -> bool:
        """True while the kernel has not accepted all that was written."""
        return any(client.behind for client in self._clients)

    def cut(self, share: float = 1.0) -> None:
        """Abort a share of the connections, the oldest first, without a close frame."""
        clients = sorted(self._clients, key=lambda client: client.opened)
        for client in clients[: math.ceil(share * len(clients))]:
            client.cut()

    def stall(self, seconds: float) -> None:
        """Send nothing for `seconds`, then everything that was held back."""
        self._stalled_until = time.monotonic() + seconds
        for client in self._clients:
            client.stalled = True

    def mute(self) -> None:
        """Ignore the current connections from here on: neither read requests nor send anything."""
        for client in self._clients:
            client.muted = True

    def grow_older(self, faults: Faults) -> None:
        """Apply what depends on time: end a finished stall, mute or cut off connections that are due."""
        now = time.monotonic()
        for client in self._clients:
            age = now - client.opened
            client.stalled = client.stalled and now < self._stalled_until
            client.muted = client.muted or 0 < faults.mute_after < age
            if 0 < faults.max_age < age or now - client.heard > faults.idle_limit:
                client.cut()
