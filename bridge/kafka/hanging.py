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
unless this process knows that it has not requested that.

One that hangs in partitions of other topics alone does not show there. So all are looked at when a process
takes a shard over, and later those that have lost their leader, and after a failure those that this process
has written to: each before anything else is sent there. Others write transactions to these, too, so that one
is open there says little; but an end that is written for this shard ends nobody else's. A process that knows
nothing of a partition commits, as the next transaction there would do.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from bridge.config import KafkaConfig
from bridge.kafka.batches import Batches
from bridge.kafka.reader import Look
from bridge.kafka.state import ShardState
from bridge.kafka.topics import Topic

log = structlog.get_logger(__name__)


_MOST = 5
"""How often a hanging transaction is ended in a row, before that counts as a failure."""

_TO_TIME_OUT = 10.0  # seconds in which Kafka aborts one whose timeout is over
_OTHERS = 4.0  # seconds in which others end what they have open, at least
_POLL = 0.3  # seconds between two looks at that


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


class _Ended(NamedTuple):
    """An end that was written into a partition, which no look has shown yet."""

    begin: int  # the first offset that was open
    end: int  # the end of the partition then
    since: float  # when that was first done with this begin, on the monotonic clock
    is_reported: bool  # whether it stays open for longer than any transaction may, which was logged


class Suspects:
    """The partitions of data topics in which a transaction of a shard may hang.

    `looking` provides looks at partitions.
    """

    def __init__(
        self,
        config: KafkaConfig,
        state: ShardState,
        looking: Callable[[], AbstractAsyncContextManager[Look]],
    ) -> None:
        # What the last transaction that has failed had records in, as `Batches.places`.
        self.sent: Mapping[TopicPartition, int | None] = {}
        self._state = state
        self._looking = looking
        # Seconds in which others end what they have open, unless they are slow.
        self._patience = max(_OTHERS, 2 * config.commit_interval)
        # Seconds after which nothing is open that is not hanging, here or in another program.
        self._longest = config.transaction_timeout + _TO_TIME_OUT
        self._suspected: set[TopicPartition] = set()
        # Where nothing is open from before this process.
        self._known: set[TopicPartition] = set()
        # The offset at which the last committed transaction begins there.
        self._committed: dict[TopicPartition, int] = {}
        self._ended: dict[TopicPartition, _Ended] = {}

    def failed(self, places: Mapping[TopicPartition, int | None]) -> None:
        """Suspect the places of a transaction that has failed, and of those before; none: there was none."""
        if places:
            self.sent = places
            self._suspected |= places.keys() | self._committed.keys()

    def committed(self, places: Mapping[TopicPartition, int | None]) -> None:
        """Note the places of a transaction that is committed: its end may be missing in some of them."""
        self._committed.update((place, begin) for place, begin in places.items() if begin is not None)

    def follow(self, topics: Mapping[str, Topic]) -> bool:
        """Suspect partitions without a leader; return whether any that are suspected have one again."""
        for topic in topics.values():
            if not topic.missing:
                self._suspected.update(TopicPartition(topic.name, number) for number in topic.leaderless)
        return bool(self._ready(topics))

    async def end(self, batches: Batches, topics: Mapping[str, Topic], on_answer: Callable[[], None]) -> None:
        """End what hangs in the partitions that are suspected and have a leader.

        To be called when the producer of `batches` was opened, the state was read, and nothing was sent yet.
        `on_answer` is called at each answer of Kafka.

        Raises:
            KafkaError: Kafka is unavailable, or rejects the end.
        """
        if not (ready := self._ready(topics)):
            return
        found = await self._look(ready, on_answer)
        ends: dict[bool, list[TopicPartition]] = {True: [], False: []}
        for place, (begin, end) in found.items():
            if self._is_suspected_still(place, begin, end):
                ends[self._was_committed(place, begin, end)].append(place)
        for committed, places in ends.items():
            if places:
                await batches.end_without_records(places, commit=committed)
                on_answer()
                log.info(
                    "ended what may have been hanging",
                    shard=self._state.shard,
                    partitions=sorted(f"{topic}/{number}" for topic, number in places),
                    committed=committed,
                )
                for place in places:
                    self._note_end(place, *found[place])

    def _ready(self, topics: Mapping[str, Topic]) -> set[TopicPartition]:
        """Return the suspected partitions that can be looked at; bridge-state has its own way."""
        there = {
            TopicPartition(topic.name, number)
            for topic in topics.values()
            if topic.name != self._state.topic.name and not topic.missing
            for number in range(topic.partitions)
            if number not in topic.leaderless
        }
        unseen = {place for place, ended in self._ended.items() if not ended.is_reported}
        return (there - self._known) | (there & (self._suspected | unseen))

    async def _look(
        self, places: set[TopicPartition], on_answer: Callable[[], None]
    ) -> dict[TopicPartition, tuple[int, int]]:
        """Return where the first open transaction begins in each partition, and its end.

        Another shard's that begins in front of this one's last committed transaction hides whether that one
        hangs. It is waited for, unless it takes too long.
        """
        until = time.monotonic() + self._patience
        async with self._looking() as look:
            while True:
                found = await look(places)
                on_answer()
                hidden = any(
                    begin < self._committed.get(place, 0) < end for place, (begin, end) in found.items()
                )
                if not hidden or time.monotonic() > until:
                    return found
                await asyncio.sleep(_POLL)

    def _is_suspected_still(self, place: TopicPartition, begin: int, end: int) -> bool:
        """Return whether a transaction of this shard may hang in a partition, now that it was looked at."""
        if begin >= end:
            self._suspected.discard(place)
        elif (ended := self._ended.get(place)) is None or begin < ended.end:
            return True
        self._known.add(place)
        self._ended.pop(place, None)
        return place in self._suspected

    def _was_committed(self, place: TopicPartition, begin: int, end: int) -> bool:
        """Return whether what hangs in a partition was committed, if it is of this shard.

        A partition holds one transaction of a shard at a time. So if no open one begins as early as the last
        committed one, that has its end there, and it is a later one that hangs, which has failed. If it
        can't be known, it counts as committed: what is there twice can be recognised, what is lost can't.
        """
        last = self._committed.get(place, end)
        return place not in self._known or begin <= last < end

    def _note_end(self, place: TopicPartition, begin: int, end: int) -> None:
        """Note that an end was written; whether it is there is to be seen at the next look."""
        now, before = time.monotonic(), self._ended.get(place)
        if before is None or before.begin != begin:
            before = _Ended(begin, end, now, False)
        stays = now - before.since > self._longest
        self._ended[place] = _Ended(begin, end, before.since, stays)
        self._suspected.discard(place)
        if stays:
            self._known.add(place)
        if stays and not before.is_reported:
            log.warning(
                "transaction stays open, though it was ended",
                shard=self._state.shard,
                partition=f"{place.topic}/{place.partition}",
                offset=begin,
                detail="if it is one of another program, end that; else find it with kafka-transactions.sh "
                "find-hanging, and abort it",
            )
