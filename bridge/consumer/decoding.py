"""Decodes the messages of all topics."""

from typing import overload

import msgspec

from bridge.consumer.records import RECORDS, Record
from bridge.errors import NotARecord

_VERSION = "v1"

# A registry's framing in front of the JSON: by its first byte, its length. The rest is the schema's number
# there, of 4 bytes, or its GUID.
_PREFIXES = {b"\x00": 5, b"\x01": 17}

_decoders = {name: msgspec.json.Decoder(record) for name, record in RECORDS.items()}


@overload
def decode(topic: str, value: bytes) -> Record: ...
@overload
def decode(topic: str, value: bytes | None) -> Record | None: ...
def decode(topic: str, value: bytes | None) -> Record | None:
    """Return the record in a message of this topic; its prefix does not matter.

    None for a message without a value: a tombstone, which says that the market of its key has no book any
    more; see `Book.clear`.

    `value` may be the JSON alone, also where a header names the schema (`schema_registry.framing` "none" and
    "header"), or with the prefix of a schema registry in front of it ("confluent").

    Raises:
        NotARecord: the topic is not one of records in v1, or the value is not a record of that topic.
    """
    _, _, name = topic.removesuffix(f".{_VERSION}").rpartition(".")
    decoder = _decoders.get(name) if topic.endswith(f".{_VERSION}") else None
    if decoder is None:
        raise NotARecord(f"{topic} is not a topic of records in {_VERSION}")
    if value is None:
        return None
    try:
        return decoder.decode(unframed(value))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise NotARecord(f"a message on {topic} is not a record: {error}") from error


def unframed(value: bytes) -> bytes:
    """Return the JSON in the value of a message, without the prefix of a schema registry."""
    return value[_PREFIXES.get(value[:1], 0) :]
