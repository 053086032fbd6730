"""A WebSocket client connection that hands over messages as soon as their bytes have arrived.

websockets does the handshake, TLS, proxies, control frames, fragments and closing. The stream is cut into
messages here: for the usual frame, whole and unmasked, the parser of websockets and the queue behind its
`recv` cost about twice as much as decompressing and parsing the message.

Example. A read brings these bytes, in hex:

    82 03 61 62 63   82 04 64 65
    ───────────────  ───────────
    binary "abc"     binary, 4 bytes long, of which "de" are here

`abc` is handed over. `_data` keeps all 9 bytes, with `_begin` = 5, where the second frame starts; `_have` = 4
bytes of it are here, and `_need` = 6 make it whole. A read of `66` is put into `_parts`, and `_have` becomes
5: not enough, so nothing is joined or parsed. A read of `67 82` makes it 7: now `_data` becomes
`82 04 64 65 66 67 82`, `defg` is handed over, and one byte of a third frame is left: `_begin` = 6,
`_have` = 1, `_need` = 2, because the length of a frame starts in its second byte.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.frames import BINARY, CONT, TEXT, Frame
from websockets.protocol import CONNECTING, OPEN, Event

Receive = Callable[[Sequence[bytes], bool], None]
"""Takes messages that were read together, and whether they are binary."""

# First bytes of a frame (RFC 6455, section 5.2): FIN and the opcode, no reserved bit.
_WHOLE_TEXT = 0x81
_WHOLE_BINARY = 0x82

# Second bytes: no mask, and a length of up to 125; else the length follows in two bytes or in eight.
_LENGTH_IN_2 = 126
_LENGTH_IN_8 = 127

_END_OF_HANDSHAKE = b"\r\n\r\n"

# Bytes of messages that are handed over before other tasks get a turn. An event loop keeps reading as long
# as there is something to read, so that the tasks that send the records to Kafka would starve.
_TURN = 32_768


class Stream(ClientConnection):
    """A connection to create with `connect(..., create_connection=Stream)`, and then to `attach` to."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self._early: list[tuple[bytes, bool]] = []  # messages received before `attach`, each with `binary`
        self._receive: Receive = self._keep  # the receiver given to `attach`; until then, `_early` fills
        self._fragments: list[bytes] = []  # of a message that has begun; emptied when it is whole
        self._fragments_are_binary = True  # the type of that message, which only its first fragment states
        # Whether the stream is cut here: set by `attach`, cleared at a frame that websockets has to reject.
        self._cuts = False
        # Whether websockets' parser got bytes behind the handshake. It may hold part of a frame, so it stays
        # in charge.
        self._parser_has_frames = False
        self._data = b""  # the bytes that were joined last; those before `_begin` were handed over
        self._begin = 0  # where in `_data` the first frame starts that is not handed over
        self._parts: list[bytes] = []  # bytes that were read since; joined to `_data` once `_have` is `_need`
        self._have = 0  # bytes that are not handed over: of `_data` from `_begin` on, and of `_parts`
        self._need = 2  # bytes of these needed to continue: to complete a frame, or to know its length
        self._turn: asyncio.Handle | None = None  # the next turn; None when everything whole is handed over
        self._paused = False  # between `pause_reading` and `resume_reading`

    def attach(self, receive: Receive) -> None:
        """Hand every message to `receive`, first those that have already arrived."""
        self._receive = receive
        for message, binary in self._early:
            receive([message], binary)
        self._early.clear()
        self._cuts = not self._parser_has_frames

    def pause_reading(self) -> None:
        """Stop reading, and hand nothing over until `resume_reading`."""
        self._paused = True
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Hand over the messages that were read before the pause, then resume reading."""
        self._paused = False
        if self._turn is None:
            self._take_turn()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the transport."""
        if not self._cuts:
            was_open = self.protocol.state is not CONNECTING
            super().data_received(data)
            if was_open or (self.protocol.state is OPEN and not data.endswith(_END_OF_HANDSHAKE)):
                self._parser_has_frames = True
            return
        self._parts.append(data)
        self._have += len(data)
        if self._have >= self._need and self._turn is None and not self._paused:
            self._cut(_TURN)
            if self._have >= self._need:
                self.transport.pause_reading()
                self._turn = self.loop.call_soon(self._take_turn)

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand over everything that was read; then end."""
        try:
            if self._have >= self._need:
                self._cut(self._have)
        finally:
            super().connection_lost(exc)

    def _take_turn(self) -> None:
        self._turn = None
        if self._paused or self.transport.is_closing():
            return
        try:
            if self._have >= self._need:
                self._cut(_TURN)
        except BaseException:
            # As a transport does when `data_received` raises.
            self.transport.abort()
            raise
        if self._have >= self._need:
            self._turn = self.loop.call_soon(self._take_turn)
        else:
            self.transport.resume_reading()

    def _cut(self, most: int) -> None:
        """Hand over the messages that are whole, about as many as `most` bytes hold."""
        if self._parts:
            self._data = b"".join([self._data[self._begin :], *self._parts])
            self._begin = 0
            self._parts.clear()
        data, start = self._data, self._begin
        end = len(data)
        enough = start + most
        messages: list[bytes] = []
        kind = _WHOLE_BINARY
        self._need = 2
        while start < enough and end - start >= 2:  # noqa: PLR2004
            length = data[start + 1]
            body = start + 2
            if length >= _LENGTH_IN_2:
                if length > _LENGTH_IN_8:
                    break
                body += 2 if length == _LENGTH_IN_2 else 8
                length = int.from_bytes(data[start + 2 : body], "big")
            stop = body + length
            if stop > end:
                self._need = stop - start if body <= end else body - start
                break
            first = data[start]
            if first != kind and messages:
                self._receive(messages, kind == _WHOLE_BINARY)
                messages = []
            if first in (_WHOLE_BINARY, _WHOLE_TEXT):
                kind = first
                messages.append(data[body:stop])
            else:
                super().data_received(data[start:stop])
            start = stop
        self._begin, self._have = start, end - start
        if messages:
            self._receive(messages, kind == _WHOLE_BINARY)
        if self._have > 1 and self._breaks_the_rules(data[start : start + 10]):
            self._cuts = False
            self._have = 0
            super().data_received(data[start:])

    def process_event(self, event: Event) -> None:
        """Take data frames from websockets' parser; leave the other events to the connection."""
        if type(event) is not Frame or event.opcode not in (TEXT, BINARY, CONT):
            super().process_event(event)
        elif event.fin and event.opcode is not CONT:
            self._receive([bytes(event.data)], event.opcode is BINARY)
        else:
            self._assemble(event)

    def _breaks_the_rules(self, frame: bytes) -> bool:
        """Return whether a frame begins as websockets does not accept it: masked, or too large."""
        length = frame[1]
        if length > _LENGTH_IN_8:
            return True
        size = int.from_bytes(frame[2:10], "big") if length == _LENGTH_IN_8 else 0
        limit = self.protocol.max_message_size
        return len(frame) >= 10 and limit is not None and size > limit  # noqa: PLR2004

    def _assemble(self, frame: Frame) -> None:
        if frame.opcode is not CONT:
            self._fragments_are_binary = frame.opcode is BINARY
        self._fragments.append(bytes(frame.data))
        if frame.fin:
            message = b"".join(self._fragments)
            self._fragments.clear()
            self._receive([message], self._fragments_are_binary)

    def _keep(self, messages: Sequence[bytes], binary: bool) -> None:
        self._early += [(message, binary) for message in messages]
