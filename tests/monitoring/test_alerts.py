"""Each alert fires when it must and stays quiet when it must: `alerts/` has a file for each."""

import itertools
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm import VALUES, manifests, the
from tests.monitoring.rules import ALERTS, GROUPS, RULES, anchor, undeclared

SCENARIOS = Path(__file__).parent / "alerts"


def promtool(*arguments: object) -> tuple[int, str]:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout + done.stderr


def scenarios(alert: str) -> list[dict[str, Any]]:
    """Return what is told of an alert at which time, by scenario."""
    document = yaml.safe_load((SCENARIOS / f"{anchor(ALERTS[alert])}.yaml").read_text())
    tests: list[dict[str, Any]] = document["tests"]
    assert all(one["alertname"] == alert for test in tests for one in test.get("alert_rule_test", []))
    return tests


def test_promtool_finds_nothing_to_complain_about() -> None:
    status, told = promtool("check", "rules", "--lint-fatal", RULES)
    assert status == 0, told


@pytest.mark.parametrize("alert", ALERTS)
def test_it_fires_when_it_must_and_is_quiet_when_it_must(alert: str) -> None:
    status, told = promtool("test", "rules", SCENARIOS / f"{anchor(ALERTS[alert])}.yaml")
    assert status == 0, told


@pytest.mark.parametrize("alert", ALERTS)
def test_there_is_a_scenario_in_which_it_fires_and_one_in_which_it_does_not(alert: str) -> None:
    """In one it is quiet first and fires then; in another, named so, it stays quiet to the end."""
    fires, quiet = False, False
    for scenario in scenarios(alert):
        told = [bool(one["exp_alerts"]) for one in scenario.get("alert_rule_test", [])]
        fires |= (False, True) in itertools.pairwise(told)
        quiet |= scenario["name"].startswith("quiet - ") and bool(told) and not any(told)
    assert fires, "no scenario in which it is quiet and then fires"
    assert quiet, "no scenario in which it never fires"


def test_every_file_is_of_an_alert() -> None:
    assert {path.stem for path in SCENARIOS.iterdir()} == {anchor(alert) for alert in ALERTS.values()}


@pytest.mark.parametrize("alert", ALERTS)
def test_it_says_what_it_is_how_bad_it_is_and_where_to_read_on(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["for"]
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert "\n" not in rule["annotations"]["description"]


@pytest.mark.parametrize("alert", ALERTS)
def test_releases_and_clusters_are_kept_apart(alert: str) -> None:
    kept = re.findall(r"\bby \(([^)]*)\)", ALERTS[alert]["expr"])
    assert kept
    assert all(labels.startswith("cluster, namespace, job") for labels in kept), kept


@pytest.mark.parametrize("alert", ALERTS)
def test_its_metrics_are_declared(alert: str) -> None:
    assert not undeclared(ALERTS[alert]["expr"])


def test_the_operator_gets_the_same_alerts_with_the_address_of_the_runbook_in_front() -> None:
    base = "https://git.example.com/bridge/"
    rendered = the("PrometheusRule", manifests(VALUES["all-switches"]))["spec"]["groups"]
    for group in rendered:
        for rule in group["rules"]:
            url = rule["annotations"]["runbook_url"]
            assert url.startswith(base + "docs/")
            rule["annotations"]["runbook_url"] = url.removeprefix(base)
    assert rendered == GROUPS


def test_the_job_is_the_name_of_the_statefulset() -> None:
    """The operator makes it of the PodMonitor's; DigiFinexBridgeReplicaMissing joins by that."""
    objects = manifests(VALUES["all-switches"])
    names = {the(kind, objects)["metadata"]["name"] for kind in ("StatefulSet", "PodMonitor")}
    assert len(names) == 1
    assert "jobLabel" not in the("PodMonitor", objects)["spec"]


def test_the_chart_scrapes_often_enough() -> None:
    """The shortest window of an alert has four scrapes of what is allowed at the head of the rules."""
    assert "Scrape every 30 s or more often" in RULES.read_text()
    windows = [
        int(number) * {"m": 60, "h": 3600, "d": 86400}[unit]
        for alert in ALERTS.values()
        for number, unit in re.findall(r"\[(\d+)([mhd])\]", alert["expr"])
    ]
    assert min(windows) >= 4 * 30
