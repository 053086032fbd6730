"""The alert rules as Prometheus reads them, and the sections of the runbook."""

import re
from pathlib import Path
from typing import Any

import yaml

from bridge.watch.metrics import DECLARATIONS, PREFIX

ROOT = Path(__file__).parents[2]
RULES = ROOT / "helm" / "digifinex-bridge" / "rules" / "digifinex-bridge.yaml"
RUNBOOK = ROOT / "docs" / "runbook.md"

GROUPS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"]
ALERTS: dict[str, dict[str, Any]] = {
    rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule
}

_SELECTOR = re.compile(rf"(?:{PREFIX}|process_)\w+(?:\{{[^}}]*\}})?")
_PARTS = {"histogram": ("_bucket", "_count", "_sum")}

METRICS = {f"{PREFIX}build_info"} | {
    f"{PREFIX}{one.name}{part}" for one in DECLARATIONS for part in _PARTS.get(one.type.kind, ("",))
}


def anchor(alert: dict[str, Any]) -> str:
    """Return the anchor of the runbook section that an alert links to."""
    url = str(alert["annotations"]["runbook_url"])
    assert url.startswith("docs/runbook.md#"), url
    return url.partition("#")[2]


def selectors(expression: str) -> list[str]:
    """Return the selectors of the bridge's own metrics in an expression."""
    return _SELECTOR.findall(expression)


def undeclared(text: str) -> set[str]:
    """Return the names in a text that have the bridge's prefix but are not metrics."""
    return set(re.findall(rf"{PREFIX}\w+", text)) - METRICS


def sections() -> set[str]:
    """Return the anchors of the runbook's sections."""
    titles = re.findall(r"^## (.*)$", RUNBOOK.read_text(), re.MULTILINE)
    return {title.lower().replace(" ", "-") for title in titles}
