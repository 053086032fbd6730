"""The typed records have exactly the fields of the published schemas, with their types."""

import subprocess
import sys
from decimal import Decimal
from types import NoneType
from typing import Any, get_args

import pytest
from msgspec.structs import fields

from bridge import consumer
from bridge.channels import CHANNELS
from bridge.consumer import RECORDS, DifferingLevel, Level
from bridge.records import BOOK, DEADLETTER, EVENTS
from tests.support.schemas import SCHEMAS, Json, schema

SIMPLE = {"string": str, "integer": int, "boolean": bool, "null": NoneType}


def published(name: str) -> dict[str, Any]:
    """Return what the schema says of each field: its type, or the values that it may have."""
    declared = schema(name)
    references = declared.get("definitions", {})
    return {
        field: _type(references[of["$ref"].rpartition("/")[2]] if "$ref" in of else of, references)
        for field, of in declared["properties"].items()
    }


def _type(field: Json, references: Json) -> Any:
    if "const" in field:
        return {field["const"]}
    if "enum" in field:
        return set(field["enum"])
    if field["type"] == "array":
        assert field["items"] == {"$ref": "#/definitions/level"}
        assert {part["$ref"] for part in references["level"]["items"]} == {"#/definitions/decimal"}
        return tuple[Level, ...]
    if field["type"] == ["array", "null"]:
        decimal = "#/definitions/decimal"
        level = field["items"]["properties"]
        assert list(level) == [one.name for one in fields(DifferingLevel)] == field["items"]["required"]
        assert level["price"]["$ref"] == decimal
        for name in ("kept", "found"):
            assert {one.get("$ref") or one["type"] for one in level[name]["anyOf"]} == {decimal, "null"}
        return {tuple[DifferingLevel, ...], NoneType}
    kinds = field["type"] if isinstance(field["type"], list) else [field["type"]]
    is_decimal = "[eE]" in field.get("pattern", "")
    return {Decimal if kind == "string" and is_decimal else SIMPLE[kind] for kind in kinds}


def typed(name: str) -> dict[str, Any]:
    """Return the same of a type."""
    found = {}
    for field in fields(RECORDS[name]):
        assert field.required, field.name
        kind = field.type
        found[field.name] = (
            kind if kind == tuple[Level, ...] else set(get_args(kind)) if get_args(kind) else {kind}
        )
    return found


def test_every_topic_of_records_has_a_type() -> None:
    assert set(RECORDS) == {*CHANNELS, BOOK, DEADLETTER, EVENTS}
    assert set(RECORDS) == {path.parent.name for path in SCHEMAS.glob("*/v1.json")}


@pytest.mark.parametrize("name", RECORDS)
def test_a_type_has_the_fields_of_its_schema(name: str) -> None:
    assert typed(name) == published(name)
    assert list(schema(name)["properties"]) == schema(name)["required"]


def test_a_level_is_a_price_and_an_amount() -> None:
    assert [(field.name, field.type) for field in fields(Level)] == [("price", Decimal), ("amount", Decimal)]


@pytest.mark.parametrize("name", RECORDS)
def test_all_types_are_exported(name: str) -> None:
    assert RECORDS[name] in vars(consumer).values()


def test_the_kit_imports_no_client_of_kafka_or_of_the_exchange() -> None:
    code = "import sys, bridge.consumer; print(*{name.partition('.')[0] for name in sys.modules})"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"aiokafka", "websockets", "asyncio", "pydantic", "prometheus_client"} & set(
        run.stdout.split()
    )
