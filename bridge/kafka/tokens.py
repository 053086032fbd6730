"""Tokens for SASL OAUTHBEARER, and the token endpoint that grants them to client credentials.

The request and its answers are those of RFC 6749, section 4.4.
"""

import asyncio
import base64
import math
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from http import HTTPStatus
from urllib.parse import SplitResult, quote_plus, urlencode, urlsplit

import h11
import msgspec
import structlog
from aiokafka.abc import AbstractTokenProvider
from aiokafka.errors import KafkaError

from bridge import __version__
from bridge.backoff import Backoff
from bridge.config import KafkaConfig
from bridge.errors import ConfigError
from bridge.exchange.requests import Credentials
from bridge.exchange.words import Confidential
from bridge.kafka.causes import reason

log = structlog.get_logger(__name__)

# Seconds for a token, from the lookup of the name to the end of the answer. It is part of the time that a
# connection to a broker has: were it as long, the broker would seem to be what does not answer.
_TIMEOUT = 4.0
_MOST_BYTES = 64 * 1024  # of the answer's body
_READ = 16 * 1024  # bytes
_SHARE_OF_LIFETIME = 0.8  # of a token's, after which the next one is fetched
_REDIRECTS = range(300, 400)
_LONGEST = 86_400.0  # seconds for which a token is used, whatever the endpoint says


class TokenUnavailable(KafkaError):  # type: ignore[misc]
    """There is no token to authenticate with; the message says why."""


class Granted(msgspec.Struct):
    """A token; as the answer of a token endpoint has it (RFC 6749, section 5.1)."""

    access_token: str
    expires_in: float | None = None  # seconds; only recommended, and a string with some


class _Refused(msgspec.Struct):
    """The answer of a token endpoint that issues none (RFC 6749, section 5.2)."""

    error: str = ""
    error_description: str = ""


_decode_granted = msgspec.json.Decoder(Granted, strict=False).decode
_decode_refused = msgspec.json.Decoder(_Refused).decode

_URL_SAFE = str.maketrans("+/", "-_")  # from the one alphabet of base64 to the other (RFC 4648)

# What may be sent as a bearer token (RFC 6750, section 2.1).
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")


class Tokens(AbstractTokenProvider):  # type: ignore[misc]
    """The tokens for all clients of the process; `grant` returns a new one, or raises TokenUnavailable.

    A token is used for four fifths of its life. Then the next one is fetched, while the old one is used as
    long as it lives.
    """

    def __init__(self, grant: Callable[[], Awaitable[Granted]]) -> None:
        self.expires_at: float | None = None  # of the current token, in monotonic seconds; None: unknown
        self.current = ""  # the token that was returned last; "" before the first one
        self._grant = grant
        self._renew_at = 0.0  # when the next one is due, in monotonic seconds
        self._backoff = Backoff(0.5, 30.0)  # seconds until the next attempt, after one that has failed
        self._retry_at = 0.0  # when it may be tried again, in monotonic seconds
        self._trouble = ""  # why the last attempt has failed
        # Fetches a token for all that need one, and goes on when a connection gives up. It takes as long as
        # `grant` at most. No client may cancel it, since others use it too; the end of the loop does.
        self._fetching: asyncio.Task[bool] | None = None

    async def token(self) -> str:
        """Return a token that has not expired.

        Raises:
            TokenUnavailable: there is none, and none can be fetched now.
        """
        now = time.monotonic()
        if now < self._renew_at:
            return self.current
        fetching = None if self._fetching is None or self._fetching.done() else self._fetching
        if fetching is None and now >= self._retry_at:
            fetching = self._fetching = asyncio.create_task(self._fetch())
        if self.expires_at is not None and now < self.expires_at:
            return self.current
        if fetching is not None and await asyncio.shield(fetching):
            return self.current
        raise TokenUnavailable(self._trouble)

    async def _fetch(self) -> bool:
        """Replace the token; return whether there is a new one."""
        asked_at = time.monotonic()
        try:
            granted = await self._grant()
        except Exception as error:  # noqa: BLE001 - a token that lives is used, whatever goes wrong
            # An error that nobody has foreseen may have a secret in its text.
            is_foreseen = isinstance(error, TokenUnavailable)
            self._failed(str(error.args[0]) if is_foreseen else f"no token: {type(error).__name__}")
            log.warning("no token for Kafka, retrying", error=self._trouble)
            return False
        except asyncio.CancelledError:
            self._failed("no token: the attempt was given up")
            raise
        self._backoff.reset()
        self.current = granted.access_token
        lifetime = granted.expires_in or 0.0
        is_known = math.isfinite(lifetime) and lifetime > 0
        self.expires_at = asked_at + min(lifetime, _LONGEST) if is_known else None
        self._renew_at = asked_at + _SHARE_OF_LIFETIME * min(lifetime, _LONGEST) if is_known else 0.0
        return True

    def _failed(self, words: str) -> None:
        """Note why there is no new token, and let some time pass until the next attempt."""
        self._trouble = words
        self._retry_at = time.monotonic() + self._backoff.next(share=(0.5, 1.0))


def is_tls(config: KafkaConfig) -> bool:
    """Return whether the token endpoint is asked over TLS."""
    return urlsplit(config.sasl_oauth_token_endpoint).scheme == "https"


def trusted(config: KafkaConfig) -> ssl.SSLContext:
    """Return what a token endpoint's certificate is verified with.

    Raises:
        ConfigError: the file with the authorities cannot be used.
    """
    try:
        return ssl.create_default_context(cafile=config.sasl_oauth_cafile)
    except OSError as error:  # SSLError is one
        raise ConfigError("kafka.sasl_oauth_cafile", f"cannot be used: {error}") from None


async def from_endpoint(config: KafkaConfig) -> Granted:
    """Ask the token endpoint for a token once.

    Raises:
        TokenUnavailable: it is not granted, for any reason; the message has the endpoint, and no secret.
    """
    secret = ""
    try:
        secret = config.secret("sasl_oauth_client_secret")
        async with asyncio.timeout(_TIMEOUT):
            status, body = await _post(config, secret)
        granted = _understood(status, body)
    except TimeoutError:
        words = f"no answer within {_TIMEOUT:g} s"
    except ConfigError as error:
        words = str(error)
    except ssl.SSLCertVerificationError as error:
        words = (
            f"certificate not accepted: {error.verify_message} "
            "(kafka.sasl_oauth_cafile names the authorities)"
        )
    except h11.RemoteProtocolError as error:
        words = f"no answer in HTTP: {error}"
    except (OSError, ValueError) as error:
        words = reason(error) or str(error)
    except Exception as error:  # noqa: BLE001 - nobody knows what an endpoint can answer
        words = repr(error)
    else:
        return granted
    raise TokenUnavailable(f"no token from {config.token_address}: {_hidden(config, secret).words(words)}")


def _hidden(config: KafkaConfig, secret: str) -> Confidential:
    """Return what no text may show: the secret as it is, as it is sent, and inside anything in base64.

    An endpoint may repeat the header of the request, or what it has made of it.
    """
    forms = [_basic(config, secret)]  # whole first: or its first and last characters would be left
    for one in (secret, quote_plus(secret)):
        forms += [one, *_in_base64(one)]
    return Confidential(Credentials(one, one.translate(_URL_SAFE)) for one in forms)


def _in_base64(text: str) -> Iterator[str]:
    """Yield the characters that stand for a text in base64, whatever is in front of it and behind it."""
    content = text.encode(errors="replace")
    for before in range(3):  # bytes; three are four characters
        first, end = -(-before * 8 // 6), (before + len(content)) * 8 // 6  # that have no bit of others
        yield base64.b64encode(bytes(before) + content).decode()[first:end]


def _understood(status: int, body: bytes) -> Granted:
    """Return a token endpoint's answer.

    Raises:
        ValueError: it is no token; the message says what it is.
    """
    if status in _REDIRECTS:
        raise ValueError(f"HTTP {status}: a redirect, which is not followed")
    if status != HTTPStatus.OK:
        try:
            refused = _decode_refused(body)
        except (ValueError, RecursionError):
            refused = _Refused()
        raise ValueError(
            ": ".join(filter(None, (f"HTTP {status}", refused.error, refused.error_description)))
        )
    try:
        granted = _decode_granted(body)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its answer is no token: {error}") from None
    if not _TOKEN.fullmatch(granted.access_token):
        raise ValueError("its answer has no token that can be sent")
    return granted


async def _post(config: KafkaConfig, secret: str) -> tuple[int, bytes]:
    """Return the status and the body with which a token endpoint answers a request for a token.

    Raises:
        OSError: it cannot be reached.
        h11.RemoteProtocolError: it does not answer in HTTP.
        ValueError: the answer is too large.
    """
    url = urlsplit(config.sasl_oauth_token_endpoint)
    tls = trusted(config) if is_tls(config) else None
    reader, writer = await asyncio.open_connection(url.hostname, url.port or (443 if tls else 80), ssl=tls)
    try:
        exchange = h11.Connection(h11.CLIENT)
        for event in _request(config, url, secret):
            writer.write(exchange.send(event) or b"")
        status, body = 0, bytearray()
        while True:
            match exchange.next_event():
                case h11.NEED_DATA:
                    exchange.receive_data(await reader.read(_READ))
                case h11.Response() as response:
                    status = response.status_code
                case h11.Data() as data:
                    body += data.data
                    if len(body) > _MOST_BYTES:
                        raise ValueError(f"its answer is larger than {_MOST_BYTES} bytes")
                case h11.EndOfMessage() | h11.ConnectionClosed():
                    return status, bytes(body)
    finally:
        writer.close()


def _request(config: KafkaConfig, url: SplitResult, secret: str) -> Iterator[h11.Event]:
    """Yield a request for a token, with the client's id and secret as RFC 6749 has it in section 2.3.1."""
    form = {"grant_type": "client_credentials"}
    if config.sasl_oauth_scope:
        form["scope"] = config.sasl_oauth_scope
    body = urlencode(form).encode()
    yield h11.Request(
        method="POST",
        target=f"{url.path or '/'}{'?' if url.query else ''}{url.query}",
        headers=[
            ("Host", url.netloc),
            ("Authorization", f"Basic {_basic(config, secret)}"),
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Content-Length", str(len(body))),
            ("Accept", "application/json"),
            ("User-Agent", f"digifinex-bridge/{__version__}"),
            ("Connection", "close"),
        ],
    )
    yield h11.Data(data=body)
    yield h11.EndOfMessage()


def _basic(config: KafkaConfig, secret: str) -> str:
    """Return the client's id and secret as they are sent."""
    both = f"{quote_plus(config.sasl_oauth_client_id)}:{quote_plus(secret)}"
    return base64.b64encode(both.encode()).decode()
