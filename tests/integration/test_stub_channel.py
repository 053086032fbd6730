"""A module, a schema and golden samples are enough for a channel, as one that only the tests have shows."""

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from tests.stub_channel.exchange import SYMBOL, stub_exchange
from tests.support.checks import assert_no_hole
from tests.support.consumers import read_topic
from tests.support.kafka_broker import Broker
from tests.support.process import Command, RunningBridge, config, toml
from tests.support.waiting import eventually

STUB = Path(__file__).parents[1] / "stub_channel"
MODULE = STUB.name


def sample(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((STUB / "golden" / "stub" / f"{name}.json").read_text())
    return loaded


def settings(url: str, kafka: Broker, prefix: str, **channels: Any) -> dict[str, Any]:
    off = {"trades": [], "depth": [], "ticker": [], "all_ticker": False}
    exchange = {"max_session_age": 1.0}
    return config(url, kafka, prefix, {"channels": {**off, **channels}, "exchange": exchange})


def test_a_stub_channel_goes_from_the_exchange_to_kafka(kafka: Broker, prefix: str, tmp_path: Path) -> None:
    good, bad = sample("document_example"), sample("bad_close_is_text")
    with stub_exchange() as (url, exchange):
        toml_key = settings(url, kafka, prefix, stub=[SYMBOL.lower()])
        with RunningBridge(tmp_path, toml_key, module=f"tests.{MODULE}") as bridge:
            bridge.wait_ready()
            eventually(lambda: bridge.metric("reconnects_total", reason="rotated") >= 2, 60, "two rotations")
            exchange.quiesce()
            exchange.push(good["frame"])
            candles = exchange.pushed - (exchange.first or 0) + 1
            eventually(
                lambda: bridge.metric("records_total", channel="stub") == candles + 1,
                20,
                f"{candles} candles",
            )
            exchange.push(bad["frame"])
            eventually(lambda: bridge.metric("deadletters_total", reason="payload") == 1, 20, "a dead letter")
            assert bridge.metric("exchange_lag_seconds_count", channel="stub") >= candles
            assert bridge.metric("gaps_total", channel="stub") == 0
            assert bridge.stop() == 0
    records = read_topic(kafka.bootstrap, f"{prefix}.stub.v1")
    validator = Draft7Validator(json.loads((STUB / "schemas" / "stub" / "v1.json").read_text()))
    for record in records:
        validator.validate(record.json)
        assert record.key == SYMBOL.encode()
    assert_no_hole(records)
    *counted, last = [record.json for record in records]
    assert [int(one["close"]) for one in counted] == [*range(exchange.first or 0, exchange.pushed + 1)]
    (expected,) = good["records"]
    assert last == expected | {key: last[key] for key in ("session", "seq", "received_us")}
    (letter,) = read_topic(kafka.bootstrap, f"{prefix}.deadletter.v1")
    assert letter.json["detail"] == bad["deadletter"]["detail"]
    assert letter.key == b"stub"


@pytest.mark.parametrize("markets", [SYMBOL, "*"])
def test_check_tries_a_stub_channel(kafka: Broker, prefix: str, tmp_path: Path, markets: str) -> None:
    with stub_exchange() as (url, _):
        (tmp_path / "bridge.toml").write_text(toml(settings(url, kafka, prefix)))
        environment = {"BRIDGE_CHANNELS__STUB": markets}
        arguments = ["check", "--config", "bridge.toml"]
        with Command(tmp_path, arguments, environment, f"tests.{MODULE}") as checked:
            assert checked.process.wait(60) == 0, checked.stdout
    if markets == "*":
        assert "session with 1 subscription: all_ticker\n" in checked.stdout
    else:
        assert f"session with 1 subscription: stub {SYMBOL}\n" in checked.stdout
    assert f"{prefix}.stub.v1" in checked.stdout
    assert f"confirmed: all_ticker, stub {SYMBOL}\n" in checked.stdout


def test_without_a_subscription_the_stub_channel_is_among_those_to_choose_from(tmp_path: Path) -> None:
    (tmp_path / "bridge.toml").write_text("[channels]\nstub = []\n")
    with Command(tmp_path, ["check", "--config", "bridge.toml"], None, f"tests.{MODULE}") as checked:
        assert checked.process.wait(30) == 2
    assert " or stub, or an account" in checked.stderr


def test_without_the_stub_in_the_table_its_key_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "bridge.toml").write_text(f'[channels]\nstub = ["{SYMBOL}"]\n')
    with Command(tmp_path, ["check", "--config", "bridge.toml"]) as checked:
        assert checked.process.wait(30) == 2
    assert "channels.stub: unknown key" in checked.stderr
