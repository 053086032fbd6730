"""Write into the chart's `values.schema.json` what `config` may hold, as the bridge declares it."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from bridge.config.sections import SECTIONS

TARGET = Path(__file__).parents[1] / "helm" / "digifinex-bridge" / "values.schema.json"

# What the chart sets itself: files that it mounts, and secrets, which have no place in a ConfigMap.
_THE_CHARTS = {
    "kafka": {
        "sasl_plain_password",
        "sasl_plain_password_file",
        "ssl_cafile",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_password",
        "ssl_password_file",
    },
    "spool": {"dir"},
}
_REQUIRED = {"kafka": ["bootstrap_servers"]}
_PORT = "(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
_ADDRESS = rf"([^][\s,/:@?#]+|\[[0-9A-Fa-f:.]+\]){_PORT}"
# What the bridge checks in code, and what is different in a pod: its port is declared, so a free one won't
# do, and probes come to the pod's own address.
_NARROWER: dict[tuple[str, str], dict[str, Any]] = {
    ("exchange", "url"): {"pattern": rf"^wss?://{_ADDRESS}([/?#]\S*)?$"},
    ("kafka", "bootstrap_servers"): {"pattern": rf"^\s*{_ADDRESS}(\s*,\s*{_ADDRESS})*\s*$"},
    ("kafka", "replication_factor"): {"not": {"const": 0}},
    ("http", "host"): {"enum": ["0.0.0.0", "::"]},  # noqa: S104
    ("http", "port"): {"minimum": 1},
}


def document() -> str:
    """Return the whole text of the schema."""
    schema = json.loads(TARGET.read_text())
    schema["properties"]["config"] = {
        "type": "object",
        "additionalProperties": False,
        "required": ["kafka"],
        "properties": {name: _section(name, model) for name, model in SECTIONS.items() if name != "accounts"},
    }
    return json.dumps(schema, indent=2) + "\n"


def _section(name: str, model: type[BaseModel]) -> dict[str, Any]:
    whole = model.model_json_schema()
    named = whole.get("$defs", {})
    left_out = _THE_CHARTS.get(name, set())
    section: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            key: _key(declared, named) | _NARROWER.get((name, key), {})
            for key, declared in whole["properties"].items()
            if key not in left_out
        },
    }
    if name in _REQUIRED:
        section["required"] = _REQUIRED[name]
    return section


def _key(declared: dict[str, Any], named: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a key: without titles, with what it refers to, never null."""
    key = {name: value for name, value in declared.items() if name not in ("$ref", "anyOf", "title")}
    # To Helm, null means that there is no such key.
    for choice in [declared, *declared.get("anyOf", [])]:
        if "$ref" in choice:
            key = {**named[choice["$ref"].rpartition("/")[2]], **key}
        elif choice is not declared and choice["type"] != "null":
            key = {**choice, **key}
    if key.get("default", "") is None:
        del key["default"]
    key.pop("title", None)
    return key


if __name__ == "__main__":
    TARGET.write_text(document())
