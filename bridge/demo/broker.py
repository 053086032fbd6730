"""The embedded broker: librdkafka's mock cluster, out of the confluent-kafka package.

It listens on a free port of this machine, knows no transactions, makes topics of 4 partitions when they are
first asked for, and keeps about 5 MB a partition.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from confluent_kafka import Producer

PARTITIONS = 4
_PATIENCE = 10.0  # seconds


@contextmanager
def embedded_broker() -> Iterator[str]:
    """Run a broker as long as the context; gives its address."""
    # The cluster lives in a client that has nothing else to do.
    owner = Producer({"bootstrap.servers": "127.0.0.1:1", "test.mock.num.brokers": 1, "log_level": 0})
    brokers = owner.list_topics(timeout=_PATIENCE).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    owner.flush(0)


def make_topics(bootstrap: str, names: Iterable[str]) -> None:
    """Ask the broker for topics, which is how they come to be; the bridge's own question creates none."""
    client = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    for name in names:
        client.list_topics(name, timeout=_PATIENCE)
