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

Longer than 350 lines because whoever cuts, pauses, counts or ends changes the same bytes.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.frames import BINARY, CONT, TEXT, CloseCode, Frame
from websockets.protocol import CONNECTING, OPEN, Event

from bridge.websocket.buffers import Buffers

Receive = Callable[[Sequence[bytes], bool], None]
"""Takes messages that were read together, and whether they are binary."""

# First bytes of a frame (RFC 6455, section 5.2): FIN and the opcode, no reserved bit.
_WHOLE_TEXT = 0x81
_WHOLE_BINARY = 0x82
_NONE = -1  # in the middle of a message in fragments: websockets rejects both (RFC 6455, section 5.4)

# Second bytes: no mask, and a length of up to 125; else the length follows in two bytes or in eight.
_LENGTH_IN_2 = 126
_LENGTH_IN_8 = 127

_END_OF_HANDSHAKE = b"\r\n\r\n"

# Bytes of messages that are handed over before other tasks get a turn: an event loop keeps reading as long as
# there is something to read, and the tasks that send to Kafka would starve.
_TURN = 32_768
_AT_ONCE = 128  # messages likewise, and control frames: small ones may cost as much as others

# Fragments of one message. websockets limits their bytes, but not the number of empty ones.
_MOST_FRAGMENTS = 4096

# Bytes that a session may hold without being counted: what comes in one read, and the usual frames.
_SMALL = 262_144

# Bytes that wait to be sent behind what the network has taken. Only an exchange that pings and reads no pongs
# lets so many pile up: a request waits until others before it are sent.
_MOST_UNSENT = 262_144


class Stream(ClientConnection):
    """A connection to create with `connect(..., create_connection=Stream)`, and then to `attach` to.

    While it is paused, nothing is handed over and nothing is read. Messages are handed over when bytes arrive
    and in turns of their own, never inside `attach`, `pause_reading` or `resume_reading`: whoever pauses or
    resumes many streams is not called back in the middle of it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        # Whole messages, each with `binary`, that came before `attach`, or from websockets' parser during a
        # pause or when its turn was over. They are handed over before everything else.
        self._early: deque[tuple[bytes, bool]] = deque()
        self._receive: Receive = self._keep  # the receiver given to `attach`; until then, `_early` fills
        self._attached = False  # set by `attach`
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
        # Bytes of these needed to continue: to complete a frame, or to know its length; 1 for the parser.
        self._need = 2
        self._delivered = 0  # messages of websockets' parser that were handed over in this turn
        self._turn: asyncio.Handle | None = None  # the next turn; None when everything whole is handed over
        self._paused = False  # between `pause_reading` and `resume_reading`
        self._lost = False  # whether the transport has reported the end of the connection
        self._unread = False  # whether it was aborted because the exchange reads nothing
        self.buffers: Buffers | None = None  # of the process; given after the handshake, None: no limit
        # Whether there is room behind; given after the handshake. Without, turns pass until this is paused.
        self.has_room: Callable[[], bool] = lambda: True
        self._counted = 0  # bytes that are counted there: all that is held, if it is not small
        self._waits = False  # whether it reads nothing until there is room in the buffers
        # Reports that end to websockets, once everything whole is handed over; None before and afterwards.
        self._end: Callable[[], None] | None = None

    @property
    def held_bytes(self) -> int:
        """Bytes that were read and not handed over: of whole messages, fragments, and frames not parsed."""
        early = sum(len(message) for message, _ in self._early)
        return early + self._have + sum(map(len, self._fragments)) + len(self.protocol.reader.buffer)

    @property
    def fault(self) -> str | None:
        """Why this side has given the connection up; None if it has not."""
        if self._unread:
            return f"the exchange reads nothing of what is sent: {_MOST_UNSENT} bytes wait"
        sent, received = self.protocol.close_sent, self.protocol.close_rcvd
        return str(sent) if sent is not None and received is None else None

    def attach(self, receive: Receive) -> None:
        """Hand every message to `receive` from the next turn of the loop on, the earliest first."""
        self._receive = receive
        self._attached = True
        self._cuts = not self._parser_has_frames
        if not self._cuts:
            self._need = 1
        self._schedule()

    def pause_reading(self) -> None:
        """Read nothing and hand nothing over until `resume_reading`.

        If the connection is lost meanwhile, what was read before and is not handed over is dropped.
        """
        self._paused = True
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        """From the next turn of the loop on, hand over what was read before the pause, then read again."""
        self._paused = False
        self._schedule()

    def data_received(self, data: bytes) -> None:
        """Take bytes from the transport."""
        if self._cuts or self._paused or self._parts:
            self._parts.append(data)
            self._have += len(data)
            if self._have >= self._need and self._turn is None and not self._paused:
                self._delivered = 0
                if self._may_go_on():
                    self._go_on()
                if (self._early or self._have >= self._need) and not self._paused:
                    self.transport.pause_reading()
                    self._schedule()
        else:
            self._delivered = 0
            self._parse(data)
            if self._early and self._attached and self._turn is None and not self._paused:
                self.transport.pause_reading()
                self._schedule()
        if self._have > _SMALL or self._counted or not self._cuts:
            self._count()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand over, by turns, what was read and is whole, until that is done or reading pauses; then end."""
        self._lost = True
        self._count()
        self._end = partial(super().connection_lost, exc)
        if self._turn is None:
            self._take_turn()

    def _schedule(self) -> None:
        if self._turn is None:
            self._turn = self.loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._turn = None
        self._delivered = 0
        if self.transport.is_closing() and not self._lost:
            return  # `connection_lost` is about to be called, and goes on
        more = False
        try:
            more = self._attached and self._hand_over()
        except BaseException:
            # As a transport does when `data_received` raises.
            self.transport.abort()
            raise
        finally:
            if self._lost and not more:
                self._finish()
        if self._counted:
            self._count()
        if more:
            self.transport.pause_reading()
            self._schedule()
        elif not (self._paused or self._lost or self._waits):
            self.transport.resume_reading()

    def _count(self) -> None:
        """Count what is held, and read nothing more while there is no room for that."""
        if self.buffers is None:
            return
        held = 0 if self._lost else self.held_bytes
        size = held if held > _SMALL else 0
        change, self._counted = size - self._counted, size
        self.buffers.change(change)
        # What is here whole is handed over first.
        if change > 0 and self.buffers.full and self._have < self._need and not (self._waits or self._lost):
            self._waits = True
            self.transport.pause_reading()
            self.buffers.wait(self._go_on_reading)

    def _go_on_reading(self) -> None:
        self._waits = False
        if self._turn is None and not (self._paused or self._lost or self.transport.is_closing()):
            self.transport.resume_reading()

    def _hand_over(self) -> bool:
        """Hand over about as many messages as a turn may, unless paused; return whether there are more."""
        taken = number = 0
        while self._early and taken < _TURN and number < _AT_ONCE and self._may_go_on():
            message, binary = self._early.popleft()
            taken, number = taken + len(message), number + 1
            self._receive([message], binary)
        if self._have >= self._need and not self._early and self._may_go_on():
            self._go_on()
        return not self._paused and (bool(self._early) or self._have >= self._need)

    def _may_go_on(self) -> bool:
        # A lost connection may not be paused any more. What is left of it is little.
        return not self._paused and (self._lost or self.has_room())

    def _finish(self) -> None:
        """Drop what is not whole or was kept by a pause, and end."""
        self._early.clear()
        self._parts.clear()
        self._fragments.clear()
        self._data, self._begin, self._have = b"", 0, 0
        if self._end is not None:
            end, self._end = self._end, None
            end()

    def _go_on(self) -> None:
        if self._parts:
            self._data = b"".join([self._data[self._begin :], *self._parts])
            self._begin = 0
            self._parts.clear()
        if self._cuts:
            self._cut()
            if self._begin > _SMALL or self._begin == len(self._data):
                # What was handed over is not kept until the next read, which may never come.
                self._data, self._begin = self._data[self._begin :], 0
        else:
            self._leave_to_parser()

    def _cut(self) -> None:
        """Hand over the messages that are whole, about as many as a turn may, until reading pauses."""
        data, start = self._data, self._begin
        end = len(data)
        enough = start + _TURN
        messages: list[bytes] = []
        kind = _NONE if self._fragments else _WHOLE_BINARY
        self._need = 2
        number = 0
        while start < enough and end - start >= 2 and number < _AT_ONCE:  # noqa: PLR2004
            number += 1
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
            if first != kind:
                if messages:
                    self._begin, self._have = start, end - start
                    self._receive(messages, kind == _WHOLE_BINARY)
                    messages = []
                if first in (_WHOLE_BINARY, _WHOLE_TEXT) and not self._fragments:
                    kind = first
                elif not self._paused:
                    self._begin, self._have = stop, end - stop
                    self._parse(data[start:stop])
                    start, kind = stop, _NONE if self._fragments else kind
                if self._paused or self._unread or self._early:
                    return  # what follows a message that is not handed over yet waits for that
                if first != kind:
                    continue
            messages.append(data[body:stop])
            start = stop
        self._begin, self._have = start, end - start
        if messages:
            self._receive(messages, kind == _WHOLE_BINARY)
        if self._have > 1 and self._breaks_the_rules(data[start : start + 10]):
            self._cuts, self._need = False, 1
            self._leave_to_parser()

    def _leave_to_parser(self) -> None:
        """Give everything that was read to websockets' parser."""
        rest = self._data[self._begin :]
        self._data, self._begin, self._have = b"", 0, 0
        self._parse(rest)

    def _parse(self, data: bytes) -> None:
        was_open = self.protocol.state is not CONNECTING
        super().data_received(data)
        if was_open or (self.protocol.state is OPEN and not data.endswith(_END_OF_HANDSHAKE)):
            self._parser_has_frames = True
        if not self._lost and self.transport.get_write_buffer_size() > _MOST_UNSENT:
            self._unread = True
            self.transport.abort()

    def process_event(self, event: Event) -> None:
        """Take data frames from websockets' parser; leave the other events to the connection."""
        if type(event) is not Frame or event.opcode not in (TEXT, BINARY, CONT):
            super().process_event(event)
        elif event.fin and event.opcode is not CONT:
            self._deliver(bytes(event.data), event.opcode is BINARY)
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
        if len(self._fragments) > _MOST_FRAGMENTS:
            self._fragments.clear()
            self.protocol.fail(CloseCode.MESSAGE_TOO_BIG, f"more than {_MOST_FRAGMENTS} fragments")
            if not self.transport.is_closing():  # a connection that is lost takes nothing any more
                self.send_data()
        elif frame.fin:
            message = b"".join(self._fragments)
            self._fragments.clear()
            self._deliver(message, self._fragments_are_binary)

    def _deliver(self, message: bytes, binary: bool) -> None:
        """Hand over a message that the parser brought, or keep it if it is not its turn."""
        turn_is_over = self._attached and (self._delivered >= _AT_ONCE or not self._may_go_on())
        if self._paused or self._early or turn_is_over:
            self._early.append((message, binary))
        else:
            self._delivered += 1
            self._receive([message], binary)

    def _keep(self, messages: Sequence[bytes], binary: bool) -> None:
        self._early += [(message, binary) for message in messages]
