"""The JSON Schemas are the public contract of the records: complete, strict, stable within a version."""

import copy
import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonschema import Draft7Validator, ValidationError

from bridge.books.doubts import RESULTS
from bridge.channels import CHANNELS
from bridge.records import BOOK as PRESENT_BOOK
from bridge.records import DEAD_LETTER_REASONS, DEADLETTER, EVENTS, Cause, Kind
from bridge.watch.events import ClosedBy
from tests.support.compatibility import incompatibilities
from tests.support.schemas import SCHEMAS, Json, schema, validator

PUBLISHED = Path(__file__).parents[1] / "golden" / "schemas"
PRIVATE = sorted(name for name, channel in CHANNELS.items() if channel.private)


def files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*.json")}


def example(channel: str) -> Json:
    return copy.deepcopy(schema(channel)["examples"][0])


def resolved(channel: str, field: Json) -> Json:
    reference = field.get("$ref")
    return (
        field if reference is None else schema(channel)["definitions"][reference.rpartition("/")[2]] | field
    )


def fields(channel: str) -> dict[str, Json]:
    return {name: resolved(channel, field) for name, field in schema(channel)["properties"].items()}


def decimals(channel: str) -> list[str]:
    return [name for name, field in fields(channel).items() if "[eE]" in field.get("pattern", "")]


def references(node: Any) -> list[Json]:
    """Return everything in a schema that refers to a definition."""
    nested = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    here = [node] if isinstance(node, dict) and "$ref" in node else []
    return here + [one for inner in nested for one in references(inner)]


def rejects(channel: str, record: Json) -> bool:
    return not validator(channel).is_valid(record)


ALL = sorted({*CHANNELS, PRESENT_BOOK, DEADLETTER, EVENTS})
DECIMALS = [(channel, name) for channel in ALL for name in decimals(channel)]
ENUMS = [(channel, name) for channel in ALL for name, field in fields(channel).items() if "enum" in field]

# Fields that may get new values within v1, with the values that the bridge writes today. The channels are
# not in the descriptions: a new channel needs no change of these two schemas.
DESCRIBED: dict[tuple[str, str], tuple[str, ...]] = {
    (EVENTS, "event"): get_args(Kind),
    (EVENTS, "cause"): get_args(Cause),
    (EVENTS, "closed_by"): get_args(ClosedBy),
    (EVENTS, "check"): tuple(result for result in RESULTS if result != "equal"),
    (DEADLETTER, "reason"): DEAD_LETTER_REASONS,
}
OPEN = DESCRIBED | {(EVENTS, "channel"): tuple(ALL), (DEADLETTER, "channel"): tuple(ALL)}


def test_every_channel_has_a_schema_and_every_schema_a_channel() -> None:
    assert files(SCHEMAS) == {f"{channel}/v1.json" for channel in ALL}


@pytest.mark.parametrize("channel", ALL)
class TestEachSchema:
    """What is true of each of them."""

    def test_is_a_json_schema_that_every_registry_can_compare(self, channel: str) -> None:
        """Some compare no newer draft, resolve no references to another place, or not with an `$id`."""
        assert schema(channel)["$schema"] == "http://json-schema.org/draft-07/schema#"
        Draft7Validator.check_schema(schema(channel))
        assert not {"$id", "$defs"} & schema(channel).keys()
        for reference in references(schema(channel)):
            # What stands beside a reference has no effect in this draft.
            assert reference.keys() <= {"$ref", "description"}
            assert reference["$ref"].startswith("#/definitions/")

    def test_has_a_title_and_a_description(self, channel: str) -> None:
        assert schema(channel)["title"]
        assert schema(channel)["description"]

    def test_describes_every_field_in_full_sentences(self, channel: str) -> None:
        for name, field in schema(channel)["properties"].items():
            assert field["description"].endswith("."), name

    def test_says_to_ignore_unknown_fields(self, channel: str) -> None:
        assert "ignore fields that you do not know" in schema(channel)["description"]

    def test_states_the_unit_of_every_number_and_time(self, channel: str) -> None:
        for name, field in fields(channel).items():
            if name.endswith("_us"):
                assert "microseconds since the epoch" in field["description"], name
            elif field["type"] == "integer":
                assert re.search(r"\b(number|ID)\b", field["description"]), name
            elif name in decimals(channel) or field["type"] == "array":
                assert "currency" in field["description"], name

    def test_has_an_example_that_it_accepts_with_all_its_fields(self, channel: str) -> None:
        validator(channel).validate(example(channel))
        assert example(channel).keys() == schema(channel)["properties"].keys()

    def test_requires_every_field_but_those_added_in_a_later_version(self, channel: str) -> None:
        assert schema(channel)["required"] == [
            name
            for name, field in schema(channel)["properties"].items()
            if not re.search(r"Added in version \d+\.\d+\.\d+\.$", field["description"])
        ]

    def test_rejects_a_record_with_a_missing_field(self, channel: str) -> None:
        for name in schema(channel)["required"]:
            record = example(channel)
            del record[name]
            assert rejects(channel, record), name

    def test_rejects_null_unless_declared(self, channel: str) -> None:
        for name, field in fields(channel).items():
            assert rejects(channel, example(channel) | {name: None}) == ("null" not in field["type"]), name

    def test_rejects_a_time_that_is_not_a_non_negative_integer(self, channel: str) -> None:
        for name in (name for name in fields(channel) if name.endswith("_us")):
            times: tuple[object, ...] = (1523339279.76, "1523339279761838", -1)
            for time in times:
                assert rejects(channel, example(channel) | {name: time}), name

    def test_rejects_a_record_of_another_version(self, channel: str) -> None:
        assert rejects(channel, example(channel) | {"schema": f"digifinex.{channel}.v2"})

    def test_accepts_a_field_that_a_later_v1_may_add(self, channel: str) -> None:
        validator(channel).validate(example(channel) | {"added_later": 1})

    def test_is_compatible_with_the_published_copy(self, channel: str) -> None:
        published = json.loads((PUBLISHED / channel / "v1.json").read_text())
        assert incompatibilities(published, schema(channel)) == []


@pytest.mark.parametrize(("channel", "field"), DECIMALS)
def test_a_decimal_is_a_string_and_never_a_json_number(channel: str, field: str) -> None:
    for figure in ("0", "-1", "0.00000001", "99944652.8478545303601106", "1.5e-7", "1E5"):
        validator(channel).validate(example(channel) | {field: figure})
    for text in ("", "-", "abc", "1.", ".5", "+1", "1,5", " 1", "NaN", "Infinity", "0x10", "1e1000"):
        assert rejects(channel, example(channel) | {field: text}), text
    for number in (398.59, 398, 0):
        assert rejects(channel, example(channel) | {field: number}), number


@pytest.mark.parametrize("side", ["asks", "bids"])
def test_a_level_is_a_pair_of_decimals(side: str) -> None:
    validator("depth").validate(example("depth") | {side: []})
    odd: tuple[object, ...] = (
        [8000.0, "1"],
        ["8000", 1],
        ["8000"],
        ["8000", "1", "2"],
        ["8000", "x"],
        "8000",
        {},
    )
    for level in odd:
        assert rejects("depth", example("depth") | {side: [level]}), level


@pytest.mark.parametrize(("channel", "field"), ENUMS)
def test_a_closed_enumeration_rejects_unknown_values(channel: str, field: str) -> None:
    for value in fields(channel)[field]["enum"]:
        validator(channel).validate(example(channel) | {field: value})
    for value in ("unheard_of", "", 0, fields(channel)[field]["enum"][0].upper()):
        assert rejects(channel, example(channel) | {field: value}), value


def test_what_events_and_dead_letters_enumerate_is_open() -> None:
    assert not [(channel, name) for channel, name in ENUMS if channel in (EVENTS, DEADLETTER)]


@pytest.mark.parametrize(("channel", "field"), OPEN)
class TestOpenValues:
    """Kinds, channels, causes and reasons: consumers ignore those that they do not know."""

    def test_every_value_in_use_is_accepted(self, channel: str, field: str) -> None:
        for value in OPEN[channel, field]:
            validator(channel).validate(example(channel) | {field: value})

    def test_a_value_that_a_later_v1_may_add_is_accepted(self, channel: str, field: str) -> None:
        validator(channel).validate(example(channel) | {field: "added_later_2"})

    def test_anything_but_a_name_in_lower_case_is_rejected(self, channel: str, field: str) -> None:
        for value in ("", "Gap", "2nd", "two words", "dash-ed", "_hidden", 0, ["gap"]):
            assert rejects(channel, example(channel) | {field: value}), value


@pytest.mark.parametrize(("channel", "field"), DESCRIBED)
def test_the_description_of_an_open_list_names_every_value_in_use(channel: str, field: str) -> None:
    description = fields(channel)[field]["description"]
    assert "The list is open" in description
    assert set(re.findall(r"`(\w+)`", description)) == set(DESCRIBED[channel, field])


def test_the_schema_of_events_says_to_ignore_unknown_kinds() -> None:
    assert "ignore kinds that you do not know" in schema(EVENTS)["description"]


def test_records_of_private_channels_and_no_others_name_the_account() -> None:
    assert [channel for channel in sorted(CHANNELS) if "account" in fields(channel)] == PRIVATE


@pytest.mark.parametrize("symbol", ["btc_usdt", "BTC_usdt", "", 1])
def test_a_symbol_in_lower_case_is_rejected(symbol: object) -> None:
    with pytest.raises(ValidationError):
        validator("trades").validate(example("trades") | {"symbol": symbol})


@pytest.mark.parametrize("trade_id", [-1, 2**63, 1.5, "7172173"])
def test_a_trade_id_is_an_integer_of_63_bits(trade_id: object) -> None:
    validator("trades").validate(example("trades") | {"id": 2**63 - 1})
    assert rejects("trades", example("trades") | {"id": trade_id})


def test_a_dead_letter_contains_valid_base64() -> None:
    validator(DEADLETTER).validate(example(DEADLETTER) | {"frame_base64": ""})
    assert rejects(DEADLETTER, example(DEADLETTER) | {"frame_base64": "no base64"})


def test_no_published_schema_is_removed() -> None:
    assert files(PUBLISHED) == files(SCHEMAS)


BOOK: Json = {
    "$id": "urn:book:v1",
    "title": "Book",
    "type": "object",
    "properties": {
        "title": {"type": "string", "description": "Its title."},
        "pages": {"type": "integer", "minimum": 1},
        "kind": {"enum": ["novel", "manual"]},
        "genre": {"type": "string", "pattern": "^[a-z]+$", "description": "One of: crime, horror."},
        "price": {"$ref": "#/definitions/decimal"},
        "note": {"type": ["string", "null"]},
        "parts": {"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}},
    },
    "required": ["title", "pages"],
    "definitions": {"decimal": {"type": "string", "pattern": "^[0-9]+$"}},
}


def changed(*path: str, to: Any) -> Json:
    """Return the book with one thing set, or removed (None)."""
    book = copy.deepcopy(BOOK)
    *way, last = path
    node = book
    for step in way:
        node = node[step]
    if to is None:
        del node[last]
    else:
        node[last] = to
    return book


@pytest.mark.parametrize(
    "book",
    [
        pytest.param(BOOK, id="no change"),
        pytest.param(changed("properties", "author", to={"type": "string"}), id="an optional field"),
        pytest.param(
            changed("properties", "parts", "items", "properties", "size", to={"type": "integer"}),
            id="an optional field deeper down",
        ),
        pytest.param(changed("title", to="A book"), id="a title"),
        pytest.param(changed("properties", "title", "description", to="The name of it."), id="a description"),
        pytest.param(
            changed("properties", "genre", "description", to="One of: crime, horror, travel."),
            id="a new value of an open list",
        ),
        pytest.param(changed("examples", to=[{"title": "Emma"}]), id="an example"),
        pytest.param(changed("properties", "kind", "enum", to=["manual", "novel"]), id="the order of a list"),
        pytest.param(
            changed("properties", "price", to={"type": "string", "pattern": "^[0-9]+$"}),
            id="a definition written out",
        ),
    ],
)
def test_a_change_that_no_consumer_can_notice_is_compatible(book: Json) -> None:
    assert incompatibilities(BOOK, book) == []


@pytest.mark.parametrize(
    ("book", "message"),
    [
        pytest.param(changed("properties", "note", to=None), "$: note was removed", id="a removed field"),
        pytest.param(
            changed("properties", "pages", "type", to="string"),
            "$.pages: type was integer, is string",
            id="a type",
        ),
        pytest.param(
            changed("properties", "note", "type", to="string"),
            "$.note: type was ['null', 'string'], is string",
            id="a type narrowed",
        ),
        pytest.param(
            changed("definitions", "decimal", "pattern", to="^[0-9.]+$"),
            "$.price: pattern was ^[0-9]+$, is ^[0-9.]+$",
            id="a pattern",
        ),
        pytest.param(
            changed("properties", "kind", "enum", to=["manual", "map", "novel"]),
            "$.kind: enum was ['manual', 'novel'], is ['manual', 'map', 'novel']",
            id="an enumeration that gained a value",
        ),
        pytest.param(
            changed("properties", "kind", "enum", to=["novel"]),
            "$.kind: enum was ['manual', 'novel'], is ['novel']",
            id="an enumeration that lost a value",
        ),
        pytest.param(
            changed("properties", "genre", "enum", to=["crime", "horror"]),
            "$.genre: enum was None, is ['crime', 'horror']",
            id="an open list that was closed",
        ),
        pytest.param(
            changed("properties", "kind", "enum", to=None),
            "$.kind: enum was ['manual', 'novel'], is None",
            id="a closed list that was opened",
        ),
        pytest.param(
            changed("required", to=["title", "pages", "note"]),
            "$: required was ['pages', 'title'], is ['note', 'pages', 'title']",
            id="a field newly required",
        ),
        pytest.param(
            changed("required", to=["title"]),
            "$: required was ['pages', 'title'], is ['title']",
            id="a field no longer required",
        ),
        pytest.param(
            changed("properties", "pages", "minimum", to=10),
            "$.pages: minimum was 1, is 10",
            id="a bound narrowed",
        ),
        pytest.param(
            changed("properties", "pages", "minimum", to=0),
            "$.pages: minimum was 1, is 0",
            id="a bound widened",
        ),
        pytest.param(
            changed("properties", "pages", "minimum", to=None),
            "$.pages: minimum was 1, is None",
            id="a bound dropped",
        ),
        pytest.param(
            changed("properties", "title", "maxLength", to=80),
            "$.title: maxLength was None, is 80",
            id="a new bound",
        ),
        pytest.param(
            changed("additionalProperties", to=False),
            "$: additionalProperties was None, is False",
            id="closed to additions",
        ),
        pytest.param(
            changed("properties", "parts", "items", "properties", "name", to=None),
            "$.parts.items: name was removed",
            id="a removed field deeper down",
        ),
        pytest.param(changed("$id", to="urn:book:v2"), "$: $id was urn:book:v1, is urn:book:v2", id="the id"),
    ],
)
def test_any_other_change_is_reported_with_its_place(book: Json, message: str) -> None:
    assert incompatibilities(BOOK, book) == [message]
