"""The configuration: which values are accepted, which are rejected, and with which message."""

import re
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bridge.config import SECTIONS, Compression, Config, Delivery, HttpConfig, load
from bridge.errors import ConfigError

ROOT = Path(__file__).parents[2]
SECRET = "s3cr3t-that-nobody-may-see"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a configuration file and return its path."""

    def write(text: str, subscribed: bool = True) -> Path:
        path = tmp_path / "bridge.toml"
        path.write_text(text + ("\n[channels]\nall_ticker = true\n" if subscribed else ""))
        return path

    return write


def refusal(path: Path | None, environ: dict[str, str] | None = None) -> ConfigError:
    """Return the error that loading raises; it is one line and contains no secret."""
    with pytest.raises(ConfigError) as caught:
        load(path, environ or {})
    text = str(caught.value)
    assert "\n" not in text
    assert SECRET not in text
    assert caught.value.key in text
    return caught.value


def test_defaults_are_as_documented_in_the_contract(write: Write) -> None:
    config = load(write(""), {})
    assert config.exchange.url == "wss://openapi.digifinex.com/ws/v1/"
    assert (config.exchange.ping_interval, config.exchange.reply_timeout) == (15.0, 10.0)
    assert (config.exchange.reconnect_min, config.exchange.reconnect_max) == (0.5, 30.0)
    assert (config.exchange.max_frame_bytes, config.exchange.max_session_age) == (8388608, 6600.0)
    assert (config.exchange.stale_after, config.exchange.subscriptions_per_session) == (120.0, 30)
    assert (config.kafka.bootstrap_servers, config.kafka.topic_prefix) == ("localhost:9092", "digifinex")
    assert (config.kafka.delivery, config.kafka.compression) == (Delivery.EXACTLY_ONCE, Compression.ZSTD)
    assert (config.kafka.flush_interval, config.kafka.commit_interval) == (0.01, 0.1)
    assert (config.kafka.partitions, config.kafka.replication_factor, config.kafka.shards) == (12, -1, 1)
    assert (config.kafka.security_protocol, config.kafka.group_id) == ("PLAINTEXT", "digifinex-bridge")
    assert (config.kafka.max_pending_bytes, config.kafka.transaction_timeout) == (33554432, 10.0)
    assert (str(config.spool.dir), config.spool.max_bytes) == ("spool", 1073741824)
    assert (config.http.host, config.http.port) == ("0.0.0.0", 9464)
    assert (config.log.level, config.log.format) == ("info", "console")


def test_the_environment_takes_precedence_over_the_file(write: Write) -> None:
    path = write("[kafka]\npartitions = 3\nshards = 2\n")
    kafka = load(path, {"BRIDGE_KAFKA__PARTITIONS": "7", "BRIDGE_KAFKA__CREATE_TOPICS": "false"}).kafka
    assert (kafka.partitions, kafka.shards, kafka.create_topics) == (7, 2, False)


@pytest.mark.parametrize("text", ["btc_usdt, ETH_USDT", '["BTC_USDT", "eth_usdt"]'])
def test_a_list_in_the_environment_is_either_names_or_json(text: str) -> None:
    assert load(None, {"BRIDGE_CHANNELS__TRADES": text}).channels.of("trades") == ("BTC_USDT", "ETH_USDT")


def test_accounts_can_be_set_in_the_environment_as_json() -> None:
    accounts = '[{"name": "main", "api_key": "k", "secret": "s", "balance": ["usdt"]}]'
    (account,) = load(None, {"BRIDGE_ACCOUNTS": accounts}).accounts
    assert (account.name, account.api_key.get_secret_value()) == ("main", "k")
    assert account.of("balance") == ("USDT",)


def test_one_value_of_an_account_can_be_set_in_the_environment(write: Write) -> None:
    path = write('[[accounts]]\nname = "main"\napi_key = "k"\norder = ["BTC_USDT"]\n')
    environ = {"BRIDGE_ACCOUNTS__0__SECRET": SECRET, "BRIDGE_ACCOUNTS__0__BALANCE": "BTC,USDT"}
    (account,) = load(path, environ).accounts
    assert account.secret.get_secret_value() == SECRET
    assert (account.of("order"), account.of("balance")) == (("BTC_USDT",), ("BTC", "USDT"))


def test_the_environment_can_add_the_next_account_but_no_later_one(write: Write) -> None:
    new = {"NAME": "other", "API_KEY": "k", "SECRET": "s", "BALANCE": "BTC"}
    assert load(write(""), {f"BRIDGE_ACCOUNTS__0__{key}": text for key, text in new.items()}).accounts
    error = refusal(write(""), {f"BRIDGE_ACCOUNTS__1__{key}": text for key, text in new.items()})
    assert "no gaps" in str(error)


def test_variables_that_kubernetes_sets_for_a_service_are_ignored(write: Write) -> None:
    load(write(""), {"BRIDGE_PORT": "tcp://10.0.0.1:9464", "BRIDGE_SERVICE_HOST": "10.0.0.1"})


def test_secret_files_are_relative_to_the_configuration_and_their_line_break_is_removed(
    write: Write, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("the-key\n")
    (tmp_path / "secret").write_text(f"{SECRET}\r\n")
    (tmp_path / "password").write_text("pass word")
    path = write(
        '[[accounts]]\nname = "a"\napi_key_file = "key"\nsecret_file = "secret"\nbalance = ["BTC"]\n'
        '[kafka]\nsecurity_protocol = "SASL_SSL"\nsasl_mechanism = "SCRAM-SHA-512"\n'
        'sasl_plain_username = "u"\nsasl_plain_password_file = "password"\n'
    )
    config = load(path, {})
    assert config.accounts[0].api_key.get_secret_value() == "the-key"
    assert config.accounts[0].secret.get_secret_value() == SECRET
    assert config.kafka.sasl_plain_password.get_secret_value() == "pass word"
    assert SECRET not in repr(config)
    assert SECRET not in str(config.model_dump())
    assert SECRET not in config.model_dump_json()


def test_a_configuration_is_immutable(write: Write) -> None:
    config: Config = load(write(""), {})
    with pytest.raises(ValueError, match="frozen"):
        config.http.port = 1


SASL = 'security_protocol = "SASL_SSL"\n'


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        ("[exchange]\nping_intervall = 1\n", "exchange.ping_intervall", "did you mean ping_interval?"),
        ("[exchnge]\n", "exchnge", "did you mean exchange?"),
        ("[http]\nzzz = 1\n", "http.zzz", "known keys: host, port"),
        ('[exchange]\nping_interval = "often"\n', "exchange.ping_interval", "must be a valid number"),
        ("[exchange]\nping_interval = 0\n", "exchange.ping_interval", "greater than 0"),
        ("[exchange]\nping_interval = nan\n", "exchange.ping_interval", "finite"),
        ("[exchange]\nping_interval = 55\n", "exchange.ping_interval", "less than 60 s"),
        ('[exchange]\nproxy = "socks5://proxy:1080"\n', "exchange.proxy", "SOCKS is not supported"),
        ('[exchange]\nproxy = "proxy:3128"\n', "exchange.proxy", "http://host:port"),
        ('[exchange]\nproxy = "http://me:pw@proxy:3128"\n', "exchange.proxy", "HTTPS_PROXY"),
        ("[exchange]\nreconnect_min = 60\n", "exchange.reconnect_min", "reconnect_max (30)"),
        ("[exchange]\nmax_frame_bytes = 1023\n", "exchange.max_frame_bytes", "1024"),
        ("[exchange]\nsubscriptions_per_session = 0\n", "exchange.subscriptions_per_session", "1"),
        ('[exchange]\nurl = "https://x"\n', "exchange.url", "wss://host/path"),
        ('[exchange]\nurl = "ws://x:99999"\n', "exchange.url", "Port out of range"),
        (f'[exchange]\nurl = "wss://me:{SECRET}@x"\n', "exchange.url", "password"),
        ("exchange = 5\n", "exchange", "must be a table"),
        ("[kafka]\ncommit_interval = 0.001\n", "kafka.commit_interval", "flush_interval (0.01)"),
        ("[kafka]\ntransaction_timeout = 0.1\n", "kafka.commit_interval", "transaction_timeout (0.1)"),
        ("[kafka]\npartitions = 0\n", "kafka.partitions", "1"),
        ("[kafka]\nreplication_factor = 0\n", "kafka.replication_factor", "-1"),
        ('[kafka]\ntopic_prefix = "a b"\n', "kafka.topic_prefix", "letters, digits"),
        ('[kafka]\nprivate_topic_prefix = "a b"\n', "kafka.private_topic_prefix", "letters, digits"),
        ('[kafka]\ncompression = "zip"\n', "kafka.compression", "'lz4' or 'zstd'"),
        ('[kafka]\nbootstrap_servers = "a:1,b:x"\n', "kafka.bootstrap_servers", "host:port"),
        (f"[kafka]\n{SASL}", "kafka.sasl_mechanism", "is missing"),
        (f'[kafka]\n{SASL}sasl_mechanism = "PLAIN"\n', "kafka.sasl_plain_username", "is missing"),
        (f'[kafka]\nsasl_plain_password = "{SECRET}"\n', "kafka.sasl_plain_password", "no effect"),
        (f"[kafka]\nsasl_plain_password = ['{SECRET}']\n", "kafka.sasl_plain_password", "valid string"),
        ('[kafka]\nsecurity_protocol = "SSL"\nssl_cafile = "ca"\n', "kafka.ssl_cafile", "no such file"),
        ("[http]\nport = 65536\n", "http.port", "65535"),
        ('[log]\nlevel = "loud"\n', "log.level", "'debug', 'info'"),
        ('"a\\nb" = 1\n', "a b", "unknown key"),
    ],
)
def test_the_error_for_a_bad_value_names_the_key(write: Write, text: str, key: str, words: str) -> None:
    path = write(text)
    with pytest.raises(ConfigError) as caught:
        load(path, {})
    line = str(caught.value)
    assert line.startswith(f"{path}: {key}: ")
    assert words in line
    assert "\n" not in line
    assert SECRET not in line


@pytest.mark.parametrize(
    ("trades", "words"),
    [
        ('["BTC_USDT", "btc_usdt"]', "lists BTC_USDT more than once"),
        ('["*", "BTC_USDT"]', 'combines "*"'),
        ('["BTC USDT"]', "contains a space"),
        ("[5]", "valid string"),
        ("5", "must be a list"),
    ],
)
def test_a_bad_list_of_symbols_is_rejected(write: Write, trades: str, words: str) -> None:
    error = refusal(write(f"[channels]\ntrades = {trades}\n", subscribed=False))
    assert error.key.startswith("channels.trades")
    assert words in str(error)


ACCOUNT = f'[[accounts]]\nname = "a"\napi_key = "k"\nsecret = "{SECRET}"\nbalance = ["BTC"]\n'


@pytest.mark.parametrize(
    ("text", "key", "words"),
    [
        (ACCOUNT.replace('api_key = "k"\n', ""), "accounts.0.api_key", "api_key_file"),
        (ACCOUNT.replace('"k"', '""'), "accounts.0.api_key", "is missing"),
        (ACCOUNT.replace("secret =", "sekret ="), "accounts.0.sekret", "did you mean secret?"),
        (
            ACCOUNT.replace('api_key = "k"', 'api_key_file = "none"'),
            "accounts.0.api_key_file",
            "no such file",
        ),
        (ACCOUNT.replace('api_key = "k"', 'api_key_file = "."'), "accounts.0.api_key_file", "no such file"),
        (ACCOUNT.replace('api_key = "k"', 'api_key_file = "empty"'), "accounts.0.api_key", "is empty"),
        (
            ACCOUNT.replace('api_key = "k"', 'api_key_file = "binary"'),
            "accounts.0.api_key",
            "binary begins with the byte order mark of UTF-16",
        ),
        (ACCOUNT + 'secret_file = "good"\n', "accounts.0.secret", "set twice"),
        (ACCOUNT.replace('balance = ["BTC"]', ""), "accounts.0", "has nothing to subscribe to"),
        (ACCOUNT.replace('"BTC"', '"*"'), "accounts.0.balance", "list each name"),
        (ACCOUNT.replace('"a"', '"a b"'), "accounts.0.name", "letters, digits"),
        (ACCOUNT + ACCOUNT, "accounts.1.name", "'a' is already the name"),
        (ACCOUNT + '[exchange]\nurl = "ws://10.0.0.1/"\n', "exchange.url", "must be wss://"),
    ],
)
def test_a_bad_account_is_rejected(write: Write, tmp_path: Path, text: str, key: str, words: str) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "good").write_text("x")
    error = refusal(write(text))
    assert error.key == key
    assert words in str(error)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]"])
def test_accounts_may_use_plain_ws_on_this_machine(write: Write, host: str) -> None:
    assert load(write(f'{ACCOUNT}[exchange]\nurl = "ws://{host}:8080/"\n'), {}).accounts


def test_the_error_for_a_bad_variable_names_it(write: Write) -> None:
    error = refusal(write(""), {"BRIDGE_HTTP__PORT": "http"})
    assert str(error).startswith("environment BRIDGE_HTTP__PORT: http.port: must be a valid integer")
    error = refusal(write(""), {"BRIDGE_HTPP__PORT": "1"})
    assert "BRIDGE_HTPP__PORT" in str(error)
    assert "did you mean http?" in str(error)
    error = refusal(write(""), {"BRIDGE_ACCOUNTS": f"[{SECRET}"})
    assert str(error).startswith("environment BRIDGE_ACCOUNTS: accounts: is not valid JSON")


def test_the_error_for_a_missing_file_or_bad_toml_names_file_and_line(write: Write, tmp_path: Path) -> None:
    assert str(refusal(tmp_path / "none.toml")).endswith(
        "none.toml: cannot read the configuration: No such file or directory"
    )
    path = write("[kafka]\npartitions = = 3\n")
    assert str(refusal(path)).startswith(f"{path}: is not valid TOML: ")
    assert "line 2" in str(refusal(path))


MARKED = "begins with the byte order mark of {}: save the file as UTF-8 without a byte order mark"


@pytest.mark.parametrize(
    ("encoding", "words"),
    [
        ("utf-8-sig", MARKED.format("UTF-8 (ef bb bf)")),
        ("utf-16", MARKED.format("UTF-16 (ff fe)")),
        ("utf-32", MARKED.format("UTF-32 (ff fe 00 00)")),
        ("utf-16-le", "has a zero at byte 1, as UTF-16 has: save the file as UTF-8"),
        ("utf-16-be", "has a zero at byte 0, as UTF-16 has: save the file as UTF-8"),
        ("latin-1", "is not UTF-8 at byte 12 (line 2): save the file as UTF-8"),
    ],
)
def test_another_encoding_of_a_file_is_named_with_the_place_and_what_to_do(
    tmp_path: Path, encoding: str, words: str
) -> None:
    path, secret = tmp_path / "bridge.toml", tmp_path / "secret"
    text = "[kafka]\n# Prüfstand\n"
    path.write_bytes(text.encode(encoding))
    assert str(refusal(path)) == f"{path}: {words}"
    secret.write_bytes(text.encode(encoding))
    path.write_text(ACCOUNT.replace('secret = "', f'secret_file = "{secret}" #'))
    error = refusal(path)
    assert str(error) == f"{path}: accounts.0.secret: {secret} {words}"


def test_a_variable_that_is_not_utf_8_is_named() -> None:
    error = refusal(None, {"BRIDGE_CHANNELS__TRADES": "BTC_\udce9"})
    assert str(error) == "environment BRIDGE_CHANNELS__TRADES: channels.trades: is not UTF-8 at character 4"


def test_a_configuration_without_subscriptions_is_rejected(write: Write) -> None:
    assert refusal(None).key == "channels"
    assert refusal(write("[channels]\nall_ticker = false\n", subscribed=False)).key == "channels"


@pytest.mark.parametrize("section", SECTIONS)
def test_every_key_has_a_description_and_every_number_a_unit(section: str) -> None:
    for key, field in SECTIONS[section].model_fields.items():
        description = field.description or ""
        assert description.endswith("."), key
        if field.annotation is float:
            assert re.search(r"\bseconds?\b", description.lower()), key
        elif field.annotation is int:
            assert re.search(r"\b(number|bytes|port|factor)\b", description.lower()), key


def test_the_configuration_document_is_up_to_date() -> None:
    document = runpy.run_path(str(ROOT / "scripts" / "configuration_doc.py"))["document"]
    assert (ROOT / "docs" / "configuration.md").read_text() == document(), "run scripts/configuration_doc.py"


def test_without_accounts_any_private_prefix_will_do(write: Write) -> None:
    config = load(write('[kafka]\ntopic_prefix = "private"\n'), {})
    assert config.kafka.private_topic_prefix == "private.private"


@pytest.mark.parametrize(
    ("prefixes", "refused"),
    [
        ('topic_prefix = "feed"\n', False),
        ('topic_prefix = "feed"\nprivate_topic_prefix = "feed"\n', True),
        ('topic_prefix = "feed"\nprivate_topic_prefix = "feed.private"\n', True),
        ('topic_prefix = "feed"\nprivate_topic_prefix = "feeds"\n', True),
        ('topic_prefix = "feed"\nprivate_topic_prefix = "fee"\n', False),
        ('topic_prefix = "private"\n', True),
    ],
)
def test_the_private_prefix_of_accounts_is_out_of_reach_of_acls_for_market_data(
    write: Write, prefixes: str, refused: bool
) -> None:
    account = '[[accounts]]\nname = "main"\napi_key = "k"\nsecret = "s"\nbalance = ["USDT"]\n'
    kafka = f"[kafka]\n{prefixes}"
    if not refused:
        load(write(account + kafka), {})
        return
    with pytest.raises(ConfigError, match=r"kafka\.private_topic_prefix: must not begin with topic_prefix"):
        load(write(account + kafka), {})


@pytest.mark.parametrize(
    ("keys", "address"),
    [
        ({}, None),
        ({"status_port": 9464}, None),
        ({"status_host": "0.0.0.0"}, None),
        ({"status_host": "127.0.0.1"}, ("127.0.0.1", 9464)),
        ({"status_port": 9465}, ("0.0.0.0", 9465)),
        ({"status_host": "::1", "status_port": 0}, ("::1", 0)),
    ],
)
def test_status_has_a_listener_of_its_own_if_it_is_configured_elsewhere(
    keys: dict[str, Any], address: tuple[str, int] | None
) -> None:
    assert HttpConfig(**keys).status_address == address
