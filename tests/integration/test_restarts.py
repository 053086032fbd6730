"""Killed and started again: the bridge continues where Kafka ends."""

import asyncio
import itertools
import random
import time
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError

from bridge.errors import ShardLost
from bridge.kafka import batches
from bridge.kafka.cluster import Cluster
from bridge.records import EVENTS, Open, Record
from bridge.spool.spool import Spool
from tests.support.checks import (
    assert_trades_are,
    assert_trades_are_at_least,
    assert_trades_are_but_for_gaps,
    gaps_of,
    records_of,
)
from tests.support.consumers import create_topic, delete_topic, read_topic
from tests.support.delivery import Delivery, kafka_config
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker
from tests.support.process import ACCOUNTS, SYMBOLS, RunningBridge, config
from tests.support.waiting import eventually, soon

MOMENTS = random.Random(7)  # for kills: any moment will do
QUICK = {"session_timeout": 2.0}
SPOOL_BYTES = 1_000_000


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_a_bridge_killed_at_any_moment_continues_where_kafka_ends(
    kafka: Broker, prefix: str, tmp_path: Path, delivery: str
) -> None:
    keys = {"delivery": delivery, **QUICK}
    with ExchangeThread(symbols=SYMBOLS, rate=20, accounts=ACCOUNTS) as exchange:
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


def test_trades_that_the_exchange_no_longer_shows_are_a_gap_with_its_bounds(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """While no bridge runs, more is traded than a clean list shows."""
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


def test_time_without_private_sessions_is_reported_as_a_gap(
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
        never, first, second = gaps_of(kafka, prefix, channel)
        assert (never["cause"], never["after_us"]) == ("first_listened", None)
        assert (first["cause"], second["cause"]) == ("takeover", "closed")
        assert (first["account"], first["symbol"], first["closed_by"]) == ("main", None, None)
        assert first["after_us"] <= killed_us < first["before_us"] <= ready_us
        assert first["before_us"] <= second["after_us"] < second["before_us"]


def _last_of(kafka: Broker, topic: str, key: bytes) -> object:
    return next((one.json for one in reversed(read_topic(kafka.bootstrap, topic)) if one.key == key), None)


@pytest.mark.parametrize("responses", ["are lost", "never come"])
def test_a_commit_whose_response_is_lost_is_not_repeated(
    kafka: Broker, prefix: str, monkeypatch: pytest.MonkeyPatch, responses: str
) -> None:
    commit = AIOKafkaProducer.commit_transaction
    unanswered = [True, False, True]

    async def commit_without_response(producer: AIOKafkaProducer) -> None:
        await commit(producer)
        if unanswered and unanswered.pop():
            if responses == "never come":
                await asyncio.Event().wait()
            raise KafkaConnectionError("the response is lost")

    monkeypatch.setattr(batches, "_PATIENCE", 1.0)
    monkeypatch.setattr(AIOKafkaProducer, "commit_transaction", commit_without_response)

    async def scenario() -> int:
        one = await prepared(kafka, prefix, "replica")
        running = asyncio.create_task(one.sink.run())
        numbers = itertools.count()

        def trade_on() -> bool:
            one.queues.add([trade(next(numbers))])
            return not unanswered

        await soon(trade_on, 30, "two commits without a response")
        one.queues.drain()
        await running
        error = "KafkaTimeoutError" if responses == "never come" else "KafkaConnectionError"
        assert one.metrics.counter("kafka_errors_total", error=error).value == 2
        return next(numbers)

    made = asyncio.run(scenario())
    assert [one.json["n"] for one in read_topic(kafka.bootstrap, f"{prefix}.trades.v1")] == list(range(made))


@pytest.mark.parametrize("committed", [True, False], ids=["committed", "not committed"])
def test_after_a_kill_during_a_commit_while_spooling_nothing_is_lost_or_repeated(
    kafka: Broker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """The records of the open transaction are in the spool, too: neither repeated nor skipped."""
    commit = AIOKafkaProducer.commit_transaction

    async def scenario() -> None:
        committing = asyncio.Event()

        async def commit_without_end(producer: AIOKafkaProducer) -> None:
            if committed:
                await commit(producer)
            committing.set()
            await asyncio.Event().wait()

        first = await prepared(kafka, prefix, "replica", spool=Spool(tmp_path, SPOOL_BYTES))
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
        second = await prepared(kafka, prefix, "replica", spool=Spool(tmp_path, SPOOL_BYTES))
        running = asyncio.create_task(second.sink.run())
        await asyncio.wait_for(second.sink.taken_over.wait(), 120)
        second.queues.add([trade(1000)])
        await soon(lambda: not second.overflow.active, 20, "the spool's end")
        second.queues.drain()
        await running
        second.overflow.close()

    asyncio.run(scenario())
    assert [one.json["n"] for one in read_topic(kafka.bootstrap, f"{prefix}.trades.v1")] == list(range(1001))


async def empty_the_spool_of(second: Delivery, seconds: float) -> None:
    """Deliver what an earlier delivery has left in the spool, within so many seconds, and end."""
    running = asyncio.create_task(second.sink.run())
    await asyncio.wait_for(second.sink.taken_over.wait(), 120)
    await soon(lambda: running.done() or not second.overflow.active, seconds, "the spool's end")
    second.queues.drain()
    await running
    second.overflow.close()


def test_partitions_whose_records_come_late_in_the_spool_are_delivered(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """As of a symbol that is rarely traded: the first records of the spool are all of other partitions."""
    symbols = [f"S{n}_USDT".encode() for n in range(12)]
    records = [trade(n, symbol) for symbol in symbols for n in range(400)]

    async def scenario() -> None:
        first = await prepared(kafka, prefix, "replica", spool=Spool(tmp_path, SPOOL_BYTES))
        first.queues.add(records)
        assert first.overflow.active
        assert first.queues.park() == (len(records), 0)
        first.overflow.close()
        second = await prepared(kafka, prefix, "replica", spool=Spool(tmp_path, SPOOL_BYTES))
        await empty_the_spool_of(second, 20)

    asyncio.run(scenario())
    delivered = read_topic(kafka.bootstrap, f"{prefix}.trades.v1")
    for symbol in symbols:
        assert [one.json["n"] for one in delivered if one.key == symbol] == list(range(400))


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_an_event_is_on_kafka_before_the_trades_behind_it_also_by_way_of_a_spool(
    kafka: Broker, prefix: str, tmp_path: Path, delivery: str
) -> None:
    """When the spool begins, the event is in memory, behind partitions with more trades than one read brings.

    Kafka itself says when it has appended a record.
    """
    for topic in ("trades", "events"):
        create_topic(kafka.bootstrap, f"{prefix}.{topic}.v1", 3, message_timestamp_type="LogAppendTime")
    symbols = [f"S{n}_USDT".encode() for n in range(6)]
    event = Record(EVENTS, b"trades", b"{}", 1_600_000_000_000_000)
    behind = 6

    async def start(max_pending_bytes: int) -> Delivery:
        keys = {"session_timeout": 0.1, "max_pending_bytes": max_pending_bytes}
        settings = kafka_config(kafka, prefix, delivery=delivery, **keys)
        return await Delivery(settings).prepare(Spool(tmp_path, 100 * SPOOL_BYTES))

    async def scenario() -> None:
        first = await start(2_000_000)
        for number, symbol in enumerate(symbols):
            first.queues.add([trade(number, symbol)])
        first.queues.add([event])
        for number in itertools.count(behind):
            first.queues.add([trade(number, symbols[number % 6])])
            if first.overflow.active:
                break
        assert number > 3000
        first.queues.park()
        first.overflow.close()
        second = await start(65_536)
        await empty_the_spool_of(second, 60)

    asyncio.run(scenario())
    (reported,) = read_topic(kafka.bootstrap, f"{prefix}.events.v1")
    trades = read_topic(kafka.bootstrap, f"{prefix}.trades.v1")
    early = [one.json["n"] for one in trades if one.timestamp_ms < reported.timestamp_ms]
    assert [n for n in early if n >= behind] == []
    assert len(trades) > 3000


@pytest.mark.parametrize("create_topics", [True, False], ids=["created again", "created by hand"])
def test_spooled_records_of_a_channel_that_is_not_configured_any_more_wait_for_its_topic_alone(
    kafka: Broker, prefix: str, tmp_path: Path, create_topics: bool
) -> None:
    """The topic was deleted; what else is in the spool does not wait for it."""
    name = f"{prefix}.ticker.v1"

    async def scenario() -> None:
        first = Delivery(kafka_config(kafka, prefix))
        first.cluster = Cluster(first.config, ["trades", "ticker"], first.metrics)
        await first.prepare(Spool(tmp_path, SPOOL_BYTES))
        for number in range(1, 6):
            ticker = Record("ticker", b"BTC_USDT", b'{"n":%d}' % number, number)
            first.queues.add([ticker, trade(number)])
        assert first.queues.park() == (10, 0)
        first.overflow.close()
        await asyncio.to_thread(delete_topic, kafka.bootstrap, name)
        second = await Delivery(kafka_config(kafka, prefix, create_topics=create_topics)).prepare(
            Spool(tmp_path, SPOOL_BYTES)
        )
        looking = asyncio.create_task(second.cluster.run())
        delivering = asyncio.create_task(second.sink.run())
        await soon(lambda: len(second.state.watermarks) == 1, 60, "the trades")
        if not create_topics:
            await soon(lambda: name in second.cluster.missing().get("topics", ""), 60, "its name")
            assert second.overflow.waiting == 5
            await asyncio.to_thread(create_topic, kafka.bootstrap, name, 1)
        await soon(lambda: second.overflow.size == 0, 60, "the spool's end")
        second.queues.drain()
        await delivering
        looking.cancel()
        second.overflow.close()

    asyncio.run(scenario())
    assert [one.json["n"] for one in read_topic(kafka.bootstrap, name)] == list(range(1, 6))
    assert [one.json["n"] for one in read_topic(kafka.bootstrap, f"{prefix}.trades.v1")] == list(range(1, 6))


@pytest.mark.parametrize(
    ("delivery", "still_ours"),
    [
        pytest.param("exactly-once", True, id="fenced, and the group has assigned it back since"),
        pytest.param("exactly-once", False, id="fenced, and the group has reassigned it"),
        pytest.param("at-least-once", False, id="not fenced, and the group has reassigned it"),
    ],
)
def test_a_sink_whose_shard_another_replica_has_served_writes_nothing_more(
    kafka: Broker, prefix: str, delivery: str, still_ours: bool
) -> None:

    async def scenario() -> None:
        # With transactions it is not to renew its claim, or it would fence the other one off in its takeover.
        timeout = 0.1 if delivery == "at-least-once" else 600.0
        one = await prepared(kafka, prefix, "one", delivery, session_timeout=timeout)
        running = asyncio.create_task(one.sink.run())
        one.queues.add([trade(1)])
        await soon(lambda: one.queues.pending_records == 0, 20, "the first record")
        if delivery == "at-least-once":
            await soon(lambda: not one.state.unsaved and one.sink._saving is None, 20, "its state")
            one.ours = False  # nothing fences it, so it renews its claim as long as the group says it may
        two = await prepared(kafka, prefix, "two", delivery)
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


def test_at_least_once_a_replica_that_was_frozen_checks_its_lease_before_it_writes_state(
    kafka: Broker, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another replica may have written newer state meanwhile, which this one would overwrite."""
    send = AIOKafkaProducer.send_batch
    frozen = 0.3  # seconds, more than the session timeout

    async def scenario() -> list[str]:
        one = await prepared(kafka, prefix, "replica", "at-least-once")

        async def send_and_freeze(producer: AIOKafkaProducer, *what: Any, **where: Any) -> Any:
            answer = await send(producer, *what, **where)
            topic = what[1]
            one.done.append(topic.removeprefix(f"{prefix}."))
            if topic.endswith("trades.v1"):
                time.sleep(frozen)  # noqa: ASYNC251 - the whole process is
            return answer

        monkeypatch.setattr(AIOKafkaProducer, "send_batch", send_and_freeze)
        heard: dict[str, int] = {}
        one.state.savable = lambda _: {"main": heard}
        running = asyncio.create_task(one.sink.run())
        for number in range(3):
            # State that is to be saved as soon as possible.
            heard["order"] = number
            one.sink.save_heard()
            one.queues.add([trade(number)])
            await soon(lambda: one.queues.pending_records == 0, 20, "the record")
        one.queues.drain()
        await running
        return one.done

    done = asyncio.run(scenario())
    after = [then for now, then in itertools.pairwise(done) if now == "trades.v1"]
    assert after == ["lease"] * 3
    assert "bridge-state" in done


def test_a_forgotten_market_is_gone_from_the_state_of_the_next_process(kafka: Broker, prefix: str) -> None:
    async def scenario() -> None:
        one = await prepared(kafka, prefix)
        running = asyncio.create_task(one.sink.run())
        one.queues.add([trade(1), trade(1, b"GONE_USDT")])
        await soon(lambda: one.queues.pending_records == 0, 20, "the records")
        assert one.state.forget_old({"BTC_USDT"}, 2) == 1
        one.queues.something.set()
        await soon(lambda: len(one.state.watermarks) == 1, 20, "the tombstone")
        one.queues.drain()
        await running
        two = await prepared(kafka, prefix, "next")
        await two.state.catch_up()
        assert two.state.watermarks.keys() == {b"BTC_USDT"}

    asyncio.run(scenario())


async def prepared(
    kafka: Broker,
    prefix: str,
    replica: str = "replica",
    delivery: str = "exactly-once",
    spool: Spool | None = None,
    session_timeout: float = 0.1,
) -> Delivery:
    keys = {"delivery": delivery, "session_timeout": session_timeout, "max_pending_bytes": 65_536}
    return await Delivery(kafka_config(kafka, prefix, **keys), replica).prepare(spool)


def trade(number: int, symbol: bytes = b"BTC_USDT") -> Record:
    value = b'{"session":"s","n":%d}' % number
    return Record("trades", symbol, value, 1_600_000_000_000_000, (number, 1, 0, Open()))
