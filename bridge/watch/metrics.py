"""The bridge's metrics: each is declared once here and counted in plain Python attributes.

`prometheus_client` takes a lock for each `inc()`, up to 1.5 µs: too much at 60,000 frames a second. Here the
hot path adds to an attribute, and the registry reads that attribute when Prometheus scrapes:

    frames = metrics.counter("frames_total", shard="0")
    frames.value += 1

    metrics.counter("gaps_total", channel="trades", cause="closed").value += 1
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, product
from typing import TypeVar, get_args

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import InfoMetricFamily, Metric

from bridge import __version__
from bridge.books.doubts import RESULTS
from bridge.channels import CHANNELS
from bridge.records import BOOK, DEAD_LETTER_REASONS, DEADLETTER, EVENTS, Cause, Kind

PREFIX = "digifinex_bridge_"

# One line of an exposition: the suffix of its name, the labels added to the declared one, and the value.
# A histogram's: ("_bucket", {"le": "0.5"}, 42.0).
Sample = tuple[str, dict[str, str], float]


class Counter:
    """A total since the process started: add to `value`, never subtract."""

    __slots__ = ("value",)
    kind = "counter"

    def __init__(self) -> None:
        self.value: float = 0  # the total, in the metric's unit; grows with each event counted

    def samples(self) -> Iterator[Sample]:
        """Return the sample of one scrape."""
        yield "_total", {}, self.value


class Gauge:
    """A value that goes up and down: set `value`, or set `read` to a function called on each scrape."""

    __slots__ = ("read", "value")
    kind = "gauge"

    def __init__(self) -> None:
        self.value: float = 0  # the present value, in the metric's unit; ignored once `read` is set
        self.read: Callable[[], float] | None = None  # computes the value on each scrape; set once, or never

    def samples(self) -> Iterator[Sample]:
        """Return the sample of one scrape."""
        yield "", {}, self.value if self.read is None else self.read()


class Histogram:
    """Durations in seconds, counted in buckets by their upper bound."""

    __slots__ = ("_counts", "_sum")
    kind = "histogram"
    bounds = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

    def __init__(self) -> None:
        # Observations per bucket since the start, not cumulative; the last is for those above every bound.
        # An observation of 0.02 s adds 1 to the count of the bound 0.025 alone.
        self._counts = [0] * (len(self.bounds) + 1)
        self._sum = 0.0  # seconds, of all observations since the start

    def observe(self, seconds: float, n: int = 1) -> None:
        """Count `n` observations of the same duration.

        A negative one, the result of two clocks that differ, counts as 0: a sum that shrinks would look like
        a restart to Prometheus.
        """
        if seconds < 0.0:  # noqa: PLR1730  # max() costs as much as the rest of this method
            seconds = 0.0
        self._counts[bisect_left(_BOUNDS, seconds)] += n
        self._sum += seconds * n

    def samples(self) -> Iterator[Sample]:
        """Return the samples of one scrape, with cumulative buckets as Prometheus expects them."""
        totals = list(accumulate(self._counts))
        for bound, total in zip((*self.bounds, "+Inf"), totals, strict=True):
            yield "_bucket", {"le": str(bound)}, total
        yield "_count", {}, totals[-1]
        yield "_sum", {}, self._sum


# On the hot path: looking up a global is faster than looking up an attribute of the class.
_BOUNDS = Histogram.bounds

Instrument = Counter | Gauge | Histogram
InstrumentT = TypeVar("InstrumentT", Counter, Gauge, Histogram)


@dataclass(frozen=True, slots=True)
class Declaration:
    """One metric.

    `name` is without the prefix; `meaning` is its HELP text; `labels` are the names of its labels. `known`
    has the values of each label: the series of all their combinations exist from the start. It is empty if
    the values of any label are not known beforehand.
    """

    name: str
    type: type[Instrument]
    meaning: str
    labels: tuple[str, ...] = ()
    known: tuple[tuple[str, ...], ...] = ()


_CHANNELS = tuple(CHANNELS)
_TOPICS = (*CHANNELS, BOOK, DEADLETTER, EVENTS)
_CAUSES: tuple[str, ...] = get_args(Cause)
_KINDS: tuple[str, ...] = get_args(Kind)
_RECONNECTS = ("closed", "refused", "timeout", "stale", "rejected", "rotated")

DECLARATIONS: tuple[Declaration, ...] = (
    Declaration("ready", Gauge, "1 while /readyz answers 200, else 0."),
    Declaration("connected", Gauge, "Open sessions, including those that are still subscribing.", ("shard",)),
    Declaration("shard_owned", Gauge, "1 while this replica serves the shard, else 0.", ("shard",)),
    Declaration(
        "shards_lost_total",
        Counter,
        "Shards lost while this replica was serving them: fenced by another replica, or reassigned.",
    ),
    Declaration(
        "subscriptions",
        Gauge,
        "Subscriptions by state: confirmed; pending, without an answer; silent, without a list,"
        " a snapshot, or changes while the market moves; refused.",
        ("shard", "channel", "state"),
    ),
    Declaration(
        "account_ready",
        Gauge,
        "1 while all sessions of the account are live on this replica, else 0, also where another serves it.",
        ("account",),
    ),
    Declaration("frames_total", Counter, "Frames received from the exchange.", ("shard",)),
    Declaration("received_bytes_total", Counter, "Compressed bytes of the frames received.", ("shard",)),
    Declaration("records_total", Counter, "Records acknowledged by Kafka.", ("channel",), (_TOPICS,)),
    Declaration("decompression_errors_total", Counter, "Frames that could not be decompressed."),
    Declaration(
        "deadletters_total",
        Counter,
        "Frames sent to the dead letter topic; of unsubscribed ones, also those that were too many for it.",
        ("reason",),
        (DEAD_LETTER_REASONS,),
    ),
    Declaration("reconnects_total", Counter, "Sessions replaced by new ones.", ("reason",), (_RECONNECTS,)),
    Declaration(
        "exchange_lag_seconds",
        Histogram,
        "Time from the exchange's timestamp to reception.",
        ("channel",),
        (_CHANNELS,),
    ),
    Declaration(
        "delivery_lag_seconds",
        Histogram,
        "Time from reception until a read_committed consumer can read the record. "
        "Not of books, which may have waited until they were due.",
        ("channel",),
        (tuple(one for one in _TOPICS if one != BOOK),),
    ),
    Declaration("ping_seconds", Histogram, "Time from a ping to its pong."),
    Declaration(
        "clock_offset_seconds",
        Gauge,
        "The exchange's clock minus this host's, from all answers to `server.time`; 0 before the first.",
    ),
    Declaration(
        "last_push_timestamp_seconds",
        Gauge,
        "Unix time of the last push; 0 before the first one.",
        ("channel",),
    ),
    Declaration(
        "oldest_pending_seconds",
        Gauge,
        "Age of the oldest record that is not on Kafka yet, in memory or on disk; 0 if all are.",
    ),
    Declaration("pending_records", Gauge, "Records in memory that Kafka has not acknowledged yet."),
    Declaration(
        "pending_bytes",
        Gauge,
        "Bytes in memory: of records that Kafka has not acknowledged yet (`queue`), and of what was read from"
        " the exchange and is not queued yet (`exchange`).",
        ("part",),
        (("queue", "exchange"),),
    ),
    Declaration("spool_bytes", Gauge, "Bytes on disk of records that Kafka has not acknowledged yet."),
    Declaration(
        "spool_limit_bytes",
        Gauge,
        "Configured maximum of bytes on disk, at which reading pauses; 0 means no spool.",
    ),
    Declaration(
        "spool_writable",
        Gauge,
        "1 while the spool can be written to, or none is configured, else 0; tried every minute.",
    ),
    Declaration("spool_records", Gauge, "Records that are on disk and no longer in memory."),
    Declaration(
        "reading_paused",
        Gauge,
        "1 while reading from the exchange is paused because memory and spool are full, else 0.",
        ("shard",),
    ),
    Declaration(
        "duplicates_total",
        Counter,
        "Items that the exchange sent again and the bridge dropped.",
        ("channel",),
        (_CHANNELS,),
    ),
    Declaration(
        "live_duplicates_total",
        Counter,
        "Known items in live pushes, which the exchange should not send; not in lists or rotations.",
        ("channel",),
        (_CHANNELS,),
    ),
    Declaration(
        "gaps_total",
        Counter,
        "Gaps that could not be filled, by what caused them.",
        ("channel", "cause"),
        (_CHANNELS, _CAUSES),
    ),
    Declaration("events_total", Counter, "Events recorded, by their kind.", ("event",), (_KINDS,)),
    Declaration(
        "recovered_total",
        Counter,
        "Records recovered from the exchange's list of recent trades after an interruption.",
        ("channel",),
        (_CHANNELS,),
    ),
    Declaration(
        "book_checks_total",
        Counter,
        "Checks of present books: a snapshot was `equal` to the book or `different`; the book was `crossed`,"
        " or its best prices disagreed with the `ticker`, for too long.",
        ("result",),
        (RESULTS,),
    ),
    Declaration(
        "book_suspect",
        Gauge,
        "Present books that are under suspicion, until the snapshot that was requested comes.",
    ),
    Declaration(
        "partition_unavailable",
        Gauge,
        "1 while the partition has no leader or its topic is missing, so that its records wait, else 0.",
        ("topic", "partition"),
    ),
    Declaration(
        "kafka_errors_total", Counter, "Errors returned by Kafka or its client, by name.", ("error",)
    ),
    Declaration(
        "log_lines_dropped_total", Counter, "Lines of the log that nobody read in time, or that had no room."
    ),
)


class Metrics:
    """The metrics of one bridge, in a registry of their own.

    The first request for a metric creates its instrument; later ones return the same. Counters and histograms
    whose label values are known exist at 0 from the start, so that rates and alerts have a first sample.
    """

    def __init__(self) -> None:
        # What Prometheus scrapes; filled here, read by `Endpoints`.
        self.registry = CollectorRegistry()
        # The instruments by the values of their labels: those known from the start, and each other one from
        # its first use on. Never shrinks: a series that disappears breaks rates.
        self._instruments: dict[Declaration, dict[tuple[str, ...], Instrument]] = {}
        for declaration in DECLARATIONS:
            unknown = declaration.labels and not declaration.known
            values = () if unknown else product(*declaration.known)
            self._instruments[declaration] = {value: declaration.type() for value in values}
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def counter(self, name: str, **labels: str) -> Counter:
        """Return the counter, e.g. `counter("frames_total", shard="0")`.

        Raises:
            TypeError: no counter with this name and these labels is declared.
        """
        return self._instrument(Counter, name, labels)

    def gauge(self, name: str, **labels: str) -> Gauge:
        """Return the gauge, e.g. `gauge("pending_records")`; raises as `counter` does."""
        return self._instrument(Gauge, name, labels)

    def histogram(self, name: str, **labels: str) -> Histogram:
        """Return the histogram, e.g. `histogram("ping_seconds")`; raises as `counter` does."""
        return self._instrument(Histogram, name, labels)

    def collect(self) -> Iterator[Metric]:
        """Return the present value of every metric; the registry calls this on each scrape."""
        yield InfoMetricFamily(f"{PREFIX}build", "Version of the running bridge.", {"version": __version__})
        for declaration, instruments in self._instruments.items():
            name = PREFIX + declaration.name.removesuffix("_total")
            metric = Metric(name, declaration.meaning, declaration.type.kind)
            for values, instrument in instruments.items():
                labels = dict(zip(declaration.labels, values, strict=True))
                for suffix, more, figure in instrument.samples():
                    metric.add_sample(name + suffix, labels | more, figure)
            yield metric

    def _instrument(self, kind: type[InstrumentT], name: str, labels: Mapping[str, str]) -> InstrumentT:
        declaration = _BY_NAME.get(name)
        names = set(declaration.labels) if declaration else set()
        if declaration is None or declaration.type is not kind or names != labels.keys():
            raise TypeError(f"no {kind.kind} {name} with labels {', '.join(labels) or 'none'} is declared")
        instruments = self._instruments[declaration]
        instrument = instruments.setdefault(tuple(labels[one] for one in declaration.labels), kind())
        assert isinstance(instrument, kind)  # noqa: S101
        return instrument


_BY_NAME = {declaration.name: declaration for declaration in DECLARATIONS}
