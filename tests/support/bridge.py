"""The path of a frame from the connection to the sink: session, pipeline."""

from collections.abc import Sequence

from bridge.channels import CHANNELS
from bridge.channels.channel import Source
from bridge.errors import BadFrame
from bridge.exchange.session import Session, Timing
from bridge.pipeline import Pipeline
from bridge.records import Record
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.watch.watch import Watch

LIMIT = 65_536
RECEIVED_US = 1_600_000_000_000_000


class Bridge:
    """Takes the frames of one session of an account, and keeps the records that would go to Kafka."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.records: list[Record] = []
        self._source = Source("s1", "main")
        self._session = Session({}, timing=Timing(), wall_offset=0.0, max_frame_bytes=LIMIT)
        self._session.start(0.0)
        self._pipeline = Pipeline(
            wanted=CHANNELS,
            emit=self._emit,
            watermarks={},
            watch=Watch("0", self.metrics, Journal("replica", 0, self._emit, self.metrics)),
            on_markets=None,
        )

    def receive(self, frame: bytes, *, binary: bool) -> None:
        """Process a frame; an answer makes no records."""
        try:
            push = self._session.receive(frame, binary, 0.0)
        except BadFrame as bad:
            self._pipeline.bad(bad, self._source, RECEIVED_US, frame)
            return
        if push is not None:
            self._pipeline.push(push, self._source, RECEIVED_US, frame)

    def _emit(self, records: Sequence[Record]) -> Sequence[Record]:
        self.records += records
        return ()
