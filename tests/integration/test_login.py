"""An account whose login is refused in unusual words, or ends while its connection stays open."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from websockets.sync.server import ServerConnection

from tests.support.consumers import read_topic
from tests.support.kafka_broker import Broker
from tests.support.process import RunningBridge, config
from tests.support.scripted import Frame, Json, ScriptedExchange, answer, push
from tests.support.waiting import eventually

ENDED = {"error": {"code": 4, "message": "NeedAuth"}, "result": None, "id": None}


def test_a_refused_login_and_one_that_ends_are_noticed_and_the_account_logs_in_again(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """The first login is refused in its result; the second ends without the connection; the third holds."""
    logins: list[ServerConnection] = []

    def reply(request: Json, connection: ServerConnection) -> Iterable[Frame]:
        said = answer(request)
        if request["method"] == "server.auth":
            logins.append(connection)
            if len(logins) == 1:
                said["result"] = {"status": "fail", "message": "wrong sign"}
        yield said
        if request["method"] == "balance.subscribe":
            balance = {"currency": "USDT", "free": str(len(logins)), "total": "5", "used": "0"}
            yield push("balance", [balance])
            if len(logins) == 2:
                yield ENDED

    with ScriptedExchange(reply) as exchange:
        sections: dict[str, dict[str, Any]] = {
            # Only what is pushed wakes the session: no ping is due.
            "exchange": {"ping_interval": 45.0, "reconnect_max": 1.0, "refused_max": 2.0},
            "channels": {"trades": ["BTC_USDT"], "depth": [], "ticker": [], "all_ticker": False},
        }
        settings = config(exchange.url, kafka, prefix, sections, accounts=True)
        with RunningBridge(tmp_path, settings) as bridge:
            eventually(lambda: len(logins) == 3, 40, "the third login")
            eventually(lambda: bridge.metric("account_ready", account="main") == 1, 20, "the account")
            assert "wrong sign" in bridge.stderr
            assert "login ended: NeedAuth (code 4)" in bridge.stderr
            assert bridge.stop() == 0
    balances = [one.json["free"] for one in read_topic(kafka.bootstrap, f"private.{prefix}.balance.v1")]
    assert balances == ["2", "3"]
    events = [one.json for one in read_topic(kafka.bootstrap, f"private.{prefix}.events.v1")]
    gaps = [one for one in events if one["event"] == "gap" and one["channel"] == "balance"]
    assert "rejected" in [one["cause"] for one in gaps]
