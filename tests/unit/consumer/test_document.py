"""What docs/consuming.md shows of the kit works as it says."""

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from bridge import consumer
from bridge.consumer import RECORDS, Continuity, decode
from tests.support.schemas import schema

TEXT = (Path(__file__).parents[3] / "docs" / "consuming.md").read_text()


def snippet(part: str) -> str:
    (found,) = (
        text for text in re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE) if part in text
    )
    return str(found)


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
        exec(snippet("match decode(topic"), names)
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
        exec(snippet("check.repeated"), names)
    assert [record.seq for record in used] == [0, 1, 4]
    out = capsys.readouterr().out.splitlines()
    assert [re.sub(r"\w+ is missing", "S is missing", line) for line in out] == [
        f"ETH_USDT: record {seq} of session S is missing" for seq in (2, 3)
    ]
