"""Lists of items in params: one bad item does not spoil the others."""

from typing import TypeVar

import msgspec
from msgspec import Raw

from bridge.channels.channel import Outcome

Item = TypeVar("Item", bound=msgspec.Struct)

_decode_list = msgspec.json.Decoder(list[Raw]).decode


def decode_items(
    decoder: msgspec.json.Decoder[list[Item]], item_type: type[Item], params: bytes, outcome: Outcome
) -> list[Item]:
    """Return the valid items of `params`, and add the reason of each invalid one to `outcome.bad`.

    The list may be inside another list, as other clients have seen it.

    Raises:
        msgspec.DecodeError: `params` is not a list.
    """
    try:
        return decoder.decode(params)
    except (msgspec.ValidationError, UnicodeDecodeError):
        raw_items: list[Raw] = []
        for raw in _decode_list(params):
            raw_items.extend(_decode_list(raw) if bytes(raw)[:1] == b"[" else [raw])
    items: list[Item] = []
    for raw in raw_items:
        try:
            items.append(msgspec.json.decode(raw, type=item_type))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            outcome.bad.append(f"item {bytes(raw)[:80]!r}: {error}")
    return items
