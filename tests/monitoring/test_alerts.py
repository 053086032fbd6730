"""Each alert fires when it should and stays quiet otherwise: `alerts/` has a file of scenarios for each."""

import itertools
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.helm import CHART, VALUES, manifests, the
from tests.monitoring.rules import ALERTS, GROUPS, RULES, anchor, undeclared

SCENARIOS = Path(__file__).parent / "alerts"


def promtool(*arguments: object) -> tuple[int, str]:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


def scenarios(alert: str) -> list[dict[str, Any]]:
    """Return the scenarios of an alert, with the alerts expected at given times."""
    document = yaml.safe_load((SCENARIOS / f"{anchor(ALERTS[alert])}.yaml").read_text())
    tests: list[dict[str, Any]] = document["tests"]
    assert all(one["alertname"] == alert for test in tests for one in test.get("alert_rule_test", []))
    return tests


def test_promtool_accepts_the_rules() -> None:
    status, output = promtool("check", "rules", "--lint-fatal", RULES)
    assert status == 0, output


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_behaves_as_its_scenarios_say(alert: str) -> None:
    status, output = promtool("test", "rules", SCENARIOS / f"{anchor(ALERTS[alert])}.yaml")
    assert status == 0, output


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_a_scenario_in_which_it_fires_and_one_in_which_it_stays_quiet(alert: str) -> None:
    """In one it is quiet first and then fires; in another, named "quiet - …", it never fires."""
    fires, quiet = False, False
    for scenario in scenarios(alert):
        fired = [bool(one["exp_alerts"]) for one in scenario.get("alert_rule_test", [])]
        fires |= (False, True) in itertools.pairwise(fired)
        quiet |= scenario["name"].startswith("quiet - ") and bool(fired) and not any(fired)
    assert fires, "no scenario in which it is quiet and then fires"
    assert quiet, "no scenario in which it never fires"


def test_every_file_of_scenarios_belongs_to_an_alert() -> None:
    assert {path.stem for path in SCENARIOS.iterdir()} == {anchor(alert) for alert in ALERTS.values()}


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_a_severity_a_summary_a_description_and_a_runbook_link(alert: str) -> None:
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["for"]
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert "\n" not in rule["annotations"]["description"]


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_keeps_releases_and_clusters_apart(alert: str) -> None:
    kept = re.findall(r"\bby \(([^)]*)\)", ALERTS[alert]["expr"])
    assert kept
    assert all(labels.startswith("cluster, namespace, job") for labels in kept), kept


@pytest.mark.parametrize("alert", ALERTS)
def test_metrics_of_an_alert_are_declared(alert: str) -> None:
    assert not undeclared(ALERTS[alert]["expr"])


def test_the_operator_gets_the_same_alerts_with_absolute_runbook_links() -> None:
    base = "https://git.example.com/bridge/"
    _, *rendered = the("PrometheusRule", manifests(VALUES["all-switches"]))["spec"]["groups"]
    for group in rendered:
        for rule in group["rules"]:
            if "record" in rule:
                continue
            url = rule["annotations"]["runbook_url"]
            assert url.startswith(base + "docs/")
            rule["annotations"]["runbook_url"] = url.removeprefix(base)
    assert rendered == GROUPS


def test_every_threshold_can_be_set(tmp_path: Path) -> None:
    """It is the last number of an expression; promtool accepts the result, and nothing else has changed."""
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]["prometheusRule"]
    names = [
        name
        for name, alert in schema["properties"]["alerts"]["properties"].items()
        if "threshold" in alert["properties"]
    ]
    assert len(names) > 10
    values = {"prometheusRule": {"enabled": True, "alerts": {name: {"threshold": 0.125} for name in names}}}
    rendered = the("PrometheusRule", manifests(VALUES["minimal"] + yaml.safe_dump(values)))["spec"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rendered))
    status, output = promtool("check", "rules", "--lint-fatal", tmp_path / "rules.yaml")
    assert status == 0, output
    for rule in rendered["groups"][0]["rules"]:
        name = rule.get("alert", "").removeprefix("DigiFinexBridge")
        if name in names:
            kept, _, threshold = rule["expr"].rpartition("> ")
            assert float(threshold) == 0.125
            assert ALERTS[rule["alert"]]["expr"].startswith(kept + "> ")


def test_the_job_label_is_the_name_of_the_statefulset() -> None:
    """The operator derives it from the PodMonitor's name; DigiFinexBridgeReplicaMissing joins on it."""
    objects = manifests(VALUES["all-switches"])
    names = {the(kind, objects)["metadata"]["name"] for kind in ("StatefulSet", "PodMonitor")}
    assert len(names) == 1
    assert "jobLabel" not in the("PodMonitor", objects)["spec"]


def test_the_shortest_window_of_an_alert_has_four_scrapes() -> None:
    """At the slowest scrape interval that the rules allow."""
    assert "Scrape every 30 s or more often" in RULES.read_text()
    windows = [
        int(number) * {"m": 60, "h": 3600, "d": 86400}[unit]
        for alert in ALERTS.values()
        for number, unit in re.findall(r"\[(\d+)([mhd])\]", alert["expr"])
    ]
    assert min(windows) >= 4 * 30
