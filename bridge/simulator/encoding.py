"""From pushes and answers to what goes into a frame. Pure."""

import zlib
from collections.abc import Mapping
from typing import Any

import orjson

from bridge.simulator.market import Push

_LEVEL = 9  # gives the header 78da, as was seen on the wire


def text(push: Push, *, newest_first: bool = True, nested_all_ticker: bool = False) -> bytes:
    """Return the JSON text of a push; its trades in this order, its tickers in one more list or not."""
    params = push.params
    if push.channel == "trades" and not newest_first:
        clean, trades, symbol = params
        params = [clean, trades[::-1], symbol]
    if push.channel == "all_ticker" and nested_all_ticker:
        params = [params]
    return orjson.dumps({"method": f"{push.channel}.update", "params": params, "id": None})


def answer(request_id: int, result: object, error: Mapping[str, Any] | None) -> bytes:
    """Return the JSON text of an answer."""
    return orjson.dumps({"error": error, "result": result, "id": request_id})


def compress(json: bytes) -> bytes:
    """Return a frame around a JSON text: one zlib stream."""
    return zlib.compress(json, _LEVEL)
