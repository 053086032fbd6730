"""`check` names what would prevent `run` from working, and writes nothing."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient

from bridge.check.exchange import check_exchange
from bridge.config import Config
from bridge.simulator import Dialect, Faults
from tests.support.consumers import create_topic, set_topic
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker
from tests.support.process import ACCOUNTS, SYMBOLS, Command, RunningBridge, config, toml
from tests.support.waiting import eventually


def check(folder: Path, settings: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Return the exit status and what was printed."""
    (folder / "bridge.toml").write_text(toml(settings))
    with Command(folder, ["check", "--config", "bridge.toml"]) as command:
        status = command.process.wait(60)
    assert ACCOUNTS["key"] not in command.stdout + command.stderr
    return status, [line.strip() for line in command.stdout.splitlines()]


def visit(
    exchange: ExchangeThread, keys: Mapping[str, Any] | None = None, **sections: Any
) -> tuple[bool, list[str]]:
    """Check the exchange alone, with one second to look for markets; return the result and the lines."""
    printed: list[str] = []
    settings = Config.model_validate({"exchange": {"url": exchange.url, **(keys or {})}, **sections})
    ready = asyncio.run(check_exchange(settings, printed.append, listening=1.0))
    return ready, [line.strip() for line in printed]


def refusals(printed: list[str]) -> list[str]:
    """Return the subscriptions that were refused."""
    return [line.split(": ")[1] for line in printed if line.startswith("refused: ")]


def test_check_confirms_one_subscription_of_each_channel_and_writes_nothing(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=100, accounts=ACCOUNTS) as exchange:
        status, printed = check(tmp_path, config(exchange.url, kafka, prefix, accounts=True))
    assert (status, printed[-1]) == (0, "ready to run")
    assert "confirmed: all_ticker, depth BTC_USDT, ticker BTC_USDT, trades BTC_USDT" in printed
    assert "confirmed: balance BTC, order BTC_USDT, order_algo BTC_USDT" in printed
    assert printed.count("message format: zlib") == 2
    assert "3 of 3 configured markets seen in all_ticker" in printed
    assert [line for line in printed if line.startswith("account main: ok (clock offset ")]
    topics = AdminClient({"bootstrap.servers": kafka.bootstrap}).list_topics().topics
    assert not [name for name in topics if name.startswith(prefix)]
    assert not (tmp_path / "spool").exists()


def test_check_names_each_market_that_the_exchange_refuses(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    with ExchangeThread(
        symbols=SYMBOLS, rate=100, dialect=Dialect(compressed="answers"), accounts=ACCOUNTS
    ) as exchange:
        channels = {"trades": ["NOPE_USDT"], "depth": ["BTC_USDT", "LATER_USDT"]}
        settings = config(exchange.url, kafka, prefix, {"channels": channels}, accounts=True)
        settings["accounts"][0] |= {"order": ["BTC_USDT", "GONE_USDT"], "order_algo": ["BTC_USDT"]}
        status, printed = check(tmp_path, settings)
    assert (status, printed[-1]) == (1, "not ready: the exchange, see above")
    assert refusals(printed) == ["trades NOPE_USDT", "depth LATER_USDT", "order GONE_USDT"]
    (unseen,) = [line for line in printed if line.startswith("not seen within 35 s")]
    assert unseen.endswith(": GONE_USDT LATER_USDT NOPE_USDT")
    assert "confirmed: balance BTC, order BTC_USDT, order_algo BTC_USDT" in printed
    assert "message format: zlib and text" in printed


def test_a_market_that_is_confirmed_but_not_seen_is_only_noted() -> None:
    with ExchangeThread(
        symbols=SYMBOLS, rate=100, dialect=Dialect(unknown_refused="acknowledged")
    ) as exchange:
        ready, printed = visit(exchange, channels={"trades": ["BTC_USDT", "QUIET_USDT"], "all_ticker": True})
    assert ready
    assert "1 of 2 configured markets seen in all_ticker" in printed
    assert "not seen within 1 s, trying to subscribe (may just be quiet): QUIET_USDT" in printed
    assert "confirmed: trades QUIET_USDT" in printed


def test_slow_answers_are_waited_for_while_pings_are_answered() -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=100, dialect=Dialect(answers_in_time=3)) as exchange:
        ready, printed = visit(exchange, {"reply_timeout": 1.0}, channels={"trades": ["BTC_USDT"]})
    assert ready
    assert "answers take more than 1 s, waiting for up to 60 s for each" in printed
    assert "confirmed: all_ticker, trades BTC_USDT" in printed


def test_an_exchange_that_answers_no_ping_is_named_as_such() -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=100, dialect=Dialect(pings_answered="never")) as exchange:
        ready, printed = visit(exchange, {"reply_timeout": 1.0}, channels={"trades": ["BTC_USDT"]})
    assert not ready
    assert "public connection: no response to server.ping within 1 s" in printed


def test_markets_that_were_not_seen_are_subscribed_to_in_sessions_of_the_configured_size() -> None:
    names = [f"NO{number}_USDT" for number in range(5)]
    faults = Faults(max_subscriptions=2)
    with ExchangeThread(
        symbols=SYMBOLS, rate=100, dialect=Dialect(unknown_refused="acknowledged"), faults=faults
    ) as exchange:
        size = {"subscriptions_per_session": 2}
        ready, printed = visit(exchange, size, channels={"trades": ["BTC_USDT", *names]})
    assert ready
    confirmed = [line for line in printed if line.startswith("confirmed: trades ")]
    assert " ".join(confirmed).split().count("trades") == 3
    assert all(name in " ".join(confirmed) for name in names)


def test_a_channel_of_every_market_is_tried_with_a_market_seen_in_all_ticker() -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        channels = {"trades": ["*"], "depth": ["*"], "ticker": ["ETH_USDT"]}
        ready, printed = visit(exchange, channels=channels)
    assert ready
    assert "confirmed: all_ticker, depth BTC_USDT, ticker ETH_USDT, trades BTC_USDT" in printed


def test_check_names_a_channel_of_every_market_that_the_exchange_refuses() -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        exchange.call(exchange.simulator.shut, "trades")
        ready, printed = visit(exchange, channels={"trades": ["*"], "depth": ["*"]})
    assert not ready
    assert refusals(printed) == ["trades BTC_USDT"]
    assert "confirmed: all_ticker, depth BTC_USDT" in printed


def test_channels_of_every_market_cannot_be_tried_when_all_ticker_lists_none() -> None:
    with ExchangeThread(symbols=[], rate=0) as exchange:
        ready, printed = visit(exchange, channels={"trades": ["*"], "depth": ["*"]})
    assert not ready
    assert printed[-1] == "no market seen in all_ticker within 1 s, cannot try trades, depth"


@pytest.mark.parametrize("spool", ["a file", "too large"])
def test_check_fails_when_the_disk_has_no_space_for_the_spool(
    kafka: Broker, prefix: str, tmp_path: Path, spool: str
) -> None:
    (tmp_path / "file").write_text("")
    keys: dict[str, Any] = {"dir": "file"} if spool == "a file" else {"max_bytes": 10**18}
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        status, printed = check(tmp_path, config(exchange.url, kafka, prefix, {"spool": keys}))
    assert (status, printed[-1]) == (1, "not ready: the disk, see above")
    named = (
        f"{tmp_path / 'file'} is not a directory" if spool == "a file" else "free some space, or set spool"
    )
    assert named in printed[-2]


def test_fewer_replicas_than_min_insync_replicas_are_noted_and_do_not_prevent_writing(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    create_topic(kafka.bootstrap, f"{prefix}.trades.v1", 12, min_insync_replicas="2")
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        settings = config(exchange.url, kafka, prefix)
        status, printed = check(tmp_path, settings)
        with RunningBridge(tmp_path, settings) as bridge:
            eventually(lambda: bridge.metric("records_total", channel="trades") > 20, 20, "trades")
            assert bridge.stop() == 0
    assert (status, printed[-1]) == (0, "ready to run")
    note = printed[printed.index(f"{prefix}.trades.v1: exists, 12 partitions, 1 replica") + 1]
    assert note == "min.insync.replicas is 2: Kafka before 3.7 would reject every record"


def test_check_remarks_on_topics_with_other_numbers_of_partitions_and_run_works_with_them(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    """Two of them differ, so no number in the configuration could be right for both."""
    create_topic(kafka.bootstrap, f"{prefix}.trades.v1", 5)
    create_topic(kafka.bootstrap, f"{prefix}.depth.v1", 2)
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        settings = config(exchange.url, kafka, prefix)
        status, printed = check(tmp_path, settings)
        with RunningBridge(tmp_path, settings) as bridge:
            eventually(lambda: bridge.metric("records_total", channel="trades") > 20, 20, "trades")
            eventually(lambda: bridge.metric("records_total", channel="depth") > 20, 20, "depth")
            assert bridge.stop() == 0
    assert (status, printed[-1]) == (0, "ready to run")
    for channel, number in (("trades", 5), ("depth", 2)):
        topic = f"{prefix}.{channel}.v1"
        exists = printed.index(f"{topic}: exists, {number} partitions, 1 replica, at least 1 in sync")
        assert printed[exists + 1] == f"topic {topic} keeps its {number} partitions (kafka.partitions is 12)"
    assert bridge.stderr.count("topic keeps its number of partitions") == 2


def test_check_names_topics_that_kafka_would_not_create_with_the_reason(
    kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        create_topic(kafka.bootstrap, f"{prefix}.depth.v1", 12)
        settings = config(exchange.url, kafka, prefix, {"kafka": {"replication_factor": 3}})
        status, printed = check(tmp_path, settings)
    assert (status, printed[-1]) == (1, "not ready: Kafka, see above")
    assert f"{prefix}.depth.v1: exists, 12 partitions, 1 replica, at least 1 in sync" in printed
    refused = [line for line in printed if "cannot be created" in line]
    missing = [f"{channel}.v1" for channel in ("all_ticker", "ticker", "trades", "deadletter", "events")]
    assert {line.split()[1] for line in refused} == {f"{prefix}.{end}" for end in (*missing, "bridge-state")}
    assert all("replication factor of 3" in line and "1 broker" in line for line in refused)
    assert not [line for line in printed if "would create it" in line]


@pytest.mark.parametrize("policy", ["delete", "compact,delete"])
def test_check_fails_and_run_warns_when_retention_can_delete_the_state(
    kafka: Broker, prefix: str, tmp_path: Path, policy: str
) -> None:
    name = f"{prefix}.bridge-state"
    create_topic(kafka.bootstrap, name, 1, cleanup_policy=policy)
    with ExchangeThread(symbols=SYMBOLS, rate=100) as exchange:
        settings = config(exchange.url, kafka, prefix)
        status, printed = check(tmp_path, settings)
        assert (status, printed[-1]) == (1, "not ready: Kafka, see above")
        (problem,) = [line for line in printed if "cleanup.policy" in line]
        assert f"topic {name} has cleanup.policy={policy}: " in problem
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            assert bridge.stop() == 0
        assert problem in bridge.stderr
        set_topic(kafka.bootstrap, name, cleanup_policy="compact")
        assert check(tmp_path, settings)[0] == 0
        with RunningBridge(tmp_path, settings) as bridge:
            bridge.wait_ready()
            assert bridge.stop() == 0
        assert "cleanup.policy" not in bridge.stderr
