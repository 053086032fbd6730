"""The service: wires the rooms together, starts and stops them."""

import asyncio
import gc
import signal
import socket
import uuid
from collections.abc import Collection, Coroutine, Mapping
from functools import partial
from typing import TypeVar

import structlog
from aiokafka.errors import KafkaError

from bridge import __version__, plan
from bridge.backoff import Backoff
from bridge.check.access import access
from bridge.config import Config
from bridge.errors import TopicError
from bridge.kafka.client import FAILURES, in_words
from bridge.kafka.leases import Leases
from bridge.kafka.topics import Topic, prepare
from bridge.records import STATE
from bridge.shard import Shard
from bridge.watch.endpoints import Endpoints
from bridge.watch.metrics import Metrics
from bridge.websocket.courtesy import Courtesy

log = structlog.get_logger(__name__)

T = TypeVar("T")


class Bridge:
    """The whole bridge in one process, as one replica: `run` until `stop` is set."""

    def __init__(self, config: Config) -> None:
        self.metrics = Metrics()
        self.stop = asyncio.Event()
        self.failed = False
        self.replica = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self._config = config
        self._shards: dict[int, Shard] = {}
        self._leases: Leases | None = None
        self._leases_changed = asyncio.Event()
        self._on_disk = 0
        self._left_behind = 0
        self._courtesy = Courtesy(
            config.exchange.handshakes_per_second, config.exchange.subscribes_per_second
        )
        self._trouble: str | None = f"no answer from {config.kafka.bootstrap_servers} yet"
        self.metrics.gauge("ready").read = lambda: 0 if self.missing() else 1
        self.metrics.gauge("spool_limit_bytes").value = config.spool.max_bytes
        for number in range(config.kafka.shards):
            self.metrics.gauge("shard_owned", shard=str(number)).value = 0  # also of those that nobody serves
            self.metrics.gauge("reading_paused", shard=str(number)).read = partial(self._is_paused, number)
        self.metrics.gauge("pending_records").read = lambda: sum(
            shard.queues.pending_records for shard in self._shards.values()
        )
        self.metrics.gauge("pending_bytes").read = lambda: sum(
            shard.queues.pending_bytes for shard in self._shards.values()
        )
        self.metrics.gauge("spool_bytes").read = lambda: sum(
            shard.overflow.size for shard in self._shards.values()
        )
        self.metrics.gauge("spool_records").read = lambda: sum(
            shard.overflow.waiting for shard in self._shards.values()
        )
        self.metrics.gauge("spool_age_seconds").read = lambda: max(
            (shard.overflow.age for shard in self._shards.values()), default=0.0
        )

    async def run(self) -> tuple[int, int]:
        """Return how many records were not delivered: those that wait on disk, and those left behind.

        Raises:
            TopicError: the topics are not as configured.
        """
        topics = await self._topics()
        if topics is None:
            return 0, 0
        leases = self._leases = Leases(
            self._config.kafka,
            topics[STATE].name,
            metrics=self.metrics,
            on_change=self._leases_changed.set,
        )
        # What is here now stays: a full collection that walks it costs more than parsing many frames.
        gc.collect()
        gc.freeze()
        async with asyncio.TaskGroup() as group:
            member = group.create_task(self._be_member(leases), name="leases")
            stopped = group.create_task(self.stop.wait(), name="stop")
            serving: dict[int, asyncio.Task[None]] = {}
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
                        shard.lose("the group has given it to another replica")
            for shard in self._shards.values():
                shard.stop()
            await asyncio.gather(*serving.values())
            member.cancel()
        return self._on_disk, self._left_behind

    def missing(self) -> dict[str, object]:
        """Say what keeps the bridge from being ready; nothing if it is. Without shards it stands by."""
        if self._trouble is not None:
            return {"kafka": self._trouble}
        if self._leases is None or self._leases.shards is None:
            return {"shards": self._leases.trouble if self._leases else "not shared out yet"}
        missing: dict[str, object] = {}
        if waiting := sorted(self._leases.shards - self._shards.keys()):
            missing["shards"] = f"not begun: {', '.join(map(str, waiting))}"
        for shard in self._shards.values():
            for what, detail in shard.missing().items():
                known = missing.get(what)
                missing[what] = (
                    known + detail if isinstance(known, list) and isinstance(detail, list) else detail
                )
        return missing

    def _is_paused(self, number: int) -> bool:
        shard = self._shards.get(number)
        return shard is not None and shard.paused

    async def _be_member(self, leases: Leases) -> None:
        """Take part in the group; a mistake of our own stops the bridge as a signal would."""
        try:
            await leases.run()
        except Exception:
            log.exception("the leases failed, so the bridge stops")
            self.failed = True
            self.stop.set()

    async def _serve(self, number: int, topics: Mapping[str, Topic], leases: Leases) -> None:
        """Serve a shard as long as it is ours; again, if another replica had it in between."""
        owned = self.metrics.gauge("shard_owned", shard=str(number))
        backoff = Backoff(0.1, 5.0)
        while not self.stop.is_set() and number in (leases.shards or ()):
            shard = self._shards[number] = Shard(
                number,
                self._config,
                topics,
                self.metrics,
                replica=self.replica,
                is_ours=partial(leases.is_ours, number),
                courtesy=self._courtesy,
            )
            owned.value = 1
            try:
                on_disk, left_behind = await shard.run()
                self._on_disk += on_disk
                self._left_behind += left_behind
            finally:
                owned.value = 0
                del self._shards[number]
            if shard.failed:
                self.failed = True
                self.stop.set()
            if shard.lost:
                self.metrics.counter("shards_lost_total").value += 1
                await asyncio.sleep(backoff.next())

    async def _denied(self, channels: Collection[str]) -> str:
        """Name what Kafka does not allow, and the bridge can't do without."""
        found = (await access(self._config.kafka, channels)).denied
        for one in found:
            if one.optional:
                log.warning("an ACL is missing", operation=one.operation, resource=one.resource)
        return ", ".join(str(one) for one in found if not one.optional)

    async def _prepared(self, channels: Collection[str]) -> Mapping[str, Topic]:
        if refused := await self._denied(channels):
            raise KafkaError(f"these ACLs are missing: {refused}")
        return await prepare(self._config.kafka, channels)

    async def _unless_stopped(self, work: Coroutine[None, None, T]) -> T | None:
        """Return what some work comes to; None if the stop comes first, which ends it."""
        working = asyncio.ensure_future(work)
        stopped = asyncio.ensure_future(self.stop.wait())
        try:
            await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
            return working.result() if working.done() else None
        finally:
            stopped.cancel()
            working.cancel()
            await asyncio.wait({working})

    async def _topics(self) -> Mapping[str, Topic] | None:
        """Return the topics as soon as Kafka answers; None if the stop comes first."""
        backoff = Backoff(0.5, 10.0)
        channels = sorted(plan.channels(self._config))
        while not self.stop.is_set():
            try:
                topics = await self._unless_stopped(self._prepared(channels))
            except FAILURES as error:
                self._trouble = f"{self._config.kafka.bootstrap_servers}: {in_words(error)}"
                self.metrics.counter("kafka_errors_total", error=type(error).__name__).value += 1
                log.error(
                    "Kafka is away", bootstrap=self._config.kafka.bootstrap_servers, error=in_words(error)
                )
            else:
                self._trouble = None
                return topics
            try:
                async with asyncio.timeout(backoff.next()):
                    await self.stop.wait()
            except TimeoutError:
                continue
        return None


async def run(config: Config) -> int:
    """Run the bridge until SIGTERM or SIGINT; return the exit status."""
    bridge = Bridge(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, bridge.stop.set)
    log.info("bridge starts", version=__version__, delivery=str(config.kafka.delivery))
    async with Endpoints(config.http.host, config.http.port, bridge.metrics.registry, bridge.missing) as http:
        log.info("endpoints", host=config.http.host, port=http.port)
        try:
            on_disk, left_behind = await bridge.run()
        except TopicError as error:
            log.error("topics are not as configured", error=str(error))
            return 1
    if on_disk:
        log.warning(
            "records wait in the spool for the next start", records=on_disk, dir=str(config.spool.dir)
        )
    if left_behind:
        log.error("Kafka was away, so records were left behind", records=left_behind)
    if bridge.failed:
        log.error("stopped, since a part of the bridge failed")
        return 1
    log.info("stopped" if on_disk or left_behind else "stopped; all that was received is on Kafka")
    return 0
