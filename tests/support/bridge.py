"""The way of a frame from the socket to the sink: inflate, decode, pipeline."""

from collections.abc import Sequence

from bridge.channels import CHANNELS
from bridge.channels.channel import Source
from bridge.errors import BadFrame
from bridge.exchange.frames import Push, decode, inflate, within
from bridge.pipeline import Pipeline
from bridge.records import Record
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics

LIMIT = 65_536
RECEIVED_US = 1_600_000_000_000_000


class Bridge:
    """Takes the frames of one session of an account, and keeps what would go to Kafka."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        self.records: list[Record] = []
        self._source = Source("s1", "main")
        self._pipeline = Pipeline(
            wanted=CHANNELS,
            emit=self._emit,
            watermarks={},
            journal=Journal("replica", 0, self._emit),
            metrics=self.metrics,
            on_tickers=None,
        )

    def receive(self, frame: bytes, *, binary: bool) -> None:
        """Take a frame; an answer makes nothing."""
        try:
            message = decode(inflate(frame, LIMIT) if binary else within(frame, LIMIT))
        except BadFrame as bad:
            self._pipeline.bad(bad, self._source, RECEIVED_US, frame)
            return
        if isinstance(message, Push):
            self._pipeline.push(message, self._source, RECEIVED_US, frame)

    def _emit(self, records: Sequence[Record]) -> Sequence[Record]:
        self.records += records
        return ()
