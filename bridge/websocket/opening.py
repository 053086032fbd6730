"""Opens a connection to the exchange: waits until that is allowed, and notes whether it was refused."""

import time
from http import HTTPStatus
from typing import cast

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus, WebSocketException

from bridge import __version__
from bridge.config import ExchangeConfig
from bridge.websocket.courtesy import Courtesy, asked_to_wait, spread_over
from bridge.websocket.stream import Stream

_CLOSING_HANDSHAKE = 2.0  # seconds
_REDIRECTS = range(300, 400)


class _Connect(connect):
    """Follows no redirect: a login would be sent to whatever address the answer names."""

    def process_redirect(self, exc: Exception) -> Exception:
        """Return the error."""
        return exc


async def connection(config: ExchangeConfig, kind: type[ClientConnection]) -> ClientConnection:
    """Open a connection as it is configured.

    Raises:
        TimeoutError, OSError, EOFError, WebSocketException: it was not possible.
    """
    return await _Connect(
        config.url,
        create_connection=kind,
        compression=None,
        max_size=config.max_frame_bytes,
        open_timeout=config.reply_timeout,
        close_timeout=_CLOSING_HANDSHAKE,
        ping_interval=None,
        user_agent_header=f"digifinex-bridge/{__version__}",
    )


async def stream(config: ExchangeConfig, courtesy: Courtesy) -> Stream:
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
    return cast("Stream", opened)


def in_words(error: BaseException) -> str:
    """Return why a connection could not be opened."""
    if isinstance(error, InvalidStatus) and error.response.status_code in _REDIRECTS:
        return f"HTTP {error.response.status_code}: a redirect, which is not followed"
    return str(error) or type(error).__name__
