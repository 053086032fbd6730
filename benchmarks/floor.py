"""The floor: the cost of inflating and parsing each frame, and nothing else.

`python -m benchmarks.floor URL COUNT` reads the frames from the feeder as the other candidates do, so that
caches and the other core are equally busy, but counts only the CPU time of `zlib.decompress` and
`orjson.loads`. It then repeats the first frames on the idle machine.
"""

import asyncio
import sys
import time
import zlib
from collections.abc import Sequence

import orjson
import uvloop
from websockets.asyncio.client import connect

_CHUNK = 65_536  # bytes, about, between two readings of the clock
_SAMPLE = 8_000_000  # bytes repeated on the idle machine
_QUIET = 2.0  # seconds until the machine is idle


async def main(url: str, count: int) -> None:
    """Print the CPU microseconds per frame, busy and idle, as JSON."""
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
        # Stays connected, because the feeder checks that everything has been read.
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
