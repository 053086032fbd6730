"""Killed and started again: what is on Kafka goes on where it ended."""

import asyncio
import itertools
import random
import time
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError

from bridge.config import KafkaConfig
from bridge.errors import ShardLost
from bridge.kafka import batches
from bridge.kafka.queues import Queues
from bridge.kafka.sink import Sink
from bridge.kafka.state import State
from bridge.kafka.topics import prepare
from bridge.records import STATE, Record
from bridge.spool.overflow import Overflow
from bridge.spool.spool import Spool
from bridge.watch.metrics import Metrics
from tests.support.checks import (
    assert_trades_are,
    assert_trades_are_at_least,
    assert_trades_are_but_for_gaps,
    gaps_of,
    records_of,
)
from tests.support.consumers import read_topic
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker
from tests.support.process import ACCOUNTS, SYMBOLS, RunningBridge, config
from tests.support.waiting import eventually, soon

MOMENTS = random.Random(7)  # for kills: any moment will do
QUICK = {"session_timeout": 2.0}
SPOOL_BYTES = 1_000_000


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_a_bridge_killed_at_any_moment_goes_on_where_kafka_ended(
    kafka: Broker, prefix: str, tmp_path: Path, delivery: str
) -> None:
    keys = {"delivery": delivery, **QUICK}
    with ExchangeThread(symbols=SYMBOLS, rate=60, accounts=ACCOUNTS) as exchange:
        settings = config(exchange.url, kafka, prefix, {"kafka": keys}, accounts=True)
        for _ in range(4):
            with RunningBridge(tmp_path, settings) as bridge:
                bridge.wait_ready()
                time.sleep(MOMENTS.uniform(0.0, 1.5))
                bridge.process.kill()
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            exchange.quiesce()
            assert bridge.stop() == 0
        trades = records_of(kafka, prefix, "trades")
        if delivery == "exactly-once":
            assert_trades_are(trades, exchange.truth.made)
        else:
            assert_trades_are_at_least(trades, exchange.truth.made)
    gaps = gaps_of(kafka, prefix, "trades")
    assert gaps
    assert {(gap["cause"], gap["closed_by"]) for gap in gaps} == {("takeover", "clean_list")}
    assert all(gap["filled"] > 0 for gap in gaps)


def test_what_the_exchange_no_longer_shows_is_a_gap_with_its_bounds(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """While the bridge is away more is traded than a clean list shows."""
    with ExchangeThread(symbols=SYMBOLS, rate=300) as exchange:
        settings = config(exchange.url, kafka, prefix, {"kafka": QUICK})
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            eventually(lambda: bridge.metric("records_total", channel="trades") > 50, 30, "trades")
            bridge.process.kill()
        before = sum(map(len, exchange.truth.made.values()))

        def traded() -> bool:
            return sum(map(len, exchange.truth.made.values())) > before + 3 * 400

        eventually(traded, 60, "more trades than a clean list shows")
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            eventually(lambda: bridge.metric("gaps_total", channel="trades") == len(SYMBOLS), 30, "gaps")
            exchange.quiesce()
            assert bridge.stop() == 0
        gaps = gaps_of(kafka, prefix, "trades")
        assert [gap["closed_by"] for gap in gaps] == [None] * len(SYMBOLS)
        trades = records_of(kafka, prefix, "trades")
        assert_trades_are_but_for_gaps(trades, exchange.truth.made, gaps)
        times = {(one["symbol"], one["id"]): one["time_us"] for one in (record.json for record in trades)}
        for gap in gaps:
            assert times[gap["symbol"], gap["after_id"]] == gap["after_us"]
            assert times[gap["symbol"], gap["before_id"]] == gap["before_us"]


def test_the_time_in_which_nobody_listened_to_private_channels_is_a_gap(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=100, accounts=ACCOUNTS) as exchange:
        settings = config(exchange.url, kafka, prefix, {"kafka": QUICK}, accounts=True)
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            state = f"{prefix}.bridge-state"
            eventually(lambda: _last_of(kafka, state, b"account/main"), 30, "a note that somebody listens")
            killed_us = time.time_ns() // 1000
            bridge.process.kill()
        with RunningBridge(tmp_path, settings) as bridge:
            eventually(lambda: bridge.metric("gaps_total", channel="order") == 1, 30, "the first gap")
            ready_us = time.time_ns() // 1000
            for client in list(exchange.simulator.clients):
                exchange.call(client.cut)
            eventually(lambda: bridge.metric("gaps_total", channel="order") == 2, 30, "the second gap")
            assert bridge.stop() == 0
    for channel in ("order", "order_algo", "balance"):
        first, second = gaps_of(kafka, prefix, channel)
        assert (first["cause"], second["cause"]) == ("takeover", "closed")
        assert (first["account"], first["symbol"], first["closed_by"]) == ("main", None, None)
        assert first["after_us"] <= killed_us < first["before_us"] <= ready_us
        assert first["before_us"] <= second["after_us"] < second["before_us"]


def _last_of(kafka: Broker, topic: str, key: bytes) -> object:
    return next((one.json for one in reversed(read_topic(kafka.bootstrap, topic)) if one.key == key), None)


@pytest.mark.parametrize("answers", ["are lost", "never come"])
def test_a_commit_whose_answer_is_lost_is_not_done_again(
    kafka: Broker, prefix: str, monkeypatch: pytest.MonkeyPatch, answers: str
) -> None:
    commit = AIOKafkaProducer.commit_transaction
    unanswered = [True, False, True]

    async def commit_without_answer(producer: AIOKafkaProducer) -> None:
        await commit(producer)
        if unanswered and unanswered.pop():
            if answers == "never come":
                await asyncio.Event().wait()
            raise KafkaConnectionError("the answer is lost")

    monkeypatch.setattr(batches, "_PATIENCE", 1.0)
    monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", commit_without_answer)

    async def scenario() -> int:
        one = await _Lone.open(kafka, prefix, "replica")
        running = asyncio.create_task(one.sink.run())
        numbers = itertools.count()

        def trade_on() -> bool:
            one.queues.add([trade(next(numbers))])
            return not unanswered

        await soon(trade_on, 30, "two commits without an answer")
        one.queues.drain()
        await running
        error = "KafkaTimeoutError" if answers == "never come" else "KafkaConnectionError"
        assert one.metrics.counter("kafka_errors_total", error=error).value == 2
        return next(numbers)

    made = asyncio.run(scenario())
    assert [one.json["n"] for one in read_topic(kafka.bootstrap, f"{prefix}.trades.v1")] == list(range(made))


@pytest.mark.parametrize("taken", [True, False], ids=["Kafka had taken it", "Kafka had not"])
def test_a_process_that_ends_while_it_commits_and_spools_knows_at_its_return_what_kafka_has(
    kafka: Broker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    """What the open transaction has is on disk, too: it must neither come again nor be skipped."""
    commit = AIOKafkaProducer.commit_transaction

    async def scenario() -> None:
        committing = asyncio.Event()

        async def commit_without_end(producer: AIOKafkaProducer) -> None:
            if taken:
                await commit(producer)
            committing.set()
            await asyncio.Event().wait()

        first = await _Lone.open(kafka, prefix, "replica", spool=Spool(tmp_path, SPOOL_BYTES))
        running = asyncio.create_task(first.sink.run())
        first.queues.add([trade(0)])
        await soon(lambda: first.queues.pending_records == 0, 20, "the first record")
        monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", commit_without_end)
        first.queues.add([trade(n) for n in range(1, 100)])
        await asyncio.wait_for(committing.wait(), 120)
        first.queues.add([trade(n) for n in range(100, 1000)])
        assert first.overflow.active
        running.cancel()
        await asyncio.wait({running})
        first.overflow.close()

        monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", commit)
        second = await _Lone.open(kafka, prefix, "replica", spool=Spool(tmp_path, SPOOL_BYTES))
        running = asyncio.create_task(second.sink.run())
        await asyncio.wait_for(second.sink.taken_over.wait(), 120)
        second.queues.add([trade(1000)])
        await soon(lambda: not second.overflow.active, 20, "the spool's end")
        second.queues.drain()
        await running
        second.overflow.close()

    asyncio.run(scenario())
    assert [one.json["n"] for one in read_topic(kafka.bootstrap, f"{prefix}.trades.v1")] == list(range(1001))


def test_partitions_that_a_process_meets_first_deep_in_its_spool_are_delivered(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """As of a symbol that trades seldom: the first of the spool's records do not tell that it is there."""
    symbols = [f"S{n}_USDT".encode() for n in range(12)]
    records = [trade(n, symbol) for symbol in symbols for n in range(400)]

    async def scenario() -> None:
        first = await _Lone.open(kafka, prefix, "replica", spool=Spool(tmp_path, SPOOL_BYTES))
        first.queues.add(records)
        assert first.overflow.active
        assert first.queues.park() == (len(records), 0)
        first.overflow.close()
        second = await _Lone.open(kafka, prefix, "replica", spool=Spool(tmp_path, SPOOL_BYTES))
        running = asyncio.create_task(second.sink.run())
        await asyncio.wait_for(second.sink.taken_over.wait(), 120)
        await soon(lambda: running.done() or not second.overflow.active, 20, "the spool's end")
        second.queues.drain()
        await running
        second.overflow.close()

    asyncio.run(scenario())
    delivered = read_topic(kafka.bootstrap, f"{prefix}.trades.v1")
    for symbol in symbols:
        assert [one.json["n"] for one in delivered if one.key == symbol] == list(range(400))


@pytest.mark.parametrize(
    ("delivery", "still_ours"),
    [
        pytest.param("exactly-once", True, id="fenced, and the group has given it back since"),
        pytest.param("exactly-once", False, id="fenced, and the group has given it away"),
        pytest.param("at-least-once", False, id="not fenced, and the group has given it away"),
    ],
)
def test_a_sink_whose_shard_was_served_by_another_meanwhile_writes_nothing_more(
    kafka: Broker, prefix: str, delivery: str, still_ours: bool
) -> None:

    async def scenario() -> None:
        one = await _Lone.open(kafka, prefix, "one", delivery)
        running = asyncio.create_task(one.sink.run())
        one.queues.add([trade(1)])
        await soon(lambda: one.queues.pending_records == 0, 20, "the first record")
        two = await _Lone.open(kafka, prefix, "two", delivery)
        other = asyncio.create_task(two.sink.run())
        await two.sink.taken_over.wait()
        assert two.state.watermarks[b"BTC_USDT"].ids == [1]
        two.queues.add([trade(2)])
        two.queues.drain()
        await other
        one.ours = still_ours
        one.queues.add([trade(2)])
        with pytest.raises(ShardLost):
            await asyncio.wait_for(running, 120)

    asyncio.run(scenario())
    assert [one.json["n"] for one in read_topic(kafka.bootstrap, f"{prefix}.trades.v1")] == [1, 2]


def test_at_least_once_a_replica_that_was_frozen_looks_for_its_lease_before_it_writes_state(
    kafka: Broker, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one may have written newer state meanwhile, which this one would take back."""
    send = AIOKafkaProducer.send_batch
    frozen = 0.3  # seconds, more than the session timeout

    async def scenario() -> list[str]:
        one = await _Lone.open(kafka, prefix, "replica", "at-least-once")

        async def send_and_freeze(producer: AIOKafkaProducer, *what: Any, **where: Any) -> Any:
            answer = await send(producer, *what, **where)
            topic = what[1]
            one.done.append(topic.removeprefix(f"{prefix}."))
            if topic.endswith("trades.v1"):
                time.sleep(frozen)  # noqa: ASYNC251 - the whole process is
            return answer

        monkeypatch.setattr(AIOKafkaProducer, "send_batch", send_and_freeze)
        running = asyncio.create_task(one.sink.run())
        for number in range(3):
            # State that is to be saved as soon as may be.
            one.sink.listened("main", {"order": number})
            one.queues.add([trade(number)])
            await soon(lambda: one.queues.pending_records == 0, 20, "the record")
        one.queues.drain()
        await running
        return one.done

    done = asyncio.run(scenario())
    after = [then for now, then in itertools.pairwise(done) if now == "trades.v1"]
    assert after == ["lease"] * 3
    assert "bridge-state" in done


class _Lone:
    """A sink without a bridge around it, for a shard that is its own as long as `ours`."""

    def __init__(self, settings: KafkaConfig, state: State, metrics: Metrics, overflow: Overflow) -> None:
        self.config = settings
        self.overflow = overflow
        self.state = state
        self.metrics = metrics
        self.ours = True
        self.done: list[str] = []
        self.sink: Sink
        self.queues: Queues

    @classmethod
    async def open(
        cls,
        kafka: Broker,
        prefix: str,
        replica: str,
        delivery: str = "exactly-once",
        spool: Spool | None = None,
    ) -> "_Lone":
        settings = KafkaConfig.model_validate(
            {
                "bootstrap_servers": kafka.bootstrap,
                "topic_prefix": prefix,
                "partitions": 3,
                "delivery": delivery,
                "session_timeout": 0.1,
                "max_pending_bytes": 65_536,
            }
        )
        topics = await prepare(settings, ["trades"])
        state = State(settings, topics[STATE], 0, replica)
        overflow = Overflow(spool, state, replica, lambda kind, detail: None)
        one = cls(settings, state, Metrics(), overflow)
        one.queues = Queues(
            topics,
            overflow,
            one.metrics,
            max_pending_bytes=settings.max_pending_bytes,
            on_room=lambda room: None,
        )
        one.sink = Sink(
            settings,
            topics,
            transactional_id=prefix if delivery == "exactly-once" else None,
            queues=one.queues,
            overflow=overflow,
            state=state,
            is_ours=one.is_ours,
            metrics=one.metrics,
        )
        return one

    async def is_ours(self, max_age: float) -> bool:
        """Answer as the group would."""
        self.done.append("lease")
        return self.ours and max_age >= 0


def trade(number: int, symbol: bytes = b"BTC_USDT") -> Record:
    value = b'{"session":"s","n":%d}' % number
    return Record("trades", symbol, value, 1_600_000_000_000_000, (number, 1, None))
