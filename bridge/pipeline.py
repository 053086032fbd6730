"""Turns pushes into records, frames that cannot become records into dead letters, and counts both.

Longer than 350 lines because what becomes of a push, and what is reported of it, belong together.
"""

import traceback
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import msgspec
import structlog
from msgspec import Raw

from bridge.allowance import Allowance, Strays
from bridge.channels import BEGIN_CLEAN, CHANNELS, PRIVATE
from bridge.channels.channel import Normalise, Normaliser, Outcome, Overlap, Source
from bridge.channels.figures import Name
from bridge.errors import BadFrame, BadItem, DeadLetterReason, Unsubscribed
from bridge.exchange.frames import Push
from bridge.ledger import Gap, Watermarks
from bridge.records import DeadLetter, Record, deadletter, session_of
from bridge.watch.metrics import Counter, Gauge, Histogram
from bridge.watch.watch import Watch

log = structlog.get_logger(__name__)

# What a normaliser raises for params of the wrong shape.
_WRONG_SHAPE = (BadItem, msgspec.ValidationError, UnicodeError)

# All that is raised for a push because of what is in it.
_FORESEEN = (*_WRONG_SHAPE, msgspec.DecodeError, RecursionError)

# Of a gap in a private channel: the frame is in the dead letters.
_NOT_ALL = "a push could not become records, or not all of it"


class _Named(msgspec.Struct, array_like=True):
    clean: Raw
    body: Raw
    symbol: Name


_decode_named = msgspec.json.Decoder(_Named).decode

# Bytes of a frame above which few are kept in dead letters, and µs until one more may be: on its way to Kafka
# each takes several times its size in memory.
_LARGE = 1_048_576
_UNTIL_LARGE = 10_000_000

MOST_REMARKED = 64
"""Fields that the exchange has added which are reported of one channel."""

Emit = Callable[[Sequence[Record]], Sequence[Record]]
"""Queue records for Kafka; return those that are too large for it."""


OnMarkets = Callable[[Sequence[Record], Source], None]
"""Take the records of a push of a channel that lists markets, and the session that brought it."""


class _Lane:
    """One channel's normaliser and metrics.

    `wanted`: its records go to Kafka, else they are dropped. `on_markets`, if any, is called with the
    records of each push.
    """

    __slots__ = (
        "duplicates",
        "lag",
        "last_push",
        "live_duplicates",
        "normalise",
        "normaliser",
        "on_markets",
        "recovered",
        "remarked",
        "wanted",
        "whole",
    )

    normaliser: Normaliser
    normalise: Normalise  # its `push`, found once
    wanted: bool
    on_markets: OnMarkets | None
    lag: Histogram
    last_push: Gauge
    duplicates: Counter
    live_duplicates: Counter
    recovered: Counter
    whole: Allowance | None  # of frames in dead letters; None: no end of them
    remarked: set[str]  # fields added by the exchange that are reported; at most MOST_REMARKED


class Pipeline:
    """Takes the pushes and bad frames of the sessions of one shard, and passes records to `emit`.

    The records of channels that are not `wanted` are dropped. `watermarks` say which trades are on Kafka
    already. `on_markets`, if any, is called for each push of a channel that lists markets.
    """

    def __init__(
        self,
        *,
        wanted: Collection[str],
        emit: Emit,
        watermarks: Watermarks,
        watch: Watch,
        on_markets: OnMarkets | None,
    ) -> None:
        self._emit = emit
        self._journal = watch.journal
        self._confidential = watch.confidential
        self._has_accounts = not PRIVATE.isdisjoint(wanted)
        self._strays = Strays()
        self._large = Allowance(1, _UNTIL_LARGE)  # of large frames in dead letters
        self._metrics = metrics = watch.metrics
        self._lanes: dict[str, _Lane] = {}  # by channel; complete from the start
        for name, channel in CHANNELS.items():
            lane = self._lanes[name] = _Lane()
            lane.normaliser = channel.normaliser(watermarks)
            lane.normalise = lane.normaliser.push
            lane.wanted = name in wanted
            lane.on_markets = on_markets if channel.lists_markets else None
            lane.lag = metrics.histogram("exchange_lag_seconds", channel=name)
            lane.last_push = (
                metrics.gauge("last_push_timestamp_seconds", channel=name) if lane.wanted else Gauge()
            )
            lane.duplicates = metrics.counter("duplicates_total", channel=name)
            lane.live_duplicates = metrics.counter("live_duplicates_total", channel=name)
            lane.recovered = metrics.counter("recovered_total", channel=name)
            lane.remarked = set()
            lane.whole = Allowance() if channel.overlap is Overlap.STATE else None

    def push(self, push: Push, source: Source, received_us: int, frame: bytes) -> None:
        """Make records of one push. If any of it cannot become a record, `frame` becomes a dead letter."""
        lane = self._lanes.get(push.channel)
        if lane is None:
            detail = f"method {push.channel[:100] + '.update'!r}"
            self._deadletter("unknown_method", None, detail, source, received_us, frame)
            return
        try:
            outcome = lane.normalise(push.params, source, received_us)
        except Exception as error:  # noqa: BLE001 - whatever it is must not end the session
            self._failed(push, error, source, received_us, frame)
            return
        if outcome.unsubscribed:
            self._unsubscribed(push.channel, outcome.unsubscribed, source, received_us, frame)
        if push.added or outcome.added:
            self._remark(push, outcome, lane, source)
        lane.last_push.value = received_us / 1e6
        if outcome.time_us is not None:
            lane.lag.observe((received_us - outcome.time_us) / 1e6)
        if lane.wanted:
            # Gaps first: once the trades after them are on Kafka, they could not be detected any more.
            for gap in outcome.gaps:
                self._record_gap(gap, lane)
            too_large = self._emit(outcome.records)
            if too_large or outcome.bad:
                bad = [*outcome.bad, *map(_too_large, too_large)]
                self._failed_partly(push, bad, source, received_us, frame)
            if outcome.duplicates:
                _count_duplicates(outcome, lane, source)
        if lane.on_markets is not None:
            lane.on_markets(outcome.records, source)

    def _failed_partly(
        self, push: Push, bad: list[str], source: Source, received_us: int, frame: bytes
    ) -> None:
        """Make a dead letter of a push with bad items."""
        channel = push.channel
        if not source.asks(channel, None):
            self._unsubscribed(channel, bad, source, received_us, frame)
            return
        if channel in BEGIN_CLEAN:
            self._lost(channel, source, _symbol(push.params))
        self._lost_private(channel, _NOT_ALL, source, received_us)
        self._deadletter("payload", channel, _summary(bad), source, received_us, frame)

    def _failed(self, push: Push, error: Exception, source: Source, received_us: int, frame: bytes) -> None:
        """Make a dead letter of a push of which nothing can become a record."""
        channel, symbol = push.channel, None
        reason: DeadLetterReason = "payload"
        if isinstance(error, _WRONG_SHAPE):
            symbol = _symbol(push.params) if channel in BEGIN_CLEAN else None
        elif isinstance(error, msgspec.DecodeError | RecursionError):
            reason = "json"
        else:
            # The next session would receive the same push. The message of an error may quote the payload.
            log.error(
                "internal error in a normaliser",
                channel=channel,
                session=source.session,
                error=type(error).__name__,
                exc_info=None if channel in PRIVATE else error,
                at=_place(error),
            )
        if isinstance(error, Unsubscribed) or not source.asks(channel, symbol):
            self._unsubscribed(channel, [str(error)], source, received_us, frame)
            return
        detail = str(error) if isinstance(error, _FORESEEN) else repr(error)
        self._lost(channel, source, symbol)
        self._lost_private(channel, _NOT_ALL, source, received_us)
        self._deadletter(reason, None if reason == "json" else channel, detail, source, received_us, frame)

    def overdue(self, now_us: int, patience_us: int) -> None:
        """Report what has waited for a list for longer than `patience_us`; both are in µs."""
        self.report_left_out(now_us)
        for lane in self._lanes.values():
            outcome = lane.normaliser.overdue(now_us, patience_us)
            if not lane.wanted:
                continue
            for gap in outcome.gaps:
                self._record_gap(gap, lane)
            for record in self._emit(outcome.records):
                self._deadletter(
                    "payload",
                    record.channel,
                    _too_large(record),
                    Source(session_of(record)),
                    now_us,
                    record.value,
                )

    def bad(self, bad: BadFrame, source: Source, received_us: int, frame: bytes) -> None:
        """Make a dead letter of a frame that is not a message of the protocol.

        Unless it is a message that the API does not have, it may have held anything: something of each series
        of this session is lost. What a private channel pushed comes never again, so that is a gap.
        """
        if bad.reason == "decompression":
            self._metrics.counter("decompression_errors_total").value += 1
        self._deadletter(bad.reason, None, bad.detail, source, received_us, frame)
        if bad.reason == "unknown_method":
            return
        self.lost(source)
        for channel in source.channels:
            self._lost_private(channel, "a frame could not be read", source, received_us)

    def lost(self, source: Source) -> None:
        """Note that a frame of this session could not be read, which is reported already."""
        for channel in self._lanes:
            if channel in source.channels or source.of(channel):
                self._lost(channel, source, None)

    def _lost(self, channel: str, source: Source, symbol: str | None) -> None:
        """Note that a push cannot become a record, and have a new list or snapshot requested."""
        self._lanes[channel].normaliser.lost(source, symbol)
        if channel in BEGIN_CLEAN:
            source.incomplete.add(channel)

    def _lost_private(self, channel: str, detail: str, source: Source, received_us: int) -> None:
        """Record the loss of something that a private channel has pushed: it comes never again."""
        if source.account is None or not CHANNELS[channel].private:
            return
        self._journal.record(
            "gap",
            session=source.session,
            account=source.account,
            channel=channel,
            cause="damaged_frame",
            detail=detail,
            after_us=min(source.heard_us or received_us, received_us),
            before_us=received_us,
            filled=0,
        )

    def _unsubscribed(
        self, channel: str, others: list[str], source: Source, received_us: int, frame: bytes
    ) -> None:
        """Make a dead letter of what was not asked for, if there were not too many; else count it."""
        if self._strays.keeps(received_us, source.account):
            self._deadletter("unsubscribed", channel, _summary(others), source, received_us, frame)
        else:
            self._metrics.counter("deadletters_total", reason="unsubscribed").value += 1

    def report_left_out(self, now_us: int | None = None) -> None:
        """Record how many pushes were left out that were not asked for: once a minute; without time, now."""
        for account, number in self._strays.take_left_out(now_us):
            detail = f"{number} pushes of what was not subscribed to, besides those in the dead letters"
            self._journal.record("pushes_left_out", account=account, detail=detail)

    def _remark(self, push: Push, outcome: Outcome, lane: _Lane, source: Source) -> None:
        """Report fields that the exchange has added, each once."""
        for field in (*push.added, *outcome.added):
            if lane.wanted and field not in lane.remarked and len(lane.remarked) < MOST_REMARKED:
                lane.remarked.add(field)
                self._journal.record(
                    "unknown_field",
                    session=source.session,
                    account=source.account,
                    channel=push.channel,
                    field=self._confidential.words(field),
                )

    def _record_gap(self, gap: Gap, lane: _Lane) -> None:
        lane.recovered.value += gap.filled
        self._journal.record_gap(gap)

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
        detail = self._confidential.words(detail)
        if frame and self._confidential.repeats(frame):
            why = "it repeats credentials, or cannot be searched for them"
            detail = f"frame of {len(frame)} bytes withheld: {why}; {detail}"
            frame = b""
        private = source.account is not None or channel in PRIVATE
        if private and not self._has_accounts:
            # Whoever's it is, there is no place for it.
            private, detail, frame = False, f"frame of {len(frame)} bytes withheld: there is no account", b""
        # Nothing of a private payload is logged, and a detail may quote it.
        shown = {} if private else {"detail": detail}
        log.warning("dead letter", reason=reason, channel=channel, **shown, session=source.session)

        def letter(detail: str, frame: bytes) -> Record:
            kept = DeadLetter(
                session=source.session,
                received_us=received_us,
                reason=reason,
                channel=channel,
                detail=detail,
                frame_base64=frame,
            )
            return deadletter(kept, private=private)

        whole = None if channel is None else self._lanes[channel].whole
        if frame and whole is not None and not whole.take(received_us):
            detail = f"frame of {len(frame)} bytes omitted: not the first of its kind; {detail}"
            frame = b""
        elif len(frame) > _LARGE and not self._large.take(received_us):
            detail = f"frame of {len(frame)} bytes omitted: one so large was kept shortly before; {detail}"
            frame = b""
        if self._emit([letter(detail, frame)]):
            detail = f"frame of {len(frame)} bytes omitted: too large for its topic; {detail}"
            self._emit([letter(detail, b"")])


def _place(error: Exception) -> str:
    """Return the file and line at which an error was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "unknown"


def _count_duplicates(outcome: Outcome, lane: _Lane, source: Source) -> None:
    lane.duplicates.value += outcome.duplicates
    if not source.overlapping:
        lane.live_duplicates.value += outcome.live_duplicates


def _too_large(record: Record) -> str:
    return f"a record of {len(record.value)} bytes is too large for its topic"


def _symbol(params: bytes) -> str | None:
    """Return the symbol in params `[clean, …, symbol]`; None if they are not like that."""
    try:
        return _decode_named(params).symbol
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _summary(bad: list[str]) -> str:
    return bad[0] if len(bad) == 1 else f"{len(bad)} bad items, the first: {bad[0]}"
