"""Rebuild the order book of every market: `python books.py HOST:PORT`."""

import json
import sys
from decimal import Decimal
from typing import Any

from confluent_kafka import Consumer, KafkaException


class Book:
    """The order book of one market, rebuilt from records of `digifinex.depth.v1`."""

    def __init__(self) -> None:
        self.asks: dict[Decimal, Decimal] = {}  # price: amount
        self.bids: dict[Decimal, Decimal] = {}
        self.complete = False  # False after a missing record, until the next snapshot
        self._session = ""  # of the last record
        self._next_seq = 0  # what the next record of that session has to have

    def apply(self, record: dict[str, Any]) -> None:
        """Apply the next record. Use the book only while `complete` is true."""
        follows = (record["session"], record["seq"]) == (self._session, self._next_seq)
        self._session, self._next_seq = record["session"], record["seq"] + 1
        self.complete = record["snapshot"] or (self.complete and follows)
        for side, levels in ((self.asks, record["asks"]), (self.bids, record["bids"])):
            if record["snapshot"]:
                side.clear()
            for price, amount in levels:
                side[Decimal(price)] = Decimal(amount)
                if Decimal(amount) == 0:
                    del side[Decimal(price)]


def main() -> None:
    """Print the best bid and ask of a market whenever its book changes."""
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
    books: dict[str, Book] = {}
    try:
        while True:
            message = consumer.poll(1.0)
            if message is None:
                continue
            if (error := message.error()) is not None:
                raise KafkaException(error)
            record = json.loads(message.value() or b"")
            book = books.setdefault(record["symbol"], Book())
            book.apply(record)
            if book.complete and book.asks and book.bids:
                best_bid, best_ask = max(book.bids), min(book.asks)
                print(record["symbol"], f"bid {best_bid} ask {best_ask}", flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        consumer.close()


if __name__ == "__main__":
    main()
