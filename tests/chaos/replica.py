"""One replica of the bridge in a chaos run: its processes one after another, and what was seen of them."""

import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import psutil

from tests.support.process import fetch, toml
from tests.support.waiting import STRETCH, eventually

_STOP = 30.0  # seconds that a stop may take on a quiet machine
_SAMPLE = 0.5  # seconds between two looks at the memory
_STARVED = 1.4  # by how much a look may take longer than it should, on a machine that is not too busy
_CHUNK = 65_536


@dataclass(slots=True)
class Life:
    """One process of a replica; times are in microseconds since the epoch, memory is in bytes."""

    begun_us: int
    ended_us: int | None = None  # None while it runs
    status: int | None = None  # of its exit; negative: the signal that ended it
    stopped: bool = False  # whether it was asked to stop
    listening: bool = False  # whether its endpoints were up when it was asked to stop
    frozen: list[tuple[int, int]] = field(default_factory=list)  # from, to
    memory: list[int] = field(default_factory=list)  # its resident memory, twice a second
    # When this machine was too busy to look at the memory twice a second: from, to.
    starved: list[tuple[int, int]] = field(default_factory=list)


class Replica:
    """Starts, stops, kills and freezes one replica. Its spool is kept; each process has a log of its own."""

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.lives: list[Life] = []
        self._folder = folder
        folder.mkdir()
        spool = {**settings.get("spool", {}), "dir": str(folder / "spool")}
        (folder / "bridge.toml").write_text(toml({**settings, "spool": spool}))
        self._process: subprocess.Popen[bytes] | None = None
        self._logging: threading.Thread | None = None
        self._port = 0  # of its endpoints; 0 until its log has named it

    def start(self) -> None:
        """Start a process; return at once."""
        self._port = 0
        self.lives.append(Life(_now_us()))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bridge", "run", "--config", "bridge.toml"],
            cwd=self._folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        # The log goes through a pipe, because the process may be forbidden to let files grow. It is read from
        # now on.
        log = self._log_file(len(self.lives))
        log.touch()
        self._logging = threading.Thread(target=self._copy, args=(self._process.stdout, log), daemon=True)
        self._logging.start()
        threading.Thread(target=self._watch, args=(self._process, self.lives[-1]), daemon=True).start()

    def kill(self) -> None:
        """Kill the process with SIGKILL."""
        self._running().kill()
        self._ended()

    def stop(self) -> None:
        """Stop the process with SIGTERM; kill it if it does not end."""
        life = self.lives[-1]
        life.stopped = self.alive
        life.listening = self._find_port() > 0
        self._running().terminate()
        try:
            self._running().wait(_STOP * STRETCH)
        except subprocess.TimeoutExpired:
            self._running().send_signal(signal.SIGABRT)
        self._ended()

    def freeze(self, seconds: float) -> None:
        """Stop the process with SIGSTOP for some time."""
        process, begun_us = self._running(), _now_us()
        process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        process.send_signal(signal.SIGCONT)
        self.lives[-1].frozen.append((begun_us, _now_us()))

    def fill_disk(self, seconds: float) -> None:
        """Let no file of the process grow for some time."""
        pid = self._running().pid
        try:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, -1))
            time.sleep(seconds)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (-1, -1))
        except ProcessLookupError:
            return  # it has ended

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None

    def ready(self) -> bool:
        """Return whether /readyz is 200."""
        return self.alive and self._find_port() > 0 and fetch(self._port, "/readyz")[0] == 200

    def done(self) -> bool:
        """Return whether it is ready, and everything that it has received is on Kafka."""
        if not self.ready():
            return False
        _, text = fetch(self._port, "/metrics")
        waiting = ("pending_records", "spool_records")
        return not any(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith(tuple(f"digifinex_bridge_{name}" for name in waiting))
        )

    def state(self) -> str:
        """Return what it says of itself, for people."""
        if not self.alive or not self._find_port():
            return "not running"
        return fetch(self._port, "/readyz")[1][:500]

    def log(self) -> list[dict[str, Any]]:
        """Return the lines of all its logs; one that is not JSON has the key `text`."""
        lines: list[dict[str, Any]] = []
        for number in range(1, len(self.lives) + 1):
            for line in self._log_file(number).read_text(errors="replace").splitlines():
                try:
                    lines.append(json.loads(line))
                except ValueError:
                    lines.append({"text": line})
        return lines

    def close(self) -> None:
        """Kill the process if it still runs."""
        if self.alive:
            self.kill()

    def _running(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None, "it was never started"
        return self._process

    def _ended(self) -> None:
        process, life = self._running(), self.lives[-1]
        eventually(lambda: process.poll() is not None, _STOP, "the end of a killed process")
        life.ended_us, life.status = _now_us(), process.returncode
        assert self._logging is not None
        self._logging.join()

    def _log_file(self, number: int) -> Path:
        return self._folder / f"log-{number:03d}"

    def _copy(self, source: IO[bytes], target: Path) -> None:
        with source, target.open("wb", buffering=0) as file:
            while chunk := os.read(source.fileno(), _CHUNK):
                file.write(chunk)

    def _watch(self, process: "subprocess.Popen[bytes]", life: Life) -> None:
        try:
            seen = psutil.Process(process.pid)
            while process.poll() is None:
                life.memory.append(seen.memory_info().rss)
                before_us = _now_us()
                time.sleep(_SAMPLE)
                if _now_us() - before_us > _STARVED * _SAMPLE * 1_000_000:
                    life.starved.append((before_us, _now_us()))
        except psutil.NoSuchProcess:
            return

    def _find_port(self) -> int:
        if not self._port:
            for line in self._log_file(len(self.lives)).read_text(errors="replace").splitlines():
                if '"HTTP endpoints listening"' in line:
                    self._port = int(json.loads(line)["port"])
        return self._port


def _now_us() -> int:
    return time.time_ns() // 1000
