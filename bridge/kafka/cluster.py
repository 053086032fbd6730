"""The view of the cluster that sinks, leases and readiness share: its id, and the topics as they are.

It is renewed every minute, and at once when somebody asks because something has failed. A topic that is
missing is created again if `kafka.create_topics` allows it; else it is named, and its records wait. Each look
opens a client of its own, at the bootstrap addresses.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace

import structlog

from bridge.config import Delivery, KafkaConfig
from bridge.kafka.client import FAILURES, in_words, transactional_id, understood
from bridge.kafka.framing import PLAIN, Framing
from bridge.kafka.looking import GROUPS, TRANSACTIONS, View, and_more, look
from bridge.kafka.topics import Topic, mismatch
from bridge.partitioner import coordinated_by
from bridge.records import STATE
from bridge.seen import Seen, SeenTopic
from bridge.watch.metrics import Metrics

log = structlog.get_logger(__name__)

_CALM = 60.0  # seconds between two looks
_UNEASY = 2.0  # the same while a topic is missing or a partition has no leader, or the last look failed
_LEAST = 0.5  # the same, however often somebody asks
_PATIENCE = 15.0  # seconds that a look may take
_WAIT = 5.0  # seconds that `refreshed` waits for one


class Cluster:
    """The newest view of the cluster; the topics are those of these channels, events, dead letters, state."""

    def __init__(self, config: KafkaConfig, channels: Collection[str], metrics: Metrics) -> None:
        self.view = View()
        self.version = 0  # grows with each change of the view; its topics are never changed in place
        # Called after each change; whoever serves a shard adds one and removes it again.
        self.watchers: list[Callable[[], None]] = []
        # What the messages of each topic have, by its name; those of others but the state wait. None: records
        # are sent as they are.
        self._framings: Mapping[str, Framing] | None = None
        # Called with each channel that is not configured any more, when its topic is to be looked at, too.
        self.on_included: Callable[[str], None] = lambda _: None
        self._config = config
        self._channels = channels
        self._besides: set[str] = set()  # channels that are not configured and have records in a spool
        self._metrics = metrics
        self._asked = asyncio.Event()  # set to have the next look at once
        self._looks = 0  # looks that have ended, whether they succeeded or not
        self._looking = False
        self._succeeded = False  # whether the last look that has ended did
        self._looked = asyncio.Condition()  # notified when one has ended
        self._error = ""  # why the last look failed, in words; "" if it did not

    @property
    def topics(self) -> Mapping[str, Topic]:
        """The topics, by channel; empty before the first look."""
        return self.view.topics

    @property
    def seen(self) -> Seen:
        """What is to be remembered of the cluster."""
        return Seen(
            self.view.cluster,
            {
                STATE if channel == STATE else topic.name: SeenTopic(topic.id, topic.partitions)
                for channel, topic in self.topics.items()
            },
        )

    def await_framings(self) -> None:
        """Have the records of each topic wait until `frame` says what its messages have besides."""
        self._framings = {}

    def frame(self, framings: Mapping[str, Framing]) -> None:
        """Give the messages of each topic, by its name, what they have, if they were to wait for it."""
        if self._framings is not None:
            self._framings = framings
            self._take(self.view)

    async def look(self) -> None:
        """Renew the view, and create what is missing.

        Raises:
            TopicError: at the first look, the topics do not match the configuration.
            TopicMissing: at the first look, a topic is missing and is not created.
            KafkaError: Kafka does not answer.
        """
        self._looking, succeeded = True, False
        try:
            with understood():
                async with asyncio.timeout(_PATIENCE):
                    self._take(await look(self._config, self._channels, self.view, self._besides))
            succeeded = True
        finally:
            self._looking, self._succeeded = False, succeeded
            self._looks += 1
            async with self._looked:
                self._looked.notify_all()

    async def run(self) -> None:
        """Keep the view up to date until cancelled; to be called after the first `look`."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CALM if not self.missing() and not self._error else _UNEASY):
                    await self._asked.wait()
            self._asked.clear()
            try:
                await self.look()
                self._error = ""
            except FAILURES as error:
                self._metrics.counter("kafka_errors_total", error=type(error).__name__).value += 1
                if not self._error:
                    log.warning("cluster metadata unavailable, retrying", error=in_words(error))
                self._error = in_words(error)
            await asyncio.sleep(_UNEASY if self._error else _LEAST)

    def include(self, channel: str) -> None:
        """Look at the topic of a channel, too, that is not configured any more: there are records for it."""
        if channel not in self.topics and channel not in self._besides:
            self._besides.add(channel)
            self.on_included(channel)
            self.ask()

    def ask(self) -> None:
        """Have the view renewed soon, because something has failed."""
        self._asked.set()

    async def refreshed(self) -> bool:
        """Wait until a look that begins now or later has ended, 5 s at most; return whether it succeeded."""
        enough = self._looks + (2 if self._looking else 1)
        self.ask()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WAIT), self._looked:
                await self._looked.wait_for(lambda: self._looks >= enough)
                return self._succeeded
        return False

    def missing(self) -> dict[str, str]:
        """Return which topics are missing or unusable and which partitions have no leader, for /readyz."""
        gone = [topic.missing for topic in self.topics.values() if topic.missing]
        state = self.topics.get(STATE)
        if state is not None and not state.missing and state.partitions != self._config.shards:
            gone.append(mismatch(state.name, state.partitions, self._config.shards))
        stuck = [
            f"{topic.name}/{number}"
            for topic in self.topics.values()
            if not topic.missing
            for number in sorted(topic.leaderless)
        ]
        stuck += self._stuck_coordinators()
        missing = {}
        if gone:
            missing["topics"] = and_more(gone, "; ")
        if stuck:
            missing["partitions"] = f"no leader: {and_more(stuck, ', ')}"
        return missing

    def _stuck_coordinators(self) -> list[str]:
        """Return the partitions of Kafka's own topics without a leader that hold up the group or a shard."""
        config, own = self._config, self.view.own
        names = {GROUPS: [config.group_id]}
        if config.delivery is Delivery.EXACTLY_ONCE:
            names[TRANSACTIONS] = [transactional_id(config, shard) for shard in range(config.shards)]
        return sorted(
            f"{topic}/{number}"
            for topic in names.keys() & own.keys()
            for number in {coordinated_by(name, own[topic].partitions) for name in names[topic]}
            if number in own[topic].leaderless
        )

    def _take(self, view: View) -> None:
        topics = {channel: self._framed(channel, topic) for channel, topic in view.topics.items()}
        view = view._replace(topics=topics)
        before, self.view = self.view, view
        if (before.cluster, before.topics) == (view.cluster, view.topics):
            return
        self.version += 1
        for channel, topic in view.topics.items():
            old = before.topics.get(channel)
            if before.topics and old != topic:
                _log(old or replace(topic, leaderless=frozenset(), missing=""), topic)
            for number in range(max(topic.partitions, old.partitions if old else 0)):
                stuck = number < topic.partitions and not topic.exists(number)
                gauge = self._metrics.gauge("partition_unavailable", topic=topic.name, partition=str(number))
                gauge.value = float(stuck)
        for watcher in [*self.watchers]:
            watcher()

    def _framed(self, channel: str, topic: Topic) -> Topic:
        if channel == STATE:
            return topic
        known = self._framings
        return replace(topic, framing=PLAIN if known is None else known.get(topic.name))


def _log(before: Topic, now: Topic) -> None:
    """Log what has changed of a topic."""
    if now.missing and not before.missing:
        log.error("topic missing, its records wait", topic=now.name, error=now.missing)
    if before.missing and not now.missing:
        log.info("topic exists again", topic=now.name)
    if before.max_message_bytes != now.max_message_bytes:
        log.info(
            "topic limit changed",
            topic=now.name,
            max_message_bytes=now.max_message_bytes,
            before=before.max_message_bytes,
        )
    if stuck := now.leaderless - before.leaderless:
        log.error("partitions without a leader, their records wait", topic=now.name, partitions=sorted(stuck))
    if not now.missing and (led := before.leaderless - now.leaderless):
        log.info("partitions have a leader again", topic=now.name, partitions=sorted(led))
