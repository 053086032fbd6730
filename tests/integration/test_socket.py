"""Messages are cut out of the stream whole and in order, however the network cuts it up."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Frame, Opcode
from websockets.protocol import State

from bridge.socket import Socket
from tests.support.waiting import soon

LIMIT = 1_000_000
SIZES = (0, 1, 125, 126, 127, 1000, 65_535, 65_536, 200_000)

Message = tuple[bytes, bool]


def exchange_with(
    serving: Callable[[ServerConnection], Awaitable[None]], until: Callable[[list[Message], Socket], bool]
) -> tuple[list[Message], Socket]:
    """Connect to a server that does `serving`; return what came until the condition holds, and the socket."""

    async def scenario() -> tuple[list[Message], Socket]:
        messages: list[Message] = []
        async with serve(serving, "127.0.0.1", 0, compression=None) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            opened = await connect(
                f"ws://127.0.0.1:{port}", create_connection=Socket, compression=None, max_size=LIMIT
            )
            assert isinstance(opened, Socket)
            async with opened as socket:
                socket.attach(lambda some, binary: messages.extend((data, binary) for data in some))
                await socket.send("begin")
                await soon(lambda: until(messages, socket), 30, "the messages")
        return messages, socket

    return asyncio.run(scenario())


def frames_and_messages(rng: random.Random) -> tuple[bytes, list[Message]]:
    """Return a stream of frames of every kind and size, and the messages that it carries."""
    stream, messages = b"", []
    for _ in range(120):
        data = rng.randbytes(rng.choice(SIZES))
        binary = rng.random() < 0.7
        opcode = Opcode.BINARY if binary else Opcode.TEXT
        kind = rng.random()
        if kind < 0.15:
            stream += Frame(Opcode.PING, data[:125]).serialize(mask=False)
        elif kind < 0.35:
            cut = len(data) // 2
            stream += Frame(opcode, data[:cut], fin=False).serialize(mask=False)
            stream += Frame(Opcode.PING, b"in between").serialize(mask=False)
            stream += Frame(Opcode.CONT, data[cut:]).serialize(mask=False)
            messages.append((data, binary))
        else:
            stream += Frame(opcode, data).serialize(mask=False)
            messages.append((data, binary))
    return stream, messages


@pytest.mark.parametrize("seed", range(3))
def test_any_way_of_cutting_the_stream_gives_the_same_messages(seed: int) -> None:
    rng = random.Random(seed)
    stream, messages = frames_and_messages(rng)

    async def serving(connection: ServerConnection) -> None:
        await connection.recv()
        place = 0
        while place < len(stream):
            size = rng.choice((1, 2, 3, 7, 500, 70_000, 300_000))
            connection.transport.write(stream[place : place + size])
            place += size
            await asyncio.sleep(0)
        await connection.wait_closed()

    received, _ = exchange_with(serving, lambda got, _: len(got) >= len(messages))
    assert received == messages


def test_frames_that_come_before_anybody_asked_are_handed_over_too() -> None:
    async def serving(connection: ServerConnection) -> None:
        connection.transport.write(Frame(Opcode.BINARY, b"early").serialize(mask=False))
        await connection.recv()
        connection.transport.write(Frame(Opcode.BINARY, b"late").serialize(mask=False))
        await connection.wait_closed()

    received, _ = exchange_with(serving, lambda got, _: len(got) == 2)
    assert received == [(b"early", True), (b"late", True)]


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (Frame(Opcode.BINARY, bytes(LIMIT + 1)).serialize(mask=False), 1009),
        (Frame(Opcode.BINARY, b"masked").serialize(mask=True), 1002),
    ],
)
def test_a_frame_that_is_too_large_or_masked_ends_the_connection(frame: bytes, code: int) -> None:
    told: list[int | None] = []

    async def serving(connection: ServerConnection) -> None:
        await connection.recv()
        connection.transport.write(Frame(Opcode.BINARY, b"good").serialize(mask=False) + frame)
        await connection.wait_closed()
        told.append(connection.close_code)

    received, _ = exchange_with(serving, lambda _, socket: socket.state is State.CLOSED)
    assert received == [(b"good", True)]
    assert told == [code]
