"""What `tail` was asked for on the command line: topics, keys, and where to begin. Pure."""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from bridge import plan
from bridge.channels.figures import microseconds
from bridge.config import Config
from bridge.errors import BadItem
from bridge.kafka.topics import topic_name, topic_names
from bridge.records import STATE
from bridge.schema import RECORDS, unknown

Start: TypeAlias = Literal["beginning", "end"] | int
"""Where to begin: with the first record, after the last one, or with those since a time in ms."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Which records to print.

    Topics that were `named` have to exist; of the others, those are read that do. No `keys` are all keys.
    """

    topics: tuple[str, ...]
    named: bool
    keys: frozenset[bytes]
    start: Start


def asked(config: Config, names: Sequence[str], symbol: str | None, start: str) -> Asked:
    """Return what a command line asks for; without names, all topics of records that the bridge writes to.

    Raises:
        ValueError: a name is that of no channel, the symbol is empty, or `start` is no time.
    """
    if symbol == "":
        raise ValueError("--symbol needs a symbol, such as BTC_USDT")
    return Asked(
        topics=tuple(dict.fromkeys(_topic(config, name) for name in names)) or _written(config),
        named=bool(names),
        # Symbols are in upper case; accounts and channels, the keys of events and dead letters, as they are.
        keys=frozenset(one.encode() for one in (symbol, symbol.upper())) if symbol else frozenset(),
        start=moment(start),
    )


def moment(text: str) -> Start:
    """Return where to begin. A time is in ISO 8601, in UTC if it names no zone, or as records have it.

    Raises:
        ValueError: it is none of these.
    """
    if text in ("beginning", "end"):
        return cast("Start", text)
    try:
        if text.isdecimal():
            return microseconds(int(text)) // 1000
        time = dt.datetime.fromisoformat(text)
    except (BadItem, ValueError):
        raise ValueError(
            f"{text!r} is neither beginning, end, nor a time such as 2026-11-27T22:55:43Z"
        ) from None
    return int((time if time.tzinfo else time.replace(tzinfo=dt.UTC)).timestamp() * 1000)


def _topic(config: Config, name: str) -> str:
    """Return the topic of a channel; the name of a topic, which has a dot, as it is."""
    if "." in name:
        return name
    if name not in RECORDS:
        raise ValueError(f"{unknown(name)} (the name of a topic has a dot)")
    return topic_name(config.kafka, name)


def _written(config: Config) -> tuple[str, ...]:
    names = topic_names(config.kafka, sorted(plan.channels(config)))
    return tuple(name for channel, name in names.items() if channel != STATE)
