"""Replicas divide the shards among them, and take over those of a replica that stops."""

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from bridge.plan import shard_of
from bridge.simulator.market import symbol_names
from tests.support.checks import assert_no_hole, assert_trades_are, assert_trades_are_at_least, records_of
from tests.support.consumers import create_topic, read_topic
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker
from tests.support.process import ACCOUNTS, RunningBridge, config
from tests.support.waiting import eventually

SYMBOLS = symbol_names(8)
SHARDS = 4
SESSION_TIMEOUT = 5.0
KAFKA = {"shards": SHARDS, "session_timeout": SESSION_TIMEOUT}


class Replicas:
    """Bridges of one group."""

    def __init__(self, folder: Path, settings: Mapping[str, Any], stack: ExitStack) -> None:
        self._folder = folder
        self._settings = settings
        self._stack = stack
        self.running: list[RunningBridge] = []

    def start(self) -> RunningBridge:
        """Start another one, and return when it is ready."""
        replica = self._stack.enter_context(self.unready())
        self.running.append(replica)
        replica.wait_ready()
        return replica

    def unready(self) -> RunningBridge:
        """Return another one, which is not expected to become ready."""
        folder = self._folder / f"replica-{len(list(self._folder.iterdir()))}"
        folder.mkdir()
        return RunningBridge(folder, self._settings)

    def kill(self, replica: RunningBridge) -> None:
        """Kill one with SIGKILL."""
        replica.process.kill()
        replica.process.wait()
        self.running.remove(replica)

    def owned(self) -> list[list[str]]:
        """Return the shards that each replica serves."""
        return [owned(replica) for replica in self.running]

    def spread(self) -> bool:
        """Return whether each shard is served by exactly one replica, and all are ready."""
        return sorted(chain.from_iterable(self.owned())) == [str(n) for n in range(SHARDS)] and all(
            replica.ready()[0] == 200 for replica in self.running
        )


def owned(replica: RunningBridge) -> list[str]:
    """Return the shards that a replica serves."""
    prefix, suffix = 'digifinex_bridge_shard_owned{shard="', '"} 1.0'
    lines = replica.metrics().splitlines()
    return [line.removeprefix(prefix).removesuffix(suffix) for line in lines if _serves(line, prefix, suffix)]


def _serves(line: str, prefix: str, suffix: str) -> bool:
    return line.startswith(prefix) and line.endswith(suffix)


@contextmanager
def replicas(
    tmp_path: Path, exchange: ExchangeThread, kafka: Broker, prefix: str, **keys: object
) -> Iterator[Replicas]:
    """Provide replicas that can be started and killed."""
    settings = config(exchange.url, kafka, prefix, {"kafka": {**KAFKA, **keys}}, accounts=True)
    settings["channels"] = {"trades": SYMBOLS, "depth": SYMBOLS, "all_ticker": True}
    with ExitStack() as stack:
        yield Replicas(tmp_path, settings, stack)


def finish(
    group: Replicas, exchange: ExchangeThread, kafka: Broker, prefix: str, delivery: str = "exactly-once"
) -> None:
    """Stop the market, then the replicas; assert that each trade is on Kafka once and in order."""
    eventually(group.spread, 30, "each shard served")
    # A session that is not live yet has not brought its list: then the last trades would be missing.
    eventually(lambda: all(one.ready()[0] == 200 for one in group.running), 30, "all sessions live")
    exchange.quiesce()
    for replica in group.running:
        assert replica.stop() == 0
    trades = records_of(kafka, prefix, "trades")
    if delivery == "at-least-once":
        assert_trades_are_at_least(trades, exchange.truth.made)
        return
    assert_trades_are(trades, exchange.truth.made)
    assert_no_hole(records_of(kafka, prefix, "depth"))


def sessions(kafka: Broker, prefix: str) -> dict[int, list[str]]:
    """Return the sessions that each shard has opened."""
    begun: dict[int, list[str]] = {n: [] for n in range(SHARDS)}
    for event in records_of(kafka, prefix, "events"):
        if event.json["event"] == "session_begun":
            begun[event.json["shard"]].append(event.json["session"])
    return begun


@pytest.fixture
def exchange() -> Iterator[ExchangeThread]:
    with ExchangeThread(symbols=len(SYMBOLS), rate=120, accounts=ACCOUNTS) as running:
        yield running


def test_a_second_replica_takes_half_of_the_shards_and_the_others_keep_their_connections(
    kafka: Broker, prefix: str, tmp_path: Path, exchange: ExchangeThread
) -> None:
    with replicas(tmp_path, exchange, kafka, prefix) as group:
        first = group.start()
        eventually(group.spread, 30, "all shards served")
        second = group.start()
        eventually(lambda: sorted(map(len, group.owned())) == [2, 2], 30, "two shards each")
        kept = [int(shard) for shard in owned(first)]
        moved = [int(shard) for shard in owned(second)]
        assert first.metric("shards_lost_total") == 2
        finish(group, exchange, kafka, prefix)
    begun = sessions(kafka, prefix)
    for shard in moved:
        assert len(begun[shard]) == 2 * _sessions_of(shard)
    for shard in kept:
        assert len(begun[shard]) == _sessions_of(shard)


def _sessions_of(shard: int) -> int:
    """Return how many sessions a shard opens: a public one if it has markets, and one for its account."""
    markets = [symbol for symbol in SYMBOLS if shard_of(symbol, SHARDS) == shard]
    return bool(markets or shard == 0) + (shard_of("main", SHARDS) == shard)


@pytest.mark.parametrize("count", [2, 3])
def test_when_a_replica_is_killed_the_others_take_over(
    kafka: Broker, prefix: str, tmp_path: Path, exchange: ExchangeThread, count: int
) -> None:
    """Of three, two are killed at once."""
    with replicas(tmp_path, exchange, kafka, prefix) as group:
        for _ in range(count):
            group.start()
        eventually(group.spread, 30, "each shard served")
        for replica in group.running[1:]:
            group.kill(replica)
        eventually(group.spread, SESSION_TIMEOUT + 20, "all shards served by the last one")
        finish(group, exchange, kafka, prefix)


def test_a_replica_that_stops_hands_its_shards_over_at_once(
    kafka: Broker, prefix: str, tmp_path: Path, exchange: ExchangeThread
) -> None:
    keys = {"session_timeout": 60.0}
    with replicas(tmp_path, exchange, kafka, prefix, **keys) as group:
        group.start()
        leaving = group.start()
        eventually(lambda: sorted(map(len, group.owned())) == [2, 2], 30, "two shards each")
        group.running.remove(leaving)
        assert leaving.stop() == 0
        stopped = time.monotonic()
        eventually(group.spread, 20, "all shards served by the other one")
        # By its next heartbeat, sent every 15 s; the session would have timed out 45 to 60 s after the stop.
        assert time.monotonic() - stopped < 40
        finish(group, exchange, kafka, prefix)


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_a_replica_that_was_frozen_past_its_session_timeout_writes_nothing_when_it_wakes(
    kafka: Broker, prefix: str, tmp_path: Path, exchange: ExchangeThread, delivery: str
) -> None:
    with replicas(tmp_path, exchange, kafka, prefix, delivery=delivery) as group:
        group.start()
        frozen = group.start()
        eventually(lambda: sorted(map(len, group.owned())) == [2, 2], 30, "two shards each")
        group.running.remove(frozen)
        own_sessions = sessions_of(frozen)
        os.kill(frozen.process.pid, signal.SIGSTOP)
        eventually(group.spread, SESSION_TIMEOUT + 20, "all shards served by the other one")
        taken_us = time.time_ns() // 1000
        os.kill(frozen.process.pid, signal.SIGCONT)
        eventually(lambda: frozen.metric("shards_lost_total") >= 2, 30, "it notices")
        group.running.append(frozen)
        finish(group, exchange, kafka, prefix, delivery)
    for channel in ("trades", "depth"):
        for record in records_of(kafka, prefix, channel):
            assert record.json["session"] not in own_sessions or record.json["received_us"] < taken_us


def sessions_of(replica: RunningBridge) -> list[str]:
    """Return the sessions that a replica has opened so far."""
    log = [json.loads(line) for line in replica.stderr.splitlines()]
    return [line["session"] for line in log if line["event"] == "session opened"]


def test_state_moves_with_its_symbols_when_shards_are_added(
    kafka: Broker, prefix: str, tmp_path: Path, exchange: ExchangeThread
) -> None:
    """As the error says: stop all replicas, give the topic more partitions, start again."""
    with replicas(tmp_path, exchange, kafka, prefix, shards=2) as group:
        one = group.start()
        eventually(lambda: one.metric("records_total", channel="trades") > 100, 30, "trades")
        assert one.stop() == 0
        group.running.clear()
    topic = f"{prefix}.bridge-state"
    with replicas(tmp_path, exchange, kafka, prefix) as group:
        with group.unready() as refused:
            eventually(lambda: "2 shards, kafka.shards is 4" in str(refused.ready()[1]), 30, "the reason")
            assert f"--alter --topic {topic} --partitions 4" in str(refused.ready()[1])
            assert refused.stop() == 0
        add_partitions(kafka, topic)
        group.start()
        finish(group, exchange, kafka, prefix)


def add_partitions(kafka: Broker, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for done in admin.create_partitions([NewPartitions(topic, SHARDS)]).values():
        done.result()


def test_a_replica_that_waits_for_partitions_serves_once_they_are_there(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    create_topic(kafka.bootstrap, f"{prefix}.bridge-state", 2)
    settings = config("ws://127.0.0.1:1/", kafka, prefix, {"kafka": {"shards": SHARDS}})
    with RunningBridge(tmp_path, settings) as bridge:
        eventually(lambda: "2 shards, kafka.shards is 4" in str(bridge.ready()[1]), 30, "the reason")
        add_partitions(kafka, f"{prefix}.bridge-state")
        eventually(lambda: len(owned(bridge)) == SHARDS, 30, "all shards")
        assert bridge.stop() == 0


def test_a_replica_with_fewer_shards_than_have_state_serves_nothing_and_says_why(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    create_topic(kafka.bootstrap, f"{prefix}.bridge-state", SHARDS)
    settings = config("ws://127.0.0.1:1/", kafka, prefix)
    with RunningBridge(tmp_path, settings) as bridge:
        eventually(lambda: "set kafka.shards = 4" in str(bridge.ready()[1]), 30, "the way out")
        assert bridge.ready()[0] == 503
        eventually(
            lambda: bridge.stderr.count("topics do not match the configuration, waiting") == 1,
            30,
            "the same in the log",
        )
        assert bridge.stop() == 0
        assert "Traceback" not in bridge.stderr
    assert read_topic(kafka.bootstrap, f"{prefix}.bridge-state") == []
