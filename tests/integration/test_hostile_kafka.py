"""A broker whose responses make no sense for a while: all is tried again, and nothing is lost or repeated."""

import asyncio
import contextlib

import pytest
from aiokafka.errors import KafkaError
from structlog.testing import capture_logs

from bridge.kafka.cluster import Cluster
from bridge.kafka.leases import Leases
from bridge.kafka.rebuilding import LastTrades
from bridge.ledger import Watermark
from bridge.records import Record
from bridge.watch.metrics import Metrics
from tests.support.consumers import read_topic
from tests.support.delivery import Delivery, kafka_config
from tests.support.hostile_broker import Garbler
from tests.support.kafka_broker import Broker
from tests.support.waiting import soon

PATIENCE = 60.0  # seconds

# Of Kafka's protocol. Responses about metadata and versions are tried in unit tests, without a broker.
PRODUCE, FETCH, LIST_OFFSETS, OFFSET_COMMIT, FIND_COORDINATOR = 0, 1, 2, 8, 10
JOIN_GROUP, HEARTBEAT, SYNC_GROUP, INIT_PRODUCER, ADD_PARTITIONS, END_TRANSACTION = 11, 12, 14, 22, 24, 26
TAKEOVER = (FIND_COORDINATOR, INIT_PRODUCER, LIST_OFFSETS, FETCH)
TRANSACTION = (ADD_PARTITIONS, PRODUCE, END_TRANSACTION)
MEMBERSHIP = (FIND_COORDINATOR, JOIN_GROUP, SYNC_GROUP, HEARTBEAT, OFFSET_COMMIT)

TIME_US = 1_600_000_000_000_000
LIES = {
    "ones": lambda body: b"\xff" * len(body),
    "zeros": lambda body: bytes(len(body)),  # no error, and nothing of what was asked about
    "short": lambda body: body[: len(body) // 2],
    "nothing": lambda _: b"",
}


def record(number: int) -> Record:
    value = b'{"n":%d,"id":%d,"time_us":%d}' % (number, number, TIME_US + number)
    return Record("trades", b"BTC_USDT", value, TIME_US + number)


@pytest.mark.parametrize("lie", LIES)
def test_delivery_survives_responses_that_make_no_sense(kafka: Broker, prefix: str, lie: str) -> None:
    """One of each kind, from the takeover to the commit."""
    config = kafka_config(kafka, prefix, delivery="exactly-once", partitions=1)
    garbler = Garbler(kafka.bootstrap)

    async def deliver(one: Delivery, number: int, *steps: tuple[int, ...]) -> None:
        """Deliver a record in each step, while a response of each of these kinds is garbled."""
        await one.prepare()
        async with asyncio.TaskGroup() as group:
            for kinds in steps:
                garbler.lies = dict.fromkeys(kinds, LIES[lie])
                if kinds is steps[0]:
                    group.create_task(one.sink.run())
                one.queues.add([record(number)])
                number += 1
                await soon(lambda: one.queues.pending_records == 0, PATIENCE, "delivery")
                assert not garbler.lies
            one.queues.drain()

    async def scenario() -> Delivery:
        await deliver(Delivery(config), 0, ())  # so that there is a state to be read
        async with garbler.listening() as address:
            one = Delivery(config.model_copy(update={"bootstrap_servers": address}))
            await deliver(one, 1, TAKEOVER, TRANSACTION)
        return one

    with capture_logs() as lines:
        one = asyncio.run(scenario())
    assert "could not be read in" not in str(lines)  # the error is noticed when it happens
    assert [each.json["n"] for each in read_topic(kafka.bootstrap, f"{prefix}.trades.v1")] == [0, 1, 2]
    assert one.errors() > 0


@pytest.mark.parametrize("lie", ["ones", "zeros"])
def test_the_last_trades_are_read_despite_responses_that_make_no_sense(
    kafka: Broker, prefix: str, lie: str
) -> None:
    """As where bridge-state is lost."""
    config = kafka_config(kafka, prefix, partitions=1)
    garbler = Garbler(kafka.bootstrap)

    async def scenario() -> dict[bytes, Watermark]:
        one = await Delivery(config).prepare()
        one.queues.add([record(7)])
        one.queues.drain()
        await one.sink.run()
        # Kafka writes the end of a transaction after it has confirmed it.
        await soon(lambda: read_topic(kafka.bootstrap, f"{prefix}.trades.v1"), PATIENCE, "a committed record")
        async with garbler.listening() as address:
            through = config.model_copy(update={"bootstrap_servers": address})
            garbler.lies = dict.fromkeys((LIST_OFFSETS, FETCH), LIES[lie])
            while True:
                try:
                    return await LastTrades(through, one.cluster.topics["trades"], [0], lambda _: True).read()
                except KafkaError as error:
                    errors.append(str(error))

    errors: list[str] = []
    assert asyncio.run(scenario())[b"BTC_USDT"].ids == [7]
    assert not garbler.lies
    assert "could not be read in" not in str(errors)


@pytest.mark.parametrize("lie", LIES)
def test_membership_survives_responses_that_make_no_sense(kafka: Broker, prefix: str, lie: str) -> None:
    garbler = Garbler(kafka.bootstrap)

    async def scenario() -> None:
        async with garbler.listening() as address:
            config = kafka_config(kafka, prefix, group_id=prefix, session_timeout=2.0)
            cluster = Cluster(config, ["trades"], Metrics())
            await cluster.look()
            through = config.model_copy(update={"bootstrap_servers": address})
            leases = Leases(through, cluster, metrics=Metrics(), on_change=lambda: None)
            garbler.lies = dict.fromkeys(MEMBERSHIP, LIES[lie])
            running = asyncio.create_task(leases.run())
            while not await _is_ours(leases) or garbler.lies:
                assert not running.done()
                await asyncio.sleep(0.05)
            running.cancel()
            await asyncio.wait({running})

    asyncio.run(scenario())


async def _is_ours(leases: Leases) -> bool:
    with contextlib.suppress(KafkaError):
        return await leases.is_ours(0, 0.0)
    return False
