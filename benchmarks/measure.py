"""Runs what is measured, each as a process of its own, and reads what it cost."""

import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import orjson
import psutil
from confluent_kafka import Consumer, TopicPartition

from benchmarks.feeder import SYMBOLS
from bridge.simulator.market import symbol_names
from tests.support.consumers import create_topic
from tests.support.kafka_broker import Broker
from tests.support.process import RunningBridge, config
from tests.support.waiting import eventually

_PARTITIONS = 12
_PATIENCE = 300.0  # seconds
_WARM_UP = 0.2  # of the records, before latencies count


class Cost(NamedTuple):
    """What a run cost: CPU microseconds and frames a second, and the peak of its memory."""

    cpu_us: float
    frames_s: float
    peak_mb: float


class Latency(NamedTuple):
    """From reception to a foreign consumer, in milliseconds."""

    p50: float
    p99: float


@contextmanager
def feeder(kind: str, count: int, rate: float = 0) -> Iterator[int]:
    """Run a feeder as long as the context; gives its port."""
    command = [sys.executable, "-m", "benchmarks.feeder", kind, str(count), str(rate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def floor(kind: str, count: int) -> float:
    """Return the CPU microseconds of the floor."""
    with feeder(kind, count) as port:
        return float(_json("floor", str(port), str(count))["cpu_us"])


def peer(kafka: Broker, kind: str, count: int) -> Cost:
    """Return the cost of the plain peer."""
    prefix = _topics(kafka)
    with feeder(kind, count) as port:
        return Cost(**_json("peer", str(port), str(count), kafka.bootstrap, prefix))


def bridge(kafka: Broker, kind: str, count: int, delivery: str) -> Cost:
    """Return the cost of the bridge as users run it."""
    with feeder(kind, count) as port, _running(kafka, port, kind, delivery) as running:
        process = psutil.Process(running.process.pid)
        running.wait_ready()
        eventually(lambda: running.metric("frames_total") > count / 100, _PATIENCE, "the first frames")
        first, cpu, began = running.metric("frames_total"), _cpu(process), time.monotonic()
        eventually(lambda: running.metric("frames_total") >= count, _PATIENCE, "the last frame")
        eventually(lambda: running.metric("pending_records") == 0, _PATIENCE, "the last record")
        frames = running.metric("frames_total") - first
        cost = (_cpu(process) - cpu) / frames * 1e6, frames / (time.monotonic() - began)
        peak = _peak_mb(process.pid)
        assert running.metric("deadletters_total") == 0
        assert running.stop() == 0
    return Cost(*cost, peak)


def bridge_latency(kafka: Broker, count: int, rate: float, delivery: str) -> Latency:
    """Return the latency of the bridge's records at so many frames a second."""
    with feeder("mix", count, rate) as port, _running(kafka, port, "mix", delivery) as running:
        prefix = running.prefix
        running.wait_ready()
        latency = _latency(kafka, prefix, count)
        assert running.stop() == 0
    return latency


def peer_latency(kafka: Broker, count: int, rate: float) -> Latency:
    """Return the latency of the plain peer's records at so many frames a second."""
    prefix = _topics(kafka)
    with feeder("mix", count, rate) as port:
        command = [sys.executable, "-m", "benchmarks.peer", str(port), str(count), kafka.bootstrap, prefix]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                return _latency(kafka, prefix, count)
            finally:
                process.kill()


class _Running(RunningBridge):
    prefix: str

    def metrics(self) -> str:
        """Return what /metrics says, asking again while a flood of frames keeps the bridge from answering."""
        for _ in range(20):
            try:
                return super().metrics()
            except (HTTPException, OSError):
                continue
        return super().metrics()


@contextmanager
def _running(kafka: Broker, port: int, kind: str, delivery: str) -> Iterator[_Running]:
    prefix = f"b{uuid.uuid4().hex[:8]}"
    symbols = symbol_names(SYMBOLS) if kind == "mix" else []
    sections: dict[str, dict[str, object]] = {
        "exchange": {"subscriptions_per_session": 3 * SYMBOLS},
        "channels": {"trades": symbols, "depth": symbols, "ticker": symbols, "all_ticker": kind != "mix"},
        "kafka": {"delivery": delivery},
        "log": {"format": "json", "level": "info"},
    }
    with tempfile.TemporaryDirectory() as folder:
        settings = config(f"ws://127.0.0.1:{port}/", kafka, prefix, sections)
        running = _Running(Path(folder), settings)
        running.prefix = prefix
        with running:
            yield running


def _latency(kafka: Broker, prefix: str, count: int) -> Latency:
    """Read along until no more comes, and compare `received_us` with the clock."""
    topics = [f"{prefix}.{channel}.v1" for channel in ("trades", "depth", "ticker")]
    consumer = Consumer(
        {
            "bootstrap.servers": kafka.bootstrap,
            "group.id": prefix,
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "fetch.wait.max.ms": 5,
        }
    )
    latencies: list[float] = []
    try:
        consumer.assign([TopicPartition(topic, n, 0) for topic in topics for n in range(_PARTITIONS)])
        while len(latencies) < count:
            message = consumer.poll(15.0)
            if message is None:
                break
            value = message.value()
            if message.error() is None and value is not None:
                latencies.append(time.time() * 1e3 - orjson.loads(value)["received_us"] / 1e3)
    finally:
        consumer.close()
    steady = sorted(latencies[int(len(latencies) * _WARM_UP) :])
    return Latency(steady[len(steady) // 2], steady[int(len(steady) * 0.99)])


def _topics(kafka: Broker) -> str:
    prefix = f"p{uuid.uuid4().hex[:8]}"
    for channel in ("trades", "depth", "ticker", "all_ticker"):
        create_topic(kafka.bootstrap, f"{prefix}.{channel}.v1", _PARTITIONS)
    return prefix


def _json(module: str, *arguments: str) -> dict[str, float]:
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    done = subprocess.run(command, check=True, capture_output=True)
    return dict(orjson.loads(done.stdout))


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024
