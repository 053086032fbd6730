"""Measures failures: how long a takeover takes, how fast the spool is, what kills and a long run lose."""

import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import psutil

from benchmarks import supply
from benchmarks.measure import PREFIX, Feeder, forget_trades
from bridge.simulator.faults import Faults
from bridge.simulator.market import symbol_names
from tests.support.checks import gaps_of, trade_ids
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker
from tests.support.process import RunningBridge, config

_SYMBOLS = symbol_names(50)

# Seconds between two cuts of all connections in a soak. A session that does not live for a minute would count
# as ending soon, and the pauses before the next ones would be measured.
_CUT_EVERY = 90.0
_LOOK = 0.01  # seconds between two polls
_PATIENCE = 300.0  # seconds
_MB = 1024 * 1024


class Takeover(NamedTuple):
    """Seconds from the end of one of two replicas until the other has all subscriptions confirmed."""

    stopped: list[float]
    killed: list[float]


class Spooling(NamedTuple):
    """Frames a second to disk while Kafka hangs, frames a second to Kafka afterwards, and peak memory."""

    taken_s: float
    drained_s: float
    peak_mb: float


class Soak(NamedTuple):
    """Resident megabytes in each minute; trades made, missing and repeated; reconnects."""

    minutes_mb: list[float]
    trades: int
    missing: int
    twice: int
    reconnects: int


class Kills(NamedTuple):
    """Number of SIGKILLs; trades made, repeated, and missing outside of reported gaps."""

    number: int
    trades: int
    twice: int
    unreported: int


def takeover(kafka: Broker, turns: int) -> Takeover:
    """Stop and kill replicas, with the default session timeout."""
    ends: dict[str, list[float]] = {"stop": [], "kill": []}
    with ExchangeThread(symbols=_SYMBOLS, rate=500) as exchange, tempfile.TemporaryDirectory() as folder:
        sections: dict[str, dict[str, Any]] = {
            "kafka": {"shards": 4},
            "channels": {"trades": _SYMBOLS, "depth": _SYMBOLS},
        }
        with _bridge(folder, exchange, kafka, "takeover", sections) as survivor:
            survivor.wait_ready()
            for _ in range(turns):
                for end, seconds in ends.items():
                    with _bridge(folder, exchange, kafka, "takeover", sections) as other:
                        _until(lambda: _owned(survivor) == _owned(other) == 2, "two shards each")
                        other.wait_ready()
                        began = time.monotonic()
                        if end == "stop":
                            other.process.terminate()
                        else:
                            other.process.kill()
                        _until(lambda: _owned(survivor) == 4, "all shards")
                        survivor.wait_ready()
                        seconds.append(time.monotonic() - began)
    return Takeover(ends["stop"], ends["kill"])


def spooling(kafka: Broker, feeder: Feeder, count: int) -> Spooling:
    """Send frames at full speed while Kafka hangs, then resume it."""
    forget_trades(kafka)
    sections: dict[str, Any] = {
        "exchange": {"subscriptions_per_session": 3 * len(supply.SYMBOLS)},
        "channels": dict.fromkeys(("trades", "depth", "ticker"), supply.SYMBOLS),
        "kafka": {"max_pending_bytes": 1_000_000},
    }
    sections["channels"]["all_ticker"] = False
    settings = config(feeder.url(supply.MIX, count), kafka, PREFIX, sections)
    with tempfile.TemporaryDirectory() as folder, RunningBridge(Path(folder), settings) as bridge:
        feeder.wait(0)
        kafka.suspend()
        try:
            began = time.monotonic()
            feeder.wait(10)
            _until(lambda: bridge.metric("frames_total") >= count, "all frames")
            taken = time.monotonic() - began
        finally:
            kafka.resume()
        resumed = time.monotonic()
        _until(
            lambda: not bridge.metric("spool_records") + bridge.metric("pending_records"),
            "all records are on Kafka",
        )
        drained = time.monotonic() - resumed
        peak = _status(bridge.process.pid, "VmHWM")
        assert bridge.stop() == 0, bridge.stderr
    return Spooling(count / taken, count / drained, peak)


def soak(kafka: Broker, minutes: int, rate: int) -> Soak:
    """Run for minutes with cuts of all connections, and compare the trades on Kafka with those made."""
    samples: list[list[float]] = [[] for _ in range(minutes)]
    with (
        ExchangeThread(symbols=_SYMBOLS, rate=rate, faults=Faults(drop=_CUT_EVERY)) as exchange,
        tempfile.TemporaryDirectory() as folder,
        _bridge(folder, exchange, kafka, "soak", {}) as bridge,
    ):
        bridge.wait_ready()
        began = time.monotonic()
        while (minute := int((time.monotonic() - began) // 60)) < minutes:
            samples[minute].append(psutil.Process(bridge.process.pid).memory_info().rss / _MB)
            time.sleep(1.0)
        exchange.quiesce()
        reconnects = int(bridge.metric("reconnects_total"))
        assert bridge.stop() == 0, bridge.stderr
        made = {symbol: [one["id"] for one in trades] for symbol, trades in exchange.truth.made.items()}
    found = trade_ids(kafka, "soak")
    twice = sum(len(ids) - len(set(ids)) for ids in found.values())
    missing = sum(
        len({one for one in ids if one >= found[symbol][0]} - set(found[symbol]))
        for symbol, ids in made.items()
    )
    return Soak([median(one) for one in samples], sum(map(len, made.values())), missing, twice, reconnects)


def kills(kafka: Broker, number: int, rate: int) -> Kills:
    """Kill the bridge at random times, and compare the trades on Kafka with those that were made."""
    sections: dict[str, dict[str, Any]] = {"kafka": {"session_timeout": 2.0}}
    with ExchangeThread(symbols=_SYMBOLS, rate=rate) as exchange, tempfile.TemporaryDirectory() as folder:
        for _ in range(number):
            with _bridge(folder, exchange, kafka, "kills", sections) as bridge:
                bridge.wait_ready(60)
                time.sleep(random.uniform(0.0, 2.0))
                bridge.process.kill()
        with _bridge(folder, exchange, kafka, "kills", sections) as bridge:
            bridge.wait_ready(60)
            exchange.quiesce()
            assert bridge.stop() == 0, bridge.stderr
        made = {symbol: [one["id"] for one in trades] for symbol, trades in exchange.truth.made.items()}
    found, gaps = trade_ids(kafka, "kills"), gaps_of(kafka, "kills", "trades")
    still_open = [gap for gap in gaps if not gap["closed_by"]]
    unreported = sum(
        not any(gap["symbol"] == symbol and gap["after_id"] < one < gap["before_id"] for gap in still_open)
        for symbol, ids in made.items()
        for one in set(ids) - set(found[symbol])
        if one > found[symbol][0]
    )
    twice = sum(len(ids) - len(set(ids)) for ids in found.values())
    return Kills(number, sum(map(len, made.values())), twice, unreported)


@contextmanager
def _bridge(
    folder: str,
    exchange: ExchangeThread,
    kafka: Broker,
    prefix: str,
    sections: Mapping[str, Mapping[str, Any]],
) -> Iterator[RunningBridge]:
    """Run a replica in its own folder."""
    channels = dict.fromkeys(("trades", "depth", "ticker"), _SYMBOLS)
    settings = config(exchange.url, kafka, prefix, {"channels": channels, **sections})
    own = Path(folder) / os.urandom(4).hex()
    own.mkdir()
    with ExitStack() as stack:
        yield stack.enter_context(RunningBridge(own, settings))


def _owned(bridge: RunningBridge) -> int:
    lines = bridge.metrics().splitlines()
    return sum(line.startswith("digifinex_bridge_shard_owned{") and line.endswith(" 1.0") for line in lines)


def _status(pid: int, key: str) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{key}:"))


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not within {_PATIENCE:g} s: {what}"
        time.sleep(_LOOK)
