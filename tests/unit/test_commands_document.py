"""docs/commands.md lists the commands, options and faults that there are, in the program's own words."""

import dataclasses
import re
from pathlib import Path
from typing import get_args, get_type_hints

import click
import pytest

from bridge.cli import app
from bridge.simulator import Dialect, Faults
from tests.unit.test_cli import command

TEXT = (Path(__file__).parents[2] / "docs" / "commands.md").read_text()
COMMANDS = app.commands


def section(title: str) -> str:
    """Return the text below a heading of the document, up to the next one."""
    _, _, after = TEXT.partition(f"\n## {title}\n")
    return after.partition("\n## ")[0]


def rows(text: str, heading: str) -> list[tuple[str, ...]]:
    """Return the cells of the table with this heading, without backquotes around the first."""
    _, _, after = text.partition(f"{heading}\n")
    table = re.match(r"\|[-|]+\|\n((?:\|.*\|\n)*)", after)
    assert table, heading
    lines = table[1].splitlines()
    return [tuple(cell.strip().strip("`") for cell in line.strip("|").split("|")) for line in lines]


def shown(value: object) -> str:
    return "" if value in (None, "") else str(value).lower() if isinstance(value, bool) else str(value)


def test_every_command_is_listed_with_the_summary_of_its_help() -> None:
    listed = rows(TEXT, "| command | does |")
    assert listed == [
        (f"[`{name}`](#{name})", one.get_short_help_str(limit=200)) for name, one in COMMANDS.items()
    ]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_options_of_a_command_are_those_of_its_help(name: str) -> None:
    expected = [
        (" ".join(filter(None, (one.opts[0], one.metavar))), shown(one.default), one.help)
        for one in COMMANDS[name].params
        if isinstance(one, click.Option)
    ]
    heading = "| option | default | meaning |"
    assert (rows(section(name), heading) if expected else []) == expected
    assert (heading in section(name)) == bool(expected)


def test_the_faults_of_the_simulator_are_listed_with_their_defaults() -> None:
    faults = [(field.name, shown(field.default)) for field in dataclasses.fields(Faults)]
    assert [row[:2] for row in rows(section("simulate"), "| fault | default | effect |")] == faults


def test_the_dialects_of_the_simulator_are_listed_with_their_ways() -> None:
    hints = get_type_hints(Dialect)
    expected = []
    for field in dataclasses.fields(Dialect):
        ways = list(get_args(hints[field.name])[1:])
        expected.append((field.name, str(field.default), ways))
    found = rows(section("simulate"), "| dialect | usually | ways |")
    listed = [
        (name, usually, [] if ways.startswith("a number") else ways.split(", "))
        for name, usually, ways in found
    ]
    assert listed == expected


def test_the_message_of_a_bad_configuration_is_as_shown(tmp_path: Path) -> None:
    (line,) = re.findall(r"^digifinex-bridge: .*\n", TEXT, re.MULTILINE)
    (tmp_path / "bridge.toml").write_text('[channels]\ntrades = ["BTC_USDT"]\n[kafka]\npartitons = 3\n')
    done = command("run", "--config", str(tmp_path / "bridge.toml"))
    assert (done.returncode, done.stderr.replace(f"{tmp_path}/", "")) == (2, line)
