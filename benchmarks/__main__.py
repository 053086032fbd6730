"""Measures everything in one run on one real Kafka, and writes docs/performance.md.

The machine may be shared and noisy: what is compared is measured in turns, and ratios are taken turn by turn.
"""

import argparse
import datetime as dt
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.markdown import Markdown

from benchmarks import measure
from tests.support.kafka_broker import Broker

REPORT = Path(__file__).parents[1] / "docs" / "performance.md"
RATE = 2000.0  # frames a second, for latencies
KINDS = {"mix": "the mix", "all_ticker": "all_ticker, 700 markets"}
DELIVERIES = ("exactly-once", "at-least-once")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each comparison")
    parser.add_argument("--frames", type=int, default=200_000, help="frames of the mix in a turn")
    parser.add_argument("--growth-frames", type=int, default=1_000_000, help="frames of the long run")
    options = parser.parse_args()
    with Broker(heap_mib=512) as kafka:
        text = _report(kafka, options.rounds, options.frames, options.growth_frames)
    REPORT.write_text(text)
    Console().print(Markdown(text))


def _report(kafka: Broker, rounds: int, frames: int, growth_frames: int) -> str:
    lines = _head()
    for kind, words in KINDS.items():
        lines += _costs(kafka, kind, words, rounds, frames if kind == "mix" else max(frames // 700, 50))
    lines += _latencies(kafka, rounds)
    lines += _growth(kafka, frames, growth_frames)
    return "\n".join(lines) + "\n"


def _head() -> list[str]:
    versions = ", ".join(
        f"{name} {importlib.metadata.version(name)}"
        for name in ("aiokafka", "websockets", "orjson", "msgspec", "uvloop")
    )
    return [
        "# Performance",
        "",
        f"Measured by `make bench` on {dt.datetime.now(tz=dt.UTC).date()}: {os.cpu_count()} cores "
        f"({_cpu_model()}), Python {platform.python_version()}, {versions}, Apache Kafka on one node of the "
        "same machine. Feeder, bridge, peer and broker share its cores, so absolute figures are high; the "
        "ratios are taken between neighbours in time.",
        "",
        "The floor is `zlib.decompress` and `orjson.loads` of each frame, in a process that gets them from "
        "the same feeder. The plain peer is websockets, zlib, orjson and `aiokafka.send` with "
        "`linger_ms=10`, unvalidated. The bridge is the real command with its defaults.",
        "",
    ]


def _costs(kafka: Broker, kind: str, words: str, rounds: int, count: int) -> list[str]:
    floors: list[float] = []
    costs: dict[str, list[measure.Cost]] = {name: [] for name in ("plain peer", *DELIVERIES)}
    for _ in range(rounds):
        floors.append(measure.floor(kind, count))
        costs["plain peer"].append(measure.peer(kafka, kind, count))
        for delivery in DELIVERIES:
            costs[delivery].append(measure.bridge(kafka, kind, count, delivery))
    lines = [
        f"## Work a frame: {words}",
        "",
        f"{rounds} turns of {count:,} frames; medians, and the range of the ratios.",
        "",
        "| | CPU µs a frame | × floor | × peer | frames a second | peak memory MB |",
        "|---|---:|---:|---:|---:|---:|",
        f"| floor | {median(floors):.1f} | 1 | | | |",
    ]
    peers = [cost.cpu_us for cost in costs["plain peer"]]
    for name, turns in costs.items():
        label = name if name == "plain peer" else f"bridge, {name}"
        cpu = [cost.cpu_us for cost in turns]
        lines.append(
            f"| {label} | {median(cpu):.1f} | {_ratio(cpu, floors)} | {_ratio(cpu, peers)} | "
            f"{median(cost.frames_s for cost in turns):,.0f} | {max(cost.peak_mb for cost in turns):.0f} |"
        )
    return [*lines, ""]


def _latencies(kafka: Broker, rounds: int) -> list[str]:
    count = int(RATE * 8)
    turns: dict[str, list[measure.Latency]] = {name: [] for name in ("plain peer", *DELIVERIES)}
    for _ in range(rounds):
        turns["plain peer"].append(measure.peer_latency(kafka, count, RATE))
        for delivery in DELIVERIES:
            turns[delivery].append(measure.bridge_latency(kafka, count, RATE, delivery))
    lines = [
        f"## Delivery latency at {RATE:,.0f} frames a second",
        "",
        "From reception to a foreign read_committed consumer; milliseconds, medians of the turns.",
        "",
        "| | p50 | p99 |",
        "|---|---:|---:|",
    ]
    for name, latencies in turns.items():
        label = name if name == "plain peer" else f"bridge, {name}"
        p50, p99 = median(one.p50 for one in latencies), median(one.p99 for one in latencies)
        lines.append(f"| {label} | {p50:.0f} | {p99:.0f} |")
    return [*lines, ""]


def _growth(kafka: Broker, frames: int, growth_frames: int) -> list[str]:
    short = measure.bridge(kafka, "mix", frames, "exactly-once").peak_mb
    long = measure.bridge(kafka, "mix", growth_frames, "exactly-once").peak_mb
    return [
        "## Growth of memory",
        "",
        f"Peak after {frames:,} frames: {short:.0f} MB; after {growth_frames:,}: {long:.0f} MB.",
    ]


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> str:
    ratios = sorted(one / other for one, other in zip(ours, theirs, strict=True))
    return f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    main()
