"""The section `schema_registry`: what it refuses, and that no value of a secret is in a message."""

from pathlib import Path

import pytest

from bridge.config import Framing, load
from bridge.errors import ConfigError

SECRET = "s3cr3t-that-nobody-may-see"
FILE = "[channels]\nall_ticker = true\n[schema_registry]\n"
HTTPS = 'url = "https://registry.example:8081/apis/ccompat/v7"\n'


def write(folder: Path, keys: str) -> Path:
    path = folder / "bridge.toml"
    path.write_text(FILE + keys)
    (folder / "password").write_text(f"{SECRET}\n")
    return path


@pytest.mark.parametrize(
    ("keys", "key", "words"),
    [
        ('url = "registry:8081"', "url", "must be a URL"),
        ('url = "ftp://registry"', "url", "must be a URL"),
        ('url = "https://a,https://b"', "url", "must be one address"),
        (f'url = "https://bridge:{SECRET}@registry"', "url", "must not contain a user name or password"),
        (f'url = "https://registry?key={SECRET}"', "url", "without a query"),
        ('url = "https://registry:0"', "url", "must have a port"),
        ('framing = "confluent"', "framing", "has no effect without schema_registry.url"),
        ('username = "bridge"', "username", "has no effect without schema_registry.url"),
        (f"{HTTPS}framing = 'avro'", "framing", "must be 'none', 'confluent' or 'header'"),
        (f"{HTTPS}username = 'bridge'", "password", "is missing"),
        (f"{HTTPS}password_file = 'password'", "username", "is missing"),
        (f"{HTTPS}username = 'a:b'\npassword_file = 'password'", "username", "must not contain a colon"),
        (
            f"{HTTPS}username = 'a'\npassword_file = 'password'\npassword = '{SECRET}'",
            "password",
            "is set twice",
        ),
        (f"{HTTPS}username = 'a'\npassword_file = 'nothing'", "password_file", "no such file"),
        (
            "url = 'http://registry.example'\nusername = 'a'\npassword_file = 'password'",
            "url",
            "must begin with https://",
        ),
        ("url = 'http://registry'\nssl_cafile = 'password'", "ssl_cafile", "has no effect with http://"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_key(
    tmp_path: Path, keys: str, key: str, words: str
) -> None:
    with pytest.raises(ConfigError) as error:
        load(write(tmp_path, keys), {})
    assert error.value.key == f"schema_registry.{key}"
    assert words in error.value.message
    assert SECRET not in str(error.value)


@pytest.mark.parametrize(
    "keys",
    [
        "",
        'url = ""\nframing = "none"',
        'url = "http://registry.example:8081/"',
        "url = 'http://127.0.0.1:8081'\nusername = 'a'\npassword_file = 'password'",
        "url = 'http://localhost:8081'\nusername = 'a'\npassword_file = 'password'",
        f"{HTTPS}framing = 'header'",
    ],
)
def test_what_makes_sense_is_accepted(tmp_path: Path, keys: str) -> None:
    load(write(tmp_path, keys), {})


def test_it_comes_from_the_environment_too(tmp_path: Path) -> None:
    environment = {
        "BRIDGE_SCHEMA_REGISTRY__URL": "https://registry.example",
        "BRIDGE_SCHEMA_REGISTRY__USERNAME": "bridge",
        "BRIDGE_SCHEMA_REGISTRY__PASSWORD": SECRET,
        "BRIDGE_SCHEMA_REGISTRY__FRAMING": "confluent",
    }
    found = load(write(tmp_path, ""), environment).schema_registry
    assert found.credentials() == ("bridge", SECRET)
    assert found.framing is Framing.CONFLUENT
    assert SECRET not in repr(found)
