"""The commands of README, tutorial and consuming run as written, and their samples are valid.

The tests named in `TESTED_ELSEWHERE` do the same for the other documents; tests/unit/test_documents.py checks
what needs no Kafka: links, and the names of tests, files and configuration keys.
"""

import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import AIOKafkaConsumer
from confluent_kafka import Consumer

from bridge.channels import CHANNELS
from bridge.config import load
from bridge.consumer import decode
from bridge.records import BOOK, DEADLETTER, EVENTS, Record
from tests.support.kafka_broker import JARS, Broker, free_ports
from tests.support.process import ROOT
from tests.support.schemas import schema, validate
from tests.support.waiting import eventually

DOCS = ROOT / "docs"
README, TUTORIAL, CONSUMING = ROOT / "README.md", DOCS / "tutorial.md", DOCS / "consuming.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
DOCUMENTS = [README, CONTRIBUTING, ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]

# Documents whose commands other tests account for.
TESTED_ELSEWHERE = {
    "commands.md": "tests/integration/test_commands.py",
    "compose.md": "tests/integration/test_compose.py",
    "kubernetes.md": "tests/chart/test_documents.py",
    "releasing.md": "tests/integration/test_workflows.py",
    "runbook.md": "tests/monitoring/test_live.py",
    "security.md": "tests/integration/test_security.py",
}

SECONDS = 140.0  # for a command to print what is expected, on a busy machine
# The environment without what `make` passes on to the commands that it starts.
SHELL = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


class Prints(NamedTuple):
    """A command that ends by itself with status 0, having printed this."""

    pattern: str


class Streams(NamedTuple):
    """A command that prints this and runs until it is stopped; the test stops it at once."""

    pattern: str


class Stays(NamedTuple):
    """A command that prints this and is left running."""

    pattern: str


class StandIn(NamedTuple):
    """A command that cannot run in a test, and what the test does instead."""

    does: Callable[[Broker], None] | None = None


TRADE = r"^[A-Z]+_USDT \d+ (buy|sell) \d+\.\d+ \d+\.\d+$"
TRADE_RECORD = r'^[A-Z]+_USDT \{"schema":"digifinex.trades.v1",'
BEST = r"^BTC_USDT bid \d+\.\d+ ask \d+\.\d+$"
KCAT = "kcat -b localhost:9092 -C {}-t digifinex.{}.v1 -X isolation.level=read_committed"
READYZ = "curl -s localhost:9464/readyz"
RUN = "digifinex-bridge run --config bridge.toml"
PYTHON = "python examples/trades.py localhost:9092"

# The commands of the tutorial, in its order.
STEPS: Sequence[tuple[str, Prints | Streams | Stays | StandIn]] = [
    ("python3 -m venv .venv", StandIn()),
    (". .venv/bin/activate", StandIn()),
    ("pip install . confluent-kafka", StandIn()),
    ("docker run --detach --name kafka --publish 9092:9092 apache/kafka:4.4.0", StandIn()),
    ("digifinex-bridge simulate --port 8765 --faults drop=30", Stays(r"^ws://127\.0\.0\.1:")),
    ("digifinex-bridge check --config bridge.toml", Prints(r"^ready to run$")),
    (RUN, Stays(r"session opened .*depth=\['BTC_USDT'\]")),
    (KCAT.format("", "trades") + r" -f '%k %s\n'", Streams(TRADE_RECORD)),
    (PYTHON, Stays(TRADE)),
    (READYZ, Prints(r'^\{"ready": true\}$')),
    (
        "curl -s localhost:9464/metrics | grep digifinex_bridge_records_total",
        Prints(r'^digifinex_bridge_records_total\{channel="trades"\} [1-9]'),
    ),
    ("docker stop kafka", StandIn(Broker.stop)),
    (READYZ, Prints(r'^\{"ready": false, "missing": \{"kafka": ')),
    ("docker start kafka", StandIn(Broker.start)),
    (KCAT.format("-e ", "events") + r" -f '%s\n'", Prints(r'"event":"gap".*"closed_by":"clean_list"')),
    ("docker rm --force kafka", StandIn(Broker.kill)),
]

# The commands of README, consuming.md and CONTRIBUTING.md, and what they do while the tutorial's bridge runs.
COMMANDS: Mapping[str, Prints | Streams] = {
    "python consumer.py localhost:9092": Streams(r"^book( \d+\.\d+){4}$"),
    KCAT.format("-e ", "trades") + r" -f '%k %s\n'": Prints(TRADE_RECORD),
    PYTHON: Streams(TRADE),
    "python examples/books.py localhost:9092": Streams(BEST),
    "digifinex-bridge tail --config bridge.toml trades --symbol BTC_USDT --from beginning": Streams(
        r'^\{"schema":"digifinex.trades.v1",.*"symbol":"BTC_USDT"'
    ),
}
IN_TUTORIAL = [
    "python3 -m venv .venv",
    ". .venv/bin/activate",
    "pip install . confluent-kafka",
    "docker run --detach --name kafka --publish 9092:9092 apache/kafka:4.4.0",
    "digifinex-bridge simulate --port 8765 --faults drop=30",
    "digifinex-bridge check --config bridge.toml",
    RUN,
    "docker rm --force kafka",
]
ELSEWHERE = {
    "make demo": "test_the_demo_ends_with_equal_counts",
    "make test": "what runs this",
    'make test ARGS="tests/unit -k depth"': "test_make_knows_every_target_that_is_mentioned",
    "pip install .": "what `make setup` does",
    **dict.fromkeys(IN_TUTORIAL, "test_the_tutorial_works_step_by_step"),
}


def blocks(document: Path, language: str) -> list[str]:
    """Return the code blocks of a document that are in this language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def commands(document: Path) -> list[str]:
    return [line for text in blocks(document, "sh") for line in text.splitlines()]


def shown(document: Path, part: str) -> str:
    """Return the one sample of output that contains this."""
    (found,) = (text for text in blocks(document, "") if part in text)
    return found


class Tour:
    """Runs the commands of a document in a directory of its own, with free ports in place of those shown."""

    def __init__(self, kafka: Broker, folder: Path) -> None:
        self.folder = folder
        (folder / "examples").symlink_to(ROOT / "examples")
        simulator, http = free_ports(2)
        self._addresses = {
            "localhost:9092": kafka.bootstrap,
            "127.0.0.1:8765": f"127.0.0.1:{simulator}",
            "--port 8765": f"--port {simulator}",
            "localhost:9464": f"127.0.0.1:{http}",
        }
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "BRIDGE_HTTP__HOST": "127.0.0.1",
            "BRIDGE_HTTP__PORT": str(http),
        }

    def here(self, text: str) -> str:
        """Return a text of a document with the addresses of this tour."""
        for address, ours in self._addresses.items():
            text = text.replace(address, ours)
        return text

    def prints(self, command: str, pattern: str) -> str:
        """Run a command until it ends with status 0 and has printed this; return what it printed."""
        printed = ""

        def done() -> bool:
            nonlocal printed
            result = subprocess.run(
                ["bash", "-c", self.here(command)],
                cwd=self.folder,
                env=self._environment,
                capture_output=True,
                text=True,
                check=False,
                timeout=SECONDS,
            )
            printed = result.stdout + result.stderr
            return result.returncode == 0 and bool(re.search(pattern, printed, re.MULTILINE))

        eventually(done, SECONDS, f"{pattern} of {command}")
        return printed

    @contextmanager
    def running(self, command: str, pattern: str) -> Iterator["Running"]:
        """Run a command as long as the context, from the moment when it has printed this."""
        output = self.folder / f"{len(list(self.folder.iterdir()))}.out"
        with output.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {self.here(command)}"],
                cwd=self.folder,
                env=self._environment,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            running = Running(process, output)
            running.wait_for(pattern)
            yield running
        finally:
            if process.poll() is None:
                process.kill()
            process.wait(timeout=SECONDS)


class Running(NamedTuple):
    """A running command and the file that it writes to."""

    process: "subprocess.Popen[bytes]"
    output: Path

    def wait_for(self, pattern: str, after: int = 0) -> None:
        """Wait until a line is there, not counting the first characters."""

        def there() -> bool:
            return bool(re.search(pattern, self.output.read_text()[after:], re.MULTILINE))

        eventually(there, SECONDS, f"{pattern} in {self.output}")

    def lines(self, pattern: str, number: int) -> list[str]:
        """Wait for so many lines of this kind, and return them."""

        def found() -> list[str]:
            return re.findall(pattern, self.output.read_text(), re.MULTILINE)[:number]

        eventually(lambda: len(found()) == number, SECONDS, f"{number} times {pattern} in {self.output}")
        return found()


@pytest.fixture(scope="module")
def tour(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tour]:
    """The simulator, the bridge and the consumer of consuming.md, up to the first records."""
    tour = Tour(kafka, tmp_path_factory.mktemp("tour"))
    (tour.folder / "bridge.toml").write_text(tour.here(*blocks(CONSUMING, "toml")))
    (consumer,) = (text for text in blocks(CONSUMING, "python") if "consumer.py" in text)
    (tour.folder / "consumer.py").write_text(consumer)
    simulate = "digifinex-bridge simulate --port 8765"
    with (
        tour.running(simulate, "^ws://"),
        tour.running(RUN, r"session opened .*depth=\['BTC_USDT'\]") as bridge,
    ):
        yield tour
        bridge.process.send_signal(signal.SIGTERM)
        assert bridge.process.wait(timeout=SECONDS) == 0


def test_the_tutorial_works_step_by_step(own_kafka: Broker, tmp_path: Path) -> None:
    """In the end nothing is missing for the Python consumer, and the output is as the tutorial shows it."""
    assert [command for command, _ in STEPS] == commands(TUTORIAL)
    tour = Tour(own_kafka, tmp_path)
    (tmp_path / "bridge.toml").write_text(tour.here(*blocks(TUTORIAL, "toml")))
    printed: dict[str, str] = {}
    left: dict[str, Running] = {}
    with ExitStack() as stack:
        for command, expected in STEPS:
            match expected:
                case Prints(pattern):
                    printed[command] = tour.prints(command, pattern)
                case Streams(pattern):
                    with tour.running(command, pattern):
                        pass
                case Stays(pattern):
                    left[command] = stack.enter_context(tour.running(command, pattern))
                case StandIn(does) if command == "docker rm --force kafka":
                    bridge = left[RUN]
                    bridge.process.send_signal(signal.SIGINT)
                    assert bridge.process.wait(timeout=SECONDS) == 0
                    bridge.wait_for("stopped, all received records are on Kafka")
                    assert does is not None
                    does(own_kafka)
                case StandIn(does) if does is not None:
                    does(own_kafka)
                    if command == "docker start kafka":
                        consumer = left[PYTHON]
                        consumer.wait_for(TRADE, after=len(consumer.output.read_text()))
        assert "expected seq" not in left[PYTHON].output.read_text()
        log = left[RUN].output.read_text()
    assert _shape(printed["digifinex-bridge check --config bridge.toml"], tour) == _shape(
        shown(TUTORIAL, "ready to run"), tour
    )
    for line in shown(TUTORIAL, "starting").splitlines():
        assert line == "..." or line[40:71].strip() in log


def _shape(text: str, tour: Tour) -> list[str]:
    """Leave out what differs from run to run: figures, addresses, and which market is tried."""
    text = re.sub(r"(trades )[A-Z]+_USDT", r"\1MARKET", tour.here(text))
    return [re.sub(r"[-+]?\d[\d.]*|localhost", "N", line) for line in text.splitlines()]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_prints_what_its_document_says(tour: Tour, command: str) -> None:
    match COMMANDS[command]:
        case Prints(pattern):
            tour.prints(command, pattern)
        case Streams(pattern):
            with tour.running(command, pattern):
                pass


def test_every_command_is_run_by_a_test() -> None:
    mentioned = {command for document in (README, CONSUMING, CONTRIBUTING) for command in commands(document)}
    assert mentioned == COMMANDS.keys() | ELSEWHERE.keys()
    assert set(IN_TUTORIAL) <= {command for command, _ in STEPS}
    others = {document.name for document in DOCUMENTS if commands(document)}
    others -= {README.name, CONSUMING.name, CONTRIBUTING.name, TUTORIAL.name}
    assert others == TESTED_ELSEWHERE.keys()
    for name, test in TESTED_ELSEWHERE.items():
        assert name.removesuffix(".md") in (ROOT / test).read_text().lower()


def test_the_java_consumer_prints_records(tour: Tour) -> None:
    command = f"java -XX:TieredStopAtLevel=1 -cp '{JARS}/*' examples/Trades.java localhost:9092"
    with tour.running(command, TRADE_RECORD):
        pass


async def first_by_aiokafka(bootstrap: str, topic: str) -> Any:
    """Return the first message of a topic, as aiokafka has it."""
    async with AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", isolation_level="read_committed"
    ) as consumer:
        return await consumer.getone()


def first_by_confluent_kafka(bootstrap: str, topic: str) -> Any:
    """Return the first message of a topic, as confluent-kafka has it."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "g", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    try:
        message = consumer.poll(SECONDS)
        assert message is not None
        assert message.error() is None
        return message
    finally:
        consumer.close()


def test_records_are_decoded_as_shown_for_each_client(tour: Tour) -> None:
    bootstrap = tour.here("localhost:9092")
    shown_for = dict(
        re.findall(r"^\| ([\w, -]+) \| `(decode\(.*\))` \|$", CONSUMING.read_text(), re.MULTILINE)
    )
    for topic in ("digifinex.trades.v1", "digifinex.depth.v1", "digifinex.events.v1"):
        messages = {
            "confluent-kafka": first_by_confluent_kafka(bootstrap, topic),
            "aiokafka, kafka-python": asyncio.run(first_by_aiokafka(bootstrap, topic)),
        }
        assert messages.keys() == shown_for.keys()
        for client, message in messages.items():  # each the first one of any partition
            found = eval(shown_for[client], {"decode": decode, "message": message})
            value = message.value() if callable(message.value) else message.value
            sent = json.loads(value)
            assert sent["schema"] == topic
            assert [getattr(found, name) for name in ("schema", "session", "received_us")] == [
                sent["schema"],
                sent["session"],
                sent["received_us"],
            ]


def test_the_demo_ends_with_equal_counts() -> None:
    assert 'make demo ARGS="--seconds 15"' in README.read_text()
    done = subprocess.run(
        ["make", "demo", "ARGS=--seconds 5"],
        cwd=ROOT,
        env=SHELL,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("equal")
    # Where there is no terminal, the title may be broken into other lines.
    head, *_ = shown(README, "┏").split("┏")
    assert " ".join(head.split()) in " ".join(done.stdout.split())
    for channel in CHANNELS:
        assert f"digifinex.{channel}.v1" in done.stdout


@pytest.mark.parametrize(
    "target",
    sorted({target for path in DOCUMENTS for target in re.findall(r"[`\n]make ([a-z]+)", path.read_text())}),
)
def test_make_knows_every_target_that_is_mentioned(target: str) -> None:
    done = subprocess.run(
        ["make", "-n", target], cwd=ROOT, env=SHELL, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("document", "text"),
    [(path.name, text) for path in DOCUMENTS for text in blocks(path, "toml")],
)
def test_every_configuration_is_valid(tmp_path: Path, document: str, text: str) -> None:
    (tmp_path / "secrets").mkdir()
    for name in re.findall(r'"secrets/([\w.-]+)', text):
        (tmp_path / "secrets" / name).write_text("x")
    (tmp_path / "bridge.toml").write_text(text)
    config = load(tmp_path / "bridge.toml", {})
    for section, keys in tomllib.loads(text).items():
        assert section == "accounts" or keys.keys() <= getattr(config, section).model_fields_set, document


def test_the_message_about_a_bad_configuration_is_as_shown(tmp_path: Path) -> None:
    (tmp_path / "bridge.toml").write_text('[channels]\ntrades = ["BTC_USDT"]\n[kafka]\npartitons = 3\n')
    done = subprocess.run(
        [sys.executable, "-m", "bridge", "run", "--config", "bridge.toml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (2, shown(TUTORIAL, "partitons"))


def test_the_record_in_the_readme_is_the_example_of_its_schema() -> None:
    (record,) = map(json.loads, blocks(README, "json"))
    assert record == schema("trades")["examples"][0]


def test_the_records_in_the_tutorial_are_valid() -> None:
    key, value = shown(TUTORIAL, '"schema":"digifinex.trades.v1"').split(maxsplit=1)
    event = shown(TUTORIAL, '"event":"gap"')
    for channel, text in (("trades", value), (EVENTS, event)):
        record = json.loads(text)
        validate(Record(channel, record["symbol"].encode(), text.strip().encode(), record["received_us"]))
        assert record["symbol"] == key


@pytest.mark.parametrize(
    ("document", "language", "name"), [(README, "python", "trades.py"), (CONSUMING, "java", "Trades.java")]
)
def test_an_example_that_is_shown_is_the_file(document: Path, language: str, name: str) -> None:
    assert (ROOT / "examples" / name).read_text() in blocks(document, language)


def test_the_frame_of_a_dead_letter_is_read_as_shown() -> None:
    (snippet,) = (text for text in blocks(CONSUMING, "python") if "frame_base64" in text)
    for content in (b'{"method": "x"}', zlib.compress(b'{"method": "x"}')):
        names = {
            "base64": base64,
            "zlib": zlib,
            "letter": {"frame_base64": base64.b64encode(content).decode()},
        }
        exec(snippet, names)
        assert names["text"] == b'{"method": "x"}'


def test_every_topic_has_a_schema() -> None:
    topics = {*CHANNELS, BOOK, DEADLETTER, EVENTS}
    assert {path.parent.name for path in (ROOT / "schemas").glob("*/v1.json")} == topics
