"""`tail`, in a real process, on a real Kafka: what it prints, and how it ends."""

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from bridge.channels import CHANNELS
from tests.support.consumers import add_partitions, create_topic
from tests.support.kafka_broker import Broker, free_ports
from tests.support.process import Command, config, toml
from tests.support.waiting import eventually

SECONDS = 30.0


def trade(number: int, symbol: str = "BTC_USDT") -> bytes:
    return json.dumps({"schema": "digifinex.trades.v1", "seq": number, "symbol": symbol}).encode()


class Topics:
    """The topics of a prefix, and the transactions that fill them."""

    def __init__(self, kafka: Broker, prefix: str, folder: Path) -> None:
        self.kafka = kafka
        self.prefix = prefix
        self._producer = Producer(
            {
                "bootstrap.servers": kafka.bootstrap,
                "transactional.id": prefix,
                "partitioner": "murmur2_random",
            }
        )
        self._producer.init_transactions(60)
        settings = config("ws://127.0.0.1:1/", kafka, prefix, accounts=True)
        (folder / "bridge.toml").write_text(toml(settings))

    def create(self, channel: str = "trades", partitions: int = 3) -> str:
        """Create the topic of a channel; return its name."""
        name = f"{'private.' if CHANNELS[channel].private else ''}{self.prefix}.{channel}.v1"
        create_topic(self.kafka.bootstrap, name, partitions)
        return name

    def write(
        self, topic: str, values: Sequence[bytes | None], *, commit: bool = True, **message: Any
    ) -> None:
        """Write messages in a transaction of their own; the key is the symbol, if there is one."""
        self._producer.begin_transaction()
        for value in values:
            self._producer.produce(topic, value, **{"key": b"BTC_USDT", **message})
        self._producer.flush(60)
        if commit:
            self._producer.commit_transaction(60)
        else:
            self._producer.abort_transaction(60)


TAIL = [sys.executable, "-m", "bridge", "tail", "--config", "bridge.toml"]
ALL_TRADES = [*TAIL, "trades", "--from", "beginning"]


@pytest.fixture
def topics(kafka: Broker, prefix: str, tmp_path: Path) -> Topics:
    return Topics(kafka, prefix, tmp_path)


@contextmanager
def tailing(folder: Path, *arguments: str) -> Iterator[Command]:
    with Command(folder, ["tail", "--config", "bridge.toml", *arguments]) as command:
        yield command


def printed(command: Command) -> list[Any]:
    """Return the whole lines of JSON that it has printed so far."""
    return [json.loads(line) for line in command.stdout.splitlines(keepends=True) if line.endswith("\n")]


def await_printed(command: Command, number: int) -> list[Any]:
    eventually(
        lambda: len(printed(command)) >= number or command.process.poll() is not None,
        SECONDS,
        f"{number} lines",
    )
    return printed(command)


def test_committed_records_are_printed_from_the_beginning_whatever_their_framing(
    topics: Topics, tmp_path: Path
) -> None:
    trades, orders = topics.create(), topics.create("order")
    topics.write(trades, [trade(0)])
    topics.write(trades, [b"\x00\x00\x00\x00\x07" + trade(1)])
    topics.write(trades, [trade(99)], commit=False)
    topics.write(trades, [trade(2)], headers={"__value_schema_id": b"\x01" + bytes(16)})
    topics.write(trades, [None])
    topics.write(trades, [trade(98, "ETH_USDT")], key=b"ETH_USDT")
    topics.write(orders, [b'{"schema":"digifinex.order.v1","seq":3}'])
    with tailing(tmp_path, "trades", "order", "--from", "beginning", "--symbol", "btc_usdt") as command:
        found = await_printed(command, 5)
        assert command.stop(signal.SIGINT) == 0
    ours = [one for one in found if one.get("schema") != "digifinex.order.v1"]
    assert [one.get("seq") for one in ours] == [0, 1, 2, None]
    assert ours[3] == {"topic": trades, "key": "BTC_USDT", "value": None}
    assert [one for one in found if one not in ours] == [{"schema": "digifinex.order.v1", "seq": 3}]
    assert command.stderr == ""


def test_what_is_written_later_is_printed_also_on_a_new_partition(topics: Topics, tmp_path: Path) -> None:
    trades = topics.create(partitions=1)
    topics.write(trades, [trade(0)])
    with tailing(tmp_path, trades, "--table") as command:
        eventually(lambda: command.stdout or command.process.poll() is not None, SECONDS, "the heading")

        def arrives() -> bool:
            """Write until something was read: only then is it known that it has begun at the end."""
            topics.write(trades, [trade(1)])
            return "seq=1" in command.stdout

        eventually(arrives, SECONDS, "a record", every=0.5)
        assert "seq=0" not in command.stdout
        add_partitions(topics.kafka.bootstrap, trades, 2)

        other = Producer({"bootstrap.servers": topics.kafka.bootstrap})  # the first one knows one partition

        def arrives_there() -> bool:
            other.produce(trades, trade(2), b"BTC_USDT", partition=1)
            return other.flush(60) == 0 and "seq=2" in command.stdout

        eventually(arrives_there, SECONDS, "a record of the new partition", every=0.5)
        assert "seq=0" not in command.stdout
        assert command.stop() == 0


def test_records_since_a_time_are_printed(topics: Topics, tmp_path: Path) -> None:
    trades = topics.create()
    topics.write(trades, [trade(0)], timestamp=1589266947122)
    topics.write(trades, [trade(1)], timestamp=1589266947123)
    topics.write(trades, [trade(2)], timestamp=1589266999999)
    with tailing(tmp_path, "trades", "--from", "2020-05-12T07:02:27.123Z") as command:
        found = await_printed(command, 2)
        assert command.stop(signal.SIGHUP) == 0
    assert [one["seq"] for one in found] == [1, 2]


def run(folder: Path, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*TAIL, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=600, **options
    )


def test_a_topic_that_is_missing_is_named(topics: Topics, tmp_path: Path) -> None:
    trades = topics.create()
    done = run(tmp_path, "trades", "depth", f"{topics.prefix}.nothing")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"digifinex-bridge: no such topic on Kafka at {topics.kafka.bootstrap}: "
        f"{topics.prefix}.depth.v1, {topics.prefix}.nothing\n"
    )
    topics.write(trades, [trade(7)])
    with tailing(
        tmp_path, "--from", "beginning"
    ) as command:  # of those that are not named, it reads what is there
        assert [one["seq"] for one in await_printed(command, 1)] == [7]
        assert "topics left out, because they do not exist" in command.stderr


def test_kafka_that_is_unavailable_is_named_with_the_cause(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    (tmp_path / "bridge.toml").write_text(
        f'[channels]\nall_ticker = true\n[kafka]\nbootstrap_servers = "127.0.0.1:{port}"\n'
    )
    done = run(tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"digifinex-bridge: Kafka at 127.0.0.1:{port}: cannot connect to 127.0.0.1:{port}")
    assert "Traceback" not in done.stderr


def test_it_ends_cleanly_when_its_reader_is_gone(topics: Topics, tmp_path: Path) -> None:
    topics.write(topics.create(), [trade(n) for n in range(1000)])
    pipe = f"{' '.join(ALL_TRADES)} | head -n 2"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", pipe],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2


def test_a_stop_ends_it_while_its_reader_reads_nothing(topics: Topics, tmp_path: Path) -> None:
    topics.write(topics.create(), [trade(n) for n in range(5000)])
    with subprocess.Popen(
        ALL_TRADES, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        used = Path(f"/proc/{process.pid}/wchan")
        eventually(lambda: "pipe_write" in used.read_text(), SECONDS, "a full pipe")
        process.terminate()
        assert process.wait(600) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""


def test_an_output_that_cannot_be_written_is_an_error(topics: Topics, tmp_path: Path) -> None:
    topics.write(topics.create(), [trade(0)])
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            ALL_TRADES, cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=600
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_at_a_terminal_it_is_a_table_as_wide_as_that(topics: Topics, tmp_path: Path) -> None:
    topics.write(topics.create(), [trade(0) + b" " * 3])
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ALL_TRADES, cwd=tmp_path, stdout=theirs, stderr=theirs, start_new_session=True
    ) as process:
        shown = b""
        while b"seq=0" not in shown:
            shown += os.read(ours, 4096)
        process.send_signal(signal.SIGINT)
        assert process.wait(600) == 0
    os.close(theirs)
    os.close(ours)
    heading, row = shown.decode().splitlines()[:2]
    assert heading.split() == ["received", "key", "record"]
    assert row.split()[1:] == ["BTC_USDT", "seq=0"]


def test_an_outage_is_reported_and_survived(own_kafka: Broker, prefix: str, tmp_path: Path) -> None:
    topics = Topics(own_kafka, prefix, tmp_path)
    trades = topics.create(partitions=1)
    topics.write(trades, [trade(0)])
    with tailing(tmp_path, "trades", "--from", "beginning") as command:
        await_printed(command, 1)
        own_kafka.kill()
        eventually(lambda: "Kafka unavailable, retrying" in command.stderr, SECONDS, "the outage")
        own_kafka.start()
        topics.write(trades, [trade(1)])
        assert [one["seq"] for one in await_printed(command, 2)] == [0, 1]
        assert command.stop() == 0
    assert "Kafka available again" in command.stderr
