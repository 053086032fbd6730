"""Registers the schemas of topics in a schema registry, and asks what it calls them.

With TopicNameStrategy, as `<topic>-value`. Records of v1 may get optional fields, which is forward compatible
since the schemas are open; so a subject for which the registry has no level gets FORWARD_TRANSITIVE.

The client is Confluent's, in the extra `registry`. It blocks. It takes any JSON for an answer of a registry,
so what is used of one is checked here.
"""

import json
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol

import structlog

from bridge.config import Framing as Kind
from bridge.config import SchemaRegistryConfig
from bridge.errors import BridgeError, ConfigError, SchemaRefused
from bridge.exchange.requests import Credentials
from bridge.exchange.words import Confidential
from bridge.kafka.framing import Framing, framing
from bridge.schema import published

log = structlog.get_logger(__name__)

LEVEL = "FORWARD_TRANSITIVE"
"""The compatibility of a subject that has none."""

_TIMEOUT = 10.0  # seconds without anything from the registry
_REFUSED = (HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT, HTTPStatus.UNPROCESSABLE_ENTITY)
_READ_ONLY = 42205  # the error of a subject or a registry in mode READONLY, which is not the schema's fault
_NO_JSON = -1  # the error of an answer that the client cannot read
_MALFORMED = (ValueError, LookupError, TypeError, AttributeError)  # what the client raises of odd answers
_ADDRESS = "schema_registry.url has to be the address of its API; that of Apicurio ends with /apis/ccompat/v7"


class _Client(Protocol):
    """What is used of the client."""

    def get_subjects(self) -> list[str]: ...
    def get_compatibility(self, subject: str) -> str: ...
    def set_compatibility(self, subject: str, level: str) -> object: ...
    def test_compatibility(self, subject: str, schema: object) -> bool: ...
    def lookup_schema(self, subject: str, schema: object) -> Any: ...  # noqa: ANN401
    def register_schema_full_response(self, subject: str, schema: object) -> Any: ...  # noqa: ANN401
    def get_schema(self, number: int) -> Any: ...  # noqa: ANN401
    def get_schema_by_guid(self, guid: str) -> Any: ...  # noqa: ANN401
    def clear_caches(self) -> None: ...


class _Answer(Protocol):
    """An error that the registry answers."""

    http_status_code: int
    error_code: int | None
    error_message: str | None


class Unavailable(BridgeError):
    """The registry cannot be used at the moment; the message says why."""


def register(config: SchemaRegistryConfig, topics: Mapping[str, str]) -> dict[str, Framing]:
    """Register the schemas of these topics, by the names of the schemas; return the topics' framings.

    Blocks. What is registered already stays as it is, and needs no more than the right to read it.

    Raises:
        SchemaRefused: the registry refuses a schema, or does not give what the framing needs.
        Unavailable: it cannot be reached, or answers something else.
    """
    framings = {}
    with _client(config) as (library, client):
        for topic, name in topics.items():
            subject = f"{topic}-value"
            with _understood(library, config, subject):
                level = _level(library, client, config, subject)
                schema = _schema(library, name)
                with _refusals(library, config, subject, level):
                    registered = _looked_up(library, client, subject, schema)
                    if registered is None:
                        registered = client.register_schema_full_response(subject, schema)
                if type(registered.schema_id) is not int:
                    raise TypeError
                framings[topic] = _framing(config, subject, registered)
                if framings[topic] != Framing():
                    place = f"{config.address}: {subject}"
                    _require_same(client, config.framing, registered, published(name), place)
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
        with _understood(library, config):
            existing = client.get_subjects()
            if not isinstance(existing, list):
                raise TypeError
        for topic, name in topics.items():
            subject = f"{topic}-value"
            if subject not in existing:
                missing.append(subject)
                continue
            with _understood(library, config, subject), _refusals(library, config, subject):
                fits = client.test_compatibility(subject, _schema(library, name))
                if fits is False:
                    raise SchemaRefused(
                        f"{config.address}: the schema of {subject} is not compatible with what is "
                        f"registered; compare that with `digifinex-bridge schema {name}`"
                    )
                if fits is not True:
                    raise TypeError
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
    except Exception as error:  # noqa: BLE001 - of HTTP and TLS
        raise Unavailable(f"{config.address}: {_clean(config, str(error) or repr(error))}") from None


@contextmanager
def _understood(library: ModuleType, config: SchemaRegistryConfig, subject: str = "") -> Iterator[None]:
    """Raise Unavailable for answers that are errors, and for those that are none of a schema registry."""
    place = f"{config.address}: {subject}" if subject else config.address
    try:
        yield
    except library.SchemaRegistryError as error:
        advice = _advice(config, error)
        raise Unavailable(f"{place}: {_words(config, error)}{advice and f'; {advice}'}") from None
    except _MALFORMED:
        raise Unavailable(f"{place}: its answer is none of a schema registry; {_ADDRESS}") from None


@contextmanager
def _refusals(
    library: ModuleType, config: SchemaRegistryConfig, subject: str, level: str = ""
) -> Iterator[None]:
    """Raise SchemaRefused where the registry says that it does not take a schema."""
    try:
        yield
    except library.SchemaRegistryError as error:
        if error.http_status_code not in _REFUSED or error.error_code == _READ_ONLY:
            raise
        known = f"its compatibility is {level}, " if level else ""
        raise SchemaRefused(
            f"{config.address}: the registry refuses the schema of {subject}: {_words(config, error)}; "
            f"{known}that of the bridge's schemas has to be FORWARD_TRANSITIVE, FORWARD or NONE"
        ) from None


def _schema(library: ModuleType, name: str) -> object:
    schema: object = library.Schema(published(name), "JSON")
    return schema


def _level(library: ModuleType, client: _Client, config: SchemaRegistryConfig, subject: str) -> str:
    """Return the compatibility of a subject; set it if it has none, or warn without the right to do so."""
    try:
        level = client.get_compatibility(subject)
    except library.SchemaRegistryError as error:
        if error.http_status_code != HTTPStatus.NOT_FOUND or error.error_code == _NO_JSON:
            raise
    else:
        if not isinstance(level, str):
            raise TypeError
        return _clean(config, level)
    try:
        client.set_compatibility(subject, LEVEL)
    except library.SchemaRegistryError as error:
        if error.http_status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise
        log.warning(
            "compatibility of a subject not set", subject=subject, level=LEVEL, error=_words(config, error)
        )
        return ""
    return LEVEL


def _looked_up(library: ModuleType, client: _Client, subject: str, schema: object) -> Any:  # noqa: ANN401
    """Return what the registry has of a schema; None if it is not registered, or was deleted."""
    try:
        return client.lookup_schema(subject, schema)
    except library.SchemaRegistryError as error:
        if error.http_status_code != HTTPStatus.NOT_FOUND or error.error_code == _NO_JSON:
            raise
        return None


def _framing(config: SchemaRegistryConfig, subject: str, registered: Any) -> Framing:  # noqa: ANN401
    try:
        return framing(config.framing, registered.schema_id, registered.guid)
    except SchemaRefused as error:
        raise SchemaRefused(f"{config.address}: {subject}: {error}") from None


def _require_same(client: _Client, kind: Kind, registered: Any, schema: str, place: str) -> None:  # noqa: ANN401
    """Require that readers, who know only what a message has, get this schema.

    Raises:
        Unavailable: they get another one, as from a registry that was restored, or that is not in step.
    """
    client.clear_caches()
    if kind is Kind.HEADER:
        name, found = registered.guid, client.get_schema_by_guid(registered.guid)
    else:
        name, found = registered.schema_id, client.get_schema(registered.schema_id)
    if json.loads(found.schema_str) != json.loads(schema):
        raise Unavailable(
            f"{place}: the registry has given it {name}, and has another schema by that name; "
            "register it under the subject again, or restore the registry"
        )


def _words(config: SchemaRegistryConfig, error: _Answer) -> str:
    text = error.error_message
    if error.error_code == _NO_JSON:
        text = f"no answer of a schema registry: {str(text).removeprefix('Unknown Schema Registry Error: ')}"
    return _clean(config, f"{text or 'an error without a reason'} (HTTP {error.http_status_code})")


def _advice(config: SchemaRegistryConfig, error: _Answer) -> str:
    """Return what people can do about an error, if that is known."""
    match error.http_status_code:
        case HTTPStatus.UNAUTHORIZED if config.username:
            return "schema_registry.username and its password have to be those of a user of the registry"
        case HTTPStatus.UNAUTHORIZED:
            return "schema_registry.username and password_file have to be set"
        case HTTPStatus.FORBIDDEN:
            return "the user needs the right to read the subject, and, if it is new, to write it"
        case status if status < HTTPStatus.BAD_REQUEST or status in (
            HTTPStatus.NOT_FOUND,
            HTTPStatus.METHOD_NOT_ALLOWED,
        ):
            return _ADDRESS
    if error.error_code == _READ_ONLY:
        return "it is tried again until the registry or the subject has left mode READONLY"
    return ""


def _clean(config: SchemaRegistryConfig, text: str) -> str:
    """Return a text that may be shown, if the registry has repeated the password, too."""
    try:
        credentials = config.credentials()
    except ConfigError:
        credentials = None
    password = credentials[1] if credentials else ""
    return Confidential([Credentials(password, password)] if password else ()).words(text)
