"""What is sent of a record: its JSON with the framing of its topic."""

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.memory_records import MemoryRecords

from bridge.kafka.framing import PLAIN, Framing
from bridge.kafka.partition import Partition
from bridge.kafka.topics import Topic
from bridge.records import BOOK, Record

PREFIX = Framing(prefix=b"\x00\x00\x00\x00\x07")
HEADER = Framing(headers=(("__value_schema_id", b"\x01" + bytes(16)),))


class Producer:
    """Makes batches as aiokafka's does."""

    def create_batch(self) -> BatchBuilder:
        return BatchBuilder(131_072, 0)


@pytest.mark.parametrize("framing", [PLAIN, PREFIX, HEADER], ids=["none", "confluent", "header"])
def test_a_message_has_the_framing_of_its_topic_and_a_tombstone_stays_one(framing: Framing) -> None:
    partition = Partition(Topic("t.book.v1", 1, 1_000_000, framing=framing), 0)
    partition.queued = [Record(BOOK, b"A", b"{}", 1_000), Record(BOOK, b"B", b"", 2_000)]
    batch = partition.take_batch(Producer(), with_time=True)
    sent = MemoryRecords(bytes(batch._build())).next_batch()
    assert sent is not None
    first, second = sent
    assert (first.value, list(map(tuple, first.headers))) == (
        framing.prefix + b"{}",
        list(framing.headers),
    )
    assert second.value is None
    assert [record.value for record in partition.sent] == [b"{}", b""]


def test_nothing_can_be_sent_to_a_topic_whose_schema_is_not_registered() -> None:
    def topic(framing: Framing | None) -> Topic:
        return Topic("t.book.v1", 1, 1_000_000, framing=framing)

    partition = Partition(topic(None), 0)
    states = [(partition.stuck, partition.framing)]
    partition.follow(topic(PREFIX))
    states.append((partition.stuck, partition.framing))
    assert states == [(True, PLAIN), (False, PREFIX)]
