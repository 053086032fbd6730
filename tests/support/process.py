"""Runs the real command in a separate process."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bridge.channels import CHANNELS, SubscribedBy
from bridge.simulator.protocol import PRIVATE, PUBLIC
from tests.support.kafka_broker import Broker
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]

SYMBOLS = ["BTC_USDT", "ETH_USDT", "LTC_USDT"]
CURRENCIES = ["BTC", "ETH", "LTC", "USDT"]
ACCOUNTS = {"key": "s3cr3t-s3cr3t"}

_STOP = 90.0  # seconds, on a busy machine
_REQUESTS = 3  # to an endpoint, before one that is not answered counts


def config(
    url: str,
    kafka: Broker,
    prefix: str,
    sections: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    accounts: bool = False,
) -> dict[str, Any]:
    """Return a configuration of all public channels, and an account if asked; `sections` override it."""
    full: dict[str, Any] = {
        "exchange": {"url": url},
        "channels": _subscriptions(PUBLIC),
        "kafka": {"bootstrap_servers": kafka.bootstrap, "topic_prefix": prefix, "group_id": prefix},
        "http": {"host": "127.0.0.1", "port": 0},
        "log": {"format": "json"},
    }
    for section, keys in (sections or {}).items():
        full[section] = {**full.get(section, {}), **keys}
    if accounts:
        account = {"name": "main", "api_key": "key", "secret": ACCOUNTS["key"]}
        full["accounts"] = [{**account, **_subscriptions(PRIVATE)}]
    return full


def _subscriptions(channels: Sequence[str]) -> dict[str, Any]:
    """Return the keys that subscribe to channels of the simulated exchange."""
    names: dict[SubscribedBy, Any] = {
        SubscribedBy.MARKET: SYMBOLS,
        SubscribedBy.CURRENCY: CURRENCIES,
        SubscribedBy.NOTHING: True,
    }
    return {channel: names[CHANNELS[channel].subscribed_by] for channel in channels}


class Command:
    """Runs `python -m bridge ARGUMENTS` inside its context; its output goes to files in `folder`.

    `module` replaces `bridge` in the command.
    """

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        environment: Mapping[str, str] | None = None,
        module: str = "bridge",
    ) -> None:
        self._folder = folder
        self._module = module
        self._arguments = arguments
        self._environment = {**os.environ, **(environment or {})}
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        with (self._folder / "stdout").open("wb") as out, (self._folder / "stderr").open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self._module, *self._arguments],
                cwd=self._folder,
                stdout=out,
                stderr=err,
                env=self._environment,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=_STOP)
        if kind is not None:
            sys.stderr.write(f"--- {' '.join(self._arguments)}: end of its log\n{self.stderr[-6000:]}\n")

    @property
    def stdout(self) -> str:
        """Its standard output so far."""
        return (self._folder / "stdout").read_text()

    @property
    def stderr(self) -> str:
        """Its standard error so far."""
        return (self._folder / "stderr").read_text()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it with a signal, and return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout=_STOP)


class RunningBridge(Command):
    """Runs the bridge with a configuration, given as sections of keys."""

    def __init__(
        self,
        folder: Path,
        config: Mapping[str, Any],
        environment: Mapping[str, str] | None = None,
        module: str = "bridge",
    ) -> None:
        (folder / "bridge.toml").write_text(toml(config))
        super().__init__(folder, ["run", "--config", "bridge.toml"], environment, module)

    @property
    def port(self) -> int:
        """The port of its HTTP endpoints, read from its log."""
        eventually(lambda: self._port() or self.process.poll() is not None, 30, "endpoints")
        assert self.process.poll() is None, self.stderr
        return self._port()

    def ready(self) -> tuple[int, dict[str, Any]]:
        """Return the status and body of /readyz."""
        return self._get("/readyz")

    def status(self, session: str | None = None) -> dict[str, Any]:
        """Return the body of /status, or of the part about one session."""
        status, body = self._get("/status" + (f"?session={session}" if session else ""))
        assert status == 200, body
        return body

    def wait_ready(self, seconds: float = 30) -> None:
        """Return as soon as /readyz is 200."""
        assert self.port
        try:
            eventually(lambda: self.ready()[0] == 200, seconds, "ready")
        except AssertionError as error:
            error.add_note(str(self.ready()[1]))
            raise

    def metrics(self) -> str:
        """Return the text of /metrics."""
        status, text = fetch(self.port, "/metrics")
        assert status == 200, text
        return text

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of all series of this name that have these labels."""
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        values = [
            float(line.rsplit(" ", 1)[1])
            for line in self.metrics().splitlines()
            if line.partition("{")[0].partition(" ")[0] == f"digifinex_bridge_{name}"
            and all(label in line for label in wanted)
        ]
        assert values, f"no sample of {name} {labels}"
        return sum(values)

    def _port(self) -> int:
        for line in self.stderr.splitlines():
            if '"HTTP endpoints listening"' in line:
                return int(json.loads(line)["port"])
        return 0

    def _get(self, path: str) -> tuple[int, dict[str, Any]]:
        status, text = fetch(self.port, path)
        assert status, f"the endpoints are gone; end of the log:\n{self.stderr[-3000:]}"
        return status, json.loads(text)


def fetch(port: int, path: str) -> tuple[int, str]:
    """Return the status and text of an endpoint on this machine; 0 and "" if nothing listens.

    A request has only so many seconds, which may be too few on a busy machine: then it is made again.
    """
    for _ in range(_REQUESTS):
        with contextlib.suppress(http.client.RemoteDisconnected):
            return _fetch_once(port, path)
    return _fetch_once(port, path)


def _fetch_once(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except urllib.error.URLError:
        return 0, ""


def toml(config: Mapping[str, Any]) -> str:
    """Return a configuration as TOML; JSON values are valid TOML."""
    lines = []
    for section, value in config.items():
        tables = value if isinstance(value, list) else [value]
        for table in tables:
            lines.append(f"[[{section}]]" if isinstance(value, list) else f"[{section}]")
            lines += [f"{key} = {json.dumps(one)}" for key, one in table.items()]
    return "\n".join(lines) + "\n"
