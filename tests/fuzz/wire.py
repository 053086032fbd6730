"""What a hostile exchange writes: handshakes, frames and ends of connections, as steps.

Pure: the same generator gives the same steps.
"""

import base64
import hashlib
import zlib
from enum import Enum, auto
from random import Random
from typing import TypeAlias

LARGEST = 8_388_608
"""Bytes that a frame may inflate to by default."""


class End(Enum):
    """How a connection ends."""

    CLOSED = auto()
    RESET = auto()
    HALF_CLOSED = auto()
    SILENT = auto()


Step: TypeAlias = bytes | float | End
"""Bytes to write, seconds to wait, or the end of the connection."""

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TEXT, _BINARY, _CLOSE, _PING, _PONG = 1, 2, 8, 9, 10
_FIN = 0x80
_CONTROL = 125  # bytes of a control frame, at most

_RETRY_AFTER = (
    *(
        "0",
        "1",
        "-1",
        "1e9",
        "nan",
        "inf",
        "-inf",
        "1e400",
        "0x10",
        "1_000",
        "\u0661",
        "soon",
        "1,2",
        "",
        "1" * 5000,
    ),
    *("Thu, 01 Jan 1970 00:00:00 GMT", "Fri, 31 Dec 9999 23:59:59 GMT", "Fri, 99 Dec 99999 99:99:99 GMT"),
    "Sat, 28 Nov 2026 12:00:00 +9999",
)


# Handshakes


def accepted(key: bytes) -> bytes:
    """Return the response that accepts a handshake with this `Sec-WebSocket-Key`."""
    return _response(b"101 Switching Protocols", _upgrade(key))


def handshake(rng: Random, key: bytes, elsewhere: str, words: str) -> list[Step]:
    """Return a response that a client has to refuse, or one that it may accept and that is odd.

    `elsewhere` is an address to which nobody may be redirected; `words` stand wherever words may.
    """
    good = _upgrade(key)
    kinds = (
        lambda: [_refusal(rng, elsewhere, words)],
        lambda: [_response(b"101 Ok", _odd_upgrade(rng, good, words))],
        lambda: [mutated(rng, accepted(key))],
        lambda: [accepted(key)[: rng.randrange(120)], rng.choice([*End])],
        lambda: _slowly(rng, accepted(key)),
        lambda: [
            _response(
                b"200 " + words.encode(), [(b"X%d" % n, b"y" * 50) for n in range(rng.choice([5, 300]))]
            )
        ],
        lambda: [_response(b"503 No", [(b"X", b"y" * rng.choice([1000, 100_000]))])],
        lambda: [rng.randbytes(rng.choice([1, 100, 100_000]))],
        lambda: [
            rng.choice(
                [b"", b"\r\n\r\n", b"HTTP/9.9 0\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x28", b"220 ftp\r\n"]
            )
        ],
        lambda: [_body(rng, words), b"x" * rng.choice([10, 3_000_000])],
        lambda: [_body(rng, words), *([b"FFFF\r\n" + bytes(65_535) + b"\r\n"] * 40)],
        lambda: [End.SILENT],
        lambda: [accepted(key) + frame(_BINARY, b"") * 3],
    )
    return [*rng.choice(kinds)()]


def _upgrade(key: bytes) -> list[tuple[bytes, bytes]]:
    accept = base64.b64encode(hashlib.sha1(key + _GUID).digest())
    return [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade"), (b"Sec-WebSocket-Accept", accept)]


def _odd_upgrade(rng: Random, good: list[tuple[bytes, bytes]], words: str) -> list[tuple[bytes, bytes]]:
    headers = good[:]
    shown = words.encode()
    odd = (
        (b"Sec-WebSocket-Accept", base64.b64encode(rng.randbytes(20))),
        (b"Sec-WebSocket-Accept", shown),
        (b"Sec-WebSocket-Extensions", b"permessage-deflate; client_max_window_bits=15"),
        (b"Sec-WebSocket-Extensions", shown),
        (b"Sec-WebSocket-Protocol", shown),
        (b"Sec-WebSocket-Version", b"0"),
        (b"Upgrade", b"h2c"),
        (b"Connection", b"close"),
        (b"Set-Cookie", shown),
        (b"Content-Length", b"-1"),
        (b"Transfer-Encoding", b"chunked"),
        (b"Location", b"ws://127.0.0.1:1/"),
    )
    for one in rng.sample(odd, rng.randrange(1, 4)):
        if rng.random() < 0.5:
            headers = [header for header in headers if header[0] != one[0]]
        headers.insert(rng.randrange(len(headers) + 1), one)
    if rng.random() < 0.3:
        del headers[rng.randrange(len(headers))]
    return headers


def _refusal(rng: Random, elsewhere: str, words: str) -> bytes:
    status = rng.choice(
        [301, 302, 303, 307, 308, 401, 403, 404, 429, 500, 502, 503, rng.randrange(100, 1000)]
    )
    headers: list[tuple[bytes, bytes]] = []
    if rng.random() < 0.6:
        headers.append((b"Location", rng.choice([elsewhere, words, "", "//", "ws://[", "\xff"]).encode()))
    times = [rng.choice([*_RETRY_AFTER, words]) for _ in range(rng.choice([0, 1, 1, 1, 2]))]
    headers += [(b"Retry-After", one.encode()) for one in times]
    if rng.random() < 0.3:
        headers.append((b"Date", rng.choice([*_RETRY_AFTER, words]).encode()))
    body = words.encode() * rng.choice([0, 1, 1000])
    if rng.random() < 0.8:
        headers.append((b"Content-Length", b"%d" % len(body)))
    return _response(b"%d %b" % (status, words.encode()), headers) + body


def _body(rng: Random, words: str) -> bytes:
    length = rng.choice([b"0", b"-5", b"99999999999999999999", b"1e3", b"5, 6", b"\xb2", words.encode()])
    how = rng.choice([(b"Content-Length", length), (b"Transfer-Encoding", b"chunked"), (b"X", b"y")])
    return _response(b"%d No" % rng.choice([200, 403, 500]), [how])


def _response(status: bytes, headers: list[tuple[bytes, bytes]]) -> bytes:
    return b"HTTP/1.1 %b\r\n%b\r\n" % (status, b"".join(b"%b: %b\r\n" % header for header in headers))


def _slowly(rng: Random, response: bytes) -> list[Step]:
    steps: list[Step] = []
    for byte in response:
        steps += [bytes([byte]), rng.choice([0.001, 0.02])]
    return steps


# Frames


def frame(opcode: int, payload: bytes, first: int = _FIN) -> bytes:
    """Return a frame as a server sends it; `first` are the bits in front of its opcode."""
    size = len(payload)
    if size < 126:
        length = bytes([size])
    elif size < 1 << 16:
        length = b"\x7e" + size.to_bytes(2, "big")
    else:
        length = b"\x7f" + size.to_bytes(8, "big")
    return bytes([first | opcode]) + length + payload


def framed(rng: Random, payload: bytes, *, text: bool, odd: float) -> bytes:
    """Return a message in frames; with the probability `odd` one is not as RFC 6455 says."""
    opcode = _TEXT if text else _BINARY
    if rng.random() < odd:
        return _odd_frame(rng, opcode, payload)
    if rng.random() < 0.85:
        return frame(opcode, payload)
    cuts = sorted(rng.randrange(len(payload) + 1) for _ in range(rng.randrange(1, 6)))
    pieces = [payload[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(payload)], strict=True)]
    frames = []
    for number, piece in enumerate(pieces):
        last = number == len(pieces) - 1
        frames.append(frame(0 if number else opcode, piece, _FIN if last else 0))
        if not last and rng.random() < 0.3:
            frames.append(control(rng))
    return b"".join(frames)


def control(rng: Random) -> bytes:
    """Return a ping or a pong."""
    return frame(rng.choice([_PING, _PONG]), rng.randbytes(rng.choice([0, 1, _CONTROL])))


def _odd_frame(rng: Random, opcode: int, payload: bytes) -> bytes:
    mask = rng.randbytes(4)
    size = len(payload)
    kinds = (
        lambda: frame(opcode, payload, _FIN | rng.choice([0x10, 0x20, 0x40, 0x70])),
        lambda: frame(rng.choice([3, 4, 7, 11, 15]), payload[:_CONTROL]),
        lambda: bytes([_FIN | opcode, 0xFE]) + (size & 0xFFFF).to_bytes(2, "big") + mask + payload,
        lambda: bytes([_FIN | opcode, 0x7F]) + size.to_bytes(8, "big") + payload,
        lambda: (
            bytes([_FIN | opcode, 0x7F])
            + rng.choice([2**63, 2**64 - 1, LARGEST, LARGEST + 1]).to_bytes(8, "big")
        ),
        lambda: frame(opcode, payload, 0) + frame(opcode, payload),
        lambda: frame(0, payload),
        lambda: frame(_PING, bytes(_CONTROL + 1)),
        lambda: frame(_PING, b"", 0),
        lambda: frame(_TEXT, b"\xff\xfe" + payload),
        lambda: frame(_CLOSE, b"\x03"),
        lambda: frame(opcode, payload)[: rng.randrange(size + 2)],
        lambda: mutated(rng, frame(opcode, payload)),
        lambda: rng.randbytes(rng.choice([1, 14, 300])),
    )
    made: bytes = rng.choice(kinds)()
    return made


def closing(rng: Random, words: str) -> list[Step]:
    """Return a close with any code and reason, or none, and the end of the connection."""
    code = rng.choice([1000, 1001, 1002, 1006, 1008, 1011, 1012, 1013, 1015, 3000, 4999, 0, 999, 65_535])
    shown = words.encode()[:123]
    reason = rng.choice([shown, shown, shown, b"", b"\xff", rng.randbytes(50), b"\r\n" * 20])
    payload = code.to_bytes(2, "big") + reason if rng.random() < 0.8 else rng.choice([b"", b"\x03"])
    said: list[Step] = [frame(_CLOSE, payload)] if rng.random() < 0.7 else []
    if said and rng.random() < 0.2:
        said += [frame(_TEXT, b"more"), frame(_CLOSE, payload)]
    return [*said, rng.choice([*End])]


# Payloads


def packed(rng: Random, text: bytes, odd: float) -> tuple[bytes, bool]:
    """Return a payload that inflates to a text, and whether it goes into a text frame."""
    if rng.random() >= odd:
        return zlib.compress(text, 1), False
    raw, gzip = zlib.compressobj(1, wbits=-15), zlib.compressobj(1, wbits=31)
    kinds = (
        lambda: raw.compress(text) + raw.flush(),
        lambda: gzip.compress(text) + gzip.flush(),
        lambda: text,
        lambda: zlib.compress(text, 0),
        lambda: zlib.compress(text)[: rng.randrange(len(text) + 8)],
        lambda: zlib.compress(text) + rng.randbytes(3),
        lambda: zlib.compress(text) * 2,
        lambda: mutated(rng, zlib.compress(text)),
        lambda: zlib.compress(mutated(rng, text)),
        lambda: zlib.compress(zlib.compress(text)),
        lambda: zlib.compress(text + b" " * rng.choice([LARGEST, LARGEST - len(text)]), 1),
        lambda: b"",
    )
    payload: bytes = rng.choice(kinds)()
    return payload, rng.random() < 0.3


def mutated(rng: Random, data: bytes) -> bytes:
    """Return bytes of which a few are changed, inserted, repeated or left out."""
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        place = rng.randrange(len(changed) + 1)
        match rng.randrange(4):
            case 0:
                changed[place : place + 1] = rng.randbytes(1)
            case 1:
                changed[place:place] = rng.randbytes(rng.choice([1, 4]))
            case 2:
                del changed[place : place + rng.choice([1, 10])]
            case _:
                changed[place:place] = changed[place : place + 40] * rng.choice([1, 50])
    return bytes(changed)
