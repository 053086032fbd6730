"""The service: prepares the topics, joins the consumer group, and serves the shards that it is assigned.

Longer than 350 lines because the start, the shards and the readiness change and read the same few attributes.
"""

import asyncio
import gc
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from functools import partial
from itertools import chain
from typing import NamedTuple, TypeVar

import structlog

from bridge import __version__, gauges, plan
from bridge.backoff import Backoff
from bridge.config import Config
from bridge.errors import SchemaRefused, TopicError, TopicMissing
from bridge.exchange.words import Confidential
from bridge.kafka.claims import claim
from bridge.kafka.client import FAILURES, connection, in_words, sends_password_in_clear, understood
from bridge.kafka.cluster import Cluster
from bridge.kafka.leases import Leases
from bridge.kafka.ownership import Ownership
from bridge.kafka.registry import Registry, registered_topics
from bridge.kafka.subjects import require
from bridge.kafka.topics import topic_name
from bridge.records import STATE, schema_of
from bridge.shard import Replica, Shard
from bridge.spool.finding import left_behind
from bridge.spool.health import AT_THE_START, SpoolHealth, Trouble, trouble_of
from bridge.stopping import STOP
from bridge.watch import logs
from bridge.watch.endpoints import listeners
from bridge.watch.metrics import Metrics
from bridge.watch.readiness import Readiness, fitting, of_sessions, sessions_of, subscriptions_of
from bridge.watch.stderr import Stderr
from bridge.websocket import opening
from bridge.websocket.buffers import Buffers
from bridge.websocket.courtesy import Courtesy

log = structlog.get_logger(__name__)

T = TypeVar("T")

_GC_THRESHOLD = 10_000  # objects; Python's own is 700


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
        self.refused = False  # whether it was stopped because a schema was refused
        self.replica = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"  # a new name at each start
        self._config = config
        # One for the process: its limits of handshakes and subscribe requests hold for all shards together.
        self._courtesy = Courtesy.of(config.exchange)
        self._buffers = Buffers(config.exchange.max_buffered_bytes, config.exchange.max_frame_bytes)
        self._confidential = Confidential(account.credentials() for account in config.accounts)
        # None: no spool is configured. The bridge takes no shard before it was writable once.
        self._spool = SpoolHealth(self._look_at_spool) if config.spool.max_bytes else None
        # Since when records of an earlier process wait on disk, in µs since the epoch, by shard, until it is
        # taken over. None until it is known, which a disk that hangs may delay.
        self._left: dict[int, int] | None = None
        self._started = False  # whether it was, and the cluster was seen
        channels = plan.channels(config)
        self._cluster = Cluster(config.kafka, sorted(channels), self.metrics)
        topics = registered_topics(config.kafka, channels)
        self._registry = Registry(config.schema_registry, topics, self._cluster.frame)
        if self._registry.holds_records:
            self._cluster.await_framings()
        self._cluster.on_included = lambda channel: self._registry.include(
            topic_name(config.kafka, channel), schema_of(channel)
        )
        # Why the cluster was not seen yet with all topics, by subject, for /readyz; empty once it was.
        self._trouble = {"kafka": f"no response from {config.kafka.bootstrap_servers} yet"}
        self._ownership = Ownership(config.kafka, self.replica)
        self._contested = False  # whether another bridge serves a shard, so that this one has to wait
        self._leases: Leases | None = None  # None until the cluster was seen and nobody else writes to it
        self._leases_changed = asyncio.Event()  # set by the leases, cleared when the shards follow
        # The shards that are served now, by number. One that was lost stays until it has ended.
        self._shards: dict[int, Shard] = {}
        # Records of the shards that have ended, see `Undelivered`.
        self._spooled = 0
        self._lost = 0
        gauges.register(self.metrics, config, self._shards)
        self.metrics.gauge("oldest_pending_seconds").read = self._oldest_pending
        self.metrics.gauge("ready").read = lambda: 1 if self.readiness().ready else 0
        self.metrics.gauge("spool_writable").read = lambda: 0 if self._spool_trouble() else 1

    async def run(self) -> Undelivered:
        """Serve until `stop`, then deliver the pending records, as far as Kafka accepts them in time."""
        if self._spool is not None:
            await self._unless_stopped(self._spool.look())
        await self._see_cluster()
        await self._writable_spool()
        await self._unless_stopped(self._registered(self._registry.begin))
        if self.stop.is_set():
            return Undelivered(0, 0)
        self._started = True
        # Objects that exist by now stay: a full collection over them costs more than parsing many frames. And
        # what frames leave behind holds no cycles, so it is rarely looked through.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD)
        async with asyncio.TaskGroup() as group:
            looking = group.create_task(self._part(self._cluster.run), name="cluster")
            registering = group.create_task(
                self._part(partial(self._registered, self._registry.run)), name="schema registry"
            )
            watching = self._spool and group.create_task(self._spool.watch(), name="spool")
            while not self.stop.is_set():
                await self._await_ownership()
                if not self.stop.is_set():
                    await self._be_member()
            looking.cancel()
            registering.cancel()
            if watching:
                watching.cancel()
        return Undelivered(self._spooled, self._lost)

    def readiness(self) -> Readiness:
        """Return what keeps this replica from being ready, and in what it is degraded.

        A standby without shards is ready.
        """
        degraded: dict[str, object] = {}
        missing: dict[str, object] = {}
        if (spool := self._spool_trouble()) is not None:
            (degraded if self._started else missing)["spool"] = spool
        if self._ownership.trouble is None:  # else Kafka answers again
            missing |= self._trouble
        if missing:
            return Readiness(missing)
        missing |= self._cluster.missing()
        if self._registry.trouble:
            (missing if self._registry.holds_records else degraded)["schema_registry"] = (
                self._registry.trouble
            )
        if self._ownership.trouble is not None:
            return Readiness(missing | {"shards": self._ownership.trouble}, degraded)
        if self._leases is None:
            return Readiness(missing | {"shards": "shards not assigned yet"}, degraded)
        if self._leases.shards is None:
            return Readiness(missing | {"shards": self._leases.missing()}, degraded)
        if (group := self._leases.unavailable()) is not None:
            degraded["group"] = group
        if waiting := sorted(self._leases.shards - self._shards.keys()):
            missing["shards"] = f"not started: {', '.join(map(str, waiting))}"
        for shard in self._shards.values():
            missing |= shard.missing()
        if suspect := sum(shard.suspect_books for shard in self._shards.values()):
            degraded["books"] = f"{suspect} suspected to be damaged, new snapshots requested"
        sessions = of_sessions([one for shard in self._shards.values() for one in shard.standings()])
        return Readiness(missing | sessions.missing, degraded | sessions.degraded)

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

    async def _see_cluster(self) -> None:
        """Wait until the cluster was seen, with all topics, or the stop comes."""
        await self._until(self._cluster.look)

    async def _await_ownership(self) -> None:
        """Wait until this bridge may write to its topics and no other one does, or the stop comes."""
        await self._until(self._own)

    async def _own(self) -> None:
        if self._config.accounts:
            await claim(self._config.kafka)
        await self._ownership.wait(self._cluster.topics[STATE])

    async def _registered(self, register: Callable[[], Awaitable[None]]) -> None:
        """Register the schemas; stop if the registry refuses one."""
        try:
            await register()
        except SchemaRefused as error:
            log.error("schema refused by the registry, stopping", error=str(error))
            self.refused = True
            self.stop.set()

    async def _until(self, succeeds: Callable[[], Coroutine[None, None, None]]) -> None:
        """Try it until it succeeds, or the stop comes; `_trouble` says meanwhile why it does not.

        What is not as configured is waited for, too: one start after the other would not change it.
        """
        kafka = self._config.kafka
        backoff = Backoff(0.5, 10.0)
        begun, logged = time.monotonic(), ""
        while not self.stop.is_set():
            before = self._trouble
            try:
                with understood():
                    await self._unless_stopped(succeeds())
            except TopicError as error:
                self._trouble = {"shards": str(error)}
                if self._trouble != before:
                    log.error("topics do not match the configuration, waiting", error=str(error))
            except TopicMissing as error:
                self._trouble = {"topics": str(error)}
                log.error("topics missing, retrying", error=str(error))
            except FAILURES as error:
                words = in_words(error)
                self._trouble = {"kafka": f"{kafka.bootstrap_servers}: {words}"}
                self.metrics.counter("kafka_errors_total", error=type(error).__name__).value += 1
                if self._trouble["kafka"] != logged:
                    logged = self._trouble["kafka"]
                    log.error("Kafka unavailable, retrying", error=logged)
            else:
                self._trouble = {}
                if logged and not self.stop.is_set():
                    log.warning("Kafka available again", seconds=round(time.monotonic() - begun, 1))
                return
            await self._unless_stopped(asyncio.sleep(backoff.next()))

    async def _writable_spool(self) -> None:
        """Wait until the spool is writable, or the stop comes.

        Not for a disk that is full of what is spooled: to deliver that makes room.
        """
        while self._spool and (trouble := self._spool.trouble) and not (trouble.passes or self.stop.is_set()):
            await self._unless_stopped(asyncio.sleep(AT_THE_START))
            await self._unless_stopped(self._spool.look())

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

    async def _be_member(self) -> None:
        """Serve what the group assigns, until the stop, or until another bridge serves a shard."""
        on_change = self._leases_changed.set
        leases = Leases(self._config.kafka, self._cluster, metrics=self.metrics, on_change=on_change)
        self._leases, self._contested = leases, False
        async with asyncio.TaskGroup() as group:
            member = group.create_task(self._part(leases.run), name="leases")
            await self._follow(leases, group)
            member.cancel()
        self._leases = None

    async def _part(self, run: Callable[[], Awaitable[None]]) -> None:
        """Run what all shards share; an internal error stops the bridge as a signal would."""
        try:
            await run()
        except Exception:
            log.exception("internal error, stopping")
            self.failed = True
            self.stop.set()

    async def _follow(self, leases: Leases, group: asyncio.TaskGroup) -> None:
        """Start and end shards as the leases say, until all have to end; then end them, and await that."""
        serving: dict[int, asyncio.Task[None]] = {}
        stopped = group.create_task(self.stop.wait(), name="stop")
        while not self.stop.is_set() and not self._contested:
            changed = asyncio.ensure_future(self._leases_changed.wait())
            await asyncio.wait({changed, stopped}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
            self._leases_changed.clear()
            for number in leases.shards or ():
                if number not in serving or serving[number].done():
                    serving[number] = group.create_task(self._serve(number, leases))
            for number, shard in self._shards.items():
                if number not in (leases.shards or ()):
                    shard.lose("the group has assigned it to another replica")
        stopped.cancel()
        for shard in self._shards.values():
            shard.stop()
        await asyncio.gather(*serving.values())

    async def _serve(self, number: int, leases: Leases) -> None:
        """Serve a shard as long as it is assigned, again if another replica served it in between."""
        owned = self.metrics.gauge("shard_owned", shard=str(number))
        backoff = Backoff(0.1, 5.0)
        while not self.stop.is_set() and not self._contested and number in (leases.shards or ()):
            replica = Replica(
                self.replica,
                self._config,
                self._cluster,
                self.metrics,
                self._courtesy,
                self._buffers,
                self._confidential,
                self._ownership.is_gone,
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
                (self._left or {}).pop(number, None)
            if shard.failed:
                self.failed = True
                self.stop.set()
            self._contested |= shard.contested
            self._leases_changed.set()
            if shard.lost:
                self.metrics.counter("shards_lost_total").value += 1
                await asyncio.sleep(backoff.next())

    # Watch

    def _spool_trouble(self) -> str | None:
        """Return why the spool, or that of one of the shards, cannot be written to; None if it can."""
        if self._spool is None:
            return None
        if self._spool.trouble is not None:
            return self._spool.trouble.words
        return next(filter(None, (shard.overflow.trouble for shard in self._shards.values())), None)

    def _look_at_spool(self) -> Trouble | None:
        """Return what is wrong with the spool; the first time, find out what is in it. Runs in a thread."""
        kafka = self._config.kafka
        about = self._config.spool.dir, kafka.topic_prefix, range(kafka.shards)
        if self._left is None:
            self._left = left_behind(*about)
        return trouble_of(*about)

    def _oldest_pending(self) -> float:
        """Return the age of the oldest record that is not on Kafka, 0 if all are.

        Until the group has assigned the shards, what lies in the spools may be of any of them.
        """
        mine = self._leases.shards if self._leases else None
        taken_over = {number: shard for number, shard in self._shards.items() if shard.is_taken_over}
        times = [shard.queues.oldest_us for shard in taken_over.values()]
        for number, since_us in (self._left or {}).items():
            if number not in taken_over and (mine is None or number in mine):
                times.append(since_us)
        oldest_us = min((us for us in times if us is not None), default=None)
        return 0.0 if oldest_us is None else max(0.0, time.time() - oldest_us / 1e6)


async def run(config: Config, lines: Stderr | None = None) -> int:
    """Run the bridge until it is asked to stop; return the exit status: 0 for a clean stop, else 1.

    `lines` is where the log goes, if lines of it can be dropped.
    """
    opening.verify(config.exchange)
    connection(config.kafka)
    require(config.schema_registry)
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
        for endpoints in listeners(config.http, bridge.metrics.registry, bridge):
            http = await listening.enter_async_context(endpoints)
            log.info("HTTP endpoints listening", host=http.host, port=http.port, paths=list(http.paths))
        spooled, lost = await bridge.run()
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
    return 1 if bridge.refused else 0
