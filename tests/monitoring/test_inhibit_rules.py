"""A real Alertmanager with the runbook's inhibit rules: consequences are silent, everything else is heard."""

import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator

import pytest
import yaml

from tests.monitoring.rules import ALERTS, RUNBOOK
from tests.support.kafka_broker import free_ports
from tests.support.process import fetch
from tests.support.waiting import eventually

(TEXT,) = re.findall(r"```yaml\n(inhibit_rules:.*?)```", RUNBOOK.read_text(), re.DOTALL)
RULES = yaml.safe_load(TEXT)["inhibit_rules"]
RELEASE = {"cluster": "a", "namespace": "md", "job": "md/feed"}
NAMES = sorted(ALERTS)


class Alertmanager:
    """Takes alerts and says which of them it would notify of."""

    def __init__(self, port: int) -> None:
        self._port = port

    def heard(self, *alerts: dict[str, str]) -> set[tuple[str, str]]:
        """Return alert and job of those that are not inhibited while all of these fire."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/api/v2/alerts",
            json.dumps([{"labels": labels} for labels in alerts]).encode(),
            {"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=60).close()
        jobs = {labels["job"] for labels in alerts}
        # The state of an alert is computed when its group is looked at.
        eventually(lambda: len(self._known(jobs)) == len(alerts), 30, "Alertmanager has all alerts")
        return {
            (one["labels"]["alertname"], one["labels"]["job"])
            for one in self._known(jobs)
            if not one["status"]["inhibitedBy"]
        }

    def _known(self, jobs: set[str]) -> list[dict[str, dict[str, str]]]:
        found = json.loads(fetch(self._port, "/api/v2/alerts")[1])
        return [
            one for one in found if one["labels"]["job"] in jobs and one["status"]["state"] != "unprocessed"
        ]


@pytest.fixture(scope="module")
def alertmanager(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alertmanager]:
    folder = tmp_path_factory.mktemp("alertmanager")
    settings = {"route": {"receiver": "nobody", "group_wait": "1s"}, "receivers": [{"name": "nobody"}]}
    (folder / "alertmanager.yaml").write_text(yaml.safe_dump(settings) + TEXT)
    program = shutil.which("prometheus-alertmanager")
    assert program, "prometheus-alertmanager is not installed: run 'make setup'"
    (port,) = free_ports(1)
    command = [program, "--config.file=alertmanager.yaml", "--storage.path=data", "--cluster.listen-address="]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], cwd=folder, stdout=log, stderr=log
        )
    try:
        eventually(lambda: fetch(port, "/-/ready")[0] == 200, 30, "Alertmanager is ready")
        yield Alertmanager(port)
    finally:
        process.terminate()
        process.wait(15)


def alert(name: str, **labels: str) -> dict[str, str]:
    severity = ALERTS[f"DigiFinexBridge{name}"]["labels"]["severity"]
    return {"alertname": f"DigiFinexBridge{name}", "severity": severity} | RELEASE | labels


@pytest.mark.parametrize(
    ("cause", "silent"),
    [
        (
            "FeedDead",
            {
                "ChannelStale",
                "AccountNotReady",
                "SubscriptionsMissing",
                "ShardUnowned",
                "NotReady",
                "ReconnectStorm",
            },
        ),
        ("ChannelStale", {"SubscriptionsMissing"}),
        ("KafkaUnreachable", {"DataLate", "DeliveryLagHigh", "ShardUnowned", "SpoolFilling", "NotReady"}),
        ("PartitionUnavailable", {"DataLate", "SpoolFilling"}),
        ("ReadingPaused", {"SpoolFilling"}),
        ("ShardUnowned", {"NotReady"}),
    ],
)
def test_consequences_of_an_alert_are_silent_in_the_same_release_only(
    alertmanager: Alertmanager, cause: str, silent: set[str]
) -> None:
    """Every other alert is heard, and in another release all are."""
    here, elsewhere = f"md/{cause}", f"md/other-than-{cause}"
    alerts = {name.removeprefix("DigiFinexBridge") for name in NAMES}
    # What silences others itself would confuse the result.
    causes = {matcher_name(rule["source_matchers"][0]) for rule in RULES}
    expected = {(name, here) for name in alerts - causes - silent | {cause}}
    expected |= {(name, elsewhere) for name in silent - causes}
    silenced = {(name, here) for name in silent}
    heard = alertmanager.heard(*(alert(name, job=job, channel="depth") for name, job in expected | silenced))
    assert heard == {(f"DigiFinexBridge{name}", job) for name, job in expected}


def matcher_name(matcher: str) -> str:
    return matcher.removeprefix('alertname="DigiFinexBridge').removesuffix('"')


def targets(rule: dict[str, list[str]]) -> list[str]:
    """Return the alerts that a rule silences."""
    (pattern,) = re.findall(r'alertname=~?"([^"]*)"', rule["target_matchers"][0])
    return [name for name in NAMES if re.fullmatch(pattern, name)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: matcher_name(rule["source_matchers"][0]))
def test_an_inhibit_rule_names_alerts_that_exist_and_silences_nothing_more_severe(
    rule: dict[str, list[str]],
) -> None:
    source = ALERTS[f"DigiFinexBridge{matcher_name(rule['source_matchers'][0])}"]
    named = re.findall(r"[A-Z]\w+", rule["target_matchers"][0].replace("DigiFinexBridge", ""))
    assert [f"DigiFinexBridge{name}" for name in sorted(named)] == targets(rule)
    assert rule["equal"][:3] == ["cluster", "namespace", "job"]
    for name in targets(rule):
        assert source["labels"]["severity"] in ("critical", ALERTS[name]["labels"]["severity"])


def test_the_channel_of_a_silent_alert_is_the_same(alertmanager: Alertmanager) -> None:
    heard = alertmanager.heard(
        alert("ChannelStale", job="md/one", channel="depth"),
        alert("SubscriptionsMissing", job="md/one", channel="trades"),
    )
    assert len(heard) == 2
