"""Turns frames into typed messages: bounded inflate, JSON, and a reason if a frame is no message."""

from collections.abc import Callable, Sequence

import msgspec
from isal import isal_zlib
from isal.isal_zlib import decompressobj
from msgspec import Raw

from bridge.channels.additions import ABSENT, Reader, is_integer_text
from bridge.errors import BadFrame
from bridge.exchange.answers import NOT_THAT, beside, is_error, verdict
from bridge.exchange.words import Confidential, Words

_UPDATE = ".update"
_MOST_METHODS = 64
_NULL = Raw(b"null")
_RAW_DEFLATE, _GZIP = -15, 31  # what zlib calls them
_GZIP_BEGIN = b"\x1f\x8b"
_SHORTEST_PUSH = 20  # characters: a shorter text, such as "ping", cannot have held one, whole

# Items and fields of one frame, about: all tickers of 5,000 markets have 65,000. Millions of tiny ones would
# take a hundred times as much memory once they are parsed.
_MOST_PARTS = 250_000
_MOST_OBJECTS = 25_000  # each may become a record, which takes several times as much memory as `{}` does
_MAY_HAVE_MANY = 2 * _MOST_OBJECTS  # bytes of a text above which it may have more
_StreamError: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # its stub says it is a value


class Push(msgspec.Struct, frozen=True, gc=False):
    """A frame whose method is `<channel>.update`; `params` is JSON text that is not parsed yet."""

    channel: str
    params: bytes

    added: Sequence[str] = ()
    """The names of fields beside `params` that the exchange has added; they may have been named before."""


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The answer to the request with the same `id`.

    `error` is why it was refused, None if it was not; `accepted`, whether it says so itself.

    Also a text or a number like 5.0 is an `id`: the exchange may be written in a language that makes it one.
    It is None for an error that answers no request.
    """

    id: int | None
    result: Raw
    error: Words | None
    accepted: bool


class _Envelope(msgspec.Struct, gc=False):
    method: str | None = None
    params: Raw = _NULL
    id: Raw = _NULL  # of a push it may be anything: it says nothing
    result: Raw = ABSENT
    error: Raw = ABSENT


_decode_lenient = msgspec.json.Decoder(_Envelope).decode
_decode_id = msgspec.json.Decoder(int | None, strict=False).decode  # takes "5" and 5.0 for 5


def inflate(frame: bytes, limit: int) -> bytes:
    """Return the JSON text of one binary frame.

    The exchange sends zlib streams (API document, "Compression algorithm"). Raw deflate and plain JSON are
    accepted too, since other clients have received them (FACTS, section 1), and gzip, which other exchanges
    send. Takes no more memory than about `limit` bytes.

    Raises:
        BadFrame: reason "decompression": not one stream, cut short, or larger than `limit`.
    """
    if not frame:
        return frame
    stream = decompressobj()
    try:
        text = stream.decompress(frame, limit)
    except _StreamError as error:
        return _inflate_otherwise(frame, limit, error)
    if stream.eof and not stream.unused_data:
        return text
    raise _unfinished(stream, frame, limit)


def _inflate_otherwise(frame: bytes, limit: int, error: Exception) -> bytes:
    # A raw deflate stream of a JSON object never starts with the byte "{": its first three bits would mean
    # "fixed codes", with which the next bits decode to a byte other than "{".
    if frame[:1] == b"{":
        return within(frame, limit)
    stream = decompressobj(_GZIP if frame.startswith(_GZIP_BEGIN) else _RAW_DEFLATE)
    try:
        text = stream.decompress(frame, limit)
    except _StreamError:
        raise BadFrame("decompression", str(error)) from None
    if stream.eof and not stream.unused_data:
        return text
    raise _unfinished(stream, frame, limit)


def _unfinished(stream: "isal_zlib.Decompress", frame: bytes, limit: int) -> BadFrame:
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


class Messages:
    """Decodes the messages of one session, and notices fields that the exchange adds beside `params`.

    `words` turns the exchange's texts into words that may be shown.
    """

    def __init__(self, words: Callable[[str], Words] | None = None) -> None:
        self._words = words or Confidential().words
        self._reader = Reader(_Envelope)
        self._decode = self._reader.decode  # changes when a field is noticed
        self._has_noticed = False
        # By method of pushes, their channel. A method that the API does not have may be anything, so the
        # number of those that are remembered is bounded.
        self._channels: dict[str, str] = {}
        # Methods with a push that had every field that was noticed so far: nothing is left to report of them.
        self._settled: set[str] = set()

    def decode(self, text: bytes) -> Push | Answer:
        """Return the message in a JSON text, identified by its `method` and `id`, never by its position.

        Raises:
            BadFrame: reason "json", "payload" (not an object, or fields of other types) or
                "unknown_method" (neither a push nor the answer to a request, so nothing is lost with it).
        """
        added: Sequence[str] = ()
        if len(text) > _MAY_HAVE_MANY:
            _refuse_many(text)
        try:
            envelope = self._decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            envelope = _decode_envelope(text)
            added = self._notice(envelope, text)
        method = envelope.method
        if method is None:
            return self._answer(envelope, text)
        channel = self._channels.get(method)
        if channel is None:
            if not method.endswith(_UPDATE) and _is_answer(envelope, text):
                return self._answer(envelope, text)  # which repeats the method of its request
            channel = self._channel(method)
        if self._has_noticed and method not in self._settled:
            added = added or self._added(envelope, method)
        return Push(channel, bytes(envelope.params), added)

    def _answer(self, envelope: "_Envelope", text: bytes) -> Answer:
        error, result = envelope.error, envelope.result
        request_id, said = _request_id(envelope.id), verdict(error, result, text, self._words)
        if request_id is None and (said.why is None or not is_error(error, text, self._words)):
            raise BadFrame("unknown_method", "neither a method nor the id of a request")
        return Answer(request_id, _NULL if result == ABSENT else result, said.why, said.accepted)

    def _notice(self, envelope: "_Envelope", text: bytes) -> list[str]:
        """Return fields that no message had before. Answers teach none: they would not be reported."""
        added: list[str] = []
        if envelope.method is not None:
            self._reader.read_odd(text, added)
        if added:
            self._settled.clear()
            self._decode = self._reader.decode
            self._has_noticed = bool(self._reader.noticed)
        return added

    def _added(self, envelope: "_Envelope", method: str) -> list[str]:
        """Return the noticed fields that a push has, until its method is settled."""
        added = self._reader.added(envelope)
        if len(added) == self._reader.noticed and len(self._settled) < _MOST_METHODS:
            self._settled.add(method)
        return added

    def _channel(self, method: str) -> str:
        if not method.endswith(_UPDATE):
            raise BadFrame("unknown_method", f"method {method[:100]!r}")
        channel = method[: -len(_UPDATE)]
        if len(self._channels) < _MOST_METHODS:
            self._channels[method] = channel
        return channel


def _refuse_many(text: bytes) -> None:
    if text.count(b",") > _MOST_PARTS:
        raise BadFrame("payload", f"more than {_MOST_PARTS} items and fields")
    if text.count(b"{") > _MOST_OBJECTS:
        raise BadFrame("payload", f"more than {_MOST_OBJECTS} objects")


def _decode_envelope(text: bytes) -> _Envelope:
    try:
        return _decode_lenient(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        is_json = isinstance(error, msgspec.ValidationError)
        # What has a brace may be the beginning of a push that was cut.
        if len(text) < _SHORTEST_PUSH and (is_json or b"{" not in text):
            raise BadFrame("unknown_method", f"too short for a message: {error}") from None
        raise BadFrame("payload" if is_json else "json", str(error)) from None


def _is_answer(envelope: _Envelope, text: bytes) -> bool:
    return envelope.result != ABSENT or envelope.error != ABSENT or beside(text).answers


def _request_id(raw: Raw) -> int | None:
    if bytes(raw)[:1] == b'"' and not is_integer_text(raw):
        return None
    try:
        found: int | None = _decode_id(raw)
    except NOT_THAT:
        return None
    return found
