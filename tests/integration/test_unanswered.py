"""An exchange that never answers subscribe requests, but pushes what they ask for, is used all the same."""

import time
from collections.abc import Sequence

import uvloop

from bridge.channels import BEGIN_CLEAN
from bridge.channels.channel import Source
from bridge.config import ExchangeConfig
from bridge.exchange.session import Session, Timing
from bridge.pipeline import Pipeline
from bridge.records import Record
from bridge.simulator import Simulator, parse_dialect
from bridge.watch.events import Journal
from bridge.watch.metrics import Metrics
from bridge.watch.watch import Watch
from bridge.websocket import opening
from bridge.websocket.buffers import Buffers
from bridge.websocket.courtesy import Courtesy
from bridge.websocket.feed import Feed, Receiver
from bridge.websocket.rotation import Outcome, Rotation
from tests.support.waiting import soon

SYMBOLS = ["BTC_USDT", "ETH_USDT"]
WANTED = {"trades": SYMBOLS, "depth": SYMBOLS, "ticker": SYMBOLS, "all_ticker": []}
TIMING = Timing(ping_interval=1.0, reply_timeout=4.0, answer_timeout=4.0)


class Bridge:
    """As much of a bridge as a rotation needs."""

    def __init__(self, exchange: Simulator) -> None:
        self.records: list[Record] = []
        metrics = Metrics()
        self.watch = Watch("0", metrics, Journal("replica", 0, lambda records: None, metrics))
        self.pipeline = Pipeline(
            wanted=WANTED, emit=self._emit, watermarks={}, watch=self.watch, on_markets=None
        )
        self.buffers = Buffers(10**8, 10**6)
        self._config = ExchangeConfig(url=exchange.url)
        self._courtesy = Courtesy.of(self._config)

    async def open(self, name: str, receiver: Receiver) -> Feed:
        """Open a session and begin it."""
        session = Session(
            WANTED,
            timing=TIMING,
            wall_offset=time.time() - time.monotonic(),
            max_frame_bytes=10**6,
            begins_clean=BEGIN_CLEAN,
        )
        feed = Feed(
            await opening.stream(self._config, self._courtesy, self.buffers),
            session,
            Source(name),
            courtesy=self._courtesy,
            receiver=receiver,
            watch=self.watch,
        )
        feed.begin()
        return feed

    def _emit(self, records: Sequence[Record]) -> Sequence[Record]:
        self.records += records
        return []


def test_a_session_is_live_and_replaced_although_no_subscribe_request_is_ever_answered() -> None:
    async def scenario() -> None:
        dialect = parse_dialect("one_answer=none")
        async with Simulator(symbols=SYMBOLS, rate=200, dialect=dialect) as exchange:
            bridge = Bridge(exchange)
            old = await bridge.open("old", bridge.pipeline)
            await soon(old.live.is_set, 20, "a live session")
            rotation = Rotation([old], bridge.pipeline, bridge.buffers)
            new = await bridge.open("new", rotation.receiver_of_new)
            assert await rotation.run(new, accept_refusals=False) is Outcome.ROTATED
            assert not new.refused
            await old.close()
            bridge.records.clear()
            for channel in WANTED:
                await soon(lambda: channel in {one.channel for one in bridge.records}, 20, channel)  # noqa: B023
            assert not new.ended.done()
            await new.close()

    uvloop.run(scenario())
