"""Consumers that join late, and the exchange's own book at each record of depth."""

import random
import threading
from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from types import TracebackType
from typing import NamedTuple, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from bridge.consumer import Book, BookRecord, Depth, Level, decode
from bridge.simulator.market import Levels, amount_text, price_text
from bridge.simulator.truth import Version

_TIMEOUT = 10.0  # seconds
_POLL = 0.2  # seconds

Place = tuple[str, int]
"""A record of depth, by session and seq."""

Content = Hashable
"""All levels of a book; equal for books with the same prices and amounts."""


class Seen(NamedTuple):
    """A book that a consumer had, right after a record of depth or its first book."""

    symbol: str
    place: Place
    content: Content


def content(asks: Mapping[Decimal, Decimal], bids: Mapping[Decimal, Decimal]) -> Content:
    """Return the content of a book, by value."""
    return frozenset(asks.items()), frozenset(bids.items())


def true_books(records: Iterable[Depth], versions: Sequence[Version]) -> dict[Place, Content]:
    """Return the exchange's book of a symbol at each record of depth.

    A snapshot shows one of the versions, and each change after it has to make the next one. If several
    versions have the same book, those are dropped that go on in another way.
    """
    contents = [content(_side(version.asks), _side(version.bids)) for version in versions]
    same: defaultdict[Content, set[int]] = defaultdict(set)
    for number, one in enumerate(contents):
        same[one].add(number)
    possible: dict[str, set[int]] = {}  # by session: the versions that its last record may show
    found: dict[Place, Content] = {}
    for record in records:
        if (record.session, record.seq) in found:
            continue  # repeated
        if record.snapshot:
            asks, bids = ({one.price: one.amount for one in side} for side in (record.asks, record.bids))
            numbers = same[content(asks, bids)]
        else:
            pushed = {"asks": _as_pushed(record.asks), "bids": _as_pushed(record.bids)}
            after = {number + 1 for number in possible[record.session]}
            numbers = {n for n in after if n < len(versions) and versions[n].change == pushed}
        assert numbers, f"the exchange's book was never what {record} makes of it"
        possible[record.session] = numbers
        found[record.session, record.seq] = contents[min(numbers)]
    return found


def _side(levels: Levels) -> dict[Decimal, Decimal]:
    return {Decimal(price_text(price)): Decimal(amount_text(lots)) for price, lots in levels.items()}


def _as_pushed(levels: Sequence[Level]) -> list[list[str]]:
    return [[f"{level.price:f}", f"{level.amount:f}"] for level in levels]


class Joiners:
    """Consumers that join at random moments while the context is open, up to `most`.

    Each reads the present books, then depth from their time on, as the documents say, until each symbol has
    had so many records, or the context ends.
    """

    def __init__(
        self, bootstrap: str, prefix: str, symbols: Sequence[str], *, most: int, records: int
    ) -> None:
        self.seen: list[Seen] = []  # by all that have joined
        self.joins = 0  # books that were joined
        self._bootstrap = bootstrap
        self._prefix = prefix
        self._symbols = frozenset(symbols)
        self._records = records
        self._rng = random.Random(prefix)
        self._closing = threading.Event()
        self._pool = ThreadPoolExecutor(most)
        self._joining = [self._pool.submit(self._join, number) for number in range(most)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all; raise what one of them has raised."""
        self._closing.set()
        self._pool.shutdown()
        while self._joining:
            seen = self._joining.pop().result()
            self.seen += seen
            self.joins += len(self._symbols) if seen else 0

    def _join(self, number: int) -> list[Seen]:
        """Join after so many random times; return nothing if the context ends before."""
        if self._closing.wait(number * self._rng.uniform(1, 2)):
            return []
        consumer = Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": "joiner",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
        )
        try:
            while not self._closing.is_set():
                with suppress(KafkaException):  # the broker is down
                    books = self._present_books(consumer)
                    if books.keys() == self._symbols:
                        consumer.assign(self._since(consumer, books.values()))
                        return self._follow(consumer, books)
            return []
        finally:
            consumer.close()

    def _partitions(self, consumer: Consumer, channel: str, offset: int) -> list[TopicPartition]:
        topic = f"{self._prefix}.{channel}.v1"
        numbers = consumer.list_topics(topic, timeout=_TIMEOUT).topics[topic].partitions
        return [TopicPartition(topic, number, offset) for number in numbers]

    def _present_books(self, consumer: Consumer) -> dict[str, BookRecord]:
        """Return the newest record of book of each symbol."""
        consumer.assign(self._partitions(consumer, "book", 0))
        books: dict[str, BookRecord] = {}
        left = {place.partition for place in consumer.assignment()}
        while left and not self._closing.is_set():
            message = consumer.poll(_POLL)
            if message is None:
                continue
            error = message.error()
            if error is not None:
                if error.code() == KafkaError._PARTITION_EOF:
                    left.discard(message.partition())
            else:
                record = decode(message.topic() or "", message.value())
                assert isinstance(record, BookRecord)
                books[record.symbol] = record
        return books

    def _since(self, consumer: Consumer, books: Iterable[BookRecord]) -> list[TopicPartition]:
        """Return from where depth has everything from the time of the oldest book on."""
        since_ms = min(record.received_us for record in books) // 1000
        return consumer.offsets_for_times(self._partitions(consumer, "depth", since_ms), timeout=_TIMEOUT)

    def _follow(self, consumer: Consumer, first: Mapping[str, BookRecord]) -> list[Seen]:
        books = {symbol: Book() for symbol in first}
        left = dict.fromkeys(first, self._records)
        seen = []
        for symbol, record in first.items():
            assert books[symbol].apply(record)
            seen.append(_seen(symbol, books[symbol]))
        while any(number > 0 for number in left.values()) and not self._closing.is_set():
            message = consumer.poll(_POLL)
            if message is None or message.error() is not None:
                continue
            change = decode(message.topic() or "", message.value())
            assert isinstance(change, Depth)
            book = books[change.symbol]
            assert book.apply(change), f"{change} is not the next one of {book.session} {book.seq}"
            seen.append(_seen(change.symbol, book))
            left[change.symbol] -= 1
        return seen


def _seen(symbol: str, book: Book) -> Seen:
    return Seen(symbol, (book.session, book.seq), content(book.asks, book.bids))
