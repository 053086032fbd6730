"""compose.yaml, as far as that goes without Docker: its services run as processes of this machine.

Kafka, simulator, bridge and Prometheus are the real ones, with the environment, command lines and files
that compose.yaml gives them; only their addresses differ. Grafana cannot be had here: its files are read.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.monitoring.prometheus import Prometheus
from tests.support.kafka_broker import Broker, free_ports
from tests.support.process import Command
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
# Of the Compose Specification, https://github.com/compose-spec/compose-spec, under the Apache License 2.0.
SCHEMA = json.loads((ROOT / "tests" / "integration" / "compose-spec" / "compose-spec.json").read_text())


def mounted(service: str) -> dict[str, Path]:
    """Return the files and folders of this repository that a service sees, by their paths there."""
    pairs = [volume.split(":") for volume in SERVICES[service]["volumes"]]
    return {target: ROOT / source for source, target, *_ in pairs if source.startswith("./")}


def seen(service: str, path: str) -> Path:
    """Return the file that a service finds at a path."""
    for target, source in mounted(service).items():
        if path == target or path.startswith(f"{target}/"):
            return Path(str(source) + path.removeprefix(target))
    raise AssertionError(f"{service} has no {path}")


def defaults(text: str) -> str:
    """Return a value with the variables replaced by their defaults."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def test_the_file_is_what_the_compose_specification_describes() -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(COMPOSE)


def test_images_have_versions_and_ports_are_open_to_this_machine_only() -> None:
    for name, service in SERVICES.items():
        assert re.search(r":[\w.-]+$", defaults(service["image"])), name
        assert not defaults(service["image"]).endswith(":latest"), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_what_is_mounted_exists_and_cannot_be_changed_from_inside() -> None:
    for name, service in SERVICES.items():
        for volume in service.get("volumes", []):
            if volume.startswith("./"):
                assert volume.endswith(":ro"), f"{name}: {volume}"
            else:
                assert volume.split(":")[0] in COMPOSE["volumes"], f"{name}: {volume}"
        assert all(path.exists() for path in (mounted(name) if "volumes" in service else {}).values()), name


def test_nobody_can_log_in_to_grafana() -> None:
    environment = SERVICES["grafana"]["environment"]
    assert environment["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert environment["GF_AUTH_DISABLE_LOGIN_FORM"] == "true"
    assert environment["GF_AUTH_BASIC_ENABLED"] == "false"


def test_every_command_after_the_change_to_the_real_exchange_means_the_real_exchange(tmp_path: Path) -> None:
    """As the document changes to it, and podman-compose reads it: without a variable of the shell."""
    document = (ROOT / "docs" / "compose.md").read_text().partition("## The real exchange")[2]
    (commands,) = re.findall(r"```sh\n(.*?)```", document.partition("\n## ")[0], re.DOTALL)
    deletes, changes, starts = commands.splitlines()
    assert deletes == "docker compose down --volumes"  # no simulated records stay on the topics
    assert starts.startswith("docker compose up")
    (tmp_path / "compose.yaml").write_text((ROOT / "compose.yaml").read_text())
    subprocess.run(["sh", "-c", changes], cwd=tmp_path, check=True)
    done = subprocess.run(
        [sys.executable, "-m", "podman_compose", "config"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "EXCHANGE_URL"},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    bridge = yaml.safe_load(done.stdout)["services"]["bridge"]
    assert bridge["environment"]["BRIDGE_EXCHANGE__URL"] == "wss://openapi.digifinex.com/ws/v1/"


def test_grafana_gets_the_dashboard_and_prometheus_as_its_source() -> None:
    provisioning = "/etc/grafana/provisioning"
    (source,) = yaml.safe_load(seen("grafana", f"{provisioning}/datasources/prometheus.yml").read_text())[
        "datasources"
    ]
    assert (source["type"], source["access"], source["isDefault"]) == ("prometheus", "proxy", True)
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load(seen("grafana", f"{provisioning}/dashboards/bridge.yml").read_text())[
        "providers"
    ]
    found = [json.loads(path.read_text()) for path in seen("grafana", provider["options"]["path"]).iterdir()]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert json.loads(seen("grafana", home).read_text()) in found
    assert all(one["uid"] for one in found)


@pytest.fixture(scope="module")
def addresses() -> dict[str, str]:
    """The addresses here of those that compose.yaml has, by host and port."""
    names = ["kafka:9092", "kafka:9093", "kafka:19092", "simulator:8765", "bridge:9464"]
    return {name: f"127.0.0.1:{port}" for name, port in zip(names, free_ports(5), strict=True)}


def moved(text: str, addresses: dict[str, str]) -> str:
    """Return a text with the addresses of this machine."""
    for name, address in addresses.items():
        host, _, port = name.partition(":")
        text = re.sub(rf"(?<![\w.]){host}:{port}\b", address, text)
        if host == "kafka":  # which listens to all addresses, and calls itself localhost
            text = re.sub(rf"(?<=://):{port}\b|\blocalhost:{port}\b", address, text)
    return text


def properties(addresses: dict[str, str]) -> dict[str, str]:
    """Return the broker's properties, as the image makes them of the environment."""
    made = {}
    for name, value in SERVICES["kafka"]["environment"].items():
        key = name.removeprefix("KAFKA_").lower().replace("_", ".")
        made[key] = moved(str(value), addresses)
    del made["log.dirs"]
    return made


@pytest.fixture(scope="module")
def prometheus(addresses: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Prometheus, with everything up that it looks at."""
    simulating, bridging, watching = (
        tmp_path_factory.mktemp(name) for name in ("exchange", "bridge", "prom")
    )
    command = [moved(one, addresses) for one in SERVICES["simulator"]["command"]]
    listens = addresses["simulator:8765"].split(":")
    assert (command[2], command[4]) == ("0.0.0.0", "8765")
    command[2], command[4] = listens
    config = moved(seen("bridge", "/etc/digifinex-bridge/bridge.toml").read_text(), addresses)
    (bridging / "bridge.toml").write_text(config)
    host, _, port = addresses["bridge:9464"].partition(":")
    environment = {
        name: moved(defaults(value), addresses) for name, value in SERVICES["bridge"]["environment"].items()
    }
    environment |= {"BRIDGE_HTTP__HOST": host, "BRIDGE_HTTP__PORT": port}
    scraper = Prometheus(watching, watching / "digifinex-bridge.yml", {}, "unused")
    for target, source in mounted("prometheus").items():
        text = moved(source.read_text(), addresses)
        name = "prometheus.yaml" if target.endswith("/prometheus.yml") else target.rpartition("/")[2]
        (watching / name).write_text(text)
    with (
        Broker(properties(addresses), bootstrap=addresses["kafka:19092"]),
        Command(simulating, command),
        Command(bridging, ["run", "--config", "bridge.toml"], environment) as bridge,
        scraper,
    ):
        yield scraper
        assert bridge.stop() == 0


def test_the_bridge_delivers_what_the_simulator_sends(prometheus: Prometheus) -> None:
    delivered = 'sum by (channel) (digifinex_bridge_records_total{job="compose/bridge"}) > 0'
    channels = {"trades", "depth", "ticker", "all_ticker"}
    eventually(
        lambda: {one["metric"]["channel"] for one in prometheus.query(delivered)} >= channels, 120, "records"
    )


def test_prometheus_has_the_labels_that_dashboard_and_alerts_are_grouped_by(prometheus: Prometheus) -> None:
    ready = (
        'digifinex_bridge_ready{cluster="local",namespace="compose",job="compose/bridge",pod="bridge"} == 1'
    )
    expected = (
        'digifinex_bridge:replicas_expected{cluster="local",namespace="compose",job="compose/bridge"} == 1'
    )
    eventually(lambda: prometheus.query(ready), 120, "the bridge is ready")
    eventually(lambda: prometheus.query(expected), 120, "a replica is expected")


def test_the_alerts_are_evaluated_and_silent(prometheus: Prometheus) -> None:
    eventually(lambda: all(rule["health"] == "ok" for rule in prometheus.rules().values()), 120, "evaluated")
    assert len(prometheus.rules()) > 10
    assert [name for name, rule in prometheus.rules().items() if rule["state"] == "firing"] == []
