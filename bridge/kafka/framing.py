"""What a message has besides the JSON of its record, to name its schema in a registry. Pure."""

import uuid
from typing import Any, NamedTuple, TypeAlias

from bridge.config import Framing as Kind
from bridge.errors import SchemaRefused

HEADER = "__value_schema_id"
"""The header with the GUID of a schema, as Confluent's serializers write it."""

_BY_ID, _BY_GUID = b"\x00", b"\x01"  # the first byte of each
_ID_BYTES = 4

Headers: TypeAlias = tuple[tuple[str, bytes], ...]


class Framing(NamedTuple):
    """What each message of a topic has: bytes in front of its value, and headers."""

    prefix: bytes = b""
    headers: Headers = ()


PLAIN = Framing()
"""Records as they are."""


def framing(kind: Kind, schema_id: Any, guid: Any) -> Framing:  # noqa: ANN401
    """Return the framing of a topic by what the registry calls its schema, which may be anything.

    Raises:
        SchemaRefused: the registry does not give what the framing needs.
    """
    match kind:
        case Kind.NONE:
            return PLAIN
        case Kind.CONFLUENT:
            if type(schema_id) is not int or not 0 <= schema_id < 1 << 8 * _ID_BYTES:
                raise SchemaRefused(
                    f'framing "confluent" needs an id of {_ID_BYTES} bytes, and the registry gives none'
                )
            return Framing(prefix=_BY_ID + schema_id.to_bytes(_ID_BYTES, "big"))
        case Kind.HEADER:
            try:
                return Framing(headers=((HEADER, _BY_GUID + uuid.UUID(guid).bytes),))
            except (ValueError, TypeError, AttributeError):
                raise SchemaRefused(
                    'framing "header" needs GUIDs, and the registry gives none; "confluent" needs none'
                ) from None
