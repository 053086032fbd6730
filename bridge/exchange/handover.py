"""Passes messages on while a new session takes over from an old one, so that nothing is lost or repeated.

While the new session opens and subscribes, the old one's messages are passed on and remembered, and the new
one's are held back. Once the new session is live and the old one has answered one more ping, everything that
the exchange pushed before the new session was live has arrived over the old one. Then the old session is
dropped, and of the held messages only those not seen yet are passed on.

Which items count as seen depends on the channel's `Overlap`:

- IDS (trades): all are passed on, the normaliser knows which ids are new.
- SNAPSHOT (depth): the last snapshot of each book and what follows it are passed on.
- SERIES and STATE: the items of one key, such as one currency's balances, are aligned. If the old session
  ended with A B C and the new one brought B C D, then B and C are seen, and D is passed on. Comparing single
  items is not enough: a balance that returns to an earlier value reads as it did before.
  An item may be missing in one of the two, since its frame could not be read there. Then the rest of what
  both brought is compared, and what is dropped with it was reported as a bad frame of the old session. Where
  that would take too long, a key is passed on from behind the last item that both have.
- A frame that is not a message of the protocol is compared by its bytes, and counted. One that both
  brought is passed on with a mark.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Generic, NamedTuple, TypeVar

import msgspec
from msgspec import Raw

from bridge.channels.channel import Channel, Overlap
from bridge.channels.items import decode_params
from bridge.errors import BadFrame
from bridge.exchange.frames import Push

Context = TypeVar("Context")

ItemKey = tuple[str, str]
"""A channel, and the symbol or currency of an item."""


class Bad(NamedTuple):
    """A frame that is not a message of the protocol, and why.

    `repeated`: the old session brought it too, so it is reported already. What it held is lost to both.
    """

    frame: bytes
    why: BadFrame
    repeated: bool = False


Message = Push | Bad

_MESSAGE_BYTES = 300  # what a message takes in memory besides its content, approximately
_RECORD_BYTES = 500  # what a record takes in memory, approximately; each object in a push may become one
_PART_BYTES = 20  # what an item or field is counted as besides its text: many of two bytes take time, too


def size_of(message: Message) -> int:
    """Return how many bytes a message takes in memory, with the records that it may become, approximately.

    When a rotation ends, what it holds becomes records all at once: 16 bytes may make one of 500.
    """
    if isinstance(message, Bad):
        return len(message.frame) + _MESSAGE_BYTES
    params = message.params
    parts = params.count(b"{") * _RECORD_BYTES + params.count(b",") * _PART_BYTES
    return len(params) + parts + _MESSAGE_BYTES


_MOST_COMPARED = 20_000_000  # comparisons for which damaged keys are aligned in one handover: half a second


class _Item(msgspec.Struct, gc=False):
    symbol: str = ""
    currency: str = ""


_decode_items = msgspec.json.Decoder(list[Raw]).decode
_decode_item = msgspec.json.Decoder(_Item).decode

_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class Handover(Generic[Context]):
    """One handover. `Context` is whatever the caller wants back with a held message.

    The overlap of each channel is taken from `channels`. One that is not in there counts as a series.
    """

    def __init__(self, channels: Mapping[str, Channel]) -> None:
        self._channels = channels
        self.held_bytes = 0  # of everything that is remembered or held, approximately; 0 after `release`
        # Pushes of the old session whose items have to be compared, in order of arrival; only grows.
        self._remembered: list[Push] = []
        # How often the old session brought each bad frame that the new one has not repeated yet.
        self._bad: Counter[bytes] = Counter()
        # By channel and symbol, the contexts of the snapshots that `release` has passed on; empty before.
        self.snapshots: dict[tuple[str, str | None], Context] = {}
        # Messages of the new session in order of arrival; empty again after `release`.
        self._held: list[tuple[Message, Context]] = []

    def remember(self, message: Message) -> None:
        """Remember a message that the old session brought."""
        if isinstance(message, Bad):
            self._bad[message.frame] += 1
            self.held_bytes += size_of(message)
        elif self._is_aligned(message):
            self._remembered.append(message)
            self.held_bytes += size_of(message)

    def hold(self, message: Message, context: Context) -> None:
        """Hold back a message of the new session."""
        self._held.append((message, context))
        self.held_bytes += size_of(message)

    def symbols(self, push: Push) -> set[str]:
        """Return the symbols and currencies of a push, as they are spelled; none if it cannot be read."""
        if self._is_aligned(push):
            return {_key(push, item)[1] for item in _items(push)}
        return {symbol} if (symbol := _book(push)[1]) else set()

    def release(self) -> list[tuple[Message, Context]]:
        """Return those of the held messages that were not seen, and all bad frames, in order of arrival.

        Call it when the new session has brought everything that the old one has, and not before: an item that
        the new session brings later could not be recognised as seen.
        """
        pushes = [(place, held) for place, (held, _) in enumerate(self._held) if isinstance(held, Push)]
        bad = Counter(held.frame for held, _ in self._held if isinstance(held, Bad))
        seen = self._seen([push for _, push in pushes], damaged=bad != self._bad)
        last_snapshot = {_book(push): place for place, push in pushes if self._is_snapshot(push)}
        self.snapshots = {book: self._held[place][1] for book, place in last_snapshot.items()}
        released = []
        for place, (held, context) in enumerate(self._held):
            passed_on: Message | None = held
            if isinstance(held, Bad):
                if self._bad[held.frame]:
                    self._bad[held.frame] -= 1
                    passed_on = held._replace(repeated=True)
            elif self._overlap(held) is Overlap.SNAPSHOT:
                passed_on = held if place >= last_snapshot.get(_book(held), 0) else None
            elif self._is_aligned(held):
                passed_on = _without(seen, held)
            if passed_on is not None:
                released.append((passed_on, context))
        self._held.clear()
        self.held_bytes = 0
        return released

    def _overlap(self, push: Push) -> Overlap:
        channel = self._channels.get(push.channel)
        return Overlap.SERIES if channel is None else channel.overlap

    def _is_aligned(self, push: Push) -> bool:
        return self._overlap(push) in (Overlap.SERIES, Overlap.STATE)

    def _is_snapshot(self, push: Push) -> bool:
        if self._overlap(push) is not Overlap.SNAPSHOT:
            return False
        try:
            return decode_params(push.params).clean
        except _UNREADABLE:
            return False

    def _seen(self, held: Sequence[Push], *, damaged: bool) -> dict[ItemKey, int]:
        """Return how many of the held items of each key the old session has brought.

        `damaged`: an item may be missing in what one of the two has brought.
        """
        aligned = [push for push in held if self._is_aligned(push)]
        by_state = {push.channel for push in aligned if self._overlap(push) is Overlap.STATE}
        old = _by_key(self._remembered)
        new = _by_key(aligned)
        seen = {key: _brought(old[key], items, at_last=key[0] in by_state) for key, items in new.items()}
        if damaged:
            left = _MOST_COMPARED
            for key in [key for key, number in seen.items() if not number]:
                comparisons = _comparisons(old[key], new[key])
                if comparisons > left:
                    seen[key] = _behind_last(old[key], new[key])
                else:
                    left -= comparisons
                    seen[key] = _brought_in_part(old[key], new[key])
        return seen


def _brought(old: list[bytes], new: list[bytes], *, at_last: bool) -> int:
    """Return how many items at the start of `new` the old session has brought.

    That is the largest n for which `old` ends with the first n items of `new`. With old 1 2 3 and new 2 3 4
    it is 2. Where items repeat, several n match: with old 1 2 1 and new 1 2 1 2 both 1 and 3 do, and 3 is
    taken, since a rotation must never repeat an item. `at_last`: only the last item of `old` is compared, as
    `new` may begin with a state S that `old` does not have: with old 1 2 and new S 2 3 it is 2.
    """
    if at_last:
        return _behind_last(old[-1:], new)
    # As Knuth, Morris and Pratt search, since an exchange decides how many items there are and how alike: for
    # the first items of `new`, how many of these they end with again.
    again = [0] * len(new)
    for place in range(1, len(new)):
        again[place] = _longer(again[place - 1], new[place], new, again)
    brought = 0
    for item in old[-len(new) :]:
        brought = _longer(brought, item, new, again)
    return brought


def _longer(matched: int, item: bytes, new: list[bytes], again: list[int]) -> int:
    """Return how many first items of `new` are matched with one more item behind those `matched`."""
    while matched and new[matched] != item:
        matched = again[matched - 1]
    return matched + (new[matched] == item)


def _behind_last(some: Iterable[bytes], new: list[bytes]) -> int:
    """Return the place in `new` behind the last item that is one of some; 0 if there is none."""
    wanted = frozenset(some)
    return next((place for place in range(len(new), 0, -1) if new[place - 1] in wanted), 0)


def _brought_in_part(old: list[bytes], new: list[bytes]) -> int:
    """Return the place in `new` behind the last item that both have, if their common items are aligned.

    For sessions that do not agree, since a frame of one of them could not be read: with old A C and new
    B C D it is 3, and so it is with old A B C and new A X C. It may take as long as `_comparisons` says.
    """
    blocks = SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks()
    return max(block.b + block.size if block.size else 0 for block in blocks)


def _comparisons(old: list[bytes], new: list[bytes]) -> int:
    """Return how many comparisons `_brought_in_part` takes at most, approximately.

    That is all pairs for each block that both have. With items that alternate, old A X A X and new A Y A Y,
    as many blocks are found as one of them has items.
    """
    return len(old) * len(new) * min(len(old), len(new))


def _by_key(pushes: Iterable[Push]) -> defaultdict[ItemKey, list[bytes]]:
    by_key = defaultdict(list)
    for push in pushes:
        for item in _items(push):
            by_key[_key(push, item)].append(item)
    return by_key


def _without(seen: dict[ItemKey, int], push: Push) -> Push | None:
    """Return a push without the items that are `seen`, counting these down; None if no item is left."""
    items = _items(push)
    unseen = []
    for item in items:
        key = _key(push, item)
        if seen[key]:
            seen[key] -= 1
        else:
            unseen.append(item)
    if len(unseen) == len(items):
        return push
    return Push(push.channel, b"[" + b",".join(unseen) + b"]") if unseen else None


def _items(push: Push) -> list[bytes]:
    """Return the items of a push's list. Params that are not a list, or an empty one, count as one item.

    So do neighbours without an object inside: 250,000 numbers of a push would take a hundred times its size.
    What is an item of its own has a brace, which `size_of` counts.
    """
    if b"{" not in push.params:
        return [push.params]
    try:
        items = _decode_items(push.params)
        if len(items) == 1 and bytes(items[0])[:1] == b"[":
            items = _decode_items(items[0])
    except _UNREADABLE:
        return [push.params]
    parts: list[bytes] = []
    others: list[Raw] = []  # the last neighbours without an object
    for raw in items:
        item = bytes(raw)
        if b"{" in item:
            if others:
                parts.append(b",".join(others))
                others = []
            parts.append(item)
        else:
            others.append(raw)
    if others:
        parts.append(b",".join(others))
    return parts or [push.params]


def _key(push: Push, item: bytes) -> ItemKey:
    try:
        named = _decode_item(item)
    except _UNREADABLE:
        return push.channel, ""
    return push.channel, named.symbol or named.currency


def _book(push: Push) -> tuple[str, str | None]:
    """Return the channel and symbol of a push whose params are `[clean, …, symbol]`."""
    try:
        return push.channel, decode_params(push.params).symbol.upper()
    except _UNREADABLE:
        return push.channel, None
