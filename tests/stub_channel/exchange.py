"""An exchange with the stub channel: it confirms every subscription and pushes candles to all connections."""

import json
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import Server, ServerConnection, serve

SYMBOL = "BTC_USDT"
_INTERVAL = 0.01  # seconds between two candles


class StubExchange:
    """Answers requests, and counts the candles that it pushes: the n-th closes at n.

    Each connection that is subscribed to stub receives every candle since then, and nothing at first.
    """

    def __init__(self) -> None:
        self.first: int | None = None  # number of the first candle that was pushed to anybody
        self.pushed = 0  # number of the last candle that was pushed
        self._subscribed: set[ServerConnection] = set()  # connections that get candles
        self._lock = (
            threading.Lock()
        )  # held while candles or answers are written, so that they keep their order
        self._stop = threading.Event()  # set when no more candles are to be pushed

    def answer(self, socket: ServerConnection) -> None:
        """Answer the requests of one connection until it closes."""
        try:
            for text in socket:
                request = json.loads(text)
                channel, _, verb = request["method"].rpartition(".")
                result = {"ping": "pong", "time": 1_600_000_000}.get(verb, {"status": "success"})
                with self._lock:
                    send(socket, {"id": request["id"], "error": None, "result": result})
                    if request["method"] == "all_ticker.subscribe":
                        ticker = {"symbol": SYMBOL, "timestamp": 1_589_272_547_000}
                        send(socket, {"method": "all_ticker.update", "params": [ticker], "id": None})
                    if channel == "stub" and request["params"] == [SYMBOL]:
                        self._subscribed.add(socket)
        except ConnectionClosed:
            pass
        finally:
            with self._lock:
                self._subscribed.discard(socket)

    def push(self, frame: object) -> bool:
        """Push a frame to all that are subscribed to stub; return whether there were any."""
        with self._lock:
            for socket in self._subscribed:
                with suppress(ConnectionClosed):
                    send(socket, frame)
            return bool(self._subscribed)

    def push_candles(self) -> None:
        """Push candles until the end."""
        for number in count(1):
            if self._stop.wait(_INTERVAL):
                return
            candle = {"symbol": SYMBOL, "timestamp": 1_589_272_547_000, "open": "1", "close": str(number)}
            if self.push({"method": "stub.update", "params": [candle], "id": None}):
                self.first = self.first or number
                self.pushed = number

    def quiesce(self) -> None:
        """Push no more candles."""
        self._stop.set()


def send(socket: ServerConnection, message: object) -> None:
    """Send a message as the exchange does."""
    socket.send(zlib.compress(json.dumps(message).encode()))


@contextmanager
def stub_exchange() -> Iterator[tuple[str, StubExchange]]:
    """Run an exchange for the duration of the context; yields its address and itself."""
    exchange = StubExchange()
    server: Server
    with serve(exchange.answer, "127.0.0.1", 0, compression=None) as server:
        threads = [
            threading.Thread(target=server.serve_forever, name="stub exchange"),
            threading.Thread(target=exchange.push_candles, name="candles"),
        ]
        for thread in threads:
            thread.start()
        yield f"ws://127.0.0.1:{server.socket.getsockname()[1]}/ws/v1/", exchange
        exchange.quiesce()
        server.shutdown()
        for thread in threads:
            thread.join()
