"""Receivers of what sessions read."""

from bridge.channels.channel import Source
from bridge.errors import BadFrame
from bridge.exchange.frames import Push


class Nobody:
    """Drops pushes; anything else is a failure."""

    def push(self, push: Push, source: Source, received_us: int, frame: bytes) -> None:
        """Drop it."""

    def bad(self, bad: BadFrame, source: Source, received_us: int, frame: bytes) -> None:
        """Fail."""
        raise AssertionError(bad)

    def lost(self, source: Source) -> None:
        """Fail."""
        raise AssertionError(source)
