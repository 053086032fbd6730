"""How a client of aiokafka reaches the brokers: how often it tries, with what, and why it fails.

A client lives as long as the bridge, and a year changes what it was built with. So each connection is opened
with the passwords and certificates of that moment; when no broker that is known can be reached, the client
asks the bootstrap servers again, which the members of a group survive without a rebalance; and it tries at
growing intervals. In Kafka's own client these are KIP-899 and `reconnect.backoff.ms`; aiokafka has neither.

`CORRECTIONS` lists what is replaced; `renewing` and `trouble` are for whoever builds a client.
"""

import asyncio
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.client import AIOKafkaClient, ConnectionGroup
from aiokafka.conn import AIOKafkaConnection, CloseReason, create_conn
from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.protocol.metadata import MetadataRequest
from aiokafka.util import create_task

from bridge.errors import ConfigError
from bridge.kafka.quirks.connection import Attempt, Pace, Reach, current_attempt, is_due, words_of

log = structlog.get_logger(__name__)

AnyClient: TypeAlias = AIOKafkaConsumer | AIOKafkaProducer | AIOKafkaAdminClient

_original_bootstrap = AIOKafkaClient.bootstrap
_original_metadata_update = AIOKafkaClient._metadata_update  # noqa: SLF001
_original_get_conn = AIOKafkaClient._get_conn  # noqa: SLF001
_original_close = AIOKafkaClient.close


def renewing(client: AnyClient, renew: Callable[[], Mapping[str, Any]]) -> None:
    """Have a client open each connection with what `renew` returns then, see `client.connection`.

    aiokafka keeps what it was built with. Not reported upstream as far as known. Without this a certificate
    or password that is renewed on disk is used after a restart only.

    `renew` raises ConfigError for a file that cannot be used; that is a reason to try again.
    """
    _reach_of(_inner(client)).renew = renew


def trouble(client: AnyClient) -> str | None:
    """Return why a client cannot reach brokers, as of its last attempts; None if none has failed.

    aiokafka writes that to its log and goes on trying. Not reported upstream as far as known. Without this
    `/readyz` could only say that there is no response.
    """
    return _reach_of(_inner(client)).trouble()


def _inner(client: AnyClient) -> AIOKafkaClient:
    return client.client if isinstance(client, AIOKafkaProducer) else client._client  # noqa: SLF001


def _reach_of(client: AIOKafkaClient) -> Reach:
    reach: Reach = vars(client).setdefault("_reach", Reach())
    return reach


async def _bootstrap(self: AIOKafkaClient) -> None:
    """Say why no bootstrap server can be used, and leave no connection open.

    aiokafka writes that to its log, and raises "Unable to bootstrap from" without a cause. If it can make no
    sense of a broker's metadata, it forgets the connection. Not reported upstream as far as known. Without
    this `check` and `/readyz` could not say what is the matter, and each attempt would cost a descriptor.
    """
    self.cluster.update_metadata(await _ask_bootstrap_servers(self, ()))
    if self._sync_task is None:
        self._sync_task = create_task(self._md_synchronizer())


async def _metadata_update(self: AIOKafkaClient, cluster: Any, topics: Collection[str]) -> bool:  # noqa: ANN401
    """Ask the bootstrap servers when no broker that is known answers, and never end with an error.

    aiokafka asks the addresses that it was told last, for ever, in a task whose end nobody notices. Upstream
    issue 459, open. Without this a cluster whose addresses have all changed is found again by a restart only.
    """
    reach = _reach_of(self)
    try:
        if await _original_metadata_update(self, cluster, topics):
            known = {f"{broker.host}:{broker.port}" for broker in cluster.brokers()}
            reach.causes = {address: one for address, one in reach.causes.items() if address in known}
            return True
        pace = reach.paces["bootstrap"]
        if pace.allows():
            pace.note()
            cluster.update_metadata(await _ask_bootstrap_servers(self, topics or None))
            return True
    except KafkaError as error:
        log.warning("no bootstrap server answers", error=str(error.args[0] if error.args else error))
    except Exception as error:  # noqa: BLE001 - a response can be wrong in any way
        log.warning("a broker's metadata makes no sense", error=repr(error))
    await asyncio.sleep(self._retry_backoff)  # some of aiokafka's loops have no other pause
    return False


async def _ask_bootstrap_servers(self: AIOKafkaClient, topics: Collection[str] | None) -> object:
    """Return the metadata that one of the bootstrap servers has of these topics; None: of all topics.

    Raises:
        KafkaConnectionError: none of them can be used; says why.
    """
    reach = _reach_of(self)
    causes = []
    request = MetadataRequest(None if topics is None else list(topics))
    for host, port, _ in self.hosts:
        connection, address = None, f"{host}:{port}"
        try:
            with _attempting(self, None):
                connection = await _open(self, host, port)
            metadata: Any = await connection.send(request)
            if metadata.brokers:
                return metadata
            words = "it knows no broker yet"
        except ConfigError as error:
            words = str(error)
        except (KafkaError, OSError) as error:
            known = reach.causes.get(address, (0.0, str(error)))[1]  # noted where it was to be opened
            words = known if connection is None else words_of(connection, error)
        finally:
            if connection is not None:
                connection.close()
        reach.failed(address, words)
        causes.append(f"{address}: {words}")
    raise KafkaConnectionError(f"cannot connect to {'; '.join(causes)}")


async def _open(self: AIOKafkaClient, host: str, port: int) -> AIOKafkaConnection:
    """Open a connection to a bootstrap server as aiokafka does."""
    return await create_conn(
        host,
        port,
        client_id=self._client_id,
        request_timeout_ms=self._request_timeout_ms,
        ssl_context=self._ssl_context,
        security_protocol=self._security_protocol,
        max_idle_ms=self._connections_max_idle_ms,
        sasl_mechanism=self._sasl_mechanism,
        sasl_plain_username=self._sasl_plain_username,
        sasl_plain_password=self._sasl_plain_password,
        sasl_oauth_token_provider=self._sasl_oauth_token_provider,
    )


@contextmanager
def _attempting(client: AIOKafkaClient, pace: Pace | None) -> Iterator[None]:
    """Have the connections that are opened in this context belong to a client, with its credentials of now.

    Raises:
        ConfigError: a file with credentials cannot be used.
    """
    reach = _reach_of(client)
    if reach.renew is not None:
        renewed = reach.renew()
        client._ssl_context = renewed.get("ssl_context")  # noqa: SLF001
        client._sasl_plain_password = renewed.get("sasl_plain_password")  # noqa: SLF001
    token = current_attempt.set(Attempt(reach, pace))
    try:
        yield
    finally:
        current_attempt.reset(token)


async def _get_conn(
    self: AIOKafkaClient,
    node_id: object,
    *,
    group: ConnectionGroup = ConnectionGroup.DEFAULT,
    no_hint: bool = False,
) -> AIOKafkaConnection | None:
    """Open a connection with the credentials of now, and not again and again; replace it before it ends.

    aiokafka tries about ten times a second. Not reported upstream as far as known. Without this each client
    of each shard is a burden on brokers that are starting, and on whatever is at their addresses.

    Nor does it authenticate again (KIP-368, upstream issue 1080, open): a broker with
    `connections.max.reauth.ms` closes the connection in the middle of a request, or denies access once a
    token has expired. Here a new connection takes its place before that, while nothing is under way on it.
    """
    place = (node_id, group)
    old = self._conns.get(place)
    is_usable = old is not None and old.connected()
    if is_usable and not is_due(old):
        return old
    pace = _reach_of(self).paces[place]
    if not pace.allows() and not self._get_conn_lock.locked():  # else it may be opened right now
        self.force_metadata_update()  # as after any attempt that fails
        return old if is_usable else None
    self._conns.pop(place, None)
    new = None
    try:
        with _attempting(self, pace):
            new = await _original_get_conn(self, node_id, group=group, no_hint=no_hint)
    except ConfigError as error:
        pace.note()
        if broker := self.cluster.broker_metadata(node_id):
            _reach_of(self).failed(f"{broker.host}:{broker.port}", str(error))
    finally:
        if is_usable and place not in self._conns:
            self._conns[place] = old  # as long as the broker lets it
    if new is None:
        return old if is_usable else None
    if is_usable:
        old.close(reason=CloseReason.SHUTDOWN)
    return new


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


CORRECTIONS = (
    (AIOKafkaClient, "bootstrap", _original_bootstrap, _bootstrap),
    (AIOKafkaClient, "_metadata_update", _original_metadata_update, _metadata_update),
    (AIOKafkaClient, "_get_conn", _original_get_conn, _get_conn),
    (AIOKafkaClient, "close", _original_close, _close),
)
"""What `quirks.apply` replaces: the owner, the name, and the original and corrected member."""
