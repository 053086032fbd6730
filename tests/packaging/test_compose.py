"""compose.yaml with podman-compose: its containers, with stand-ins for the images that a registry would give.

All containers share one network of their own without a way out. There is no Grafana.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.image.stand_in import BASE, ROOT, Images
from tests.support.kafka_broker import JARS
from tests.support.waiting import eventually

SERVICES = ["kafka", "simulator", "bridge", "prometheus"]
# As in `Images.command`: what works on a machine that is a container itself.
RUN = "--runtime=runc --ulimit=nofile=1024:1024 --ulimit=nproc=1024:1024"
BUILD = "--isolation=chroot --pull=never --network=host"


def stand_ins() -> dict[str, Any]:
    """Return what is merged over compose.yaml: programs of this machine in place of those of other images."""
    # Not by the links of /etc/alternatives. Debian has Java's configuration in /etc.
    java = os.path.realpath(shutil.which("java") or "java")
    configuration = [f"{path}:{path}:ro" for path in sorted(Path("/etc").glob("java-*"))]
    programs: dict[str, dict[str, Any]] = {
        "kafka": {
            "image": BASE,
            "entrypoint": ["sh", "/start", java],
            "volumes": [
                "/usr:/usr:ro",
                *configuration,
                f"{JARS}:/jars:ro",
                f"{ROOT}/tests/packaging/stand-in-kafka.sh:/start:ro",
            ],
        },
        "prometheus": {
            "image": BASE,
            "entrypoint": ["prometheus", "--config.file=/etc/prometheus/prometheus.yml"],
            "command": ["--storage.tsdb.path=/prometheus"],
            "volumes": ["/usr:/usr:ro"],
        },
        "bridge": {"build": {"context": str(ROOT), "args": {"PYTHON_IMAGE": BASE}}},
        "simulator": {"build": {"context": str(ROOT), "args": {"PYTHON_IMAGE": BASE}}},
    }
    hosts = [f"{name}:127.0.0.1" for name in SERVICES]
    return {
        "services": {
            name: {**programs[name], "network_mode": "host", "extra_hosts": hosts} for name in SERVICES
        }
    }


class Composed:
    """The services, in a network of their own; URLs are those that a browser of this machine has."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    def get(self, url: str) -> Any:
        """Return the JSON at a URL; None if nothing answers."""
        program = f"import urllib.request as r; print(r.urlopen({url!r}, timeout=60).read().decode())"
        inside = ["nsenter", f"--net=/proc/{self.process.pid}/ns/net", sys.executable, "-c", program]
        done = subprocess.run(inside, capture_output=True, text=True, check=False, timeout=300)
        return json.loads(done.stdout) if done.returncode == 0 else None

    def series(self, expression: str) -> list[dict[str, str]]:
        """Return the labels of the series of an expression in Prometheus."""
        query = urllib.parse.urlencode({"query": expression})
        answer = self.get(f"http://localhost:9090/api/v1/query?{query}")
        return [one["metric"] for one in answer["data"]["result"]] if answer else []


@pytest.fixture
def composed() -> Iterator[Composed]:
    """The services of compose.yaml, started by podman-compose."""
    # Not in pytest's folder: podman rejects paths of more than 50 characters.
    with tempfile.TemporaryDirectory(prefix="compose-") as name:
        folder = Path(name)
        images = Images(folder)
        (folder / "stand-ins.yaml").write_text(yaml.safe_dump(stand_ins()))
        (folder / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{name}/storage"\nrunroot = "{name}/run"\n'
        )
        environ = {**os.environ, "CONTAINERS_STORAGE_CONF": f"{name}/storage.conf"}
        compose = [str(Path(sys.executable).with_name("podman-compose"))]
        compose += ["--file", f"{ROOT}/compose.yaml", "--file", f"{name}/stand-ins.yaml"]
        compose += [f"--podman-run-args={RUN}", f"--podman-build-args={BUILD}"]
        try:
            images.make_base()
            subprocess.run([*compose, "build", "bridge"], env=environ, check=True)
            up = shlex.join([*compose, "up", "--no-build", *SERVICES])
            with (folder / "log").open("wb") as log:
                process = subprocess.Popen(
                    ["unshare", "--net", "bash", "-c", f"ip link set lo up && exec {up}"],
                    env=environ,
                    stdout=log,
                    stderr=log,
                )
            try:
                yield Composed(process)
            finally:
                process.send_signal(signal.SIGINT)
                process.wait(120)
                subprocess.run([*compose, "down", "--volumes"], env=environ, check=False)
                sys.stderr.write((folder / "log").read_text()[-5000:])
        finally:
            images.remove()


def test_all_services_work_together(composed: Composed) -> None:
    delivered = 'digifinex_bridge_records_total{job="compose/bridge"} > 0'
    eventually(
        lambda: {one["channel"] for one in composed.series(delivered)} >= {"trades", "all_ticker"},
        60,
        "records on Kafka, and known to Prometheus",
    )
    assert composed.get("http://localhost:9464/readyz")["ready"] is True
