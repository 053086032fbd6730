"""Waits for a condition instead of sleeping.

Deadlines are given for a quiet machine, and stretched, since machines that run tests are shared: a wait that
succeeds costs nothing.
"""

import asyncio
import time
from collections.abc import Callable

STRETCH = 6
"""By how much a busy machine may be slower."""

_POLL = 0.02  # seconds


def eventually(condition: Callable[[], object], deadline: float, what: str, every: float = _POLL) -> None:
    """Return as soon as `condition` holds; fail, with `what`, after `deadline` seconds, stretched.

    It is tried `every` so many seconds.
    """
    end = time.monotonic() + deadline * STRETCH
    while not condition():
        assert time.monotonic() < end, f"not within {deadline * STRETCH:g} s: {what}"
        time.sleep(every)


async def soon(condition: Callable[[], object], deadline: float, what: str) -> None:
    """Do as `eventually` does, in a coroutine."""
    end = time.monotonic() + deadline * STRETCH
    while not condition():
        assert time.monotonic() < end, f"not within {deadline * STRETCH:g} s: {what}"
        await asyncio.sleep(_POLL)
