"""Every request of the API as the text to send: plain JSON with an integer `id` and a list of `params`."""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

Request = str


@dataclass(frozen=True, slots=True)
class Credentials:
    """The API key and secret of an account. Neither is part of its repr."""

    api_key: str = field(repr=False)
    secret: str = field(repr=False)


def ping(request_id: int) -> Request:
    """Return `server.ping`, answered with "pong" (API document, "Ping")."""
    return _request(request_id, "server.ping", [])


def time(request_id: int) -> Request:
    """Return `server.time`, answered with seconds since the epoch (API document, "Time")."""
    return _request(request_id, "server.time", [])


def auth(request_id: int, credentials: Credentials, timestamp_ms: int) -> Request:
    """Return `server.auth` (API document, "Auth"): the timestamp is a string, and that string is signed."""
    timestamp = str(timestamp_ms)
    params = [credentials.api_key, timestamp, signature(credentials, timestamp)]
    return _request(request_id, "server.auth", params)


def signature(credentials: Credentials, timestamp: str) -> str:
    """Return the signature of a timestamp, in base64 (API document, "Auth")."""
    digest = hmac.digest(credentials.secret.encode(), timestamp.encode(), hashlib.sha256)
    return base64.b64encode(digest).decode()


def subscribe(request_id: int, channel: str, symbols: Sequence[str]) -> Request:
    """Return `<channel>.subscribe`, with symbols or currencies, or none if it is subscribed by nothing."""
    return _request(request_id, f"{channel}.subscribe", symbols)


def unsubscribe(request_id: int, channel: str, symbols: Sequence[str]) -> Request:
    """Return `<channel>.unsubscribe`: no symbols means all of them."""
    return _request(request_id, f"{channel}.unsubscribe", symbols)


def _request(request_id: int, method: str, params: Sequence[str]) -> Request:
    return msgspec.json.encode({"id": request_id, "method": method, "params": params}).decode()
