"""A real schema registry for tests: Apicurio Registry, in memory."""

import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.kafka_broker import free_ports
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".cache" / "examples" / "registry"

_START = 90.0  # seconds


class Apicurio:
    """A registry that runs inside its context, with its log in `folder`; `url` is that of Confluent's API."""

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        self.address = f"http://127.0.0.1:{port}"
        self.url = f"{self.address}/apis/ccompat/v7"
        (jar,) = FOLDER.glob("apicurio-registry-app-*-runner.jar")
        self._log = folder / "registry.log"
        options = ["-Xmx384m", "-Dquarkus.http.host=127.0.0.1", f"-Dquarkus.http.port={port}"]
        self._command = ["java", *options, "-jar", str(jar)]
        self._folder = folder

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, stdout=log, stderr=subprocess.STDOUT
            )
        try:
            eventually(self._answers, _START, "a registry that answers", every=0.5)
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._log.read_text()[-4000:]
        try:
            with urllib.request.urlopen(f"{self.url}/subjects", timeout=30) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False
