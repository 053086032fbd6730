"""A real Apache Kafka for tests: one node on free ports, which can be killed and restarted."""

import fcntl
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
JARS = ROOT / ".cache" / "kafka" / "libs"

# Kafka's classes, loaded and checked once: without it, a start costs twice as much.
CLASSES = ROOT / ".cache" / "kafka" / "classes.jsa"

_LOCKS = Path(tempfile.gettempdir()) / "digifinex-bridge-ports"
_reserved: dict[int, IO[str]] = {}  # the locked files of the ports given out; open until this process ends

_READY = "Kafka Server started"
_CLUSTER = "MkU3OEVBNTcwNTJENDM2Qg"
_START = 60.0  # seconds

_PROPERTIES = """\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{controller}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT
log.dirs={data}
log.retention.ms=-1
auto.create.topics.enable=true
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
log.cleaner.dedupe.buffer.size=4194304
num.network.threads=2
num.io.threads=4
background.threads=2
"""

_LOGGING = """\
rootLogger.level=WARN
rootLogger.appenderRef.console.ref=console
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
logger.server.name=kafka.server
logger.server.level=INFO
"""


class Broker:
    """A broker that runs inside its context; `bootstrap` is its address.

    `properties` override the default ones, with `{port}` and `{controller}` filled in; `users` can log in
    with SCRAM-SHA-512; `options` are for Java. `kill`, `stop` and `start` keep data and ports. Pass
    `bootstrap` if clients do not connect to `{port}` directly.
    """

    def __init__(
        self,
        properties: Mapping[str, str] | None = None,
        *,
        users: Mapping[str, str] | None = None,
        heap_mib: int = 256,
        bootstrap: str | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="kafka-")
        self._home = Path(self._folder.name)
        self._heap = heap_mib
        self._users = users or {}
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None
        port, controller = free_ports(2)
        self.bootstrap = bootstrap or f"127.0.0.1:{port}"
        text = _PROPERTIES.format(port=port, controller=controller, data=self._home / "data")
        for key, value in (properties or {}).items():
            text += f"{key}={value.format(port=port, controller=controller)}\n"
        (self._home / "server.properties").write_text(text)
        (self._home / "log4j2.properties").write_text(_LOGGING)

    def __enter__(self) -> Self:
        self.format()
        self.start()
        return self

    def empty(self) -> None:
        """Replace the disk of a broker that does not run with an empty one."""
        assert self._process is None, "the broker is running"
        shutil.rmtree(self._home / "data")
        self.format()

    def move(self) -> None:
        """Give a broker that does not run another port for clients; its `bootstrap` stays as it is."""
        assert self._process is None, "the broker is running"
        properties = self._home / "server.properties"
        text = properties.read_text()
        *_, address = re.findall(r"advertised\.listeners=PLAINTEXT://(\S+)", text)
        properties.write_text(text.replace(address, f"127.0.0.1:{free_ports(1)[0]}"))

    def format(self) -> None:
        """Format its storage for the first start."""
        if not JARS.is_dir():
            raise RuntimeError(f"Kafka is not in {JARS.relative_to(ROOT)}: run 'make setup'")
        command = self._java("-Xmx64m", "kafka.tools.StorageTool", "format")
        for name, password in self._users.items():
            command += ["--add-scram", f"SCRAM-SHA-512=[name={name},password={password}]"]
        done = subprocess.run(
            [*command, "-t", _CLUSTER, "-c", "server.properties"],
            cwd=self._home,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"Kafka's storage could not be formatted:\n{done.stdout}{done.stderr}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        self._folder.cleanup()

    def start(self) -> None:
        """Start the broker with the data that it has; return when it serves."""
        self.launch()
        self.wait_started()

    def launch(self) -> None:
        """Start the broker's process without waiting for it."""
        log = self._home / "broker.log"
        heap = f"{self._heap}m"
        logging = "-Dlog4j2.configurationFile=log4j2.properties"
        command = self._java(f"-Xms{heap}", f"-Xmx{heap}", logging, *self._options)
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, "kafka.Kafka", "server.properties"],
                cwd=self._home,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def wait_started(self) -> None:
        """Return when the launched broker serves."""
        log, process = self._home / "broker.log", self._running()
        eventually(lambda: _READY in log.read_text() or process.poll() is not None, _START, "Kafka started")
        if process.poll() is not None:
            raise RuntimeError(f"Kafka exited while starting:\n{log.read_text()[-4000:]}")

    def stop(self) -> None:
        """Shut the broker down with SIGTERM."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the broker with SIGKILL."""
        self._end(signal.SIGKILL)

    def suspend(self) -> None:
        """Freeze the broker with SIGSTOP, like a machine that hangs."""
        os.kill(self._running().pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Resume a frozen broker; one that was killed is left alone."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        """The process id of the running broker."""
        return self._running().pid

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(timeout=180)
            self._process = None

    def _running(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None, "the broker is not running"
        return self._process

    def _java(self, *arguments: str) -> list[str]:
        # A broker of a test does not live for long enough to win back what the optimising compiler costs.
        saving = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        if CLASSES.exists():
            saving.append(f"-XX:SharedArchiveFile={CLASSES}")
        return ["java", *saving, "-cp", f"{JARS}/*", *arguments]


def free_ports(number: int) -> list[int]:
    """Return ports of this machine that nobody listens on, and that this function gives to nobody else.

    They are below those that the system gives to outgoing connections: while a broker is down, one of these
    could take its port. Other processes that run tests take turns by locked files, each as long as it runs.
    """
    found: list[int] = []
    _LOCKS.mkdir(exist_ok=True)
    while len(found) < number:
        port = random.randrange(10_000, 32_000)
        if port in _reserved:
            continue
        lock = (_LOCKS / str(port)).open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as one:
                one.bind(("127.0.0.1", port))
        except OSError:
            lock.close()  # somebody has it
        else:
            _reserved[port] = lock
            found.append(port)
    return found
