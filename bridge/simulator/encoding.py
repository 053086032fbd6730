"""Encodes updates and replies as the exchange does. Pure."""

import zlib
from collections.abc import Mapping
from typing import Any

import orjson

from bridge.simulator.market import Update

_LEVEL = 9  # gives the header 78da, as was seen on the wire


def text(update: Update, *, newest_first: bool = True, nested_all_ticker: bool = False) -> bytes:
    """Return the JSON text of an update.

    `newest_first` is the order of its trades; `nested_all_ticker` puts its list into one more list.
    """
    params = update.params
    if update.channel == "trades" and not newest_first:
        clean, trades, symbol = params
        params = [clean, trades[::-1], symbol]
    if update.channel == "all_ticker" and nested_all_ticker:
        params = [params]
    return orjson.dumps({"method": f"{update.channel}.update", "params": params, "id": None})


def reply(request_id: int, result: object, error: Mapping[str, Any] | None) -> bytes:
    """Return the JSON text of the reply to a request."""
    return orjson.dumps({"error": error, "result": result, "id": request_id})


def compress(json: bytes) -> bytes:
    """Return the frame of a JSON text: one zlib stream."""
    return zlib.compress(json, _LEVEL)
