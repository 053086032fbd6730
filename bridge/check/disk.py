"""Whether the spool's folders are writable, with enough free space for `spool.max_bytes`."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from bridge.check.lines import Say
from bridge.config import Config
from bridge.spool.folder import folder_of
from bridge.spool.health import try_to_write

_MIB = 1024 * 1024


def check_disk(config: Config, say: Say) -> bool:
    """Print the free space of the spool's folder; return whether `run` could use it."""
    if not config.spool.max_bytes:
        say("no spool: reading pauses when Kafka is unavailable and memory is full")
        return True
    directory = config.spool.dir.absolute()
    say(f"spool in {config.spool.dir}")
    problems = list(_problems(directory, config))
    for problem in problems:
        say(f"  {problem}")
    return not problems and _check_space(_existing(directory), config.spool.max_bytes, say)


def _problems(directory: Path, config: Config) -> Iterator[str]:
    """Return why the directory, or the folders of shards in it, cannot be used."""
    folders = [_existing(directory)]
    for shard in range(config.kafka.shards):
        folder = folder_of(directory, config.kafka.topic_prefix, shard)
        if os.path.lexists(folder):
            folders.append(folder)
    for folder in folders:
        is_shard = folder.parent == directory
        if not os.path.isdir(folder) or (is_shard and os.path.islink(folder)):  # noqa: PTH112, PTH114
            what = "remove it" if is_shard else "set spool.dir, or spool.max_bytes = 0 for no spool"
            yield f"{folder} is not a directory{' (links are not followed)' if is_shard else ''}: {what}"
            continue
        try:
            try_to_write(folder if is_shard else folder.resolve())
        except OSError as error:
            yield (
                f"{folder} is not writable ({error.strerror}): give it to the user of the bridge, "
                f"{os.geteuid()}, set spool.dir, or spool.max_bytes = 0 for no spool"
            )


def _check_space(folder: Path, wanted: int, say: Say) -> bool:
    free = shutil.disk_usage(folder).free
    if free < wanted:
        say(
            f"  {free // _MIB} MiB free, spool.max_bytes is {wanted // _MIB} MiB: "
            f"free some space, or set spool.max_bytes = {free // 2}"
        )
        return False
    say(f"  {free // _MIB} MiB free, maximum size {wanted // _MIB} MiB")
    return True


def _existing(path: Path) -> Path:
    """Return the folder, or the closest parent that can be seen."""
    return path if os.path.lexists(path) or path == path.parent else _existing(path.parent)
