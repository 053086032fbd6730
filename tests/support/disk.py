"""Damages files, makes the disk appear full, or another user's."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def damage(path: Path, at: int) -> None:
    """Change one byte of a file."""
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """Prevent files from growing beyond `size` bytes, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def another_user() -> Iterator[None]:
    """Be nobody, to whom permissions apply, if this user is root."""
    if (me := os.geteuid()) == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(me)
