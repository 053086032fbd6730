"""A real Prometheus scrapes a real bridge that has been through every kind of failure: panels and alerts."""

import json
import math
import os
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import pytest
from confluent_kafka import Producer

from bridge.channels import CHANNELS
from bridge.config import KafkaConfig
from bridge.kafka.client import transactional_id
from bridge.simulator import Faults
from tests.monitoring.prometheus import Prometheus
from tests.monitoring.rules import ALERTS, ROOT, RULES, RUNBOOK, selectors
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker
from tests.support.process import ACCOUNTS, SYMBOLS, RunningBridge, config
from tests.support.waiting import eventually

JOB = "market-data/feed-digifinex-bridge"
# The labels that the operator adds for a PodMonitor, and the cluster by a relabeling.
POD = {"cluster": "production", "namespace": "market-data", "pod": "feed-digifinex-bridge-0"}
POD |= {"container": "bridge", "endpoint": "http"}

DASHBOARD = json.loads((ROOT / "helm/digifinex-bridge/dashboards/digifinex-bridge.json").read_text())
VARIABLES = {one["name"]: one for one in DASHBOARD["templating"]["list"] if one["type"] == "query"}
ANNOTATIONS = {one["name"]: one for one in DASHBOARD["annotations"]["list"]}
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"] if panel["type"] != "row"}

# Grafana turns several selected values into a regular expression.
SELECTIONS = {
    "all": dict.fromkeys(VARIABLES, ".*") | {"channel": f"({'|'.join(CHANNELS)})"},
    "chosen": {name: POD[name] for name in ("cluster", "namespace", "pod")}
    | {"release": JOB, "channel": "(depth|trades)"},
}
# Four scrapes, as Grafana takes, and the default time range of the dashboard.
BUILT_IN = {"__rate_interval": "4s", "__range": "10800s", "__range_s": "10800"}

ACTIVE = {"DigiFinexBridgeDeadLetters", "DigiFinexBridgeDecompressionErrors", "DigiFinexBridgeGapNotFilled"}

_SOON = 20.0  # seconds


class Scene(NamedTuple):
    """A bridge after all failures, live again, and the Prometheus that scrapes it."""

    prometheus: Prometheus
    environment: dict[str, str]
    restart_ids: Callable[[], None]
    """Let the ids of a market begin anew, and return once that is an event."""

    def figures(self, query: str) -> list[float]:
        """Return the finite values of a query: a quantile of no observations is NaN."""
        values = [float(one["value"][1]) for one in self.prometheus.query(query)]
        return [value for value in values if math.isfinite(value)]


@pytest.fixture(scope="module")
def scene(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """Bad frames, a refused subscription, an outage longer than the history, and a fenced producer."""
    prefix = f"t{uuid.uuid4().hex[:8]}"
    folder = tmp_path_factory.mktemp("scene")
    faults = Faults(corrupt=0.01, bad_json=0.01, unknown_method=0.01, clean_again=0.05)
    sections: dict[str, dict[str, Any]] = {
        "exchange": {"reconnect_min": 0.05, "reconnect_max": 0.3, "ping_interval": 0.5},
        "channels": {"ticker": [*SYMBOLS, "NONE_USDT"]},
    }
    with ExchangeThread(symbols=SYMBOLS, rate=1000, faults=faults, accounts=ACCOUNTS) as exchange:
        settings = config(exchange.url, kafka, prefix, sections, accounts=True)
        with (
            RunningBridge(folder, settings) as bridge,
            Prometheus(folder, RULES, {bridge.port: POD}, JOB) as prometheus,
        ):
            eventually(lambda: bridge.metric("records_total", channel="trades") > 0, 30, "trades")
            fence(kafka, settings["kafka"])
            eventually(lambda: "digifinex_bridge_kafka_errors_total{" in bridge.metrics(), 30, "an error")
            outage(exchange)
            eventually(lambda: bridge.metric("gaps_total", channel="trades") > 0, 30, "a gap of trades")
            eventually(lambda: bridge.metric("gaps_total", channel="order") > 0, 30, "a gap of orders")

            def restart_ids() -> None:
                before = bridge.metric("events_total", event="ids_restarted")
                exchange.call(exchange.simulator.market.markets[SYMBOLS[0]].restart_ids, 0)
                eventually(
                    lambda: bridge.metric("events_total", event="ids_restarted") > before, 60, "ids anew"
                )

            restart_ids()
            (folder / "kcat.conf").write_text("fetch.wait.max.ms=10\n")
            names = {"KAFKA": kafka.bootstrap, "PREFIX": prefix, "KCAT_CONFIG": str(folder / "kcat.conf")}
            yield Scene(prometheus, names, restart_ids)
            assert bridge.stop() == 0


def fence(kafka: Broker, keys: dict[str, Any]) -> None:
    """Take the shard's transactional id from the bridge, which then takes it back."""
    mine = transactional_id(KafkaConfig(**keys), 0)
    Producer({"bootstrap.servers": kafka.bootstrap, "transactional.id": mine}).init_transactions(20)


def outage(exchange: ExchangeThread) -> None:
    """Refuse connections until more trades have happened than a clean list shows."""

    def made() -> int:
        return sum(map(len, exchange.truth.made.values()))

    exchange.run(exchange.simulator.drop_all(refuse=1_000_000))
    before = made()
    eventually(lambda: made() > before + len(SYMBOLS) * 400, 30, "more trades than a clean list shows")
    exchange.call(exchange.simulator.refuse, 0)


def substituted(text: str, values: dict[str, str]) -> str:
    """Replace the variables in a query, as Grafana does."""
    return re.sub(r"\$([a-z_]\w*)", lambda variable: {**BUILT_IN, **values}[variable[1]], text)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("title", PANELS)
def test_every_query_of_a_panel_returns_values(scene: Scene, title: str, selection: str) -> None:
    """With the labels that its legend names."""
    for target in PANELS[title]["targets"]:
        query = substituted(target["expr"], SELECTIONS[selection])
        eventually(partial(scene.figures, query), _SOON, query)
        legend = set(re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")))
        for series in scene.prometheus.query(query):
            assert legend <= series["metric"].keys(), query


@pytest.mark.parametrize("name", VARIABLES)
def test_every_variable_has_values_to_choose_from(scene: Scene, name: str) -> None:
    """Those that are chosen for the panels among them."""
    query = substituted(VARIABLES[name]["query"]["query"], SELECTIONS["chosen"])
    source, label = re.fullmatch(r"label_values\((.*), (\w+)\)", query).groups()  # type: ignore[union-attr]
    values = scene.prometheus.label_values(label, source)
    assert set(re.findall(r"[\w/-]+", SELECTIONS["chosen"][name])) <= set(values)


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_every_annotation_marks_something(scene: Scene, name: str) -> None:
    """With the labels that its text names; only some alerts have a channel or an event."""
    annotation = ANNOTATIONS[name]
    query = substituted(annotation["expr"], SELECTIONS["chosen"])
    eventually(partial(scene.prometheus.query, f"max_over_time(({query})[1h:1s])"), _SOON, query)
    series = scene.prometheus.query(f"max_over_time(({query})[1h:1s])")
    labels = {label for one in series for label in one["metric"]}
    named = set(re.findall(r"\{\{(\w+)\}\}", annotation["textFormat"]))
    assert named - {"alertname", "channel", "event"} <= labels
    if annotation.get("useValueForTime"):
        assert all(abs(float(one["value"][1]) / 1000 - time.time()) < 3600 for one in series)


def test_prometheus_evaluates_every_alert_and_the_expected_ones_are_active(scene: Scene) -> None:
    def healthy(name: str) -> bool:
        return bool(scene.prometheus.rules()[name]["health"] == "ok")

    def active(name: str) -> bool:
        return scene.prometheus.rules()[name]["state"] in ("pending", "firing")

    def over(name: str) -> bool:
        return bool(scene.prometheus.rules()[name]["state"] == "inactive")

    assert scene.prometheus.rules().keys() == ALERTS.keys()
    for name in ALERTS:
        eventually(partial(healthy, name), _SOON, f"{name} was evaluated without an error")
    for name in ACTIVE:
        eventually(partial(active, name), _SOON, f"{name} is active")
    for name, alert in ALERTS.items():
        if alert["labels"]["severity"] == "critical":
            eventually(partial(over, name), _SOON, f"{name} is inactive")


@pytest.mark.parametrize("name", ALERTS)
def test_series_and_labels_of_an_alert_exist(scene: Scene, name: str) -> None:
    expression = ALERTS[name]["expr"]
    labels: set[str] = set()
    for selector in selectors(expression):
        eventually(partial(scene.prometheus.query, selector), _SOON, selector)
        for series in scene.prometheus.query(selector):
            labels |= series["metric"].keys()
    named = {
        name
        for names in re.findall(r"(?:by|ignoring|on) \(([^)]*)\)", expression)
        for name in names.split(", ")
    }
    assert named <= labels


@pytest.mark.parametrize(
    "query",
    [
        line
        for block in re.findall(r"```promql\n(.*?)```", RUNBOOK.read_text(), re.DOTALL)
        for line in block.splitlines()
    ],
)
def test_a_query_of_the_runbook_returns_series(scene: Scene, query: str) -> None:
    eventually(partial(scene.prometheus.query, query), _SOON, query)


@pytest.mark.parametrize(
    "command",
    [
        block
        for block in re.findall(r"```sh\n(.*?)```", RUNBOOK.read_text(), re.DOTALL)
        if block.startswith("kcat")
    ],
)
def test_a_kcat_command_of_the_runbook_prints_something(scene: Scene, command: str) -> None:
    if "ids_restarted" in command:
        scene.restart_ids()  # the bad frames of the scene make many other events
    # Events that need a damaged book or another bridge are not in the scene: one that is stands for them.
    command = re.sub("book_suspect|second_bridge|state_unreadable", "gap", command)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        env={**os.environ, **scene.environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
