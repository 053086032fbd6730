"""A WebSocket client connection that hands messages over as soon as their bytes are here.

websockets does the handshake, TLS, proxies, control frames, fragments and closing. Cutting the stream into
messages is done here, since on the usual frame, whole and unmasked, its parser and the queue behind `recv`
cost more than all else that the bridge does with it.
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

# Second bytes: no mask, and up to 125 a length; else it follows in two bytes or in eight.
_LENGTH_IN_2 = 126
_LENGTH_IN_8 = 127

_END_OF_HANDSHAKE = b"\r\n\r\n"

# Bytes of messages after which everybody else gets a turn: a loop reads on as long as there is more, and
# whoever sends the records on would starve.
_TURN = 32_768


class Stream(ClientConnection):
    """A connection to create with `connect(..., create_connection=Stream)` and then to `attach` to."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self._early: list[tuple[bytes, bool]] = []
        self._receive: Receive = self._keep
        self._fragments: list[bytes] = []
        self._fragments_are_binary = True
        self._cuts = False
        self._parser_has_frames = False
        self._data = b""
        self._begin = 0
        self._parts: list[bytes] = []
        self._have = 0
        self._need = 2
        self._turn: asyncio.Handle | None = None
        self._paused = False

    def attach(self, receive: Receive) -> None:
        """Hand every message to `receive`, first those that are already here."""
        self._receive = receive
        for message, binary in self._early:
            receive([message], binary)
        self._early.clear()
        # Once it has got bytes of a frame, maybe half of one, the other parser goes on.
        self._cuts = not self._parser_has_frames

    def pause_reading(self) -> None:
        """Hand nothing over any more, and read nothing."""
        self._paused = True
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on."""
        self._paused = False
        if self._turn is None:
            self._take_turn()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the wire."""
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
        """Hand over what was read and waits for its turn; then end."""
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
            # As a transport does when `data_received` fails.
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
        if self._have > 1 and self._is_against_the_rules(data[start : start + 10]):
            self._cuts = False
            self._have = 0
            super().data_received(data[start:])

    def process_event(self, event: Event) -> None:
        """Take data frames from the other parser; leave the rest to the connection."""
        if type(event) is not Frame or event.opcode not in (TEXT, BINARY, CONT):
            super().process_event(event)
        elif event.fin and event.opcode is not CONT:
            self._receive([bytes(event.data)], event.opcode is BINARY)
        else:
            self._assemble(event)

    def _is_against_the_rules(self, frame: bytes) -> bool:
        """Tell if the frame that has begun is masked or too large, for websockets to hang up on."""
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
