"""Views of a cluster that nobody has looked at."""

from collections.abc import Mapping

from bridge.config import KafkaConfig
from bridge.kafka.cluster import Cluster
from bridge.kafka.looking import View
from bridge.kafka.topics import Topic
from bridge.records import STATE
from bridge.watch.metrics import Metrics


def cluster_of(topics: Mapping[str, Topic] | None = None) -> Cluster:
    """Return a cluster with these topics by channel, or with bridge-state alone."""
    cluster = Cluster(KafkaConfig(), (), Metrics())
    cluster.view = View("cluster", topics or {STATE: Topic("digifinex.bridge-state", 1, 1_000_000, "id")})
    return cluster
