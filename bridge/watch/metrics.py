"""Every metric, declared once, and counted in plain numbers.

`prometheus_client` takes a lock for each `inc()`, up to 1.5 µs: too much for 60,000 frames a second. Here the
hot path adds to an attribute, and the registry reads it when Prometheus asks:

    frames = metrics.counter("frames_total", shard="0")
    frames.value += 1
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeVar

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import InfoMetricFamily, Metric

from bridge import __version__
from bridge.channels import CHANNELS
from bridge.records import DEAD_LETTER_REASONS, DEADLETTER, EVENTS

PREFIX = "digifinex_bridge_"

# The suffix of a sample's name, its labels beyond the series' own, and its value.
Sample = tuple[str, dict[str, str], float]


class Counter:
    """A total; add to `value`, never take away."""

    __slots__ = ("value",)
    kind = "counter"

    def __init__(self) -> None:
        self.value: float = 0

    def samples(self) -> Iterator[Sample]:
        """Return what Prometheus gets to see."""
        yield "_total", {}, self.value


class Gauge:
    """A figure that goes up and down: set `value`, or `read` to a function that is called on each scrape."""

    __slots__ = ("read", "value")
    kind = "gauge"

    def __init__(self) -> None:
        self.value: float = 0
        self.read: Callable[[], float] | None = None

    def samples(self) -> Iterator[Sample]:
        """Return what Prometheus gets to see."""
        yield "", {}, self.value if self.read is None else self.read()


class Histogram:
    """How many observations were at most so long, in seconds."""

    __slots__ = ("_counts", "_sum")
    kind = "histogram"
    bounds = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

    def __init__(self) -> None:
        self._counts = [0] * (len(self.bounds) + 1)
        self._sum = 0.0

    def observe(self, seconds: float, n: int = 1) -> None:
        """Count `n` observations of the same length. One below 0, from clocks that differ, counts as 0."""
        if seconds < 0.0:  # noqa: PLR1730  # max() costs as much as all the rest
            seconds = 0.0
        self._counts[bisect_left(_BOUNDS, seconds)] += n
        self._sum += seconds * n

    def samples(self) -> Iterator[Sample]:
        """Return what Prometheus gets to see."""
        totals = list(accumulate(self._counts))
        for bound, total in zip((*self.bounds, "+Inf"), totals, strict=True):
            yield "_bucket", {"le": str(bound)}, total
        yield "_count", {}, totals[-1]
        yield "_sum", {}, self._sum


# A global is found quicker than an attribute of the class.
_BOUNDS = Histogram.bounds

Series = Counter | Gauge | Histogram
S = TypeVar("S", Counter, Gauge, Histogram)


@dataclass(frozen=True, slots=True)
class Declaration:
    """A metric: its name without the prefix, type, meaning, label, and the values known of that."""

    name: str
    type: type[Series]
    meaning: str
    label: str | None = None
    known: tuple[str, ...] = ()


_CHANNELS = tuple(CHANNELS)
_TOPICS = (*CHANNELS, DEADLETTER, EVENTS)
_RECONNECTS = ("closed", "refused", "timeout", "stale", "rejected", "rotated")

DECLARATIONS: tuple[Declaration, ...] = (
    Declaration("ready", Gauge, "1 while /readyz says 200, else 0."),
    Declaration("connected", Gauge, "Sessions that are open, whether subscribed yet or not.", "shard"),
    Declaration("shard_owned", Gauge, "1 while this replica serves the shard, else 0.", "shard"),
    Declaration(
        "shards_lost_total", Counter, "Shards taken away while they were served: fenced off, or reassigned."
    ),
    Declaration("frames_total", Counter, "Frames received from the exchange.", "shard"),
    Declaration("received_bytes_total", Counter, "Bytes of frames received, as compressed.", "shard"),
    Declaration("records_total", Counter, "Records acknowledged by Kafka.", "channel", _TOPICS),
    Declaration("decompression_errors_total", Counter, "Frames that could not be inflated."),
    Declaration(
        "deadletters_total", Counter, "Frames sent to the dead letters.", "reason", DEAD_LETTER_REASONS
    ),
    Declaration("reconnects_total", Counter, "Sessions replaced by new ones.", "reason", _RECONNECTS),
    Declaration(
        "exchange_lag_seconds",
        Histogram,
        "From the exchange's time to reception.",
        "channel",
        tuple(CHANNELS),
    ),
    Declaration(
        "delivery_lag_seconds",
        Histogram,
        "From reception to the moment a read_committed consumer can see the record.",
        "channel",
        _TOPICS,
    ),
    Declaration("ping_seconds", Histogram, "From a ping to its pong."),
    Declaration("clock_offset_seconds", Gauge, "How far the exchange's clock is ahead of ours."),
    Declaration("last_push_timestamp_seconds", Gauge, "When the last push came, since the epoch.", "channel"),
    Declaration("pending_records", Gauge, "Records received and not yet acknowledged by Kafka."),
    Declaration("pending_bytes", Gauge, "Bytes of records received and not yet acknowledged by Kafka."),
    Declaration("spool_bytes", Gauge, "Bytes on disk, of records that Kafka does not take yet."),
    Declaration(
        "spool_limit_bytes", Gauge, "Bytes on disk at most, as configured: then reading pauses. 0: no spool."
    ),
    Declaration("spool_records", Gauge, "Records that wait on disk only."),
    Declaration("spool_age_seconds", Gauge, "Age of the oldest record that waits on disk only."),
    Declaration(
        "reading_paused",
        Gauge,
        "1 while the records waiting for Kafka are too many to read on, else 0.",
        "shard",
    ),
    Declaration(
        "duplicates_total",
        Counter,
        "Items that the exchange repeated and that were left out.",
        "channel",
        tuple(CHANNELS),
    ),
    Declaration("gaps_total", Counter, "Gaps that could not be filled.", "channel", _CHANNELS),
    Declaration(
        "recovered_total",
        Counter,
        "Records filled in from a clean list after an interruption.",
        "channel",
        tuple(CHANNELS),
    ),
    Declaration("kafka_errors_total", Counter, "Errors that Kafka answered, by their name.", "error"),
)


class Metrics:
    """The metrics of one bridge, with a registry of their own.

    Asking for a metric makes its series on the first call and returns the same one ever after. Series of
    counters and histograms whose label values are known are there at 0 from the start, so that rates and
    alerts have something to work on.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._series: dict[Declaration, dict[str, Series]] = {}
        for declaration in DECLARATIONS:
            values = declaration.known if declaration.label else ("",)
            self._series[declaration] = {value: declaration.type() for value in values}
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def counter(self, name: str, **label: str) -> Counter:
        """Return the counter, e.g. `counter("frames_total", shard="0")`.

        Raises:
            TypeError: nothing with this type and label is declared by this name.
        """
        return self._one(Counter, name, label)

    def gauge(self, name: str, **label: str) -> Gauge:
        """Return the gauge, e.g. `gauge("pending_records")`; raises as `counter` does."""
        return self._one(Gauge, name, label)

    def histogram(self, name: str, **label: str) -> Histogram:
        """Return the histogram, e.g. `histogram("ping_seconds")`; raises as `counter` does."""
        return self._one(Histogram, name, label)

    def collect(self) -> Iterator[Metric]:
        """Return all metrics as they stand; called by the registry on each scrape."""
        yield InfoMetricFamily(f"{PREFIX}build", "The version that runs.", {"version": __version__})
        for declaration, series in self._series.items():
            name = PREFIX + declaration.name.removesuffix("_total")
            metric = Metric(name, declaration.meaning, declaration.type.kind)
            for value, one in series.items():
                label = {declaration.label: value} if declaration.label else {}
                for suffix, more, figure in one.samples():
                    metric.add_sample(name + suffix, label | more, figure)
            yield metric

    def _one(self, kind: type[S], name: str, label: Mapping[str, str]) -> S:
        declaration = _BY_NAME.get(name)
        wanted = {declaration.label} if declaration and declaration.label else set()
        if declaration is None or declaration.type is not kind or wanted != label.keys():
            raise TypeError(f"no {kind.kind} {name} with label {', '.join(label) or 'none'} is declared")
        series = self._series[declaration]
        one = series.setdefault(next(iter(label.values()), ""), kind())
        assert isinstance(one, kind)  # noqa: S101
        return one


_BY_NAME = {declaration.name: declaration for declaration in DECLARATIONS}
