"""The sections of the configuration: every key with its type, default, bounds and meaning.

`docs/configuration.md` is written from these declarations.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, model_validator

from bridge.config.kafka import KafkaConfig
from bridge.config.subscriptions import AccountConfig, ChannelsConfig
from bridge.config.values import (
    LogFormat,
    LogLevel,
    Rate,
    Seconds,
    Section,
    WebSocketUrl,
)
from bridge.errors import ConfigError

# The exchange hangs up after so many seconds without a message from the client.
_CLIENT_SILENCE = 60.0


class ExchangeConfig(Section):
    """The WebSocket side: where it is and how patient to be with it."""

    url: WebSocketUrl = Field(
        default="wss://openapi.digifinex.com/ws/v1/",
        description="Address of the API. `ws://` to another machine is refused when accounts are configured: "
        "their requests would travel in clear.",
    )
    ping_interval: Seconds = Field(
        default=15.0,
        description="Seconds between two `server.ping`. The exchange hangs up after 60 s without a "
        "message from us, so this and `reply_timeout` together must stay below 60.",
    )
    reply_timeout: Seconds = Field(
        default=10.0,
        description="Seconds to wait for the answer to a request or ping; then the session is replaced.",
    )
    stale_after: Seconds = Field(
        default=120.0,
        description="Seconds with nothing but pongs after which a session counts as dead and is replaced."
        " Too short, and quiet markets cause reconnects.",
    )
    reconnect_min: Seconds = Field(
        default=0.5,
        description="Seconds, at most, before the first reconnect; doubled by each failure, with full "
        "jitter.",
    )
    reconnect_max: Seconds = Field(
        default=30.0, description="Seconds, at most, between two attempts to connect."
    )
    handshakes_per_second: Rate = Field(
        default=5.0,
        description="Connections that one process opens a second, at most, so that many sessions never storm "
        "the exchange.",
    )
    subscribes_per_second: Rate = Field(
        default=20.0,
        description="Subscribe requests that one process sends a second: a connection is opened when those "
        "before it have used theirs up, with what they have to ask again.",
    )
    max_frame_bytes: int = Field(
        default=8_388_608,
        ge=1024,
        description="Bytes, the most that one frame may inflate to; a larger one goes to the dead letters.",
    )
    max_session_age: Seconds = Field(
        default=6600.0,
        description="Seconds, less up to 10 % jitter, after which a fresh session takes over without a "
        "hole. The exchange cuts every connection at about two hours (7200).",
    )
    subscriptions_per_session: int = Field(
        default=30,
        ge=1,
        description="The most subscriptions on one connection; more are spread over several. The exchange"
        " may hang up on a connection with many.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.reconnect_min > self.reconnect_max:
            raise ConfigError(
                "exchange.reconnect_min", f"must not be above reconnect_max ({self.reconnect_max:g})"
            )
        if self.ping_interval + self.reply_timeout >= _CLIENT_SILENCE:
            raise ConfigError(
                "exchange.ping_interval",
                f"and reply_timeout together must stay below {_CLIENT_SILENCE:g} s, when the exchange hangs "
                f"up on a silent client; they are {self.ping_interval + self.reply_timeout:g}",
            )
        return self

    @property
    def travels_in_clear(self) -> bool:
        """True when requests leave this machine without TLS."""
        parts = urlsplit(self.url)
        return parts.scheme == "ws" and not _is_loopback(parts.hostname or "")


class SpoolConfig(Section):
    """Records that wait on disk while Kafka is away or slow."""

    dir: Path = Field(
        default=Path("spool"),
        description="Folder for them, one replica's own, relative to the working directory. It has to outlive"
        " the process.",
    )
    max_bytes: int = Field(
        default=1_073_741_824,
        ge=0,
        description="Bytes on disk at most, a share of it for each shard. Past that, and with 0 at once, the"
        " bridge stops reading from the exchange until there is room.",
    )


class HttpConfig(Section):
    """Where `/metrics`, `/healthz` and `/readyz` are served."""

    host: str = Field(default="0.0.0.0", min_length=1, description="Address to listen on.")  # noqa: S104
    port: int = Field(default=9464, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")


class LogConfig(Section):
    """What is written to the standard error."""

    level: LogLevel = Field(default=LogLevel.INFO, description="The least severe lines to write.")
    format: LogFormat = Field(
        default=LogFormat.CONSOLE, description="Lines for people, or one JSON object a line."
    )


class Config(Section):
    """The whole configuration, each section with its defaults."""

    exchange: ExchangeConfig = ExchangeConfig()
    channels: ChannelsConfig = ChannelsConfig()
    accounts: tuple[AccountConfig, ...] = ()
    kafka: KafkaConfig = KafkaConfig()
    spool: SpoolConfig = SpoolConfig()
    http: HttpConfig = HttpConfig()
    log: LogConfig = LogConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [account.name for account in self.accounts]
        for number, account in enumerate(self.accounts):
            if account.name in names[:number]:
                raise ConfigError(
                    f"accounts.{number}.name", f"{account.name!r} is taken: each account has its own"
                )
            if account.empty():
                raise ConfigError(
                    f"accounts.{number}",
                    f"{account.name!r} asks for nothing: set {_one_of(account.channels())}",
                )
        if self.accounts and self.exchange.travels_in_clear:
            raise ConfigError(
                "exchange.url", "must be wss:// when accounts are configured: keys would travel in clear"
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


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


SECTIONS: Mapping[str, type[BaseModel]] = {
    "exchange": ExchangeConfig,
    "channels": ChannelsConfig,
    "accounts": AccountConfig,
    "kafka": KafkaConfig,
    "spool": SpoolConfig,
    "http": HttpConfig,
    "log": LogConfig,
}
"""The sections by name; `accounts` is a list of such."""
