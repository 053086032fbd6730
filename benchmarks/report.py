"""The report: figures in, docs/performance.md out. Pure, but for what it reads about the machine."""

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
from benchmarks.measure import (
    AT_LEAST_ONCE,
    EXACTLY_ONCE,
    GROWTH_RATE,
    PEER,
    RATES,
    STATELESS,
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
_STATE = 1.15  # times the CPU without state
_SPOOL_RATE = 20_000  # frames a second
_GROWTH = 0.05  # of the memory, from the second tenth of the frames to the last; less is noise


class Limit(NamedTuple):
    """The most that exactly-once may cost, as multiples of the floor and of the plain peer."""

    floors: float
    peers: float


_LIMITS = {supply.MIX: Limit(4, 0.6), supply.ALL_TICKER: Limit(4, 0.4)}
_TITLES = {
    supply.MIX: "the mix: 60 % depth, 25 % trades, 15 % ticker, 50 symbols",
    supply.ALL_TICKER: f"all_ticker, {supply.MARKETS} markets in each frame",
}


@dataclass(frozen=True, slots=True)
class Comparison:
    """The turns of one kind of frames: of the floor, and of each subject."""

    kind: str
    frames: int
    floors: Sequence[Floor]
    costs: Mapping[str, Sequence[Cost]]

    def cpu(self, subject: str) -> list[float]:
        """Return a subject's CPU microseconds a frame, turn by turn."""
        return [cost.cpu_us for cost in self.costs[subject]]

    def per_floor(self, subject: str) -> list[float]:
        """Return how many floors of the same turn a subject has cost."""
        floors = [floor.busy_us for floor in self.floors]
        return _divided(self.cpu(subject), floors)

    def per_peer(self, subject: str) -> list[float]:
        """Return how many plain peers of the same turn a subject has cost."""
        return _divided(self.cpu(subject), self.cpu(PEER))

    def with_state(self) -> list[float]:
        """Return how many times what it costs without its state the bridge has cost in the same turn."""
        return _divided(self.cpu(EXACTLY_ONCE), self.cpu(STATELESS))


@dataclass(frozen=True, slots=True)
class Measured:
    """All figures of one run."""

    comparisons: Sequence[Comparison]
    rate: float
    latencies: Mapping[str, Sequence[Latency]]
    growth_frames: int
    growth: Growth


@dataclass(frozen=True, slots=True)
class Troubles:
    """The figures of trouble; `soak_rate` is in frames a second."""

    takeover: Takeover
    spooling: Spooling
    kills: Kills
    soak_rate: int
    soak: Soak


def markdown(measured: Measured, troubles: Troubles) -> str:
    """Return the whole document."""
    sections = [_head(), _verdict(measured)]
    sections += [_comparison(one) for one in measured.comparisons]
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

**How:** feeder, broker and what is measured are processes of their own on this one machine and share its
cores. The feeder makes the frames in advance. CPU time is all that the process used, in user and kernel mode,
from the first frame until Kafka has acknowledged the last record. No run came to where records wait on disk.
The floor, the peer and the bridge take turns; a ratio is that of two neighbours in the same turn. Figures are
medians of the turns, with the range in brackets; they hold for this machine as busy as it was.

- **floor**: `zlib.decompress` and `orjson.loads` of each frame and nothing else, in a process that takes the
  frames from the same feeder; on the idle machine it is a second figure.
- **plain peer**: websockets, zlib, orjson and `aiokafka.send` on uvloop, idempotent, zstd, `linger_ms=10`,
  `max_batch_size=131072`; it makes the same records and validates nothing.
- **bridge**: `digifinex-bridge run` with its defaults, all subscriptions on one connection. Without its state
  it keeps no watermarks and writes nothing to bridge-state; nobody can run it so, it is what state costs."""


def _verdict(measured: Measured) -> str:
    rows = []
    for one in measured.comparisons:
        limit, name = _LIMITS[one.kind], one.kind
        rows += [
            _row(f"CPU a frame, {name}, × floor", limit.floors, one.per_floor(EXACTLY_ONCE)),
            _row(f"CPU a frame, {name}, × plain peer", limit.peers, one.per_peer(EXACTLY_ONCE)),
        ]
        if STATELESS in one.costs:
            rows.append(_row(f"CPU a frame, {name}, × without its state", _STATE, one.with_state()))
    turns = measured.latencies
    p99 = {subject: [latency.p99_ms for latency in turns[subject]] for subject in turns}
    most = {AT_LEAST_ONCE: 0.0, EXACTLY_ONCE: _COMMIT_MS}
    for subject, more in most.items():
        beyond = [ours - peers - more for ours, peers in zip(p99[subject], p99[PEER], strict=True)]
        allowed = f"that of the peer{f' + {more:g} ms' if more else ''}"
        reached = f"{median(p99[subject]):.0f} ms, {_beyond(median(beyond))}"
        rows.append(
            f"| p99 of the delivery, {_short(subject)} | {allowed} | {reached} | {_tick(beyond, 0)} |"
        )
    peaks = [cost.peak_mb for one in measured.comparisons for cost in one.costs[EXACTLY_ONCE]]
    peaks.append(measured.growth.peak_mb)
    rows.append(f"| peak memory | {_PEAK_MB} MB | {max(peaks):.0f} MB | {_tick([max(peaks)], _PEAK_MB)} |")
    _, begin, *_, end = measured.growth.tenths_mb
    growth, what = end / begin - 1, f"growth over {measured.growth_frames:,} frames"
    rows.append(f"| {what} | {_GROWTH:.0%} | {growth:+.1%} | {_tick([growth], _GROWTH)} |")
    return _table(
        "Required and reached",
        "The bridge in exactly-once, unless it says otherwise.",
        ("", "at most", "reached", ""),
        rows,
    )


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
        f"Work a frame on {title}",
        f"{_turns(len(one.floors))} of {one.frames:,} frames each, {_pace(RATES[one.kind])}.",
        ("", "CPU µs a frame", "× floor", "× plain peer", "frames a second", "peak MB"),
        rows,
    )


def _latency(measured: Measured) -> str:
    rows = [
        f"| {subject} | {_figure([one.p50_ms for one in turns])} | {_figure([one.p99_ms for one in turns])} |"
        for subject, turns in measured.latencies.items()
    ]
    return _table(
        f"Delivery at {measured.rate:,.0f} frames a second of the mix",
        "Milliseconds from `received_us` in the record, the moment its frame was read from the socket, to\n"
        "its arrival at a read_committed consumer of librdkafka (confluent-kafka) in a process of its own.",
        ("", "p50", "p99"),
        rows,
    )


def _growth(measured: Measured) -> str:
    tenths = measured.growth.tenths_mb
    rows = [f"| {10 * n} to {10 * n + 10} % | {mb:.0f} |" for n, mb in enumerate(tenths)]
    return _table(
        f"Memory over {measured.growth_frames:,} frames of the mix",
        f"The bridge in exactly-once, at {GROWTH_RATE:,.0f} frames a second: resident megabytes, the median\n"
        "of many looks during each tenth of the frames. Frames are repeated, trades with new ids. "
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
        f"| takeover from a replica that stops | 3 s | {_figure(takeover.stopped)} s "
        f"| {_tick(takeover.stopped, 3)} |",
        f"| takeover from one that is killed | {timeout + 3:g} s | {_figure(takeover.killed)} s "
        f"| {_tick(takeover.killed, timeout + 3)} |",
        f"| to the spool, frames a second, at least | {_SPOOL_RATE:,} | {spooling.taken_s:,.0f} "
        f"| {_tick([-spooling.taken_s], -_SPOOL_RATE)} |",
        f"| from the spool to Kafka, frames a second, at least | {troubles.soak_rate:,} "
        f"| {spooling.drained_s:,.0f} | {_tick([-spooling.drained_s], -troubles.soak_rate)} |",
        f"| peak memory meanwhile | {_PEAK_MB} MB | {spooling.peak_mb:.0f} MB "
        f"| {_tick([spooling.peak_mb], _PEAK_MB)} |",
        f"| {kills.number} kills, {kills.trades:,} trades: twice, or missing without a gap that tells it | 0 "
        f"| {kills.twice + kills.untold} | {_tick([kills.twice + kills.untold], 0)} |",
        f"| soak: growth from the second minute to the last | {_GROWTH:.0%} | {growth:+.1%} "
        f"| {_tick([growth], _GROWTH)} |",
        f"| soak: trades missing or twice | 0 | {lost} | {_tick([lost], 0)} |",
    ]
    return _table(
        "Trouble",
        f"The soak: {len(soak.minutes_mb)} minutes at {troubles.soak_rate:,} frames a second, "
        f"{soak.reconnects} reconnects, {soak.trades:,} trades;\nmegabytes minute by minute: "
        f"{', '.join(f'{mb:.0f}' for mb in soak.minutes_mb)}.",
        ("", "required", "reached", ""),
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
    return f"{rate:g} a second" if rate else "as fast as they are taken"


def _beyond(ms: float) -> str:
    return f"{abs(ms):.0f} ms {'over' if ms > 0 else 'under'} it"


def _short(subject: str) -> str:
    return subject.removeprefix("bridge, ")


def _divided(ours: Sequence[float], others: Sequence[float]) -> list[float]:
    return [one / other for one, other in zip(ours, others, strict=True)]


def _kafka_version() -> str:
    return next(JARS.glob("kafka-clients-*.jar")).stem.removeprefix("kafka-clients-")


def _build() -> str:
    """Say how the interpreter was built: what is not a library's costs a tenth more without optimisations."""
    optimised = "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS"))
    return f"built with{'' if optimised else 'out'} --enable-optimizations"


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")
