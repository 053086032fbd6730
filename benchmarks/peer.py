"""The plain peer: what somebody writes in an afternoon with websockets, zlib, orjson and `aiokafka.send`.

`python -m benchmarks.peer PORT COUNT BOOTSTRAP PREFIX` makes the same records as the bridge, unvalidated.
"""

import resource
import sys
import time
import zlib
from typing import Any

import orjson
import uvloop
from aiokafka import AIOKafkaProducer
from websockets.asyncio.client import connect

_FIGURES = (
    "open_24h",
    "high_24h",
    "low_24h",
    "base_volume_24h",
    "quote_volume_24h",
    "last",
    "last_qty",
    "best_bid",
    "best_bid_size",
    "best_ask",
    "best_ask_size",
)
_SESSION = "0123456789abcdef"


def records(message: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Return the records of a push."""
    channel = message["method"].removesuffix(".update")
    head = {
        "schema": f"digifinex.{channel}.v1",
        "session": _SESSION,
        "seq": number,
        "received_us": time.time_ns() // 1000,
    }
    params = message["params"]
    if channel == "depth":
        clean, book, symbol = params
        return [{**head, "symbol": symbol, "snapshot": clean, "asks": book["asks"], "bids": book["bids"]}]
    if channel == "trades":
        clean, trades, symbol = params
        return [
            {
                **head,
                "symbol": symbol,
                "id": trade["id"],
                "time_us": round(trade["time"] * 1e6),
                "price": trade["price"],
                "amount": trade["amount"],
                "side": trade["type"],
                "snapshot": clean,
            }
            for trade in reversed(trades)
        ]
    return [
        {
            **head,
            "symbol": ticker["symbol"],
            "time_us": ticker["timestamp"] * 1000,
            **{figure: ticker.get(figure) for figure in _FIGURES},
        }
        for ticker in params
    ]


async def main(port: int, count: int, bootstrap: str, prefix: str) -> None:
    """Print CPU microseconds a frame, frames a second and peak memory, as JSON."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        enable_idempotence=True,
        compression_type="zstd",
        linger_ms=10,
        max_batch_size=131072,
    )
    await producer.start()
    async with connect(f"ws://127.0.0.1:{port}/", compression=None, max_size=None) as socket:
        await socket.send('{"id":1,"method":"depth.subscribe","params":[]}')
        await socket.recv()
        first = await socket.recv()
        cpu, began = time.process_time(), time.monotonic()
        number, frame = 0, first
        while True:
            message = orjson.loads(zlib.decompress(frame))  # type: ignore[arg-type]
            topic = f"{prefix}.{message['method'].removesuffix('.update')}.v1"
            for record in records(message, number):
                await producer.send(topic, orjson.dumps(record), key=record["symbol"].encode())
            number += 1
            if number == count:
                break
            frame = await socket.recv()
        await producer.flush()
        cpu, seconds = time.process_time() - cpu, time.monotonic() - began
    await producer.stop()
    result = {
        "cpu_us": cpu / count * 1e6,
        "frames_s": count / seconds,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(orjson.dumps(result).decode())


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]))
