"""Three brokers that replicate each other, on free ports of this machine."""

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from confluent_kafka.admin import AdminClient

from tests.support.kafka_broker import Broker, free_ports

_NODES = 3

_PROPERTIES = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "transaction.state.log.replication.factor": "3",
    "transaction.state.log.min.isr": "2",
    "broker.session.timeout.ms": "3000",
    "replica.lag.time.max.ms": "3000",
    "controller.quorum.election.timeout.ms": "500",
    "controller.quorum.fetch.timeout.ms": "1500",
}


class Cluster:
    """Three brokers that run inside its context; `bootstrap` has all their addresses."""

    def __init__(self) -> None:
        ports = free_ports(2 * _NODES)
        addresses = [f"127.0.0.1:{port}" for port in ports]
        clients, controllers = addresses[:_NODES], addresses[_NODES:]
        voters = ",".join(f"{node}@{controller}" for node, controller in enumerate(controllers, 1))
        self.bootstrap = ",".join(clients)
        self.brokers = [
            Broker(
                {
                    **_PROPERTIES,
                    "node.id": str(node),
                    "controller.quorum.voters": voters,
                    "listeners": f"PLAINTEXT://{client},CONTROLLER://{controller}",
                    "advertised.listeners": f"PLAINTEXT://{client}",
                },
                heap_mib=192,
                bootstrap=self.bootstrap,
            )
            for node, (client, controller) in enumerate(zip(clients, controllers, strict=True), 1)
        ]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        for broker in self.brokers:
            self._stack.push(broker)
            broker.format()
            broker.launch()
        for broker in self.brokers:
            broker.wait_started()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def resume(self) -> None:
        """Resume frozen brokers."""
        for broker in self.brokers:
            broker.resume()

    def in_sync(self) -> bool:
        """Return True if every replica of every partition is in sync."""
        topics = AdminClient({"bootstrap.servers": self.bootstrap}).list_topics(timeout=60).topics
        return all(len(one.isrs) == _NODES for topic in topics.values() for one in topic.partitions.values())
