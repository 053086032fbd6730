"""Turns frames into typed messages: bounded inflate, JSON, and a reason if a frame is no message."""

import re
import zlib
from functools import lru_cache
from zlib import decompressobj

import msgspec
from msgspec import Raw

from bridge.errors import BadFrame

_UPDATE = ".update"
_USUAL_TAIL = b',"id":null}'
_LONGEST_HEAD = 64
_RAW_DEFLATE = -15


class Push(msgspec.Struct, frozen=True, gc=False):
    """A frame whose method is `<channel>.update`; `params` is JSON text that is not parsed yet."""

    channel: str
    params: bytes


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The answer to the request with the same `id`; `error` is why it was refused, None if it was not."""

    id: int
    result: Raw
    error: str | None


class _Envelope(msgspec.Struct, gc=False):
    method: str | None = None
    params: Raw = Raw(b"null")
    id: int | None = None
    result: Raw = Raw(b"null")
    error: Raw = Raw(b"null")


class _ErrorBody(msgspec.Struct):
    code: int | str | None = None
    message: str | None = None


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_error = msgspec.json.Decoder(_ErrorBody | str | int | float | bool | None).decode


def inflate(frame: bytes, limit: int) -> bytes:
    """Return the JSON text of one binary frame.

    The exchange sends zlib streams (API document, "Compression algorithm"); raw deflate and plain JSON are
    accepted too, since other clients have received them (FACTS, section 1). Takes no more memory than about
    `limit` bytes.

    Raises:
        BadFrame: reason "decompression": not one stream, cut short, or larger than `limit`.
    """
    stream = decompressobj()
    try:
        text = stream.decompress(frame, limit)
    except zlib.error as error:
        return _inflate_otherwise(frame, limit, error)
    if stream.eof and not stream.unused_data:
        return text
    raise _unfinished(stream, frame, limit)


def _inflate_otherwise(frame: bytes, limit: int, error: zlib.error) -> bytes:
    # A raw deflate stream of a JSON object never starts with the byte "{": its first three bits would mean
    # "fixed codes", with which the next bits decode to a byte other than "{".
    if frame[:1] == b"{":
        return within(frame, limit)
    stream = decompressobj(_RAW_DEFLATE)
    try:
        text = stream.decompress(frame, limit)
    except zlib.error:
        raise BadFrame("decompression", str(error)) from None
    if stream.eof and not stream.unused_data:
        return text
    raise _unfinished(stream, frame, limit)


def _unfinished(stream: "zlib._Decompress", frame: bytes, limit: int) -> BadFrame:
    if stream.eof:
        detail = f"{len(stream.unused_data)} bytes after the end of the stream"
    elif stream.unconsumed_tail or stream.decompress(b"", 1):
        detail = f"larger than max_frame_bytes = {limit}"
    else:
        detail = f"incomplete stream of {len(frame)} bytes"
    return BadFrame("decompression", detail)


def within(text: bytes, limit: int) -> bytes:
    """Return a text frame, if it is no longer than `limit` bytes.

    Raises:
        BadFrame: reason "decompression": it is longer.
    """
    if len(text) > limit:
        raise BadFrame("decompression", f"larger than max_frame_bytes = {limit}")
    return text


def decode(text: bytes) -> Push | Answer:
    """Return the message in a JSON text, identified by its `method` and `id`, never by its position.

    Raises:
        BadFrame: reason "json", "payload" (not an object, or fields of other types) or
            "unknown_method" (neither a push nor the answer to a request).
    """
    # The usual push is cut out without parsing: its normaliser has to parse the params anyway.
    begin = text.find(b"[", 0, _LONGEST_HEAD)
    if begin > 0 and text.endswith(_USUAL_TAIL):
        channel = _usual_channel(text[:begin])
        if channel is not None:
            return Push(channel, text[begin : -len(_USUAL_TAIL)])
    try:
        envelope = _decode_envelope(text)
    except msgspec.ValidationError as error:
        raise BadFrame("payload", str(error)) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadFrame("json", str(error)) from None
    method = envelope.method
    if method is not None:
        if method.endswith(_UPDATE):
            return Push(method[: -len(_UPDATE)], bytes(envelope.params))
        raise BadFrame("unknown_method", f"method {method[:100]!r}")
    if envelope.id is None:
        raise BadFrame("unknown_method", "neither a method nor the id of a request")
    return Answer(envelope.id, envelope.result, _error_text(envelope.error))


@lru_cache(maxsize=64)
def _usual_channel(head: bytes) -> str | None:
    """Return the channel of a push from its text before the params; None if it is not written as usual."""
    usual = re.fullmatch(rb'\{"method":"([a-z_]+)\.update","params":', head)
    return usual and usual[1].decode()


def _error_text(error: Raw) -> str | None:
    """Return the text of an answer's error: an object as in the API document, or a string or a number."""
    try:
        body = _decode_error(error)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = _ErrorBody()
    match body:
        case None | False | 0 | "":
            return None
        case str():
            return body
        case _ErrorBody(code, message) if message:
            return message if code is None else f"{message} (code {code})"
        case _ErrorBody(None):
            return bytes(error).decode(errors="replace")
        case _ErrorBody(code):
            return f"code {code}"
        case _:
            return f"code {body}"
