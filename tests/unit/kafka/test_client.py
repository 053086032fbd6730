"""The TLS of Kafka's clients: which key of the configuration a bad file or password is blamed on."""

import re
import subprocess
from pathlib import Path

import pytest

from bridge.config import KafkaConfig
from bridge.errors import ConfigError
from bridge.kafka.client import connection
from tests.support.certificates import make_certificates

PASSWORD = "key-p4ssw0rd"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, a certificate, its key plain and encrypted, and what is neither."""
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    (folder / "garbage.pem").write_text("no certificate, no key")
    encrypt = ["-topk8", "-in", "broker.key", "-out", "locked.key", "-passout", f"pass:{PASSWORD}"]
    subprocess.run(["openssl", "pkcs8", *encrypt], cwd=folder, check=True, capture_output=True)
    (folder / "locked.pem").write_text(
        (folder / "broker.pem").read_text() + (folder / "locked.key").read_text()
    )
    return folder


def connect(folder: Path, **files: str) -> None:
    paths = {
        key: value if key == "ssl_password" else str(folder / value)
        for key, value in {"ssl_cafile": "ca.pem", **files}.items()
    }
    connection(KafkaConfig.model_validate({"security_protocol": "SSL", **paths}))


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"ssl_certfile": "keystore.pem"},
        {"ssl_certfile": "broker.pem", "ssl_keyfile": "broker.key"},
        {"ssl_certfile": "broker.pem", "ssl_keyfile": "locked.key", "ssl_password": PASSWORD},
        {"ssl_certfile": "locked.pem", "ssl_password": PASSWORD},
    ],
)
def test_good_files_are_taken(folder: Path, files: dict[str, str]) -> None:
    connect(folder, **files)


@pytest.mark.parametrize(
    ("files", "key", "words"),
    [
        ({"ssl_cafile": "garbage.pem", "ssl_certfile": "keystore.pem"}, "ssl_cafile", "can't be used"),
        ({"ssl_certfile": "garbage.pem", "ssl_keyfile": "broker.key"}, "ssl_certfile", "can't be used"),
        ({"ssl_certfile": "broker.pem"}, "ssl_certfile", "has no key"),
        ({"ssl_certfile": "broker.pem", "ssl_keyfile": "garbage.pem"}, "ssl_keyfile", "has no key"),
        ({"ssl_certfile": "broker.pem", "ssl_keyfile": "ca.key"}, "ssl_keyfile", "not the key of"),
        ({"ssl_certfile": "broker.pem", "ssl_keyfile": "locked.key"}, "ssl_password", "is missing"),
        ({"ssl_certfile": "locked.pem", "ssl_password": "wr0ng"}, "ssl_password", "does not open"),
        (
            {"ssl_certfile": "broker.pem", "ssl_keyfile": "locked.key", "ssl_password": "wr0ng"},
            "ssl_password",
            "does not open",
        ),
    ],
)
def test_a_bad_file_or_password_is_blamed_on_its_own_key(
    folder: Path, files: dict[str, str], key: str, words: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)) as raised:
        connect(folder, **files)
    assert raised.value.key == f"kafka.{key}"
    assert "wr0ng" not in str(raised.value)
