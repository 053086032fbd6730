"""Measures everything in one run on one real Kafka, prints the report, and writes docs/performance.md.

The candidates of a comparison take turns, because the load of the machine changes from minute to minute.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from benchmarks import forms, measure, supply, trouble
from benchmarks.report import Comparison, Measured, Troubles, books_row, markdown, memory_row
from tests.support.kafka_broker import Broker

REPORT = Path(__file__).parents[1] / "docs" / "performance.md"
RATE = 2_000  # frames a second, when latencies are measured

_LONG = 5_000_000  # frames
_SOAK = 20  # minutes
_SOAK_RATE = 5_000  # frames a second

_console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much to measure."""

    turns: int  # of each comparison
    mix: int  # frames in a turn
    all_ticker: int  # frames in a turn
    seconds: int  # of each measurement of latencies
    growth: int  # frames over which memory is watched
    takeovers: int  # of each kind
    spooled: int  # frames that go to the spool
    kills: int


FULL = Extent(
    turns=5, mix=200_000, all_ticker=200, seconds=13, growth=1_000_000, takeovers=3, spooled=200_000, kills=20
)
QUICK = Extent(
    turns=1, mix=60_000, all_ticker=100, seconds=6, growth=200_000, takeovers=1, spooled=60_000, kills=3
)


def main() -> None:
    """Measure, print the report and write it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one turn, fewer frames; writes no report")
    parser.add_argument(
        "--books", action="store_true", help="measure only what order books cost; writes no report"
    )
    parser.add_argument(
        "--long",
        action="store_true",
        help=f"watch memory over {_LONG:,} frames, soak for {_SOAK} minutes",
    )
    options = parser.parse_args()
    extent = QUICK if options.quick else FULL
    growth = _LONG if options.long else extent.growth
    with Broker(heap_mib=512) as kafka, measure.Feeder(extent.mix) as feeder:
        measure.create_topics(kafka)
        if options.books:
            mix = _comparison(kafka, feeder, extent.turns, supply.MIX, extent.mix, measure.BOOK_SUBJECTS)
            print(books_row(mix), memory_row(measure.books_mb()), sep="\n")
            return
        measured = _measured(kafka, feeder, extent, growth)
        text = markdown(measured, _trouble(kafka, feeder, extent, _SOAK if options.long else 2))
    if not options.quick:
        REPORT.write_text(text)
    Console().print(Markdown(text))


def _measured(kafka: Broker, feeder: measure.Feeder, extent: Extent, growth_frames: int) -> Measured:
    results = forms.measure()
    _console.print(f"forms, the most relative to the usual one: {max(one.ratio for one in results):.2f}")
    comparisons = [
        _comparison(kafka, feeder, extent.turns, supply.MIX, extent.mix, measure.ALL_SUBJECTS),
        _comparison(kafka, feeder, extent.turns, supply.ALL_TICKER, extent.all_ticker, measure.SUBJECTS),
    ]
    latencies: dict[str, list[measure.Latency]] = {subject: [] for subject in measure.SUBJECTS}
    for turn in range(extent.turns):
        for subject, start in measure.SUBJECTS.items():
            latency = measure.latency(start, kafka, feeder, RATE * extent.seconds, RATE)
            _console.print(f"latency, turn {turn + 1}, {subject}: {_shown(latency)}")
            latencies[subject].append(latency)
    growth = measure.growth(measure.SUBJECTS[measure.EXACTLY_ONCE], kafka, feeder, growth_frames)
    _console.print(f"growth: {[round(mb) for mb in growth.tenths_mb]} MB, peak {growth.peak_mb:.0f}")
    books_mb = measure.books_mb()
    _console.print(f"books: {books_mb:.0f} MB")
    return Measured(results, comparisons, RATE, latencies, growth_frames, growth, books_mb)


def _trouble(kafka: Broker, feeder: measure.Feeder, extent: Extent, minutes: int) -> Troubles:
    takeovers = trouble.takeover(kafka, extent.takeovers)
    _console.print(takeovers)
    spooling = trouble.spooling(kafka, feeder, extent.spooled)
    _console.print(spooling)
    kills = trouble.kills(kafka, extent.kills, RATE)
    _console.print(kills)
    soak = trouble.soak(kafka, minutes, _SOAK_RATE)
    _console.print(soak)
    return Troubles(takeovers, spooling, kills, _SOAK_RATE, soak)


def _comparison(
    kafka: Broker,
    feeder: measure.Feeder,
    turns: int,
    kind: str,
    count: int,
    subjects: Mapping[str, measure.Start],
) -> Comparison:
    floors: list[measure.Floor] = []
    costs: dict[str, list[measure.Cost]] = {subject: [] for subject in subjects}
    for turn in range(turns):
        floors.append(measure.floor(feeder, kind, count))
        _console.print(f"{kind}, turn {turn + 1}, floor: {_shown(floors[-1])}")
        for subject, start in subjects.items():
            costs[subject].append(measure.cost(start, kafka, feeder, kind, count))
            _console.print(f"{kind}, turn {turn + 1}, {subject}: {_shown(costs[subject][-1])}")
    return Comparison(kind, count, floors, costs)


def _shown(figures: measure.Floor | measure.Cost | measure.Latency) -> str:
    return ", ".join(f"{name} {figure:.1f}" for name, figure in figures._asdict().items())


if __name__ == "__main__":
    main()
