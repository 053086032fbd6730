"""Nothing that an exchange sends takes memory, log or answers without a bound."""

from functools import partial
from pathlib import Path
from typing import Any

from tests.support.consumers import read_topic
from tests.support.hostile import ATTACKS, LARGE_FRAMES, NUMBERS, STRANGE, STRANGERS, TICKERS, HostileExchange
from tests.support.kafka_broker import Broker
from tests.support.process import RunningBridge, config, fetch
from tests.support.waiting import eventually

MOST_MEMORY = 256 * 2**20  # bytes
MOST_MORE = 16 * 2**20  # bytes: much less than the names alone would take
MOST_LOG = 2 * 2**20  # bytes
PATIENCE = 120.0  # seconds

EXCHANGE = {
    "subscriptions_per_session": 1,
    "handshakes_per_second": 50.0,
    "subscribes_per_second": 100.0,
    "ping_interval": 1.0,
    "reply_timeout": 3.0,
    "reconnect_min": 0.1,
    "reconnect_max": 1.0,
    "refused_max": 1.0,
    "max_session_age": 3.0,
}


def peak(bridge: RunningBridge) -> int:
    """Return the most memory that a bridge has had so far, in bytes."""
    lines = Path(f"/proc/{bridge.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def total(bridge: RunningBridge, name: str, **labels: str) -> float:
    """Return the value of a counter; 0 while the bridge is too busy to answer."""
    try:
        return bridge.metric(name, **labels)
    except (OSError, AssertionError):
        return 0.0


def test_attacks_on_all_sessions_at_once_are_bounded(kafka: Broker, prefix: str, tmp_path: Path) -> None:
    with HostileExchange() as exchange:
        channels = {"trades": list(ATTACKS), "depth": [], "ticker": [], "all_ticker": False}
        # What waits for Kafka has a bound of its own.
        kafka_keys: dict[str, Any] = {"partitions": 1, "max_pending_bytes": 8 * 2**20}
        sections: dict[str, dict[str, Any]] = {
            "exchange": EXCHANGE,
            "channels": channels,
            "kafka": kafka_keys,
        }
        with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, sections)) as bridge:
            assert bridge.port
            eventually(lambda: exchange.begun.keys() == ATTACKS.keys(), PATIENCE, "every attack")
            eventually(lambda: "rotation given up" in bridge.stderr, PATIENCE, "a rotation given up")
            eventually(
                lambda: total(bridge, "events_total", event="rotation_given_up"), PATIENCE, "its event"
            )
            eventually(lambda: min(exchange.begun.values()) > 1, PATIENCE, "every attack again")
            for path in ("/healthz", "/readyz", "/status"):
                _, body = fetch(bridge.port, path)
                assert len(body) <= 65_536, path
            assert peak(bridge) < MOST_MEMORY, exchange.begun
            assert len(bridge.stderr) < MOST_LOG
            assert bridge.stop() == 0


def test_whole_frames_of_the_largest_size_on_all_sessions_at_once_are_bounded(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """Also while they wait for Kafka as dead letters, and are searched for the credentials of an account."""
    with HostileExchange(LARGE_FRAMES) as exchange:
        channels = {"trades": list(LARGE_FRAMES), "depth": [], "ticker": [], "all_ticker": False}
        sections: dict[str, dict[str, Any]] = {
            "exchange": {**EXCHANGE, "max_session_age": 600.0, "reply_timeout": 50.0},  # one session each
            "channels": channels,
        }
        settings = config(exchange.url, kafka, prefix, sections, accounts=True)
        with RunningBridge(tmp_path, settings) as bridge:
            assert bridge.port
            eventually(lambda: exchange.ended.keys() == LARGE_FRAMES.keys(), PATIENCE, "every attack")
            eventually(
                lambda: total(bridge, "deadletters_total") >= exchange.sent,
                PATIENCE,
                "all frames read",
                every=0.5,
            )
            assert peak(bridge) < MOST_MEMORY
            assert bridge.stop() == 0


def test_markets_that_nobody_has_asked_for_take_neither_memory_nor_state(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    with HostileExchange(STRANGE) as exchange:
        channels = {"trades": list(STRANGE), "depth": [], "ticker": [], "all_ticker": False}
        sections: dict[str, dict[str, Any]] = {"kafka": {"partitions": 1}, "channels": channels}
        with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, sections)) as bridge:
            refused = partial(total, bridge, "deadletters_total", reason="unsubscribed")
            eventually(lambda: refused() > 1000, PATIENCE, "the first ones")
            before = peak(bridge)
            eventually(lambda: refused() >= STRANGERS, PATIENCE, "all of them", every=0.5)
            assert peak(bridge) < before + MOST_MORE
            assert bridge.stop() == 0
    state = {record.key for record in read_topic(kafka.bootstrap, f"{prefix}.bridge-state")}
    assert not [key for key in state if key and key.startswith(b"S")], "the state of a market"


def test_pushes_with_many_records_on_all_sessions_at_once_are_bounded_without_a_spool(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """Reading pauses behind the first that finds no room, and not only once all sessions were served."""
    with HostileExchange(TICKERS) as exchange:
        sections: dict[str, dict[str, Any]] = {
            "exchange": {**EXCHANGE, "max_session_age": 600.0, "reply_timeout": 50.0},
            "channels": {"trades": [], "depth": [], "ticker": list(TICKERS), "all_ticker": False},
            "spool": {"max_bytes": 0},
        }
        with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, sections)) as bridge:
            eventually(lambda: exchange.ended.keys() == TICKERS.keys(), PATIENCE, "every attack")
            eventually(lambda: bridge.stderr.count('"paused reading"') > 1, PATIENCE, "reading paused twice")
            assert peak(bridge) < MOST_MEMORY


def test_lists_of_numbers_that_a_rotation_holds_are_bounded(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """In memory and in time: nothing else runs while a rotation ends, and no metric is answered."""
    with HostileExchange(NUMBERS) as exchange:
        sections: dict[str, dict[str, Any]] = {
            "exchange": EXCHANGE,
            "channels": {"trades": list(NUMBERS), "depth": [], "ticker": [], "all_ticker": False},
        }
        with RunningBridge(tmp_path, config(exchange.url, kafka, prefix, sections)) as bridge:
            ends = ("rotation_given_up", "session_rotated")
            eventually(
                lambda: sum(total(bridge, "events_total", event=event) for event in ends), PATIENCE, "an end"
            )
            assert peak(bridge) < MOST_MEMORY
            assert bridge.stop() == 0
