"""Kafka's addresses, passwords and certificates change while the bridge runs: it needs no restart."""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvloop
from aiokafka.errors import KafkaError
from confluent_kafka.admin import (  # type: ignore[attr-defined] # it has no __all__
    AdminClient,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from bridge.config import KafkaConfig
from bridge.kafka.client import admin, in_words
from bridge.network import Loop
from tests.support.certificates import make_certificates
from tests.support.checks import assert_trades_are, records_of
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker, free_ports
from tests.support.process import SYMBOLS, Command, RunningBridge, config
from tests.support.relays import Forwarder
from tests.support.waiting import eventually

PASSWORD, NEW_PASSWORD = "first-p4ssw0rd", "second-p4ssw0rd"

_MOST_ATTEMPTS = 6  # a second, by all clients of a bridge with one shard together


class Movable(NamedTuple):
    """A broker that is known by several addresses.

    `first` and `second` are its ports, at which it says to be at `advertised` and at `second`; `secure`, with
    TLS, is reached through `forwarder`, which is what the broker says there.
    """

    broker: Broker
    first: int
    second: int
    advertised: int
    forwarder: Forwarder
    authority: Path  # that has signed the broker's certificate, and that the broker trusts
    certificate: Path  # with its key, accepted by the broker


@pytest.fixture(scope="module")
def movable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Movable]:
    """A broker with two listeners without TLS, and one with TLS, SCRAM and client certificates."""
    authority, keystore = make_certificates(tmp_path_factory.mktemp("certificates"))
    second, secure, advertised, front = free_ports(4)
    properties = {
        "listeners": f"PLAINTEXT://127.0.0.1:{{port}},SECOND://127.0.0.1:{second},"
        f"SECURE://127.0.0.1:{secure},CONTROLLER://127.0.0.1:{{controller}}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{advertised},SECOND://127.0.0.1:{second},"
        f"SECURE://localhost:{front}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SECOND:PLAINTEXT,"
        "SECURE:SASL_SSL",
        "inter.broker.listener.name": "SECOND",
        "listener.name.secure.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.secure.scram-sha-512.sasl.jaas.config": "org.apache.kafka.common.security.scram."
        "ScramLoginModule required;",
        "listener.name.secure.ssl.client.auth": "required",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority),
    }
    with (
        Broker(properties, users={"bridge": PASSWORD}) as broker,
        Forwarder(port=front, target=secure) as forwarder,
    ):
        first = int(broker.bootstrap.rpartition(":")[2])
        broker.bootstrap = f"127.0.0.1:{second}"  # for the tests themselves
        yield Movable(broker, first, second, advertised, forwarder, authority, keystore)


@contextmanager
def running(movable: Movable, prefix: str, folder: Path, **kafka: Any) -> Iterator[RunningBridge]:
    """Run a bridge that has trades to deliver; at the end all of them have to be on Kafka, each once."""
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        settings = config(exchange.url, movable.broker, prefix, {"kafka": kafka})
        with RunningBridge(folder, settings) as bridge:
            bridge.wait_ready()
            yield bridge
            exchange.quiesce()
            assert bridge.stop() == 0
        assert_trades_are(records_of(movable.broker, prefix, "trades"), exchange.truth.made)


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_a_cluster_whose_addresses_have_all_changed_is_found_again(
    movable: Movable, prefix: str, tmp_path: Path, delivery: str
) -> None:
    """As behind a load balancer: its address stays, those that brokers advertise do not."""
    with ExitStack() as stack:
        before = stack.enter_context(Forwarder(port=movable.advertised, target=movable.first))
        balancer = stack.enter_context(Forwarder(target=movable.first))
        address = f"127.0.0.1:{balancer.port}"
        keys = {"bootstrap_servers": address, "delivery": delivery}
        # So long that a busy machine is not taken for a replica that has left the group.
        with running(movable, prefix, tmp_path, **keys, session_timeout=60.0) as bridge:
            assert before.accepted
            balancer.target = movable.second
            before.target = 1
            before.cut()
            accepted = before.accepted
            eventually(lambda: before.accepted > accepted, 20, "it tries the address that it knows")
            delivered = bridge.metric("records_total", channel="trades")
            eventually(lambda: bridge.metric("records_total", channel="trades") > delivered, 30, "trades")
            bridge.wait_ready()
            assert "shard lost" not in bridge.stderr
            assert bridge.stderr.count('"shards assigned"') == 1


def test_an_advertised_address_that_cannot_be_reached_is_named_by_check_and_at_readyz(
    movable: Movable, prefix: str, tmp_path: Path
) -> None:
    """From the start: the address of the configuration is right, the one that the broker says is not."""
    settings = config("ws://127.0.0.1:1", movable.broker, prefix)
    settings["kafka"]["bootstrap_servers"] = f"127.0.0.1:{movable.first}"
    words = f"127.0.0.1:{movable.advertised}: connection refused"
    with RunningBridge(tmp_path, settings) as bridge:
        eventually(lambda: words in bridge.ready()[1]["missing"].get("kafka", ""), 20, "the cause")
        (tmp_path / "check").mkdir()
        with Command(tmp_path / "check", ["check", "--config", "../bridge.toml"]) as checked:
            assert checked.process.wait(90) == 1
        assert words in checked.stdout
        assert bridge.stop() == 0


@pytest.mark.parametrize(
    ("port", "keys", "words"),
    [
        ("secure", {"security_protocol": "PLAINTEXT"}, "(change kafka.security_protocol)"),
        ("plain", {"security_protocol": "SSL"}, "(change kafka.security_protocol)"),
        ("plain", {"security_protocol": "SASL_PLAINTEXT"}, "the broker wants no SASL at this port (change"),
        ("secure", {"sasl_mechanism": "PLAIN"}, "the broker accepts SCRAM-SHA-512, not PLAIN (change kafka."),
        ("secure", {"ssl_certfile": None}, "client certificate"),
    ],
)
def test_a_port_that_wants_another_protocol_is_named(
    movable: Movable, tmp_path: Path, port: str, keys: dict[str, Any], words: str
) -> None:
    settings = secure(movable, tmp_path) | keys
    if port == "plain":
        settings["bootstrap_servers"] = movable.broker.bootstrap
    for family in ("sasl_", "ssl_"):
        if family.strip("_").upper() not in settings["security_protocol"]:
            settings = {key: value for key, value in settings.items() if not key.startswith(family)}

    async def refusal() -> str:
        with pytest.raises(KafkaError) as caught:
            async with admin(KafkaConfig.model_validate(settings, context={"folder": tmp_path})):
                pass
        return in_words(caught.value)

    assert words in uvloop.run(refusal(), loop_factory=Loop)


def test_a_broker_that_closes_every_connection_is_asked_a_few_times_a_second(
    movable: Movable, prefix: str, tmp_path: Path
) -> None:
    forwarder = movable.forwarder
    keys = secure(movable, tmp_path)
    with running(movable, prefix, tmp_path, **keys) as bridge:
        forwarder.is_closed = True
        forwarder.cut()
        try:
            eventually(lambda: bridge.ready()[0] == 503, 30, "not ready")
            accepted, since = forwarder.accepted, time.monotonic()
            eventually(lambda: forwarder.accepted > accepted + 15, 60, "more attempts")
            assert forwarder.accepted - accepted < _MOST_ATTEMPTS * (time.monotonic() - since)
        finally:
            forwarder.is_closed = False
        bridge.wait_ready()


def secure(movable: Movable, folder: Path) -> dict[str, Any]:
    """Return how a bridge connects with a password and certificates in files of a folder."""
    (folder / "password").write_text(PASSWORD + "\n")
    shutil.copy(movable.authority, folder / "ca.pem")
    shutil.copy(movable.certificate, folder / "client.pem")
    return {
        "bootstrap_servers": f"localhost:{movable.forwarder.port}",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "bridge",
        "sasl_plain_password_file": "password",
        "ssl_cafile": "ca.pem",
        "ssl_certfile": "client.pem",
    }


def set_password(movable: Movable, password: str) -> None:
    """Have the broker accept this password only."""
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, 4096)
    change = UserScramCredentialUpsertion("bridge", info, password.encode())
    admin = AdminClient({"bootstrap.servers": movable.broker.bootstrap})
    for done in admin.alter_user_scram_credentials([change]).values():
        done.result()


def wait_named(bridge: RunningBridge, words: str) -> None:
    """Return when `/readyz` names the cause."""
    eventually(lambda: words in str(bridge.ready()[1].get("missing")), 30, words)


def other_certificates(folder: Path) -> tuple[Path, Path]:
    """Return the certificate of another authority, and a certificate and key that it has signed."""
    (folder / "other").mkdir()
    return make_certificates(folder / "other")


def test_a_password_that_is_renewed_on_disk_is_used_by_the_next_connection(
    movable: Movable, prefix: str, tmp_path: Path
) -> None:
    """Until then `/readyz` and the log name the cause."""
    words = "user name or password refused (SCRAM-SHA-512)"
    try:
        with running(movable, prefix, tmp_path, **secure(movable, tmp_path)) as bridge:
            set_password(movable, NEW_PASSWORD)

            def is_named() -> bool:
                named = words in str(bridge.ready()[1].get("missing"))
                if not named:  # a broker takes a moment to refuse the old password on new connections
                    movable.forwarder.cut()
                return named

            eventually(is_named, 60, words, every=8.0)
            eventually(lambda: words in bridge.stderr, 30, "the log names it, too")
            (tmp_path / "password").write_text(NEW_PASSWORD)
            bridge.wait_ready()
            assert PASSWORD not in bridge.stderr
            assert NEW_PASSWORD not in bridge.stderr
    finally:
        set_password(movable, PASSWORD)


def test_certificates_that_are_renewed_on_disk_are_used_by_the_next_connection(
    movable: Movable, prefix: str, tmp_path: Path
) -> None:
    """One after the other is bad for a while, as when they are not renewed all at once."""
    authority, certificate = other_certificates(tmp_path)
    client, trusted = tmp_path / "client.pem", tmp_path / "ca.pem"
    with running(movable, prefix, tmp_path, **secure(movable, tmp_path)) as bridge:
        for spoil, words in (
            (client.unlink, "kafka.ssl_certfile: cannot be used"),
            (lambda: shutil.copy(certificate, client), "the broker does not accept the client certificate"),
            (lambda: shutil.copy(authority, trusted), "the broker's certificate is not trusted"),
        ):
            spoil()
            movable.forwarder.cut()
            wait_named(bridge, words)
            secure(movable, tmp_path)
            bridge.wait_ready()
