"""An exchange that closes a connection for the number of its subscriptions: sessions are halved."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bridge.simulator import Faults, Setup
from bridge.simulator.dialects import CAP
from tests.chaos.verifier import Conditions, verify
from tests.support.consumers import read_topic
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker
from tests.support.process import RunningBridge, config
from tests.support.waiting import eventually

MARKETS = [f"SIM{number}_USDT" for number in range(10)]
CHANNELS = ("trades", "depth", "ticker")
WANTED = len(CHANNELS) * len(MARKETS)  # subscriptions, three times as many as are accepted
MOST = 3 + 2 * 1 + 4  # handshakes: three of all, one of each half, and those that stay

REPLY_TIMEOUT = 2.0  # seconds
AGE = 5.0  # seconds until a session is replaced


def test_halved_sessions_bring_all_data_and_are_joined_again_without_loss(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    with ExchangeThread(
        symbols=MARKETS, rate=300, faults=Faults(max_subscriptions=CAP), setup=Setup(keep_history=True)
    ) as exchange:
        channels: dict[str, Any] = {**dict.fromkeys(CHANNELS, MARKETS), "all_ticker": False}
        sections: dict[str, dict[str, Any]] = {
            "exchange": {"max_session_age": AGE, "reply_timeout": REPLY_TIMEOUT},
            "channels": channels,
            "kafka": {"partitions": 1},
        }
        with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, sections)) as bridge:
            eventually(lambda: confirmed(bridge) == WANTED, 60, "all subscriptions")
            halved_us = time.time_ns() // 1000
            assert exchange.simulator.handshakes <= MOST
            eventually(logged(bridge, "halved sessions not joined"), 60, "joining them in vain")
            assert confirmed(bridge) == WANTED
            exchange.call(exchange.simulator.inject, Faults())
            eventually(lambda: bridge.metric("connected") == 1, 120, "one session")
            eventually(lambda: confirmed(bridge) == WANTED, 60, "all subscriptions")
            exchange.quiesce()
            eventually(lambda: bridge.metric("pending_records") == 0, 60, "an end of what comes")
            assert bridge.stop() == 0
        history = exchange.simulator.history
    records = {name: read(kafka, prefix, name) for name in (*CHANNELS, "events", "deadletter")}
    records |= {name: [] for name in ("all_ticker", "order", "order_algo", "balance")}
    verdict = verify(records, history, Conditions(reply_timeout=REPLY_TIMEOUT, accounts={}, units_us=(1,)))
    assert not verdict.violations
    events = records["events"]
    assert {one["event"] for one in events} >= {"short_lives", "session_rotated"}
    assert not [one for one in events if one["event"] == "gap" and one["before_us"] > halved_us]


def confirmed(bridge: RunningBridge) -> float:
    return bridge.metric("subscriptions", state="confirmed")


def logged(bridge: RunningBridge, phrase: str) -> Callable[[], bool]:
    return lambda: f'"{phrase}"' in bridge.stderr


def read(kafka: Broker, prefix: str, name: str) -> list[dict[str, Any]]:
    return [record.json for record in read_topic(kafka.bootstrap, f"{prefix}.{name}.v1")]
