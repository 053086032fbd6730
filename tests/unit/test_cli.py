"""The real command: its exit statuses, and its errors, each of which is one line."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bridge import __version__
from bridge.channels import CHANNELS
from tests.support.schemas import SCHEMAS

SECRET = "s3cr3t-that-nobody-may-see"
*_FIRST, _LAST = (name for name, channel in CHANNELS.items() if not channel.private)
CHOICE = f"{', '.join(_FIRST)} or {_LAST}"


def command(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m bridge` with these arguments, and of all BRIDGE_ variables only those in `environ`."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("BRIDGE_")}
    return subprocess.run(
        [sys.executable, "-m", "bridge", *arguments],
        env=clean | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_version_and_help_exit_with_status_0() -> None:
    assert command("--version").stdout == f"digifinex-bridge {__version__}\n"
    shown = command("--help")
    assert shown.returncode == 0
    assert all(f"\n  {name} " in shown.stdout for name in ("run", "check", "simulate", "demo"))


def test_the_installed_script_is_the_same_program() -> None:
    script = Path(sys.executable).parent / "digifinex-bridge"
    shown = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, timeout=300)
    assert shown.stdout == command("--version").stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Missing command"),
        (["rnu"], "No such command 'rnu'"),
        (["run", "--confg", "x"], "No such option '--confg'"),
        (["run", "--config"], "'--config' requires an argument"),
        (["run", "now"], "unexpected extra argument"),
        (["simulate", "--port", "x"], "'--port'"),
        (["simulate", "--port", "0", "--symbols", "0"], "'--symbols'"),
        (["simulate", "--faults", "drp=1"], "did you mean drop?"),
        (["simulate", "--dialect", "ads"], "did you mean adds?"),
        (["demo", "--seconds", "soon"], "'--seconds'"),
        (["schema"], "Missing argument"),
        (["schema", "trdes"], "unknown channel 'trdes', did you mean trades?"),
        (["schema", "../trades"], "unknown channel '../trades'"),
        (["tail", "--json", "--table"], "cannot be combined"),
    ],
)
def test_a_bad_command_line_prints_one_line_and_exits_with_status_2(arguments: list[str], words: str) -> None:
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("digifinex-bridge: ")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


@pytest.mark.parametrize("arguments", [["trdes"], ["trades", "--from", "yesterday"]])
def test_tail_refuses_what_it_cannot_look_for(tmp_path: Path, arguments: list[str]) -> None:
    path = tmp_path / "bridge.toml"
    path.write_text("[channels]\nall_ticker = true\n")
    done = command("tail", "--config", str(path), *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"'{arguments[-1]}'" in done.stderr


@pytest.mark.parametrize("name", ["trades", "order", "book", "deadletter", "events"])
def test_schema_prints_the_published_schema(name: str) -> None:
    done = command("schema", name)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (SCHEMAS / name / "v1.json").read_text()


@pytest.mark.parametrize("name", ["run", "check", "tail"])
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[kafka]\npartitons = 3\n", "kafka.partitons: unknown key, did you mean partitions?"),
        ("[kafka]\npartitions = 0\n", "kafka.partitions: must be greater than or equal to 1"),
        (
            "[kafka\n",
            "is not valid TOML: Expected ']' at the end of a table declaration (at line 1, column 7)",
        ),
        (
            "",
            f"channels: nothing to subscribe to: set {CHOICE}, or an account",
        ),
        (
            f"[kafka]\nsasl_plain_password = ['{SECRET}']\n",
            "kafka.sasl_plain_password: must be a valid string",
        ),
    ],
)
def test_a_bad_configuration_prints_one_line_with_the_key_and_exits_with_status_2(
    tmp_path: Path, name: str, text: str, line: str
) -> None:
    path = tmp_path / "bridge.toml"
    path.write_text(text)
    done = command(name, "--config", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"digifinex-bridge: {path}: {line}\n"


def test_a_missing_file_prints_one_line_and_exits_with_status_2() -> None:
    done = command("run", "--config", "/nowhere/bridge.toml")
    assert done.returncode == 2
    assert done.stderr == (
        "digifinex-bridge: /nowhere/bridge.toml: cannot read the configuration: No such file or directory\n"
    )


def test_a_bad_environment_variable_is_named() -> None:
    done = command("run", BRIDGE_HTTP__PORT="seven", BRIDGE_CHANNELS__ALL_TICKER="true")
    assert done.returncode == 2
    assert done.stderr.startswith("digifinex-bridge: environment BRIDGE_HTTP__PORT: http.port: ")


def test_check_prints_the_planned_sessions_and_what_is_unavailable(tmp_path: Path) -> None:
    """Ports that are bound and not listened on refuse every connection."""
    with socket.socket() as kafka, socket.socket() as exchange:
        kafka.bind(("127.0.0.1", 0))
        exchange.bind(("127.0.0.1", 0))
        path = tmp_path / "bridge.toml"
        path.write_text(
            f'[exchange]\nurl = "ws://127.0.0.1:{exchange.getsockname()[1]}/"\n'
            f'[kafka]\nbootstrap_servers = "127.0.0.1:{kafka.getsockname()[1]}"\n'
            f'[channels]\ntrades = ["BTC_USDT", "ETH_USDT"]\ndepth = ["*"]\n'
            f'[[accounts]]\nname = "main"\napi_key = "key"\nsecret = "{SECRET}"\nbalance = ["USDT"]\n'
        )
        done = command("check", "--config", str(path))
    assert done.returncode == 1
    assert "session with 3 subscriptions: all_ticker, trades BTC_USDT ETH_USDT" in done.stdout
    assert "additional sessions for depth of every market listed in all_ticker" in done.stdout
    assert "session of account main with 1 subscription: balance USDT" in done.stdout
    assert done.stdout.endswith("not ready: Kafka and the exchange, see above\n")
    assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_simulator_prints_its_address_and_stops_cleanly(number: signal.Signals) -> None:
    arguments = [sys.executable, "-m", "bridge", "simulate", "--port", "0", "--symbols", "2"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout
        assert running.stdout.readline().startswith("ws://127.0.0.1:")
        running.send_signal(number)
        _, complaints = running.communicate(timeout=300)
    assert (running.returncode, complaints) == (0, "")


def test_a_port_in_use_prints_one_line_and_exits_with_status_2() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = command("simulate", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "--port" in done.stderr
    assert done.stderr.count("\n") == 1


HANGING = """
import socket, sys, time
socket.getaddrinfo = lambda *_, **__: print("asked", flush=True) or time.sleep(3600)
from bridge.cli import main
main()
"""


def test_run_stops_while_a_name_server_hangs(tmp_path: Path) -> None:
    config = tmp_path / "bridge.toml"
    config.write_text(
        '[channels]\ntrades = ["BTC_USDT"]\n[kafka]\nbootstrap_servers = "kafka.example:9092"\n'
        '[http]\nhost = "127.0.0.1"\nport = 0\n'
    )
    command = [sys.executable, "-c", HANGING, "run", "--config", str(config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"asked\n"
        process.terminate()
        assert process.wait(600) == 0
