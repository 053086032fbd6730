"""A rolling change of three brokers that replicate each other, while the bridge delivers."""

from pathlib import Path

from bridge.simulator.protocol import PUBLIC
from tests.support.checks import assert_no_hole, assert_trades_are, records_of
from tests.support.exchange import ExchangeThread
from tests.support.kafka_cluster import Cluster
from tests.support.process import SYMBOLS, RunningBridge, config
from tests.support.waiting import eventually


def test_a_rolling_change_of_a_cluster_under_load_costs_nothing_but_time(prefix: str, tmp_path: Path) -> None:
    """One broker after the other is stopped and comes back: as it was, elsewhere, with an empty disk."""
    keys = {"partitions": 3, "replication_factor": 3}
    with ExchangeThread(symbols=SYMBOLS, rate=30) as exchange, Cluster() as cluster:
        kafka, moving, emptied = cluster.brokers
        with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, {"kafka": keys})) as bridge:
            bridge.wait_ready(120)

            def delivered() -> float:
                return sum(bridge.metric("records_total", channel=channel) for channel in PUBLIC)

            eventually(lambda: delivered() > 100, 60, "records")
            for broker in cluster.brokers:
                before = delivered()
                broker.stop()
                if broker is moving:
                    broker.move()
                if broker is emptied:
                    broker.empty()
                broker.start()
                eventually(cluster.in_sync, 120, "all replicas in sync")
                eventually(lambda: delivered() > before + 100, 60, "more records")  # noqa: B023
            exchange.quiesce()
            total = sum(exchange.truth.counts().values())
            eventually(lambda: delivered() >= total, 120, f"{total} records")
            bridge.wait_ready(60)
            assert bridge.metric("reconnects_total") == 0
            assert bridge.stop() == 0
        assert "stopped, all received records are on Kafka" in bridge.stderr
        assert_trades_are(records_of(kafka, prefix, "trades"), exchange.truth.made)
        for channel in PUBLIC:
            records = records_of(kafka, prefix, channel)
            assert len(records) == exchange.truth.counts()[channel]
            assert_no_hole(records)
