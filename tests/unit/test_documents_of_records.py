"""docs/records.md and docs/events.md agree with the schemas and with what the bridge records."""

import json
import re
import runpy
from pathlib import Path
from typing import Any, get_args

import pytest

from bridge.records import DEAD_LETTER_REASONS, EVENTS, Cause, Kind
from tests.support.schemas import Json, schema, validator

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "events.md").read_text()
KINDS: tuple[str, ...] = get_args(Kind)

# The sections of docs/events.md by heading.
SECTIONS = dict(part.split("\n", 1) for part in TEXT.split("\n## ")[1:])

# What every event has, so that the section of a kind need not list it.
OF_ALL = {"schema", "event", "received_us", "replica", "shard"}


def samples(text: str) -> list[Json]:
    return [
        json.loads(block) for block in re.findall(r"^```json\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    ]


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "scripts" / "records_doc.py"))


def test_the_document_of_records_is_up_to_date(script: dict[str, Any]) -> None:
    assert (ROOT / "docs" / "records.md").read_text() == script["document"](), "run scripts/records_doc.py"


def test_the_document_of_records_explains_every_reason_of_dead_letters(script: dict[str, Any]) -> None:
    assert set(script["REASONS"]) == set(DEAD_LETTER_REASONS)


def test_events_are_documented_in_the_order_of_the_code() -> None:
    assert list(SECTIONS) == [*KINDS, "Causes"]


def test_the_document_of_events_says_to_ignore_unknown_kinds() -> None:
    assert "ignore kinds that you do not know" in TEXT.lower()


@pytest.mark.parametrize("kind", KINDS)
class TestEachKind:
    """The section of each kind that the bridge records today."""

    def test_is_listed_in_the_overview(self, kind: str) -> None:
        assert f"| [`{kind}`](#{kind}) |" in TEXT

    def test_has_samples_that_are_valid_and_complete(self, kind: str) -> None:
        found = samples(SECTIONS[kind])
        assert found
        for sample in found:
            validator(EVENTS).validate(sample)
            assert list(sample) == list(schema(EVENTS)["properties"])
            assert sample["event"] == kind

    def test_names_the_fields_that_its_samples_use(self, kind: str) -> None:
        named = set(re.findall(r"`(\w+)`", SECTIONS[kind]))
        for sample in samples(SECTIONS[kind]):
            used = {name for name, value in sample.items() if value is not None}
            assert used - OF_ALL <= named

    def test_says_what_to_do(self, kind: str) -> None:
        assert "What to do: " in SECTIONS[kind]


def test_the_first_gap_is_the_example_of_the_schema() -> None:
    assert samples(SECTIONS["gap"])[0] == schema(EVENTS)["examples"][0]


def test_every_cause_is_documented() -> None:
    assert re.findall(r"^\| `(\w+)` \| [A-Z]", SECTIONS["Causes"], re.MULTILINE) == list(get_args(Cause))
