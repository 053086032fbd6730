"""Loading the configuration from a TOML file and the environment."""

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

from bridge.config.encoding import text_of
from bridge.config.sections import SECTIONS, Config
from bridge.errors import ConfigError

ENV_PREFIX = "BRIDGE_"
ENV_DELIMITER = "__"


def load(path: Path | None, environ: Mapping[str, str] = os.environ) -> Config:
    """Return the configuration from a file (None: no file) and the environment, which takes precedence.

    Raises:
        ConfigError: the first error, in one line with its key; it never contains a value that may be secret.
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
        # First report a misspelt key: it may be the reason why another key is missing.
        errors = sorted(invalid.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
        first, *more = errors
        key, message = ".".join(map(str, first["loc"])), _explain(first)
        message += f" (and {len(more)} more)" if more else ""
    variable = next((named[part] for part in _and_parents(key) if part in named), None)
    raise ConfigError(key, message, f"environment {variable}" if variable else file) from None


def env_name(key: str) -> str:
    """Return the environment variable of a key, e.g. `BRIDGE_HTTP__PORT` for `http.port`."""
    return ENV_PREFIX + key.upper().replace(".", ENV_DELIMITER)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError("", f"cannot read the configuration: {error.strerror}", str(path)) from None
    try:
        return tomllib.loads(text_of(content))
    except ValueError as error:
        what = "is not valid TOML: " if isinstance(error, tomllib.TOMLDecodeError) else ""
        raise ConfigError("", f"{what}{error}", str(path)) from None


def _overlay(tree: dict[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """Override the file's values in `tree` with those of the environment; return the variables by key.

    Variables without a double underscore are ignored: for a service called "bridge", Kubernetes sets
    BRIDGE_PORT and others like it.
    """
    named: dict[str, str] = {}
    for name in sorted(environ):
        key = name.removeprefix(ENV_PREFIX).lower().replace(ENV_DELIMITER, ".")
        if not name.startswith(ENV_PREFIX) or ("." not in key and key != "accounts"):
            continue
        value: object = environ[name]
        try:
            environ[name].encode()
        except UnicodeEncodeError as error:  # Python has kept the bytes as surrogates
            raise ConfigError(key, f"is not UTF-8 at character {error.start}") from None
        if key == "accounts":
            try:
                value = json.loads(environ[name])
            except json.JSONDecodeError as error:
                raise ConfigError(key, f"is not valid JSON: {error}") from None
        _put(tree, key, value)
        named[key] = name
    return named


def _put(tree: dict[str, Any], key: str, value: object) -> None:
    """Set `value` at a dotted key; a number is an index into a list, or one past its end to append to it."""
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
            raise ConfigError(key, "account numbers must start at 0 and have no gaps")
        if int(number) == len(accounts):
            accounts.append({})
        if isinstance(accounts[int(number)], dict):
            accounts[int(number)][".".join(field)] = value


# In the words of TOML, by pydantic's type of error.
_MESSAGES = {
    "missing": "is missing",
    "model_type": "must be a table",
    "string_pattern_mismatch": "must consist of letters, digits, '.', '_' and '-', and must not be empty",
    "tuple_type": "must be a list",
}


def _explain(error: ErrorDetails) -> str:
    """Return the error message, without the value: it may be a secret."""
    kind, where = error["type"], error["loc"]
    if kind == "extra_forbidden":
        section = SECTIONS.get(str(where[0])) if len(where) > 1 else None
        return _unknown(str(where[-1]), section.model_fields if section else SECTIONS)
    if kind in _MESSAGES:
        return _MESSAGES[kind]
    message: str = error["msg"]
    return re.sub("^(Input|String) should", "must", message.removeprefix("Value error, "))


def _unknown(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1)
    return "unknown key" + (f", did you mean {near[0]}?" if near else f"; known keys: {', '.join(known)}")


def _and_parents(key: str) -> Iterator[str]:
    while key:
        yield key
        key = key.rpartition(".")[0]
