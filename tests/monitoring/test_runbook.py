"""The runbook has a section for each alert, and all that it names exists."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest

from bridge.config import Config
from bridge.records import Kind
from tests.chart.helm import VALUES, manifests, the
from tests.monitoring.rules import ALERTS, METRICS, ROOT, RUNBOOK, anchor, sections, undeclared

TEXT = RUNBOOK.read_text()
EVENTS = ROOT / "docs" / "events.md"
# What docs/events.md may say of the data.
LOSS = {"missing", "may be missing", "may be missing later", "not received"}
HARMLESS = {"complete", "delayed", "see gaps"}
# Events of a state that lasts, or of a figure that says more.
ALERTED_BY_STATE = {
    "gap": "GapNotFilled",
    "subscription_refused": "SubscriptionsMissing",
    "subscription_silent": "SubscriptionsMissing",
    "book_suspect": "BookSuspect",
}
DASHBOARDS = sorted((ROOT / "helm" / "digifinex-bridge" / "dashboards").glob("*.json"))


def section(alert: dict[str, Any]) -> str:
    """Return the text of an alert's section."""
    (text,) = (
        part
        for part in TEXT.split("\n## ")
        if part.partition("\n")[0].lower().replace(" ", "-") == anchor(alert)
    )
    return text


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_has_a_section(alert: str) -> None:
    assert anchor(ALERTS[alert]) in sections()


def test_every_section_has_an_alert() -> None:
    assert sections() - {anchor(alert) for alert in ALERTS.values()} == {
        "first-look",
        "forget-a-symbol",
        "inhibit-rules",
        "log-messages",
    }


@pytest.mark.parametrize("alert", ALERTS)
def test_a_section_has_alert_and_severity_then_meaning_impact_check_and_fix(alert: str) -> None:
    text = section(ALERTS[alert])
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
    named = set(re.findall(r'"event":"(\w+)"', TEXT)) | set(re.findall(r"`(spool_[a-z]+ed)`", TEXT))
    assert len(named) > 2
    assert named <= set(get_args(Kind))


def test_every_event_that_means_loss_has_an_alert_and_a_place_in_its_section() -> None:
    """docs/events.md says of each kind what it means for the data."""
    rows = re.findall(r"^\| \[`(\w+)`\]\(#\w+\) \| ([a-z ]+) \|", EVENTS.read_text(), re.MULTILINE)
    assert {kind for kind, _ in rows} == set(get_args(Kind))
    assert {data for _, data in rows} <= HARMLESS | LOSS
    losses = {kind for kind, data in rows if data in LOSS}
    lost = ALERTS["DigiFinexBridgeDataLost"]
    counted = set(re.findall(r'event=~?"([^"]*)"', lost["expr"]))
    alerts = {kind: lost for matcher in counted for kind in matcher.split("|")}
    alerts |= {kind: ALERTS[f"DigiFinexBridge{name}"] for kind, name in ALERTED_BY_STATE.items()}
    assert losses == alerts.keys()
    for kind, alert in alerts.items():
        assert re.search(rf"`{kind}`|^### {kind}$", section(alert), re.MULTILINE), kind


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
