"""How the bridge reaches Kafka: every client is built here, and Kafka's errors are explained."""

import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import lru_cache, partial
from typing import Any, TypeVar

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    InvalidSessionTimeoutError,
    InvalidTransactionTimeout,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    NodeNotReadyError,
    RequestTimedOutError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnknownTopicOrPartitionError,
)
from aiokafka.helpers import create_ssl_context

from bridge.config import KafkaConfig, SaslMechanism
from bridge.errors import BridgeError, ConfigError
from bridge.exchange.words import Confidential
from bridge.kafka import quirks
from bridge.kafka.aws import signer
from bridge.kafka.quirks.connecting import AnyClient, renewing, trouble
from bridge.kafka.tokens import Tokens, from_endpoint, is_tls, trusted

Client = TypeVar("Client", AIOKafkaConsumer, AIOKafkaProducer, AIOKafkaAdminClient)

_ADMIN_TIMEOUT_MS = 10_000

# What a client raises when it gets no answer; why is known to its connections.
_NO_ANSWER = (KafkaConnectionError, NodeNotReadyError, RequestTimedOutError, KafkaTimeoutError, TimeoutError)

FAILURES = (KafkaError, OSError)
"""The errors that aiokafka raises while Kafka is unavailable; a TimeoutError is an OSError."""

_KEYS: Mapping[type, str] = {
    InvalidSessionTimeoutError: "kafka.session_timeout",
    InvalidTransactionTimeout: "kafka.transaction_timeout",
}

# Kafka's authorization errors name the resource at most, never the operation. This is the one that the bridge
# needs on each kind of resource; Read and Create on topics are raised as AclMissing where they are denied.
# A producer without transactions is denied the cluster only if it may not write to any topic.
_OPERATIONS: Mapping[type, str] = {
    TopicAuthorizationFailedError: "Write on topic",
    GroupAuthorizationFailedError: "Read on group",
    TransactionalIdAuthorizationFailed: "Write on transactional id",
    ClusterAuthorizationFailedError: "Write on any topic, or IdempotentWrite on cluster",
}


class AclMissing(KafkaError):  # type: ignore[misc]
    """Kafka denied an operation; the argument names it as an ACL does: "Read on topic T"."""


def transactional_id(config: KafkaConfig, shard: int) -> str:
    """Return the transactional id of a shard's producer: the same for all that write to its topics.

    It names what it protects, not who writes. No prefix contains a slash, so no two shards share an id.
    """
    return f"{config.topic_prefix}/{shard}"


def client(kind: type[Client], config: KafkaConfig, **options: Any) -> Client:  # noqa: ANN401
    """Return a client of aiokafka with these options besides those to connect and authenticate.

    It reads passwords and certificates again for each connection that it opens.

    Raises:
        KafkaConnectionError: a certificate, key or password cannot be used, as while it is being renewed.
    """
    quirks.apply()
    try:
        arguments = connection(config)
    except ConfigError as error:
        raise KafkaConnectionError(str(error)) from error
    built = kind(
        bootstrap_servers=config.bootstrap_servers,
        client_id="digifinex-bridge",
        security_protocol=config.security_protocol,
        **arguments,
        **options,
    )
    renewing(built, partial(connection, config))
    return built


@asynccontextmanager
async def admin(config: KafkaConfig) -> AsyncIterator[AIOKafkaAdminClient]:
    """Open an admin client, and close it at the end.

    Raises:
        KafkaError: Kafka does not answer, with the cause; or what is raised in the context.
    """
    opened = client(AIOKafkaAdminClient, config, request_timeout_ms=_ADMIN_TIMEOUT_MS)
    try:
        with explained(opened):
            await opened.start()
            yield opened
    finally:
        await quirks.wait_closed(opened.close())


def connection(config: KafkaConfig) -> dict[str, Any]:
    """Return the arguments with which aiokafka authenticates, as the files of the configuration are now.

    Raises:
        ConfigError: a certificate, key or password cannot be used.
    """
    arguments: dict[str, Any] = {}
    if config.security_protocol in ("SSL", "SASL_SSL"):
        arguments["ssl_context"] = _tls(config)
    if config.security_protocol in ("SASL_PLAINTEXT", "SASL_SSL"):
        arguments["sasl_mechanism"] = config.sasl_mechanism
    if config.sasl_mechanism in (SaslMechanism.OAUTHBEARER, SaslMechanism.AWS_MSK_IAM):
        arguments["sasl_mechanism"] = SaslMechanism.OAUTHBEARER
        arguments["sasl_oauth_token_provider"] = _tokens(config)
    elif config.sasl_mechanism is not None:
        arguments["sasl_plain_username"] = config.sasl_plain_username
        arguments["sasl_plain_password"] = config.secret("sasl_plain_password")
    return arguments


@lru_cache(maxsize=8)
def _tokens(config: KafkaConfig) -> Tokens:
    """Return the tokens of a configuration: the same ones for all clients.

    Raises:
        ConfigError: they cannot be had with it, now or ever.
    """
    if config.sasl_mechanism is SaslMechanism.AWS_MSK_IAM:
        return Tokens(signer(config))
    if is_tls(config):
        trusted(config)  # what is wrong with it later is why there is no token
    return Tokens(partial(from_endpoint, config))


def sends_password_in_clear(config: KafkaConfig) -> bool:
    """Return whether a password or token, or what it can be guessed from, is sent to Kafka without TLS."""
    return config.security_protocol == "SASL_PLAINTEXT"


def _tls(config: KafkaConfig) -> ssl.SSLContext:
    try:
        context: ssl.SSLContext = create_ssl_context(cafile=config.ssl_cafile)
    except OSError as error:  # SSLError is one
        raise ConfigError("kafka.ssl_cafile", f"cannot be used: {error}") from None
    context.check_hostname = config.ssl_check_hostname
    if config.ssl_certfile:
        _load_certificate(context, config)
    return context


def _load_certificate(context: ssl.SSLContext, config: KafkaConfig) -> None:
    """Load the client certificate and its key.

    OpenSSL's error is the same for a bad certificate, a bad key and a wrong password. Whether it asked for
    the password, and whether it can read the certificate alone, distinguishes them.

    Raises:
        ConfigError: names the configuration key at fault.
    """
    given = config.secret("ssl_password")
    asked = False  # whether OpenSSL has asked for the password, as it does for an encrypted key only

    def password() -> str:
        # Without a callback OpenSSL would ask at the terminal.
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
            wrong = "does not decrypt the key" if given else "is missing: the key is encrypted"
            raise ConfigError("kafka.ssl_password", wrong) from None
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(config.ssl_certfile)
        except OSError as bad:
            raise ConfigError("kafka.ssl_certfile", f"cannot be used: {bad}") from None
        raise ConfigError(_key_of(config), f"contains no readable key: {error}") from None


def _key_of(config: KafkaConfig) -> str:
    return "kafka.ssl_keyfile" if config.ssl_keyfile else "kafka.ssl_certfile"


@contextmanager
def reading() -> Iterator[None]:
    """Raise AclMissing for a topic that may not be read: Kafka's own error leaves the operation open."""
    try:
        yield
    except TopicAuthorizationFailedError as error:
        raise AclMissing(f"Read on topic {_names(error)}") from error


@contextmanager
def explained(client: AnyClient) -> Iterator[None]:
    """Raise KafkaConnectionError with the cause where a client gets no answer because it cannot connect."""
    try:
        yield
    except _NO_ANSWER as error:
        if (why := trouble(client)) is None or why in str(error):
            raise
        raise KafkaConnectionError(f"cannot connect to {why}") from error


def explanation(error: BaseException, client: AnyClient | None) -> str:
    """Return the text of an error as `in_words` does, or why a client gets no answer if it is that."""
    is_silence = isinstance(error, (*_NO_ANSWER, UnknownTopicOrPartitionError))  # or it has no metadata
    why = trouble(client) if client is not None and is_silence else None
    return f"cannot connect to {why}" if why else in_words(error)


@contextmanager
def understood() -> Iterator[None]:
    """Raise nothing but KafkaError and TimeoutError for what goes wrong with Kafka.

    To a response that makes no sense aiokafka raises whatever Python does about it. That becomes a
    KafkaConnectionError, so that it is tried again, as does an error of the network. A library that fails for
    another reason cannot be told from that; the words say what it was. Errors of the bridge pass.
    """
    try:
        yield
    except (KafkaError, BridgeError, TimeoutError):
        raise
    except OSError as error:
        raise KafkaConnectionError(str(error)) from error
    except Exception as error:
        raise KafkaConnectionError(f"the broker's response makes no sense: {error!r}") from error


def in_words(error: BaseException) -> str:
    """Return the text of a Kafka error, with the missing ACL or the configuration key that Kafka rejects."""
    is_in_words = isinstance(error, KafkaConnectionError | KafkaTimeoutError) and error.args
    words = Confidential().words(str(error.args[0] if is_in_words else error)) or "no response in time"
    if isinstance(error, AclMissing):
        return _acl_missing(error.args[0])
    if operation := _OPERATIONS.get(type(error)):
        return _acl_missing(f"{operation} {_names(error)}".rstrip())
    if key := _KEYS.get(type(error)):
        return f"{words} (change {key})"
    return words


def _acl_missing(acl: str) -> str:
    return f"ACL missing: {acl} (run `digifinex-bridge check` for all of them)"


def _names(error: BaseException) -> str:
    """Return the resources that an authorization error names: one, a set of them, or none."""
    (names,) = error.args or ("",)
    return names if isinstance(names, str) else ", ".join(sorted(names))
