"""Kafka's metadata: the cluster's id, and the topics with their ids and the leaders of their partitions.

No request here lets the broker create a topic. aiokafka declares the request up to version 5, and topics have
had ids since version 10 (Kafka 2.8), so that version is declared at the end.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError, NoError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.metadata import MetadataRequest_v5
from aiokafka.protocol.types import (
    Boolean,
    CompactArray,
    CompactString,
    Int16,
    Int32,
    Int64,
    Schema,
    TaggedFields,
)

from bridge.kafka import quirks

_NO_LEADER = -1
_64_BITS = (1 << 64) - 1


class Found(NamedTuple):
    """A topic as Kafka describes it; the rest is empty if it has an `error`."""

    error: type[KafkaError] | None
    id: str  # what a topic of the same name has not that is created later; "" before Kafka 2.8
    partitions: int
    leaderless: frozenset[int]  # the partitions that nothing can be written to or read from at the moment
    replicas: int  # of the partition that has the fewest


class Description(NamedTuple):
    """The id of the cluster, and the topics that were asked for, by name."""

    cluster: str
    topics: Mapping[str, Found]


async def describe(admin: AIOKafkaAdminClient, names: Iterable[str]) -> Description:
    """Return Kafka's metadata of the cluster and of these topics.

    Raises:
        KafkaError: Kafka does not answer.
    """
    response = await quirks.request(admin, _MetadataRequest(list(names)))
    topics: dict[str, Found] = {}
    for one in response.to_object()["topics"]:
        error = for_code(one["error_code"])
        partitions = one["partitions"]
        topics[one["topic"]] = Found(
            None if error is NoError else error,
            f"{one['id_high'] & _64_BITS:016x}{one['id_low'] & _64_BITS:016x}" if "id_high" in one else "",
            len(partitions),
            frozenset(each["partition"] for each in partitions if each["leader"] == _NO_LEADER),
            min((len(each["replicas"]) for each in partitions), default=0),
        )
    return Description(response.cluster_id or "", topics)


class _MetadataResponse_v10(Response):  # type: ignore[misc] # noqa: N801 - as aiokafka names them
    API_KEY = 3
    API_VERSION = 10
    _BROKERS: ClassVar = CompactArray(
        ("node_id", Int32),
        ("host", CompactString("utf-8")),
        ("port", Int32),
        ("rack", CompactString("utf-8")),
        ("tags", TaggedFields),
    )
    _PARTITIONS: ClassVar = CompactArray(
        ("error_code", Int16),
        ("partition", Int32),
        ("leader", Int32),
        ("leader_epoch", Int32),
        ("replicas", CompactArray(Int32)),
        ("isr", CompactArray(Int32)),
        ("offline_replicas", CompactArray(Int32)),
        ("tags", TaggedFields),
    )
    _TOPICS: ClassVar = CompactArray(
        ("error_code", Int16),
        ("topic", CompactString("utf-8")),
        ("id_high", Int64),
        ("id_low", Int64),
        ("is_internal", Boolean),
        ("partitions", _PARTITIONS),
        ("authorized_operations", Int32),
        ("tags", TaggedFields),
    )
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        ("brokers", _BROKERS),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        ("topics", _TOPICS),
        ("cluster_authorized_operations", Int32),
        ("tags", TaggedFields),
    )


class _MetadataRequest_v10(RequestStruct):  # type: ignore[misc] # noqa: N801 - as aiokafka names them
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 10
    RESPONSE_TYPE = _MetadataResponse_v10
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(
                ("id_high", Int64),
                ("id_low", Int64),
                ("topic", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_cluster_authorized_operations", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _MetadataRequest(Request[MetadataRequest_v5 | _MetadataRequest_v10]):  # type: ignore[misc]
    """Metadata of topics by name, in the newest of these versions that the broker supports."""

    API_KEY = 3

    def __init__(self, topics: list[str]) -> None:
        self._topics = topics

    def build(
        self, request_struct_class: type[MetadataRequest_v5 | _MetadataRequest_v10]
    ) -> MetadataRequest_v5 | _MetadataRequest_v10:
        """Return the request in the form that aiokafka sends: create nothing, report no operations."""
        if request_struct_class is MetadataRequest_v5:
            return MetadataRequest_v5(self._topics, False)
        no_tags: dict[int, bytes] = {}
        topics = [(0, 0, name, no_tags) for name in self._topics]
        return _MetadataRequest_v10(topics, False, False, False, no_tags)
