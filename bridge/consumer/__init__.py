"""What readers of the topics import: typed records, the proof that none is missing, and order books. Pure.

It works with any Kafka client, since it takes the topic and the value of a message:

    record = decode(message.topic(), message.value())
    if continuity.check(record).missing:
        ...
"""

from bridge.consumer.book import Book
from bridge.consumer.continuity import Check, Continuity
from bridge.consumer.decoding import decode
from bridge.consumer.records import (
    RECORDS,
    AllTicker,
    Balance,
    BookRecord,
    ChannelRecord,
    DeadLetter,
    Depth,
    DifferingLevel,
    Event,
    Level,
    Order,
    OrderAlgo,
    Record,
    Ticker,
    Trade,
)
from bridge.errors import NotARecord

__all__ = [
    "RECORDS",
    "AllTicker",
    "Balance",
    "Book",
    "BookRecord",
    "ChannelRecord",
    "Check",
    "Continuity",
    "DeadLetter",
    "Depth",
    "DifferingLevel",
    "Event",
    "Level",
    "NotARecord",
    "Order",
    "OrderAlgo",
    "Record",
    "Ticker",
    "Trade",
    "decode",
]
