"""Many markets by `"*"`: some cannot be subscribed to, some fall silent, some come and go."""

from functools import partial
from pathlib import Path
from typing import Any

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

            exchange.call(simulator.market.list_market, bad[0])
            eventually(
                lambda: all_settled(bridge, confirmed + len(CHANNELS)), PATIENCE, "the one that is back"
            )
            assert bridge.stop() == 0


def test_a_market_that_falls_silent_while_all_ticker_shows_it_moving_is_reported_until_it_speaks(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    quick = {"stale_after": 6.0, "reply_timeout": 2.0, "ping_interval": 1.0}
    with ExchangeThread(symbols=SYMBOLS, rate=60) as exchange:
        settings = config(exchange.url, kafka, prefix, {"exchange": quick, "kafka": {"partitions": 1}})
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready(PATIENCE)
            before = exchange.simulator.subscribes
            exchange.call(exchange.simulator.hush, "ETH_USDT", "trades", "depth")
            eventually(lambda: subscriptions(bridge, "silent") == 2, PATIENCE, "silent subscriptions")
            (cause,) = bridge.ready()[1]["degraded"]["silent"]
            assert cause["number"] == 2
            assert cause["cause"] == "no change pushed although all_ticker shows the market moving"
            eventually(lambda: exchange.simulator.subscribes >= before + 2, PATIENCE, "other requests")
            assert bridge.metric("connected") == 1
            assert bridge.metric("reconnects_total") == 0
            exchange.call(partial(exchange.simulator.hush, ""))
            eventually(lambda: subscriptions(bridge, "silent") == 0, PATIENCE, "that they speak")
            assert bridge.stop() == 0
    events = [one.json for one in read_topic(kafka.bootstrap, f"{prefix}.events.v1")]
    silent = [one for one in events if one["event"] == "subscription_silent"]
    assert {(one["channel"], one["symbol"]) for one in silent} == {
        ("trades", "ETH_USDT"),
        ("depth", "ETH_USDT"),
    }
