"""The report of a probe, as lines or as JSON; pure."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from bridge.exchange.assumptions import ASSUMPTIONS
from bridge.probe.findings import Findings, Verdict
from bridge.probe.messages import Messages
from bridge.probe.steps import Timed

_WIDTH = max(map(len, ASSUMPTIONS))


def lines(messages: Messages, timed: Timed, seconds: float) -> Iterator[str]:
    """Yield the lines of the report: what does not hold first, each with what shows it."""
    findings = messages.findings
    for verdict in (Verdict.DOES_NOT_HOLD, Verdict.HOLDS, Verdict.NOT_SEEN):
        named = [name for name, finding in findings.of.items() if finding.verdict is verdict]
        if named:
            yield f"{verdict}:"
        for name in named:
            yield from _finding(name, findings)
    yield "measured:"
    for key, value in measured(messages, timed, seconds).items():
        yield f"  {key}: {_words(value)}"
    costly = findings.costs_data
    yield f"data would be lost: {', '.join(costly)}" if costly else "no assumption failed that costs data"


def _finding(name: str, findings: Findings) -> Iterator[str]:
    finding, row = findings.of[name], ASSUMPTIONS[name]
    yield f"  {name:{_WIDTH}}  {row.assumed}"
    if finding.evidence:
        times = f" ({finding.failed} of {finding.failed + finding.held})" if finding.failed else ""
        yield f"  {'':{_WIDTH}}  {finding.evidence}{times}"
    if finding.verdict is Verdict.DOES_NOT_HOLD:
        yield f"  {'':{_WIDTH}}  so: {row.otherwise}"


def as_json(messages: Messages, timed: Timed, seconds: float) -> bytes:
    """Return the report as one JSON object."""
    rows = [
        {
            "name": name,
            "assumed": ASSUMPTIONS[name].assumed,
            "basis": ASSUMPTIONS[name].basis,
            "verdict": finding.verdict,
            "evidence": finding.evidence or None,
            "held": finding.held,
            "failed": finding.failed,
            "costs_data": ASSUMPTIONS[name].costs_data,
        }
        for name, finding in messages.findings.of.items()
    ]
    report = {"assumptions": rows, "measured": measured(messages, timed, seconds)}
    return orjson.dumps(report, option=orjson.OPT_INDENT_2)


def measured(messages: Messages, timed: Timed, seconds: float) -> Mapping[str, Any]:
    """Return what was measured, in seconds, bytes and pushes a second."""
    known, pings = messages.measured, timed.pings
    middle = None
    if timed.offset is not None:
        low, high = timed.offset
        middle = {"seconds": round((low + high) / 2, 3), "error": round((high - low) / 2, 3)}
    return {
        "ping_seconds": {
            "min": round(min(pings), 4),
            "median": round(statistics.median(pings), 4),
            "max": round(max(pings), 4),
        }
        if pings
        else None,
        "clock_offset": middle,
        "pushes_a_second": {name: round(n / seconds, 2) for name, n in sorted(known.pushes.items())},
        "frames": dict(sorted(known.forms.items())),
        "other_fields": sorted(known.other_fields),
        "largest_message_bytes": known.largest,
        "trades_in_a_list": None
        if known.longest_list is None
        else {"shortest": known.shortest_list, "longest": known.longest_list},
        "markets_named": len(messages.markets),
        "limits": timed.limits,
    }


def _words(value: object) -> str:
    match value:
        case None:
            return "not seen"
        case dict() | list() if not value:
            return "none"
        case dict():
            return ", ".join(f"{name} {one}" for name, one in value.items())
        case list():
            return "; ".join(map(str, value))
        case _:
            return str(value)
