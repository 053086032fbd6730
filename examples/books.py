"""Rebuild the order book of every market: `python books.py HOST:PORT`."""

import sys
from collections import defaultdict

from confluent_kafka import Consumer, KafkaException

from bridge.consumer import Book, Depth, decode

consumer = Consumer(
    {
        "bootstrap.servers": sys.argv[1],
        "group.id": "keep-books",
        "isolation.level": "read_committed",
        # The books are in memory only, so every start reads from the beginning.
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
    }
)
consumer.subscribe(["digifinex.depth.v1"])
books: defaultdict[str, Book] = defaultdict(Book)

try:
    while True:
        message = consumer.poll(1.0)
        if message is None:
            continue
        if (error := message.error()) is not None:
            raise KafkaException(error)
        change = decode(message.topic() or "", message.value() or b"")
        assert isinstance(change, Depth)

        book = books[change.symbol]
        if book.apply(change) and book.best_ask and book.best_bid:
            bid, ask = book.best_bid.price, book.best_ask.price
            print(change.symbol, f"bid {bid} ask {ask}", flush=True)
except KeyboardInterrupt:
    pass
finally:
    consumer.close()
