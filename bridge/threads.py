"""Work that blocks, in a thread for which neither the event loop nor the end of the process waits."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[], T], name: str) -> T:
    """Return the result of some work that blocks, or raise its error."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        settle: partial[Any]
        try:
            settle = partial(done.set_result, work())
        except Exception as error:  # noqa: BLE001 - the caller gets it
            settle = partial(done.set_exception, error)
        with suppress(RuntimeError):  # the loop may have been closed meanwhile
            loop.call_soon_threadsafe(lambda: done.done() or settle())

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done
