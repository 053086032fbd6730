"""The gauges of a replica that are computed when Prometheus asks for them."""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product

from bridge import plan
from bridge.config import Config
from bridge.shard import Shard
from bridge.watch.metrics import Metrics
from bridge.watch.readiness import STATES, Standing, State, counts

_SCRAPE = 0.5  # seconds; series that are computed within such a time are of one scrape


def register(metrics: Metrics, config: Config, shards: Mapping[int, Shard]) -> None:
    """Register them, also those of shards that no replica serves.

    `shards` is a live view of the shards that this replica serves.
    """
    gauge = metrics.gauge
    standings = _Standings(shards)

    def sum_of(figure: Callable[[Shard], float]) -> Callable[[], float]:
        return lambda: sum(figure(shard) for shard in shards.values())

    def is_paused(number: int) -> bool:
        return number in shards and shards[number].paused

    gauge("spool_limit_bytes").value = config.spool.max_bytes
    for number in range(config.kafka.shards):
        gauge("shard_owned", shard=str(number)).value = 0
        gauge("reading_paused", shard=str(number)).read = partial(is_paused, number)
        for channel, state in product(sorted(plan.channels(config)), STATES):
            read = partial(standings.subscriptions, number, channel, state)
            gauge("subscriptions", shard=str(number), channel=channel, state=state).read = read
    for account in config.accounts:
        gauge("account_ready", account=account.name).read = partial(standings.is_account_ready, account.name)
    gauge("pending_records").read = sum_of(lambda shard: shard.queues.pending_records)
    gauge("pending_bytes", part="queue").read = sum_of(lambda shard: shard.queues.pending_bytes)
    gauge("pending_bytes", part="exchange").read = sum_of(lambda shard: shard.held_bytes)
    gauge("book_suspect").read = sum_of(lambda shard: shard.suspect_books)
    gauge("spool_bytes").read = sum_of(lambda shard: shard.overflow.size)
    gauge("spool_records").read = sum_of(lambda shard: shard.overflow.waiting)


class _Standings:
    """How the connectors of each shard stand, looked at once for all series of a scrape."""

    def __init__(self, shards: Mapping[int, Shard]) -> None:
        self._shards = shards
        self._looked_at = -_SCRAPE  # when they were last looked at, in monotonic seconds
        self._standings: Mapping[int, Sequence[Standing]] = {}
        self._counts: Mapping[int, Mapping[tuple[str, State], int]] = {}

    def subscriptions(self, shard: int, channel: str, state: State) -> float:
        """Return the number of subscriptions in a state."""
        self._look()
        return self._counts[shard][channel, state] if shard in self._counts else 0.0

    def is_account_ready(self, account: str) -> float:
        """Return 1 if the account has sessions here, and all of them are live."""
        self._look()
        own = [one for standings in self._standings.values() for one in standings if one.account == account]
        return float(bool(own) and all(one.live for one in own))

    def _look(self) -> None:
        now = time.monotonic()
        if now > self._looked_at + _SCRAPE:
            self._looked_at = now
            self._standings = {number: shard.standings() for number, shard in self._shards.items()}
            self._counts = {number: counts(standings) for number, standings in self._standings.items()}
