"""Keep the order book of every market: `python books.py HOST:PORT`."""

import json
import sys
from decimal import Decimal
from typing import Any

from confluent_kafka import Consumer, KafkaException


class Book:
    """The order book of one market, out of the records of `digifinex.depth.v1`."""

    def __init__(self) -> None:
        self.asks: dict[Decimal, Decimal] = {}
        self.bids: dict[Decimal, Decimal] = {}
        self.whole = False
        self._session = ""
        self._next_seq = 0

    def apply(self, record: dict[str, Any]) -> None:
        """Take the next record; `whole` tells if the book can be relied on after it."""
        follows = (record["session"], record["seq"]) == (self._session, self._next_seq)
        self._session, self._next_seq = record["session"], record["seq"] + 1
        self.whole = record["snapshot"] or (self.whole and follows)
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
            # Books live in memory: begin at the beginning each time.
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
            if book.whole and book.asks and book.bids:
                best_bid, best_ask = max(book.bids), min(book.asks)
                print(record["symbol"], f"bid {best_bid} ask {best_ask}", flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        consumer.close()


if __name__ == "__main__":
    main()
