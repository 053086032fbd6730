"""The stop of this process by SIGTERM, SIGINT or SIGHUP, which is a clean one at any moment.

What a signal does depends on how far the process is:

    imports           it is noted: whoever imports may swallow an exception
    the command       it exits
    its event loop    it is noted while the loop comes up, which would not survive an exception either;
                      then it is passed on, so that the command can deliver what it has
    the end           it is ignored

Imports nothing that takes time: a signal before `listen` kills the process.
"""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Stop:
    """Whether the process was asked to stop, and what that does at the moment."""

    def __init__(self) -> None:
        self._asked = False  # never reset
        self._act: Callable[[], object] | None = None  # what a signal does; None: it is only noted

    def listen(self) -> None:
        """Note signals from now on; not SIGHUP if the process was started to survive it, as by nohup."""
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._take)

    def ignores(self) -> None:
        """Ignore signals from now on: Python takes handlers away some time before the process ends."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)

    def exits(self, status: int) -> None:
        """Have a stop end the process with this exit status, also one that was asked for already."""
        self._become(lambda: sys.exit(status))

    def waits(self) -> None:
        """Have a stop noted, for the next `exits` or `calls`."""
        self._act = None

    @contextmanager
    def calls(self, act: Callable[[], object]) -> Iterator[None]:
        """Have a stop call `act`, also one that was asked for already; within the context, and none after it.

        `act` is called between any two instructions of the main thread.
        """
        self._become(act)
        try:
            yield
        finally:
            self.waits()

    def _become(self, act: Callable[[], object]) -> None:
        self._act = act
        if self._asked:
            act()

    def _take(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        self._asked = True
        if self._act is not None:
            self._act()


STOP = Stop()
"""The stop of this process: like its signals, there is one."""
