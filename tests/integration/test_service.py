"""The service in the process of the test, with settings that no configuration file could have."""

import asyncio
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import uvloop
from structlog.testing import capture_logs

from bridge import service
from bridge.config import Config
from bridge.simulator.protocol import PUBLIC
from bridge.spool import health
from tests.support.checks import records_of
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker
from tests.support.process import SYMBOLS, config
from tests.support.waiting import eventually, soon

Metric = Callable[[str], float]


def serve(settings: Config, meanwhile: Callable[[Metric], None]) -> tuple[int, Sequence[Any]]:
    """Run the service until it stops by itself; return its exit status and its log.

    `meanwhile` runs in a thread, with what reads the service's metrics.
    """

    def metric(name: str) -> float:
        port = next(line["port"] for line in lines if line["event"] == "HTTP endpoints listening")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
            samples = answer.read().decode().splitlines()
        return sum(float(one.split()[-1]) for one in samples if one.startswith(f"digifinex_bridge_{name}"))

    async def scenario() -> int:
        serving = asyncio.create_task(service.run(settings))
        await asyncio.to_thread(eventually, lambda: "HTTP endpoints" in str(lines), 20, "endpoints")
        await asyncio.to_thread(meanwhile, metric)
        return await asyncio.wait_for(serving, 120)

    with capture_logs() as lines:
        return uvloop.run(scenario()), lines


def failures(lines: Sequence[Any]) -> list[Any]:
    return [line["exc_info"] for line in lines if line["event"] == "internal error, stopping"]


def waiting(lines: Sequence[Any]) -> list[tuple[str, int]]:
    """Return the log's events about records that were not delivered, with their numbers."""
    return [(line["event"], line["records"]) for line in lines if "records" in line]


def test_after_an_internal_error_of_a_connector_all_shards_deliver_and_the_status_is_1(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """A back-off without a minimum fails at the first reconnect; until then a long transaction holds all."""
    with ExchangeThread(symbols=SYMBOLS, rate=300) as exchange:
        keys = {"shards": 2, "commit_interval": 8.0}
        settings = Config.model_validate(
            config(exchange.url, kafka, prefix, {"kafka": keys, "spool": {"dir": str(tmp_path)}})
        )
        endless = settings.exchange.model_copy(update={"reconnect_min": None})

        def meanwhile(metric: Metric) -> None:
            eventually(lambda: metric("pending_records") > 300, 30, "records that wait")
            exchange.quiesce()
            total = sum(exchange.truth.counts().values())
            eventually(
                lambda: metric("pending_records") + metric("records_total") >= total, 20, "all received"
            )
            assert metric("pending_records") > 0
            exchange.call(lambda: next(iter(exchange.simulator.clients)).cut())

        status, lines = serve(settings.model_copy(update={"exchange": endless}), meanwhile)
        assert (status, failures(lines)) == (1, [True])
        assert lines[-1]["event"] == "stopped after an internal error"
        assert not waiting(lines)
        sent = exchange.truth.counts()
        for channel in PUBLIC:
            assert len(records_of(kafka, prefix, channel)) == sent[channel]


@pytest.mark.parametrize("max_bytes", [0, 1_000_000])
def test_after_an_internal_error_of_a_sink_undelivered_records_are_reported(
    kafka: Broker, prefix: str, tmp_path: Path, max_bytes: int
) -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=300) as exchange:
        spool = {"dir": str(tmp_path), "max_bytes": max_bytes}
        settings = Config.model_validate(config(exchange.url, kafka, prefix, {"spool": spool}))
        endless = settings.kafka.model_copy(update={"flush_interval": None})
        status, lines = serve(settings.model_copy(update={"kafka": endless}), lambda _: None)
    assert (status, failures(lines)) == (1, [True])
    assert lines[-1]["event"] == "stopped after an internal error"
    ((event, records),) = waiting(lines)
    assert event == (
        "records left in the spool for the next start" if max_bytes else "records lost at shutdown"
    )
    assert records > 0


def test_at_no_turn_of_the_loop_is_it_ready_before_its_sessions_are_live(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """Between the end of the takeover and the start of the connectors are a few turns of the loop."""
    with ExchangeThread(symbols=SYMBOLS) as exchange:
        keys = {"spool": {"dir": str(tmp_path)}}
        settings = Config.model_validate(config(exchange.url, kafka, prefix, keys))

        async def scenario() -> int:
            bridge = service.Bridge(settings)
            serving = asyncio.create_task(bridge.run())
            async with asyncio.timeout(100):
                while not bridge.readiness().ready:  # noqa: ASYNC110 - each turn of the loop is looked at
                    await asyncio.sleep(0)
            handshakes = exchange.simulator.handshakes
            bridge.stop.set()
            await asyncio.wait_for(serving, 120)
            return handshakes

        assert uvloop.run(scenario()) > 0


def test_a_spool_that_is_found_not_writable_later_degrades_the_replica(
    kafka: Broker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on, and so does the spool that it has open; it is ready, and says what is wrong."""
    monkeypatch.setattr(health, "EVERY", 0.05)
    folder = tmp_path / "spool"

    async def scenario(settings: Config) -> None:
        bridge = service.Bridge(settings)
        writable = bridge.metrics.gauge("spool_writable").read
        assert writable is not None
        serving = asyncio.create_task(bridge.run())
        await soon(lambda: bridge.readiness().ready, 100, "ready")
        assert (bridge.readiness().degraded, writable()) == ({}, 1)
        folder.rename(tmp_path / "away")
        folder.touch()
        await soon(lambda: not writable(), 60, "not writable")
        readiness = bridge.readiness()
        assert (readiness.ready, readiness.degraded) == (True, {"spool": f"{folder}: File exists"})
        folder.unlink()
        await soon(writable, 60, "writable again")
        assert bridge.readiness().degraded == {}
        bridge.stop.set()
        await asyncio.wait_for(serving, 120)

    with ExchangeThread(symbols=SYMBOLS) as exchange:
        keys = {"spool": {"dir": str(folder)}}
        uvloop.run(scenario(Config.model_validate(config(exchange.url, kafka, prefix, keys))))
