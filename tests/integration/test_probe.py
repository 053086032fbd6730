"""`probe` finds what does not hold, on a real socket, and finds nothing where all is as assumed."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from bridge.config import Config
from bridge.exchange.assumptions import ASSUMPTIONS
from bridge.probe import probe
from bridge.simulator import Dialect, Faults, Simulator
from tests.support.process import SYMBOLS, Command, toml

KEY, SECRET = "an-api-key-of-this-test", "its-secret"

OTHERWISE: dict[str, dict[str, Any]] = {
    "adds": {"dialect": Dialect(adds="replaces")},
    "compressed": {"dialect": Dialect(compressed="answers")},
    "answer_order": {"dialect": Dialect(answer_order="push_first")},
    "unknown_refused": {"dialect": Dialect(unknown_refused="acknowledged")},
    "newest_first": {"faults": Faults(newest_first=False)},
    "flat_tickers": {"faults": Faults(nested_all_ticker=True)},
    "one_message": {"faults": Faults(corrupt=0.2)},
    "known_methods": {"faults": Faults(unknown_method=0.2)},
    "pushed_once": {"faults": Faults(duplicated=0.3)},
    "clean_first": {"faults": Faults(clean_missing=0.7)},
    "clock": {"faults": Faults(clock_offset=60)},
    "signed_with_server_time": {"accounts": {"another-key": SECRET}},
    "thirty_subscriptions": {"symbols": 40, "faults": Faults(max_subscriptions=12)},
}

Report = tuple[int, dict[str, Any]]
"""The exit status of a probe, and what it found."""


async def visited(seconds: float, **options: Any) -> Report:
    """Probe an exchange with these options."""
    printed: list[str] = []
    settings: dict[str, Any] = {
        "exchange": {"reply_timeout": 2.0},
        "channels": {"trades": [SYMBOLS[0]], "depth": ["*"]},
        "accounts": [
            {"name": "main", "api_key": KEY, "secret": SECRET, "balance": ["BTC"], "order": [SYMBOLS[0]]}
        ],
    }
    usual: dict[str, Any] = {"symbols": SYMBOLS, "rate": 60, "accounts": {KEY: SECRET}}
    async with Simulator(**{**usual, **options}) as exchange:
        settings["exchange"]["url"] = exchange.url
        config = Config.model_validate(settings)
        status = await probe(config, seconds, json=True, limits="symbols" in options, say=printed.append)
    return status, json.loads(printed[0])


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    """Return what is found of an exchange as assumed (""), and of one for each thing that is otherwise."""

    async def all_visited() -> dict[str, Report]:
        visits = {"": visited(6.0)} | {name: visited(6.0, **options) for name, options in OTHERWISE.items()}
        return dict(zip(visits, await asyncio.gather(*visits.values()), strict=True))

    return asyncio.run(all_visited())


def named(report: Report, verdict: str) -> set[str]:
    return {row["name"] for row in report[1]["assumptions"] if row["verdict"] == verdict}


@pytest.mark.parametrize("name", OTHERWISE)
def test_what_does_not_hold_is_found(name: str, reports: dict[str, Report]) -> None:
    failed = named(reports[name], "does not hold")
    assert name in failed
    assert reports[name][0] == (1 if any(ASSUMPTIONS[one].costs_data for one in failed) else 0)


def test_an_exchange_as_it_is_assumed_to_be_fails_nothing(reports: dict[str, Report]) -> None:
    status, report = reports[""]
    assert (status, named(reports[""], "does not hold")) == (0, set())
    assert named(reports[""], "not seen") == {"two_logins", "thirty_subscriptions", "connections"}
    measured = report["measured"]
    assert measured["clock_offset"]["error"] < 1.0
    assert set(measured["frames"]) == {"zlib"}
    assert measured["ping_seconds"]["min"] <= measured["ping_seconds"]["max"]


def test_limits_are_tried_only_when_that_is_wanted(reports: dict[str, Report]) -> None:
    limited = reports["thirty_subscriptions"]
    assert {"two_logins", "connections"} <= named(limited, "holds")
    assert any("12 of 40 tried" in line for line in limited[1]["measured"]["limits"])
    assert reports[""][1]["measured"]["limits"] == []


def test_credentials_are_in_no_report(reports: dict[str, Report]) -> None:
    assert not any(word in json.dumps(report) for report in reports.values() for word in (KEY, SECRET))


def test_an_exchange_that_cannot_be_reached_is_named(tmp_path: Path) -> None:
    settings = {"exchange": {"url": "ws://127.0.0.1:1/ws/v1/"}, "channels": {"trades": SYMBOLS}}
    (tmp_path / "bridge.toml").write_text(toml(settings))
    with Command(tmp_path, ["probe", "--config", "bridge.toml"]) as command:
        status = command.process.wait(60)
    assert status == 1
    assert "the exchange at ws://127.0.0.1:1/ws/v1/ could not be visited: " in command.stdout
