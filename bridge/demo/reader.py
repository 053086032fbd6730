"""Reads along as any consumer would, to show what Kafka holds and not what the bridge believes."""

import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, TopicPartition

_POLL = 0.2  # seconds
_TIMEOUT = 10.0  # seconds


class Reader:
    """A consumer of all `topics` (channel to topic) in a thread of its own, as long as its context.

    `read` counts the records per channel, `last` has the last one, `lag_ms` the time it took from its
    reception by the bridge to here.
    """

    def __init__(self, bootstrap: str, topics: Mapping[str, str], partitions: int) -> None:
        self.read = dict.fromkeys(topics, 0)
        self.last: dict[str, bytes] = {}
        self.lag_ms: dict[str, float] = {}
        self._channels = {topic: channel for channel, topic in topics.items()}
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
        self._consumer = Consumer(config)
        # Questions to the first one would stand in line behind its fetches.
        self._ends = Consumer(config)
        self._closing = threading.Event()
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
