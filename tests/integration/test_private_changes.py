"""Private channels: each change is on Kafka or inside a reported gap, from the very first session on."""

import copy
import random
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bridge.records import EVENTS
from bridge.simulator import Setup
from bridge.simulator.protocol import PRIVATE
from tests.chaos.verifier import Conditions, verify
from tests.support.checks import gaps_of, records_of
from tests.support.consumers import read_topic
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker
from tests.support.process import ACCOUNTS, SYMBOLS, RunningBridge, config
from tests.support.waiting import eventually

MOMENTS = random.Random(11)  # for kills and stops: any moment will do
DELIVERIES = ["exactly-once", "at-least-once"]
OTHER = {"name": "other", "api_key": "key2", "secret": "s3cr3t-2"}
FIRST = ("first_listened", None)


def exchange_of_accounts() -> ExchangeThread:
    accounts = ACCOUNTS | {OTHER["api_key"]: OTHER["secret"]}
    return ExchangeThread(symbols=SYMBOLS, rate=300, accounts=accounts, setup=Setup(keep_history=True))


def private_only(exchange: ExchangeThread, kafka: Broker, prefix: str, **keys: object) -> dict[str, Any]:
    """Return a configuration of one account with all its channels, and of nothing else."""
    settings = config(exchange.url, kafka, prefix, {"kafka": {"session_timeout": 2.0, **keys}}, accounts=True)
    settings["channels"] = {}
    return settings


def finish(folder: Path, settings: dict[str, Any], exchange: ExchangeThread) -> None:
    """Run the bridge once more, until it has all that the exchange has sent."""
    with RunningBridge(folder, settings) as bridge:
        bridge.wait_ready()
        exchange.quiesce()
        eventually(lambda: bridge.metric("spool_records") == 0, 60, "the end of the spool")
        assert bridge.stop() == 0


def assert_nothing_is_lost_unreported(
    kafka: Broker, prefix: str, exchange: ExchangeThread, **accounts: str
) -> None:
    """The chaos run's verifier accounts for each change; at-least-once may repeat some."""
    found = {name: [one.json for one in records_of(kafka, prefix, name)] for name in (*PRIVATE, EVENTS)}
    history = exchange.simulator.history
    known = {"key": "main", **accounts}
    for key in set(history.changes) - set(known):
        del history.changes[key]
    violations = verify(found, history, Conditions(accounts=known)).violations
    assert [one for one in violations if one.kind in ("change lost unreported", "invented change")] == []


def saved(kafka: Broker, prefix: str) -> dict[str, dict[str, int]]:
    """Return the last-heard times that are saved, by account."""
    return {
        one.key.decode().removeprefix("account/"): one.json
        for one in read_topic(kafka.bootstrap, f"{prefix}.bridge-state")
        if one.key is not None and one.key.startswith(b"account/")
    }


def listens(bridge: RunningBridge) -> bool:
    return (
        "private channel listened to for the first time" in bridge.stderr or "gap not filled" in bridge.stderr
    )


def is_open(bridge: RunningBridge) -> bool:
    return "session opened" in bridge.stderr


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_a_stop_at_once_after_the_start_saves_what_was_listened_to(
    kafka: Broker, prefix: str, tmp_path: Path, delivery: str
) -> None:
    with exchange_of_accounts() as exchange:
        settings = private_only(exchange, kafka, prefix, delivery=delivery)
        for _ in range(2):
            with RunningBridge(tmp_path, settings) as bridge:
                eventually(partial(listens, bridge), 60, "a session that listens")
                assert bridge.stop() == 0
            assert saved(kafka, prefix)["main"].keys() == set(PRIVATE)
        finish(tmp_path, settings, exchange)
        assert_nothing_is_lost_unreported(kafka, prefix, exchange)
    assert "records_lost" not in [one.json["event"] for one in records_of(kafka, prefix, EVENTS)]
    for channel in PRIVATE:
        first, *others = gaps_of(kafka, prefix, channel)
        assert (first["cause"], first["after_us"]) == FIRST
        assert [gap["cause"] for gap in others] == ["takeover", "takeover"]
        bounds = [us for gap in (first, *others) for us in (gap["after_us"], gap["before_us"])][1:]
        assert bounds == sorted(bounds)


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_kills_under_constant_private_flow_lose_nothing_unreported(
    kafka: Broker, prefix: str, tmp_path: Path, delivery: str
) -> None:
    with exchange_of_accounts() as exchange:
        settings = private_only(exchange, kafka, prefix, delivery=delivery)
        for number in range(4):
            with RunningBridge(tmp_path, settings) as bridge:
                if number:
                    eventually(partial(listens, bridge), 60, "a session that listens")
                    time.sleep(MOMENTS.uniform(0.0, 1.0))
                else:
                    eventually(partial(is_open, bridge), 60, "a session")
                bridge.process.kill()
        finish(tmp_path, settings, exchange)
        assert_nothing_is_lost_unreported(kafka, prefix, exchange)
    kinds = [one.json for one in records_of(kafka, prefix, EVENTS)]
    lost = [event for event in kinds if event["event"] == "records_lost"]
    assert lost
    assert all(event["after_us"] is None or event["after_us"] < event["before_us"] for event in lost)


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_a_stop_while_a_spool_is_in_use_loses_nothing_unreported(
    own_kafka: Broker, prefix: str, tmp_path: Path, delivery: str
) -> None:
    with exchange_of_accounts() as exchange:
        settings = private_only(exchange, own_kafka, prefix, delivery=delivery, max_pending_bytes=100_000)
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            eventually(lambda: bridge.metric("records_total", channel="order") > 50, 60, "orders")
            own_kafka.kill()
            eventually(lambda: bridge.metric("spool_records") > 50, 60, "a spool")
            assert bridge.stop() == 0
            assert "records left in the spool for the next start" in bridge.stderr
        own_kafka.start()
        finish(tmp_path, settings, exchange)
        assert_nothing_is_lost_unreported(own_kafka, prefix, exchange)
    events = [one.json["event"] for one in records_of(own_kafka, prefix, EVENTS)]
    assert "records_lost" not in events


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_a_new_account_and_a_new_channel_begin_with_a_gap_without_a_beginning(
    kafka: Broker, prefix: str, tmp_path: Path, delivery: str
) -> None:
    with exchange_of_accounts() as exchange:
        settings = private_only(exchange, kafka, prefix, delivery=delivery)
        complete = copy.deepcopy(settings)
        complete["accounts"].append({**complete["accounts"][0], **OTHER})
        del settings["accounts"][0]["balance"]
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            assert bridge.stop() == 0
        assert "balance" not in saved(kafka, prefix)["main"]
        finish(tmp_path, complete, exchange)
        assert_nothing_is_lost_unreported(kafka, prefix, exchange, key2="other")
    for channel, causes in (("order", ["first_listened", "takeover"]), ("balance", ["first_listened"])):
        gaps = gaps_of(kafka, prefix, channel)
        mine = [gap for gap in gaps if gap["account"] == "main"]
        others = [gap for gap in gaps if gap["account"] == "other"]
        assert [gap["cause"] for gap in mine] == causes
        assert [(gap["cause"], gap["after_us"]) for gap in (mine[0], *others)] == [FIRST, FIRST]
        assert all(gap["detail"] for gap in (mine[0], *others))
