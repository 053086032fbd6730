"""Messages are cut out of the byte stream whole and in order, however the network splits it."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import pytest
import uvloop
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.utils import accept_key

from bridge.websocket.stream import Stream
from tests.support.waiting import soon

LIMIT = 1_000_000
SIZES = (0, 1, 125, 126, 127, 1000, 65_535, 65_536, 200_000)

Message = tuple[bytes, bool]


def whole(message: bytes) -> bytes:
    """Return a message in one frame."""
    return Frame(Opcode.BINARY, message).serialize(mask=False)


FRAGMENT = Frame(Opcode.BINARY, b"begins", fin=False).serialize(mask=False)


def exchange_with(
    serving: Callable[[ServerConnection], Awaitable[None]], until: Callable[[list[Message], Stream], bool]
) -> tuple[list[Message], Stream]:
    """Connect to a server that runs `serving`; return what is received until the condition holds."""

    async def scenario() -> tuple[list[Message], Stream]:
        messages: list[Message] = []
        async with serve(serving, "127.0.0.1", 0, compression=None) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            opened = await connect(
                f"ws://127.0.0.1:{port}", create_connection=Stream, compression=None, max_size=LIMIT
            )
            assert isinstance(opened, Stream)
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
def test_messages_are_the_same_however_the_stream_is_split(seed: int) -> None:
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


def test_frames_received_before_attach_are_handed_over() -> None:
    async def serving(connection: ServerConnection) -> None:
        connection.transport.write(Frame(Opcode.BINARY, b"early").serialize(mask=False))
        await connection.recv()
        connection.transport.write(Frame(Opcode.BINARY, b"late").serialize(mask=False))
        await connection.wait_closed()

    received, _ = exchange_with(serving, lambda got, _: len(got) == 2)
    assert received == [(b"early", True), (b"late", True)]


@pytest.mark.parametrize("half", [1, 2, 3, 20])
def test_part_of_a_frame_that_follows_the_handshake_is_completed(half: int) -> None:
    frame = Frame(Opcode.BINARY, b"x" * 40).serialize(mask=False)

    async def scenario() -> list[Message]:
        attached, left = asyncio.Event(), asyncio.Event()
        messages: list[Message] = []

        async def serving(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            request = (await reader.readuntil(b"\r\n\r\n")).decode()
            key = next(line[19:] for line in request.split("\r\n") if line.startswith("Sec-WebSocket-Key: "))
            writer.write(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Accept: " + accept_key(key).encode() + b"\r\n\r\n" + frame[:half]
            )
            await attached.wait()
            writer.write(frame[half:] + frame)
            with suppress(ConnectionError):
                await reader.read()
            writer.close()
            left.set()

        async with await asyncio.start_server(serving, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            opened = await connect(f"ws://127.0.0.1:{port}", create_connection=Stream, compression=None)
            assert isinstance(opened, Stream)
            opened.attach(lambda some, binary: messages.extend((data, binary) for data in some))
            attached.set()
            await soon(lambda: len(messages) == 2, 30, "the messages")
            opened.transport.abort()
            await left.wait()
        return messages

    assert asyncio.run(scenario()) == 2 * [(b"x" * 40, True)]


def test_everything_read_is_handed_over_when_the_connection_is_lost() -> None:
    count = 5_000  # more than one turn takes
    stream = Frame(Opcode.BINARY, b"x" * 40).serialize(mask=False) * count

    async def scenario() -> int:
        received = 0

        def receive(some: Sequence[bytes], _: bool) -> None:
            nonlocal received
            received += len(some)
            socket.transport.abort()

        async with serve(ServerConnection.wait_closed, "127.0.0.1", 0, compression=None) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            opened = await connect(f"ws://127.0.0.1:{port}", create_connection=Stream, compression=None)
            assert isinstance(opened, Stream)
            socket = opened
            socket.attach(receive)
            socket.data_received(stream)
            assert received < count
            await socket.wait_closed()
        return received

    assert asyncio.run(scenario()) == count


def test_an_error_in_the_receiver_closes_the_connection() -> None:
    """So that the session ends, instead of waiting for messages that nobody hands over."""

    async def serving(connection: ServerConnection) -> None:
        await connection.recv()
        connection.transport.write(Frame(Opcode.BINARY, b"x" * 40).serialize(mask=False) * 5_000)
        await connection.wait_closed()

    async def scenario() -> int:
        calls = 0

        def receive(some: Sequence[bytes], _: bool) -> None:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise ArithmeticError

        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: None)
        async with serve(serving, "127.0.0.1", 0, compression=None) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            opened = await connect(f"ws://127.0.0.1:{port}", create_connection=Stream, compression=None)
            assert isinstance(opened, Stream)
            opened.attach(receive)
            await opened.send("begin")
            async with asyncio.timeout(180):
                await opened.wait_closed()
        return calls

    assert asyncio.run(scenario()) >= 2


NOT_ACCEPTED = {
    "too large": (Frame(Opcode.BINARY, bytes(LIMIT + 1)).serialize(mask=False), 1009),
    "masked": (Frame(Opcode.BINARY, b"masked").serialize(mask=True), 1002),
    "inside": (FRAGMENT + whole(b"inside another one"), 1002),
    "behind a ping": (
        FRAGMENT + Frame(Opcode.PING, b"allowed").serialize(mask=False) + whole(b"not this"),
        1002,
    ),
    "fragment inside": (FRAGMENT + Frame(Opcode.TEXT, b"another", fin=False).serialize(mask=False), 1002),
    "empty fragments": (FRAGMENT + Frame(Opcode.CONT, b"", fin=False).serialize(mask=False) * 5000, 1009),
    "fragments": (
        FRAGMENT + Frame(Opcode.CONT, bytes(LIMIT // 4), fin=False).serialize(mask=False) * 5,
        1009,
    ),
}


@pytest.mark.parametrize(("frame", "code"), NOT_ACCEPTED.values(), ids=NOT_ACCEPTED)
def test_what_websockets_does_not_accept_closes_the_connection(frame: bytes, code: int) -> None:
    codes: list[int | None] = []

    async def serving(connection: ServerConnection) -> None:
        await connection.recv()
        connection.transport.write(whole(b"good") + frame)
        await connection.wait_closed()
        codes.append(connection.close_code)

    received, stream = exchange_with(serving, lambda _, socket: socket.state is State.CLOSED)
    assert received == [(b"good", True)]
    assert codes == [code]
    assert stream.fault is not None
    assert str(code) in stream.fault


@pytest.mark.parametrize("frame", [frame for frame, _ in NOT_ACCEPTED.values()], ids=NOT_ACCEPTED)
def test_what_is_not_accepted_ends_a_connection_that_is_lost_meanwhile(frame: bytes) -> None:
    """What was read before the loss is still looked at, and nothing can be answered then."""

    async def scenario() -> list[object]:
        failures: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        async with serve(ServerConnection.wait_closed, "127.0.0.1", 0, compression=None) as server:
            port = next(iter(server.sockets)).getsockname()[1]
            socket = await connect(
                f"ws://127.0.0.1:{port}", create_connection=Stream, compression=None, max_size=LIMIT
            )
            assert isinstance(socket, Stream)
            socket.attach(lambda _, __: socket.transport.abort())
            socket.data_received(whole(b"x" * 40) * 5_000 + frame)  # more than one turn takes
            await socket.wait_closed()
        return failures

    assert not uvloop.run(scenario())  # whose transports raise where asyncio's are silent


def test_pings_whose_pongs_nobody_reads_end_the_connection() -> None:
    pings = Frame(Opcode.PING, bytes(125)).serialize(mask=False) * 1000
    held: list[int] = []

    async def serving(connection: ServerConnection) -> None:
        await connection.recv()
        connection.transport.pause_reading()
        with suppress(asyncio.CancelledError, ConnectionError):
            while not connection.transport.is_closing():
                connection.transport.write(pings)
                await asyncio.sleep(0)
        connection.transport.abort()

    def ended(_: list[Message], stream: Stream) -> bool:
        held.append(stream.transport.get_write_buffer_size())
        return stream.state is State.CLOSED

    _, stream = exchange_with(serving, ended)
    assert stream.fault is not None
    assert "reads nothing" in stream.fault
    assert max(held) < LIMIT
