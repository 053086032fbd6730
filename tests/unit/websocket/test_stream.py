"""A stream that is paused reads nothing and hands nothing over, whenever the pause comes."""

import asyncio
import tracemalloc
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from bridge.websocket.buffers import Buffers
from tests.support.streams import READ, open_stream, turns

TURN = 32_768  # bytes that are handed over before other tasks get a turn
AT_ONCE = 128  # messages likewise
SIZE = 1000  # bytes of a frame, as `numbered` makes them

# Enough turns of the loop for every test, if the transport reads once in each.
PATIENCE = 3000


def frame(content: bytes, opcode: Opcode = Opcode.BINARY, *, fin: bool = True) -> bytes:
    return Frame(opcode, content, fin=fin).serialize(mask=False)


def numbered(*numbers: int) -> bytes:
    """Return a frame for each number, whose message begins with it."""
    return b"".join(frame(b"%08d" % number + bytes(SIZE - 12)) for number in numbers)


class Listener:
    """Receives the messages of a stream, and checks at each whether the stream may hand anything over.

    `pause_at`: the numbers of messages at which it pauses the stream while it receives them.
    """

    def __init__(self, *pause_at: int) -> None:
        self.stream, self.network = open_stream()
        self.numbers: list[int] = []
        self.paused = False
        self._pause_at = set(pause_at)
        self._calling = False  # inside a call of the stream that must not hand anything over

    def attach(self) -> None:
        self._quietly(lambda: self.stream.attach(self._receive))

    def pause(self) -> None:
        self.paused = True
        self._quietly(self.stream.pause_reading)

    def resume(self) -> None:
        self.paused = False
        self._quietly(self.stream.resume_reading)

    def ended(self) -> bool:
        return self.stream.connection_lost_waiter.done()

    async def read_all(self) -> None:
        """Let the loop turn, and the transport read, as often as there may be something to do."""
        await turns(PATIENCE, each=self.network.read)

    def _quietly(self, call: Callable[[], None]) -> None:
        self._calling = True
        call()
        self._calling = False

    def _receive(self, messages: Sequence[bytes], binary: bool) -> None:
        assert not self.paused, "handed over while paused"
        assert not self._calling, "handed over inside a call"
        new = [int(message[:8]) for message in messages]
        self.numbers += new
        if self._pause_at.intersection(new):
            self._pause_at.difference_update(new)
            self.paused = True
            self.stream.pause_reading()


@pytest.mark.parametrize("turn", [1, 2, 8])
def test_nothing_more_is_read_after_a_pause_in_any_turn_of_a_read(turn: int) -> None:
    """The last turn of a read used to resume reading, whatever had happened in it."""
    in_a_read, plenty = READ // SIZE, 2000

    async def scenario() -> None:
        listener = Listener(turn * in_a_read // 8 - 1)
        listener.attach()
        listener.network.arrived += numbered(*range(plenty))
        await listener.read_all()
        assert listener.paused
        assert listener.network.read_bytes == READ
        assert len(listener.numbers) <= (turn + 1) * TURN / SIZE
        assert listener.stream.held_bytes == READ - SIZE * len(listener.numbers)
        listener.resume()
        await listener.read_all()
        assert listener.numbers == list(range(plenty))
        assert listener.stream.held_bytes == 0

    asyncio.run(scenario())


def test_a_stream_that_is_paused_again_before_its_turn_hands_nothing_over() -> None:
    async def scenario() -> None:
        listener = Listener(0)
        listener.attach()
        listener.network.arrived += numbered(*range(500))
        await listener.read_all()
        before = listener.numbers.copy()
        listener.resume()
        listener.pause()
        await listener.read_all()
        assert listener.numbers == before
        assert listener.network.read_bytes == READ

    asyncio.run(scenario())


def test_a_connection_lost_while_paused_hands_nothing_over() -> None:
    async def scenario() -> None:
        listener = Listener(0)
        listener.attach()
        listener.network.arrived += numbered(*range(500))
        await listener.read_all()
        before = listener.numbers.copy()
        listener.network.lose()
        await turns(5)
        assert listener.ended()
        assert listener.stream.held_bytes == 0
        listener.resume()
        await turns(5)
        assert listener.numbers == before

    asyncio.run(scenario())


def test_a_lost_connection_hands_over_by_turns_what_was_read() -> None:
    """Other tasks have their turns in between, so a pause can still end it."""

    async def scenario() -> None:
        listener = Listener()
        listener.attach()
        await turns()
        listener.network.read_and_lose(numbered(*range(READ // SIZE)))
        sizes = []

        def observe() -> None:
            sizes.append(len(listener.numbers))

        await turns(30, each=observe)
        assert listener.ended()
        assert listener.numbers == list(range(READ // SIZE))
        steps = [after - before for before, after in pairwise(sizes)]
        assert max(steps) <= TURN / SIZE + 1

    asyncio.run(scenario())


@pytest.mark.parametrize("begins_early", [False, True])
@pytest.mark.parametrize("alternates", [False, True])
def test_tiny_messages_are_handed_over_by_turns_too(begins_early: bool, alternates: bool) -> None:
    """What comes of a message may take a hundred times as long as its bytes."""

    async def scenario() -> None:
        listener = Listener()
        if begins_early:  # then websockets' parser has the stream
            listener.stream.data_received(frame(b"%08d" % 0))
        listener.attach()
        await turns(3)
        first = len(listener.numbers)
        kinds = (Opcode.TEXT, Opcode.BINARY) if alternates else (Opcode.BINARY,)
        listener.network.arrived += b"".join(
            frame(b"%08d" % number, kinds[number % len(kinds)]) for number in range(first, 5000)
        )
        sizes = [first]

        def observe() -> None:
            listener.network.read()
            sizes.append(len(listener.numbers))

        await turns(200, each=observe)
        assert listener.numbers == list(range(5000))
        steps = [after - before for before, after in pairwise(sizes)]
        assert max(steps) <= 2 * AT_ONCE, "a turn, and what is read in it"

    asyncio.run(scenario())


@pytest.mark.parametrize("begins_early", [False, True])
def test_nothing_is_handed_over_while_there_is_no_room_behind(begins_early: bool) -> None:
    """Not even before the pause that follows: each of a hundred sessions may have a large push."""

    async def scenario() -> None:
        room = True
        listener = Listener()
        listener.stream.has_room = lambda: room
        if begins_early:
            listener.stream.data_received(numbered(0))
        listener.attach()
        await turns(3)
        first = len(listener.numbers)
        room = False
        listener.network.arrived += numbered(*range(first, 500))
        await turns(20, each=listener.network.read)
        assert len(listener.numbers) == first
        listener.pause()
        room = True
        await turns(20, each=listener.network.read)
        assert len(listener.numbers) == first
        listener.resume()
        await listener.read_all()
        assert listener.numbers == list(range(500))

    asyncio.run(scenario())


def test_a_lost_connection_hands_over_what_was_read_without_room_too() -> None:
    """Its owner may have forgotten it, so that no pause ends it."""

    async def scenario() -> None:
        listener = Listener()
        listener.stream.has_room = lambda: False
        listener.attach()
        await turns()
        listener.network.read_and_lose(numbered(*range(READ // SIZE)))
        await turns(30)
        assert listener.ended()
        assert listener.numbers == list(range(READ // SIZE))

    asyncio.run(scenario())


def test_a_pause_while_a_lost_connection_hands_over_ends_it() -> None:
    async def scenario() -> None:
        listener = Listener()
        listener.attach()
        await turns()
        listener.network.read_and_lose(numbered(*range(READ // SIZE)))
        await turns(3)
        assert not listener.ended()
        before = listener.numbers.copy()
        listener.pause()
        await turns(5)
        assert listener.ended()
        assert listener.numbers == before

    asyncio.run(scenario())


@pytest.mark.parametrize("lost", [False, True])
def test_messages_before_attach_are_handed_over_first_and_not_to_a_paused_stream(lost: bool) -> None:
    """Websockets' parser stays in charge of this stream, since it has a part of a frame."""

    async def scenario() -> None:
        listener = Listener(1)
        half = numbered(3)
        listener.stream.data_received(numbered(0, 1, 2) + half[:600])
        assert listener.stream.held_bytes > 3 * (SIZE - 20) + 500
        listener.attach()
        listener.pause()
        await turns(3)
        assert listener.numbers == []
        listener.resume()
        await turns(3)
        assert listener.numbers == [0, 1]
        listener.stream.data_received(half[600:] + numbered(4))
        await turns(3)
        assert listener.numbers == [0, 1]
        if lost:
            listener.network.lose()
        listener.resume()
        await turns(5)
        assert listener.numbers == [0, 1, 2, 3, 4]

    asyncio.run(scenario())


def test_a_message_in_fragments_is_counted_as_held() -> None:
    async def scenario() -> None:
        listener = Listener()
        listener.attach()
        await turns()
        listener.network.arrived += frame(b"%08d" % 7 + bytes(500), fin=False)
        await turns(2, each=listener.network.read)
        assert listener.stream.held_bytes == 508
        listener.network.arrived += frame(bytes(100), Opcode.CONT)
        await turns(2, each=listener.network.read)
        assert listener.stream.held_bytes == 0
        assert listener.numbers == [7]

    asyncio.run(scenario())


@pytest.mark.parametrize("together", [True, False])
def test_messages_in_fragments_are_not_overtaken_however_many_there_are(together: bool) -> None:
    def fragments(number: int) -> bytes:
        return frame(b"%08d" % number, fin=False) + frame(b"more", Opcode.CONT)

    async def scenario() -> None:
        listener = Listener()
        listener.attach()
        await turns()
        sent = [fragments(n) if n % 10 else numbered(n) for n in range(3 * AT_ONCE)]
        for data in [b"".join(sent)] if together else sent:
            listener.network.arrived += data
            await turns(2, each=listener.network.read)
        await turns(20)
        assert listener.numbers == [*range(3 * AT_ONCE)]
        assert listener.network.is_reading()

    asyncio.run(scenario())


def test_a_message_in_fragments_for_which_there_is_no_room_is_not_overtaken() -> None:
    async def scenario() -> None:
        listener = Listener()
        listener.stream.has_room = lambda: listener.numbers != [0]
        listener.attach()
        await turns()
        listener.network.arrived += numbered(0) + frame(b"%08d" % 1, fin=False)
        listener.network.arrived += frame(b"more", Opcode.CONT) + numbered(2)
        await turns(5, each=listener.network.read)
        assert listener.numbers == [0]
        listener.stream.has_room = lambda: True
        await turns(5)
        assert listener.numbers == [0, 1, 2]

    asyncio.run(scenario())


class Story:
    """A stream, and an exchange that sends numbered messages in frames of all kinds."""

    def __init__(self, pause_at: list[int]) -> None:
        self.listener = Listener(*pause_at)
        self.network = self.listener.network
        self.attached = False
        self.sent = 0  # messages that were sent, the last one perhaps in part
        self._rest = b""  # of a frame that was cut off

    async def take(self, step: str, number: int) -> None:
        if step == "turn":
            await turns(number, each=self.check_and_read)
        elif step == "attach" and not self.attached:
            self.attached = True
            self.listener.attach()
        elif step == "pause" and self.attached:
            self.listener.pause()
        elif step == "resume" and self.attached:
            self.listener.resume()
        elif step in FRAMES:
            self.send(step, number)

    def send(self, step: str, number: int) -> None:
        self.network.arrived += self._rest
        self._rest = b""
        first = self.sent
        self.sent += FRAMES[step](number)
        frames = {
            "numbered": numbered(*range(first, self.sent)),
            "cut off": numbered(first)[:number],
            "text": frame(b"%08d" % first, Opcode.TEXT),
            "fragments": frame(b"%08d" % first, fin=False) + frame(b"more", Opcode.CONT),
            "ping": frame(b"ping", Opcode.PING),
        }
        self.network.arrived += frames[step]
        if step == "cut off":
            self._rest = numbered(first)[number:]

    def check_and_read(self) -> None:
        assert not (self.listener.paused and self.network.is_reading()), "reads while paused"
        self.network.read()


# By kind of frame: how many messages are sent.
FRAMES: dict[str, Callable[[int], int]] = {
    "numbered": lambda number: number,
    "cut off": lambda _: 1,
    "text": lambda _: 1,
    "fragments": lambda _: 1,
    "ping": lambda _: 0,
}

steps = st.lists(
    st.tuples(st.just("numbered"), st.integers(1, 400))
    | st.tuples(st.just("cut off"), st.integers(1, SIZE - 1))
    | st.tuples(st.just("turn"), st.integers(1, 12))
    | st.tuples(
        st.sampled_from(["text", "fragments", "ping", "attach", "pause", "resume", "resume"]), st.just(0)
    ),
    max_size=25,
)


@given(steps, st.lists(st.integers(0, 2000), max_size=4), st.booleans())
@example([("attach", 0), ("numbered", 300), ("turn", 12)], [261], False)
def test_whatever_happens_nothing_is_handed_over_or_read_while_paused(
    steps: list[tuple[str, int]], pause_at: list[int], lost: bool
) -> None:
    """And everything is handed over once and in order, unless the connection is lost while paused."""

    async def scenario() -> None:
        story = Story(pause_at)
        listener = story.listener
        for step in steps:
            await story.take(*step)
        story.send("ping", 0)
        if lost:
            before, paused = listener.numbers.copy(), listener.paused
            story.network.lose()
            await turns(60)
            assert listener.ended()
            assert listener.numbers == (before if paused else list(range(len(listener.numbers))))
            return
        await story.take("attach", 0)
        for _ in range(len(pause_at) + 1):
            listener.resume()
            await story.take("turn", story.sent // 10 + 30)
        assert listener.numbers == list(range(story.sent))
        assert listener.stream.held_bytes == 0

    asyncio.run(scenario())


def test_a_large_message_is_not_kept_once_it_was_handed_over() -> None:
    """Nothing may come after it for hours, on each of many connections."""

    async def scenario() -> None:
        listener = Listener()
        listener.attach()
        size = 900_000
        tracemalloc.start()
        try:
            listener.network.arrived += frame(b"%08d" % 1 + bytes(size)) + frame(b"%08d" % 2)[:5]
            await listener.read_all()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert listener.numbers == [1]
        assert kept < size / 2

    asyncio.run(scenario())


def test_a_stream_reads_nothing_more_of_a_large_frame_until_there_is_room() -> None:
    """Frames that are not whole count, those of all sessions together."""

    async def scenario() -> None:
        listener, other = Listener(), Listener()
        buffers = Buffers(1_000_000, 300_000)
        for one in (listener, other):
            one.stream.buffers = buffers
            one.attach()
            one.network.arrived += frame(b"%08d" % 1 + bytes(900_000))[:600_000]
            await one.read_all()
        assert buffers.full
        assert listener.stream.held_bytes == 600_000, "there was room for the first one"
        assert not other.network.is_reading()
        other.network.arrived += bytes(100_000)
        await other.read_all()
        assert other.stream.held_bytes == 2 * READ, "one read more than there is room for"
        listener.network.lose()
        await listener.read_all()
        assert listener.stream.held_bytes == 0
        await other.read_all()
        assert other.stream.held_bytes == 700_000

    asyncio.run(scenario())
