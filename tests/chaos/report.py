"""Judges a chaos run and says what happened in it, for people. Pure."""

import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from bridge.simulator import parse_dialect
from tests.chaos.plan import Plan
from tests.chaos.replica import Life
from tests.chaos.run import REPLY_TIMEOUT, Seen
from tests.chaos.verifier import Conditions, Verdict, Violation, verify

_SECOND = 1_000_000  # µs

UNITS_US = {
    "milliseconds": (1_000,),
    "whole": (_SECOND,),
    "mixed": (1, 1_000),
    "rounded": (1, _SECOND),
}
"""To what the time of a trade may be rounded, in µs, by the dialect of its times."""

_MIB = 1024 * 1024
_MEMORY = 128 * _MIB  # bytes that a bridge may use besides what its settings allow it to hold
# By how much a replica may be larger in the last third of a run than in the third before.
_GROWTH, _MORE = 1.3, 20 * _MIB
_SAMPLES = 600  # of memory, from which on growth is looked at: five minutes
_SHOWN = 6  # violations of one kind that are shown in full
_AROUND = 5 * _SECOND  # of a violation: what is shown of events and actions
_WRONG = (
    "internal error",
    "Traceback (most recent call last)",
    "Unclosed",
    "was never awaited",
    "never retrieved",
    "Task was destroyed",
)
# The columns of the table: words first, then figures that can be added, then the largest memory of a process.
_COLUMNS = (
    "seed",
    "delivery",
    "replicas",
    "seconds",
    "actions",
    "processes",
    "trades",
    "trades on Kafka",
    "trades in gaps",
    "gaps",
    "gaps filled",
    "depth records",
    "holes in seq",
    "dead letters",
    "order records",
    "order in gaps",
    "balance records",
    "balance in gaps",
    "violations",
    "memory_mib",
)
_KEPT = 400  # characters of a log line


def judge(plan: Plan, seen: Seen) -> Verdict:
    """Return what a run has shown, from its records, its processes and their logs."""
    conditions = Conditions(
        delivery=plan.settings.delivery,
        reply_timeout=REPLY_TIMEOUT,
        units_us=UNITS_US.get(parse_dialect(plan.settings.dialect).trade_times, (1,)),
        accounts={"key": "main"},
        running=[interval for lives in seen.lives for life in lives for interval in _running(life)]
        if plan.settings.replicas == 1
        else _all_running(seen.lives),
        broker_down=seen.broker_down,
        starved=[interval for lives in seen.lives for life in lives for interval in life.starved],
    )
    verdict = verify(seen.records, seen.history, conditions)
    for failure in seen.failures:
        verdict.add("did not end", failure)
    for number, (lives, log) in enumerate(zip(seen.lives, seen.logs, strict=True)):
        _check_processes(number, lives, verdict)
        _check_log(number, log, verdict)
        _check_memory(number, lives, plan.settings.max_pending_bytes, verdict)
    return verdict


def lines(plan: Plan, seen: Seen, verdict: Verdict) -> Iterator[str]:
    """Return the report of a run."""
    actions = Counter(action.kind for action in plan.actions)
    yield f"actions: {', '.join(f'{number} {kind}' for kind, number in sorted(actions.items()))}"
    for name, value in sorted(verdict.figures.items()):
        yield f"{name}: {value}"
    yield f"memory, MiB: {_memory(seen)}"
    by_kind: defaultdict[str, list[Violation]] = defaultdict(list)
    for violation in verdict.violations:
        by_kind[violation.kind].append(violation)
    for kind, violations in by_kind.items():
        yield f"VIOLATION {kind}: {len(violations)}"
        for violation in violations[:_SHOWN]:
            yield f"  {_since(seen, violation.at_us)} {violation.subject} {violation.what}"
        first = violations[0]
        if first.at_us:
            yield from _around(plan, seen, first)
    yield f"{len(verdict.violations)} violations, seed {plan.seed}"


def figures(plan: Plan, seen: Seen, verdict: Verdict) -> dict[str, Any]:
    """Return the figures of a run as one flat object."""
    settings = plan.settings
    return {
        "seed": plan.seed,
        "seconds": plan.seconds,
        "delivery": settings.delivery,
        "replicas": settings.replicas,
        "actions": len(plan.actions),
        "violations": len(verdict.violations),
        "memory_mib": _largest(seen),
        **dict(sorted(verdict.figures.items())),
    }


def table(runs: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Return the figures of several runs as a table in Markdown, with their sum."""
    yield f"| {' | '.join(_COLUMNS)} |"
    yield "|---" * len(_COLUMNS) + "|"
    total: Counter[str] = Counter()
    for one in runs:
        total.update({name: value for name, value in one.items() if isinstance(value, int | float)})
        yield f"| {' | '.join(str(one.get(name, 0)) for name in _COLUMNS)} |"
    total["memory_mib"] = 0
    yield f"| all | | | {' | '.join(f'{total[name]:g}' for name in _COLUMNS[3:-1])} | |"


def _running(life: Life) -> list[tuple[int, int]]:
    """Return when a process ran and was not frozen."""
    intervals, begin = [], life.begun_us
    for frozen, resumed in life.frozen:
        intervals.append((begin, frozen))
        begin = resumed
    return [*intervals, (begin, life.ended_us or 2**62)]


def _all_running(replicas: Sequence[Sequence[Life]]) -> list[tuple[int, int]]:
    """Return when all replicas ran: which of them served a symbol is not known."""
    each = [[interval for life in lives for interval in _running(life)] for lives in replicas]
    both = [(max(a, c), min(b, d)) for (a, b), (c, d) in itertools.product(*each)]
    return sorted((begin, end) for begin, end in both if begin < end)


def _check_processes(number: int, lives: Sequence[Life], verdict: Verdict) -> None:
    verdict.figures["processes"] += len(lives)
    for life in lives:
        allowed = {0} if life.stopped else {-9}
        if life.stopped and not life.listening:
            allowed.add(-15)  # before it had taken over the handling of the signal
        if life.status not in allowed:
            what = f"exit status {life.status}, {'stopped' if life.stopped else 'killed'}"
            verdict.add("exit status", what, f"replica {number}", life.ended_us or 0)


def _check_log(number: int, log: Sequence[Mapping[str, Any]], verdict: Verdict) -> None:
    for line in log:
        if str(line.get("logger")).startswith("aiokafka"):
            continue  # it logs its errors with tracebacks, and the bridge deals with them
        text = " ".join(str(value) for value in line.values())
        if any(wrong in text for wrong in _WRONG):
            verdict.add("log", text[-_KEPT:], f"replica {number}")


def _check_memory(number: int, lives: Sequence[Life], pending: int, verdict: Verdict) -> None:
    for life in lives:
        if max(life.memory, default=0) > _MEMORY + 3 * pending:
            what = f"{max(life.memory) // _MIB} MiB"
            verdict.add("memory", what, f"replica {number}", life.begun_us)
    # Of one process after another, since what is saved and read again can grow too.
    thirds = _thirds([sample for life in lives for sample in life.memory])
    if thirds and thirds[2] > thirds[1] * _GROWTH + _MORE:
        what = f"from {thirds[1] // _MIB} to {thirds[2] // _MIB} MiB"
        verdict.add("memory grows", what, f"replica {number}", lives[-1].begun_us)


def _thirds(memory: Sequence[int]) -> list[int]:
    """Return the median memory in each third of a run; none of a run that is too short to say anything."""
    if len(memory) < _SAMPLES:
        return []
    third = len(memory) // 3
    parts = memory[:third], memory[third:-third], memory[-third:]
    return [round(statistics.median(part)) for part in parts]


def _memory(seen: Seen) -> str:
    """Return the largest memory of each process in the order of starting them, and how it went on."""
    said = []
    for lives in seen.lives:
        largest = " ".join(str(max(life.memory, default=0) // _MIB) for life in lives)
        thirds = _thirds([sample for life in lives for sample in life.memory])
        trend = " → ".join(str(one // _MIB) for one in thirds)
        said.append(f"{largest}, median by thirds {trend}" if thirds else largest)
    return " | ".join(said)


def _largest(seen: Seen) -> int:
    return max(max(life.memory, default=0) for lives in seen.lives for life in lives) // _MIB


def _since(seen: Seen, at_us: int) -> str:
    return f"{(at_us - seen.begun_us) / _SECOND:8.2f} s" if at_us else " " * 10


def _around(plan: Plan, seen: Seen, violation: Violation) -> Iterator[str]:
    """Return the actions and events around a violation."""
    moments = []
    for action in plan.actions:
        at_us = seen.begun_us + round(action.at * _SECOND)
        if abs(at_us - violation.at_us) < _AROUND:
            moments.append((at_us, str(action)[12:]))
    for event in seen.records.get("events", ()):
        concerned = violation.subject in (event["symbol"], event["account"])
        general = event["symbol"] is None and event["account"] is None
        if abs(event["received_us"] - violation.at_us) < _AROUND and (concerned or general):
            told = {name: value for name, value in event.items() if value is not None}
            for name in ("schema", "received_us"):
                told.pop(name)
            moments.append((event["received_us"], f"    event {told}"))
    for at_us, what in sorted(moments):
        yield f"      {_since(seen, at_us)} {what}"
