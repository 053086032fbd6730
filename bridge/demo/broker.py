"""The embedded broker: librdkafka's mock cluster, from the confluent-kafka package.

It listens on a free port of this machine, does not support transactions, creates topics with 4 partitions
when a client first asks for them, and keeps about 5 MB per partition.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from confluent_kafka import Producer

PARTITIONS = 4
_PATIENCE = 10.0  # seconds


@contextmanager
def embedded_broker() -> Iterator[str]:
    """Run a broker for the duration of the context; yields its address."""
    # The cluster belongs to a client, which is used for nothing else.
    owner = Producer({"bootstrap.servers": "127.0.0.1:1", "test.mock.num.brokers": 1, "log_level": 0})
    brokers = owner.list_topics(timeout=_PATIENCE).brokers.values()
    yield ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
    owner.flush(0)


def make_topics(bootstrap: str, names: Iterable[str]) -> None:
    """Create topics by asking for their metadata; the metadata requests of the bridge do not create any."""
    client = Producer({"bootstrap.servers": bootstrap, "log_level": 0})
    for name in names:
        client.list_topics(name, timeout=_PATIENCE)
