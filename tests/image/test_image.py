"""The image, built from the Dockerfile and run as Kubernetes runs it."""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge import __version__
from tests.image.stand_in import BASE, IMAGE, ROOT, Images
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker, free_ports
from tests.support.process import SYMBOLS, config, fetch, toml
from tests.support.waiting import eventually

USER = "10001"


@pytest.fixture(scope="module")
def images() -> Iterator[Images]:
    """The bridge's image, built from the unchanged Dockerfile on a stand-in for the Python base image."""
    # Not in pytest's folder: podman rejects paths of more than 50 characters.
    with tempfile.TemporaryDirectory(prefix="images-") as folder:
        images = Images(Path(folder))
        try:
            images.make_base()
            arguments = {"PYTHON_IMAGE": BASE, "VERSION": __version__, "REVISION": "abc"}
            images.build(ROOT, ROOT / "Dockerfile", IMAGE, **arguments)
            yield images
        finally:
            images.remove()


def test_the_default_version_label_is_the_version_of_the_bridge() -> None:
    assert f"ARG VERSION={__version__}\n" in (ROOT / "Dockerfile").read_text()


def test_hadolint_accepts_the_dockerfile() -> None:
    done = subprocess.run(
        [ROOT / ".venv" / "bin" / "hadolint", "Dockerfile"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.timeout(400)
def test_the_image_has_its_labels_and_runs_as_an_unprivileged_user(images: Images) -> None:
    about = json.loads(images.inspect("{{json .Config}}"))
    assert about["User"] == f"{USER}:{USER}"
    assert about["Entrypoint"] == ["digifinex-bridge"]
    assert about["StopSignal"] == "SIGTERM"
    labels = about["Labels"]
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.revision"] == "abc"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


def python(images: Images, name: str, program: str) -> list[str]:
    """Run a program in the image and return the JSON that it prints."""
    done = subprocess.run(
        images.command(name, "-c", program, options=["--entrypoint=/opt/digifinex-bridge/bin/python"]),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: list[str] = json.loads(done.stdout)
    return found


def test_the_image_has_neither_build_tools_nor_tests(images: Images) -> None:
    names = ["pip", "setuptools", "hatchling", "confluent_kafka", "rich", "pygments", "tests", "bridge"]
    program = f"import importlib.util as i, json; print(json.dumps([n for n in {names} if i.find_spec(n)]))"
    assert python(images, "look", program) == ["bridge"]


def test_the_image_has_the_locked_packages(images: Images) -> None:
    program = (
        "import importlib.metadata as m, json;"
        "print(json.dumps([f'{d.name}=={d.version}' for d in m.distributions()]))"
    )
    locked = {line.split(" ")[0].lower() for line in (ROOT / "requirements.txt").read_text().splitlines()}
    found = {one.replace("_", "-").lower() for one in python(images, "list", program)}
    assert found - locked == {f"digifinex-bridge=={__version__}"}


def test_the_image_serves_read_only_and_unprivileged_until_sigterm(
    images: Images, kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    (tmp_path / "spool").mkdir(mode=0o777)
    (tmp_path / "spool").chmod(0o777)
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        settings: dict[str, Any] = config(exchange.url, kafka, prefix, {"http": {"port": port}})
        (tmp_path / "bridge.toml").write_text(toml(settings))
        mounts = [f"--volume={tmp_path}/bridge.toml:/etc/digifinex-bridge/bridge.toml:ro"]
        mounts += [f"--volume={tmp_path}/spool:/var/lib/digifinex-bridge"]
        running = subprocess.Popen(
            images.command(prefix, options=mounts),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            eventually(lambda: fetch(port, "/readyz")[0] == 200 or running.poll() is not None, 40, "ready")
            assert running.poll() is None
            assert "digifinex_bridge_connected" in fetch(port, "/metrics")[1]
            began = time.monotonic()
            images.stop(prefix)
            assert running.wait(30) == 0
            assert time.monotonic() - began < 25
        finally:
            running.kill()
            output, _ = running.communicate()
    assert "stopped, all received records are on Kafka" in output
