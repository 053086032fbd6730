"""Formats the figures as docs/performance.md. Pure, except that it reads about the machine."""

import datetime as dt
import importlib.metadata
import os
import platform
import sysconfig
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks import supply
from benchmarks.books import LEVELS
from benchmarks.forms import Result
from benchmarks.measure import (
    AT_LEAST_ONCE,
    EXACTLY_ONCE,
    GROWTH_RATE,
    PEER,
    RATES,
    STATELESS,
    WITH_BOOKS,
    Cost,
    Floor,
    Growth,
    Latency,
)
from benchmarks.trouble import Kills, Soak, Spooling, Takeover
from bridge.config import KafkaConfig
from tests.support.kafka_broker import JARS

_LIBRARIES = ("websockets", "uvloop", "orjson", "msgspec", "aiokafka", "cramjam", "confluent-kafka")
_COMMIT_MS = KafkaConfig().commit_interval * 1000

_PEAK_MB = 150
_STATE = 1.15  # times the CPU time without state
_BOOKS = 1.35  # times the CPU time without books
_BOOKS_MB = 60
_SPOOL_RATE = 20_000  # frames a second
_GROWTH = 0.05  # of memory, from the second tenth of the frames to the last; less is noise


class Limit(NamedTuple):
    """The maximum cost of exactly-once, as multiples of the floor and of the plain peer."""

    floors: float
    peers: float


_LIMITS = {supply.MIX: Limit(4, 0.6), supply.ALL_TICKER: Limit(4, 0.4)}
_TITLES = {
    supply.MIX: "the mix: 60 % depth, 25 % trades (two a push), 15 % ticker, 50 symbols",
    supply.ALL_TICKER: f"all_ticker, {supply.MARKETS} markets in each frame",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The turns with one kind of frames: of the floor, and of each candidate."""

    kind: str
    frames: int
    floors: Sequence[Floor]
    costs: Mapping[str, Sequence[Cost]]

    def cpu(self, subject: str) -> list[float]:
        """Return a candidate's CPU microseconds per frame, turn by turn."""
        return [cost.cpu_us for cost in self.costs[subject]]

    def per_floor(self, subject: str) -> list[float]:
        """Return a candidate's cost as a multiple of the floor of the same turn."""
        floors = [floor.busy_us for floor in self.floors]
        return _divided(self.cpu(subject), floors)

    def per_peer(self, subject: str) -> list[float]:
        """Return a candidate's cost as a multiple of the plain peer of the same turn."""
        return _divided(self.cpu(subject), self.cpu(PEER))

    def with_state(self) -> list[float]:
        """Return the bridge's cost as a multiple of its cost without state in the same turn."""
        return _divided(self.cpu(EXACTLY_ONCE), self.cpu(STATELESS))

    def with_books(self) -> list[float]:
        """Return the bridge's cost with books as a multiple of its cost without, in the same turn."""
        return _divided(self.cpu(WITH_BOOKS), self.cpu(EXACTLY_ONCE))


@dataclass(frozen=True, slots=True)
class Measured:
    """All figures of one run, except those of failures."""

    forms: Sequence[Result]
    comparisons: Sequence[Comparison]
    rate: float
    latencies: Mapping[str, Sequence[Latency]]
    growth_frames: int
    growth: Growth
    books_mb: float  # the memory of the books of all markets


@dataclass(frozen=True, slots=True)
class Troubles:
    """The figures of failures; `soak_rate` is in frames a second."""

    takeover: Takeover
    spooling: Spooling
    kills: Kills
    soak_rate: int
    soak: Soak


def markdown(measured: Measured, troubles: Troubles) -> str:
    """Return the whole document."""
    sections = [_head(), _verdict(measured)]
    sections += [_comparison(one) for one in measured.comparisons]
    sections.append(_forms(measured.forms))
    sections += [_latency(measured), _growth(measured), _trouble(troubles)]
    return "\n\n".join(sections) + "\n"


def _head() -> str:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _LIBRARIES)
    return f"""\
# Performance

Written by `make bench` on {dt.datetime.now(tz=dt.UTC).date()}; do not edit.

**Machine:** {os.cpu_count()} cores ({_cpu_model()}), {platform.system()}, \
{platform.python_implementation()} {platform.python_version()} ({_build()}), Apache Kafka \
{_kafka_version()} with one broker; {versions}.

**How:** the feeder, the broker and each candidate are separate processes on this one machine and share its
cores. The feeder prepares the frames in advance. CPU time is the total user and kernel time of the process,
from the first frame until Kafka has acknowledged the last record. No run used the spool. The floor, the peer
and the bridge take turns, and each ratio compares two of the same turn. Figures are medians of the turns,
with the range in brackets; they are valid for this machine under its load at the time.

- **floor**: only `zlib.decompress` and `orjson.loads` of each frame, in a process that reads the frames from
  the same feeder; measured again on the idle machine.
- **plain peer**: websockets, zlib, orjson and `aiokafka.send` on uvloop, idempotent, zstd, `linger_ms=10`,
  `max_batch_size=131072`; it makes the same records without validation.
- **bridge**: `digifinex-bridge run` with its defaults, all subscriptions on one connection. The variant
  without state keeps no watermarks and writes nothing to `bridge-state`; it only shows what state costs. The
  one with books has all 50 markets in `channels.book`. The memory of books is that of the room that keeps
  them, in a process of its own, with a record made of each."""


def _verdict(measured: Measured) -> str:
    rows = []
    for one in measured.comparisons:
        limit, name = _LIMITS[one.kind], one.kind
        rows += [
            _row(f"CPU per frame, {name}, × floor", limit.floors, one.per_floor(EXACTLY_ONCE)),
            _row(f"CPU per frame, {name}, × plain peer", limit.peers, one.per_peer(EXACTLY_ONCE)),
        ]
        if STATELESS in one.costs:
            rows.append(_row(f"CPU per frame, {name}, × without state", _STATE, one.with_state()))
        if WITH_BOOKS in one.costs:
            rows.append(books_row(one))
    turns = measured.latencies
    p99 = {subject: [latency.p99_ms for latency in turns[subject]] for subject in turns}
    most = {AT_LEAST_ONCE: 0.0, EXACTLY_ONCE: _COMMIT_MS}
    for subject, more in most.items():
        beyond = [ours - peers - more for ours, peers in zip(p99[subject], p99[PEER], strict=True)]
        allowed = f"the peer's{f' + {more:g} ms' if more else ''}"
        reached = f"{median(p99[subject]):.0f} ms, {_beyond(median(beyond))}"
        rows.append(
            f"| p99 delivery latency, {_short(subject)} | {allowed} | {reached} | {_tick(beyond, 0)} |"
        )
    peaks = [cost.peak_mb for one in measured.comparisons for cost in one.costs[EXACTLY_ONCE]]
    peaks.append(measured.growth.peak_mb)
    rows.append(f"| peak memory | {_PEAK_MB} MB | {max(peaks):.0f} MB | {_tick([max(peaks)], _PEAK_MB)} |")
    rows.append(memory_row(measured.books_mb))
    _, begin, *_, end = measured.growth.tenths_mb
    growth, what = end / begin - 1, f"growth over {measured.growth_frames:,} frames"
    rows.append(f"| {what} | {_GROWTH:.0%} | {growth:+.1%} | {_tick([growth], _GROWTH)} |")
    return _table(
        "Requirements and results",
        "The bridge with exactly-once delivery, unless stated otherwise.",
        ("", "maximum", "result", ""),
        rows,
    )


def books_row(one: Comparison) -> str:
    """Return the line of what books cost a frame."""
    return _row(f"CPU per frame, {one.kind}, with books, × without", _BOOKS, one.with_books())


def memory_row(books_mb: float) -> str:
    """Return the line of what books take in memory."""
    what = f"memory of {supply.MARKETS} books of {2 * LEVELS} levels"
    return f"| {what} | {_BOOKS_MB} MB | {books_mb:.0f} MB | {_tick([books_mb], _BOOKS_MB)} |"


def _comparison(one: Comparison) -> str:
    title = _TITLES[one.kind]
    busy, idle = ([floor[n] for floor in one.floors] for n in (0, 1))
    rows = [
        f"| floor, idle machine | {_figure(idle)} | | | | |",
        f"| floor | {_figure(busy)} | 1 | | | |",
    ]
    for subject, costs in one.costs.items():
        rows.append(
            f"| {subject} | {_figure(one.cpu(subject))} | {_figure(one.per_floor(subject), 2)} "
            f"| {_figure(one.per_peer(subject), 2) if subject != PEER else '1'} "
            f"| {_figure([cost.frames_s for cost in costs], 0)} | {max(cost.peak_mb for cost in costs):.0f} |"
        )
    return _table(
        f"Cost per frame on {title}",
        f"{_turns(len(one.floors))} of {one.frames:,} frames each, {_pace(RATES[one.kind])}.",
        ("", "CPU µs per frame", "× floor", "× plain peer", "frames a second", "peak MB"),
        rows,
    )


def _forms(results: Sequence[Result]) -> str:
    rows = []
    for (channel, name, limit, _), micros, ratio in results:
        verdict = "| | |" if limit is None else f"| {limit} | {_tick([ratio], limit)} |"
        rows.append(f"| {channel} | {name} | {micros:,.1f} | {ratio:.2f} {verdict}")
    return _table(
        "Forms of a push",
        "The same content spelt in other ways: CPU time of decoding and normalising a push, without\n"
        "inflating it, and relative to the usual form, that of the API document without blanks.",
        ("channel", "form", "µs", "× usual", "maximum", ""),
        rows,
    )


def _latency(measured: Measured) -> str:
    rows = [
        f"| {subject} | {_figure([one.p50_ms for one in turns])} | {_figure([one.p99_ms for one in turns])} |"
        for subject, turns in measured.latencies.items()
    ]
    return _table(
        f"Delivery latency at {measured.rate:,.0f} frames a second of the mix",
        "Milliseconds from `received_us` in the record, the time when its frame was read from the socket,\n"
        "to its arrival at a read_committed consumer (confluent-kafka, librdkafka) in a separate process.",
        ("", "p50", "p99"),
        rows,
    )


def _growth(measured: Measured) -> str:
    tenths = measured.growth.tenths_mb
    rows = [f"| {10 * n} to {10 * n + 10} % | {mb:.0f} |" for n, mb in enumerate(tenths)]
    return _table(
        f"Memory over {measured.growth_frames:,} frames of the mix",
        f"The bridge with exactly-once delivery, at {GROWTH_RATE:,.0f} frames a second: resident megabytes,\n"
        "the median of many samples in each tenth of the frames. Frames are repeated, trades with new ids. "
        f"The peak was {measured.growth.peak_mb:.0f} MB.",
        ("frames", "MB"),
        rows,
    )


def _trouble(troubles: Troubles) -> str:
    takeover, spooling, soak = troubles.takeover, troubles.spooling, troubles.soak
    timeout = KafkaConfig().session_timeout
    _, second, *_, last = soak.minutes_mb if len(soak.minutes_mb) > 2 else [0.0, *soak.minutes_mb]
    growth = last / second - 1
    lost = soak.missing + soak.twice
    kills = troubles.kills
    rows = [
        f"| takeover from a stopped replica | 3 s | {_figure(takeover.stopped)} s "
        f"| {_tick(takeover.stopped, 3)} |",
        f"| takeover from a killed replica | {timeout + 3:g} s | {_figure(takeover.killed)} s "
        f"| {_tick(takeover.killed, timeout + 3)} |",
        f"| to the spool, frames a second (minimum) | {_SPOOL_RATE:,} | {spooling.taken_s:,.0f} "
        f"| {_tick([-spooling.taken_s], -_SPOOL_RATE)} |",
        f"| from the spool to Kafka, frames a second (minimum) | {troubles.soak_rate:,} "
        f"| {spooling.drained_s:,.0f} | {_tick([-spooling.drained_s], -troubles.soak_rate)} |",
        f"| peak memory while spooling | {_PEAK_MB} MB | {spooling.peak_mb:.0f} MB "
        f"| {_tick([spooling.peak_mb], _PEAK_MB)} |",
        f"| {kills.number} kills, {kills.trades:,} trades: repeated, or missing outside of reported gaps | 0 "
        f"| {kills.twice + kills.unreported} | {_tick([kills.twice + kills.unreported], 0)} |",
        f"| soak: growth from the second minute to the last | {_GROWTH:.0%} | {growth:+.1%} "
        f"| {_tick([growth], _GROWTH)} |",
        f"| soak: trades missing or repeated | 0 | {lost} | {_tick([lost], 0)} |",
    ]
    return _table(
        "Failures",
        f"The soak: {len(soak.minutes_mb)} minutes at {troubles.soak_rate:,} frames a second, "
        f"{soak.reconnects} reconnects, {soak.trades:,} trades;\nmegabytes minute by minute: "
        f"{', '.join(f'{mb:.0f}' for mb in soak.minutes_mb)}.",
        ("", "required", "result", ""),
        rows,
    )


def _table(title: str, text: str, columns: Sequence[str], rows: Iterable[str]) -> str:
    head = f"| {' | '.join(columns)} |"
    line = f"|---|{'---:|' * (len(columns) - 1)}"
    return "\n".join([f"## {title}", "", text, "", head, line, *rows])


def _row(what: str, limit: float, reached: Sequence[float]) -> str:
    return f"| {what} | {limit:g} | {_figure(reached, 2)} | {_tick(reached, limit)} |"


def _tick(reached: Sequence[float], limit: float) -> str:
    return "yes" if median(reached) <= limit else "**no**"


def _figure(turns: Sequence[float], decimals: int = 1) -> str:
    middle, least, most = (f"{one:,.{decimals}f}" for one in (median(turns), min(turns), max(turns)))
    return middle if least == most else f"{middle} ({least} to {most})"


def _turns(number: int) -> str:
    return "one turn" if number == 1 else f"{number} turns"


def _pace(rate: float) -> str:
    return f"{rate:g} a second" if rate else "as fast as they are read"


def _beyond(ms: float) -> str:
    return f"{abs(ms):.0f} ms {'over' if ms > 0 else 'under'} it"


def _short(subject: str) -> str:
    return subject.removeprefix("bridge, ")


def _divided(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(ours, others, strict=True)]


def _kafka_version() -> str:
    return next(JARS.glob("kafka-clients-*.jar")).stem.removeprefix("kafka-clients-")


def _build() -> str:
    """Return how the interpreter was built; pure Python code is a tenth slower without optimisations."""
    optimised = "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS"))
    return f"built with{'' if optimised else 'out'} --enable-optimizations"


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")
