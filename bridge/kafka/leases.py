"""Leases: which shards this replica serves, as Kafka's group coordinator assigns them.

The topic bridge-state has one partition for each shard. Replicas are members of one consumer group, and each
serves the shards whose partitions the group assigns it. The protocol is eager: a rebalance first revokes all
partitions, then assigns some, so only the assignment says which shards have moved. Until then a replica
continues to serve; the next owner of a shard fences it off.
"""

import asyncio
import time
from collections.abc import Callable, Collection

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaTimeoutError

from bridge.backoff import Backoff
from bridge.config import KafkaConfig
from bridge.kafka import quirks
from bridge.kafka.client import FAILURES, client, explained, in_words, reading, understood
from bridge.kafka.cluster import Cluster
from bridge.kafka.quirks.connecting import trouble
from bridge.records import STATE
from bridge.watch.metrics import Metrics

log = structlog.get_logger(__name__)

_POLL_INTERVAL = 1.0  # seconds between two checks for errors of the consumer's background tasks
_CONFIRM_TIMEOUT = 10.0  # seconds for the coordinator to confirm that a shard is ours
_HEARTBEATS = 4  # in one session timeout
_ANSWER_MS = 5000  # for an answer, besides what the group takes for it
_NEVER_MS = 2**31 - 1
_METADATA_MS = 10_000  # age of the metadata, at most: the group's leader assigns what it has seen


class Leases(ConsumerRebalanceListener):  # type: ignore[misc]
    """The shards of one replica; `on_change` is called whenever they have changed."""

    def __init__(
        self, config: KafkaConfig, cluster: Cluster, *, metrics: Metrics, on_change: Callable[[], None]
    ) -> None:
        self.shards: frozenset[int] | None = None  # those assigned last; None until the first assignment
        self._failure = ""  # why the last consumer has failed; "" while there is one
        self._failed_at: float | None = None  # when the present outage began, on the monotonic clock, if any
        self._config = config
        self._cluster = cluster
        self._topic = cluster.topics[STATE].name
        self._topic_id = cluster.topics[STATE].id  # the topic whose partitions are assigned
        self._doubtful = False  # whether an assignment was ignored, so that the group has to be joined again
        self._metrics = metrics
        self._on_change = on_change
        self._assigned = asyncio.Event()  # set by each assignment; cleared before waiting for the next one
        # Monotonic time up to which `shards` are known to be ours, by the assignment or a confirmation.
        self._confirmed_at = -float("inf")
        self._backoff = Backoff(0.5, 10.0)  # between two members; starts over with an assignment
        self._consumer: AIOKafkaConsumer | None = None  # the member; None between a failure and the next try

    def unavailable(self) -> str | None:
        """Return why the group does not answer, for /readyz; None if it does.

        The shards that are assigned are served meanwhile, until the group assigns them to another replica.
        """
        if why := self._cause():
            return f"consumer group unavailable on {self._config.bootstrap_servers}: {why}"
        return None

    def missing(self) -> str:
        """Return why there is no assignment, for /readyz."""
        waiting = f"waiting for consumer group {self._config.group_id} to assign shards"
        return self.unavailable() or waiting

    def _cause(self) -> str | None:
        if self._consumer is None or self._failure:
            return self._failure or None
        return None if quirks.hears_coordinator(self._consumer) else trouble(self._consumer)

    async def run(self) -> None:
        """Be a member of the group until cancelled; then leave it, so that others need not wait."""
        while True:
            while self._cluster.topics[STATE].missing:  # noqa: ASYNC110 - polled like the consumer
                await asyncio.sleep(_POLL_INTERVAL)  # there is nothing to assign
            try:
                self._consumer = self._member()
                with explained(self._consumer), understood():
                    await self._consumer.start()
                    self._failure = ""
                    self._consumer.subscribe([self._topic], listener=self)
                    while not self._doubtful:
                        await asyncio.sleep(_POLL_INTERVAL)
                        await self._consumer.getmany(timeout_ms=0)  # raises errors of the background tasks
            except FAILURES as error:
                self._failure = in_words(error)
                self._cluster.ask()
                self._metrics.counter("kafka_errors_total", error=type(error).__name__).value += 1
                self._note_outage()
            finally:
                self._doubtful = False
                self._confirmed_at = -float("inf")  # a member that leaves hands its shards over at once
                consumer, self._consumer = self._consumer, None
                if consumer is not None:
                    await quirks.wait_closed(consumer.stop())
            await asyncio.sleep(self._backoff.next())

    async def is_ours(self, shard: int, max_age: float) -> bool:
        """Return whether the group assigns a shard to this replica, as of at most `max_age` seconds ago.

        A shard that was assigned is confirmed by the group if the last confirmation is older than that.

        Raises:
            KafkaError: the group does not answer, or an ACL is missing.
        """
        while self.shards is None or shard in self.shards:
            if time.monotonic() - self._confirmed_at < max_age:
                return True
            self._assigned.clear()
            asked_at = time.monotonic()
            try:
                async with asyncio.timeout(_CONFIRM_TIMEOUT):
                    if await self._confirm(shard):
                        self._confirmed_at = asked_at
                        return True
                    await self._assigned.wait()
            except TimeoutError:
                because = f": {why}" if (why := self._cause()) else ""
                raise KafkaTimeoutError(
                    f"no response from consumer group {self._config.group_id}{because}"
                ) from None
        return False

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """Continue to serve: the next assignment says which of these shards have moved."""

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """Serve the shards that the group has assigned."""
        if self._consumer is not None:
            self._consumer.pause(*assigned)  # bridge-state is read by others; this consumer is for the group
        numbers = {place.partition for place in assigned}
        if more := sorted(number for number in numbers if number >= self._config.shards):
            log.error("bridge-state has more partitions than kafka.shards", partitions=more)
        shards = frozenset(numbers.difference(more))
        if not (shards and shards >= (self.shards or shards)) and await self._is_doubtful():
            log.warning("assignment ignored, bridge-state may have been missing", shards=sorted(shards))
            self._doubtful = True
            return
        self._backoff.reset()
        self._note_end_of_outage()
        before, self.shards = self.shards, shards
        self._confirmed_at = time.monotonic()
        self._assigned.set()
        if self.shards != before:
            log.info("shards assigned", shards=sorted(self.shards), before=sorted(before or ()))
            self._on_change()

    def _note_outage(self) -> None:
        """Log that the group is unavailable, once until it has assigned shards again."""
        if self._failed_at is None:
            self._failed_at = time.monotonic()
            group, why = self._config.group_id, self._failure
            log.error("consumer group unavailable, retrying", group=group, error=why)

    def _note_end_of_outage(self) -> None:
        if self._failed_at is not None:
            seconds = round(time.monotonic() - self._failed_at, 1)
            log.warning("consumer group available again", group=self._config.group_id, seconds=seconds)
            self._failed_at = None

    async def _is_doubtful(self) -> bool:
        """Return whether the group's leader may have assigned too little because bridge-state was not there.

        As long as nobody can tell, it may have.
        """
        if not await self._cluster.refreshed():
            return True
        topic = self._cluster.topics[STATE]
        before, self._topic_id = self._topic_id, topic.id
        return bool(topic.missing) or topic.id != before

    def _member(self) -> AIOKafkaConsumer:
        session_ms = int(self._config.session_timeout * 1000)
        return client(
            AIOKafkaConsumer,
            self._config,
            # A request to join is answered once all members have joined, or do not any more.
            request_timeout_ms=session_ms + _ANSWER_MS,
            group_id=self._config.group_id,
            partition_assignment_strategy=(StickyPartitionAssignor,),
            enable_auto_commit=False,
            session_timeout_ms=session_ms,
            heartbeat_interval_ms=session_ms // _HEARTBEATS,
            rebalance_timeout_ms=session_ms,
            max_poll_interval_ms=_NEVER_MS,
            metadata_max_age_ms=_METADATA_MS,
        )

    async def _confirm(self, shard: int) -> bool:
        """Commit an offset that nobody reads: the group accepts it from a current member only."""
        if self._consumer is None or self.shards is None:
            return False
        try:
            commit = asyncio.ensure_future(self._consumer.commit({TopicPartition(self._topic, shard): 0}))
            # aiokafka does not end its request with the wait for it. Then nobody else reads its error.
            commit.add_done_callback(lambda done: done.cancelled() or done.exception())
            with understood(), reading():
                await asyncio.shield(commit)
        except (CommitFailedError, IllegalStateError):
            return False
        return True
