"""What docs/consuming.md shows of the kit works as it says."""

import base64
import json
import re
import zlib
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.json_schema import JSONDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext

from bridge import consumer
from bridge.config import SchemaRegistryConfig
from bridge.consumer import RECORDS, Continuity, decode
from bridge.kafka.subjects import register
from tests.support.schema_registry import SchemaRegistry
from tests.support.schemas import schema

TEXT = (Path(__file__).parents[3] / "docs" / "consuming.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)

# What names each block: tests/integration/test_documents.py runs the first, and what is below the others.
CONSUMER, MATCH, REGISTRY = "consumer.py", "match decode(topic,", "SchemaRegistryClient"
CONTINUITY, DEAD_LETTER = "check.repeated", "frame_base64"


def snippet(part: str) -> str:
    (found,) = (text for text in BLOCKS if part in text)
    return str(found)


def test_every_block_of_python_is_run() -> None:
    named = [snippet(part) for part in (CONSUMER, MATCH, REGISTRY, CONTINUITY, DEAD_LETTER)]
    assert sorted(named) == sorted(BLOCKS)


def value(name: str, **changes: Any) -> bytes:
    (example,) = schema(name)["examples"]
    return json.dumps(example | changes).encode()


def test_everything_in_the_kit_is_named() -> None:
    names = {record.__name__ for record in RECORDS.values()} | {"Book", "Continuity", "NotARecord", "decode"}
    assert names <= set(consumer.__all__)
    chapter = TEXT.partition("## Python\n")[2].partition("\n## ")[0]
    assert names <= set(re.findall(r"`(\w+)`", chapter))


def test_records_are_matched_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = vars(consumer) | {"turnover": defaultdict(int)}
    for channel in RECORDS:
        names |= {"topic": f"digifinex.{channel}.v1", "value": value(channel)}
        exec(snippet(MATCH), names)
    (trade,) = schema("trades")["examples"]
    assert {symbol: str(total) for symbol, total in names["turnover"].items()} == {
        trade["symbol"]: "10.76193"
    }
    (gap,) = schema("events")["examples"]
    assert capsys.readouterr().out == f"{gap['symbol']}: trades may be missing\n"


def test_continuity_is_checked_as_shown(capsys: pytest.CaptureFixture[str]) -> None:
    used: list[Any] = []
    names: dict[str, Any] = {"continuity": Continuity(), "use": used.append}
    for seq in (0, 1, 1, 4):
        names["record"] = decode("digifinex.trades.v1", value("trades", seq=seq))
        exec(snippet(CONTINUITY), names)
    assert [record.seq for record in used] == [0, 1, 4]
    out = capsys.readouterr().out.splitlines()
    assert [re.sub(r"\w+ is missing", "S is missing", line) for line in out] == [
        f"ETH_USDT: record {seq} of session S is missing" for seq in (2, 3)
    ]


class Message(NamedTuple):
    """A message of confluent-kafka."""

    framed: bytes

    def topic(self) -> str:
        return "digifinex.trades.v1"

    def value(self) -> bytes:
        return self.framed

    def headers(self) -> None:
        return None


def test_a_record_is_read_by_its_schema_as_shown() -> None:
    (trade,) = schema("trades")["examples"]
    with SchemaRegistry() as registry:
        settings = SchemaRegistryConfig.model_validate({"url": registry.url, "framing": "confluent"})
        framing = register(settings, {"digifinex.trades.v1": "trades"})["digifinex.trades.v1"]
        names: dict[str, Any] = {
            "url": registry.url,
            "message": Message(framing.prefix + value("trades")),
            "SchemaRegistryClient": SchemaRegistryClient,
            "JSONDeserializer": JSONDeserializer,
            "SerializationContext": SerializationContext,
            "MessageField": MessageField,
        }
        exec(snippet(REGISTRY), names)
    assert names["record"] == trade


@pytest.mark.parametrize("pack", [zlib.compress, bytes])
def test_the_frame_of_a_dead_letter_is_read_as_shown(pack: Any) -> None:
    letter = {"frame_base64": base64.b64encode(pack(b"not JSON")).decode()}
    names: dict[str, Any] = {"base64": base64, "zlib": zlib, "letter": letter}
    exec(snippet(DEAD_LETTER), names)
    assert names["text"] == b"not JSON"
