"""Names with several addresses, and name servers that hang."""

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvloop

from bridge.network import Loop

PORT_OF_DISCARD = 9


@contextmanager
def listening() -> Iterator[int]:
    """Listen on 127.0.0.1, and give the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextmanager
def dead() -> Iterator[int]:
    """Give a port on 127.0.0.2 at which connections are neither accepted nor refused."""
    with socket.create_server(("127.0.0.2", 0), backlog=0) as server:
        waiting = []
        try:
            for _ in range(8):
                one = socket.socket()
                waiting.append(one)
                one.setblocking(False)
                one.connect_ex(server.getsockname())
            yield server.getsockname()[1]
        finally:
            for one in waiting:
                one.close()


def named(monkeypatch: pytest.MonkeyPatch, *addresses: tuple[str, int]) -> None:
    """Let the name `exchange` have these addresses."""

    def look_up(host: str, port: int, **_: Any) -> list[Any]:
        assert host == "exchange"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


def run(scenario: Callable[[Loop], Awaitable[None]]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, Loop)
        async with asyncio.timeout(60):
            await scenario(loop)

    uvloop.run(main(), loop_factory=Loop)


async def connect(loop: Loop) -> tuple[str, int]:
    transport, _ = await loop.create_connection(asyncio.Protocol, "exchange", 80)
    peer: tuple[str, int] = transport.get_extra_info("peername")
    transport.close()
    return peer


def test_the_second_address_is_tried_while_the_first_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(loop: Loop) -> None:
        assert await connect(loop) == ("127.0.0.1", alive)

    with listening() as alive, dead() as silent:
        named(monkeypatch, ("127.0.0.2", silent), ("127.0.0.1", alive))
        run(scenario)


def test_the_second_address_is_tried_at_once_if_the_first_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(loop: Loop) -> None:
        assert await connect(loop) == ("127.0.0.1", alive)

    with listening() as alive:
        named(monkeypatch, ("127.0.0.3", PORT_OF_DISCARD), ("127.0.0.1", alive))
        run(scenario)


def test_an_error_names_what_went_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(loop: Loop) -> None:
        with pytest.raises(
            OSError, match=r"no address of exchange can be reached: .*127.0.0.3.*; .*127.0.0.4"
        ):
            await connect(loop)

    named(monkeypatch, ("127.0.0.3", PORT_OF_DISCARD), ("127.0.0.4", PORT_OF_DISCARD))
    run(scenario)


def test_a_name_that_is_not_known_is_an_error_of_the_system() -> None:
    async def scenario(loop: Loop) -> None:
        for name in ("no-such-name.invalid", "x" * 70 + ".invalid", "a..b"):
            with pytest.raises(OSError, match=r"."):
                await loop.create_connection(asyncio.Protocol, name, 80)

    run(scenario)


def test_an_address_needs_no_lookup(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(loop: Loop) -> None:
        transport, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", alive)
        transport.close()

    monkeypatch.delattr(socket, "getaddrinfo")
    with listening() as alive:
        run(scenario)


def test_a_lookup_that_hangs_delays_neither_the_end_nor_is_it_made_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked, over = [], threading.Event()

    def hang(host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        over.wait(600)
        return []

    async def scenario(loop: Loop) -> None:
        for _ in range(5):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await connect(loop)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    begin = time.monotonic()
    run(scenario)
    assert time.monotonic() - begin < 300
    assert asked == ["exchange"]
    over.set()
