"""One line for each message: JSON, or a row of a table. Pure.

Nothing that is in a message controls the terminal: what is not printable is escaped.
"""

import base64
import datetime as dt
import enum
import json
import unicodedata
from bisect import bisect_right
from itertools import accumulate
from typing import Any, NamedTuple

import msgspec

from bridge.consumer.decoding import unframed
from bridge.exchange.words import printable
from bridge.tail.asked import Asked

_TIME = 27  # characters of a time in µs
_KEY = 12  # characters of a key, as most have them
_GAP = "  "
# They have columns of their own, are the same in all records of a topic, or say little to people.
_NOT_SHOWN = {"schema", "received_us", "session", "symbol", "currency"}


class Form(enum.Enum):
    """How records are printed."""

    JSON = "json"
    TABLE = "table"


class Message(NamedTuple):
    """A Kafka message; `time_ms` is -1 if it has no time."""

    topic: str
    key: bytes | None
    value: bytes | None
    time_ms: int


def heading(asked: Asked, width: int | None) -> str:
    """Return the heading of the table, cut as its rows are."""
    return _cut(_row("received", "topic", "key", "record", asked), width)


def line(message: Message, form: Form, asked: Asked, width: int | None) -> str:
    """Return the line of a message; a row of the table is cut to `width` characters, unless that is None."""
    if form is Form.JSON:
        return as_json(message)
    return _cut(as_row(message, asked), width)


def _cut(row: str, width: int | None) -> str:
    """Return a row that takes at most so many columns of a terminal."""
    if width is None or (len(row) <= width and row.isascii()):
        return row
    columns = list(accumulate(map(_columns, row)))
    if not columns or columns[-1] <= width:
        return row
    return f"{row[: bisect_right(columns, width - 1)]}…"


def _columns(character: str) -> int:
    """Return how many columns of a terminal a character takes: those of Chinese texts take two."""
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def as_json(message: Message) -> str:
    """Return a record as it is on its topic, without a framing.

    A message that is none is an object with its topic, its key, and either `value` null, of a tombstone, or
    its `value_base64`.
    """
    if message.value is not None and (text := _json_in(message.value)) is not None:
        return text
    value: dict[str, object] = (
        {"value": None}
        if message.value is None
        else {"value_base64": base64.b64encode(message.value).decode()}
    )
    return json.dumps({"topic": message.topic, "key": _key(message)} | value)


def as_row(message: Message, asked: Asked) -> str:
    """Return a message as a row: when it was received, of several topics which, its key, its fields."""
    fields: Any = None
    if message.value is not None and (text := _json_in(message.value)) is not None:
        fields = json.loads(text)
    received = message.time_ms * 1000
    if isinstance(fields, dict):
        shown = " ".join(
            f"{name}={_shown(value)}" for name, value in fields.items() if name not in _NOT_SHOWN
        )
        received_us = fields.get("received_us")
        received = received_us if isinstance(received_us, int) else received
    elif not message.value:
        shown = "(no value)" if message.value is None else "(empty)"
    else:
        shown = message.value.decode(errors="backslashreplace") if fields is None else _shown(fields)
    return printable(_row(_time(received), message.topic, _key(message) or "-", shown, asked))


def _row(received: str, topic: str, key: str, record: str, asked: Asked) -> str:
    widest = max(map(len, asked.topics))
    columns = [f"{received:{_TIME}}", f"{topic:{widest}}", f"{key:{_KEY}}", record]
    if len(asked.topics) == 1:
        del columns[1]
    return _GAP.join(columns)


def _json_in(value: bytes) -> str | None:
    """Return the JSON in a message on one line, its numbers and texts as they are; None if it is none."""
    try:
        text = msgspec.json.format(unframed(value), indent=-1).decode()
        json.loads(text)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    if text.isprintable():
        return text
    # Only inside of strings: elsewhere JSON has no such characters on one line.
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)


def _key(message: Message) -> str | None:
    return None if message.key is None else message.key.decode(errors="backslashreplace")


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _time(time_us: int) -> str:
    """Return a time in µs in ISO 8601; "-" if it is none."""
    try:
        time = dt.datetime.fromtimestamp(time_us // 1_000_000, dt.UTC)
    except (ValueError, OverflowError, OSError):
        return "-"
    return "-" if time_us < 0 else f"{time:%Y-%m-%dT%H:%M:%S}.{time_us % 1_000_000:06}Z"
