"""The service: prepares the topics, joins the consumer group, and serves the shards that it is assigned."""

import asyncio
import gc
import socket
import time
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from itertools import chain, product
from typing import NamedTuple, TypeVar

import structlog

from bridge import __version__, plan
from bridge.backoff import Backoff
from bridge.config import Config, HttpConfig
from bridge.errors import TopicError
from bridge.exchange.words import Confidential
from bridge.kafka.client import FAILURES, in_words, sends_password_in_clear, understood
from bridge.kafka.leases import Leases
from bridge.kafka.topics import Topic, prepare
from bridge.records import STATE
from bridge.shard import Replica, Shard
from bridge.stopping import STOP
from bridge.watch import logs
from bridge.watch.endpoints import PATHS, STATUS, Endpoints
from bridge.watch.metrics import Metrics
from bridge.watch.readiness import (
    STATES,
    Readiness,
    Standing,
    State,
    counts,
    fitting,
    of_sessions,
    sessions_of,
    subscriptions_of,
)
from bridge.watch.stderr import Stderr
from bridge.websocket import opening
from bridge.websocket.buffers import Buffers
from bridge.websocket.courtesy import Courtesy

log = structlog.get_logger(__name__)

T = TypeVar("T")

_GC_THRESHOLD = 10_000  # objects; Python's own is 700
_SCRAPE = 0.5  # seconds; series that are computed within such a time are of one scrape


class Undelivered(NamedTuple):
    """How many records were received but are not on Kafka when the bridge stops."""

    spooled: int  # on disk, for the next start
    lost: int


class Bridge:
    """The whole bridge in one process, as one replica: `run` until `stop` is set."""

    def __init__(self, config: Config) -> None:
        self.metrics = Metrics()  # of all shards together, for `/metrics`
        self.stop = asyncio.Event()  # set by a signal, or here after an internal error; never cleared
        self.failed = False  # whether an internal error has stopped the bridge
        self.replica = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"  # a new name at each start
        self._config = config
        # One for the process: its limits of handshakes and subscribe requests hold for all shards together.
        self._courtesy = Courtesy.of(config.exchange)
        self._buffers = Buffers(config.exchange.max_buffered_bytes, config.exchange.max_frame_bytes)
        self._confidential = Confidential(account.credentials() for account in config.accounts)
        # Why the topics are not prepared yet, for /readyz; None once they are.
        self._trouble: str | None = f"no response from {config.kafka.bootstrap_servers} yet"
        self._leases: Leases | None = None  # None until the topics are prepared
        self._leases_changed = asyncio.Event()  # set by the leases, cleared when the shards follow
        # The shards that are served now, by number. One that was lost stays until it has ended.
        self._shards: dict[int, Shard] = {}
        # For `/metrics`: how all connectors stood when they were last looked at, and the counts of that.
        self._looked_at = -_SCRAPE  # in monotonic seconds
        self._standings: Mapping[int, Sequence[Standing]] = {}
        self._counts: Mapping[int, Mapping[tuple[str, State], int]] = {}
        # Records of the shards that have ended, see `Undelivered`.
        self._spooled = 0
        self._lost = 0
        self._register_gauges()

    async def run(self) -> Undelivered:
        """Serve until `stop`, then deliver the pending records, as far as Kafka accepts them in time.

        Raises:
            TopicError: the topics do not match the configuration.
        """
        topics = await self._prepared_topics()
        if topics is None:
            return Undelivered(0, 0)
        leases = self._leases = Leases(
            self._config.kafka,
            topics[STATE].name,
            metrics=self.metrics,
            on_change=self._leases_changed.set,
        )
        # Objects that exist by now stay: a full collection over them costs more than parsing many frames. And
        # what frames leave behind holds no cycles, so it is rarely looked through.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)
        async with asyncio.TaskGroup() as group:
            member = group.create_task(self._be_member(leases), name="leases")
            await self._follow(leases, topics, group)
            member.cancel()
        return Undelivered(self._spooled, self._lost)

    def readiness(self) -> Readiness:
        """Return what keeps this replica from being ready, and in what it is degraded.

        A standby without shards is ready.
        """
        if self._trouble is not None:
            return Readiness({"kafka": self._trouble})
        if self._leases is None:
            return Readiness({"shards": "shards not assigned yet"})
        if self._leases.shards is None:
            return Readiness({"shards": self._leases.trouble})
        missing: dict[str, object] = {}
        if waiting := sorted(self._leases.shards - self._shards.keys()):
            missing["shards"] = f"not started: {', '.join(map(str, waiting))}"
        for shard in self._shards.values():
            missing |= shard.missing()
        sessions = of_sessions([one for shard in self._shards.values() for one in shard.standings()])
        return Readiness(missing | sessions.missing, sessions.degraded)

    def status(self, session: str | None) -> dict[str, object] | None:
        """Return the sessions of this replica, or the subscriptions of one; None if there is no such one."""
        shards = {number: shard.standings() for number, shard in sorted(self._shards.items())}
        if session is None:
            listed = [one for number, standings in shards.items() for one in sessions_of(number, standings)]
            body: dict[str, object] = {"replica": self.replica, "shards": list(shards)}
            return fitting(body | self.readiness().body(named=True), "sessions", listed)
        subscriptions = subscriptions_of(session, chain.from_iterable(shards.values()))
        return (
            None if subscriptions is None else fitting({"session": session}, "subscriptions", subscriptions)
        )

    # Start

    async def _prepared_topics(self) -> Mapping[str, Topic] | None:
        """Return the topics as soon as Kafka answers; None if the stop comes first.

        Raises:
            TopicError: they do not match the configuration.
        """
        kafka = self._config.kafka
        backoff = Backoff(0.5, 10.0)
        channels = sorted(plan.channels(self._config))
        while not self.stop.is_set():
            try:
                with understood():
                    topics = await self._unless_stopped(prepare(kafka, channels))
            except FAILURES as error:
                self._trouble = f"{kafka.bootstrap_servers}: {in_words(error)}"
                self.metrics.counter("kafka_errors_total", error=type(error).__name__).value += 1
                log.error(
                    "Kafka unavailable, retrying", bootstrap=kafka.bootstrap_servers, error=in_words(error)
                )
            else:
                self._trouble = None
                return topics
            await self._unless_stopped(asyncio.sleep(backoff.next()))
        return None

    async def _unless_stopped(self, work: Coroutine[None, None, T]) -> T | None:
        """Return the result of some work; None if the stop comes first, which cancels the work."""
        working = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self.stop.wait())
        try:
            await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            stopped.cancel()
            working.cancel()
            await asyncio.wait({working})

    # Serve

    async def _be_member(self, leases: Leases) -> None:
        """Be a member of the consumer group; an internal error stops the bridge as a signal would."""
        try:
            await leases.run()
        except Exception:
            log.exception("internal error, stopping")
            self.failed = True
            self.stop.set()

    async def _follow(self, leases: Leases, topics: Mapping[str, Topic], group: asyncio.TaskGroup) -> None:
        """Start and end shards as the leases say, until the stop; then end all of them, and await that."""
        serving: dict[int, asyncio.Task[None]] = {}
        stopped = group.create_task(self.stop.wait(), name="stop")
        while not self.stop.is_set():
            changed = asyncio.ensure_future(self._leases_changed.wait())
            await asyncio.wait({changed, stopped}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            self._leases_changed.clear()
            for number in leases.shards or ():
                if number not in serving or serving[number].done():
                    serving[number] = group.create_task(self._serve(number, topics, leases))
            for number, shard in self._shards.items():
                if number not in (leases.shards or ()):
                    shard.lose("the group has assigned it to another replica")
        for shard in self._shards.values():
            shard.stop()
        await asyncio.gather(*serving.values())

    async def _serve(self, number: int, topics: Mapping[str, Topic], leases: Leases) -> None:
        """Serve a shard as long as it is assigned, again if another replica served it in between."""
        owned = self.metrics.gauge("shard_owned", shard=str(number))
        backoff = Backoff(0.1, 5.0)
        while not self.stop.is_set() and number in (leases.shards or ()):
            replica = Replica(
                self.replica,
                self._config,
                topics,
                self.metrics,
                self._courtesy,
                self._buffers,
                self._confidential,
            )
            shard = self._shards[number] = Shard(number, replica, partial(leases.is_ours, number))
            owned.value = 1
            try:
                spooled, lost = await shard.run()
                self._spooled += spooled
                self._lost += lost
            finally:
                owned.value = 0
                del self._shards[number]
            if shard.failed:
                self.failed = True
                self.stop.set()
            if shard.lost:
                self.metrics.counter("shards_lost_total").value += 1
                await asyncio.sleep(backoff.next())

    # Watch

    def _register_gauges(self) -> None:
        """Register the gauges that are computed when scraped, and those that must exist from the start."""
        gauge = self.metrics.gauge
        gauge("ready").read = lambda: 1 if self.readiness().ready else 0
        gauge("spool_limit_bytes").value = self._config.spool.max_bytes
        for number in range(self._config.kafka.shards):
            gauge("shard_owned", shard=str(number)).value = 0  # also of a shard that no replica serves
            gauge("reading_paused", shard=str(number)).read = partial(self._is_paused, number)
            for channel, state in product(sorted(plan.channels(self._config)), STATES):
                read = partial(self._subscriptions, number, channel, state)
                gauge("subscriptions", shard=str(number), channel=channel, state=state).read = read
        for account in self._config.accounts:
            gauge("account_ready", account=account.name).read = partial(self._is_account_ready, account.name)
        gauge("pending_records").read = self._sum(lambda shard: shard.queues.pending_records)
        gauge("pending_bytes", part="queue").read = self._sum(lambda shard: shard.queues.pending_bytes)
        gauge("pending_bytes", part="exchange").read = self._sum(lambda shard: shard.held_bytes)
        gauge("spool_bytes").read = self._sum(lambda shard: shard.overflow.size)
        gauge("spool_records").read = self._sum(lambda shard: shard.overflow.waiting)
        gauge("spool_age_seconds").read = lambda: max(
            (shard.overflow.age for shard in self._shards.values()), default=0.0
        )

    def _sum(self, figure: Callable[[Shard], float]) -> Callable[[], float]:
        return lambda: sum(figure(shard) for shard in self._shards.values())

    def _standing_now(self) -> Mapping[int, Sequence[Standing]]:
        """Return how the connectors of each shard stand, looked at once for all series of a scrape."""
        now = time.monotonic()
        if now > self._looked_at + _SCRAPE:
            self._looked_at = now
            self._standings = {number: shard.standings() for number, shard in self._shards.items()}
            self._counts = {number: counts(standings) for number, standings in self._standings.items()}
        return self._standings

    def _subscriptions(self, shard: int, channel: str, state: State) -> float:
        self._standing_now()
        return self._counts[shard][channel, state] if shard in self._counts else 0.0

    def _is_account_ready(self, account: str) -> float:
        own = [
            one for standings in self._standing_now().values() for one in standings if one.account == account
        ]
        return float(bool(own) and all(one.live for one in own))

    def _is_paused(self, number: int) -> bool:
        shard = self._shards.get(number)
        return shard is not None and shard.paused


async def run(config: Config, lines: Stderr | None = None) -> int:
    """Run the bridge until it is asked to stop; return the exit status: 0 for a clean stop, else 1.

    `lines` is where the log goes, if lines of it can be dropped.
    """
    opening.verify(config.exchange)
    bridge = Bridge(config)
    if lines is not None:
        lines.count_in(bridge.metrics.counter("log_lines_dropped_total"))
    with STOP.calls(partial(asyncio.get_running_loop().call_soon_threadsafe, bridge.stop.set)):
        return await _run(config, bridge)


async def _run(config: Config, bridge: Bridge) -> int:
    log.info("starting", version=__version__, delivery=str(config.kafka.delivery))
    if sends_password_in_clear(config.kafka):
        log.warning("password sent to Kafka without TLS", mechanism=str(config.kafka.sasl_mechanism))
    async with AsyncExitStack() as listening:
        for endpoints in _endpoints(config.http, bridge):
            http = await listening.enter_async_context(endpoints)
            log.info("HTTP endpoints listening", host=http.host, port=http.port, paths=list(http.paths))
        try:
            spooled, lost = await bridge.run()
        except TopicError as error:
            log.error("topics do not match the configuration", error=str(error))
            return 1
    logs.report_left_out()
    if spooled:
        log.warning(
            "records left in the spool for the next start", records=spooled, dir=str(config.spool.dir)
        )
    if lost:
        log.error("records lost at shutdown", records=lost)
    if bridge.failed:
        log.error("stopped after an internal error")
        return 1
    log.info("stopped" if spooled or lost else "stopped, all received records are on Kafka")
    return 0


def _endpoints(config: HttpConfig, bridge: Bridge) -> list[Endpoints]:
    """Return the endpoints: one listener for all, or another for `/status`."""
    registry = bridge.metrics.registry
    address = config.status_address
    if address is None:
        return [Endpoints(config.host, config.port, registry, bridge)]
    others = [path for path in PATHS if path != STATUS]
    return [
        Endpoints(config.host, config.port, registry, bridge, paths=others),
        Endpoints(*address, registry, bridge, paths=[STATUS], keys="http.status_"),
    ]
