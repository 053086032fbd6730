"""Words from outside: what the exchange says, as it may be shown; pure.

An exchange that refuses a login may repeat the API key; an error text may have megabytes, or control
characters that forge lines. So a text of the exchange becomes `Words` where it is read, before it is logged,
recorded, shown or compared with anything.
"""

import re
import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import NewType

from bridge.exchange.requests import Credentials, signature

Words = NewType("Words", str)
"""A text from outside that may be shown: short, on one line, without credentials."""

MOST_WORDS = 300
"""Characters of a text that are shown; the number of all characters follows."""

_READ = 16_384  # characters of a text that are looked at
_MASK = "***"
_PREFIX = 8  # characters of a credential that count for it: what repeats it may be cut
_LEAST = 6  # characters of a credential that frames are searched for: a shorter one may be anything
_PIECE = 64  # characters of a credential that one pattern can be made for
_DEPTH = 3  # times that a text may be escaped over
_MOST_ESCAPES = 100_000  # of a frame that are undone
_SEARCHED = 2 * 1024 * 1024  # bytes that a frame may have, and inflate to, and be searched
_SIGNATURES = 512  # that are remembered: more than a process makes in a minute
_SIGNED_MS = 60_000  # for how long the time of one is confidential: frames have times of these days, too
_PART = 65_536  # characters of a text that are searched at once
_CHUNK = 512  # bytes that are inflated at once
_STREAMS = 8  # streams in one frame that are searched
_FORMS = (zlib.MAX_WBITS | 32, -zlib.MAX_WBITS)  # zlib or gzip, as their headers say; and raw deflate

# All repetitions are bounded, so that no text takes more than linear time.
_ESCAPE = re.compile(
    r"\\{1,8}u([0-9a-f]{4})|\\{1,8}x([0-9a-f]{2})|%([0-9a-f]{2})|&#x([0-9a-f]{1,6});|&#([0-9]{1,7});"
    r"|&(amp|lt|gt|quot|apos);|\\{1,8}([^\\])",
    re.IGNORECASE,
)
_NAMED = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


class Confidential:
    """Credentials that no text may show: keys, secrets, and the newest signatures with their times."""

    def __init__(self, credentials: Iterable[Credentials] = ()) -> None:
        self._fixed: list[str] = []  # keys and secrets, in pieces
        self._signatures: deque[str] = deque(maxlen=_SIGNATURES)  # newest last
        self._times: deque[str] = deque(maxlen=_SIGNATURES)  # theirs, in ms by the exchange's clock
        for one in credentials:
            self.add(one)

    def add(self, credentials: Credentials) -> None:
        """Keep the credentials of one more account confidential."""
        both = (*_pieces(credentials.api_key), *_pieces(credentials.secret))
        self._fixed += [one for one in both if one not in self._fixed]

    def note_signature(self, credentials: Credentials, timestamp_ms: int) -> None:
        """Keep what a login is about to send confidential."""
        # Signatures are kept longer: the exchange says what time it is, and could make a new one look old.
        while self._times and int(self._times[0]) < timestamp_ms - _SIGNED_MS:
            del self._times[0]
        self._times.append(str(timestamp_ms))
        self._signatures.append(signature(credentials, str(timestamp_ms)))

    def words(self, text: str) -> Words:
        """Return a text without credentials, however they are written, on one line, and cut."""
        shown = printable(self._masked(text[:_READ]))
        if len(shown) > MOST_WORDS or len(text) > _READ:
            shown = f"{shown[:MOST_WORDS]}… ({len(text)} characters)"
        return Words(shown)

    def is_in(self, name: str) -> bool:
        """Return whether a short text repeats a credential, or at least its beginning."""
        return self._masked(name) != name

    def repeats(self, frame: bytes) -> bool:
        """Return whether a frame contains a credential when it is inflated, as far as it can be.

        Also if that cannot be told, since it has more than 2 MiB, inflated or not, or very many escapes.
        """
        searched = [one for one in self._all() if len(one) >= _LEAST]
        if not searched:
            return False
        text = None if len(frame) > _SEARCHED else _inflated(frame, _SEARCHED)
        return text is None or any(_may_repeat(one, searched) for one in (frame, text))

    def _all(self) -> list[str]:
        return [*self._fixed, *self._times, *self._signatures]

    def _masked(self, text: str) -> str:
        repeated = _repeated(text, self._all())
        for whole in (True, False):  # what is there whole is not taken for the beginning of another one
            for credential in repeated:
                pattern = _spelled(credential, whole)
                level = text = pattern.sub(_MASK, text)
                for _ in range(_DEPTH):
                    level = _ESCAPE.sub(_undone, level)
                    if pattern.search(level):
                        level = text = pattern.sub(_MASK, level)
        return text


def printable(text: str) -> str:
    """Return a text with its control characters and line ends escaped, as Python does it."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def _pieces(credential: str) -> list[str]:
    """Return a credential in pieces of about the same length: a token may have thousands of characters."""
    number = -(-len(credential) // _PIECE)
    size = -(-len(credential) // number) if number else 1
    return [credential[at : at + size] for at in range(0, len(credential), size)]


def _repeated(text: str, credentials: Sequence[str]) -> list[str]:
    """Return which of these a text contains, at least their beginnings, escaped or not; longest first."""
    if not credentials:
        return []
    found: set[str] = set()
    for depth in range(_DEPTH + 1):
        found |= _begun(text, credentials)
        if depth == _DEPTH or not any(one in text for one in "\\%&"):
            break
        text = _ESCAPE.sub(_undone, text)  # in place of the one before: a character may take four bytes
    return sorted(found, key=len, reverse=True)


def _begun(text: str, credentials: Sequence[str]) -> set[str]:
    """Return which of these a text contains, at least their beginnings, in any case.

    It is looked at in parts, since `lower` takes up to sixteen times as many bytes as a text has characters.
    """
    found: set[str] = set()
    for start in range(0, len(text), _PART):
        part = text[start : start + _PART + _PREFIX].lower()
        found.update(one for one in credentials if one[:_PREFIX].lower() in part)
    return found


@lru_cache(maxsize=256)
def _spelled(credential: str, whole: bool) -> re.Pattern[str]:
    """Return what finds a credential in any spelling, or its beginning and as much more as follows."""
    least = len(credential) if whole else _PREFIX
    rest = ""
    for character in reversed(credential[least:]):
        rest = f"(?:{_any_spelling(character)}{rest})?"
    return re.compile("".join(map(_any_spelling, credential[:least])) + rest, re.IGNORECASE)


def _any_spelling(character: str) -> str:
    code = ord(character)
    named = "".join(f"|&(?:amp;){{0,4}}{name};" for name, one in _NAMED.items() if one == character)
    percent = "".join(f"%(?:25){{0,4}}{byte:02x}" for byte in character.encode(errors="replace"))
    plain = re.escape(character)
    return (
        rf"(?:\\{{0,8}}{plain}|\\{{1,8}}u{code:04x}|\\{{1,8}}x{code:02x}|{percent}"
        rf"|&(?:amp;){{0,4}}\#0{{0,8}}{code};|&(?:amp;){{0,4}}\#x0{{0,8}}{code:x};{named})"
    )


def _undone(escape: re.Match[str]) -> str:
    unicode, byte, percent, hexadecimal, decimal, name, character = escape.groups()
    if name:
        return _NAMED[name.lower()]
    if character:
        return character
    code = int(decimal) if decimal else int(unicode or byte or percent or hexadecimal, 16)
    return chr(code) if code <= 0x10FFFF else escape[0]  # noqa: PLR2004 - the last character


def _may_repeat(text: bytes, credentials: Sequence[str]) -> bool:
    """Return whether a text contains one of these, escaped or not; True if it has too many escapes."""
    if sum(map(text.count, (b"\\", b"%", b"&"))) > _MOST_ESCAPES:
        return True
    return bool(_repeated(text.decode(errors="replace"), credentials))


def _inflated(frame: bytes, limit: int) -> bytes | None:
    """Return all that can be inflated of a frame, whatever is wrong with it; None if it is too much."""
    found = bytearray()
    for form in _FORMS:
        rest: bytes | None = frame
        for _ in range(_STREAMS):
            if not rest:
                break
            text, rest = _inflated_stream(rest, form, limit + 1 - len(found))
            found += text
            if len(found) > limit:
                return None
        if found:
            break
    return bytes(found)


def _inflated_stream(data: bytes, form: int, most: int) -> tuple[bytes, bytes | None]:
    """Return the text of a stream, up to `most` bytes, and what is behind it; None: it does not end."""
    stream = zlib.decompressobj(form)
    text = bytearray()
    for start in range(0, len(data), _CHUNK):
        try:
            text += stream.decompress(data[start : start + _CHUNK], most - len(text))
        except zlib.error:
            return bytes(text) + _in_front_of_damage(data, form, start), None
        if len(text) >= most:
            break
        if stream.eof:
            return bytes(text), stream.unused_data + data[start + _CHUNK :]
    return bytes(text), None


def _in_front_of_damage(data: bytes, form: int, start: int) -> bytes:
    """Return what a stream has in front of its damage, which is in the chunk that starts there.

    An error costs all that would have been inflated together with what has caused it.
    """
    stream = zlib.decompressobj(form)
    stream.decompress(data[:start])
    text = bytearray()
    with suppress(zlib.error):
        for place in range(start, len(data)):
            text += stream.decompress(data[place : place + 1])
    return bytes(text)
