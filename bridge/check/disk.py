"""Whether the spool's folder is writable, with enough free space for `spool.max_bytes`."""

import os
import shutil
from pathlib import Path

from bridge.check.lines import Say
from bridge.config import SpoolConfig

_MIB = 1024 * 1024


def check_disk(config: SpoolConfig, say: Say) -> bool:
    """Print the free space of the spool's folder; return whether `run` could use it."""
    if not config.max_bytes:
        say("no spool: reading pauses when Kafka is unavailable and memory is full")
        return True
    say(f"spool in {config.dir}")
    folder = _existing(config.dir.absolute())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        say(f"  {folder} is not a writable directory: set spool.dir, or spool.max_bytes = 0 for no spool")
        return False
    free = shutil.disk_usage(folder).free
    if free < config.max_bytes:
        say(
            f"  {free // _MIB} MiB free, spool.max_bytes is {config.max_bytes // _MIB} MiB: "
            f"free some space, or set spool.max_bytes = {free // 2}"
        )
        return False
    say(f"  {free // _MIB} MiB free, maximum size {config.max_bytes // _MIB} MiB")
    return True


def _existing(path: Path) -> Path:
    """Return the folder, or the closest parent that exists."""
    return path if path.exists() or path == path.parent else _existing(path.parent)
