"""What others write to bridge-state: it is forgotten, ignored or reported, and never stops a start."""

import asyncio
import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from tests.support.checks import assert_no_hole, gaps_of, records_of, trade_ids
from tests.support.consumers import create_topic, read_topic
from tests.support.delivery import Delivery, kafka_config
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker
from tests.support.process import ACCOUNTS, ROOT, SYMBOLS, RunningBridge, config
from tests.support.waiting import eventually

GARBAGE: Mapping[bytes | None, bytes] = {
    b"trades/BTC_USDT": b"garbage",
    b"trades/ETH_USDT": b'{"ids":[],"times":[]}',
    b"account/main": b"\xff",
    b"account/other": b"[]",
    b"owner": b"{}",
    b"spool": b"null",
    b"second/x": b"1",
    b"\xff\xfe": b"\x00",
    b"BTC_USDT": b'{"schema":"digifinex.trades.v1"}',
    b"": b"",
    None: b"no key",
}


def write(kafka: Broker, prefix: str, values: Mapping[bytes | None, bytes | None]) -> None:
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    for key, value in values.items():
        producer.produce(f"{prefix}.bridge-state", value, key, 0)
    assert producer.flush(60) == 0


def events(kafka: Broker, prefix: str, kind: str) -> list[dict[str, Any]]:
    return [one.json for one in records_of(kafka, prefix, "events") if one.json["event"] == kind]


def settings_of(exchange: ExchangeThread, kafka: Broker, prefix: str) -> dict[str, Any]:
    settings = config(exchange.url, kafka, prefix, accounts=True)
    settings["channels"] = {"trades": SYMBOLS}
    return settings


def test_whatever_is_in_bridge_state_a_start_succeeds(kafka: Broker, prefix: str, tmp_path: Path) -> None:
    """Not compacted only, as topics are that others have created: records need no key there."""
    create_topic(kafka.bootstrap, f"{prefix}.bridge-state", 1)
    write(kafka, prefix, GARBAGE)
    with (
        ExchangeThread(symbols=SYMBOLS, rate=60, accounts=ACCOUNTS) as exchange,
        RunningBridge(tmp_path, settings_of(exchange, kafka, prefix)) as bridge,
    ):
        bridge.wait_ready()
        eventually(lambda: bridge.metric("records_total", channel="trades") > 30, 30, "trades")
        assert bridge.metric("events_total", event="state_unreadable") == len(GARBAGE)
        assert bridge.metric("gaps_total", channel="trades", cause="state_unreadable") == 2
        exchange.quiesce()
        assert bridge.stop() == 0
    reported = {one["detail"].partition(": ")[0]: one for one in events(kafka, prefix, "state_unreadable")}
    assert reported.keys() == {
        "trades/BTC_USDT",
        "trades/ETH_USDT",
        "account/main",
        "account/…",  # a name that is not configured is shown to nobody
        "owner",
        "spool",
        "second/x",
        r"\xff\xfe",
        "BTC_USDT",
        "no key",
    }
    assert reported["trades/BTC_USDT"]["symbol"] == "BTC_USDT"
    assert reported["account/main"]["account"] == "main"
    public = {one.json.get("detail") for one in read_topic(kafka.bootstrap, f"{prefix}.events.v1")}
    assert not any("main" in str(detail) for detail in public)
    gaps = [gap for gap in gaps_of(kafka, prefix, "trades") if gap["cause"] == "state_unreadable"]
    assert sorted(gap["symbol"] for gap in gaps) == ["BTC_USDT", "ETH_USDT"]
    assert {gap["cause"] for gap in gaps_of(kafka, prefix, "order")} == {"first_listened"}
    assert_no_hole(records_of(kafka, prefix, "trades"))


def test_a_running_bridge_is_not_disturbed_and_its_state_stays_right(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=60, accounts=ACCOUNTS) as exchange:
        settings = settings_of(exchange, kafka, prefix)
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            eventually(lambda: bridge.metric("records_total", channel="trades") > 30, 30, "trades")
            exchange.quiesce()  # so that no trade replaces what is written
            eventually(lambda: bridge.metric("pending_records") == 0, 30, "all of it on Kafka")
            write(kafka, prefix, {b"trades/BTC_USDT": b"garbage", b"owner": b"garbage", b"x": b"garbage"})
            eventually(lambda: "state unreadable" in bridge.stderr, 30, "it is reported")
            assert bridge.stop() == 0
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            assert bridge.stop() == 0
    for ids in trade_ids(kafka, prefix).values():
        assert len(ids) == len(set(ids))
    assert [gap for gap in gaps_of(kafka, prefix, "trades") if gap["closed_by"] is None] == []
    reported = [event["detail"].partition(": ")[0] for event in events(kafka, prefix, "state_unreadable")]
    # The owner is saved again before that is read; what is of no use to the bridge stays where it is.
    assert sorted(reported) == ["trades/BTC_USDT", "x", "x"]


def test_the_documented_command_forgets_a_symbol(kafka: Broker, prefix: str) -> None:
    async def watermarks(replica: str) -> set[bytes]:
        one = await Delivery(kafka_config(kafka, prefix, shards=2), replica).prepare()
        await one.state.catch_up()
        return set(one.state.watermarks)

    create_topic(kafka.bootstrap, f"{prefix}.bridge-state", 2, cleanup_policy="compact")
    watermark = b'{"ids":[1],"times":[1600000000000000]}'
    write(kafka, prefix, {b"trades/BTC_USDT": watermark, b"trades/ETH_USDT": watermark})
    assert asyncio.run(watermarks("before")) == {b"BTC_USDT", b"ETH_USDT"}
    (command,) = re.findall(r"```sh\n(for N .*?)```", (ROOT / "docs/runbook.md").read_text(), re.DOTALL)
    environment = {"SHARDS": "2", "KAFKA": kafka.bootstrap, "PREFIX": prefix}
    subprocess.run(["bash", "-e", "-c", command], env={**os.environ, **environment}, check=True, timeout=120)
    assert asyncio.run(watermarks("after")) == {b"ETH_USDT"}
