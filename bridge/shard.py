"""A shard: a fixed share of the subscriptions, from its sessions through its pipeline to its sink."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping

import structlog

from bridge import plan
from bridge.channels import CHANNELS
from bridge.config import AccountConfig, Config, Delivery
from bridge.errors import ShardLost
from bridge.exchange.requests import Credentials
from bridge.kafka.client import transactional_id
from bridge.kafka.queues import Queues
from bridge.kafka.sink import Sink
from bridge.kafka.state import State
from bridge.kafka.topics import Topic
from bridge.pipeline import Pipeline
from bridge.records import STATE
from bridge.spool.overflow import Overflow
from bridge.spool.spool import Spool
from bridge.watch.events import About, Journal, Kind
from bridge.watch.metrics import Metrics
from bridge.watch.watch import Watch
from bridge.websocket.connector import Account, Connector
from bridge.websocket.courtesy import Courtesy

log = structlog.get_logger(__name__)

# Of the 10 s that a stop may take: what is queued gets this long; goodbyes and closing need the rest.
_DRAIN = 4.5

_PRIVATE = frozenset(name for name, channel in CHANNELS.items() if channel.private)
_NOTE_ALIVE = 1.0  # seconds between two notes that private channels are listened to


class Shard:
    """One shard, numbered from 0, as a replica serves it from taking it over to losing it.

    `failed` if a mistake of our own has ended it, `lost` if it is another replica's now, `paused` while
    it does not read from the exchange, for too much waits for Kafka.
    """

    def __init__(
        self,
        number: int,
        config: Config,
        topics: Mapping[str, Topic],
        metrics: Metrics,
        *,
        replica: str,
        is_ours: Callable[[float], Awaitable[bool]],
        courtesy: Courtesy,
    ) -> None:
        self.failed = False
        self.lost = False
        self.paused = False
        self._over = asyncio.Event()
        self._config = config
        self._courtesy = courtesy
        self._metrics = metrics
        self._label = str(number)
        self._number = number
        self._plan = plan.plan(config, number)
        self._markets: set[bytes] = set()
        kafka = config.kafka
        exactly_once = kafka.delivery is Delivery.EXACTLY_ONCE
        self._state = State(kafka, topics[STATE], number, replica)
        self.overflow = Overflow(
            spool(config, number),
            self._state,
            replica,
            self._tell,
        )
        self.queues = Queues(
            topics,
            self.overflow,
            metrics,
            max_pending_bytes=kafka.max_pending_bytes,
            on_room=self._on_room,
        )
        self._sink = Sink(
            kafka,
            topics,
            transactional_id=transactional_id(kafka, number) if exactly_once else None,
            queues=self.queues,
            overflow=self.overflow,
            state=self._state,
            is_ours=is_ours,
            metrics=metrics,
        )
        self._journal = Journal(replica, number, self.queues.add)
        self._watch = Watch(self._label, metrics, self._journal)
        self._pipeline: Pipeline
        self._connectors: list[Connector] = []
        self._group = asyncio.TaskGroup()
        self._running: set[asyncio.Task[None]] = set()
        self._stopping = False

    async def run(self) -> tuple[int, int]:
        """Serve until `stop`, then deliver what was received; return how many records were not delivered.

        First those that wait on disk, then those that are lost. Or serve until the shard is lost: then what
        was received is left to the one who has it now.
        """
        async with self._group:
            delivering = self._group.create_task(self._part(self._sink.run), name=f"sink {self._label}")
            serving = self._group.create_task(self._serve(), name=f"shard {self._label}")
            await self._over.wait()
            self._stopping = True
            serving.cancel()
            await asyncio.wait({serving})
            for task in self._running:
                task.cancel()
            if self._running:
                await asyncio.wait(self._running)
            if not self.lost:
                self.queues.drain()
                await asyncio.wait({delivering}, timeout=_DRAIN)
            delivering.cancel()
        try:
            return (0, 0) if self.lost else self.queues.park()
        finally:
            self.overflow.close()

    def stop(self) -> None:
        """End it, with all that was received delivered."""
        self._over.set()

    def lose(self, why: str) -> None:
        """End it at once, for it is another replica's now."""
        if not self._over.is_set():
            log.warning("shard lost", shard=self._label, why=why)
            self.lost = True
            self._over.set()

    def missing(self) -> dict[str, object]:
        """Say what keeps the shard from being ready; nothing if it is."""
        missing: dict[str, object] = {}
        if (kafka := self._sink.missing()) is not None:
            missing["kafka"] = kafka
        elif self.paused:
            missing["kafka"] = "too much waits for it, and the disk takes no more: reading is paused"
        subscriptions = [text for connector in self._connectors for text in connector.missing()]
        if not self._sink.taken_over.is_set():
            subscriptions = [f"shard {self._label} is being taken over"]
        if subscriptions:
            missing["subscriptions"] = subscriptions
        return missing

    async def _serve(self) -> None:
        """Subscribe, once it is known what Kafka has already."""
        await self._sink.taken_over.wait()
        previous = self._state.previous
        detail = f"from {previous.replica}" if previous else "as the first"
        log.info("shard taken over", shard=self._label, detail=detail)
        self._journal.record("takeover", detail=detail)
        self._pipeline = Pipeline(
            wanted=self._plan.records,
            emit=self.queues.add,
            watermarks=self.overflow.watermarks,
            watch=self._watch,
            on_markets=self._follow if self._plan.follows else None,
        )
        self._connectors += [self._connector(wanted) for wanted in self._plan.public]
        self._connectors += [self._connector(wanted, account) for account, wanted in self._plan.private]
        for connector in self._connectors:
            self._start(connector)
        while self._plan.private:
            await asyncio.sleep(_NOTE_ALIVE)
            self._note_alive()

    def _note_alive(self) -> None:
        """Keep until when private channels were listened to, when all that they brought is on Kafka."""
        if self.queues.pending(_PRIVATE):
            return
        for account, _ in self._plan.private:
            alive: dict[str, int] = {}
            for connector in self._connectors:
                if connector.account == account.name:
                    connector.note_heard()
                    for channel, heard_us in connector.heard_us.items():
                        alive[channel] = min(heard_us, alive.get(channel, heard_us))
            self._sink.listened(account.name, alive)

    def _connector(self, wanted: plan.Wanted, account: AccountConfig | None = None) -> Connector:
        known = None
        if account is not None:
            credentials = Credentials(account.api_key.get_secret_value(), account.secret.get_secret_value())
            known = Account(account.name, credentials, self._state.alive.get(account.name, {}))
        return Connector(
            wanted,
            config=self._config.exchange,
            courtesy=self._courtesy,
            receiver=self._pipeline,
            watch=self._watch,
            account=known,
        )

    def _start(self, connector: Connector) -> None:
        task = self._group.create_task(self._part(connector.run), name=f"connector {self._label}")
        self._running.add(task)

    async def _part(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run a part of the shard; if it fails, the bridge stops as on a signal, and delivers what it has."""
        try:
            await run()
        except ShardLost as why:
            self.lose(str(why))
        except Exception:
            log.exception("a part of the bridge failed, so it stops", shard=self._label)
            self.failed = True
            self._over.set()

    def _tell(self, kind: Kind, about: About) -> None:
        """Tell of what happens to what waits on disk."""
        if kind == "gap":
            self._metrics.counter("gaps_total", channel=about["channel"]).value += 1
        self._journal.record(kind, **about)

    def _on_room(self, room: bool) -> None:
        self.paused = not room
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
            self._subscribe([(channel, symbol) for symbol in symbols for channel in self._plan.follows])

    def _subscribe(self, subscriptions: list[plan.Subscription]) -> None:
        """Add subscriptions to the newest session as far as it has room, and for the rest open others."""
        size = self._config.exchange.subscriptions_per_session
        newest = next((c for c in reversed(self._connectors) if c.account is None), None)
        room = max(0, size - plan.count(newest.wanted)) if newest else 0
        if newest:
            for wanted in plan.sessions(subscriptions[:room], size):
                for channel, symbols in wanted.items():
                    newest.subscribe(channel, symbols)
        for wanted in plan.sessions(subscriptions[room:], size):
            connector = self._connector(wanted)
            if self.paused:
                connector.pause()
            self._connectors.append(connector)
            self._start(connector)


def spool(config: Config, shard: int) -> Spool | None:
    """Return the spool of a shard, in a folder of its own; None if there is none."""
    if not config.spool.max_bytes:
        return None
    folder = config.spool.dir / f"{config.kafka.topic_prefix}-{shard}"
    return Spool(folder, config.spool.max_bytes // config.kafka.shards)
