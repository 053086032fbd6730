"""A real broker with TLS, SCRAM and ACLs."""

import asyncio
import json
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from aiokafka import TopicPartition
from confluent_kafka import Producer
from confluent_kafka.admin import (  # type: ignore[attr-defined] # it has no __all__
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from structlog.testing import capture_logs

from bridge.kafka.partition import Partition
from bridge.kafka.rebuilding import is_on_kafka
from bridge.kafka.topics import Topic
from bridge.records import Record
from bridge.simulator.protocol import PRIVATE, PUBLIC
from tests.support.certificates import make_certificates
from tests.support.checks import assert_trades_are, records_of, topics_of, trade_ids
from tests.support.consumers import create_topic, delete_topic
from tests.support.delivery import kafka_config
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker, free_ports
from tests.support.process import ACCOUNTS, ROOT, SYMBOLS, Command, RunningBridge, config, toml
from tests.support.waiting import eventually

PASSWORD = "bridge-p4ssw0rd"

_LOGIN = (
    "org.apache.kafka.common.security.scram.ScramLoginModule required "
    'username="admin" password="admin-secret";'
)


class Secure(NamedTuple):
    """A broker that accepts TLS only, and the certificate authority to trust."""

    broker: Broker
    authority: Path


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    """A broker with SASL_SSL and the users admin and bridge."""
    authority, keystore = make_certificates(tmp_path_factory.mktemp("certificates"))
    properties = {
        "listeners": "SASL_SSL://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": "SASL_SSL://localhost:{port}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,SASL_SSL:SASL_SSL",
        "inter.broker.listener.name": "SASL_SSL",
        "sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "sasl.mechanism.inter.broker.protocol": "SCRAM-SHA-512",
        "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config": _LOGIN,
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(keystore),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(authority),
    }
    with Broker(properties, users={"admin": "admin-secret", "bridge": PASSWORD}) as broker:
        yield Secure(broker, authority)


def settings(exchange: ExchangeThread, secure: Secure, prefix: str, **keys: str) -> dict[str, Any]:
    kafka = {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "bridge",
        "sasl_plain_password": PASSWORD,
        "ssl_cafile": str(secure.authority),
    }
    return config(exchange.url, secure.broker, prefix, {"kafka": {**kafka, **keys}})


def test_run_authenticates_over_tls(secure: Secure, prefix: str, tmp_path: Path) -> None:
    with (
        ExchangeThread(symbols=SYMBOLS, rate=100) as exchange,
        RunningBridge(tmp_path, settings(exchange, secure, prefix)) as bridge,
    ):
        bridge.wait_ready()
        eventually(lambda: bridge.metric("records_total", channel="trades") > 20, 20, "trades")
        assert bridge.stop() == 0
    assert PASSWORD not in bridge.stderr


def test_a_wrong_password_is_reported_but_never_shown(secure: Secure, prefix: str, tmp_path: Path) -> None:
    with (
        ExchangeThread(symbols=SYMBOLS, rate=100) as exchange,
        RunningBridge(tmp_path, settings(exchange, secure, prefix, sasl_plain_password="wr0ng")) as bridge,
    ):
        words = "user name or password refused (SCRAM-SHA-512)"
        eventually(lambda: words in bridge.ready()[1]["missing"].get("kafka", ""), 20, "the reason")
        assert words in bridge.stderr
        assert bridge.stop() == 0
    assert "wr0ng" not in bridge.stderr


def test_an_unknown_certificate_authority_is_reported(secure: Secure, prefix: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other, _ = make_certificates(tmp_path / "other")
    with (
        ExchangeThread(symbols=SYMBOLS, rate=100) as exchange,
        RunningBridge(tmp_path, settings(exchange, secure, prefix, ssl_cafile=str(other))) as bridge,
    ):
        words = "the broker's certificate is not trusted: "
        eventually(lambda: words in bridge.ready()[1]["missing"].get("kafka", ""), 20, "the reason")
        assert words in bridge.stderr
        assert bridge.stop() == 0


def test_a_file_that_is_not_a_certificate_is_a_configuration_error(
    secure: Secure, prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    with (
        ExchangeThread(symbols=SYMBOLS, rate=100) as exchange,
        RunningBridge(tmp_path, settings(exchange, secure, prefix, ssl_cafile="ca.pem")) as bridge,
    ):
        assert bridge.process.wait(30) == 2
    assert "kafka.ssl_cafile" in bridge.stderr
    assert "Traceback" not in bridge.stderr


USER = "User:bridge"
OPTIONAL = {  # besides DescribeConfigs
    "Read on topic private.digifinex.bridge-state",
    "Read on topic digifinex.trades.v1",
}


class Guarded(NamedTuple):
    """A broker whose second listener allows only what its ACLs allow."""

    broker: Broker
    admin: AdminClient
    bootstrap: str


@pytest.fixture(scope="module")
def guarded() -> Iterator[Guarded]:
    """A broker with an authorizer; anonymous clients, as the tests are, may do everything."""
    (port,) = free_ports(1)
    properties = {
        "listeners": f"PLAINTEXT://127.0.0.1:{{port}},GUARDED://127.0.0.1:{port},"
        "CONTROLLER://127.0.0.1:{controller}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{{port}},GUARDED://127.0.0.1:{port}",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,GUARDED:SASL_PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
        "listener.name.guarded.sasl.enabled.mechanisms": "SCRAM-SHA-512",
        "listener.name.guarded.scram-sha-512.sasl.jaas.config": _LOGIN,
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    with Broker(properties, users={"bridge": PASSWORD}) as broker:
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        yield Guarded(broker, admin, f"127.0.0.1:{port}")


def least(prefix: str) -> dict[str, AclBinding]:
    """Return the ACLs that docs/security.md lists, with the prefix and group of a test instead."""

    def acl(resource: ResourceType, name: str, operation: str, *, prefixed: bool = True) -> AclBinding:
        pattern = ResourcePatternType.PREFIXED if prefixed else ResourcePatternType.LITERAL
        allow = AclPermissionType.ALLOW
        return AclBinding(resource, name, pattern, USER, "*", AclOperation[operation], allow)

    table = (ROOT / "docs/security.md").read_text()
    rows = re.findall(r"^\| ([a-z ]+) \| `(.*?)` \| (prefixed|literal) \| (\w+) \|", table, re.MULTILINE)
    kinds = {
        "topic": ResourceType.TOPIC,
        "group": ResourceType.GROUP,
        "transactional id": ResourceType.TRANSACTIONAL_ID,
    }
    return {
        f"{operation} on {kind} {name}": acl(
            kinds[kind],
            name.replace("digifinex-bridge", prefix).replace("digifinex", prefix),
            re.sub(r"(?<!^)(?=[A-Z])", "_", operation).upper(),
            prefixed=pattern == "prefixed",
        )
        for kind, name, pattern, operation in rows
    }


@contextmanager
def allowed(guarded: Guarded, acls: Collection[AclBinding]) -> Iterator[None]:
    """Allow the bridge these operations, for as long as the context."""
    for done in guarded.admin.create_acls(list(acls)).values():
        done.result()
    # The controller has them; the broker applies them a moment later.
    eventually(lambda: all(_is_applied(guarded, acl) for acl in acls), 20, "ACLs in force")
    try:
        yield
    finally:
        for deleted in guarded.admin.delete_acls([_only(acl) for acl in acls]).values():
            deleted.result()


def _is_applied(guarded: Guarded, acl: AclBinding) -> bool:
    return acl in guarded.admin.describe_acls(_only(acl)).result()


def _only(acl: AclBinding) -> AclBindingFilter:
    return AclBindingFilter(
        acl.restype,
        acl.name,
        acl.resource_pattern_type,
        acl.principal,
        acl.host,
        acl.operation,
        acl.permission_type,
    )


def guarded_settings(
    exchange: ExchangeThread, guarded: Guarded, prefix: str, *, accounts: bool = False, **keys: object
) -> dict[str, Any]:
    login = {
        "bootstrap_servers": guarded.bootstrap,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "bridge",
        "sasl_plain_password": PASSWORD,
    }
    return config(exchange.url, guarded.broker, prefix, {"kafka": {**login, **keys}}, accounts=accounts)


def test_the_documented_acls_are_sufficient(guarded: Guarded, prefix: str, tmp_path: Path) -> None:
    with (
        ExchangeThread(symbols=SYMBOLS, rate=100, accounts=ACCOUNTS) as exchange,
        allowed(guarded, least(prefix).values()),
    ):
        settings = guarded_settings(exchange, guarded, prefix, accounts=True)
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            exchange.quiesce()
            assert bridge.stop() == 0
        assert_trades_are(records_of(guarded.broker, prefix, "trades"), exchange.truth.made)
        with Command(tmp_path, ["check", "--config", "bridge.toml"]) as checked:
            assert checked.process.wait(30) == 0
        assert "ACL missing" not in bridge.stderr + checked.stdout


@pytest.mark.parametrize("number", range(11))
def test_each_missing_acl_is_named_by_check_and_by_run_which_continues_once_it_is_granted(
    guarded: Guarded, prefix: str, tmp_path: Path, number: int
) -> None:
    acls = least(prefix)
    assert len(acls) == 11
    with ExchangeThread(symbols=SYMBOLS, rate=100, accounts=ACCOUNTS) as exchange:
        settings = guarded_settings(exchange, guarded, prefix, accounts=True)
        (missing, acl) = list(acls.items())[number]
        operation, _, kind = missing.partition(" on ")
        if operation != "Create":
            settings["kafka"]["create_topics"] = False
            for channel in (*PUBLIC, *PRIVATE, "deadletter", "events"):
                for topic in topics_of(prefix, channel):
                    create_topic(guarded.broker.bootstrap, topic, 12)
            for topic in (f"{prefix}.bridge-state", f"private.{prefix}.bridge-state"):
                create_topic(guarded.broker.bootstrap, topic, 1, cleanup_policy="compact")
        with (
            allowed(guarded, [one for one in acls.values() if one is not acl]),
            RunningBridge(tmp_path, settings) as bridge,
        ):
            with Command(tmp_path, ["check", "--config", "bridge.toml"]) as checked:
                checked.process.wait(30)
            named = f"{operation} on {kind.partition(' `')[0].rsplit(' ', 1)[0]} {acl.name}"
            assert f"ACL missing: {named}" in checked.stdout
            if operation == "DescribeConfigs" or missing in OPTIONAL:
                assert checked.process.returncode == 0
                bridge.wait_ready()
                # A first start finds the topic of trades empty, which takes no right to read.
                assert ("ACL missing" in bridge.stderr) == (missing != "Read on topic digifinex.trades.v1")
                assert bridge.stop() == 0
            else:
                assert checked.process.returncode == 1
                words = f"ACL missing: {named}"
                eventually(lambda: words in str(bridge.ready()[1]), 20, "the name of the ACL")
                assert "run `digifinex-bridge check` for all of them" in str(bridge.ready()[1])
                eventually(lambda: words in bridge.stderr, 20, "the same in the log")
                with allowed(guarded, [acl]):
                    bridge.wait_ready()
                    assert bridge.stop() == 0


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_a_bridge_that_lost_its_state_delivers_with_the_required_acls_and_names_the_one_that_it_misses(
    guarded: Guarded, prefix: str, tmp_path: Path, delivery: str
) -> None:
    acls = [acl for name, acl in least(prefix).items() if name not in OPTIONAL and "Configs" not in name]
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange, allowed(guarded, acls):
        settings = guarded_settings(exchange, guarded, prefix, delivery=delivery)
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            eventually(lambda: bridge.metric("records_total", channel="trades") > 20, 20, "trades")
            assert bridge.stop() == 0
        delete_topic(guarded.broker.bootstrap, f"{prefix}.bridge-state")
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            exchange.quiesce()
            assert bridge.stop() == 0
        lines = [json.loads(line) for line in bridge.stderr.splitlines() if '"ACL missing"' in line]
        named = [line["resource"] for line in lines if line["operation"] == "Read"]
        assert named == [f"topic {prefix}.trades.v1"]
    last = {symbol: ids[-1] for symbol, ids in trade_ids(guarded.broker, prefix).items()}
    assert last == {symbol: trades[-1]["id"] for symbol, trades in exchange.truth.made.items()}


@pytest.mark.parametrize("may_read", [True, False])
def test_whether_a_commit_succeeded_is_looked_up_among_the_trades_and_unknown_without_the_acl(
    guarded: Guarded, prefix: str, *, may_read: bool
) -> None:
    """As after bridge-state was lost together with the response of a commit."""
    login = {
        "bootstrap_servers": guarded.bootstrap,
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "bridge",
        "sasl_plain_password": PASSWORD,
    }
    sent = []
    producer = Producer({"bootstrap.servers": guarded.broker.bootstrap})
    for channel in ("depth", "trades"):
        partition = Partition(Topic(f"{prefix}.{channel}.v1", 1, 1_000_000), 0)
        partition.sent = [Record(channel, b"BTC_USDT", b"{}", 0)]
        create_topic(guarded.broker.bootstrap, partition.topic.name, 1)
        producer.produce(partition.topic.name, b"{}", b"BTC_USDT", 0)
        sent.append(partition)
    assert producer.flush(20) == 0
    begins = {TopicPartition(partition.topic.name, 0): 0 for partition in sent}
    acls = [acl for name, acl in least(prefix).items() if may_read or name not in OPTIONAL]
    with allowed(guarded, acls), capture_logs() as lines:
        found = asyncio.run(is_on_kafka(kafka_config(guarded.broker, prefix, **login), sent, begins))
    assert found == may_read
    named = [] if may_read else [f"topic {prefix}.trades.v1"]
    assert [line["resource"] for line in lines if line["event"] == "ACL missing"] == named


def test_check_names_all_missing_acls_at_once(guarded: Guarded, prefix: str, tmp_path: Path) -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        (tmp_path / "bridge.toml").write_text(toml(guarded_settings(exchange, guarded, prefix)))
        with Command(tmp_path, ["check", "--config", "bridge.toml"]) as checked:
            assert checked.process.wait(30) == 1
    topics = [f"{prefix}.{channel}.v1" for channel in (*PUBLIC, "deadletter", "events")]
    for operation in ("Write", "Create"):
        for topic in (*topics, f"{prefix}.bridge-state"):
            assert f"ACL missing: {operation} on topic {topic}\n" in checked.stdout
    named = set(re.findall(r"ACL missing: (\w+ on (?:topic|group|transactional id))", checked.stdout))
    assert named == {
        "Write on topic",
        "Create on topic",
        "Read on topic",
        "Read on group",
        "Write on transactional id",
    }


@pytest.mark.parametrize("delivery", ["exactly-once", "at-least-once"])
def test_an_acl_that_is_withdrawn_while_the_bridge_runs_costs_readiness_and_nothing_else(
    guarded: Guarded, prefix: str, tmp_path: Path, delivery: str
) -> None:
    acls = least(prefix)
    write = acls.pop(next(name for name in acls if name.startswith("Write on topic")))
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        settings = guarded_settings(exchange, guarded, prefix, delivery=delivery)
        with allowed(guarded, acls.values()), RunningBridge(tmp_path, settings) as bridge:
            with allowed(guarded, [write]):
                bridge.wait_ready()
            eventually(lambda: "kafka_errors_total{" in bridge.metrics(), 20, "a denied request")
            eventually(lambda: bridge.ready()[0] == 503, 20, "not ready")
            errors = bridge.metric("kafka_errors_total")
            answers: set[int] = set()

            def refused_again() -> bool:
                answers.add(bridge.ready()[0])
                return bridge.metric("kafka_errors_total") >= errors + 4

            eventually(refused_again, 60, "more denied requests")
            assert answers == {503}
            assert f"ACL missing: Write on topic {prefix}." in bridge.stderr
            with allowed(guarded, [write]):
                bridge.wait_ready()
                exchange.quiesce()
                assert bridge.stop() == 0
        assert_trades_are(records_of(guarded.broker, prefix, "trades"), exchange.truth.made)


def test_a_group_that_does_not_answer_any_more_makes_a_replica_degraded(
    guarded: Guarded, prefix: str, tmp_path: Path
) -> None:
    """It serves its shards as long as nobody else does; the cause is the same as at the start."""
    acls = least(prefix)
    group = acls.pop(next(name for name in acls if name.startswith("Read on group")))
    words = f"ACL missing: Read on group {prefix}"
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        settings = guarded_settings(exchange, guarded, prefix)
        with allowed(guarded, acls.values()), RunningBridge(tmp_path, settings) as bridge:
            with allowed(guarded, [group]):
                bridge.wait_ready()
                assert "degraded" not in bridge.ready()[1]
            eventually(lambda: words in str(bridge.ready()[1].get("degraded")), 20, "degraded")
            assert bridge.ready()[0] == 200
            with allowed(guarded, [group]):
                eventually(lambda: "degraded" not in bridge.ready()[1], 30, "as before")
                bridge.wait_ready()
                exchange.quiesce()
                assert bridge.stop() == 0
        assert_trades_are(records_of(guarded.broker, prefix, "trades"), exchange.truth.made)
