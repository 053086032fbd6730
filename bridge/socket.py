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
from websockets.protocol import Event

Receive = Callable[[Sequence[bytes], bool], None]
"""Takes messages that were read together, and whether they are binary."""

# First bytes of a frame (RFC 6455, section 5.2): FIN and the opcode, no reserved bit.
_WHOLE_TEXT = 0x81
_WHOLE_BINARY = 0x82

# Second bytes: no mask, and up to 125 a length; else it follows in two bytes or in eight.
_LENGTH_IN_2 = 126
_LENGTH_IN_8 = 127

# Bytes of one read after which everybody else gets a turn: a loop would read on as long as more is there.
_MUCH = 65_536


class Socket(ClientConnection):
    """A connection to create with `connect(..., create_connection=Socket)` and then to `attach` to."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self._early: list[tuple[bytes, bool]] = []
        self._receive: Receive = self._keep
        self._fragments: list[bytes] = []
        self._fragments_are_binary = True
        self._cuts = False
        self._rest = b""
        self._paused = False

    def attach(self, receive: Receive) -> None:
        """Hand every message to `receive`, first those that are already here."""
        self._receive = receive
        for message, binary in self._early:
            receive([message], binary)
        # After frames that nobody had asked for, a part of one more may be with the other parser.
        self._cuts = not self._early
        self._early.clear()

    def pause_reading(self) -> None:
        """Read no more from the network."""
        self._paused = True
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._paused = False
        self.transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the wire."""
        if not self._cuts:
            super().data_received(data)
            return
        if len(data) >= _MUCH:
            self.transport.pause_reading()
            asyncio.get_running_loop().call_soon(self._read_on)
        if self._rest:
            data = self._rest + data
        messages: list[bytes] = []
        kind = _WHOLE_BINARY
        start, end = 0, len(data)
        while end - start >= 2:  # noqa: PLR2004
            length = data[start + 1]
            body = start + 2
            if length >= _LENGTH_IN_2:
                if length > _LENGTH_IN_8:
                    break
                body += 2 if length == _LENGTH_IN_2 else 8
                length = int.from_bytes(data[start + 2 : body], "big")
            stop = body + length
            if stop > end:
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
        if messages:
            self._receive(messages, kind == _WHOLE_BINARY)
        self._rest = data[start:]
        if len(self._rest) > 1 and self._is_against_the_rules():
            self._cuts = False
            super().data_received(self._rest)

    def process_event(self, event: Event) -> None:
        """Take data frames from the other parser; leave the rest to the connection."""
        if type(event) is not Frame or event.opcode not in (TEXT, BINARY, CONT):
            super().process_event(event)
        elif event.fin and event.opcode is not CONT:
            self._receive([bytes(event.data)], event.opcode is BINARY)
        else:
            self._assemble(event)

    def _read_on(self) -> None:
        if not self._paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def _is_against_the_rules(self) -> bool:
        """Tell if the frame that has begun is masked or too large, for websockets to hang up on."""
        length = self._rest[1]
        if length > _LENGTH_IN_8:
            return True
        size = int.from_bytes(self._rest[2:10], "big") if length == _LENGTH_IN_8 else 0
        limit = self.protocol.max_message_size
        return len(self._rest) >= 10 and limit is not None and size > limit  # noqa: PLR2004

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
