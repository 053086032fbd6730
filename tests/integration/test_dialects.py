"""The exchange as it may really be: each assumption turned round, with the real command and real Kafka.

Whatever the exchange does, each of its updates is on Kafka once, or its loss is reported.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bridge.channels import CHANNELS
from bridge.exchange.assumptions import ASSUMPTIONS
from bridge.simulator import Setup, parse_dialect
from tests.chaos.report import UNITS_US
from tests.chaos.verifier import Conditions, verify
from tests.support.consumers import read_topic
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker
from tests.support.process import ACCOUNTS, SYMBOLS, RunningBridge, config
from tests.support.waiting import eventually

PRIVATE = ("order", "order_algo", "balance")
PATIENCE = 60.0  # seconds
FEW = 1  # records of each channel; private ones are rare
REPLY_TIMEOUT = 2.0  # seconds
SETTLE = 2 * REPLY_TIMEOUT + 5.0  # seconds; after that every gap is reported, see docs/guarantees.md
EXCHANGE = {
    "reply_timeout": REPLY_TIMEOUT,
    "ping_interval": 1.0,
    "reconnect_min": 0.05,
    "reconnect_max": 0.5,
    "handshakes_per_second": 20.0,
    "refused_max": 2.0,
}


@dataclass(frozen=True)
class Otherwise:
    """What has to happen where an assumption does not hold.

    `events` and `letters` (reasons of dead letters) have to be there, and no other dead letters. `cut`: all
    connections are cut once, so that lists have to fill in what was missed. `without`: channels of which
    nothing has to come. `accepted`: kinds of violations that the verifier may find, since the exchange itself
    is the reason. `settles`: gaps are reported only once a list has been waited for in vain.
    """

    dialect: str
    events: tuple[str, ...] = ()
    letters: tuple[str, ...] = ()
    cut: bool = True
    without: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    settles: bool = False


RIGHT = [
    "compressed=answers",
    "compressed=deflate",
    "compressed=text",
    "compressed=plain",
    "no_other_fields",
    "spelling=blanks",
    "spelling=reversed",
    "answer_order",
    "clock",
    "answers_in_time=3",
    "one_answer",
    "adds",
    "unknown_refused",
    "newest_first=oldest_first",
    "newest_first=unsorted",
    "long_lists=20",
    "trade_times=milliseconds",
    "trade_times=whole",
    "trade_times=microseconds",
    "trade_times=mixed",
    "trade_times=rounded",
    "pushed_once=repeated",
    "pushed_once=reordered",
    "both_sides=missing",
    "both_sides=null",
    "both_sides=objects",
    "best_ask_last",
    "high_24h",
    "ticker_figures=numbers",
    "ticker_figures=null",
    "ticker_figures=dash",
    "ticker_figures=missing",
    "ticker_times=seconds",
    "ticker_times=microseconds",
    "ticker_times=missing",
    "flat_tickers",
    "lists_markets",
    "no_private_snapshot",
]
REPORTED = [
    Otherwise("one_message", letters=("json",), settles=True),
    Otherwise("known_methods", letters=("unknown_method",)),
    Otherwise("pings_answered", events=("session_ended", "gap"), cut=False),
    Otherwise(
        "clean_first",
        events=("subscription_silent",),
        accepted=("wrong book at the end", "wrong book"),
        settles=True,
    ),
    Otherwise("clean_again", events=("gap",)),
    Otherwise("clean_again=refused", events=("gap",)),
    Otherwise("ids_rise", events=("ids_restarted",)),
    Otherwise("two_logins"),
    Otherwise("signed_with_server_time", without=PRIVATE, accepted=("change lost unreported",)),
]
CASES = [*map(Otherwise, RIGHT), *REPORTED]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.dialect)
def test_data_is_right_or_its_loss_is_reported(
    case: Otherwise, kafka: Broker, prefix: str, tmp_path: Path
) -> None:
    dialect = parse_dialect(case.dialect)
    with ExchangeThread(
        symbols=SYMBOLS,
        rate=600,
        accounts=ACCOUNTS,
        dialect=dialect,
        setup=Setup(keep_history=True),
    ) as exchange:
        sections: dict[str, dict[str, Any]] = {"exchange": EXCHANGE, "kafka": {"partitions": 1}}
        settings = config(exchange.url, kafka, prefix, sections, accounts=True)
        with RunningBridge(tmp_path, settings) as bridge:
            wanted = [name for name in CHANNELS if name not in case.without]
            _await_records(bridge, wanted, FEW)
            if case.cut:
                exchange.call(exchange.simulator.drop)
                _await_records(bridge, wanted, 2 * FEW)
            for event in case.events:
                eventually(partial(_reported, bridge, event), PATIENCE, event)
            exchange.quiesce()
            if case.settles:
                since = time.monotonic()
                eventually(lambda: time.monotonic() > since + SETTLE, SETTLE, "time for lists to come")
            eventually(lambda: bridge.metric("pending_records") == 0, PATIENCE, "an end of what is pending")
            assert bridge.stop() == 0
        history = exchange.simulator.history
    records = {name: _read(kafka, prefix, name) for name in (*CHANNELS, "events", "deadletter")}
    conditions = Conditions(
        reply_timeout=REPLY_TIMEOUT,
        accounts={"key": "main"},
        units_us=UNITS_US.get(dialect.trade_times, (1,)),
    )
    verdict = verify(records, history, conditions)
    assert not [one for one in verdict.violations if one.kind not in case.accepted]
    assert {letter["reason"] for letter in records["deadletter"]} == set(case.letters)


def _await_records(bridge: RunningBridge, channels: Sequence[str], number: int) -> None:
    def enough() -> bool:
        return all(bridge.metric("records_total", channel=name) >= number for name in channels)

    eventually(enough, PATIENCE, f"{number} records of each channel")


def _reported(bridge: RunningBridge, event: str) -> bool:
    return f'events_total{{event="{event}"' in bridge.metrics()


def _read(kafka: Broker, prefix: str, name: str) -> list[dict[str, Any]]:
    return [record.json for record in read_topic(kafka.bootstrap, f"{prefix}.{name}.v1")]


def test_every_assumption_is_tried() -> None:
    tried = {case.dialect.partition("=")[0] for case in CASES}
    assert tried | {"no_redirect", "thirty_subscriptions", "connections"} == set(ASSUMPTIONS)
