"""The schemas as a consumer uses them: every record that a test makes is validated against its schema."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft7Validator

from bridge.records import DEADLETTER, EVENTS, Record, schema_of

SCHEMAS = Path(__file__).parents[2] / "schemas"

Json = dict[str, Any]


@cache
def schema(channel: str) -> Json:
    """Return the schema of a channel's records."""
    loaded: Json = json.loads((SCHEMAS / channel / "v1.json").read_text())
    return loaded


@cache
def validator(channel: str) -> Draft7Validator:
    """Return the validator of a channel's records."""
    return Draft7Validator(schema(channel), format_checker=Draft7Validator.FORMAT_CHECKER)


def validate(record: Record) -> Json:
    """Return the JSON object of a record after checking it against its schema.

    Consumers ignore unknown fields; here the fields must be exactly those that the schema declares, in its
    order.
    """
    value: Json = json.loads(record.value)
    channel = schema_of(record.channel)
    validator(channel).validate(value)
    assert list(value) == list(schema(channel)["properties"])
    assert value["schema"] == f"digifinex.{channel}.v1"
    assert value["received_us"] == record.time_us
    assert record.key == _key(channel, value)
    return value


def _key(channel: str, value: Json) -> bytes | None:
    if channel == EVENTS:
        return str(value["symbol"] or value["account"] or value["shard"]).encode()
    key: str | None = value[{DEADLETTER: "channel", "balance": "currency"}.get(channel, "symbol")]
    return None if key is None else key.encode()
