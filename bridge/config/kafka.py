"""The section `kafka`: the brokers, how records are written to them, and how replicas share the work."""

from typing import Self

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
)
from bridge.errors import ConfigError

# Kafka takes its timeouts in milliseconds, as signed 32-bit integers.
_MOST_SECONDS = 2_147_483


class KafkaConfig(Section):
    """Where the records go and how. `sasl_*` and `ssl_*` are named as in aiokafka.

    Files are relative to the folder of the configuration file.
    """

    bootstrap_servers: Brokers = Field(
        default="localhost:9092",
        description="`host:port` of one or more brokers, with commas between them.",
    )
    topic_prefix: str = Field(
        default="digifinex",
        pattern=r"^[A-Za-z0-9._-]{1,200}$",
        description="Beginning of every topic's name: `<prefix>.<channel>.v1`. Letters, digits, `.`, `_`,"
        " `-`.",
    )
    delivery: Delivery = Field(
        default=Delivery.EXACTLY_ONCE,
        description="`exactly-once` writes in transactions, to be read with "
        "`isolation.level=read_committed`; `at-least-once` without, which is quicker by up to "
        "`commit_interval`.",
    )
    flush_interval: Seconds = Field(
        default=0.01,
        description="Seconds that records gather before they are sent, unless a batch is full. Longer: "
        "fewer, larger batches.",
    )
    commit_interval: Seconds = Field(
        default=0.1,
        description="The most seconds of records in one transaction, with exactly-once; adds to their "
        "delay. Not below `flush_interval`, and below `transaction_timeout`.",
    )
    transaction_timeout: Seconds = Field(
        default=10.0,
        le=_MOST_SECONDS,
        description="Seconds after which the broker gives up the transaction of a bridge that died; until "
        "then its unfinished records hold up consumers. Too short, and a slow commit looks like a lost "
        "shard.",
    )
    compression: Compression = Field(default=Compression.ZSTD, description="How batches are compressed.")
    create_topics: bool = Field(
        default=True,
        description="Create missing topics. If false, a missing topic is an error when the bridge starts.",
    )
    partitions: int = Field(
        default=12,
        ge=1,
        description="Partitions of a data topic that is created; one that exists must have as many.",
    )
    replication_factor: Replicas = Field(
        default=-1,
        description="Copies of each topic that is created; -1 leaves it to the broker's default.",
    )
    max_pending_bytes: int = Field(
        default=33_554_432,
        ge=65_536,
        description="Bytes of records in memory that wait for Kafka, for each shard. Past that they wait in"
        " the spool; without one the bridge stops reading from the exchange until there is room.",
    )
    group_id: str = Field(
        default="digifinex-bridge",
        min_length=1,
        description="Consumer group by which replicas share the shards out; its replicas have the same one.",
    )
    shards: int = Field(
        default=1,
        ge=1,
        description="Shares into which the subscriptions are divided, served by one replica each at a time.",
    )
    session_timeout: Seconds = Field(
        default=10.0,
        le=_MOST_SECONDS,
        description="Seconds without a sign of life after which the group gives a replica's shards to "
        "another. The broker sets bounds to it (`group.min.session.timeout.ms`, 6 s by default).",
    )
    security_protocol: SecurityProtocol = Field(
        default=SecurityProtocol.PLAINTEXT,
        description="Encryption and authentication towards the brokers.",
    )
    sasl_mechanism: SaslMechanism | None = Field(
        default=None, description="How to log in, with `SASL_*` protocols."
    )
    sasl_plain_username: str = Field(default="", description="User name, with `SASL_*` protocols.")
    sasl_plain_password_file: File | None = Field(
        default=None, description="File that holds the user's password."
    )
    sasl_plain_password: Secret = Field(
        default=SecretStr(""),
        description="The user's password, unless `sasl_plain_password_file` is given.",
    )
    ssl_cafile: File | None = Field(
        default=None,
        description="PEM file with the authorities to trust; without it, the system's.",
    )
    ssl_certfile: File | None = Field(
        default=None,
        description="PEM file with the client certificate, for mutual TLS.",
    )
    ssl_keyfile: File | None = Field(
        default=None,
        description="PEM file with the key of the client certificate, unless it is in the same file.",
    )
    ssl_password_file: File | None = Field(
        default=None, description="File that holds the password of the key."
    )
    ssl_password: Secret = Field(
        default=SecretStr(""),
        description="Password of the client certificate's key, unless `ssl_password_file` is given.",
    )
    ssl_check_hostname: bool = Field(
        default=True,
        description="Whether the broker's certificate must be for its host name. False only for tests.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.commit_interval < self.flush_interval:
            raise ConfigError(
                "kafka.commit_interval", f"must not be below flush_interval ({self.flush_interval:g})"
            )
        if self.commit_interval >= self.transaction_timeout:
            raise ConfigError(
                "kafka.commit_interval", f"must be below transaction_timeout ({self.transaction_timeout:g})"
            )
        for family in ("sasl", "ssl"):
            used = family.upper() in self.security_protocol
            given = [key for key in sorted(self.model_fields_set) if key.startswith(f"{family}_")]
            if given and not used:
                raise ConfigError(
                    f"kafka.{given[0]}", f"has no effect with security_protocol {self.security_protocol}"
                )
        if "SASL" in self.security_protocol:
            for key in ("sasl_mechanism", "sasl_plain_username", "sasl_plain_password"):
                if not getattr(self, key):
                    raise ConfigError(f"kafka.{key}", f"is missing: {self.security_protocol} needs it")
        if self.ssl_keyfile and not self.ssl_certfile:
            raise ConfigError("kafka.ssl_certfile", "is missing: ssl_keyfile is the key of a certificate")
        return self
