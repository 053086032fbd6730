"""Whether the spool can be written to, found out by writing.

Permissions, a volume that is not mounted, a disk that is full or broken, a quota: nothing but a write shows
all of them. It is tried when nothing depends on it yet: the next outage of Kafka is too late to find out.
"""

import asyncio
import errno
import os
import threading
import uuid
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from bridge.spool.folder import PROBE, folder_of

log = structlog.get_logger(__name__)

EVERY = 60.0
"""Seconds between two looks."""

AT_THE_START = 5.0
"""Seconds between two looks while the bridge waits for the spool."""

_PATIENCE = 30.0  # seconds in which the disk has to answer
_BLOCK = bytes(4096)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of the disk, of a quota, of a process's limit


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why the spool cannot be written to; `passes` if the bridge makes room by delivering what is spooled."""

    words: str
    passes: bool = False


class SpoolHealth:
    """Looks after the folders of the spool; `find` returns what is wrong with them, and may take its time."""

    def __init__(self, find: Callable[[], Trouble | None]) -> None:
        self.trouble: Trouble | None = Trouble("not tried yet")  # None: they can be written to
        self._find = find
        self._known: str | None = None  # the trouble that is in the log; None: none is
        self._looking: asyncio.Future[Trouble | None] | None = None  # the look under way: a disk may hang

    async def watch(self) -> None:
        """Look every minute, until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            await self.look()

    async def look(self) -> None:
        """Find out whether the spool can be written to, and log it if that has changed."""
        if self._looking is None:
            self._looking = asyncio.get_running_loop().create_future()
            # A daemon: the process does not wait for it. One at a time, however long a disk hangs.
            arguments = (self._looking, asyncio.get_running_loop())
            threading.Thread(target=self._ask, args=arguments, name="spool", daemon=True).start()
        done, _ = await asyncio.wait({self._looking}, timeout=_PATIENCE)
        if done:
            self.trouble, self._looking = self._looking.result(), None
        else:
            self.trouble = Trouble(f"the disk does not answer for {_PATIENCE:g} s")
        words = None if self.trouble is None else self.trouble.words
        if words is not None and words != self._known:
            log.error("spool not writable", error=words)
        elif words is None and self._known is not None:
            log.warning("spool writable again")
        self._known = words

    def _ask(self, answer: asyncio.Future[Trouble | None], loop: asyncio.AbstractEventLoop) -> None:
        """Find out, in a thread."""
        try:
            found = self._find()
        except Exception as error:  # noqa: BLE001 - else nobody would answer, and the disk be blamed for it
            found = Trouble(f"the look has failed: {error!r}")
        with suppress(RuntimeError):  # the loop may have been closed meanwhile
            loop.call_soon_threadsafe(_set, answer, found)


def _set(answer: asyncio.Future[Trouble | None], found: Trouble | None) -> None:
    if not answer.done():
        answer.set_result(found)


def trouble_of(directory: Path, topic_prefix: str, shards: Iterable[int]) -> Trouble | None:
    """Return what is wrong with the spools of these shards; None if they can be written to.

    Creates the directory if it is missing, as the first shard that needs its spool would.
    """
    folders = [folder_of(directory, topic_prefix, shard) for shard in shards]
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not all(os.path.lexists(folder) for folder in folders):
            try_to_write(directory.resolve())
        for folder in folders:
            if os.path.lexists(folder):
                try_to_write(folder)
    except OSError as error:
        passes = error.errno in _FULL and any(any(folder.glob("*.spool")) for folder in folders)
        return Trouble(f"{error.filename or directory}: {error.strerror}", passes)
    return None


def try_to_write(folder: Path) -> None:
    """Write a file in a folder, on the disk, and leave nothing behind.

    Raises:
        OSError: it cannot be written, with the folder as its `filename`. Links are not followed.
    """
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _write(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None


def _write(directory: int) -> None:
    name = None
    try:
        file = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=directory)
    except OSError as error:
        # Not every file system has files without a name; NFS has not.
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        name = f"{PROBE}{uuid.uuid4().hex}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, 0o600, dir_fd=directory)
    try:
        os.write(file, _BLOCK)
        os.fsync(file)
    finally:
        os.close(file)
        if name is not None:
            os.unlink(name, dir_fd=directory)
