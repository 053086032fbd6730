"""What the bridge corrects of aiokafka, and that it does so in one module only."""

import ast
import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiokafka
import pytest
from aiokafka.admin import NewTopic
from aiokafka.cluster import ClusterMetadata
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import ProducerFenced
from aiokafka.producer.message_accumulator import BatchBuilder, MessageAccumulator, MessageBatch
from aiokafka.structs import TopicPartition

import bridge
from bridge.kafka import quirks

PLACE = TopicPartition("topic", 0)
ROOT = Path(bridge.__file__).parent
MODULES = [path for path in sorted(ROOT.rglob("*.py")) if "aiokafka" in path.read_text()]

Steps = Callable[[MessageAccumulator, MessageBatch], None]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def intrusions(source: str) -> Iterator[str]:
    """Yield where a module uses private members of other objects, or replaces members of aiokafka."""
    tree = ast.parse(source)
    imported: set[str] = set()  # names that aiokafka's members may be reached by
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {name.asname or name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "aiokafka":
            imported |= {name.asname or name.name for name in node.names}
            if any(is_private(name.name) for name in node.names):
                yield f"line {node.lineno}: {ast.unparse(node)}"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        root: ast.expr = node
        while isinstance(root, ast.Attribute):
            root = root.value
        replaced = isinstance(node.ctx, ast.Store | ast.Del) and getattr(root, "id", "") in imported
        if replaced or (is_private(node.attr) and not own):
            yield f"line {node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_quirks_touches_private_members_of_aiokafka(path: Path) -> None:
    found = list(intrusions(path.read_text()))
    if path.parent == Path(quirks.__file__).parent:
        assert found
    else:
        assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "producer._sender.close()",
        "from aiokafka.conn import AIOKafkaConnection\nAIOKafkaConnection.send = print",
        "import aiokafka.conn\naiokafka.conn.AIOKafkaConnection.send = print",
        "from aiokafka.conn import _private",
        "self.producer._sender",
    ],
)
def test_each_way_of_touching_private_members_is_detected(source: str) -> None:
    assert list(intrusions(source))


def test_the_quirks_are_those_of_the_installed_version() -> None:
    """After an upgrade of aiokafka read bridge/kafka/quirks again, and then raise its `SEEN_IN`."""
    assert aiokafka.__version__ == quirks.SEEN_IN


def test_applying_the_corrections_twice_changes_nothing() -> None:
    quirks.apply()
    once = AIOKafkaConnection.send, MessageAccumulator.reenqueue
    quirks.apply()
    assert (AIOKafkaConnection.send, MessageAccumulator.reenqueue) == once


def test_a_brokers_words_about_a_topic_are_short_and_on_one_line() -> None:
    class Admin:
        async def create_topics(self, topics: list[NewTopic], *, validate_only: bool) -> object:
            errors = [("one", 37, "no\n\x1b[2Jreplicas " + "x" * 10_000), ("other", 0, None)]
            return SimpleNamespace(topic_errors=errors)

    answers = asyncio.run(quirks.create_topics(Admin(), []))
    assert answers["other"] == (0, "")
    code, words = answers["one"]
    assert code == 37
    assert words.isprintable()
    assert len(words) < 400


def fail(accumulator: MessageAccumulator, batch: MessageBatch) -> None:
    accumulator.fail_all(ProducerFenced())


def queue_again(accumulator: MessageAccumulator, batch: MessageBatch) -> None:
    accumulator.reenqueue(batch)


def send_again(accumulator: MessageAccumulator, batch: MessageBatch) -> None:
    assert accumulator._pop_batch(PLACE) is batch


def acknowledge(accumulator: MessageAccumulator, batch: MessageBatch) -> None:
    batch.done(base_offset=7)


async def batch_in_flight() -> tuple[MessageAccumulator, MessageBatch, "asyncio.Future[Any]"]:
    quirks.apply()
    accumulator = MessageAccumulator(ClusterMetadata(), 1000, 0, 30)
    builder = accumulator.create_builder()
    builder.append(timestamp=1, key=b"key", value=b"value")
    response = await accumulator.add_batch(builder, PLACE, 1)
    return accumulator, accumulator._pop_batch(PLACE), response


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([fail, queue_again], id="answered after the producer has failed"),
        pytest.param([queue_again, fail], id="waits to be sent again when the producer fails"),
        pytest.param([queue_again, send_again, fail], id="is sent again when the producer fails"),
    ],
)
def test_a_batch_fails_once_when_its_producer_fails(steps: list[Steps]) -> None:
    """In each of these cases aiokafka alone raises a KeyError in a background task."""

    async def scenario() -> None:
        complaints: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        accumulator, batch, response = await batch_in_flight()
        for step in steps:
            step(accumulator, batch)
        with pytest.raises(ProducerFenced):
            await response
        await asyncio.sleep(0)
        assert not accumulator._pending_batches
        assert complaints == []

    asyncio.run(scenario())


def test_a_batch_that_is_sent_again_is_acknowledged_and_forgotten() -> None:
    async def scenario() -> None:
        accumulator, batch, response = await batch_in_flight()
        for step in (queue_again, send_again, acknowledge):
            step(accumulator, batch)
        assert (await response).offset == 7
        await accumulator.flush()
        assert not accumulator._pending_batches
        assert not accumulator._batches

    asyncio.run(scenario())


def test_a_batch_is_the_one_that_aiokafkas_own_way_of_appending_makes() -> None:
    keys = [b"BTC_USDT"] * 300 + [None]
    records = [(1_600_000_000_000 + n, key, b"value %d" % n) for n, key in enumerate(keys)]
    theirs, ours = BatchBuilder(1_000_000, 0), BatchBuilder(1_000_000, 0)
    append = quirks.appending(ours)
    for place, (time_ms, key, value) in enumerate(records):
        theirs.append(timestamp=time_ms, key=key, value=value)
        assert append(place, time_ms, key, value, []) is not None
    quirks.note_appended(ours, len(records))
    assert ours.record_count() == theirs.record_count() == len(records)
    assert ours._build() == theirs._build()


def test_a_full_batch_takes_no_more() -> None:
    batch = BatchBuilder(1_000, 0)
    append = quirks.appending(batch)
    assert append(0, 0, None, b"x" * 900, []) is not None
    assert append(1, 0, None, b"x" * 900, []) is None
