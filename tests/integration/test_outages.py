"""Kafka unavailable for longer than memory lasts: records are spooled to disk and outlive the process."""

import json
import os
import random
import resource
import shutil
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from confluent_kafka.admin import AdminClient

from bridge.records import Record
from bridge.simulator.protocol import PUBLIC
from bridge.spool.segment import blocks_of
from tests.support.checks import (
    assert_gaps_cover_what_is_missing,
    assert_no_hole,
    assert_trades_are,
    assert_trades_are_but_for_gaps,
    gaps_of,
    records_of,
)
from tests.support.consumers import ReadRecord
from tests.support.disk import damage
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker, free_ports
from tests.support.kafka_cluster import Cluster
from tests.support.process import SYMBOLS, RunningBridge, config
from tests.support.slow_link import SlowLink
from tests.support.waiting import eventually

MOMENTS = random.Random(7)  # for kills: any moment will do
DELIVERIES = ["exactly-once", "at-least-once"]
QUICK_PINGS = {"ping_interval": 0.5, "reply_timeout": 4.0}
LITTLE_MEMORY = {"max_pending_bytes": 300_000}


def spooled(bridge: RunningBridge, records: int) -> bool:
    return bridge.metric("spool_records") > records


def delivered(bridge: RunningBridge, records: float) -> bool:
    return bridge.metric("records_total") > records


def all_delivered(bridge: RunningBridge, exchange: ExchangeThread) -> None:
    """Wait until all that the exchange has sent, and nothing more, is on Kafka."""
    total = sum(exchange.truth.counts().values())
    eventually(lambda: _delivered(bridge) >= total, 90, f"{total} records")


def _delivered(bridge: RunningBridge) -> float:
    return sum(bridge.metric("records_total", channel=channel) for channel in PUBLIC)


def assert_logged_as_one_outage(bridge: RunningBridge) -> None:
    """A pair of lines with how long it took, and how many records were waiting."""
    log = [json.loads(line) for line in bridge.stderr.splitlines() if line.startswith("{")]
    begins = [n for n, line in enumerate(log) if line["event"] == "Kafka unavailable, retrying"]
    ends = [n for n, line in enumerate(log) if line["event"] == "Kafka available again"]
    # A broker that has just started may fail once more before it serves all partitions.
    assert len(begins) == len(ends)
    assert begins[0] < ends[0]
    assert log[ends[0]]["waited"] > 3000
    assert log[ends[0]]["seconds"] > 1


def oldest_pending(bridge: RunningBridge) -> tuple[float, float]:
    """Return since when the oldest record waits, at the earliest and latest: metrics may be a second old."""
    before = time.time()
    age = bridge.metric("oldest_pending_seconds")
    return before - 1.0 - age, time.time() - age


def spool_events(kafka: Broker, prefix: str) -> list[str]:
    """Return the kinds of the spool's events on the events topic, in order."""
    kinds = [one.json["event"] for one in records_of(kafka, prefix, "events")]
    return [kind for kind in kinds if kind.startswith("spool_")]


def assert_whole(kafka: Broker, prefix: str, exchange: ExchangeThread) -> None:
    """All that was sent is on Kafka once, in order."""
    for channel in PUBLIC:
        records = records_of(kafka, prefix, channel)
        assert len(records) == exchange.truth.counts()[channel]
        assert_no_hole(records)
    assert_trades_are(records_of(kafka, prefix, "trades"), exchange.truth.made)


def trade_past_what_is_shown(exchange: ExchangeThread) -> None:
    """Return when more has been traded of each symbol, from now on, than a clean list shows."""
    made = exchange.truth.made
    before = {symbol: len(trades) for symbol, trades in made.items()}
    eventually(
        lambda: all(len(made[symbol]) > number + 150 for symbol, number in before.items()),
        60,
        "more trades than a clean list shows",
    )


def assert_trades_are_but_for_reported_gaps(
    kafka: Broker, prefix: str, exchange: ExchangeThread, cause: str
) -> None:
    """Each symbol has one gap, of this cause, with its bounds; all other trades are there, in order."""
    gaps = gaps_of(kafka, prefix, "trades")
    assert sorted(gap["symbol"] for gap in gaps) == SYMBOLS
    assert {(gap["cause"], gap["closed_by"]) for gap in gaps} == {(cause, None)}
    trades = records_of(kafka, prefix, "trades")
    assert_trades_are_but_for_gaps(trades, exchange.truth.made, gaps)
    assert_times_are_those_of_trades(gaps, trades)


def assert_times_are_those_of_trades(gaps: Sequence[Mapping[str, Any]], trades: Sequence[ReadRecord]) -> None:
    """The times that bound a gap are those of the trades that bound it."""
    times = {(one["symbol"], one["id"]): one["time_us"] for one in (record.json for record in trades)}
    for gap in gaps:
        assert times[gap["symbol"], gap["after_id"]] == gap["after_us"]
        assert times[gap["symbol"], gap["before_id"]] == gap["before_us"]


def segments(folder: Path) -> list[Path]:
    """Return the spool's files of a bridge that runs in this folder, the oldest first."""
    return sorted(folder.glob("spool/*/*.spool"))


def tear(segment: Path, size: int) -> None:
    """Cut at least `size` bytes off a segment, so that it ends in the middle of a block."""
    content = segment.read_bytes()
    begin = end = 0
    while end <= len(content) - size:
        begin, end = end, end + 8 + int.from_bytes(content[end : end + 4])
    os.truncate(segment, (begin + end) // 2)


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_reading_continues_while_kafka_is_unavailable_for_longer_than_memory_lasts(
    own_kafka: Broker, prefix: str, tmp_path: Path, delivery: str
) -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=800) as exchange:
        keys = {**LITTLE_MEMORY, "delivery": delivery}
        with RunningBridge(tmp_path, config(exchange.url, own_kafka, prefix, {"kafka": keys})) as bridge:
            bridge.wait_ready()
            own_kafka.kill()
            eventually(partial(spooled, bridge, 1000), 60, "records on disk")
            before = psutil.Process(bridge.process.pid).memory_info().rss
            eventually(partial(spooled, bridge, 3000), 60, "more records on disk")
            assert psutil.Process(bridge.process.pid).memory_info().rss < before + 20_000_000
            assert bridge.metric("pending_bytes") < 2 * LITTLE_MEMORY["max_pending_bytes"]
            assert bridge.metric("reading_paused") == 0
            assert bridge.metric("oldest_pending_seconds") > 1
            own_kafka.start()
            eventually(lambda: bridge.metric("spool_bytes") == 0, 90, "nothing on disk")
            exchange.quiesce()
            all_delivered(bridge, exchange)
            assert bridge.metric("reconnects_total") == 0
            assert bridge.stop() == 0
            assert_logged_as_one_outage(bridge)
        assert_whole(own_kafka, prefix, exchange)
    begun, ended = spool_events(own_kafka, prefix)[0], spool_events(own_kafka, prefix)[-1]
    assert (begun, ended) == ("spool_begun", "spool_ended")


def test_spooled_records_outlive_a_stop(own_kafka: Broker, prefix: str, tmp_path: Path) -> None:
    """Also those that were in memory alone, because the outage was too short to fill it."""
    with ExchangeThread(symbols=SYMBOLS, rate=500) as exchange:
        settings = config(exchange.url, own_kafka, prefix)
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            own_kafka.kill()
            eventually(lambda: bridge.metric("pending_records") > 500, 60, "pending records")
            assert bridge.metric("spool_records") == 0
            exchange.quiesce()
            sent = exchange.truth.counts()
            total = sum(sent.values())

            def all_received() -> bool:
                return _delivered(bridge) + bridge.metric("pending_records") >= total

            eventually(all_received, 60, f"{total} records received")
            waiting_since = oldest_pending(bridge)
            began = time.monotonic()
            assert bridge.stop() == 0
            assert time.monotonic() - began < 30
            assert "records left in the spool for the next start" in bridge.stderr
            assert "records lost at shutdown" not in bridge.stderr
        with RunningBridge(tmp_path, settings) as bridge:
            eventually(lambda: bridge.metric("oldest_pending_seconds") > 0, 20, "the spool is looked at")
            earliest, latest = oldest_pending(bridge)
            assert earliest < waiting_since[1]
            assert waiting_since[0] < latest
            own_kafka.start()
            bridge.wait_ready()
            exchange.quiesce()
            eventually(lambda: bridge.metric("oldest_pending_seconds") == 0, 60, "all is on Kafka")
            assert bridge.stop() == 0
        for channel in ("depth", "ticker"):
            records = records_of(own_kafka, prefix, channel)
            first = records[0].json["session"]
            assert len([one for one in records if one.json["session"] == first]) == sent[channel]
            assert_no_hole(records)
        assert_trades_are(records_of(own_kafka, prefix, "trades"), exchange.truth.made)


def test_a_bridge_killed_during_an_outage_continues_with_its_spool(
    own_kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """Killed while it writes to the spool, and repeatedly while it delivers the spooled records."""
    with ExchangeThread(symbols=SYMBOLS, rate=600) as exchange:
        keys = {**LITTLE_MEMORY, "session_timeout": 2.0}
        settings = config(exchange.url, own_kafka, prefix, {"kafka": keys})
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            own_kafka.kill()
            eventually(partial(spooled, bridge, 3000), 60, "records on disk")
            bridge.process.kill()
        own_kafka.start()
        for _ in range(3):
            with RunningBridge(tmp_path, settings) as bridge:
                eventually(lambda: bridge.metric("records_total") > 0, 60, "records")
                time.sleep(MOMENTS.uniform(0.0, 0.3))
                bridge.process.kill()
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            eventually(lambda: bridge.metric("spool_bytes") == 0, 90, "nothing on disk")
            exchange.quiesce()
            assert bridge.stop() == 0
        trades, gaps = records_of(own_kafka, prefix, "trades"), gaps_of(own_kafka, prefix, "trades")
        assert_trades_are_but_for_gaps(
            trades, exchange.truth.made, [gap for gap in gaps if not gap["closed_by"]]
        )
        depth = records_of(own_kafka, prefix, "depth")
        assert_no_hole(depth)
        first = depth[0].json["session"]
        assert len([one for one in depth if one.json["session"] == first]) > 1000


@pytest.mark.parametrize("shown", [True, False], ids=["the exchange still shows it", "it no longer does"])
def test_trades_lost_with_a_torn_spool_are_filled_in_or_reported(
    own_kafka: Broker, prefix: str, tmp_path: Path, shown: bool
) -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=600) as exchange:
        keys = {**LITTLE_MEMORY, "session_timeout": 2.0}
        settings = config(exchange.url, own_kafka, prefix, {"kafka": keys})
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            own_kafka.kill()
            eventually(partial(spooled, bridge, 3000), 60, "records on disk")
            if shown:
                exchange.quiesce()
            bridge.process.kill()
        tear(segments(tmp_path)[-1], 50_000)
        if not shown:
            trade_past_what_is_shown(exchange)
        own_kafka.start()
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            eventually(lambda: bridge.metric("spool_bytes") == 0, 90, "nothing on disk")
            exchange.quiesce()
            assert bridge.stop() == 0
        assert spool_events(own_kafka, prefix).count("spool_damaged") == 1
        if shown:
            assert_trades_are(records_of(own_kafka, prefix, "trades"), exchange.truth.made)
            gaps = gaps_of(own_kafka, prefix, "trades")
            assert sorted(gap["symbol"] for gap in gaps) == SYMBOLS
            assert all(gap["closed_by"] == "clean_list" and gap["filled"] > 0 for gap in gaps)
        else:
            assert_trades_are_but_for_reported_gaps(own_kafka, prefix, exchange, "takeover")


def test_trades_lost_to_damage_in_the_middle_of_a_spool_are_a_gap_with_its_bounds(
    own_kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """And the records behind the damage arrive."""
    with ExchangeThread(symbols=SYMBOLS, rate=800) as exchange:
        sections: dict[str, Any] = {
            "kafka": {**LITTLE_MEMORY, "session_timeout": 2.0},
            "spool": {"max_bytes": 2_400_000},  # an eighth is a segment
        }
        settings = config(exchange.url, own_kafka, prefix, sections)
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            own_kafka.kill()
            eventually(lambda: len(segments(tmp_path)) >= 4, 60, "segments on disk")
            exchange.quiesce()
            bridge.process.kill()
        segment = segments(tmp_path)[1]
        damage(segment, segment.stat().st_size // 2)
        own_kafka.start()
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            eventually(lambda: bridge.metric("spool_bytes") == 0, 90, "nothing on disk")
            assert bridge.metric("gaps_total", channel="trades") == len(SYMBOLS)
            assert bridge.stop() == 0
        assert spool_events(own_kafka, prefix).count("spool_damaged") == 1
        trades = records_of(own_kafka, prefix, "trades")
        gaps = [gap for gap in gaps_of(own_kafka, prefix, "trades") if not gap["closed_by"]]
        assert sorted(gap["symbol"] for gap in gaps) == SYMBOLS
        assert_gaps_cover_what_is_missing(trades, exchange.truth.made, gaps)
        assert_times_are_those_of_trades(gaps, trades)
        for symbol, made in exchange.truth.made.items():
            assert made[-1]["id"] == max(one.json["id"] for one in trades if one.json["symbol"] == symbol)


def test_strange_files_and_forged_records_in_a_spool_neither_stop_it_nor_reach_kafka(
    own_kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=800) as exchange:
        settings = config(
            exchange.url, own_kafka, prefix, {"kafka": {**LITTLE_MEMORY, "session_timeout": 2.0}}
        )
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            own_kafka.kill()
            eventually(partial(spooled, bridge, 1000), 60, "records on disk")
            exchange.quiesce()
            assert bridge.stop() == 0
        segment = segments(tmp_path)[-1]
        folder, victim = segment.parent, tmp_path / "victim"
        assert (folder.stat().st_mode & 0o777, segment.stat().st_mode & 0o777) == (0o700, 0o600)
        forged = Record("trades", b"BTC_USDT", b'{"forged": 1}', time.time_ns() // 1000)
        with segment.open("ab") as file:
            file.write(blocks_of([("payments/0", forged), (f"{prefix}.trades.v1/99", forged)]))
        shutil.copy(segment, folder / "backup.spool")
        os.mkfifo(folder / "000000000099.spool")
        victim.write_text("precious")
        (folder / "lock").unlink()
        (folder / "lock").symlink_to(victim)
        own_kafka.start()
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            eventually(lambda: bridge.metric("spool_bytes") == 0, 90, "nothing on disk")
            assert bridge.stop() == 0
            assert "files in the spool directory left alone" in bridge.stderr
        assert sorted(path.name for path in folder.iterdir()) == [
            "000000000099.spool",
            "backup.spool",
            "lock",
        ]
        assert victim.read_text() == "precious"
        assert spool_events(own_kafka, prefix).count("spool_damaged") == 1
        assert "payments" not in AdminClient({"bootstrap.servers": own_kafka.bootstrap}).list_topics().topics
        assert_trades_are(records_of(own_kafka, prefix, "trades"), exchange.truth.made)


@pytest.mark.parametrize("limit", ["spool.max_bytes", "the disk"])
def test_reading_pauses_and_an_event_says_so_when_the_disk_is_full(
    own_kafka: Broker, prefix: str, tmp_path: Path, limit: str
) -> None:
    """And nothing that was received is lost, repeated or out of order."""
    with ExchangeThread(symbols=SYMBOLS, rate=800) as exchange:
        sections: dict[str, Any] = {
            "kafka": LITTLE_MEMORY,
            "spool": {"max_bytes": 600_000 if limit == "spool.max_bytes" else 100_000_000},
            "exchange": QUICK_PINGS,
        }
        with RunningBridge(tmp_path, config(exchange.url, own_kafka, prefix, sections)) as bridge:
            bridge.wait_ready()
            if limit == "the disk":  # no file may grow beyond this
                resource.prlimit(bridge.process.pid, resource.RLIMIT_FSIZE, (600_000, -1))
            own_kafka.suspend()
            eventually(lambda: bridge.metric("reading_paused") == 1, 60, "a pause")
            frames = bridge.metric("frames_total")
            end = time.monotonic() + sum(QUICK_PINGS.values()) + 1
            eventually(lambda: time.monotonic() > end, 20, "a pause that outlasts an unanswered ping")
            eventually(lambda: "kafka" in bridge.ready()[1].get("missing", {}), 20, "readyz names Kafka")
            assert bridge.metric("frames_total") == frames
            assert "spool full or not writable, reading from the exchange paused" in bridge.stderr
            assert "resumed reading" not in bridge.stderr
            if limit == "the disk":
                resource.prlimit(bridge.process.pid, resource.RLIMIT_FSIZE, (-1, -1))
            own_kafka.resume()
            eventually(lambda: bridge.metric("reading_paused") == 0, 60, "reading resumed")
            eventually(lambda: bridge.metric("spool_bytes") == 0, 90, "nothing on disk")
            exchange.quiesce()
            all_delivered(bridge, exchange)
            assert bridge.metric("reconnects_total") == 0
            assert bridge.stop() == 0
        assert_whole(own_kafka, prefix, exchange)
    assert {"spool_begun", "spool_overflowed", "spool_ended"} <= set(spool_events(own_kafka, prefix))


@pytest.mark.parametrize("delivery", DELIVERIES)
def test_trades_missed_because_unread_connections_were_closed_are_a_gap_with_its_bounds(
    own_kafka: Broker, prefix: str, tmp_path: Path, delivery: str
) -> None:
    """The outage outlasts memory and the spool; all that they hold arrives."""
    with ExchangeThread(symbols=SYMBOLS, rate=800) as exchange:
        sections: dict[str, Any] = {
            "kafka": {**LITTLE_MEMORY, "delivery": delivery},
            "spool": {"max_bytes": 600_000},
            "exchange": QUICK_PINGS,
        }
        with RunningBridge(tmp_path, config(exchange.url, own_kafka, prefix, sections)) as bridge:
            bridge.wait_ready()
            own_kafka.suspend()
            eventually(lambda: bridge.metric("reading_paused") == 1, 60, "a pause")
            exchange.run(exchange.simulator.drop_all())
            eventually(lambda: bridge.metric("connected") == 0, 20, "no connection")
            trade_past_what_is_shown(exchange)
            assert exchange.simulator.handshakes == 1
            own_kafka.resume()
            bridge.wait_ready(60)
            eventually(lambda: bridge.metric("spool_bytes") == 0, 90, "nothing on disk")
            exchange.quiesce()
            assert (
                bridge.metric("reconnects_total", reason="closed") == exchange.simulator.handshakes - 1 == 1
            )
            assert bridge.stop() == 0
        assert_trades_are_but_for_reported_gaps(own_kafka, prefix, exchange, "closed")
        assert_no_hole(records_of(own_kafka, prefix, "depth"))
    assert {"spool_begun", "spool_overflowed", "spool_ended"} <= set(spool_events(own_kafka, prefix))


def test_a_bridge_whose_spool_is_not_writable_waits_at_the_start_and_takes_no_shard(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    spool = tmp_path / "spool"
    spool.write_text("a file where a folder should be")
    with (
        ExchangeThread(symbols=SYMBOLS, rate=100) as exchange,
        RunningBridge(tmp_path, config(exchange.url, kafka, prefix)) as bridge,
    ):
        eventually(lambda: '"topic created"' in bridge.stderr, 60, "topics")
        eventually(
            lambda: bridge.ready() == (503, {"ready": False, "missing": {"spool": "spool: File exists"}}),
            60,
            "the spool alone is missing",
        )
        assert bridge.metric("spool_writable") == 0
        assert '"spool not writable"' in bridge.stderr
        assert '"shards assigned"' not in bridge.stderr
        spool.unlink()
        bridge.wait_ready()
        assert bridge.metric("spool_writable") == 1
        assert '"spool writable again"' in bridge.stderr
        assert bridge.stop() == 0


def test_records_are_spooled_while_kafka_is_too_slow(prefix: str, tmp_path: Path) -> None:
    """It would never catch up: it accepts a fraction of what is received."""
    port, behind = free_ports(2)
    properties = {
        "listeners": f"PLAINTEXT://127.0.0.1:{behind},CONTROLLER://127.0.0.1:{{controller}}",
        "advertised.listeners": f"PLAINTEXT://127.0.0.1:{port}",
    }
    with ExchangeThread(symbols=SYMBOLS, rate=800) as exchange, SlowLink(port, behind) as link:  # noqa: SIM117
        with Broker(properties, bootstrap=f"127.0.0.1:{port}") as kafka:
            # Uncompressed, so that a slow link is slow whatever the records look like.
            keys = {**LITTLE_MEMORY, "compression": "none"}
            with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, {"kafka": keys})) as bridge:
                bridge.wait_ready()
                link.rate = 30_000
                eventually(partial(spooled, bridge, 3000), 90, "records on disk")
                before = bridge.metric("records_total")
                eventually(lambda: bridge.metric("records_total") > before, 60, "Kafka accepts some")
                assert bridge.metric("reading_paused") == 0
                link.rate = None
                eventually(lambda: bridge.metric("spool_bytes") == 0, 90, "nothing on disk")
                exchange.quiesce()
                all_delivered(bridge, exchange)
                assert bridge.stop() == 0
            assert_whole(kafka, prefix, exchange)


def _alone(cluster: Cluster, broker: Broker, bridge: RunningBridge) -> None:
    """Freeze the other brokers, and return when this one has received more."""
    for other in cluster.brokers:
        if other is not broker:
            other.suspend()
    more = bridge.metric("frames_total") + 200
    eventually(lambda: bridge.metric("frames_total") >= more, 30, "frames that one broker has")


def test_nothing_is_lost_while_the_brokers_of_a_cluster_die_in_turn(prefix: str, tmp_path: Path) -> None:
    """Each leads some partitions. Two of three need to have each record, so one can be missed."""
    with ExchangeThread(symbols=SYMBOLS, rate=300) as exchange, Cluster() as cluster:
        keys = {"replication_factor": 3, "partitions": 6}
        kafka = cluster.brokers[0]
        with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, {"kafka": keys})) as bridge:
            bridge.wait_ready(60)
            for broker in cluster.brokers:
                if broker is kafka:
                    # It dies with records that no other broker has: none of these may have been acknowledged.
                    _alone(cluster, broker, bridge)
                broker.kill()
                cluster.resume()
                eventually(partial(delivered, bridge, bridge.metric("frames_total")), 90, "more records")
                broker.start()
                eventually(cluster.in_sync, 60, "all replicas in sync")
            exchange.quiesce()
            all_delivered(bridge, exchange)
            assert bridge.metric("reconnects_total") == 0
            assert bridge.stop() == 0
        assert_whole(kafka, prefix, exchange)
