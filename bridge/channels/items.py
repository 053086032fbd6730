"""Decodes params: `[clean, body, symbol]`, or a list of items, where a bad one does not spoil the others."""

from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Raw, Struct

from bridge.channels.additions import ABSENT, REFUSED, Reader
from bridge.channels.channel import Outcome
from bridge.channels.figures import Name

Item = TypeVar("Item", bound=Struct)
Body = TypeVar("Body")

_decode_list = msgspec.json.Decoder(list[Raw]).decode


class Params(Struct, array_like=True, gc=False):
    """The params of a push about one symbol; the body is JSON that is not parsed yet."""

    clean: bool
    body: Raw
    symbol: Name


decode_params = msgspec.json.Decoder(Params, strict=False).decode
"""Decode params about one symbol, whatever their body is, and whatever follows the symbol.

`clean` may be a number or a text.
"""


class Parsed(Struct, Generic[Body], gc=False):
    """The params of a push about one symbol with their body parsed."""

    clean: bool
    body: Body
    symbol: str


class ParamsReader(Generic[Body]):
    """Decodes the params of pushes about one symbol, in one go if they are as expected.

    `body_type` returns the strict type of their body. It may be another one after each call of `read_body`,
    which reads a body that was not of that type.
    """

    def __init__(self, body_type: Callable[[], Any], read_body: Callable[[Raw, Outcome], Body]) -> None:
        self._body_type = body_type
        self._read_body = read_body
        self._elements = Reader(Params, "params")
        self._make_decoder()

    decode: Callable[[bytes | Raw], Parsed[Body]]
    """Decode params in one go. Raises one of REFUSED if they are not of the strict type."""

    def read_odd(self, params: bytes | Raw, outcome: Outcome) -> Parsed[Body]:
        """Return params that `decode` has refused, and add what is odd about them to `outcome`.

        Raises:
            msgspec.DecodeError: they are not of that form.
            UnicodeDecodeError: likewise.
            BadItem: the body can't become a record.
        """
        odd = self._elements.read_odd(params, outcome.added)
        body = self._read_body(odd.body, outcome)
        if outcome.added:
            self._make_decoder()
        return Parsed(odd.clean, body, odd.symbol)

    def _make_decoder(self) -> None:
        added = [(f"added_{place}", Raw, ABSENT) for place in range(self._elements.noticed)]
        strict_type: Any = msgspec.defstruct(
            "Params",
            [("clean", bool), ("body", self._body_type()), ("symbol", Name), *added],
            array_like=True,
            forbid_unknown_fields=self._elements.is_strict,
            gc=False,
        )
        self.decode = msgspec.json.Decoder(strict_type).decode


class ItemsReader(Generic[Item]):
    """Decodes lists of items.

    `path` says where the list is, `called` what an item is called in the reason why it is bad.
    """

    def __init__(self, item_type: type[Item], path: str = "params", called: str = "item") -> None:
        self._path = path
        self._called = called
        self._items = Reader(item_type, f"{path}[]")
        self._make_decoder()

    @property
    def strict_type(self) -> type[list[Item]]:
        """The type of a list of items without unknown fields."""
        return list[self._items.strict_type]  # type: ignore[name-defined]

    def read(self, params: bytes | Raw, outcome: Outcome) -> Sequence[Item]:
        """Return the valid items of params, and add the reason of each invalid one to `outcome.bad`.

        Items may be inside another list, as other clients have seen it. Elements behind the last item that
        are neither objects nor lists are no bad items, but elements that the exchange has added.

        Raises:
            msgspec.DecodeError: not a list.
        """
        try:
            items = self._decode(params)
        except REFUSED:
            return self._read_params(params, outcome)
        if list in map(type, items):
            return [item for one in items for item in (one if type(one) is list else (one,))]
        return items

    def read_list(self, text: bytes | Raw, outcome: Outcome) -> list[Item]:
        """Return the valid items of a list, and add the reason of each invalid one to `outcome.bad`.

        Raises:
            msgspec.DecodeError: not a list.
        """
        return self._read_each(_decode_list(text), outcome)

    def _read_params(self, params: bytes | Raw, outcome: Outcome) -> list[Item]:
        elements = _decode_list(params)
        further = []
        while len(elements) > 1 and bytes(elements[-1])[:1] not in b"{[":
            elements.pop()
            further.append(f"{self._path}[{len(elements)}]")
        raw_items: list[Raw] = []
        for raw in elements:
            raw_items.extend(_decode_list(raw) if bytes(raw)[:1] == b"[" else [raw])
        items = self._read_each(raw_items, outcome)
        if items:
            outcome.added += reversed(further)
        return items

    def _read_each(self, raw_items: list[Raw], outcome: Outcome) -> list[Item]:
        items: list[Item] = []
        for raw in raw_items:
            try:
                items.append(self._items.read_odd(raw, outcome.added))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                outcome.bad.append(f"{self._called} {bytes(raw)[:80]!r}: {error}")
        if outcome.added:
            self._make_decoder()
        return items

    def _make_decoder(self) -> None:
        item_type: Any = self._items.strict_type
        self._decode: Callable[[bytes | Raw], list[Any]] = msgspec.json.Decoder(
            list[item_type | list[item_type]]
        ).decode
