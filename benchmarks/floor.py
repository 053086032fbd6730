"""The floor: what inflating and parsing each frame costs, and nothing else.

`python -m benchmarks.floor PORT COUNT` takes the frames from the feeder as the others do, so that caches and
the other core are as busy, but counts only the CPU time of `zlib.decompress` and `orjson.loads`.
"""

import sys
import time
import zlib

import orjson
from websockets.sync.client import connect

_CHUNK = 200  # frames between two looks at the clock


def main(port: int, count: int) -> None:
    """Print the CPU microseconds a frame, as JSON."""
    spent = 0.0
    with connect(f"ws://127.0.0.1:{port}/", compression=None, max_size=None) as socket:
        socket.send('{"id":1,"method":"depth.subscribe","params":[]}')
        socket.recv()
        left = count
        while left:
            chunk = [socket.recv() for _ in range(min(left, _CHUNK))]
            left -= len(chunk)
            began = time.process_time()
            for frame in chunk:
                orjson.loads(zlib.decompress(frame))  # type: ignore[arg-type]
            spent += time.process_time() - began
    print(orjson.dumps({"cpu_us": spent / count * 1e6}).decode())


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
