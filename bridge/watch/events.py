"""Events in the life of the data and the sessions, as records of `<prefix>.events.v1`.

Those of an account or a private channel are records of `<private prefix>.events.v1` instead.

The schema leaves the kinds open, so that a kind can be added within v1; `docs/events.md`
describes each, and a test holds it to `Kind`.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias, TypedDict, Unpack

import msgspec
import structlog
from msgspec.structs import replace

from bridge.channels import PRIVATE
from bridge.ledger import Gap
from bridge.records import EVENTS, MOST_DETAIL, PRIVATE_EVENTS, Cause, Kind, Mark, Open, Record
from bridge.watch.metrics import Metrics

log = structlog.get_logger(__name__)


# The fields of an event that its log line has, as far as they apply.
_LOGGED = (
    "shard",
    "session",
    "account",
    "channel",
    "symbol",
    "cause",
    "detail",
    "after_id",
    "after_us",
    "before_id",
    "before_us",
    "filled",
    "field",
    "check",
)

Emit: TypeAlias = Callable[[Sequence[Record]], Sequence[Record] | None]
"""Queue records for Kafka; return those that are too large for it."""

ClosedBy: TypeAlias = Literal["clean_list"]
"""The proof that a gap in trades is filled completely."""


class DifferingLevel(msgspec.Struct, frozen=True):
    """A price at which a book differs from a snapshot, with the amount in each; None: it is not there."""

    side: Literal["asks", "bids"]
    price: str
    kept: str | None
    found: str | None


class About(TypedDict, total=False):
    """The fields that depend on the kind of event; times are in microseconds since the epoch."""

    session: str
    account: str | None
    channel: str
    symbol: str | None
    cause: Cause
    detail: str | None
    after_id: int
    after_us: int | None
    before_id: int
    before_us: int
    filled: int
    closed_by: ClosedBy | None
    field: str
    check: str
    levels: Sequence[DifferingLevel]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event; a field that does not apply to its kind is null."""

    schema: str = "digifinex.events.v1"
    event: Kind
    received_us: int
    replica: str
    shard: int
    session: str | None = None
    account: str | None = None
    channel: str | None = None
    symbol: str | None = None
    cause: Cause | None = None
    detail: str | None = None
    after_id: int | None = None
    after_us: int | None = None
    before_id: int | None = None
    before_us: int | None = None
    filled: int | None = None
    closed_by: ClosedBy | None = None
    field: str | None = None
    check: str | None = None
    levels: Sequence[DifferingLevel] | None = None


def _log(event: Event) -> None:
    """Log the kinds of events that nothing else logs."""
    about = {name: value for name in _LOGGED if (value := getattr(event, name)) is not None}
    if _is_private(event):
        about.pop("field", None)  # a part of the payload
    match event.event:
        case "gap" if event.closed_by is not None:
            log.debug("gap filled", **about)
        case "gap" if event.cause == "first_listened":
            log.info("private channel listened to for the first time", **about)
        case "gap":
            log.warning("gap not filled", **about)
        case "ids_restarted":
            log.warning("trade ids began anew", **about)
        case "book_too_large":
            log.warning("book not sent, too large or rejected", **about)
        case "book_suspect":
            log.warning("book suspected to be damaged", **about)
        case "unknown_field":
            log.warning("unknown field ignored", **about)
        case "pushes_left_out":
            log.warning("pushes that were not subscribed to left out", **about)
        case "markets_left_out":
            log.error("more markets than max_markets, the rest is left out", **about)
        case "records_lost":
            log.warning("previous owner left records undelivered", **about)
        case _:
            _log_of_kafka(event.event, about)


def _log_of_kafka(kind: Kind, about: Mapping[str, object]) -> None:
    match kind:
        case "cluster_changed":
            log.error("Kafka is another cluster, or has other topics", **about)
        case "partitions_grown":
            log.warning("partitions added, keys have moved", **about)
        case "second_bridge":
            log.error("another bridge waits for this one to end", **about)
        case "state_unreadable":
            log.error("state unreadable, treated as unknown", **about)


def _is_private(event: Event) -> bool:
    return event.account is not None or event.channel in PRIVATE


class Journal:
    """Records the events of one shard of a replica: passes records to `emit`, counts them, and logs them."""

    def __init__(self, replica: str, shard: int, emit: Emit, metrics: Metrics) -> None:
        self._replica = replica
        self._shard = shard
        self._emit = emit
        self._metrics = metrics

    def record(self, kind: Kind, **about: Unpack[About]) -> None:
        """Record and count an event that happens now, and log it unless the code that found it has.

        Its key is its symbol, else its account, else the shard. A gap has a channel; one that is not closed
        counts as a gap by its cause. An event that is too large for its topic loses its detail.
        """
        self._record(kind, None, about)

    def record_gap(self, gap: Gap) -> None:
        """Record that trades were missed, and how many of them a clean list filled in.

        Where ids begin anew, an event of its own says so.
        """
        bounds: About = {"channel": "trades", "symbol": gap.symbol.decode(), **gap.stretch._asdict()}  # type: ignore[typeddict-item]
        if gap.session is not None:
            bounds["session"] = gap.session
        if gap.cause == "ids_restarted":
            # The gap's mark would say that the gap is on Kafka, too.
            mark = gap.mark and (None, 0, gap.mark[2], Open())
            self._record("ids_restarted", mark, bounds)
        bounds["cause"] = gap.cause
        bounds["filled"] = gap.filled
        bounds["closed_by"] = "clean_list" if gap.closed else None
        self._record("gap", gap.mark, bounds)

    def _record(self, kind: Kind, mark: Mark | None, about: About) -> None:
        now_us = time.time_ns() // 1000
        if (detail := about.get("detail")) is not None:
            about["detail"] = detail[:MOST_DETAIL]
        event = Event(event=kind, received_us=now_us, replica=self._replica, shard=self._shard, **about)
        key = event.symbol or event.account or str(self._shard)
        counter = self._metrics.counter
        counter("events_total", event=kind).value += 1
        if kind == "gap" and event.closed_by is None:
            counter("gaps_total", channel=event.channel or "", cause=event.cause or "").value += 1
        _log(event)
        topic = PRIVATE_EVENTS if _is_private(event) else EVENTS
        if not self._emit([Record(topic, key.encode(), msgspec.json.encode(event), now_us, mark)]):
            return
        event = replace(event, detail=None)
        if self._emit([Record(topic, key.encode(), msgspec.json.encode(event), now_us, mark)]):
            counter("kafka_errors_total", error="EventTooLarge").value += 1
            log.error("event lost, too large for its topic", kind=kind, shard=str(self._shard))
