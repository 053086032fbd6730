"""Corrections and additions to aiokafka: the only module that touches its private members.

Seen in aiokafka 0.14.0. After an upgrade read each function again; a test fails until `SEEN_IN` is raised.

`apply` replaces some methods of aiokafka; `bridge.kafka.client.connection`, which every client is built with,
calls it. The other functions do their work where they are called.

Three more properties of aiokafka need no private member, and are handled where the records are sent:

- A record that the broker rejects makes every later send to its partition fail until the producer is
  replaced (issue 1017 has the same symptom): `Sink` replaces the producer.
- `commit_transaction()` succeeds although batches of the transaction have failed: `Batches` looks at the
  result of every batch first.
- With idempotence nothing ever expires (issue 1101): `Batches` limits how long it waits for a response.

Longer than 350 lines because all that depends on the library's version is here, to be read again together.
"""

import asyncio
import struct
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.client import AIOKafkaClient
from aiokafka.conn import AIOKafkaConnection, CloseReason, ScramAuthenticator
from aiokafka.errors import KafkaConnectionError, KafkaError, KafkaTimeoutError, SaslAuthenticationFailed
from aiokafka.producer.message_accumulator import BatchBuilder, MessageAccumulator, MessageBatch
from aiokafka.protocol.api import Response
from aiokafka.protocol.metadata import MetadataRequest, MetadataRequest_v5

from bridge.exchange.requests import Credentials
from bridge.exchange.words import Confidential

log = structlog.get_logger(__name__)

SEEN_IN = "0.14.0"
"""The version of aiokafka in which all of this was last checked."""

_CLOSE_TIMEOUT = 1.0  # seconds that a client gets to close, and once more after its task was cancelled

# Bytes of a response: as many as a broker takes of a request, `socket.request.max.bytes`.
_MOST_RESPONSE = 100 * 1024 * 1024

# Iterations that SCRAM may ask for. Kafka sets 4096 to 16384 when it stores a password, and its own clients
# refuse fewer, with which the password could be guessed from what is sent; more only keep a core busy.
_LEAST_ITERATIONS, _MOST_ITERATIONS = 4096, 1_000_000


@dataclass(slots=True)
class _Attempt:
    """A bootstrap: the connections that it has opened, and why the other brokers could not be used."""

    opened: list[AIOKafkaConnection] = field(default_factory=list)
    causes: list[str] = field(default_factory=list)


# The bootstrap under way; outside of one nobody reads it.
_attempt: ContextVar[_Attempt] = ContextVar("attempt")

_original_send = AIOKafkaConnection.send
_original_connect = AIOKafkaConnection.connect
_original_authenticate = AIOKafkaConnection._do_sasl_handshake  # noqa: SLF001
_original_read = AIOKafkaConnection._read  # noqa: SLF001
_original_bootstrap = AIOKafkaClient.bootstrap
_original_close = AIOKafkaClient.close
_original_salted_password = ScramAuthenticator.create_salted_password
_original_reenqueue = MessageAccumulator.reenqueue
_original_build = MetadataRequest.build


def apply() -> None:
    """Replace the methods of aiokafka that have to be replaced; calling it again changes nothing."""
    for owner, name, original, corrected in (
        (AIOKafkaConnection, "send", _original_send, _send),
        (AIOKafkaConnection, "connect", _original_connect, _connect),
        (AIOKafkaConnection, "_do_sasl_handshake", _original_authenticate, _authenticate),
        (AIOKafkaConnection, "_read", _original_read, staticmethod(_read)),
        (AIOKafkaClient, "bootstrap", _original_bootstrap, _bootstrap),
        (AIOKafkaClient, "close", _original_close, _close),
        (ScramAuthenticator, "create_salted_password", _original_salted_password, _create_salted_password),
        (MessageAccumulator, "reenqueue", _original_reenqueue, _reenqueue),
        (MetadataRequest, "build", _original_build, _build),
    ):
        if getattr(owner, name) is original:
            setattr(owner, name, corrected)


def _send(
    self: AIOKafkaConnection,
    request: object,
    expect_response: bool = True,
) -> Awaitable[object]:
    """Raise `KafkaConnectionError` when the connection has just been closed, on uvloop as well.

    aiokafka expects an OSError from a write to a closed connection; uvloop raises RuntimeError. Upstream
    issue 1038, open. Without this the error ends whichever background task of aiokafka comes first, so that
    a consumer no longer sends heartbeats, or a producer sends nothing, until it is replaced.
    """
    try:
        response: Awaitable[object] = _original_send(self, request, expect_response)
    except (KafkaError, NotImplementedError):  # these are RuntimeErrors, too
        raise
    except RuntimeError as error:
        self.close(reason=CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"Connection at {self.host}:{self.port} broken: {error}") from error
    return response


async def _connect(self: AIOKafkaConnection) -> object:
    """Raise nothing but KafkaError and OSError, in few words, which are not the password's.

    aiokafka's clients expect these two. An address that is none, or a response that makes no sense, comes out
    as whatever Python raises (ValueError, OverflowError, AssertionError). Not reported upstream as far as
    known. Without this such a broker ends a background task of aiokafka, or the bridge, with a traceback.
    """
    attempt = _attempt.get(_Attempt())
    try:
        streams: object = await _original_connect(self)
    except OSError as error:
        attempt.causes.append(f"{self.host}:{self.port}: {error}")
        raise
    except Exception as error:  # noqa: BLE001 - a response can be wrong in any way
        is_known = isinstance(error, KafkaError)
        words = _words(error) if is_known else f"no answer of a Kafka broker: {error!r}"
        words = Confidential([Credentials(self._sasl_plain_password or "", "")]).words(words)
        attempt.causes.append(f"{self.host}:{self.port}: {words}")
        raise (type(error) if is_known else KafkaConnectionError)(words) from None
    attempt.opened.append(self)
    return streams


async def _authenticate(self: AIOKafkaConnection) -> None:
    """Raise `SaslAuthenticationFailed` for an answer that is none of the mechanism's, see `_connect`."""
    try:
        await _original_authenticate(self)
    except (KafkaError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - an answer can be wrong in any way
        raise SaslAuthenticationFailed(f"{self._sasl_mechanism} failed: {error!r}") from None


async def _bootstrap(self: AIOKafkaClient) -> None:
    """Say why no broker can be used, and leave no connection open if it fails.

    aiokafka writes that to its log, and raises "Unable to bootstrap from" without a cause. If it can make no
    sense of a broker's metadata, it forgets the connection. Not reported upstream as far as known. Without
    this `check` and `/readyz` could not say what is the matter, and each attempt would cost a descriptor.
    """
    attempt = _Attempt()
    token = _attempt.set(attempt)
    try:
        await _original_bootstrap(self)
    except BaseException as error:
        for connection in attempt.opened:
            connection.close()
        if attempt.causes and isinstance(error, KafkaConnectionError):
            raise KafkaConnectionError(f"cannot connect to {'; '.join(attempt.causes)}") from error
        raise
    finally:
        _attempt.reset(token)


async def _close(self: AIOKafkaClient) -> None:
    """Close all connections, also if the task that keeps the metadata up to date has failed.

    aiokafka raises its error before it has closed any. Not reported upstream as far as known. Without this a
    broker whose metadata makes no sense costs a descriptor with each attempt.
    """
    try:
        await _original_close(self)
    finally:
        for connection in self._conns.values():
            connection.close()


def _words(error: Exception) -> str:
    """Return the text of one of Kafka's errors, or its name if it has none, and what caused it."""
    words = ", ".join(str(one) for one in error.args if one is not None) or type(error).__name__
    return f"{words}: {error.__cause__!r}" if error.__cause__ is not None else words


def _create_salted_password(self: ScramAuthenticator, salt: bytes, iterations: int) -> None:
    """Refuse numbers of iterations that no broker needs.

    aiokafka takes any number. Not reported upstream as far as known. Without this whoever answers in place of
    the broker can have the password in a form that is guessed quickly, or keep a thread busy for hours.
    """
    if not _LEAST_ITERATIONS <= iterations <= _MOST_ITERATIONS:
        raise ValueError(f"{iterations} iterations, {_LEAST_ITERATIONS} to {_MOST_ITERATIONS} are accepted")
    _original_salted_password(self, salt, iterations)


async def _read(reference: Callable[[], AIOKafkaConnection | None]) -> None:
    """Read responses as long as there is a connection, none larger than Kafka sends.

    aiokafka collects as many bytes as the first four announce, up to 2 GiB. Not reported upstream as far as
    known. Without this whoever answers in place of the broker can use up the memory.
    """
    connection = reference()
    if connection is None:
        return
    reader = connection._reader  # noqa: SLF001
    del connection  # or it would never be collected while this waits
    while True:
        (size,) = struct.unpack(">i", await reader.readexactly(4))
        if not 0 <= size <= _MOST_RESPONSE:
            raise ConnectionError(f"a response of {size} bytes, {_MOST_RESPONSE} are accepted")
        response = await reader.readexactly(size)
        connection = reference()
        if connection is None:
            return
        connection._handle_frame(response)  # noqa: SLF001
        del connection


def _reenqueue(self: MessageAccumulator, batch: MessageBatch) -> None:
    """Queue a batch for another attempt, unless it has been failed together with its producer.

    aiokafka removes the batch from the pending ones here, and again when its future is done. When the
    producer fails before or after, one of the two removals is a KeyError in a task that nobody awaits. Not
    reported upstream as far as known. Without this a failing producer logs such errors, and the response to
    a batch may be lost.
    """
    if not batch.future.done():
        self._batches[batch.tp].appendleft(batch)
        batch.reset_drain()


def _build(self: MetadataRequest, request_struct_class: type[MetadataRequest_v5]) -> MetadataRequest_v5:
    """Ask for metadata without letting the broker create the topics that are asked for.

    aiokafka's clients let it, and have no option against it. Not reported upstream as far as known. Without
    this a broker with `auto.create.topics.enable` creates a deleted topic again as soon as the producer or
    the group's consumer asks for it, with the broker's number of partitions and settings.
    """
    if self._allow_auto_topic_creation is None:
        self._allow_auto_topic_creation = False
    return _original_build(self, request_struct_class)


async def wait_closed(closing: Coroutine[Any, Any, None]) -> None:
    """Wait for one of aiokafka's clients to close, for two seconds at most.

    A client's `stop()` or `close()` waits for a task that it has cancelled; but before Python 3.12
    `asyncio.wait_for` loses a cancellation that arrives together with a result, so that it may wait forever.
    A second cancellation ends the task. The close also raises whatever that task had failed with, which no
    longer matters. Not reported upstream as far as known. Without this a shutdown may hang.
    """
    task = asyncio.create_task(closing)
    await asyncio.wait({task}, timeout=_CLOSE_TIMEOUT)
    if not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=_CLOSE_TIMEOUT)
    if task.done() and not task.cancelled() and (error := task.exception()) is not None:
        log.warning("Kafka client did not close cleanly", error=repr(error))


def appending(batch: BatchBuilder) -> Callable[[int, int, bytes | None, bytes, Sequence[object]], object]:
    """Return what appends a record to a batch: its place in it from 0, its time in ms, key, value, headers.

    It returns None once the batch is full. `BatchBuilder.append` does the same, but in a layer of Python that
    costs more than the rest. `note_appended` has to be called afterwards, instead of the counting there.
    """
    return batch._builder.append  # type: ignore[no-any-return]  # noqa: SLF001


def note_appended(batch: BatchBuilder, number: int) -> None:
    """Tell a batch how many records it has, from which the producer counts its sequence numbers."""
    batch._relative_offset = number  # noqa: SLF001


def is_in_transaction(producer: AIOKafkaProducer) -> bool:
    """Return whether a transaction of this producer is open.

    aiokafka has no public way to ask, and `abort_transaction()` without a transaction is an error. Not
    reported upstream as far as known. Without this the bridge would have to keep a second account of it.
    """
    manager = producer._txn_manager  # noqa: SLF001
    return manager is not None and bool(manager.is_in_transaction())


async def close_by_force(producer: AIOKafkaProducer) -> None:
    """Dismantle a producer that has stopped, or does not stop, so that none of its tasks remains.

    With idempotence batches never expire: while the broker is unavailable `stop()` waits forever, and after
    a cancelled `stop()` the sender's tasks live on and deliver when the broker is back. Upstream issue 1101,
    open. Without this a batch that the bridge has sent again with its next producer is on Kafka twice.

    The order matters: to fail the batches before the tasks have ended is a KeyError in them. In the end the
    errors of futures that nobody awaits any more are retrieved, or asyncio would complain about each.
    """
    accumulator, manager = producer._message_accumulator, producer._txn_manager  # noqa: SLF001
    if tasks := _tasks_of(producer._sender):  # noqa: SLF001
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=_CLOSE_TIMEOUT)
    accumulator.fail_all(KafkaTimeoutError("given up"))
    await wait_closed(producer.client.close())
    waiters = [batch._drain_waiter for batch in chain.from_iterable(accumulator._batches.values())]  # noqa: SLF001
    if manager is not None:
        waiters.append(manager._transaction_waiter)  # noqa: SLF001
    for waiter in waiters:
        if waiter is not None and waiter.done() and not waiter.cancelled():
            waiter.exception()


def _tasks_of(sender: object) -> set[asyncio.Task[object]]:
    """Return the tasks of a producer's sender; one that has failed leaves its requests running."""

    def belongs(task: asyncio.Task[object]) -> bool:
        frame = getattr(task.get_coro(), "cr_frame", None)
        return frame is not None and frame.f_locals.get("self") is sender

    return {task for task in asyncio.all_tasks() if belongs(task)}


async def request(admin: AIOKafkaAdminClient, message: object, node: int | None = None) -> Response:
    """Return Kafka's response to a request that the admin client has no method for, from any node or this.

    There is no method for most requests. Not reported upstream as far as known. Without this `check` could
    not ask for ACLs, nor anybody for the ids of topics.

    Raises:
        KafkaError: Kafka does not answer.
    """
    return await admin._send_request(message, node)  # noqa: SLF001


async def create_topics(
    admin: AIOKafkaAdminClient, topics: Collection[NewTopic], *, validate_only: bool = False
) -> Mapping[str, tuple[int, str]]:
    """Return Kafka's error code and message for each topic that was to be created; code 0 is success.

    While the cluster has no controller, `create_topics()` is an AttributeError. Not reported upstream as far
    as known. Without this an election of the controller at the start would end the bridge with an internal
    error.

    Raises:
        NoController: the cluster has no controller; librdkafka's mock cluster never has one.
        KafkaError: Kafka does not answer.
    """
    try:
        response: Any = await admin.create_topics(list(topics), validate_only=validate_only)
    except AttributeError:
        if admin._client.cluster.controller is not None:  # noqa: SLF001
            raise
        raise NoController("the cluster has no controller at the moment") from None
    clean = Confidential().words
    return {name: (code, clean(message or "")) for name, code, message in response.topic_errors}


class NoController(KafkaError):  # type: ignore[misc]
    """The cluster has no controller, so no topic can be created."""


def new_topic(name: str, partitions: int, replication_factor: int, settings: Mapping[str, str]) -> NewTopic:
    """Return a topic to be created; a replication factor of -1 leaves it to the broker.

    -1 is the broker's default in Kafka's protocol, but `NewTopic` takes it for "not given" and raises. Not
    reported upstream as far as known. Without this `kafka.replication_factor = -1` would be impossible.
    """
    topic = NewTopic(name, partitions, 1, topic_configs=dict(settings))
    topic.replication_factor = replication_factor
    return topic
