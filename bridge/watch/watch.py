"""Where the parts of a shard report: metrics for Prometheus, the journal for the events topic."""

from dataclasses import dataclass, field

from bridge.exchange.clock import ServerClock
from bridge.exchange.words import Confidential
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Watch:
    """The metrics and the journal of one shard, and what its parts share to report.

    `confidential` is what none of the reports may contain, `clock` what its sessions have found of the
    exchange's clock.

    `shard` is the shard's number as the label of its metrics and log lines: "0", "1" and so on.
    """

    shard: str
    metrics: Metrics
    journal: Journal
    confidential: Confidential = field(default_factory=Confidential)
    clock: ServerClock = field(default_factory=ServerClock)
