"""The event loop of the process: how it reaches the exchange, the brokers and a proxy by their names.

uvloop looks names up in threads for which its end waits, and tries the addresses of a name one after another
without a time limit. Here a lookup never delays a stop, and the addresses are tried side by side.
"""

import asyncio
import ipaddress
import socket
import threading
from asyncio.staggered import staggered_race
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, zip_longest
from typing import Any

import uvloop

_HEAD_START = 0.25  # seconds that an address has before the next one is tried too (RFC 8305, section 8)

Address = tuple[socket.AddressFamily, Any]
"""What to connect to: the family, and the address as the socket takes it."""


class Loop(uvloop.Loop):
    """uvloop with names that are looked up in threads of their own, and all their addresses tried."""

    def __init__(self) -> None:
        super().__init__()
        # Lookups under way, by host and port, so that there is one thread for each at most.
        self._lookups: dict[tuple[str, int], asyncio.Future[Sequence[Address]]] = {}

    async def create_connection(
        self,
        protocol_factory: Callable[[], Any],
        host: str | bytes | None = None,
        port: str | int | None = None,
        **options: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        """Connect as asyncio does; to a name, over the first of its addresses that answers."""
        create = super().create_connection
        if not isinstance(host, str) or options.keys() & {"sock", "family", "proto", "flags", "local_addr"}:
            return await create(protocol_factory, host, port, **options)  # type: ignore[arg-type]
        reached = await self.reach(host, int(port or 0))
        if options.get("ssl") and options.get("server_hostname") is None:
            options["server_hostname"] = host
        try:
            return await create(protocol_factory, sock=reached, **options)
        except BaseException:
            reached.close()
            raise

    async def reach(self, host: str, port: int) -> socket.socket:
        """Return a socket that is connected to a host, given by its name or address.

        Raises:
            OSError: the name is not known, or none of its addresses can be reached.
        """
        addresses = await self._look_up(host, port)
        tries = [partial(self._connect, address) for address in addresses]
        reached: socket.socket | None
        reached, _, errors = await staggered_race(tries, _HEAD_START)
        if reached is not None:
            return reached
        known = [error for error in errors if isinstance(error, OSError)]
        if len(known) == 1:
            raise known[0]
        raise OSError(f"no address of {host} can be reached: {'; '.join(map(str, known))}")

    async def _connect(self, address: Address) -> socket.socket:
        family, where = address
        connecting = socket.socket(family, socket.SOCK_STREAM)
        try:
            connecting.setblocking(False)
            await self.sock_connect(connecting, where)
        except BaseException:
            connecting.close()
            raise
        return connecting

    async def _look_up(self, host: str, port: int) -> Sequence[Address]:
        with suppress(ValueError):
            version = ipaddress.ip_address(host).version
            return [(socket.AF_INET6 if version == 6 else socket.AF_INET, (host, port))]  # noqa: PLR2004
        found = self._lookups.get((host, port))
        if found is None:
            found = self._lookups[host, port] = self.create_future()
            # A daemon: the process does not wait for it.
            threading.Thread(target=self._ask, args=(host, port), name=f"lookup {host}", daemon=True).start()
        return await asyncio.shield(found)

    def _ask(self, host: str, port: int) -> None:
        """Look a name up, in a thread."""
        answer: Sequence[Address] | Exception
        try:
            answer = [
                (family, where)
                for family, _, _, _, where in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            ]
        except (OSError, ValueError) as error:
            answer = error
        with suppress(RuntimeError):  # the loop may have been closed meanwhile
            self.call_soon_threadsafe(self._answered, host, port, answer)

    def _answered(self, host: str, port: int, answer: Sequence[Address] | Exception) -> None:
        found = self._lookups.pop((host, port))
        if isinstance(answer, ValueError):
            answer = OSError(f"{host} is not a host name: {answer}")
        if isinstance(answer, Exception):
            found.set_exception(answer)
            found.exception()  # nobody may wait for it any more
        else:
            found.set_result(_alternating(answer))


def _alternating(addresses: Sequence[Address]) -> list[Address]:
    """Return addresses so that the families take turns: one of them may not work at all."""
    first = [one for one in addresses if one[0] == addresses[0][0]]
    others = [one for one in addresses if one[0] != addresses[0][0]]
    return [one for one in chain.from_iterable(zip_longest(first, others)) if one is not None]
