"""The runbook has a section for each alert, and all that it names exists."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from bridge.config import Config
from bridge.records import Kind
from tests.chart.helm import VALUES, manifests, the
from tests.monitoring.rules import ALERTS, METRICS, ROOT, RUNBOOK, anchor, sections, undeclared

TEXT = RUNBOOK.read_text()
DASHBOARDS = sorted((ROOT / "helm" / "digifinex-bridge" / "dashboards").glob("*.json"))


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_section(alert: str) -> None:
    assert anchor(ALERTS[alert]) in sections()


def test_every_section_has_an_alert() -> None:
    assert sections() - {anchor(alert) for alert in ALERTS.values()} == {"first-look", "log-messages"}


@pytest.mark.parametrize("alert", ALERTS)
def test_a_section_has_alert_and_severity_then_meaning_impact_check_and_fix(alert: str) -> None:
    (text,) = (
        part
        for part in TEXT.split("\n## ")
        if part.partition("\n")[0].lower().replace(" ", "-") == anchor(ALERTS[alert])
    )
    assert text.split("\n\n")[1] == f"`{alert}`, {ALERTS[alert]['labels']['severity']}."
    assert re.findall(r"^\*\*(\w+)\.\*\*", text, re.MULTILINE) == ["Meaning", "Impact", "Check", "Fix"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_links_of_panels_lead_to_a_section(path: Path) -> None:
    panels = json.loads(path.read_text())["panels"]
    links = [link["url"] for panel in panels for link in panel.get("links", [])]
    assert links
    assert {url.removeprefix("${runbook}#") for url in links} <= sections()


def test_metrics_named_in_the_runbook_are_declared() -> None:
    assert not undeclared(TEXT)
    short = set(re.findall(r"`(\w+_(?:total|seconds|records|bytes))`", TEXT))
    assert short
    assert {f"digifinex_bridge_{name}" for name in short} <= METRICS


def test_configuration_keys_named_in_the_runbook_exist() -> None:
    named = set(re.findall(r"`(?:config\.)?(exchange|channels|kafka|spool)\.(\w+)`", TEXT))
    assert len(named) > 5
    for section, key in named:
        field = Config.model_fields[section].annotation
        assert field is not None
        assert key in field.model_fields, f"{section}.{key}"


def test_events_named_in_the_runbook_exist() -> None:
    named = set(re.findall(r'"event":"(\w+)"', TEXT)) | set(re.findall(r"`(spool_(?!\w*bytes)\w+)`", TEXT))
    assert len(named) > 2
    assert named <= set(get_args(Kind))


def test_commands_of_the_runbook_select_the_pods_of_the_chart() -> None:
    pod = the("StatefulSet", manifests(VALUES["minimal"]))["spec"]["template"]
    wanted = set(re.findall(r"-l (app[^\s`]+)", TEXT))
    assert wanted
    for labels in wanted:
        for pair in labels.rstrip("`").split(","):
            name, _, value = pair.partition("=")
            assert pod["metadata"]["labels"][name] == value.replace("$RELEASE", "feed")
    (port,) = (port["containerPort"] for port in pod["spec"]["containers"][0]["ports"])
    assert f"port-forward $POD {port}" in TEXT
    assert f"http://localhost:{port}/readyz" in TEXT
