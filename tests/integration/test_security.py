"""TLS with an authority of its own and SCRAM, on a real broker that is set up so."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.certificates import make_certificates
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker
from tests.support.process import SYMBOLS, RunningBridge, config
from tests.support.waiting import eventually

PASSWORD = "bridge-p4ssw0rd"

_LOGIN = (
    "org.apache.kafka.common.security.scram.ScramLoginModule required "
    'username="admin" password="admin-secret";'
)


class Secure(NamedTuple):
    """A broker that speaks TLS only, and the authority to trust."""

    broker: Broker
    authority: Path


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    """A broker with SASL_SSL and the users admin and bridge."""
    authority, keystore = make_certificates(tmp_path_factory.mktemp("certificates"))
    properties = {
        "listeners": "SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": "SASL_SSL://localhost:{port}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
        "inter.broker.listener.name": "SASL_SSL",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": _LOGIN,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority),
    }
    with Broker(properties, users={"admin": "admin-secret", "bridge": PASSWORD}) as broker:
        yield Secure(broker, authority)


def settings(exchange: ExchangeThread, secure: Secure, prefix: str, **keys: str) -> dict[str, Any]:
    kafka = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "bridge",
        "sasl_plain_password": PASSWORD,
        "ssl_cafile": str(secure.authority),
    }
    return config(exchange.url, secure.broker, prefix, {"kafka": {**kafka, **keys}})


def test_the_bridge_logs_in_over_tls(secure: Secure, prefix: str, tmp_path: Path) -> None:
    with (
        ExchangeThread(symbols=SYMBOLS, rate=100) as exchange,
        RunningBridge(tmp_path, settings(exchange, secure, prefix)) as bridge,
    ):
        bridge.wait_ready()
        eventually(lambda: bridge.metric("records_total", channel="trades") > 20, 20, "trades")
        assert bridge.stop() == 0
    assert PASSWORD not in bridge.stderr


def test_a_wrong_password_is_told_and_never_shown(secure: Secure, prefix: str, tmp_path: Path) -> None:
    with (
        ExchangeThread(symbols=SYMBOLS, rate=100) as exchange,
        RunningBridge(tmp_path, settings(exchange, secure, prefix, sasl_plain_password="wr0ng")) as bridge,
    ):
        eventually(lambda: "kafka" in bridge.ready()[1].get("missing", {}), 20, "not ready")
        eventually(lambda: "SCRAM" in bridge.stderr or "uthentication" in bridge.stderr, 20, "the reason")
        assert bridge.stop() == 0
    assert "wr0ng" not in bridge.stderr


def test_an_unknown_authority_is_told(secure: Secure, prefix: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other, _ = make_certificates(tmp_path / "other")
    with (
        ExchangeThread(symbols=SYMBOLS, rate=100) as exchange,
        RunningBridge(tmp_path, settings(exchange, secure, prefix, ssl_cafile=str(other))) as bridge,
    ):
        eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in bridge.stderr, 20, "the reason")
        assert bridge.ready()[0] == 503
        assert bridge.stop() == 0


def test_a_file_that_is_no_certificate_is_a_bad_configuration(
    secure: Secure, prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with (
        ExchangeThread(symbols=SYMBOLS, rate=100) as exchange,
        RunningBridge(tmp_path, settings(exchange, secure, prefix, ssl_cafile="ca.pem")) as bridge,
    ):
        assert bridge.process.wait(30) == 2
    assert "kafka.ssl_cafile" in bridge.stderr
    assert "Traceback" not in bridge.stderr
