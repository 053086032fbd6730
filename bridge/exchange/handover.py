"""Which pushes go on while a new session takes over from an old one, so that nothing is lost or repeated.

From the moment the new session subscribes, the old one's pushes go on and are remembered, the new one's
are held back. When the new session is live and the old one has answered one more ping, all that the
exchange pushed before the new session was live has come in over the old one. Then the old session is
dropped, and of what was held only the unseen goes on.
"""

from collections import Counter
from typing import Generic, TypeVar

import msgspec
from msgspec import Raw

from bridge.exchange.frames import Push

_decode_params = msgspec.json.Decoder(list[Raw]).decode
_decode_symbol = msgspec.json.Decoder(tuple[bool, Raw, str]).decode

# What comes with a snapshot on subscribing, and so needs no comparing: each trade has an id, and every
# snapshot replaces the book.
_BY_SYMBOL = ("trades", "depth")

Context = TypeVar("Context")


class Handover(Generic[Context]):
    """One handover. `Context` is whatever the caller wants back with a held push."""

    def __init__(self) -> None:
        self._seen: Counter[tuple[str, bytes]] = Counter()
        self._held: list[tuple[Push, Context]] = []

    def remember(self, push: Push) -> None:
        """Take note of a push of the old session."""
        if push.channel not in _BY_SYMBOL:
            self._seen.update((push.channel, item) for item in _items(push))

    def hold(self, push: Push, context: Context) -> None:
        """Keep a push of the new session back."""
        self._held.append((push, context))

    def release(self) -> list[tuple[Push, Context]]:
        """Return what was held and goes on, in order."""
        last_snapshot: dict[str | None, int] = {}
        for place, (push, _) in enumerate(self._held):
            if push.channel == "depth" and _is_snapshot(push):
                last_snapshot[_symbol(push)] = place
        released = []
        for place, (push, context) in enumerate(self._held):
            if push.channel == "depth":
                if place >= last_snapshot.get(_symbol(push), 0):
                    released.append((push, context))
            elif push.channel == "trades":
                released.append((push, context))
            elif (unseen := self._unseen(push)) is not None:
                released.append((unseen, context))
        self._held.clear()
        return released

    def _unseen(self, push: Push) -> Push | None:
        """Return a push with the items that the old session did not bring; None if there are none."""
        items = _items(push)
        unseen = []
        for item in items:
            if self._seen[push.channel, item] > 0:
                self._seen[push.channel, item] -= 1
            else:
                unseen.append(item)
        if len(unseen) == len(items):
            return push
        return Push(push.channel, Raw(b"[" + b",".join(unseen) + b"]")) if unseen else None


def _items(push: Push) -> list[bytes]:
    """Return the items of a push's list; a list that is none counts as one item."""
    try:
        items = _decode_params(push.params)
        if len(items) == 1 and bytes(items[0])[:1] == b"[":
            items = _decode_params(items[0])
    except msgspec.DecodeError:
        return [bytes(push.params)]
    return [bytes(item) for item in items]


def _symbol(push: Push) -> str | None:
    try:
        return _decode_symbol(push.params)[2].upper()
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _is_snapshot(push: Push) -> bool:
    try:
        return _decode_symbol(push.params)[0]
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
