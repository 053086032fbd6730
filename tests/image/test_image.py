"""The image, built from the Dockerfile and run as Kubernetes runs it."""

import json
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from fnmatch import fnmatch
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


@pytest.mark.parametrize("requirements", sorted(path.name for path in ROOT.glob("requirements*.txt")))
def test_what_the_dockerfile_copies_is_not_kept_from_it(requirements: str) -> None:
    text = (ROOT / "Dockerfile").read_text().replace("${REQUIREMENTS}", requirements)
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)
    passed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"]
    for name in " ".join(copied).split():
        assert any(fnmatch(name, pattern) for pattern in passed), name


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
    assert labels["org.opencontainers.image.base.name"] == BASE
    assert all(labels.values()), "a label without a value says nothing"


def python(images: Images, name: str, program: str) -> Any:
    """Run a program in the image and return the JSON that it prints."""
    done = subprocess.run(
        images.command(name, "-c", program, options=["--entrypoint=/opt/digifinex-bridge/bin/python"]),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_image_has_neither_build_tools_nor_tests(images: Images) -> None:
    names = ["pip", "setuptools", "hatchling", "confluent_kafka", "rich", "pygments", "tests", "bridge"]
    program = f"import importlib.util as i, json; print(json.dumps([n for n in {names} if i.find_spec(n)]))"
    assert python(images, "look", program) == ["bridge"]


def test_the_image_has_the_locked_packages_and_lists_them(images: Images) -> None:
    program = (
        "import importlib.metadata as m, json, pathlib;"
        "bom = json.loads(pathlib.Path('/opt/digifinex-bridge/sbom.cdx.json').read_text());"
        "print(json.dumps([[f'{d.name}=={d.version}' for d in m.distributions()], bom]))"
    )
    installed, bom = python(images, "list", program)
    locked = {line.split(" ")[0].lower() for line in (ROOT / "requirements.txt").read_text().splitlines()}
    found = {one.replace("_", "-").lower() for one in installed}
    assert found - locked == {f"digifinex-bridge=={__version__}"}
    listed = [bom["metadata"]["component"], *bom["components"]]
    assert {f"{one['name']}=={one['version']}" for one in listed} == found


@pytest.mark.parametrize("user", [f"{USER}:{USER}", "1234567:0"], ids=["its user", "any user of group 0"])
def test_the_image_serves_read_only_and_unprivileged_until_sigterm(
    images: Images, kafka: Broker, prefix: str, tmp_path: Path, user: str
) -> None:
    (port,) = free_ports(1)
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        settings: dict[str, Any] = config(exchange.url, kafka, prefix, {"http": {"port": port}})
        (tmp_path / "bridge.toml").write_text(toml(settings))
        mounts = [f"--volume={tmp_path}/bridge.toml:/etc/digifinex-bridge/bridge.toml:ro"]
        # A new volume has the rights of the directory in the image.
        mounts += [f"--volume={prefix}:/var/lib/digifinex-bridge", f"--user={user}"]
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
