"""Leases: which shards this replica serves, as Kafka's group coordinator shares them out.

bridge-state has a partition a shard. A replica serves the shards whose partitions the group assigns it. The
protocol is eager: a rebalance takes all partitions away and gives them back, so what has gone is known when
it has ended. Until then a replica serves on; who gets a shard fences it off.
"""

import asyncio
import time
from collections.abc import Callable, Collection

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError, KafkaTimeoutError

from bridge.backoff import Backoff
from bridge.config import KafkaConfig
from bridge.kafka import quirks
from bridge.kafka.client import connection, in_words
from bridge.watch.metrics import Metrics

log = structlog.get_logger(__name__)

_WATCH = 1.0  # seconds between two looks at the consumer
_ANSWER = 10.0  # seconds that the coordinator may take to answer
_HEARTBEATS = 4  # a session timeout
_NEVER_MS = 2**31 - 1


class Leases(ConsumerRebalanceListener):  # type: ignore[misc]
    """The shards of one replica; `on_change` is called when they are others than before.

    `shards` is None until the group has told for the first time.
    """

    def __init__(
        self, config: KafkaConfig, topic: str, *, metrics: Metrics, on_change: Callable[[], None]
    ) -> None:
        self.shards: frozenset[int] | None = None
        self.trouble = f"waiting for the group {config.group_id} to share them out"
        self._config = config
        self._topic = topic
        self._metrics = metrics
        self._on_change = on_change
        self._assigned = asyncio.Event()
        self._confirmed_at = -float("inf")
        self._consumer: AIOKafkaConsumer | None = None

    async def run(self) -> None:
        """Be a member of the group until cancelled; then leave it, so that others need not wait."""
        backoff = Backoff(0.5, 10.0)
        while True:
            self._consumer = self._member()
            try:
                await self._consumer.start()
                self._consumer.subscribe([self._topic], listener=self)
                backoff.reset()
                while True:
                    await asyncio.sleep(_WATCH)
                    await self._consumer.getmany(timeout_ms=0)  # raises what went wrong in the background
            except KafkaError as error:
                self.trouble = f"no group on {self._config.bootstrap_servers}: {in_words(error)}"
                self._metrics.counter("kafka_errors_total", error=type(error).__name__).value += 1
                log.error("the group is away", group=self._config.group_id, error=in_words(error))
            finally:
                consumer, self._consumer = self._consumer, None
                await quirks.wait_closed(consumer.stop())
            await asyncio.sleep(backoff.next())

    async def is_ours(self, shard: int, max_age: float) -> bool:
        """Tell if a shard is this replica's, by what the group said not longer than so many seconds ago.

        Raises:
            KafkaError: the group does not answer.
        """
        while self.shards is None or shard in self.shards:
            if time.monotonic() - self._confirmed_at < max_age:
                return True
            self._assigned.clear()
            asked_at = time.monotonic()
            try:
                async with asyncio.timeout(_ANSWER):
                    if await self._confirm(shard):
                        self._confirmed_at = asked_at
                        return True
                    await self._assigned.wait()
            except TimeoutError:
                raise KafkaTimeoutError(f"the group {self._config.group_id} does not answer") from None
        return False

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Serve on: which of the shards go, only the next assignment tells."""

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Take note of what the group has assigned."""
        if self._consumer is not None:
            self._consumer.pause(*assigned)
        before, self.shards = self.shards, frozenset(place.partition for place in assigned)
        self._confirmed_at = time.monotonic()
        self._assigned.set()
        if self.shards != before:
            log.info("shards assigned", shards=sorted(self.shards), before=sorted(before or ()))
            self._on_change()

    def _member(self) -> AIOKafkaConsumer:
        session_ms = int(self._config.session_timeout * 1000)
        return AIOKafkaConsumer(
            **connection(self._config),
            group_id=self._config.group_id,
            partition_assignment_strategy=(StickyPartitionAssignor,),
            enable_auto_commit=False,
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // _HEARTBEATS,
            rebalance_timeout_ms=session_ms,
            max_poll_interval_ms=_NEVER_MS,
        )

    async def _confirm(self, shard: int) -> bool:
        """Commit an offset, which nobody reads: the group takes it from those alone that it knows."""
        if self._consumer is None or self.shards is None:
            return False
        try:
            await self._consumer.commit({TopicPartition(self._topic, shard): 0})
        except (CommitFailedError, IllegalStateError):
            return False
        return True
