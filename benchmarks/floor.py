"""The floor: what inflating and parsing each frame costs, and nothing else.

`python -m benchmarks.floor URL COUNT` takes the frames from the feeder as the others do, so that caches and
the other core are as busy, but counts only the CPU time of `zlib.decompress` and `orjson.loads`; then, with
nothing else going on, that of the first frames once more.
"""

import asyncio
import sys
import time
import zlib
from collections.abc import Sequence

import orjson
import uvloop
from websockets.asyncio.client import connect

_CHUNK = 65_536  # bytes between two looks at the clock, or so
_SAMPLE = 8_000_000  # bytes for the second figure
_QUIET = 2.0  # seconds


async def main(url: str, count: int) -> None:
    """Print the CPU microseconds a frame, busy and idle, as JSON."""
    spent, sample, sampled = 0.0, list[bytes](), 0
    async with connect(url, compression=None, max_size=None) as socket:
        await socket.send('{"id":1,"method":"depth.subscribe","params":[]}')
        await socket.recv()
        left = count
        while left:
            chunk, size = [], 0
            while left and size < _CHUNK:
                frame = await socket.recv(decode=False)
                chunk.append(frame)
                size += len(frame)
                left -= 1
            spent += _work(chunk)
            if sampled < _SAMPLE:
                sample += chunk
                sampled += size
        # Connected, for the feeder has yet to see that all has been read.
        await asyncio.sleep(_QUIET)
    figures = {"busy_us": spent / count * 1e6, "idle_us": _work(sample) / len(sample) * 1e6}
    print(orjson.dumps(figures).decode())


def _work(frames: Sequence[bytes]) -> float:
    began = time.process_time()
    for frame in frames:
        orjson.loads(zlib.decompress(frame))
    return time.process_time() - began


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2])))
