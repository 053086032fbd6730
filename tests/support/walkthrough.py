"""Runs the commands of a document as its reader would: in a folder, one after the other."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
SECONDS = 140.0  # for a command to print what is expected

MAVEN = "mvn -B -q dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=jars"
"""The command that fetches the libraries of an example in Java, also in `scripts/common.sh`."""

PIP = "pip install ../.. && pip install --require-hashes -r requirements.txt"
"""The command that installs what an example in Python needs; `scripts/setup-examples.sh` has its packages."""


def blocks(document: Path, language: str) -> list[str]:
    """Return the code blocks of a document that are in this language."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", document.read_text(), re.DOTALL | re.MULTILINE)
    return [text for name, text in found if name == language]


def commands(document: Path) -> list[str]:
    """Return the commands of a document; a line that ends with a backslash continues in the next one."""
    lines = [line for text in blocks(document, "sh") for line in text.replace("\\\n", "").splitlines()]
    return [" ".join(line.split()) for line in lines]


class Walkthrough:
    """Runs commands in `folder`, with other texts, such as addresses, in place of those that are shown.

    Commands are also looked for in the folder `tools`, and what Python imports in `packages`.
    """

    def __init__(self, folder: Path, instead: Mapping[str, str], tools: Path, packages: Path) -> None:
        self.folder = folder
        self._instead = instead
        path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        python = f"{packages}:{os.environ.get('PYTHONPATH', ROOT)}"
        self._environment = {
            **os.environ,
            "PATH": path,
            "PYTHONPATH": python,
            # Programs in Java begin sooner, on machines that are busy with tests.
            "JDK_JAVA_OPTIONS": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC",
        }
        self._started = 0  # commands, each of which has an output file of its own

    def run(self, command: str) -> str:
        """Run a command to its end; return its standard output, and fail if its status is not 0."""
        with self.running(command) as running:
            status = running.process.wait(timeout=SECONDS * 6)
            assert status == 0, running.log
            return running.printed

    @contextmanager
    def running(self, command: str, pattern: str = "") -> Iterator["Running"]:
        """Run a command as long as the context, from the moment when it has printed this."""
        for text, ours in self._instead.items():
            command = command.replace(text, ours)
        self._started += 1
        output = self.folder / f"{self._started}.out"
        log = self.folder / f"{self._started}.err"
        with output.open("wb") as out, log.open("wb") as err:
            process = subprocess.Popen(
                ["bash", "-c", command],
                cwd=self.folder,
                env=self._environment,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        running = Running(process, output, log)
        try:
            running.wait_for(pattern)
            yield running
        finally:
            running.kill()


class Running(NamedTuple):
    """A running command and the files that it writes to."""

    process: "subprocess.Popen[bytes]"
    output: Path
    errors: Path

    @property
    def printed(self) -> str:
        """Its standard output so far."""
        return self.output.read_text()

    @property
    def log(self) -> str:
        """The end of what it has written, for the message of a test that fails."""
        return f"{self.printed[-3000:]}\n{self.errors.read_text()[-6000:]}"

    def wait_for(self, pattern: str) -> None:
        """Wait until a line of its standard output matches; fail if the command ends before."""

        def there() -> bool:
            ended = self.process.poll() is not None
            found = bool(re.search(pattern, self.printed, re.MULTILINE))
            assert found or not ended, self.log
            return found

        eventually(there, SECONDS, f"{pattern} in {self.output}")

    def kill(self) -> None:
        """End it and its children with SIGKILL, if it still runs."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(timeout=SECONDS)
