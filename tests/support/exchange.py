"""The simulated exchange in its own thread, so that tests can block."""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

from bridge.simulator import Setup, Simulator
from bridge.simulator.market import amount_text, price_text
from bridge.simulator.truth import Truth
from tests.support.sockets import unread

T = TypeVar("T")

_PATIENCE = 120.0  # seconds
_READ = 10.0  # seconds
_POLL = 0.02  # seconds


class ExchangeThread:
    """A `Simulator` with these options, which keeps its trades and runs inside its context."""

    def __init__(self, *, setup: Setup | None = None, **options: Any) -> None:
        self._options = {"setup": replace(setup or Setup(), keep_trades=True), **options}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="exchange", daemon=True)
        self.simulator: Simulator

    def __enter__(self) -> Self:
        self._thread.start()
        self.simulator = self.run(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.run(self.simulator.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def url(self) -> str:
        """Its address."""
        return self.simulator.url

    @property
    def port(self) -> int:
        """Its port."""
        return int(self.url.split(":")[2].split("/")[0])

    @property
    def truth(self) -> Truth:
        """What it has sent."""
        return self.simulator.truth

    def quiesce(self) -> None:
        """Stop making events, and return when clients have read all, or after 10 s if one does not read."""
        self.run(self.simulator.quiesce())
        end = time.monotonic() + _READ
        while self.call(self._unread) and time.monotonic() < end:
            time.sleep(_POLL)

    def call(self, function: Callable[..., T], *arguments: object) -> T:
        """Call a function of the simulator in its own thread."""

        async def calling() -> T:
            return function(*arguments)

        return self.run(calling())

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in its thread and return its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(_PATIENCE)

    def _unread(self) -> bool:
        return any(unread(client.connection.transport) for client in self.simulator.clients)

    async def _open(self) -> Simulator:
        return await Simulator(**self._options).__aenter__()


def books(exchange: ExchangeThread) -> dict[str, tuple[dict[str, str], dict[str, str]]]:
    """Return each market's asks and bids as the exchange writes them: price to amount."""

    def side(levels: dict[int, int]) -> dict[str, str]:
        return {price_text(price): amount_text(lots) for price, lots in levels.items()}

    markets = exchange.simulator.market.markets
    return {symbol: (side(market.asks), side(market.bids)) for symbol, market in markets.items()}
