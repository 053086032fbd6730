"""Reads topics with consumers of other projects."""

import subprocess
import time
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourceType,
)

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / ".cache" / "kafka" / "tools"

_TIMEOUT = 120.0  # seconds
_LEADER = 60.0  # seconds until a new partition has a leader that knows of it
_POLL = 0.1  # seconds
# What a new partition is answered until brokers and the client know of it.
_NOT_YET = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError._UNKNOWN_PARTITION)
_COMMIT = 10.0  # seconds; a transaction that takes longer was left open


class ReadRecord(NamedTuple):
    """A record as a consumer receives it; a tombstone has an empty value."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes
    timestamp_ms: int

    @property
    def json(self) -> dict[str, Any]:
        """The parsed value."""
        return msgspec.json.decode(self.value, type=dict[str, Any])


def read_topic(bootstrap: str, topic: str, isolation: str = "read_committed") -> list[ReadRecord]:
    """Return all records of a topic up to its current end, read by confluent-kafka."""
    consumer = _consumer(bootstrap, isolation)
    try:
        partitions = consumer.list_topics(topic, timeout=_TIMEOUT).topics[topic].partitions
        places = [TopicPartition(topic, number, 0) for number in partitions]
        if isolation == "read_committed":
            _await_commits(bootstrap, consumer, places)
        ends = _ends(consumer, places)
        consumer.assign(places)
        left, records = set(partitions), []
        while left:
            message = consumer.poll(_TIMEOUT)
            assert message is not None, f"{topic}: nothing for {_TIMEOUT:g} s, and no end either"
            error = message.error()
            if error is None:
                partition, offset, value = message.partition(), message.offset(), message.value() or b""
                assert partition is not None
                assert offset is not None
                if offset + 1 >= ends[partition]:
                    left.discard(partition)
                if offset >= ends[partition]:
                    continue  # written after the end was determined
                records.append(ReadRecord(partition, offset, message.key(), value, message.timestamp()[1]))
            else:
                assert error.name() == "_PARTITION_EOF", error
                left.discard(message.partition())
        return records
    finally:
        consumer.close()


def _consumer(bootstrap: str, isolation: str) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "tests",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": isolation,
            "auto.offset.reset": "earliest",
        }
    )


def _ends(consumer: Consumer, places: list[TopicPartition]) -> dict[int, int]:
    """Return the end offset of each partition; of a new topic, as soon as its leader answers."""
    deadline = time.monotonic() + _LEADER
    while True:
        try:
            return {place.partition: consumer.get_watermark_offsets(place)[1] for place in places}
        except KafkaException as error:
            if error.args[0].code() not in _NOT_YET or time.monotonic() > deadline:
                raise
            time.sleep(_POLL)


def _await_commits(bootstrap: str, consumer: Consumer, places: list[TopicPartition]) -> None:
    """Wait until the transactions that are open now have ended, unless they were left open.

    Kafka confirms a commit before its markers are on all partitions, so committed records may not show yet.
    """
    all_of_it = _consumer(bootstrap, "read_uncommitted")
    try:
        ends = _ends(all_of_it, places)
    finally:
        all_of_it.close()
    deadline = time.monotonic() + _COMMIT
    while time.monotonic() < deadline:
        committed = _ends(consumer, places)
        if all(committed[number] >= end for number, end in ends.items()):
            return


def console_consume(bootstrap: str, topic: str, number: int) -> list[str]:
    """Return the first `number` records as lines "partition key value", read by Kafka's console consumer."""
    command = ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{TOOLS}/*"]
    command += ["org.apache.kafka.tools.consumer.ConsoleConsumer", "--bootstrap-server", bootstrap]
    command += ["--topic", topic, "--from-beginning", "--max-messages", str(number), "--timeout-ms", "120000"]
    command += ["--isolation-level", "read_committed"]
    for name in ("print.partition", "print.key"):
        command += ["--formatter-property", f"{name}=true"]
    command += ["--formatter-property", "key.separator= "]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def kcat(bootstrap: str, topic: str) -> list[str]:
    """Return the committed records of a topic as lines "partition key value", read by kcat."""
    command = ["kcat", "-b", bootstrap, "-C", "-t", topic, "-e", "-q", "-f", "%p %k %s\\n"]
    done = subprocess.run(
        [*command, "-X", "isolation.level=read_committed"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return done.stdout.splitlines()


def delete_topic(bootstrap: str, name: str) -> None:
    """Delete a topic if it exists."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    if name in admin.list_topics(timeout=_TIMEOUT).topics:
        for future in admin.delete_topics([name]).values():
            future.result(_TIMEOUT)


def create_topic(bootstrap: str, name: str, partitions: int, on: int | None = None, **settings: str) -> None:
    """Create a topic, on broker `on` alone if given; the names of `settings` have underscores for dots."""
    config = {key.replace("_", "."): value for key, value in settings.items()}
    admin = AdminClient({"bootstrap.servers": bootstrap})
    where: dict[str, Any] = (
        {"replication_factor": 1} if on is None else {"replica_assignment": [[on]] * partitions}
    )
    topic = NewTopic(name, num_partitions=partitions, config=config, **where)
    for future in admin.create_topics([topic]).values():
        future.result(_TIMEOUT)


def add_partitions(bootstrap: str, name: str, number: int) -> None:
    """Give a topic so many partitions."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_partitions([NewPartitions(name, number)]).values():
        future.result(_TIMEOUT)


def set_topic(bootstrap: str, name: str, **settings: str) -> None:
    """Change settings of a topic."""
    entries = [
        ConfigEntry(key.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
        for key, value in settings.items()
    ]
    admin = AdminClient({"bootstrap.servers": bootstrap})
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=entries)
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(_TIMEOUT)


def setting_of(bootstrap: str, name: str, key: str) -> str:
    """Return a setting of a topic."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    (future,) = admin.describe_configs([ConfigResource(ResourceType.TOPIC, name)]).values()
    return str(future.result(_TIMEOUT)[key].value)
