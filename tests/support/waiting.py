"""Wait for a condition, with a deadline, instead of sleeping."""

import asyncio
import time
from collections.abc import Callable

_POLL = 0.02


def eventually(condition: Callable[[], object], deadline: float, what: str) -> None:
    """Return as soon as `condition` holds; fail after `deadline` seconds, naming `what` was waited for."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"not within {deadline:g} s: {what}"
        time.sleep(_POLL)


async def soon(condition: Callable[[], object], deadline: float, what: str) -> None:
    """Do as `eventually` does, in a coroutine."""
    end = time.monotonic() + deadline
    while not condition():
        assert time.monotonic() < end, f"not within {deadline:g} s: {what}"
        await asyncio.sleep(_POLL)
