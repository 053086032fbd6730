"""Pushes as a session delivers them, and the records that a channel makes of them."""

import json
from typing import Any

from bridge.channels import CHANNELS
from bridge.channels.channel import Normalise, Outcome, Source
from bridge.exchange.frames import Messages, Push
from bridge.ledger import Watermarks
from tests.support.schemas import Json, validate

RECEIVED_US = 1_600_000_000_000_000


def push(channel: str, params: Any) -> Push:
    """Return a push; `params` is JSON text, a value to encode, or bytes that need not be JSON."""
    if isinstance(params, bytes):
        return Push(channel, params)
    text = params if isinstance(params, str) else json.dumps(params)
    message = Messages().decode(f'{{"method":"{channel}.update","params":{text},"id":null}}'.encode())
    assert isinstance(message, Push)
    return message


def source(session: str = "s1") -> Source:
    """Return the source of a session that has an account."""
    return Source(session, "main")


class Feed:
    """One channel's normaliser, fed with pushes from any session; keeps its records, validated."""

    def __init__(self, channel: str, watermarks: Watermarks | None = None) -> None:
        self.channel = channel
        self.records: list[Json] = []
        self.normalise: Normalise = CHANNELS[channel].normaliser(watermarks or {}).push

    def push(self, params: Any, session: Source) -> Outcome:
        """Normalise a push and return the outcome."""
        outcome = self.normalise(push(self.channel, params).params, session, RECEIVED_US)
        self.records += map(validate, outcome.records)
        return outcome


def records(channel: str, params: Any) -> list[Json]:
    """Return the records of a single push, which must have no bad items."""
    feed = Feed(channel)
    outcome = feed.push(params, source())
    assert outcome.bad == []
    return feed.records


def bad(channel: str, params: Any) -> list[str]:
    """Return the reasons why items of a single push are bad."""
    return Feed(channel).push(params, source()).bad
