"""All clients of the simulated exchange together: what goes out to many, and what befalls them all."""

import time
from collections.abc import Iterator

from bridge.simulator.client import Client
from bridge.simulator.faults import Faults
from bridge.simulator.market import Push


class Audience:
    """The clients that are connected; `too_slow` counts those cut off at more than `backlog` bytes unread."""

    def __init__(self, backlog: int) -> None:
        self._backlog = backlog
        self.too_slow = 0
        self._clients: set[Client] = set()
        self._stalled_until = 0.0

    def __iter__(self) -> Iterator[Client]:
        return iter(self._clients)

    def __len__(self) -> int:
        return len(self._clients)

    def enter(self, client: Client) -> None:
        """Take in a client, into a stall if there is one."""
        client.stalled = time.monotonic() < self._stalled_until
        self._clients.add(client)

    def leave(self, client: Client) -> None:
        """Forget a client."""
        self._clients.discard(client)

    def listening(self) -> list[Client]:
        """Return the clients that can be told something."""
        return [client for client in self._clients if client.listens]

    def subscribers(self, push: Push) -> list[Client]:
        """Return the clients that a push is for."""
        return [
            client
            for client in self._clients
            if client.subscriber.wants(push.channel, push.symbol, push.account) and client.listens
        ]

    def flush(self) -> None:
        """Send what was written; cut off who is too slow."""
        for client in self._clients:
            self.too_slow += not client.flush(self._backlog)

    @property
    def behind(self) -> bool:
        """True while the network has not taken all that was written."""
        return any(client.behind for client in self._clients)

    def cut(self) -> None:
        """Hang up on everyone without a word."""
        for client in self._clients:
            client.cut()

    def stall(self, seconds: float) -> None:
        """Send nothing for so long, then all of it."""
        self._stalled_until = time.monotonic() + seconds
        for client in self._clients:
            client.stalled = True

    def mute(self) -> None:
        """Neither hear nor tell anything on the connections that there are."""
        for client in self._clients:
            client.muted = True

    def grow_older(self, faults: Faults) -> None:
        """End a stall that is over; mute or cut off those whose time has come."""
        now = time.monotonic()
        for client in self._clients:
            age = now - client.opened
            client.stalled = client.stalled and now < self._stalled_until
            client.muted = client.muted or 0 < faults.mute_after < age
            if 0 < faults.max_age < age or now - client.heard > faults.idle_limit:
                client.cut()
