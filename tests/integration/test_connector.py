"""The connector against the simulator: what fails in our own code costs a session, not the process."""

import asyncio
from typing import Any

from bridge.channels.channel import Source
from bridge.config import ExchangeConfig
from bridge.connector import Connector
from bridge.exchange.frames import BadFrame, Push
from bridge.metrics import Metrics
from bridge.simulator import Simulator
from tests.support.process import SYMBOLS
from tests.support.waiting import soon


class Receiver:
    """Takes pushes, and fails at the tenth."""

    def __init__(self) -> None:
        self.pushes = 0

    def push(self, push: Push, source: Source, received_us: int, frame: bytes) -> None:
        """Take one."""
        self.pushes += 1
        if self.pushes == 10:
            raise ArithmeticError

    def bad(self, bad: BadFrame, source: Source, received_us: int, frame: bytes) -> None:
        """Take none."""
        raise AssertionError(bad)


async def ends(receiver: Receiver, wanted: Any, mended: bool) -> float:
    """Run a connector until the receiver has 50 pushes; return how many sessions had ended.

    `wanted` replaces what the connector wants; it is mended after the first end, unless it already is.
    """
    metrics = Metrics()
    ends = metrics.counter("reconnects_total", reason="closed")
    async with Simulator(symbols=SYMBOLS, rate=200) as exchange:
        config = ExchangeConfig(url=exchange.url, reconnect_min=0.01, reconnect_max=0.05)
        connector = Connector({}, config=config, receiver=receiver, metrics=metrics, shard="0")
        connector.wanted = wanted
        running = asyncio.create_task(connector.run())
        await soon(lambda: ends.value or running.done(), 30, "the end of a session")
        if not mended:
            connector.wanted = {"trades": SYMBOLS}
        await soon(lambda: receiver.pushes > 50 or running.done(), 30, "pushes")
        assert not running.done()
        running.cancel()
        await asyncio.wait({running})
    return ends.value


def test_a_receiver_that_fails_costs_the_session() -> None:
    assert asyncio.run(ends(Receiver(), {"trades": SYMBOLS}, mended=True)) == 1


def test_a_session_that_can_t_even_be_made_is_tried_again() -> None:
    receiver = Receiver()
    receiver.pushes = 10
    assert asyncio.run(ends(receiver, {"trades": 5}, mended=False)) >= 1
