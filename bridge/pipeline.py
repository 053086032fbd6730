"""The path of every frame: a push becomes records, what can't be one a dead letter, and all is counted."""

from collections.abc import Callable, Collection, Sequence

import msgspec
import structlog

from bridge.channels import CHANNELS
from bridge.channels.channel import Normalise, Source
from bridge.errors import BadFrame, BadItem, DeadLetterReason
from bridge.exchange.frames import Push
from bridge.ledger import Gap, Watermarks
from bridge.records import Record, deadletter
from bridge.watch.events import Journal
from bridge.watch.metrics import Counter, Gauge, Histogram, Metrics

log = structlog.get_logger(__name__)

_DETAIL = 500  # characters of a dead letter's detail

# What a normaliser raises for params of the wrong shape.
_WRONG_SHAPE = (BadItem, msgspec.ValidationError, UnicodeError)


Emit = Callable[[Sequence[Record]], Sequence[Record]]


class _Lane:
    """One channel's normaliser and what is counted of it."""

    __slots__ = ("duplicates", "gaps", "lag", "last_push", "normalise", "recovered", "wanted")

    normalise: Normalise
    wanted: bool
    lag: Histogram
    last_push: Gauge
    duplicates: Counter
    recovered: Counter
    gaps: Counter


class Pipeline:
    """Takes what the sessions of one shard bring, and gives records to `emit`.

    `emit` returns those that are too large for Kafka. Records of channels outside of `wanted`
    are made and dropped. `watermarks` tell which trades are on Kafka already; gaps are told to the `journal`.
    `on_tickers`, if any, is called with the keys of each push of all_ticker.
    """

    def __init__(
        self,
        *,
        wanted: Collection[str],
        emit: Emit,
        watermarks: Watermarks,
        journal: Journal,
        metrics: Metrics,
        on_tickers: Callable[[Collection[bytes]], None] | None,
    ) -> None:
        self._emit = emit
        self._journal = journal
        self._metrics = metrics
        self._on_tickers = on_tickers
        self._lanes: dict[str, _Lane] = {}
        for name, channel in CHANNELS.items():
            lane = self._lanes[name] = _Lane()
            lane.normalise = channel.normaliser(watermarks)
            lane.wanted = name in wanted
            lane.lag = metrics.histogram("exchange_lag_seconds", channel=name)
            lane.last_push = (
                metrics.gauge("last_push_timestamp_seconds", channel=name) if lane.wanted else Gauge()
            )
            lane.duplicates = metrics.counter("duplicates_total", channel=name)
            lane.recovered = metrics.counter("recovered_total", channel=name)
            lane.gaps = metrics.counter("gaps_total", channel=name)

    def push(self, push: Push, source: Source, received_us: int, frame: bytes) -> None:
        """Make records of one push; `frame` is kept whole if anything of it can't be one."""
        lane = self._lanes.get(push.channel)
        if lane is None:
            detail = f"method {push.channel[:100] + '.update'!r}"
            self._deadletter("unknown_method", None, detail, source, received_us, frame)
            return
        try:
            outcome = lane.normalise(push.params, source, received_us)
        except _WRONG_SHAPE as error:
            self._deadletter("payload", push.channel, str(error), source, received_us, frame)
            return
        except (msgspec.DecodeError, RecursionError) as error:
            self._deadletter("json", None, str(error), source, received_us, frame)
            return
        except Exception as error:
            # Our own mistake must not end the session: the same push would come again on the next one.
            log.exception("a normaliser failed", channel=push.channel, session=source.session)
            self._deadletter("payload", push.channel, repr(error), source, received_us, frame)
            return
        lane.last_push.value = received_us / 1e6
        if outcome.time_us is not None:
            lane.lag.observe((received_us - outcome.time_us) / 1e6)
        if lane.wanted:
            if outcome.gap is not None:
                # The gap first: once the trades behind it are on Kafka, nobody could tell of it any more.
                self._tell(outcome.gap, lane, source)
            bad = outcome.bad
            for record in self._emit(outcome.records):
                bad = [*bad, f"a record of {len(record.value)} bytes is larger than its topic takes"]
            if bad:
                self._deadletter("payload", push.channel, _told(bad), source, received_us, frame)
            lane.duplicates.value += outcome.duplicates
        if self._on_tickers is not None and push.channel == "all_ticker":
            self._on_tickers({record.key for record in outcome.records if record.key is not None})

    def bad(self, bad: BadFrame, source: Source, received_us: int, frame: bytes) -> None:
        """Make a dead letter of a frame that is no message of the protocol."""
        if bad.reason == "decompression":
            self._metrics.counter("decompression_errors_total").value += 1
        self._deadletter(bad.reason, None, bad.detail, source, received_us, frame)

    def _tell(self, gap: Gap, lane: _Lane, source: Source) -> None:
        lane.recovered.value += gap.filled
        if not gap.closed:
            lane.gaps.value += 1
        self._journal.record_gap(gap, source.session, source.cause)

    def _deadletter(
        self,
        reason: DeadLetterReason,
        channel: str | None,
        detail: str,
        source: Source,
        received_us: int,
        frame: bytes,
    ) -> None:
        self._metrics.counter("deadletters_total", reason=reason).value += 1
        detail = detail[:_DETAIL]
        log.warning("dead letter", reason=reason, channel=channel, detail=detail, session=source.session)

        def letter(detail: str, frame: bytes) -> Record:
            return deadletter(
                session=source.session,
                received_us=received_us,
                reason=reason,
                channel=channel,
                detail=detail,
                frame=frame,
            )

        if self._emit([letter(detail, frame)]):
            detail = f"frame of {len(frame)} bytes left out, too large for its topic; {detail}"
            self._emit([letter(detail, b"")])


def _told(bad: list[str]) -> str:
    return bad[0] if len(bad) == 1 else f"{len(bad)} bad items, the first: {bad[0]}"
