"""Hanging transactions: Kafka has ended them for its coordinator, but not in the partitions.

The coordinator ends all transactions of an id before a producer is opened for it. But one that finds a
partition without a leader, as when all brokers were down and start again, takes it for deleted, and does not
write there how the transaction has ended (seen in Kafka 4.4; in versions before 4 it waits for a leader).
Then its records become part of whatever the next transaction of the shard becomes there. An example:
transaction 15 was to be committed when the broker was killed. Its records cannot be read when the broker is
back, so they would be sent again in 16, and the commit of 16 would show both copies. Or it was confirmed,
and is lost when 16 is aborted. In a partition where nothing more is sent, nobody can read on.

Nobody else writes transactions to a shard's partition of bridge-state, so a hanging one shows there: behind
the last stable offset, although the producer is open. A transaction ends with the owner, and one that is
aborted has rarely come so far; so it counts as one that was to be committed.
"""

from collections.abc import Iterable

import structlog
from aiokafka import TopicPartition

from bridge.kafka.batches import Batches
from bridge.kafka.state import ShardState
from bridge.kafka.topics import Topic
from bridge.spool.progress import Owner

log = structlog.get_logger(__name__)


async def commit_hanging(
    batches: Batches, state: ShardState, topics: Iterable[Topic], committed: Owner | None
) -> Owner | None:
    """Commit the hanging transaction of a shard; return the owner that it has saved, None if none hangs.

    To be called when the producer of `batches` was opened. Once a transaction was committed here, another one
    has to be opened, which waits until the commit is written everywhere. `committed` is what was returned
    then: if that still hangs, it is in a transaction of somebody else, which is left alone.

    Raises:
        KafkaError: Kafka is unavailable, or rejects the commit.
    """
    owner = await state.hanging()
    if owner is None or owner == committed:
        return None
    # It may have records in any of them; in one without, the commit changes nothing.
    places = {
        TopicPartition(topic.name, number)
        for topic in topics
        for number in ([state.shard] if topic.name == state.topic.name else range(topic.partitions))
        if not topic.is_stuck(number)
    }
    await batches.commit_without_records(places)
    log.warning(
        "committed a hanging transaction",
        shard=state.shard,
        replica=owner.replica,
        transaction=owner.transaction,
    )
    return owner
