"""The feeder: an exchange that sends ready-made frames to whoever subscribes, in a process of its own.

`python -m benchmarks.feeder KIND COUNT RATE` prints its port. KIND is `mix` or `all_ticker`; RATE is frames a
second, 0 for as fast as they are taken. Each connection gets all frames, 3 s after its first subscribe.
"""

import asyncio
import sys
import time
import zlib

import orjson
import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode

from bridge.simulator import all_ticker_frames, frames

SYMBOLS = 50
MARKETS = 700
SEED = 7

_START = 3.0  # seconds, in which whoever measures gets ready
_BUFFER = 500_000  # bytes on the way
_CHUNK = 100  # frames written at once


def payloads(kind: str, count: int) -> list[bytes]:
    """Return the messages of a run, compressed."""
    if kind == "all_ticker":
        (whole,) = all_ticker_frames(SEED, MARKETS, 1)
        return [whole] * count
    return frames(SEED, symbols=SYMBOLS, count=count)


async def _feed(connection: ServerConnection, messages: list[bytes], rate: float) -> None:
    await asyncio.sleep(_START)
    transport, began, place = connection.transport, time.monotonic(), 0
    while place < len(messages) and not transport.is_closing():
        due = int((time.monotonic() - began) * rate) if rate else place + _CHUNK
        if due <= place or transport.get_write_buffer_size() > _BUFFER:
            await asyncio.sleep(0.001)
            continue
        transport.write(b"".join(messages[place:due]))
        place = min(due, len(messages))
        await asyncio.sleep(0)


async def _serve(kind: str, count: int, rate: float) -> None:
    messages = [Frame(Opcode.BINARY, payload).serialize(mask=False) for payload in payloads(kind, count)]
    feeding: set[asyncio.Task[None]] = set()

    async def answer(connection: ServerConnection) -> None:
        begun = False
        try:
            async for message in connection:
                request = orjson.loads(message)
                result = int(time.time()) if request["method"] == "server.time" else {"status": "success"}
                reply = {"error": None, "result": result, "id": request["id"]}
                await connection.send(zlib.compress(orjson.dumps(reply)))
                if not begun and request["method"].endswith(".subscribe"):
                    begun = True
                    feeding.add(asyncio.create_task(_feed(connection, messages, rate)))
        except ConnectionClosed:
            return

    async with serve(answer, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
        print(next(iter(server.sockets)).getsockname()[1], flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(_serve(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
