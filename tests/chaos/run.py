"""Carries out the plan of a chaos run on real processes, and returns everything that was seen."""

import queue
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from bridge.channels import CHANNELS
from bridge.simulator import Setup, parse, parse_dialect
from bridge.simulator.history import History
from tests.chaos.plan import SYMBOLS, Action, Plan, Settings
from tests.chaos.replica import Life, Replica
from tests.support.checks import topics_of
from tests.support.consumers import read_topic
from tests.support.exchange import ExchangeThread
from tests.support.kafka_broker import Broker
from tests.support.process import ACCOUNTS, config
from tests.support.waiting import eventually

PREFIX = "chaos"
REPLY_TIMEOUT = 3.0  # seconds; `exchange.reply_timeout` of all runs

_TOPICS = (*CHANNELS, "events", "deadletter")
_SETTLE = 2 * REPLY_TIMEOUT + 5  # seconds after the last fault until every gap has to be reported
_DRAIN = 60.0  # seconds on a quiet machine
_SHORT = {
    "ping_interval": 2.0,
    "reply_timeout": REPLY_TIMEOUT,
    "stale_after": 6.0,
    "reconnect_min": 0.2,
    "reconnect_max": 2.0,
}
_KAFKA = {"session_timeout": 6.0, "transaction_timeout": 8.0, "partitions": 3}


@dataclass(slots=True)
class Seen:
    """What a run has left behind; times are in microseconds since the epoch."""

    begun_us: int  # when the time of the plan's actions begins
    history: History
    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)  # by channel, by partition
    lives: list[list[Life]] = field(default_factory=list)  # by replica
    logs: list[list[dict[str, Any]]] = field(default_factory=list)  # by replica
    broker_down: list[tuple[int, int]] = field(default_factory=list)  # killed or frozen: from, to
    failures: list[str] = field(default_factory=list)  # what did not come to its end


def run(plan: Plan, folder: Path) -> Seen:
    """Carry out a plan, let everything settle, and read all topics. Logs and spools are left in `folder`."""
    settings = plan.settings
    with ExitStack() as stack:
        broker = stack.enter_context(Broker())
        exchange = stack.enter_context(
            ExchangeThread(
                symbols=SYMBOLS,
                rate=settings.rate,
                accounts=ACCOUNTS,
                faults=parse(settings.faults),
                dialect=parse_dialect(settings.dialect),
                setup=Setup(seed=plan.seed, keep_history=True),
            )
        )
        replicas = [
            Replica(folder / f"replica-{number}", _config(exchange, broker, settings))
            for number in range(settings.replicas)
        ]
        for replica in replicas:
            stack.callback(replica.close)
            replica.start()
        seen = Seen(time.time_ns() // 1000, exchange.simulator.history)
        stage = _Stage(plan, exchange, broker, replicas, seen)
        if settings.warm:
            stage.warm_up()
        stage.perform()
        stage.settle()
        seen.lives = [replica.lives for replica in replicas]
        seen.logs = [replica.log() for replica in replicas]
        for channel in _TOPICS:
            seen.records[channel] = [
                record.json
                for topic in topics_of(PREFIX, channel)
                for record in read_topic(broker.bootstrap, topic)
            ]
        return seen


def _config(exchange: ExchangeThread, broker: Broker, settings: Settings) -> dict[str, Any]:
    sections: dict[str, dict[str, Any]] = {
        "exchange": {
            **_SHORT,
            "max_session_age": settings.max_session_age,
            "subscriptions_per_session": settings.subscriptions_per_session,
        },
        "kafka": {
            **_KAFKA,
            "delivery": settings.delivery,
            "shards": settings.shards,
            "max_pending_bytes": settings.max_pending_bytes,
        },
        "spool": {"max_bytes": settings.spool_bytes},
    }
    return config(exchange.url, broker, PREFIX, sections, accounts=True)


class _Lane:
    """Does what happens to one process, one thing after another, in a thread of its own."""

    def __init__(self, name: str, failures: list[str]) -> None:
        self._name = name
        self._failures = failures
        self._due: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def put(self, action: Callable[[], None]) -> None:
        """Do this after everything that was put before it."""
        self._due.put(action)

    def finish(self) -> None:
        """Return when everything is done."""
        self._due.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (action := self._due.get()) is not None:
            try:
                action()
            except Exception as error:  # noqa: BLE001 - the run goes on, and reports it at its end
                self._failures.append(f"{self._name}: {error!r}")


class _Stage:
    """The processes of a run and the exchange, to which the actions happen."""

    def __init__(
        self, plan: Plan, exchange: ExchangeThread, broker: Broker, replicas: list[Replica], seen: Seen
    ) -> None:
        self._plan = plan
        self._exchange = exchange
        self._broker = broker
        self._replicas = replicas
        self._seen = seen
        self._faults: list[str] = []  # those that last now, besides those of the settings
        self._broker_lane = _Lane("broker", seen.failures)
        self._lanes = [_Lane(f"replica {number}", seen.failures) for number in range(len(replicas))]

    def warm_up(self) -> None:
        """Return when all replicas are ready."""
        self._await("ready", lambda: all(replica.ready() for replica in self._replicas))
        self._seen.begun_us = time.time_ns() // 1000

    def perform(self) -> None:
        """Do everything when it is due, and return when all of it is done."""
        begun = time.monotonic()
        due: list[tuple[float, Callable[[], None]]] = []
        for action in self._plan.actions:
            due.append((action.at, partial(self._do, action)))
            if action.kind == "faults":
                due.append((action.at + action.seconds, partial(self._stop_faults, action.text)))
        for at, step in sorted(due, key=itemgetter(0)):
            time.sleep(max(0.0, begun + at - time.monotonic()))
            step()
        time.sleep(max(0.0, begun + self._plan.seconds - time.monotonic()))
        for lane in (self._broker_lane, *self._lanes):
            lane.finish()

    def settle(self) -> None:
        """End all faults, let the bridge catch up with a last session of each kind, and stop it."""
        calm = ",".join(part for part in self._plan.settings.faults.split(",") if not part.startswith("lag"))
        simulator = self._exchange.simulator
        self._exchange.call(simulator.inject, parse(calm))
        self._exchange.call(simulator.refuse, 0)
        for number, replica in enumerate(self._replicas):
            if not replica.alive:
                self._fail(f"replica {number} has ended by itself")
                replica.start()
        self._await("ready", lambda: all(replica.ready() for replica in self._replicas))
        self._exchange.call(simulator.drop)
        time.sleep(_SETTLE)
        self._await("ready again", lambda: all(replica.ready() for replica in self._replicas))
        self._exchange.quiesce()
        self._await("everything delivered", lambda: all(replica.done() for replica in self._replicas))
        for replica in self._replicas:
            replica.stop()

    def _await(self, what: str, condition: Callable[[], bool]) -> None:
        try:
            eventually(condition, _DRAIN, what)
        except AssertionError as error:
            states = [replica.state() for replica in self._replicas]
            self._fail(f"{error}: {states}")

    def _fail(self, what: str) -> None:
        self._seen.failures.append(what)

    def _do(self, action: Action) -> None:
        """Do what an action says, or have it done where it is a process's turn."""
        simulator, call = self._exchange.simulator, self._exchange.call
        match action.kind:
            case "kill" | "stop" | "freeze" | "full disk":
                self._lanes[action.replica].put(partial(self._at_replica, action))
            case "kill broker" | "freeze broker":
                self._broker_lane.put(partial(self._at_broker, action))
            case "hang up":
                call(simulator.drop, action.number, action.share)
            case "refuse":
                call(simulator.refuse, action.number)
            case "stall":
                call(simulator.stall, action.seconds)
            case "mute":
                call(simulator.mute)
            case "faults":
                self._faults.append(action.text)
                self._inject()
            case "restart ids":
                call(simulator.market.markets[action.symbol].restart_ids, action.number, action.text)
            case "stray id":
                call(simulator.market.markets[action.symbol].stray_id, action.number)

    def _at_replica(self, action: Action) -> None:
        replica = self._replicas[action.replica]
        if not replica.alive:
            self._fail(f"replica {action.replica} has ended by itself")
            replica.start()
            return
        match action.kind:
            case "freeze":
                replica.freeze(action.seconds)
            case "full disk":
                replica.fill_disk(action.seconds)
            case _:
                if action.kind == "kill":
                    replica.kill()
                else:
                    replica.stop()
                time.sleep(action.seconds)
                replica.start()

    def _at_broker(self, action: Action) -> None:
        begun_us = time.time_ns() // 1000
        if action.kind == "kill broker":
            self._broker.kill()
            time.sleep(action.seconds)
            self._broker.start()
        else:
            self._broker.suspend()
            time.sleep(action.seconds)
            self._broker.resume()
        self._seen.broker_down.append((begun_us, time.time_ns() // 1000))

    def _stop_faults(self, text: str) -> None:
        self._faults.remove(text)
        self._inject()

    def _inject(self) -> None:
        faults = parse(",".join([self._plan.settings.faults, *self._faults]))
        self._exchange.call(self._exchange.simulator.inject, faults)
