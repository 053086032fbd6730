"""The plain peer: a straightforward program with websockets, zlib, orjson and `aiokafka.send`.

`python -m benchmarks.peer URL COUNT BOOTSTRAP PREFIX` makes the same records as the bridge, unvalidated,
prints a line when Kafka has acknowledged all of them, and waits to be killed.
"""

import asyncio
import sys
import time
import zlib
from typing import Any

import orjson
import uvloop
from aiokafka import AIOKafkaProducer
from websockets.asyncio.client import connect

_SESSION = "0123456789abcdef"
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


async def main(url: str, count: int, bootstrap: str, prefix: str) -> None:
    """Send the records of `count` frames to Kafka."""
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        enable_idempotence=True,
        compression_type="zstd",
        linger_ms=10,
        max_batch_size=131072,
    )
    await producer.start()
    async with connect(url, compression=None, max_size=None) as socket:
        await socket.send('{"id":1,"method":"depth.subscribe","params":[]}')
        await socket.recv()
        for number in range(count):
            frame = await socket.recv(decode=False)
            received_us = time.time_ns() // 1000
            message = orjson.loads(zlib.decompress(frame))
            channel = message["method"].removesuffix(".update")
            topic = f"{prefix}.{channel}.v1"
            for record in records(channel, message["params"], number, received_us):
                await producer.send(topic, orjson.dumps(record), key=record["symbol"].encode())
        await producer.flush()
        print("acknowledged", flush=True)
        await asyncio.Event().wait()


def records(channel: str, params: list[Any], number: int, received_us: int) -> list[dict[str, Any]]:
    """Return the records of a push."""
    head = {
        "schema": f"digifinex.{channel}.v1",
        "session": _SESSION,
        "seq": number,
        "received_us": received_us,
    }
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


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]))
