"""Fuzzes the path of a frame from the socket to the records: inflate, decode, session, handover, pipeline.

    python -m tests.fuzz.fuzz_frames                        until it finds something
    python -m tests.fuzz.fuzz_frames -max_total_time=60     for a minute
    python -m tests.fuzz.fuzz_frames crash-...              replays what it found

Takes libFuzzer's options. An input is a conversation with one frame on each line. The first byte of a line
says how the rest is packed, so that mutations of JSON survive inflating:

    z  zlib      d  raw deflate      t  a text frame      b  a binary frame as it is
    p  pause     r  resume           f  ping              s  subscribe to one more symbol

The first corpus is the golden samples. Nothing may raise, and every record is validated against its schema.
"""

import base64
import logging
import sys
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import atheris
import msgspec
import structlog

with atheris.instrument_imports(include=["bridge.channels", "bridge.exchange", "bridge.pipeline"]):
    from bridge.channels import CHANNELS
    from bridge.channels.channel import Source
    from bridge.errors import BadFrame
    from bridge.exchange.handover import Bad, Handover, Message
    from bridge.exchange.requests import Credentials
    from bridge.exchange.session import Session, Timing
    from bridge.pipeline import Pipeline
    from bridge.records import Record
    from bridge.watch.events import Journal
    from bridge.watch.metrics import Metrics
    from bridge.watch.watch import Watch
    from tests.support.schemas import validate

ROOT = Path(__file__).parents[2]
LIMIT = 4096
RECEIVED_US = 1_600_000_000_000_000
MARKETS = ["BTC_USDT", "ETH_USDT"]
CONFIRMATIONS = [b'z{"error":null,"result":{"status":"success"},"id":%d}' % number for number in range(1, 8)]


class Conversation:
    """One account's session and the pipeline behind it."""

    def __init__(self) -> None:
        self.session = Session(
            dict.fromkeys(CHANNELS, MARKETS),
            timing=Timing(),
            wall_offset=RECEIVED_US / 1e6,
            max_frame_bytes=LIMIT,
            credentials=Credentials("key", "secret"),
        )
        self.source = Source("fuzz", "main")
        self.handover: Handover[bytes] = Handover(CHANNELS)
        self.pipeline = Pipeline(
            wanted=CHANNELS,
            emit=emit,
            watermarks={},
            watch=Watch("0", METRICS, Journal("replica", 0, emit, METRICS)),
            on_markets=None,
        )
        self.now = 0.0
        self.session.start(self.now)

    def line(self, line: bytes) -> None:
        """Process one line of an input, half a second after the previous one."""
        kind, rest = line[:1], line[1:]
        self.now += 0.5
        match kind:
            case b"p":
                self.session.pause()
            case b"r":
                self.session.resume(self.now)
            case b"f":
                self.session.ping(self.now)
            case b"s":
                self.session.subscribe("trades", ["NEW_USDT"])
            case b"z":
                self.frame(zlib.compress(rest, 1), binary=True)
            case b"d":
                stream = zlib.compressobj(1, wbits=-zlib.MAX_WBITS)
                self.frame(stream.compress(rest) + stream.flush(), binary=True)
            case _:
                self.frame(rest, binary=kind == b"b")
        self.session.tick(self.now)
        while self.session.held and not self.session.over:
            self.session.send_held(self.now)
        for text in self.session.to_send():
            msgspec.json.decode(text)
        self.session.events()
        if not self.session.over:
            assert self.session.next_call() > self.now

    def frame(self, frame: bytes, *, binary: bool) -> None:
        """Receive a frame as a feed does, and keep its push for the handover."""
        try:
            push = self.session.receive(frame, binary, self.now)
        except BadFrame as bad:
            self.pipeline.bad(bad, self.source, RECEIVED_US, frame)
            self.hand_over(Bad(frame, bad), frame)
            return
        if push is not None:
            assert len(push.params) <= LIMIT
            self.pipeline.push(push, self.source, RECEIVED_US, frame)
            self.hand_over(push, frame)

    def hand_over(self, message: Message, frame: bytes) -> None:
        """Bring a message in the next session too; the present one does not bring each."""
        self.handover.hold(message, frame)
        if len(frame) % 2:
            self.handover.remember(message)

    def end(self) -> None:
        """Hand over to another session."""
        for message, frame in self.handover.release():
            if isinstance(message, Bad):
                self.pipeline.bad(message.why, Source("next", "main"), RECEIVED_US, frame)
            else:
                self.pipeline.push(message, Source("next", "main"), RECEIVED_US, frame)


def emit(records: Sequence[Record]) -> Sequence[Record]:
    """Validate records."""
    for record in records:
        validate(record)
    return ()


def conversation(data: bytes) -> None:
    """Run one input."""
    talk = Conversation()
    for line in data.split(b"\n"):
        talk.line(line)
    talk.end()


def corpus() -> list[bytes]:
    """Return two inputs for each golden sample: alone, and twice in a session that is live."""
    inputs = [b"\n".join([*CONFIRMATIONS, b"f", b"p", b"r", b"s"])]
    for path in sorted((ROOT / "tests" / "golden").glob("*/*.json")):
        sample = msgspec.json.decode(path.read_bytes(), type=dict[str, msgspec.Raw])
        if "base64" in sample:
            line = b"b" + base64.b64decode(msgspec.json.decode(sample["base64"], type=str))
        elif "frame" in sample:
            line = b"z" + bytes(sample["frame"]).replace(b"\n", b" ")
        else:
            continue
        inputs += [line, b"\n".join([*CONFIRMATIONS, line, line])]
    return inputs


def main() -> None:
    """Fuzz, or replay the inputs that the command line names."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    with tempfile.TemporaryDirectory() as found:
        for number, seed in enumerate(corpus()):
            Path(found, f"{number:03d}").write_bytes(seed)
        options = [f"-dict={Path(__file__).with_suffix('.dict')}", "-max_len=4096"]
        again = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
        atheris.Setup([sys.argv[0], *options, *sys.argv[1:], *([] if again else [found])], conversation)
        atheris.Fuzz()


METRICS = Metrics()

if __name__ == "__main__":
    main()
