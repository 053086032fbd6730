"""Many markets by `"*"`: some cannot be subscribed to, some fall silent, some come and go."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bridge.simulator.dialects import CAP, DOCUMENTED, parse_dialect
from bridge.simulator.market import symbol_names
from tests.support.consumers import read_topic
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker
from tests.support.process import SYMBOLS, RunningBridge, config
from tests.support.waiting import eventually

MARKETS, DELISTED = 700, 35
CHANNELS = ("trades", "depth")
PATIENCE = 120.0  # seconds, on a busy machine
EXCHANGE: dict[str, Any] = {
    "handshakes_per_second": 50.0,
    "subscribes_per_second": 200.0,
    "reconnect_max": 600.0,  # so that nothing refused is retried during a test
    "reconnect_min": 0.1,
    "max_markets": MARKETS,
}


def refused(bridge: RunningBridge) -> int:
    """Return the number of refused subscriptions that `/readyz` names; -1 if it is not ready."""
    status, body = bridge.ready()
    return sum(one["number"] for one in body.get("degraded", {}).get("refused", ())) if status == 200 else -1


def subscriptions(bridge: RunningBridge, state: str) -> float:
    return bridge.metric("subscriptions", state=state)


def all_settled(bridge: RunningBridge, confirmed: int) -> bool:
    return (
        subscriptions(bridge, "confirmed") == confirmed
        and subscriptions(bridge, "pending") == 0
        and bridge.ready()[0] == 200
    )


def test_markets_that_cannot_be_subscribed_to_cost_few_requests_and_are_forgotten_once_unlisted(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    symbols = symbol_names(MARKETS)
    bad = symbols[::20]
    sections = {
        "exchange": EXCHANGE,
        "channels": {"trades": ["*"], "depth": ["*"], "ticker": [], "all_ticker": False},
        "kafka": {"partitions": 1},
    }
    assert len(bad) == DELISTED
    confirmed = len(CHANNELS) * (MARKETS - DELISTED)
    with ExchangeThread(symbols=symbols, rate=50) as exchange:
        simulator = exchange.simulator
        exchange.call(simulator.market.hidden.update, bad)
        with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, sections)) as bridge:
            eventually(lambda: all_settled(bridge, confirmed), PATIENCE, "all subscriptions")
            sessions = bridge.metric("connected")
            assert refused(bridge) == subscriptions(bridge, "refused") == len(CHANNELS) * DELISTED
            # One request for each channel of a session, and one more without what was refused; some of the
            # first ones were made before a session was full.
            assert simulator.subscribes <= 2 * len(CHANNELS) * (sessions + 1)

            before = simulator.subscribes
            exchange.call(simulator.drop)
            eventually(lambda: simulator.handshakes >= 2 * sessions, PATIENCE, "all sessions again")
            eventually(lambda: all_settled(bridge, confirmed), PATIENCE, "all subscriptions again")
            assert refused(bridge) == len(CHANNELS) * DELISTED
            assert simulator.subscribes - before <= len(CHANNELS) * sessions + 1

            for symbol in bad:
                exchange.call(simulator.market.delist_market, symbol)
            exchange.call(simulator.drop)
            # All of it at once: until a session is back, none of its subscriptions counts as refused.
            eventually(
                lambda: (
                    "degraded" not in bridge.ready()[1]
                    and all_settled(bridge, confirmed)
                    and subscriptions(bridge, "refused") == 0
                ),
                PATIENCE,
                "that they are forgotten",
            )

            for symbol in (bad[0], "NEW_USDT"):
                exchange.call(simulator.market.list_market, symbol)
            eventually(
                lambda: all_settled(bridge, confirmed + 2 * len(CHANNELS)),
                PATIENCE,
                "one that is back, and one for which there was no room before",
            )
            assert bridge.stop() == 0


@pytest.mark.parametrize("all_ticker", [True, False])
def test_a_market_that_falls_silent_while_tickers_show_it_moving_is_reported_until_it_speaks(
    kafka: Broker, prefix: str, tmp_path: Path, all_ticker: bool
) -> None:
    """Shown by all_ticker, or by the ticker of the market."""
    quick = {"stale_after": 6.0, "reply_timeout": 2.0, "ping_interval": 1.0}
    with ExchangeThread(symbols=SYMBOLS, rate=60) as exchange:
        shown = {"all_ticker": True, "ticker": []} if all_ticker else {"all_ticker": False}
        sections = {"exchange": quick, "channels": shown, "kafka": {"partitions": 1}}
        settings = config(exchange.url, kafka, prefix, sections)
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready(PATIENCE)
            before = exchange.simulator.subscribes
            exchange.call(exchange.simulator.hush, "ETH_USDT", "trades", "depth")
            eventually(lambda: subscriptions(bridge, "silent") == 2, PATIENCE, "silent subscriptions")
            (cause,) = bridge.ready()[1]["degraded"]["silent"]
            assert cause["number"] == 2
            assert cause["cause"] == "no change pushed although the market moves"
            eventually(lambda: exchange.simulator.subscribes >= before + 2, PATIENCE, "other requests")
            assert bridge.metric("connected") == 1
            assert bridge.metric("reconnects_total") == 0
            exchange.call(partial(exchange.simulator.hush, ""))
            eventually(lambda: subscriptions(bridge, "silent") == 0, PATIENCE, "that they speak")
            assert bridge.stop() == 0
    assert silent_ones(kafka, prefix) == {("trades", "ETH_USDT"), ("depth", "ETH_USDT")}


def test_tickers_that_are_silent_over_a_cap_of_subscriptions_are_noticed_by_trades(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    quick = {"stale_after": 1.0, "reply_timeout": 2.0, "ping_interval": 1.0, "reconnect_max": 2.0}
    symbols = symbol_names(CAP - 4)
    silent = symbols[4:]  # trades come first
    channels = {"trades": symbols, "depth": [], "ticker": symbols, "all_ticker": False}
    sections: dict[str, dict[str, Any]] = {
        "exchange": quick,
        "channels": channels,
        "kafka": {"partitions": 1},
    }
    with (
        ExchangeThread(symbols=symbols, rate=200, dialect=parse_dialect("thirty_subscriptions")) as exchange,
        RunningBridge(tmp_path, config(exchange.url, kafka, prefix, sections)) as bridge,
    ):
        bridge.wait_ready(PATIENCE)
        assert subscriptions(bridge, "confirmed") == 2 * len(symbols)
        eventually(lambda: subscriptions(bridge, "silent") == len(silent), PATIENCE, "silent tickers")
        exchange.call(exchange.simulator.become, DOCUMENTED)
        eventually(lambda: subscriptions(bridge, "silent") == 0, PATIENCE, "that they speak")
        assert bridge.metric("reconnects_total") == 0
        assert bridge.stop() == 0
    assert silent_ones(kafka, prefix) == {("ticker", symbol) for symbol in silent}


def silent_ones(kafka: Broker, prefix: str) -> set[tuple[str, str]]:
    """Return channel and symbol of the subscriptions that were reported as silent."""
    events = [one.json for one in read_topic(kafka.bootstrap, f"{prefix}.events.v1")]
    return {(one["channel"], one["symbol"]) for one in events if one["event"] == "subscription_silent"}
