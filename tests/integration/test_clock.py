"""An exchange whose clock is years off gets no signature."""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from websockets.sync.server import ServerConnection

from tests.support.kafka_broker import Broker
from tests.support.process import RunningBridge, config
from tests.support.scripted import Frame, Json, ScriptedExchange, answer
from tests.support.waiting import eventually

TEN_YEARS = 315_360_000  # seconds


def test_an_account_is_degraded_while_the_exchanges_clock_is_wrong_and_nothing_is_signed(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    right = threading.Event()

    def reply(request: Json, _: ServerConnection) -> Iterable[Frame]:
        said = answer(request)
        if request["method"] == "server.time" and not right.is_set():
            said["result"] += TEN_YEARS
        yield said

    with ScriptedExchange(reply) as exchange:
        sections: dict[str, dict[str, Any]] = {
            "exchange": {"reconnect_max": 1.0, "refused_max": 2.0},
            "channels": {"trades": ["BTC_USDT"], "depth": [], "ticker": [], "all_ticker": False},
        }
        settings = config(exchange.url, kafka, prefix, sections, accounts=True)
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            eventually(lambda: "accounts" in bridge.ready()[1].get("degraded", {}), 20, "degraded")
            eventually(lambda: "nothing signed" in bridge.stderr, 20, "the reason in the log")
            assert "nothing signed" in str(bridge.status())
            assert bridge.metric("account_ready", account="main") == 0
            assert "server.auth" not in exchange.methods()
            right.set()
            eventually(lambda: bridge.metric("account_ready", account="main") == 1, 30, "the account")
            assert "server.auth" in exchange.methods()
            assert bridge.stop() == 0
