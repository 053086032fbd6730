"""Queues follow what changes of their topics: partitions, leaders and limits."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from bridge.config import KafkaConfig
from bridge.kafka.client import transactional_id
from bridge.kafka.looking import GROUPS, TRANSACTIONS
from bridge.kafka.metadata import Found
from bridge.kafka.partition import Batch
from bridge.kafka.queues import Queues
from bridge.kafka.state import ShardState
from bridge.kafka.topics import Topic
from bridge.ledger import Watermark
from bridge.partitioner import coordinated_by
from bridge.records import EVENTS, STATE, Open, Record
from bridge.seen import Seen, SeenTopic, changes
from bridge.spool.overflow import Overflow
from bridge.spool.spool import Spool
from bridge.watch.metrics import Metrics
from tests.support.clusters import cluster_of

KEYS = [b"A_USDT", b"B_USDT", b"C_USDT", b"D_USDT", b"E_USDT"]
SEEN = Seen("c1", {STATE: SeenTopic("s1", 1), "md.trades.v1": SeenTopic("t1", 4)})


def topics(partitions: int = 4, **trades: object) -> dict[str, Topic]:
    topic = replace(Topic("md.trades.v1", partitions, 1_000_000), **trades)  # type: ignore[arg-type]
    return {"trades": topic, EVENTS: Topic("md.events.v1", 1, 1_000_000)}


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path, 1_000_000)
    yield spool
    spool.close()


def queues_of(spool: Spool | None = None, max_pending_bytes: int = 10_000_000) -> Queues:
    state = ShardState(KafkaConfig(), Topic(STATE, 1, 1_000_000), 0, "replica")
    overflow = Overflow(spool, "replica", 0, state.watermarks)
    return Queues(
        topics(), state, overflow, Metrics(), max_pending_bytes=max_pending_bytes, on_change=lambda: None
    )


def trade(number: int, key: bytes, size: int = 10) -> Record:
    return Record("trades", key, b"%d " % number + bytes(size), number, (number, number, 0, Open()))


def queued(queues: Queues) -> dict[str, list[int]]:
    """Return the numbers of the queued trades by partition."""
    places = sorted(queues.places.items())
    return {place: [record.time_us for record in one.queued] for place, one in places if one.queued}


def place(key: bytes) -> int:
    """Return the number of the partition of a key."""
    return topics()["trades"].partition(key)


def behind(queues: Queues) -> bool:
    return queues.behind


@given(st.lists(st.tuples(st.integers(1, 9), st.lists(st.sampled_from(KEYS)))))
def test_keys_are_where_they_belong_and_in_order_however_the_number_of_partitions_changes(
    steps: list[tuple[int, list[bytes]]],
) -> None:
    queues, number, last = queues_of(), 0, 4
    sent: dict[bytes, list[int]] = {key: [] for key in KEYS}
    for partitions, keys in steps:
        for key in keys:
            number += 1
            queues.add([trade(number, key)])
            sent[key].append(number)
        queues.follow(topics(last := partitions))
    for key, numbers in sent.items():
        place = f"md.trades.v1/{Topic('', last, 0).partition(key)}"
        partition = queues.places.get(place)
        mine = [one.time_us for one in partition.queued if one.key == key] if partition else []
        assert mine == numbers
    assert queues.pending_records == number == sum(map(len, queued(queues).values()))
    assert {one.place for one in queues.dirty} == queued(queues).keys()


def test_while_records_are_in_the_spool_keys_stay_where_they_are(spool: Spool) -> None:
    with capture_logs():
        queues = queues_of(spool)
        queues.recover()
        queues.add([trade(1, KEYS[0])])
        queues.begin_spool()
        queues.add([trade(2, KEYS[0])])
        before = queued(queues)
        queues.follow(topics(7))
        assert behind(queues)
        queues.add([trade(3, KEYS[0])])
        queues.refill()
        assert queued(queues) == {place: [*numbers, 2, 3] for place, numbers in before.items()}
        for partition in queues.places.values():
            partition.queued.clear()
            partition.spooled.clear()
        queues.reroute()
        assert not behind(queues)
        queues.add([trade(4, KEYS[0])])
    assert queued(queues) == {f"md.trades.v1/{Topic('', 7, 0).partition(KEYS[0])}": [4]}


def test_partitions_that_are_gone_stand_for_one_that_exists() -> None:
    topic = Topic("md.trades.v1", 4, 1_000_000, leaderless=frozenset({3}))
    assert [topic.existing(number) for number in (0, 3, 4, 11)] == [0, 3, 0, 3]
    assert [topic.has_to_wait(number) for number in (0, 3, 4, 11)] == [False, True, False, True]


def test_a_partition_without_a_leader_is_left_out_until_it_has_one() -> None:
    queues = queues_of()
    queues.add([trade(number, key) for number, key in enumerate(KEYS)])
    stuck = queues.places[next(iter(queued(queues)))]
    queues.follow(topics(leaderless=frozenset({stuck.number})))
    assert queues.can_send()
    assert stuck not in queues.dirty
    queues.add([trade(9, key) for key in KEYS])
    assert stuck not in queues.dirty
    queues.follow(topics())
    assert stuck in queues.dirty


def test_the_first_record_of_a_partition_without_a_leader_is_nothing_to_send() -> None:
    queues = queues_of()
    queues.follow(topics(missing="deleted"))
    queues.add([trade(1, KEYS[0])])
    assert not queues.can_send()
    queues.set_stuck_aside()
    assert not queues.dirty
    assert queues.pending_records == 1


def test_no_trade_is_sent_while_events_in_front_of_it_wait() -> None:
    queues = queues_of()
    with_events = topics() | {EVENTS: Topic("md.events.v1", 1, 1_000_000, leaderless=frozenset({0}))}
    queues.follow(with_events)
    queues.add([trade(1, KEYS[0])])
    queues.set_stuck_aside()
    assert queues.can_send()
    queues.add([Record(EVENTS, KEYS[0], b"gap", 2), trade(3, KEYS[1])])
    queues.set_stuck_aside()
    assert not queues.can_send()
    queues.follow(topics())
    assert queues.can_send()
    assert len(queues.dirty) == len(queued(queues))


def without_leader(*keys: bytes) -> dict[str, Topic]:
    """Return the topics while the partitions of these keys have no leader."""
    return topics(leaderless=frozenset(place(key) for key in keys))


def deliver(queues: Queues) -> list[int]:
    """Let Kafka take all that can be sent, once; return the numbers of these trades."""
    queues.refill()
    queues.set_stuck_aside()
    records = [record for partition in queues.dirty for record in partition.queued]
    for partition in queues.dirty:
        partition.queued, partition.spooled = [], []
    queues.dirty.clear()
    queues.release(len(records), sum(len(record.value) for record in records))
    return [record.time_us for record in records]


def test_a_few_records_among_many_in_the_spool_are_not_read_in_one_go(tmp_path: Path) -> None:
    """Else a large spool would keep the event loop from heartbeats, pings and all other shards."""
    spool = Spool(tmp_path, 1_000_000_000)
    few, many = KEYS[0], next(key for key in KEYS if place(key) != place(KEYS[0]))
    with capture_logs():
        queues = queues_of(spool)
        queues.recover()
        queues.follow(without_leader(few))
        queues.add([trade(1, few)])
        queues.begin_spool()
        for number in range(2, 120):
            queues.add([trade(number, many, 500_000)])
        queues.add([trade(120, few)])
        while deliver(queues):
            pass
        assert spool.left
        queues.follow(topics())
        turns = 0
        delivered: list[int] = []
        while not delivered[1:]:
            before = spool.bytes_read
            queues.something.clear()
            delivered += deliver(queues)
            turns += 1
            assert spool.bytes_read - before < 40_000_000
            assert delivered[1:] or queues.something.is_set()
    spool.close()
    assert delivered == [1, 120]
    assert turns > 1


@pytest.mark.parametrize("max_bytes", [10_000_000, 90_000], ids=["the disk has room", "the disk is full"])
def test_what_waits_in_memory_for_a_leader_does_not_keep_others_in_the_spool(
    tmp_path: Path, max_bytes: int
) -> None:
    spool = Spool(tmp_path, max_bytes)
    again, stuck = KEYS[0], next(key for key in KEYS if place(key) != place(KEYS[0]))
    with capture_logs():
        queues = queues_of(spool, 100_000)
        queues.recover()
        queues.follow(without_leader(again))
        number = 0
        while not spool.left:
            number += 1
            queues.add([trade(number, again, 500)])
        spooled = number
        assert deliver(queues) == []
        queues.follow(without_leader(again, stuck))
        while queues.pending_bytes < 70_000:
            number += 1
            queues.add([trade(number, stuck, 500)])
        assert spool.full(0.9) == (max_bytes == 90_000)
        queues.follow(without_leader(stuck))
        delivered: list[int] = []
        while records := deliver(queues):
            delivered += records
            assert queues.pending_bytes <= 100_000
        assert delivered == [*range(1, spooled + 1)]
        assert queues.has_room
        assert (queues.pending_bytes == 0) == (max_bytes > 90_000)  # it waits on disk, too, if that has room
        queues.follow(topics())
        while records := deliver(queues):
            delivered += records
    spool.close()
    assert delivered == [*range(1, number + 1)]


def test_records_that_have_become_too_large_are_taken_out_with_their_offsets(spool: Spool) -> None:
    with capture_logs():
        queues = queues_of(spool)
        queues.recover()
        queues.add([trade(n, KEYS[0], 900 if n in (1, 3) else 10) for n in range(5)])
        queues.begin_spool()
        ((partition, records),) = queues.follow(topics(max_message_bytes=600))
    assert [record.time_us for record in records] == [1, 3]
    assert [record.time_us for record in partition.queued] == [0, 2, 4]
    assert partition.spooled == [0, 2, 4]


def test_a_batch_that_is_refused_for_no_known_reason_halves_all_later_ones() -> None:
    queues = queues_of()
    queues.add([trade(n, KEYS[0], 400) for n in range(8)])
    (partition,) = queues.places.values()
    room = partition.batch_room
    partition.sent, partition.queued = partition.queued, []
    partition.batches = [Batch(8, 3200, 0)]
    assert partition.isolate(1, too_large=True) is None
    assert partition.batch_room == (3200 + 8 * 128) // 2 < room
    partition.settle()
    assert partition.batch_room < room
    partition.follow(replace(partition.topic, max_message_bytes=2_000_000))
    assert partition.batch_room > room


@pytest.mark.parametrize(
    ("now", "events"),
    [
        (SEEN, []),
        (Seen("c2", SEEN.topics), ["cluster_changed"]),
        (Seen("", SEEN.topics), []),
        (Seen("c1", SEEN.topics | {STATE: SeenTopic("s2", 1)}), ["cluster_changed"]),
        (Seen("c1", SEEN.topics | {STATE: SeenTopic("s1", 2)}), []),
        (Seen("c1", SEEN.topics | {"md.trades.v1": SeenTopic("t2", 9)}), ["cluster_changed"]),
        (Seen("c1", SEEN.topics | {"md.trades.v1": SeenTopic("t1", 9)}), ["partitions_grown"]),
        (Seen("c1", SEEN.topics | {"md.trades.v1": SeenTopic("", 4)}), []),
        (Seen("c1", SEEN.topics | {"md.depth.v1": SeenTopic("d1", 4)}), []),
    ],
)
def test_what_has_changed_of_a_cluster_is_an_event_as_far_as_ids_say_so(now: Seen, events: list[str]) -> None:
    assert [kind for kind, _ in changes(SEEN, now)] == events


def test_a_spool_remembers_the_cluster_and_leaves_out_trades_that_its_topic_has(tmp_path: Path) -> None:
    """bridge-state was lost, and with it how much of the spool is on Kafka."""
    with capture_logs():
        first = Spool(tmp_path, 1_000_000)
        queues = queues_of(first)
        queues.recover()
        queues.note_cluster(SEEN)
        queues.add([*(trade(n, KEYS[0]) for n in range(1, 6)), trade(1, KEYS[1])])
        queues.begin_spool()
        first.close()
        second = Spool(tmp_path, 1_000_000)
        state = ShardState(KafkaConfig(), Topic(STATE, 1, 1_000_000), 0, "other")
        overflow = Overflow(second, "other", 0, state.watermarks)
        queues = Queues(
            topics(), state, overflow, Metrics(), max_pending_bytes=1_000_000, on_change=lambda: None
        )
        queues.rebuilt = {KEYS[0]: Watermark([2, 3], [2, 3])}
        queues.recover()
        queues.refill()
        second.close()
    assert overflow.remembered == SEEN
    left = [record for partition in queues.places.values() for record in partition.queued]
    assert sorted((record.key, record.time_us) for record in left) == [
        (KEYS[0], 4),
        (KEYS[0], 5),
        (KEYS[1], 1),
    ]


def test_a_spool_remembers_all_partitions_that_it_has_records_for_over_any_number_of_starts(
    tmp_path: Path,
) -> None:
    """Else their records would count as damage: a channel is not configured any more, a topic has shrunk."""
    at_first = Seen("c1", SEEN.topics | {"md.ticker.v1": SeenTopic("k1", 24)})
    later = Seen("c1", {STATE: SeenTopic("s1", 1), "md.trades.v1": SeenTopic("t2", 2)})
    remembered = []
    for number, seen in enumerate([at_first, later, later]):
        spool = Spool(tmp_path, 1_000_000)
        state = ShardState(KafkaConfig(), Topic(STATE, 1, 1_000_000), 0, f"replica-{number}")
        overflow = Overflow(spool, f"replica-{number}", 0, state.watermarks)
        queues = Queues(
            topics(), state, overflow, Metrics(), max_pending_bytes=1_000_000, on_change=lambda: None
        )
        queues.note_cluster(seen)
        with capture_logs():
            queues.recover()
            queues.add([trade(number, KEYS[0])])
            queues.park()
        spool.close()
        remembered.append(overflow.remembered)
    assert remembered[1:] == [
        at_first,
        Seen("c1", later.topics | {"md.ticker.v1": SeenTopic("k1", 24), "md.trades.v1": SeenTopic("t2", 4)}),
    ]


def test_partitions_of_kafkas_own_topics_are_named_if_they_hold_up_a_group_or_a_shard() -> None:
    cluster = cluster_of()
    config = KafkaConfig()
    ours = coordinated_by(transactional_id(config, 0), 50)
    group = coordinated_by(config.group_id, 50)
    for topic, number, named in (
        (TRANSACTIONS, ours, f"no leader: {TRANSACTIONS}/{ours}"),
        (TRANSACTIONS, ours + 1, None),
        (GROUPS, group, f"no leader: {GROUPS}/{group}"),
        (GROUPS, group + 1, None),
    ):
        own = {topic: Found(None, "", 50, frozenset({number}), 1)}
        cluster.view = cluster.view._replace(own=own)
        assert cluster.missing().get("partitions") == named
