"""Standard error, written by a thread of its own, so that nobody waits for whoever reads it.

A pipe takes 64 KiB. When its reader stops reading, as a stuck log collector does, the next write blocks until
it reads again, and with it would block the event loop, every session and `/healthz`. Here only the thread
blocks. What it cannot write waits in memory; beyond `MOST_BYTES` the oldest lines are dropped, and counted:
the newest are those that explain how a process has ended.
"""

import atexit
import io
import os
import select
import sys
import threading
import time
from collections import deque

import structlog

from bridge.watch.metrics import Counter

log = structlog.get_logger(__name__)

MOST_BYTES = 1024 * 1024
"""Bytes that may wait to be written."""

_APART = 10.0  # seconds from one report of dropped lines to the next, while the reader is too slow
_LAST = 1.0  # seconds that the end of the process waits for the last lines to be written


class Stderr(io.TextIOBase):
    """A text stream to a file descriptor whose `write` never blocks."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        # Writes that were dropped, lines as a rule: they were too many, or the descriptor refused them.
        self._dropped = Counter()
        self._descriptor = descriptor
        self._waiting: deque[bytes] = deque()  # the oldest first
        self._bytes = 0  # of all of them
        self._reports: deque[bytes] = (
            deque()
        )  # lines of the thread itself, which are written in front of them
        self._unreported = 0  # dropped since the last "log lines dropped"
        self._reported_at = -_APART  # when that was written, on the monotonic clock
        self._accepts = True  # whether the descriptor has taken the last line
        self._busy = False  # whether the thread is writing a line, or reporting
        # Its lock protects everything above. It is reentrant: a warning may be printed at any time.
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="stderr", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Have text written, or dropped if what waits is too much already."""
        line = text.encode(errors="backslashreplace")
        with self._changed:
            if threading.current_thread() is self._thread:
                self._reports.append(line)
            else:
                self._waiting.append(line)
                self._bytes += len(line)
                while self._bytes > MOST_BYTES:
                    self._bytes -= len(self._waiting.popleft())
                    self._drop()
            self._changed.notify_all()
        return len(text)

    def drain(self, seconds: float) -> bool:
        """Wait until everything is written, for so long at most; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: not (self._waiting or self._reports or self._busy), seconds)

    def count_in(self, counter: Counter) -> None:
        """Count what is dropped in another counter, including what was dropped before."""
        with self._changed:
            counter.value += self._dropped.value
            self._dropped = counter

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(self._descriptor)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def _run(self) -> None:
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._waiting or self._reports or self._has_to_report)
                self._busy = True
                number, line = 0, b""
                if self._reports:
                    line = self._reports.popleft()
                elif self._has_to_report:
                    number, self._unreported = self._unreported, 0
                    self._reported_at = time.monotonic()
                else:
                    line = self._waiting.popleft()
                    self._bytes -= len(line)
            if number:
                log.warning("log lines dropped", lines=number)
            else:
                self._accepts = self._put(line)

    @property
    def _has_to_report(self) -> bool:
        # A descriptor that refuses lines would refuse the report, too. A reader that is slow for good would
        # get a report for each line that it reads; if nothing waits, it has caught up.
        is_due = not self._waiting or time.monotonic() >= self._reported_at + _APART
        return self._unreported > 0 and self._accepts and is_due

    def _put(self, line: bytes) -> bool:
        """Write a line; return whether the descriptor has taken it."""
        rest = memoryview(line)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # whoever started the process has made it non-blocking
                waiting = select.poll()
                waiting.register(self._descriptor, select.POLLOUT)
                waiting.poll()
            except OSError:  # its reader is gone, its disk is full
                with self._changed:
                    self._drop()
                return False
        return True

    def _drop(self) -> None:
        self._unreported += 1
        self._dropped.value += 1


def take_over() -> Stderr:
    """Make `sys.stderr` a stream that never blocks, and return it; the end of the process drains it."""
    if isinstance(sys.stderr, Stderr):
        return sys.stderr
    # None if the process was started without one. Its number may then be that of a socket by now.
    descriptor = os.open(os.devnull, os.O_WRONLY) if sys.stderr is None else sys.stderr.fileno()
    stream = sys.stderr = Stderr(descriptor)
    atexit.register(stream.drain, _LAST)
    return stream
