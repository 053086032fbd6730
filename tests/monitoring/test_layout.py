"""The panels of the dashboard can be read, and keep releases apart."""

import re
from typing import Any

import pytest

from bridge.watch.metrics import PREFIX
from tests.monitoring.test_live import DASHBOARD, PANELS

# Of a laptop, in pixels; of the letters of a title, which is set in 14 pixels, and of what stands beside it.
_SCREEN, _LETTER, _BESIDE = 1400, 7.5, 40
_COLUMNS = 24

GRAPHS = {title: panel for title, panel in PANELS.items() if panel["type"] == "timeseries"}


def queries(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


@pytest.mark.parametrize("title", PANELS)
def test_no_title_is_cut(title: str) -> None:
    width = PANELS[title]["gridPos"]["w"] * _SCREEN / _COLUMNS
    assert len(title) * _LETTER + _BESIDE <= width


@pytest.mark.parametrize("title", GRAPHS)
def test_the_axis_of_what_stays_at_zero_ends_at_one(title: str) -> None:
    """And not at a hundred, where one of it could not be seen."""
    axis = GRAPHS[title]["fieldConfig"]["defaults"]["custom"]
    assert (axis["axisSoftMin"], axis["axisSoftMax"]) == (0, 1)


def test_no_panel_covers_another_one() -> None:
    covered = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(covered) == len(set(covered))
    assert max(x for x, _ in covered) == _COLUMNS - 1


@pytest.mark.parametrize("title", PANELS)
def test_a_panel_is_about_the_chosen_releases_only(title: str) -> None:
    for query in queries(PANELS[title]):
        for matchers in re.findall(rf"(?:{PREFIX}\w+|digifinex_bridge:\w+|ALERTS)(\{{[^}}]*\}})?", query):
            for name, label in (("cluster", "cluster"), ("namespace", "namespace"), ("release", "job")):
                assert f'{label}=~"${name}"' in matchers, query


@pytest.mark.parametrize("title", PANELS)
def test_the_same_names_in_two_namespaces_or_clusters_are_not_added_up(title: str) -> None:
    """Two owners of a shard, or a spool that is used twice, would look like trouble."""
    for query in queries(PANELS[title]):
        for labels in re.findall(r"by \(([^)]*)\)", query):
            named = set(labels.split(", "))
            if named & {"job", "pod", "shard", "instance"}:
                assert named >= {"cluster", "namespace"}, labels


def test_a_panel_of_channels_has_only_those_that_are_chosen() -> None:
    """By default those that are configured: the variable reads them from the subscriptions."""
    (variable,) = (one for one in DASHBOARD["templating"]["list"] if one["name"] == "channel")
    assert "digifinex_bridge_subscriptions" in variable["query"]["query"]
    assert not variable.get("allValue")
    for title, panel in GRAPHS.items():
        if any(target.get("legendFormat", "").startswith("{{channel}}") for target in panel["targets"]):
            assert all('channel=~"$channel"' in query for query in queries(panel)), title
