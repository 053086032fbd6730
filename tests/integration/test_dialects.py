"""The exchange as it may really be: each assumption turned round, with the real command and real Kafka.

Whatever the exchange does, each of its updates is on Kafka once, or its loss is reported.
"""

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bridge.channels import CHANNELS
from bridge.exchange.assumptions import ASSUMPTIONS
from bridge.simulator import Setup, parse_dialect
from bridge.simulator.dialects import DOCUMENTED
from tests.chaos.report import UNITS_US
from tests.chaos.verifier import Conditions, verify
from tests.support.checks import topics_of
from tests.support.consumers import read_topic
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker
from tests.support.process import ACCOUNTS, SYMBOLS, RunningBridge, config
from tests.support.waiting import eventually

PRIVATE = ("order", "order_algo", "balance")
AT_ONCE = 6  # cases that run side by side, since they mostly wait; more would be too slow to answer in time
PATIENCE = 60.0  # seconds
POLL = 0.2  # seconds
MANY = [*SYMBOLS, "XRP_USDT", "EOS_USDT", "BCH_USDT"]
MOST_CONNECTORS = 8
MORE = 30  # records of a public channel, so that each market has some
FEW = 1  # records of each channel; private ones are rare
REPLY_TIMEOUT = 2.0  # seconds
REST = 2.0  # seconds without a record
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
    is the reason, and `excused` symbols of which it may find any. `settles`: gaps are reported only once a
    list has been waited for in vain. `trouble`: what `/readyz` says at first; then the exchange is as
    assumed, if `well_again`; with `ends_well` it is in the end. `not_confirmed`: subscriptions that are
    refused or silent to the end. `requests`: how many subscribe requests there may be. `size`: subscriptions
    of a session. `channels`: the public ones.
    """

    dialect: str
    events: tuple[str, ...] = ()
    letters: tuple[str, ...] = ()
    cut: bool = True
    without: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()
    settles: bool = False
    excused: tuple[str, ...] = ()
    trouble: str = ""
    well_again: bool = False
    ends_well: bool = False
    not_confirmed: int = 0
    requests: int = 100
    size: int = 30
    channels: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """The name of its test."""
        return self.dialect[:60]


# Where nothing may be lost, several are turned round at once: they are about different things.
RIGHT = [
    "compressed=answers,no_other_fields,answer_order,newest_first=oldest_first,trade_times=milliseconds,"
    "both_sides=missing,high_24h,ticker_figures=numbers,ticker_times=seconds",
    "compressed=deflate,spelling=blanks,one_answer,unknown_refused,newest_first=unsorted,trade_times=whole,"
    "both_sides=null,ticker_figures=null,ticker_times=microseconds,flat_tickers",
    "compressed=text,spelling=reversed,clock,trade_times=microseconds,both_sides=objects,best_ask_last,"
    "ticker_figures=dash,ticker_times=missing",
    "compressed=plain,trade_times=mixed,ticker_figures=missing,lists_markets",
    "adds,long_lists=20,trade_times=rounded,no_private_snapshot",
    "pushed_once=repeated",
    "pushed_once=reordered",
]
REPORTED = [
    Otherwise("answers_in_time=3", settles=True),
    # Snapshots are requested again ever less often, so the last book may still wait for one behind its hole.
    Otherwise(
        "one_message",
        letters=("json",),
        accepted=("wrong book at the end",),
        settles=True,
        ends_well=True,  # nothing shows what was in a dead letter unless something comes behind it
    ),
    Otherwise("known_methods", letters=("unknown_method",)),
    Otherwise("pings_answered", events=("session_ended", "gap"), cut=False),
    Otherwise(
        "clean_first",
        events=("subscription_silent",),
        accepted=("wrong book at the end", "wrong book"),
        settles=True,
        not_confirmed=6,  # silent; until then each market has traded again, which shows what was missed
    ),
    Otherwise("clean_again", events=("gap",)),
    Otherwise("clean_again=refused", events=("gap",)),
    Otherwise("ids_rise", events=("ids_restarted",)),
    Otherwise("two_logins"),
    Otherwise("compressed=gzip"),
    Otherwise("no_redirect", trouble="a redirect, which is not followed", well_again=True),
    Otherwise(
        "thirty_subscriptions",
        events=("subscription_silent",),
        trouble="silent",
        well_again=True,
        without=("ticker",),
        channels=(("trades", MANY), ("depth", MANY), ("ticker", [])),
        accepted=(
            "change lost unreported",
        ),  # the accounts have orders of more markets than are subscribed to
    ),
    Otherwise(
        "thirty_subscriptions=closed",
        channels=tuple(dict.fromkeys(("trades", "depth", "ticker"), MANY).items()),
        events=("short_lives",),
        accepted=("change lost unreported",),
    ),
    Otherwise("connections", trouble="HTTP 403", well_again=True, size=4),
    Otherwise("long_lists=0", events=("gap",)),
    Otherwise("all_or_nothing,listed_open", excused=(SYMBOLS[-1],), not_confirmed=3, size=8),
    Otherwise("all_or_nothing,listed_open,clean_again=refused", excused=(SYMBOLS[-1],), not_confirmed=3),
    Otherwise("listed_open=hidden", excused=(SYMBOLS[-1],), not_confirmed=3, size=4),
    # Nothing else is accepted in its session, so that nothing shows which market is bad.
    Otherwise(
        "listed_open=hidden,answer_order",
        excused=(SYMBOLS[-1],),
        not_confirmed=1,
        accepted=("no record",),
        without=("trades", "depth", "all_ticker"),
        channels=(("trades", []), ("depth", []), ("all_ticker", False)),
    ),
    Otherwise("always_served", events=("subscription_refused",), trouble="code 31"),
    Otherwise(
        "signed_with_server_time",
        trouble="auth failed",
        without=PRIVATE,
        accepted=("change lost unreported",),
        not_confirmed=10,  # those of the account
    ),
]
_TESTED = "test_data_is_right_or_its_loss_is_reported"
CASES = [*map(Otherwise, RIGHT), *REPORTED]


@pytest.fixture(scope="module")
def visits(
    request: pytest.FixtureRequest, kafka: Broker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    """Visit the exchanges of all chosen cases, several at a time, those that last longest first."""
    items = [item for item in request.session.items if isinstance(item, pytest.Function)]
    names = {item.name for item in items if item.module is request.module}
    chosen = [case for case in CASES if f"{_TESTED}[{case.name}]" in names]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            case.dialect: pool.submit(_visit, case, kafka, tmp_path_factory.mktemp("case"))
            for case in sorted(chosen, key=lambda case: not case.settles)
        }
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_data_is_right_or_its_loss_is_reported(case: Otherwise, visits: dict[str, Future[None]]) -> None:
    visits[case.dialect].result()


def _visit(case: Otherwise, kafka: Broker, folder: Path) -> None:
    prefix = f"t{uuid.uuid4().hex[:8]}"
    dialect = parse_dialect(case.dialect)
    with ExchangeThread(
        symbols=dict(case.channels).get("trades") or SYMBOLS,
        rate=600,
        accounts=ACCOUNTS,
        dialect=dialect,
        setup=Setup(keep_history=True),
    ) as exchange:
        sections: dict[str, dict[str, Any]] = {
            "exchange": {**EXCHANGE, "subscriptions_per_session": case.size},
            "channels": dict(case.channels),
            "kafka": {"partitions": 1},
        }
        begun = time.monotonic()
        settings = config(exchange.url, kafka, prefix, sections, accounts=True)
        with RunningBridge(folder, settings) as bridge:
            if case.trouble:
                eventually(
                    lambda: case.trouble in json.dumps(bridge.ready()[1]), PATIENCE, case.trouble, POLL
                )
                _assert_courteous(exchange, begun)
            if case.well_again:
                exchange.call(exchange.simulator.become, DOCUMENTED)
            wanted = [name for name in CHANNELS if name not in case.without]
            _await_records(bridge, wanted, FEW)
            if case.cut:
                back = exchange.simulator.handshakes + exchange.call(_cut, exchange)
                eventually(lambda: exchange.simulator.handshakes >= back, PATIENCE, "connections again", POLL)
                _await_records(bridge, wanted, 2 * FEW)
            for event in case.events:
                eventually(partial(_reported, bridge, event), PATIENCE, event, POLL)
            eventually(
                lambda: _not_confirmed(bridge) == case.not_confirmed, PATIENCE, "what is confirmed", POLL
            )
            if case.ends_well:
                exchange.call(exchange.simulator.become, DOCUMENTED)
                had = _records(bridge)
                for name in {"trades", "depth", "ticker"} - {*case.without}:
                    _await_records(bridge, [name], round(had[name]) + MORE)
            _await_trades(exchange)
            exchange.quiesce()
            if case.settles:
                time.sleep(SETTLE)  # nothing shows that no list comes any more
            eventually(_at_rest(bridge), PATIENCE, "an end of what comes", POLL)
            assert bridge.stop() == 0
        _assert_courteous(exchange, begun)
        requests = exchange.simulator.requests
        assert sum(requests[one] for one in requests if one.endswith(".subscribe")) <= case.requests
        history = exchange.simulator.history
    records = {name: _read(kafka, prefix, name) for name in (*CHANNELS, "events", "deadletter")}
    conditions = Conditions(
        reply_timeout=REPLY_TIMEOUT,
        accounts={"key": "main"},
        units_us=UNITS_US.get(dialect.trade_times, (1,)),
    )
    verdict = verify(records, history, conditions)
    accepted = [one for one in verdict.violations if one.kind in case.accepted or one.subject in case.excused]
    assert verdict.violations == accepted
    for name in {"trades", "depth", "ticker"} - {*case.without}:
        assert {one["symbol"] for one in records[name]} | {*case.excused} == {*exchange.simulator.symbols}, (
            name
        )
    assert {letter["reason"] for letter in records["deadletter"]} == set(case.letters)


def _await_records(bridge: RunningBridge, channels: Sequence[str], number: int) -> None:
    def enough() -> bool:
        records = _records(bridge)
        return all(records.get(name, 0) >= number for name in channels)

    eventually(enough, PATIENCE, f"{number} records of each channel", POLL)


def _records(bridge: RunningBridge) -> dict[str, float]:
    """Return the number of records by channel."""
    found = re.findall(
        r'^digifinex_bridge_records_total\{channel="(\w+)".*\} (\S+)$', bridge.metrics(), re.MULTILINE
    )
    return {channel: float(number) for channel, number in found}


def _cut(exchange: ExchangeThread) -> int:
    """Cut all connections, and return how many there were."""
    number = len(exchange.simulator.clients)
    exchange.simulator.drop()
    return number


def _await_trades(exchange: ExchangeThread) -> None:
    """Wait for trades of each market: only the next one shows that one before it was missed."""
    trades = exchange.simulator.history.trades
    before = {symbol: len(trades[symbol]) for symbol in exchange.simulator.symbols}
    eventually(
        lambda: all(len(trades[symbol]) > number + 5 for symbol, number in before.items()), PATIENCE, "trades"
    )


def _assert_courteous(exchange: ExchangeThread, begun: float) -> None:
    """Check that there were no more handshakes than `Courtesy` allows, with the connectors of these tests."""
    allowed = 4 + 3 * MOST_CONNECTORS + 3 * (time.monotonic() - begun) / EXCHANGE["reconnect_max"]
    assert exchange.simulator.handshakes + exchange.simulator.refusals <= allowed


def _not_confirmed(bridge: RunningBridge) -> int:
    """Return how many subscriptions are not confirmed now; `/metrics` may say what was a second ago."""
    sessions = bridge.status()["sessions"]
    return sum(
        number for one in sessions for state, number in one["subscriptions"].items() if state != "confirmed"
    )


def _at_rest(bridge: RunningBridge) -> Callable[[], bool]:
    """Return a condition: nothing is pending, and for a while there was no record but of events."""
    seen, since = -1.0, 0.0

    def at_rest() -> bool:
        nonlocal seen, since
        figures = _records(bridge)
        records = sum(figures[name] for name in CHANNELS)
        if records != seen:
            seen, since = records, time.monotonic()
        return time.monotonic() > since + REST and bridge.metric("pending_records") == 0

    return at_rest


def _reported(bridge: RunningBridge, event: str) -> bool:
    return f'events_total{{event="{event}"' in bridge.metrics()


def _read(kafka: Broker, prefix: str, name: str) -> list[dict[str, Any]]:
    topics = topics_of(prefix, name)
    return [record.json for topic in topics for record in read_topic(kafka.bootstrap, topic)]


def test_every_assumption_is_tried() -> None:
    tried = {one.partition("=")[0] for case in CASES for one in case.dialect.split(",")}
    assert tried == set(ASSUMPTIONS)
