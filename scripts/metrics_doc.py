"""Write `docs/metrics.md` from the declarations of `bridge.watch.metrics`."""

from collections.abc import Iterator
from pathlib import Path

from bridge.watch.metrics import DECLARATIONS, PREFIX, Histogram

TARGET = Path(__file__).parents[1] / "docs" / "metrics.md"

INTRODUCTION = f"""\
# Metrics

<!-- Written by `python scripts/metrics_doc.py` from the declarations in bridge/watch/metrics.py. -->

Served at `/metrics` as Prometheus text, or OpenMetrics when asked for. Every name begins with `{PREFIX}`.
Series of counters and histograms whose label values are listed here are there at 0 from the start; the others
appear with their first value. A histogram's buckets end at
{", ".join(f"{bound:g}" for bound in Histogram.bounds)} seconds.

Besides: `{PREFIX}build_info` with the label `version`, and the usual `process_*` and `python_*`.
"""


def document() -> str:
    """Return the whole text of the document."""
    return "\n".join([INTRODUCTION, *_table()]) + "\n"


def _table() -> Iterator[str]:
    yield "| name | type | label | meaning |"
    yield "|---|---|---|---|"
    for metric in DECLARATIONS:
        label = f"`{metric.label}`" if metric.label else ""
        if metric.known:
            label += ": " + ", ".join(f"`{value}`" for value in metric.known)
        yield f"| `{metric.name}` | {metric.type.kind} | {label} | {metric.meaning} |"


if __name__ == "__main__":
    TARGET.write_text(document())
