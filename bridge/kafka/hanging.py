"""Hanging transactions: Kafka has ended them for its coordinator, but not in the partitions.

The coordinator ends all transactions of an id before a producer is opened for it. But one that finds a
partition without a leader, as when all brokers were down and start again, takes it for deleted, and does not
write there how the transaction has ended (seen in Kafka 4.4; in versions before 4 it waits for a leader).
Then its records become part of whatever the next transaction of the shard becomes there. An example:
transaction 15 was to be committed when the broker was killed. Its records cannot be read when the broker is
back, so they would be sent again in 16, and the commit of 16 would show both copies. Or it was confirmed,
and is lost when 16 is aborted. In a partition where nothing more is sent, nobody can read on.

Nobody else writes transactions to a shard's partition of bridge-state, so one that hangs in all of its
partitions shows there: behind the last stable offset, although the producer is open. A transaction ends with
the owner, and one that is aborted has rarely come so far; so it counts as one that was to be committed,
unless this process knows that it has not requested that. One that hangs in partitions of other topics alone
is not noticed; the next transaction there ends it.
"""

from collections.abc import Iterable

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from bridge.kafka.batches import Batches
from bridge.kafka.state import ShardState
from bridge.kafka.topics import Topic

log = structlog.get_logger(__name__)


_MOST = 5
"""How often a hanging transaction is ended in a row, before that counts as a failure."""


async def end_hanging(
    batches: Batches, state: ShardState, topics: Iterable[Topic], *, times: int, unrequested: int | None
) -> bool:
    """End the hanging transaction of a shard; return whether there was one.

    To be called when the producer of `batches` was opened. Once a transaction was ended here, another one has
    to be opened, which waits until that is written everywhere, and shows whether it was; `times` is how often
    that has been so in a row. `unrequested` is the number of a transaction that this process has sent, and
    whose commit it has not requested: that is aborted, and every other one is committed.

    Raises:
        KafkaError: Kafka is unavailable, or rejects the end; a partition that may be part of the transaction
            has no leader; or the transaction hangs however often it is ended.
    """
    owner = await state.hanging()
    if owner is None:
        return False
    # It may have records in any of them; in one without, its end changes nothing.
    places = [
        TopicPartition(topic.name, number)
        for topic in topics
        if not topic.missing
        for number in ([state.shard] if topic.name == state.topic.name else range(topic.partitions))
    ]
    # Where there is no leader, the end would not be written either, and nothing would show that any more.
    leaderless = [
        f"{topic.name}, partition {number}"
        for topic in topics
        for number in sorted(topic.leaderless)
        if (topic.name, number) in places
    ]
    if leaderless:
        raise KafkaError(f"a hanging transaction can't be ended without a leader of {', '.join(leaderless)}")
    commit = owner.replica != state.replica or owner.transaction != unrequested
    await batches.end_without_records(places, commit=commit)
    log.warning(
        "ended a hanging transaction",
        shard=state.shard,
        replica=owner.replica,
        transaction=owner.transaction,
        committed=commit,
    )
    if times >= _MOST:
        raise KafkaError(
            f"a transaction hangs in {state.topic.name}, partition {state.shard}, although it was ended "
            f"{times} times: if it is one of another program, end that; else find it with "
            "kafka-transactions.sh find-hanging, and abort it"
        )
    return True
