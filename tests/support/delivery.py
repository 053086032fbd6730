"""The queues and the sink of one shard, put together without a bridge around them."""

from aiokafka.errors import KafkaTimeoutError

from bridge.config import KafkaConfig
from bridge.kafka.cluster import Cluster
from bridge.kafka.queues import Queues
from bridge.kafka.sink import Sink
from bridge.kafka.state import ShardState
from bridge.records import STATE
from bridge.spool.overflow import Overflow
from bridge.spool.spool import Spool
from bridge.watch.metrics import Metrics
from tests.support.kafka_broker import Broker


def kafka_config(kafka: Broker, prefix: str, **keys: object) -> KafkaConfig:
    """Return a configuration with three partitions a topic, and other keys as given."""
    base = {"bootstrap_servers": kafka.bootstrap, "topic_prefix": prefix, "partitions": 3}
    return KafkaConfig.model_validate({**base, **keys})


class Delivery:
    """Queues and sink of a shard with what they need, as `replica` has them.

    `ours` is what the group says of the shard, unless `group_unavailable`.
    """

    def __init__(self, config: KafkaConfig, replica: str = "replica", shard: int = 0) -> None:
        self.config = config
        self.replica = replica
        self.shard = shard
        self.metrics = Metrics()
        self.ours = True
        self.group_unavailable = False
        self.done: list[str] = []  # "lease" for each question to the group; tests add what they see
        self.room: list[bool] = []  # each change of `queues.has_room`
        self.cluster = Cluster(config, ["trades"], self.metrics)
        self.state: ShardState
        self.overflow: Overflow
        self.queues: Queues
        self.sink: Sink

    async def prepare(self, spool: Spool | None = None) -> "Delivery":
        """Create the topics, and put the queues and the sink together."""
        await self.cluster.look()
        topics = self.cluster.topics
        self.state = ShardState(self.config, topics[STATE], self.shard, self.replica)
        self.overflow = Overflow(spool, self.replica, self.shard, self.state.watermarks)
        self.queues = Queues(
            topics,
            self.state,
            self.overflow,
            self.metrics,
            max_pending_bytes=self.config.max_pending_bytes,
            on_change=self._on_change,
        )
        self.sink = Sink(
            self.config,
            self.cluster,
            queues=self.queues,
            state=self.state,
            is_ours=self._is_ours,
            metrics=self.metrics,
        )
        return self

    def errors(self) -> float:
        """Return how many errors of Kafka were counted."""
        lines = list(self.metrics.collect())
        return sum(s.value for m in lines if m.name.endswith("kafka_errors") for s in m.samples)

    def _on_change(self) -> None:
        if not self.overflow.events():
            self.room.append(self.queues.has_room)

    async def _is_ours(self, max_age: float) -> bool:
        """Return what the group would."""
        self.done.append("lease")
        if self.group_unavailable:
            raise KafkaTimeoutError("no response from the group")
        return self.ours and max_age >= 0
