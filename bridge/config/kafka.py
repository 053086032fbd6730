"""The section `kafka`: the brokers, how records are written to them, and how replicas share the work."""

from typing import Any, Self

from pydantic import Field, SecretStr, model_validator

from bridge.config.values import (
    Brokers,
    Compression,
    Delivery,
    File,
    Replicas,
    SaslMechanism,
    Seconds,
    Secret,
    Section,
    SecurityProtocol,
    TokenEndpoint,
    read_secret,
    shown_url,
)
from bridge.errors import ConfigError


def _private(given: dict[str, Any]) -> str:
    """Return the default of `private_topic_prefix`; `given` are the keys in front of it."""
    return f"private.{given.get('topic_prefix', '')}"


# Kafka takes its timeouts in milliseconds, as signed 32-bit integers.
_MOST_SECONDS = 2_147_483


# By mechanism: how its keys begin, and which of them it requires.
_WITH_PASSWORD = ("sasl_plain_", ("sasl_plain_username", "sasl_plain_password"))
_MECHANISMS = {
    SaslMechanism.OAUTHBEARER: (
        "sasl_oauth_",
        ("sasl_oauth_token_endpoint", "sasl_oauth_client_id", "sasl_oauth_client_secret"),
    ),
    SaslMechanism.AWS_MSK_IAM: ("sasl_mechanism", ()),  # it has no keys of its own
}


class KafkaConfig(Section):
    """The Kafka cluster, how records are written to it, and how replicas share the shards.

    `sasl_*` and `ssl_*` have the names they have in aiokafka. File names are relative to the directory of the
    configuration file.
    """

    bootstrap_servers: Brokers = Field(
        default="localhost:9092",
        description="`host:port` of one or more brokers, separated by commas.",
    )
    topic_prefix: str = Field(
        default="digifinex",
        pattern=r"^[A-Za-z0-9._-]{1,200}$",
        description="Prefix of all topic names: `<prefix>.<channel>.v1`. Letters, digits, `.`, `_` and `-`.",
    )
    private_topic_prefix: str = Field(
        default_factory=_private,
        pattern=r"^[A-Za-z0-9._-]{1,220}$",
        description="Prefix of the topics with data of accounts: the private channels, their events and "
        "their dead letters. The default is `private.` and `topic_prefix`. With accounts it must not begin "
        "with `topic_prefix`, so that no prefixed ACL for market data applies to it.",
    )
    delivery: Delivery = Field(
        default=Delivery.EXACTLY_ONCE,
        description="`exactly-once` writes in transactions; consumers have to read with "
        "`isolation.level=read_committed`. `at-least-once` writes without transactions: "
        "records can be read up to `commit_interval` sooner, and a crash can write some of "
        "them twice.",
    )
    flush_interval: Seconds = Field(
        default=0.01,
        description="Seconds for which records are collected before they are sent, unless a batch is "
        "full. A longer interval makes fewer and larger batches.",
    )
    commit_interval: Seconds = Field(
        default=0.1,
        description="Maximum seconds of records in one transaction, with `exactly-once`; this adds to "
        "the delivery lag. Must not be less than `flush_interval`, and must be less than "
        "`transaction_timeout`.",
    )
    transaction_timeout: Seconds = Field(
        default=10.0,
        le=_MOST_SECONDS,
        description="Seconds after which the broker aborts the transaction of a bridge that has died. "
        "Until then, consumers cannot read past its unfinished records. If it is too short, "
        "a slow commit looks like the loss of the shard.",
    )
    compression: Compression = Field(
        default=Compression.ZSTD, description="Compression of the batches. Some consumers lack all but gzip."
    )
    create_topics: bool = Field(
        default=True,
        description="Whether to create missing topics, at the start and when one was deleted. If false, the "
        "bridge names the topic in `/readyz` and waits for it.",
    )
    partitions: int = Field(
        default=12,
        ge=1,
        description="Number of partitions of the data topics that the bridge creates. A topic that exists "
        "keeps its number.",
    )
    replication_factor: Replicas = Field(
        default=-1,
        description="Replication factor of the topics that the bridge creates. -1 uses the broker's default.",
    )
    max_pending_bytes: int = Field(
        default=33_554_432,
        ge=65_536,
        description="Maximum size in bytes of the records of one shard that wait in memory for Kafka. "
        "When it is reached, records go to the spool; without a spool, reading from the "
        "exchange pauses.",
    )
    state_retention: Seconds = Field(
        default=2_592_000.0,
        description="Seconds after its last trade for which the state of a market is kept in "
        "`bridge-state` if it is no longer configured, nor listed by the exchange.",
    )
    group_id: str = Field(
        default="digifinex-bridge",
        min_length=1,
        description="Consumer group that assigns shards to replicas. All replicas of one deployment must "
        "have the same.",
    )
    shards: int = Field(
        default=1,
        ge=1,
        description="Number of shards the subscriptions are split into; each is served by one replica at "
        "a time. The number can grow later, but not shrink.",
    )
    session_timeout: Seconds = Field(
        default=10.0,
        le=_MOST_SECONDS,
        description="Seconds without a heartbeat after which the group assigns the shards of a replica "
        "to another one. The broker limits the range (`group.min.session.timeout.ms`, 6 s by "
        "default).",
    )
    security_protocol: SecurityProtocol = Field(
        default=SecurityProtocol.PLAINTEXT,
        description="Encryption and authentication of the connections to the brokers.",
    )
    sasl_mechanism: SaslMechanism | None = Field(
        default=None,
        description="SASL mechanism; required with `SASL_PLAINTEXT` and `SASL_SSL`. `AWS_MSK_IAM` needs the "
        "extra `msk`.",
    )
    sasl_plain_username: str = Field(
        default="", description="User name; required with `PLAIN` and `SCRAM-*`."
    )
    sasl_plain_password_file: File | None = Field(
        default=None, description="File that contains the password."
    )
    sasl_plain_password: Secret = Field(
        default=SecretStr(""),
        description="Password, if `sasl_plain_password_file` is not set.",
    )
    sasl_oauth_token_endpoint: TokenEndpoint = Field(
        default="",
        description="Address from which tokens are fetched with client credentials; required with "
        "`OAUTHBEARER`. Must begin with `https://`, unless it is on this host.",
    )
    sasl_oauth_client_id: str = Field(default="", description="Client id; required with `OAUTHBEARER`.")
    sasl_oauth_client_secret_file: File | None = Field(
        default=None, description="File that contains the client secret."
    )
    sasl_oauth_client_secret: Secret = Field(
        default=SecretStr(""),
        description="Client secret, if `sasl_oauth_client_secret_file` is not set.",
    )
    sasl_oauth_scope: str = Field(
        default="", description="Scopes that are asked for, separated by spaces; many providers need one."
    )
    sasl_oauth_cafile: File | None = Field(
        default=None,
        description="PEM file with the certificate authorities to trust at the token endpoint, if not those "
        "of the system.",
    )
    ssl_cafile: File | None = Field(
        default=None,
        description="PEM file with the certificate authorities to trust, if not those of the system.",
    )
    ssl_certfile: File | None = Field(
        default=None,
        description="PEM file with the client certificate, for mutual TLS.",
    )
    ssl_keyfile: File | None = Field(
        default=None,
        description="PEM file with the private key of the client certificate, if it is not in "
        "`ssl_certfile`.",
    )
    ssl_password_file: File | None = Field(
        default=None, description="File that contains the password of the private key."
    )
    ssl_password: Secret = Field(
        default=SecretStr(""),
        description="Password of the private key, if `ssl_password_file` is not set.",
    )
    ssl_check_hostname: bool = Field(
        default=True,
        description="Whether the broker's certificate must match its host name. Disable this in tests only.",
    )

    @property
    def token_address(self) -> str:
        """The URL of the token endpoint as it may be shown."""
        return shown_url(self.sasl_oauth_token_endpoint)

    def secret(self, key: str) -> str:
        """Return a secret as it is now: its file is read again; "" if it is not set.

        Raises:
            ConfigError: the file cannot be read, as while it is being renewed.
        """
        file = getattr(self, f"{key}_file")
        if file is None:
            value: SecretStr = getattr(self, key)
            return value.get_secret_value()
        try:
            return read_secret(file)
        except ValueError as error:
            raise ConfigError(f"kafka.{key}_file", str(error)) from None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.commit_interval < self.flush_interval:
            raise ConfigError(
                "kafka.commit_interval", f"must not be less than flush_interval ({self.flush_interval:g})"
            )
        if self.commit_interval >= self.transaction_timeout:
            raise ConfigError(
                "kafka.commit_interval",
                f"must be less than transaction_timeout ({self.transaction_timeout:g})",
            )
        for family in ("sasl", "ssl"):
            used = family.upper() in self.security_protocol
            given = [key for key in sorted(self.model_fields_set) if key.startswith(f"{family}_")]
            if given and not used:
                raise ConfigError(
                    f"kafka.{given[0]}", f"has no effect with security_protocol {self.security_protocol}"
                )
        if "SASL" in self.security_protocol:
            if self.sasl_mechanism is None:
                raise ConfigError(
                    "kafka.sasl_mechanism",
                    f"is missing: security_protocol {self.security_protocol} requires it",
                )
            self._consistent_with(self.sasl_mechanism)
        if self.ssl_keyfile and not self.ssl_certfile:
            raise ConfigError("kafka.ssl_certfile", "is missing: ssl_keyfile requires it")
        return self

    def _consistent_with(self, mechanism: SaslMechanism) -> None:
        """Refuse keys of other mechanisms, and miss those that a mechanism requires."""
        if mechanism is SaslMechanism.AWS_MSK_IAM and self.security_protocol != SecurityProtocol.SASL_SSL:
            raise ConfigError("kafka.security_protocol", f"must be SASL_SSL with sasl_mechanism {mechanism}")
        family, required = _MECHANISMS.get(mechanism, _WITH_PASSWORD)
        for key in sorted(self.model_fields_set):
            if key.startswith("sasl_") and key != "sasl_mechanism" and not key.startswith(family):
                raise ConfigError(f"kafka.{key}", f"has no effect with sasl_mechanism {mechanism}")
        for key in required:
            if not getattr(self, key):
                raise ConfigError(f"kafka.{key}", f"is missing: sasl_mechanism {mechanism} requires it")
