"""Bridges that must not write at the same time: of two groups, or with two numbers of shards."""

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaTimeoutError
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewPartitions

from bridge.config import KafkaConfig
from bridge.errors import TopicError
from bridge.kafka import claims
from bridge.kafka.claims import claim
from tests.support.checks import assert_trades_are, assert_trades_are_but_for_gaps, gaps_of, records_of
from tests.support.consumers import read_topic
from tests.support.delivery import kafka_config
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker
from tests.support.process import ACCOUNTS, ROOT, SYMBOLS, RunningBridge, config
from tests.support.waiting import eventually

LEASE = 5.0  # seconds, the session timeout of all of them

Start = Callable[..., RunningBridge]
"""Starts a bridge, named by its folder, with keys of [kafka]."""


@pytest.fixture
def exchange() -> Iterator[ExchangeThread]:
    with ExchangeThread(symbols=SYMBOLS, rate=100) as running:
        yield running


@pytest.fixture
def start(kafka: Broker, prefix: str, tmp_path: Path, exchange: ExchangeThread) -> Iterator[Start]:
    with ExitStack() as stack:

        def start(name: str, **keys: object) -> RunningBridge:
            settings = config(exchange.url, kafka, prefix, {"kafka": {"session_timeout": LEASE, **keys}})
            settings["channels"] = {"trades": SYMBOLS}
            folder = tmp_path / name
            folder.mkdir()
            return stack.enter_context(RunningBridge(folder, settings))

        yield start


def waiting_for(bridge: RunningBridge) -> str:
    """Return what a bridge that is not ready says about shards."""
    status, body = bridge.ready()
    return str(body["missing"].get("shards", "")) if status == 503 else ""


def logs(bridge: RunningBridge, phrase: str) -> bool:
    """Return whether a bridge has logged this."""
    return f'"event": "{phrase}"' in bridge.stderr


def events(kafka: Broker, prefix: str, kind: str) -> list[dict[str, Any]]:
    found = [one.json for one in read_topic(kafka.bootstrap, f"{prefix}.events.v1")]
    return [event for event in found if event["event"] == kind]


def blue_and_green(start: Start, prefix: str, **keys: object) -> tuple[RunningBridge, RunningBridge]:
    """Return a bridge that serves, and one of another group that waits for it and says so."""
    blue = start("blue", group_id=f"{prefix}-blue", **keys)
    blue.wait_ready()
    green = start("green", group_id=f"{prefix}-green", **keys)
    eventually(lambda: f"{prefix}-blue" in waiting_for(green), 30, "green waits, and says for whom")
    return blue, green


def finish(kafka: Broker, prefix: str, exchange: ExchangeThread, last: RunningBridge) -> None:
    """Stop the market, then the last bridge; assert that each trade is on Kafka once, and in order."""
    exchange.quiesce()
    assert last.stop() == 0
    assert_trades_are(records_of(kafka, prefix, "trades"), exchange.truth.made)


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_a_bridge_of_another_group_waits_until_the_first_one_ends(
    kafka: Broker, prefix: str, exchange: ExchangeThread, start: Start, delivery: str
) -> None:
    blue, green = blue_and_green(start, prefix, delivery=delivery)
    eventually(lambda: logs(blue, "another bridge waits for this one to end"), 30, "blue reports it")
    eventually(lambda: events(kafka, prefix, "second_bridge"), 30, "the event on Kafka")
    (reported, *_) = events(kafka, prefix, "second_bridge")
    assert f"of group {prefix}-green" in reported["detail"]
    named = f"replica {reported['replica']} of group {prefix}-blue"
    eventually(lambda: named in waiting_for(green), 30, "green says for whom it waits")
    blue.wait_ready()
    made = sum(map(len, exchange.truth.made.values()))
    eventually(lambda: sum(map(len, exchange.truth.made.values())) > made + 300, 30, "more trades")
    assert blue.stop() == 0
    green.wait_ready()
    finish(kafka, prefix, exchange, green)
    assert len({one.json["session"] for one in records_of(kafka, prefix, "trades")}) == 2
    assert events(kafka, prefix, "records_lost") == []


def test_a_killed_bridge_is_replaced_by_one_of_another_group_once_it_counts_as_gone(
    kafka: Broker, prefix: str, exchange: ExchangeThread, start: Start
) -> None:
    blue, green = blue_and_green(start, prefix)
    blue.process.kill()
    blue.process.wait()
    green.wait_ready()
    finish(kafka, prefix, exchange, green)


def test_a_bridge_that_was_frozen_while_one_of_another_group_took_over_writes_nothing_and_waits(
    kafka: Broker, prefix: str, exchange: ExchangeThread, start: Start
) -> None:
    blue, green = blue_and_green(start, prefix)
    os.kill(blue.process.pid, signal.SIGSTOP)
    green.wait_ready(60)
    os.kill(blue.process.pid, signal.SIGCONT)
    eventually(lambda: f"{prefix}-green" in waiting_for(blue), 60, "blue waits")
    green.wait_ready()
    assert blue.stop() == 0
    exchange.quiesce()
    assert green.stop() == 0
    # More trades may have happened meanwhile than the exchange's list shows.
    trades, gaps = records_of(kafka, prefix, "trades"), gaps_of(kafka, prefix, "trades")
    assert_trades_are_but_for_gaps(trades, exchange.truth.made, gaps)


def test_a_quiet_bridge_is_seen_to_be_alive(prefix: str, exchange: ExchangeThread, start: Start) -> None:
    """Nothing is pushed, so it has nothing to save but that it is there."""
    blue = start("blue", group_id=f"{prefix}-blue")
    blue.wait_ready()
    exchange.quiesce()
    green = start("green", group_id=f"{prefix}-green")
    # It announces itself when it has seen the other one alive.
    eventually(lambda: logs(blue, "another bridge waits for this one to end"), 30, "blue reports it")
    eventually(lambda: f"{prefix}-blue" in waiting_for(green), 30, "green waits")


def test_replicas_with_another_number_of_shards_wait_and_no_trade_is_there_twice(
    kafka: Broker, prefix: str, exchange: ExchangeThread, start: Start
) -> None:
    """Partitions are added while a replica runs, against the instructions, and others are started."""
    old = start("old", shards=2)
    old.wait_ready()
    eventually(lambda: old.metric("records_total", channel="trades") > 50, 30, "trades")
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap})
    for done in admin.create_partitions([NewPartitions(f"{prefix}.bridge-state", 4)]).values():
        done.result()
    new = start("new", shards=4)
    late = start("late", shards=2)
    eventually(lambda: "with kafka.shards = 2, here it is 4" in waiting_for(new), 30, "the new one waits")
    eventually(lambda: "set kafka.shards = 4" in waiting_for(late), 30, "the late one is refused")
    made = sum(map(len, exchange.truth.made.values()))
    eventually(lambda: sum(map(len, exchange.truth.made.values())) > made + 300, 30, "more trades")
    assert old.stop() == 0
    new.wait_ready()
    eventually(lambda: "set kafka.shards = 4" in waiting_for(late), 30, "the late one is still refused")
    assert late.stop() == 0
    finish(kafka, prefix, exchange, new)


def test_of_bridges_that_claim_a_private_prefix_at_once_one_gets_it(kafka: Broker, prefix: str) -> None:
    """Each has two replicas, which all may find that nobody has claimed it."""

    def replica(name: str) -> KafkaConfig:
        return kafka_config(kafka, f"{prefix}.{name}", private_topic_prefix=f"private.{prefix}")

    async def claimed(name: str) -> str:
        try:
            await claim(replica(name))
        except TopicError as error:
            (owner,) = re.findall(rf"belongs to kafka.topic_prefix {prefix}\.(\w+)", str(error))
            return str(owner)
        return name

    async def all_claim() -> list[str]:
        await claims._topic(replica("blue"))
        return await asyncio.gather(*map(claimed, ["blue", "green", "blue", "green"]))

    owners = asyncio.run(all_claim())
    assert len(set(owners)) == 1
    assert asyncio.run(claimed("green")) == asyncio.run(claimed("blue")) == owners[0]


def test_a_claim_that_another_replica_repeats_keeps_its_place(kafka: Broker, prefix: str) -> None:
    """Both have found that nobody has claimed the prefix, and so has the bridge between them."""

    def of(name: str) -> KafkaConfig:
        return kafka_config(kafka, f"{prefix}.{name}", private_topic_prefix=f"private.{prefix}")

    async def scenario() -> None:
        topic = await claims._topic(of("blue"))
        assert topic is not None
        for name in ("blue", "green", "blue"):
            await claims._write(of(name), topic, f"claim/{prefix}.{name}".encode(), b"{}")
        await claim(of("blue"))
        with pytest.raises(TopicError, match=rf"belongs to kafka.topic_prefix {prefix}\.blue"):
            await claim(of("green"))

    asyncio.run(scenario())


def test_a_claim_that_came_too_late_and_was_not_taken_back_is_so_at_the_next_start(
    kafka: Broker, prefix: str
) -> None:
    """The bridge had died in between. Until then its claim changes nothing, or names itself to others."""

    def of(name: str) -> KafkaConfig:
        return kafka_config(kafka, f"{prefix}.{name}", private_topic_prefix=f"private.{prefix}")

    async def scenario() -> None:
        topic = await claims._topic(of("blue"))
        assert topic is not None

        async def write(name: str, value: bytes | None) -> None:
            await claims._write(of(name), topic, f"claim/{prefix}.{name}".encode(), value)

        for name in ("blue", "green"):
            await write(name, b"{}")
        await claim(of("blue"))
        await write("blue", None)
        with pytest.raises(TopicError, match=rf"a tombstone for claim/{prefix}\.green to {topic}"):
            await claim(of("red"))
        await write("green", None)
        for name in ("blue", "green"):
            await write(name, b"{}")
        with pytest.raises(TopicError, match=rf"belongs to kafka.topic_prefix {prefix}\.blue"):
            await claim(of("green"))
        await write("blue", None)
        await claim(of("red"))

    asyncio.run(scenario())


def test_a_claim_that_cannot_be_read_yet_does_not_count(kafka: Broker, prefix: str) -> None:
    """Somebody's open transaction hides it, and perhaps another one in front of it."""
    config = kafka_config(kafka, f"{prefix}.blue", private_topic_prefix=f"private.{prefix}")
    topic = asyncio.run(claims._topic(config))
    assert topic is not None
    somebody = Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": prefix})
    somebody.init_transactions(60)
    somebody.begin_transaction()
    somebody.produce(topic, b"{}", b"something")
    somebody.flush(60)
    with pytest.raises(KafkaTimeoutError, match="could not be read"):
        asyncio.run(claim(config))
    somebody.commit_transaction(60)
    asyncio.run(claim(config))


def test_a_private_prefix_belongs_to_the_topic_prefix_that_used_it_first(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """Until its claim is taken back, with the documented command."""
    with ExchangeThread(symbols=SYMBOLS, rate=10, accounts=ACCOUNTS) as running:

        def names_the_claim(said: str) -> bool:
            claim = f"claim/{prefix}.first to private.{prefix}.bridge-state"
            return f"belongs to kafka.topic_prefix {prefix}.first" in said and claim in said

        def bridge(name: str) -> RunningBridge:
            keys = {"topic_prefix": f"{prefix}.{name}", "group_id": f"{prefix}.{name}"}
            keys["private_topic_prefix"] = f"private.{prefix}"
            (tmp_path / name).mkdir()
            return RunningBridge(
                tmp_path / name, config(running.url, kafka, prefix, {"kafka": keys}, accounts=True)
            )

        with bridge("first") as first:
            first.wait_ready()
            with bridge("second") as second:
                eventually(lambda: "private_topic_prefix" in waiting_for(second), 30, "the second is refused")
                eventually(lambda: names_the_claim(waiting_for(second)), 30, "whose claim it is")
                first.wait_ready()
                assert first.stop() == 0
                text = (ROOT / "docs/security.md").read_text()
                (command,) = re.findall(r"```sh\n(echo .*?)```", text, re.DOTALL)
                command = command.replace("localhost:9092", kafka.bootstrap)
                command = command.replace("claim/digifinex", f"claim/{prefix}.first")
                command = command.replace("private.digifinex", f"private.{prefix}")
                subprocess.run(["bash", "-ec", command], check=True, timeout=120)
                second.wait_ready()
                assert second.stop() == 0
        with bridge("third") as third:
            eventually(lambda: f"{prefix}.second" in waiting_for(third), 30, "the third is refused")
            assert third.stop() == 0
