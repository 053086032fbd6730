"""Whether the spool's folder is writable, with enough free space for `spool.max_bytes`."""

import os
import shutil
from pathlib import Path

from bridge.check.lines import Say
from bridge.config import Config, SpoolConfig
from bridge.spool.folder import folder_of

_MIB = 1024 * 1024


def check_disk(config: Config, say: Say) -> bool:
    """Print the free space of the spool's folder; return whether `run` could use it."""
    return _check_directory(config.spool, say) and _check_folders(config, say)


def _check_folders(config: Config, say: Say) -> bool:
    """Print which folders of shards cannot be used."""
    if not config.spool.max_bytes:
        return True
    usable = True
    for shard in range(config.kafka.shards):
        folder = folder_of(config.spool.dir.absolute(), config.kafka.topic_prefix, shard)
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            say(f"  {folder} is not a directory (links are not followed): remove it")
            usable = False
        elif folder.exists() and not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
            say(f"  {folder} is not writable: give it to the user of the bridge")
            usable = False
    return usable


def _check_directory(config: SpoolConfig, say: Say) -> bool:
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
