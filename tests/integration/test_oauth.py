"""A real broker that accepts tokens (OAUTHBEARER), which it verifies as Kafka does, and ends old sessions.

The tokens are signed JWTs of a token endpoint that the test starts; the broker has its public key.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.support.checks import assert_trades_are, records_of
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker, free_ports
from tests.support.process import SYMBOLS, Command, RunningBridge, config
from tests.support.token_server import AUDIENCE, CLIENT, ISSUER, SECRET, Signer, TokenServer
from tests.support.waiting import eventually

_SESSION = 5  # seconds for which the broker accepts requests after an authentication, at most
_SESSIONS = 3  # that a test takes, at least

_OAUTH = "org.apache.kafka.common.security.oauthbearer"


class Guarded(NamedTuple):
    """A broker with a listener for tokens of `signer` at `bootstrap`."""

    broker: Broker
    bootstrap: str
    signer: Signer


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """A broker that ends a session when its token expires, and after `_SESSION` seconds."""
    signer = Signer(tmp_path_factory.mktemp("keys"))
    (port,) = free_ports(1)
    listener = "listener.name.token"
    properties = {
        "listeners": f"PLAINTEXT://127.0.0.1:{{port}},TOKEN://127.0.0.1:{port},"
        "CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{{port}},TOKEN://127.0.0.1:{port}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,TOKEN:SASL_PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        f"{listener}.sasl.enabled.mechanisms": "OAUTHBEARER",
        f"{listener}.oauthbearer.sasl.jaas.config": f"{_OAUTH}.OAuthBearerLoginModule required;",
        f"{listener}.oauthbearer.sasl.server.callback.handler.class": f"{_OAUTH}."
        "OAuthBearerValidatorCallbackHandler",
        f"{listener}.oauthbearer.sasl.oauthbearer.jwks.endpoint.url": signer.jwks.as_uri(),
        f"{listener}.oauthbearer.sasl.oauthbearer.expected.audience": AUDIENCE,
        f"{listener}.oauthbearer.sasl.oauthbearer.expected.issuer": ISSUER,
        f"{listener}.oauthbearer.connections.max.reauth.ms": str(_SESSION * 1000),
    }
    allowed = f"-Dorg.apache.kafka.sasl.oauthbearer.allowed.urls={signer.jwks.as_uri()}"
    with Broker(properties, options=[allowed]) as broker:
        yield Guarded(broker, f"127.0.0.1:{port}", signer)


def settings(exchange: ExchangeThread, guarded: Guarded, prefix: str, url: str) -> dict[str, Any]:
    kafka = {
        "bootstrap_servers": guarded.bootstrap,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "OAUTHBEARER",
        "sasl_oauth_token_endpoint": url,
        "sasl_oauth_client_id": CLIENT,
        "sasl_oauth_client_secret_file": "secret",
        "sasl_oauth_scope": "kafka",
    }
    return config(exchange.url, guarded.broker, prefix, {"kafka": kafka})


def test_sessions_of_the_broker_are_renewed_before_they_end(
    guarded: Guarded, prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    with (
        ExchangeThread(symbols=SYMBOLS, rate=100) as exchange,
        TokenServer(signer=guarded.signer) as server,
    ):
        server.lifetime = 1.5 * _SESSION
        with RunningBridge(tmp_path, settings(exchange, guarded, prefix, server.url)) as bridge:
            bridge.wait_ready()
            begun = bridge.metric("records_total", channel="trades")
            enough = begun + 25 * _SESSIONS * _SESSION  # the exchange makes some more
            eventually(lambda: bridge.metric("records_total", channel="trades") > enough, 30, "trades")
            assert bridge.ready()[0] == 200
            exchange.quiesce()
            assert bridge.stop() == 0
        assert_trades_are(records_of(guarded.broker, prefix, "trades"), exchange.truth.made)
        assert len(server.granted) > 1
        # Each session that the broker ends closes the connections of the producer and of the group. A machine
        # that is busy may come too late for one of them.
        assert bridge.stderr.count("closed") < _SESSIONS
        for hidden in (SECRET, *server.granted):
            assert hidden not in bridge.stderr


def test_a_token_that_is_not_granted_or_not_accepted_is_named_until_it_is(
    guarded: Guarded, prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "secret").write_text("an older one")
    with (
        ExchangeThread(symbols=SYMBOLS, rate=100) as exchange,
        TokenServer(signer=Signer(tmp_path / "keys")) as forger,
        TokenServer(signer=guarded.signer) as server,
    ):
        with RunningBridge(tmp_path, settings(exchange, guarded, prefix, server.url)) as bridge:
            words = f"no token from {server.url}: HTTP 401: invalid_client"
            eventually(lambda: words in str(bridge.ready()[1].get("missing")), 20, words)
            with Command(tmp_path / "keys", ["check", "--config", "../bridge.toml"]) as checked:
                assert checked.process.wait(60) == 1
            assert words in checked.stdout
            (tmp_path / "secret").write_text(SECRET)
            bridge.wait_ready()
            assert bridge.stop() == 0
        with RunningBridge(tmp_path, settings(exchange, guarded, prefix, forger.url)) as bridge:
            words = "token refused (OAUTHBEARER)"
            eventually(lambda: words in str(bridge.ready()[1].get("missing")), 20, words)
            assert bridge.stop() == 0
        for hidden in (SECRET, "an older one", *server.granted, *forger.granted):
            assert hidden not in bridge.stderr + checked.stdout
