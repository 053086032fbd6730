"""A signal is a clean stop of the real command, at every moment from its first line on."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bridge.stopping import SIGNALS

SECONDS = 300  # on a busy machine

# Sends itself a signal when the interpreter reports an event for the n-th time, see `sys.addaudithook`.
HARNESS = """
import os, signal, sys
_, number, event, count, *arguments = sys.argv
left = int(count)
def hook(name, about):
    global left
    if name == event:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), int(number))
from bridge.__main__ import main
sys.addaudithook(hook)
sys.argv[1:] = arguments
main()
"""


@pytest.fixture
def config(tmp_path: Path) -> str:
    """A configuration that needs nobody: nothing listens at its Kafka."""
    path = tmp_path / "bridge.toml"
    path.write_text(
        '[channels]\ntrades = ["BTC_USDT"]\n[exchange]\nurl = "ws://127.0.0.1:1/"\n'
        '[kafka]\nbootstrap_servers = "127.0.0.1:1"\n[http]\nhost = "127.0.0.1"\nport = 0\n'
        f'[spool]\ndir = "{tmp_path}"\n'
    )
    return str(path)


def stopped(
    number: signal.Signals, event: str, count: int, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run a command that sends itself a signal at a moment of its life."""
    return subprocess.run(
        [sys.executable, "-c", HARNESS, str(int(number)), event, str(count), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )


@pytest.mark.parametrize(
    ("event", "count"),
    [
        ("import", 1),
        ("import", 150),
        ("import", 500),
        ("open", 1),
        ("socket.__new__", 1),
        ("socket.bind", 1),
        ("socket.connect", 1),
    ],
)
def test_a_stop_at_any_moment_of_run_is_clean(config: str, event: str, count: int) -> None:
    """While it imports, opens files, creates its loop, listens, and connects."""
    done = stopped(signal.SIGTERM, event, count, "run", "--config", config)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_each_signal_is_a_stop_while_it_starts_and_while_it_runs(config: str, number: signal.Signals) -> None:
    for event, count in (("import", 300), ("socket.connect", 1)):
        done = stopped(number, event, count, "run", "--config", config)
        assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


@pytest.mark.parametrize(
    ("event", "count", "words"),
    [
        ("import", 300, ""),
        ("socket.connect", 1, "digifinex-bridge: stopped before everything was checked\n"),
    ],
)
def test_a_check_that_is_stopped_has_not_found_the_configuration_good(
    config: str, event: str, count: int, words: str
) -> None:
    done = stopped(signal.SIGTERM, event, count, "check", "--config", config)
    assert (done.returncode, done.stderr) == (1, words)
    assert "ready" not in done.stdout


def test_a_probe_that_is_stopped_prints_what_it_has_found(config: str) -> None:
    done = stopped(signal.SIGTERM, "socket.connect", 1, "probe", "--config", config)
    assert "Traceback" not in done.stderr
    assert done.stdout.splitlines()[-1] == "stopped before everything was tried"


def test_signals_that_go_on_until_the_end_do_not_make_it_a_bad_one(config: str) -> None:
    command = [sys.executable, "-m", "bridge", "run", "--config", config]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()
        turn = 0
        while process.poll() is None:
            process.send_signal(SIGNALS[turn % len(SIGNALS)])
            turn += 1
            time.sleep(0.002)
        assert (process.returncode, "Traceback" in process.stderr.read()) == (0, False)


def test_a_process_started_by_nohup_survives_its_terminal() -> None:
    command = [sys.executable, "-m", "bridge", "simulate", "--port", "0", "--symbols", "2"]
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # which a child inherits, as from nohup
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGHUP, before)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"ws://")
        ignored = next(
            int(line.split()[1], 16)
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
            if line.startswith("SigIgn")
        )
        assert ignored >> (signal.SIGHUP - 1) & 1
        process.send_signal(signal.SIGHUP)
        process.terminate()
        assert process.wait(SECONDS) == 0
    finally:
        process.kill()
        process.communicate()
