"""The feeder: an exchange that sends prepared frames to every subscriber, in a separate process.

`python -m benchmarks.feeder FRAMES` prepares this number of frames of the mix, and frames of all_ticker, then
prints its port. The path of the URL says what a connection gets, a second after its first subscribe:
`/KIND/COUNT/RATE`, with RATE in frames a second, 0 for as fast as they are read. It prints 0 with the first
frame, and 1 to 10 as each tenth of them has been sent, the last one only when the client has read everything.
"""

import asyncio
import sys
import time
from collections.abc import Iterator
from itertools import islice

import orjson
import uvloop
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from benchmarks import supply
from bridge.simulator.client import binary
from bridge.simulator.encoding import compress, reply
from tests.support.sockets import unread

_DELAY = 1.0  # seconds, until the other subscriptions are done
_BUFFER = 500_000  # bytes; it waits while more are unsent
_AT_ONCE = {supply.MIX: 100, supply.ALL_TICKER: 1}  # frames written together, without a rate
_TICK = 0.001  # seconds
_SUCCESS = {"status": "success"}


class Feeder:
    """Sends every connection the frames that its URL asks for."""

    def __init__(self, frames: int) -> None:
        self._supplies = {supply.MIX: supply.mix(frames), supply.ALL_TICKER: supply.all_ticker()}

    async def serve(self) -> None:
        """Serve until cancelled."""
        async with serve(self._answer, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
            print(next(iter(server.sockets)).getsockname()[1], flush=True)
            await server.serve_forever()

    async def _answer(self, connection: ServerConnection) -> None:
        """Confirm every request, and start to send at the first subscription."""
        feeding: asyncio.Task[None] | None = None
        try:
            async for message in connection:
                request = orjson.loads(message)
                method = request["method"]
                result = {"server.time": int(time.time()), "server.ping": "pong"}.get(method, _SUCCESS)
                connection.transport.write(binary(compress(reply(request["id"], result, None))))
                if feeding is None and method.endswith(".subscribe"):
                    feeding = asyncio.create_task(self._feed(connection))
        except ConnectionClosed:
            return
        finally:
            if feeding is not None:
                feeding.cancel()

    async def _feed(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        _, kind, count, rate = connection.request.path.split("/")
        frames = islice(self._supplies[kind].stream(), int(count))
        await asyncio.sleep(_DELAY)
        print(0, flush=True)
        await _send(connection.transport, frames, int(count), _AT_ONCE[kind], float(rate))


async def _send(
    transport: asyncio.Transport, frames: Iterator[bytes], count: int, at_once: int, rate: float
) -> None:
    began, sent, tenths = time.monotonic(), 0, 0
    while tenths < 10:
        due = min(count, int((time.monotonic() - began) * rate) if rate else sent + at_once)
        if due <= sent or transport.get_write_buffer_size() > _BUFFER:
            await asyncio.sleep(_TICK)
            continue
        transport.write(b"".join(islice(frames, due - sent)))
        sent = due
        while sent == count and (transport.get_write_buffer_size() or unread(transport)):  # noqa: ASYNC110
            await asyncio.sleep(_TICK)
        for tenth in range(tenths + 1, sent * 10 // count + 1):
            print(tenth, flush=True)
            tenths = tenth
        await asyncio.sleep(0)


if __name__ == "__main__":
    uvloop.run(Feeder(int(sys.argv[1])).serve())
