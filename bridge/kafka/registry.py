"""Registers the schemas of the topics in a schema registry, and learns what it calls them.

With TopicNameStrategy, as `<topic>-value`. Records of v1 may get optional fields, which is forward compatible
since the schemas are open; so a subject for which the registry has no level gets FORWARD_TRANSITIVE.

The client is Confluent's, in the extra `registry`. It blocks, so it runs in a thread.
"""

import asyncio
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

import structlog

from bridge.backoff import Backoff
from bridge.config import Framing as Kind
from bridge.config import KafkaConfig, SchemaRegistryConfig
from bridge.errors import BridgeError, ConfigError, SchemaRefused
from bridge.exchange.requests import Credentials
from bridge.exchange.words import Confidential
from bridge.kafka.framing import Framing, framing
from bridge.kafka.topics import topic_names
from bridge.records import STATE, schema_of
from bridge.schema import published
from bridge.threads import in_thread

log = structlog.get_logger(__name__)

LEVEL = "FORWARD_TRANSITIVE"
"""The compatibility of a subject that has none."""

_TIMEOUT = 10.0  # seconds without anything from the registry
_PATIENCE = 20.0  # seconds that the start waits for the first attempt
_MALFORMED, _CONFLICT, _UNPROCESSABLE, _NOT_FOUND, _SERVER_ERROR = 400, 409, 422, 404, 500
_REFUSED = (_MALFORMED, _CONFLICT, _UNPROCESSABLE)

Framings = Mapping[str, Framing]
"""What the messages of each topic have, by its name."""


class _Client(Protocol):
    """What is used of the client."""

    def get_subjects(self) -> list[str]: ...
    def get_compatibility(self, subject: str) -> str: ...
    def set_compatibility(self, subject: str, level: str) -> object: ...
    def test_compatibility(self, subject: str, schema: object) -> bool: ...
    def register_schema_full_response(self, subject: str, schema: object) -> Any: ...  # noqa: ANN401


class _Answer(Protocol):
    """An error that the registry answers."""

    http_status_code: int
    error_message: str


class Unavailable(BridgeError):
    """The registry cannot be used at the moment; the message says why."""


class Registry:
    """Registers the schemas of the topics of these channels, as soon as the registry can be reached.

    `on_registered` is called with the framings, once they are known.
    """

    def __init__(
        self,
        config: SchemaRegistryConfig,
        topics: Mapping[str, str],
        on_registered: Callable[[Framings], None],
    ) -> None:
        # Why the schemas are not registered; "" if they are, or if there is no registry.
        self.trouble = f"no response from {config.address} yet" if config.url else ""
        self._config = config
        self._topics = dict(topics)
        self._on_registered = on_registered
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
                async with asyncio.timeout(_PATIENCE):
                    await self._attempt()
            except TimeoutError:
                self._fail(f"no response from {self._config.address} in {_PATIENCE:g} s")
            except Unavailable as error:
                self._fail(str(error))

    async def run(self) -> None:
        """Register what is not registered, and what is included, until cancelled.

        Raises:
            SchemaRefused: the registry refuses a schema, and records have a framing. Else it is logged.
        """
        while True:
            await self._until_registered(failing=bool(self.trouble))
            await self._included.wait()

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
                self.trouble = str(error)
                log.error("schema refused by the registry", error=str(error))
                return
            else:
                if failing:
                    seconds = round(time.monotonic() - begun, 1)
                    log.warning("schema registry available again", seconds=seconds)

    async def _attempt(self) -> None:
        self._included.clear()
        framings = await in_thread(partial(register, self._config, dict(self._topics)), "registry")
        if not self._included.is_set():
            self.trouble = ""
        log.info("schemas registered", registry=self._config.address, subjects=len(framings))
        self._on_registered(framings)

    def _fail(self, why: str) -> None:
        if self.trouble != why:
            self.trouble = why
            log.error("schema registry unavailable, retrying", error=self.trouble)


def registered_topics(config: KafkaConfig, channels: Collection[str]) -> dict[str, str]:
    """Return the topics whose schemas are registered, with the names of these: all that have records."""
    names = topic_names(config, sorted(channels))
    return {name: schema_of(channel) for channel, name in names.items() if channel != STATE}


def register(config: SchemaRegistryConfig, topics: Mapping[str, str]) -> dict[str, Framing]:
    """Register the schemas of these topics, by the names of the schemas; return the topics' framings.

    Blocks. What is registered already stays as it is.

    Raises:
        SchemaRefused: the registry refuses a schema, or does not give what the framing needs.
        Unavailable: it cannot be reached, or answers something else.
    """
    framings = {}
    with _client(config) as (library, client):
        for topic, name in topics.items():
            subject = f"{topic}-value"
            _set_level(library, client, config, subject)
            with _understood(library, config, subject):
                registered = client.register_schema_full_response(subject, _schema(library, name))
            framings[topic] = framing(config.framing, registered.schema_id, registered.guid)
    return framings


def try_registering(config: SchemaRegistryConfig, topics: Mapping[str, str]) -> list[str]:
    """Return the subjects that do not exist yet; register nothing.

    Blocks.

    Raises:
        SchemaRefused: the registry would refuse a schema.
        Unavailable: it cannot be reached, or answers something else.
    """
    missing = []
    with _client(config) as (library, client):
        existing = client.get_subjects()
        for topic, name in topics.items():
            subject = f"{topic}-value"
            if subject not in existing:
                missing.append(subject)
                continue
            with _understood(library, config, subject):
                if not client.test_compatibility(subject, _schema(library, name)):
                    raise SchemaRefused(f"the schema of {subject} is not compatible with what is registered")
    return missing


def require(config: SchemaRegistryConfig) -> None:
    """Raise what would prevent every attempt.

    Raises:
        ConfigError: the client is not installed, or the authorities to trust cannot be used.
    """
    if config.url:
        _library()
        if config.ssl_cafile:
            try:
                ssl.create_default_context(cafile=config.ssl_cafile)
            except OSError as error:
                raise ConfigError("schema_registry.ssl_cafile", f"cannot be used: {error}") from None


def _library() -> ModuleType:
    try:
        return import_module("confluent_kafka.schema_registry")
    except ModuleNotFoundError as error:
        raise ConfigError(
            "schema_registry.url",
            f"needs the package {error.name}: pip install 'digifinex-bridge[registry]'",
        ) from None


def _settings(config: SchemaRegistryConfig) -> dict[str, object]:
    """Return the settings of the client, with the files as they are now.

    Raises:
        Unavailable: the password cannot be read.
    """
    # Without a file it would trust the authorities of a package, and not those of the system.
    system = ssl.get_default_verify_paths()
    trusted = config.ssl_cafile or system.cafile or system.capath
    settings: dict[str, object] = {"url": config.url, "timeout": _TIMEOUT, "max.retries": 0}
    if trusted:
        settings["ssl.ca.location"] = str(trusted)
    try:
        credentials = config.credentials()
    except ConfigError as error:
        raise Unavailable(str(error)) from None
    if credentials:
        settings["basic.auth.user.info"] = ":".join(credentials)
    return settings


@contextmanager
def _client(config: SchemaRegistryConfig) -> Iterator[tuple[ModuleType, _Client]]:
    """Provide the library and a client.

    Raises:
        Unavailable: for all that goes wrong with it in the context.
    """
    library = _library()
    try:
        with library.SchemaRegistryClient(_settings(config)) as client:
            yield library, client
    except BridgeError:
        raise
    except library.SchemaRegistryError as error:
        raise Unavailable(f"{config.address}: {_words(config, error)}") from None
    except Exception as error:  # noqa: BLE001 - of HTTP, TLS and JSON, or an answer that makes no sense
        raise Unavailable(f"{config.address}: {_clean(config, str(error) or repr(error))}") from None


@contextmanager
def _understood(library: ModuleType, config: SchemaRegistryConfig, subject: str) -> Iterator[None]:
    """Raise SchemaRefused where the registry says that it does not take a schema."""
    try:
        yield
    except library.SchemaRegistryError as error:
        if error.http_status_code not in _REFUSED:
            raise
        raise SchemaRefused(
            f"the registry refuses the schema of {subject}: {_words(config, error)}"
        ) from None


def _schema(library: ModuleType, name: str) -> object:
    schema: object = library.Schema(published(name), "JSON")
    return schema


def _set_level(library: ModuleType, client: _Client, config: SchemaRegistryConfig, subject: str) -> None:
    """Set the compatibility of a subject that has none; without the right to do so, warn."""
    try:
        client.get_compatibility(subject)
    except library.SchemaRegistryError as error:
        if error.http_status_code != _NOT_FOUND:
            raise
    else:
        return
    try:
        client.set_compatibility(subject, LEVEL)
    except library.SchemaRegistryError as error:
        if error.http_status_code >= _SERVER_ERROR:
            raise
        log.warning(
            "compatibility of a subject not set", subject=subject, level=LEVEL, error=_words(config, error)
        )


def _words(config: SchemaRegistryConfig, error: _Answer) -> str:
    return _clean(config, f"{error.error_message} (HTTP {error.http_status_code})")


def _clean(config: SchemaRegistryConfig, text: str) -> str:
    """Return a text that may be shown, if the registry has repeated the password, too."""
    try:
        credentials = config.credentials()
    except ConfigError:
        credentials = None
    password = credentials[1] if credentials else ""
    return Confidential([Credentials(password, password)] if password else ()).words(text)
