"""How to reach Kafka, in aiokafka's words."""

import ssl
from typing import Any

from aiokafka.errors import InvalidSessionTimeoutError, InvalidTransactionTimeout, KafkaError
from aiokafka.helpers import create_ssl_context

from bridge.config import KafkaConfig
from bridge.errors import ConfigError
from bridge.kafka import quirks

FAILURES = (KafkaError, OSError)
"""What aiokafka raises while Kafka is away; a TimeoutError is an OSError."""

_KEYS = {
    InvalidSessionTimeoutError: "kafka.session_timeout",
    InvalidTransactionTimeout: "kafka.transaction_timeout",
}


def transactional_id(config: KafkaConfig, shard: int) -> str:
    """Return the id under which the producer of a shard writes transactions, whichever replica has it."""
    return f"{config.group_id}-{config.topic_prefix}-{shard}"


def connection(config: KafkaConfig) -> dict[str, Any]:
    """Return the arguments that every aiokafka client takes to connect and authenticate.

    Every client of the bridge is built with them, so this is also where aiokafka's methods are corrected.

    Raises:
        ConfigError: a certificate, key or password can't be used.
    """
    quirks.apply()
    arguments: dict[str, Any] = {
        "bootstrap_servers": config.bootstrap_servers,
        "client_id": "digifinex-bridge",
        "security_protocol": config.security_protocol,
    }
    if config.security_protocol in ("SSL", "SASL_SSL"):
        arguments["ssl_context"] = _tls(config)
    if config.security_protocol in ("SASL_PLAINTEXT", "SASL_SSL"):
        arguments["sasl_mechanism"] = config.sasl_mechanism
        arguments["sasl_plain_username"] = config.sasl_plain_username
        if config.sasl_plain_password:
            arguments["sasl_plain_password"] = config.sasl_plain_password.get_secret_value()
    return arguments


def _tls(config: KafkaConfig) -> ssl.SSLContext:
    try:
        context: ssl.SSLContext = create_ssl_context(cafile=config.ssl_cafile)
    except OSError as error:  # SSLError is one
        raise ConfigError("kafka.ssl_cafile", f"can't be used: {error}") from None
    context.check_hostname = config.ssl_check_hostname
    if config.ssl_certfile:
        _load_certificate(context, config)
    return context


def _load_certificate(context: ssl.SSLContext, config: KafkaConfig) -> None:
    """Load the client certificate and its key.

    OpenSSL's error is the same for a bad certificate, a bad key and a wrong password, so what it asked for
    and what it can read by itself tell them apart.
    """
    given = config.ssl_password.get_secret_value()
    asked = False

    def password() -> str:
        # Without this one OpenSSL would ask at the terminal.
        nonlocal asked
        asked = True
        return given

    assert config.ssl_certfile is not None  # noqa: S101
    try:
        context.load_cert_chain(config.ssl_certfile, config.ssl_keyfile, password)
    except OSError as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise ConfigError(_key_of(config), "is not the key of the certificate") from None
        if asked:
            wrong = "does not open the key" if given else "is missing: the key is encrypted"
            raise ConfigError("kafka.ssl_password", wrong) from None
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(config.ssl_certfile)
        except OSError as bad:
            raise ConfigError("kafka.ssl_certfile", f"can't be used: {bad}") from None
        raise ConfigError(_key_of(config), f"has no key that can be read: {error}") from None


def _key_of(config: KafkaConfig) -> str:
    return "kafka.ssl_keyfile" if config.ssl_keyfile else "kafka.ssl_certfile"


def in_words(error: BaseException) -> str:
    """Return what an error of Kafka's says, with the key whose value the broker does not take."""
    words = str(error) or "no answer in time"
    key = _KEYS.get(type(error))
    return f"{words} (change {key})" if key else words
