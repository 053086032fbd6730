"""Print every trade and report missing records: `python trades.py HOST:PORT`."""

import sys

from confluent_kafka import Consumer, KafkaException

from bridge.consumer import Continuity, Trade, decode

consumer = Consumer(
    {
        "bootstrap.servers": sys.argv[1],
        "group.id": "print-trades",
        "isolation.level": "read_committed",  # skip aborted transactions
        "auto.offset.reset": "earliest",
    }
)
consumer.subscribe(["digifinex.trades.v1"])
continuity = Continuity()

try:
    while True:
        message = consumer.poll(1.0)
        if message is None:
            continue
        if (error := message.error()) is not None:
            raise KafkaException(error)
        trade = decode(message.topic() or "", message.value() or b"")
        assert isinstance(trade, Trade)

        check = continuity.check(trade)
        if check.repeated:
            continue
        if check.missing:
            print(trade.symbol, "expected seq", check.missing[0], "got", trade.seq)
        print(trade.symbol, trade.id, trade.side, trade.price, trade.amount, flush=True)
except KeyboardInterrupt:
    pass
finally:
    consumer.close()
