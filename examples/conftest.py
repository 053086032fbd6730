"""A real Kafka with the records of the real bridge, and copies of examples to run."""

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.support.consumers import TOOLS
from tests.support.kafka_broker import Broker
from tests.support.market import Market
from tests.support.process import Command, RunningBridge, config
from tests.support.waiting import eventually
from tests.support.walkthrough import Walkthrough

ROOT = Path(__file__).parents[1]
FETCHED = ROOT / ".cache" / "examples"
NOTHING: Mapping[str, str] = MappingProxyType({})

# Kafka's scripts of these names, which are not among its libraries.
SCRIPT = f"""\
#!/bin/sh
export CLASSPATH='{TOOLS}/*'
exec java -XX:TieredStopAtLevel=1 org.apache.kafka.tools.%s "$@"
"""
SCRIPTS = {
    "kafka-topics.sh": "TopicCommand",
    "kafka-consumer-groups.sh": "consumer.group.ConsumerGroupCommand",
}

# The exchange drops each connection after about so many seconds, so that there are new
# sessions, lists of recent trades, and trades that are on their topic late.
FAULTS = "drop=20"


@pytest.fixture(scope="session")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    """Run a bridge on the simulated exchange: trades of all markets, books of three."""
    exchange, bridge = map(tmp_path_factory.mktemp, ("exchange", "bridge"))
    arguments = ["simulate", "--port", "0", "--faults", FAULTS]
    with Broker() as kafka, Command(exchange, arguments) as simulator:
        eventually(lambda: "\n" in simulator.stdout, 30, "the address of the simulator")
        settings = config(simulator.stdout.split()[0], kafka, "digifinex")
        channels = settings["channels"]
        settings["channels"] |= {"trades": ["*"], "book": channels["depth"]}
        with RunningBridge(bridge, settings) as running:
            running.wait_ready()
            yield Market(kafka.bootstrap)
            assert running.stop() == 0


@pytest.fixture
def walkthrough(market: Market, tmp_path: Path) -> Callable[..., Walkthrough]:
    """Return what runs the commands of an example's README in a copy of its folder.

    `scripts/setup-examples.sh` has fetched its jars, with the command of the README,
    and its packages for Python.
    """

    def copied(name: str, instead: Mapping[str, str] = NOTHING) -> Walkthrough:
        folder = tmp_path / name
        shutil.copytree(ROOT / "examples" / name, folder)
        jars, packages = (FETCHED / f"{name}{kind}" for kind in ("", ".packages"))
        if (folder / "pom.xml").exists():
            assert jars.is_dir(), "run `make examples`"
            (folder / "jars").symlink_to(jars)
        if (folder / "requirements.txt").exists():
            assert packages.is_dir(), "run `make examples`"
        tools = tmp_path / "bin"
        tools.mkdir()
        for script, command in SCRIPTS.items():
            (tools / script).write_text(SCRIPT % command)
            (tools / script).chmod(0o755)
        texts = {"localhost:9092": market.kafka, **instead}
        return Walkthrough(folder, texts, tools, packages)

    return copied
