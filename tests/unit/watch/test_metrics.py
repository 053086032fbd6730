"""The metrics have the names of the contract, exist from the start, and are valid for Prometheus."""

import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder, generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from bridge import __version__
from bridge.watch.metrics import DECLARATIONS, Histogram, Metrics

ROOT = Path(__file__).parents[3]


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(f"digifinex_bridge_{name}", labels)


def test_the_metrics_of_the_contract_are_declared() -> None:
    """The names, types and labels that dashboards and alerts are written against."""
    contract = {
        ("connected", "gauge", ("shard",)),
        ("frames_total", "counter", ("shard",)),
        ("received_bytes_total", "counter", ("shard",)),
        ("records_total", "counter", ("channel",)),
        ("decompression_errors_total", "counter", ()),
        ("deadletters_total", "counter", ("reason",)),
        ("reconnects_total", "counter", ("reason",)),
        ("exchange_lag_seconds", "histogram", ("channel",)),
        ("delivery_lag_seconds", "histogram", ("channel",)),
        ("ping_seconds", "histogram", ()),
        ("clock_offset_seconds", "gauge", ()),
        ("last_push_timestamp_seconds", "gauge", ("channel",)),
        ("pending_records", "gauge", ()),
        ("pending_bytes", "gauge", ("part",)),
        ("duplicates_total", "counter", ("channel",)),
        ("gaps_total", "counter", ("channel", "cause")),
        ("recovered_total", "counter", ("channel",)),
        ("kafka_errors_total", "counter", ("error",)),
        ("events_total", "counter", ("event",)),
        ("live_duplicates_total", "counter", ("channel",)),
    }
    assert contract <= {(one.name, one.type.kind, one.labels) for one in DECLARATIONS}


def test_prometheus_sees_the_counted_values() -> None:
    metrics = Metrics()
    frames = metrics.counter("frames_total", shard="0")
    frames.value += 2
    metrics.counter("frames_total", shard="0").value += 1
    metrics.gauge("connected", shard="3").value = 1
    assert value(metrics.registry, "frames_total", shard="0") == 3
    assert value(metrics.registry, "connected", shard="3") == 1


def test_the_labels_of_a_metric_can_be_given_in_any_order() -> None:
    metrics = Metrics()
    metrics.counter("gaps_total", cause="closed", channel="trades").value += 1
    metrics.counter("gaps_total", channel="trades", cause="closed").value += 1
    assert value(metrics.registry, "gaps_total", channel="trades", cause="closed") == 2
    assert value(metrics.registry, "gaps_total", channel="trades", cause="stale") == 0


def test_a_gauge_can_call_a_function_on_each_scrape() -> None:
    metrics = Metrics()
    pending = [1, 2]
    metrics.gauge("pending_records").read = lambda: len(pending)
    assert value(metrics.registry, "pending_records") == 2
    pending.clear()
    assert value(metrics.registry, "pending_records") == 0


def test_a_histogram_bucket_includes_its_upper_bound() -> None:
    metrics = Metrics()
    ping = metrics.histogram("ping_seconds")
    ping.observe(0.01)
    ping.observe(0.02, 3)
    ping.observe(100)
    buckets = {
        bound: value(metrics.registry, "ping_seconds_bucket", le=bound)
        for bound in ("0.005", "0.01", "0.025", "60.0", "+Inf")
    }
    assert buckets == {"0.005": 0, "0.01": 1, "0.025": 4, "60.0": 4, "+Inf": 5}
    assert value(metrics.registry, "ping_seconds_count") == 5
    assert value(metrics.registry, "ping_seconds_sum") == pytest.approx(100.07)


def test_a_negative_lag_counts_as_zero() -> None:
    """A sum that shrinks would look like a restart to Prometheus."""
    metrics = Metrics()
    metrics.histogram("exchange_lag_seconds", channel="trades").observe(-5.0)
    assert value(metrics.registry, "exchange_lag_seconds_sum", channel="trades") == 0
    assert value(metrics.registry, "exchange_lag_seconds_bucket", channel="trades", le="0.001") == 1


def test_histogram_bounds_range_from_a_millisecond_to_a_minute() -> None:
    assert (Histogram.bounds[0], Histogram.bounds[-1]) == (0.001, 60.0)
    assert list(Histogram.bounds) == sorted(Histogram.bounds)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("records_total", {"channel": "order_algo"}),
        ("deadletters_total", {"reason": "unknown_method"}),
        ("reconnects_total", {"reason": "rotated"}),
        ("delivery_lag_seconds_count", {"channel": "trades"}),
        ("decompression_errors_total", {}),
        ("gaps_total", {"channel": "order", "cause": "takeover"}),
        ("events_total", {"event": "takeover"}),
        ("live_duplicates_total", {"channel": "trades"}),
    ],
)
def test_series_with_known_label_values_exist_from_the_start(name: str, labels: dict[str, str]) -> None:
    assert value(Metrics().registry, name, **labels) == 0


def test_books_have_no_delivery_lag_since_they_may_have_waited_until_they_were_due() -> None:
    """A series that nothing observes would say that books are delivered at once."""
    name = "delivery_lag_seconds_count"
    metrics = Metrics()
    assert value(metrics.registry, "records_total", channel="book") == 0
    assert metrics.registry.get_sample_value(f"digifinex_bridge_{name}", {"channel": "book"}) is None


def test_two_bridges_in_one_process_count_separately() -> None:
    one, other = Metrics(), Metrics()
    one.counter("decompression_errors_total").value += 1
    assert value(other.registry, "decompression_errors_total") == 0


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("frames", {"shard": "0"}),
        ("frames_total", {}),
        ("frames_total", {"channel": "x"}),
        ("gaps_total", {"channel": "trades"}),
        ("connected", {"shard": "0"}),
    ],
)
def test_an_undeclared_metric_raises(name: str, labels: dict[str, str]) -> None:
    with pytest.raises(TypeError, match=f"no counter {name}"):
        Metrics().counter(name, **labels)


def test_version_process_and_garbage_collector_metrics_exist() -> None:
    registry = Metrics().registry
    assert value(registry, "build_info", version=__version__) == 1
    assert registry.get_sample_value("process_cpu_seconds_total") is not None
    assert registry.get_sample_value("python_gc_collections_total", {"generation": "2"}) is not None


def test_promtool_accepts_the_metrics() -> None:
    promtool = shutil.which("promtool")
    assert promtool, "apt-get install prometheus"
    metrics = Metrics()
    metrics.counter("kafka_errors_total", error='odd "name"\n').value += 1
    checked = subprocess.run(
        [promtool, "check", "metrics"],
        input=generate_latest(metrics.registry),
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


def test_openmetrics_is_well_formed() -> None:
    encode, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
    text = encode(Metrics().registry).decode()
    families = text_string_to_metric_families(text)  # type: ignore[no-untyped-call]
    assert {"digifinex_bridge_frames", "digifinex_bridge_build"} <= {family.name for family in families}


def test_the_metrics_document_is_up_to_date() -> None:
    document = runpy.run_path(str(ROOT / "scripts" / "metrics_doc.py"))["document"]
    assert (ROOT / "docs" / "metrics.md").read_text() == document(), "run scripts/metrics_doc.py"
