"""Which files with secrets everybody on this machine can read."""

import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from bridge.config.sections import SECTIONS, Config

# Keys of files that may have a private key in them, though no other key is read from them.
_MAY_HAVE_KEY = {"ssl_keyfile", "ssl_certfile"}


def exposed(config: Config, path: Path | None) -> list[tuple[str, Path]]:
    """Return the key and the name of each file with a secret that everybody can read.

    `path` is the configuration file, whose key is empty: it counts if it has a secret in it.
    """
    files = [*_of_sections(config), *([("", path)] if path is not None and _has_secret(path) else [])]
    return [(key, file) for key, file in files if _is_readable_by_everybody(file)]


def _of_sections(config: Config) -> Iterator[tuple[str, Path]]:
    for name in Config.model_fields:
        found = getattr(config, name)
        if isinstance(found, BaseModel):
            yield from _of_section(name, found)
        else:
            for number, section in enumerate(found):
                yield from _of_section(f"{name}.{number}", section)


def _of_section(name: str, section: BaseModel) -> Iterator[tuple[str, Path]]:
    for key in type(section).model_fields:
        file = getattr(section, key)
        if not isinstance(file, Path):
            continue
        if _is_of_secret(type(section), key) or (key in _MAY_HAVE_KEY and _has_key(file)):
            yield f"{name}.{key}", file


def _is_of_secret(section: type[BaseModel], key: str) -> bool:
    """Return whether a key names the file of a secret: it has the name of the secret's own key in front."""
    return key.endswith("_file") and key.removesuffix("_file") in section.model_fields


def _has_secret(path: Path) -> bool:
    """Return whether a configuration file has the key of a secret."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    for name, section in SECTIONS.items():
        secrets = {key for key in section.model_fields if f"{key}_file" in section.model_fields}
        found = tree.get(name, {})
        if any(secrets & one.keys() for one in (found if isinstance(found, list) else [found])):
            return True
    return False


def _has_key(file: Path) -> bool:
    try:
        return b"PRIVATE KEY" in file.read_bytes()
    except OSError:
        return False


def _is_readable_by_everybody(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False
