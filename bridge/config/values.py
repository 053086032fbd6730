"""The types of configuration values: what each accepts, and the error message when a value is not valid."""

import enum
import ipaddress
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Annotated
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
)

from bridge.config.encoding import text_of

EVERY_MARKET = "*"

_BROKER = r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]\s,/:@?#+=]+)(:(?P<port>[0-9]{1,5}))?"
_WEB = ("http", "https")
_ADDRESS = "must be a URL such as https://host/path"
_LONG_NAME = 16  # characters
_LONGEST_PATH = 4096  # bytes, as Linux has it
_LONGEST_PART = 16  # characters of a part of a URL's path that are shown


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
    """The SASL mechanisms: with a user name and a password, or with a token."""

    PLAIN = "PLAIN"
    SCRAM_SHA_256 = "SCRAM-SHA-256"
    SCRAM_SHA_512 = "SCRAM-SHA-512"
    OAUTHBEARER = "OAUTHBEARER"
    AWS_MSK_IAM = "AWS_MSK_IAM"


class Framing(enum.StrEnum):
    """What a record has besides its JSON, to name its schema in a registry."""

    NONE = "none"
    CONFLUENT = "confluent"
    HEADER = "header"


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
    # The value is in no message: it may be the secret, pasted in place of the name of its file.
    if _looks_like_a_secret(str(path)):
        raise ValueError("is no name of a file: if it is the secret itself, put that into a file")
    folder: Path = (info.context or {}).get("folder", Path())
    try:
        if (folder / path).is_file():
            return folder / path
    except OSError as error:
        raise ValueError(f"cannot read the file: {error.strerror}") from None
    where = "" if path.is_absolute() else f" in {folder.absolute()}"
    raise ValueError(f"no such file{where}; a secret itself does not go here, but into a file")


def _from_file(secret: SecretStr, info: ValidationInfo) -> SecretStr:
    """Return the secret itself, or the content of the file that the key `<secret>_file` names."""
    file: Path | None = info.data.get(f"{info.field_name}_file")
    if file is None:
        return secret
    if secret:
        raise ValueError(f"is set twice: remove {info.field_name} or {info.field_name}_file")
    return SecretStr(read_secret(file))


def read_secret(file: Path) -> str:
    """Return the secret in a file.

    Raises:
        ValueError: it cannot be read, is empty, or is no text.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {file}: {error.strerror}") from None
    try:
        text = text_of(content).rstrip("\r\n")
    except ValueError as error:
        raise ValueError(f"{file} {error}") from None
    if not text:
        raise ValueError(f"{file} is empty")
    return text


def _given(secret: SecretStr, info: ValidationInfo) -> SecretStr:
    if not secret:
        raise ValueError(
            f"is missing: set it here or in the environment, or name a file in {info.field_name}_file"
        )
    return secret


def _websocket(url: str) -> str:
    _parts(url, ("ws", "wss"), "must be a WebSocket URL such as wss://host/path (or ws://)")
    return url


def _proxy(url: str) -> str:
    if url.lower().startswith("socks"):
        raise ValueError("must be an HTTP proxy, because SOCKS is not supported")
    if url:
        what = "must be the URL of an HTTP proxy such as http://host:port, or empty"
        _parts(url, _WEB, what, instead=": set HTTPS_PROXY in the environment instead")
    return url


def _token_endpoint(url: str) -> str:
    if not url:
        return url
    parts = _parts(url, _WEB, _ADDRESS)
    if not _is_as_sent(url):
        raise ValueError(
            "must be spelt as it is sent: blanks, control characters and what is not ASCII as %XX"
        )
    if parts.scheme == "http" and not (parts.hostname and is_loopback(parts.hostname)):
        raise ValueError("must begin with https://, because http:// sends the client secret unencrypted")
    return url


def _registry(url: str) -> str:
    if not url:
        return url
    parts = _parts(url, _WEB, _ADDRESS, instead=": set username and password_file")
    if not _is_as_sent(url) or "," in url:
        raise ValueError("must be one address: blanks, commas and what is not ASCII as %XX")
    if parts.query or parts.fragment:
        raise ValueError("must end with its path, without a query")
    return url


def is_loopback(host: str) -> bool:
    """Return whether a host is this one, by its name or address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _parts(url: str, schemes: Collection[str], what: str, *, instead: str = "") -> SplitResult:
    """Return the parts of a URL with one of these schemes, a host and a valid port, if any, and no login.

    `what` is the message for one that is something else; `instead` says where a login belongs. No message has
    the URL or an error of the library, which may be a password.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(what) from None
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise ValueError("must have a port from 1 to 65535: Port out of range, or no number")
    if parts.scheme not in schemes or not parts.hostname:
        raise ValueError(what)
    if "@" in parts.netloc:
        raise ValueError(f"must not contain a user name or password{instead}")
    return parts


def _is_as_sent(url: str) -> bool:
    """Return whether a URL can be sent as it is spelt: without blanks and what is not printable ASCII."""
    return all("!" <= one <= "~" for one in url)


def shown_url(url: str) -> str:
    """Return a URL as it may be shown: a query, and what is long in the path, may be a secret."""
    parts = urlsplit(url)
    path = "/".join(part if len(part) <= _LONGEST_PART else "…" for part in parts.path.split("/"))
    return f"{parts.scheme}://{parts.netloc}{path}" + ("?…" if parts.query or parts.fragment else "")


def _brokers(servers: str) -> str:
    # The value is in no message: it may be a password in the wrong place.
    for server in servers.split(","):
        address = re.fullmatch(_BROKER, server.strip())
        if address is None or int(address["port"] or 0) >= 1 << 16:
            raise ValueError(
                "must be host:port, or several of them separated by commas, without user name and password"
            )
        if address["port"] is None and _looks_like_a_password(address["host"]):
            raise ValueError("looks like a password: if it is the name of a host, add the port")
    return servers


def _looks_like_a_password(host: str) -> bool:
    """Return whether a name is unlikely to be a host's: a long one with digits, or upper and lower case."""
    if "." in host or host.startswith("["):
        return False
    is_mixed = host not in (host.lower(), host.upper())
    return is_mixed or (len(host) >= _LONG_NAME and any(one.isdigit() for one in host))


def _looks_like_a_secret(text: str) -> bool:
    """Return whether a text is rather a key or a password than the name of a file."""
    return "\n" in text or "-----BEGIN" in text or len(text) > _LONGEST_PATH


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
TokenEndpoint = Annotated[str, AfterValidator(_token_endpoint)]
RegistryUrl = Annotated[str, AfterValidator(_registry)]
ProxyUrl = Annotated[str, AfterValidator(_proxy)]
Brokers = Annotated[str, AfterValidator(_brokers)]
Replicas = Annotated[int, Field(ge=-1), AfterValidator(_replicas)]
