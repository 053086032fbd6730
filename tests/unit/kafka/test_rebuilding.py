"""What is read from the topic of trades of a symbol whose state was lost."""

import asyncio
from functools import reduce

from aiokafka import AIOKafkaConsumer, TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from bridge.kafka.rebuilding import _behind, _records, _Trade, _trade, partitions_of
from bridge.ledger import KEPT, Watermark
from bridge.partitioner import partition_of
from bridge.plan import shard_of

DEEP = b'{"a":' + b"[" * 100_000


def read(*trades: tuple[int, int]) -> Watermark:
    """Return the watermark behind these trades: their ids and times."""
    known = reduce(_behind, (_Trade(trade_id, time_us) for trade_id, time_us in trades), None)
    assert known is not None
    return known


def test_the_newest_trades_are_known_in_the_order_of_their_ids() -> None:
    known = read(*((n, 10 * n) for n in range(1, 101) if n != 90), (90, 900), (95, 950))
    assert known.ids == list(range(101 - KEPT, 101))
    assert known.times == [10 * trade_id for trade_id in known.ids]
    assert (known.epoch, known.past) == (0, [])


def test_ids_that_begin_anew_begin_an_epoch_with_the_one_before_it_behind() -> None:
    known = read((7, 70), (8, 80), (1, 90), (2, 100))
    assert known == Watermark([1, 2], [90, 100], epoch=1, epoch_us=90, past=[(7, 70), (8, 80)], reported=1)


def test_a_trade_from_before_all_that_is_known_begins_none() -> None:
    assert read((7, 70), (8, 80), (1, 75)).epoch == 0


def test_records_of_others_are_no_trades() -> None:
    values = (None, b"", b"null", b'{"id":"1","time_us":1}', b'{"id":1}', b"\xff", DEEP)
    assert [_trade(value) for value in values] == [None] * len(values)
    assert _trade(b'{"id":1,"time_us":2,"more":3}') == _Trade(1, 2)


NUMBERS = st.integers(1, 30)


@given(st.text(min_size=1, max_size=20), NUMBERS, NUMBERS, NUMBERS)
def test_the_keys_of_a_shard_are_in_its_partitions(key: str, shards: int, now: int, before: int) -> None:
    numbers = partitions_of(shard_of(key, shards), shards, [now, before])
    assert {partition_of(key.encode(), now), partition_of(key.encode(), before)} <= numbers
    assert numbers <= set(range(max(now, before)))


def test_a_shard_reads_no_more_partitions_than_may_have_its_keys() -> None:
    assert partitions_of(1, 8, [12]) == {1, 5, 9}
    assert partitions_of(1, 4, [12, 6]) == {1, 3, 5, 9}
    assert partitions_of(2, 3, [3]) == {2}
    assert partitions_of(0, 1, [3]) == {0, 1, 2}


def test_the_limit_on_reading_is_one_on_silence() -> None:
    """A large topic takes longer, and that is no trouble as long as it brings something."""
    place = TopicPartition("trades", 0)
    positions = iter([0, 0, 1, 5])
    moved: list[bool] = []

    class Slow(AIOKafkaConsumer):  # type: ignore[misc]
        def __init__(self) -> None:
            self._fetcher = asyncio.get_running_loop()
            self._fetcher._fetch_task = asyncio.get_running_loop().create_future()  # type: ignore[attr-defined]

        def __del__(self) -> None:
            pass

        def seek(self, *_: object) -> None:
            pass

        async def position(self, _: TopicPartition) -> int:
            return next(positions)

        async def getmany(self, **_: object) -> dict[TopicPartition, list[object]]:
            return {place: []}

    async def scenario() -> None:
        async with asyncio.timeout(1000) as silence:
            before = silence.when()
            async for _ in _records(Slow(), {place: (0, 5)}, silence):
                moved.append(silence.when() != before)
                before = silence.when()

    asyncio.run(scenario())
    assert moved == [True, False, True]
