"""The sections of the configuration: every key with its type, default, bounds and description.

`scripts/configuration_doc.py` generates `docs/configuration.md` from these declarations.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, model_validator

from bridge.config.kafka import KafkaConfig
from bridge.config.schema_registry import SchemaRegistryConfig
from bridge.config.subscriptions import AccountConfig, ChannelsConfig
from bridge.config.values import (
    EVERY_MARKET,
    File,
    LogFormat,
    LogLevel,
    ProxyUrl,
    Rate,
    Seconds,
    Section,
    WebSocketUrl,
    is_loopback,
    shown_url,
)
from bridge.errors import ConfigError

# The exchange closes a connection after this many seconds without a message from the client.
_CLIENT_SILENCE = 60.0


class ExchangeConfig(Section):
    """Connections to the exchange: address, timeouts, and rate limits."""

    url: WebSocketUrl = Field(
        default="wss://openapi.digifinex.com/ws/v1/",
        description="URL of the exchange's WebSocket API. When accounts are configured, `ws://` is "
        "accepted for this machine only, because requests would be sent unencrypted.",
    )
    proxy: ProxyUrl | None = Field(
        default=None,
        description="URL of the HTTP proxy through which connections go, for example `http://proxy:3128`. "
        "Without it, `HTTPS_PROXY` and `NO_PROXY` in the environment are followed; empty means "
        "no proxy. SOCKS is not supported. A `ws://` URL on this machine is never reached through a proxy.",
    )
    ssl_cafile: File | None = Field(
        default=None,
        description="PEM file with the CA certificates to trust instead of the system's, for example "
        "those of a proxy that inspects TLS.",
    )
    ping_interval: Seconds = Field(
        default=15.0,
        description="Seconds between two `server.ping` requests. The exchange closes a connection after "
        "60 s without a message from the client, so `ping_interval` plus `reply_timeout` "
        "must be less than 60.",
    )
    reply_timeout: Seconds = Field(
        default=10.0,
        description="Seconds to wait for the response to a ping. If none arrives, the session is replaced. "
        "Any other request is waited for up to 60 s as long as pings are answered.",
    )
    stale_after: Seconds = Field(
        default=120.0,
        description="Seconds without any data, responses to pings aside, after which a new session takes "
        "over, without a hole. The time doubles, up to an hour, while the new sessions bring nothing either.",
    )
    reconnect_min: Seconds = Field(
        default=0.5,
        description="Maximum seconds to wait before the first reconnect. The maximum doubles with each "
        "session that has not been live for a minute; the actual wait is random.",
    )
    reconnect_max: Seconds = Field(
        default=30.0,
        description="Maximum seconds to wait between two sessions of the same subscriptions. If sessions "
        "keep ending soon, the process opens one in a third of this time, for all of them together.",
    )
    refused_max: Seconds = Field(
        default=300.0,
        description="Maximum seconds between two connection attempts of the whole process while the exchange "
        "refuses them. It also bounds what a `Retry-After` header may ask for.",
    )
    handshakes_per_second: Rate = Field(
        default=5.0,
        description="Maximum number of connections that one process opens per second, over all of its "
        "sessions.",
    )
    subscribes_per_second: Rate = Field(
        default=20.0,
        description="Maximum number of subscribe requests that one process sends per second. A new "
        "connection waits until there is room for all of its subscribe requests.",
    )
    max_frame_bytes: int = Field(
        default=8_388_608,
        ge=1024,
        description="Maximum size in bytes that one frame may inflate to. A larger frame becomes a dead "
        "letter.",
    )
    max_buffered_bytes: int = Field(
        default=67_108_864,
        ge=1024,
        description="Maximum number of bytes that the process holds of the exchange before the queues to "
        "Kafka: frames of which only a part has come, and what a replacement of sessions holds back. Past "
        "it a session with a large frame is not read, and the new session of a replacement is given up. At "
        "least twice `max_frame_bytes`.",
    )
    max_session_age: Seconds = Field(
        default=6600.0,
        description="Seconds, minus up to 10 % jitter, after which a session is replaced by a new one "
        "without losing data. The exchange closes every connection after about two hours "
        "(7200 s).",
    )
    max_markets: int = Field(
        default=5000,
        ge=1,
        description='Maximum number of markets that `"*"` follows. If the exchange lists more, the rest is '
        "left out and reported (`markets_left_out`).",
    )
    max_clock_offset: Seconds = Field(
        default=30.0,
        description="Seconds that the exchange's clock (`server.time`) and the local one may be apart. "
        "Beyond it nothing is signed: accounts are reported as degraded, and tried again.",
    )
    subscriptions_per_session: int = Field(
        default=30,
        ge=1,
        description="Maximum number of subscriptions on one connection; more are spread over several "
        "connections. The exchange may close a connection that has too many.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.reconnect_min > self.reconnect_max:
            raise ConfigError(
                "exchange.reconnect_min", f"must not be greater than reconnect_max ({self.reconnect_max:g})"
            )
        if self.max_buffered_bytes < 2 * self.max_frame_bytes:
            raise ConfigError(
                "exchange.max_buffered_bytes",
                f"must be at least twice max_frame_bytes ({self.max_frame_bytes})",
            )
        if self.ping_interval + self.reply_timeout >= _CLIENT_SILENCE:
            raise ConfigError(
                "exchange.ping_interval",
                f"plus reply_timeout must be less than {_CLIENT_SILENCE:g} s, after which the exchange "
                f"closes a silent connection; the sum is {self.ping_interval + self.reply_timeout:g}",
            )
        return self

    @property
    def address(self) -> str:
        """The URL as it may be shown."""
        return shown_url(self.url)

    @property
    def travels_in_clear(self) -> bool:
        """Whether requests leave this machine without TLS."""
        parts = urlsplit(self.url)
        return parts.scheme == "ws" and not is_loopback(parts.hostname or "")


class BookConfig(Section):
    """Present order books, where `channels.book` names any."""

    levels: int = Field(
        default=0,
        ge=0,
        description="Maximum number of price levels of each side in a record; 0: all. Only a book with all "
        "its levels can be continued with the records of `depth`; one that is cut has `truncated` true.",
    )
    interval: Seconds = Field(
        default=1.0, description="Minimum seconds between two records of the same market."
    )
    patience: Seconds = Field(
        default=5.0,
        le=86_400.0,
        description="Seconds for which a book may be crossed, with a bid at or above an ask, until it is "
        "suspected to be damaged and a new snapshot is requested. Best prices may disagree with the tickers "
        "for six times as long.",
    )


class SpoolConfig(Section):
    """The spool: records are kept on disk while Kafka is unavailable or slower than the exchange."""

    dir: Path = Field(
        default=Path("spool"),
        description="Directory of the spool, relative to the working directory. It must belong to one "
        "replica alone and survive restarts of the process.",
    )
    max_bytes: int = Field(
        default=1_073_741_824,
        ge=0,
        description="Maximum spool size in bytes, split evenly across shards. When it is reached, "
        "reading from the exchange pauses. 0 disables the spool: reading pauses as soon as "
        "`kafka.max_pending_bytes` is reached.",
    )


class HttpConfig(Section):
    """The HTTP endpoints `/metrics`, `/healthz`, `/readyz` and `/status`."""

    host: str = Field(
        default="0.0.0.0",  # noqa: S104
        min_length=1,
        description='Address to listen on; "::" is every address of IPv6 and of IPv4.',
    )
    port: int = Field(default=9464, ge=0, le=65_535, description="Port to listen on. 0 picks a free port.")
    status_host: str | None = Field(
        default=None,
        min_length=1,
        description="Address to listen on for `/status` alone, which names accounts and symbols; "
        "`http.host` if not set.",
    )
    status_port: int | None = Field(
        default=None,
        ge=0,
        le=65_535,
        description="Port to listen on for `/status` alone; `http.port` if not set. If either of the two is "
        "set to something else, `/status` is not served on `http.port`.",
    )

    @property
    def status_address(self) -> tuple[str, int] | None:
        """The address and port of a listener for `/status` alone; None: it is served with the others."""
        host = self.host if self.status_host is None else self.status_host
        port = self.port if self.status_port is None else self.status_port
        return None if (host, port) == (self.host, self.port) else (host, port)


class LogConfig(Section):
    """The log, which is written to standard error."""

    level: LogLevel = Field(default=LogLevel.INFO, description="Lowest severity that is logged.")
    format: LogFormat = Field(
        default=LogFormat.CONSOLE,
        description="`console` writes lines for people, `json` writes one JSON object per line.",
    )


class Config(Section):
    """The whole configuration; a missing section has its defaults."""

    exchange: ExchangeConfig = ExchangeConfig()
    channels: ChannelsConfig = ChannelsConfig()
    book: BookConfig = BookConfig()
    accounts: tuple[AccountConfig, ...] = ()
    kafka: KafkaConfig = KafkaConfig()
    schema_registry: SchemaRegistryConfig = SchemaRegistryConfig()
    spool: SpoolConfig = SpoolConfig()
    http: HttpConfig = HttpConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [account.name for account in self.accounts]
        for number, account in enumerate(self.accounts):
            if account.name in names[:number]:
                raise ConfigError(
                    f"accounts.{number}.name", f"{account.name!r} is already the name of another account"
                )
            if account.empty():
                raise ConfigError(
                    f"accounts.{number}",
                    f"{account.name!r} has nothing to subscribe to: set {_one_of(account.channels())}",
                )
        depth = self.channels.of("depth")
        without = [name for name in self.channels.book if name not in depth and EVERY_MARKET not in depth]
        if without and not (without == [EVERY_MARKET] and depth):
            raise ConfigError(
                "channels.book", f"{without[0]!r} is not in channels.depth, of which it is made"
            )
        if self.accounts and self.exchange.travels_in_clear:
            raise ConfigError(
                "exchange.url",
                "must be wss:// when accounts are configured: requests would be sent unencrypted",
            )
        if self.accounts and self.kafka.private_topic_prefix.startswith(self.kafka.topic_prefix):
            raise ConfigError(
                "kafka.private_topic_prefix",
                f"must not begin with topic_prefix ({self.kafka.topic_prefix}) when accounts are configured: "
                "a prefixed ACL for market data would apply to their topics",
            )
        if self.channels.empty() and not self.accounts:
            raise ConfigError(
                "channels",
                f"nothing to subscribe to: set {_one_of(self.channels.channels())}, or an account",
            )
        return self


def _one_of(names: Sequence[str]) -> str:
    """Return names as a choice: `a, b or c`."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


SECTIONS: Mapping[str, type[BaseModel]] = {
    "exchange": ExchangeConfig,
    "channels": ChannelsConfig,
    "book": BookConfig,
    "accounts": AccountConfig,
    "kafka": KafkaConfig,
    "schema_registry": SchemaRegistryConfig,
    "spool": SpoolConfig,
    "http": HttpConfig,
    "log": LogConfig,
}
"""The sections by name; `accounts` is a list of sections."""
