"""Write `docs/configuration.md` from the declarations of `bridge.config`."""

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from bridge.config import SECTIONS, env_name

TARGET = Path(__file__).parents[1] / "docs" / "configuration.md"

INTRODUCTION = """\
# Configuration

<!-- Written by `python scripts/configuration_doc.py` from the declarations in bridge/config/sections.py. -->

One TOML file, a table for each section below, and the environment, which wins. All of it is optional except
that there must be something to subscribe to. `digifinex-bridge check --config FILE` tries it out.

A mistake ends the program with exit status 2 and one line that names the key. Secrets are best kept in
files or in the environment; they are in no log, metric or error text.

```toml
[channels]
trades = ["BTC_USDT", "ETH_USDT"]
depth = ["BTC_USDT"]

[kafka]
bootstrap_servers = "localhost:9092"
```
"""


def document() -> str:
    """Return the whole text of the document."""
    return "\n".join([INTRODUCTION, *(line for name in SECTIONS for line in _section(name, SECTIONS[name]))])


def _section(name: str, model: type[BaseModel]) -> Iterator[str]:
    yield f"## {name}"
    yield ""
    yield inspect.getdoc(model) or ""
    yield ""
    yield "| key | type | default | environment | meaning |"
    yield "|---|---|---|---|---|"
    schema = model.model_json_schema()
    for key, field in model.model_fields.items():
        kind = _type(schema["properties"][key], schema.get("$defs", {}))
        variable = env_name(f"accounts.0.{key}" if name == "accounts" else f"{name}.{key}")
        yield f"| `{key}` | {kind} | {_default(field)} | `{variable}` | {field.description} |"
    yield ""


_TYPES = {
    "array": "list of names",
    "boolean": "true or false",
    "file-path": "path",
    "integer": "integer",
    "number": "number",
    "password": "secret",
    "path": "path",
    "string": "text",
}


def _type(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    match schema:
        case {"$ref": reference}:
            return _type(definitions[reference.rpartition("/")[2]], definitions)
        case {"anyOf": [kind, *_]}:
            return _type(kind, definitions)
        case {"enum": values}:
            return ", ".join(f"`{value}`" for value in values)
    return _TYPES[schema.get("format", schema["type"])] + _bounds(schema)


def _bounds(schema: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤"}
    return "".join(f" {sign} {schema[bound]:g}" for bound, sign in signs.items() if bound in schema)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    match field.default:
        case None | SecretStr() | "":
            return "none"
        case bool(truth):
            return f"`{truth}`".lower()
        case tuple():
            return "`[]`"
        case value:
            return f"`{value}`"


if __name__ == "__main__":
    TARGET.write_text(document())
