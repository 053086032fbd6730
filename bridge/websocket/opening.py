"""Opens a connection to the exchange: waits until that is allowed, and notes whether it was refused."""

import ssl
import time
from functools import lru_cache
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidProxy, InvalidStatus, InvalidURI, WebSocketException
from websockets.proxy import get_proxy
from websockets.uri import parse_uri

from bridge import __version__
from bridge.config import ExchangeConfig
from bridge.errors import ConfigError
from bridge.websocket.buffers import Buffers
from bridge.websocket.courtesy import Courtesy, asked_to_wait, spread_over
from bridge.websocket.stream import Stream

_CLOSING_HANDSHAKE = 2.0  # seconds
_REDIRECTS = range(300, 400)


class _Connect(connect):
    """Follows no redirect: a login would be sent to whatever address the answer names."""

    def process_redirect(self, exc: Exception) -> Exception:
        """Return the error."""
        return exc


def verify(config: ExchangeConfig) -> None:
    """Check what is needed to connect and is not part of the configuration alone.

    Raises:
        ConfigError: the environment names a SOCKS proxy, or the CA certificates cannot be used.
    """
    try:
        scheme = urlsplit(proxy_of(config) or "").scheme
    except ValueError:  # its text may contain the password
        raise ConfigError("exchange.proxy", "the environment names a proxy that is no URL") from None
    if scheme.startswith("socks"):
        raise ConfigError(
            "exchange.proxy", 'the environment names a SOCKS proxy: set an HTTP proxy, or "" for none'
        )
    if config.ssl_cafile is not None:
        try:
            _trusting(config.ssl_cafile)
        except (OSError, ValueError) as error:
            raise ConfigError("exchange.ssl_cafile", f"cannot be used: {error}") from None


def proxy_of(config: ExchangeConfig) -> str | None:
    """Return the proxy to the exchange: as configured, else as the environment says; None: none."""
    if not config.url.startswith("wss:") and not config.travels_in_clear:
        return None
    if config.proxy is None:
        return get_proxy(parse_uri(config.url))
    return config.proxy or None


@lru_cache(maxsize=1)
def _trusting(file: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=file)


async def connection(config: ExchangeConfig, kind: type[ClientConnection]) -> ClientConnection:
    """Open a connection as it is configured.

    Raises:
        TimeoutError, OSError, EOFError, WebSocketException: it was not possible.
    """
    options: dict[str, Any] = {}
    if config.ssl_cafile is not None and config.url.startswith("wss:"):
        options["ssl"] = _trusting(config.ssl_cafile)
    proxy = proxy_of(config)
    try:
        return await _Connect(
            config.url,
            proxy=proxy,
            create_connection=kind,
            compression=None,
            max_size=config.max_frame_bytes,
            open_timeout=config.reply_timeout,
            close_timeout=_CLOSING_HANDSHAKE,
            ping_interval=None,
            user_agent_header=f"digifinex-bridge/{__version__}",
            **options,
        )
    except (TimeoutError, ssl.SSLError):
        raise
    except OSError as error:
        if proxy is None:
            raise
        raise OSError(f"no connection to the proxy of exchange.proxy or the environment: {error}") from error


async def stream(config: ExchangeConfig, courtesy: Courtesy, buffers: Buffers) -> Stream:
    """Open a connection for which there was an admission, and note the result.

    Raises:
        TimeoutError, OSError, EOFError, WebSocketException: it was not possible.
    """
    begun = time.monotonic()
    try:
        opened = await connection(config, Stream)
    except (OSError, EOFError, WebSocketException) as error:
        now = time.monotonic()
        courtesy.refused(now, begun, answered=isinstance(error, EOFError | WebSocketException))
        if isinstance(error, InvalidStatus):
            asked = asked_to_wait(error.response.headers, time.time())
            if asked is not None:
                courtesy.pause(now, spread_over(asked))
            elif error.response.status_code == HTTPStatus.TOO_MANY_REQUESTS:
                courtesy.pause(now, spread_over(config.reconnect_max))
        raise
    courtesy.accepted(time.monotonic())
    accepted = cast("Stream", opened)
    accepted.buffers = buffers
    return accepted


def in_words(error: BaseException) -> str:
    """Return why a connection could not be opened."""
    if isinstance(error, InvalidStatus) and error.response.status_code in _REDIRECTS:
        return f"HTTP {error.response.status_code}: a redirect, which is not followed"
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message or str(error)
        return f"certificate not accepted: {why}; exchange.ssl_cafile names the authorities to trust"
    if isinstance(error, InvalidURI):
        return "the address is not valid"  # which may contain a token
    if isinstance(error, InvalidProxy):
        return "the address of the proxy is not valid"  # which may contain a password
    return str(error) or type(error).__name__
