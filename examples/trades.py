"""Print every trade and report missing records: `python trades.py HOST:PORT`."""

import json
import sys

from confluent_kafka import Consumer, KafkaException

consumer = Consumer(
    {
        "bootstrap.servers": sys.argv[1],
        "group.id": "print-trades",
        "isolation.level": "read_committed",  # skip aborted transactions
        "auto.offset.reset": "earliest",
    }
)
consumer.subscribe(["digifinex.trades.v1"])

# For each symbol: the session of its last record, and the seq that has to follow.
expected: dict[str, tuple[str, int]] = {}
# For each partition: the offset of its last record.
last_offset: dict[int | None, int] = {}

try:
    while True:
        message = consumer.poll(1.0)
        if message is None:
            continue
        if (error := message.error()) is not None:
            raise KafkaException(error)
        # A consumer that rejoins its group reads some records again: skip those.
        partition, offset = message.partition(), message.offset() or 0
        if offset <= last_offset.get(partition, -1):
            continue
        last_offset[partition] = offset

        trade = json.loads(message.value() or b"")
        symbol, session, seq = trade["symbol"], trade["session"], trade["seq"]
        if symbol in expected:
            last_session, next_seq = expected[symbol]
            expected_seq = next_seq if session == last_session else 0
            if seq != expected_seq:
                print(f"{symbol}: expected seq {expected_seq}, got {seq}", flush=True)
        expected[symbol] = session, seq + 1

        figures = (trade[name] for name in ("id", "side", "price", "amount"))
        print(symbol, *figures, flush=True)
except KeyboardInterrupt:
    pass
finally:
    consumer.close()
