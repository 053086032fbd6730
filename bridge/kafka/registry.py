"""Has the schemas of the topics registered, and keeps what the registry calls them.

It looks again every few minutes: a registry that was set up anew knows no schema any more, or calls it
something else, and its consumers would read nothing from then on.
"""

import asyncio
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial

import structlog

from bridge.backoff import Backoff
from bridge.config import Framing as Kind
from bridge.config import KafkaConfig, SchemaRegistryConfig
from bridge.errors import SchemaRefused
from bridge.kafka.framing import Framing
from bridge.kafka.subjects import Unavailable, register
from bridge.kafka.topics import topic_names
from bridge.records import STATE, schema_of
from bridge.threads import in_thread

log = structlog.get_logger(__name__)

_PATIENCE = 20.0  # seconds that the start waits for the first attempt
_LOOK = 300.0  # seconds from one look at what is registered to the next one

Framings = Mapping[str, Framing]
"""What the messages of each topic have, by its name."""


class Registry:
    """Registers the schemas of the topics of these channels, as soon as the registry can be reached.

    `on_registered` is called with the framings, once they are known, and when they have changed. It looks
    again `look` seconds after an attempt that succeeded.
    """

    def __init__(
        self,
        config: SchemaRegistryConfig,
        topics: Mapping[str, str],
        on_registered: Callable[[Framings], None],
        look: float = _LOOK,
    ) -> None:
        # Why the schemas are not registered; "" if they are, or if there is no registry.
        self.trouble = f"no response from {config.address} yet" if config.url else ""
        self._config = config
        self._topics = dict(topics)
        self._on_registered = on_registered
        self._look = look
        self._framings: Framings = {}  # as they were last
        self._doubt = ""  # why the last look has failed; "" if it has not
        self._included = asyncio.Event()  # set when there is a topic more; cleared before it is registered

    @property
    def holds_records(self) -> bool:
        """Whether records have to wait for it."""
        return bool(self.trouble) and self._config.framing is not Kind.NONE

    def include(self, topic: str, schema: str) -> None:
        """Register the schema with this name for another topic, too; `run` does it."""
        if self._config.url and topic not in self._topics:
            self._topics[topic] = schema
            self.trouble = self.trouble or f"the schema of {topic} is not registered yet"
            self._included.set()

    async def begin(self) -> None:
        """Try once; without success, `run` has to go on.

        Raises:
            SchemaRefused: the registry refuses a schema.
        """
        if self.trouble:
            try:
                await self._attempt(_PATIENCE)
            except Unavailable as error:
                self._fail(str(error))

    async def run(self) -> None:
        """Register what is not registered, or not any more, and what is included, until cancelled.

        Raises:
            SchemaRefused: the registry refuses a schema, and records have a framing. Else it is logged.
        """
        failing = bool(self.trouble)
        while True:
            await self._until_registered(failing=failing)
            failing = False
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look if self._config.url else None):
                    await self._included.wait()
            if not self.trouble:
                await self._look_again()

    async def _look_again(self) -> None:
        """Register what the registry has lost; if it can't do so now, records go on as they are."""
        try:
            await self._attempt()
        except (Unavailable, SchemaRefused) as error:
            if str(error) != self._doubt:
                self._doubt = str(error)
                log.warning("schemas not looked up again", error=self._doubt)
        else:
            self._doubt = ""

    async def _until_registered(self, *, failing: bool) -> None:
        backoff, begun = Backoff(1.0, 60.0), time.monotonic()
        while self.trouble:
            if failing:
                await asyncio.sleep(backoff.next())
            try:
                await self._attempt()
            except Unavailable as error:
                self._fail(str(error))
                failing = True
            except SchemaRefused as error:
                if self.holds_records:
                    raise
                # The records do not depend on it, so they go on.
                if self.trouble != str(error):
                    self.trouble = str(error)
                    log.error("schema refused by the registry", error=self.trouble)
                return
            else:
                if failing:
                    seconds = round(time.monotonic() - begun, 1)
                    log.warning("schema registry available again", seconds=seconds)

    async def _attempt(self, patience: float = _LOOK) -> None:
        self._included.clear()
        try:
            # A registry that sends a byte now and then answers for ever.
            async with asyncio.timeout(patience):
                framings = await in_thread(partial(register, self._config, dict(self._topics)), "registry")
        except TimeoutError:
            raise Unavailable(f"no response from {self._config.address} in {patience:g} s") from None
        if not self._included.is_set():
            self.trouble = ""
        if framings == self._framings:
            return
        changed = [topic for topic, one in self._framings.items() if framings[topic] != one]
        if changed:
            log.warning("schemas have other ids", registry=self._config.address, topics=changed)
        else:
            log.info("schemas registered", registry=self._config.address, subjects=len(framings))
        self._framings = framings
        self._on_registered(framings)

    def _fail(self, why: str) -> None:
        if self.trouble != why:
            self.trouble = why
            log.error("schema registry unavailable, retrying", error=self.trouble)


def registered_topics(config: KafkaConfig, channels: Collection[str]) -> dict[str, str]:
    """Return the topics whose schemas are registered, with the names of these: all that have records."""
    names = topic_names(config, sorted(channels))
    return {name: schema_of(channel) for channel, name in names.items() if channel != STATE}
