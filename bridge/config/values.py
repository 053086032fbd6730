"""The types of configuration values: what each accepts, and the error message when a value is not valid."""

import enum
import json
import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
)

EVERY_MARKET = "*"


class Section(BaseModel):
    """A section of the configuration: no unknown keys, unchangeable, and no value shown in its errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, hide_input_in_errors=True)


class Delivery(enum.StrEnum):
    """The delivery guarantee for consumers."""

    EXACTLY_ONCE = "exactly-once"
    AT_LEAST_ONCE = "at-least-once"


class Compression(enum.StrEnum):
    """The compression codecs of Kafka."""

    NONE = "none"
    GZIP = "gzip"
    SNAPPY = "snappy"
    LZ4 = "lz4"
    ZSTD = "zstd"


class SecurityProtocol(enum.StrEnum):
    """Encryption and authentication of the connections to the brokers."""

    PLAINTEXT = "PLAINTEXT"
    SSL = "SSL"
    SASL_PLAINTEXT = "SASL_PLAINTEXT"
    SASL_SSL = "SASL_SSL"


class SaslMechanism(enum.StrEnum):
    """The SASL mechanisms with a user name and a password."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"


class LogLevel(enum.StrEnum):
    """The lowest severity that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(enum.StrEnum):
    """Log lines for people or for machines."""

    CONSOLE = "console"
    JSON = "json"


def _split(value: object) -> object:
    """Accept a list as it is written in the environment, too: as JSON, or as names separated by commas."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"is not a valid JSON list: {error}") from None
    return [name for name in value.split(",") if name.strip()]


def _names(names: tuple[str, ...]) -> tuple[str, ...]:
    names = tuple(name.strip().upper() for name in names)
    if not all(re.fullmatch(r"\S+", name) for name in names):
        raise ValueError("contains a name that is empty or contains a space")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"lists {', '.join(twice)} more than once")
    return names


def _markets(names: tuple[str, ...]) -> tuple[str, ...]:
    if EVERY_MARKET in names and len(names) > 1:
        raise ValueError('combines "*" (every market) with names: use one or the other')
    return names


def _explicit(names: tuple[str, ...]) -> tuple[str, ...]:
    if EVERY_MARKET in names:
        raise ValueError('does not accept "*": list each name')
    return names


def _in_folder(path: Path, info: ValidationInfo) -> Path:
    folder: Path = (info.context or {}).get("folder", Path())
    path = folder / path
    try:
        if path.is_file():
            return path
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    raise ValueError(f"no such file: {path}")


def _from_file(secret: SecretStr, info: ValidationInfo) -> SecretStr:
    """Return the secret itself, or the content of the file that the key `<secret>_file` names."""
    file: Path | None = info.data.get(f"{info.field_name}_file")
    if file is None:
        return secret
    if secret:
        raise ValueError(f"is set twice: remove {info.field_name} or {info.field_name}_file")
    try:
        text = file.read_text().rstrip("\r\n")
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{file} is not a text file") from None
    if not text:
        raise ValueError(f"{file} is empty")
    return SecretStr(text)


def _given(secret: SecretStr, info: ValidationInfo) -> SecretStr:
    if not secret:
        raise ValueError(
            f"is missing: set it here or in the environment, or name a file in {info.field_name}_file"
        )
    return secret


def _websocket(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError("must be a WebSocket URL such as wss://host/path (or ws://)")
    if parts.username or parts.password:
        raise ValueError("must not contain a user name or password")
    if parts.port == 0:
        raise ValueError("must have a port from 1 to 65535")
    return url


def _proxy(url: str) -> str:
    if not url:
        return url
    parts = urlsplit(url)
    if parts.scheme.startswith("socks"):
        raise ValueError("must be an HTTP proxy, because SOCKS is not supported")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be the URL of an HTTP proxy such as http://host:port, or empty")
    if parts.username or parts.password:
        raise ValueError(
            "must not contain a user name or password: set HTTPS_PROXY in the environment instead"
        )
    return url


def _brokers(servers: str) -> str:
    for server in servers.split(","):
        host, colon, port = server.strip().rpartition(":")
        if not (host and port.isdecimal() and int(port) < 1 << 16 if colon else port):
            raise ValueError(f"must be host:port, or several of them separated by commas, not {servers!r}")
    return servers


def _replicas(factor: int) -> int:
    if factor == 0:
        raise ValueError("must be at least 1, or -1 for the broker's default")
    return factor


Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Names = Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_names)]
Markets = Annotated[Names, AfterValidator(_markets)]
ExplicitNames = Annotated[Names, AfterValidator(_explicit)]
File = Annotated[Path, AfterValidator(_in_folder)]
Secret = Annotated[SecretStr, AfterValidator(_from_file)]
RequiredSecret = Annotated[Secret, AfterValidator(_given)]
WebSocketUrl = Annotated[str, AfterValidator(_websocket)]
ProxyUrl = Annotated[str, AfterValidator(_proxy)]
Brokers = Annotated[str, AfterValidator(_brokers)]
Replicas = Annotated[int, Field(ge=-1), AfterValidator(_replicas)]
