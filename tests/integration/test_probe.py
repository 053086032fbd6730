"""`probe` finds what does not hold, on a real socket, and finds nothing where all is as assumed."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from bridge.config import Config
from bridge.exchange.assumptions import ASSUMPTIONS
from bridge.probe import probe, steps
from bridge.simulator import Simulator
from bridge.simulator.dialects import parse_dialect
from bridge.simulator.market import symbol_names
from tests.support.process import SYMBOLS, Command, toml

KEY, SECRET = "an-api-key-of-this-test", "its-secret"

WITH_LIMITS = ("thirty_subscriptions", "connections", "two_logins")  # found by --try-limits only
SILENT = ("answers_in_time", "pings_answered", "clean_first", "clean_again")  # much is waited for in vain

Report = tuple[int, dict[str, Any]]
"""The exit status of a probe, and what it found."""


async def visited(name: str) -> Report:
    """Probe an exchange for which the assumption of this name does not hold; "": one as assumed."""
    printed: list[str] = []
    limits = name in WITH_LIMITS
    # Limits are found one market after the other, each in time, also while all are visited at once.
    timeout = 1.0 if name in SILENT else 10.0 if limits else 2.0
    settings: dict[str, Any] = {
        "exchange": {"reply_timeout": timeout, "subscriptions_per_session": 12},
        "channels": {"trades": SYMBOLS, "depth": ["*"]},
        "accounts": [
            {"name": "main", "api_key": KEY, "secret": SECRET, "balance": ["BTC"], "order": [SYMBOLS[0]]}
        ],
    }
    dialect = parse_dialect("answers_in_time=2" if name == "answers_in_time" else name)
    symbols = symbol_names(20) if limits else SYMBOLS
    if name == "lists_markets":  # some of which do not change, so that they are not named
        symbols = settings["channels"]["trades"] = symbol_names(1000)
    async with Simulator(symbols=symbols, rate=60, accounts={KEY: SECRET}, dialect=dialect) as exchange:
        settings["exchange"]["url"] = exchange.url
        config = Config.model_validate(settings)
        status = await probe(config, 4.0, json=True, limits=limits, say=printed.append)
    return status, json.loads(printed[0])


@pytest.fixture(scope="module")
def reports() -> dict[str, Report]:
    """Return what is found of an exchange as assumed (""), and of one for each assumption turned round."""

    async def all_visited() -> dict[str, Report]:
        names = sorted(
            ["", *ASSUMPTIONS], key=lambda name: name not in SILENT
        )  # those that last longest first
        visits = []
        for name in names:
            visits.append(asyncio.create_task(visited(name)))
            await asyncio.sleep(0.1)  # so that many handshakes at once do not take too long
        return dict(zip(names, await asyncio.gather(*visits), strict=True))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(steps, "_MINUTE", 3.0)  # it is how long a quiet market has time to be named
        patch.setattr(steps, "_SAMPLES", 3)
        return asyncio.run(all_visited())


def named(report: Report, verdict: str) -> set[str]:
    return {row["name"] for row in report[1]["assumptions"] if row["verdict"] == verdict}


@pytest.mark.parametrize("name", ASSUMPTIONS)
def test_what_does_not_hold_is_found(name: str, reports: dict[str, Report]) -> None:
    failed = named(reports[name], "does not hold")
    assert name in failed
    assert reports[name][0] == (1 if any(ASSUMPTIONS[one].costs_data for one in failed) else 0)


def test_an_exchange_as_it_is_assumed_to_be_fails_nothing(reports: dict[str, Report]) -> None:
    status, report = reports[""]
    assert (status, named(reports[""], "does not hold")) == (0, set())
    assert named(reports[""], "not seen") == set(WITH_LIMITS)
    measured = report["measured"]
    assert measured["clock_offset"]["error"] < 1.0
    assert set(measured["frames"]) == {"zlib"}
    assert measured["ping_seconds"]["min"] <= measured["ping_seconds"]["max"]


def test_limits_are_tried_only_when_that_is_wanted(reports: dict[str, Report]) -> None:
    limited = reports["thirty_subscriptions"]
    assert {"two_logins", "connections"} <= named(limited, "holds")
    assert any("10 of 20 tried" in line for line in limited[1]["measured"]["limits"])
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
