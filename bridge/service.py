"""The service: wires the rooms together, starts and stops them."""

import asyncio
import gc
import signal
from collections.abc import Mapping

import structlog
from aiokafka.errors import KafkaError

from bridge import __version__, plan
from bridge.backoff import Backoff
from bridge.config import Config
from bridge.endpoints import Endpoints
from bridge.kafka.topics import Topic, TopicError, prepare
from bridge.metrics import Metrics
from bridge.shard import Shard

log = structlog.get_logger(__name__)


class Bridge:
    """The whole bridge in one process: `run` until `stop` is set."""

    def __init__(self, config: Config) -> None:
        self.metrics = Metrics()
        self.stop = asyncio.Event()
        self._config = config
        self._shards: list[Shard] = []
        self._trouble: str | None = f"no answer from {config.kafka.bootstrap_servers} yet"
        self.metrics.gauge("pending_records").read = lambda: sum(s.sink.pending_records for s in self._shards)
        self.metrics.gauge("pending_bytes").read = lambda: sum(s.sink.pending_bytes for s in self._shards)

    async def run(self) -> int:
        """Return how many records were left behind.

        Raises:
            TopicError: the topics are not as configured.
        """
        topics = await self._topics()
        if topics is None:
            return 0
        self._shards = [
            Shard(n, self._config, topics, self.metrics, self.stop) for n in range(self._config.kafka.shards)
        ]
        # What is here now stays: a full collection that walks it costs more than parsing many frames.
        gc.collect()
        gc.freeze()
        return sum(await asyncio.gather(*(shard.run() for shard in self._shards)))

    @property
    def failed(self) -> bool:
        """True if a mistake of our own, not a signal, stopped the bridge."""
        return any(shard.failed for shard in self._shards)

    def missing(self) -> dict[str, object]:
        """Say what keeps the bridge from being ready; nothing if it is."""
        if self._trouble is not None:
            return {"kafka": self._trouble}
        missing: dict[str, object] = {}
        for shard in self._shards:
            for what, detail in shard.missing().items():
                known = missing.get(what)
                missing[what] = (
                    known + detail if isinstance(known, list) and isinstance(detail, list) else detail
                )
        return missing

    async def _topics(self) -> Mapping[str, Topic] | None:
        """Return the topics as soon as Kafka answers; None if the stop comes first."""
        backoff = Backoff(0.5, 10.0)
        channels = sorted(plan.channels(self._config))
        while not self.stop.is_set():
            try:
                topics = await prepare(self._config.kafka, channels)
            except KafkaError as error:
                self._trouble = f"{self._config.kafka.bootstrap_servers}: {error}"
                self.metrics.counter("kafka_errors_total", error=type(error).__name__).value += 1
                log.error("Kafka is away", bootstrap=self._config.kafka.bootstrap_servers, error=str(error))
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
            left_behind = await bridge.run()
        except TopicError as error:
            log.error("topics are not as configured", error=str(error))
            return 1
    if bridge.failed:
        log.error("stopped, since a part of the bridge failed", left_behind=left_behind)
        return 1
    if left_behind:
        log.error("stopped; Kafka was away, so records were left behind", records=left_behind)
    else:
        log.info("stopped; all that was received is on Kafka")
    return 0
