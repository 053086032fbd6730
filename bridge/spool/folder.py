"""The folder of a spool: the only place that opens, creates and deletes its files; it trusts none of them.

Everything goes through a descriptor of the folder, without following links, so that what others do to the
path changes nothing. Files are read if nobody else can have put them there: the folder is this user's, or its
group is one of this process's, as on a Kubernetes volume with an `fsGroup`, and not everybody can write to
it. Everything else is named in the log and left alone; docs/security.md has the reasons.
"""

import contextlib
import fcntl
import os
import re
import stat
from collections import defaultdict
from io import FileIO
from pathlib import Path
from typing import BinaryIO

import structlog

log = structlog.get_logger(__name__)

LOCK = "lock"

PROBE = "probe-"
"""What the name of a file begins with that is there for a moment only, to find out whether it can be."""

SEGMENT = re.compile(r"[0-9]{12}\.spool", re.ASCII)
"""The name of a segment."""

_LAST = 999_999_999_999  # the highest number that a segment's name has room for
# A FIFO must not block, a link must not lead elsewhere, and a child process must not inherit a descriptor.
_SAFELY = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NAMED = 5  # files that one log line names at most


def folder_of(directory: Path, topic_prefix: str, shard: int) -> Path:
    """Return the folder of a shard's spool: below the configured directory, each shard has its own."""
    return directory / f"{topic_prefix}-{shard}"


def open_segment(path: Path) -> BinaryIO:
    """Open a segment of a folder that is not opened, for a look that decides nothing.

    Raises:
        OSError: it is gone, or no regular file.
    """
    file = os.open(path, os.O_RDONLY | _SAFELY)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise OSError(f"{path} is not a regular file")
    return os.fdopen(file, "rb")


class Folder:
    """The folder of one spool, named `path`; nothing is read or created before `open`, or the first use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._directory: int | None = None  # its descriptor, from `open` to `close`
        self._lock: int | None = None  # the descriptor that holds the lock; may be that of the folder
        self._trusted = False  # whether nobody but this user or its group can have written to it

    def open(self) -> None:
        """Create the folder if it is missing, and lock it.

        Raises:
            OSError: it is not a directory, it cannot be read or created, or another process has locked it.
        """
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        above = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._name_strays(above)
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._path.name, 0o700, dir_fd=above)
            try:
                self._directory = os.open(self._path.name, os.O_DIRECTORY | _SAFELY, dir_fd=above)
            except OSError as error:
                detail = f"{error.strerror} (links are not followed)"
                raise OSError(error.errno, detail, str(self._path)) from None
        finally:
            os.close(above)
        self._close_to_others()
        self._acquire_lock()

    def segments(self) -> list[str]:
        """Return the names of the segments, the oldest first; log what else is in the folder."""
        names, others = self._sorted_out()
        for why, found in others.items():
            log.warning(
                "files in the spool directory left alone",
                folder=str(self._path),
                why=why,
                files=found.first,
                number=found.number,
            )
        return names

    def read(self, name: str) -> BinaryIO:
        """Open a segment.

        Raises:
            OSError: it is gone, it is no regular file any more, or the disk reports an error.
        """
        return os.fdopen(self._opened(name, os.O_RDONLY), "rb")

    def create(self, after: int) -> tuple[str, FileIO]:
        """Create the segment behind the one with this number, readable by this user alone.

        Raises:
            OSError: it can't be created.
        """
        names = set(os.listdir(self._fd))  # noqa: PTH208 - by descriptor
        number = after + 1
        while name_of(number) in names:  # damaged segments, and what is left alone
            number += 1
        if number > _LAST:
            raise OSError(f"{name_of(number)} would be no name of a segment")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFELY
        file = os.open(name_of(number), flags, 0o600, dir_fd=self._fd)
        with contextlib.suppress(OSError):  # the umask may have taken more than the others' rights
            os.fchmod(file, 0o600)
        return name_of(number), FileIO(file, "r+")

    def cut(self, name: str, size: int) -> bool:
        """Cut off the end of a segment; return False if it can't be done, or has a second name elsewhere."""
        try:
            file = self._opened(name, os.O_WRONLY)
        except OSError:
            return False
        try:
            if os.fstat(file).st_nlink > 1:
                return False
            os.ftruncate(file, size)
        except OSError:
            return False
        finally:
            os.close(file)
        return True

    def delete(self, name: str) -> None:
        """Delete a segment, if it is there.

        Raises:
            OSError: it can't be deleted.
        """
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._fd)

    def delete_all(self) -> None:
        """Delete all segments, damaged ones included, and nothing else.

        Raises:
            OSError: one of them can't be deleted.
        """
        for name in self._sorted_out()[0]:
            self.delete(name)

    def close(self) -> None:
        """Release the lock."""
        for descriptor in {self._lock, self._directory} - {None}:
            assert descriptor is not None  # noqa: S101 - for mypy
            os.close(descriptor)
        self._lock = self._directory = None

    @property
    def _fd(self) -> int:
        if self._directory is None:
            self.open()
        assert self._directory is not None  # noqa: S101 - it is open
        return self._directory

    def _close_to_others(self) -> None:
        """Find out whether the files can be trusted, and take the rights of others away."""
        about = os.fstat(self._fd)
        is_mine = about.st_uid == os.geteuid()
        is_ours = is_mine or about.st_gid in {os.getegid(), *os.getgroups()}
        self._trusted = is_ours and not about.st_mode & stat.S_IWOTH
        if not is_mine:
            if not self._trusted:
                log.warning("spool directory belongs to another user", folder=str(self._path))
            return
        # A folder that everybody could write to stays as it is while it has files of others: closed, it
        # would be trusted at the next start, and they with it.
        if self._trusted or not self._sorted_out()[1]:
            with contextlib.suppress(OSError):  # some file systems have no such rights
                os.fchmod(self._fd, 0o700)

    def _acquire_lock(self) -> None:
        """Lock the folder, by a file in it, because NFS takes no locks of folders; if need be, without."""
        try:
            self._lock = self._opened(LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        except _NotUsedError as error:
            # It is a link, a FIFO, a folder or another user's. Whoever else comes sees the same, which is not
            # so if it only cannot be created.
            log.warning(
                "files in the spool directory left alone",
                folder=str(self._path),
                why=str(error),
                files=[LOCK],
                number=1,
            )
            self._lock = self._fd
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BlockingIOError(error.errno, "another bridge uses this folder", str(self._path)) from None

    def _opened(self, name: str, flags: int, mode: int = 0) -> int:
        """Return a descriptor of a file, after a look at its kind: to open a device may have effects."""
        with contextlib.suppress(FileNotFoundError):
            self._require(name, os.stat(name, dir_fd=self._fd, follow_symlinks=False))
        file = os.open(name, flags | _SAFELY, mode, dir_fd=self._fd)
        try:
            self._require(name, os.fstat(file))
        except OSError:
            os.close(file)
            raise
        return file

    def _require(self, name: str, about: os.stat_result) -> None:
        if why := self._objection(about):
            raise _NotUsedError(f"{name}: {why}")

    def _objection(self, about: os.stat_result) -> str | None:
        """Return why a file is not used; None if it is."""
        if not stat.S_ISREG(about.st_mode):
            return "not a regular file"
        if self._trusted:
            return None
        if about.st_uid != os.geteuid():
            return "of another user, in a folder that others can write to"
        # Whoever can write to the folder can give any file of this user a second name there.
        return "with a second name elsewhere" if about.st_nlink > 1 else None

    def _sorted_out(self) -> tuple[list[str], dict[str, "_Others"]]:
        """Return the names of the segments, the oldest first, and the others by the reason to leave them."""
        names: list[str] = []
        others: dict[str, _Others] = defaultdict(_Others)
        with os.scandir(self._fd) as entries:
            for entry in entries:
                if entry.name == LOCK or entry.name.startswith(PROBE):
                    continue
                try:
                    about = entry.stat(follow_symlinks=False)
                except OSError:
                    continue  # it was deleted meanwhile
                if not SEGMENT.fullmatch(entry.name):
                    others["not the name of a segment"].add(entry.name)
                elif why := self._objection(about):
                    others[why].add(entry.name)
                else:
                    names.append(entry.name)
        return sorted(names), others

    def _name_strays(self, above: int) -> None:
        """Log segments that are not in the folder of a shard: nothing reads them there."""
        strays = _Others()
        with os.scandir(above) as entries:
            for entry in entries:
                if entry.name.endswith(".spool"):
                    strays.add(entry.name)
        if strays.number:
            log.warning(
                "files in the spool directory left alone",
                folder=str(self._path.parent),
                why="not in the folder of a shard",
                files=strays.first,
                number=strays.number,
            )


class _NotUsedError(OSError):
    """A file is left alone; the message says why."""


class _Others:
    """Files that are left alone: how many, and the names of the first of them."""

    def __init__(self) -> None:
        self.number = 0
        self.first: list[str] = []

    def add(self, name: str) -> None:
        """Count one more."""
        self.number += 1
        if len(self.first) < _NAMED:
            self.first.append(ascii(name))


def name_of(number: int) -> str:
    """Return the name of the segment with this number."""
    return f"{number:012d}.spool"


def number_of(name: str) -> int:
    """Return the number of the segment with this name."""
    return int(name.removesuffix(".spool"))
