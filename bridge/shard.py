"""A shard: a fixed share of the subscriptions, from its sessions through its pipeline to its sink."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

import structlog

from bridge import plan
from bridge.config import AccountConfig, Config, Delivery
from bridge.connector import Connector
from bridge.exchange.session import Credentials
from bridge.kafka.sink import Sink
from bridge.kafka.topics import Topic
from bridge.metrics import Metrics
from bridge.pipeline import Pipeline

log = structlog.get_logger(__name__)

# Of the 10 s that a stop may take: what is queued gets this long; goodbyes and closing need the rest.
_DRAIN = 4.5


class Shard:
    """One shard, numbered from 0, of a bridge that `stop` ends; `failed` if a mistake of our own set it."""

    def __init__(
        self,
        number: int,
        config: Config,
        topics: Mapping[str, Topic],
        metrics: Metrics,
        stop: asyncio.Event,
    ) -> None:
        self.failed = False
        self._stop = stop
        self._config = config
        self._metrics = metrics
        self._label = str(number)
        self._number = number
        self._plan = plan.plan(config, number)
        self._markets: set[bytes] = set()
        self._paused = metrics.gauge("reading_paused", shard=self._label)
        exactly_once = config.kafka.delivery is Delivery.EXACTLY_ONCE
        self.sink = Sink(
            config.kafka,
            topics,
            transactional_id=f"{config.kafka.group_id}-{number}" if exactly_once else None,
            metrics=metrics,
            on_room=self._on_room,
        )
        self._pipeline = Pipeline(
            wanted=self._plan.records,
            emit=self.sink.add,
            metrics=metrics,
            on_tickers=self._follow if self._plan.follows else None,
        )
        self._connectors = [self._connector(wanted) for wanted in self._plan.public]
        self._connectors += [self._connector(wanted, account) for account, wanted in self._plan.private]
        self._group = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def run(self) -> int:
        """Serve until `stop`, then deliver what was received; return how many records were left behind."""
        async with self._group:
            delivering = self._group.create_task(self._part(self.sink.run), name=f"sink {self._label}")
            for connector in self._connectors:
                self._start(connector)
            await self._stop.wait()
            self._stopping = True
            for task in self._running:
                task.cancel()
            if self._running:
                await asyncio.wait(self._running)
            self.sink.drain()
            await asyncio.wait({delivering}, timeout=_DRAIN)
            delivering.cancel()
        return self.sink.pending_records

    def missing(self) -> dict[str, object]:
        """Say what keeps the shard from being ready; nothing if it is."""
        missing: dict[str, object] = {}
        if (kafka := self.sink.missing()) is not None:
            missing["kafka"] = kafka
        subscriptions = [text for connector in self._connectors for text in connector.missing()]
        if subscriptions:
            missing["subscriptions"] = subscriptions
        return missing

    def _connector(self, wanted: plan.Wanted, account: AccountConfig | None = None) -> Connector:
        credentials = None
        if account is not None:
            credentials = Credentials(account.api_key.get_secret_value(), account.secret.get_secret_value())
        return Connector(
            wanted,
            config=self._config.exchange,
            receiver=self._pipeline,
            metrics=self._metrics,
            shard=self._label,
            account=account.name if account else None,
            credentials=credentials,
        )

    def _start(self, connector: Connector) -> None:
        task = self._group.create_task(self._part(connector.run), name=f"connector {self._label}")
        self._running.add(task)

    async def _part(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run a part of the shard; if it fails, the bridge stops as on a signal, and delivers what it has."""
        try:
            await run()
        except Exception:
            log.exception("a part of the bridge failed, so it stops", shard=self._label)
            self.failed = True
            self._stop.set()

    def _on_room(self, room: bool) -> None:
        self._paused.value = 0 if room else 1
        log.warning("reading on" if room else "reading paused: too much waits for Kafka", shard=self._label)
        for connector in self._connectors:
            if room:
                connector.resume()
            else:
                connector.pause()

    def _follow(self, markets: Collection[bytes]) -> None:
        """Subscribe to what all_ticker told of for the first time, except when saying goodbye."""
        if self._stopping:
            return
        shards = self._config.kafka.shards
        symbols = sorted(
            symbol
            for symbol in (market.decode() for market in markets if market not in self._markets)
            if plan.shard_of(symbol, shards) == self._number
        )
        self._markets.update(markets)
        if symbols:
            log.info("markets found", shard=self._label, symbols=symbols)
        for symbol in symbols:
            for channel in self._plan.follows:
                self._subscribe(channel, symbol)

    def _subscribe(self, channel: str, symbol: str) -> None:
        """Add a subscription to the newest session, or to one of its own when that is full."""
        newest = next((c for c in reversed(self._connectors) if c.account is None), None)
        if newest is not None and plan.count(newest.wanted) < self._config.exchange.subscriptions_per_session:
            newest.subscribe(channel, [symbol])
            return
        connector = self._connector({channel: [symbol]})
        if self._paused.value:
            connector.pause()
        self._connectors.append(connector)
        self._start(connector)
