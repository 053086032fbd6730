"""The configuration out of a TOML file and the environment."""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from bridge.config.sections import SECTIONS, Config
from bridge.errors import ConfigError

ENV_PREFIX = "BRIDGE_"
ENV_DELIMITER = "__"


def load(path: Path | None, environ: Mapping[str, str] = os.environ) -> Config:
    """Return the configuration of the file (None: defaults) and the environment, which wins.

    Raises:
        ConfigError: the first thing that is wrong, in one line with its key; never with a secret in it.
    """
    file = "" if path is None else str(path)
    tree = {} if path is None else _read(path)
    try:
        named = _overlay(tree, environ)
    except ConfigError as error:
        raise ConfigError(error.key, error.message, f"environment {env_name(error.key)}") from None
    folder = Path() if path is None else path.parent
    try:
        return Config.model_validate(tree, context={"folder": folder})
    except ConfigError as error:
        key, message = error.key, error.message
    except ValidationError as invalid:
        # A misspelt key explains why another one is missing.
        errors = sorted(invalid.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
        first, *more = errors
        key, message = ".".join(map(str, first["loc"])), _explain(first)
        message += f" (and {len(more)} more)" if more else ""
    variable = next((named[part] for part in _and_parents(key) if part in named), None)
    raise ConfigError(key, message, f"environment {variable}" if variable else file) from None


def env_name(key: str) -> str:
    """Return the environment's name of a key, e.g. `BRIDGE_HTTP__PORT` of `http.port`."""
    return ENV_PREFIX + key.upper().replace(".", ENV_DELIMITER)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError("", f"cannot read the configuration: {error.strerror}", str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("", f"is not TOML: {error}", str(path)) from None


def _overlay(tree: dict[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """Put the environment's values over the file's; return the variable's name by key.

    Only names with two underscores count, as Kubernetes sets BRIDGE_PORT and the like for a service of
    that name.
    """
    named: dict[str, str] = {}
    for name in sorted(environ):
        key = name.removeprefix(ENV_PREFIX).lower().replace(ENV_DELIMITER, ".")
        if not name.startswith(ENV_PREFIX) or ("." not in key and key != "accounts"):
            continue
        value: object = environ[name]
        if key == "accounts":
            try:
                value = json.loads(environ[name])
            except json.JSONDecodeError as error:
                raise ConfigError(key, f"is not JSON: {error}") from None
        _put(tree, key, value)
        named[key] = name
    return named


def _put(tree: dict[str, Any], key: str, value: object) -> None:
    """Set `value` at the dotted key; numbers index lists, the next one appends to it."""
    section, *rest = key.split(".")
    if section not in SECTIONS:
        raise ConfigError(key, _unknown(section, SECTIONS))
    if not rest:
        tree[section] = value
    elif section != "accounts":
        table = tree.setdefault(section, {})
        if isinstance(table, dict):
            table[".".join(rest)] = value
    else:
        accounts = tree.setdefault(section, [])
        number, *field = rest
        if not isinstance(accounts, list) or not number.isdecimal() or int(number) > len(accounts):
            raise ConfigError(key, "accounts are numbered from 0 without a gap")
        if int(number) == len(accounts):
            accounts.append({})
        if isinstance(accounts[int(number)], dict):
            accounts[int(number)][".".join(field)] = value


def _explain(error: ErrorDetails) -> str:
    """Return what is wrong and what to do, without the value: it may be a secret."""
    kind, where = error["type"], error["loc"]
    if kind == "extra_forbidden":
        section = SECTIONS.get(str(where[0])) if len(where) > 1 else None
        return _unknown(str(where[-1]), section.model_fields if section else SECTIONS)
    if kind == "missing":
        return "is missing"
    if kind == "string_pattern_mismatch":
        return "may only have letters, digits, '.', '_' and '-' in it, and must not be empty"
    message: str = error["msg"]
    return re.sub("^(Input|String) should", "must", message.removeprefix("Value error, "))


def _unknown(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return "unknown key" + (f", did you mean {near[0]}?" if near else f"; known are {', '.join(known)}")


def _and_parents(key: str) -> Iterator[str]:
    while key:
        yield key
        key = key.rpartition(".")[0]
