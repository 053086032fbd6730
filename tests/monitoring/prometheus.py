"""A real Prometheus that scrapes bridges on this machine."""

import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from tests.support.kafka_broker import free_ports
from tests.support.process import fetch
from tests.support.waiting import eventually

_STOP = 15.0  # seconds


class Prometheus:
    """Prometheus with the rules of a file, running within its context; scrapes every `interval` seconds.

    `targets` has ports, and the labels that are added to the series of each, as service discovery does.
    """

    def __init__(
        self, folder: Path, rules: Path, targets: Mapping[int, Mapping[str, str]], job: str, interval: int = 1
    ) -> None:
        self._folder = folder
        (self._port,) = free_ports(1)
        scraped = [
            {"targets": [f"127.0.0.1:{port}"], "labels": dict(labels)} for port, labels in targets.items()
        ]
        settings = {
            "global": {"scrape_interval": f"{interval}s", "evaluation_interval": f"{interval}s"},
            "rule_files": [str(rules)],
            "scrape_configs": [{"job_name": job, "static_configs": scraped}],
        }
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings))
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        program = shutil.which("prometheus")
        if program is None:
            raise RuntimeError("prometheus is not installed: run 'make setup'")
        command = [program, "--config.file=prometheus.yaml", "--storage.tsdb.path=data"]
        command += [f"--web.listen-address=127.0.0.1:{self._port}", "--log.level=warn"]
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)
        try:
            eventually(lambda: fetch(self._port, "/-/ready")[0] == 200, 30, "Prometheus is ready")
        except AssertionError as error:
            self.__exit__(type(error), error, error.__traceback__)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(_STOP)
        if kind is not None:
            sys.stderr.write(f"--- log of Prometheus\n{(self._folder / 'prometheus.log').read_text()}\n")

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an expression, each with `metric`, its labels, and `value`.

        Raises:
            ValueError: Prometheus rejects the expression; the text is its error.
        """
        result: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return result

    def label_values(self, label: str, selector: str) -> list[str]:
        """Return the values of a label on the series of a selector."""
        values: list[str] = self.get(f"label/{label}/values", **{"match[]": selector})
        return values

    def rules(self) -> dict[str, dict[str, Any]]:
        """Return the alerts by name, each with `state`, `health` and its annotations."""
        groups = self.get("rules", type="alert")["groups"]
        return {rule["name"]: rule for group in groups for rule in group["rules"]}

    def get(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its API."""
        url = f"http://127.0.0.1:{self._port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(error.read().decode()) from None
