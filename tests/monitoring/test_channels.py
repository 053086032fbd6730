"""A new channel reaches alerts, dashboard, chart and documents from the table of channels alone."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from bridge.channels import CHANNELS
from tests.chart.helm import CHART, ROOT, tool

PRIVATE = {name for name, channel in CHANNELS.items() if channel.private}
PUBLIC = CHANNELS.keys() - PRIVATE

# Written by generators, each with a test that it is up to date.
GENERATED = {
    CHART / "dashboards" / "digifinex-bridge.json",
    CHART / "values.schema.json",
    *(ROOT / "docs" / f"{name}.md" for name in ("configuration", "metrics", "records")),
}
_NAME = "|".join(sorted(CHANNELS, key=len, reverse=True))
_BETWEEN = r"[\s`'\"\[\](),|]*(?:\b(?:and|or)\b)?[\s`'\"\[\](),|]*"
_LIST = re.compile(rf"\b(?:{_NAME})\b(?:{_BETWEEN}\b(?:{_NAME})\b)+")

# Prints what a generator writes if there is one more public channel and one more private one.
_WITH_TWO_MORE = """
import runpy, sys
import msgspec
import bridge.channels
from bridge.channels.channel import table
known = bridge.channels.CHANNELS
added = msgspec.structs.replace(known["trades"], name="added")
margin = msgspec.structs.replace(known["order"], name="margin")
bridge.channels.CHANNELS = table(*known.values(), added, margin)
sys.stdout.write(runpy.run_path(sys.argv[1])["document"]())
"""


def with_two_more(script: str) -> str:
    command = [sys.executable, "-c", _WITH_TWO_MORE, str(ROOT / "scripts" / script)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def written_by_hand() -> Iterator[Path]:
    for folder in (ROOT / "helm", ROOT / "docs"):
        for path in sorted(folder.rglob("*")):
            if (
                path.is_file()
                and path.suffix != ".png"
                and path not in GENERATED
                and path.parent != CHART / "tests"
            ):
                yield path


def complete_lists(text: str) -> list[str]:
    """Return the lists of channels in a text that would lack a new one."""
    # The generator of the alert rules writes these.
    text = re.sub(r'channel=~"[^"]*"', "", text)
    lists = [found[0] for found in _LIST.finditer(text)]
    return [one for one in lists if any(group <= set(re.findall(_NAME, one)) for group in (PUBLIC, PRIVATE))]


@pytest.mark.parametrize("path", list(written_by_hand()), ids=lambda path: path.name)
def test_no_file_lists_all_channels_by_hand(path: Path) -> None:
    assert complete_lists(path.read_text()) == []


def test_a_list_of_all_channels_is_recognised() -> None:
    private = sorted(PRIVATE)
    assert complete_lists(f"`{'`, `'.join(private[:-1])}` and `{private[-1]}`")
    assert complete_lists("|".join(CHANNELS))
    assert not complete_lists("`trades` and `depth`")


@pytest.mark.parametrize("script", ["alert_rules.py", "dashboard.py"])
def test_a_new_public_channel_is_watched_and_a_new_private_one_is_not(script: str) -> None:
    matchers = re.findall(r'channel=~\\?"([^"\\]*)\\?"', with_two_more(script))
    lists = [matcher.split("|") for matcher in matchers if not matcher.startswith("$")]
    assert len(lists) >= 3
    assert all({*names} == {*PUBLIC, "added"} for names in lists)


def test_the_metrics_of_a_new_channel_exist_from_the_start() -> None:
    rows = [line for line in with_two_more("metrics_doc.py").splitlines() if "`trades`" in line]
    assert rows
    assert all("`added`" in row and "`margin`" in row for row in rows)


def test_the_chart_accepts_and_renders_new_channels(tmp_path: Path) -> None:
    chart = tmp_path / "chart"
    shutil.copytree(CHART, chart)
    (chart / "values.schema.json").write_text(with_two_more("chart_schema.py"))
    values = {
        "config": {"kafka": {"bootstrap_servers": "kafka:9092"}, "channels": {"added": ["BTC_USDT"]}},
        "accounts": [{"name": "main", "existingSecret": "exchange", "margin": ["ETH_USDT"]}],
    }
    done = tool("helm", "template", "feed", chart, "--values", "-", stdin=yaml.safe_dump(values))
    assert done.returncode == 0, done.stderr
    assert 'added = ["BTC_USDT"]' in done.stdout
    assert 'margin = ["ETH_USDT"]' in done.stdout


def test_an_account_in_the_chart_s_values_can_have_every_private_channel() -> None:
    account = json.loads((CHART / "values.schema.json").read_text())["properties"]["accounts"]["items"]
    assert account["properties"].keys() & CHANNELS.keys() == PRIVATE
    assert [one["required"] for one in account["anyOf"]] == [[name] for name in CHANNELS if name in PRIVATE]
