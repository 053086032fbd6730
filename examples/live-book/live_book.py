"""Show the live order book of a market: `python live_book.py HOST:PORT BTC_USDT`."""

import sys

from confluent_kafka import OFFSET_BEGINNING, OFFSET_END, Consumer, KafkaException
from confluent_kafka import TopicPartition as Partition

from bridge.consumer import Book, BookRecord, Depth, decode

LEVELS = 10  # of each side
STARTS = {"digifinex.book.v1": OFFSET_BEGINNING, "digifinex.depth.v1": OFFSET_END}
CLEAR = "\x1b[2J\x1b[H" if sys.stdout.isatty() else ""

bootstrap, symbol = sys.argv[1:]
settings = {"group.id": "live-book", "enable.auto.commit": False}
consumer = Consumer({"bootstrap.servers": bootstrap, **settings})
for topic, start in STARTS.items():
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    consumer.incremental_assign([Partition(topic, n, start) for n in partitions])
book = Book()
while True:
    message = consumer.poll(1.0)
    if message is None:
        continue
    if (error := message.error()) is not None:
        raise KafkaException(error)
    if message.key() != symbol.encode():
        continue
    record = decode(message.topic() or "", message.value())
    if not isinstance(record, Depth | BookRecord):
        book.clear()  # a tombstone: the market is not followed any more
    elif book.apply(record):
        asks = sorted(book.asks.items())[:LEVELS]
        bids = sorted(book.bids.items(), reverse=True)[:LEVELS]
        lines = [f"{CLEAR}{symbol} after record {book.seq} of session {book.session}"]
        lines += [f"{price:>14f} {amount:>14f} ask" for price, amount in reversed(asks)]
        lines += [f"{price:>14f} {amount:>14f} bid" for price, amount in bids]
        print("\n".join(lines), flush=True)
