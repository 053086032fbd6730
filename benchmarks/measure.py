"""Runs each candidate as a separate process, and measures its cost from outside."""

import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any, NamedTuple, Self

import orjson
import psutil

from benchmarks import supply
from bridge.config import Delivery
from tests.support.consumers import create_topic, delete_topic
from tests.support.kafka_broker import Broker
from tests.support.process import RunningBridge, config

PREFIX = "benchmarks"

RATES = {supply.MIX: 0.0, supply.ALL_TICKER: 30.0}
"""Frames a second; 0: as fast as they are read.

Without a limit, all_ticker with all markets is more than one broker on two cores can take, so that the spool
would be measured too.
"""

_PARTITIONS = 12
_PATIENCE = 600.0  # seconds, for the longest run
_LOOK = 0.1  # seconds between two samples
_MB = 1024 * 1024


GROWTH_RATE = 40_000.0
"""Frames a second. Without a limit, the memory measured would be mostly records waiting for the broker."""


class Floor(NamedTuple):
    """CPU microseconds per frame, while the feeder is busy and on an idle machine."""

    busy_us: float
    idle_us: float


class Cost(NamedTuple):
    """The cost of a run: CPU microseconds per frame, frames a second, and peak memory."""

    cpu_us: float
    frames_s: float
    peak_mb: float


class Latency(NamedTuple):
    """Milliseconds from reception to a consumer."""

    p50_ms: float
    p99_ms: float


class Growth(NamedTuple):
    """Resident memory in each tenth of the frames (the median of many samples), and its peak."""

    tenths_mb: list[float]
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Running:
    """A running candidate; `finish` returns once Kafka has acknowledged the last frame."""

    process: psutil.Process
    finish: Callable[[], None]

    @property
    def cpu(self) -> float:
        """CPU seconds so far."""
        times = self.process.cpu_times()
        return float(times.user + times.system)

    @property
    def resident_mb(self) -> float:
        """Current resident memory."""
        return float(self.process.memory_info().rss) / _MB

    @property
    def peak_mb(self) -> float:
        """Peak resident memory so far."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:"))


Start = Callable[[Broker, str, str, int], AbstractContextManager[Running]]
"""Starts a candidate, given the broker, the feeder's URL, the kind of frames and their number."""


class Feeder:
    """Runs the feeder's process inside its context."""

    def __init__(self, frames: int) -> None:
        self._frames = frames

    def __enter__(self) -> Self:
        self._process = _python("feeder", str(self._frames))
        self._port = int(_line(self._process))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _end(self._process)

    def url(self, kind: str, count: int, rate: float = 0) -> str:
        """Return the URL that gives a connection these frames."""
        return f"ws://127.0.0.1:{self._port}/{kind}/{count}/{rate:g}"

    def wait(self, tenth: int) -> None:
        """Return when this tenth of the frames has been sent; 0 is the first frame."""
        while int(_line(self._process)) != tenth:
            pass

    def passes(self, tenth: int, within: float) -> bool:
        """Wait at most `within` seconds for this tenth; return whether it has been sent."""
        if not _speaks(self._process, within):
            return False
        self.wait(tenth)
        return True


def create_topics(kafka: Broker) -> None:
    """Create the topics that all candidates share."""
    for channel in ("trades", "depth", "ticker", "all_ticker"):
        _create_topic(kafka, channel)


def forget_trades(kafka: Broker) -> None:
    """Delete what the bridge knows of trades: every run has the same ones, and would find them repeated."""
    delete_topic(kafka.bootstrap, f"{PREFIX}.bridge-state")
    delete_topic(kafka.bootstrap, f"{PREFIX}.trades.v1")
    _create_topic(kafka, "trades")


def _create_topic(kafka: Broker, channel: str) -> None:
    create_topic(kafka.bootstrap, f"{PREFIX}.{channel}.v1", _PARTITIONS, compression_type="producer")


def floor(feeder: Feeder, kind: str, count: int) -> Floor:
    """Measure the floor."""
    process = _python("floor", feeder.url(kind, count, RATES[kind]), str(count))
    try:
        feeder.wait(10)
        return Floor(**orjson.loads(_line(process)))
    finally:
        _end(process)


def cost(start: Start, kafka: Broker, feeder: Feeder, kind: str, count: int) -> Cost:
    """Measure from the first frame to the last acknowledgement."""
    forget_trades(kafka)
    with start(kafka, feeder.url(kind, count, RATES[kind]), kind, count) as running:
        feeder.wait(0)
        cpu, began = running.cpu, time.monotonic()
        feeder.wait(10)
        running.finish()
        seconds = time.monotonic() - began
        return Cost((running.cpu - cpu) / count * 1e6, count / seconds, running.peak_mb)


def latency(start: Start, kafka: Broker, feeder: Feeder, count: int, rate: float) -> Latency:
    """Measure latencies on the mix at `rate` frames a second."""
    forget_trades(kafka)
    consumer = _python("consumer", kafka.bootstrap, PREFIX, str(_PARTITIONS))
    try:
        _line(consumer)
        with start(kafka, feeder.url(supply.MIX, count, rate), supply.MIX, count):
            feeder.wait(10)
            return Latency(**orjson.loads(_line(consumer)))
    finally:
        _end(consumer)


def growth(start: Start, kafka: Broker, feeder: Feeder, count: int) -> Growth:
    """Measure memory over a long run of the mix."""
    forget_trades(kafka)
    with start(kafka, feeder.url(supply.MIX, count, GROWTH_RATE), supply.MIX, count) as running:
        feeder.wait(0)
        tenths = []
        for tenth in range(1, 11):
            samples = [running.resident_mb]
            while not feeder.passes(tenth, _LOOK):
                samples.append(running.resident_mb)
            tenths.append(median(samples))
        running.finish()
        return Growth(tenths, running.peak_mb)


def books_mb() -> float:
    """Measure the memory of the books of all markets."""
    process = _python("books")
    try:
        return float(_line(process))
    finally:
        _end(process)


@contextmanager
def peer(kafka: Broker, url: str, _kind: str, count: int) -> Iterator[Running]:
    """Run the plain peer."""
    process = _python("peer", url, str(count), kafka.bootstrap, PREFIX)
    try:
        yield Running(psutil.Process(process.pid), lambda: _expect(process, "acknowledged"))
    finally:
        _end(process)


@contextmanager
def bridge(
    module: str, delivery: Delivery, kafka: Broker, url: str, kind: str, count: int, *, books: bool = False
) -> Iterator[Running]:
    """Run the bridge with its defaults, except that all subscriptions share one session.

    With `books`, it keeps and writes the books of all markets.
    """
    symbols = supply.SYMBOLS if kind == supply.MIX else []
    sections: dict[str, dict[str, Any]] = {
        "exchange": {"subscriptions_per_session": 3 * len(supply.SYMBOLS)},
        "channels": {"trades": symbols, "depth": symbols, "ticker": symbols, "all_ticker": not symbols},
        "kafka": {"delivery": delivery, "partitions": _PARTITIONS},
    }
    if books:
        sections["channels"]["book"] = symbols
    with (
        tempfile.TemporaryDirectory() as folder,
        RunningBridge(Path(folder), config(url, kafka, PREFIX, sections), module=module) as running,
    ):

        def delivered() -> bool:
            return running.metric("frames_total") >= count and not running.metric("pending_records")

        yield Running(psutil.Process(running.process.pid), partial(_until, delivered))
        assert not running.metric("deadletters_total"), "a frame became a dead letter"
        assert not running.metric("duplicates_total"), "a trade was considered a duplicate"
        assert "spooling started" not in running.stderr, "Kafka was too slow"
        assert not books or running.metric("records_total", channel="book"), "no books were written"
        assert running.stop() == 0, running.stderr


PEER = "plain peer"
EXACTLY_ONCE = "bridge, exactly-once"
AT_LEAST_ONCE = "bridge, at-least-once"
STATELESS = "bridge, exactly-once, without state"
WITH_BOOKS = "bridge, exactly-once, with books"
SUBJECTS: dict[str, Start] = {
    PEER: peer,
    EXACTLY_ONCE: partial(bridge, "bridge", Delivery.EXACTLY_ONCE),
    AT_LEAST_ONCE: partial(bridge, "bridge", Delivery.AT_LEAST_ONCE),
}
"""The candidates, in the order of their turns."""
BOOK_SUBJECTS: dict[str, Start] = {
    EXACTLY_ONCE: SUBJECTS[EXACTLY_ONCE],
    WITH_BOOKS: partial(bridge, "bridge", Delivery.EXACTLY_ONCE, books=True),
}
"""The candidates that show the cost of books."""
ALL_SUBJECTS: dict[str, Start] = {
    **SUBJECTS,
    STATELESS: partial(bridge, "benchmarks.stateless", Delivery.EXACTLY_ONCE),
    **BOOK_SUBJECTS,
}
"""All candidates on the mix; two more, which show the cost of state and of books."""


def _python(module: str, *arguments: str) -> "subprocess.Popen[bytes]":
    """Start a module as a process, unbuffered, so that a line can be waited for."""
    command: Sequence[str] = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=0)


def _line(process: "subprocess.Popen[bytes]") -> str:
    assert process.stdout is not None
    line = process.stdout.readline().decode().strip() if _speaks(process, _PATIENCE) else ""
    if not line:
        process.kill()
        raise RuntimeError(f"{process.args!r}: no output within {_PATIENCE:g} s; status {process.wait()}")
    return line


def _speaks(process: "subprocess.Popen[bytes]", within: float) -> bool:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], within)
    return bool(ready)


def _expect(process: "subprocess.Popen[bytes]", expected: str) -> None:
    said = _line(process)
    assert said == expected, said


def _until(condition: Callable[[], bool]) -> None:
    """Poll rarely, because polling costs the measured process CPU time."""
    end = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < end, f"records still pending after {_PATIENCE:g} s"
        time.sleep(_LOOK)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()
