"""Every request of the API as the text to send: plain JSON with an integer `id` and a list of `params`."""

import base64
import hashlib
import hmac
from collections.abc import Sequence

import msgspec

Request = str


def ping(request_id: int) -> Request:
    """`server.ping`, answered with "pong" (API document, "Ping")."""
    return _request(request_id, "server.ping", [])


def time(request_id: int) -> Request:
    """`server.time`, answered with seconds since the epoch (API document, "Time")."""
    return _request(request_id, "server.time", [])


def auth(request_id: int, api_key: str, secret: str, timestamp_ms: int) -> Request:
    """`server.auth` (API document, "Auth"): the timestamp goes out as a string and is what is signed."""
    timestamp = str(timestamp_ms)
    digest = hmac.digest(secret.encode(), timestamp.encode(), hashlib.sha256)
    return _request(request_id, "server.auth", [api_key, timestamp, base64.b64encode(digest).decode()])


def subscribe(request_id: int, channel: str, symbols: Sequence[str]) -> Request:
    """`<channel>.subscribe`; no symbols for `all_ticker`, currencies for `balance`."""
    return _request(request_id, f"{channel}.subscribe", symbols)


def unsubscribe(request_id: int, channel: str, symbols: Sequence[str]) -> Request:
    """`<channel>.unsubscribe`; no symbols means all of them."""
    return _request(request_id, f"{channel}.unsubscribe", symbols)


def _request(request_id: int, method: str, params: Sequence[str]) -> Request:
    return msgspec.json.encode({"id": request_id, "method": method, "params": params}).decode()
