"""Print every trade, and say so if one is missing: `python trades.py HOST:PORT`."""

import json
import sys

from confluent_kafka import Consumer, KafkaException

consumer = Consumer(
    {
        "bootstrap.servers": sys.argv[1],
        "group.id": "print-trades",
        "isolation.level": "read_committed",  # leave out what was never committed
        "auto.offset.reset": "earliest",
    }
)
consumer.subscribe(["digifinex.trades.v1"])

# What the next record of a symbol has to be: its session and its seq in there.
expected: dict[str, tuple[str, int]] = {}

try:
    while True:
        message = consumer.poll(1.0)
        if message is None:
            continue
        if (error := message.error()) is not None:
            raise KafkaException(error)
        trade = json.loads(message.value() or b"")

        symbol, session, seq = trade["symbol"], trade["session"], trade["seq"]
        if symbol in expected:
            last_session, next_seq = expected[symbol]
            wanted = next_seq if session == last_session else 0
            if seq != wanted:
                print(f"{symbol}: seq {wanted} was due, {seq} came", flush=True)
        expected[symbol] = session, seq + 1

        figures = (trade[name] for name in ("id", "side", "price", "amount"))
        print(symbol, *figures, flush=True)
except KeyboardInterrupt:
    pass
finally:
    consumer.close()
