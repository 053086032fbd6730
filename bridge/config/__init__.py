"""The configuration: read from TOML and the environment, and validated completely before anything starts.

`BRIDGE_SECTION__KEY` in the environment takes precedence over the file. `BRIDGE_ACCOUNTS__0__SECRET` sets one
value of the first account, `BRIDGE_ACCOUNTS` sets all accounts as JSON.
"""

from bridge.config.exposed import exposed
from bridge.config.kafka import KafkaConfig
from bridge.config.loading import env_name, load
from bridge.config.schema_registry import SchemaRegistryConfig
from bridge.config.sections import (
    SECTIONS,
    BookConfig,
    Config,
    ExchangeConfig,
    HttpConfig,
    LogConfig,
    SpoolConfig,
)
from bridge.config.subscriptions import AccountConfig, ChannelsConfig
from bridge.config.values import (
    EVERY_MARKET,
    Compression,
    Delivery,
    Framing,
    LogFormat,
    LogLevel,
    SaslMechanism,
    SecurityProtocol,
)
from bridge.errors import ConfigError

__all__ = [
    "EVERY_MARKET",
    "SECTIONS",
    "AccountConfig",
    "BookConfig",
    "ChannelsConfig",
    "Compression",
    "Config",
    "ConfigError",
    "Delivery",
    "ExchangeConfig",
    "Framing",
    "HttpConfig",
    "KafkaConfig",
    "LogConfig",
    "LogFormat",
    "LogLevel",
    "SaslMechanism",
    "SchemaRegistryConfig",
    "SecurityProtocol",
    "SpoolConfig",
    "env_name",
    "exposed",
    "load",
]
