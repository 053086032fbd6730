"""The commands of docs/commands.md, run as they are written there, print what is shown there."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.support.kafka_broker import Broker, free_ports
from tests.support.process import ROOT
from tests.support.waiting import eventually
from tests.unit.test_golden import Sample
from tests.unit.test_golden import test_a_sample_becomes_its_records_and_its_dead_letter as assert_is_golden

TEXT = (ROOT / "docs" / "commands.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
COMMANDS = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]
RUN, RUN_WITH_ENVIRONMENT, CHECK, PROBE, TAIL, TAIL_PIPED, SCHEMA, SIMULATE, SIMULATE_FAULTS, DEMO = COMMANDS

SECONDS = 140.0


class Example:
    """The document's configuration in a folder, with free addresses for those that the document names."""

    def __init__(self, folder: Path, kafka: Broker, prefix: str) -> None:
        self.folder = folder
        self.prefix = prefix
        simulator, http = free_ports(2)
        self._addresses = {
            "localhost:9092": kafka.bootstrap,
            "127.0.0.1:8765": f"127.0.0.1:{simulator}",
            "--port 8765": f"--port {simulator}",
        }
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "BRIDGE_KAFKA__TOPIC_PREFIX": prefix,
            "BRIDGE_KAFKA__GROUP_ID": prefix,
            "BRIDGE_HTTP__HOST": "127.0.0.1",
            "BRIDGE_HTTP__PORT": str(http),
        }
        (text,) = (text for language, text in BLOCKS if language == "toml")
        (folder / "bridge.toml").write_text(self.here(text))

    def here(self, text: str) -> str:
        """Return a text of the document with the addresses of this example."""
        for address, ours in self._addresses.items():
            text = text.replace(address, ours)
        return text

    def run(self, command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        return subprocess.run(
            ["bash", "-c", self.here(command)],
            cwd=self.folder,
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )

    def start(self, command: str, terminal: int) -> "subprocess.Popen[bytes]":
        """Start a command in a terminal, whose size no variable overrides, as with pytest-xdist."""
        environment = {**self._environment, "TERM": "xterm-256color"}
        for name in ("COLUMNS", "LINES"):
            environment.pop(name, None)
        return subprocess.Popen(
            ["bash", "-c", f"exec {self.here(command)}"],
            cwd=self.folder,
            env=environment,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
        )

    @contextmanager
    def running(self, command: str, until: str) -> Iterator[Path]:
        """Run a command until SIGTERM, from when it has printed a line; give the file of what it prints."""
        output = self.folder / "output"
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", f"exec env {self.here(command)}"],
                cwd=self.folder,
                env=self._environment,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        try:
            eventually(lambda: re.search(until, output.read_text()), SECONDS, f"{until} of {command}")
            yield output
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=SECONDS) == 0
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=SECONDS)


@pytest.fixture
def example(kafka: Broker, prefix: str, tmp_path: Path) -> Example:
    return Example(tmp_path, kafka, prefix)


@pytest.fixture
def simulated(example: Example) -> Iterator[Example]:
    """The example with the simulator running."""
    folder = example.folder / "simulator"
    folder.mkdir()
    address = example.here("ws://127.0.0.1:8765/ws/v1/")
    with example.running(SIMULATE, until=f"^{address}\n") as output:
        output.rename(folder / "output")
        yield example


def test_check_prints_what_is_shown(simulated: Example) -> None:
    (shown,) = (text for _, text in BLOCKS if text.endswith("ready to run\n"))
    done = simulated.run(CHECK)
    assert done.returncode == 0

    def shape(text: str) -> list[str]:
        """Leave out the figures and addresses, which differ each time."""
        text = text.replace(simulated.prefix, "digifinex")
        return [re.sub(r"[+-]?\d[\d.]*|localhost", "N", line) for line in text.splitlines()]

    assert shape(done.stdout) == shape(simulated.here(shown))


def test_probe_finds_nothing_wrong_and_keeps_samples_that_the_golden_test_takes(simulated: Example) -> None:
    done = simulated.run(PROBE)
    assert done.returncode == 0, done.stdout
    assert done.stdout.splitlines()[-1] == "no assumption failed that costs data"
    samples = sorted((simulated.folder / "samples").rglob("*.json"))
    assert {path.parent.name for path in samples} == {"all_ticker", "depth", "ticker", "trades"}
    for path in samples:
        assert_is_golden(msgspec.json.decode(path.read_bytes(), type=Sample))


def test_run_logs_what_is_shown_and_ends_as_described(simulated: Example) -> None:
    (shown,) = (text for _, text in BLOCKS if "shard taken over" in text)
    with simulated.running(RUN, until="session opened") as output:
        for line in shown.splitlines():
            event = line[41:72].strip() if line != "..." else ""
            assert event in output.read_text()
    assert "`stopped, all received records are on Kafka`" in TEXT
    assert "stopped, all received records are on Kafka" in output.read_text()


def test_tail_prints_what_the_bridge_writes(simulated: Example) -> None:
    (shown,) = (text for _, text in BLOCKS if text.startswith("received "))
    with simulated.running(RUN, until="session opened") as log:
        log.rename(simulated.folder / "log")
        lines = simulated.run(TAIL_PIPED).stdout.splitlines()
        assert {json.loads(line)["schema"] for line in lines} == {"digifinex.trades.v1"}
        assert len(lines) == 3
        pattern = "^received(.|\n)*trades.v1(.|\n)*depth.v1|depth.v1(.|\n)*trades.v1"
        with simulated.running(f"{TAIL} --table", until=pattern) as output:
            rows = [line.split() for line in output.read_text().splitlines()[1:]]
    names = {row[1].removeprefix(simulated.prefix): _names(row[3:]) for row in rows}
    assert names == {
        row[1].removeprefix("digifinex"): _names(row[3:]) for row in map(str.split, shown.splitlines()[1:])
    }
    assert {row[2] for row in rows} == {"BTC_USDT"}


def _names(fields: list[str]) -> list[str]:
    return [field.partition("=")[0] for field in fields]


def test_schema_prints_the_schema(example: Example) -> None:
    assert example.run(SCHEMA).stdout == (ROOT / "schemas" / "trades" / "v1.json").read_text()


def test_run_takes_keys_from_the_environment(simulated: Example) -> None:
    with simulated.running(RUN_WITH_ENVIRONMENT, until='"event": "session opened"'):
        pass


def test_the_simulator_injects_the_faults_that_are_asked_for(example: Example) -> None:
    with example.running(SIMULATE_FAULTS, until=r"^ws://127\.0\.0\.1:\d+/ws/v1/\n"):
        pass


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", text)


def resize(terminal: int, columns: int) -> None:
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 40, columns, 0, 0))


def test_the_demo_in_a_terminal_shows_a_book_if_there_is_room_and_ends_as_described(example: Example) -> None:
    terminal, inside = pty.openpty()
    resize(terminal, 130)
    process = example.start(DEMO.replace("--seconds 20", ""), inside)
    os.close(inside)
    shown = ""

    def last_frame() -> str:
        """Read what the demo has written; return what it drew from the last title but one to the last."""
        nonlocal shown
        while select.select([terminal], [], [], 0)[0]:
            try:
                shown += os.read(terminal, 65536).decode(errors="replace")
            except OSError:  # it has ended
                break
        _, *frames = without_colours(shown).split("DigiFinex to Kafka")
        return frames[-2] if len(frames) > 1 else ""

    try:
        ladder = r"BTC_USDT ─.*\d+\.\d\d +\d+\.\d{4} .*from the topics"
        eventually(lambda: re.search(ladder, last_frame(), re.DOTALL), SECONDS, "a book")
        resize(terminal, 100)
        eventually(lambda: "from the topics" not in last_frame(), SECONDS, "a table alone")
        process.send_signal(signal.SIGINT)
        eventually(lambda: last_frame() and process.poll() is not None, SECONDS, "an end")
        last_frame()
        assert process.returncode == 0, shown
        *_, counts, books = [line.strip() for line in without_colours(shown).splitlines() if line.strip()]
        assert (counts, books) == ("equal", "order books of 6 markets: equal")
    finally:
        process.kill()
        process.wait()
        os.close(terminal)


OTHER_BOOK = """
import asyncio
from bridge import demo
from bridge.demo import show
from bridge.simulator.truth import Truth

def other(truth, symbol):
    sides = book(truth, symbol)
    price = next(iter(sides["asks"]))
    return {**sides, "asks": {**sides["asks"], price: "0.00009999"}}

book, Truth.book = Truth.book, other
show._SETTLE = 2.0
raise SystemExit(asyncio.run(demo.run(1.0, symbols=1)))
"""


def test_the_demo_fails_if_the_exchange_has_another_book() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OTHER_BOOK],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "order books of BTC_USDT: DIFFERENT" in done.stdout
