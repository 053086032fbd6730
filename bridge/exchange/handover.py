"""What goes on while a new session takes over from an old one, so that nothing is lost or repeated.

While the new session opens and subscribes, the old one's pushes go on and are remembered, the new one's
are held back. When the new session is live and the old one has answered one more ping, all that the
exchange pushed before the new session was live has come in over the old one. Then the old session is
dropped, and of what was held only the unseen goes on.

What is unseen: trades have ids, and their channel knows them. A depth snapshot replaces the book. Of every
other series, one symbol's tickers or one currency's balances, the new session first brings what the old one
ended with: it goes on from there. Comparing items one by one would not do, since a balance that goes back
to what it was reads as it did before. A frame that is no message is a series of its own, by its bytes.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Raw

from bridge.errors import BadFrame
from bridge.exchange.frames import Push

# What comes with a snapshot on subscribing, and so needs no comparing.
_BY_SYMBOL = ("trades", "depth")

# What may come with the present state on subscribing, which the old session never brings.
_TICKERS = ("ticker", "all_ticker")

Context = TypeVar("Context")
Series = tuple[str, str]
"""A channel, and the symbol or currency."""


class Bad(NamedTuple):
    """A frame that is no message of the protocol, and why."""

    frame: bytes
    why: BadFrame


Message = Push | Bad


class _Item(msgspec.Struct, gc=False):
    symbol: str = ""
    currency: str = ""


_decode_items = msgspec.json.Decoder(list[Raw]).decode
_decode_item = msgspec.json.Decoder(_Item).decode
_decode_by_symbol = msgspec.json.Decoder(tuple[bool, Raw, str]).decode

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Handover(Generic[Context]):
    """One handover. `Context` is whatever the caller wants back with a held message."""

    def __init__(self) -> None:
        self._remembered: list[Push] = []
        self._bad: Counter[bytes] = Counter()
        self._held: list[tuple[Message, Context]] = []

    def remember(self, message: Message) -> None:
        """Take note of a message of the old session."""
        if isinstance(message, Bad):
            self._bad[message.frame] += 1
        elif message.channel not in _BY_SYMBOL:
            self._remembered.append(message)

    def hold(self, message: Message, context: Context) -> None:
        """Keep a message of the new session back."""
        self._held.append((message, context))

    def release(self) -> list[tuple[Message, Context]]:
        """Return what was held and goes on, in order.

        To be called when the new session has brought all that the old one has: of what comes later nobody
        can tell whether it was seen.
        """
        pushes = [(place, held) for place, (held, _) in enumerate(self._held) if isinstance(held, Push)]
        seen = self._seen(push for _, push in pushes)
        last_snapshot = {_symbol(push): place for place, push in pushes if _is_snapshot(push)}
        released = []
        for place, (held, context) in enumerate(self._held):
            goes_on: Message | None = held
            if isinstance(held, Bad):
                if self._bad[held.frame]:
                    self._bad[held.frame] -= 1
                    goes_on = None
            elif held.channel == "depth":
                goes_on = held if place >= last_snapshot.get(_symbol(held), 0) else None
            elif held.channel != "trades":
                goes_on = _without(seen, held)
            if goes_on is not None:
                released.append((goes_on, context))
        self._held.clear()
        return released

    def _seen(self, held: Iterable[Push]) -> dict[Series, int]:
        """Return how many of the held items of each series the old session has brought."""
        old = _by_series(self._remembered)
        new = _by_series(push for push in held if push.channel not in _BY_SYMBOL)
        return {series: _caught_up(series, old[series], items) for series, items in new.items()}


def _caught_up(series: Series, old: list[bytes], new: list[bytes]) -> int:
    """Return how many items of `new` the old session has brought: up to the place where both end alike.

    With several such places, as items repeat, the last: a rotation repeats nothing.
    """
    channel, _ = series
    for place in range(len(new), 0, -1):
        alike = 1 if channel in _TICKERS else place
        if new[place - alike : place] == old[-alike:]:
            return place
    return 0


def _by_series(pushes: Iterable[Push]) -> defaultdict[Series, list[bytes]]:
    by_series = defaultdict(list)
    for push in pushes:
        for item in _items(push):
            by_series[_series(push, item)].append(item)
    return by_series


def _without(seen: dict[Series, int], push: Push) -> Push | None:
    """Return a push without the items that are `seen`, taking these off there; None if no item is left."""
    items = _items(push)
    unseen = []
    for item in items:
        series = _series(push, item)
        if seen[series]:
            seen[series] -= 1
        else:
            unseen.append(item)
    if len(unseen) == len(items):
        return push
    return Push(push.channel, b"[" + b",".join(unseen) + b"]") if unseen else None


def _items(push: Push) -> list[bytes]:
    """Return the items of a push's list; a list that is none, or empty, counts as one item."""
    try:
        items = _decode_items(push.params)
        if len(items) == 1 and bytes(items[0])[:1] == b"[":
            items = _decode_items(items[0])
    except _UNREADABLE:
        return [push.params]
    return [bytes(item) for item in items] or [push.params]


def _series(push: Push, item: bytes) -> Series:
    try:
        named = _decode_item(item)
    except _UNREADABLE:
        return push.channel, ""
    return push.channel, named.symbol or named.currency


def _symbol(push: Push) -> str | None:
    try:
        return _decode_by_symbol(push.params)[2].upper()
    except _UNREADABLE:
        return None


def _is_snapshot(push: Push) -> bool:
    if push.channel != "depth":
        return False
    try:
        return _decode_by_symbol(push.params)[0]
    except _UNREADABLE:
        return False
