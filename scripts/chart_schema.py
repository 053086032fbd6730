"""Generate the parts of the chart's `values.schema.json` that are decided elsewhere.

These are `config` and the channels under `accounts`, by the bridge's configuration, and
`prometheusRule.alerts`, by the rules; the rest of the file is kept by hand.
"""

import json
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from bridge.channels import CHANNELS
from bridge.config.sections import SECTIONS

CHART = Path(__file__).parents[1] / "helm" / "digifinex-bridge"
TARGET = CHART / "values.schema.json"
RULES = CHART / "rules" / "digifinex-bridge.yaml"

# Keys that the chart sets itself: paths of files that it mounts. Secrets are left out, too: no ConfigMap may
# hold them.
_SET_BY_CHART = {
    "exchange": {"ssl_cafile"},
    "kafka": {
        "sasl_oauth_client_secret_file",
        "sasl_plain_password_file",
        "ssl_cafile",
        "ssl_certfile",
        "ssl_keyfile",
        "ssl_password_file",
    },
    "schema_registry": {"password_file", "ssl_cafile"},
    "spool": {"dir"},
}
# The keys of an account that are the chart's own; all others are channels.
_OF_ACCOUNT = ("name", "existingSecret", "apiKeyKey", "secretKey", "apiKey", "secret")
_REQUIRED = {"kafka": ["bootstrap_servers"]}
_PORT = "(:([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
_ADDRESS = rf"([^][\s,/:@?#]+|\[[0-9A-Fa-f:.]+\]){_PORT}"
# Bounds that the bridge checks in code only, and bounds that hold in a pod only: its port is declared, so it
# can't be any free one, and probes connect to the pod's own address.
_NARROWER: dict[tuple[str, str], dict[str, Any]] = {
    ("exchange", "url"): {"pattern": rf"^wss?://{_ADDRESS}([/?#]\S*)?$"},
    ("exchange", "proxy"): {"pattern": rf"^(https?://{_ADDRESS}([/?#]\S*)?)?$"},
    ("kafka", "bootstrap_servers"): {"pattern": rf"^\s*{_ADDRESS}(\s*,\s*{_ADDRESS})*\s*$"},
    ("kafka", "sasl_oauth_token_endpoint"): {"pattern": rf"^(https?://{_ADDRESS}([/?#]\S*)?)?$"},
    ("kafka", "replication_factor"): {"not": {"const": 0}},
    ("schema_registry", "url"): {"pattern": rf"^(https?://{_ADDRESS}(/[^\s,?#]*)?)?$"},
    ("http", "host"): {"enum": ["0.0.0.0", "::"]},  # noqa: S104
    ("http", "port"): {"minimum": 1},
    ("http", "status_port"): {"minimum": 1},
}


def document() -> str:
    """Return the text of the schema."""
    schema = json.loads(TARGET.read_text())
    account = schema["properties"]["accounts"]["items"]
    channels = _private_channels()
    account["properties"] = {key: account["properties"][key] for key in _OF_ACCOUNT} | channels
    account["anyOf"] = [{"required": [name]} for name in channels]
    schema["properties"]["config"] = {
        "type": "object",
        "additionalProperties": False,
        "required": ["kafka"],
        "properties": {name: _section(name, model) for name, model in SECTIONS.items() if name != "accounts"},
    }
    schema["properties"]["prometheusRule"]["properties"]["alerts"] = _alerts()
    return json.dumps(schema, indent=2) + "\n"


def _alerts() -> dict[str, Any]:
    """Return the schema of what can be changed in each alert; a threshold ends the expression."""
    alerts = {}
    for rule in (rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]):
        if "alert" not in rule:
            continue
        keys: dict[str, Any] = {
            "enabled": {"type": "boolean"},
            "for": {"type": "string", "pattern": "^([0-9]+(ms|[smhdwy]))+$"},
            "severity": {"type": "string", "minLength": 1},
            "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        }
        if re.search(r"> [0-9.]+\s*$", rule["expr"]):
            keys["threshold"] = {"type": "number", "minimum": 0}
        name = rule["alert"].removeprefix("DigiFinexBridge")
        alerts[name] = {"type": "object", "additionalProperties": False, "properties": keys}
    return {"type": "object", "additionalProperties": False, "properties": alerts}


def _private_channels() -> dict[str, Any]:
    """Return the schema of each channel that an account can subscribe to; none of them may be empty."""
    whole = SECTIONS["accounts"].model_json_schema()
    keys = {
        name: _key(whole["properties"][name], whole.get("$defs", {}))
        for name, channel in CHANNELS.items()
        if channel.private
    }
    for key in keys.values():
        key.pop("default", None)
        if key["type"] == "array":
            key["minItems"] = 1
    return keys


def _section(name: str, model: type[BaseModel]) -> dict[str, Any]:
    whole = model.model_json_schema()
    named = whole.get("$defs", {})
    left_out = _SET_BY_CHART.get(name, set())
    section: dict[str, Any] = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            key: _key(declared, named) | _NARROWER.get((name, key), {})
            for key, declared in whole["properties"].items()
            if key not in left_out and not _is_secret(declared)
        },
    }
    if name in _REQUIRED:
        section["required"] = _REQUIRED[name]
    return section


def _is_secret(declared: dict[str, Any]) -> bool:
    return "password" in [one.get("format") for one in (declared, *declared.get("anyOf", []))]


def _key(declared: dict[str, Any], named: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a key: references resolved, without titles and without null as a choice."""
    key = {name: value for name, value in declared.items() if name not in ("$ref", "anyOf", "title")}
    # In Helm's values, null removes a key.
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
