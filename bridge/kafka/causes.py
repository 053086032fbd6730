"""Why a broker cannot be used, in words: what is the matter, and the configuration key that may be wrong."""

import errno
import socket
import ssl
from collections.abc import Iterator

from aiokafka.errors import IllegalSaslStateError, KafkaConnectionError, KafkaError, SaslAuthenticationFailed

from bridge.errors import ConfigError

_CHANGE = "(change kafka.security_protocol)"

# OpenSSL's codes of what it does not accept in a certificate (x509_vfy.h).
_EXPIRED, _NOT_YET_VALID, _OTHER_HOST, _OTHER_ADDRESS = 10, 9, 62, 64

# Parts of the names that OpenSSL gives to alerts: what the other side says of the client's certificate.
_ALERTS = {
    "CERTIFICATE_REQUIRED": "the broker wants a client certificate (set kafka.ssl_certfile)",
    "CERTIFICATE_EXPIRED": "the broker says that the client certificate has expired",
    "CERTIFICATE_REVOKED": "the broker says that the client certificate is revoked",
    "UNKNOWN_CA": "the broker does not trust the client certificate",
    "CERTIFICATE": "the broker does not accept the client certificate",
    "HANDSHAKE_FAILURE": "no TLS that both sides accept, or the broker wants a client certificate",
    "PROTOCOL_VERSION": "no version of TLS that both sides accept",
}
_NO_TLS = (
    "WRONG_VERSION_NUMBER",
    "RECORD_LAYER_FAILURE",
    "HTTP_REQUEST",
    "UNKNOWN_PROTOCOL",
    "UNEXPECTED_EOF",
)


def cause(error: BaseException, protocol: str, mechanism: str | None, *, reached: bool) -> str:
    """Return why a connection could not be opened or used.

    `protocol` is `kafka.security_protocol`, `mechanism` the one of SASL; `reached` says whether the
    connection itself was established, with TLS if it is configured. The words of a broker are in it as they
    came.
    """
    if isinstance(error, SaslAuthenticationFailed):
        what = "token" if mechanism == "OAUTHBEARER" else "user name or password"
        return f"{what} refused ({mechanism}): {_text(error)}"
    for one in _causes(error):
        if words := _known(one, protocol, reached=reached):
            return words
    if isinstance(error, OSError | ConfigError):
        return str(error)
    if isinstance(error, KafkaError) and error.__cause__ is None:
        return _text(error)
    return f"no answer of a Kafka broker: {error.__cause__ or error!r}"


def _known(error: BaseException, protocol: str, *, reached: bool) -> str | None:
    """Return the words for one error of a connection; None if its own say more."""
    match error:
        case ssl.SSLError():
            words: str | None = _tls(error)
        case TimeoutError():
            words = "no answer in time" if reached else "unreachable: no connection in time"
        case EOFError() | ConnectionResetError() | BrokenPipeError():
            words = _closed(protocol, reached=reached)
        case IllegalSaslStateError():
            words = f"the broker wants no SASL at this port {_CHANGE}"
        case ConnectionError(errno=None):
            words = str(error)
        case KafkaConnectionError(__cause__=None) if str(error).endswith("closed"):
            words = _closed(protocol, reached=reached)
        case _:
            words = reason(error)
    return words


def reason(error: BaseException) -> str | None:
    """Return why an address cannot be reached, whatever is expected there; None if it is another error."""
    match error:
        case ConnectionRefusedError():
            return "connection refused: nothing listens there"
        case socket.gaierror():
            return f"name not found: {error.strerror}"
        case OSError(errno=errno.EHOSTUNREACH | errno.ENETUNREACH):
            return f"unreachable: {error.strerror}"
    return None


def alien(start: bytes) -> str | None:
    """Return what the first four bytes of a response are, if they are no Kafka broker's; None otherwise."""
    if start == b"HTTP":
        return "an answer in HTTP, not of a Kafka broker"
    if start[:2] == b"\x15\x03":
        return f"an answer in TLS, which is not configured {_CHANGE}"
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it was raised from."""
    one: BaseException | None = error
    while one is not None:
        yield one
        one = one.__cause__


def _tls(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        why = (error.verify_message or str(error)).rstrip(".")
        if error.verify_code in (_EXPIRED, _NOT_YET_VALID):
            return f"the broker's certificate is not valid now: {why}"
        if error.verify_code in (_OTHER_HOST, _OTHER_ADDRESS):
            return f"the broker's certificate is for another host: {why}"
        return f"the broker's certificate is not trusted: {why} (kafka.ssl_cafile names the authorities)"
    name = error.reason or str(error)
    if "ALERT" in name:
        for part, words in _ALERTS.items():
            if part in name:
                return f"{words}: {name}"
    if any(part in name for part in _NO_TLS):
        return f"no answer in TLS {_CHANGE}: {name}"
    return f"TLS failed: {error}"


def _closed(protocol: str, *, reached: bool) -> str:
    if not reached:
        return f"closed during the TLS handshake: the broker may not use TLS {_CHANGE}"
    wanted = {
        "PLAINTEXT": "it may want TLS or SASL",
        "SSL": "it may want SASL, or another client certificate",
        "SASL_PLAINTEXT": "it may want TLS",
    }.get(protocol)
    hint = f": {wanted} {_CHANGE}, or be no Kafka broker" if wanted else ": it may be no Kafka broker"
    return f"connection closed without an answer{hint}"


def _text(error: Exception) -> str:
    """Return the text of one of Kafka's errors, or its name if it has none."""
    return ", ".join(one for one in error.args if isinstance(one, str)) or type(error).__name__
