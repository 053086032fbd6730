"""One connection of aiokafka to a broker: opened in time and at a pace, bounded, and explained if it fails.

`CORRECTIONS` lists what is replaced; the rest is for `connecting`, which opens connections for a client.
"""

import asyncio
import struct
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason, ScramAuthenticator
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
    for_code,
)
from aiokafka.protocol.admin import SaslAuthenticateRequest, SaslHandShakeRequest

from bridge.backoff import Backoff
from bridge.exchange.requests import Credentials
from bridge.exchange.words import Confidential
from bridge.kafka.causes import alien, cause

_CONNECT_TIMEOUT = 10.0  # seconds for a connection with TLS, versions and SASL, and a token if it needs one
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 3.0  # seconds between two attempts to open the same connection
_CALM = 10.0  # seconds without an attempt, after which the next pause is the first one again
_CLOSE_TIMEOUT = 1.0  # seconds that a connection gets to close when it could not be used
_SHARE_OF_LIFETIME = 0.8  # of what an authentication is valid for, after which there is a new one
_FRESH = 30.0  # seconds for which a cause is of interest
_MOST_CAUSES = 3  # that are shown of one client

# Bytes of a response: as many as a broker takes of a request, `socket.request.max.bytes`.
_MOST_RESPONSE = 100 * 1024 * 1024

# Iterations that SCRAM may ask for. Kafka sets 4096 to 16384 when it stores a password, and its own clients
# refuse fewer, with which the password could be guessed from what is sent; more only keep a core busy.
_LEAST_ITERATIONS, _MOST_ITERATIONS = 4096, 1_000_000


class Pace:
    """When one of a client's connections may be tried again."""

    def __init__(self) -> None:
        self._backoff = Backoff(_FIRST_PAUSE, _LONGEST_PAUSE)
        self._tried_at = self._next_at = -float("inf")  # monotonic seconds

    def allows(self) -> bool:
        """Return whether it may be tried now."""
        return time.monotonic() >= self._next_at

    def note(self) -> None:
        """Note that it is tried now. Whether it succeeds does not matter: it may not last."""
        now = time.monotonic()
        if now - self._tried_at > _CALM:
            self._backoff.reset()
        self._tried_at, self._next_at = now, now + self._backoff.next(share=(0.5, 1.0))

    def note_failure(self) -> None:
        """Note that the attempt has failed: the pause begins now, so that others have their turn."""
        self._next_at += time.monotonic() - self._tried_at


@dataclass(slots=True)
class Reach:
    """How one client reaches the brokers."""

    # Returns the arguments with which aiokafka authenticates, read again from their files; None: as built.
    renew: Callable[[], Mapping[str, Any]] | None = None
    # By connection: the node and the group of connections, or "bootstrap" for all bootstrap servers.
    paces: defaultdict[object, Pace] = field(default_factory=lambda: defaultdict(Pace))
    # When and why the last attempt failed, by address; forgotten when one succeeds.
    causes: dict[str, tuple[float, str]] = field(default_factory=dict)

    def failed(self, address: str, words: str) -> None:
        """Note why an attempt has failed."""
        self.causes.pop(address, None)
        self.causes[address] = (time.monotonic(), words)

    def trouble(self) -> str | None:
        """Return why brokers cannot be reached, by address, the newest causes; None: they can.

        Whoever cannot do without a broker tries again within seconds. So an older cause is of a broker that
        is not needed, or not there any more.
        """
        since = time.monotonic() - _FRESH
        fresh = [f"{address}: {words}" for address, (at, words) in self.causes.items() if at >= since]
        return "; ".join(fresh[-_MOST_CAUSES:]) or None


@dataclass(slots=True)
class Attempt:
    """A connection that is being opened by a client: what it knows, and the pace of the connection."""

    reach: Reach
    pace: Pace | None  # None: whoever starts it keeps the pace


# The attempt under way; a connection that no client opens has none.
current_attempt: ContextVar[Attempt] = ContextVar("current_attempt")

_original_send = AIOKafkaConnection.send
_original_connect = AIOKafkaConnection.connect
_original_authenticate = AIOKafkaConnection._do_sasl_handshake  # noqa: SLF001
_original_read = AIOKafkaConnection._read  # noqa: SLF001
_original_salted_password = ScramAuthenticator.create_salted_password


def _send(
    self: AIOKafkaConnection,
    request: object,
    expect_response: bool = True,
) -> Awaitable[object]:
    """Raise `KafkaConnectionError` when the connection has just been closed, on uvloop as well.

    aiokafka expects an OSError from a write to a closed connection; uvloop raises RuntimeError. Upstream
    issue 1038, open. Without this the error ends whichever background task of aiokafka comes first, so that
    a consumer no longer sends heartbeats, or a producer sends nothing, until it is replaced.
    """
    try:
        response: Awaitable[object] = _original_send(self, request, expect_response)
    except (KafkaError, NotImplementedError):  # these are RuntimeErrors, too
        raise
    except RuntimeError as error:
        self.close(reason=CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"Connection at {self.host}:{self.port} broken: {error}") from error
    if isinstance(request, SaslHandShakeRequest):
        return _offered(self, response)
    return _authenticated(self, response) if isinstance(request, SaslAuthenticateRequest) else response


async def _offered(connection: AIOKafkaConnection, response: Awaitable[Any]) -> object:
    """Return the answer to the choice of a mechanism.

    aiokafka names neither the mechanism that is refused nor those that the broker accepts. Not reported
    upstream as far as known. Without this it is not said what to change.

    Raises:
        UnsupportedSaslMechanismError: the broker does not accept it.
    """
    answer = await response
    if for_code(answer.error_code) is UnsupportedSaslMechanismError:
        connection.close(reason=CloseReason.AUTH_FAILURE)
        offered = ", ".join(answer.enabled_mechanisms or ["none"])
        raise UnsupportedSaslMechanismError(
            f"the broker accepts {offered}, not {connection._sasl_mechanism} (change kafka.sasl_mechanism)"  # noqa: SLF001
        )
    return answer


async def _authenticated(connection: AIOKafkaConnection, response: Awaitable[Any]) -> object:
    """Return the answer to an authentication; note how long the broker lets the connection live.

    A broker refuses a token with a challenge that looks like success otherwise (RFC 7628, section 3.2.3).
    aiokafka takes it for that, and the next request for one that the broker knows nothing about. Not reported
    upstream as far as known. Without this it is not said that the token was refused.

    Raises:
        SaslAuthenticationFailed: the token was refused.
    """
    answer = await response
    is_token = connection._sasl_oauth_token_provider is not None  # noqa: SLF001
    if is_token and not answer.error_code and answer.sasl_auth_bytes:
        connection.close(reason=CloseReason.AUTH_FAILURE)
        raise SaslAuthenticationFailed(answer.sasl_auth_bytes.decode(errors="replace"))
    if (lifetime_ms := getattr(answer, "session_lifetime_ms", 0)) > 0:
        _renew_by(connection, time.monotonic() + lifetime_ms / 1000)
    return answer


def _renew_by(connection: AIOKafkaConnection, end: float) -> None:
    """Have a connection replaced before a monotonic time, the earliest of all that are given."""
    now = time.monotonic()
    at = now + _SHARE_OF_LIFETIME * (end - now)
    vars(connection)["_renew_at"] = min(at, vars(connection).get("_renew_at", at))


def is_due(connection: AIOKafkaConnection) -> bool:
    """Return whether a connection is to be replaced: nothing is under way on it, and its end is near."""
    at: float = vars(connection).get("_renew_at", float("inf"))
    return time.monotonic() >= at and not connection._requests  # noqa: SLF001


async def _connect(self: AIOKafkaConnection) -> object:
    """Raise nothing but KafkaError and OSError, in few words, which are not the password's; and in time.

    aiokafka's clients expect these two. An address that is none, or a response that makes no sense, comes out
    as whatever Python raises (ValueError, OverflowError, AssertionError). Not reported upstream as far as
    known. Without this such a broker ends a background task of aiokafka, or the bridge, with a traceback.
    """
    attempt = current_attempt.get(None)
    if attempt is not None and attempt.pace is not None:
        if not attempt.pace.allows():  # another task has tried while this one waited for its turn
            raise KafkaConnectionError("tried a moment ago")
        attempt.pace.note()
    address = f"{self.host}:{self.port}"
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT):
            streams: object = await _original_connect(self)
    except Exception as error:  # a response can be wrong in any way
        words = words_of(self, error)
        if attempt is not None:
            attempt.reach.failed(address, words)
            if attempt.pace is not None:
                attempt.pace.note_failure()
        if self._protocol is not None:  # with TLS it takes some turns of the loop, which may be the last ones
            await asyncio.wait({self._closed_fut}, timeout=_CLOSE_TIMEOUT)
        if isinstance(error, OSError):
            raise
        raise (type(error) if isinstance(error, KafkaError) else KafkaConnectionError)(words) from None
    if attempt is not None:
        attempt.reach.causes.pop(address, None)
    return streams


def words_of(connection: AIOKafkaConnection, error: BaseException) -> str:
    """Return why a connection could not be opened or used, without the password or token."""
    words = cause(
        error,
        connection._security_protocol,  # noqa: SLF001
        connection._sasl_mechanism,  # noqa: SLF001
        reached=connection._protocol is not None,  # noqa: SLF001
    )
    token = getattr(connection._sasl_oauth_token_provider, "current", "")  # noqa: SLF001
    return Confidential([Credentials(connection._sasl_plain_password or "", token)]).words(words)  # noqa: SLF001


async def _authenticate(self: AIOKafkaConnection) -> None:
    """Raise `SaslAuthenticationFailed` for an answer that is none of the mechanism's, see `_connect`."""
    try:
        await _original_authenticate(self)
        if (end := getattr(self._sasl_oauth_token_provider, "expires_at", None)) is not None:
            _renew_by(self, end)
    except (KafkaError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - an answer can be wrong in any way
        raise SaslAuthenticationFailed(f"{self._sasl_mechanism} failed: {error!r}") from None


def _create_salted_password(self: ScramAuthenticator, salt: bytes, iterations: int) -> None:
    """Refuse numbers of iterations that no broker needs.

    aiokafka takes any number. Not reported upstream as far as known. Without this whoever answers in place of
    the broker can have the password in a form that is guessed quickly, or keep a thread busy for hours.
    """
    if not _LEAST_ITERATIONS <= iterations <= _MOST_ITERATIONS:
        raise ValueError(f"{iterations} iterations, {_LEAST_ITERATIONS} to {_MOST_ITERATIONS} are accepted")
    _original_salted_password(self, salt, iterations)


async def _read(reference: Callable[[], AIOKafkaConnection | None]) -> None:
    """Read responses as long as there is a connection, none larger than Kafka sends.

    aiokafka collects as many bytes as the first four announce, up to 2 GiB. Not reported upstream as far as
    known. Without this whoever answers in place of the broker can use up the memory.
    """
    connection = reference()
    if connection is None:
        return
    reader = connection._reader  # noqa: SLF001
    del connection  # or it would never be collected while this waits
    while True:
        start = await reader.readexactly(4)
        (size,) = struct.unpack(">i", start)
        if not 0 <= size <= _MOST_RESPONSE:
            raise ConnectionError(
                alien(start) or f"a response of {size} bytes, {_MOST_RESPONSE} are accepted"
            )
        response = await reader.readexactly(size)
        connection = reference()
        if connection is None:
            return
        connection._handle_frame(response)  # noqa: SLF001
        del connection


CORRECTIONS = (
    (AIOKafkaConnection, "send", _original_send, _send),
    (AIOKafkaConnection, "connect", _original_connect, _connect),
    (AIOKafkaConnection, "_do_sasl_handshake", _original_authenticate, _authenticate),
    (AIOKafkaConnection, "_read", _original_read, staticmethod(_read)),
    (ScramAuthenticator, "create_salted_password", _original_salted_password, _create_salted_password),
)
"""What `quirks.apply` replaces: the owner, the name, and the original and corrected member."""
