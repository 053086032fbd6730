"""A secret, wherever it is put, is in no error of the configuration, and in no output of `check` or `run`."""

import asyncio
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import BaseModel, SecretStr

from bridge.config import SECTIONS, exposed, load
from bridge.errors import ConfigError
from tests.support.hostile_broker import HostileBroker, token
from tests.support.waiting import STRETCH

CANARY = "c4n4ryS3cretThatNobodyMaySee"
PEM = f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n"
# What names something has to be shown: a secret that is put there is a name.
NAMES = {
    "accounts.name",
    "http.host",
    "http.status_host",
    "kafka.group_id",
    "kafka.private_topic_prefix",
    "kafka.sasl_plain_username",
    "kafka.topic_prefix",
    "spool.dir",
}
FORMS = {
    "itself": CANARY,
    "with spaces": f"my secret {CANARY}",
    "as a path": f"/etc/{CANARY}",
    "as a PEM file": PEM,
    "very long": CANARY * 1000,
    "as a user": f"{CANARY}@host:9092",
    "as a password": f"user:{CANARY}@host:9092",
    "as a user of a url": f"https://{CANARY}@host/",
    "as a password of a url": f"wss://user:{CANARY}@host/",
    "as a password without a host": f"wss://user:{CANARY}@/",
    "as a password of a proxy": f"http://user:{CANARY}@proxy:3128",
    "as a port": f"host:{CANARY}",
    "as the port of a url": f"wss://host:{CANARY}/",
    "as the port of a proxy": f"http://proxy:{CANARY}",
    "as a bad address": f"wss://[{CANARY}]/",
    "as a bad name": f"wss://user:{CANARY}\N{ACCOUNT OF}@host/",
    "among brokers": f"host:9092,{CANARY}",
    "as JSON": f'["{CANARY}"',
    "with a NUL": f"{CANARY}\0",
}


KEYS = [(section, key) for section, model in SECTIONS.items() for key in model.model_fields]


def in_file(section: str, key: str, value: str) -> str:
    header = "[[accounts]]" if section == "accounts" else f"[{section}]"
    # JSON's strings are TOML's, except for the escapes of characters beyond the 16 bits.
    text = f"{header}\n{key} = {json.dumps(value)}\n"
    return text if section == "channels" else f'{text}[channels]\ntrades = ["BTC_USDT"]\n'


def what_is_shown(file: Path | None, environ: dict[str, str]) -> str:
    """Return the error of a configuration, or what is shown of it; names of markets are in upper case."""
    try:
        config = load(file, environ)
    except ConfigError as error:
        return str(error)
    exchange = config.exchange.model_copy(update={"url": config.exchange.address})
    return repr(config.model_copy(update={"exchange": exchange}))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("section", "key"), KEYS, ids=[".".join(one) for one in KEYS])
def test_no_message_contains_a_secret_whatever_key_it_is_put_in(
    tmp_path: Path, section: str, key: str, form: str
) -> None:
    path = tmp_path / "bridge.toml"
    path.write_text(in_file(section, key, form))
    path.chmod(0o600)
    index = "0__" if section == "accounts" else ""
    variable = f"BRIDGE_{section}__{index}{key}".upper()
    for file, environ in ((path, {}), (None, {variable: form})):
        if f"{section}.{key}" not in NAMES:
            assert CANARY not in what_is_shown(file, environ)


@pytest.mark.parametrize(
    ("broker", "accepted"),
    [
        ("kafka", True),
        ("kafka-0", True),
        ("my-cluster-kafka-bootstrap", True),
        ("broker-17-of-the-cluster.example", True),
        ("[::1]", True),
        ("broker-17-of-the-cluster:9092", True),
        ("broker-17-of-the-cluster", False),
        ("a3f9c1d27b60e8f4a3f9c1d27b60e8f4", False),
        ("hunterTwo", False),
        ("c2VjcmV0==", False),
        ("c2Vj+cmV0", False),
    ],
)
def test_a_password_is_told_from_a_broker_without_a_port(broker: str, *, accepted: bool) -> None:
    environ = {"BRIDGE_KAFKA__BOOTSTRAP_SERVERS": broker, "BRIDGE_CHANNELS__ALL_TICKER": "true"}
    if accepted:
        assert load(None, environ).kafka.bootstrap_servers == broker
        return
    with pytest.raises(ConfigError) as caught:
        load(None, environ)
    assert broker not in str(caught.value)


def test_the_address_of_the_exchange_is_shown_without_what_may_be_a_token() -> None:
    for url, shown in (
        ("wss://host:1/ws/v1/", "wss://host:1/ws/v1/"),
        (f"wss://host/ws/?token={CANARY}", "wss://host/ws/?…"),
        (f"wss://host/ws/#{CANARY}", "wss://host/ws/?…"),
        (f"wss://host/{CANARY}/ws", "wss://host/…/ws"),
        ("wss://host", "wss://host"),
    ):
        config = load(None, {"BRIDGE_EXCHANGE__URL": url, "BRIDGE_CHANNELS__ALL_TICKER": "true"})
        assert config.exchange.address == shown


def test_a_proxy_of_the_environment_that_is_no_url_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    from bridge.websocket import opening  # noqa: PLC0415 - it reads the environment when it is called

    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{CANARY}\N{ACCOUNT OF}@proxy")
    config = load(None, {"BRIDGE_CHANNELS__ALL_TICKER": "true"})
    with pytest.raises(ConfigError) as caught:
        opening.verify(config.exchange)
    assert CANARY not in str(caught.value)


SECRETS = [
    (section, key)
    for section, model in SECTIONS.items()
    for key, field in model.model_fields.items()
    if isinstance(field.default, SecretStr)
]


def test_every_secret_of_the_configuration_can_come_from_a_file() -> None:
    assert len(SECRETS) >= 4
    for section, key in SECRETS:
        model: type[BaseModel] = SECTIONS[section]
        assert f"{key}_file" in model.model_fields


def configuration(folder: Path, broker: str, *, by_file: bool) -> Path:
    """Write a configuration with a canary in every place that may hold a secret."""
    number = 0

    def secret(key: str) -> str:
        nonlocal number
        number += 1
        if not by_file:
            return f'{key} = "{CANARY}{number}"'
        file = folder / f"secret-{number}"
        file.write_text(f"{CANARY}{number}\n")
        file.chmod(0o644)
        return f'{key}_file = "{file.name}"'

    path = folder / "bridge.toml"
    path.write_text(f"""
[exchange]
url = "wss://127.0.0.1:1/{CANARY}/?token={CANARY}"
[channels]
trades = ["BTC_USDT"]
[kafka]
bootstrap_servers = "{broker}"
security_protocol = "SASL_PLAINTEXT"
sasl_mechanism = "PLAIN"
sasl_plain_username = "bridge"
{secret("sasl_plain_password")}
[spool]
dir = "{folder / "spool"}"
[http]
host = "127.0.0.1"
port = 0
[log]
level = "debug"
format = "json"
[[accounts]]
name = "main"
{secret("api_key")}
{secret("secret")}
balance = ["USDT"]
""")
    path.chmod(0o644)
    return path


@asynccontextmanager
async def command(*arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a command of the bridge, with a proxy in its environment that has a password."""
    environment = os.environ | {"HTTPS_PROXY": f"http://user:{CANARY}@127.0.0.1:1"}
    environment.pop("NO_PROXY", None)
    environment.pop("no_proxy", None)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bridge", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def repeats(sent: bytes) -> bytes:
    """Refuse a password, and say which one it was."""
    return token(b"", 58, f"no such password: {sent.decode(errors='replace')}")


@pytest.mark.parametrize("by_file", [False, True])
def test_check_prints_no_secret(tmp_path: Path, *, by_file: bool) -> None:
    async def scenario() -> str:
        async with HostileBroker(repeats).listening() as broker:
            path = configuration(tmp_path, broker, by_file=by_file)
            async with command("check", "--config", str(path)) as process, asyncio.timeout(60 * STRETCH):
                output, _ = await process.communicate()
        return output.decode()

    output = asyncio.run(scenario())
    assert "not ready: Kafka and the exchange" in output
    assert "exchange at wss://127.0.0.1:1/…/?…" in output
    assert "no such password: " in output
    assert "readable by everybody" in output
    assert CANARY not in output


def fetched(port: int, path: str) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return str(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return str(error.read())


@pytest.mark.parametrize("by_file", [False, True])
def test_run_writes_no_secret(tmp_path: Path, *, by_file: bool) -> None:
    """Not even at level debug, nor to its endpoints."""

    async def scenario() -> tuple[str, list[str]]:
        async with HostileBroker(repeats).listening() as broker:
            path = configuration(tmp_path, broker, by_file=by_file)
            async with command("run", "--config", str(path)) as process, asyncio.timeout(60 * STRETCH):
                assert process.stdout is not None
                lines, port = list[str](), 0
                while "Kafka unavailable, retrying" not in "".join(lines):
                    lines.append((await process.stdout.readline()).decode())
                    assert lines[-1], lines
                    if "HTTP endpoints listening" in lines[-1]:
                        port = json.loads(lines[-1])["port"]
                paths = ("/metrics", "/readyz", "/status", "/healthz", f"/{CANARY}")
                pages = [await asyncio.to_thread(fetched, port, path) for path in paths]
                process.terminate()
                output, _ = await process.communicate()
        return "".join(lines) + output.decode(), pages

    output, pages = asyncio.run(scenario())
    assert "no such password: " in output
    assert output.count("file with a secret is readable by everybody") == (3 if by_file else 1)
    assert CANARY not in output
    assert "no such password: " in pages[1]
    assert CANARY not in "".join(pages)


@pytest.mark.parametrize("command_", ["check", "run"])
def test_a_secret_in_the_place_of_its_file_is_not_printed(tmp_path: Path, command_: str) -> None:
    path = configuration(tmp_path, "127.0.0.1:1", by_file=False)
    path.write_text(path.read_text().replace("api_key = ", "api_key_file = "))

    async def scenario() -> str:
        async with command(command_, "--config", str(path)) as process, asyncio.timeout(60 * STRETCH):
            output, _ = await process.communicate()
        assert process.returncode == 2
        return output.decode()

    output = asyncio.run(scenario())
    assert "accounts.0.api_key_file: no such file" in output
    assert CANARY not in output


def test_files_with_secrets_that_everybody_can_read_are_named(tmp_path: Path) -> None:
    path = configuration(tmp_path, "localhost:9092", by_file=True)
    files = [
        ("accounts.0.api_key_file", tmp_path / "secret-2"),
        ("accounts.0.secret_file", tmp_path / "secret-3"),
        ("kafka.sasl_plain_password_file", tmp_path / "secret-1"),
    ]
    assert exposed(load(path, {}), path) == files
    for number in (1, 2):
        (tmp_path / f"secret-{number}").chmod(0o640)
    (tmp_path / "link").symlink_to("secret-3")
    path.write_text(path.read_text().replace('"secret-3"', '"link"'))
    assert exposed(load(path, {}), path) == [("accounts.0.secret_file", tmp_path / "link")]


def test_a_configuration_with_secrets_that_everybody_can_read_is_named(tmp_path: Path) -> None:
    path = configuration(tmp_path, "localhost:9092", by_file=False)
    assert exposed(load(path, {}), path) == [("", path)]
    path.chmod(0o640)
    assert exposed(load(path, {}), path) == []
    path.chmod(0o644)
    path.write_text('[channels]\ntrades = ["BTC_USDT"]\n')
    assert exposed(load(path, {}), path) == []
    assert exposed(load(None, {"BRIDGE_CHANNELS__ALL_TICKER": "true"}), None) == []


def test_a_private_key_that_everybody_can_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(PEM)
    (tmp_path / "certificate").write_text("-----BEGIN CERTIFICATE-----\n")
    path = tmp_path / "bridge.toml"
    path.write_text(
        '[kafka]\nsecurity_protocol = "SSL"\nssl_certfile = "certificate"\nssl_keyfile = "key"\n'
        '[channels]\ntrades = ["BTC_USDT"]\n'
    )
    for file in ("key", "certificate"):
        (tmp_path / file).chmod(0o644)
    assert exposed(load(path, {}), path) == [("kafka.ssl_keyfile", tmp_path / "key")]
    (tmp_path / "certificate").write_text(PEM)
    assert len(exposed(load(path, {}), path)) == 2
