"""Which key of the configuration a bad file or password is blamed on, and what Kafka's errors mean."""

import re
import subprocess
from pathlib import Path

import pytest
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    InvalidSessionTimeoutError,
    KafkaError,
    NodeNotReadyError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

from bridge.config import KafkaConfig
from bridge.errors import ConfigError
from bridge.kafka.client import AclMissing, connection, in_words, reading, transactional_id
from tests.support.certificates import make_certificates

PASSWORD = "key-p4ssw0rd"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority, a certificate, its key in plain and encrypted, and a file of garbage."""
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
def test_valid_files_are_accepted(folder: Path, files: dict[str, str]) -> None:
    connect(folder, **files)


@pytest.mark.parametrize(
    ("files", "key", "words"),
    [
        ({"ssl_cafile": "garbage.pem", "ssl_certfile": "keystore.pem"}, "ssl_cafile", "cannot be used"),
        ({"ssl_certfile": "garbage.pem", "ssl_keyfile": "broker.key"}, "ssl_certfile", "cannot be used"),
        ({"ssl_certfile": "broker.pem"}, "ssl_certfile", "no readable key"),
        (
            {"ssl_certfile": "broker.pem", "ssl_keyfile": "garbage.pem"},
            "ssl_keyfile",
            "no readable key",
        ),
        ({"ssl_certfile": "broker.pem", "ssl_keyfile": "ca.key"}, "ssl_keyfile", "not the key of"),
        ({"ssl_certfile": "broker.pem", "ssl_keyfile": "locked.key"}, "ssl_password", "is missing"),
        ({"ssl_certfile": "locked.pem", "ssl_password": "wr0ng"}, "ssl_password", "does not decrypt"),
        (
            {"ssl_certfile": "broker.pem", "ssl_keyfile": "locked.key", "ssl_password": "wr0ng"},
            "ssl_password",
            "does not decrypt",
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


@pytest.mark.parametrize(
    ("error", "acl"),
    [
        (TopicAuthorizationFailedError("feed.trades.v1"), "Write on topic feed.trades.v1"),
        (TopicAuthorizationFailedError({"b", "a"}), "Write on topic a, b"),
        (TopicAuthorizationFailedError(), "Write on topic"),
        (GroupAuthorizationFailedError("feed"), "Read on group feed"),
        (TransactionalIdAuthorizationFailed("feed-0"), "Write on transactional id feed-0"),
        (ClusterAuthorizationFailedError(), "Write on any topic, or IdempotentWrite on cluster"),
        (AclMissing("Create on topic feed.trades.v1"), "Create on topic feed.trades.v1"),
    ],
)
def test_an_authorization_error_names_the_missing_acl(error: KafkaError, acl: str) -> None:
    assert in_words(error) == f"ACL missing: {acl} (run `digifinex-bridge check` for all of them)"


def test_a_topic_that_may_not_be_read_is_reported_as_a_missing_read_acl() -> None:
    with pytest.raises(AclMissing) as raised, reading():
        raise TopicAuthorizationFailedError("feed.bridge-state")
    assert in_words(raised.value).startswith("ACL missing: Read on topic feed.bridge-state (")


def test_a_value_that_the_broker_rejects_is_reported_with_its_key() -> None:
    assert in_words(InvalidSessionTimeoutError("too short")).endswith(" (change kafka.session_timeout)")


def test_any_other_error_is_reported_in_its_own_words() -> None:
    assert in_words(NodeNotReadyError("node 1")) == "NodeNotReadyError: node 1"
    assert in_words(TimeoutError()) == "no response in time"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"group_id": "blue"}, {"group_id": "green"}),
        ({"group_id": "a-b", "topic_prefix": "c"}, {"group_id": "a", "topic_prefix": "b-c"}),
        ({"topic_prefix": "feed"}, {"topic_prefix": "feed-1"}),
    ],
)
def test_who_writes_to_the_same_topics_has_the_same_transactional_ids_and_nobody_else(
    one: dict[str, str], other: dict[str, str]
) -> None:
    configs = [KafkaConfig(**one), KafkaConfig(**other)]  # type: ignore[arg-type]
    ids = [{transactional_id(config, shard) for shard in range(20)} for config in configs]
    same = configs[0].topic_prefix == configs[1].topic_prefix
    assert ids[0] == ids[1] if same else ids[0].isdisjoint(ids[1])
