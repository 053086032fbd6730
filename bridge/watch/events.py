"""Events in the life of the data and the sessions, as records of `<prefix>.events.v1`.

The schema leaves the kinds open, so that a kind can be added within v1; `docs/events.md`
describes each, and a test holds it to `Kind`.
"""

import time
from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias, TypedDict, Unpack

import msgspec

from bridge.ledger import Gap
from bridge.records import EVENTS, Cause, Kind, Mark, Record
from bridge.watch.metrics import Metrics

ClosedBy: TypeAlias = Literal["clean_list"]
"""The proof that a gap in trades is filled completely."""


class About(TypedDict, total=False):
    """The fields that depend on the kind of event; times are in microseconds since the epoch."""

    session: str
    account: str | None
    channel: str
    symbol: str | None
    cause: Cause
    detail: str
    after_id: int
    after_us: int
    before_id: int
    before_us: int
    filled: int
    closed_by: ClosedBy | None


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


class Journal:
    """Records the events of one shard of a replica, by passing records to `emit`, and counts them."""

    def __init__(
        self, replica: str, shard: int, emit: Callable[[Sequence[Record]], object], metrics: Metrics
    ) -> None:
        self._replica = replica
        self._shard = shard
        self._emit = emit
        self._metrics = metrics

    def record(self, kind: Kind, **about: Unpack[About]) -> None:
        """Record and count an event that happens now.

        Its key is its symbol, else its account, else the shard. A gap has a channel; one that is not closed
        counts as a gap by its cause.
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
            self._record("ids_restarted", None, bounds)
        bounds["cause"] = gap.cause
        bounds["filled"] = gap.filled
        bounds["closed_by"] = "clean_list" if gap.closed else None
        self._record("gap", gap.mark, bounds)

    def _record(self, kind: Kind, mark: Mark | None, about: About) -> None:
        now_us = time.time_ns() // 1000
        event = Event(event=kind, received_us=now_us, replica=self._replica, shard=self._shard, **about)
        key = event.symbol or event.account or str(self._shard)
        counter = self._metrics.counter
        counter("events_total", event=kind).value += 1
        if kind == "gap" and event.closed_by is None:
            counter("gaps_total", channel=event.channel or "", cause=event.cause or "").value += 1
        self._emit([Record(EVENTS, key.encode(), msgspec.json.encode(event), now_us, mark)])
