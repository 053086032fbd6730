"""Common parts of the lines that `check` prints."""

from collections.abc import Callable

Say = Callable[[str], None]
"""Where a line goes: to the standard output, or to a test."""


def plural(number: int, noun: str) -> str:
    """Return a number with its noun: "1 partition", "12 partitions"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
