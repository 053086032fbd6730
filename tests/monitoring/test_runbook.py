"""The runbook: a section for each alert, and nothing in it that there isn't."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from bridge.config import Config
from bridge.watch.events import Kind
from tests.chart.helm import VALUES, manifests, the
from tests.monitoring.rules import ALERTS, METRICS, ROOT, RUNBOOK, anchor, sections, undeclared

TEXT = RUNBOOK.read_text()
DASHBOARDS = sorted((ROOT / "helm" / "digifinex-bridge" / "dashboards").glob("*.json"))


@pytest.mark.parametrize("alert", ALERTS)
def test_an_alert_has_its_section(alert: str) -> None:
    assert anchor(ALERTS[alert]) in sections()


def test_a_section_has_its_alert() -> None:
    assert sections() - {anchor(alert) for alert in ALERTS.values()} == {"first-look"}


@pytest.mark.parametrize("section", sorted(sections() - {"first-look"}))
def test_a_section_says_what_it_means_how_to_look_and_what_to_do(section: str) -> None:
    (text,) = (
        part for part in TEXT.split("\n## ") if part.partition("\n")[0].lower().replace(" ", "-") == section
    )
    (alert,) = (alert for alert in ALERTS.values() if anchor(alert) == section)
    assert text.partition("\n\n")[2].startswith(f"{alert['labels']['severity'].capitalize()}. ")
    assert "How to look:" in text
    assert "What to do:" in text


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_the_links_of_panels_lead_to_a_section(path: Path) -> None:
    panels = json.loads(path.read_text())["panels"]
    links = [link["url"] for panel in panels for link in panel.get("links", [])]
    assert links
    assert {url.removeprefix("${runbook}#") for url in links} <= sections()


def test_its_metrics_are_declared() -> None:
    assert not undeclared(TEXT)
    short = set(re.findall(r"`(\w+_(?:total|seconds|records|bytes))`", TEXT))
    assert short
    assert {f"digifinex_bridge_{name}" for name in short} <= METRICS


def test_its_configuration_keys_exist() -> None:
    named = set(re.findall(r"`(?:config\.)?(exchange|channels|kafka|spool)\.(\w+)`", TEXT))
    assert len(named) > 5
    for section, key in named:
        field = Config.model_fields[section].annotation
        assert field is not None
        assert key in field.model_fields, f"{section}.{key}"


def test_its_events_exist() -> None:
    named = set(re.findall(r'"event":"(\w+)"', TEXT)) | set(re.findall(r"`(spool_(?!\w*bytes)\w+)`", TEXT))
    assert len(named) > 2
    assert named <= set(get_args(Kind))


def test_the_bridge_logs_what_is_looked_for() -> None:
    looked_for = re.findall(r"""'"(\w[^'"]*)"?'""", TEXT)
    assert len(looked_for) > 3
    source = "".join(path.read_text() for path in (ROOT / "bridge").rglob("*.py"))
    for text in looked_for:
        assert f'"{text}' in source, text


def test_its_commands_find_the_pods_of_the_chart() -> None:
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
