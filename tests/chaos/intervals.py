"""Intervals of time, as pairs of their begin and end. Pure."""

from collections.abc import Iterable
from typing import TypeAlias

Interval: TypeAlias = tuple[int, int]


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """Return intervals in order, those that overlap or touch made one; empty ones are left out."""
    result: list[Interval] = []
    for begin, end in sorted(intervals):
        if end <= begin:
            continue
        if result and begin <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((begin, end))
    return result


def overlap(intervals: Iterable[Interval], begin: int, end: int) -> int:
    """Return how much of the time from `begin` to `end` is inside intervals that do not overlap."""
    return sum(max(0, min(end, finish) - max(begin, start)) for start, finish in intervals)
