"""What the README says is so: its commands run as written, its samples and configurations are valid."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from bridge.channels import CHANNELS
from bridge.config import load
from bridge.records import DEADLETTER, EVENTS
from tests.support.kafka_broker import JARS, Broker, free_ports
from tests.support.process import ROOT
from tests.support.schemas import SCHEMAS, schema
from tests.support.waiting import eventually

README = (ROOT / "README.md").read_text()
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

# What a shell has that no other make started.
SHELL = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}

BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
SECONDS = 60.0
TOPICS = {*CHANNELS, DEADLETTER, EVENTS}


class Ends(NamedTuple):
    """A command that ends by itself with status 0, having printed this."""

    prints: str


class Lasts(NamedTuple):
    """A command that prints this and goes on until it is stopped."""

    prints: str


TRADE = r"^[A-Z]+_USDT \d+ (buy|sell) \d+\.\d+ \d+\.\d+$"

# Every command of the README, and what it does here.
KCAT = "kcat -b localhost:9092 -C -e -t digifinex.{}.v1 -X isolation.level=read_committed"
COMMANDS: Mapping[str, Ends | Lasts] = {
    "digifinex-bridge check --config bridge.toml": Ends(r"^ready to run$"),
    "curl -s localhost:9464/readyz": Ends(r'^\{"ready": ?true\}$'),
    KCAT.format("trades") + r" -f '%k %s\n'": Ends(r'^[A-Z]+_USDT \{"schema":"digifinex.trades.v1",'),
    KCAT.format("deadletter"): Ends(r"Reached end of topic digifinex.deadletter.v1"),
    "python examples/trades.py localhost:9092": Lasts(TRADE),
    "python examples/books.py localhost:9092": Lasts(r"^BTC_USDT bid \d+\.\d+ ask \d+\.\d+$"),
}
ELSEWHERE = {
    "make demo": "test_the_demo_ends_with_equal_counts",
    "make test": "what runs this",
    "pip install .": "what the Makefile did for this",
    "digifinex-bridge simulate --port 8765": "the fixture",
    "digifinex-bridge run --config bridge.toml": "the fixture",
    "docker build --tag registry.example.com/digifinex-bridge:0.1.0 . "
    "&& docker push registry.example.com/digifinex-bridge:0.1.0": "tests/image builds it with buildah",
    "helm install feed helm/digifinex-bridge --namespace market-data --create-namespace "
    "--values feed.yaml": "tests/chart/test_documents.py",
    "helm test feed --namespace market-data --logs": "tests/chart/test_documents.py",
}


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def lines(language: str) -> list[str]:
    return [line for text in blocks(language) for line in text.splitlines()]


class Tour:
    """The README's own set-up: the simulator, `bridge.toml` and the bridge, at free addresses."""

    def __init__(self, kafka: Broker, folder: Path) -> None:
        self.folder = folder
        simulator, http = free_ports(2)
        self._addresses = {
            "localhost:9092": kafka.bootstrap,
            "127.0.0.1:8765": f"127.0.0.1:{simulator}",
            "--port 8765": f"--port {simulator}",
            "localhost:9464": f"127.0.0.1:{http}",
        }
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "BRIDGE_HTTP__HOST": "127.0.0.1",
            "BRIDGE_HTTP__PORT": str(http),
        }

    def here(self, text: str) -> str:
        """Return a text of the README with the addresses of this tour."""
        for address, ours in self._addresses.items():
            text = text.replace(address, ours)
        return text

    def run(self, command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        return subprocess.run(
            ["bash", "-c", self.here(command)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )

    @contextmanager
    def running(self, command: str, output: Path) -> Iterator["subprocess.Popen[bytes]"]:
        """Run a command as long as the context; what it writes goes to a file."""
        with output.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {self.here(command)}"],
                cwd=self.folder,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=SECONDS)


def says(output: Path, pattern: str) -> None:
    """Wait until a line is there."""
    eventually(
        lambda: re.search(pattern, output.read_text(), re.MULTILINE), SECONDS, f"{pattern} in {output}"
    )


@pytest.fixture(scope="module")
def tour(kafka: Broker) -> Iterator[Tour]:
    """What "Run it" tells to do, done up to the first records."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "examples").symlink_to(ROOT / "examples")
        tour = Tour(kafka, folder)
        first, *_ = (text for text in blocks("toml") if "[exchange]" in text)
        (folder / "bridge.toml").write_text(tour.here(first))
        simulator, bridge = folder / "simulator.out", folder / "bridge.out"
        with tour.running("digifinex-bridge simulate --port 8765", simulator):
            says(simulator, "127.0.0.1")
            with tour.running("digifinex-bridge run --config bridge.toml", bridge) as process:
                says(bridge, r"session opened .*depth=\['BTC_USDT'\]")
                yield tour
                process.send_signal(signal.SIGTERM)
                assert process.wait(timeout=SECONDS) == 0
                says(bridge, "stopped, all received records are on Kafka")


def test_every_command_is_run_by_a_test() -> None:
    assert set(lines("sh")) == COMMANDS.keys() | ELSEWHERE.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_does_what_is_said_of_it(tour: Tour, tmp_path: Path, command: str) -> None:
    match COMMANDS[command]:
        case Ends(pattern):
            # The first ones come right after the bridge's start.
            def done() -> bool:
                result = tour.run(command)
                assert result.returncode == 0, result.stderr
                return re.search(pattern, result.stdout + result.stderr, re.MULTILINE) is not None

            eventually(done, SECONDS, f"{pattern} of {command}")
        case Lasts(pattern):
            with tour.running(command, tmp_path / "out"):
                says(tmp_path / "out", pattern)


def test_the_java_consumer_prints_records(tour: Tour, tmp_path: Path) -> None:
    command = f"java -XX:TieredStopAtLevel=1 -cp '{JARS}/*' examples/Trades.java localhost:9092"
    with tour.running(command, tmp_path / "out"):
        says(tmp_path / "out", r'^[A-Z]+_USDT \{"schema":"digifinex.trades.v1",')


def test_check_prints_what_is_shown(tour: Tour) -> None:
    (shown,) = (text for _, text in BLOCKS if "ready to run" in text)
    printed = tour.run("digifinex-bridge check --config bridge.toml").stdout

    def shape(text: str) -> list[str]:
        """Leave out what differs: figures, addresses, and that the topics are there by now."""
        text = re.sub(r"(missing, run would create it with|exists,) (\d+ partitions?).*", r"exists, \2", text)
        return [re.sub(r"-?\d[\d.]*|localhost", "N", line) for line in tour.here(text).splitlines()]

    assert shape(printed) == shape(shown)


def test_the_log_of_run_begins_as_shown(tour: Tour) -> None:
    (shown,) = (text for _, text in BLOCKS if "starting  " in text)
    log = (tour.folder / "bridge.out").read_text()
    for line in shown.splitlines():
        event = line[41:72].strip() if line != "..." else ""
        assert event in log


def test_the_demo_ends_with_equal_counts() -> None:
    assert 'make demo ARGS="--seconds 20"' in README
    done = subprocess.run(
        ["make", "demo", "ARGS=--seconds 5"],
        cwd=ROOT,
        env=SHELL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("equal")
    for channel in CHANNELS:
        assert f"digifinex.{channel}.v1" in done.stdout


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z]+)", README))))
def test_a_target_of_make_exists(target: str) -> None:
    done = subprocess.run(
        ["make", "-n", target], cwd=ROOT, env=SHELL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("text", blocks("toml"))
def test_a_configuration_is_valid(tmp_path: Path, text: str) -> None:
    (tmp_path / "secrets").mkdir()
    for name in re.findall(r'"secrets/([\w.-]+)', text):
        (tmp_path / "secrets" / name).write_text("x")
    (tmp_path / "bridge.toml").write_text(text)
    config = load(tmp_path / "bridge.toml", {})
    for section, keys in tomllib.loads(text).items():
        assert section == "accounts" or keys.keys() <= getattr(config, section).model_fields_set


def test_every_topic_has_a_sample_that_is_its_schema_s_example() -> None:
    samples = {sample["schema"]: sample for sample in map(json.loads, blocks("json"))}
    assert samples == {f"digifinex.{c}.v1": schema(c)["examples"][0] for c in TOPICS}
    assert {path.parent.name for path in SCHEMAS.glob("*/v1.json")} == TOPICS


@pytest.mark.parametrize(("language", "name"), [("python", "trades.py"), ("java", "Trades.java")])
def test_an_example_is_the_file(language: str, name: str) -> None:
    assert (ROOT / "examples" / name).read_text() in blocks(language)


def test_the_message_of_a_bad_configuration_is_as_shown(tmp_path: Path) -> None:
    (shown,) = (text for _, text in BLOCKS if "partitons" in text)
    (tmp_path / "bridge.toml").write_text('[channels]\ntrades = ["BTC_USDT"]\n[kafka]\npartitons = 3\n')
    done = subprocess.run(
        [sys.executable, "-m", "bridge", "run", "--config", "bridge.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, shown)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", document.read_text()):
        path = document.parent / target if target else document
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles]


def test_the_proofs_of_the_guarantees_exist() -> None:
    proofs = re.findall(r"`(test_\w+\.py)::(\w+)`", (ROOT / "docs/guarantees.md").read_text())
    assert len(proofs) > 20
    for file, test in proofs:
        texts = [path.read_text() for path in (ROOT / "tests").rglob(file)]
        defined = re.compile(rf"^(def|class) {test}\(", re.MULTILINE)
        assert any(map(defined.search, texts)), f"{file}::{test}"
