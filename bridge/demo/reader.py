"""Reads the topics as any consumer would, to show the records on Kafka, whatever the bridge reports."""

import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, TopicPartition

from bridge.consumer import BookRecord, Depth, decode
from bridge.demo.books import Books
from bridge.records import BOOK

_DEPTH = "depth"
_POLL = 0.2  # seconds
_TIMEOUT = 10.0  # seconds


class Reader:
    """A consumer of all `topics` (channel to topic), in its own thread for the duration of the context."""

    def __init__(self, bootstrap: str, topics: Mapping[str, str], partitions: int) -> None:
        self.read = dict.fromkeys(topics, 0)  # number of records read of each channel
        self.last: dict[str, bytes] = {}  # value of the last record of each channel; none before the first
        self.lag_ms: dict[str, float] = {}  # ms from reception by the bridge to here, of that record
        self.books = Books()  # of the records of depth and book
        self._channels = {topic: channel for channel, topic in topics.items()}  # by topic
        # All partitions of the topics, each from its first record on.
        self._partitions = [
            TopicPartition(topic, number, 0) for topic in topics.values() for number in range(partitions)
        ]
        config = {
            "bootstrap.servers": bootstrap,
            "group.id": "digifinex-bridge-demo",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 50,
            "log_level": 0,
        }
        self._consumer = Consumer(config)  # reads the records; used by the thread only, once that has started
        # A separate one for end offsets: requests of the first one would queue behind its fetches.
        self._ends = Consumer(config)
        self._closing = threading.Event()  # set when the thread has to end
        # Reads from entering the context until `_closing` is set.
        self._thread = threading.Thread(target=self._run, name="reader", daemon=True)

    def __enter__(self) -> Self:
        self._consumer.assign(self._partitions)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._thread.join()
        self._consumer.close()
        self._ends.close()

    def held(self) -> dict[str, int]:
        """Return how many records each channel's topic holds, by its end offsets."""
        held = dict.fromkeys(self.read, 0)
        for partition in self._partitions:
            _, end = self._ends.get_watermark_offsets(partition, timeout=_TIMEOUT)
            held[self._channels[partition.topic]] += end
        return held

    def _run(self) -> None:
        while not self._closing.is_set():
            message = self._consumer.poll(_POLL)
            value = message.value() if message is not None and message.error() is None else None
            if message is None or value is None:
                continue
            channel = self._channels[str(message.topic())]
            self.read[channel] += 1
            self.last[channel] = value
            self.lag_ms[channel] = time.time() * 1000 - message.timestamp()[1]
            if channel in (_DEPTH, BOOK):
                record = decode(str(message.topic()), value)
                if isinstance(record, Depth | BookRecord):
                    self.books.apply(record)
