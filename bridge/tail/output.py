"""The standard output of `tail`, whose reader may be slow, stop reading, or go away."""

import asyncio
import os
import sys
from collections.abc import Callable


class Output:
    """Writes lines to the standard output; while its reader does not read, nothing else is done.

    Without a buffer: what a stuck reader has not read when the command is stopped is dropped, and the end of
    the process does not wait for it either.
    """

    def __init__(self) -> None:
        self._descriptor = sys.stdout.fileno()
        self._writing = False  # whether a line is being written, which may take for ever
        self.is_terminal = os.isatty(self._descriptor)

    @property
    def width(self) -> int | None:
        """The characters of a line of the terminal as it is now; None if it is none."""
        columns = os.get_terminal_size(self._descriptor).columns if self.is_terminal else 0
        return columns or None  # some terminals say 0

    def write(self, line: str) -> None:
        """Write a line.

        Raises:
            OSError: it cannot be written; BrokenPipeError if its reader is gone.
        """
        rest = f"{line}\n".encode(errors="replace")
        self._writing = True
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        finally:
            self._writing = False

    def stop(self, otherwise: Callable[[], object]) -> None:
        """Leave a line that is being written, since its reader may be stuck; `otherwise`, if there is none.

        For a handler of signals, which interrupts what is written.
        """
        if self._writing:
            raise asyncio.CancelledError
        otherwise()
