"""Whether the spool can be written, and has the room that it may take."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from bridge.config import SpoolConfig

_MIB = 1024 * 1024


def check_disk(config: SpoolConfig, say: Callable[[str], None]) -> bool:
    """Say how the spool's folder stands; return whether `run` could use it."""
    if not config.max_bytes:
        say("no spool: while Kafka is away, reading pauses when memory is full")
        return True
    say(f"the spool in {config.dir}")
    there = _existing(config.dir.absolute())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        say(f"  {there} is not a folder that can be written: set spool.dir, or spool.max_bytes = 0 for none")
        return False
    free = shutil.disk_usage(there).free
    if free < config.max_bytes:
        say(
            f"  {free // _MIB} MiB are free, spool.max_bytes is {config.max_bytes // _MIB} MiB: "
            f"make room, or set spool.max_bytes = {free // 2}"
        )
        return False
    say(f"  {free // _MIB} MiB are free, it takes {config.max_bytes // _MIB} MiB at most")
    return True


def _existing(path: Path) -> Path:
    """Return the folder, or the one in which it would be made."""
    return path if path.exists() or path == path.parent else _existing(path.parent)
