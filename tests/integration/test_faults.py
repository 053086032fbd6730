"""What goes wrong on either side, done for real, and what consumers must not notice of it."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from bridge.simulator import Faults, Setup
from bridge.simulator.market import symbol_names
from bridge.simulator.protocol import PUBLIC
from tests.support.checks import assert_no_hole, assert_trades_are, records_of
from tests.support.clock import Clock
from tests.support.consumers import read_topic
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker, free_ports
from tests.support.process import ACCOUNTS, SYMBOLS, RunningBridge, config
from tests.support.waiting import eventually

DELIVERIES = ["exactly-once", "at-least-once"]


def all_trades_arrive(bridge: RunningBridge, exchange: ExchangeThread, seconds: float = 40) -> None:
    """Stop the market and wait until each trade that was made is on Kafka."""
    exchange.quiesce()
    made = sum(len(trades) for trades in exchange.truth.made.values())
    eventually(
        lambda: bridge.metric("records_total", channel="trades") >= made, seconds, f"{made} trades on Kafka"
    )


def _delivered(bridge: RunningBridge, goal: float, **label: str) -> bool:
    return bridge.metric("records_total", **label) > goal


def _reconnected(bridge: RunningBridge, reason: str, times: int) -> bool:
    return bridge.metric("reconnects_total", reason=reason) > times


def test_a_server_that_keeps_hanging_up_costs_no_trade(kafka: Broker, prefix: str, tmp_path: Path) -> None:
    """It closes all connections every 1.5 s, and answers 502 in between.

    At this rate its lists of 100 trades reach back by 20 s: a busy machine may be that slow to reconnect.
    """
    faults = Faults(drop=1.5, refuse=2)
    with ExchangeThread(symbols=SYMBOLS, rate=45, faults=faults) as exchange:
        quick = {"reconnect_min": 0.05, "reconnect_max": 0.3}
        with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, {"exchange": quick})) as bridge:
            bridge.wait_ready()
            eventually(lambda: exchange.simulator.refusals > 10, 40, "refused handshakes")
            for reason in ("closed", "refused"):
                eventually(partial(_reconnected, bridge, reason, 10), 40, f"reconnects after {reason}")
            all_trades_arrive(bridge, exchange)
            assert bridge.metric("recovered_total", channel="trades") > 0
            assert bridge.metric("gaps_total") == 0
            assert bridge.stop() == 0
        assert_trades_are(records_of(kafka, prefix, "trades"), exchange.truth.made)
        assert_no_hole(records_of(kafka, prefix, "depth"))


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_a_broker_killed_under_load_loses_and_duplicates_nothing(
    own_kafka: Broker, prefix: str, tmp_path: Path, delivery: str
) -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=1000) as exchange:
        settings = config(exchange.url, own_kafka, prefix, {"kafka": {"delivery": delivery}})
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            for goal in (1500, 6000):
                reached = partial(_delivered, bridge, goal)
                eventually(reached, 30, f"{goal} records")
                own_kafka.kill()
                own_kafka.start()
            bridge.wait_ready(60)
            exchange.quiesce()
            sent = exchange.truth.counts()
            total = sum(sent.values())
            eventually(lambda: bridge.metric("records_total") >= total, 40, f"{total} records")
            assert bridge.stop() == 0
        for channel in PUBLIC:
            records = records_of(own_kafka, prefix, channel)
            assert len(records) == sent[channel]
            assert_no_hole(records)
        assert_trades_are(records_of(own_kafka, prefix, "trades"), exchange.truth.made)


def test_reading_pauses_while_kafka_hangs_and_resumes_without_a_hole(
    own_kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """The pause outlasts `reply_timeout`: a session that does not read can't see its pongs."""
    with ExchangeThread(symbols=SYMBOLS, rate=1500) as exchange:
        sections: dict[str, Any] = {
            "kafka": {"max_pending_bytes": 400_000},
            "spool": {"max_bytes": 0},
            "exchange": {"ping_interval": 0.5, "reply_timeout": 1.0},
        }
        with RunningBridge(tmp_path, config(exchange.url, own_kafka, prefix, sections)) as bridge:
            bridge.wait_ready()
            own_kafka.suspend()
            eventually(lambda: bridge.metric("reading_paused") == 1, 30, "a pause")
            before = psutil.Process(bridge.process.pid).memory_info().rss
            frames = bridge.metric("frames_total")
            eventually(lambda: "kafka" in bridge.ready()[1].get("missing", {}), 20, "readyz names Kafka")
            assert bridge.metric("frames_total") == frames
            assert psutil.Process(bridge.process.pid).memory_info().rss < before + 20_000_000
            own_kafka.resume()
            eventually(lambda: bridge.metric("reading_paused") == 0, 60, "reading resumed")
            exchange.quiesce()
            sent = exchange.truth.counts()
            total = sum(sent.values())
            eventually(lambda: bridge.metric("records_total") >= total, 60, f"{total} records")
            assert bridge.metric("reconnects_total") == 0
            assert bridge.stop() == 0
        assert len(records_of(own_kafka, prefix, "depth")) == sent["depth"]
        assert_trades_are(records_of(own_kafka, prefix, "trades"), exchange.truth.made)


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_each_trade_arrives_once_while_the_clock_jumps_by_hours(
    kafka: Broker, prefix: str, tmp_path: Path, delivery: str
) -> None:
    """Kafka rejects timestamps more than an hour ahead of its clock, so those records have none."""
    with ExchangeThread(symbols=SYMBOLS, rate=300, accounts=ACCOUNTS) as exchange:
        clock = Clock(tmp_path)
        settings = config(exchange.url, kafka, prefix, {"kafka": {"delivery": delivery}}, accounts=True)
        with RunningBridge(tmp_path, settings, clock.environment) as bridge:
            bridge.wait_ready()
            for hours in (1.5, -1, 0, -25):
                before = bridge.metric("records_total", channel="trades")
                clock.jump(hours)
                reached = partial(_delivered, bridge, before + 100, channel="trades")
                eventually(reached, 40, f"trades after a jump to {hours:+} h")
                bridge.wait_ready(40)  # batches of other partitions may still be rejected for their times
            exchange.quiesce()
            total = sum(exchange.truth.counts().values())
            eventually(lambda: bridge.metric("records_total") >= total, 40, f"{total} records")
            assert bridge.metric("kafka_errors_total", error="InvalidTimestampError") > 0
            assert bridge.metric("deadletters_total") == 0
            assert bridge.metric("reconnects_total") == 0
            assert bridge.stop() == 0
        records = read_topic(kafka.bootstrap, f"{prefix}.trades.v1")
        assert_trades_are(records, exchange.truth.made)
        ahead = [(one.json["received_us"] / 1e6 - time.time()) / 3600 for one in records]
        jumps = {round(hours * 2) / 2 for hours in ahead}  # the test itself may take some minutes
        assert jumps == {0.0, 1.5, -1.0, -25.0}


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_a_stop_while_kafka_is_unavailable_reports_lost_records(
    own_kafka: Broker, prefix: str, tmp_path: Path, delivery: str
) -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=500) as exchange:
        sections: dict[str, Any] = {"kafka": {"delivery": delivery}, "spool": {"max_bytes": 0}}
        with RunningBridge(tmp_path, config(exchange.url, own_kafka, prefix, sections)) as bridge:
            bridge.wait_ready()
            eventually(lambda: bridge.metric("records_total") > 100, 30, "records")
            own_kafka.kill()
            eventually(lambda: bridge.metric("pending_records") > 100, 30, "pending records")
            began = time.monotonic()
            assert bridge.stop() == 0
            assert time.monotonic() - began < 30
            assert "records lost at shutdown" in bridge.stderr


def test_a_stop_during_the_start_does_not_wait_for_a_kafka_that_hangs(
    own_kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """It accepts connections and responds to nothing."""
    own_kafka.suspend()
    settings = config("ws://127.0.0.1:9/", own_kafka, prefix)
    with RunningBridge(tmp_path, settings) as bridge:
        assert bridge.ready()[0] == 503
        began = time.monotonic()
        assert bridge.stop() == 0
        assert time.monotonic() - began < 30


def test_without_kafka_or_exchange_at_the_start_the_bridge_says_so_and_keeps_trying(
    own_kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    own_kafka.stop()
    (port,) = free_ports(1)
    sections = {"exchange": {"reconnect_min": 0.1, "reconnect_max": 0.3}}
    settings = config(f"ws://127.0.0.1:{port}/", own_kafka, prefix, sections)
    with RunningBridge(tmp_path, settings) as bridge:
        eventually(lambda: bridge.ready()[0] == 503, 20, "not ready")
        assert own_kafka.bootstrap in str(bridge.ready()[1]["missing"]["kafka"])
        own_kafka.start()
        eventually(
            lambda: list(bridge.ready()[1].get("missing", ())) == ["sessions"],
            30,
            "only the exchange missing",
        )
        eventually(lambda: f"127.0.0.1:{port}" in str(bridge.ready()[1]), 30, "its address")
        with ExchangeThread(symbols=SYMBOLS, rate=100, setup=Setup(port=port)):
            bridge.wait_ready()
            eventually(lambda: bridge.metric("records_total") > 50, 20, "records")
        assert bridge.stop() == 0


def test_a_token_in_the_address_and_the_password_of_a_proxy_are_neither_shown_nor_recorded(
    kafka: Broker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = "c4n4ry-that-nobody-may-see"
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{token}@127.0.0.1:1")
    sections: dict[str, dict[str, Any]] = {
        "exchange": {"reconnect_min": 0.1, "reconnect_max": 0.3},
        "log": {"level": "debug"},
    }
    settings = config(f"wss://localhost.invalid/{token}/?key={token}", kafka, prefix, sections, accounts=True)
    with RunningBridge(tmp_path, settings) as bridge:
        eventually(lambda: bridge.metric("reconnects_total") > 3, 30, "attempts")
        seen = f"{bridge.ready()} {bridge.status()} {bridge.metrics()}"
        assert "wss://localhost.invalid/…/?…: " in seen
        assert bridge.stop() == 0
    topics = (f"{prefix}.events.v1", f"private.{prefix}.events.v1", f"{prefix}.bridge-state")
    records = [str(one.value) for topic in topics for one in read_topic(kafka.bootstrap, topic)]
    assert records
    assert token not in f"{seen} {bridge.stderr} {records}"


def test_refused_credentials_are_reported_and_public_channels_continue(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    other = {"key": "another secret"}
    with ExchangeThread(symbols=SYMBOLS, rate=100, accounts=other) as exchange:  # noqa: SIM117
        with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, accounts=True)) as bridge:
            eventually(lambda: bridge.metric("reconnects_total", reason="rejected") == 1, 20, "a refusal")
            eventually(lambda: bridge.metric("records_total", channel="trades") > 20, 20, "trades")
            status, body = bridge.ready()
            ((refused),) = body["degraded"]["accounts"]
            assert (status, refused["number"]) == (200, 1)
            assert bridge.status()["degraded"]["accounts"][0]["names"] == ["main"]
            assert "auth failed" in refused["cause"]
            eventually(lambda: bridge.metric("account_ready", account="main") == 0, 20, "the account is not")
            assert bridge.metric("reconnects_total") == 1
            assert bridge.stop() == 0
    assert ACCOUNTS["key"] not in bridge.stderr


def test_a_bad_symbol_is_named_and_affects_nothing_else(kafka: Broker, prefix: str, tmp_path: Path) -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        sections = {"channels": {"trades": [*SYMBOLS, "NOPE_USDT"]}}
        with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, sections)) as bridge:
            eventually(lambda: bridge.metric("records_total", channel="trades") > 20, 20, "trades")
            status, body = bridge.ready()
            ((refused),) = body["degraded"]["refused"]
            assert (status, refused["number"]) == (200, 1)
            assert bridge.status()["degraded"]["refused"][0]["names"] == ["trades NOPE_USDT"]
            assert "invalid market" in refused["cause"]
            refusals = {"channel": "trades", "state": "refused"}
            eventually(lambda: bridge.metric("subscriptions", **refusals) == 1, 20, "the count of refusals")
            (session,) = bridge.status()["sessions"]
            assert session["state"] == "live"
            assert session["address"] == exchange.url.removeprefix("ws://").partition("/")[0]
            assert session["not_confirmed"] == ["trades NOPE_USDT"]
            listed = bridge.status(session["session"])["subscriptions"]
            assert listed[0]["state"] == "refused"
            assert {one["state"] for one in listed[1:]} == {"confirmed"}
            assert bridge.stop() == 0


def test_a_dead_feed_is_replaced(kafka: Broker, prefix: str, tmp_path: Path) -> None:
    """A connection that falls silent costs no trade that the next clean list still has."""
    with ExchangeThread(symbols=SYMBOLS, rate=60, faults=Faults(mute_after=2.0)) as exchange:
        quick = {"ping_interval": 0.3, "reply_timeout": 0.5, "reconnect_min": 0.05, "reconnect_max": 0.3}
        with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, {"exchange": quick})) as bridge:
            eventually(lambda: bridge.metric("reconnects_total", reason="timeout") > 3, 40, "timeouts")
            all_trades_arrive(bridge, exchange)
            assert bridge.stop() == 0
        assert_trades_are(records_of(kafka, prefix, "trades"), exchange.truth.made)


def test_every_market_includes_new_listings_on_additional_sessions(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    symbols = [f"SIM{n}_USDT" for n in range(12)]
    faults = Faults(max_subscriptions=5, nested_all_ticker=True)
    with ExchangeThread(symbols=symbols, rate=200, faults=faults) as exchange:
        sections: dict[str, Any] = {
            "exchange": {"subscriptions_per_session": 5},
            "channels": {"trades": ["*"], "depth": ["*"], "ticker": [], "all_ticker": False},
        }
        with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, sections)) as bridge:
            bridge.wait_ready()
            exchange.call(exchange.simulator.market.list_market, "NEW_USDT")
            eventually(lambda: bridge.metric("connected") == 6, 30, "a session for the new market")
            bridge.wait_ready()
            before = len(exchange.truth.made["NEW_USDT"])
            eventually(lambda: len(exchange.truth.made["NEW_USDT"]) > before + 3, 30, "its trades")
            all_trades_arrive(bridge, exchange)
            assert bridge.metric("connected") == 6
            assert bridge.metric("reconnects_total") == 0
            assert bridge.stop() == 0
        assert_trades_are(records_of(kafka, prefix, "trades"), exchange.truth.made)


def test_many_sessions_never_storm_the_exchange(kafka: Broker, prefix: str, tmp_path: Path) -> None:
    """24 of them at the start, and again when all are cut at once; the server accepts 10 a second."""
    symbols = symbol_names(12)
    with ExchangeThread(symbols=symbols, rate=100, faults=Faults(max_handshakes=10)) as exchange:
        sections: dict[str, Any] = {
            "channels": {"trades": symbols, "depth": symbols, "ticker": [], "all_ticker": False},
            "exchange": {"subscriptions_per_session": 1, "reconnect_min": 0.1},
        }
        with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, sections)) as bridge:
            bridge.wait_ready(60)
            exchange.run(exchange.simulator.drop_all())
            eventually(lambda: exchange.simulator.handshakes >= 48, 60, "all sessions again")
            bridge.wait_ready(60)
            assert exchange.simulator.refusals == 0
            all_trades_arrive(bridge, exchange)
            assert bridge.stop() == 0
        assert_trades_are(records_of(kafka, prefix, "trades"), exchange.truth.made)


def test_after_http_429_nothing_connects_for_as_long_as_the_exchange_asks(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=100, faults=Faults(max_handshakes=2)) as exchange:
        quick = {"subscriptions_per_session": 1, "reconnect_min": 0.01, "handshakes_per_second": 1000}
        settings = config(exchange.url, kafka, prefix, {"exchange": quick})
        with RunningBridge(tmp_path, settings) as bridge:
            sessions = 3 * len(SYMBOLS) + 1
            eventually(lambda: exchange.simulator.handshakes == sessions, 100, "all sessions")
            bridge.wait_ready(60)
            assert bridge.metric("reconnects_total", reason="refused") == exchange.simulator.refusals > 0
            # At first all of them try at once; after that one tries for all, when the exchange allows it.
            assert exchange.simulator.refusals < sessions * sessions / 2
            assert bridge.stop() == 0
